package pgstore

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

const million = 1_000_000

// fill adds a million sessions of 300,000 subjects, in one account, with 5
// clients. A quarter have ended and half are due at time 500,000. Their
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
			ARRAY['*'::bytea, 'a:all'::bytea, ('c:client' || i %% 5)::bytea, 'k:browser'::bytea, ('s:' || i %% 300000)::bytea],
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
		"due":            {fmt.Sprintf(dueSQL, 100), []any{int64(500_000), int64(600_000)}, 5000},
		"due, none":      {fmt.Sprintf(dueSQL, 100), []any{int64(0), int64(1)}, 10},
		"fence":          {fenceSQL, []any{subject}, 10},
		"put fence":      {putFenceSQL, []any{subject, int64(7), &due, doc, int64(1)}, 50},
		"remove fence":   {removeFenceSQL, []any{subject, int64(1), int64(1)}, 50},
		"due fences":     {dueFencesSQL, []any{int64(1000), int64(100)}, 300},
		"history":        {historySQL, []any{[]byte("d7"), int64(10), int64(10)}, 20},
		"put":            {putSQL, []any{[]byte("d7"), int64(1), doc, "", none, none}, 50},
		"add counts":     {addCountsSQL, []any{[][]byte{[]byte("a7"), []byte("a9")}, []int64{7, 1000}, [][]byte{[]byte("n1"), []byte("n1")}, []int64{1, 1}}, 100},
		"counts":         {countsSQL, []any{[]byte("a7"), int64(100), int64(200)}, 1500},
		"drop counts":    {dropCountsSQL, []any{[]byte("a7"), int64(100)}, 4000},
	}
	for _, subject := range []store.Subject{{}, {Issuer: "i", ID: "s"}} {
		for _, account := range []string{"", "all", "none"} {
			for _, kind := range []policy.Kind{"", policy.Browser} {
				for _, client := range []string{"", "client3"} {
					for _, state := range []store.State{store.Any, store.Unended, store.Ended} {
						f := store.Filter{Subject: subject, Account: account, Kind: kind, Client: client, State: state}
						query, args := listSQL(f, "\x80", 20)
						// A walk over at most 2 times 1,210 sessions, 4 blocks each.
						all[fmt.Sprintf("list %+v", f)] = statement{query, args, 10_000}
					}
				}
			}
		}
	}
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
