package engine_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
)

func TestRedis(t *testing.T) {
	ctx := t.Context()
	r, err := engine.NewRedis("maxmemory-policy=allkeys-lru")
	require.NoError(t, err)
	defer r.Close()
	o, err := redis.ParseURL(r.URL())
	require.NoError(t, err)
	c := redis.NewClient(o)
	defer c.Close()
	require.NoError(t, c.Set(ctx, "k", "v", 0).Err())
	for name, want := range map[string]string{"maxmemory-policy": "allkeys-lru", "appendonly": "yes", "appendfsync": "always", "save": ""} {
		got, err := c.ConfigGet(ctx, name).Result()
		require.NoError(t, err)
		require.Equal(t, want, got[name])
	}
	// Nobody gets in without the password.
	stranger := redis.NewClient(&redis.Options{Addr: r.Addr()})
	defer stranger.Close()
	require.ErrorContains(t, stranger.Get(ctx, "k").Err(), "NOAUTH")

	require.NoError(t, r.Kill())
	require.Error(t, c.Ping(ctx).Err())
	require.NoError(t, r.Start())
	require.Equal(t, "v", c.Get(ctx, "k").Val(), "the data is there, at the same address")
	require.NoError(t, r.Stop())
	require.NoError(t, r.Start())
	require.Equal(t, "v", c.Get(ctx, "k").Val())
	require.NoError(t, r.Close())
	require.Error(t, c.Ping(ctx).Err())
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	for _, entry := range left {
		require.NotContains(t, entry.Name(), r.Addr())
	}
}

func TestRedisCluster(t *testing.T) {
	c, err := engine.NewRedisCluster()
	require.NoError(t, err)
	defer c.Close()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), Password: c.Password()})
	defer client.Close()
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		require.NoError(t, client.Set(t.Context(), key, "v", 0).Err())
	}
	n := 0
	require.NoError(t, client.ForEachMaster(t.Context(), func(context.Context, *redis.Client) error { return nil }))
	for _, r := range c.Servers {
		one := redis.NewClient(&redis.Options{Addr: r.Addr(), Password: r.Password()})
		size, err := one.DBSize(t.Context()).Result()
		require.NoError(t, err)
		require.Positive(t, size, "each has its share")
		n += int(size)
		require.NoError(t, one.Close())
	}
	require.Equal(t, 6, n)
}

func TestRedisSentinel(t *testing.T) {
	ctx := t.Context()
	s, err := engine.NewRedisSentinel()
	require.NoError(t, err)
	defer s.Close()
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: s.Name(), SentinelAddrs: s.Addrs(), Password: s.Password()})
	defer client.Close()
	require.NoError(t, client.Set(ctx, "k", "v", 0).Err())
	primary, err := s.Primary(ctx)
	require.NoError(t, err)
	require.Same(t, s.Servers[0], primary)
	require.EqualValues(t, 1, client.Wait(ctx, 1, time.Minute).Val(), "the replica has it")

	require.NoError(t, primary.Kill())
	require.Eventually(t, func() bool {
		now, err := s.Primary(ctx)
		return err == nil && now == s.Servers[1] && client.Set(ctx, "k2", "v", 0).Err() == nil
	}, 2*time.Minute, 50*time.Millisecond)
	require.Equal(t, "v", client.Get(ctx, "k").Val())
}
