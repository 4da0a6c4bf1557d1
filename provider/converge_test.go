package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A tenancy is a hook in which each user belongs to the account that their ID begins
// with, up to the first dot.
type tenancy struct {
	*setup
	in  *hooktest.Tenancy
	cfg provider.Config
}

// tenants starts a hook without a provider around it on a store.
func tenants(t testing.TB, s store.Store, a policy.Account, change func(*provider.Config)) *tenancy {
	t.Helper()
	x := hooktest.Tenants(t, s, a, change)
	return &tenancy{asSetup(x.Server), x, x.Config}
}

// another starts another process of the same.
func (x *tenancy) another(t testing.TB) *tenancy {
	t.Helper()
	return tenants(t, x.store, policy.Account{}, func(cfg *provider.Config) { *cfg = x.cfg })
}

// session adds a session of a user of an account that began at a time, due if it
// is not the zero time.
func (x *tenancy) session(t testing.TB, user string, n int, began, due time.Time) store.Session {
	return x.in.Session(t, user, n, began, due)
}

// settle has the settings of an account applied, with a session that ends: a sweep
// finds nothing but what is due then.
func (x *tenancy) settle(t testing.TB, account string) {
	t.Helper()
	s := x.session(t, account+".settled", 0, time.Now(), time.Time{})
	x.sweepFor(t, 10*time.Minute)
	require.NoError(t, x.hook.End(t.Context(), s.ID, policy.ReasonLogout, ""))
	x.sweepFor(t, time.Minute)
	require.Zero(t, x.unended(t, account))
}

func (x *tenancy) unended(t testing.TB, account string) int { return x.in.Unended(t, account) }

// ended returns the end of a session, or nil.
func (x *tenancy) ended(t testing.TB, id string) *store.End { return x.in.Ended(t, id) }

// A watchedStore does something at calls.
type watchedStore struct {
	*memstore.Store
	admit func()
	list  func(f store.Filter)
}

func (s *watchedStore) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	if s.admit != nil {
		s.admit()
	}
	return s.Store.Admit(ctx, subject, decide)
}

func (s *watchedStore) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	if s.list != nil {
		s.list(f)
	}
	return s.Store.List(ctx, f, cursor, limit)
}

// A sweep costs nothing for accounts in which nobody has a session. That nothing is kept
// of them is TestAccountsCostNoBytes of internal/onengines.
func TestAccountsCostNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		counting := faultstore.New(memstore.New())
		x := tenants(t, counting, limits(0, time.Hour, 3, policy.Refuse), nil)
		began := time.Now()
		for i := range 2000 {
			x.session(t, fmt.Sprintf("tenant-%08d.alice", i), 0, began, began.Add(time.Hour))
		}
		for range 10 { // all settings are applied, and all sessions end
			require.NoError(t, x.hook.Sweep(t.Context()))
			time.Sleep(10 * time.Minute)
		}
		require.Empty(t, x.unended(t, "tenant-00000007"))
		before := counting.Calls()
		another := x.another(t)
		for range 100 {
			require.NoError(t, x.hook.Sweep(t.Context()))
			require.NoError(t, another.hook.Sweep(t.Context()))
			time.Sleep(10 * time.Second)
		}
		require.Less(t, counting.Calls()-before, 1000, "200 sweeps, with 2,000 idle accounts")
	})
}

// 100,000 accounts that are idle cost a sweep nothing; a walk comes to each account
// that has a session, and what it needs of memory and calls is in proportion.
func TestHundredThousandAccounts(t *testing.T) {
	const idle, n = 100_000, 10_000
	counting := faultstore.New(memstore.New())
	x := tenants(t, counting, limits(10*time.Hour, 0, 3, policy.Refuse), nil)
	began := time.Now()
	for i := range idle {
		s := x.session(t, fmt.Sprintf("idle-%08d.alice", i), 0, began, began.Add(10*time.Hour))
		s.Revision, s.End = 1, &store.End{At: s.Started, Reason: policy.ReasonLogout}
		_, err := counting.Update(t.Context(), s)
		require.NoError(t, err)
	}
	sweep := func(p *tenancy) int {
		calls := counting.Calls()
		require.NoError(t, p.hook.Sweep(t.Context()))
		return counting.Calls() - calls
	}
	require.LessOrEqual(t, sweep(x.another(t)), 10, "nobody is signed in")

	for i := range n {
		x.session(t, fmt.Sprintf("tenant-%08d.alice", i), 0, began, began.Add(10*time.Hour))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	require.LessOrEqual(t, sweep(x), 12*n, "calls of the store for each account at its first sight")
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(6000*n), "bytes for each account")
	for _, i := range []int{0, 1, n / 2, n - 1} {
		_, err := counting.Document(t.Context(), fmt.Sprintf("convergence/tenant-%08d", i))
		require.NoError(t, err, "the walk came to it")
	}
	require.LessOrEqual(t, sweep(x), 12*1000, "the next one looks at a thousand, however many there are")
}

// The list of an earlier version goes, and what it noted of accounts is taken over
// once.
func TestTheListOfAccountsOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		counting := faultstore.New(memstore.New())
		x := tenants(t, counting, limits(time.Hour, 0, 0, 0), nil)
		for n := range 5 {
			x.session(t, "old.alice", n, time.Now(), time.Now().Add(time.Hour))
		}
		for range 3 {
			require.NoError(t, x.hook.Sweep(t.Context()))
			time.Sleep(10 * time.Minute)
		}
		// As an earlier version has it.
		doc, err := counting.Document(t.Context(), "convergence/old")
		require.NoError(t, err)
		var mark map[string]any
		require.NoError(t, json.Unmarshal(doc.Body, &mark))
		require.Equal(t, true, mark["done"])
		mark["seen"] = time.Now()
		body, err := json.Marshal(mark)
		require.NoError(t, err)
		require.NoError(t, counting.DropDocument(t.Context(), "convergence/old"))
		for n := range 3 {
			_, err = counting.PutDocument(t.Context(), store.Document{Key: "accounts", Version: int64(n), Body: []byte(`["idle","old"]`)})
			require.NoError(t, err)
			_, err = counting.PutDocument(t.Context(), store.Document{Key: "converged/old", Version: int64(n), Body: body})
			require.NoError(t, err)
		}
		admits := counting.Counts()["Admit"]
		require.NoError(t, x.another(t).hook.Sweep(t.Context()))
		require.Equal(t, admits, counting.Counts()["Admit"], "the settings were applied before")
		for _, key := range []string{"accounts", "converged/old"} {
			history, err := counting.History(t.Context(), key, 0, 10)
			require.NoError(t, err)
			require.Empty(t, history, key)
		}
		doc, err = counting.Document(t.Context(), "convergence/old")
		require.NoError(t, err)
		require.Contains(t, string(doc.Body), `"done":true`)
	})
}

// What is due is looked at before changed settings are applied, and while they are.
func TestApplyingSettingsDoesNotHoldUpWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &watchedStore{Store: memstore.New(), admit: func() { time.Sleep(5 * time.Millisecond) }}
		x := tenants(t, slow, limits(time.Hour, 0, 0, 0), nil)
		began := time.Now()
		for i := range 4000 { // 5 s, four at once
			x.session(t, fmt.Sprintf("big.user%d", i), 0, began, began.Add(time.Hour))
		}
		over := x.session(t, "other.late", 1, began.Add(-2*time.Hour), began.Add(-time.Hour))
		soon := x.session(t, "other.soon", 1, began.Add(2*time.Second-time.Hour), began.Add(2*time.Second))
		// The account is known, and has no mark: it is applied to all its users.
		_, _, err := x.hook.Deadline(t.Context(), x.session(t, "big.known", 1, began, began.Add(time.Hour)))
		require.NoError(t, err)
		var ends []time.Duration
		done := make(chan error)
		go func() { done <- x.hook.Sweep(t.Context()) }()
		for range 2 {
			id := []string{over.ID, soon.ID}[len(ends)]
			for x.ended(t, id) == nil {
				time.Sleep(10 * time.Millisecond)
				require.Less(t, time.Since(began), time.Minute)
			}
			ends = append(ends, time.Since(began))
		}
		require.LessOrEqual(t, ends[0], 10*time.Millisecond, "what is due comes first")
		require.LessOrEqual(t, ends[1], 2*time.Second+1200*time.Millisecond, "and is not forgotten meanwhile")
		require.NoError(t, <-done)
		require.GreaterOrEqual(t, time.Since(began), 5*time.Second, "it did apply them")
	})
}

// While one process applies the settings of an account no other does, and when it
// dies another one goes on from where it was.
func TestOneProcessAppliesSettingsAndAnotherGoesOn(t *testing.T) {
	t.Parallel()
	for name, die := range map[string]bool{"dies": true, "is stopped": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := memstore.New()
				var admits atomic.Int32
				slow := &watchedStore{Store: inner, admit: func() { admits.Add(1); time.Sleep(20 * time.Millisecond) }}
				faulty := faultstore.New(slow)
				x := tenants(t, faulty, limits(0, 0, 1, policy.EndOldest), nil)
				began := time.Now()
				for i := range 1000 { // 5 s
					for n := range 2 {
						x.session(t, fmt.Sprintf("big.user%d", i), n, began.Add(time.Duration(n)*time.Second), time.Time{})
					}
				}
				other := tenants(t, slow, policy.Account{}, func(cfg *provider.Config) {
					*cfg = x.cfg
					cfg.Store, cfg.Counts = slow, slow
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error)
				go func() { done <- x.hook.Sweep(ctx) }()
				time.Sleep(2 * time.Second)
				before := admits.Load()
				other.hook.Changed("big")
				require.NoError(t, other.hook.Sweep(t.Context()))
				require.LessOrEqual(t, admits.Load(), before+4, "it is not begun again meanwhile")
				if die { // in the middle of a write
					faulty.Script(faultstore.Always(faultstore.Before))
				} else {
					cancel()
				}
				require.Error(t, <-done)
				half := admits.Load()
				require.Greater(t, half, int32(300))
				require.Less(t, half, int32(700))
				if die {
					require.NoError(t, other.hook.Sweep(t.Context()))
					require.Equal(t, half, admits.Load(), "its lease is not over")
					time.Sleep(time.Minute)
				}
				time.Sleep(10 * time.Second)
				require.NoError(t, other.hook.Sweep(t.Context()))
				require.Equal(t, 1000, other.unended(t, "big"), "everybody's surplus has ended")
				require.Less(t, admits.Load(), int32(2000+200), "from where it was, and then the pass that counts")
			})
		})
	}
}

// Accounts take turns: a large one does not hold up the others.
func TestALargeAccountDoesNotHoldUpASmallOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &watchedStore{Store: memstore.New(), admit: func() { time.Sleep(100 * time.Millisecond) }}
		x := tenants(t, slow, limits(0, 0, 1, policy.EndOldest), nil)
		began := time.Now()
		for i := range 4000 { // 100 s
			x.session(t, fmt.Sprintf("big.user%d", i), 0, began, time.Time{})
		}
		for n := range 2 {
			x.session(t, "small.user", n, began.Add(time.Duration(n)*time.Second), time.Time{})
		}
		for _, account := range []string{"big", "small"} {
			x.hook.Changed(account)
		}
		done := make(chan error)
		go func() { done <- x.hook.Sweep(t.Context()) }()
		for x.unended(t, "small") > 1 {
			time.Sleep(100 * time.Millisecond)
			require.Less(t, time.Since(began), time.Hour)
		}
		require.LessOrEqual(t, time.Since(began), 15*time.Second)
		require.NoError(t, <-done)
		require.GreaterOrEqual(t, time.Since(began), 100*time.Second)
	})
}

// Settings of an account that no process has met since it started are applied to
// sessions that nobody uses.
func TestSettingsReachSessionsThatNobodyUses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		a := limits(0, 0, 0, 0)
		x := tenants(t, memstore.New(), a, func(cfg *provider.Config) {
			cfg.Settings = settingsOf(func(context.Context, string) (policy.Account, error) {
				mu.Lock()
				defer mu.Unlock()
				return a, nil
			})
		})
		for n := range 3 {
			x.session(t, "dormant.alice", n, time.Now().Add(time.Duration(n)*time.Second), time.Time{})
		}
		require.NoError(t, x.hook.Sweep(t.Context()))
		require.Equal(t, 3, x.unended(t, "dormant"))
		mu.Lock()
		a = limits(0, 0, 1, policy.EndOldest) // and nobody says so
		mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 11*time.Minute)
		defer cancel()
		require.ErrorIs(t, x.hook.Run(ctx), context.DeadlineExceeded)
		require.Equal(t, 1, x.unended(t, "dormant"), "a walk came by")

		mu.Lock()
		a = limits(time.Minute, 0, 1, policy.EndOldest)
		mu.Unlock()
		require.NoError(t, x.another(t).hook.Sweep(t.Context()))
		require.Zero(t, x.unended(t, "dormant"), "a process that has just started walks at once")
	})
}

// While the store hangs a sweep says so after one time-out, however many accounts
// there are; so it is with settings and a directory that hang.
func TestASweepOfAHangingStoreSaysSoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		x := tenants(t, faulty, limits(time.Hour, 0, 0, 0), func(cfg *provider.Config) { cfg.Settings = nil })
		for i := range 300 {
			x.hook.Changed(fmt.Sprintf("t%d", i))
			x.session(t, fmt.Sprintf("t%d.alice", i), 0, time.Now(), time.Now().Add(time.Hour))
		}
		faulty.Script(faultstore.Always(faultstore.Timeout))
		began := time.Now()
		err := x.hook.Sweep(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.LessOrEqual(t, time.Since(began), 3*time.Second)
		require.Less(t, len(err.Error()), 500)

		// The store answers to sweeps, and then hangs at any of the later steps.
		for _, method := range []string{"AddCounts", "Document", "PutDocument", "List", "Admit"} {
			time.Sleep(2 * time.Minute) // no lease is left
			faulty.Script(faultstore.Always(faultstore.Timeout, method))
			began = time.Now()
			require.ErrorIs(t, x.another(t).hook.Sweep(t.Context()), context.DeadlineExceeded, method)
			require.LessOrEqual(t, time.Since(began), 4*3*time.Second, method)
		}
		faulty.Script(nil)
		time.Sleep(10 * time.Minute)
		require.NoError(t, x.hook.Sweep(t.Context()))
	})
	synctest.Test(t, func(t *testing.T) { // what the embedder brings hangs
		x := tenants(t, memstore.New(), policy.Account{}, func(cfg *provider.Config) { cfg.Settings = hangingSettings{} })
		for i := range 300 {
			x.hook.Changed(fmt.Sprintf("t%d", i))
			x.session(t, fmt.Sprintf("t%d.alice", i), 0, time.Now(), time.Now().Add(time.Hour))
		}
		began := time.Now()
		require.ErrorIs(t, x.hook.Sweep(t.Context()), context.DeadlineExceeded)
		require.LessOrEqual(t, time.Since(began), 4*3*time.Second)
	})
	synctest.Test(t, func(t *testing.T) {
		var hung atomic.Bool
		x := tenants(t, memstore.New(), limits(time.Hour, 0, 0, 0), func(cfg *provider.Config) {
			of := cfg.Membership
			cfg.Membership = func(ctx context.Context, subject store.Subject) ([]policy.Membership, error) {
				if hung.Load() {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return of(ctx, subject)
			}
		})
		for i := range 3000 {
			x.session(t, fmt.Sprintf("big.alice%d", i), 0, time.Now(), time.Now().Add(time.Hour))
		}
		hung.Store(true)
		began := time.Now()
		require.Error(t, x.hook.Sweep(t.Context()))
		require.LessOrEqual(t, time.Since(began), time.Minute, "a page, not all users")
		hung.Store(false)
		time.Sleep(2 * time.Minute)
		for range 10 {
			require.NoError(t, x.hook.Sweep(t.Context()))
			time.Sleep(time.Minute)
		}
		doc, err := x.store.Document(t.Context(), "convergence/big")
		require.NoError(t, err)
		require.Contains(t, string(doc.Body), `"done":true`)
	})
}

// settingsOf is a source that is told which account it is asked for.
type settingsOf func(context.Context, string) (policy.Account, error)

func (f settingsOf) Account(ctx context.Context, account string) (policy.Account, error) {
	return f(ctx, account)
}

type hangingSettings struct{}

func (hangingSettings) Account(ctx context.Context, _ string) (policy.Account, error) {
	<-ctx.Done()
	return policy.Account{}, ctx.Err()
}

// A store that fails breaks the sweep off; a user without rules, or an account
// without settings, holds nobody up.
func TestWhatFailsAloneHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bad := errors.New("no such account")
		var refuse atomic.Bool
		x := tenants(t, memstore.New(), limits(0, 0, 1, policy.EndOldest), func(cfg *provider.Config) {
			of := cfg.Settings
			cfg.Settings = settingsOf(func(ctx context.Context, account string) (policy.Account, error) {
				if account == "bad" && refuse.Load() {
					return policy.Account{}, bad
				}
				return of.Account(ctx, account)
			})
		})
		refuse.Store(true)
		for _, account := range []string{"bad", "good", "met"} {
			for n := range 2 {
				x.session(t, account+".alice", n, time.Now().Add(time.Duration(n)*time.Second), time.Time{})
			}
		}
		x.hook.Changed("bad")
		x.hook.Changed("met")
		require.ErrorIs(t, x.hook.Sweep(t.Context()), bad)
		require.Equal(t, 1, x.unended(t, "met"))
		require.Equal(t, 1, x.unended(t, "good"))
		require.Equal(t, 2, x.unended(t, "bad"))
		refuse.Store(false)
		require.NoError(t, x.hook.Sweep(t.Context()))
		require.Equal(t, 1, x.unended(t, "bad"))
	})
}

// A user whose rules cannot be had is put off, and the settings of an account are
// applied to all others meanwhile.
func TestAUserWithoutRulesDoesNotHoldUpSettings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bad := errors.New("no such account")
		slow := &watchedStore{Store: memstore.New(), admit: func() { time.Sleep(5 * time.Millisecond) }}
		x := tenants(t, slow, limits(0, 0, 1, policy.EndOldest), func(cfg *provider.Config) {
			of := cfg.Settings
			cfg.Settings = settingsOf(func(ctx context.Context, account string) (policy.Account, error) {
				if account == "bad" {
					return policy.Account{}, bad
				}
				return of.Account(ctx, account)
			})
		})
		began := time.Now()
		const users = 4000 // 5 s, four at once
		for i := range users {
			for n := range 2 {
				x.session(t, fmt.Sprintf("big.user%d", i), n, began.Add(time.Duration(n)*time.Second), time.Time{})
			}
		}
		for n := range 4 {
			x.session(t, fmt.Sprintf("bad.user%d", n), 0, began, began.Add(time.Duration(n)*time.Second))
		}
		err := x.hook.Sweep(t.Context())
		require.ErrorIs(t, err, bad)
		require.Equal(t, users, x.unended(t, "big"))
	})
}

// A fence that cannot be carried out, because one session of its subject is locked by
// somebody, is put off like a session.
func TestAFenceThatCannotBeCarriedOutHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		locked := &lockedStore{Store: memstore.New()}
		x := tenants(t, locked, limits(0, 0, 1, policy.EndOldest), nil)
		began := time.Now()
		stuck := x.session(t, "one.stuck", 0, began, time.Time{})
		other := x.session(t, "one.other", 0, began, time.Time{})
		for n := range 2 {
			x.session(t, "two.alice", n, began.Add(time.Duration(n)*time.Second), time.Time{})
		}
		for i, s := range []store.Session{stuck, other} {
			_, err := x.store.PutFence(t.Context(), store.Fence{
				Subject: s.Subject, At: began.UTC(), Reason: policy.ReasonCredentialChange, Due: began.Add(time.Duration(i) * time.Second).UTC(),
			})
			require.NoError(t, err)
		}
		time.Sleep(2 * time.Second)
		locked.id = stuck.ID
		require.ErrorIs(t, x.hook.Sweep(t.Context()), context.DeadlineExceeded)
		require.NotNil(t, x.ended(t, other.ID), "the next fence was carried out")
		require.Equal(t, 1, x.unended(t, "two"), "settings were applied")
		require.NoError(t, x.hook.Sweep(t.Context()), "it is put off")

		locked.id = ""
		time.Sleep(10 * time.Minute)
		require.NoError(t, x.hook.Sweep(t.Context()))
		require.NotNil(t, x.ended(t, stuck.ID))
	})
}

// A lockedStore has a session that somebody else has locked: who writes it, or steps
// over its subject's, waits.
type lockedStore struct {
	*memstore.Store
	id string
}

func (s *lockedStore) Update(ctx context.Context, session store.Session) (int64, error) {
	if session.ID == s.id {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return s.Store.Update(ctx, session)
}

func (s *lockedStore) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	if one, err := s.Get(ctx, s.id); err == nil && one.Subject == subject {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Store.Admit(ctx, subject, decide)
}

// A clock that was a day ahead and is set right holds nothing up for a day: the pass
// that counts, what a sweep took to itself, a notification that is tried again, a
// login whose code was not redeemed.
func TestAClockThatWasADayAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		deaf := errors.New("the directory is deaf")
		x := tenants(t, memstore.New(), limits(0, 0, 1, policy.EndOldest), func(cfg *provider.Config) {
			cfg.Now = now
			cfg.Settings = settingsOf(func(_ context.Context, account string) (policy.Account, error) {
				if account == "claimed" {
					return limits(48*time.Hour, 0, 0, 0), nil
				}
				return limits(0, 0, 1, policy.EndOldest), nil
			})
			cfg.OnEnd = func(_ context.Context, s store.Session) error {
				if s.Subject.ID == "owed.user" && ahead.Load() > 0 {
					return deaf
				}
				return nil
			}
		})
		settled := x.session(t, "claimed.settled", 0, time.Now(), time.Time{})
		x.sweepFor(t, 10*time.Minute)
		require.Nil(t, x.ended(t, settled.ID))

		// What is over waits in a batch that was taken by a process that died.
		over := x.session(t, "claimed.user", 0, time.Now().Add(-49*time.Hour), time.Now().Add(-time.Minute))
		owed := x.session(t, "owed.user", 0, time.Now(), time.Time{})
		x.session(t, "default.alice", 0, time.Now(), time.Time{})
		reserved := x.session(t, "reserved.user", 0, time.Now(), time.Time{})
		ahead.Store(int64(24 * time.Hour))
		until := now().Add(time.Minute).UTC().Truncate(time.Microsecond)
		reserved.ReservedUntil, reserved.Due, reserved.Revision = until, until, 1
		_, err := x.store.Update(t.Context(), reserved)
		require.NoError(t, err)
		require.NoError(t, x.hook.End(t.Context(), owed.ID, policy.ReasonLogout, ""))
		due, err := x.store.Due(t.Context(), now(), time.Minute, 1) // the most overdue; others have their daily look
		require.NoError(t, err)
		// Beside what is looked at once a day.
		require.True(t, slices.ContainsFunc(due, func(s store.Session) bool { return s.ID == over.ID }))
		require.NoError(t, x.hook.Sweep(t.Context()))

		ahead.Store(0)
		for n := 1; n < 3; n++ { // admitted by the settings before, in the time in which they may be
			x.session(t, "default.alice", n, time.Now().Add(time.Duration(n)*time.Second), time.Time{})
		}
		require.NoError(t, x.hook.Sweep(t.Context()))
		require.NotNil(t, x.ended(t, over.ID), "the claim of the clock that was ahead is not heeded")
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
		defer cancel()
		require.ErrorIs(t, x.hook.Run(ctx), context.DeadlineExceeded)
		require.Equal(t, 1, x.unended(t, "default"), "the pass that counts")
		end := x.ended(t, owed.ID)
		require.False(t, end.Owed, "the end was announced again")
		require.NotNil(t, x.ended(t, reserved.ID), "the login that was abandoned")
		require.Equal(t, policy.ReasonAbandoned, x.ended(t, reserved.ID).Reason)
	})
}

// A notification that failed by a clock that was a day ahead is sent again soon
// after it was set right.
func TestANotificationOfAClockThatWasADayAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		n := startNotified(t, limits(0, 0, 0, 0), func(p *provider.Config, _ *optest.Config) {
			p.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		})
		sid, _ := n.login(t, optest.Web, "alice")
		n.sweepFor(t, time.Minute)
		ahead.Store(int64(24 * time.Hour))
		n.web.Set(http.StatusServiceUnavailable, false)
		require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonLogout, ""))
		n.sweepFor(t, 10*time.Second)
		require.Len(t, n.seen(provider.EventDeliveryFailed), 1)
		ahead.Store(0)
		n.web.Set(http.StatusOK, false)
		n.sweepFor(t, 15*time.Minute)
		require.Len(t, n.seen(provider.EventDelivered), 1)
		require.Empty(t, n.kept(t, sid).Deliveries)
	})
}

// Settings that are as they were, after others, are a change: what was admitted
// meanwhile is over the cap.
func TestSettingsThatAreAsTheyWereAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		one, many := limits(24*time.Hour, 2*time.Hour, 1, policy.EndOldest), limits(24*time.Hour, 2*time.Hour, 5, policy.EndOldest)
		save(t, s, 0, one)
		x := inTheStore(t, s)("")
		x.Login(optest.Web, "alice")
		x.sweepFor(t, 10*time.Minute)

		save(t, s, 1, many)
		time.Sleep(2 * time.Second)
		x.Login(optest.Web, "alice")
		x.Login(optest.Web, "alice")
		save(t, s, 2, one)
		x.sweepFor(t, 30*time.Minute)
		n, err := s.CountUnended(t.Context(), "default")
		require.NoError(t, err)
		require.Equal(t, 1, n)
	})
}

// The same of settings from elsewhere, of which there is no version.
func TestSettingsFromElsewhereThatAreAsTheyWereAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := limits(0, 0, 1, policy.EndOldest)
		x := tenants(t, memstore.New(), a, func(cfg *provider.Config) { cfg.Settings = hooktest.OfAll(&a) })
		other := x.another(t)
		x.session(t, "acme.alice", 0, time.Now(), time.Time{})
		x.sweepFor(t, 15*time.Minute)
		other.sweepFor(t, 15*time.Minute)
		a = limits(0, 0, 5, policy.EndOldest)
		late := x.session(t, "acme.alice", 1, time.Now(), time.Time{})
		_, _, err := x.hook.Deadline(t.Context(), late)
		require.NoError(t, err)
		a = limits(0, 0, 1, policy.EndOldest)
		x.sweepFor(t, 15*time.Minute)
		require.Equal(t, 1, x.unended(t, "acme"))
	})
}

// A backup that was put back has settings of before, and the version that this process
// has applied may be written there a second time, with the same settings: what began
// meanwhile has not seen them.
func TestSettingsAreAppliedAgainAfterABackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &replaceable{}
		e.replace(memstore.New())
		x := tenants(t, e, policy.Account{}, func(cfg *provider.Config) { cfg.Settings = nil })
		settings := func(version int64, a policy.Account) {
			_, err := provider.SaveAccount(t.Context(), e, "acme", a, version, "root", "", time.Now())
			require.NoError(t, err)
		}
		lax, strict := limits(24*time.Hour, 0, 2, policy.Refuse), limits(24*time.Hour, 0, 1, policy.EndOldest)
		settings(0, lax)
		_, err := x.hook.StoreID(t.Context())
		require.NoError(t, err)
		backup := memstore.New()
		for _, key := range []string{"installation", "settings/acme"} {
			d, err := e.Document(t.Context(), key)
			require.NoError(t, err)
			d.Version = 0
			_, err = backup.PutDocument(t.Context(), d)
			require.NoError(t, err)
		}
		x.session(t, "acme.alice", 0, time.Now(), time.Time{})
		settings(1, strict)
		for range 3 {
			require.NoError(t, x.hook.Sweep(t.Context()))
			time.Sleep(time.Minute)
		}

		e.replace(backup)
		older := x.session(t, "acme.bob", 0, time.Now(), time.Time{})
		x.session(t, "acme.bob", 1, time.Now().Add(time.Second), time.Time{})
		settings(1, strict)
		for range 3 {
			require.NoError(t, x.hook.Sweep(t.Context()))
			time.Sleep(time.Minute)
		}
		end := x.ended(t, older.ID)
		require.NotNil(t, end)
		require.Equal(t, policy.ReasonPolicyChange, end.Reason)
	})
}
