package provider_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// Every repeat that is answered within the grace is an event, and no other
// refresh is.
func TestARepeatIsAnEvent(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	login := s.Login(optest.Web, "alice")
	next := ok(t, s.Refresh(optest.Web, login.RefreshToken()))
	require.Empty(t, s.seen(provider.EventRepeat))
	for range 2 {
		ok(t, s.Refresh(optest.Web, login.RefreshToken()))
	}
	ok(t, s.Refresh(optest.Web, next.RefreshToken()))
	repeats := s.seen(provider.EventRepeat)
	require.Len(t, repeats, 2)
	require.Equal(t, s.subject("alice"), repeats[0].Subject)
	require.Equal(t, s.sid(t, optest.Web, login), repeats[0].SID)
	require.Equal(t, optest.Web, repeats[0].Client)
	require.Empty(t, s.seen(provider.EventRefreshRefused))
}

// A refused refresh is an event with the reason that the application gets. What
// comes from another client is not: it never got that far.
func TestARefusedRefreshIsAnEvent(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	login := s.Login(optest.Web, "alice")
	sid := s.sid(t, optest.Web, login)
	require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
	s.Refresh(optest.Web2, login.RefreshToken())
	require.Empty(t, s.seen(provider.EventRefreshRefused))
	refusedFor(t, s.Refresh(optest.Web, login.RefreshToken()), policy.ReasonEndedByAdmin)

	session, err := s.store.Get(t.Context(), sid)
	require.NoError(t, err)
	require.NoError(t, s.store.Delete(t.Context(), sid, session.Revision))
	refusedFor(t, s.Refresh(optest.Web, login.RefreshToken()), policy.ReasonUnknownSession)

	refused := s.seen(provider.EventRefreshRefused)
	require.Len(t, refused, 2)
	for i, reason := range []policy.Reason{policy.ReasonEndedByAdmin, policy.ReasonUnknownSession} {
		require.Equal(t, reason, refused[i].Reason)
		require.Equal(t, s.subject("alice"), refused[i].Subject)
		require.Equal(t, sid, refused[i].SID)
		require.Equal(t, optest.Web, refused[i].Client)
	}
	require.Empty(t, s.seen(provider.EventRefused), "which is of logins")
}

// Whoever signs in, but not as the application asked, is told of: by whom, where, and
// what was missing. An answer without the user is the ordinary one, and no event.
func TestALoginThatIsNotAsAskedIsAnEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		storage.SSO = true
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
			inMemory(nil, o)
			o.Storage, o.Wrap = storage, optest.Complaisant
		})
		b := s.Browser()
		alice := s.loginIn(t, b, optest.Web, "alice", nil)
		bob := s.loginIn(t, s.Browser(), optest.Web, "bob", nil)
		time.Sleep(10 * time.Minute)
		n := 0
		refused := func(extra url.Values, reason policy.Reason, because string) {
			t.Helper()
			v := b.Authorize(optest.Web2, extra)
			require.Equal(t, "login_required", v.Error())
			events := s.seen(provider.EventNotAsAsked)
			if because == "" {
				require.Len(t, events, n, v.Description())
				return
			}
			n++
			require.Len(t, events, n)
			e := events[n-1]
			require.Equal(t, s.subject("alice"), e.Subject)
			require.Equal(t, optest.Web2, e.Client)
			require.Equal(t, policy.Browser, e.Kind)
			require.Equal(t, reason, e.Reason)
			require.ErrorContains(t, e.Err, because)
		}
		refused(url.Values{"max_age": {"599"}}, "", "max_age")
		refused(url.Values{"prompt": {"login"}}, "", "prompt")
		refused(url.Values{"id_token_hint": {bob.IDToken()}}, "", "another user")
		refused(url.Values{"max_age": {"599"}, "prompt": {"none"}}, "", "")
		refused(url.Values{"id_token_hint": {bob.IDToken()}, "prompt": {"none"}}, "", "")
		require.NotEmpty(t, b.Authorize(optest.Web2, url.Values{"max_age": {"600"}}).Code())

		require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, alice), policy.ReasonEndedByAdmin, "root"))
		refused(url.Values{}, policy.ReasonEndedByAdmin, "ended_by_admin: ")
		refused(url.Values{"prompt": {"none"}}, "", "")
		require.Len(t, s.seen(provider.EventNotAsAsked), n)
		require.Empty(t, s.seen(provider.EventRefused), "which is of the policy")
	})
}

func TestTee(t *testing.T) {
	t.Parallel()
	var order []string
	note := func(name string) func(context.Context, provider.Event) {
		return func(_ context.Context, e provider.Event) { order = append(order, name+" "+string(e.Type)) }
	}
	var log bytes.Buffer
	handlers := []func(context.Context, provider.Event){note("one"), nil, provider.Audit(slog.New(slog.NewTextHandler(&log, nil))), note("two")}
	tee := provider.Tee(handlers...)
	handlers[0] = nil // the slice is not kept
	tee(t.Context(), provider.Event{Type: provider.EventStarted})
	require.Equal(t, []string{"one session_started", "two session_started"}, order)
	require.Contains(t, log.String(), "msg=session_started")
	provider.Tee()(t.Context(), provider.Event{}) // tells nobody
}
