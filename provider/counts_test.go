package provider_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
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

// counts returns what was counted in the account "default" in the hours from a
// time until now, as text, without the hours in which nothing was.
func (s *setup) counts(t *testing.T, from time.Time) []string {
	t.Helper()
	periods, err := s.hook.Counts(t.Context(), "default", from, time.Now().Add(time.Second), time.Hour)
	require.NoError(t, err)
	var list []string
	for i, p := range periods {
		require.Equal(t, from.UTC().Truncate(time.Hour).Add(time.Duration(i)*time.Hour), p.Start)
		var words []string
		for _, kind := range []policy.Kind{policy.Browser, policy.CLI, policy.Automation, provider.OtherKind} {
			if n := p.Started[kind]; n > 0 {
				words = append(words, fmt.Sprintf("%s:%d", kind, n))
			}
		}
		for _, what := range []map[policy.Reason]int64{p.Refused, p.Ended} {
			for _, reason := range []policy.Reason{policy.ReasonInactivity, policy.ReasonConcurrency, policy.ReasonEndedByAdmin, policy.ReasonReplay, provider.OtherReason} {
				if n := what[reason]; n > 0 {
					words = append(words, fmt.Sprintf("%s:%d", reason, n))
				}
			}
		}
		if len(words) > 0 {
			list = append(list, fmt.Sprintf("%d %s", i, strings.Join(words, " ")))
		}
	}
	return list
}

// What happened is counted, in the hour in which it did: logins by kind, refusals
// and ends by reason. A login that was not completed is none, and a page that is
// loaded again counts nothing twice.
func TestWhatHappenedIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 2, policy.Refuse), inMemory)
		began := time.Now()
		first := s.Login(optest.Exchange, "admin")
		ok(t, s.DeviceLogin(optest.Native, "admin"))
		require.Equal(t, "access_denied", s.Browser().Login(optest.Exchange, "admin", nil).Error())
		v := s.Browser().Login(optest.Web, "alice", nil)
		v = s.Browser().Get(v.Callback)
		ok(t, s.Code(optest.Web, v))
		s.Browser().Login(optest.Web, "bob", nil) // never completed
		require.Empty(t, s.counts(t, began), "it is not written yet")
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Equal(t, []string{"0 browser:2 cli:1 concurrency:1"}, s.counts(t, began))
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Equal(t, []string{"0 browser:2 cli:1 concurrency:1"}, s.counts(t, began), "once")

		time.Sleep(time.Hour)
		require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Exchange, first), policy.ReasonEndedByAdmin, "root"))
		time.Sleep(5 * time.Hour) // the other two ended two hours after they began
		for range 2 {
			require.NoError(t, s.hook.Sweep(t.Context()))
		}
		require.Equal(t, []string{"0 browser:2 cli:1 concurrency:1", "1 ended_by_admin:1", "2 inactivity:2"}, s.counts(t, began))

		// By days, and of another account.
		days, err := s.hook.Counts(t.Context(), "default", began.Add(-10*24*time.Hour), began.Add(24*time.Hour), 24*time.Hour)
		require.NoError(t, err)
		require.Len(t, days, 11)
		require.Equal(t, map[policy.Kind]int64{policy.Browser: 2, policy.CLI: 1}, days[10].Started)
		require.Equal(t, map[policy.Reason]int64{policy.ReasonConcurrency: 1}, days[10].Refused)
		require.Equal(t, map[policy.Reason]int64{policy.ReasonEndedByAdmin: 1, policy.ReasonInactivity: 2}, days[10].Ended)
		require.Empty(t, days[9].Started)
		other, err := s.hook.Counts(t.Context(), "other", began, began.Add(24*time.Hour), time.Hour)
		require.NoError(t, err)
		require.Len(t, other, 24)
		for _, p := range other {
			require.Empty(t, p.Started)
			require.Zero(t, p.Live)
		}
	})
}

// Live sessions are an average over the hour, however many processes count them,
// however often they start.
func TestLiveSessionsAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now().Truncate(time.Hour).Add(time.Hour)
		time.Sleep(time.Until(began))
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemory)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		run := func(ctx context.Context, s *setup) { wg.Go(func() { _ = s.hook.Run(ctx) }) }
		s.Login(optest.Web, "alice") // from then on the account is known
		for range 3 {
			another := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
				inMemory(p, o)
				p.Store = s.store
			})
			another.set(limits(24*time.Hour, 2*time.Hour, 0, 0))
			run(ctx, another)
		}
		time.Sleep(30*time.Minute - time.Second)
		s.Login(optest.Web, "alice")
		s.Login(optest.Web, "bob")
		time.Sleep(30*time.Minute + 2*time.Second)
		stop()
		wg.Wait()
		periods, err := s.hook.Counts(t.Context(), "default", began, time.Now(), time.Hour)
		require.NoError(t, err)
		require.Len(t, periods, 2)
		require.EqualValues(t, 6, periods[0].Samples, "one of the processes, every ten minutes")
		require.InDelta(t, 2, periods[0].Live, 1e-9, "1 for half of the hour, then 3")
		require.EqualValues(t, 1, periods[1].Samples)
		require.InDelta(t, 3, periods[1].Live, 1e-9)
	})
}

// While the store does not answer nothing is lost, and nobody waits; what was
// counted last is written when Run ends.
func TestCountsSurviveAnOutage(t *testing.T) {
	for how, fault := range map[string]faultstore.Fault{"before": faultstore.Before, "times out": faultstore.Timeout} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				faulty := faultstore.New(memstore.New())
				s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
					inMemory(p, o)
					p.Store = faulty
				})
				began := time.Now()
				faulty.Script(faultstore.Always(fault, "AddCounts", "DropCounts"))
				for range 3 {
					s.Login(optest.Web, "alice")
					require.Error(t, s.hook.Sweep(t.Context()))
				}
				require.Empty(t, s.counts(t, began))
				faulty.Script(nil)
				ctx, stop := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { _ = s.hook.Run(ctx) })
				synctest.Wait()
				require.Equal(t, []string{"0 browser:3"}, s.counts(t, began))
				s.Login(optest.Web, "alice")
				stop()
				wg.Wait()
				require.Equal(t, []string{"0 browser:4"}, s.counts(t, began))

				// And if it cannot be written then, that is said.
				faulty.Script(faultstore.Always(fault, "AddCounts"))
				s.Login(optest.Web, "alice")
				failed := len(s.seen(provider.EventSweepFailed))
				ctx, stop = context.WithCancel(t.Context())
				stop()
				before := time.Now()
				require.ErrorIs(t, s.hook.Run(ctx), context.Canceled)
				require.LessOrEqual(t, time.Since(before), 3*time.Second)
				require.Len(t, s.seen(provider.EventSweepFailed), failed+1)
			})
		})
	}
}

// Kinds and accounts are what the embedder says, so what is kept of them is
// bounded; and it can be switched off.
func TestCountsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kind := policy.Kind("some.kind\x00")
		accounts := []policy.Membership{{Account: "default"}, {Account: "default"}, {Account: ""}, {Account: strings.Repeat("a", 2000)}, {Account: "b"}}
		var kinds int
		s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Kind = func(context.Context, provider.Login) policy.Kind {
				kinds++
				return kind + policy.Kind(fmt.Sprint(kinds))
			}
			p.Membership = func(context.Context, store.Subject) ([]policy.Membership, error) { return accounts, nil }
		})
		began := time.Now()
		for range 3 {
			s.Login(optest.Web, "alice")
		}
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Equal(t, []string{"0 other:3"}, s.counts(t, began))
		list, err := s.counters.ReadCounts(t.Context(), "b", began.Add(-time.Hour), began.Add(time.Hour))
		require.NoError(t, err)
		var names []string
		for _, c := range list {
			names = append(names, c.Name)
		}
		require.Equal(t, []string{"live", "started.other"}, names)
	})
	synctest.Test(t, func(t *testing.T) {
		counting := faultstore.New(memstore.New())
		s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Store = countless{counting}
		})
		s.Login(optest.Web, "alice")
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		require.ErrorIs(t, s.hook.Run(ctx), context.DeadlineExceeded)
		for _, method := range []string{"AddCounts", "ReadCounts", "DropCounts", "CountUnended"} {
			require.Zero(t, counting.Counts()[method], method)
		}
		_, err := s.hook.Counts(t.Context(), "default", time.Now(), time.Now(), time.Hour)
		require.ErrorIs(t, err, provider.ErrNoCounts)
	})
}

// What is too old is dropped when something is counted in the account again, once
// a day and not by every sweep.
func TestOldCountsAreDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		counting := faultstore.New(memstore.New())
		s := start(t, limits(0, time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.SweepEvery, p.Store = time.Hour, counting
		})
		began := time.Now()
		s.Login(optest.Web, "alice")
		ctx, stop := context.WithTimeout(t.Context(), provider.CountsKept-time.Hour)
		defer stop()
		require.ErrorIs(t, s.hook.Run(ctx), context.DeadlineExceeded)
		require.Equal(t, []string{"0 browser:1", "1 inactivity:1"}, s.counts(t, began))
		time.Sleep(3 * 24 * time.Hour)
		drops := counting.Counts()["DropCounts"]
		for range 3 {
			s.Login(optest.Web, "alice")
			require.NoError(t, s.hook.Sweep(t.Context()))
			time.Sleep(time.Minute)
		}
		require.Equal(t, drops+2, counting.Counts()["DropCounts"], "of the account, and of how often live sessions were counted")
		list, err := s.counters.ReadCounts(t.Context(), "default", began, began.Add(24*time.Hour))
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

func TestQuestionsForCounts(t *testing.T) {
	t.Parallel()
	failing := faultstore.New(memstore.New())
	s := start(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) { p.Store = failing })
	at := time.Date(2020, 1, 1, 10, 30, 0, 0, time.UTC)
	for name, bad := range map[string]struct {
		to   time.Time
		step time.Duration
	}{
		"no step":     {at, 0},
		"minutes":     {at.Add(time.Hour), 30 * time.Minute},
		"90 minutes":  {at.Add(time.Hour), 90 * time.Minute},
		"a long time": {at.Add(provider.CountsKept), time.Hour},
	} {
		_, err := s.hook.Counts(t.Context(), "default", at, bad.to, bad.step)
		require.ErrorContains(t, err, "counts: ", name)
	}
	for to, want := range map[time.Time]int{at: 1, at.Add(-31 * time.Minute): 0, at.Add(30 * time.Minute): 1, at.Add(time.Hour): 2, at.Add(-24 * time.Hour): 0} {
		periods, err := s.hook.Counts(t.Context(), "default", at.In(time.FixedZone("", 3600)), to, time.Hour)
		require.NoError(t, err)
		require.Len(t, periods, want, to)
	}
	all, err := s.hook.Counts(t.Context(), "default", at.Add(-provider.CountsKept+30*time.Minute), at, 24*time.Hour)
	require.NoError(t, err)
	require.Len(t, all, 100)
	failing.Script(faultstore.Always(faultstore.Before))
	_, err = s.hook.Counts(t.Context(), "default", at, at.Add(time.Hour), time.Hour)
	require.True(t, errors.Is(err, faultstore.ErrFault))
}

// countless is a store that keeps no counts.
type countless struct{ store.Store }
