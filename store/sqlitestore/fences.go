package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/sqlkit"
	"github.com/curfew-oidc/curfew/store/internal/unreadable"
)

const (
	fenceSQL = `SELECT revision, document FROM curfew_fences WHERE issuer = ?1 AND subject = ?2`

	putFenceSQL = `INSERT INTO curfew_fences (issuer, subject, revision, due, document) VALUES (?1, ?2, ?3, ?4, ?5)
		ON CONFLICT (issuer, subject) DO UPDATE SET revision = excluded.revision, due = excluded.due, document = excluded.document`

	removeFenceSQL = `DELETE FROM curfew_fences WHERE issuer = ?1 AND subject = ?2`

	dueFencesSQL = `SELECT subject, revision, document FROM curfew_fences WHERE due <= ?1 ORDER BY due`
)

// fenceOf returns the fence of a subject, as a transaction sees it.
func (s *Store) fenceOf(ctx context.Context, tx *sql.Tx, subject store.Subject) (store.Fence, error) {
	var revision int64
	var document []byte
	err := tx.StmtContext(ctx, s.fence).QueryRowContext(ctx, subject.Issuer, subject.ID).Scan(&revision, &document)
	if errors.Is(err, sql.ErrNoRows) {
		return store.Fence{}, nil
	}
	if err != nil {
		return store.Fence{}, err
	}
	f, err := store.ParseFence(string(document))
	f.Revision = revision
	return f, err
}

func (s *Store) writeFence(ctx context.Context, tx *sql.Tx, f store.Fence) error {
	document, err := f.AppendDocument(nil)
	if err != nil {
		return &sqlkit.Refusal{Err: err}
	}
	var due any
	if !f.Due.IsZero() {
		due = f.Due.UnixMicro()
	}
	_, err = tx.StmtContext(ctx, s.putFence).ExecContext(ctx, f.Subject.Issuer, f.Subject.ID, f.Revision, due, document)
	return err
}

// PutFence implements [store.Fences].
func (s *Store) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	err := f.Validate()
	var joined store.Fence
	if err == nil {
		err = s.write(ctx, func(tx *sql.Tx) error {
			is, err := s.fenceOf(ctx, tx, f.Subject)
			if err != nil {
				return err
			}
			joined = is.Join(f)
			joined.Revision = is.Revision + 1
			return s.writeFence(ctx, tx, joined)
		})
	}
	if err != nil {
		return store.Fence{}, fmt.Errorf("put fence: %w", sqlkit.Fault(ctx, err))
	}
	return joined, nil
}

// MoveFence implements [store.Fences].
func (s *Store) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		is, err := s.fenceOf(ctx, tx, f.Subject)
		switch {
		case err != nil:
			return err
		case is.At.IsZero():
			return nil
		case f.Moved(is):
			return sqlkit.Refuse("%w: it was written meanwhile", store.ErrConflict)
		case due.IsZero():
			_, err := tx.StmtContext(ctx, s.removeFence).ExecContext(ctx, f.Subject.Issuer, f.Subject.ID)
			return err
		}
		is.Due, is.Revision = due, is.Revision+1
		return s.writeFence(ctx, tx, is)
	})
	if err != nil {
		return fmt.Errorf("move fence: %w", sqlkit.Fault(ctx, err))
	}
	return nil
}

// DueFences implements [store.Fences].
func (s *Store) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	if limit < 1 {
		return nil, fmt.Errorf("due fences: limit is %d, at least 1 is required", limit)
	}
	var due []store.Fence
	var unread unreadable.List
	err := s.again(ctx, func() error {
		due, unread = nil, unreadable.List{}
		rows, err := s.dueFences.QueryContext(ctx, now.UnixMicro())
		if err != nil {
			return err
		}
		defer rows.Close()
		for len(due) < limit && rows.Next() {
			var subject string
			var revision int64
			var document []byte
			if err := rows.Scan(&subject, &revision, &document); err != nil {
				return err
			}
			f, err := store.ParseFence(string(document))
			if err != nil {
				unread.Add(fmt.Errorf("of subject %q: %w", subject, err))
				continue
			}
			f.Revision = revision
			due = append(due, f)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("due fences: %w", sqlkit.Fault(ctx, err))
	}
	if err := unread.Err(); err != nil {
		return due, fmt.Errorf("due fences: %w", err)
	}
	return due, nil
}
