package provider_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// ssoKnown is a provider with a single sign-on of its own, which the hook is
// told of.
func ssoKnown(p *provider.Config, o *optest.Config) {
	inMemory(p, o)
	o.Storage = optest.NewStorage()
	o.Storage.SSO = true
	p.SSOSession = func(_ context.Context, l provider.Login) string {
		if l.AuthRequest == nil {
			return ""
		}
		return optest.SSOSession(l.AuthRequest)
	}
}

// A browser that keeps its sign-on cookie, in which the user is asked for the
// password after every inactivity: a working day has several of them.
func TestASSOSessionCanEndOftenAndStillSignIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 15*time.Minute, 3, policy.Refuse), ssoKnown)
		b := s.Browser()
		for n := range 130 { // six a day, for less than Remember
			v := b.Login(optest.Web, "alice", url.Values{"prompt": {"login"}})
			require.NotEmpty(t, v.Code(), "sign-in %d: %s %s", n, v.Error(), v.Description())
			ok(t, s.Code(optest.Web, v))
			time.Sleep(4 * time.Hour)
			require.NoError(t, s.hook.Sweep(t.Context()))
		}
	})
}

// rawSID returns the sid of a reply's ID token without verifying it: it may
// be over.
func (s *setup) rawSID(t *testing.T, r optest.Reply) string {
	t.Helper()
	claims := &oidc.IDTokenClaims{}
	_, err := oidc.ParseToken(r.IDToken(), claims)
	require.NoError(t, err)
	require.NotEmpty(t, claims.SessionID)
	return claims.SessionID
}

// The sessions of one SSO session are found again however long ago the first
// ones ended: their tombstones are forgotten.
func TestASSOSessionIsFoundWhenItsFirstOnesAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 0, 1, policy.Refuse), ssoKnown)
		b := s.Browser()
		login := func() optest.Reply {
			return ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", url.Values{"prompt": {"login"}})))
		}
		b.Login(optest.Web, "alice", url.Values{"prompt": {"login"}}) // never redeemed
		time.Sleep(2 * time.Minute)
		require.NoError(t, s.hook.Sweep(t.Context()))
		for range 3 {
			login()
			time.Sleep(25 * time.Hour)
			require.NoError(t, s.hook.Sweep(t.Context()))
		}
		sid := s.rawSID(t, login())
		for range 80 { // signed in again each time before the limit
			time.Sleep(20 * time.Hour)
			require.NoError(t, s.hook.Sweep(t.Context()))
			require.Equal(t, sid, s.rawSID(t, login()))
		}
		require.Len(t, s.live(t, "alice"), 1)
		time.Sleep(time.Minute)
		require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
		require.Equal(t, "login_required", b.Authorize(optest.Web, url.Values{"prompt": {"none"}}).Error(), "its authentication is older than the end")

		// Nothing stays for ever.
		for range 3 {
			time.Sleep(32 * 24 * time.Hour)
			require.NoError(t, s.hook.Sweep(t.Context()))
		}
		left, _, err := s.store.List(t.Context(), store.Filter{}, "", 100)
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

// What ends was there: an end without a beginning spoils every count.
func TestAnEndThatIsReportedHadABeginning(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.EndOldest), nil)
	require.NotEmpty(t, s.Browser().Login(optest.Web, "alice", nil).Code()) // never redeemed
	s.Login(optest.Web, "alice")
	require.Len(t, s.seen(provider.EventStarted), 1)
	require.Empty(t, s.seen(provider.EventEnded), "a reservation is no session")
}

// Config.AdoptUntil may be later than Remember reaches.
func TestAnAdoptedTokenIsNotAdoptedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		bare := optest.Start(t, optest.Config{Storage: storage, Wrap: optest.NonRotating, InMemory: true})
		token := bare.Login(optest.Web, "alice").RefreshToken()
		time.Sleep(time.Minute)
		s := start(t, limits(0, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemoryNonRotating(p, o)
			o.Storage = storage
			p.AdoptUntil = time.Now().Add(60 * 24 * time.Hour)
		})
		sid := s.rawSID(t, ok(t, s.Refresh(optest.Web, token)))
		require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonAccountDisabled, "root"))
		time.Sleep(32 * 24 * time.Hour)
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Equal(t, "invalid_grant", s.Refresh(optest.Web, token).Error())
		time.Sleep(29 * 24 * time.Hour)
		require.NoError(t, s.hook.Sweep(t.Context()))
		_, err := s.store.Get(t.Context(), sid)
		require.ErrorIs(t, err, store.ErrNotFound, "no token is adopted any more")
	})
}

// An end is one event, however often OnEnd has to be tried.
func TestAnEndIsReportedOnceThoughOnEndFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(0, 0, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.OnEnd = func(context.Context, store.Session) error { return errors.New("out of order") }
		})
		r := s.Login(optest.Web, "alice")
		require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, r), policy.ReasonEndedByAdmin, "root"))
		for range 60 {
			time.Sleep(2 * time.Minute)
			require.NoError(t, s.hook.Sweep(t.Context()))
		}
		require.LessOrEqual(t, len(s.seen(provider.EventEnded)), 2)
	})
}

// A session that a slow or hanging OnEnd has to hear of must not keep others
// from signing in.
func TestAHangingOnEndDoesNotKeepOthersOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(0, 0, 1, policy.EndOldest), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.OnEnd = func(ctx context.Context, _ store.Session) error {
				select {
				case <-ctx.Done():
				case <-time.After(24 * time.Hour):
				}
				return ctx.Err()
			}
		})
		s.Login(optest.Web, "alice")
		began := time.Now()
		s.Login(optest.Web, "alice")
		require.Less(t, time.Since(began), time.Minute)
	})
}

// OnEnd is tried again until it succeeds, less and less often.
func TestOnEndIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken error
		calls := 0
		s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.OnEnd = func(context.Context, store.Session) error {
				calls++
				return broken
			}
		})
		broken = errors.New("out of order")
		require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, s.Login(optest.Web, "alice")), policy.ReasonEndedByAdmin, "root"))
		sweep := func(d time.Duration) {
			for range d / (10 * time.Second) {
				time.Sleep(10 * time.Second)
				require.NoError(t, s.hook.Sweep(t.Context()))
			}
		}
		sweep(5 * time.Minute)
		require.Greater(t, calls, 2)
		sweep(24 * time.Hour)
		require.Greater(t, calls, 24)
		require.Less(t, calls, 40)
		broken = nil
		sweep(time.Hour)
		done := calls
		sweep(3 * time.Hour)
		require.Equal(t, done, calls)
		require.Len(t, s.seen(provider.EventEnded), 1)
	})
}

// A directory that does not know a deleted user any more says so with an error.
func goneFrom(gone *sync.Map) func(context.Context, store.Subject) ([]policy.Membership, error) {
	return func(_ context.Context, subject store.Subject) ([]policy.Membership, error) {
		if _, ok := gone.Load(subject.ID); ok {
			return nil, errors.New("directory: no such user")
		}
		return []policy.Membership{{Account: "default"}}, nil
	}
}

// One user whom the directory does not know any more must not hide all others
// from an administrator.
func TestAUserWhoIsGoneDoesNotHideTheOthers(t *testing.T) {
	t.Parallel()
	var gone sync.Map
	s := start(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) { p.Membership = goneFrom(&gone) })
	s.Login(optest.Web, "alice")
	s.Login(optest.Web, "bob")
	gone.Store(optest.SubjectOf("bob"), true)
	page, _, err := s.hook.List(t.Context(), store.Filter{State: store.Unended}, "", 10)
	require.NoError(t, err)
	require.NotEmpty(t, page)
}

// The reason of a limit is the policy's to find: whoever calls for it was
// overtaken by a use of the session, or is mistaken.
func TestALiveSessionDoesNotEndForALimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemory)
		sid := s.sid(t, optest.Web, s.Login(optest.Web, "alice"))
		for _, reason := range []policy.Reason{policy.ReasonInactivity, policy.ReasonActiveLimit, policy.ReasonAbandoned} {
			require.ErrorContains(t, s.hook.End(t.Context(), sid, reason, "root"), string(reason))
			_, err := s.hook.EndAll(t.Context(), s.subject("alice"), reason, "root")
			require.ErrorContains(t, err, string(reason))
		}
		require.Len(t, s.live(t, "alice"), 1)
		require.Empty(t, s.seen(provider.EventEnded))
		time.Sleep(2 * time.Hour)
		require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonActiveLimit, "root"))
		session, err := s.hook.Session(t.Context(), sid)
		require.NoError(t, err)
		require.Equal(t, policy.ReasonInactivity, session.End.Reason)
	})
}

// Settings that cannot be read do not hold each request up for as long as they
// time out, while the last ones are good; and logins wait for one reader.
func TestSettingsThatTimeOutHoldOneRequestUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := false
		var reads atomic.Int32
		a := limits(24*time.Hour, 2*time.Hour, 0, 0)
		s := start(t, a, func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.SettingsMaxAge = 0
			p.Settings = settingsContextFunc(func(ctx context.Context) (policy.Account, error) {
				reads.Add(1)
				if hangs {
					<-ctx.Done()
				}
				return a, ctx.Err()
			})
		})
		r := s.Login(optest.Web, "alice")
		time.Sleep(2 * time.Second)
		hangs = true
		reads.Store(0)
		began := time.Now()
		for range 100 {
			require.Equal(t, true, s.Introspect(optest.Web, r.AccessToken()).JSON["active"])
		}
		require.Equal(t, 3*time.Second, time.Since(began), "the store's time, once")
		require.Len(t, s.seen(provider.EventSettingsStale), 1)

		began = time.Now()
		errs := make([]string, 20)
		parallel(len(errs), func(i int) { errs[i] = s.Browser().Login(optest.Web, "alice", nil).Error() })
		for _, err := range errs {
			require.Equal(t, "server_error", err, "a login needs fresh ones")
		}
		require.LessOrEqual(t, time.Since(began), 6*time.Second)
		require.LessOrEqual(t, reads.Load(), int32(3))

		hangs = false
		s.Login(optest.Web, "alice")
		time.Sleep(10 * time.Minute)
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	})
}

type settingsContextFunc func(ctx context.Context) (policy.Account, error)

func (f settingsContextFunc) Account(ctx context.Context, _ string) (policy.Account, error) {
	return f(ctx)
}

// Two processes on one store: one converges at once, the other has the old
// settings for as long as its cache is allowed to.
func TestASurplusAdmittedByACacheIsFoundLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sessions, storage := memstore.New(), optest.NewStorage()
		keys := provider.Keys{provider.NewKey(time.Now())}
		share := func(age time.Duration) func(p *provider.Config, o *optest.Config) {
			return func(p *provider.Config, o *optest.Config) {
				inMemory(p, o)
				o.Storage, p.Store, p.Keys, p.Settings, p.SettingsMaxAge = storage, sessions, keys, nil, age
			}
		}
		_, err := provider.SaveAccount(t.Context(), sessions, "default", limits(0, 0, 5, policy.EndOldest), 0, "root", "", time.Now())
		require.NoError(t, err)
		fresh, cached := start(t, policy.Account{}, share(-1)), start(t, policy.Account{}, share(time.Second))
		for range 3 {
			cached.Login(optest.Web, "alice")
		}
		_, err = provider.SaveAccount(t.Context(), sessions, "default", limits(0, 0, 1, policy.EndOldest), 1, "root", "", time.Now())
		require.NoError(t, err)
		require.NoError(t, fresh.hook.Sweep(t.Context()))
		require.Len(t, fresh.live(t, "alice"), 1)
		cached.Login(optest.Web, "alice") // within the cache's age: allowed for now
		time.Sleep(time.Hour)             // but not for good
		require.NoError(t, fresh.hook.Sweep(t.Context()))
		require.NoError(t, cached.hook.Sweep(t.Context()))
		require.Len(t, fresh.live(t, "alice"), 1)
	})
}

func TestAUserWhoIsGoneDoesNotKeepTheOthersFromConverging(t *testing.T) {
	t.Parallel()
	var gone sync.Map
	s := start(t, limits(0, 0, 5, policy.EndOldest), func(p *provider.Config, _ *optest.Config) { p.Membership = goneFrom(&gone) })
	for n := range 8 {
		for range 2 {
			s.Login(optest.Web, fmt.Sprint("user", n))
		}
	}
	gone.Store(optest.SubjectOf("user0"), true)
	s.set(limits(0, 0, 1, policy.EndOldest))
	_ = s.hook.Sweep(t.Context())
	for n := range 7 {
		require.Len(t, s.live(t, fmt.Sprint("user", n+1)), 1, "user%d", n+1)
	}
}

func TestASessionOfAUserWhoIsGoneIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var gone sync.Map
		s := start(t, limits(0, 0, 5, policy.EndOldest), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Membership = goneFrom(&gone)
		})
		r := s.Login(optest.Web, "alice")
		_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonAccountDisabled, "root")
		require.NoError(t, err)
		gone.Store(optest.SubjectOf("alice"), true)
		time.Sleep(32 * 24 * time.Hour)
		_ = s.hook.Sweep(t.Context())
		_, err = s.store.Get(t.Context(), s.rawSID(t, r))
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}

// Many sessions of users who are gone are due; those of others are still swept.
func TestSessionsOfUsersWhoAreGoneDoNotStarveTheSweeper(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var gone sync.Map
		s := start(t, limits(0, time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Membership = goneFrom(&gone)
		})
		template := s.Login(optest.Web, "alice")
		session, err := s.store.Get(t.Context(), s.sid(t, optest.Web, template))
		require.NoError(t, err)
		gone.Store(optest.SubjectOf("bob"), true)
		for n := range 700 {
			other := session
			bob := s.subject("bob")
			other.ID, other.Subject, other.Due = fmt.Sprintf("%s.%d", store.Bucket(bob), n), bob, time.Now().Add(time.Minute)
			require.NoError(t, s.store.Create(t.Context(), other, 1000))
		}
		time.Sleep(2 * time.Hour)
		for range 360 { // an hour of sweeps, every ten seconds
			_ = s.hook.Sweep(t.Context())
			time.Sleep(10 * time.Second)
		}
		ended := s.seen(provider.EventEnded)
		require.NotEmpty(t, ended, "alice's session was over an hour ago")
	})
}

// A refresh moves the deadline, but not each one the time of the next sweep, which
// stores have an index of. That is early then, never late, and the sweep that finds
// the session alive sets the right one.
func TestRefreshesSeldomMoveTheDueTime(t *testing.T) {
	t.Parallel()
	const window, every = 2 * time.Hour, 10 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(0, window, 0, 0), inMemory)
		r := s.Login(optest.Web, "alice")
		sid := s.sid(t, optest.Web, r)
		get := func() store.Session {
			session, err := s.store.Get(t.Context(), sid)
			require.NoError(t, err)
			return session
		}
		due, moved := get().Due, 0
		for range 36 {
			time.Sleep(every)
			r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
			after := get()
			require.False(t, after.Due.After(after.LastActivity.Add(window)), "due after the deadline")
			require.True(t, after.Due.After(after.LastActivity.Add(window/2)), "due so early that the sweeps of a session in use are in vain")
			if !after.Due.Equal(due) {
				due = after.Due
				moved++
			}
			require.NoError(t, s.hook.Sweep(t.Context()))
			require.Equal(t, after.Revision, get().Revision, "swept in vain")
		}
		require.Equal(t, 6, moved)

		time.Sleep(every)
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		deadline := get().LastActivity.Add(window)
		require.True(t, get().Due.Before(deadline))
		time.Sleep(time.Until(get().Due))
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Equal(t, deadline, get().Due, "the sweep that came early sets the right time")
		time.Sleep(time.Until(deadline) - time.Millisecond)
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Nil(t, get().End)
		time.Sleep(time.Millisecond)
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Equal(t, deadline, get().End.At)
	})
}

// A policy that shortens the limits moves the time at the next use, however
// little.
func TestAStricterPolicyMovesTheDueTimeAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(0, 2*time.Hour, 0, 0), inMemory)
		r := s.Login(optest.Web, "alice")
		sid := s.sid(t, optest.Web, r)
		time.Sleep(time.Minute)
		s.set(limits(0, 2*time.Hour-2*time.Minute, 0, 0))
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		session, err := s.store.Get(t.Context(), sid)
		require.NoError(t, err)
		require.Equal(t, session.LastActivity.Add(2*time.Hour-2*time.Minute), session.Due)
	})
}

// A process that has just started, or that only sweeps, has asked for no
// settings yet.
func TestAFreshProcessAppliesALoweredCap(t *testing.T) {
	t.Parallel()
	sessions := memstore.New()
	s := start(t, limits(0, 0, 5, policy.EndOldest), func(p *provider.Config, _ *optest.Config) { p.Store = sessions })
	for range 3 {
		s.Login(optest.Web, "alice")
	}
	sweeper, err := provider.New(provider.Config{
		Store: sessions, Keys: provider.Keys{provider.NewKey(time.Now())}, Settings: s, SettingsMaxAge: -1,
	})
	require.NoError(t, err)
	s.set(limits(0, 0, 1, policy.EndOldest))
	require.NoError(t, sweeper.Sweep(t.Context()))
	require.Len(t, s.live(t, "alice"), 1)
}

// The first login of an account costs what every login costs: it enters the account
// nowhere.
func TestAFirstLoginEntersItsAccountNowhere(t *testing.T) {
	t.Parallel()
	counting := faultstore.New(memstore.New())
	s := start(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) { p.Store = counting })
	calls := func() map[string]int {
		before := counting.Counts()
		s.Login(optest.Web, "alice")
		made := map[string]int{}
		for method, n := range counting.Counts() {
			if n > before[method] {
				made[method] = n - before[method]
			}
		}
		return made
	}
	first := calls()
	require.Zero(t, first["PutDocument"])
	require.Equal(t, first, calls())
}

func TestABeginningIsReportedThoughTheAnswerOfTheStoreWasLost(t *testing.T) {
	t.Parallel()
	for name, concurrent := range map[string]int{"no cap": 0, "cap": 1} {
		t.Run(name, func(t *testing.T) {
			faulty := faultstore.New(memstore.New())
			s := start(t, limits(0, 0, concurrent, policy.Refuse), func(p *provider.Config, _ *optest.Config) { p.Store = faulty })
			started := s.DeviceStart(optest.Native)
			s.DeviceApprove(started, "alice")
			faulty.Script(faultstore.Once(faulty.Calls()+2, faultstore.After)) // after the question whether the code was used
			unavailable(t, s.DevicePoll(optest.Native, started))
			ok(t, s.DevicePoll(optest.Native, started))
			require.Len(t, s.seen(provider.EventStarted), 1)
		})
	}
}
