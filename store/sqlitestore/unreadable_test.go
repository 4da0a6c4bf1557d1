package sqlitestore_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/storetest"
)

func TestUnreadable(t *testing.T) {
	t.Parallel()
	storetest.RunUnreadable(t, func(t *testing.T) (store.Store, storetest.Damage) {
		db := openDB(t, filepath.Join(t.TempDir(), "s.db"), params)
		write := func(query string, args ...any) {
			result, err := db.ExecContext(t.Context(), query, args...)
			require.NoError(t, err)
			n, err := result.RowsAffected()
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
		}
		return newStore(t, db), storetest.Damage{
			Session: func(id, document string) {
				write(`UPDATE curfew_sessions SET document = ? WHERE id = ?`, []byte(document), id)
			},
			Fence: func(subject store.Subject, document string) {
				write(`UPDATE curfew_fences SET document = ? WHERE issuer = ? AND subject = ?`, []byte(document), subject.Issuer, subject.ID)
			},
		}
	})
}
