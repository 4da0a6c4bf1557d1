// Package sqlsessions keeps the sessions of an application in its own SQL database, through
// database/sql: SQLite or PostgreSQL. It
// imports no driver.
//
//	db, err := sql.Open("sqlite3", "file:/var/lib/shop/shop.db?_pragma=busy_timeout(5000)")
//	...
//	store, err := sqlsessions.New(ctx, db)
//	...
//	rp, err := middleware.New(middleware.Config{Store: store, ...})
//
// Processes that share the database share the sessions. With SQLite they need a busy timeout, as
// above: the database makes them wait for each other.
//
// If PostgreSQL fails over behind a name, the store finds the new primary: it closes a connection
// that is read-only. Add target_session_attrs=read-write to the URL, so that no connection is made
// to a standby, where a session that has ended may still be read.
//
// With SQLite the store notices within a second of use that its database was removed or replaced,
// and every call then fails.
//
// All secrets arrive here sealed, under middleware.Config.Keys.
package sqlsessions

import (
	"context"
	"database/sql"
	"database/sql/driver"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/internal/sqlitefile"
	"github.com/curfew-oidc/curfew/middleware"
)

// Schema creates missing tables. New runs it. If the program may not create tables, run it
// beforehand.
//
//go:embed schema.sql
var Schema string

// Each statement is one step to the database, so that no transaction is needed.
// Parameters are numbered in the order in which they appear, which is what SQLite
// counts by, and PostgreSQL takes.
const (
	probe   = `SELECT count(*) FROM curfew_rp_sessions, curfew_rp_marks WHERE 1 = 0`
	create  = `INSERT INTO curfew_rp_sessions (id, entry1, entry2, data, version, expires) VALUES ($1, $2, $3, $4, 1, $5) ON CONFLICT (id) DO NOTHING`
	get     = `SELECT entry1, entry2, data, version, expires FROM curfew_rp_sessions WHERE id = $1`
	replace = `UPDATE curfew_rp_sessions SET entry1 = $1, entry2 = $2, data = $3, expires = $4, version = version + 1 WHERE id = $5 AND version = $6`
	remove  = `DELETE FROM curfew_rp_sessions WHERE id = $1`
	find    = `SELECT id FROM curfew_rp_sessions WHERE entry1 = $1 OR entry2 = $1`

	mark    = `INSERT INTO curfew_rp_marks (name, marked, until) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING`
	renew   = `UPDATE curfew_rp_marks SET marked = $1, until = $2 WHERE name = $3 AND until <= $4`
	extend  = `UPDATE curfew_rp_marks SET marked = CASE WHEN marked < $1 THEN $1 ELSE marked END, until = CASE WHEN until < $2 THEN $2 ELSE until END WHERE name = $3`
	marked  = `SELECT marked FROM curfew_rp_marks WHERE name = $1`
	sweep   = `DELETE FROM curfew_rp_sessions WHERE id IN (SELECT id FROM curfew_rp_sessions WHERE expires <= $1 ORDER BY expires LIMIT 100)`
	sweepMk = `DELETE FROM curfew_rp_marks WHERE name IN (SELECT name FROM curfew_rp_marks WHERE until <= $1 ORDER BY until LIMIT 100)`
)

// A Store is a [middleware.SessionStore]. Make one with [New].
type Store struct {
	db   *sql.DB
	file *sqlitefile.File // nil: it is not SQLite
}

var _ middleware.SessionStore = (*Store)(nil)

// New returns a store in the database, and creates missing tables. The caller closes the database.
func New(ctx context.Context, db *sql.DB) (*Store, error) {
	if db == nil {
		return nil, errors.New("curfew: sqlsessions.New: db is required")
	}
	var err error
	for range 3 { // processes that start together may make the tables together
		var n int
		if db.QueryRowContext(ctx, probe).Scan(&n) == nil {
			return open(ctx, db)
		}
		if _, err = db.ExecContext(ctx, Schema); err == nil {
			return open(ctx, db)
		}
	}
	return nil, fmt.Errorf("make the tables of sessions: %w", err)
}

// open returns the store in a database that has the tables.
func open(ctx context.Context, db *sql.DB) (*Store, error) {
	file, err := sqlitefile.Find(ctx, db)
	if err != nil && sqlState(err) == "" {
		return nil, fmt.Errorf("find the database: %w", err)
	}
	return &Store{db, file}, nil
}

// changed returns how many rows a statement has changed. On a connection that can
// only be read, or that the driver knows is broken, it has changed none, and is
// executed on another: on as many as may be as old as that one, and one more. One that
// has lost a race is executed again, until the context ends: then it sees who won.
func (s *Store) changed(ctx context.Context, statement string, args ...any) (n int64, err error) {
	for old := s.db.Stats().Idle + 1; ; {
		n, err = s.execute(ctx, statement, args...)
		switch {
		case err == nil || ctx.Err() != nil:
			return n, err
		case raced(err):
		case old > 0 && (readOnly(err) || errors.Is(err, driver.ErrBadConn)):
			old--
		default:
			return n, err
		}
	}
}

// execute executes a statement on a connection, which is closed if it turns out that
// it can only be read.
func (s *Store) execute(ctx context.Context, statement string, args ...any) (int64, error) {
	if err := s.file.Check(ctx); err != nil {
		return 0, err
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	result, err := conn.ExecContext(ctx, statement, args...)
	if readOnly(err) {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // which has it closed
	}
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// readOnly reports whether PostgreSQL says so: it is a standby, or is set up so.
func readOnly(err error) bool { return sqlState(err) == "25006" }

// raced reports whether PostgreSQL says that the same must be tried again: it could not
// serialize, as only with another default_transaction_isolation than its own, or found
// a deadlock.
func raced(err error) bool { return sqlState(err) == "40001" || sqlState(err) == "40P01" }

// sqlState returns the code of an error of PostgreSQL's, and nothing of another. The
// drivers have no error in common, but this method.
func sqlState(err error) string {
	var state interface{ SQLState() string }
	if !errors.As(err, &state) {
		return ""
	}
	return state.SQLState()
}

// entries returns the index entries as columns.
func entries(s middleware.StoredSession) (first, second string, err error) {
	switch len(s.Index) {
	case 0:
	case 1:
		first = s.Index[0]
	case 2:
		first, second = s.Index[0], s.Index[1]
	default:
		return "", "", fmt.Errorf("%d index entries: there are two at most", len(s.Index))
	}
	return first, second, nil
}

// Create implements [middleware.SessionStore].
func (s *Store) Create(ctx context.Context, now time.Time, session middleware.StoredSession) error {
	first, second, err := entries(session)
	if err != nil {
		return err
	}
	// First, so that an ID is free again when its session has expired. What
	// could not be removed now, because another process is at it, is later.
	_, _ = s.changed(ctx, sweep, now.UnixMicro())
	n, err := s.changed(ctx, create, session.ID, first, second, session.Data, session.Expires.UnixMicro())
	if err != nil {
		return fmt.Errorf("create a session: %w", err)
	}
	if n == 0 {
		return fmt.Errorf("create a session: %w", middleware.ErrConflict)
	}
	return nil
}

// Get implements [middleware.SessionStore].
func (s *Store) Get(ctx context.Context, id string) (middleware.StoredSession, error) {
	if err := s.file.Check(ctx); err != nil {
		return middleware.StoredSession{}, fmt.Errorf("get a session: %w", err)
	}
	session := middleware.StoredSession{ID: id}
	var first, second string
	var expires int64
	err := s.db.QueryRowContext(ctx, get, id).Scan(&first, &second, &session.Data, &session.Version, &expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return middleware.StoredSession{}, fmt.Errorf("get a session: %w", middleware.ErrNotFound)
	case err != nil:
		return middleware.StoredSession{}, fmt.Errorf("get a session: %w", err)
	}
	for _, entry := range []string{first, second} {
		if entry != "" {
			session.Index = append(session.Index, entry)
		}
	}
	session.Expires = time.UnixMicro(expires).UTC()
	return session, nil
}

// Replace implements [middleware.SessionStore].
func (s *Store) Replace(ctx context.Context, session middleware.StoredSession) error {
	first, second, err := entries(session)
	if err != nil {
		return err
	}
	n, err := s.changed(ctx, replace, first, second, session.Data, session.Expires.UnixMicro(), session.ID, session.Version)
	if err != nil {
		return fmt.Errorf("replace a session: %w", err)
	}
	if n == 0 {
		return fmt.Errorf("replace a session: %w", middleware.ErrConflict)
	}
	return nil
}

// Delete implements [middleware.SessionStore].
func (s *Store) Delete(ctx context.Context, id string) error {
	if _, err := s.changed(ctx, remove, id); err != nil {
		return fmt.Errorf("delete a session: %w", err)
	}
	return nil
}

// Find implements [middleware.SessionStore].
func (s *Store) Find(ctx context.Context, entry string) (ids []string, err error) {
	if err := s.file.Check(ctx); err != nil {
		return nil, fmt.Errorf("find sessions: %w", err)
	}
	rows, err := s.db.QueryContext(ctx, find, entry)
	if err != nil {
		return nil, fmt.Errorf("find sessions: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("find sessions: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// Mark implements [middleware.SessionStore].
func (s *Store) Mark(ctx context.Context, name string, at, until, now time.Time) (bool, error) {
	_, _ = s.changed(ctx, sweepMk, now.UnixMicro()) // as in Create
	for {
		n, err := s.changed(ctx, mark, name, at.UnixMicro(), until.UnixMicro())
		if err == nil && n == 0 {
			n, err = s.changed(ctx, renew, at.UnixMicro(), until.UnixMicro(), name, now.UnixMicro())
		}
		if err != nil {
			return false, fmt.Errorf("mark: %w", err)
		}
		if n == 1 {
			return true, nil
		}
		n, err = s.changed(ctx, extend, at.UnixMicro(), until.UnixMicro(), name)
		if err != nil {
			return false, fmt.Errorf("mark: %w", err)
		}
		if n == 1 {
			return false, nil
		} // else it was removed meanwhile
	}
}

// Marked implements [middleware.SessionStore].
func (s *Store) Marked(ctx context.Context, name string) (time.Time, error) {
	if err := s.file.Check(ctx); err != nil {
		return time.Time{}, fmt.Errorf("look for a mark: %w", err)
	}
	var at int64
	err := s.db.QueryRowContext(ctx, marked, name).Scan(&at)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("look for a mark: %w", err)
	}
	return time.UnixMicro(at).UTC(), nil
}
