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

	"github.com/curfew-oidc/curfew/middleware"
)

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

// A logout that could not be done is one that the provider must send again.
func TestBackChannelWhileTheStoreIsDown(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"Marked", "Mark", "Get", "Replace"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &brokenStore{}
				w := newWorld(t, breakable(store))
				s := newSigner(t, w)
				b := w.browser()
				b.login("/page")
				token := s.sign(t, "logout+jwt", s.claims(w.lastSID()))
				store.failing(func(m string) bool { return m == method })
				require.Equal(t, http.StatusServiceUnavailable, w.tell(token).status)
				store.failing(func(string) bool { return false })
				require.Equal(t, http.StatusOK, w.tell(token).status, "the same token: it has done nothing yet")
				require.Equal(t, opHost, b.visit("/page").url.Host)
			})
		})
	}
}
