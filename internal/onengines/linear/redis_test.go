package linear

import (
	"os"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m)) }

// redisHandles returns stores of two clients, as of two processes.
func redisHandles(t *testing.T, options *redis.UniversalOptions) []store.Sessions {
	t.Helper()
	options.ContextTimeoutEnabled = true
	var handles []store.Sessions
	for range 2 {
		client := redis.NewUniversalClient(options)
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		s, err := redisstore.New(t.Context(), client)
		require.NoError(t, err)
		handles = append(handles, s)
	}
	return handles
}

func TestRedisStore(t *testing.T) {
	server := enginetest.Redis(t)
	linearizable(t, 100, redisHandles(t, &redis.UniversalOptions{Addrs: []string{server.Addr()}, Password: server.Password()})...)
}

func TestRedisStoreInACluster(t *testing.T) {
	cluster := enginetest.RedisCluster(t)
	linearizable(t, 100, redisHandles(t, &redis.UniversalOptions{Addrs: cluster.Addrs(), Password: cluster.Password()})...)
}
