package keylock

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// So many have a lock at once, the others come in their order, and of those who are gone
// nothing is left behind.
func TestLock(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ atOnce, holders int }{{0, 1}, {1, 1}, {2, 2}} {
		synctest.Test(t, func(t *testing.T) {
			l := Locks{AtOnce: tt.atOnce}
			var mu sync.Mutex
			var order []int
			in, most := 0, 0
			release := make(chan struct{})
			for i := range 20 {
				go func() {
					unlock, err := l.Lock(t.Context(), "k")
					if !assert.NoError(t, err) {
						return
					}
					defer unlock()
					mu.Lock()
					in++
					most = max(most, in)
					order = append(order, i)
					mu.Unlock()
					<-release
					mu.Lock()
					in--
					mu.Unlock()
				}()
				synctest.Wait()
			}
			require.Nil(t, l.TryLock("k"))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := l.Lock(ctx, "k")
			require.ErrorIs(t, err, context.Canceled)
			unlock, err := l.Lock(ctx, "other")
			require.NoError(t, err, "others do not wait, and what is free is taken")
			unlock()
			for range 20 {
				release <- struct{}{}
				synctest.Wait()
			}
			require.Equal(t, tt.holders, most)
			require.IsIncreasing(t, order)
			require.Len(t, order, 20)
			unlock = l.TryLock("k")
			require.NotNil(t, unlock)
			unlock()
			require.Empty(t, l.locks)
		})
	}
}

// A waiter whose context ends goes away and leaves the lock to the next.
func TestWaiterGoesAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		unlock, err := l.Lock(t.Context(), "k")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := l.Lock(ctx, "k")
			gone <- err
		}()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gone, context.Canceled)
		unlock()
		unlock = l.TryLock("k")
		require.NotNil(t, unlock)
		unlock()
		require.Empty(t, l.locks)
	})
}
