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

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
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

// A panic of the provider's own code is its caller's to recover from, as it is
// everywhere else, and is not held up by what others do.
func TestAPanicInASweepIsTheCallers(t *testing.T) {
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
