package redisstore_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
)

// movable is a cluster whose slots can be moved.
type movable struct {
	t       *testing.T
	servers []*redis.Client
	ids     []string
	cluster *engine.RedisCluster
}

func newMovable(t *testing.T) *movable {
	c, err := engine.NewRedisCluster()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	m := &movable{t: t, cluster: c}
	for _, r := range c.Servers {
		one := opened(t, redis.NewClient(&redis.Options{Addr: r.Addr(), Password: r.Password()}))
		id, err := one.Do(t.Context(), "cluster", "myid").Text()
		require.NoError(t, err)
		m.servers, m.ids = append(m.servers, one), append(m.ids, id)
	}
	return m
}

func (m *movable) client() *redis.ClusterClient {
	return opened(m.t, redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: m.cluster.Addrs(), Password: m.cluster.Password(), ContextTimeoutEnabled: true,
	}))
}

func (m *movable) do(server int, args ...any) *redis.Cmd {
	m.t.Helper()
	cmd := m.servers[server].Do(m.t.Context(), args...)
	require.NoError(m.t, cmd.Err(), "%v", args)
	return cmd
}

// owner returns which server has a slot.
func (m *movable) owner(slot int64) int {
	m.t.Helper()
	shards, err := m.servers[0].ClusterShards(m.t.Context()).Result()
	require.NoError(m.t, err)
	for _, shard := range shards {
		for _, part := range shard.Slots {
			if part.Start <= slot && slot <= part.End {
				return slices.Index(m.ids, shard.Nodes[0].ID)
			}
		}
	}
	require.Fail(m.t, "nobody has it")
	return 0
}

// open begins to move a slot to the next server.
func (m *movable) open(slot int64) (from, to int) {
	m.t.Helper()
	from = m.owner(slot)
	to = (from + 1) % len(m.servers)
	m.do(to, "cluster", "setslot", slot, "importing", m.ids[from])
	m.do(from, "cluster", "setslot", slot, "migrating", m.ids[to])
	return from, to
}

// take moves keys of a slot that is open.
func (m *movable) take(from, to int, keys []string) {
	m.t.Helper()
	host, port, _ := strings.Cut(m.cluster.Servers[to].Addr(), ":")
	args := []any{"migrate", host, port, "", 0, 5000, "auth", m.cluster.Password(), "keys"}
	for _, key := range keys {
		args = append(args, key)
	}
	m.do(from, args...)
}

// settle ends the move of a slot.
func (m *movable) settle(slot int64, from, to int) {
	m.t.Helper()
	m.do(to, "cluster", "setslot", slot, "node", m.ids[to])
	m.do(from, "cluster", "setslot", slot, "node", m.ids[to])
}

// move moves a slot to the next server, key by key, and waits when some have been
// moved: those who come meanwhile find a part of it here and a part there.
func (m *movable) move(slot int64, halfway func()) {
	m.t.Helper()
	from, to := m.open(slot)
	for n, some := 0, 3; ; n, some = n+1, 500 {
		keys, err := m.do(from, "cluster", "getkeysinslot", slot, some).StringSlice()
		require.NoError(m.t, err)
		if len(keys) == 0 {
			break
		}
		m.take(from, to, keys)
		if n == 0 {
			halfway()
		}
	}
	m.settle(slot, from, to)
}

// While slots move from server to server nobody who uses the store is told: each call
// waits until it can be executed.
func TestSlotsMove(t *testing.T) {
	m := newMovable(t)
	client := m.client()
	s := newStore(t, client)
	var answers sync.Map // the first words of what servers said instead of an answer
	note := noting(func(_ string, err error) {
		if err != nil {
			word, _, _ := strings.Cut(err.Error(), " ")
			answers.Store(word, true)
		}
	})
	client.OnNewNode(func(node *redis.Client) { node.AddHook(note) })
	require.NoError(t, client.ForEachShard(t.Context(), func(_ context.Context, node *redis.Client) error {
		node.AddHook(note)
		return nil
	}))
	l := startLoad(t, s)
	require.NoError(t, s.AddCounts(t.Context(), []store.Count{{Account: "default", Hour: time.Unix(0, 0), Name: "n", N: 1}}))
	_, err := s.PutDocument(t.Context(), store.Document{Key: "k"})
	require.NoError(t, err)
	l.patience = time.Minute
	var others atomic.Int64
	for name, call := range map[string]func(ctx context.Context) error{
		"List": func(ctx context.Context) error {
			_, _, err := s.List(ctx, store.Filter{Account: "default"}, "", 10)
			return err
		},
		"Due": func(ctx context.Context) error {
			_, err := s.Due(ctx, time.Date(2500, 1, 1, 0, 0, 0, 0, time.UTC), time.Millisecond, 10)
			return err
		},
		"Stats":    func(ctx context.Context) error { _, err := s.Stats(ctx); return err },
		"Document": func(ctx context.Context) error { _, err := s.Document(ctx, "k"); return err },
		"History":  func(ctx context.Context) error { _, err := s.History(ctx, "k", 0, 10); return err },
		"ReadCounts": func(ctx context.Context) error {
			_, err := s.ReadCounts(ctx, "default", time.Unix(0, 0), time.Unix(3600, 0))
			return err
		},
		"DropCounts": func(ctx context.Context) error { return s.DropCounts(ctx, "default", time.Unix(-3600, 0)) },
	} {
		l.forever(func() {
			ctx, cancel := l.bounded()
			defer cancel()
			assert.NoError(t, call(ctx), name)
			others.Add(1)
		})
	}
	l.run()
	slots := map[int64]bool{}
	for _, key := range []string{"curfew:format"} {
		slots[client.ClusterKeySlot(t.Context(), key).Val()] = true
	}
	for n := range loadUsers {
		key := fmt.Sprintf("curfew:{%s}:g", loadUser(n).ID[:2])
		slots[client.ClusterKeySlot(t.Context(), key).Val()] = true
	}
	for _, server := range m.servers { // of the document and the counts
		for _, pattern := range []string{"curfew:{d:*", "curfew:{c:*"} {
			for _, key := range server.Keys(t.Context(), pattern).Val() {
				slots[client.ClusterKeySlot(t.Context(), key).Val()] = true
			}
		}
	}
	require.GreaterOrEqual(t, len(slots), loadUsers)
	for range 2 {
		for slot := range slots {
			m.move(slot, func() { time.Sleep(50 * time.Millisecond) })
		}
	}
	l.more()
	l.end()
	require.Zero(t, l.failed.Load(), "everybody was answered")
	require.Positive(t, others.Load())
	l.recount()
	for _, answer := range []string{"MOVED", "ASK", "TRYAGAIN"} {
		_, seen := answers.Load(answer)
		require.True(t, seen, "no server said %s: nothing was tried", answer)
	}
}

// inABucket makes three sessions of a subject in a bucket in which each key is there that
// a script declares: one that is claimed, one that is due next, and one that has ended.
func inABucket(t *testing.T, s *redisstore.Store, now time.Time) (claimed, due store.Session, slotOf string) {
	t.Helper()
	claimed, due = session("a", "alice"), session("b", "alice")
	ended, removed := session("c", "alice"), session("d", "alice")
	claimed.Due, due.Due = now.Add(-time.Hour), now.Add(time.Hour)
	for _, one := range []*store.Session{&claimed, &due, &ended, &removed} {
		require.NoError(t, s.Create(t.Context(), *one, 10))
		one.Revision = 1
	}
	ended.End, ended.Due = &store.End{At: now, Reason: policy.ReasonLogout}, time.Time{}
	_, err := s.Update(t.Context(), ended)
	require.NoError(t, err)
	require.NoError(t, s.Delete(t.Context(), removed.ID, removed.Revision))
	_, err = s.PutFence(t.Context(), store.Fence{Subject: due.Subject, At: due.Started.Add(-time.Hour), Reason: policy.ReasonLogout, Due: now.Add(time.Hour)})
	require.NoError(t, err)
	taken, err := s.Due(t.Context(), now, time.Minute, 1)
	require.NoError(t, err)
	require.Len(t, taken, 1)
	return claimed, due, fmt.Sprintf("curfew:{%s}:g", due.ID[:2])
}

// A key that becomes empty is gone, and while its slot moves, the server says that it is
// elsewhere: a step that had emptied it must not ask for it again, or a part of it is done.
func TestAStepOfASlotThatMovesIsWhole(t *testing.T) {
	m := newMovable(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	later := now.Add(2 * time.Hour)
	for name, c := range map[string]struct {
		step func(ctx context.Context, s *redisstore.Store, one store.Session) error
		done func(t *testing.T, s *redisstore.Store, one store.Session)
	}{
		"Admit": {
			func(ctx context.Context, s *redisstore.Store, one store.Session) error {
				return s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
					i := slices.IndexFunc(held, func(s store.Session) bool { return s.ID == one.ID })
					held[i].End, held[i].Due = &store.End{At: now, Reason: policy.ReasonLogout}, later
					return held[i : i+1], nil
				})
			},
			func(t *testing.T, s *redisstore.Store, one store.Session) {
				list, _, err := s.List(t.Context(), store.Filter{Subject: one.Subject, State: store.Ended}, "", 10)
				require.NoError(t, err)
				require.Len(t, list, 2)
				stats, err := s.Stats(t.Context())
				require.NoError(t, err)
				require.Equal(t, store.Stats{Unended: 1, Ended: 2, NextDue: now.Add(-time.Hour)}, stats)
				due, err := s.Due(t.Context(), later, 2*time.Hour, 10)
				require.NoError(t, err)
				require.Len(t, due, 2)
			},
		},
		"Update": {
			func(ctx context.Context, s *redisstore.Store, one store.Session) error {
				one.Due = later
				_, err := s.Update(ctx, one)
				return err
			},
			func(t *testing.T, s *redisstore.Store, one store.Session) {
				due, err := s.Due(t.Context(), later, 2*time.Hour, 10)
				require.NoError(t, err)
				require.Len(t, due, 2)
			},
		},
		"PutFence": {
			func(ctx context.Context, s *redisstore.Store, one store.Session) error {
				_, err := s.PutFence(ctx, store.Fence{Subject: one.Subject, At: now, Reason: policy.ReasonLogout, Due: later})
				return err
			},
			func(t *testing.T, s *redisstore.Store, one store.Session) {
				due, err := s.DueFences(t.Context(), later, 10)
				require.NoError(t, err)
				require.Len(t, due, 1)
			},
		},
		"PutDocument": {
			func(ctx context.Context, s *redisstore.Store, one store.Session) error {
				_, err := s.PutDocument(ctx, store.Document{Key: "k", Version: 2, Body: []byte("new"), NoHistory: true})
				return err
			},
			func(t *testing.T, s *redisstore.Store, one store.Session) {
				d, err := s.Document(t.Context(), "k")
				require.NoError(t, err)
				require.Equal(t, "new", string(d.Body))
				versions, err := s.History(t.Context(), "k", 0, 10)
				require.NoError(t, err)
				require.Len(t, versions, 1)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, server := range m.servers {
				require.NoError(t, server.FlushAll(t.Context()).Err())
			}
			client := m.client()
			s := newStore(t, client)
			_, one, key := inABucket(t, s, now)
			for version := range int64(2) {
				_, err := s.PutDocument(t.Context(), store.Document{Key: "k", Version: version, NoHistory: version > 0})
				require.NoError(t, err)
			}
			if name == "PutDocument" {
				for _, server := range m.servers {
					if keys := server.Keys(t.Context(), "curfew:{d:*").Val(); len(keys) > 0 {
						key = keys[0]
					}
				}
			}
			slot := client.ClusterKeySlot(t.Context(), key).Val()
			from, to := m.open(slot)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := c.step(ctx, s, one)
			m.do(from, "cluster", "setslot", slot, "stable")
			m.do(to, "cluster", "setslot", slot, "stable")
			require.NoError(t, err)
			c.done(t, s, one)
		})
	}
}

// An index may have been moved while a session that is in it was not yet.
func TestASessionThatIsMovedLaterIsWaitedFor(t *testing.T) {
	m := newMovable(t)
	client := m.client()
	s := newStore(t, client)
	_, one, key := inABucket(t, s, time.Now().UTC().Truncate(time.Microsecond))
	var waits atomic.Int64
	note := noting(func(_ string, err error) {
		if redis.HasErrorPrefix(err, "TRYAGAIN ") {
			waits.Add(1)
		}
	})
	require.NoError(t, client.ForEachShard(t.Context(), func(_ context.Context, node *redis.Client) error {
		node.AddHook(note)
		return nil
	}))
	for name, call := range map[string]func(ctx context.Context) error{
		"Admit": func(ctx context.Context) error {
			held := 0
			err := s.Admit(ctx, one.Subject, func(list []store.Session, _ store.Fence) ([]store.Session, error) {
				held = len(list)
				return nil, nil
			})
			assert.Equal(t, 2, held)
			return err
		},
		"List": func(ctx context.Context) error {
			list, _, err := s.List(ctx, store.Filter{Subject: one.Subject}, "", 10)
			assert.Len(t, list, 3)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			slot := client.ClusterKeySlot(t.Context(), key).Val()
			from, to := m.open(slot)
			keys, err := m.do(from, "cluster", "getkeysinslot", slot, 100).StringSlice()
			require.NoError(t, err)
			is := func(key string) bool { return strings.HasSuffix(key, ":s:"+one.ID) }
			m.take(from, to, slices.DeleteFunc(slices.Clone(keys), is))
			waits.Store(0)
			answered := make(chan error, 1)
			go func() { answered <- call(t.Context()) }()
			require.Eventually(t, func() bool { return waits.Load() >= 3 || len(answered) > 0 }, time.Minute, time.Millisecond)
			m.take(from, to, slices.DeleteFunc(keys, func(key string) bool { return !is(key) }))
			m.settle(slot, from, to)
			require.NoError(t, <-answered)
		})
	}
}

// A noting hook is told the errors of commands, each by itself.
type noting func(command string, err error)

func (note noting) DialHook(next redis.DialHook) redis.DialHook { return next }
func (note noting) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		note(cmd.Name(), err)
		return err
	}
}
func (note noting) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			note(cmd.Name(), cmd.Err())
		}
		return err
	}
}

// While somebody's script holds a server up, whoever reads or writes waits for it,
// as long as their context lasts.
func TestBusy(t *testing.T) {
	client := single(t)
	o := *client.Options()
	o.MaxRetries, o.ReadTimeout = -1, -1
	other := opened(t, redis.NewClient(&o))
	s := newStore(t, client)
	one := session("a", "alice")
	require.NoError(t, s.Create(t.Context(), one, 1))
	one.Revision = 1
	_, err := s.PutDocument(t.Context(), store.Document{Key: "k"})
	require.NoError(t, err)
	_, err = s.Update(t.Context(), one) // the server has the scripts
	require.NoError(t, err)
	one.Revision = 2
	require.NoError(t, client.ConfigSet(t.Context(), "busy-reply-threshold", "20").Err())
	defer client.ConfigSet(context.WithoutCancel(t.Context()), "busy-reply-threshold", "5000")
	var mu sync.Mutex
	refused := map[string]int{}
	client.AddHook(noting(func(command string, err error) {
		if redis.HasErrorPrefix(err, "BUSY ") {
			mu.Lock()
			refused[command]++
			mu.Unlock()
		}
	}))
	for name, c := range map[string]struct {
		command string
		call    func(ctx context.Context) error
	}{
		"Get":      {"evalsha", func(ctx context.Context) error { _, err := s.Get(ctx, one.ID); return err }},
		"Document": {"evalsha", func(ctx context.Context) error { _, err := s.Document(ctx, "k"); return err }},
		"List": {"evalsha", func(ctx context.Context) error {
			_, _, err := s.List(ctx, store.Filter{}, "", 10)
			return err
		}},
		"Update": {"evalsha", func(ctx context.Context) error {
			revision, err := s.Update(ctx, one)
			one.Revision = revision
			return err
		}},
		"Get with others": {"evalsha", func(ctx context.Context) error {
			return together(s, 32, 1, func(int) error { _, err := s.Get(ctx, one.ID); return err })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			slow := make(chan error, 1)
			go func() { slow <- other.Eval(t.Context(), "while true do end", []string{}).Err() }()
			require.Eventually(t, func() bool { return redis.HasErrorPrefix(other.Ping(t.Context()).Err(), "BUSY ") }, time.Minute, time.Millisecond)

			short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, err := s.Get(short, one.ID)
			require.ErrorIs(t, err, context.DeadlineExceeded)

			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			mu.Lock()
			clear(refused)
			mu.Unlock()
			answered := make(chan error, 1)
			go func() { answered <- c.call(ctx) }()
			require.Eventually(t, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return refused[c.command] >= 3
			}, time.Minute, time.Millisecond)
			require.NoError(t, other.ScriptKill(t.Context()).Err())
			require.NoError(t, <-answered)
			require.Error(t, <-slow)
		})
	}
}
