package kv

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/internal/sqlitefile"
)

// A SQLite is a Store in a table of a SQLite database, beside whatever else is
// in it. Use NewSQLite.
//
// SQLite has one writer at a time. Writers of one process queue up here, or they
// would all be asking all the time; between processes the driver's busy timeout
// is how long one waits.
type SQLite struct {
	db     *sql.DB
	writer chan struct{}
	file   *sqlitefile.File
}

const schema = `
CREATE TABLE IF NOT EXISTS op_records (
	key      TEXT PRIMARY KEY,
	grp      TEXT NOT NULL,
	value    BLOB NOT NULL,
	expires  INTEGER NOT NULL, -- microseconds since 1970
	revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS op_records_group ON op_records (grp) WHERE grp <> '';
CREATE INDEX IF NOT EXISTS op_records_expires ON op_records (expires);
`

// NewSQLite creates a missing table. The caller closes the handle. Its pragmas decide how durable a
// write is.
func NewSQLite(ctx context.Context, db *sql.DB) (*SQLite, error) {
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, fmt.Errorf("create the table op_records: %w", err)
	}
	file, err := sqlitefile.Find(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("find the database: %w", err)
	}
	return &SQLite{db, make(chan struct{}, 1), file}, nil
}

// Get implements Store.
func (s *SQLite) Get(ctx context.Context, key string) (Record, error) {
	if err := s.file.Check(ctx); err != nil {
		return Record{}, fmt.Errorf("get: %w", err)
	}
	r := Record{Key: key}
	var expires int64
	err := s.db.QueryRowContext(ctx, `SELECT grp, value, expires, revision FROM op_records WHERE key = ?`, key).
		Scan(&r.Group, &r.Value, &expires, &r.Revision)
	if errors.Is(err, sql.ErrNoRows) {
		return Record{}, fmt.Errorf("get: %w", ErrNotFound)
	}
	if err != nil {
		return Record{}, fmt.Errorf("get: %w", err)
	}
	r.Expires = time.UnixMicro(expires).UTC()
	return r, nil
}

// Put implements Store.
func (s *SQLite) Put(ctx context.Context, r Record) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	value := r.Value
	if value == nil {
		value = []byte{} // nil would be NULL
	}
	const insert = `INSERT INTO op_records (grp, value, expires, revision, key) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	const update = `UPDATE op_records SET grp = ?, value = ?, expires = ?, revision = ? WHERE key = ? AND revision = ?`
	args := []any{r.Group, value, r.Expires.UnixMicro(), r.Revision + 1, r.Key}
	statement := insert
	if r.Revision > 0 {
		statement, args = update, append(args, r.Revision)
	}
	n, err := s.exec(ctx, statement, args...)
	if err == nil && n == 0 {
		err = ErrConflict
	}
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	return nil
}

// Delete implements Store.
func (s *SQLite) Delete(ctx context.Context, key string) error {
	n, err := s.exec(ctx, `DELETE FROM op_records WHERE key = ?`, key)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// DeleteGroup implements Store.
func (s *SQLite) DeleteGroup(ctx context.Context, group string) error {
	// The second condition repeats the index's.
	if _, err := s.exec(ctx, `DELETE FROM op_records WHERE grp = ? AND grp <> ''`, group); err != nil {
		return fmt.Errorf("delete a group: %w", err)
	}
	return nil
}

// Sweep implements Store.
func (s *SQLite) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	n, err := s.exec(ctx, `DELETE FROM op_records WHERE key IN (SELECT key FROM op_records WHERE expires <= ? LIMIT ?)`,
		now.UnixMicro(), limit)
	if err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	return int(n), nil
}

func (s *SQLite) exec(ctx context.Context, statement string, args ...any) (int64, error) {
	select {
	case s.writer <- struct{}{}:
		defer func() { <-s.writer }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if err := s.file.Check(ctx); err != nil {
		return 0, err
	}
	result, err := s.db.ExecContext(ctx, statement, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}
