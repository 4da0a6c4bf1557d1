package redisstore_test

import (
	"context"
	"os"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/sample"
	"github.com/curfew-oidc/curfew/store/redisstore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m)) }

// single returns a client of the shared server, which is emptied.
func single(t testing.TB) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(enginetest.Redis(t).URL())
	require.NoError(t, err)
	o.ContextTimeoutEnabled = true
	return opened(t, redis.NewClient(o))
}

func cluster(t testing.TB) *redis.ClusterClient {
	t.Helper()
	c := enginetest.RedisCluster(t)
	return opened(t, redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), Password: c.Password(), ContextTimeoutEnabled: true}))
}

// opened returns a client that is closed when the test ends.
func opened[C redis.UniversalClient](t testing.TB, c C) C {
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func newStore(t testing.TB, client redis.UniversalClient) *redisstore.Store {
	t.Helper()
	s, err := redisstore.New(context.Background(), client)
	require.NoError(t, err)
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return newStore(t, single(t)) })
}

func TestContractCluster(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return newStore(t, cluster(t)) })
}

// session returns a session of that name.
func session(name, subject string) store.Session {
	s := sample.Typical()
	s.Subject.ID = subject
	s.ID = store.Bucket(s.Subject) + "." + name
	return s
}
