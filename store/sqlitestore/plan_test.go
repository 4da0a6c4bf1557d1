package sqlitestore

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// No query walks over a whole table, and none sorts.
func TestNoQueryScans(t *testing.T) {
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "s.db"))
	require.NoError(t, err)
	defer db.Close()
	_, err = New(t.Context(), db)
	require.NoError(t, err)

	queries := map[string]string{
		"get": getSQL, "count": countSQL, "held": heldSQL, "insert": insertSQL, "update": updateSQL, "state": stateSQL,
		"rewrite": rewriteSQL, "remove": removeSQL, "addTerm": addTermSQL, "removeTerm": removeTermSQL,
		"anyDue": anyDueSQL, "due": dueSQL, "claim": claimSQL, "stats": statsSQL,
		"document": documentSQL, "currentVersion": currentVersionSQL, "insertVersion": insertVersionSQL, "history": historySQL,
		"addCount": addCountSQL, "counts": countsSQL, "dropCounts": dropCountsSQL, "unended": unendedSQL,
	}
	for f := range sample.Filters("k", "c", "a") {
		queries[fmt.Sprintf("list %+v", f)], _ = listSQL(f, "", 1)
	}
	for name, query := range queries {
		plan := explain(t, db, query)
		for _, step := range plan {
			// "SCAN CONSTANT ROW" and the scans of a subquery's rows, of a walk's steps and
			// of a pragma read no table. A page of a walk is sorted, which it was before.
			if slices.ContainsFunc([]string{"SCAN CONSTANT ROW", "SCAN (subquery", "SCAN w", "SCAN pragma_"}, func(prefix string) bool { return strings.HasPrefix(step, prefix) }) ||
				step == "USE TEMP B-TREE FOR ORDER BY" && strings.HasPrefix(query, "WITH RECURSIVE") {
				continue
			}
			require.NotContains(t, step, "SCAN", "%s: %s\n%s", name, query, strings.Join(plan, "\n"))
			require.NotContains(t, step, "TEMP B-TREE", "%s: %s\n%s", name, query, strings.Join(plan, "\n"))
			require.NotContains(t, step, "AUTOMATIC", "%s: %s\n%s", name, query, strings.Join(plan, "\n"))
		}
	}

	// The test would notice.
	for _, bad := range []string{
		`SELECT document FROM curfew_sessions WHERE claimed = ?1`,
		`SELECT document FROM curfew_sessions WHERE issuer = ?1 ORDER BY due`,
	} {
		require.Regexp(t, `SCAN curfew_sessions|TEMP B-TREE`, strings.Join(explain(t, db, bad), "\n"))
	}
}

func explain(t *testing.T, db *sql.DB, query string) (steps []string) {
	args := make([]any, 0, 8)
	for i := 1; strings.Contains(query, fmt.Sprintf("?%d", i)); i++ {
		args = append(args, 1)
	}
	rows, err := db.Query("EXPLAIN QUERY PLAN "+query, args...)
	require.NoError(t, err, query)
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
		steps = append(steps, detail)
	}
	require.NoError(t, rows.Err())
	return steps
}

// Whatever a filter combines, the shortest of the lists is walked along, and each page
// but the last is full: a tenant's 60 sessions are found at once among those of a
// client of everybody's.
func TestListIsFull(t *testing.T) {
	t.Parallel()
	var instructions atomic.Int64 // of SQLite's machine, by the last statement
	db, err := driver.Open("file:"+filepath.Join(t.TempDir(), "s.db"), func(c *sqlite3.Conn) error {
		return c.Trace(sqlite3.TRACE_PROFILE, func(_ sqlite3.TraceEvent, stmt, _ any) error {
			instructions.Store(int64(stmt.(*sqlite3.Stmt).Status(sqlite3.STMTSTATUS_VM_STEP, true)))
			return nil
		})
	})
	require.NoError(t, err)
	defer db.Close()
	ctx := t.Context()
	s, err := New(ctx, db)
	require.NoError(t, err)

	const n = 3*mostSteps/2 + 2
	at := sample.Typical().Started
	var all []store.Session
	require.NoError(t, s.write(ctx, func(tx *sql.Tx) error {
		for i := range n {
			one := store.Session{
				Format: store.Format, Revision: 1, Subject: store.Subject{Issuer: "i", ID: "s"}, Kind: policy.Browser, Client: "web", Accounts: []string{"even"},
				Started: at, Authenticated: at, LastActivity: at,
			}
			// In the order of their IDs the odd and the even ones alternate.
			one.ID = fmt.Sprintf("%s.%08d", store.Bucket(one.Subject), i)
			if i%2 == 1 {
				one.Accounts, one.Client = []string{"odd"}, "app"
			}
			if i%250 == 0 { // 61, half of them of the client web
				one.Accounts = append(one.Accounts, "tenant")
			}
			if i%500 == 0 {
				one.Client, one.Kind = "rare", policy.CLI
			}
			if i == n-1 {
				one.Accounts, one.Client = []string{"even", "odd"}, "app"
			}
			if i%3 == 0 {
				one.End = &store.End{At: at, Reason: policy.ReasonLogout}
			}
			r, err := newRow(&one)
			if err != nil {
				return err
			}
			if err := s.add(ctx, tx, r); err != nil {
				return err
			}
			all = append(all, one)
		}
		return nil
	}))

	for _, f := range []store.Filter{
		{Account: "tenant", Client: "web"}, {Account: "tenant", Client: "rare"}, {Account: "even", Client: "rare"}, {Account: "tenant", Kind: policy.CLI},
		{Account: "even", Kind: policy.CLI}, {Client: "rare", Kind: policy.CLI}, {Client: "app", Kind: policy.Browser}, {Account: "tenant", Client: "rare", Kind: policy.CLI},
		{Account: "tenant", Subject: all[0].Subject}, {Account: "tenant", Client: "rare", Kind: policy.CLI, Subject: all[0].Subject},
		{Account: "tenant", Client: "app"}, {Account: "none", Client: "web"}, {Account: "tenant", Client: "none", Kind: policy.Browser},
	} {
		for _, state := range []store.State{store.Any, store.Unended, store.Ended} {
			f.State = state
			var want []string
			for _, one := range all {
				if (f.Account == "" || slices.Contains(one.Accounts, f.Account)) && (f.Client == "" || one.Client == f.Client) && (f.Kind == "" || one.Kind == f.Kind) &&
					(state == store.Any || (one.End != nil) == (state == store.Ended)) {
					want = append(want, one.ID)
				}
			}
			for _, limit := range []int{7, 100} {
				var got []string
				for cursor := ""; ; {
					page, next, err := s.List(ctx, f, cursor, limit)
					require.NoError(t, err)
					for _, one := range page {
						got = append(got, one.ID)
					}
					// 61 entries, two steps for each, of four lists in two halves: some
					// tens of instructions each. A walk along a long list is millions.
					require.Less(t, instructions.Load(), int64(61*2*4*2*100), "%+v", f)
					if cursor = next; cursor == "" {
						break
					}
					require.Len(t, page, limit, "%+v", f)
				}
				require.Equal(t, want, got, "%+v", f)
			}
		}
	}

	// Long lists that have hardly anything in common take more than one page, and
	// nothing is passed over.
	var got []string
	pages := 0
	for cursor := ""; ; pages++ {
		page, next, err := s.List(ctx, store.Filter{Account: "even", Client: "app"}, cursor, 10)
		require.NoError(t, err)
		for _, one := range page {
			got = append(got, one.ID)
		}
		require.True(t, next == "" || next > cursor)
		if cursor = next; cursor == "" {
			break
		}
	}
	require.Equal(t, []string{all[n-1].ID}, got)
	require.Equal(t, 1, pages, "before the last")
}
