package redisstore_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
)

// A gate is a hook that holds reads back for as long as it is shut.
type gate struct {
	shut atomic.Bool
	held atomic.Int64
	open chan struct{}

	pipelines, commands atomic.Int64
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) DialHook(next redis.DialHook) redis.DialHook { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if g.shut.Load() && redisstore.IsRead(cmd) {
			g.held.Add(1)
			<-g.open
		}
		return next(ctx, cmd)
	}
}
func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if redisstore.IsRead(cmds[0]) { // a connection begins with a pipeline
			g.pipelines.Add(1)
			g.commands.Add(int64(len(cmds)))
		}
		return next(ctx, cmds)
	}
}

func gated(t *testing.T) (*gate, *redisstore.Store) {
	g, client := newGate(), single(t)
	client.AddHook(g)
	return g, newStore(t, client)
}

// hold starts so many reads that later ones wait, and keeps them from being
// answered until the gate opens. Their errors are those of the answers.
func (g *gate) hold(t *testing.T, s store.Store, id string) (errs <-chan error) {
	const enough = 4
	failed := make(chan error, enough)
	g.shut.Store(true)
	for range enough {
		go func() {
			_, err := s.Get(context.WithoutCancel(t.Context()), id)
			failed <- err
		}()
	}
	require.Eventually(t, func() bool { return g.held.Load() == enough }, 10*time.Second, time.Millisecond)
	g.shut.Store(false) // to others
	return failed
}

// Of many who read at the same time each gets what it asked for, be it nothing,
// and most go together.
func TestReadsGoTogether(t *testing.T) {
	g, s := gated(t)
	const readers = 64
	for i := range readers {
		if i%3 != 0 {
			require.NoError(t, s.Create(t.Context(), session(fmt.Sprint(i), fmt.Sprint("user-", i)), 1))
		}
	}
	var all sync.WaitGroup
	for i := range readers {
		want := session(fmt.Sprint(i), fmt.Sprint("user-", i))
		want.Revision = 1
		all.Go(func() {
			for range 50 {
				got, err := s.Get(t.Context(), want.ID)
				if i%3 == 0 {
					assert.ErrorIs(t, err, store.ErrNotFound)
					continue
				}
				assert.NoError(t, err)
				assert.Equal(t, want.ID, got.ID)
				assert.Equal(t, want.Subject, got.Subject)
			}
		})
	}
	all.Wait()
	require.Positive(t, g.pipelines.Load())
	require.Greater(t, g.commands.Load(), g.pipelines.Load(), "more than one in a pipeline")
}

// Those under way may be stuck: others go by themselves.
func TestStuckReadsHoldNobodyUp(t *testing.T) {
	g, s := gated(t)
	one := session("a", "alice")
	require.NoError(t, s.Create(t.Context(), one, 1))
	stuck := g.hold(t, s, one.ID)
	for range 20 {
		got, err := s.Get(t.Context(), one.ID)
		require.NoError(t, err)
		require.Equal(t, one.ID, got.ID)
	}
	require.Empty(t, stuck)
	_, waiting := s.Reads()
	require.Zero(t, waiting, "they wait no longer")
	close(g.open)
	for range cap(stuck) {
		require.NoError(t, <-stuck)
	}
}

// One who waits goes when one under way is answered, and goes no further than its
// context. What became of it is nothing to the others.
func TestAReaderWhoseContextEnds(t *testing.T) {
	g, s := gated(t)
	one := session("a", "alice")
	require.NoError(t, s.Create(t.Context(), one, 1))
	stuck := g.hold(t, s, one.ID)
	ended, end := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			ctx := t.Context()
			if i%2 == 0 {
				ctx = ended
			}
			_, err := s.Get(ctx, one.ID)
			if i%2 != 0 {
				assert.NoError(t, err)
			} else if err != nil {
				assert.ErrorIs(t, err, context.Canceled)
			}
		})
	}
	end()
	close(g.open)
	all.Wait()
	for range cap(stuck) {
		require.NoError(t, <-stuck)
	}
	_, err := s.Get(ended, one.ID)
	require.ErrorIs(t, err, context.Canceled)
	_, err = s.Get(t.Context(), one.ID)
	require.NoError(t, err)
}
