package pgstore_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/sample"
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
	storetest.Run(t, func(t *testing.T) store.Store {
		return newStore(t, openPool(t, url, inSchema(t, url)))
	})
}

// unlucky sets a pool up as unluckily as can be: as is needed behind some
// connection poolers, with a default isolation in which a transaction sees
// nothing of what was committed while it waited, and with one connection less
// than is comfortable.
func unlucky(isolation string, mode pgx.QueryExecMode) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) {
		c.MaxConns = 3
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
	storetest.Run(t, func(t *testing.T) store.Store {
		schema := inSchema(t, url)
		return &alternating{Store: newStore(t, openPool(t, url, schema)), stores: [2]store.Store{
			newStore(t, openPool(t, url, schema, unlucky("serializable", pgx.QueryExecModeSimpleProtocol))),
			newStore(t, openPool(t, url, schema, unlucky("repeatable read", pgx.QueryExecModeExec))),
		}}
	})
}

// With one connection everything waits for everything, and nothing forever.
func TestContractOneConnection(t *testing.T) {
	t.Parallel()
	url := enginetest.PostgresURL(t)
	storetest.Run(t, func(t *testing.T) store.Store {
		return newStore(t, openPool(t, url, inSchema(t, url), func(c *pgxpool.Config) { c.MaxConns = 1 }))
	})
}

// alternating passes each call about sessions to another one of two stores.
type alternating struct {
	store.Store
	calls  atomic.Int64
	stores [2]store.Store
}

func (a *alternating) next() store.Store { return a.stores[a.calls.Add(1)%2] }

func (a *alternating) Get(ctx context.Context, id string) (store.Session, error) {
	return a.next().Get(ctx, id)
}
func (a *alternating) Create(ctx context.Context, s store.Session, max int) error {
	return a.next().Create(ctx, s, max)
}
func (a *alternating) Update(ctx context.Context, s store.Session) (int64, error) {
	return a.next().Update(ctx, s)
}
func (a *alternating) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session) ([]store.Session, error)) error {
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
func (a *alternating) Document(ctx context.Context, key string) (store.Document, error) {
	return a.next().Document(ctx, key)
}
func (a *alternating) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	return a.next().PutDocument(ctx, d)
}
func (a *alternating) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	return a.next().History(ctx, key, before, limit)
}

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m)) }
