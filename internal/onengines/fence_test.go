package onengines

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// One browser that signs on to applications all the time writes records of its user
// without end. The user's other sessions end all the same, at the first call, and
// then the browser's own.
func TestEndsWinAgainstAFlood(t *testing.T) {
	t.Parallel()
	for name, open := range everyStore {
		t.Run(name, func(t *testing.T) {
			s := hooktest.Start(t, hooktest.Limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
				p.Store = open(t)
				o.Storage = optest.NewStorage()
				o.Storage.SSO = true
			})
			b := s.Browser()
			flooding := s.SID(t, optest.Web, hooktest.OK(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil))))
			cookies := s.Cookies(b)
			var stop atomic.Bool
			var signOns atomic.Int64
			var flood sync.WaitGroup
			defer func() { stop.Store(true); flood.Wait() }()
			for range 4 {
				w := s.Browser()
				for _, c := range cookies {
					s.Plant(w, c)
				}
				flood.Go(func() {
					for !stop.Load() {
						if w.Get(s.AuthorizeURL(optest.Web, nil)).Code() != "" {
							signOns.Add(1)
						}
					}
				})
			}
			for signOns.Load() < 200 {
				time.Sleep(time.Millisecond)
			}
			for range 3 {
				others := []optest.Reply{s.Login(optest.Web, "alice"), s.Login(optest.SPA, "alice")}
				waiting := s.Browser().Login(optest.Web, "alice", nil)
				require.NotEmpty(t, waiting.Code())
				n, err := s.Hook.EndAll(t.Context(), s.Subject("alice"), policy.ReasonCredentialChange, "root", flooding)
				require.NoError(t, err)
				require.Equal(t, 2, n, "their documents too")
				hooktest.RefusedFor(t, s.Refresh(optest.Web, others[0].RefreshToken()), policy.ReasonCredentialChange)
				hooktest.RefusedFor(t, s.Refresh(optest.SPA, others[1].RefreshToken()), policy.ReasonCredentialChange)
				require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, others[0].AccessToken()).JSON)
				require.Equal(t, "invalid_grant", s.Code(optest.Web, waiting).Error())
				live := s.Live(t, "alice")
				require.Len(t, live, 1)
				require.Equal(t, flooding, live[0].ID)
			}
			before := signOns.Load()
			for signOns.Load() == before { // the flood went on
				time.Sleep(time.Millisecond)
			}
			_, err := s.Hook.EndAll(t.Context(), s.Subject("alice"), policy.ReasonEndedByAdmin, "root")
			require.NoError(t, err)
			require.Empty(t, s.Live(t, "alice"))
			ended, err := s.Hook.Session(t.Context(), flooding)
			require.NoError(t, err)
			require.Equal(t, policy.ReasonEndedByAdmin, ended.End.Reason)
		})
	}
}
