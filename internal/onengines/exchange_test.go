package onengines

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// What was made from a session ends with it, at once, on every store, and keeps its
// reason.
func TestWhatWasMadeFromASessionEndsWithIt(t *testing.T) {
	t.Parallel()
	for name, open := range everyStore {
		t.Run(name, func(t *testing.T) { whatWasMadeEnds(t, open(t)) })
	}
}

func whatWasMadeEnds(t *testing.T, sessions store.Store) {
	s := hooktest.Start(t, hooktest.Limits(8*time.Hour, 0, 0, 0), func(p *provider.Config, _ *optest.Config) { p.Store = sessions })
	mine := s.Login(optest.Exchange, "admin")
	parent := s.SID(t, optest.Exchange, mine)
	hers := hooktest.OK(t, s.As(mine.AccessToken(), "alice"))
	spared := s.Login(optest.Exchange, "alice")
	grandchild := hooktest.OK(t, s.As(hooktest.OK(t, s.As(s.Login(optest.Exchange, "admin").AccessToken(), "admin2")).AccessToken(), "carol"))
	n, err := s.Hook.EndAll(t.Context(), s.Subject("admin"), policy.ReasonAccountDisabled, "root")
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Len(t, s.Live(t, "alice"), 1, "her own")
	require.Empty(t, s.Live(t, "admin2"))
	require.Empty(t, s.Live(t, "carol"))
	r := s.Refresh(optest.Exchange, hers.RefreshToken())
	hooktest.RefusedFor(t, r, policy.ReasonAccountDisabled)
	require.Contains(t, r.Description(), "that this one was made from")
	hooktest.RefusedFor(t, s.Refresh(optest.Exchange, grandchild.RefreshToken()), policy.ReasonAccountDisabled)
	require.Equal(t, http.StatusUnauthorized, s.Userinfo(hers.AccessToken()).Status)
	require.Equal(t, http.StatusOK, s.Userinfo(spared.AccessToken()).Status)
	all, _, err := sessions.List(t.Context(), store.Filter{Subject: s.Subject("alice"), State: store.Ended}, "", 10)
	require.NoError(t, err)
	require.Len(t, all, 1)
	ended := all[0].End
	parents, err := sessions.Get(t.Context(), parent)
	require.NoError(t, err)
	require.True(t, ended.WithParent)
	require.Equal(t, "root", ended.By)
	require.Equal(t, parents.End.At, ended.At)
	var told int
	for _, e := range s.Seen(provider.EventEnded) {
		if e.Parent == parent && e.Reason == policy.ReasonAccountDisabled && e.By == "root" {
			told++
		}
	}
	require.Equal(t, 1, told)
}
