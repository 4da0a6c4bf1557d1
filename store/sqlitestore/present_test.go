package sqlitestore_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/sqlitefile"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// usable returns the error of a call that writes, and requires that others have it
// too.
func usable(t *testing.T, s *sqlitestore.Store) error {
	t.Helper()
	ctx := t.Context()
	subject := session("", "alice").Subject
	err := s.Admit(ctx, subject, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, nil })
	if err == nil {
		return nil
	}
	calls := map[string]error{"Create": s.Create(ctx, session("x", "alice"), 10)}
	_, calls["Get"] = s.Get(ctx, session("a", "alice").ID)
	_, calls["Update"] = s.Update(ctx, session("a", "alice"))
	_, _, calls["List"] = s.List(ctx, store.Filter{}, "", 1)
	_, calls["Due"] = s.Due(ctx, time.Now(), 0, 1)
	_, calls["PutDocument"] = s.PutDocument(ctx, store.Document{Key: "k"})
	_, calls["Document"] = s.Document(ctx, "k")
	_, calls["CountUnended"] = s.CountUnended(ctx, "a")
	_, calls["Stats"] = s.Stats(ctx)
	calls["Delete"] = s.Delete(ctx, "none", 1)
	for name, err := range calls {
		require.Error(t, err, name)
		for _, answer := range []error{store.ErrNotFound, store.ErrConflict, store.ErrExists, store.ErrFull} {
			require.NotErrorIs(t, err, answer, name)
		}
		require.ErrorContains(t, err, "removed or replaced while it is open", name)
	}
	return err
}

// What is written to a file that nobody finds again is not acknowledged, and nothing
// is read there: that the database, its folder or its log of writes is gone is noticed
// by whoever uses it, and when it is back it is used again.
func TestFilesThatGo(t *testing.T) {
	t.Parallel()
	rename := func(from, to string) func(dir string) error {
		return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	}
	remove := func(name string) func(dir string) error {
		return func(dir string) error { return os.RemoveAll(filepath.Join(dir, name)) }
	}
	for _, c := range []struct {
		name, what string
		go_        func(dir string) error
		back       func(dir string) error // nil: it cannot be
	}{
		{"the file is removed", "s.db was", remove("f/s.db"), nil},
		{"the file is moved", "s.db was", rename("f/s.db", "f/t.db"), rename("f/t.db", "f/s.db")},
		{"the folder is removed", "s.db was", remove("f"), nil},
		{"the folder is moved", "s.db was", rename("f", "g"), rename("g", "f")},
		{"the log is removed", "s.db-wal was", remove("f/s.db-wal"), nil},
		{"the log is moved", "s.db-wal was", rename("f/s.db-wal", "f/x"), rename("f/x", "f/s.db-wal")},
		{"the log's index is removed", "s.db-shm was", remove("f/s.db-shm"), nil},
		{"another file is in its place", "it is another file", func(dir string) error {
			// A backup that is put back while something runs.
			other := openDB(t, filepath.Join(dir, "other.db"), params)
			newStore(t, other)
			if err := other.Close(); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "other.db"), filepath.Join(dir, "f/s.db"))
		}, nil},
		{"another process makes the log anew", "s.db-wal was", func(dir string) error {
			path := filepath.Join(dir, "f/s.db")
			if err := os.Remove(path + "-wal"); err != nil {
				return err
			}
			_, err := openDB(t, path, "").Exec(`CREATE TABLE other (n)`)
			_ = err // it finds an index that is not of this log
			return nil
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "f"), 0o700))
			s := newStore(t, openDB(t, filepath.Join(dir, "f/s.db"), params))
			require.NoError(t, s.Create(t.Context(), session("a", "alice"), 10))
			require.NoError(t, usable(t, s))
			require.NoError(t, c.go_(dir))
			require.Eventually(t, func() bool { return usable(t, s) != nil }, time.Minute, 10*time.Millisecond)
			require.ErrorContains(t, usable(t, s), c.what)
			if c.back == nil {
				for range 3 { // nor does it come back by itself
					time.Sleep(sqlitefile.LookEvery)
					require.Error(t, usable(t, s))
				}
				return
			}
			require.NoError(t, c.back(dir))
			require.Eventually(t, func() bool { return usable(t, s) == nil }, time.Minute, 10*time.Millisecond)
			_, err := s.Get(t.Context(), session("a", "alice").ID)
			require.NoError(t, err)
		})
	}
}

// A log that is removed with the last connection, as it is where none stays open, and
// made with the next one is no other log.
func TestLogsComeAndGo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s.db")
	db := openDB(t, path, params)
	db.SetMaxIdleConns(-1)
	s := newStore(t, db)
	for range 4 {
		require.NoError(t, usable(t, s))
		_, err := os.Stat(path + "-wal")
		require.ErrorIs(t, err, os.ErrNotExist, "each call has closed its connection")
		time.Sleep(sqlitefile.LookEvery / 2)
	}
	other, err := openDB(t, path, params).Conn(t.Context()) // has it open
	require.NoError(t, err)
	require.NoError(t, other.PingContext(context.Background()))
	time.Sleep(sqlitefile.LookEvery)
	require.NoError(t, usable(t, s))
	require.NoError(t, other.Close())
}

// A URI, a relative path and a link lead to the same file.
func TestNamesOfTheFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	require.NoError(t, os.Mkdir("f", 0o700))
	require.NoError(t, os.Symlink("f", "link"))
	for name, path := range map[string]string{"relative": "f/a.db", "link": "link/b.db", "odd": "f/%63%25%20 d.db"} {
		s := newStore(t, openDB(t, path, params))
		require.NoError(t, usable(t, s), name)
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "f")))
		require.Eventually(t, func() bool { return usable(t, s) != nil }, time.Minute, 10*time.Millisecond, name)
		require.NoError(t, os.Mkdir("f", 0o700))
	}
}

// A log that a new connection made anew, where one of before is still open with the
// log that was removed, is another log: what the old one writes nobody finds.
func TestALogMadeAnewBesideTheOldOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s.db")
	db := openDB(t, path, params)
	db.SetMaxOpenConns(1)
	s := newStore(t, db)
	require.NoError(t, s.Create(t.Context(), session("a", "alice"), 10))
	time.Sleep(sqlitefile.LookEvery)
	require.NoError(t, usable(t, s))

	old, err := db.Conn(t.Context())
	require.NoError(t, err)
	_, err = old.ExecContext(t.Context(), `PRAGMA wal_checkpoint(TRUNCATE)`) // so that the other one finds the tables
	require.NoError(t, err)
	require.NoError(t, os.Remove(path+"-wal"))
	require.NoError(t, os.Remove(path+"-shm"))
	db.SetMaxOpenConns(2)
	db.SetMaxIdleConns(2)
	var n int
	_ = db.QueryRow(`SELECT count(*) FROM sqlite_schema`).Scan(&n) // by another connection, which makes them
	_, err = os.Stat(path + "-wal")
	require.NoError(t, err)
	time.Sleep(sqlitefile.LookEvery)
	_ = usable(t, s) // it looks by the new one
	require.NoError(t, old.Close())
	require.Eventually(t, func() bool { return usable(t, s) != nil }, 5*time.Second, 10*time.Millisecond)
	time.Sleep(2 * sqlitefile.LookEvery)
	require.Error(t, usable(t, s))
}
