package kv

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m)) }

// Every store passes the same tests. It is opened twice, as by two processes.
func TestStores(t *testing.T) {
	stores := map[string]func(t *testing.T) (one, two Store){
		"memory": func(*testing.T) (one, two Store) {
			s := NewMemory()
			return s, s
		},
		"sqlite": func(t *testing.T) (one, two Store) {
			path := filepath.Join(t.TempDir(), "kv.db")
			open := func() Store {
				db, err := sql.Open("sqlite3", "file:"+path+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)&_txlock=immediate")
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, db.Close()) })
				s, err := NewSQLite(t.Context(), db)
				require.NoError(t, err)
				return s
			}
			return open(), open()
		},
		"postgres": func(t *testing.T) (one, two Store) {
			url := enginetest.PostgresURL(t)
			return openPostgres(t, url, ""), openPostgres(t, url, "")
		},
		// An operator may have set it for the database.
		"postgres, serializable": func(t *testing.T) (one, two Store) {
			url := enginetest.PostgresURL(t)
			return openPostgres(t, url, "serializable"), openPostgres(t, url, "serializable")
		},
	}
	for name, options := range redisServers {
		stores[name] = func(t *testing.T) (one, two Store) {
			o := options(t)
			return openRedis(t, o), openRedis(t, o)
		}
	}
	for name, open := range stores {
		for _, test := range []struct {
			name string
			run  func(t *testing.T, one, two Store)
		}{
			{"round trip", testRoundTrip},
			{"refused records", testRefused},
			{"compare and swap", testSwap},
			{"keys by byte", testKeys},
			{"delete once", testDeleteOnce},
			{"groups", testGroups},
			{"many in a group", testManyInGroup},
			{"group while it grows", testGrowingGroup},
			{"sweep", testSweep},
			{"sweep at the same time", testSweepRace},
			{"one winner", testOneWinner},
			{"put or delete", testPutOrDelete},
			{"cancelled", testCancelled},
		} {
			t.Run(name+"/"+test.name, func(t *testing.T) {
				one, two := open(t)
				test.run(t, one, two)
			})
		}
	}
}

var at = time.Date(2030, 1, 2, 3, 4, 5, 678901000, time.UTC)

func testRoundTrip(t *testing.T, s, two Store) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	for i, value := range [][]byte{nil, {}, {0, 255, '\''}, []byte(`{"a":"ü"}`), large} {
		key := fmt.Sprint("k/", i)
		require.NoError(t, s.Put(t.Context(), Record{Key: key, Group: "g'", Value: value, Expires: at.In(time.FixedZone("x", 3600))}))
		r, err := two.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, len(value), len(r.Value))
		require.Equal(t, string(value), string(r.Value))
		require.Equal(t, "g'", r.Group)
		require.Equal(t, at, r.Expires)
		require.EqualValues(t, 1, r.Revision)
		if len(r.Value) > 0 { // the caller's to change
			r.Value[0]++
			again, err := s.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, string(value), string(again.Value))
		}
	}
	_, err := s.Get(t.Context(), "missing")
	require.ErrorIs(t, err, ErrNotFound)
}

func testRefused(t *testing.T, s, _ Store) {
	for _, r := range []Record{{Expires: at}, {Key: "k"}, {Key: "k", Expires: at, Revision: -1}} {
		require.Error(t, s.Put(t.Context(), r))
	}
}

func testSwap(t *testing.T, s, two Store) {
	r := Record{Key: "k", Value: []byte("1"), Expires: at}
	missing := r
	missing.Revision = 1
	require.ErrorIs(t, s.Put(t.Context(), missing), ErrConflict)
	require.NoError(t, s.Put(t.Context(), r))
	require.ErrorIs(t, s.Put(t.Context(), r), ErrConflict)
	r.Revision, r.Value, r.Group, r.Expires = 1, []byte("2"), "g", at.Add(time.Hour)
	require.NoError(t, two.Put(t.Context(), r))
	require.ErrorIs(t, s.Put(t.Context(), r), ErrConflict)
	got, err := s.Get(t.Context(), "k")
	require.NoError(t, err)
	r.Revision = 2
	require.Equal(t, r, got)

	// Another life of a key begins anew.
	require.NoError(t, s.Delete(t.Context(), "k"))
	require.ErrorIs(t, two.Put(t.Context(), r), ErrConflict)
	r.Revision = 0
	require.NoError(t, two.Put(t.Context(), r))
}

func testKeys(t *testing.T, s, _ Store) {
	keys := []string{"a", "A", "a ", "ä", "a\u0308", "a\x00", "a\x00b", "a%", "a:{b}"}
	for _, key := range keys {
		require.NoError(t, s.Put(t.Context(), Record{Key: key, Value: []byte(key), Expires: at}))
	}
	for _, key := range keys {
		r, err := s.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, key, string(r.Value))
	}
}

func testDeleteOnce(t *testing.T, s, two Store) {
	require.NoError(t, s.Put(t.Context(), Record{Key: "k", Expires: at}))
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if err := []Store{s, two}[i%2].Delete(context.Background(), "k"); err == nil {
				won.Add(1)
			} else {
				assert.ErrorIs(t, err, ErrNotFound)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, won.Load())
	require.ErrorIs(t, s.Delete(t.Context(), "k"), ErrNotFound)
}

func testGroups(t *testing.T, s, two Store) {
	for key, group := range map[string]string{"a": "g", "b": "g", "c": "G", "d": "", "e": "ga", "f": "g\x00"} {
		require.NoError(t, s.Put(t.Context(), Record{Key: key, Group: group, Expires: at}))
	}
	require.NoError(t, s.Put(t.Context(), Record{Key: "b", Group: "other", Expires: at, Revision: 1}))
	require.NoError(t, two.DeleteGroup(t.Context(), "g"))
	require.NoError(t, s.DeleteGroup(t.Context(), "g"))
	require.NoError(t, s.DeleteGroup(t.Context(), ""))
	_, err := s.Get(t.Context(), "a")
	require.ErrorIs(t, err, ErrNotFound)
	for _, key := range []string{"b", "c", "d", "e", "f"} {
		_, err := s.Get(t.Context(), key)
		require.NoError(t, err, key)
	}
	require.NoError(t, s.DeleteGroup(t.Context(), "other"))
	_, err = s.Get(t.Context(), "b")
	require.ErrorIs(t, err, ErrNotFound, "it is in the group that it was put in last")
}

func testManyInGroup(t *testing.T, s, two Store) {
	for i := range 300 {
		require.NoError(t, s.Put(t.Context(), Record{Key: fmt.Sprint(i), Group: []string{"g", "h"}[i%2], Expires: at}))
	}
	require.NoError(t, two.DeleteGroup(t.Context(), "g"))
	for i := range 300 {
		_, err := s.Get(t.Context(), fmt.Sprint(i))
		require.Equal(t, i%2 == 0, errors.Is(err, ErrNotFound), "%d: %v", i, err)
	}
}

// What joins a group while it is deleted is deleted with it or by the next
// DeleteGroup: none is lost sight of.
func testGrowingGroup(t *testing.T, s, two Store) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 40 {
				assert.NoError(t, s.Put(context.Background(), Record{Key: fmt.Sprint(i, "/", j), Group: "g", Expires: at}))
			}
		})
		wg.Go(func() {
			for range 10 {
				assert.NoError(t, []Store{s, two}[i%2].DeleteGroup(context.Background(), "g"))
			}
		})
	}
	wg.Wait()
	require.NoError(t, two.DeleteGroup(t.Context(), "g"))
	n, err := s.Sweep(t.Context(), at, 1000)
	require.NoError(t, err)
	require.Zero(t, n)
}

func testSweep(t *testing.T, s, _ Store) {
	for i := range 5 {
		require.NoError(t, s.Put(t.Context(), Record{Key: fmt.Sprint(i), Group: "g", Expires: at.Add(time.Duration(i) * time.Microsecond)}))
	}
	n, err := s.Sweep(t.Context(), at.Add(-time.Microsecond), 10)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = s.Sweep(t.Context(), at.Add(2*time.Microsecond), 2)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	n, err = s.Sweep(t.Context(), at.Add(2*time.Microsecond), 2)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = s.Get(t.Context(), "2")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = s.Get(t.Context(), "3")
	require.NoError(t, err)

	// One that was put again expires later, and one of a group goes with it.
	require.NoError(t, s.Put(t.Context(), Record{Key: "3", Group: "h", Expires: at.Add(time.Hour), Revision: 1}))
	n, err = s.Sweep(t.Context(), at.Add(time.Minute), 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, s.DeleteGroup(t.Context(), "g"))
	_, err = s.Get(t.Context(), "3")
	require.NoError(t, err)
}

// Each record is removed, and counted, by one of those who sweep.
func testSweepRace(t *testing.T, s, two Store) {
	const records = 300
	for i := range records {
		require.NoError(t, s.Put(t.Context(), Record{Key: fmt.Sprint(i), Group: fmt.Sprint(i % 7), Expires: at}))
	}
	var swept atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range records / 10 {
				n, err := []Store{s, two}[i%2].Sweep(context.Background(), at, 10)
				assert.NoError(t, err)
				assert.LessOrEqual(t, n, 10)
				swept.Add(int64(n))
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, records, swept.Load())
}

func testOneWinner(t *testing.T, s, two Store) {
	for revision := range int64(10) {
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				err := []Store{s, two}[i%2].Put(context.Background(), Record{Key: "k", Value: []byte{byte(i)}, Expires: at, Revision: revision})
				if err == nil {
					won.Add(1 + 100*int32(i))
				} else {
					assert.ErrorIs(t, err, ErrConflict)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load()%100)
		r, err := s.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, revision+1, r.Revision)
		require.Equal(t, []byte{byte(won.Load() / 100)}, r.Value, "what the winner wrote")
	}
}

// However writes and deletions of a record race, one deletion takes it away, at
// most one write got in before, and nothing brings it back.
func testPutOrDelete(t *testing.T, s, two Store) {
	for round := range 20 {
		key := fmt.Sprint(round)
		require.NoError(t, s.Put(t.Context(), Record{Key: key, Group: "g", Expires: at}))
		var put, deleted atomic.Int32
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				s := []Store{s, two}[i/2%2]
				if i%2 == 0 {
					err := s.Put(context.Background(), Record{Key: key, Group: "h", Expires: at, Revision: 1})
					if err == nil {
						put.Add(1)
					} else {
						assert.ErrorIs(t, err, ErrConflict)
					}
					return
				}
				err := s.Delete(context.Background(), key)
				if err == nil {
					deleted.Add(1)
				} else {
					assert.ErrorIs(t, err, ErrNotFound)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, deleted.Load())
		require.LessOrEqual(t, put.Load(), int32(1))
		_, err := s.Get(t.Context(), key)
		require.ErrorIs(t, err, ErrNotFound)
	}
	n, err := s.Sweep(t.Context(), at, 100)
	require.NoError(t, err)
	require.Zero(t, n)
}

func testCancelled(t *testing.T, s, _ Store) {
	require.NoError(t, s.Put(t.Context(), Record{Key: "k", Expires: at}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, "k")
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, s.Put(ctx, Record{Key: "l", Expires: at}), context.Canceled)
	require.ErrorIs(t, s.Delete(ctx, "k"), context.Canceled)
	require.ErrorIs(t, s.DeleteGroup(ctx, "g"), context.Canceled)
	_, err = s.Sweep(ctx, at, 1)
	require.ErrorIs(t, err, context.Canceled)
}

func openPostgres(t *testing.T, url, isolation string) *Postgres {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	if isolation != "" {
		config.ConnConfig.RuntimeParams["default_transaction_isolation"] = isolation
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s, err := NewPostgres(t.Context(), pool)
	require.NoError(t, err)
	return s
}

// Processes that start at the same time make one table, and a program that is
// older than it does not start.
func TestPostgresMigration(t *testing.T) {
	url := enginetest.PostgresURL(t)
	var wg sync.WaitGroup
	pools := make([]*pgxpool.Pool, 8)
	for i := range pools {
		var err error
		pools[i], err = pgxpool.New(t.Context(), url)
		require.NoError(t, err)
		defer pools[i].Close()
		wg.Go(func() {
			_, err := NewPostgres(context.Background(), pools[i])
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	var version, tables int
	require.NoError(t, pools[0].QueryRow(t.Context(), `SELECT max(version), (SELECT count(*) FROM pg_class WHERE relname = 'curfew_op_records') FROM curfew_op_schema`).Scan(&version, &tables))
	require.Equal(t, []int{len(migrations), 1}, []int{version, tables})

	_, err := pools[0].Exec(t.Context(), `INSERT INTO curfew_op_schema (version) VALUES ($1)`, len(migrations)+1)
	require.NoError(t, err)
	_, err = NewPostgres(t.Context(), pools[0])
	require.ErrorContains(t, err, "made by a newer program")
}

// Two that remove the same records may wait for each other: PostgreSQL ends one
// of the two, and it is tried again.
func TestPostgresDeadlock(t *testing.T) {
	s := openPostgres(t, enginetest.PostgresURL(t), "")
	for _, key := range []string{"a", "b"} {
		require.NoError(t, s.Put(t.Context(), Record{Key: key, Group: "g", Expires: at}))
	}
	tx, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), `SET LOCAL deadlock_timeout = '1min'`) // the other one notices first
	require.NoError(t, err)
	const lock = `SELECT 1 FROM curfew_op_records WHERE key = $1 FOR UPDATE`
	_, err = tx.Exec(t.Context(), lock, []byte("b"))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.DeleteGroup(context.Background(), "g") }()
	require.Eventually(t, func() bool {
		var waiting int
		err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		return err == nil && waiting == 1
	}, time.Minute, 5*time.Millisecond)
	_, err = tx.Exec(t.Context(), lock, []byte("a"))
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-done)
	_, err = s.Get(t.Context(), "a")
	require.ErrorIs(t, err, ErrNotFound)
}

// No statement looks through the whole table.
func TestPostgresPlans(t *testing.T) {
	s := openPostgres(t, enginetest.PostgresURL(t), "")
	_, err := s.pool.Exec(t.Context(), `INSERT INTO curfew_op_records (key, grp, value, expires, revision)
		SELECT convert_to(i::text, 'UTF8'), convert_to((i % 5000)::text, 'UTF8'), '', i, 1 FROM generate_series(1, 20000) i`)
	require.NoError(t, err)
	_, err = s.pool.Exec(t.Context(), `ANALYZE curfew_op_records`)
	require.NoError(t, err)
	for statement, args := range map[string][]any{
		getSQL: {[]byte("1")}, updateSQL: {[]byte{}, []byte{}, 1, 2, []byte("1"), 1}, deleteSQL: {[]byte("1")},
		deleteGroupSQL: {[]byte("1")}, sweepSQL: {100, 10},
	} {
		rows, err := s.pool.Query(t.Context(), "EXPLAIN "+statement, args...)
		require.NoError(t, err, statement)
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err, statement)
		require.NotContains(t, strings.Join(plan, "\n"), "Seq Scan", statement)
		require.True(t, slices.ContainsFunc(plan, func(line string) bool { return strings.Contains(line, "curfew_op_records_") }), plan)
	}
}

// A database that was read-only for a while is written to when it is over, by
// connections that were made meanwhile as well; and a read whose connection the server
// ends is done on another.
func TestPostgresThatChanges(t *testing.T) {
	ctx := t.Context()
	url := enginetest.PostgresURL(t)
	s := openPostgres(t, url, "")
	admin, err := pgx.Connect(ctx, url+"&default_transaction_read_only=off")
	require.NoError(t, err)
	defer admin.Close(context.WithoutCancel(ctx))
	alter := func(what string) {
		t.Helper()
		_, err := admin.Exec(ctx, `DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' `+what+`'; END $$`)
		require.NoError(t, err)
	}
	// connect makes four connections, as they are made now.
	connect := func() {
		t.Helper()
		var all []*pgxpool.Conn
		for range 4 {
			c, err := s.pool.Acquire(ctx)
			require.NoError(t, err)
			all = append(all, c)
		}
		for _, c := range all {
			c.Release()
		}
	}
	for name, write := range map[string]func() error{
		"put":          func() error { return s.Put(ctx, Record{Key: "k", Group: "g", Expires: at}) },
		"delete":       func() error { return s.Delete(ctx, "gone") },
		"delete group": func() error { return s.DeleteGroup(ctx, "g") },
		"sweep":        func() error { _, err := s.Sweep(ctx, at, 1); return err },
	} {
		alter("SET default_transaction_read_only = on")
		s.pool.Reset()
		connect()
		require.ErrorContains(t, write(), "25006", name)
		connect()
		alter("RESET default_transaction_read_only")
		failed := 0
		for err := write(); err != nil && !errors.Is(err, ErrNotFound); err = write() {
			require.ErrorContains(t, err, "25006", name)
			failed++
			require.LessOrEqual(t, failed, 2, "connections that cannot write stay: %s", name)
		}
	}
	connect()
	_, err = admin.Exec(ctx, `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	require.NoError(t, err)
	_, err = s.Get(ctx, "gone")
	require.ErrorIs(t, err, ErrNotFound)
}

// What is written to a file that nobody finds again is not acknowledged, and nothing is
// read there.
func TestSQLiteFileThatGoes(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "f"), 0o700))
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, "f", "kv.db")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)&_txlock=immediate")
	require.NoError(t, err)
	defer db.Close()
	s, err := NewSQLite(ctx, db)
	require.NoError(t, err)
	require.NoError(t, s.Put(ctx, Record{Key: "k", Expires: at}))
	get := func() error { _, err := s.Get(ctx, "k"); return err }
	require.NoError(t, os.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "g")))
	require.Eventually(t, func() bool { return get() != nil }, time.Minute, 10*time.Millisecond)
	require.NotErrorIs(t, get(), ErrNotFound)
	require.ErrorContains(t, s.Put(ctx, Record{Key: "l", Expires: at}), "was removed or replaced")
	require.NoError(t, os.Rename(filepath.Join(dir, "g"), filepath.Join(dir, "f")))
	require.Eventually(t, func() bool { return get() == nil }, time.Minute, 10*time.Millisecond)
}
