package middleware_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/policy"
)

// The reason of the provider reaches the user, who is back where they were.
func TestInactivity(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		b.login("/page")
		time.Sleep(2*time.Hour + time.Minute)
		p := b.visit("/page?draft=7&x=%20")
		require.Equal(t, opHost, p.url.Host)
		p = b.signIn(p, "alice")
		require.Equal(t, "/page?draft=7&x=%20", p.url.RequestURI())
		require.Contains(t, p.body, "notice: You were signed out after 2 hours without activity.\n")
		require.NotContains(t, b.visit("/page").body, "notice", "once")
	})
}

// Who works is not signed out: not by the access token's life, and not by what lies
// between a click and the refresh before it.
func TestActivityKeepsTheSession(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, limited(24*time.Hour, 2*time.Hour))
		b := w.browser()
		b.login("/page")
		for range 11 {
			time.Sleep(109 * time.Minute) // less than 2 hours by more than a twelfth
			b.goesOn("/page")
		}
		require.EqualValues(t, 11, w.refreshes.Load())
		time.Sleep(3 * time.Minute) // not at each request
		b.goesOn("/page")
		require.EqualValues(t, 11, w.refreshes.Load())
		time.Sleep(2 * time.Minute) // before the access token of 5 minutes expires
		b.goesOn("/page")
		require.EqualValues(t, 12, w.refreshes.Load())
	})
}

func TestActiveLimit(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, limited(8*time.Hour, 2*time.Hour))
		b := w.browser()
		b.login("/page")
		begin := time.Now()
		for range 7 {
			time.Sleep(time.Hour)
			b.goesOn("/page")
		}
		time.Sleep(time.Until(begin.Add(8*time.Hour - time.Second))) // the provider tells whole seconds
		b.goesOn("/page")
		time.Sleep(2 * time.Second)
		p := b.visit("/page")
		require.Equal(t, opHost, p.url.Host)
		p = b.signIn(p, "alice")
		require.Contains(t, p.body, "notice: You were signed out because a sign-in lasts at most 8 hours.\n")
	})
}

// Two applications in one browser are one session at the provider: who is active in
// one is so in the other, though that one has not refreshed for longer than the
// window.
func TestActivityInAnotherApplication(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, func(_ *world, _ *policy.Account, o *optest.Config, _ *middleware.Config) {
			o.Storage = optest.NewStorage()
			for _, c := range optest.DefaultClients() {
				if c.ID == optest.Web2 {
					c.Redirects = []string{"http://127.0.0.1:9997/cb"}
					o.Storage.SetClient(c)
				}
			}
		})
		cfg := w.cfg
		cfg.ClientID, cfg.ClientSecret, cfg.RedirectURL = optest.Web2, optest.Web2+"-secret", "http://127.0.0.1:9997/cb"
		other, err := middleware.New(cfg)
		require.NoError(t, err)
		w.serve("127.0.0.1:9997", w.app(other))
		b := w.browser()
		b.login("/page")
		sid := w.lastSID()
		b.login("http://127.0.0.1:9997/page")
		require.Equal(t, sid, w.lastSID())
		for range 3 {
			time.Sleep(time.Hour)
			b.goesOn("http://127.0.0.1:9997/page")
		}
		b.goesOn("/page")
		time.Sleep(2*time.Hour + time.Second)
		require.Equal(t, opHost, b.visit("/page").url.Host)
		require.Equal(t, opHost, b.visit("http://127.0.0.1:9997/page").url.Host)
	})
}

func TestLifetime(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, with(func(c *middleware.Config) { c.Lifetime = time.Hour }))
		b := w.browser()
		b.login("/page")
		time.Sleep(time.Hour - time.Millisecond)
		b.goesOn("/page")
		time.Sleep(time.Millisecond)
		p := b.signIn(b.visit("/page"), "alice")
		require.Contains(t, p.body, "notice: You were signed out because a sign-in lasts at most 1 hour.\n")
	})
}

// Without a refresh token and without a word about limits a session ends some day.
func TestNothingIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, bare, with(func(c *middleware.Config) { c.Scopes = []string{"profile"} }))
		b := w.browser()
		b.login("/page")
		time.Sleep(12*time.Hour - time.Second)
		b.goesOn("/page")
		require.Equal(t, http.StatusOK, b.script(http.MethodPost, "/auth/session").status, "nothing to extend is no error")
		time.Sleep(time.Second)
		require.Equal(t, opHost, b.visit("/page").url.Host)
		require.EqualValues(t, 0, w.refreshes.Load())
	})
}

// A brokenStore does not answer some calls.
type brokenStore struct {
	middleware.SessionStore
	fails  atomic.Pointer[func(method string) bool]
	writes atomic.Int64
}

var errStore = errors.New("the database is down")

func (s *brokenStore) failing(f func(method string) bool) { s.fails.Store(&f) }

func (s *brokenStore) check(method string) error {
	if f := s.fails.Load(); f != nil && (*f)(method) {
		return errStore
	}
	return nil
}

func (s *brokenStore) Create(ctx context.Context, now time.Time, v middleware.StoredSession) error {
	if err := s.check("Create"); err != nil {
		return err
	}
	return s.SessionStore.Create(ctx, now, v)
}

func (s *brokenStore) Get(ctx context.Context, id string) (middleware.StoredSession, error) {
	if err := s.check("Get"); err != nil {
		return middleware.StoredSession{}, err
	}
	return s.SessionStore.Get(ctx, id)
}

func (s *brokenStore) Replace(ctx context.Context, v middleware.StoredSession) error {
	if err := s.check("Replace"); err != nil {
		return err
	}
	s.writes.Add(1)
	return s.SessionStore.Replace(ctx, v)
}

func (s *brokenStore) Mark(ctx context.Context, name string, at, until, now time.Time) (bool, error) {
	if err := s.check("Mark"); err != nil {
		return false, err
	}
	return s.SessionStore.Mark(ctx, name, at, until, now)
}

func (s *brokenStore) Marked(ctx context.Context, name string) (time.Time, error) {
	if err := s.check("Marked"); err != nil {
		return time.Time{}, err
	}
	return s.SessionStore.Marked(ctx, name)
}

func breakable(s *brokenStore) setting {
	s.SessionStore = middleware.NewMemoryStore()
	return with(func(c *middleware.Config) { c.Store = s })
}

// A store that does not answer signs nobody out, and nobody in.
func TestStoreDownIsNoLogout(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		store := &brokenStore{}
		w := newWorld(t, mode, breakable(store))
		b := w.browser()
		b.login("/page")
		callback := w.browser()
		answer := callback.answerOf("/page", "alice")
		store.failing(func(string) bool { return true })
		p := b.visit("/page")
		require.Equal(t, http.StatusServiceUnavailable, p.status)
		require.NotEmpty(t, p.header.Get("Retry-After"))
		require.NotContains(t, p.body, errStore.Error())
		require.Equal(t, http.StatusServiceUnavailable, b.script(http.MethodGet, "/api").status)
		require.Equal(t, http.StatusServiceUnavailable, b.submit(b.visit("/auth/signout"), nil).status, "not told to be signed out")
		require.Equal(t, http.StatusServiceUnavailable, callback.visit(answer).status)
		require.Equal(t, http.StatusOK, b.visit("/").status, "what anybody may see is there")
		store.failing(func(string) bool { return false })
		b.goesOn("/page")
		require.Empty(t, w.seen(middleware.EventEnded))
		require.NotEmpty(t, w.seen(middleware.EventUnavailable))
	})
}
