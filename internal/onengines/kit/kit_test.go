// Package kit runs the kit of package providertest on a real database.
package kit

import (
	"database/sql"
	"flag"
	"os"
	"path/filepath"
	"testing"

	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/providertest"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// The tests that wait must not wait for each other: a kit is over when its
// longest test is.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "128"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func TestKitOnSQLite(t *testing.T) {
	t.Parallel()
	evicting := providertest.Limits()
	evicting.AtLimit = policy.EndOldest
	for name, x := range map[string]hooktest.Kit{
		"SQLite":                          {Limits: providertest.Limits(), SSO: true},
		"applications are told, eviction": {Limits: evicting, Told: true, Optest: optest.Config{Embedding: optest.AsLegacyServer}},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "sessions.db")+"?_pragma=busy_timeout(1000)&_txlock=immediate")
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, db.Close()) })
			x.Hook.Store, err = sqlitestore.New(t.Context(), db)
			require.NoError(t, err)
			x.Run(t)
		})
	}
}
