package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/faultnet"
	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/pgprimary"
	"github.com/curfew-oidc/curfew/internal/proctest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// get answers GET of a path by a handler.
func get(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestHealth(t *testing.T) {
	memory, records := memstore.New(), &brokenRecords{Store: kv.NewMemory()}
	sessions := faultstore.New(memory)
	st := &storage{kv: records}
	known := func(context.Context) (string, error) { return "", nil }
	ready := readiness(st, &database{sessions: sessions, records: records}, storedSettings{sessions}, known)
	require.ErrorIs(t, ready(t.Context()), store.ErrNotFound, "nobody has started with this store")
	_, err := openKeys(t.Context(), filepath.Join(t.TempDir(), "keys.json"), "ES256", memory, false, time.Now())
	require.NoError(t, err)
	require.NoError(t, ready(t.Context()))
	records.broken.Store(true)
	require.ErrorIs(t, ready(t.Context()), errBroken)
	records.broken.Store(false)
	sessions.Script(faultstore.Always(faultstore.Before))
	require.Error(t, ready(t.Context()))
	sessions.Script(nil)
	require.NoError(t, ready(t.Context()))

	var failing atomic.Bool
	var asked atomic.Int32
	log := &proctest.Output{}
	h := &health{log: slog.New(slog.NewTextHandler(log, nil)), ready: func(ctx context.Context) error {
		asked.Add(1)
		deadline, ok := ctx.Deadline()
		if !ok || time.Until(deadline) > readyTimeout {
			return errors.New("it may take for ever")
		}
		if failing.Load() {
			return errors.New("the cable is on fire")
		}
		return ctx.Err()
	}}
	handler := h.handler(http.NotFoundHandler())
	forget := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.asked = time.Time{}
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { get(handler, "GET", "/readyz") })
	}
	wg.Wait()
	require.EqualValues(t, 1, asked.Load(), "who asks at the same time gets the same answer")
	for path, status := range map[string]int{"/healthz": 200, "/readyz": 200, "/healthz/": 404, "/": 404} {
		require.Equal(t, status, get(handler, "GET", path).Code, path)
	}
	require.Equal(t, http.StatusMethodNotAllowed, get(handler, "POST", "/readyz").Code)
	require.Equal(t, http.StatusOK, get(handler, "HEAD", "/readyz").Code)

	failing.Store(true)
	for range 3 {
		forget()
		w := get(handler, "GET", "/readyz")
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.Equal(t, "2", w.Header().Get("Retry-After"))
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		require.NotContains(t, w.Body.String(), "fire", "that is for the log")
	}
	require.Equal(t, http.StatusOK, get(handler, "GET", "/healthz").Code)
	require.Equal(t, 1, strings.Count(log.String(), "the cable is on fire"), "said once")

	failing.Store(false)
	forget()
	gone, leave := context.WithCancel(t.Context())
	leave()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(gone, "GET", "/readyz", nil))
	require.Equal(t, http.StatusOK, w.Code, "who asks and goes does not decide for the others")
	require.Contains(t, log.String(), "ready again")

	h.ending.Store(true)
	w = get(handler, "GET", "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "2", w.Header().Get("Retry-After"))
	require.Equal(t, http.StatusOK, get(handler, "GET", "/healthz").Code)
}

// A database that can only be read is not ready: nobody could log in. When it can be
// written again, or its name leads to one that can, it is ready, without help.
func TestReadyWrites(t *testing.T) {
	server, err := engine.NewPostgres()
	require.NoError(t, err)
	defer server.Close()
	standby, err := server.NewStandby()
	require.NoError(t, err)
	defer standby.Close()
	name, err := faultnet.Listen(server.Addr())
	require.NoError(t, err)
	defer name.Close()
	u, err := url.Parse(server.URL())
	require.NoError(t, err)
	u.Host = name.Addr()
	at, err := parseStore(u.String())
	require.NoError(t, err)
	db, err := openDatabase(t.Context(), at)
	require.NoError(t, err)
	defer db.close()
	_, err = openKeys(t.Context(), filepath.Join(t.TempDir(), "keys.json"), "ES256", db.sessions, false, time.Now())
	require.NoError(t, err)
	known := func(context.Context) (string, error) { return "", nil }
	ready := readiness(&storage{kv: db.records}, db, storedSettings{db.sessions}, known)
	require.NoError(t, ready(t.Context()))

	admin, err := pgx.Connect(t.Context(), server.URL())
	require.NoError(t, err)
	defer admin.Close(context.WithoutCancel(t.Context()))
	for _, c := range []struct {
		name       string
		worse, end func() error
	}{
		{"the server is read-only", func() error {
			_, err := admin.Exec(t.Context(), `ALTER SYSTEM SET default_transaction_read_only = on`)
			return errors.Join(err, reload(admin))
		}, func() error {
			_, err := admin.Exec(t.Context(), `ALTER SYSTEM RESET default_transaction_read_only`)
			return errors.Join(err, reload(admin))
		}},
		{"the name leads to a standby", func() error {
			name.Redirect(standby.Addr())
			name.Set(faultnet.Fault{Cut: true})
			name.Set(faultnet.Fault{})
			return nil
		}, func() error {
			name.Redirect(server.Addr())
			return nil
		}},
	} {
		require.NoError(t, c.worse(), c.name)
		require.Eventually(t, func() bool { return ready(t.Context()) != nil }, time.Minute, 5*time.Millisecond, c.name)
		_, err := db.records.Get(t.Context(), "none")
		if c.name == "the server is read-only" {
			require.ErrorIs(t, err, kv.ErrNotFound, "it can be read")
		} else {
			require.ErrorIs(t, err, pgprimary.ErrStandby, "what a standby does not have may be there")
		}
		require.NoError(t, c.end(), c.name)
		require.Eventually(t, func() bool { return ready(t.Context()) == nil }, time.Minute, 5*time.Millisecond, c.name)
	}
}

// A Redis that would evict sessions begins none, and so is not ready.
func TestReadyOnARedisThatEvicts(t *testing.T) {
	server, err := engine.NewRedis()
	require.NoError(t, err)
	defer server.Close()
	at, err := parseStore(server.URL())
	require.NoError(t, err)
	db, err := openDatabase(t.Context(), at)
	require.NoError(t, err)
	defer db.close()
	_, err = openKeys(t.Context(), filepath.Join(t.TempDir(), "keys.json"), "ES256", db.sessions, false, time.Now())
	require.NoError(t, err)
	known := func(context.Context) (string, error) { return "", nil }
	ready := readiness(&storage{kv: db.records}, db, storedSettings{db.sessions}, known)
	require.NoError(t, ready(t.Context()))
	admin := redis.NewClient(&redis.Options{Addr: server.Addr(), Password: server.Password()})
	defer admin.Close()
	require.NoError(t, admin.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
	require.ErrorContains(t, ready(t.Context()), "maxmemory-policy is allkeys-lru")
	require.NoError(t, admin.ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err())
	require.NoError(t, ready(t.Context()))
	stats, err := db.sessions.Stats(t.Context())
	require.NoError(t, err)
	require.Zero(t, stats.Unended+stats.Ended, "it leaves no session")
}

// A file that nobody finds again is not written to, and is not ready.
func TestReadyHasItsFile(t *testing.T) {
	dir := t.TempDir()
	at, err := parseStore("sqlite:" + filepath.Join(dir, "f", "op.db"))
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "f"), 0o700))
	db, err := openDatabase(t.Context(), at)
	require.NoError(t, err)
	defer db.close()
	_, err = openKeys(t.Context(), filepath.Join(dir, "keys.json"), "ES256", db.sessions, false, time.Now())
	require.NoError(t, err)
	known := func(context.Context) (string, error) { return "", nil }
	ready := readiness(&storage{kv: db.records}, db, storedSettings{db.sessions}, known)
	require.NoError(t, ready(t.Context()))
	require.NoError(t, os.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "g")))
	require.Eventually(t, func() bool { return ready(t.Context()) != nil }, time.Minute, 10*time.Millisecond)
	require.ErrorContains(t, ready(t.Context()), "was removed or replaced")
	require.NoError(t, os.Rename(filepath.Join(dir, "g"), filepath.Join(dir, "f")))
	require.Eventually(t, func() bool { return ready(t.Context()) == nil }, time.Minute, 10*time.Millisecond)
}

func reload(admin *pgx.Conn) error {
	_, err := admin.Exec(context.Background(), `SELECT pg_reload_conf()`)
	return err
}

func TestMetrics(t *testing.T) {
	_, args := folder(t)
	s := start(t, append(args, "-metrics", "127.0.0.1:0")...)
	_, token := s.login(s.app("web"))
	s.api("/oauth/token", "web", webSecret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken}})
	_, rest, ok := strings.Cut(s.stderr.String(), "msg=metrics address=")
	require.True(t, ok)
	address, _, _ := strings.Cut(rest, "\n")
	p := newBrowser(t).get(address)
	require.Equal(t, http.StatusOK, p.status)
	for _, want := range []string{
		`curfew_admissions_total{kind="browser"} 1`, `curfew_sessions{state="unended"} 1`,
		`curfew_store_duration_seconds_count{operation="update",outcome="ok"}`, "go_goroutines ", "process_open_fds ",
	} {
		require.Contains(t, p.body, want)
	}
	for _, secret := range []string{"alice", token.RefreshToken, token.AccessToken} {
		require.NotContains(t, p.body, secret)
	}
	require.NotEqual(t, http.StatusOK, newBrowser(t).get(s.issuer+"/metrics").status, "they are not public")
	require.NotEqual(t, http.StatusOK, newBrowser(t).get(strings.TrimSuffix(address, "metrics")).status)
	require.NoError(t, s.end())
	_, err := http.Get(address)
	require.Error(t, err, "it ends with the program")

	s = start(t, args...)
	require.NotContains(t, s.stderr.String(), "msg=metrics", "off unless asked for")
	for path, status := range map[string]int{"/healthz": http.StatusOK, "/readyz": http.StatusOK} {
		require.Equal(t, status, newBrowser(t).get(s.issuer+path).status, path)
	}
}
