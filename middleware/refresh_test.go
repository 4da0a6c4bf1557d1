package middleware_test

import (
	"bufio"
	"context"
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
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/middleware/sqlsessions"
	"github.com/curfew-oidc/curfew/policy"
)

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

// What a proxy answers for a provider that is down signs nobody out, whatever words
// are in it.
func TestOnlyTheProviderSignsOut(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		b.login("/page")
		answer := func(status int, mediaType string) {
			w.answers(func(*http.Request) *http.Response {
				r := response(status, `{"error":"invalid_grant","error_description":"inactivity: because"}`)
				r.Header.Set("Content-Type", mediaType)
				return r
			})
			time.Sleep(10 * time.Minute) // longer than the access token lives
		}
		for _, status := range []int{http.StatusOK, http.StatusNotFound, http.StatusTooManyRequests, http.StatusBadGateway} {
			answer(status, "application/json")
			require.Equal(t, http.StatusServiceUnavailable, b.visit("/page").status, status)
		}
		answer(http.StatusBadRequest, "text/html")
		require.Equal(t, http.StatusServiceUnavailable, b.visit("/page").status)
		w.answers(nil)
		time.Sleep(time.Minute)
		b.goesOn("/page")
		require.Empty(t, w.seen(middleware.EventEnded))

		answer(http.StatusBadRequest, "application/json;charset=UTF-8")
		require.Equal(t, http.StatusUnauthorized, b.script(http.MethodGet, "/api").status)
		require.Equal(t, policy.ReasonInactivity, w.seen(middleware.EventEnded)[0].Reason)
	})
}

// The example server of the library, which is not ours and knows nothing of
// sessions: sign-in, refresh, and its refusal at the end of the refresh token. It
// takes each refresh token once, so that two refreshes at once would end the login.
func TestStrangersProvider(t *testing.T) {
	t.Parallel()
	for name, mode := range modes {
		for _, wrapped := range []bool{false, true} {
			t.Run(fmt.Sprint(name, wrapped), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const issuer = "http://" + opHost + "/"
					w := newWorld(t, bare, mode, with(func(c *middleware.Config) {
						c.Issuer, c.ClientID, c.ClientSecret = issuer, "stranger", "stranger-secret"
					}))
					st := storage.NewStorage(storage.NewUserStore(issuer))
					w.serve(opHost, w.count(exampleop.SetupServer(issuer, st, nil, wrapped)))
					b := w.browser()
					signIn := func(p page) page {
						require.Equal(t, "/login/username", p.url.Path, p.body)
						return b.submit(p, url.Values{"username": {"test-user@127.0.0.1"}, "password": {"verysecure"}})
					}
					p := signIn(b.visit("/page?x=1"))
					require.Contains(t, p.body, "page of ")
					require.Contains(t, p.body, "query x=1")
					for range 4 {
						time.Sleep(6 * time.Minute)
						var wg sync.WaitGroup
						for range 20 {
							wg.Go(func() {
								p := b.once(request(t, http.MethodGet, "/page", nil, navigate))
								require.Equal(t, http.StatusOK, p.status, p.body)
							})
						}
						wg.Wait()
					}
					require.EqualValues(t, 4, w.refreshes.Load())
					status := b.script(http.MethodGet, "/auth/session")
					require.NotContains(t, status.body, "inactivity_ends_in", "nothing is made up")
					if name == "store" { // a cookie has a bound of its own
						require.JSONEq(t, `{"signed_in":true,"renewable":true}`, status.body)
					}
					time.Sleep(time.Second)
					require.Equal(t, http.StatusOK, b.script(http.MethodPost, "/auth/session").status)
					require.EqualValues(t, 5, w.refreshes.Load())

					// It answers a refresh token that is over, after 5 hours, with a
					// server error, which is no logout. The page has a way out.
					time.Sleep(6 * time.Hour)
					p = b.visit("/page?x=2")
					require.Equal(t, http.StatusServiceUnavailable, p.status)
					require.Contains(t, p.body, `id="signin" href="/auth/signin?return=%2Fpage%3Fx%3D2"`)
					p = signIn(b.visit("/auth/signin?return=%2Fpage%3Fx%3D2"))
					require.Equal(t, "/page?x=2", p.url.RequestURI())
					b.goesOn("/page")

					// A refresh token that it does not know is invalid_grant.
					require.NoError(t, st.TerminateSession(t.Context(), "id1", "stranger"))
					time.Sleep(6 * time.Minute)
					p = signIn(b.visit("/page?x=3"))
					require.Equal(t, "/page?x=3", p.url.RequestURI())
					require.Contains(t, p.body, "notice: You were signed out.\n")
					p = b.submit(b.visit("/auth/signout"), nil)
					contains(t, p.via, "/end_session?")
				})
			})
		}
	}
}
