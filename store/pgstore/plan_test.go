package pgstore

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

const million = 1_000_000

// fill adds a million sessions of 300,000 subjects, with 5 clients, in one account and
// in another that is "of0" to "of4", as the client is, or the small "tenant". A quarter have ended and half are due at time 500,000. Their
// documents, which no query looks at, are small: that makes walking over the table
// look cheap to the planner. Tables that are emptied and filled in one transaction need no WAL.
var fill = []string{
	`BEGIN`,
	`TRUNCATE curfew_sessions, curfew_terms`,
	`ALTER TABLE curfew_sessions DROP CONSTRAINT curfew_sessions_pkey`,
	`ALTER TABLE curfew_terms DROP CONSTRAINT curfew_terms_pkey`,
	`DROP INDEX curfew_sessions_due`,
	fmt.Sprintf(`INSERT INTO curfew_sessions (id, revision, ended, terms, due, document)
		SELECT decode(md5(i::text), 'hex'), 1, i %% 4 = 0,
			ARRAY['*'::bytea, 'a:all'::bytea, (CASE WHEN i %% 1000 = 7 THEN 'a:tenant' ELSE 'a:of' || i %% 5 END)::bytea, ('c:client' || i %% 5)::bytea, 'k:browser'::bytea, ('s:' || i %% 300000)::bytea],
			i, decode(repeat('00', 100), 'hex')
		FROM generate_series(1, %d) i`, million),
	`INSERT INTO curfew_terms (term, ended, id) SELECT unnest(terms), ended, id FROM curfew_sessions`,
	`ALTER TABLE curfew_sessions ADD PRIMARY KEY (id)`,
	`ALTER TABLE curfew_terms ADD PRIMARY KEY (term, ended, id)`,
	`CREATE INDEX curfew_sessions_due ON curfew_sessions (due, id) WHERE due IS NOT NULL`,
	`INSERT INTO curfew_fences SELECT ('s:' || i)::bytea, 1, 1, i, '{}' FROM generate_series(1, 300000) i`,
	`INSERT INTO curfew_counts SELECT ('a' || i % 100)::bytea, i / 1000, ('n' || i / 100 % 10)::bytea, 1 FROM generate_series(0, 499999) i`,
	`INSERT INTO curfew_documents SELECT ('d' || i)::bytea, 1, '', '', '', '' FROM generate_series(1, 100000) i`,
	`COMMIT`,
}

// A statement is one of the store's, with arguments for the sessions of fill.
type statement struct {
	query  string
	args   []any
	blocks int // how many blocks of 8 kB it may look at
}

func statements() map[string]statement {
	id, none, subject := []byte("\xc4\xca\x42\x38\xa0\xb9\x23\x82\x0d\xcc\x50\x9a\x6f\x75\x84\x9b"), []byte("none"), []byte("s:1")
	due := int64(7)
	terms := [][]byte{[]byte("*"), []byte("a:all"), []byte("c:other"), subject}
	doc := []byte("{}")
	all := map[string]statement{
		"get":            {getSQL, []any{id}, 40},
		"held":           {heldSQL, []any{subject}, 50},
		"create":         {createSQL, []any{none, false, terms, &due, doc, subject, int64(10), true, int64(1)}, 200},
		"create, no cap": {createSQL, []any{none, false, terms, &due, doc, subject, int64(1) << 40, true, int64(1)}, 200},
		"add":            {addSQL, []any{none, false, terms, &due, doc}, 200},
		"update":         {updateSQL, []any{id, false, [][]byte{[]byte("*")}, &due, doc, int64(1)}, 50},
		"end":            {rewriteSQL, []any{id, true, terms, &due, doc, int64(1), subject}, 300},
		"update, lost":   {rewriteSQL, []any{id, true, terms, &due, doc, int64(7), subject}, 50},
		"remove":         {removeSQL, []any{id, int64(1)}, 200},
		"due":            {fmt.Sprintf(dueSQL, 100), []any{int64(500_000), int64(600_000), int64(math.MaxInt64)}, 5000},
		"due, none":      {fmt.Sprintf(dueSQL, 100), []any{int64(0), int64(1), int64(math.MaxInt64)}, 10},
		"fence":          {fenceSQL, []any{subject}, 10},
		"put fence":      {putFenceSQL, []any{subject, int64(7), &due, doc, int64(1)}, 50},
		"remove fence":   {removeFenceSQL, []any{subject, int64(1), int64(1)}, 50},
		"due fences":     {dueFencesSQL, []any{int64(1000), int64(100)}, 300},
		"history":        {historySQL, []any{[]byte("d7"), int64(10), int64(10)}, 20},
		"put":            {putSQL, []any{[]byte("d7"), int64(1), doc, "", none, none, false}, 50},
		"put alone":      {putSQL, []any{[]byte("d7"), int64(1), doc, "", none, none, true}, 50},
		"add counts":     {addCountsSQL, []any{[][]byte{[]byte("a7"), []byte("a9")}, []int64{7, 1000}, [][]byte{[]byte("n1"), []byte("n1")}, []int64{1, 1}}, 100},
		"counts":         {countsSQL, []any{[]byte("a7"), int64(100), int64(200)}, 1500},
		"drop counts":    {dropCountsSQL, []any{[]byte("a7"), int64(100)}, 4000},
	}
	for f := range sample.Filters(policy.Browser, "client3", "all", "none", "tenant", "of3") {
		query, args := listSQL(f, "\x80", 20)
		// Of the tenant's 500, none has the client: two steps for each.
		all[fmt.Sprintf("list %+v", f)] = statement{query, args, 500 * 2 * 3 * 2 * 6}
	}
	// Two long lists with nothing in common: no page takes longer.
	query, args := listSQL(store.Filter{Account: "of4", Client: "client3"}, "", 20)
	all["list, nothing in common"] = statement{query, args, mostSteps * 2 * 2 * 6}
	return all
}

// At a million sessions no query walks over a table, nor over much of an index:
// whether the planner knows the arguments or not, and whether it knows what is in
// the tables or not.
func TestNoQueryWalks(t *testing.T) {
	t.Parallel()
	server, err := engine.NewPostgres("fsync=off", "maintenance_work_mem=512MB", "max_wal_size=16GB", "autovacuum=off", "wal_level=minimal", "max_wal_senders=0")
	require.NoError(t, err)
	defer server.Close()
	url, err := server.CreateDatabase(t.Context())
	require.NoError(t, err)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	defer pool.Close()
	_, err = New(t.Context(), pool)
	require.NoError(t, err)

	config, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer c.Close(context.WithoutCancel(t.Context()))
	for _, query := range fill {
		_, err := c.Exec(t.Context(), query)
		require.NoError(t, err, query)
	}

	n := 0
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			_, err := c.Exec(t.Context(), `ANALYZE`)
			require.NoError(t, err)
		}
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			_, err := c.Exec(t.Context(), `SET plan_cache_mode = `+mode)
			require.NoError(t, err)
			for name, s := range statements() {
				n++
				walked, text := explain(t, c, fmt.Sprintf("s%d", n), s)
				require.Empty(t, walked, "%s, %s, analyzed: %t\n%s", name, mode, analyzed, text)
			}
		}
	}

	// Counting is the exception: it walks over the index, not over the table.
	_, err = c.Exec(t.Context(), `VACUUM ANALYZE curfew_terms`)
	require.NoError(t, err)
	walked, text := explain(t, c, "stats", statement{statsSQL, nil, 1 << 40})
	require.Empty(t, walked, text)
	walked, text = explain(t, c, "unended", statement{unendedSQL, []any{[]byte("a:all")}, 1 << 40})
	require.Empty(t, walked, text)
	walked, text = explain(t, c, "unended_none", statement{unendedSQL, []any{[]byte("a:none")}, 10})
	require.Empty(t, walked, text)

	// The test would notice.
	for _, bad := range []string{
		`SELECT document FROM curfew_sessions WHERE claimed = 1`,
		`SELECT document FROM curfew_sessions WHERE id > 'a' ORDER BY revision LIMIT 1`,
		`SELECT id FROM curfew_terms WHERE term > 'a' AND id = 'b'`,
	} {
		n++
		walked, text := explain(t, c, fmt.Sprintf("s%d", n), statement{bad, nil, 1000})
		require.NotEmpty(t, walked, text)
	}
}

// explain executes a statement, and undoes it, and returns what is wrong with how
// it was executed.
func explain(t *testing.T, c *pgx.Conn, name string, s statement) (wrong []string, text string) {
	ctx := t.Context()
	tx, err := c.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx)
	_, err = tx.Exec(ctx, `PREPARE `+name+` AS `+s.query)
	require.NoError(t, err, s.query)
	query := `EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE ` + name
	if len(s.args) > 0 {
		var params []string
		for i := range s.args {
			params = append(params, fmt.Sprintf("$%d", i+1))
		}
		query += "(" + strings.Join(params, ", ") + ")"
	}
	require.NoError(t, tx.QueryRow(ctx, query, s.args...).Scan(&text), s.query)
	var plans []struct{ Plan plan }
	require.NoError(t, json.Unmarshal([]byte(text), &plans))
	p := plans[0].Plan
	if blocks := p.Hit + p.Read; blocks > s.blocks {
		wrong = append(wrong, fmt.Sprintf("it looks at %d blocks", blocks))
	}
	return p.seqScans(wrong), text
}

type plan struct {
	Type     string `json:"Node Type"`
	Relation string `json:"Relation Name"`
	Hit      int    `json:"Shared Hit Blocks"`
	Read     int    `json:"Shared Read Blocks"`
	Plans    []plan
}

func (p plan) seqScans(found []string) []string {
	if strings.Contains(p.Type, "Seq Scan") {
		found = append(found, p.Type+" on "+p.Relation)
	}
	for _, sub := range p.Plans {
		found = sub.seqScans(found)
	}
	return found
}

// Whatever a filter combines, the shortest of the lists is walked along, and each page
// but the last is full: a tenant's 60 sessions are found at once among those of a
// client of everybody's.
func TestListIsFull(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := enginetest.PostgresURL(t)
	pool, err := pgxpool.New(ctx, url)
	require.NoError(t, err)
	defer pool.Close()
	s, err := New(ctx, pool)
	require.NoError(t, err)

	const n = 3*mostSteps/2 + 2
	at := sample.Typical().Started
	var all []store.Session
	var sessions, terms [][]any
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
		if i%250 == 0 { // 60, half of them of the client web
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
		require.NoError(t, err)
		all = append(all, one)
		sessions = append(sessions, []any{r.id, int64(1), r.ended, r.terms, r.document})
		for _, term := range r.terms {
			terms = append(terms, []any{term, r.ended, r.id})
		}
	}
	_, err = pool.CopyFrom(ctx, pgx.Identifier{"curfew_sessions"}, []string{"id", "revision", "ended", "terms", "document"}, pgx.CopyFromRows(sessions))
	require.NoError(t, err)
	_, err = pool.CopyFrom(ctx, pgx.Identifier{"curfew_terms"}, []string{"term", "ended", "id"}, pgx.CopyFromRows(terms))
	require.NoError(t, err)
	config, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c, err := pgx.ConnectConfig(ctx, config)
	require.NoError(t, err)
	defer c.Close(context.WithoutCancel(ctx))

	for i, f := range []store.Filter{
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
					if cursor = next; cursor == "" {
						break
					}
					require.Len(t, page, limit, "%+v", f)
				}
				require.Equal(t, want, got, "%+v", f)
			}
			if f.Client != "app" || f.Account != "" {
				query, args := listSQL(f, "", 100)
				// 60 entries, two steps for each, of four lists in two halves, and 60 look-ups.
				walked, text := explain(t, c, fmt.Sprintf("f%d_%d", i, state), statement{query, args, 60*2*4*2*4 + 60*4})
				require.Empty(t, walked, "%+v\n%s", f, text)
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
