package kv

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/internal/faultnet"
)

// A cutter dials connections that can be cut after a script has run, before its
// answer comes.
type cutter struct{ armed, cut atomic.Int32 }

func (c *cutter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return &cutConn{Conn: conn, cutter: c}, err
}

type cutConn struct {
	net.Conn
	cutter *cutter
	cut    bool
}

func (c *cutConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("evalsha")) && c.cutter.armed.Add(-1) == 0 {
		c.cut = true
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.cut && err == nil {
		c.cutter.cut.Add(1)
		_ = c.Conn.Close()
		return 0, io.EOF
	}
	return n, err
}

// A write that took effect and was not answered is not sent again by the client,
// or the second answer would be that another one was first.
func TestRedisLostAnswer(t *testing.T) {
	for name, options := range redisServers {
		t.Run(name, func(t *testing.T) {
			c := &cutter{}
			o := options(t)
			o.Dialer = c.dial
			client := redis.NewUniversalClient(&o)
			t.Cleanup(func() { require.NoError(t, client.Close()) })
			s := NewRedis(client)
			r := Record{Key: "k", Group: "g", Expires: at}
			require.NoError(t, s.Put(t.Context(), r)) // the server knows the script

			c.armed.Store(1)
			r.Revision = 1
			err := s.Put(t.Context(), r)
			require.Error(t, err)
			require.NotErrorIs(t, err, ErrConflict)
			require.EqualValues(t, 1, c.cut.Load())
			got, err := s.Get(t.Context(), "k")
			require.NoError(t, err)
			require.EqualValues(t, 2, got.Revision)

			require.ErrorIs(t, s.Delete(t.Context(), "other"), ErrNotFound)
			c.armed.Store(1)
			err = s.Delete(t.Context(), "k")
			require.Error(t, err)
			require.NotErrorIs(t, err, ErrNotFound)
			require.EqualValues(t, 2, c.cut.Load())
			_, err = s.Get(t.Context(), "k")
			require.ErrorIs(t, err, ErrNotFound)
		})
	}
}

// A server that forgets its scripts is told again.
func TestRedisFlushedScripts(t *testing.T) {
	for name, options := range redisServers {
		t.Run(name, func(t *testing.T) {
			s := openRedis(t, options(t))
			for i := range 3 {
				require.NoError(t, s.client.ScriptFlush(t.Context()).Err())
				require.NoError(t, s.Put(t.Context(), Record{Key: "k", Group: "g", Expires: at, Revision: int64(i)}))
				require.NoError(t, s.client.ScriptFlush(t.Context()).Err())
				require.ErrorIs(t, s.Delete(t.Context(), "other"), ErrNotFound)
			}
			require.NoError(t, s.DeleteGroup(t.Context(), "g"))
			_, err := s.Get(t.Context(), "k")
			require.ErrorIs(t, err, ErrNotFound)
		})
	}
}

// What was found to be removed, and was written again before it was, stays.
func TestRedisRemovesWhatIsStillSo(t *testing.T) {
	s := openRedis(t, redisServers["redis"](t))
	require.NoError(t, s.Put(t.Context(), Record{Key: "k", Group: "new", Expires: at}))
	for condition, value := range map[string]string{
		"group": memberPrefix("old"), "expired": fmt.Sprint(at.UnixMicro() - 1),
	} {
		n, err := s.remove(t.Context(), bucketOf("k"), condition, value, []string{"k"})
		require.NoError(t, err)
		require.Zero(t, n, condition)
	}
	n, err := s.remove(t.Context(), bucketOf("k"), "group", memberPrefix("new"), []string{"k", "other"})
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// Nothing is left when all records are gone, and all keys have the prefix.
func TestRedisKeys(t *testing.T) {
	o := redisServers["redis"](t)
	s := openRedis(t, o)
	for i, key := range []string{"a", "b", "c", "d"} {
		require.NoError(t, s.Put(t.Context(), Record{Key: key, Group: []string{"g", ""}[i%2], Expires: at}))
	}
	keys, err := s.client.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		require.True(t, strings.HasPrefix(key, "curfew-op:{"), key)
	}
	require.NoError(t, s.Put(t.Context(), Record{Key: "d", Group: "moves", Expires: at, Revision: 1}))
	require.NoError(t, s.Put(t.Context(), Record{Key: "d", Expires: at, Revision: 2}))
	require.NoError(t, s.Delete(t.Context(), "a"))
	require.NoError(t, s.DeleteGroup(t.Context(), "g"))
	_, err = s.Sweep(t.Context(), at, 10)
	require.NoError(t, err)
	n, err := s.client.DBSize(t.Context()).Result()
	require.NoError(t, err)
	require.Zero(t, n)
}

func openRedis(t *testing.T, o redis.UniversalOptions) *Redis {
	t.Helper()
	client := redis.NewUniversalClient(&o)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return NewRedis(client)
}

// redisServers are what the store is tested on: each is emptied when it is asked
// for.
var redisServers = map[string]func(t *testing.T) redis.UniversalOptions{
	"redis": func(t *testing.T) redis.UniversalOptions {
		server := enginetest.Redis(t)
		return redis.UniversalOptions{Addrs: []string{server.Addr()}, Password: server.Password(), ContextTimeoutEnabled: true}
	},
	"redis sentinel": func(t *testing.T) redis.UniversalOptions {
		server := enginetest.RedisSentinel(t)
		return redis.UniversalOptions{Addrs: server.Addrs(), MasterName: server.Name(), Password: server.Password(), ContextTimeoutEnabled: true}
	},
	"redis cluster": func(t *testing.T) redis.UniversalOptions {
		server := enginetest.RedisCluster(t)
		return redis.UniversalOptions{Addrs: server.Addrs(), IsClusterMode: true, Password: server.Password(), ContextTimeoutEnabled: true}
	},
}

// After a switch behind a name the old primary is a replica that falls behind. Nothing
// is read there, by connections from before the switch either.
func TestRedisSwitchBehindAName(t *testing.T) {
	first, err := engine.NewRedis()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, first.Close()) })
	second, err := first.NewReplica()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, second.Close()) })
	name, err := faultnet.Listen(first.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, name.Close()) })
	open := func(addr string) *redis.Client {
		client := redis.NewClient(&redis.Options{Addr: addr, Password: first.Password(), ContextTimeoutEnabled: true})
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		return client
	}
	for call, use := range map[string]func(s *Redis) error{
		"Get": func(s *Redis) error { _, err := s.Get(t.Context(), "k"); return err },
		"Put": func(s *Redis) error {
			return s.Put(t.Context(), Record{Key: "k", Group: "g", Expires: at, Revision: 1})
		},
		"Delete":      func(s *Redis) error { return s.Delete(t.Context(), "k") },
		"DeleteGroup": func(s *Redis) error { return s.DeleteGroup(t.Context(), "g") },
		"Sweep": func(s *Redis) error {
			n, err := s.Sweep(t.Context(), at, 10)
			if err == nil && n != 1 {
				err = fmt.Errorf("%d removed", n)
			}
			return err
		},
	} {
		t.Run(call, func(t *testing.T) {
			old, next := open(first.Addr()), open(second.Addr())
			require.NoError(t, next.Do(t.Context(), "replicaof", "no", "one").Err())
			require.NoError(t, old.Do(t.Context(), "replicaof", "no", "one").Err())
			require.NoError(t, old.FlushAll(t.Context()).Err())
			require.NoError(t, next.FlushAll(t.Context()).Err())
			name.Redirect(first.Addr())
			s := NewRedis(open(name.Addr()))
			_, err := s.Get(t.Context(), "k")
			require.ErrorIs(t, err, ErrNotFound) // by a connection to the first one
			require.NoError(t, old.Do(t.Context(), "replicaof", "127.0.0.1", "1").Err())
			name.Redirect(second.Addr())
			require.NoError(t, NewRedis(next).Put(t.Context(), Record{Key: "k", Group: "g", Expires: at}))
			require.NoError(t, use(s))
			if call != "Get" && call != "Put" {
				_, err := s.Get(t.Context(), "k")
				require.ErrorIs(t, err, ErrNotFound)
			}
		})
	}
}

// A set that becomes empty is gone, and while its slot moves, the server says that it is
// elsewhere: a write that had emptied it must not ask for it again.
func TestRedisSlotThatMoves(t *testing.T) {
	o := redisServers["redis cluster"](t)
	s := openRedis(t, o)
	cluster := s.client.(*redis.ClusterClient)
	require.NoError(t, s.Put(t.Context(), Record{Key: "k", Group: "one", Expires: at}))
	slot := cluster.ClusterKeySlot(t.Context(), groupKey(bucketOf("k"))).Val()
	owner, err := cluster.MasterForKey(t.Context(), groupKey(bucketOf("k")))
	require.NoError(t, err)
	shards, err := cluster.ClusterShards(t.Context()).Result()
	require.NoError(t, err)
	mine := owner.Do(t.Context(), "cluster", "myid").Val()
	i := slices.IndexFunc(shards, func(s redis.ClusterShard) bool { return s.Nodes[0].ID != mine })
	require.NoError(t, owner.Do(t.Context(), "cluster", "setslot", slot, "migrating", shards[i].Nodes[0].ID).Err())
	defer owner.Do(context.WithoutCancel(t.Context()), "cluster", "setslot", slot, "stable")
	for n, group := range []string{"one", "two"} {
		require.NoError(t, s.Put(t.Context(), Record{Key: "k", Group: group, Expires: at, Revision: int64(n + 1)}))
	}
	require.NoError(t, owner.Do(t.Context(), "cluster", "setslot", slot, "stable").Err())
	require.NoError(t, s.DeleteGroup(t.Context(), "two"))
	_, err = s.Get(t.Context(), "k")
	require.ErrorIs(t, err, ErrNotFound)
}
