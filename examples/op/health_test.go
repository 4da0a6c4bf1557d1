package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/internal/proctest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/faultstore"
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
