package sqlitestore_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

// params are the parameters that the package comment recommends.
const params = "_pragma=busy_timeout(1000)&_txlock=immediate"

// openDB opens the database with parameters of the data source name.
func openDB(t testing.TB, path, params string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?"+params)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	return db
}

func newStore(t testing.TB, db *sql.DB) *sqlitestore.Store {
	t.Helper()
	s, err := sqlitestore.New(context.Background(), db)
	require.NoError(t, err)
	return s
}

func TestContract(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T) storetest.Counting {
		return newStore(t, openDB(t, filepath.Join(t.TempDir(), "s.db"), params))
	}
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

// With one connection everything waits for everything, and nothing forever.
func TestContractOneConnection(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T) storetest.Counting {
		db := openDB(t, filepath.Join(t.TempDir(), "s.db"), params)
		db.SetMaxOpenConns(1)
		return newStore(t, db)
	}
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

// Two handles on one file know as little of each other as two processes do, and
// the race detector sees both. The second one is set up as unluckily as can be:
// SQLite gives up at once when the database is busy, and a transaction that read
// first has to begin again if it lost a race.
func TestContractTwoHandles(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T) storetest.Counting {
		path := filepath.Join(t.TempDir(), "s.db")
		return &alternating{stores: [2]storetest.Counting{
			newStore(t, openDB(t, path, params)),
			newStore(t, openDB(t, path, "_pragma=busy_timeout(0)&_pragma=synchronous(off)&_txlock=deferred")),
		}}
	}
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

// alternating passes each call to another one of two stores.
type alternating struct {
	calls  atomic.Int64
	stores [2]storetest.Counting
}

func (a *alternating) next() storetest.Counting { return a.stores[a.calls.Add(1)%2] }

func (a *alternating) Get(ctx context.Context, id string) (store.Session, error) {
	return a.next().Get(ctx, id)
}
func (a *alternating) Create(ctx context.Context, s store.Session, max int) error {
	return a.next().Create(ctx, s, max)
}
func (a *alternating) Update(ctx context.Context, s store.Session) (int64, error) {
	return a.next().Update(ctx, s)
}
func (a *alternating) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	return a.next().Admit(ctx, subject, decide)
}
func (a *alternating) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	return a.next().List(ctx, f, cursor, limit)
}
func (a *alternating) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	return a.next().Due(ctx, now, lease, limit)
}
func (a *alternating) Delete(ctx context.Context, id string, revision int64) error {
	return a.next().Delete(ctx, id, revision)
}
func (a *alternating) Stats(ctx context.Context) (store.Stats, error) {
	return a.next().Stats(ctx)
}
func (a *alternating) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	return a.next().PutFence(ctx, f)
}
func (a *alternating) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	return a.next().MoveFence(ctx, f, due)
}
func (a *alternating) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	return a.next().DueFences(ctx, now, limit)
}
func (a *alternating) Document(ctx context.Context, key string) (store.Document, error) {
	return a.next().Document(ctx, key)
}
func (a *alternating) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	return a.next().PutDocument(ctx, d)
}
func (a *alternating) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	return a.next().History(ctx, key, before, limit)
}
func (a *alternating) DropDocument(ctx context.Context, key string) error {
	return a.next().DropDocument(ctx, key)
}
func (a *alternating) AddCounts(ctx context.Context, counts []store.Count) error {
	return a.next().AddCounts(ctx, counts)
}
func (a *alternating) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	return a.next().ReadCounts(ctx, account, from, to)
}
func (a *alternating) DropCounts(ctx context.Context, account string, before time.Time) error {
	return a.next().DropCounts(ctx, account, before)
}
func (a *alternating) CountUnended(ctx context.Context, account string) (int, error) {
	return a.next().CountUnended(ctx, account)
}

// session returns a session of that name.
func session(name, subject string) store.Session {
	s := sample.Typical()
	s.Subject.ID = subject
	s.ID = store.Bucket(s.Subject) + "." + name
	return s
}

func TestNewFailsWithoutWAL(t *testing.T) {
	db, err := sql.Open("sqlite3", ":memory:")
	require.NoError(t, err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	_, err = sqlitestore.New(t.Context(), db)
	require.ErrorContains(t, err, `journal_mode is "memory" and cannot be set to WAL`)

	path := filepath.Join(t.TempDir(), "s.db")
	plain := openDB(t, path, "")
	_, err = plain.Exec(`CREATE TABLE mine (x)`)
	require.NoError(t, err)
	_, err = sqlitestore.New(t.Context(), openDB(t, path, "mode=ro"))
	require.Error(t, err)
	_, err = sqlitestore.New(t.Context(), openDB(t, filepath.Join(t.TempDir(), "none", "s.db"), params))
	require.Error(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = sqlitestore.New(ctx, plain)
	require.ErrorIs(t, err, context.Canceled)
}

// Many processes and goroutines may start at the same time on no database.
func TestNewTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	var wg sync.WaitGroup
	for i := range 8 {
		db := openDB(t, path, params)
		wg.Go(func() {
			s, err := sqlitestore.New(t.Context(), db)
			if assert.NoError(t, err) {
				assert.NoError(t, s.Create(t.Context(), session(fmt.Sprint(i), "alice"), 100))
			}
		})
	}
	wg.Wait()
	list, _, err := newStore(t, openDB(t, path, params)).List(t.Context(), store.Filter{}, "", 100)
	require.NoError(t, err)
	require.Len(t, list, 8)
}

func TestNewerSchema(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"), params)
	newStore(t, db)
	newStore(t, db) // nothing to do
	_, err := db.Exec(`INSERT INTO curfew_schema (version) VALUES (99)`)
	require.NoError(t, err)
	_, err = sqlitestore.New(t.Context(), db)
	require.ErrorContains(t, err, "schema version 99, made by a newer version of Curfew; this one knows up to 1")
}

// The database is the caller's: the store keeps to its own tables, and the
// caller's transactions and the store's wait for each other and not forever.
func TestSharesTheDatabase(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"), params)
	_, err := db.Exec(`CREATE TABLE sessions (id TEXT PRIMARY KEY, n INTEGER) STRICT; PRAGMA user_version = 42; INSERT INTO sessions VALUES ('k', 0)`)
	require.NoError(t, err)
	s := newStore(t, db)

	const each = 25
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for n := range each {
				if !assert.NoError(t, s.Create(ctx, session(fmt.Sprint(i, n), "alice"), 1000)) {
					return
				}
			}
		})
		wg.Go(func() {
			for range each {
				tx, err := db.BeginTx(ctx, nil)
				if !assert.NoError(t, err) {
					return
				}
				var n int
				assert.NoError(t, tx.QueryRowContext(ctx, `SELECT n FROM sessions WHERE id = 'k'`).Scan(&n))
				_, err = tx.ExecContext(ctx, `UPDATE sessions SET n = ?1 WHERE id = 'k'`, n+1)
				assert.NoError(t, err)
				assert.NoError(t, tx.Commit())
			}
		})
	}
	wg.Wait()
	list, _, err := s.List(ctx, store.Filter{}, "", 1000)
	require.NoError(t, err)
	require.Len(t, list, 3*each)
	var n, version int
	require.NoError(t, db.QueryRow(`SELECT n FROM sessions`).Scan(&n))
	require.NoError(t, db.QueryRow(`PRAGMA user_version`).Scan(&version))
	require.Equal(t, []int{3 * each, 42}, []int{n, version})

	rows, err := db.Query(`SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' AND name <> 'sessions'`)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var name string
		require.NoError(t, rows.Scan(&name))
		require.True(t, strings.HasPrefix(name, "curfew_"), name)
	}
	require.NoError(t, rows.Err())
}

// While another process holds the database's lock, writes wait until their
// context ends and reads do not wait at all; afterwards all goes on.
func TestLockedByAnother(t *testing.T) {
	for _, params := range []string{params, "_pragma=busy_timeout(0)&_txlock=deferred", "_pragma=busy_timeout(600000)"} {
		t.Run(params, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.db")
			s := newStore(t, openDB(t, path, params))
			require.NoError(t, s.Create(t.Context(), session("a", "alice"), 10))

			other, err := openDB(t, path, "").Conn(t.Context())
			require.NoError(t, err)
			defer other.Close()
			_, err = other.ExecContext(t.Context(), `BEGIN IMMEDIATE`)
			require.NoError(t, err)

			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			one, err := s.Get(ctx, session("a", "alice").ID)
			require.NoError(t, err)
			_, err = s.Update(ctx, one)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, store.ErrConflict)
			ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			err = s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) { return held, nil })
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, store.ErrConflict)

			done := make(chan error)
			go func() {
				_, err := s.Update(t.Context(), one)
				done <- err
			}()
			_, err = other.ExecContext(t.Context(), `COMMIT`)
			require.NoError(t, err)
			require.NoError(t, <-done)
		})
	}
}

// A database from before a table was added gets it, and stays good for the program
// that made it: the version does not change.
func TestAdditions(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"), params)
	newStore(t, db)
	_, err := db.Exec(`DROP TABLE curfew_counts`)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, err := sqlitestore.New(t.Context(), db)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	s := newStore(t, db)
	require.NoError(t, s.AddCounts(t.Context(), []store.Count{{Account: "a", Hour: time.Unix(0, 0), Name: "n", N: 1}}))
	var version int
	require.NoError(t, db.QueryRow(`SELECT max(version) FROM curfew_schema`).Scan(&version))
	require.Equal(t, 1, version)
}
