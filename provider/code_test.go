package provider_test

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// A code that joins a session which exists already lives no longer than that of
// its first application.
func TestTheCodeOfASecondApplicationHasALifetimeToo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		after time.Duration
		good  bool
	}{{60*time.Second - time.Millisecond, true}, {60 * time.Second, false}} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, limits(0, 0, 1, policy.Refuse), ssoKnown)
			b := s.Browser()
			first := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
			v := b.Login(optest.Web2, "alice", nil)
			require.NotEmpty(t, v.Code(), v.Description())
			time.Sleep(c.after)
			got := s.Code(optest.Web2, v)
			if !c.good {
				refusedFor(t, got, policy.ReasonAbandoned)
				refusedFor(t, s.Code(optest.Web2, v), policy.ReasonAbandoned)
				v = b.Login(optest.Web2, "alice", nil) // a new login is a new code
				got = s.Code(optest.Web2, v)
			}
			second := ok(t, got)
			require.Equal(t, s.sid(t, optest.Web, first), s.sid(t, optest.Web2, second))
			ok(t, s.Refresh(optest.Web, first.RefreshToken()))
			ok(t, s.Refresh(optest.Web2, second.RefreshToken()))
			require.Len(t, s.live(t, "alice"), 1)
		})
	}
}

// With a callback that is loaded again and again nobody keeps a slot, or an old
// code, for longer than one code lives.
func TestAReloadedCallbackDoesNotKeepAnOldCodeAlive(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*provider.Config, *optest.Config){"a request of its own": inMemory, "a single sign-on": ssoKnown} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(0, 0, 1, policy.Refuse), set)
				b := s.Browser()
				v := b.Login(optest.Web, "alice", nil)
				require.NotEmpty(t, v.Code(), v.Description())
				time.Sleep(40 * time.Second)
				again := b.Get(v.Callback)
				require.NotEmpty(t, again.Code(), again.Description())
				require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
				time.Sleep(20 * time.Second)
				refusedFor(t, s.Code(optest.Web, v), policy.ReasonAbandoned)
				refusedFor(t, s.Code(optest.Web, again), policy.ReasonAbandoned)
				ok(t, s.Code(optest.Web, s.Browser().Login(optest.Web, "alice", nil)))
				require.Len(t, s.live(t, "alice"), 1)
			})
		})
	}
}

func TestALateCodeStaysLate(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*provider.Config, *optest.Config){"a request of its own": inMemory, "a single sign-on": ssoKnown} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(0, 0, 2, policy.Refuse), set)
				b := s.Browser()
				v := b.Login(optest.Web, "alice", nil)
				time.Sleep(time.Minute)
				again := b.Get(v.Callback)
				require.Equal(t, "login_required", again.Error(), again.Description())
				refusedFor(t, s.Code(optest.Web, v), policy.ReasonAbandoned)
				require.Empty(t, s.live(t, "alice"))

				// What the same browser does since changes nothing about it.
				first := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
				again = b.Get(v.Callback)
				require.Equal(t, "login_required", again.Error(), again.Description())
				refusedFor(t, s.Code(optest.Web, v), policy.ReasonAbandoned)
				time.Sleep(4 * time.Hour)
				refusedFor(t, s.Code(optest.Web, v), policy.ReasonAbandoned)
				ok(t, s.Refresh(optest.Web, first.RefreshToken()))
			})
		})
	}
}

// The codes that a session remembers are bounded, and live on in a refresh.
func TestTheCodesOfASessionAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(0, 0, 1, policy.Refuse), ssoKnown)
		b := s.Browser()
		tokens := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		for i := range 20 {
			require.NotEmpty(t, b.Login(optest.Web2, "alice", nil).Code(), strconv.Itoa(i))
			require.LessOrEqual(t, len(s.live(t, "alice")[0].Codes), 16)
		}
		ok(t, s.Refresh(optest.Web, tokens.RefreshToken()))
		require.Len(t, s.live(t, "alice")[0].Codes, 16)
		time.Sleep(25 * time.Hour)
		require.NotEmpty(t, b.Login(optest.Web2, "alice", nil).Code())
		require.Len(t, s.live(t, "alice")[0].Codes, 1, "those of yesterday are forgotten")
	})
}
