package provider_test

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/pgstore"
	"github.com/curfew-oidc/curfew/store/redisstore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

// An emptiable is a store that somebody can empty while it is used, and then put back
// what was in it.
type emptiable struct {
	storetest.Counting
	empty, restore func(t *testing.T)
}

var emptiables = map[string]func(t *testing.T) emptiable{
	"memory": func(*testing.T) emptiable {
		s := &replaceable{}
		before := memstore.New()
		s.replace(before)
		return emptiable{s, func(*testing.T) { s.replace(memstore.New()) }, func(*testing.T) { s.replace(before) }}
	},
	"SQLite": func(t *testing.T) emptiable {
		path := filepath.Join(t.TempDir(), "sessions.db")
		s := openSQLite(t, path)
		db, err := sql.Open("sqlite3", "file:"+path+"?_pragma=busy_timeout(10000)")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		return emptiableSQL(s, db, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'curfew\_%' ESCAPE '\' AND name <> 'curfew_schema'`)
	},
	"PostgreSQL": func(t *testing.T) emptiable {
		server, err := engine.NewPostgres()
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, server.Close()) })
		pool, err := pgxpool.New(t.Context(), server.URL())
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		s, err := pgstore.New(t.Context(), pool)
		require.NoError(t, err)
		db, err := sql.Open("pgx", server.URL())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		return emptiableSQL(s, db, `SELECT tablename FROM pg_tables WHERE tablename LIKE 'curfew\_%' AND tablename <> 'curfew_schema'`)
	},
	"Redis": func(t *testing.T) emptiable {
		server, err := engine.NewRedis()
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, server.Close()) })
		client := redis.NewClient(&redis.Options{Addr: server.Addr(), Password: server.Password(), ContextTimeoutEnabled: true})
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		s, err := redisstore.New(t.Context(), client)
		require.NoError(t, err)
		return emptiable{s, func(t *testing.T) {
			keys, err := client.Keys(t.Context(), "*").Result()
			require.NoError(t, err)
			for _, key := range keys {
				require.NoError(t, client.Copy(t.Context(), key, key, 1, true).Err())
			}
			require.NoError(t, client.FlushDB(t.Context()).Err())
		}, func(t *testing.T) {
			require.NoError(t, client.Do(t.Context(), "swapdb", 0, 1).Err())
		}}
	},
}

// emptiableSQL truncates all tables, as somebody does who takes them for a test's.
func emptiableSQL(s storetest.Counting, db *sql.DB, tables string) emptiable {
	each := func(t *testing.T, statements ...string) {
		rows, err := db.QueryContext(t.Context(), tables)
		require.NoError(t, err)
		var names []string
		for rows.Next() {
			var name string
			require.NoError(t, rows.Scan(&name))
			names = append(names, name)
		}
		require.NoError(t, rows.Err())
		require.Greater(t, len(names), 2)
		for _, name := range names {
			for _, statement := range statements {
				_, err := db.ExecContext(t.Context(), strings.ReplaceAll(statement, "TABLE_", name))
				require.NoError(t, err)
			}
		}
	}
	return emptiable{
		s,
		func(t *testing.T) {
			each(t, `DROP TABLE IF EXISTS kept_TABLE_`, `CREATE TABLE kept_TABLE_ AS SELECT * FROM TABLE_`)
			each(t, `DELETE FROM TABLE_`)
		},
		func(t *testing.T) { each(t, `DELETE FROM TABLE_`, `INSERT INTO TABLE_ SELECT * FROM kept_TABLE_`) },
	}
}

// A replaceable is a store in the place of which another one may come.
type replaceable struct {
	now atomic.Pointer[memstore.Store]
}

func (r *replaceable) replace(s *memstore.Store) { r.now.Store(s) }

func (r *replaceable) Get(ctx context.Context, id string) (store.Session, error) {
	return r.now.Load().Get(ctx, id)
}
func (r *replaceable) Create(ctx context.Context, s store.Session, max int) error {
	return r.now.Load().Create(ctx, s, max)
}
func (r *replaceable) Update(ctx context.Context, s store.Session) (int64, error) {
	return r.now.Load().Update(ctx, s)
}
func (r *replaceable) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	return r.now.Load().Admit(ctx, subject, decide)
}
func (r *replaceable) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	return r.now.Load().List(ctx, f, cursor, limit)
}
func (r *replaceable) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	return r.now.Load().Due(ctx, now, lease, limit)
}
func (r *replaceable) Delete(ctx context.Context, id string, revision int64) error {
	return r.now.Load().Delete(ctx, id, revision)
}
func (r *replaceable) Stats(ctx context.Context) (store.Stats, error) { return r.now.Load().Stats(ctx) }
func (r *replaceable) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	return r.now.Load().PutFence(ctx, f)
}
func (r *replaceable) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	return r.now.Load().MoveFence(ctx, f, due)
}
func (r *replaceable) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	return r.now.Load().DueFences(ctx, now, limit)
}
func (r *replaceable) Document(ctx context.Context, key string) (store.Document, error) {
	return r.now.Load().Document(ctx, key)
}
func (r *replaceable) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	return r.now.Load().PutDocument(ctx, d)
}
func (r *replaceable) DropDocument(ctx context.Context, key string) error {
	return r.now.Load().DropDocument(ctx, key)
}
func (r *replaceable) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	return r.now.Load().History(ctx, key, before, limit)
}
func (r *replaceable) AddCounts(ctx context.Context, counts []store.Count) error {
	return r.now.Load().AddCounts(ctx, counts)
}
func (r *replaceable) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	return r.now.Load().ReadCounts(ctx, account, from, to)
}
func (r *replaceable) DropCounts(ctx context.Context, account string, before time.Time) error {
	return r.now.Load().DropCounts(ctx, account, before)
}
func (r *replaceable) CountUnended(ctx context.Context, account string) (int, error) {
	return r.now.Load().CountUnended(ctx, account)
}

// inTheStore has the limits read from a store. It returns what starts a process on it;
// all share keys and the embedded storage.
func inTheStore(t *testing.T, s store.Store) func(storeID string) *setup {
	keys, storage := provider.Keys{provider.NewKey(time.Now())}, optest.NewStorage()
	return func(storeID string) *setup {
		return start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
			p.Store, p.Keys, p.Settings, p.StoreID = s, keys, nil, storeID
			o.Storage, o.InMemory = storage, true
		})
	}
}

func save(t *testing.T, s store.Store, version int64, a policy.Account) {
	t.Helper()
	_, err := provider.SaveAccount(t.Context(), s, "default", a, version, "root", "", time.Now())
	require.NoError(t, err)
}

// A store that was emptied limits nobody, and knows no session. While it is used by
// processes that know what it was, that is an outage and not a new start: nobody is
// admitted, and nobody is told that their session is not known. With what was in it
// back it is as if nothing had been. An operator may say that nothing comes back.
func TestAnEmptiedStoreIsAnOutage(t *testing.T) {
	t.Parallel()
	for name, open := range emptiables {
		t.Run(name, func(t *testing.T) {
			e := open(t)
			save(t, e, 0, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
			process := inTheStore(t, e)
			first, second := process(""), process("")
			r := first.Login(optest.Web, "alice")
			r = ok(t, second.Refresh(optest.Web, r.RefreshToken()))
			require.Equal(t, "access_denied", second.Browser().Login(optest.Web, "alice", nil).Error())
			sid := first.sid(t, optest.Web, r)
			id, err := first.hook.StoreID(t.Context())
			require.NoError(t, err)
			require.NoError(t, first.hook.Sweep(t.Context()))

			e.empty(t)
			for _, s := range []*setup{first, second} {
				require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
				require.Equal(t, "server_error", s.Browser().Login(optest.Web, "bob", nil).Error(), "of whom nothing was known")
				unavailable(t, s.Refresh(optest.Web, r.RefreshToken()))
				require.Equal(t, http.StatusServiceUnavailable, s.Introspect(optest.Web, r.AccessToken()).Status)
				require.Equal(t, http.StatusServiceUnavailable, s.Userinfo(r.AccessToken()).Status)
				unavailable(t, s.DeviceLogin(optest.Device, "alice"))
				require.ErrorIs(t, s.hook.Sweep(t.Context()), provider.ErrStoreLost)

				// An end that ends nothing would come undone with what comes back.
				unavailable(t, s.Revoke(optest.Web, r.RefreshToken(), "refresh_token"))
				require.ErrorIs(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"), provider.ErrStoreLost)
				_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonAccountDisabled, "root")
				require.ErrorIs(t, err, provider.ErrStoreLost)
				_, err = s.hook.Session(t.Context(), sid)
				require.ErrorIs(t, err, provider.ErrStoreLost)

				_, err = s.hook.StoreID(t.Context())
				require.ErrorIs(t, err, provider.ErrStoreLost)
				lost := s.seen(provider.EventStoreLost)
				require.Len(t, lost, 1, "once a minute")
				require.ErrorIs(t, lost[0].Err, provider.ErrStoreLost)
				require.Empty(t, s.seen(provider.EventRefreshRefused))
			}
			stats, err := e.Stats(t.Context())
			require.NoError(t, err)
			require.Zero(t, stats.Unended+stats.Ended)
			_, err = e.Document(t.Context(), "installation")
			require.ErrorIs(t, err, store.ErrNotFound, "nobody began anew by themselves")
			started := process(id)
			require.Equal(t, "server_error", started.Browser().Login(optest.Web, "alice", nil).Error(), "at the start too")
			require.Len(t, started.seen(provider.EventStoreLost), 1)

			e.restore(t)
			for _, s := range []*setup{first, second, started} {
				require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
				r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
				is, err := s.hook.StoreID(t.Context())
				require.NoError(t, err)
				require.Equal(t, id, is)
			}

			e.empty(t)
			require.Equal(t, "server_error", second.Browser().Login(optest.Web, "alice", nil).Error())
			accepted, err := first.hook.AcceptStore(t.Context())
			require.NoError(t, err)
			require.NotEqual(t, id, accepted)
			started = process(id) // with what was written down before
			for _, s := range []*setup{first, second, started, process(accepted)} {
				refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonUnknownSession)
				ok(t, s.Login(optest.Web, "alice"))
				is, err := s.hook.StoreID(t.Context())
				require.NoError(t, err)
				require.Equal(t, accepted, is)
				require.NoError(t, s.hook.Sweep(t.Context()))
			}
			save(t, e, 0, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
			require.Equal(t, "access_denied", second.Browser().Login(optest.Web, "alice", nil).Error())

			other := process("0123456789abcdef")
			require.Equal(t, "server_error", other.Browser().Login(optest.Web, "bob", nil).Error(), "its settings are those of others")
			require.Len(t, other.seen(provider.EventStoreLost), 1)
			_, err = other.hook.StoreID(t.Context())
			require.ErrorIs(t, err, provider.ErrStoreLost, "it is another store")
		})
	}
}

// Settings of one account that are gone are an outage for its users. Their live
// sessions go on with the last ones for a while.
func TestSettingsThatAreGoneAreAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &evicting{Store: memstore.New()}
		save(t, e, 0, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
		process := inTheStore(t, e)
		s, other := process(""), process("")
		r := s.Login(optest.Web, "alice")
		other.Login(optest.Web, "bob")

		e.gone.Store(true)
		require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		_, err := s.hook.StoreID(t.Context())
		require.ErrorIs(t, err, provider.ErrStoreLost)
		require.ErrorContains(t, err, `"default"`)
		require.Len(t, s.seen(provider.EventStoreLost), 1)
		time.Sleep(2 * time.Minute)
		require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
		require.Len(t, s.seen(provider.EventStoreLost), 2)
		time.Sleep(4 * time.Minute)
		unavailable(t, s.Refresh(optest.Web, r.RefreshToken()))

		e.gone.Store(false)
		_, err = s.hook.StoreID(t.Context())
		require.NoError(t, err)
		require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))

		e.gone.Store(true)
		require.Equal(t, "server_error", other.Browser().Login(optest.Web, "bob", nil).Error())
		id, err := other.hook.AcceptStore(t.Context())
		require.NoError(t, err)
		for _, s := range []*setup{other, s} {
			is, err := s.hook.StoreID(t.Context())
			require.NoError(t, err)
			require.Equal(t, id, is, "it is the same store")
			ok(t, s.Login(optest.Web, "alice"))
			ok(t, s.Login(optest.Web, "bob"))
		}
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	})
}

// An evicting store may have lost the settings, and nothing else.
type evicting struct {
	*memstore.Store
	gone atomic.Bool
}

func (e *evicting) Document(ctx context.Context, key string) (store.Document, error) {
	if e.gone.Load() && strings.HasPrefix(key, "settings/") {
		return store.Document{}, store.ErrNotFound
	}
	return e.Store.Document(ctx, key)
}

// A store in the place of which another one comes, with settings of its own, is
// noticed by the next sweep or question for readiness: nobody is admitted from then on.
func TestAnotherStoreWithSettingsIsAnOutage(t *testing.T) {
	for name, look := range map[string]func(ctx context.Context, h *provider.Hook) error{
		"sweep":     func(ctx context.Context, h *provider.Hook) error { return h.Sweep(ctx) },
		"readiness": func(ctx context.Context, h *provider.Hook) error { _, err := h.StoreID(ctx); return err },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, mine, theirs := &replaceable{}, memstore.New(), memstore.New()
				for _, one := range []*memstore.Store{theirs, mine} {
					e.replace(one)
					save(t, e, 0, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
					inTheStore(t, e)("").Login(optest.Web, "carol")
				}
				s := inTheStore(t, e)("")
				r := s.Login(optest.Web, "alice")
				e.replace(theirs)
				require.ErrorIs(t, look(t.Context(), s.hook), provider.ErrStoreLost)
				time.Sleep(2 * time.Second) // longer than settings are cached
				require.Equal(t, "server_error", s.Browser().Login(optest.Web, "bob", nil).Error())
				unavailable(t, s.Refresh(optest.Web, r.RefreshToken()))
				require.Len(t, s.seen(provider.EventStoreLost), 1)
				e.replace(mine)
				ok(t, s.Refresh(optest.Web, r.RefreshToken()))
				ok(t, s.Login(optest.Web, "bob"))
			})
		})
	}
}

// With settings from elsewhere the limits hold for what there is, and an emptied store
// is taken as new, which is told; unless the hook was told which store it must be.
func TestAnEmptiedStoreBesideSettingsFromElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &replaceable{}
		e.replace(memstore.New())
		a := limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse)
		keys, storage := provider.Keys{provider.NewKey(time.Now())}, optest.NewStorage()
		process := func(id string) *setup {
			return start(t, a, func(p *provider.Config, o *optest.Config) {
				p.Store, p.Keys, p.StoreID = e, keys, id
				o.Storage, o.InMemory = storage, true
			})
		}
		s := process("")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.hook.Run(ctx) }()
		r := s.Login(optest.Web, "alice")
		time.Sleep(time.Minute + time.Second) // between two sweeps
		id, err := s.hook.StoreID(t.Context())
		require.NoError(t, err)
		told := process(id)

		e.replace(memstore.New())
		require.Equal(t, "server_error", told.Browser().Login(optest.Web, "alice", nil).Error())
		unavailable(t, told.Refresh(optest.Web, r.RefreshToken()))
		refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonUnknownSession)
		ok(t, s.Login(optest.Web, "alice"))
		require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
		require.Empty(t, s.seen(provider.EventStoreLost))
		time.Sleep(time.Hour)
		require.Len(t, s.seen(provider.EventStoreLost), 1)
		now, err := s.hook.StoreID(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, id, now)
		require.Equal(t, "server_error", told.Browser().Login(optest.Web, "bob", nil).Error(), "nobody has accepted it")
		_, err = told.hook.AcceptStore(t.Context())
		require.NoError(t, err)
		ok(t, told.Login(optest.Web, "bob"))
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

func TestStoreIDThatIsNone(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"x", "0123", "0123456789abcdef0123456789abcdef"} {
		_, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, StoreID: id})
		require.ErrorIs(t, err, provider.ErrConfig)
		require.ErrorContains(t, err, "StoreID")
	}
}

// A backup from before an operator's word has lost what came after it.
func TestABackupFromBeforeTheStoreWasAccepted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &replaceable{}
		e.replace(memstore.New())
		process := inTheStore(t, e)
		s, other := process(""), process("")
		_, err := s.hook.StoreID(t.Context())
		require.NoError(t, err)
		backup := memstore.New()
		d, err := e.Document(t.Context(), "installation")
		require.NoError(t, err)
		d.Version = 0
		_, err = backup.PutDocument(t.Context(), d)
		require.NoError(t, err)

		_, err = s.hook.AcceptStore(t.Context())
		require.NoError(t, err)
		save(t, e, 0, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
		for _, p := range []*setup{s, other} {
			_, err = p.hook.StoreID(t.Context())
			require.NoError(t, err)
		}
		s.Login(optest.Web, "alice")
		other.Login(optest.Web, "bob")

		e.replace(backup)
		for _, p := range []*setup{s, other} {
			require.Equal(t, "server_error", p.Browser().Login(optest.Web, "alice", nil).Error())
			_, err = p.hook.StoreID(t.Context())
			require.ErrorIs(t, err, provider.ErrStoreLost)
		}
		time.Sleep(time.Second)
		_, err = s.hook.AcceptStore(t.Context())
		require.NoError(t, err)
		for _, p := range []*setup{s, other} {
			_, err := p.hook.StoreID(t.Context())
			require.NoError(t, err)
			ok(t, p.Login(optest.Web, "alice"))
		}
	})
}

// Settings that are gone are noticed by a hook that was told which store it is.
func TestSettingsThatAreGoneWithAStoreID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &evicting{Store: memstore.New()}
		save(t, e, 0, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
		process := inTheStore(t, e)
		id, err := process("").hook.StoreID(t.Context())
		require.NoError(t, err)
		s := process(id)
		s.Login(optest.Web, "alice")
		e.gone.Store(true)
		require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
	})
}

// A damaged installation can be accepted.
func TestADamagedInstallationIsAccepted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := memstore.New()
		_, err := e.PutDocument(t.Context(), store.Document{Key: "installation", Body: []byte("damaged")})
		require.NoError(t, err)
		s := inTheStore(t, e)("")
		_, err = s.hook.StoreID(t.Context())
		require.ErrorIs(t, err, provider.ErrStoreLost)
		_, err = s.hook.AcceptStore(t.Context())
		require.NoError(t, err)
		s.Login(optest.Web, "alice")
	})
}

// A process that was given the address of another provider's store knows nobody there.
// It says so, and takes none of the sessions for those of users who are gone.
func TestASweepLeavesAnotherStoreAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := tenants(t, memstore.New(), limits(time.Hour, 0, 0, 0), nil)
		_, err := x.hook.StoreID(t.Context())
		require.NoError(t, err)
		s := x.session(t, "acme.alice", 0, time.Now(), time.Now().Add(30*time.Minute))
		over := x.session(t, "acme.bob", 0, time.Now(), time.Now().Add(time.Minute))
		var others []provider.Event
		stranger := tenants(t, x.store, limits(time.Minute, 0, 0, 0), func(cfg *provider.Config) {
			cfg.StoreID = "0123456789abcdef"
			cfg.Membership = func(context.Context, store.Subject) ([]policy.Membership, error) { return nil, nil }
			cfg.Events = func(_ context.Context, e provider.Event) { others = append(others, e) }
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Hour)
		defer cancel()
		require.ErrorIs(t, stranger.hook.Run(ctx), context.DeadlineExceeded)
		require.ErrorIs(t, stranger.hook.Sweep(t.Context()), provider.ErrStoreLost)
		for _, one := range []store.Session{s, over} {
			is, err := x.store.Get(t.Context(), one.ID)
			require.NoError(t, err)
			require.EqualValues(t, 1, is.Revision, "nobody wrote it")
		}
		require.True(t, slices.ContainsFunc(others, func(e provider.Event) bool {
			return e.Type == provider.EventSweepFailed && errors.Is(e.Err, provider.ErrStoreLost)
		}))
		require.NoError(t, x.hook.Sweep(t.Context()))
		require.Equal(t, policy.ReasonActiveLimit, x.ended(t, over.ID).Reason)
	})
}
