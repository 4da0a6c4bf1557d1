package admin_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/store/pgstore"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m)) }

// A queryLog notes the statements that are sent to PostgreSQL.
type queryLog struct {
	mu   sync.Mutex
	list []pgx.TraceQueryStartData
}

func (l *queryLog) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, d)
	return ctx
}

func (l *queryLog) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (l *queryLog) take() []pgx.TraceQueryStartData {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = nil
	return list
}

var buffers = regexp.MustCompile(`Buffers: shared hit=(\d+)(?: read=(\d+))?`)

// A page of a list of 100,000 sessions is one query, which looks at a number of
// blocks of the database that is bounded by its length.
func TestAPageOfAHundredThousandSessionsIsOneQuery(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(enginetest.PostgresURL(t))
	require.NoError(t, err)
	queries := &queryLog{}
	config.ConnConfig.Tracer = queries
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	sessions, err := pgstore.New(t.Context(), pool)
	require.NoError(t, err)
	w := newWorld(t, func(w *admintest.World, c *provider.Config, _ *admin.Config) {
		w.Store = sessions
		// From nowhere else, so that what is counted is the list.
		c.Settings = provider.StaticSettings{Accounts: map[string]policy.Account{"acme": admintest.Bounds(24*time.Hour, time.Hour, 0, 0)}}
	})
	root := w.SignIn("root")
	w.SignIn("ann")
	sid := listSessions(w, root, "user=id-ann")[0].ID

	// 100,000 copies of ann's session. Through the store they would take half a
	// minute.
	const count = 100_000
	for _, statement := range []string{
		`INSERT INTO curfew_sessions (id, revision, ended, terms, due, document)
			SELECT n.id, 1, s.ended, s.terms, s.due, convert_to(replace(convert_from(s.document, 'UTF8'), '"sid":"%[1]s"', '"sid":"' || convert_from(n.id, 'UTF8') || '"'), 'UTF8')
			FROM curfew_sessions s, (SELECT convert_to('%[2]s' || lpad(i::text, 24, '0'), 'UTF8') AS id FROM generate_series(1, %[3]d) i) n
			WHERE s.id = convert_to('%[1]s', 'UTF8')`,
		`INSERT INTO curfew_terms (term, ended, id) SELECT unnest(terms), ended, id FROM curfew_sessions ON CONFLICT DO NOTHING`,
		`ANALYZE`,
	} {
		_, err := pool.Exec(t.Context(), strings.NewReplacer("%[1]s", sid, "%[2]s", sid[:3], "%[3]d", strconv.Itoa(count)).Replace(statement))
		require.NoError(t, err)
	}
	stats, err := sessions.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, count+2, stats.Unended)

	const limit = 100
	cursor := ""
	for range 3 {
		for _, query := range []string{"", "kind=browser", "client=web", "user=id-ann", "user=id-ann&kind=browser&client=web", "state=any"} {
			from := cursor
			if query != "" {
				from = ""
			}
			queries.take()
			var got struct {
				Sessions []session
				Next     string `json:"next_cursor"`
			}
			w.Send("GET", fmt.Sprintf("/v1/accounts/acme/sessions?limit=%d&cursor=%s&%s", limit, from, query), root, nil).Into(200, &got)
			require.Len(t, got.Sessions, limit)
			require.NotEmpty(t, got.Next)
			var lists []pgx.TraceQueryStartData
			for _, q := range queries.take() {
				if strings.Contains(q.SQL, "curfew_terms") {
					lists = append(lists, q)
				} else {
					// The access token's own session: one row by its key.
					require.Regexp(t, `WHERE (s\.)?id = \$1\b`, q.SQL, "%q", query) // its use may be noted, too
				}
			}
			require.Len(t, lists, 1, "%q", query)
			looked := 0
			rows, err := pool.Query(t.Context(), "EXPLAIN (ANALYZE, BUFFERS) "+lists[0].SQL, lists[0].Args...)
			require.NoError(t, err)
			plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			for _, line := range plan {
				if strings.Contains(line, "curfew_fences") {
					continue // it is empty here; pgstore's own test has it full
				}
				require.NotContains(t, line, "Seq Scan", "%q:\n%s", query, strings.Join(plan, "\n"))
				for _, m := range buffers.FindAllStringSubmatch(line, -1) {
					hit, _ := strconv.Atoi(m[1])  // of digits
					read, _ := strconv.Atoi(m[2]) // or nothing
					looked = max(looked, hit+read)
				}
			}
			require.Positive(t, looked, strings.Join(plan, "\n"))
			// The store walks over at most twenty times the page to find those
			// that match, at four blocks each. All would be 400,000 blocks.
			require.Less(t, looked, 200*limit, "%q:\n%s", query, strings.Join(plan, "\n"))
			if query == "" {
				cursor = got.Next
			}
		}
	}
}
