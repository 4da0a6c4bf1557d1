package main

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// small is a size that takes little time, and says nothing about speed.
var small = size{runs: 2, steps: 3, sessions: 300, window: 20 * time.Millisecond, many: 1200, sweep: 7}

func newTestRig(t *testing.T, engine string) *rig {
	t.Helper()
	r, err := newRig(t.Context(), engine, t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.close()) })
	return r
}

func TestStoresPart(t *testing.T) {
	p, err := small.stores(t.TempDir())
	require.NoError(t, err)
	require.Len(t, p.loads, len(engineNames)*2*len(clientCounts))
	for _, l := range p.loads {
		require.GreaterOrEqual(t, l.rate.steps, l.clients, "%+v", l)
		require.Positive(t, l.rate.perSecond, "%+v", l)
		require.Positive(t, l.rate.p50, "%+v", l)
		require.GreaterOrEqual(t, l.rate.p99, l.rate.p50, "%+v", l)
		require.Positive(t, l.inStore, "%+v", l)
		require.Less(t, l.inStore, 1.0, "%+v", l)
		require.Positive(t, l.own, "%+v", l)
	}
	require.Len(t, p.comparisons, len(engineNames)-1)
	for _, c := range p.comparisons {
		require.Positive(t, c.slower(), c.engine)
		require.Positive(t, c.share(), c.engine)
		require.Len(t, c.store, small.runs)
	}
	text := p.String()
	for _, engine := range engineNames {
		require.Contains(t, text, "| "+engine+" | refresh | 64 | ")
		require.Contains(t, text, "| "+engine+" | login | 1 | ")
	}
	for _, b := range p.bars() {
		require.NotEqual(t, "not measured", b.measured, b.what)
	}
}

func TestManyPart(t *testing.T) {
	p, err := small.crowds(t.TempDir())
	require.NoError(t, err)
	require.Len(t, p.crowds, len(engineNames)-1)
	for _, c := range p.crowds {
		require.Positive(t, median(c.refresh.b), c.engine)
		require.Positive(t, median(c.anywhere.b), c.engine)
		require.Greater(t, c.perSession, 500.0, "%s: less than the document", c.engine)
		require.Equal(t, small.sweep, c.swept, c.engine)
		require.Contains(t, p.String(), "| "+c.engine+" | 1200 | ")
	}
	require.Contains(t, p.String(), "the first 7 in ")
	for _, b := range p.bars() {
		require.NotEqual(t, "not measured", b.measured, b.what)
	}
}

// What the fast way into an engine leaves is what the store would have written:
// everything that it can do with it gives the same.
func TestLoadedIsAsIfTheStoreHadWrittenIt(t *testing.T) {
	like := typicalSession(t)
	for _, engine := range engineNames {
		t.Run(engine, func(t *testing.T) {
			ctx := t.Context()
			r, created := newTestRig(t, engine), newTestRig(t, engine).store
			loaded := r.store
			people := newPopulation(like, 50, 110)
			var all []store.Session
			for one := range people.all() {
				all = append(all, one)
			}
			require.NoError(t, r.load(ctx, slices.Values(all)))
			for _, one := range all {
				require.NoError(t, created.Create(ctx, one, len(all)))
			}
			both := func(least int, what func(s store.Store) []store.Session) {
				t.Helper()
				want, got := what(created), what(loaded)
				require.GreaterOrEqual(t, len(want), least)
				require.Equal(t, len(want), len(got))
				for i := range want {
					require.Equal(t, want[i], got[i])
				}
			}
			stats, err := created.Stats(ctx)
			require.NoError(t, err)
			require.Equal(t, len(all), stats.Unended)
			loadedStats, err := loaded.Stats(ctx)
			require.NoError(t, err)
			require.Equal(t, stats, loadedStats)
			for least, f := range []store.Filter{
				{Account: "other"}, {Subject: people.subject(109)}, {}, {State: store.Unended}, {Subject: people.subject(0)},
				{Account: "default"}, {Client: "web", State: store.Unended}, {Kind: policy.Browser},
			} {
				both(min(least, 1), func(s store.Store) (list []store.Session) {
					for cursor := ""; ; {
						page, next, err := s.List(ctx, f, cursor, 40)
						require.NoError(t, err)
						list = append(list, page...)
						if next == "" {
							return list
						}
						cursor = next
					}
				})
			}
			one := all[17]
			one.Revision = 1
			for _, s := range []store.Store{loaded, created} {
				require.ErrorIs(t, s.Create(ctx, one, len(all)+1), store.ErrExists)
				require.ErrorIs(t, s.Create(ctx, people.session(people.id(1)), 50), store.ErrExists)
				ended := one.Clone()
				ended.End = &store.End{At: one.Started, Reason: policy.ReasonLogout}
				_, err = s.Update(ctx, ended)
				require.NoError(t, err)
				require.NoError(t, s.Delete(ctx, all[18].ID, 1))
				held := 0
				require.NoError(t, s.Admit(ctx, people.subject(0), func(now []store.Session, _ store.Fence) ([]store.Session, error) {
					held = len(now)
					return now[:1], nil
				}))
				require.GreaterOrEqual(t, held, 48)
			}
			both(1, func(s store.Store) []store.Session {
				list, _, err := s.List(ctx, store.Filter{Account: "default", State: store.Ended}, "", 10)
				require.NoError(t, err)
				return list
			})
			for range 3 {
				both(30, func(s store.Store) []store.Session {
					due, err := s.Due(ctx, like.Due.Add(time.Hour), time.Hour, 30)
					require.NoError(t, err)
					return due
				})
			}
		})
	}
}

func TestPopulation(t *testing.T) {
	p := newPopulation(typicalSession(t), ownSessions, 1200)
	own, last := 0, ""
	for s := range p.all() {
		require.NoError(t, s.Validate())
		require.Greater(t, s.ID, last)
		last = s.ID
		if s.Subject.ID == "alice" {
			own++
		}
	}
	require.Equal(t, ownSessions, own)
	a, b := p.session(p.ids[0]), p.session(p.ids[0])
	require.NotEqual(t, a.Grants[0].Repeat, b.Grants[0].Repeat, "two sessions could be compressed together")
	before := p.like.Clone()
	refreshed(&a)
	require.Equal(t, before, p.like)
	require.NotEqual(t, a.LastActivity, b.LastActivity)
}

// A refresh of the population's sessions has the size of one by the hook.
func TestRefreshedKeepsTheSize(t *testing.T) {
	one := typicalSession(t)
	before, err := one.MarshalJSON()
	require.NoError(t, err)
	refreshed(&one)
	after, err := one.MarshalJSON()
	require.NoError(t, err)
	require.NotEqual(t, before, after)
	require.Len(t, after, len(before))
}

func TestTogether(t *testing.T) {
	var taken atomic.Int64
	step := func() error { taken.Add(1); return nil }
	r, err := together([]func() error{step, step}, 0)
	require.NoError(t, err)
	require.EqualValues(t, 2, taken.Load(), "each takes a step at least")
	require.Equal(t, 2, r.steps)

	failed := errors.New("failed")
	_, err = together([]func() error{step, func() error { return failed }}, time.Millisecond)
	require.ErrorIs(t, err, failed)
}

func TestPercentile(t *testing.T) {
	require.Zero(t, percentile(nil, 99))
	require.EqualValues(t, 7, percentile([]time.Duration{7}, 1))
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i)
	}
	require.EqualValues(t, 50, percentile(hundred, 50))
	require.EqualValues(t, 99, percentile(hundred, 99))
	require.EqualValues(t, 100, percentile(hundred, 100))
	require.EqualValues(t, 100, hundred[0], "the argument was sorted")
}

func TestProcessTime(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // there is no /proc
	}
	_, parent, err := processTime(os.Getpid())
	require.NoError(t, err)
	require.Equal(t, os.Getppid(), parent)
	pids, err := family(os.Getppid())
	require.NoError(t, err)
	require.Contains(t, pids, os.Getpid())
	require.Contains(t, pids, os.Getppid())
}

func TestMissedBarsOfStores(t *testing.T) {
	us := func(n int) []time.Duration { return []time.Duration{time.Duration(n) * time.Microsecond} }
	stores := func() *storesPart {
		p := &storesPart{}
		for _, engine := range engineNames[1:] {
			p.comparisons = append(p.comparisons, comparison{
				engine: engine, alone: pairing{a: us(100), b: us(130)}, bare: []float64{1000}, store: []float64{700},
			})
		}
		return p
	}
	require.Empty(t, missed(stores().bars()))
	for name, spoil := range map[string]func(*storesPart){
		"nothing measured": func(p *storesPart) { *p = storesPart{} },
		"one not measured": func(p *storesPart) { p.comparisons = p.comparisons[1:] },
		"slower":           func(p *storesPart) { p.comparisons[0].alone.b = us(131) },
		"no time":          func(p *storesPart) { p.comparisons[0].alone.b = us(0) },
		"less throughput":  func(p *storesPart) { p.comparisons[0].store = []float64{699} },
	} {
		p := stores()
		spoil(p)
		require.NotEmpty(t, missed(p.bars()), name)
		require.Contains(t, p.String(), "**missed**", name)
	}

	many := func() *crowdsPart {
		p := &crowdsPart{}
		for _, engine := range engineNames[1:] {
			p.crowds = append(p.crowds, crowd{engine: engine, many: 9, refresh: pairing{a: us(100), b: us(125)}})
		}
		return p
	}
	require.Empty(t, missed(many().bars()))
	for name, spoil := range map[string]func(*crowdsPart){
		"nothing measured": func(p *crowdsPart) { *p = crowdsPart{} },
		"one not measured": func(p *crowdsPart) { p.crowds = p.crowds[1:] },
		"refresh grows":    func(p *crowdsPart) { p.crowds[0].refresh.b = us(126) },
		"no time":          func(p *crowdsPart) { p.crowds[0].refresh.b = us(0) },
	} {
		p := many()
		spoil(p)
		require.NotEmpty(t, missed(p.bars()), name)
		require.Contains(t, p.String(), "**missed**", name)
	}
}

func TestPartsThatAreNone(t *testing.T) {
	for _, only := range []string{"nothing", "stores,", ","} {
		require.ErrorContains(t, run("", only, small), "the parts are hook, stores, many", only)
	}
	require.Error(t, run("", "hook", size{}))
	_, err := newRig(context.Background(), "nothing", t.TempDir())
	require.ErrorContains(t, err, "nothing: there is no such engine")
}
