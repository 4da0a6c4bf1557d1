package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/sqlkit"
)

// Document implements [store.Documents].
func (s *Store) Document(ctx context.Context, key string) (store.Document, error) {
	d := store.Document{Key: key}
	err := s.again(ctx, func() error { return scanDocument(s.document.QueryRowContext(ctx, key), &d) })
	if errors.Is(err, sql.ErrNoRows) {
		err = sqlkit.Refuse("document %q: %w", key, store.ErrNotFound)
	}
	if err != nil {
		return store.Document{}, fmt.Errorf("get document: %w", sqlkit.Fault(ctx, err))
	}
	return d, nil
}

func scanDocument(row interface{ Scan(...any) error }, d *store.Document) error {
	var at string
	if err := row.Scan(&d.Version, &d.Body, &at, &d.By, &d.Message); err != nil {
		return err
	}
	return sqlkit.ReadTime(d, at)
}

// PutDocument implements [store.Documents].
func (s *Store) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	at, body, err := sqlkit.Columns(&d)
	if err != nil {
		return 0, fmt.Errorf("put document: %w", err)
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		var is int64
		if err := tx.StmtContext(ctx, s.currentVersion).QueryRowContext(ctx, d.Key).Scan(&is); err != nil {
			return err
		}
		if is != d.Version {
			return sqlkit.Refuse("document %q: %w: its version is %d, not %d", d.Key, store.ErrConflict, is, d.Version)
		}
		_, err := tx.StmtContext(ctx, s.insertVersion).ExecContext(ctx, d.Key, d.Version+1, body, at, d.By, d.Message)
		if err == nil && d.NoHistory {
			_, err = tx.StmtContext(ctx, s.onlyVersion).ExecContext(ctx, d.Key, d.Version+1)
		}
		return err
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
	var list []store.Document
	err := s.again(ctx, func() error {
		list = nil
		rows, err := s.documentHistories.QueryContext(ctx, key, before, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			d := store.Document{Key: key}
			if err := scanDocument(rows, &d); err != nil {
				return err
			}
			list = append(list, d)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("document history: %w", sqlkit.Fault(ctx, err))
	}
	return list, nil
}

// DropDocument implements [store.Documents].
func (s *Store) DropDocument(ctx context.Context, key string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.StmtContext(ctx, s.dropDocument).ExecContext(ctx, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("drop document: %w", sqlkit.Fault(ctx, err))
	}
	return nil
}
