package sqlitestore_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	sqlite "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// hooked is a driver that asks before each BEGIN, COMMIT and ROLLBACK. An error is what
// the statement answers, and then the transaction is rolled back.
type hooked struct {
	driver.Connector
	before atomic.Pointer[func(what string) error]
}

func (h *hooked) ask(what string) error {
	if ask := h.before.Load(); ask != nil {
		return (*ask)(what)
	}
	return nil
}

func (h *hooked) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := h.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &hookedConn{c.(fullConn), h}, nil
}

// fullConn is what database/sql uses of the driver's connections.
type fullConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
}

type hookedConn struct {
	fullConn
	hooks *hooked
}

func (c *hookedConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if err := c.hooks.ask("BEGIN"); err != nil {
		return nil, err
	}
	tx, err := c.fullConn.BeginTx(ctx, o)
	return &hookedTx{tx, c.hooks}, err
}

type hookedTx struct {
	driver.Tx
	hooks *hooked
}

func (t *hookedTx) Commit() error {
	if err := t.hooks.ask("COMMIT"); err != nil {
		return errors.Join(err, t.Tx.Rollback())
	}
	return t.Tx.Commit()
}

func (t *hookedTx) Rollback() error {
	err := t.Tx.Rollback()
	return errors.Join(err, t.hooks.ask("ROLLBACK"))
}

// hookedStore returns a store whose driver asks a function that may be set.
func hookedStore(t *testing.T) (*sqlitestore.Store, func(before func(what string) error)) {
	t.Helper()
	connector, err := (&sqlite.SQLite{}).OpenConnector("file:" + filepath.Join(t.TempDir(), "s.db") + "?" + params)
	require.NoError(t, err)
	h := &hooked{Connector: connector}
	db := sql.OpenDB(h)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	return newStore(t, db), func(before func(what string) error) { h.before.Store(&before) }
}

// once returns a function that answers one what with an error.
func once(what string, err error) func(string) error {
	var done atomic.Bool
	return func(now string) error {
		if now == what && done.CompareAndSwap(false, true) {
			return err
		}
		return nil
	}
}

// What SQLite says is busy is tried again, whichever statement it says so of, and is
// done once.
func TestBusyIsTriedAgain(t *testing.T) {
	for _, what := range []string{"BEGIN", "COMMIT"} {
		for _, message := range []string{"sqlite3: database is locked", "sqlite3: database table is locked: curfew_sessions"} {
			s, before := hookedStore(t)
			runs := 0
			before(once(what, errors.New(message)))
			require.NoError(t, s.Admit(t.Context(), session("a", "alice").Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				runs++
				require.Empty(t, held)
				return []store.Session{session("a", "alice")}, nil
			}), "%s: %s", what, message)
			require.Equal(t, map[string]int{"BEGIN": 1, "COMMIT": 2}[what], runs)
			got, err := s.Get(t.Context(), session("a", "alice").ID)
			require.NoError(t, err)
			require.EqualValues(t, 1, got.Revision)
		}
	}
}

// A commit that fails as its context ends may have been done: nobody is told that
// nothing changed. One that was rolled back, because the context ended before, was not.
func TestCommitThatFails(t *testing.T) {
	s, before := hookedStore(t)
	one := session("a", "alice")
	broken := errors.New("disk I/O error")

	ctx, cancel := context.WithCancel(t.Context())
	before(func(what string) error {
		if what == "COMMIT" {
			cancel()
			return broken
		}
		return nil
	})
	err := s.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return []store.Session{one}, nil })
	require.ErrorIs(t, err, broken)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, store.ErrConflict, "it may have changed something")

	ctx, cancel = context.WithCancel(t.Context())
	rolledBack := make(chan struct{})
	before(func(what string) error {
		if what == "ROLLBACK" {
			close(rolledBack)
		}
		return nil
	})
	err = s.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
		cancel()
		<-rolledBack // by database/sql
		return nil, nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, store.ErrConflict, "nothing changed")

	before(func(string) error { return nil })
	require.ErrorIs(t, s.Create(t.Context(), one, 0), store.ErrFull)
	require.NoError(t, s.Create(t.Context(), one, 1), "neither was done")
}

// A refusal is an answer, whatever it says.
func TestRefusalThatSaysBusy(t *testing.T) {
	s := newStore(t, openDB(t, filepath.Join(t.TempDir(), "s.db"), params))
	says := errors.New("database is locked")
	runs := 0
	err := s.Admit(t.Context(), session("a", "alice").Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
		runs++
		return nil, says
	})
	require.Equal(t, says, err)
	require.Equal(t, 1, runs)
	_, err = s.Get(t.Context(), "database is locked")
	require.ErrorIs(t, err, store.ErrNotFound)
	require.ErrorIs(t, s.Delete(t.Context(), "database is locked", 1), nil)
	_, err = s.Document(t.Context(), "database is locked")
	require.ErrorIs(t, err, store.ErrNotFound)
}

// Writers of one process queue up without a connection: reads have theirs, and the
// order is that of their coming.
func TestWritersQueueUp(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"), params)
	s := newStore(t, db)
	require.NoError(t, s.Create(t.Context(), session("a", "alice"), 100))
	const writers = 30
	entered, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, writers+1)
	go func() {
		done <- s.Admit(t.Context(), session("", "alice").Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
			close(entered)
			<-release
			return nil, nil
		})
	}()
	<-entered
	begun := make(chan struct{}, writers)
	for i := range writers {
		go func() {
			begun <- struct{}{}
			done <- s.Create(t.Context(), session(fmt.Sprint(i), "bob"), 100)
		}()
	}
	for range writers {
		<-begun
	}
	for range 50 { // by then they would be at it
		_, err := s.Get(t.Context(), session("a", "alice").ID)
		require.NoError(t, err)
		require.LessOrEqual(t, db.Stats().InUse, 1, "only who writes has a connection")
		time.Sleep(time.Millisecond)
	}
	close(release)
	for range writers + 1 {
		require.NoError(t, <-done)
	}
}
