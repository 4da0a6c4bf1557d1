package sqlitestore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/hourly"
	"github.com/curfew-oidc/curfew/store/internal/sqlkit"
)

const (
	addCountSQL = `INSERT INTO curfew_counts (account, hour, name, n) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT (account, hour, name) DO UPDATE SET n = n + excluded.n`
	countsSQL     = `SELECT hour, name, n FROM curfew_counts WHERE account = ?1 AND hour >= ?2 AND hour < ?3 ORDER BY hour, name`
	dropCountsSQL = `DELETE FROM curfew_counts WHERE account = ?1 AND hour < ?2`
	unendedSQL    = `SELECT count(*) FROM curfew_terms WHERE term = ?1 AND ended = 0`
)

// AddCounts implements [store.Counts].
func (s *Store) AddCounts(ctx context.Context, counts []store.Count) error {
	merged, err := hourly.Merge(counts)
	if err != nil {
		return fmt.Errorf("add counts: %w", err)
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		for _, c := range merged {
			if _, err := tx.StmtContext(ctx, s.addCount).ExecContext(ctx, c.Account, hourly.Number(c.Hour), c.Name, c.N); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("add counts: %w", sqlkit.Fault(ctx, err))
	}
	return nil
}

// ReadCounts implements [store.Counts].
func (s *Store) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	first, end, err := hourly.Range(from, to)
	if err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	var list []store.Count
	err = s.again(ctx, func() error {
		list = nil
		rows, err := s.counts.QueryContext(ctx, account, first, end)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			c := store.Count{Account: account}
			var hour int64
			if err := rows.Scan(&hour, &c.Name, &c.N); err != nil {
				return err
			}
			c.Hour = hourly.Time(hour)
			list = append(list, c)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read counts: %w", sqlkit.Fault(ctx, err))
	}
	return list, nil
}

// DropCounts implements [store.Counts].
func (s *Store) DropCounts(ctx context.Context, account string, before time.Time) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.StmtContext(ctx, s.dropCounts).ExecContext(ctx, account, hourly.Number(before))
		return err
	})
	if err != nil {
		return fmt.Errorf("drop counts: %w", sqlkit.Fault(ctx, err))
	}
	return nil
}

// CountUnended implements [store.Counts]. It counts the entries of an index.
func (s *Store) CountUnended(ctx context.Context, account string) (n int, err error) {
	err = s.again(ctx, func() error { return s.unended.QueryRowContext(ctx, accountTerm+account).Scan(&n) })
	if err != nil {
		return 0, fmt.Errorf("count unended sessions: %w", sqlkit.Fault(ctx, err))
	}
	return n, nil
}
