package provider_test

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
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// A directory says to which account and groups everybody belongs.
type directory struct {
	memberships atomic.Pointer[[]policy.Membership]
	down        atomic.Bool
}

func (d *directory) set(memberships ...policy.Membership) { d.memberships.Store(&memberships) }

func (d *directory) Membership(context.Context, store.Subject) ([]policy.Membership, error) {
	if d.down.Load() {
		return nil, errors.New("the directory is down")
	}
	return *d.memberships.Load(), nil
}

// withDirectory starts a provider whose users are in the account "default" at first.
func withDirectory(t *testing.T, a policy.Account, change func(*provider.Config)) (*setup, *directory) {
	d := &directory{}
	d.set(policy.Membership{Account: "default"})
	return start(t, a, func(p *provider.Config, o *optest.Config) {
		inMemory(p, o)
		p.Membership = d.Membership
		if change != nil {
			change(p)
		}
	}), d
}

func restricted(active time.Duration) policy.Account {
	a := limits(active, 0, 3, policy.EndOldest)
	a.Groups = map[string]policy.Limits{"restricted": {Concurrent: policy.LimitTo(1), AtLimit: policy.EndOldest}}
	return a
}

// A user is moved to a group with a lower cap. It holds when one of their sessions is
// used next: the surplus ends.
func TestAGroupsCapHoldsAtTheNextUse(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*testing.T, *setup, optest.Reply){
		"refresh":       func(_ *testing.T, s *setup, r optest.Reply) { s.Refresh(optest.Web, r.RefreshToken()) },
		"introspection": func(_ *testing.T, s *setup, r optest.Reply) { s.Introspect(optest.Web, r.AccessToken()) },
		"userinfo":      func(_ *testing.T, s *setup, r optest.Reply) { s.Userinfo(r.AccessToken()) },
		"heartbeat": func(t *testing.T, s *setup, r optest.Reply) {
			_ = s.hook.Heartbeat(t.Context(), s.sid(t, optest.Web, r), optest.Web)
		},
		"exchange": func(_ *testing.T, s *setup, r optest.Reply) {
			s.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := withDirectory(t, restricted(24*time.Hour), nil)
				var all []optest.Reply
				for range 3 {
					all = append(all, s.Login(optest.Web, "alice"))
					time.Sleep(time.Minute)
				}
				d.set(policy.Membership{Account: "default", Groups: []string{"restricted"}})
				use(t, s, all[0])
				require.Len(t, s.live(t, "alice"), 1)
				refusedFor(t, s.Refresh(optest.Web, all[0].RefreshToken()), policy.ReasonPolicyChange)
				refusedFor(t, s.Refresh(optest.Web, all[1].RefreshToken()), policy.ReasonPolicyChange)
				ok(t, s.Refresh(optest.Web, all[2].RefreshToken()))
				require.Len(t, s.seen(provider.EventEnded), 2)
			})
		})
	}
}

// Where nobody uses any of them, a sweep finds out within a day; and a user who is in
// other groups by name only, or whom the directory lists in another order, costs
// nothing.
func TestAGroupsCapHoldsWithinADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, d := withDirectory(t, restricted(0), nil)
		d.set(policy.Membership{Account: "default", Groups: []string{"a", "b"}})
		for range 3 {
			s.Login(optest.Web, "alice")
			time.Sleep(time.Minute)
		}
		d.set(policy.Membership{Account: "default", Groups: []string{"b", "a"}})
		page, _, err := s.store.List(t.Context(), store.Filter{}, "", 10)
		require.NoError(t, err)
		for _, one := range page {
			_, err := s.hook.Session(t.Context(), one.ID)
			require.NoError(t, err)
			require.EqualValues(t, 2, one.Revision)
		}
		d.set(policy.Membership{Account: "default", Groups: []string{"a", "restricted"}})
		time.Sleep(24 * time.Hour)
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Len(t, s.live(t, "alice"), 1)
		require.Len(t, s.seen(provider.EventEnded), 2)
	})
}

// Nobody is signed out because the others' sessions cannot be looked at.
func TestAGroupChangeInAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, d := withDirectory(t, restricted(24*time.Hour), nil)
		r := s.Login(optest.Web, "alice")
		d.down.Store(true)
		require.Equal(t, http.StatusServiceUnavailable, s.Refresh(optest.Web, r.RefreshToken()).Status)
		d.down.Store(false)
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		require.Empty(t, s.seen(provider.EventGone), "a directory that fails says nothing of the user")
	})
}

// A user was deleted: the directory knows no account of theirs. Their sessions are
// listed as before, keep their limits, and end after GoneAfter; everybody is told.
func TestTheSessionsOfAUserWhoWasDeletedEnd(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(t *testing.T, s *setup, r *optest.Reply){
		"used": func(t *testing.T, s *setup, r *optest.Reply) {
			*r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		},
		"swept": func(t *testing.T, s *setup, r *optest.Reply) {
			time.Sleep(24 * time.Hour) // of an unlimited account
			require.NoError(t, s.hook.Sweep(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []policy.Reason
				s, d := withDirectory(t, limits(0, 0, 2, policy.Refuse), func(p *provider.Config) {
					p.OnEnd = func(_ context.Context, s store.Session) error {
						told = append(told, s.End.Reason)
						return nil
					}
				})
				r := s.Login(optest.Web, "alice")
				sid := s.sid(t, optest.Web, r)
				time.Sleep(10 * time.Minute)
				d.set()
				use(t, s, &r)
				require.Len(t, s.seen(provider.EventGone), 1)
				noticed := time.Now()
				listed := func() []store.Session {
					page, _, err := s.hook.List(t.Context(), store.Filter{Account: "default", State: store.Unended}, "", 10)
					require.NoError(t, err)
					return page
				}
				require.Len(t, listed(), 1)
				end, reason, err := s.hook.Deadline(t.Context(), listed()[0])
				require.NoError(t, err)
				require.Equal(t, noticed.Add(time.Hour).UTC(), end)
				require.Equal(t, policy.ReasonAccountDisabled, reason)

				time.Sleep(time.Hour - time.Millisecond)
				if name == "used" {
					r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
				}
				require.NoError(t, s.hook.Sweep(t.Context()))
				require.Len(t, listed(), 1)
				require.Len(t, s.seen(provider.EventGone), 1, "once")
				time.Sleep(time.Millisecond)
				require.Empty(t, listed())
				if name == "used" {
					refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonAccountDisabled)
				} else {
					require.NoError(t, s.hook.Sweep(t.Context()))
				}
				require.Equal(t, []policy.Reason{policy.ReasonAccountDisabled}, told)
				refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonAccountDisabled)
				ended, err := s.store.Get(t.Context(), sid)
				require.NoError(t, err)
				require.Equal(t, noticed.Add(time.Hour).UTC(), ended.End.At)
				require.Equal(t, []string{"default"}, ended.Accounts)
				require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, r.AccessToken()).JSON)
			})
		})
	}
}

// Until then the limits of the account hold; and who is back in it by then goes on.
func TestAUserWhoIsGoneForAMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, d := withDirectory(t, limits(90*time.Minute, 20*time.Minute, 2, policy.Refuse), func(p *provider.Config) { p.GoneAfter = 3 * time.Hour })
		idle, busy := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
		d.set()
		for range 2 {
			time.Sleep(10 * time.Minute)
			busy = ok(t, s.Refresh(optest.Web, busy.RefreshToken()))
		}
		refusedFor(t, s.Refresh(optest.Web, idle.RefreshToken()), policy.ReasonInactivity)
		sid := s.sid(t, optest.Web, busy)
		require.False(t, s.kept(t, sid).Gone.IsZero())
		// A change of the account's settings is looked at, and hides nothing.
		s.set(limits(80*time.Minute, 20*time.Minute, 1, policy.Refuse))
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Equal(t, []string{"default"}, s.kept(t, sid).Accounts)

		d.set(policy.Membership{Account: "default"})
		time.Sleep(10 * time.Minute)
		busy = ok(t, s.Refresh(optest.Web, busy.RefreshToken()))
		require.True(t, s.kept(t, sid).Gone.IsZero())
		d.set()
		for range 4 {
			time.Sleep(10 * time.Minute)
			busy = ok(t, s.Refresh(optest.Web, busy.RefreshToken()))
		}
		time.Sleep(10 * time.Minute)
		refusedFor(t, s.Refresh(optest.Web, busy.RefreshToken()), policy.ReasonActiveLimit)
	})
}

// A user who never was in an account is the embedder's: nothing binds them, and
// nothing of theirs ends by itself.
func TestAUserInNoAccountHasNoLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, d := withDirectory(t, limits(time.Hour, 0, 1, policy.Refuse), nil)
		d.set()
		r := s.Login(optest.Web, "alice")
		s.Login(optest.Web, "alice")
		time.Sleep(4 * time.Hour)
		require.NoError(t, s.hook.Sweep(t.Context()))
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		require.Empty(t, s.seen(provider.EventGone))
		// Until they are in one.
		d.set(policy.Membership{Account: "default"})
		refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonActiveLimit)
	})
}
