package pgstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/curfew-oidc/curfew/store"
)

// mostListed is more than anybody asks for, and far from an overflow.
const mostListed = 1 << 32

// List implements [store.Sessions].
func (s *Store) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("list sessions: limit is %d, at least 1 is required", limit)
	}
	limit = min(limit, mostListed)
	query, args := listSQL(f, cursor, limit)
	var page []store.Session
	var last string // where the walk was cut short, if it was
	err := s.do(ctx, func(c *pgx.Conn) error {
		page, last = nil, ""
		rows, err := c.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		var id []byte
		var revision *int64
		var document, fence pgtype.DriverBytes // which scan copies
		for rows.Next() {
			if err := rows.Scan(&id, &revision, &document, &fence); err != nil {
				return err
			}
			if revision == nil {
				last = string(id)
				continue
			}
			one, err := scan(*revision, document, fence)
			if err != nil {
				return &refusal{err}
			}
			page = append(page, one)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, "", fmt.Errorf("list sessions: %w", fault(ctx, err))
	}
	if len(page) > limit {
		page = page[:limit]
		last = page[limit-1].ID
	}
	return page, last, nil
}

// listSQL returns the query for one page. It walks along one index in the order
// of ID, that of the first of subject, client, account and kind that the filter
// has, and looks the sessions up. With more than one of these the walk has a
// length, however few match: the page is then short, and its last row is where
// the walk ended.
func listSQL(f store.Filter, cursor string, limit int) (query string, args []any) {
	var terms [][]byte
	if f.Subject != (store.Subject{}) {
		terms = append(terms, subjectTerm(f.Subject))
	}
	if f.Client != "" {
		terms = append(terms, term('c', f.Client))
	}
	if f.Account != "" {
		terms = append(terms, term('a', f.Account))
	}
	if f.Kind != "" {
		terms = append(terms, term('k', string(f.Kind)))
	}
	if len(terms) == 0 {
		if f.State == store.Any {
			return `SELECT s.id, s.revision, s.document, ` + fenceOf + ` FROM curfew_sessions s WHERE s.id > $1::bytea ORDER BY s.id LIMIT $2::bigint`,
				[]any{[]byte(cursor), int64(limit) + 1}
		}
		terms = append(terms, []byte(allTerm))
	}
	steps := int64(limit) + 1
	if len(terms) > 1 {
		steps = 10*steps + 1000
	}

	half := func(ended bool) string {
		return fmt.Sprintf(`(SELECT id FROM curfew_terms WHERE term = $2::bytea AND ended = %t AND id > $1::bytea ORDER BY id LIMIT $4::bigint)`, ended)
	}
	var walked string
	switch f.State {
	case store.Unended:
		walked = half(false)
	case store.Ended:
		walked = half(true)
	default:
		walked = half(false) + ` UNION ALL ` + half(true) + ` ORDER BY id LIMIT $4::bigint`
	}
	return `WITH walked AS MATERIALIZED (` + walked + `),
		found AS MATERIALIZED (
			SELECT s.id, s.revision, s.document, s.terms
			FROM walked w, LATERAL (SELECT * FROM curfew_sessions x WHERE x.id = w.id AND x.terms @> $3::bytea[] OFFSET 0) s
			ORDER BY w.id LIMIT $5::bigint)
		SELECT s.id, s.revision, s.document, ` + fenceOf + ` FROM found s
		UNION ALL (SELECT id, NULL, NULL, NULL FROM walked ORDER BY id OFFSET $4::bigint - 1 LIMIT 1)`,
		[]any{[]byte(cursor), terms[0], terms[1:], steps, int64(limit) + 1}
}
