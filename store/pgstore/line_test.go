package pgstore

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Of those who wait for the same so many are let in at once, and of those who are gone
// nothing is left behind.
func TestLine(t *testing.T) {
	var l line
	var mu sync.Mutex
	in, most := 0, 0
	failed := errors.New("failed")
	entered, release := make(chan struct{}, 20), make(chan struct{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			assert.Equal(t, failed, l.wait(t.Context(), "k", 2, func() error {
				mu.Lock()
				in++
				most = max(most, in)
				mu.Unlock()
				entered <- struct{}{}
				<-release
				mu.Lock()
				in--
				mu.Unlock()
				return failed
			}))
		})
	}
	<-entered
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	never := func() error { return errors.New("it was let in") }
	require.ErrorIs(t, l.wait(ctx, "k", 2, never), context.Canceled)
	require.NoError(t, l.wait(t.Context(), "other", 1, func() error { return nil }), "others do not wait")
	close(release)
	wg.Wait()
	require.Equal(t, 2, most)
	require.Empty(t, l.turns)
}
