package onengines

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/pgstore"
	"github.com/curfew-oidc/curfew/store/redisstore"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m)) }

// everyStore opens a store of each engine.
var everyStore = map[string]func(t *testing.T) store.Store{
	"memory": func(*testing.T) store.Store { return memstore.New() },
	"SQLite": func(t *testing.T) store.Store {
		s, _ := openSQLite(t, filepath.Join(t.TempDir(), "sessions.db"))
		return s
	},
	"PostgreSQL": func(t *testing.T) store.Store { return openPostgres(t, enginetest.PostgresURL(t)) },
	"Redis": func(t *testing.T) store.Store {
		s, _ := openRedis(t, startRedis(t, "appendonly=yes", "appendfsync=everysec"))
		return s
	},
}

// openSQLite opens a store in a file, which is closed after the test.
func openSQLite(t *testing.T, file string) (*sqlitestore.Store, *sql.DB) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+file+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s, err := sqlitestore.New(t.Context(), db)
	require.NoError(t, err)
	return s, db
}

func openPostgres(t *testing.T, url string) *pgstore.Store {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s, err := pgstore.New(t.Context(), pool)
	require.NoError(t, err)
	return s
}

// startRedis starts a server of the test's own.
func startRedis(t *testing.T, settings ...string) *engine.Redis {
	t.Helper()
	server, err := engine.NewRedis(settings...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return server
}

func openRedis(t *testing.T, server *engine.Redis) (*redisstore.Store, *redis.Client) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), Password: server.Password(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	s, err := redisstore.New(t.Context(), client)
	require.NoError(t, err)
	return s, client
}
