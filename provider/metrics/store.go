package metrics

import (
	"context"
	"time"

	"github.com/curfew-oidc/curfew/internal/intercept"
	"github.com/curfew-oidc/curfew/store"
)

// Store returns s, measured: each call is one call of s, and its duration and outcome are counted.
// The gauges are read from s too, so call Store once; after several calls the last store is read.
// For nil it returns nil.
func (m *Metrics) Store(s store.Store) store.Store {
	if s == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store, m.last = intercept.New(s, m.hooks()), reading{}
	return m.store
}

// Counts returns c, measured as a [Metrics.Store] is. It is asked for no gauge. Of nil it is nil.
func (m *Metrics) Counts(c store.Counts) store.Counts {
	if c == nil {
		return nil
	}
	return intercept.NewCounts(c, m.hooks())
}

func (m *Metrics) hooks() *intercept.Hooks[time.Time] {
	return &intercept.Hooks[time.Time]{
		Before: func(ctx context.Context, _ intercept.Operation) (context.Context, time.Time, error) {
			return ctx, m.cfg.Now(), nil
		},
		After: func(_ context.Context, began time.Time, op intercept.Operation, r intercept.Result) error {
			m.called(op.Name, began, r.Outcome())
			return nil
		},
	}
}
