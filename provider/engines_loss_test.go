package provider_test

import (
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/redisstore"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// A Redis that keeps nothing on disk comes back empty. Who had a session is told
// that it is not known, and signs in again; nobody is let in by an old token, and
// what is admitted from then on is counted from nothing.
func TestARedisThatForgot(t *testing.T) {
	t.Parallel()
	server, err := engine.NewRedis("appendonly=no", "save=")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), Password: server.Password(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	sessions, err := redisstore.New(t.Context(), client)
	require.NoError(t, err)
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(p *provider.Config, _ *optest.Config) { p.Store = sessions })
	r := s.Login(optest.Web, "alice")
	r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))

	require.NoError(t, server.Kill())
	require.Equal(t, http.StatusServiceUnavailable, s.Refresh(optest.Web, r.RefreshToken()).Status)
	require.NoError(t, server.Start())
	refresh := s.Refresh(optest.Web, r.RefreshToken())
	for refresh.Status == http.StatusServiceUnavailable { // a connection that broke is noticed by the next one who uses it
		refresh = s.Refresh(optest.Web, r.RefreshToken())
	}
	refusedFor(t, refresh, policy.ReasonUnknownSession)
	require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, r.AccessToken()).JSON)
	require.Equal(t, http.StatusUnauthorized, s.Userinfo(r.AccessToken()).Status)

	again := s.Login(optest.Web, "alice")
	ok(t, s.Refresh(optest.Web, again.RefreshToken()))
	require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error(), "the cap holds for what there is")
	refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonUnknownSession)
}

// A database is restored from a backup, beside a storage that was not. Tokens that
// were issued since are ahead of it and taken, once, with an event; who signed in
// since is not known; what had ended since the backup is live again until its
// limit, which is why a restore calls for Hook.EndAll (docs/operations.md).
func TestADatabaseRestoredFromABackup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "sessions.db"), filepath.Join(dir, "backup.db")
	open := func() (*sql.DB, *sqlitestore.Store) {
		db, err := sql.Open("sqlite3", "file:"+path+"?_txlock=immediate")
		require.NoError(t, err)
		sessions, err := sqlitestore.New(t.Context(), db)
		require.NoError(t, err)
		return db, sessions
	}
	db, sessions := open()
	storage, keys := optest.NewStorage(), provider.Keys{provider.NewKey(time.Now())}
	with := func(p *provider.Config, o *optest.Config) {
		p.Store, p.Keys, o.Storage, o.InMemory = sessions, keys, storage, true
	}
	account := limits(24*time.Hour, 2*time.Hour, 0, 0)
	before := start(t, account, with)
	kept, ended := before.Login(optest.Web, "alice"), before.Login(optest.Web, "alice")

	_, err := db.ExecContext(t.Context(), "VACUUM INTO ?", backup)
	require.NoError(t, err)
	for range 2 {
		kept = ok(t, before.Refresh(optest.Web, kept.RefreshToken()))
	}
	require.NoError(t, before.hook.End(t.Context(), before.sid(t, optest.Web, ended), policy.ReasonEndedByAdmin, "root"))
	late := before.Login(optest.Web, "bob")
	require.NoError(t, db.Close())
	require.NoError(t, os.Rename(backup, path))
	for _, suffix := range []string{"-wal", "-shm"} {
		require.NoError(t, os.RemoveAll(path+suffix))
	}

	db, sessions = open()
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	after := start(t, account, with)
	kept = ok(t, after.Refresh(optest.Web, kept.RefreshToken()))
	require.Len(t, after.seen(provider.EventRollback), 1)
	ok(t, after.Refresh(optest.Web, kept.RefreshToken()))
	require.Len(t, after.seen(provider.EventRollback), 1)
	refusedFor(t, after.Refresh(optest.Web, late.RefreshToken()), policy.ReasonUnknownSession)

	ok(t, after.Refresh(optest.Web, ended.RefreshToken()))
	_, err = after.hook.EndAll(t.Context(), after.subject("alice"), policy.ReasonEndedByAdmin, "root")
	require.NoError(t, err)
	require.Empty(t, after.live(t, "alice"))
}
