package sqlitestore

import (
	"context"
	"fmt"
	"strings"

	"github.com/curfew-oidc/curfew/store"
)

// List implements [store.Sessions].
func (s *Store) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("list sessions: limit is %d, at least 1 is required", limit)
	}
	query, args := listSQL(f, cursor, limit+1)
	var page []store.Session
	err := again(ctx, func() (err error) {
		page, err = sessions(s.db.QueryContext(ctx, query, args...))
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list sessions: %w", fault(ctx, err))
	}
	if len(page) <= limit {
		return page, "", nil
	}
	page = page[:limit]
	return page, page[limit-1].ID, nil
}

// listSQL returns the query for one page. It walks along one index in the order
// of ID, that of the first of subject, account, client and kind that the filter
// has, and looks the others up. Ended and unended sessions are apart in the
// indexes; a list of both is a merge of two.
func listSQL(f store.Filter, cursor string, limit int) (query string, args []any) {
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("?%d", len(args))
	}
	after, most := arg(cursor), arg(limit)

	var terms []string
	for _, t := range []struct{ prefix, name string }{
		{accountTerm, f.Account}, {clientTerm, f.Client}, {kindTerm, string(f.Kind)},
	} {
		if t.name != "" {
			terms = append(terms, arg(t.prefix+t.name))
		}
	}

	var from, where string
	switch {
	case f.Subject != (store.Subject{}):
		from = `curfew_sessions s`
		where = `s.issuer = ` + arg(f.Subject.Issuer) + ` AND s.subject = ` + arg(f.Subject.ID) + ` AND s.ended = %d AND s.id > ` + after
	case len(terms) > 0:
		// CROSS JOIN: this order, not the other.
		from = `curfew_terms t CROSS JOIN curfew_sessions s ON s.id = t.id`
		where = `t.term = ` + terms[0] + ` AND t.ended = %[1]d AND t.id > ` + after
		terms = terms[1:]
	case f.State == store.Any:
		return `SELECT ` + sessionCols + ` FROM curfew_sessions s WHERE s.id > ` + after + ` ORDER BY s.id LIMIT ` + most, args
	default:
		from = `curfew_sessions s`
		where = `s.ended = %d AND s.id > ` + after
	}
	for _, term := range terms {
		where += ` AND EXISTS (SELECT 1 FROM curfew_terms x WHERE x.term = ` + term + ` AND x.ended = %[1]d AND x.id = s.id)`
	}
	// The cursor is compared with the column that the index is in order of.
	id := "s.id"
	if strings.HasPrefix(from, "curfew_terms") {
		id = "t.id"
	}
	half := func(ended int) string {
		return fmt.Sprintf(`SELECT `+sessionCols+` AS fence, `+id+` AS id FROM `+from+` WHERE `+where, ended)
	}
	switch f.State {
	case store.Unended:
		query = half(0)
	case store.Ended:
		query = half(1)
	default:
		query = half(0) + ` UNION ALL ` + half(1)
	}
	return `SELECT revision, document, fence FROM (` + query + ` ORDER BY id LIMIT ` + most + `)`, args
}
