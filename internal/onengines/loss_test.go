package onengines

import (
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// A Redis that keeps nothing on disk comes back empty. Who had a session is told
// that it is not known, and signs in again; nobody is let in by an old token, and
// what is admitted from then on is counted from nothing.
func TestARedisThatForgot(t *testing.T) {
	t.Parallel()
	server := startRedis(t, "appendonly=no", "save=")
	sessions, _ := openRedis(t, server)
	s := hooktest.Start(t, hooktest.Limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(p *provider.Config, _ *optest.Config) { p.Store = sessions })
	r := s.Login(optest.Web, "alice")
	r = hooktest.OK(t, s.Refresh(optest.Web, r.RefreshToken()))

	require.NoError(t, server.Kill())
	require.Equal(t, http.StatusServiceUnavailable, s.Refresh(optest.Web, r.RefreshToken()).Status)
	require.NoError(t, server.Start())
	refresh := s.Refresh(optest.Web, r.RefreshToken())
	for refresh.Status == http.StatusServiceUnavailable { // a connection that broke is noticed by the next one who uses it
		refresh = s.Refresh(optest.Web, r.RefreshToken())
	}
	hooktest.RefusedFor(t, refresh, policy.ReasonUnknownSession)
	require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, r.AccessToken()).JSON)
	require.Equal(t, http.StatusUnauthorized, s.Userinfo(r.AccessToken()).Status)

	again := s.Login(optest.Web, "alice")
	hooktest.OK(t, s.Refresh(optest.Web, again.RefreshToken()))
	require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error(), "the cap holds for what there is")
	hooktest.RefusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonUnknownSession)
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
	account := hooktest.Limits(24*time.Hour, 2*time.Hour, 0, 0)
	before := hooktest.Start(t, account, with)
	kept, ended := before.Login(optest.Web, "alice"), before.Login(optest.Web, "alice")

	_, err := db.ExecContext(t.Context(), "VACUUM INTO ?", backup)
	require.NoError(t, err)
	for range 2 {
		kept = hooktest.OK(t, before.Refresh(optest.Web, kept.RefreshToken()))
	}
	require.NoError(t, before.Hook.End(t.Context(), before.SID(t, optest.Web, ended), policy.ReasonEndedByAdmin, "root"))
	late := before.Login(optest.Web, "bob")
	require.NoError(t, db.Close())
	require.NoError(t, os.Rename(backup, path))
	for _, suffix := range []string{"-wal", "-shm"} {
		require.NoError(t, os.RemoveAll(path+suffix))
	}

	db, sessions = open()
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	after := hooktest.Start(t, account, with)
	kept = hooktest.OK(t, after.Refresh(optest.Web, kept.RefreshToken()))
	require.Len(t, after.Seen(provider.EventRollback), 1)
	hooktest.OK(t, after.Refresh(optest.Web, kept.RefreshToken()))
	require.Len(t, after.Seen(provider.EventRollback), 1)
	hooktest.RefusedFor(t, after.Refresh(optest.Web, late.RefreshToken()), policy.ReasonUnknownSession)

	hooktest.OK(t, after.Refresh(optest.Web, ended.RefreshToken()))
	_, err = after.Hook.EndAll(t.Context(), after.Subject("alice"), policy.ReasonEndedByAdmin, "root")
	require.NoError(t, err)
	require.Empty(t, after.Live(t, "alice"))
}
