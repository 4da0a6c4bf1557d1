package provider_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A sweep goes on while the clean-up of some sessions hangs.
func TestAHangingOnEndDoesNotHoldASweepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(0, time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			o.InMemory = true
			p.StoreTimeout = 5 * time.Second
			p.OnEnd = hangs
		})
		for range 20 {
			s.Login(optest.Web, "alice")
		}
		s.sweepFor(t, 10*time.Minute) // the settings are new, and are applied first
		time.Sleep(time.Hour)
		began := time.Now()
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Len(t, s.seen(provider.EventEnded), 20)
		require.Equal(t, 25*time.Second, time.Since(began), "four at once")
	})
}

// Run ends when it is told to, however much is left to do: what is under way comes to
// its end, and nothing else begins.
func TestRunEndsAmidASweep(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, s *setup){
		"of sessions that are over": func(t *testing.T, s *setup) {
			s.sweepFor(t, 10*time.Minute)
			time.Sleep(time.Hour)
		},
		"of changed settings": func(t *testing.T, s *setup) {
			s.sweepFor(t, 10*time.Minute)
			s.set(limits(0, time.Hour, 1, policy.EndOldest))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(0, time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
					o.InMemory = true
					p.StoreTimeout = 5 * time.Second
					p.OnEnd = hangs
				})
				for i := range 40 {
					s.Login(optest.Web, fmt.Sprintf("user%d", i/2))
				}
				prepare(t, s)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- s.hook.Run(ctx) }()
				time.Sleep(time.Second)
				cancel()
				began := time.Now()
				require.ErrorIs(t, <-done, context.Canceled)
				require.LessOrEqual(t, time.Since(began), 5*time.Second)
				require.Len(t, s.seen(provider.EventEnded), 4)
			})
		})
	}
}

// A process that stops is no reason to put off what it was looking at: another one
// does it when the lease is over.
func TestASweepThatIsStoppedPutsNothingOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var stop atomic.Pointer[context.CancelFunc]
		s := start(t, limits(0, time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			o.InMemory = true
			p.Membership = func(ctx context.Context, _ store.Subject) ([]policy.Membership, error) {
				if cancel := stop.Load(); cancel != nil {
					(*cancel)()
				}
				return []policy.Membership{{Account: "default"}}, ctx.Err()
			}
		})
		for range 10 {
			s.Login(optest.Web, "alice")
		}
		s.sweepFor(t, 10*time.Minute)
		time.Sleep(time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		stop.Store(&cancel)
		require.Error(t, s.hook.Sweep(ctx))
		stop.Store(nil)
		time.Sleep(time.Minute + time.Second)
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Len(t, s.seen(provider.EventEnded), 10)
	})
}

// One sweep ends all that is due, however many batches that are; a user without
// rules among them holds nobody up.
func TestASweepEndsAllThatIsDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("no such user")
		var asked atomic.Int32
		x := tenants(t, memstore.New(), limits(time.Hour, 0, 0, 0), func(cfg *provider.Config) {
			of := cfg.Membership
			cfg.Membership = func(ctx context.Context, subject store.Subject) ([]policy.Membership, error) {
				if subject.ID == "default.gone" {
					asked.Add(1)
					return nil, gone
				}
				return of(ctx, subject)
			}
		})
		x.settle(t, "default")
		long := time.Now().Add(-2 * time.Hour)
		x.session(t, "default.gone", 0, long, long.Add(time.Minute)) // in the first batch
		for i := range 250 {
			x.session(t, fmt.Sprintf("default.user%d", i), 0, long, long.Add(time.Hour))
		}
		require.ErrorIs(t, x.hook.Sweep(t.Context()), gone)
		require.Equal(t, 1, x.unended(t, "default"))
		require.Len(t, x.seen(provider.EventEnded), 250+1)
		require.EqualValues(t, 1, asked.Load())
		x.sweepFor(t, 5*time.Minute)
		require.EqualValues(t, 1, asked.Load(), "the user without rules is put off")
	})
}

// A sweep does not go on with what others may have taken over meanwhile.
func TestASweepStopsBeforeItsLeaseIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := tenants(t, memstore.New(), limits(time.Hour, 0, 0, 0), func(cfg *provider.Config) {
			cfg.StoreTimeout = 5 * time.Second
			cfg.OnEnd = hangs
		})
		x.settle(t, "default")
		long := time.Now().Add(-2 * time.Hour)
		for i := range 100 { // 125 s, four at once
			x.session(t, fmt.Sprintf("default.user%d", i), 0, long, long.Add(time.Hour))
		}
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- x.hook.Sweep(t.Context()) }()
		time.Sleep(59 * time.Second)
		half := 100 - x.unended(t, "default")
		require.LessOrEqual(t, half, 4*8, "nothing is begun after half of the lease")
		require.GreaterOrEqual(t, half, 4*6)
		<-done
		require.Less(t, time.Since(began), 5*time.Minute)
		x.sweepFor(t, 5*time.Minute)
		require.Zero(t, x.unended(t, "default"), "what was left has its turn")
	})
}

// A store that takes no write is not asked for the next batch.
func TestASweepOfAStoreThatTakesNoWriteStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		x := tenants(t, faulty, limits(time.Hour, 0, 0, 0), nil)
		x.settle(t, "default")
		long := time.Now().Add(-2 * time.Hour)
		for i := range 300 {
			x.session(t, fmt.Sprintf("default.user%d", i), 0, long, long.Add(time.Hour))
		}
		faulty.Script(faultstore.Always(faultstore.Before, "Update"))
		before := faulty.Counts()["Due"]
		require.ErrorIs(t, x.hook.Sweep(t.Context()), faultstore.ErrFault)
		require.Equal(t, before+1, faulty.Counts()["Due"])
		faulty.Script(nil)
		time.Sleep(time.Minute)
		require.NoError(t, x.hook.Sweep(t.Context()))
		require.Zero(t, x.unended(t, "default"))
	})
}

// Processes that sweep at the same time get in no one's way, and report no failure.
func TestProcessesThatSweepAtTheSameTime(t *testing.T) {
	t.Parallel()
	for range 20 {
		x := tenants(t, memstore.New(), limits(0, 0, 1, policy.EndOldest), nil)
		began := time.Now()
		for i := range 20 {
			for n := range 3 {
				x.session(t, fmt.Sprintf("a%d.user", i), n, began.Add(time.Duration(n)*time.Second), time.Time{})
			}
		}
		processes := []*tenancy{x, x.another(t), x.another(t), x.another(t)}
		errs := make([]error, len(processes))
		parallel(len(processes), func(i int) { errs[i] = processes[i].hook.Sweep(t.Context()) })
		for _, err := range errs {
			require.NoError(t, err)
		}
		for i := range 20 {
			require.Equal(t, 1, x.unended(t, fmt.Sprintf("a%d", i)))
		}
	}
}

// What somebody else removed while a sweep looked at it is no failure.
func TestASweepOfWhatIsRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inner := memstore.New()
		removing := &removingStore{Store: inner}
		x := tenants(t, removing, limits(time.Hour, 0, 0, 0), nil)
		x.settle(t, "default")
		long := time.Now().Add(-2 * time.Hour)
		x.session(t, "default.user", 0, long, long.Add(time.Hour))
		removing.now.Store(true)
		require.NoError(t, x.hook.Sweep(t.Context()))
		require.Zero(t, x.unended(t, "default"))
	})
}

// A removingStore removes each session before it is updated.
type removingStore struct {
	*memstore.Store
	now atomic.Bool
}

func (s *removingStore) Update(ctx context.Context, session store.Session) (int64, error) {
	if s.now.Load() {
		if err := s.Delete(ctx, session.ID, session.Revision); err != nil {
			return 0, err
		}
	}
	return s.Store.Update(ctx, session)
}

// A panic of the provider's own code is its caller's to recover from, as it is
// everywhere else, and is not held up by what others do.
func TestAPanicInASweepIsTheCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var once sync.Once
		s := start(t, limits(0, time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			o.InMemory = true
			p.OnEnd = func(context.Context, store.Session) error {
				once.Do(func() { panic("a bug of the provider") })
				return nil
			}
		})
		for range 10 {
			s.Login(optest.Web, "alice")
		}
		s.sweepFor(t, 10*time.Minute)
		time.Sleep(time.Hour)
		func() {
			defer func() { require.Contains(t, fmt.Sprint(recover()), "a bug of the provider") }()
			_ = s.hook.Sweep(t.Context())
			require.Fail(t, "no panic")
		}()
		time.Sleep(2 * time.Minute)
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Empty(t, s.live(t, "alice"))
	})
}

// What went wrong with some sessions is told, however many are looked at at once.
func TestASweepTellsOfEachError(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, time.Hour, 0, 0), nil)
	for i := range 40 {
		s.Login(optest.Web, fmt.Sprintf("user%d", i))
	}
	down := errors.New("the directory is down")
	hook, err := provider.New(provider.Config{
		Store: s.store, Keys: provider.Keys{provider.NewKey(time.Now())}, Settings: s, SettingsMaxAge: -1,
		Membership: func(context.Context, store.Subject) ([]policy.Membership, error) {
			time.Sleep(time.Millisecond) // so that all have a part in it
			return nil, down
		},
		Now: func() time.Time { return time.Now().Add(30 * 24 * time.Hour) },
	})
	require.NoError(t, err)
	err = hook.Sweep(t.Context())
	require.ErrorIs(t, err, down)
	require.ErrorContains(t, err, "and 31 more", "of the sessions, and of the users that the settings are applied to")
}
