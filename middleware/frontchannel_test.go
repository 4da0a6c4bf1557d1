package middleware_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/store"
)

func frontChannel(c *middleware.Config) { c.FrontChannel = true }

// frame loads the page of the front channel as a page of the provider does, in a
// browser that sends no cookie along.
func (w *world) frame(iss, sid string) page {
	return w.browser().visit("/auth/frontchannel?" + url.Values{"iss": {iss}, "sid": {sid}}.Encode())
}

// send is frame without the network, to do it a thousand times.
func (w *world) send(sid string) int {
	rec := newRecorder()
	address := "/auth/frontchannel?" + url.Values{"iss": {w.cfg.Issuer}, "sid": {sid}}.Encode()
	w.rp.Handler(http.NotFoundHandler()).ServeHTTP(rec, request(w.t, http.MethodGet, address, nil, navigate))
	return rec.Code
}

func TestFrontChannelLogout(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, with(frontChannel))
		b, other := w.browser(), w.browser()
		b.login("/page")
		sid := w.lastSID()
		other.login("/page")
		for _, q := range []string{"", "sid=" + sid, "iss=" + w.cfg.Issuer, "iss=https://evil.example&sid=" + sid} {
			require.Equal(t, http.StatusBadRequest, w.browser().visit("/auth/frontchannel?"+q).status)
		}
		b.goesOn("/page")
		time.Sleep(time.Second)
		p := w.frame(w.cfg.Issuer, sid)
		require.Equal(t, http.StatusOK, p.status)
		require.Equal(t, "no-store", p.header.Get("Cache-Control"))
		require.Empty(t, p.header.Get("X-Frame-Options"))
		require.Equal(t, opHost, b.visit("/page").url.Host)
		other.goesOn("/page")
	})
}

// A markedStore counts the marks that it has to keep.
type markedStore struct {
	middleware.SessionStore
	mu     sync.Mutex
	marks  map[string]time.Time // until when
	before func()               // the next mark
}

func (s *markedStore) Mark(ctx context.Context, name string, at, until, now time.Time) (bool, error) {
	s.mu.Lock()
	s.marks[name] = until
	before := s.before
	s.before = nil
	s.mu.Unlock()
	if before != nil {
		before()
	}
	return s.SessionStore.Mark(ctx, name, at, until, now)
}

func (s *markedStore) kept(at time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, until := range s.marks {
		if at.Before(until) {
			n++
		}
	}
	return n
}

// Somebody sends sid after sid that nobody has: few are kept, and not for long. The
// front channel works for the sessions that there are, at another process too and as
// long as they last.
func TestFrontChannelOfStrangers(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		marks := &markedStore{SessionStore: middleware.NewMemoryStore(), marks: map[string]time.Time{}}
		w := newWorld(t, mode, limited(720*time.Hour, 24*time.Hour), with(frontChannel), with(func(c *middleware.Config) { c.Store = marks }))
		b, sids := w.browser(), []string{}
		b.login("/page")
		for range 3 {
			w.browser().login("/page")
			sids = append(sids, w.lastSID())
		}
		before := marks.kept(time.Now())
		refused := 0
		for i := range 5000 {
			if w.send(fmt.Sprint("nobody's ", i)) != http.StatusOK {
				refused++
			}
		}
		require.Equal(t, 4000, refused)
		require.Len(t, w.seen(middleware.EventLogoutRefused), 4000)
		require.Equal(t, 1000, marks.kept(time.Now())-before)
		for _, sid := range sids {
			require.Equal(t, http.StatusOK, w.send(sid))
		}
		require.LessOrEqual(t, marks.kept(time.Now())-before, 1000+2*len(sids), "that it is to end, and has ended")
		time.Sleep(30 * time.Minute)
		require.LessOrEqual(t, marks.kept(time.Now())-before, 2*len(sids), "those of nobody's are over")
		require.Equal(t, http.StatusOK, w.send("nobody's"), "and there is room again")

		for range 30 {
			time.Sleep(4 * time.Hour) // the tokens of the storage live 5
			b.goesOn("/page")
		}
		sid := w.seen(middleware.EventSignedIn)[0].SID
		other, err := middleware.New(w.cfg) // that has not seen the sign-in
		require.NoError(t, err)
		w.serve(appHost, w.app(other))
		b.http.CloseIdleConnections()
		w.rp = other
		for i := range 1001 {
			w.send(fmt.Sprint("nobody's, later ", i))
		}
		require.Equal(t, http.StatusOK, w.frame(w.cfg.Issuer, sid).status)
		require.Equal(t, opHost, b.visit("/page").url.Host)
	})
}

// duringSignIn signs alice in. While the code is exchanged it calls arrive with the
// new sid.
func duringSignIn(w *world, b *browser, arrive func(sid string)) page {
	callback := b.answerOf("/page", "alice")
	network := w.client.Transport.(*faulty)
	inner := network.next
	defer func() { network.next = inner }()
	network.next = roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := inner.RoundTrip(r)
		if r.URL.Path == "/oauth/token" && err == nil {
			list, _, err := w.hook.List(w.t.Context(), store.Filter{Account: "default"}, "", 10)
			require.NoError(w.t, err)
			require.Len(w.t, list, 1)
			time.Sleep(time.Second) // later than the time of the ID token, in whole seconds
			arrive(list[0].ID)
		}
		return resp, err
	})
	return b.visit(callback)
}

// A logout that comes while the code is exchanged ends what the sign-in begins.
func TestFrontChannelDuringSignIn(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, with(frontChannel))
		b := w.browser()
		refusedSignIn(t, w, duringSignIn(w, b, func(sid string) {
			require.Equal(t, http.StatusOK, w.frame(w.cfg.Issuer, sid).status)
		}))
		require.Equal(t, http.StatusUnauthorized, b.script(http.MethodGet, "/api").status)
	})
}

// A sign-in that is finished when the front channel has looked for its session, and
// not left its mark yet, is found all the same, and for good.
func TestFrontChannelAtTheEndOfTheSignIn(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		signedIn := make(chan struct{})
		marks := &markedStore{SessionStore: middleware.NewMemoryStore(), marks: map[string]time.Time{}}
		w := newWorld(t, mode, with(frontChannel), with(func(c *middleware.Config) { c.Store = marks }))
		b := w.browser()
		answered := make(chan int, 1)
		p := duringSignIn(w, b, func(sid string) {
			marks.mu.Lock()
			marks.before = func() { <-signedIn }
			marks.mu.Unlock()
			go func() { answered <- w.frame(w.cfg.Issuer, sid).status }()
			synctest.Wait()
		})
		require.Equal(t, http.StatusOK, p.status)
		close(signedIn)
		require.Equal(t, http.StatusOK, <-answered)
		time.Sleep(time.Hour)
		require.Equal(t, http.StatusUnauthorized, b.script(http.MethodGet, "/api").status)
	})
}

// A provider that gives the session another sid at a refresh may end it by that.
func TestFrontChannelOfAnotherSID(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, with(frontChannel))
		s := newSigner(t, w)
		keys := *w.answer.Load()
		b := w.browser()
		b.login("/page")
		w.answers(func(r *http.Request) *http.Response {
			if r.URL.Path != "/oauth/token" {
				return keys(r)
			}
			return s.changed(t, r, func(claims, _ map[string]any) { claims["sid"] = "another" })
		})
		time.Sleep(10 * time.Minute)
		b.goesOn("/page")
		require.EqualValues(t, 1, w.refreshes.Load())
		for i := range 1001 { // no room for sids that are not known
			w.send(fmt.Sprint("nobody's ", i))
		}
		require.Equal(t, http.StatusOK, w.send("another"))
		require.Equal(t, http.StatusUnauthorized, b.script(http.MethodGet, "/api").status)
	})
}
