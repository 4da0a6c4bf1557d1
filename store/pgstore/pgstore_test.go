package pgstore_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/pgstore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

// openPool opens a pool, which the test closes.
func openPool(t testing.TB, url string, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	config.MaxConns = 8
	for _, c := range configure {
		c(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func newStore(t testing.TB, pool *pgxpool.Pool) *pgstore.Store {
	t.Helper()
	s, err := pgstore.New(context.Background(), pool)
	require.NoError(t, err)
	return s
}

// session returns a session of that name.
func session(name, subject string) store.Session {
	s := sample.Typical()
	s.Subject.ID = subject
	s.ID = store.Bucket(s.Subject) + "." + name
	return s
}

var schemas atomic.Int64

// inSchema makes a new, empty schema of a database the place of a pool's tables:
// cheaper than a new database.
func inSchema(t testing.TB, url string) func(*pgxpool.Config) {
	t.Helper()
	name := fmt.Sprintf("test%d", schemas.Add(1))
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), "CREATE SCHEMA "+name)
	require.NoError(t, err)
	return func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["search_path"] = name }
}

func TestContract(t *testing.T) {
	t.Parallel()
	url := enginetest.PostgresURL(t)
	open := func(t *testing.T) storetest.Counting {
		return newStore(t, openPool(t, url, inSchema(t, url)))
	}
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

// unlucky sets a pool up as unluckily as can be: as is needed behind some
// connection poolers, with a default isolation in which a transaction sees
// nothing of what was committed while it waited, and with few connections: with
// one everything waits for everything, and nothing forever.
func unlucky(isolation string, mode pgx.QueryExecMode, conns int32) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) {
		c.MaxConns = conns
		c.ConnConfig.DefaultQueryExecMode = mode
		c.ConnConfig.RuntimeParams["default_transaction_isolation"] = isolation
		c.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
		c.ConnConfig.RuntimeParams["lock_timeout"] = "20ms"
	}
}

// Two pools know as little of each other as two machines do, and the race
// detector sees both.
func TestContractTwoPools(t *testing.T) {
	t.Parallel()
	url := enginetest.PostgresURL(t)
	open := func(t *testing.T) storetest.Counting {
		schema := inSchema(t, url)
		return &alternating{Counting: newStore(t, openPool(t, url, schema)), stores: [2]storetest.Counting{
			newStore(t, openPool(t, url, schema, unlucky("serializable", pgx.QueryExecModeSimpleProtocol, 3))),
			newStore(t, openPool(t, url, schema, unlucky("repeatable read", pgx.QueryExecModeExec, 1))),
		}}
	}
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

// alternating passes each call about sessions to another one of two stores.
type alternating struct {
	storetest.Counting
	calls  atomic.Int64
	stores [2]storetest.Counting
}

func (a *alternating) next() storetest.Counting { return a.stores[a.calls.Add(1)%2] }

func (a *alternating) Get(ctx context.Context, id string) (store.Session, error) {
	return a.next().Get(ctx, id)
}
func (a *alternating) Create(ctx context.Context, s store.Session, max int) error {
	return a.next().Create(ctx, s, max)
}
func (a *alternating) Update(ctx context.Context, s store.Session) (int64, error) {
	return a.next().Update(ctx, s)
}
func (a *alternating) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	return a.next().Admit(ctx, subject, decide)
}
func (a *alternating) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	return a.next().List(ctx, f, cursor, limit)
}
func (a *alternating) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	return a.next().Due(ctx, now, lease, limit)
}
func (a *alternating) Delete(ctx context.Context, id string, revision int64) error {
	return a.next().Delete(ctx, id, revision)
}
func (a *alternating) Stats(ctx context.Context) (store.Stats, error) { return a.next().Stats(ctx) }
func (a *alternating) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	return a.next().PutFence(ctx, f)
}
func (a *alternating) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	return a.next().MoveFence(ctx, f, due)
}
func (a *alternating) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	return a.next().DueFences(ctx, now, limit)
}
func (a *alternating) Document(ctx context.Context, key string) (store.Document, error) {
	return a.next().Document(ctx, key)
}
func (a *alternating) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	return a.next().PutDocument(ctx, d)
}
func (a *alternating) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	return a.next().History(ctx, key, before, limit)
}
func (a *alternating) DropDocument(ctx context.Context, key string) error {
	return a.next().DropDocument(ctx, key)
}
func (a *alternating) AddCounts(ctx context.Context, counts []store.Count) error {
	return a.next().AddCounts(ctx, counts)
}
func (a *alternating) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	return a.next().ReadCounts(ctx, account, from, to)
}
func (a *alternating) DropCounts(ctx context.Context, account string, before time.Time) error {
	return a.next().DropCounts(ctx, account, before)
}
func (a *alternating) CountUnended(ctx context.Context, account string) (int, error) {
	return a.next().CountUnended(ctx, account)
}

func TestNewerSchema(t *testing.T) {
	ctx := t.Context()
	pool := openPool(t, enginetest.PostgresURL(t))
	newStore(t, pool)
	newStore(t, pool) // nothing to do
	_, err := pool.Exec(ctx, `INSERT INTO curfew_schema (version) VALUES (99)`)
	require.NoError(t, err)
	_, err = pgstore.New(ctx, pool)
	require.ErrorContains(t, err, "schema version 99, made by a newer version of Curfew; this one knows up to 1")
}

// The database is the caller's: the store keeps to its own tables, and once they
// are there it needs no right but to use them.
func TestSharesTheDatabase(t *testing.T) {
	ctx := t.Context()
	url := enginetest.PostgresURL(t)
	owner := openPool(t, url)
	_, err := owner.Exec(ctx, `CREATE TABLE sessions (id int)`)
	require.NoError(t, err)
	newStore(t, owner)
	role := fmt.Sprintf("user%d", schemas.Add(1))
	for _, query := range []string{
		`CREATE ROLE ` + role,
		`GRANT SELECT, INSERT, UPDATE, DELETE ON curfew_sessions, curfew_terms, curfew_documents, curfew_counts, curfew_fences, curfew_schema TO ` + role,
	} {
		_, err := owner.Exec(ctx, query)
		require.NoError(t, err)
	}
	s := newStore(t, openPool(t, url, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["role"] = role }))
	one := session("a", "alice")
	require.NoError(t, s.Create(ctx, one, 1))
	one.Revision = 1
	one.End = &store.End{At: one.Started, Reason: policy.ReasonLogout}
	_, err = s.Update(ctx, one)
	require.NoError(t, err)
	require.NoError(t, s.Delete(ctx, one.ID, 2))

	rows, err := owner.Query(ctx, `SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname <> 'sessions'`)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, names)
	for _, name := range names {
		require.True(t, strings.HasPrefix(name, "curfew_"), name)
	}
	requireSound(t, owner)
}

// requireSound requires that what sessions are found by is what is in them.
func requireSound(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	require.Zero(t, misfits(t, pool), "rows do not fit together")
}

func misfits(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `
		WITH has AS (SELECT unnest(terms) AS term, ended, id FROM curfew_sessions),
			s AS (SELECT *, convert_from(document, 'UTF8')::jsonb AS doc FROM curfew_sessions)
		SELECT (SELECT count(*) FROM (SELECT * FROM has EXCEPT SELECT * FROM curfew_terms) x)
			+ (SELECT count(*) FROM (SELECT * FROM curfew_terms EXCEPT SELECT * FROM has) x)
			+ (SELECT count(*) FROM s WHERE id <> convert_to(doc ->> 'sid', 'UTF8') OR ended <> (doc ? 'end'))`).Scan(&n))
	return n
}

func TestMisfitsAreNoticed(t *testing.T) {
	url := enginetest.PostgresURL(t)
	for _, damage := range []string{
		`DELETE FROM curfew_terms WHERE term = 'k:browser'`,
		`UPDATE curfew_terms SET ended = true`,
		`INSERT INTO curfew_terms SELECT 'a:other', false, id FROM curfew_sessions`,
		`UPDATE curfew_sessions SET ended = true`,
		`UPDATE curfew_sessions SET id = 'b'`,
	} {
		pool := openPool(t, url, inSchema(t, url))
		require.NoError(t, newStore(t, pool).Create(t.Context(), session("a", "alice"), 1))
		requireSound(t, pool)
		_, err := pool.Exec(t.Context(), damage)
		require.NoError(t, err)
		require.Positive(t, misfits(t, pool), damage)
	}
}

// Names compare byte by byte in a database in which text does not.
func TestOddCollation(t *testing.T) {
	ctx := t.Context()
	admin := openPool(t, enginetest.Postgres(t).URL())
	name := fmt.Sprintf("odd%d", schemas.Add(1))
	_, err := admin.Exec(ctx, `CREATE DATABASE `+name+` TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE-u-ks-level1'`)
	require.NoError(t, err)
	u, err := url.Parse(enginetest.Postgres(t).URL())
	require.NoError(t, err)
	u.Path = "/" + name
	pool := openPool(t, u.String())
	var before bool
	require.NoError(t, pool.QueryRow(ctx, `SELECT 'a'::text < 'B'::text`).Scan(&before))
	require.True(t, before, "text compares as people do")

	s := newStore(t, pool)
	var want []string
	for i, name := range []string{"a", "A", "B", "\u00e9", "e\u0301", "a ", "a\x00", "\x00", "z", "\u00e5"} {
		one := session(name, "alice")
		one.Kind = policy.Kind(name)
		require.NoError(t, s.Create(ctx, one, 100), "%q is taken for another", name)
		want = append(want, one.ID)
		got, _, err := s.List(ctx, store.Filter{Kind: policy.Kind(name)}, "", 10)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, one.ID, got[0].ID)
		require.NoError(t, s.Create(ctx, session("x", name), 1), "the subject %q is taken for another", name)
		_, err = s.PutDocument(ctx, store.Document{Key: name, By: name, Message: fmt.Sprint(i)})
		require.NoError(t, err)
		d, err := s.Document(ctx, name)
		require.NoError(t, err)
		require.Equal(t, []string{name, fmt.Sprint(i)}, []string{d.By, d.Message})
	}
	slices.Sort(want)
	list, _, err := s.List(ctx, store.Filter{Subject: session("", "alice").Subject}, "", 100)
	require.NoError(t, err)
	var got []string
	for _, one := range list {
		got = append(got, one.ID)
	}
	require.Equal(t, want, got)
}

// Names longer than what an index holds are found, or refused in words.
func TestLongNames(t *testing.T) {
	ctx := t.Context()
	s := newStore(t, openPool(t, enginetest.PostgresURL(t)))
	long := strings.Repeat("long ", 10_000)
	a, b := session("a", long+"a"), session("b", long+"b")
	a.Accounts, b.Accounts = []string{long + "1"}, []string{long + "2"}
	for _, one := range []store.Session{a, b} {
		require.NoError(t, s.Create(ctx, one, 1))
		one.Revision = 1
		for _, f := range []store.Filter{{Subject: one.Subject}, {Account: one.Accounts[0]}} {
			list, _, err := s.List(ctx, f, "", 10)
			require.NoError(t, err)
			require.Equal(t, []store.Session{one}, list)
		}
	}
	c := session(long, "carol")
	require.ErrorContains(t, s.Create(ctx, c, 1), "at most 1024 are possible")
	_, err := s.Get(ctx, c.ID)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.PutDocument(ctx, store.Document{Key: long})
	require.ErrorContains(t, err, "at most 1024 are possible")
	most := strings.Repeat("k", 1024)
	_, err = s.PutDocument(ctx, store.Document{Key: most})
	require.NoError(t, err)
	c.ID = (c.ID + most)[:1024]
	require.NoError(t, s.Create(ctx, c, 1))
	_, err = s.Get(ctx, c.ID)
	require.NoError(t, err)
}

// Sweepers with pools of their own do each item once per lease, and what one of
// them had claimed when it died is taken over after it.
func TestSweepersShare(t *testing.T) {
	ctx := t.Context()
	url := enginetest.PostgresURL(t)
	s := newStore(t, openPool(t, url))
	const items = 300
	for i := range items {
		require.NoError(t, s.Create(ctx, session(fmt.Sprint(i), fmt.Sprintf("user%d", i)), 1))
	}
	now := session("", "").Due.Add(time.Hour)

	pool := openPool(t, url)
	dead, err := newStore(t, pool).Due(ctx, now, time.Minute, 40)
	require.NoError(t, err)
	require.Len(t, dead, 40)
	pool.Close() // and does nothing about them

	sweep := func(now time.Time) map[string]int {
		var mu sync.Mutex
		swept := map[string]int{}
		var wg sync.WaitGroup
		for range 4 {
			sweeper := newStore(t, openPool(t, url))
			wg.Go(func() {
				for {
					list, err := sweeper.Due(ctx, now, time.Minute, 17)
					if !assert.NoError(t, err) || len(list) == 0 {
						return
					}
					mu.Lock()
					for _, one := range list {
						swept[one.ID]++
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for id, n := range swept {
			require.Equal(t, 1, n, id)
		}
		return swept
	}
	swept := sweep(now.Add(time.Minute - time.Microsecond))
	require.Len(t, swept, items-40, "all but the dead one's")
	for _, one := range dead {
		require.NotContains(t, swept, one.ID)
	}
	swept = sweep(now.Add(time.Minute))
	require.Len(t, swept, 40)
	for _, one := range dead {
		require.Contains(t, swept, one.ID)
	}
}

// A database from before a table was added gets it, from a role that may, and stays
// good for the program that made it: the version does not change.
func TestAdditions(t *testing.T) {
	ctx := t.Context()
	url := enginetest.PostgresURL(t)
	owner := openPool(t, url)
	newStore(t, owner)
	role := fmt.Sprintf("user%d", schemas.Add(1))
	for _, query := range []string{
		`DROP TABLE curfew_counts`,
		`CREATE ROLE ` + role,
		`GRANT SELECT, INSERT, UPDATE, DELETE ON curfew_sessions, curfew_terms, curfew_documents, curfew_schema TO ` + role,
		`REVOKE CREATE ON SCHEMA public FROM PUBLIC`,
	} {
		_, err := owner.Exec(ctx, query)
		require.NoError(t, err)
	}
	user := openPool(t, url, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["role"] = role })
	_, err := pgstore.New(ctx, user)
	require.ErrorContains(t, err, "curfew_counts", "which table is missing")

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, err := pgstore.New(ctx, owner)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	_, err = owner.Exec(ctx, `GRANT SELECT, INSERT, UPDATE, DELETE ON curfew_counts TO `+role)
	require.NoError(t, err)
	s := newStore(t, user)
	require.NoError(t, s.AddCounts(ctx, []store.Count{{Account: "a", Hour: time.Unix(0, 0), Name: "n", N: 1}}))
	var version int
	require.NoError(t, owner.QueryRow(ctx, `SELECT max(version) FROM curfew_schema`).Scan(&version))
	require.Equal(t, 1, version)
}
