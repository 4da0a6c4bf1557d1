package redisstore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

func TestUnreadable(t *testing.T) {
	storetest.RunUnreadable(t, func(t *testing.T) (store.Store, storetest.Damage) { return damaged(t, single(t)) })
}

func TestUnreadableCluster(t *testing.T) {
	storetest.RunUnreadable(t, func(t *testing.T) (store.Store, storetest.Damage) { return damaged(t, cluster(t)) })
}

// What docs/operations.md has an operator do leaves nothing behind.
func TestRemovalByHand(t *testing.T) {
	ctx := t.Context()
	client := single(t)
	s, damage := damaged(t, client)
	one, two := session("a", "alice"), session("b", "alice")
	one.Due = one.Started
	require.NoError(t, s.Create(ctx, one, 2))
	require.NoError(t, s.Create(ctx, two, 2))
	damage.Session(one.ID, "x")
	bucket := "curfew:{" + one.ID[:2] + "}:"
	for keys := client.Scan(ctx, 0, bucket+"i:*", 0).Iterator(); keys.Next(ctx); {
		require.NoError(t, client.ZRem(ctx, keys.Val(), one.ID).Err())
	}
	require.NoError(t, client.Del(ctx, bucket+"s:"+one.ID).Err())
	due, err := s.Due(ctx, one.Due, time.Minute, 10)
	require.NoError(t, err)
	require.Empty(t, due)
	page, _, err := s.List(ctx, store.Filter{Subject: one.Subject}, "", 10)
	require.NoError(t, err)
	require.Len(t, page, 1)
	require.NoError(t, s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		require.Len(t, held, 1)
		return []store.Session{session("c", "alice")}, nil
	}))
	stats, err := s.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, 2, stats.Unended)
}

func damaged(t *testing.T, client redis.UniversalClient) (*redisstore.Store, storetest.Damage) {
	// The head of a record stays: the document begins with its format.
	head := func(record string) string {
		n := strings.Index(record, "{\"")
		require.Positive(t, n)
		return record[:n]
	}
	ctx := t.Context()
	return newStore(t, client), storetest.Damage{
		Session: func(id, document string) {
			key := "curfew:{" + id[:2] + "}:s:" + id
			record, err := client.Get(ctx, key).Result()
			require.NoError(t, err)
			require.NoError(t, client.Set(ctx, key, head(record)+document, 0).Err())
		},
		Fence: func(subject store.Subject, document string) {
			key := "curfew:{" + store.Bucket(subject) + "}:f"
			for term, record := range client.HGetAll(ctx, key).Val() {
				if strings.HasSuffix(term, subject.ID) {
					require.NoError(t, client.HSet(ctx, key, term, head(record)+document).Err())
				}
			}
		},
	}
}
