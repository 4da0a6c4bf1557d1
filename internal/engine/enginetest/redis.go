package enginetest

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
)

// once starts a server when it is first asked for, and has Main close it.
func once[S interface{ Close() error }](start func() (S, error)) func() (S, error) {
	return sync.OnceValues(func() (S, error) {
		s, err := start()
		if err == nil {
			atExit(s.Close)
		}
		return s, err
	})
}

var (
	single   = once(func() (*engine.Redis, error) { return engine.NewRedis() })
	cluster  = once(func() (*engine.RedisCluster, error) { return engine.NewRedisCluster() })
	sentinel = once(func() (*engine.RedisSentinel, error) { return engine.NewRedisSentinel() })
)

func empty(t testing.TB, servers ...*engine.Redis) {
	t.Helper()
	for _, r := range servers {
		_, err := r.Do(t.Context(), "FLUSHALL")
		require.NoError(t, err)
	}
}

// Redis returns the test binary's Redis server, emptied. All tests share it: one
// that stops it must start one of its own, and none that uses it may run in
// parallel.
func Redis(t testing.TB) *engine.Redis {
	t.Helper()
	r, err := single()
	require.NoError(t, err)
	empty(t, r)
	return r
}

// RedisCluster returns the test binary's Redis cluster, in the same way.
func RedisCluster(t testing.TB) *engine.RedisCluster {
	t.Helper()
	c, err := cluster()
	require.NoError(t, err)
	empty(t, c.Servers...)
	return c
}

// RedisSentinel returns the test binary's Redis servers behind sentinels, in the
// same way.
func RedisSentinel(t testing.TB) *engine.RedisSentinel {
	t.Helper()
	s, err := sentinel()
	require.NoError(t, err)
	primary, err := s.Primary(t.Context())
	require.NoError(t, err)
	empty(t, primary)
	return s
}
