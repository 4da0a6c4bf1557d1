package provider

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type contextKey struct{}

// The two must not be told apart, whoever looks when.
func TestTimeoutIsThatOfPackageContext(t *testing.T) {
	steps := map[string]func(ctx context.Context, cancel, cancelParent func()){
		"look":          func(ctx context.Context, _, _ func()) { _ = ctx.Err() },
		"wait":          func(ctx context.Context, _, _ func()) { _ = ctx.Done() },
		"time passes":   func(context.Context, func(), func()) { time.Sleep(2 * time.Second) },
		"cancel":        func(_ context.Context, cancel, _ func()) { cancel() },
		"cancel parent": func(_ context.Context, _, cancelParent func()) { cancelParent() },
	}
	type made struct {
		ctx                  context.Context
		child                context.Context
		cancel, cancelParent func()
	}
	for first := range steps {
		for second := range steps {
			for third := range steps {
				for _, early := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) {
						var both []made
						for _, with := range []func(context.Context, time.Duration) (context.Context, context.CancelFunc){context.WithTimeout, withTimeout} {
							parent, cancelParent := context.WithCancel(context.WithValue(t.Context(), contextKey{}, "value"))
							defer cancelParent()
							ctx, cancel := with(parent, time.Second)
							defer cancel()
							m := made{ctx: ctx, cancel: cancel, cancelParent: cancelParent}
							if early {
								var stop func()
								m.child, stop = context.WithCancel(ctx)
								defer stop()
							}
							for _, step := range []string{first, second, third} {
								steps[step](ctx, cancel, cancelParent)
							}
							if !early {
								var stop func()
								m.child, stop = context.WithCancel(ctx)
								defer stop()
							}
							both = append(both, m)
						}
						synctest.Wait()
						name := []any{"%s, %s, %s, early child %t", first, second, third, early}
						want, got := both[0], both[1]
						require.Equal(t, want.ctx.Err() != nil, got.ctx.Err() != nil, name...)
						require.Equal(t, done(want.ctx), done(got.ctx), name...)
						require.Equal(t, want.child.Err() != nil, got.child.Err() != nil, name...)
						// Which of two ends came first, only somebody who looked can know.
						if order := []string{first, second, third}; !slices.Contains(order, "time passes") || !slices.Contains(order, "cancel parent") {
							require.Equal(t, want.ctx.Err(), got.ctx.Err(), name...)
							require.Equal(t, want.child.Err(), got.child.Err(), name...)
						}
						require.Equal(t, "value", got.ctx.Value(contextKey{}))
					})
				}
			}
		}
	}
}

func done(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

func TestTimeoutIsNeverLaterThanTheParents(t *testing.T) {
	parent, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	want, _ := parent.Deadline()
	ctx, stop := withTimeout(parent, time.Hour)
	defer stop()
	got, ok := ctx.Deadline()
	require.True(t, ok)
	require.Equal(t, want, got)
}
