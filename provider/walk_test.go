package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A wait for the next pass that is longer than any is of a clock that was ahead.
func TestAPassDoesNotWaitForADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := limits(0, 0, 0, 0)
		x := tenants(t, memstore.New(), a, func(cfg *provider.Config) { cfg.Settings = hooktest.OfAll(&a) })
		for n := range 2 {
			x.session(t, "acme.user", n, time.Now(), time.Time{})
		}
		a = limits(0, 0, 1, policy.EndOldest)
		require.NoError(t, x.hook.Sweep(t.Context())) // the first pass, which does not count
		x.session(t, "acme.user", 2, time.Now().Add(time.Second), time.Time{})
		d, err := x.store.Document(t.Context(), "convergence/acme")
		require.NoError(t, err)
		var c map[string]any
		require.NoError(t, json.Unmarshal(d.Body, &c))
		require.NotContains(t, c, "done")
		c["next"] = time.Now().Add(24 * time.Hour)
		d.Body, err = json.Marshal(c)
		require.NoError(t, err)
		_, err = x.store.PutDocument(t.Context(), d)
		require.NoError(t, err)
		x.sweepFor(t, 5*time.Minute)
		require.Equal(t, 1, x.unended(t, "acme"))
	})
}

// A user whose rules cannot be had has all others looked at again, ever more rarely.
func TestABrokenPassIsRepeatedEverMoreRarely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var passes atomic.Int64
		watched := &watchedStore{Store: memstore.New(), list: func(f store.Filter) {
			if f.Account == "acme" {
				passes.Add(1)
			}
		}}
		x := tenants(t, watched, limits(0, 0, 1, policy.EndOldest), func(cfg *provider.Config) {
			of := cfg.Membership
			cfg.Membership = func(ctx context.Context, subject store.Subject) ([]policy.Membership, error) {
				if subject.ID == "acme.gone" {
					return nil, errors.New("no such user")
				}
				return of(ctx, subject)
			}
		})
		x.session(t, "acme.gone", 0, time.Now(), time.Time{})
		for range 6 * 60 {
			_ = x.hook.Sweep(t.Context())
			time.Sleep(time.Minute)
		}
		require.Greater(t, passes.Load(), int64(5), "it is repeated")
		require.Less(t, passes.Load(), int64(20))
	})
}

// A store that fails is no matter of one user: the pass stops there, and goes on as soon
// as the store is back.
func TestAPassStopsWhenTheStoreFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		x := tenants(t, faulty, limits(0, 0, 1, policy.EndOldest), nil)
		for i := range 40 {
			for n := range 2 {
				x.session(t, fmt.Sprintf("acme.user%02d", i), n, time.Now().Add(time.Duration(n)*time.Second), time.Time{})
			}
		}
		x.hook.Changed("acme")
		faulty.Script(faultstore.Always(faultstore.Before, "Admit"))
		require.ErrorIs(t, x.hook.Sweep(t.Context()), faultstore.ErrFault)
		require.Less(t, faulty.Counts()["Admit"], 20)
		faulty.Script(nil)
		time.Sleep(time.Minute + time.Second) // the lease of what was under way
		require.NoError(t, x.hook.Sweep(t.Context()))
		require.Equal(t, 40, x.unended(t, "acme"))
	})
}

// A page whose users take long is left before its lease is over, and taken up again.
func TestAPageIsLeftBeforeItsLeaseIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		watched := &watchedStore{Store: memstore.New()}
		watched.admit = func() {
			if !slow.Load() {
				return
			}
			d, err := watched.Document(t.Context(), "convergence/acme")
			require.NoError(t, err)
			var c struct{ Pass struct{ Until time.Time } }
			require.NoError(t, json.Unmarshal(d.Body, &c))
			require.Greater(t, time.Until(c.Pass.Until), 10*time.Second)
			time.Sleep(10 * time.Second)
		}
		x := tenants(t, watched, limits(0, 0, 1, policy.EndOldest), func(cfg *provider.Config) { cfg.StoreTimeout = 30 * time.Second })
		for i := range 60 {
			x.session(t, fmt.Sprintf("acme.user%02d", i), 0, time.Now(), time.Time{})
		}
		x.hook.Changed("acme")
		slow.Store(true)
		x.sweepFor(t, 5*time.Minute)
	})
}

// With two processes whose clocks differ by a day, each finds that the other's walk began
// at an impossible time. They do not walk all the time for that.
func TestTwoClocksDoNotMendAllTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mending atomic.Int64
		watched := &watchedStore{Store: memstore.New(), list: func(f store.Filter) {
			if f == (store.Filter{}) {
				mending.Add(1)
			}
		}}
		x := tenants(t, watched, limits(0, 0, 1, policy.EndOldest), nil)
		ahead := x.another(t)
		ahead = tenants(t, watched, policy.Account{}, func(cfg *provider.Config) {
			*cfg = ahead.cfg
			cfg.Now = func() time.Time { return time.Now().Add(24 * time.Hour) }
		})
		x.session(t, "acme.user", 0, time.Now(), time.Time{})
		for range 6 * 60 { // for an hour
			require.NoError(t, x.hook.Sweep(t.Context()))
			require.NoError(t, ahead.hook.Sweep(t.Context()))
			time.Sleep(10 * time.Second)
		}
		require.Greater(t, mending.Load(), int64(2))
		require.Less(t, mending.Load(), int64(20))
	})
}

// Two processes with clocks that are apart by no more than the time between two walks
// do not take turns to walk.
func TestTwoClocksDoNotWalkAllTheTime(t *testing.T) {
	for _, apart := range []time.Duration{time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			var walks atomic.Int64
			watched := &watchedStore{Store: memstore.New(), list: func(f store.Filter) {
				if f == (store.Filter{State: store.Unended}) {
					walks.Add(1)
				}
			}}
			x := tenants(t, watched, limits(0, 0, 1, policy.EndOldest), nil)
			ahead := tenants(t, watched, policy.Account{}, func(cfg *provider.Config) {
				*cfg = x.cfg
				cfg.Now = func() time.Time { return time.Now().Add(apart) }
			})
			x.session(t, "acme.user", 0, time.Now(), time.Time{})
			for range 6 * 60 { // for an hour
				require.NoError(t, x.hook.Sweep(t.Context()))
				require.NoError(t, ahead.hook.Sweep(t.Context()))
				time.Sleep(10 * time.Second)
			}
			require.GreaterOrEqual(t, walks.Load(), int64(6), apart)
			require.Less(t, walks.Load(), int64(12), apart)
		})
	}
}

// A store that fails now and then holds a changed policy up for minutes, and not for
// hours: one failure is not taken for a store that is down.
func TestAStoreThatFailsNowAndThen(t *testing.T) {
	for name, fault := range map[string]faultstore.Fault{"before": faultstore.Before, "after": faultstore.After} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				faulty := faultstore.New(memstore.New())
				x := tenants(t, faulty, limits(24*time.Hour, 0, 1, policy.EndOldest), nil)
				const users = 600
				for user := range users {
					for n := range 2 {
						x.session(t, fmt.Sprintf("acme.user-%d", user), n, time.Now().Add(time.Duration(n)*time.Second), time.Time{})
					}
				}
				var mu sync.Mutex
				chance := rand.New(rand.NewPCG(1, 2)) // a regular pattern could always hit the same call
				faulty.Script(func(faultstore.Call) faultstore.Fault {
					mu.Lock()
					defer mu.Unlock()
					if chance.IntN(20) == 0 {
						return fault
					}
					return faultstore.None
				})
				for range 6 * 10 { // ten minutes
					_ = x.hook.Sweep(t.Context())
					time.Sleep(10 * time.Second)
				}
				faulty.Script(nil)
				require.Equal(t, users, x.unended(t, "acme"))
			})
		})
	}
}

// A user whose sessions somebody has locked holds up no other user of the account.
func TestALockedUserHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locked := &lockedStore{Store: memstore.New()}
		x := tenants(t, locked, limits(24*time.Hour, 0, 1, policy.EndOldest), nil)
		const users = 200
		for user := range users {
			for n := range 2 {
				locked.id = x.session(t, fmt.Sprintf("acme.user-%d", user), n, time.Now().Add(time.Duration(n)*time.Second), time.Time{}).ID
			}
		}
		for range 6 * 10 {
			_ = x.hook.Sweep(t.Context())
			time.Sleep(10 * time.Second)
		}
		require.Equal(t, users+1, x.unended(t, "acme"))
		locked.id = ""
		for range 6 * 70 {
			_ = x.hook.Sweep(t.Context())
			time.Sleep(10 * time.Second)
		}
		require.Equal(t, users, x.unended(t, "acme"), "when it is not locked any more")
	})
}

// An account whose settings cannot be had, since their source hangs for it alone, keeps
// no walk from the accounts behind it, nor makes a process walk all the time.
func TestAnAccountThatHangsHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var walks atomic.Int64
		watched := &watchedStore{Store: memstore.New(), list: func(f store.Filter) {
			if f == (store.Filter{State: store.Unended}) {
				walks.Add(1)
			}
		}}
		x := tenants(t, watched, policy.Account{}, func(cfg *provider.Config) {
			cfg.Settings = settingsOf(func(ctx context.Context, account string) (policy.Account, error) {
				if account == "hangs" {
					<-ctx.Done()
					return policy.Account{}, ctx.Err()
				}
				return limits(24*time.Hour, 0, 1, policy.EndOldest), nil
			})
		})
		for account := range 20 {
			for n := range 2 {
				x.session(t, fmt.Sprintf("account-%d.user", account), n, time.Now().Add(time.Duration(n)*time.Second), time.Time{})
			}
		}
		x.session(t, "hangs.user", 0, time.Now(), time.Time{})
		for range 6 * 60 { // for an hour
			_ = x.hook.Sweep(t.Context())
			time.Sleep(10 * time.Second)
		}
		for account := range 20 {
			require.Equal(t, 1, x.unended(t, fmt.Sprintf("account-%d", account)))
		}
		require.Less(t, walks.Load(), int64(12))
	})
}

// Counters that cannot be written hold up nothing but themselves.
func TestCountersThatFailHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		x := tenants(t, faulty, limits(time.Hour, 0, 1, policy.EndOldest), nil)
		x.session(t, "acme.other", 0, time.Now().Add(-2*time.Hour), time.Now())
		for n := range 2 {
			x.session(t, "acme.user", n, time.Now().Add(time.Duration(n)*time.Second), time.Time{})
		}
		faulty.Script(faultstore.Always(faultstore.Before, "AddCounts"))
		for range 3 {
			require.ErrorIs(t, x.hook.Sweep(t.Context()), faultstore.ErrFault, "it is told")
			time.Sleep(10 * time.Second)
		}
		require.Equal(t, 1, x.unended(t, "acme"), "the surplus has ended")
	})
}

// A session that names an account twice is one session of it.
func TestASessionCountsOnceInAnAccount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := tenants(t, memstore.New(), limits(0, 0, 5, policy.Refuse), nil)
		subject := store.Subject{Issuer: "https://op.example.org", ID: "acme.user"}
		began := time.Now().UTC()
		require.NoError(t, x.store.Create(t.Context(), store.Session{
			Format: store.Format, ID: store.Bucket(subject) + "one", Subject: subject, Accounts: []string{"acme", "acme"},
			Kind: policy.Browser, Client: "web", Started: began, Authenticated: began, LastActivity: began,
		}, 10))
		require.NoError(t, x.hook.Sweep(t.Context()))
		hour := began.Truncate(time.Hour)
		periods, err := x.hook.Counts(t.Context(), "acme", hour, hour.Add(time.Hour), time.Hour)
		require.NoError(t, err)
		require.Equal(t, float64(1), periods[0].Live)
	})
}

// What was put off by a clock that was a day ahead is looked at soon after it was set
// right.
func TestWhatAClockADayAheadPutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		x := tenants(t, memstore.New(), limits(time.Hour, 0, 0, 0), func(cfg *provider.Config) {
			of := cfg.Membership
			cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			cfg.Membership = func(ctx context.Context, subject store.Subject) ([]policy.Membership, error) {
				if ahead.Load() > 0 {
					return nil, errors.New("the directory is down")
				}
				return of(ctx, subject)
			}
		})
		s := x.session(t, "acme.user", 0, time.Now(), time.Now().Add(time.Hour))
		x.sweepFor(t, 30*time.Minute)
		ahead.Store(int64(24 * time.Hour))
		require.Error(t, x.hook.Sweep(t.Context()))
		put, err := x.store.Get(t.Context(), s.ID)
		require.NoError(t, err)
		require.Greater(t, time.Until(put.Due), 23*time.Hour)
		ahead.Store(0)
		x.sweepFor(t, 45*time.Minute)
		require.NotNil(t, x.ended(t, s.ID))
		require.Equal(t, policy.ReasonActiveLimit, x.ended(t, s.ID).Reason)
	})
}
