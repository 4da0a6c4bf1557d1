package middleware_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/storage"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
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

func TestMain(m *testing.M) {
	// Before any storage of the example reads what clients there are.
	storage.RegisterClients(storage.WebClient("stranger", "stranger-secret", optest.RedirectURI))
	os.Exit(m.Run())
}

// Where nobody can go on without the new token all wait for the one who refreshes,
// whichever process that is.
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
