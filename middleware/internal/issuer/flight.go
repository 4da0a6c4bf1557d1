package issuer

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A Flight lets those who ask for the same at the same time share one
// answer. The work goes on when the one who began it goes away.
type Flight[T any] struct {
	mu    sync.Mutex
	calls map[string]*call[T]
}

type call[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// Begin starts work under a key, or finds it begun.
func (f *Flight[T]) Begin(ctx context.Context, key string, timeout time.Duration, work func(context.Context) (T, error)) *call[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.calls[key]; c != nil {
		return c
	}
	if f.calls == nil {
		f.calls = map[string]*call[T]{}
	}
	c := &call[T]{done: make(chan struct{})}
	f.calls[key] = c
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		c.value, c.err = work(ctx)
		f.mu.Lock()
		delete(f.calls, key)
		f.mu.Unlock()
		close(c.done)
	}()
	return c
}

// Do shares the answer of the work under a key. If the context ends first the error
// wraps [ErrUnavailable].
func (f *Flight[T]) Do(ctx context.Context, key string, timeout time.Duration, work func(context.Context) (T, error)) (T, error) {
	c := f.Begin(ctx, key, timeout, work)
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
}
