package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

func BenchmarkRefresh(b *testing.B) {
	each(b, func(b *testing.B, s *server) {
		f, err := refreshing(s)
		require.NoError(b, err)
		loop(b, f)
	})
}

func BenchmarkLogin(b *testing.B) {
	each(b, func(b *testing.B, s *server) { loop(b, loggingIn(s)) })
}

func loop(b *testing.B, f flow) {
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, f.step())
	}
}

func each(b *testing.B, run func(*testing.B, *server)) {
	for _, engine := range []string{"bare", "memory", "SQLite"} {
		for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256} {
			b.Run(engine+"/"+string(alg), func(b *testing.B) {
				key, err := newSigningKey(alg)
				require.NoError(b, err)
				var hook *provider.Hook
				if engine != "bare" {
					hook, err = newHook(opened(b, engine), limits)
					require.NoError(b, err)
				}
				s, err := newServer(key, hook)
				require.NoError(b, err)
				run(b, s)
			})
		}
	}
}

// BenchmarkStore is for profiles: what a refresh asks of a store, and the same of
// the engine's driver alone.
func BenchmarkStore(b *testing.B) {
	for _, engine := range engineNames {
		b.Run(engine, func(b *testing.B) {
			r, err := newRig(b.Context(), engine, b.TempDir())
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, r.close()) })
			like := typicalSession(b)
			stores, bares, _, err := besides(b.Context(), r, like, 1)
			require.NoError(b, err)
			for name, steps := range map[string][]func() (time.Duration, error){"store": stores, "bare": bares} {
				if len(steps) == 0 {
					continue // there is no driver
				}
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						_, err := steps[0]()
						require.NoError(b, err)
					}
				})
			}
		})
	}
}

func typicalSession(t testing.TB) store.Session {
	t.Helper()
	key, err := newSigningKey(jose.ES256)
	require.NoError(t, err)
	like, err := typical(key)
	require.NoError(t, err)
	return like
}

func opened(t testing.TB, engine string) store.Store {
	t.Helper()
	s, closeStore, err := open(engine, filepath.Join(t.TempDir(), "sessions.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, closeStore()) })
	return s
}

// A benchmark of a server that does something else than it should would be
// worth nothing.
func TestFlowsDoWhatTheyMeasure(t *testing.T) {
	key, err := newSigningKey(jose.ES256)
	require.NoError(t, err)
	counting := &countingStore{Store: opened(t, "memory")}
	hook, err := newHook(counting, limits)
	require.NoError(t, err)
	hooked, err := newServer(key, hook)
	require.NoError(t, err)
	bare, err := newServer(key, nil)
	require.NoError(t, err)

	first, err := hooked.login("alice")
	require.NoError(t, err)
	require.NotEmpty(t, hooked.sid)
	sid := hooked.sid
	before, err := counting.Get(t.Context(), sid)
	require.NoError(t, err)
	second, err := hooked.refresh(first)
	require.NoError(t, err)
	require.NotEqual(t, first, second, "the refresh token did not rotate")
	require.Equal(t, sid, hooked.sid, "a refresh changed the session")
	s, err := counting.Get(t.Context(), sid)
	require.NoError(t, err)
	require.Equal(t, before.Grants[0].Generation+1, s.Grants[0].Generation, "the refresh was not written")

	token, err := bare.login("alice")
	require.NoError(t, err)
	require.Empty(t, bare.sid, "the bare provider has a hook")
	_, err = bare.refresh(token)
	require.NoError(t, err)
	_, err = bare.refresh(token)
	require.ErrorContains(t, err, "invalid_grant", "the storage does not rotate")
}

func TestRefreshIsOneReadAndOneWrite(t *testing.T) {
	key, err := newSigningKey(jose.ES256)
	require.NoError(t, err)
	for _, engine := range []string{"memory", "SQLite"} {
		t.Run(engine, func(t *testing.T) {
			counting := &countingStore{Store: opened(t, engine)}
			hook, err := newHook(counting, limits)
			require.NoError(t, err)
			s, err := newServer(key, hook)
			require.NoError(t, err)
			f, err := refreshing(s)
			require.NoError(t, err)
			for range 3 {
				reads, writes, others := counting.reads.Load(), counting.writes.Load(), counting.others.Load()
				require.NoError(t, f.step())
				require.Equal(t, []int64{1, 1, 0}, []int64{
					counting.reads.Load() - reads, counting.writes.Load() - writes, counting.others.Load() - others,
				}, "reads, writes, other calls")
			}
		})
	}
}

// TestMeasure runs all of it, small. It says nothing about speed.
func TestMeasure(t *testing.T) {
	report, err := measure(filepath.Join(t.TempDir(), "sessions.db"), size{runs: 2, steps: 4, sessions: 300})
	require.NoError(t, err)
	require.Len(t, report.lines, 10)
	for _, l := range report.lines {
		require.Positive(t, median(l.pairing.a), l)
		require.Greater(t, l.hook.allocs, l.bare.allocs, l)
		if l.flow == "refresh" {
			require.Equal(t, []float64{1, 1, 0}, []float64{l.reads, l.writes, l.others}, l)
		}
	}
	require.Positive(t, report.claims("RS256"))
	require.Less(t, report.claims("RS256"), int64(report.lines[0].hook.allocs-report.lines[0].bare.allocs),
		"the claims are a part of what the hook adds")
	require.Contains(t, report.String(), "| refresh | RS256 | memory | ")
	require.Contains(t, report.String(), "| login | ES256 | SQLite | ")
	require.Contains(t, report.String(), "with 300 sessions")
}

func TestMissedBars(t *testing.T) {
	us := func(n ...int) (list []time.Duration) {
		for _, n := range n {
			list = append(list, time.Duration(n)*time.Microsecond)
		}
		return list
	}
	good := func() *report {
		l := line{
			flow: "refresh", alg: "RS256", engine: "memory",
			pairing: pairing{a: us(1200, 1210, 1190), b: us(1230, 1240, 1220), added: us(30, 31, 29)},
			bare:    cost{allocs: 300}, hook: cost{allocs: 450}, reads: 1, writes: 1,
		}
		claims := line{
			flow: claimsFlow, alg: "RS256", engine: "none",
			pairing: pairing{a: us(1200), b: us(1210), added: us(10)}, bare: cost{allocs: 300}, hook: cost{allocs: 370},
		}
		even := pairing{a: us(100), b: us(125), added: us(25)}
		return &report{
			lines: []line{l, claims}, refreshGrowth: even, loginGrowth: even,
			admission: pairing{a: us(100), b: us(3000), added: us(2900)},
		}
	}
	require.Empty(t, missed(good().bars()))
	require.NotContains(t, good().String(), "missed")

	for name, spoil := range map[string]func(*report){
		"nothing measured":  func(r *report) { *r = report{} },
		"no refresh":        func(r *report) { r.lines = nil },
		"claims are free":   func(r *report) { r.lines[1].hook.allocs = 300 },
		"share":             func(r *report) { r.lines[0].pairing.a = us(490) },
		"time":              func(r *report) { r.lines[0].pairing.added = us(61, 61, 61); r.lines[0].pairing.a = us(9000) },
		"allocations":       func(r *report) { r.lines[0].hook.allocs = 451 },
		"a second read":     func(r *report) { r.lines[0].reads = 2 },
		"a write too few":   func(r *report) { r.lines[0].writes = 0.99 },
		"a list":            func(r *report) { r.lines[0].others = 1 },
		"refresh grows":     func(r *report) { r.refreshGrowth.b = us(126) },
		"login grows":       func(r *report) { r.loginGrowth.b = us(126) },
		"admission is slow": func(r *report) { r.admission.b = us(3001) },
	} {
		t.Run(name, func(t *testing.T) {
			r := good()
			spoil(r)
			require.NotEmpty(t, missed(r.bars()))
			require.Contains(t, r.String(), "**missed**")
		})
	}
}

func TestMedian(t *testing.T) {
	require.Zero(t, median([]time.Duration{}))
	require.EqualValues(t, 7, median([]uint64{7}))
	require.EqualValues(t, 5, median([]time.Duration{9, 1, 5}))
	require.EqualValues(t, 4, median([]time.Duration{3, 9, 1, 5}))
	list := []time.Duration{3, 1, 2}
	median(list)
	require.Equal(t, []time.Duration{3, 1, 2}, list, "the argument was sorted")
}

func TestPairStopsAtAnError(t *testing.T) {
	failed := errors.New("failed")
	s := &server{}
	fine := flow{s, func() error { return nil }}
	broken := flow{s, func() error { return failed }}
	_, err := pair(fine, broken, 2, 2)
	require.ErrorContains(t, err, "failed")
	_, err = pair(broken, fine, 2, 2)
	require.ErrorContains(t, err, "failed")
}

func TestReplaceBlock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.md")
	begin, end := markers("hook")
	otherBegin, otherEnd := markers("stores")
	for name, old := range map[string]string{
		"no marker": "text\n", "no end": "a\n" + begin, "in the wrong order": end + begin, "of another part": otherBegin + otherEnd,
	} {
		require.NoError(t, os.WriteFile(file, []byte(old), 0o600))
		require.Error(t, replaceBlock(file, "hook", "new\n"), name)
		kept, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, old, string(kept), name)
	}
	other := otherBegin + "other\n" + otherEnd
	require.NoError(t, os.WriteFile(file, []byte("head\n"+begin+"old\n"+end+other+"tail\n"), 0o600))
	require.NoError(t, replaceBlock(file, "hook", "new\n"))
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "head\n"+begin+"new\n"+end+other+"tail\n", string(got))
}

// The document has a place for what each part writes.
func TestTheDocumentHasAllBlocks(t *testing.T) {
	doc, err := os.ReadFile("../../docs/benchmarks.md")
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "doc.md")
	require.NoError(t, os.WriteFile(file, doc, 0o600))
	for _, p := range parts {
		require.NoError(t, replaceBlock(file, p.name, "new\n"))
	}
}
