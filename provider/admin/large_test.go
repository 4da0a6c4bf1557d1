package admin_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// A page of a list of 100,000 sessions is one query, which walks along an index:
// it looks at no more rows than it returns.
func TestAPageOfAHundredThousandSessionsIsOneQuery(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var executed []string
	db, err := driver.Open("file:"+filepath.Join(t.TempDir(), "s.db"), func(c *sqlite3.Conn) error {
		return c.Trace(sqlite3.TRACE_STMT, func(_ sqlite3.TraceEvent, stmt, _ any) error {
			mu.Lock()
			defer mu.Unlock()
			executed = append(executed, strings.Join(strings.Fields(stmt.(*sqlite3.Stmt).ExpandedSQL()), " "))
			return nil
		})
	})
	require.NoError(t, err)
	defer db.Close()
	sessions, err := sqlitestore.New(t.Context(), db)
	require.NoError(t, err)
	w := newWorld(t, func(w *world, c *provider.Config, a *admin.Config) {
		w.store = sessions
		// From nowhere else, so that what is counted is the list.
		c.Settings = provider.StaticSettings{Accounts: map[string]policy.Account{"acme": bounds(24*time.Hour, time.Hour, 0, 0)}}
	})
	root := w.login("root")
	template, err := sessions.Get(t.Context(), w.sessions(root, "")[0].ID)
	require.NoError(t, err)

	// Copies of that session, of a hundred users. Through the store it would take
	// half a minute.
	const users, perUser = 100, 1000
	document, err := template.MarshalJSON()
	require.NoError(t, err)
	for user := range users {
		subject := store.Subject{Issuer: w.Issuer, ID: fmt.Sprintf("id-many-%d", user)}
		text := strings.NewReplacer(`"`+template.Subject.ID+`"`, `"`+subject.ID+`"`, `"`+template.ID+`"`, `"SID"`).Replace(string(document))
		const each = `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?1 - 1), s AS (SELECT i, ?2 || printf('%06d-%06d', ?3, i) AS id FROM n) `
		_, err := db.ExecContext(t.Context(), each+`INSERT INTO curfew_sessions (id, revision, issuer, subject, ended, terms, document)
			SELECT id, 1, ?4, ?5, 0, '["account:acme","client:web","kind:browser"]', CAST(replace(?6, '"SID"', '"' || id || '"') AS BLOB) FROM s`,
			perUser, store.Bucket(subject), user, subject.Issuer, subject.ID, text)
		require.NoError(t, err)
		_, err = db.ExecContext(t.Context(), each+`INSERT INTO curfew_terms (term, ended, id) SELECT j.value, 0, s.id FROM s, json_each('["account:acme","client:web","kind:browser"]') j`,
			perUser, store.Bucket(subject), user)
		require.NoError(t, err)
	}
	one, err := sessions.Get(t.Context(), fmt.Sprintf("%s%06d-%06d", store.Bucket(store.Subject{Issuer: w.Issuer, ID: "id-many-7"}), 7, 7))
	require.NoError(t, err)
	require.Equal(t, "id-many-7", one.Subject.ID)

	const limit = 100
	cursor := ""
	for range 3 {
		for _, query := range []string{"", "kind=browser", "client=web", "user=id-many-7", "state=any"} {
			from := cursor
			if query != "" {
				from = ""
			}
			mu.Lock()
			executed = nil
			mu.Unlock()
			var got struct {
				Sessions []admin.Session
				Next     string `json:"next_cursor"`
			}
			w.send("GET", fmt.Sprintf("/v1/accounts/acme/sessions?limit=%d&cursor=%s&%s", limit, from, query), root, nil).into(200, &got)
			require.Len(t, got.Sessions, limit)
			require.NotEmpty(t, got.Next)
			mu.Lock()
			var lists []string
			for _, statement := range executed {
				// Two reads of one row by its key are for the access token.
				if !strings.Contains(statement, "WHERE id = ") && strings.HasPrefix(statement, "SELECT") {
					lists = append(lists, statement)
				}
			}
			mu.Unlock()
			require.Len(t, lists, 1, "%q: %v", query, executed)
			rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+lists[0])
			require.NoError(t, err)
			var plan []string
			for rows.Next() {
				var id, parent, unused int
				var detail string
				require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
				plan = append(plan, detail)
			}
			require.NoError(t, rows.Close())
			require.NotEmpty(t, plan)
			for _, step := range plan {
				require.NotContains(t, step, "TEMP B-TREE", "%q: %v", query, plan)
				if !strings.HasPrefix(step, "SCAN (subquery") { // of the rows of the steps below, not of a table
					require.NotContains(t, step, "SCAN", "%q: %v", query, plan)
				}
			}
			if query == "" {
				cursor = got.Next
			}
		}
	}
}
