package redisstore_test

import (
	"strings"
	"testing"

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
