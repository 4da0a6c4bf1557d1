package engine_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
)

func TestRedis(t *testing.T) {
	ctx := t.Context()
	r, err := engine.NewRedis("maxmemory-policy=allkeys-lru")
	require.NoError(t, err)
	defer r.Close()
	do := func(command ...string) []string {
		t.Helper()
		value, err := r.Do(ctx, command...)
		require.NoError(t, err)
		return value
	}
	require.Equal(t, []string{"OK"}, do("SET", "k", "v"))
	require.Equal(t, []string{"OK"}, do("SET", "empty", ""))
	require.Equal(t, []string{""}, do("GET", "empty"))
	require.Empty(t, do("GET", "nothing"))
	require.Equal(t, []string{"2"}, do("DBSIZE"))
	for name, want := range map[string]string{"maxmemory-policy": "allkeys-lru", "appendonly": "yes", "appendfsync": "always", "save": ""} {
		require.Equal(t, []string{name, want}, do("CONFIG", "GET", name))
	}
	_, err = r.Do(ctx, "NOSUCH")
	require.ErrorContains(t, err, "unknown command")
	// Nobody gets in without the password.
	_, err = engine.Stranger(ctx, r, "GET", "k")
	require.ErrorContains(t, err, "NOAUTH")

	require.NoError(t, r.Kill())
	_, err = r.Do(ctx, "PING")
	require.Error(t, err)
	require.NoError(t, r.Start())
	require.Equal(t, []string{"v"}, do("GET", "k"), "the data is there, at the same address")
	require.NoError(t, r.Stop())
	require.NoError(t, r.Start())
	require.Equal(t, []string{"v"}, do("GET", "k"))
	require.NoError(t, r.Close())
	_, err = r.Do(ctx, "PING")
	require.Error(t, err)
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
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		took := 0
		for _, r := range c.Servers {
			if _, err := r.Do(t.Context(), "SET", key, "v"); err == nil {
				took++
			} else {
				require.ErrorContains(t, err, "MOVED")
			}
		}
		require.Equal(t, 1, took, "the one that has its slot")
	}
	n := 0
	for _, r := range c.Servers {
		size, err := r.Do(t.Context(), "DBSIZE")
		require.NoError(t, err)
		one, err := strconv.Atoi(size[0])
		require.NoError(t, err)
		require.Positive(t, one, "each has its share")
		n += one
	}
	require.Equal(t, 6, n)
}

func TestRedisSentinel(t *testing.T) {
	ctx := t.Context()
	s, err := engine.NewRedisSentinel()
	require.NoError(t, err)
	defer s.Close()
	primary, err := s.Primary(ctx)
	require.NoError(t, err)
	require.Same(t, s.Servers[0], primary)
	_, err = primary.Do(ctx, "SET", "k", "v")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		value, err := s.Servers[1].Do(ctx, "GET", "k")
		return err == nil && len(value) == 1 && value[0] == "v"
	}, 2*time.Minute, 50*time.Millisecond, "the replica has it")

	require.NoError(t, primary.Kill())
	require.Eventually(t, func() bool {
		now, err := s.Primary(ctx)
		if err != nil || now != s.Servers[1] {
			return false
		}
		_, err = now.Do(ctx, "SET", "k2", "v")
		return err == nil
	}, 2*time.Minute, 50*time.Millisecond)
	value, err := s.Servers[1].Do(ctx, "GET", "k")
	require.NoError(t, err)
	require.Equal(t, []string{"v"}, value)
}
