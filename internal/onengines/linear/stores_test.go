package linear

import (
	"database/sql"
	"path/filepath"
	"testing"

	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

func TestMemstore(t *testing.T) {
	linearizable(t, 400, memstore.New())
}

// Two handles on one file know as little of each other as two processes do.
func TestSQLiteStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	var handles []store.Sessions
	for range 2 {
		db, err := sql.Open("sqlite3", "file:"+path+"?_pragma=busy_timeout(1000)&_txlock=immediate")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		s, err := sqlitestore.New(t.Context(), db)
		require.NoError(t, err)
		handles = append(handles, s)
	}
	linearizable(t, 50, handles...)
}
