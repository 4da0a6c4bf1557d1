package sqlitestore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/sqlkit"
	"github.com/curfew-oidc/curfew/store/internal/unreadable"
)

// mostSteps is how many steps a walk over several lists takes at most: a fraction of
// a second. A page that needs more of them is cut short.
const mostSteps = 10_000

// List implements [store.Sessions].
func (s *Store) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("list sessions: limit is %d, at least 1 is required", limit)
	}
	query, args := listSQL(f, cursor, limit+1)
	var page []store.Session
	var next string
	var unread unreadable.List
	err := s.again(ctx, func() error {
		page, next, unread = nil, "", unreadable.List{}
		n, last := 0, ""
		found, err := s.db.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer found.Close()
		var document, fence sql.RawBytes // which scan copies
		for found.Next() {
			var id string
			var revision sql.NullInt64
			var cut bool
			if err := found.Scan(&id, &revision, &document, &fence, &cut); err != nil {
				return err
			}
			if n == limit {
				next = last // there is one more at least
				break
			}
			if cut {
				next = id // the walk was cut short
			}
			if !revision.Valid {
				continue
			}
			n, last = n+1, id
			one, err := scan(revision.Int64, document, fence)
			if err != nil {
				unread.Add(fmt.Errorf("session %q: %w", id, err))
				continue
			}
			page = append(page, one)
		}
		return found.Err()
	})
	if err != nil {
		return nil, "", fmt.Errorf("list sessions: %w", sqlkit.Fault(ctx, err))
	}
	if err := unread.Err(); err != nil {
		return page, next, fmt.Errorf("list sessions: %w", err)
	}
	return page, next, nil
}

// listSQL returns the query for one page. It walks along the lists of sessions, in
// the order of ID, of whatever the filter has of subject, account, client and kind.
func listSQL(f store.Filter, cursor string, limit int) (query string, args []any) {
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("?%d", len(args))
	}
	after, most := arg(cursor), arg(limit)

	// Each is an index, in which ended and unended sessions are apart.
	var lists []string
	if f.Subject != (store.Subject{}) {
		lists = append(lists, `curfew_sessions WHERE issuer = `+arg(f.Subject.Issuer)+` AND subject = `+arg(f.Subject.ID))
	}
	for _, t := range []struct{ prefix, name string }{
		{accountTerm, f.Account}, {clientTerm, f.Client}, {kindTerm, string(f.Kind)},
	} {
		if t.name != "" {
			lists = append(lists, `curfew_terms WHERE term = `+arg(t.prefix+t.name))
		}
	}
	if len(lists) == 0 && f.State == store.Any {
		return `SELECT s.id, ` + sessionCols + `, false FROM curfew_sessions s WHERE s.id > ` + after + ` ORDER BY s.id LIMIT ` + most, args
	}
	halves := []int{0, 1}
	switch f.State {
	case store.Unended:
		halves = []int{0}
	case store.Ended:
		halves = []int{1}
	}
	switch len(lists) {
	case 0:
		return listOneSQL(`curfew_sessions WHERE true`, halves, after, most), args
	case 1:
		return listOneSQL(lists[0], halves, after, most), args
	default:
		return listSeveralSQL(lists, halves, after, most), args
	}
}

// listOneSQL returns the query for the sessions of one list.
func listOneSQL(list string, halves []int, after, most string) string {
	var parts []string
	for _, ended := range halves {
		parts = append(parts, fmt.Sprintf(`SELECT id FROM %s AND ended = %d AND id > %s`, list, ended, after))
	}
	// CROSS JOIN: this order, not the other.
	return `SELECT s.id, ` + sessionCols + `, false FROM (` + strings.Join(parts, ` UNION ALL `) + ` ORDER BY id LIMIT ` + most + `) w
		CROSS JOIN curfew_sessions s ON s.id = w.id`
}

// listSeveralSQL returns the query for the sessions of all of some lists. Each step
// asks each list for its first entry from where the last one came to: if that is the
// same in all, it is a session that matches, and if not, the farthest of them is where
// the next step begins. So it takes at most two steps for each entry of the shortest
// list, whichever that is, and looks up only what matches. After mostSteps it ends,
// and the last row says where.
func listSeveralSQL(lists []string, halves []int, after, most string) string {
	// The columns are the first entries of the halves of each list; one half may
	// have none.
	var columns, begin, step, firsts, going []string
	for i, list := range lists {
		var first []string
		for _, ended := range halves {
			column := fmt.Sprintf("f%d_%d", i, ended)
			entry := `(SELECT id FROM ` + list + fmt.Sprintf(` AND ended = %d AND id `, ended)
			columns, first = append(columns, column), append(first, column)
			begin = append(begin, entry+`> `+after+` ORDER BY id LIMIT 1)`)
			step = append(step, entry+`>= next ORDER BY id LIMIT 1)`)
		}
		one := first[0]
		if len(first) == 2 {
			one = `min(ifnull(` + first[0] + `, ` + first[1] + `), ifnull(` + first[1] + `, ` + first[0] + `))`
		}
		firsts = append(firsts, one)
		going = append(going, one+` IS NOT NULL`)
	}
	id, far := `min(`+strings.Join(firsts, `, `)+`)`, `max(`+strings.Join(firsts, `, `)+`)`
	// What comes next after an ID, byte by byte, is the ID with a zero byte.
	next := `CASE WHEN ` + id + ` = ` + far + ` THEN ` + far + ` || char(0) ELSE ` + far + ` END`
	for i := range step {
		step[i] = strings.Replace(step[i], "next", next, 1)
	}
	return `WITH RECURSIVE walk (` + strings.Join(columns, `, `) + `, found, steps) AS (
			SELECT ` + strings.Join(begin, `, `) + `, 0, 1
			UNION ALL
			SELECT ` + strings.Join(step, `, `) + `, found + (` + id + ` = ` + far + `), steps + 1
			FROM walk WHERE ` + strings.Join(going, ` AND `) + ` AND found + (` + id + ` = ` + far + `) < ` + most + ` AND steps < ` + fmt.Sprint(mostSteps) + `),
		w AS (SELECT ` + id + ` AS id, ` + id + ` = ` + far + ` AS match, steps FROM walk WHERE ` + strings.Join(going, ` AND `) + `)
		SELECT w.id, ` + sessionCols + `, w.steps = ` + fmt.Sprint(mostSteps) + ` FROM w LEFT JOIN curfew_sessions s ON s.id = w.id AND w.match
		WHERE w.match OR w.steps = ` + fmt.Sprint(mostSteps) + ` ORDER BY w.steps`
}
