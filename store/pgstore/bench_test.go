package pgstore_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/storebench"
)

func BenchmarkStore(b *testing.B) {
	storebench.Run(b, func(b *testing.B) store.Store {
		return newStore(b, openPool(b, enginetest.PostgresURL(b)))
	})
}

// BenchmarkBare is what a refresh needs of the engine: a row of the same size
// read and durably updated by its key.
func BenchmarkBare(b *testing.B) {
	pool := openPool(b, enginetest.PostgresURL(b))
	ctx := b.Context()
	one := session("a", "alice")
	document, err := one.MarshalJSON()
	require.NoError(b, err)
	_, err = pool.Exec(ctx, `CREATE TABLE bare (id bytea PRIMARY KEY, revision bigint, due bigint, document bytea)`)
	require.NoError(b, err)
	_, err = pool.Exec(ctx, `INSERT INTO bare VALUES ($1, 1, 1, $2)`, []byte(one.ID), document)
	require.NoError(b, err)
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var revision int64
			var got []byte
			if err := pool.QueryRow(ctx, `SELECT revision, document FROM bare WHERE id = $1`, []byte(one.ID)).Scan(&revision, &got); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Update", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			tag, err := pool.Exec(ctx, `UPDATE bare SET revision = revision + 1, document = $2 WHERE id = $1`, []byte(one.ID), document)
			if err == nil && tag.RowsAffected() != 1 {
				err = fmt.Errorf("%d rows", tag.RowsAffected())
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
