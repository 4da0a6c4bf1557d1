package onengines

import (
	"database/sql"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// An emptiable is a store that somebody can empty while it is used, and then put back
// what was in it.
type emptiable struct {
	store.Store
	empty, restore func(t *testing.T)
}

var emptiables = map[string]func(t *testing.T) emptiable{
	"memory": func(*testing.T) emptiable {
		before := memstore.New()
		s := &replaceable{before}
		return emptiable{s, func(*testing.T) { s.Store = memstore.New() }, func(*testing.T) { s.Store = before }}
	},
	"SQLite": func(t *testing.T) emptiable {
		s, db := openSQLite(t, filepath.Join(t.TempDir(), "sessions.db"))
		return emptiableSQL(s, db, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'curfew\_%' ESCAPE '\' AND name <> 'curfew_schema'`)
	},
	"PostgreSQL": func(t *testing.T) emptiable {
		url := enginetest.PostgresURL(t)
		s := openPostgres(t, url)
		db, err := sql.Open("pgx", url)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		return emptiableSQL(s, db, `SELECT tablename FROM pg_tables WHERE tablename LIKE 'curfew\_%' AND tablename <> 'curfew_schema'`)
	},
	"Redis": func(t *testing.T) emptiable {
		s, client := openRedis(t, startRedis(t))
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

// A replaceable is a store in the place of which another one may come, between calls.
type replaceable struct{ store.Store }

// emptiableSQL truncates all tables, as somebody does who takes them for a test's.
func emptiableSQL(s store.Store, db *sql.DB, tables string) emptiable {
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

// A store that was emptied limits nobody, and knows no session. While it is used by
// processes that know what it was, that is an outage and not a new start: nobody is
// admitted, and nobody is told that their session is not known. With what was in it
// back it is as if nothing had been. An operator may say that nothing comes back.
func TestAnEmptiedStoreIsAnOutage(t *testing.T) {
	t.Parallel()
	for name, open := range emptiables {
		t.Run(name, func(t *testing.T) {
			e := open(t)
			hooktest.Save(t, e, 0, hooktest.Limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
			process := hooktest.InTheStore(t, e)
			first, second := process(""), process("")
			r := first.Login(optest.Web, "alice")
			r = hooktest.OK(t, second.Refresh(optest.Web, r.RefreshToken()))
			require.Equal(t, "access_denied", second.Browser().Login(optest.Web, "alice", nil).Error())
			sid := first.SID(t, optest.Web, r)
			id, err := first.Hook.StoreID(t.Context())
			require.NoError(t, err)
			require.NoError(t, first.Hook.Sweep(t.Context()))

			e.empty(t)
			for _, s := range []*hooktest.Server{first, second} {
				require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
				require.Equal(t, "server_error", s.Browser().Login(optest.Web, "bob", nil).Error(), "of whom nothing was known")
				hooktest.Unavailable(t, s.Refresh(optest.Web, r.RefreshToken()))
				require.Equal(t, http.StatusServiceUnavailable, s.Introspect(optest.Web, r.AccessToken()).Status)
				require.Equal(t, http.StatusServiceUnavailable, s.Userinfo(r.AccessToken()).Status)
				hooktest.Unavailable(t, s.DeviceLogin(optest.Device, "alice"))
				require.ErrorIs(t, s.Hook.Sweep(t.Context()), provider.ErrStoreLost)

				// An end that ends nothing would come undone with what comes back.
				hooktest.Unavailable(t, s.Revoke(optest.Web, r.RefreshToken(), "refresh_token"))
				require.ErrorIs(t, s.Hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"), provider.ErrStoreLost)
				_, err := s.Hook.EndAll(t.Context(), s.Subject("alice"), policy.ReasonAccountDisabled, "root")
				require.ErrorIs(t, err, provider.ErrStoreLost)
				_, err = s.Hook.Session(t.Context(), sid)
				require.ErrorIs(t, err, provider.ErrStoreLost)

				_, err = s.Hook.StoreID(t.Context())
				require.ErrorIs(t, err, provider.ErrStoreLost)
				lost := s.Seen(provider.EventStoreLost)
				require.Len(t, lost, 1, "once a minute")
				require.ErrorIs(t, lost[0].Err, provider.ErrStoreLost)
				require.Empty(t, s.Seen(provider.EventRefreshRefused))
			}
			stats, err := e.Stats(t.Context())
			require.NoError(t, err)
			require.Zero(t, stats.Unended+stats.Ended)
			_, err = e.Document(t.Context(), "installation")
			require.ErrorIs(t, err, store.ErrNotFound, "nobody began anew by themselves")
			started := process(id)
			require.Equal(t, "server_error", started.Browser().Login(optest.Web, "alice", nil).Error(), "at the start too")
			require.Len(t, started.Seen(provider.EventStoreLost), 1)

			e.restore(t)
			for _, s := range []*hooktest.Server{first, second, started} {
				require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
				r = hooktest.OK(t, s.Refresh(optest.Web, r.RefreshToken()))
				is, err := s.Hook.StoreID(t.Context())
				require.NoError(t, err)
				require.Equal(t, id, is)
			}

			e.empty(t)
			require.Equal(t, "server_error", second.Browser().Login(optest.Web, "alice", nil).Error())
			accepted, err := first.Hook.AcceptStore(t.Context())
			require.NoError(t, err)
			require.NotEqual(t, id, accepted)
			started = process(id) // with what was written down before
			for _, s := range []*hooktest.Server{first, second, started, process(accepted)} {
				hooktest.RefusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonUnknownSession)
				hooktest.OK(t, s.Login(optest.Web, "alice"))
				is, err := s.Hook.StoreID(t.Context())
				require.NoError(t, err)
				require.Equal(t, accepted, is)
				require.NoError(t, s.Hook.Sweep(t.Context()))
			}
			hooktest.Save(t, e, 0, hooktest.Limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
			require.Equal(t, "access_denied", second.Browser().Login(optest.Web, "alice", nil).Error())

			other := process("0123456789abcdef")
			require.Equal(t, "server_error", other.Browser().Login(optest.Web, "bob", nil).Error(), "its settings are those of others")
			require.Len(t, other.Seen(provider.EventStoreLost), 1)
			_, err = other.Hook.StoreID(t.Context())
			require.ErrorIs(t, err, provider.ErrStoreLost, "it is another store")
		})
	}
}
