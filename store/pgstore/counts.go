package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/hourly"
	"github.com/curfew-oidc/curfew/store/internal/sqlkit"
)

const (
	// In one order, so that two processes do not wait for each other.
	addCountsSQL = `INSERT INTO curfew_counts (account, hour, name, n)
		SELECT account, hour, name, n FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[]) AS c (account, hour, name, n)
		ORDER BY account, hour, name
		ON CONFLICT (account, hour, name) DO UPDATE SET n = curfew_counts.n + excluded.n`

	countsSQL = `SELECT hour, name, n FROM curfew_counts
		WHERE account = $1::bytea AND hour >= $2::bigint AND hour < $3::bigint ORDER BY hour, name`

	dropCountsSQL = `DELETE FROM curfew_counts WHERE account = $1::bytea AND hour < $2::bigint`

	unendedSQL = `SELECT count(*) FROM curfew_terms WHERE term = $1::bytea AND ended = false`
)

// AddCounts implements [store.Counts]. It is one statement.
func (s *Store) AddCounts(ctx context.Context, counts []store.Count) error {
	merged, err := hourly.Merge(counts)
	if err != nil {
		return fmt.Errorf("add counts: %w", err)
	}
	var accounts, names [][]byte
	var hours, numbers []int64
	for _, c := range merged {
		accounts, hours = append(accounts, []byte(c.Account)), append(hours, hourly.Number(c.Hour))
		names, numbers = append(names, []byte(c.Name)), append(numbers, c.N)
	}
	err = s.do(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, addCountsSQL, accounts, hours, names, numbers)
		return sent(err)
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
	err = s.do(ctx, func(c *pgx.Conn) error {
		list = nil
		rows, err := c.Query(ctx, countsSQL, []byte(account), first, end)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var hour, n int64
			var name []byte
			if err := rows.Scan(&hour, &name, &n); err != nil {
				return err
			}
			list = append(list, store.Count{Account: account, Hour: hourly.Time(hour), Name: string(name), N: n})
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
	err := s.do(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, dropCountsSQL, []byte(account), hourly.Number(before))
		return sent(err)
	})
	if err != nil {
		return fmt.Errorf("drop counts: %w", sqlkit.Fault(ctx, err))
	}
	return nil
}

// CountUnended implements [store.Counts]. It counts the entries of an index.
func (s *Store) CountUnended(ctx context.Context, account string) (n int, err error) {
	err = s.do(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, unendedSQL, term('a', account)).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("count unended sessions: %w", sqlkit.Fault(ctx, err))
	}
	return n, nil
}
