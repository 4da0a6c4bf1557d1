package middleware_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/storage"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/middleware/sqlsessions"
)

// A clock that is set back makes a lease of a process that died no longer, and the
// heartbeat not deaf.
func TestClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Int64
		w := newWorld(t, bare, with(func(c *middleware.Config) {
			c.Store = middleware.NewMemoryStore()
			c.Now = func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
		}))
		b := w.browser()
		b.login("/page")
		time.Sleep(time.Hour)
		defer w.hang(b)()

		back.Store(int64(30 * time.Minute))
		began := time.Now()
		b.goesOn("/page")
		require.Less(t, time.Since(began), 3*time.Minute)
		require.EqualValues(t, 1, w.refreshes.Load())

		back.Store(int64(40 * time.Minute))
		require.Equal(t, http.StatusOK, b.script(http.MethodPost, "/auth/session").status)
		require.EqualValues(t, 2, w.refreshes.Load())
	})
}

// A user counts as active until a twelfth of the window before the last click at worst.
func TestRefreshFollowsTheWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limited(24*time.Hour, 15*time.Minute))
		b := w.browser()
		b.login("/page")
		time.Sleep(75*time.Second - time.Millisecond)
		b.goesOn("/page")
		require.EqualValues(t, 0, w.refreshes.Load())
		time.Sleep(time.Millisecond)
		b.goesOn("/page")
		require.EqualValues(t, 1, w.refreshes.Load())
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, with(func(c *middleware.Config) { c.RefreshAfter = 10 * time.Second }))
		b := w.browser()
		b.login("/page")
		time.Sleep(10 * time.Second)
		b.goesOn("/page")
		require.EqualValues(t, 1, w.refreshes.Load())
	})
}

// A key set that does not answer is an outage, not another user.
func TestRefreshWhileKeysAreMissing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		newSigner(t, w)
		known := *w.answer.Load()
		b := w.browser()
		b.login("/page")
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		s := &signer{w: w, key: key, kid: "mine"}
		sign := func(ok bool) {
			w.answers(func(r *http.Request) *http.Response {
				if r.URL.Path == "/keys" && !ok {
					return response(http.StatusServiceUnavailable, "")
				}
				if r.URL.Path != "/oauth/token" {
					return known(r)
				}
				if ok {
					return nil
				}
				return s.changed(t, r, func(_, _ map[string]any) {}) // as if the provider has a new key
			})
		}
		sign(false)
		time.Sleep(6 * time.Minute)
		require.Equal(t, http.StatusServiceUnavailable, b.visit("/page").status)
		sign(true)
		time.Sleep(5 * time.Second)
		b.goesOn("/page")
		require.Empty(t, w.seen(middleware.EventEnded))
	})
}

// The test binary is also an application, for tests that need several processes.
func TestMain(m *testing.M) {
	if issuer := os.Getenv("CURFEW_RP_TEST_ISSUER"); issuer != "" {
		if err := application(issuer, os.Getenv("CURFEW_RP_TEST_DB")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Before any storage of the example reads what clients there are.
	storage.RegisterClients(storage.WebClient("stranger", "stranger-secret", optest.RedirectURI))
	os.Exit(m.Run())
}

// application serves an application on a free port, which it prints, until its
// standard input ends. Its clock can be put forward: POST /clock?by=61s.
func application(issuer, path string) error {
	db, err := sql.Open("sqlite3", "file:"+path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer db.Close()
	store, err := sqlsessions.New(context.Background(), db)
	if err != nil {
		return err
	}
	var ahead atomic.Int64
	rp, err := middleware.New(middleware.Config{
		Issuer: issuer, ClientID: optest.Web, ClientSecret: optest.Web + "-secret", RedirectURL: optest.RedirectURI,
		Keys: [][]byte{testKey}, Store: store, RefreshAfter: time.Minute,
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /clock", func(w http.ResponseWriter, r *http.Request) {
		by, err := time.ParseDuration(r.URL.Query().Get("by"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ahead.Add(int64(by))
	})
	mux.Handle("/", rp.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "page of %s with %s", middleware.SessionFrom(r.Context()).Subject, middleware.SessionFrom(r.Context()).AccessToken())
	})))
	fmt.Println(listener.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString(0)
		_ = server.Close()
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// process starts the application and returns its address.
func process(t *testing.T, issuer, path string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CURFEW_RP_TEST_ISSUER="+issuer, "CURFEW_RP_TEST_DB="+path)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, stdin.Close())
		require.NoError(t, cmd.Wait())
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}

// Two processes with one SQLite file, 20 requests at once, one refresh.
func TestOneRefreshInTwoProcesses(t *testing.T) {
	t.Parallel()
	w := &world{t: t}
	provider := optest.Start(t, optest.Config{Middleware: w.count})
	path := filepath.Join(t.TempDir(), "shop.db")
	addresses := []string{process(t, provider.Issuer, path), process(t, provider.Issuer, path)}

	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	clients := make([]*http.Client, len(addresses))
	for i, address := range addresses {
		transport := &http.Transport{MaxIdleConnsPerHost: 32, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == appHost {
				addr = address
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}}
		t.Cleanup(transport.CloseIdleConnections)
		clients[i] = &http.Client{Transport: transport, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	// Signed in at the first process, known at the second.
	b := &browser{w: w, http: clients[0], jar: jar}
	p := b.visit("/page")
	p = b.submit(p, url.Values{"username": {"alice"}, "password": {optest.Password}})
	require.Contains(t, p.body, "page of")

	for round := range 3 {
		for _, c := range clients {
			resp, err := c.Post(appURL+"/clock?by=40s", "", nil)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusOK, resp.StatusCode)
		}
		if round == 0 {
			continue // 40 s are not a minute yet
		}
		before := w.refreshes.Load()
		var wg sync.WaitGroup
		pages := make([]page, 20)
		for i := range pages {
			wg.Go(func() {
				b := &browser{w: w, http: clients[i%2], jar: jar}
				pages[i] = b.once(request(t, http.MethodGet, "/page", nil, navigate))
			})
		}
		wg.Wait()
		for _, p := range pages {
			require.Equal(t, http.StatusOK, p.status, p.body)
		}
		if round == 1 {
			require.EqualValues(t, before+1, w.refreshes.Load())
		} else {
			require.Equal(t, before, w.refreshes.Load(), "40 s after it")
		}
	}
}

// The same where nobody can go on without the new token: all wait for the one who
// refreshes, whichever process that is.
func TestEverybodyWaitsForTheRefresh(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string][]setting{"one": nil, "cookies": {inCookies}, "two": {with(func(c *middleware.Config) { c.Store = middleware.NewMemoryStore() })}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, append(settings, bare)...)
				w.answers(func(r *http.Request) *http.Response {
					if r.URL.Path == "/oauth/token" {
						time.Sleep(3 * time.Second)
					}
					return nil
				})
				handlers := []http.Handler{w.app(w.rp)}
				if name == "two" {
					other, err := middleware.New(w.cfg)
					require.NoError(t, err)
					handlers = append(handlers, w.app(other))
				}
				b := w.browser()
				b.login("/page")
				time.Sleep(6 * time.Minute) // of 5 that the access token lives
				req := request(t, http.MethodGet, "/page", nil, navigate)
				for name, value := range b.cookies() {
					req.AddCookie(&http.Cookie{Name: name, Value: value})
				}
				var wg sync.WaitGroup
				recorders := make([]*recorder, 20)
				for i := range recorders {
					recorders[i] = newRecorder()
					wg.Go(func() { handlers[i%len(handlers)].ServeHTTP(recorders[i], req.Clone(t.Context())) })
				}
				wg.Wait()
				for _, r := range recorders {
					require.Equal(t, http.StatusOK, r.Code, r.Body.String())
				}
				require.EqualValues(t, 1, w.refreshes.Load())
				require.Empty(t, w.seen(middleware.EventEnded))
			})
		})
	}
}

// A process that died with the lease in hand holds nobody up for long.
func TestLeaseOfADeadProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := middleware.NewMemoryStore()
		w := newWorld(t, bare, with(func(c *middleware.Config) { c.Store = store }))
		b := w.browser()
		b.login("/page")
		time.Sleep(6 * time.Minute)
		// The first one hangs where it asks the provider, for ever.
		defer w.hang(b)()
		began := time.Now()
		b.goesOn("/page")
		require.Less(t, time.Since(began), 20*time.Second)
		require.EqualValues(t, 1, w.refreshes.Load())
	})
}

// Tokens that the provider gave and the store did not take are good for the request;
// the next one refreshes again, and the provider takes it for a lost response.
func TestRefreshThatIsNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &brokenStore{}
		w := newWorld(t, breakable(store))
		b := w.browser()
		b.login("/page")
		time.Sleep(6 * time.Minute)
		before := store.writes.Load()
		store.failing(func(method string) bool { return method == "Replace" && store.writes.Load() > before })
		b.goesOn("/page")
		require.Len(t, w.seen(middleware.EventRefreshLost), 1)
		store.failing(func(string) bool { return false })
		time.Sleep(time.Minute)
		b.goesOn("/page")
		require.EqualValues(t, 2, w.refreshes.Load())
		require.Empty(t, w.seen(middleware.EventEnded))
	})
}
