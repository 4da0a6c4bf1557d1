package provider_test

import (
	"context"
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
	"github.com/curfew-oidc/curfew/store/memstore"
)

// skew is how far the clock of the fast process is ahead of the other's.
const skew = 30 * time.Second

// skewed starts two processes that share a store, the keys and the embedded
// storage. The clock of the second one's hook is ahead.
func skewed(t *testing.T, a policy.Account, change func(*provider.Config, *optest.Config)) (slow, fast *setup) {
	shared, keys, storage := memstore.New(), provider.Keys{provider.NewKey(time.Now())}, optest.NewStorage()
	with := func(now func() time.Time) func(*provider.Config, *optest.Config) {
		return func(p *provider.Config, o *optest.Config) {
			p.Store, p.Keys, p.Now = shared, keys, now
			o.Storage, o.InMemory = storage, true
			if change != nil {
				change(p, o)
			}
		}
	}
	slow = start(t, a, with(nil))
	fast = start(t, a, with(func() time.Time { return time.Now().Add(skew) }))
	return slow, fast
}

// bothWays runs a test with the slow process first and with the fast one first.
func bothWays(t *testing.T, a policy.Account, change func(*provider.Config, *optest.Config), test func(t *testing.T, first, second *setup, firstIsFast bool)) {
	for name, firstIsFast := range map[string]bool{"slow first": false, "fast first": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first, second := skewed(t, a, change)
				if firstIsFast {
					first, second = second, first
				}
				test(t, first, second, firstIsFast)
			})
		})
	}
}

// True: the cap is exact. It counts sessions, and asks no clock which of two
// logins was first.
func TestSkewedClocksKeepTheCap(t *testing.T) {
	t.Parallel()
	for name, atLimit := range map[string]policy.AtLimit{"refuse": policy.Refuse, "end_oldest": policy.EndOldest, "end_idlest": policy.EndIdlest} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slow, fast := skewed(t, limits(time.Hour, 20*time.Minute, 3, atLimit), nil)
				var admitted atomic.Int32
				parallel(24, func(i int) {
					s := []*setup{slow, fast}[i%2]
					if v := s.Browser().Login(optest.Web, "alice", nil); v.Code() != "" && s.Code(optest.Web, v).Status == http.StatusOK {
						admitted.Add(1)
					}
				})
				require.Len(t, slow.live(t, "alice"), 3)
				require.Len(t, fast.live(t, "alice"), 3)
				if atLimit == policy.Refuse {
					require.EqualValues(t, 3, admitted.Load())
				}
			})
		})
	}
}

// True: no session outlives its absolute end by more than the skew, whichever
// process it began at. Not true: that all processes see it end at one moment. The
// fast one refuses it first, and what it wrote holds for all.
func TestSkewedClocksAndTheAbsoluteEnd(t *testing.T) {
	t.Parallel()
	bothWays(t, limits(time.Hour, 0, 0, 0), nil, func(t *testing.T, first, second *setup, firstIsFast bool) {
		slow, fast := first, second
		if firstIsFast {
			slow, fast = second, first
		}
		began := time.Now()
		r := first.Login(optest.Web, "alice")
		time.Sleep(time.Until(began.Add(time.Hour - skew - time.Second)))
		r = ok(t, fast.Refresh(optest.Web, r.RefreshToken()))
		time.Sleep(2 * time.Second)
		r = ok(t, slow.Refresh(optest.Web, r.RefreshToken()))
		refusedFor(t, fast.Refresh(optest.Web, r.RefreshToken()), policy.ReasonActiveLimit)
		refusedFor(t, slow.Refresh(optest.Web, r.RefreshToken()), policy.ReasonActiveLimit)
		end := slow.ended(t, "alice").At
		require.Equal(t, began.Add(time.Hour).UTC(), end.UTC(), "the end that is recorded is the session's own")
	})
}

// ended returns the end of a user's only session.
func (s *setup) ended(t *testing.T, user string) *store.End {
	t.Helper()
	all, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject(user), State: store.Ended}, "", 10)
	require.NoError(t, err)
	require.Len(t, all, 1)
	return all[0].End
}

// True: unused, a session lasts for the window at each process, give or take the
// skew, and no activity that is written later moves the clock back.
func TestSkewedClocksAndInactivity(t *testing.T) {
	t.Parallel()
	const window = 20 * time.Minute
	bothWays(t, limits(0, window, 0, 0), nil, func(t *testing.T, first, second *setup, firstIsFast bool) {
		r := first.Login(optest.Web, "alice")
		used := time.Now()
		last := first.live(t, "alice")[0].LastActivity
		r = ok(t, second.Refresh(optest.Web, r.RefreshToken()))
		require.False(t, first.live(t, "alice")[0].LastActivity.Before(last))

		// Either way the fast process was there, but its clock counts only
		// where it is the later one: it always is.
		time.Sleep(time.Until(used.Add(window + skew - time.Second)))
		slow, fast := first, second
		if firstIsFast {
			slow, fast = second, first
		}
		require.Len(t, slow.live(t, "alice"), 1, "the activity that the fast one recorded lasts longer at the slow one")
		require.Empty(t, fast.live(t, "alice"))
		time.Sleep(time.Second)
		refusedFor(t, slow.Refresh(optest.Web, r.RefreshToken()), policy.ReasonInactivity)
	})
	synctest.Test(t, func(t *testing.T) {
		slow, fast := skewed(t, limits(0, window, 0, 0), nil)
		r := slow.Login(optest.Web, "alice")
		time.Sleep(window - skew)
		require.Len(t, slow.live(t, "alice"), 1)
		refusedFor(t, fast.Refresh(optest.Web, r.RefreshToken()), policy.ReasonInactivity)
		refusedFor(t, slow.Refresh(optest.Web, r.RefreshToken()), policy.ReasonInactivity)
	})
}

// Not true: that a repeat is answered for the grace and no longer. A rotation of
// the fast process is repeated by the slow one for the skew longer; one of the
// slow process by the fast one for the skew less, which is nothing at all with
// clocks as far apart as the grace. What comes then too late is, as ever, taken
// for a lost response, or for a replay once the successor was used.
func TestSkewedClocksAndTheGrace(t *testing.T) {
	t.Parallel()
	rotated := func(first *setup, t *testing.T) (token, next string) {
		token = first.Login(optest.Web, "alice").RefreshToken()
		return token, ok(t, first.Refresh(optest.Web, token)).RefreshToken()
	}
	t.Run("a rotation of the fast one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			slow, fast := skewed(t, policy.Account{}, nil)
			token, next := rotated(fast, t)
			time.Sleep(30*time.Second + skew - time.Millisecond)
			require.Equal(t, next, ok(t, slow.Refresh(optest.Web, token)).RefreshToken())
			time.Sleep(time.Millisecond)
			require.NotEqual(t, next, ok(t, slow.Refresh(optest.Web, token)).RefreshToken(), "for a lost response")
		})
	})
	t.Run("a rotation of the slow one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			slow, fast := skewed(t, policy.Account{}, nil)
			token, next := rotated(slow, t)
			other := ok(t, fast.Refresh(optest.Web, token)).RefreshToken()
			require.NotEqual(t, next, other, "for a lost response: too late by its clock")
			require.Len(t, slow.live(t, "alice"), 1)
		})
	})
	t.Run("a rotation of the slow one that was used", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			slow, fast := skewed(t, policy.Account{}, nil)
			token, next := rotated(slow, t)
			slow.Userinfo(ok(t, slow.Refresh(optest.Web, next)).AccessToken())
			refusedFor(t, fast.Refresh(optest.Web, token), policy.ReasonReplay)
			require.Empty(t, slow.live(t, "alice"))
		})
	})
	// Clocks that are nearer to each other than the grace leave the rest of it.
	t.Run("a grace longer than the skew", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			slow, fast := skewed(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) { p.Grace = time.Minute })
			token, next := rotated(slow, t)
			time.Sleep(time.Minute - skew - time.Millisecond)
			require.Equal(t, next, ok(t, fast.Refresh(optest.Web, token)).RefreshToken())
			require.Empty(t, fast.seen(provider.EventReplay))
		})
	})
}

// True: a code is good for its lifetime, give or take the skew, and holds its slot
// as long at each process. At no process is it redeemed after its slot was given
// away there.
func TestSkewedClocksAndCodes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fastFirst bool
		good      time.Duration // at the other process
	}{"made by the fast one": {true, time.Minute + skew}, "made by the slow one": {false, time.Minute - skew}} {
		for after, good := range map[time.Duration]bool{c.good - time.Millisecond: true, c.good: false} {
			t.Run(name+" after "+after.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					first, second := skewed(t, limits(0, 0, 1, policy.Refuse), nil)
					if c.fastFirst {
						first, second = second, first
					}
					v := first.Browser().Login(optest.Web, "alice", nil)
					time.Sleep(after)
					if good {
						require.Equal(t, "access_denied", second.Browser().Login(optest.Web, "alice", nil).Error())
						ok(t, second.Code(optest.Web, v))
					} else {
						refusedFor(t, second.Code(optest.Web, v), policy.ReasonAbandoned)
						second.Login(optest.Web, "alice")
						refusedFor(t, first.Code(optest.Web, v), policy.ReasonAbandoned)
					}
					require.Len(t, first.live(t, "alice"), 1)
				})
			})
		}
	}
}

// True: what a sweeper holds, others take over when its lease has run out by
// their clocks, the skew sooner or later; and each session ends once, whoever
// sweeps.
func TestSkewedClocksAndSweeps(t *testing.T) {
	t.Parallel()
	bothWays(t, limits(time.Hour, 0, 0, 0), nil, func(t *testing.T, first, second *setup, firstIsFast bool) {
		began := time.Now()
		first.Login(optest.Web, "alice")
		time.Sleep(2 * time.Hour)
		require.NoError(t, second.hook.Sweep(t.Context()))
		require.NoError(t, first.hook.Sweep(t.Context()))
		require.Equal(t, began.Add(time.Hour).UTC(), second.ended(t, "alice").At.UTC())
		require.Len(t, append(first.seen(provider.EventEnded), second.seen(provider.EventEnded)...), 1)
	})
	bothWays(t, limits(time.Hour, 0, 0, 0), nil, func(t *testing.T, first, second *setup, firstIsFast bool) {
		const lease = time.Minute
		first.Login(optest.Web, "alice")
		time.Sleep(2 * time.Hour)
		now, takenOver := time.Now(), lease-skew
		if firstIsFast {
			now, takenOver = now.Add(skew), lease+skew
		}
		held, err := first.store.Due(t.Context(), now, lease, 10) // and dies
		require.NoError(t, err)
		require.Len(t, held, 1)
		time.Sleep(takenOver - time.Millisecond)
		now = time.Now()
		if !firstIsFast {
			now = now.Add(skew)
		}
		none, err := second.store.Due(t.Context(), now, lease, 10)
		require.NoError(t, err)
		require.Empty(t, none)
		time.Sleep(time.Millisecond)
		require.NoError(t, second.hook.Sweep(t.Context()))
		require.Len(t, second.seen(provider.EventEnded), 1)
		require.Equal(t, policy.ReasonActiveLimit, second.ended(t, "alice").Reason)
	})
}

// Not true: that a user whose browser session the fast process ended may sign in
// again at once at the slow one, where the provider's single sign-on names the
// session. For as long as the skew the new authentication is older than the end.
func TestSkewedClocksAndANewLoginByTheSameName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow, fast := skewed(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) {
			p.SSOSession = func(_ context.Context, l provider.Login) string { return "the browser of the user" }
		})
		sid := slow.sid(t, optest.Web, slow.Login(optest.Web, "alice"))
		time.Sleep(time.Minute)
		require.NoError(t, fast.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
		time.Sleep(skew - time.Second)
		require.NotEmpty(t, slow.Browser().Login(optest.Web, "alice", nil).Error())
		time.Sleep(time.Second)
		slow.Login(optest.Web, "alice")
		require.Len(t, slow.live(t, "alice"), 1)
	})
}

// What a clock that was a day ahead wrote in a session, when its user authenticated and
// when it was used last, stays when the clock is set right: of two clocks nobody knows
// which one is right, and the mending by one that is behind would sign everybody out. The
// session lasts for a day longer, and no more: what is used meanwhile moves nothing.
func TestAClockADayAheadLengthensByADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		x := tenants(t, memstore.New(), limits(2*time.Hour, time.Hour, 0, 0), nil)
		began := time.Now()
		used := x.session(t, "acme.used", 0, began.Add(day), began.Add(day+time.Hour))
		unused := x.session(t, "acme.unused", 0, began.Add(day), began.Add(day+time.Hour))
		reaches := func(after time.Duration) {
			t.Helper()
			for time.Since(began) < after {
				time.Sleep(min(10*time.Minute, after-time.Since(began)))
				require.NoError(t, x.hook.Sweep(t.Context()))
			}
		}
		for h := range 24 {
			reaches(time.Duration(h) * time.Hour)
			require.NoError(t, x.hook.Heartbeat(t.Context(), used.ID, "web"))
			s, err := x.hook.Session(t.Context(), used.ID)
			require.NoError(t, err)
			require.Equal(t, used.LastActivity, s.LastActivity)
		}
		reaches(day + 59*time.Minute)
		require.NoError(t, x.hook.Heartbeat(t.Context(), used.ID, "web"))
		require.Nil(t, x.ended(t, unused.ID))
		reaches(day + time.Hour)
		require.Equal(t, policy.ReasonInactivity, x.ended(t, unused.ID).Reason)
		reaches(day + 90*time.Minute)
		require.NoError(t, x.hook.Heartbeat(t.Context(), used.ID, "web"))
		reaches(day + 2*time.Hour - time.Millisecond)
		require.NoError(t, x.hook.Heartbeat(t.Context(), used.ID, "web"))
		reaches(day + 2*time.Hour)
		require.ErrorIs(t, x.hook.Heartbeat(t.Context(), used.ID, "web"), provider.ErrEnded)
		require.Equal(t, policy.ReasonActiveLimit, x.ended(t, used.ID).Reason)
	})
}
