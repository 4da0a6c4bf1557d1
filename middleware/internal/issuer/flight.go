package issuer

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/singleflight"
)

// A Flight lets callers that ask for the same at the same time share one answer. The
// work goes on when the caller that began it goes away. The zero value is ready.
type Flight[T any] struct{ group singleflight.Group }

// Begin starts the work under a key, unless it is under way.
func (f *Flight[T]) Begin(ctx context.Context, key string, timeout time.Duration, work func(context.Context) (T, error)) <-chan singleflight.Result {
	return f.group.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		return work(ctx)
	})
}

// Do returns the answer of the work under a key. If the context ends first the error
// wraps [ErrUnavailable].
func (f *Flight[T]) Do(ctx context.Context, key string, timeout time.Duration, work func(context.Context) (T, error)) (T, error) {
	select {
	case r := <-f.Begin(ctx, key, timeout, work):
		return r.Val.(T), r.Err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
}
