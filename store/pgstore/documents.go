package pgstore

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/sqlkit"
)

const (
	historySQL = `SELECT version, body, at, by, message FROM curfew_documents
		WHERE key = $1::bytea AND version < $2::bigint ORDER BY version DESC LIMIT $3::bigint`

	putSQL = `WITH current AS MATERIALIZED (
			SELECT coalesce((SELECT version FROM curfew_documents WHERE key = $1::bytea ORDER BY version DESC LIMIT 1), 0) AS version),
		added AS (
			INSERT INTO curfew_documents (key, version, body, at, by, message)
			SELECT $1::bytea, $2::bigint + 1, $3::bytea, $4::text, $5::bytea, $6::bytea FROM current WHERE version = $2::bigint
			ON CONFLICT (key, version) DO NOTHING RETURNING 1),
		gone AS (
			DELETE FROM curfew_documents WHERE $7::boolean AND key = $1::bytea AND version <= $2::bigint AND EXISTS (SELECT 1 FROM added))
		SELECT version, (SELECT count(*) FROM added) = 1 FROM current`

	dropSQL = `DELETE FROM curfew_documents WHERE key = $1::bytea`
)

// Document implements [store.Documents].
func (s *Store) Document(ctx context.Context, key string) (store.Document, error) {
	list, err := s.versions(ctx, key, math.MaxInt64, 1)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("document %q: %w", key, store.ErrNotFound)
	}
	if err != nil {
		return store.Document{}, fmt.Errorf("get document: %w", err)
	}
	return list[0], nil
}

// versions returns versions of a document older than before, newest first.
func (s *Store) versions(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	var list []store.Document
	err := s.do(ctx, func(c *pgx.Conn) error {
		list = nil
		rows, err := c.Query(ctx, historySQL, []byte(key), before, int64(limit))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			d := store.Document{Key: key}
			var at string
			var by, message []byte
			if err := rows.Scan(&d.Version, &d.Body, &at, &by, &message); err != nil {
				return err
			}
			d.By, d.Message = string(by), string(message)
			if err := sqlkit.ReadTime(&d, at); err != nil {
				return err
			}
			list = append(list, d)
		}
		return rows.Err()
	})
	return list, sqlkit.Fault(ctx, err)
}

// lockedWrite writes a document, in one round trip, while nobody else writes it. A
// statement alone does not see that others wrote after it began: of a version that
// they added and removed again nothing is in its way.
func lockedWrite(ctx context.Context, c *pgx.Conn, key string, write func(b *pgx.Batch)) error {
	var b pgx.Batch
	b.Queue(beginSQL)
	b.Queue(lockSQL, documentLockClass, lockOf([]byte(key)))
	write(&b)
	b.Queue(commitSQL)
	return sent(c.SendBatch(ctx, &b).Close())
}

// PutDocument implements [store.Documents].
func (s *Store) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	at, body, err := sqlkit.Columns(&d)
	if err != nil {
		return 0, fmt.Errorf("put document: %w", err)
	}
	if len(d.Key) > maxName {
		return 0, fmt.Errorf("put document: its key has %d bytes, at most %d are possible", len(d.Key), maxName)
	}
	err = s.do(ctx, func(c *pgx.Conn) error {
		var is int64
		var added bool
		err := lockedWrite(ctx, c, d.Key, func(b *pgx.Batch) {
			b.Queue(putSQL, []byte(d.Key), d.Version, body, at, []byte(d.By), []byte(d.Message), d.NoHistory).
				QueryRow(func(row pgx.Row) error { return row.Scan(&is, &added) })
		})
		switch {
		case err != nil:
			return err
		case added:
			return nil
		case is != d.Version:
			return sqlkit.Refuse("document %q: %w: its version is %d, not %d", d.Key, store.ErrConflict, is, d.Version)
		default:
			return sqlkit.Refuse("document %q: %w: another version %d was written at the same time", d.Key, store.ErrConflict, is+1)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("put document: %w", sqlkit.Fault(ctx, err))
	}
	return d.Version + 1, nil
}

// History implements [store.Documents].
func (s *Store) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	if limit < 1 {
		return nil, fmt.Errorf("document history: limit is %d, at least 1 is required", limit)
	}
	if before <= 0 {
		before = math.MaxInt64
	}
	list, err := s.versions(ctx, key, before, limit)
	if err != nil {
		return nil, fmt.Errorf("document history: %w", err)
	}
	return list, nil
}

// DropDocument implements [store.Documents].
func (s *Store) DropDocument(ctx context.Context, key string) error {
	err := s.do(ctx, func(c *pgx.Conn) error {
		return lockedWrite(ctx, c, key, func(b *pgx.Batch) { b.Queue(dropSQL, []byte(key)) })
	})
	if err != nil {
		return fmt.Errorf("drop document: %w", sqlkit.Fault(ctx, err))
	}
	return nil
}
