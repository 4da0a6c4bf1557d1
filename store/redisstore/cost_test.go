package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/storetest"
)

// A counter counts round trips: commands, and pipelines as one.
type counter struct{ n atomic.Int64 }

func (c *counter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmd)
	}
}
func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmds)
	}
}

var errRefused = errors.New("refused")

// A costed is a call of a store and what it may cost: round trips, and commands
// that the server executes, those of scripts included. Each can be made again
// with another n. alice has three sessions, "a", "b", and another one.
type costed struct {
	name                 string
	roundTrips, commands int64
	call                 func(ctx context.Context, s storetest.Counting, n int) error
}

func change(ctx context.Context, s storetest.Counting, name string, f func(*store.Session)) error {
	one, err := s.Get(ctx, session(name, "alice").ID)
	if err != nil {
		return err
	}
	f(&one)
	_, err = s.Update(ctx, one)
	return err
}

var costs = []costed{
	// EVALSHA, PERSIST, GET, HGET; EVALSHA, GETRANGE, SET, and the queue.
	{"refresh", 2, 9, func(ctx context.Context, s storetest.Counting, n int) error {
		return change(ctx, s, "a", func(one *store.Session) {
			one.Grants[0].Generation++
			one.Due = one.Due.Add(time.Second)
		})
	}},
	{"another client", 3, 15, func(ctx context.Context, s storetest.Counting, n int) error {
		return change(ctx, s, "a", func(one *store.Session) {
			one.Grants = append(one.Grants[:1:1], store.Grant{ID: "2", Client: fmt.Sprint("client", n)})
		})
	}},
	{"login without a cap", 1, 14, func(ctx context.Context, s storetest.Counting, n int) error {
		return s.Create(ctx, session(fmt.Sprint("new", n), "carol"), 1000)
	}},
	{"end", 2, 18, func(ctx context.Context, s storetest.Counting, n int) error {
		one, err := s.Get(ctx, session(fmt.Sprint("new", n), "carol").ID)
		if err != nil {
			return err
		}
		one.End = &store.End{At: one.Started, Reason: policy.ReasonLogout}
		_, err = s.Update(ctx, one)
		return err
	}},
	{"login at a cap", 2, 51, func(ctx context.Context, s storetest.Counting, n int) error {
		return s.Admit(ctx, session("", "alice").Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			if len(held) != 3 {
				return nil, fmt.Errorf("%d sessions", len(held))
			}
			held[2].End = &store.End{At: held[2].Started, Reason: policy.ReasonConcurrency}
			return []store.Session{held[2], session(fmt.Sprint("z", n), "alice")}, nil
		})
	}},
	{"refused login", 1, 8, func(ctx context.Context, s storetest.Counting, n int) error {
		err := s.Admit(ctx, session("", "alice").Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, errRefused })
		if err == errRefused {
			return nil
		}
		return fmt.Errorf("not refused: %w", err)
	}},
	{"sweep with nothing due", 1, 5 * 256, func(ctx context.Context, s storetest.Counting, n int) error {
		list, err := s.Due(ctx, time.Unix(0, 0), time.Minute, 100)
		if err == nil && len(list) > 0 {
			return fmt.Errorf("%d are due", len(list))
		}
		return err
	}},
	// All have been due for long. It takes over what the one before had claimed.
	{"sweep", 2, 5*256 + 50*12, func(ctx context.Context, s storetest.Counting, n int) error {
		list, err := s.Due(ctx, time.Date(2100+n, 1, 1, 0, 0, 0, 0, time.UTC), time.Minute, 50)
		if err == nil && len(list) != 50 {
			return fmt.Errorf("%d are due", len(list))
		}
		return err
	}},
	{"page", 2, 22, func(ctx context.Context, s storetest.Counting, n int) error {
		list, _, err := s.List(ctx, store.Filter{Account: "default", Client: "web", State: store.Unended}, "", 3)
		if err == nil && len(list) != 3 {
			return fmt.Errorf("%d are listed", len(list))
		}
		return err
	}},
	// The first one is put, later ones are joined to it: EVALSHA, HGET, PERSIST; once
	// more, with HSET and the queue.
	{"fence", 2, 8, func(ctx context.Context, s storetest.Counting, n int) error {
		_, err := s.PutFence(ctx, store.Fence{Subject: session("", "dave").Subject, At: time.Unix(int64(n), 0), Due: time.Unix(int64(n), 0)})
		return err
	}},
	{"sweep of the fences", 1, 4 * 256, func(ctx context.Context, s storetest.Counting, n int) error {
		_, err := s.DueFences(ctx, time.Unix(100, 0), 100)
		return err
	}},
	{"stats", 1, 6 * 256, func(ctx context.Context, s storetest.Counting, n int) error { _, err := s.Stats(ctx); return err }},
	// A flush: each hour of each account is ZADD and HINCRBY.
	{"add counts", 1, 3 * 4, func(ctx context.Context, s storetest.Counting, n int) error {
		var counts []store.Count
		for i := range 3 {
			hour := time.Unix(int64(n)*3600, 0)
			counts = append(counts, store.Count{Account: fmt.Sprint(i), Hour: hour, Name: "a", N: 1}, store.Count{Account: fmt.Sprint(i), Hour: hour, Name: "b", N: 1})
		}
		return s.AddCounts(ctx, counts)
	}},
	// HGETALL of one hour is of a few names. It is one for each hour that has any.
	{"counts", 1, 8, func(ctx context.Context, s storetest.Counting, n int) error {
		list, err := s.ReadCounts(ctx, "1", time.Unix(0, 0), time.Unix(100*24*3600, 0))
		if err == nil && (len(list) == 0 || len(list) > 2*5) {
			return fmt.Errorf("%d counts", len(list))
		}
		return err
	}},
	{"drop counts", 1, 1, func(ctx context.Context, s storetest.Counting, n int) error {
		return s.DropCounts(ctx, "1", time.Unix(0, 0))
	}},
	{"unended", 1, 3 * 256, func(ctx context.Context, s storetest.Counting, n int) error {
		_, err := s.CountUnended(ctx, "default")
		return err
	}},
	{"settings", 1, 5, func(ctx context.Context, s storetest.Counting, n int) error {
		if _, err := s.Document(ctx, "settings"); !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("settings: %w", err)
		}
		return nil
	}},
}

func fill(t *testing.T, s storetest.Counting, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		one := session(fmt.Sprintf("%05d", i), fmt.Sprintf("user-%d", i))
		one.Due = one.Due.Add(time.Duration(i) * time.Millisecond)
		require.NoError(t, s.Create(t.Context(), one, 1))
	}
}

// commands returns how many commands the server has executed since it was last
// asked.
func commands(t *testing.T, client *redis.Client) (total int64) {
	t.Helper()
	info, err := client.Info(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	for line := range strings.Lines(info) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		if !ok || name == "info" || strings.HasPrefix(name, "config") {
			continue
		}
		require.NotContains(t, []string{"keys", "scan", "smembers", "sort", "zscan"}, name)
		var n int64
		_, err := fmt.Sscan(rest[:strings.IndexByte(rest, ',')], &n)
		require.NoError(t, err)
		total += n
	}
	require.NoError(t, client.ConfigResetStat(t.Context()).Err())
	return total
}

// Each call costs so many round trips, and so many commands on the server,
// however many sessions there are.
func TestCost(t *testing.T) {
	ctx := t.Context()
	client := single(t)
	require.NoError(t, client.ConfigResetStat(ctx).Err()) // other tests' commands
	s := newStore(t, client)
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, s.Create(ctx, session(name, "alice"), 100))
	}
	var c counter
	client.AddHook(&c)
	sizes := []int{0, 1000, 4000}
	for size := 1; size < len(sizes); size++ {
		fill(t, s, sizes[size-1], sizes[size])
		for _, one := range costs {
			for _, warm := range []bool{false, true} {
				commands(t, client)
				before := c.n.Load()
				n := 2 * size
				if warm {
					n++
				}
				require.NoError(t, one.call(ctx, s, n), one.name)
				if warm { // the scripts have been loaded
					require.Equal(t, one.roundTrips, c.n.Load()-before, "%s: round trips with %d sessions", one.name, sizes[size])
					require.LessOrEqual(t, commands(t, client), one.commands, "%s: commands with %d sessions", one.name, sizes[size])
				}
			}
		}
	}
}

// A server that has forgotten the scripts, as after a fail-over, is told them
// again.
func TestFlushedScripts(t *testing.T) {
	for name, client := range map[string]redis.UniversalClient{"single": single(t), "cluster": cluster(t)} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			s := newStore(t, client)
			for _, name := range []string{"a", "b", "c"} {
				require.NoError(t, s.Create(ctx, session(name, "alice"), 100))
			}
			fill(t, s, 0, 300)
			for n := range 3 {
				for _, one := range costs {
					require.NoError(t, client.ScriptFlush(ctx).Err())
					require.NoError(t, one.call(ctx, s, n), one.name)
				}
			}
		})
	}
}
