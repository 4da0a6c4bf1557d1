package pgstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/storetest"
)

func TestUnreadable(t *testing.T) {
	t.Parallel()
	url := enginetest.PostgresURL(t)
	storetest.RunUnreadable(t, func(t *testing.T) (store.Store, storetest.Damage) {
		pool := openPool(t, url, inSchema(t, url))
		write := func(query string, args ...any) {
			tag, err := pool.Exec(t.Context(), query, args...)
			require.NoError(t, err)
			require.EqualValues(t, 1, tag.RowsAffected())
		}
		return newStore(t, pool), storetest.Damage{
			Session: func(id, document string) {
				write(`UPDATE curfew_sessions SET document = $1 WHERE id = $2`, []byte(document), []byte(id))
			},
			Fence: func(subject store.Subject, document string) {
				write(`UPDATE curfew_fences SET document = $1 WHERE encode(subject, 'escape') LIKE '%' || $2`, []byte(document), subject.ID)
			},
		}
	})
}
