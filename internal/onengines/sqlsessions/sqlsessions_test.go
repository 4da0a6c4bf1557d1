package sqlsessions_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	sqlite3 "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/middleware/sessiontest"
	"github.com/curfew-oidc/curfew/middleware/sqlsessions"
)

var at = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func open(t *testing.T, driver, source string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, source)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func sqlite(t *testing.T) *sql.DB {
	return open(t, "sqlite3", "file:"+filepath.Join(t.TempDir(), "s.db")+"?_pragma=busy_timeout(10000)&_pragma=synchronous(off)")
}

func newStore(t *testing.T, db *sql.DB) middleware.SessionStore {
	t.Helper()
	s, err := sqlsessions.New(t.Context(), db)
	require.NoError(t, err)
	return s
}

func TestContractSQLite(t *testing.T) {
	t.Parallel()
	sessiontest.Run(t, func(t *testing.T) middleware.SessionStore { return newStore(t, sqlite(t)) })
}

func TestContractPostgres(t *testing.T) {
	t.Parallel()
	sessiontest.Run(t, func(t *testing.T) middleware.SessionStore {
		return newStore(t, open(t, "pgx", enginetest.PostgresURL(t)))
	})
}

// A database may have another isolation by default than PostgreSQL.
func TestContractPostgresSerializable(t *testing.T) {
	t.Parallel()
	sessiontest.Run(t, func(t *testing.T) middleware.SessionStore {
		u, err := url.Parse(enginetest.PostgresURL(t))
		require.NoError(t, err)
		query := u.Query()
		query.Set("default_transaction_isolation", "serializable")
		u.RawQuery = query.Encode()
		return newStore(t, open(t, "pgx", u.String()))
	})
}

// Processes that start together make the tables together.
func TestNewTogether(t *testing.T) {
	t.Parallel()
	for name, db := range map[string]*sql.DB{"sqlite": sqlite(t), "postgres": open(t, "pgx", enginetest.PostgresURL(t))} {
		t.Run(name, func(t *testing.T) {
			var wg sync.WaitGroup
			errs := make([]error, 8)
			for i := range errs {
				wg.Go(func() { _, errs[i] = sqlsessions.New(t.Context(), db) })
			}
			wg.Wait()
			for _, err := range errs {
				require.NoError(t, err)
			}
		})
	}
}

// Who may not make tables finds those that are there.
func TestTablesOfAnother(t *testing.T) {
	t.Parallel()
	db := sqlite(t)
	_, err := db.ExecContext(t.Context(), sqlsessions.Schema)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), "PRAGMA query_only = on")
	require.NoError(t, err)
	newStore(t, db)

	_, err = sqlsessions.New(t.Context(), open(t, "sqlite3", "file:"+filepath.Join(t.TempDir(), "missing", "s.db")))
	require.ErrorContains(t, err, "make the tables")
}

// A database that was read-only for a while, as a name is that leads to a standby, is
// written to when it is over, by a pool that made its connections meanwhile.
func TestReadOnlyForAWhile(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	source := enginetest.PostgresURL(t)
	admin := open(t, "pgx", source+"&default_transaction_read_only=off")
	alter := func(what string) {
		t.Helper()
		_, err := admin.ExecContext(ctx, `DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' `+what+`'; END $$`)
		require.NoError(t, err)
	}
	newStore(t, open(t, "pgx", source))
	for name, write := range map[string]func(middleware.SessionStore) error{
		"create": func(s middleware.SessionStore) error {
			return s.Create(ctx, at, middleware.StoredSession{ID: "a", Expires: at})
		},
		"replace": func(s middleware.SessionStore) error {
			return s.Replace(ctx, middleware.StoredSession{ID: "b", Expires: at})
		},
		"delete": func(s middleware.SessionStore) error { return s.Delete(ctx, "a") },
		"mark":   func(s middleware.SessionStore) error { _, err := s.Mark(ctx, "m", at, at, at); return err },
	} {
		alter("SET default_transaction_read_only = on")
		db := open(t, "pgx", source)
		db.SetMaxIdleConns(8)
		s := newStore(t, db)
		fill := func() {
			t.Helper()
			var all []*sql.Conn
			for range 8 {
				c, err := db.Conn(ctx)
				require.NoError(t, err)
				all = append(all, c)
			}
			for _, c := range all {
				require.NoError(t, c.Close())
			}
		}
		fill()
		require.ErrorContains(t, write(s), "25006", name)
		fill()
		alter("RESET default_transaction_read_only")
		if err := write(s); name == "replace" {
			require.ErrorIs(t, err, middleware.ErrConflict)
		} else {
			require.NoError(t, err, name)
		}
		_, err := s.Get(ctx, "none")
		require.ErrorIs(t, err, middleware.ErrNotFound)
	}
}

// What is written to a file that nobody finds again is not acknowledged, and nothing is
// read there.
func TestFileThatGoes(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "f"), 0o700))
	s := newStore(t, open(t, "sqlite3", "file:"+filepath.Join(dir, "f", "s.db")+"?_pragma=busy_timeout(10000)"))
	session := middleware.StoredSession{ID: "a", Expires: at}
	require.NoError(t, s.Create(ctx, at.Add(-time.Hour), session))
	calls := map[string]func() error{
		"create": func() error { return s.Create(ctx, at.Add(-time.Hour), middleware.StoredSession{ID: "b", Expires: at}) },
		"get":    func() error { _, err := s.Get(ctx, "a"); return err },
		"find":   func() error { _, err := s.Find(ctx, "e"); return err },
		"delete": func() error { return s.Delete(ctx, "none") },
		"mark":   func() error { _, err := s.Mark(ctx, "m", at, at, at.Add(-time.Hour)); return err },
		"marked": func() error { _, err := s.Marked(ctx, "m"); return err },
	}
	require.NoError(t, os.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "g")))
	require.Eventually(t, func() bool { return calls["get"]() != nil }, time.Minute, 10*time.Millisecond)
	for name, call := range calls {
		require.ErrorContains(t, call(), "was removed or replaced", name)
	}
	require.NoError(t, os.Rename(filepath.Join(dir, "g"), filepath.Join(dir, "f")))
	require.Eventually(t, func() bool { return calls["get"]() == nil }, time.Minute, 10*time.Millisecond)
	for name, call := range calls {
		require.NoError(t, call(), name)
	}
}

// badConn is a connection that the driver says is broken, at the next statement.
type badConn struct {
	driver.Conn
	bad *atomic.Bool
}

func (c *badConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if c.bad.CompareAndSwap(true, false) {
		return nil, driver.ErrBadConn
	}
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
}

type badConnector struct {
	driver.Connector
	bad atomic.Bool
}

func (c *badConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	return &badConn{conn, &c.bad}, err
}

// A connection that is broken before anything was sent is not the caller's matter.
func TestBrokenConnection(t *testing.T) {
	t.Parallel()
	connector, err := (&sqlite3.SQLite{}).OpenConnector("file:" + filepath.Join(t.TempDir(), "s.db"))
	require.NoError(t, err)
	bad := &badConnector{Connector: connector}
	db := sql.OpenDB(bad)
	defer db.Close()
	s := newStore(t, db)
	require.NoError(t, s.Create(t.Context(), at, middleware.StoredSession{ID: "a", Expires: at}))
	bad.bad.Store(true)
	require.NoError(t, s.Replace(t.Context(), middleware.StoredSession{ID: "a", Version: 1, Expires: at}))
	require.False(t, bad.bad.Load())
	got, err := s.Get(t.Context(), "a")
	require.NoError(t, err)
	require.EqualValues(t, 2, got.Version)
}
