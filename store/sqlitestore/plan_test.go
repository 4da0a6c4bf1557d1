package sqlitestore

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

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
	for _, subject := range []store.Subject{{}, {Issuer: "i", ID: "s"}} {
		for _, account := range []string{"", "a"} {
			for _, kind := range []policy.Kind{"", "k"} {
				for _, client := range []string{"", "c"} {
					for _, state := range []store.State{store.Any, store.Unended, store.Ended} {
						f := store.Filter{Subject: subject, Account: account, Kind: kind, Client: client, State: state}
						queries[fmt.Sprintf("list %+v", f)], _ = listSQL(f, "", 1)
					}
				}
			}
		}
	}
	for name, query := range queries {
		plan := explain(t, db, query)
		for _, step := range plan {
			// "SCAN CONSTANT ROW" and the scans of a subquery's rows and of a pragma read
			// no table.
			if strings.HasPrefix(step, "SCAN CONSTANT ROW") || strings.HasPrefix(step, "SCAN (subquery") || strings.HasPrefix(step, "SCAN pragma_") {
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
