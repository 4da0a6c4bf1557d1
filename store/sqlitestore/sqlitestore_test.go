package sqlitestore_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

// openDB opens the database with parameters of the data source name.
func openDB(t testing.TB, path, params string) *sql.DB {
	db, err := sql.Open("sqlite3", "file:"+path+"?"+params)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	return db
}

const params = "_pragma=busy_timeout(1000)&_txlock=immediate"

func newStore(t testing.TB, db *sql.DB) *sqlitestore.Store {
	s, err := sqlitestore.New(context.Background(), db)
	require.NoError(t, err)
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		return newStore(t, openDB(t, filepath.Join(t.TempDir(), "s.db"), params))
	})
}
