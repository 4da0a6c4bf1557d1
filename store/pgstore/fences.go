package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/sqlkit"
	"github.com/curfew-oidc/curfew/store/internal/unreadable"
)

const (
	fenceSQL = `SELECT subject, revision, document FROM curfew_fences WHERE subject = $1::bytea`

	// $5 is the revision before, 0 if there is none.
	putFenceSQL = `INSERT INTO curfew_fences (subject, at, due, document, revision)
		VALUES ($1::bytea, $2::bigint, $3::bigint, $4::bytea, $5::bigint + 1)
		ON CONFLICT (subject) DO UPDATE SET at = excluded.at, due = excluded.due, document = excluded.document, revision = excluded.revision
		WHERE curfew_fences.revision = $5::bigint`

	removeFenceSQL = `DELETE FROM curfew_fences WHERE subject = $1::bytea AND revision = $2::bigint AND at = $3::bigint`

	dueFencesSQL = `SELECT subject, revision, document FROM curfew_fences WHERE due <= $1::bigint ORDER BY due LIMIT $2::bigint`
)

// fences reads the rows of a query for subject, revision and document.
func fences(rows pgx.Rows, err error) (list []store.Fence, unread unreadable.List, _ error) {
	if err != nil {
		return nil, unread, err
	}
	defer rows.Close()
	var subject, document pgtype.DriverBytes
	for rows.Next() {
		var revision int64
		if err := rows.Scan(&subject, &revision, &document); err != nil {
			return nil, unread, err
		}
		f, err := store.ParseFence(string(document))
		if err != nil {
			unread.Add(fmt.Errorf("of subject %q: %w", subject, err))
			continue
		}
		f.Revision = revision
		list = append(list, f)
	}
	return list, unread, rows.Err()
}

// oneFence is fences for the fence of a subject. The zero Fence: it has none.
func oneFence(rows pgx.Rows, err error) (store.Fence, error) {
	list, unread, err := fences(rows, err)
	switch {
	case err != nil:
		return store.Fence{}, err
	case unread.Len() > 0:
		return store.Fence{}, &sqlkit.Refusal{Err: unread.Err()}
	case len(list) == 0:
		return store.Fence{}, nil
	}
	return list[0], nil
}

// writeFence writes a fence in the place of one of the revision before, and reports
// whether that was still there.
func writeFence(ctx context.Context, c *pgx.Conn, f store.Fence, before int64) (bool, error) {
	document, err := f.AppendDocument(nil)
	if err != nil {
		return false, &sqlkit.Refusal{Err: err}
	}
	var due *int64
	if !f.Due.IsZero() {
		micro := f.Due.UnixMicro()
		due = &micro
	}
	tag, err := c.Exec(ctx, putFenceSQL, subjectTerm(f.Subject), f.At.UnixMicro(), due, document, before)
	return err == nil && tag.RowsAffected() == 1, err
}

// PutFence implements [store.Fences]. It is one statement, and three where there is
// a fence already. It may be made again when its connection broke: to put a fence
// twice stops no more than once.
func (s *Store) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	var joined store.Fence
	err := s.do(ctx, func(c *pgx.Conn) error {
		var is store.Fence
		for {
			joined = is.Join(f)
			joined.Revision = is.Revision + 1
			if done, err := writeFence(ctx, c, joined, is.Revision); done || err != nil {
				return err
			}
			var err error
			if is, err = oneFence(c.Query(ctx, fenceSQL, subjectTerm(f.Subject))); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return store.Fence{}, fmt.Errorf("put fence: %w", sqlkit.Fault(ctx, err))
	}
	return joined, nil
}

// MoveFence implements [store.Fences].
func (s *Store) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	err := s.do(ctx, func(c *pgx.Conn) error {
		is, err := oneFence(c.Query(ctx, fenceSQL, subjectTerm(f.Subject)))
		if err != nil || is.At.IsZero() {
			return err
		}
		if f.Moved(is) {
			return sqlkit.Refuse("%w: it was written meanwhile", store.ErrConflict)
		}
		var moved bool
		if is.Due = due; due.IsZero() {
			tag, execErr := c.Exec(ctx, removeFenceSQL, subjectTerm(f.Subject), f.Revision, f.At.UnixMicro())
			moved, err = tag.RowsAffected() == 1, execErr
		} else {
			moved, err = writeFence(ctx, c, is, is.Revision)
		}
		switch {
		case err != nil:
			return sent(err)
		case !moved:
			return sqlkit.Refuse("%w: it was written meanwhile", store.ErrConflict)
		}
		return nil
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
	err := s.do(ctx, func(c *pgx.Conn) (err error) {
		unread = unreadable.List{}
		for before := -1; before < unread.Len(); { // in place of those that cannot be read others are asked for
			before = unread.Len()
			due, unread, err = fences(c.Query(ctx, dueFencesSQL, now.UnixMicro(), int64(min(limit, mostListed)+before)))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("due fences: %w", sqlkit.Fault(ctx, err))
	}
	due = due[:min(limit, len(due))]
	if err := unread.Err(); err != nil {
		return due, fmt.Errorf("due fences: %w", err)
	}
	return due, nil
}
