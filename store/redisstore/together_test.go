package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
)

// A pipelineHook has its own way with pipelines.
type pipelineHook func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error

func (h pipelineHook) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (h pipelineHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h pipelineHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return h(ctx, cmds, next) }
}

// together has many readers read at the same time, so that some of them go
// together, and returns what they read.
func together(s store.Store, readers, times int, read func(reader int) error) error {
	var all sync.WaitGroup
	failed := make(chan error, readers)
	for i := range readers {
		all.Go(func() {
			for range times {
				if err := read(i); err != nil {
					failed <- fmt.Errorf("reader %d: %w", i, err)
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed
}

// Whatever becomes of a pipeline, a session that is there is not said to be none,
// and each reader fares as it would have by itself: a hook may refuse pipelines, as
// a circuit breaker does, or panic; and what a server says of one command alone is
// tried again as the client is set up to.
func TestPipelinesThatFail(t *testing.T) {
	for name, hook := range map[string]func(busy error) pipelineHook{
		"refused": func(error) pipelineHook {
			return func(context.Context, []redis.Cmder, redis.ProcessPipelineHook) error {
				return errors.New("the breaker is open")
			}
		},
		"panic": func(error) pipelineHook {
			return func(context.Context, []redis.Cmder, redis.ProcessPipelineHook) error { panic("a hook of the caller's") }
		},
		"all but the first": func(busy error) pipelineHook {
			return func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
				err := next(ctx, cmds)
				for _, cmd := range cmds[1:] {
					cmd.SetErr(busy)
				}
				return err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := single(t)
			s := newStore(t, client)
			one := session("a", "alice")
			require.NoError(t, s.Create(t.Context(), one, 1))
			busy := client.Eval(t.Context(), `return redis.error_reply('CLUSTERDOWN the cluster is down')`, nil).Err()
			var pipelines atomic.Int64
			h := hook(busy)
			client.AddHook(pipelineHook(func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
				if !redisstore.IsRead(cmds[0]) {
					return next(ctx, cmds) // a connection begins with one
				}
				pipelines.Add(1)
				return h(ctx, cmds, next)
			}))
			require.NoError(t, together(s, 32, 20, func(int) error {
				got, err := s.Get(t.Context(), one.ID)
				if err == nil && got.ID != one.ID {
					err = fmt.Errorf("got %q", got.ID)
				}
				return err
			}))
			require.Positive(t, pipelines.Load())
			requireNoneUnderWay(t, s)
		})
	}
}

// requireNoneUnderWay requires that the next readers need not wait: what is counted
// as under way is.
func requireNoneUnderWay(t *testing.T, s *redisstore.Store) {
	t.Helper()
	require.Eventually(t, func() bool {
		underway, waiting := s.Reads()
		return underway == 0 && waiting == 0
	}, 10*time.Second, time.Millisecond)
}

// A pipeline that is stuck holds each of its readers until their own context ends,
// and nobody else.
func TestAStuckPipeline(t *testing.T) {
	client := single(t)
	s := newStore(t, client)
	one := session("a", "alice")
	require.NoError(t, s.Create(t.Context(), one, 1))
	stuck, release := make(chan struct{}), make(chan struct{})
	var first sync.Once
	client.AddHook(pipelineHook(func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
		if redisstore.IsRead(cmds[0]) {
			first.Do(func() { close(stuck) })
			<-release
		}
		return next(ctx, cmds)
	}))
	canceled, cancel := context.WithCancel(t.Context())
	go func() {
		<-stuck
		cancel()
	}()
	var ended atomic.Int64
	require.NoError(t, together(s, 64, 50, func(i int) error {
		ctx, want := canceled, context.Canceled
		if i%2 == 0 {
			late, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer end()
			ctx, want = late, context.DeadlineExceeded
		}
		_, err := s.Get(ctx, one.ID)
		if errors.Is(err, want) {
			ended.Add(1)
			return nil
		}
		return err
	}))
	require.Positive(t, ended.Load())
	_, err := s.Get(t.Context(), one.ID)
	require.NoError(t, err)
	close(release)
	requireNoneUnderWay(t, s)
}

// A read that begins after a write was acknowledged sees it: none is answered by
// one that was sent before, not even if that has its answer still to come.
func TestReadsTogetherAreFresh(t *testing.T) {
	client := single(t)
	s, writer := newStore(t, client), newStore(t, single(t))
	one := session("a", "alice")
	require.NoError(t, s.Create(t.Context(), one, 1))
	one.Revision = 1
	read := func(least int64) error {
		got, err := s.Get(t.Context(), one.ID)
		if err == nil && got.Revision < least {
			err = fmt.Errorf("read revision %d after %d was acknowledged", got.Revision, least)
		}
		return err
	}
	hold := make(chan chan struct{})
	client.AddHook(pipelineHook(func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
		err := next(ctx, cmds)
		select {
		case release := <-hold:
			<-release
		default:
		}
		return err
	}))
	var acknowledged atomic.Int64
	acknowledged.Store(1)
	done := make(chan struct{})
	var others sync.WaitGroup
	for range 32 {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				assert.NoError(t, read(acknowledged.Load()))
			}
		})
	}
	for range 50 {
		release := make(chan struct{})
		hold <- release // what it read is old soon
		var err error
		one.Revision, err = writer.Update(t.Context(), one)
		require.NoError(t, err)
		acknowledged.Store(one.Revision)
		var later sync.WaitGroup
		for range 8 {
			later.Go(func() { assert.NoError(t, read(one.Revision)) })
		}
		runtime.Gosched()
		close(release)
		later.Wait()
	}
	close(done)
	others.Wait()
}

// A backlog is read in pieces: a server that bounds what it keeps for a connection
// would else cut it, again and again.
func TestBacklog(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := single(t)
	s := newStore(t, client)
	one := session("a", "alice")
	one.UserAgent = string(make([]byte, 1000)) // escaped: 6,000 bytes
	require.NoError(t, s.Create(ctx, one, 1))
	const limit = "client-output-buffer-limit"
	require.NoError(t, client.ConfigSet(ctx, limit, "normal 2mb 2mb 0").Err())
	defer client.ConfigSet(context.WithoutCancel(ctx), limit, "normal 0 0 0")
	require.NoError(t, together(s, 5_000, 1, func(int) error {
		_, err := s.Get(ctx, one.ID)
		return err
	}))
}

// A server that dies and comes back, a pool of one connection, and a client that is
// closed are errors to those who read meanwhile: a session is not said to be none, and
// nobody is left behind.
func TestReadersOutliveTheServer(t *testing.T) {
	server, err := engine.NewRedis()
	require.NoError(t, err)
	defer server.Close()
	o, err := redis.ParseURL(server.URL())
	require.NoError(t, err)
	o.ContextTimeoutEnabled, o.PoolSize = true, 1
	client := redis.NewClient(o)
	s := newStore(t, client)
	one := session("a", "alice")
	require.NoError(t, s.Create(t.Context(), one, 1))

	var answered, failed, closed atomic.Int64
	var readers sync.WaitGroup
	for range 64 {
		readers.Go(func() {
			for {
				_, err := s.Get(t.Context(), one.ID)
				switch {
				case errors.Is(err, redis.ErrClosed):
					closed.Add(1)
					return
				case err != nil:
					failed.Add(1)
					assert.NotErrorIs(t, err, store.ErrNotFound)
				default:
					answered.Add(1)
				}
			}
		})
	}
	more := func(n *atomic.Int64) {
		t.Helper()
		before := n.Load()
		require.Eventually(t, func() bool { return n.Load() >= before+100 }, 30*time.Second, time.Millisecond)
	}
	more(&answered)
	require.NoError(t, server.Kill())
	more(&failed)
	require.NoError(t, server.Start())
	more(&answered)
	require.NoError(t, client.Close())
	readers.Wait()
	require.EqualValues(t, 64, closed.Load())
	requireNoneUnderWay(t, s)
}
