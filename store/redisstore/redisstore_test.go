package redisstore_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/store"
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
	open := func(t *testing.T) storetest.Counting { return newStore(t, single(t)) }
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

func TestContractCluster(t *testing.T) {
	open := func(t *testing.T) storetest.Counting { return newStore(t, cluster(t)) }
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

// session returns a session of that name.
func session(name, subject string) store.Session {
	s := sample.Typical()
	s.Subject.ID = subject
	s.ID = store.Bucket(s.Subject) + "." + name
	return s
}

// A damaged record is an error of whoever comes upon it, and no more.
func TestDamagedRecordsInTheServer(t *testing.T) {
	ctx := t.Context()
	client := single(t)
	s := newStore(t, client)
	one := session("a", "alice")
	one.Due = one.Started
	require.NoError(t, s.Create(ctx, one, 1))
	other := session("b", "bob")
	other.Due = one.Due.Add(time.Second)
	require.NoError(t, s.Create(ctx, other, 1))
	one.Revision = 1
	key := "curfew:{" + one.ID[:2] + "}:s:" + one.ID
	whole, err := client.Get(ctx, key).Result()
	require.NoError(t, err)
	damaged := map[string]string{"no terms": whole[:25] + "\x00\x00\x00\x00" + whole[29:], "endless terms": whole[:25] + "\xff\xff\xff\xff" + whole[29:],
		"no document": whole[:len(whole)/2], "no session": "x"}
	for n := 1; n < 40; n++ {
		damaged[fmt.Sprint(n, " bytes")] = whole[:n]
	}
	for name, record := range damaged {
		require.NoError(t, client.Set(ctx, key, record, 0).Err())
		_, err := s.Get(ctx, one.ID)
		require.ErrorIs(t, err, store.ErrUnreadable, name)
		require.NotErrorIs(t, err, store.ErrNotFound, name)
		page, _, err := s.List(ctx, store.Filter{}, "", 10)
		require.ErrorIs(t, err, store.ErrUnreadable, name)
		require.Len(t, page, 1, name)
		require.ErrorIs(t, s.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, nil }), store.ErrUnreadable, name)
		due, err := s.Due(ctx, other.Due, 0, 10)
		require.Len(t, due, 1, "%s: %v", name, err)
		if err != nil {
			require.ErrorIs(t, err, store.ErrUnreadable, name)
		}
		if name != "no document" {
			require.Error(t, s.Delete(ctx, one.ID, 1), name)
			next := one
			next.Client = "another"
			_, err = s.Update(ctx, next)
			require.Error(t, err, name)
		}
		require.Equal(t, record, client.Get(ctx, key).Val(), name)
	}
}
