package provider_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/internal/vectors"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// Every vector of testdata/policy, over HTTP: a login meets the sessions that
// are held, and the clocks in its token response are the limits.
func TestPolicyVectorsOverHTTP(t *testing.T) {
	t.Parallel()
	for _, v := range vectors.Load(t) {
		t.Run(v.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { vectorOverHTTP(t, v) })
		})
	}
}

func vectorOverHTTP(t *testing.T, v vectors.Vector) {
	var client *optest.Client
	for _, c := range optest.DefaultClients() {
		if c.ID == optest.Web {
			client = c
		}
	}
	client.ID = v.Client
	if client.ID == "" {
		client.ID = optest.Web
	}
	s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
		inMemoryNonRotating(p, o)
		o.Storage = optest.NewStorage(client)
		p.Kind = func(context.Context, provider.Login) policy.Kind { return v.Kind }
		p.Membership = func(context.Context, store.Subject) ([]policy.Membership, error) { return v.Who.Memberships, nil }
	})
	settings := policy.Settings{Accounts: map[string]policy.Account{}}
	for name, a := range v.Settings.Accounts {
		users := map[string]policy.Limits{}
		for user, l := range a.Users {
			users[optest.SubjectOf(user)] = l
		}
		a.Users = users
		settings.Accounts[name] = a
	}
	s.Set(settings)

	now := time.Now()
	login := v.Login
	if login == nil {
		login = &vectors.Login{Allow: true}
	}
	// A client's tokens show the caps only where one refuses; the limits show
	// in every answer.
	sids := map[string]string{}
	for _, h := range login.Held {
		p := h.Session(now)
		sids[h.ID] = store.Bucket(s.subject(v.Who.User)) + "." + h.ID
		require.NoError(t, s.store.Create(t.Context(), store.Session{
			Format: store.Format, ID: sids[h.ID], Subject: s.subject(v.Who.User), Kind: p.Kind, Client: p.Client,
			Started: p.Started, Authenticated: p.Authenticated, LastActivity: p.LastActivity, ReservedUntil: p.ReservedUntil,
		}, 1000))
	}

	b := s.Browser()
	visit := b.Login(client.ID, v.Who.User, nil)
	if !login.Allow {
		if asked(visit) {
			require.Equal(t, login.Ask, asked(visit))
			visit = b.Submit(visit, url.Values{"action": {"cancel"}})
		}
		require.Equal(t, "access_denied", visit.Error(), visit.Description())
		require.Equal(t, login.Reason, policy.ReasonOf(visit.Description()))
		require.Contains(t, visit.Description(), fmt.Sprintf("used=%d max=%d;", login.Used, login.Max))
		for _, sid := range sids {
			held, err := s.store.Get(t.Context(), sid)
			require.NoError(t, err)
			require.Nil(t, held.End, "refusing changes nothing")
		}
		return
	}
	require.Empty(t, visit.Error(), visit.Description())
	r := ok(t, s.Code(client.ID, visit))

	ended := map[string]policy.Reason{}
	for id, sid := range sids {
		held, err := s.store.Get(t.Context(), sid)
		require.NoError(t, err)
		if held.End != nil {
			ended[id] = held.End.Reason
		}
	}
	want := map[string]policy.Reason{}
	for _, e := range login.End {
		want[e.ID] = e.Reason
	}
	require.Equal(t, want, ended)

	authorization, hasEnd := r.Number("authorization_expires_in")
	active, limited := v.Limits.Active.Value()
	require.Equal(t, limited, hasEnd)
	if limited {
		require.Equal(t, active.Seconds(), authorization)
	}
	timeout, hasTimeout := r.Number("refresh_token_timeout")
	inactivity, idles := v.Limits.Inactivity.Value()
	require.Equal(t, idles, hasTimeout)
	if idles {
		if limited {
			inactivity = min(inactivity, active)
		}
		require.Equal(t, inactivity.Seconds(), timeout)
	}
	session, err := s.hook.Session(t.Context(), s.sid(t, client.ID, r))
	require.NoError(t, err)
	require.Equal(t, v.Kind, session.Kind)
	require.False(t, strings.Contains(session.ID, v.Who.User))
}
