package onengines

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/pgstore"
)

// administered starts a provider with the API, which every access token opens.
func administered(t *testing.T, sessions store.Store) *hooktest.Server {
	t.Helper()
	var api *admin.Admin
	var embedded *op.Provider
	s := hooktest.Start(t, hooktest.Limits(24*time.Hour, time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
		p.Store = sessions
		o.InMemory = true
		o.Options = []op.Option{func(p *op.Provider) error { embedded = p; return nil }}
		o.Middleware = func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/v1/") {
					api.ServeHTTP(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
		}
	})
	var err error
	api, err = admin.New(admin.Config{
		Hook: s.Hook, Issuer: s.Issuer, Store: sessions,
		Authorize: func(ctx context.Context, r *http.Request, _ admin.Action, _ string) (admin.Actor, error) {
			at, err := s.Hook.AccessToken(op.ContextWithIssuer(ctx, s.Issuer), embedded, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
			if errors.Is(err, provider.ErrInvalidToken) {
				return admin.Actor{}, fmt.Errorf("%w: %w", admin.ErrUnauthenticated, err)
			}
			return admin.Actor{ID: at.Subject, User: at.Subject, SID: at.Session.ID, Client: at.Client}, err
		},
	})
	require.NoError(t, err)
	return s
}

// A listed is what the API says of sessions.
type listed struct {
	Sessions []struct{ ID string }
	Next     string `json:"next_cursor"`
}

// list asks the API for sessions of the account.
func list(t *testing.T, s *hooktest.Server, token, query string) (got listed) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/v1/accounts/default/sessions?"+query, nil)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := s.HTTP.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
	return got
}

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
	s := administered(t, sessions)
	root := s.Login(optest.Web, "root").AccessToken()
	s.Login(optest.Web, "ann")
	sid := list(t, s, root, "user=id-ann").Sessions[0].ID

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
			got := list(t, s, root, fmt.Sprintf("limit=%d&cursor=%s&%s", limit, from, query))
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
