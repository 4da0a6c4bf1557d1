package pgstore

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/sqlkit"
	"github.com/curfew-oidc/curfew/store/internal/unreadable"
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
	var next string
	var unread unreadable.List
	err := s.do(ctx, func(c *pgx.Conn) error {
		page, next, unread = nil, "", unreadable.List{}
		n, last := 0, ""
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
			if n == limit {
				next = last // there is one more, or the walk was cut short
				break
			}
			if revision == nil {
				next = string(id) // the walk was cut short
				continue
			}
			n, last = n+1, string(id)
			one, err := scan(*revision, document, fence)
			if err != nil {
				unread.Add(fmt.Errorf("session %q: %w", id, err))
				continue
			}
			page = append(page, one)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, "", fmt.Errorf("list sessions: %w", sqlkit.Fault(ctx, err))
	}
	if err := unread.Err(); err != nil {
		return page, next, fmt.Errorf("list sessions: %w", err)
	}
	return page, next, nil
}

// mostSteps is how many steps a walk over several lists takes at most: a fraction of
// a second. A page that needs more of them is cut short.
const mostSteps = 10_000

// listSQL returns the query for one page. It walks along the lists of sessions, in
// the order of ID, of whatever the filter has of subject, client, account and kind.
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
	args = []any{[]byte(cursor), int64(limit) + 1}
	switch len(terms) {
	case 0:
		if f.State == store.Any {
			return `SELECT s.id, s.revision, s.document, ` + fenceOf + ` FROM curfew_sessions s WHERE s.id > $1::bytea ORDER BY s.id LIMIT $2::bigint`, args
		}
		return listOneSQL(f.State), append(args, []byte(allTerm))
	case 1:
		return listOneSQL(f.State), append(args, terms[0])
	}
	args = append(args, int64(mostSteps))
	for _, term := range terms {
		args = append(args, term)
	}
	return listSeveralSQL(f.State, len(terms)), args
}

// halves are the values of ended that a state selects: the sessions of a term are in
// two lists.
func halves(state store.State) []bool {
	switch state {
	case store.Unended:
		return []bool{false}
	case store.Ended:
		return []bool{true}
	default:
		return []bool{false, true}
	}
}

// listOneSQL returns the query for the sessions of the term $3.
func listOneSQL(state store.State) string {
	var lists []string
	for _, ended := range halves(state) {
		lists = append(lists, fmt.Sprintf(`(SELECT id FROM curfew_terms WHERE term = $3::bytea AND ended = %t AND id > $1::bytea ORDER BY id LIMIT $2::bigint)`, ended))
	}
	return `WITH walked AS MATERIALIZED (SELECT id FROM (` + strings.Join(lists, ` UNION ALL `) + `) l ORDER BY id LIMIT $2::bigint)
		SELECT s.id, s.revision, s.document, ` + fenceOf + `
		FROM walked w, LATERAL (SELECT * FROM curfew_sessions x WHERE x.id = w.id OFFSET 0) s ORDER BY w.id`
}

// listSeveralSQL returns the query for the sessions of all of some terms, $4 and on.
// Each step asks each list for its first entry from where the last one came to: if
// that is the same in all, it is a session that matches, and if not, the farthest of
// them is where the next step begins. So it takes at most two steps for each entry of
// the shortest list, whichever that is, and looks up only what matches. After $3 steps
// it ends, and the last row says where.
func listSeveralSQL(state store.State, n int) string {
	var firsts, columns, ends []string
	for i := range n {
		var parts []string
		for _, ended := range halves(state) {
			parts = append(parts, fmt.Sprintf(`(SELECT t.id FROM curfew_terms t WHERE t.term = $%d::bytea AND t.ended = %t AND t.id >= w.next ORDER BY t.id LIMIT 1)`, 4+i, ended))
		}
		column := fmt.Sprintf("f%d", i)
		firsts = append(firsts, `least(`+strings.Join(parts, `, `)+`) AS `+column)
		columns = append(columns, column)
		ends = append(ends, column+` IS NOT NULL`)
	}
	first, last := `least(`+strings.Join(columns, `, `)+`)`, `greatest(`+strings.Join(columns, `, `)+`)`
	// What comes next after an ID, byte by byte, is the ID with a zero byte.
	return `WITH RECURSIVE walk (id, match, next, found, steps) AS (
			SELECT NULL::bytea, false, $1::bytea || '\x00'::bytea, 0::bigint, 0::bigint
			UNION ALL
			SELECT ` + first + `, ` + first + ` = ` + last + `,
				CASE WHEN ` + first + ` = ` + last + ` THEN ` + last + ` || '\x00'::bytea ELSE ` + last + ` END,
				w.found + (` + first + ` = ` + last + `)::int, w.steps + 1
			FROM walk w, LATERAL (SELECT ` + strings.Join(firsts, `, `) + ` OFFSET 0) f
			WHERE w.found < $2::bigint AND w.steps < $3::bigint AND ` + strings.Join(ends, ` AND `) + `)
		SELECT s.id, s.revision, s.document, ` + fenceOf + `
		FROM walk w, LATERAL (SELECT * FROM curfew_sessions x WHERE x.id = w.id OFFSET 0) s WHERE w.match
		UNION ALL SELECT id, NULL, NULL, NULL FROM walk WHERE steps = $3::bigint
		ORDER BY id, revision NULLS LAST`
}
