package linear

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/pgstore"
)

func TestPostgresStore(t *testing.T) {
	url := enginetest.PostgresURL(t)
	var handles []store.Sessions
	for range 2 { // as of two processes
		pool, err := pgxpool.New(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		s, err := pgstore.New(t.Context(), pool)
		require.NoError(t, err)
		handles = append(handles, s)
	}
	linearizable(t, 100, handles...)
}
