package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/curfew-oidc/curfew/internal/pgprimary"
)

// A Postgres is a Store in a table of a PostgreSQL database, beside whatever
// else is in it. Use NewPostgres.
//
// Each write is one statement and a transaction of its own. It is tried again
// only where PostgreSQL says that it was rolled back: nothing is sent twice
// after a connection was lost, so ErrConflict and ErrNotFound are never the
// answer to a write that took effect. A database that fails over behind its name is
// found again, as package pgstore does.
type Postgres struct {
	pool    *pgxpool.Pool
	primary *pgprimary.Pool
}

// migrations take the table from the version before to their own: the first
// makes version 1. They are never changed once they were released.
//
// Keys and groups are bytes, which have no collation and may hold NUL.
var migrations = []string{`
CREATE TABLE curfew_op_records (
	key      bytea  PRIMARY KEY,
	grp      bytea  NOT NULL,
	value    bytea  NOT NULL,
	expires  bigint NOT NULL, -- microseconds since 1970
	revision bigint NOT NULL
);
CREATE INDEX curfew_op_records_group ON curfew_op_records (grp) WHERE grp <> '';
CREATE INDEX curfew_op_records_expires ON curfew_op_records (expires);
`}

// migrationLock is an arbitrary number, of our own: "curfewop".
const migrationLock = 0x6375726665776f70

// NewPostgres makes the table if there is none, in as many processes at once as
// may be, and fails if a newer version of this package changed it. The pool
// stays the caller's to close; how durable a write is, is for synchronous_commit
// to say.
func NewPostgres(ctx context.Context, pool *pgxpool.Pool) (*Postgres, error) {
	// Read committed: what another process did while this one waited for the
	// lock has to be seen.
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS curfew_op_schema (version bigint PRIMARY KEY)`); err != nil {
			return err
		}
		var version int
		if err := tx.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM curfew_op_schema`).Scan(&version); err != nil {
			return err
		}
		if version > len(migrations) {
			return fmt.Errorf("it has version %d, made by a newer program; this one knows up to %d", version, len(migrations))
		}
		for ; version < len(migrations); version++ {
			if _, err := tx.Exec(ctx, migrations[version]); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO curfew_op_schema (version) VALUES ($1)`, version+1); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make the table curfew_op_records: %w", err)
	}
	return &Postgres{pool, pgprimary.New(pool)}, nil
}

const (
	getSQL    = `SELECT grp, value, expires, revision FROM curfew_op_records WHERE key = $1`
	insertSQL = `INSERT INTO curfew_op_records (grp, value, expires, revision, key) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`
	updateSQL = `UPDATE curfew_op_records SET grp = $1, value = $2, expires = $3, revision = $4 WHERE key = $5 AND revision = $6`
	deleteSQL = `DELETE FROM curfew_op_records WHERE key = $1`

	// The second condition repeats the index's.
	deleteGroupSQL = `DELETE FROM curfew_op_records WHERE grp = $1 AND grp <> ''`

	// Processes that sweep at the same time do not wait for each other: each
	// takes what the others have not begun.
	sweepSQL = `DELETE FROM curfew_op_records WHERE key = ANY (ARRAY(
		SELECT key FROM curfew_op_records WHERE expires <= $1 ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED))`
)

// Get implements Store.
func (p *Postgres) Get(ctx context.Context, key string) (Record, error) {
	r := Record{Key: key}
	var group []byte
	var expires int64
	get := func(c *pgx.Conn) error {
		return c.QueryRow(ctx, getSQL, []byte(key)).Scan(&group, &r.Value, &expires, &r.Revision)
	}
	broken, err := p.primary.Do(ctx, get)
	for broken && ctx.Err() == nil { // a read is done again, until no connection can be made
		broken, err = p.primary.Do(ctx, get)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, fmt.Errorf("get: %w", ErrNotFound)
	}
	if err != nil {
		return Record{}, fmt.Errorf("get: %w", err)
	}
	r.Group, r.Expires = string(group), time.UnixMicro(expires).UTC()
	return r, nil
}

// Put implements Store.
func (p *Postgres) Put(ctx context.Context, r Record) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	value := r.Value
	if value == nil {
		value = []byte{} // nil would be NULL
	}
	args := []any{[]byte(r.Group), value, r.Expires.UnixMicro(), r.Revision + 1, []byte(r.Key)}
	statement := insertSQL
	if r.Revision > 0 {
		statement, args = updateSQL, append(args, r.Revision)
	}
	n, err := p.exec(ctx, statement, args...)
	if err == nil && n == 0 {
		err = ErrConflict
	}
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	return nil
}

// Delete implements Store.
func (p *Postgres) Delete(ctx context.Context, key string) error {
	n, err := p.exec(ctx, deleteSQL, []byte(key))
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// DeleteGroup implements Store.
func (p *Postgres) DeleteGroup(ctx context.Context, group string) error {
	if _, err := p.exec(ctx, deleteGroupSQL, []byte(group)); err != nil {
		return fmt.Errorf("delete a group: %w", err)
	}
	return nil
}

// Sweep implements Store.
func (p *Postgres) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	n, err := p.exec(ctx, sweepSQL, now.UnixMicro(), limit)
	if err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	return int(n), nil
}

// exec runs one statement and returns how many rows it changed.
func (p *Postgres) exec(ctx context.Context, statement string, args ...any) (int64, error) {
	for {
		var tag pgconn.CommandTag
		_, err := p.primary.Do(ctx, func(c *pgx.Conn) (err error) {
			tag, err = c.Exec(ctx, statement, args...)
			return err
		})
		var answer *pgconn.PgError
		if errors.As(err, &answer) && (answer.Code == deadlock || answer.Code == serializationFailure) {
			// Two that remove several records found them in a different order,
			// or the database's default isolation is stricter. One of them got
			// through, so this ends.
			continue
		}
		return tag.RowsAffected(), err
	}
}

// PostgreSQL's codes for a transaction that was rolled back to be tried again.
const (
	serializationFailure = "40001"
	deadlock             = "40P01"
)
