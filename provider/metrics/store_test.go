package metrics_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/metrics"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

// A measured store is the store that it measures.
func TestContract(t *testing.T) {
	open := func(*testing.T) counting { return measured(metrics.New(metrics.Config{}), memstore.New()) }
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

// counting is a store and its counts.
type counting struct {
	store.Store
	store.Counts
}

func measured(m *metrics.Metrics, s storetest.Counting) counting {
	return counting{m.Store(s), m.Counts(s)}
}

func TestNoStoreIsNoStore(t *testing.T) {
	_, err := provider.New(provider.Config{Store: metrics.New(metrics.Config{}).Store(nil), Keys: provider.Keys{provider.NewKey(time.Now())}})
	require.ErrorIs(t, err, provider.ErrConfig)
	require.Nil(t, metrics.New(metrics.Config{}).Counts(nil))
}

// counts returns how many calls were measured, by operation and outcome.
func counts(all map[string]float64) map[string]int {
	found := map[string]int{}
	for name, value := range all {
		if rest, ok := strings.CutPrefix(name, `curfew_store_duration_seconds_count{operation="`); ok {
			operation, rest, _ := strings.Cut(rest, `",outcome="`)
			found[operation+" "+strings.TrimSuffix(rest, `"}`)] = int(value)
		}
	}
	return found
}

// Each call is counted once, under its outcome, and those that the store did not
// answer as errors.
func TestCallsAreCounted(t *testing.T) {
	now := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	m := metrics.New(metrics.Config{Now: func() time.Time {
		now = now.Add(30 * time.Millisecond) // so each call takes that long
		return now
	}})
	r := registered(t, m)
	inner := memstore.New()
	faulty := faultstore.New(inner)
	s := measured(m, faulty)
	alice := session("alice")
	ctx := t.Context()
	canceled, cancel := context.WithCancel(ctx)
	cancel()

	errDeclined := errors.New("too many")
	calls := []struct {
		want string
		call func(ctx context.Context) error
	}{
		{"create ok", func(ctx context.Context) error { return s.Create(ctx, alice, 10) }},
		{"create exists", func(ctx context.Context) error { return s.Create(ctx, alice, 10) }},
		{"create full", func(ctx context.Context) error {
			other := alice
			other.ID += "2"
			return s.Create(ctx, other, 1)
		}},
		{"get ok", func(ctx context.Context) error { _, err := s.Get(ctx, alice.ID); return err }},
		{"get not_found", func(ctx context.Context) error { _, err := s.Get(ctx, "none"); return err }},
		{"get canceled", func(context.Context) error { _, err := s.Get(canceled, alice.ID); return err }},
		{"update conflict", func(ctx context.Context) error { _, err := s.Update(ctx, alice); return err }},
		{"admit ok", func(ctx context.Context) error {
			return s.Admit(ctx, alice.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, nil })
		}},
		{"admit declined", func(ctx context.Context) error {
			return s.Admit(ctx, alice.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, errDeclined })
		}},
		{"list ok", func(ctx context.Context) error { _, _, err := s.List(ctx, store.Filter{}, "", 1); return err }},
		{"due ok", func(ctx context.Context) error { _, err := s.Due(ctx, now, 0, 1); return err }},
		{"delete conflict", func(ctx context.Context) error { return s.Delete(ctx, alice.ID, 7) }},
		{"stats ok", func(ctx context.Context) error { _, err := s.Stats(ctx); return err }},
		{"due_fences ok", func(ctx context.Context) error { _, err := s.DueFences(ctx, now, 1); return err }},
		{"put_fence ok", func(ctx context.Context) error {
			_, err := s.PutFence(ctx, store.Fence{Subject: alice.Subject, At: now})
			return err
		}},
		{"create fenced", func(ctx context.Context) error {
			other := alice
			other.ID, other.Started = other.ID+"3", now.Add(-time.Hour)
			return s.Create(ctx, other, 10)
		}},
		{"move_fence conflict", func(ctx context.Context) error {
			return s.MoveFence(ctx, store.Fence{Subject: alice.Subject}, time.Time{})
		}},
		{"document not_found", func(ctx context.Context) error { _, err := s.Document(ctx, "k"); return err }},
		{"put_document ok", func(ctx context.Context) error { _, err := s.PutDocument(ctx, store.Document{Key: "k"}); return err }},
		{"history ok", func(ctx context.Context) error { _, err := s.History(ctx, "k", 0, 1); return err }},
		{"drop_document ok", func(ctx context.Context) error { return s.DropDocument(ctx, "k") }},
		{"add_counts ok", func(ctx context.Context) error {
			return s.AddCounts(ctx, []store.Count{{Account: "a", Hour: time.Unix(0, 0), Name: "n", N: 1}})
		}},
		{"read_counts ok", func(ctx context.Context) error {
			_, err := s.ReadCounts(ctx, "a", time.Unix(0, 0), time.Unix(1, 0))
			return err
		}},
		{"drop_counts ok", func(ctx context.Context) error { return s.DropCounts(ctx, "a", time.Unix(0, 0)) }},
		{"count_unended ok", func(ctx context.Context) error { _, err := s.CountUnended(ctx, "a"); return err }},
		{"update ok", func(ctx context.Context) error {
			next := alice
			next.Revision = 1
			_, err := s.Update(ctx, next)
			return err
		}},
		{"delete ok", func(ctx context.Context) error { return s.Delete(ctx, alice.ID, 2) }},
	}
	want := map[string]int{}
	for _, c := range calls {
		calls := faulty.Calls()
		_ = c.call(ctx)
		require.Equal(t, calls+1, faulty.Calls(), "%s: one call is one call", c.want)
		want[c.want]++
	}
	got := samples(t, r) // asks for stats once more
	want["stats ok"]++
	require.Equal(t, want, counts(got))
	for name, value := range got {
		require.False(t, strings.HasPrefix(name, "curfew_store_errors_total") && value != 0, name)
	}
	require.InDelta(t, 0.03, got[`curfew_store_duration_seconds_sum{operation="get",outcome="ok"}`], 1e-9, "seconds")
	require.EqualValues(t, 1, got[`curfew_store_duration_seconds_bucket{operation="get",outcome="ok",le="0.05"}`])
	require.EqualValues(t, 0, got[`curfew_store_duration_seconds_bucket{operation="get",outcome="ok",le="0.025"}`])

	// And all of them when the store does not answer.
	for _, c := range calls {
		if c.want == "get canceled" {
			continue
		}
		operation, _, _ := strings.Cut(c.want, " ")
		faulty.Script(faultstore.Always(faultstore.Before))
		require.ErrorIs(t, c.call(ctx), faultstore.ErrFault)
		want[operation+" error"]++
		faulty.Script(faultstore.Always(faultstore.Timeout))
		late, cancel := context.WithTimeout(ctx, time.Microsecond)
		require.ErrorIs(t, c.call(late), context.DeadlineExceeded)
		cancel()
		want[operation+" timeout"]++
	}
	got = samples(t, r)
	require.Equal(t, want, counts(got))
	var operations []string
	for name := range want {
		operation, _, _ := strings.Cut(name, " ")
		operations = append(operations, operation)
	}
	slices.Sort(operations)
	operations = slices.Compact(operations)
	require.Len(t, operations, 19)
	for _, operation := range operations {
		require.EqualValues(t, want[operation+" error"]+want[operation+" timeout"], got[`curfew_store_errors_total{operation="`+operation+`"}`], operation)
	}
}

// Measuring allocates nothing, but for the step that is watched.
func TestMeasuringIsCheap(t *testing.T) {
	ctx := t.Context()
	inner := memstore.New()
	m := metrics.New(metrics.Config{})
	s := m.Store(inner)
	require.NoError(t, inner.Create(ctx, session("alice"), 10))
	decide := func([]store.Session, store.Fence) ([]store.Session, error) { return nil, nil }
	calls := map[string]func(store.Store) error{
		"Get":    func(s store.Store) error { _, err := s.Get(ctx, session("alice").ID); return err },
		"Due":    func(s store.Store) error { _, err := s.Due(ctx, time.Time{}, 0, 1); return err },
		"Delete": func(s store.Store) error { return s.Delete(ctx, "none", 1) },
		"Admit":  func(s store.Store) error { return s.Admit(ctx, session("bob").Subject, decide) },
	}
	more := map[string]float64{}
	for name, call := range calls {
		allocs := func(s store.Store) float64 {
			return testing.AllocsPerRun(100, func() { require.NoError(t, call(s)) })
		}
		more[name] = allocs(s) - allocs(inner)
	}
	for name := range maps.Keys(calls) {
		limit := 0.0
		if name == "Admit" {
			limit = 2
		}
		require.LessOrEqual(t, more[name], limit, "%s: %v", name, more)
	}
}
