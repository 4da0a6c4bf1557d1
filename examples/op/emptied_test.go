package main

import (
	"bytes"
	"database/sql"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// emptied empties the store of each kind.
func emptied(t *testing.T, spec string) {
	ctx := t.Context()
	switch {
	case strings.HasPrefix(spec, "sqlite:"):
		db, err := sql.Open("sqlite3", "file:"+strings.TrimPrefix(spec, "sqlite:")+"?_pragma=busy_timeout(10000)")
		require.NoError(t, err)
		defer db.Close()
		rows, err := db.QueryContext(ctx, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'curfew\_%' ESCAPE '\' AND name NOT LIKE '%schema'`)
		require.NoError(t, err)
		var names []string
		for rows.Next() {
			var name string
			require.NoError(t, rows.Scan(&name))
			names = append(names, name)
		}
		require.NoError(t, rows.Err())
		for _, name := range names {
			_, err := db.ExecContext(ctx, `DELETE FROM `+name)
			require.NoError(t, err)
		}
	case strings.HasPrefix(spec, "postgres:"), strings.HasPrefix(spec, "postgresql:"):
		conn, err := pgx.Connect(ctx, spec)
		require.NoError(t, err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, `DO $$ DECLARE t text; BEGIN
			FOR t IN SELECT tablename FROM pg_tables WHERE tablename LIKE 'curfew\_%' AND tablename NOT LIKE '%schema' LOOP
				EXECUTE 'TRUNCATE ' || quote_ident(t) || ' CASCADE';
			END LOOP; END $$`)
		require.NoError(t, err)
	default:
		o, err := redis.ParseURL(spec)
		require.NoError(t, err)
		client := redis.NewClient(o)
		defer client.Close()
		require.NoError(t, client.FlushAll(ctx).Err())
	}
}

// A store that somebody empties while the program runs is an outage, and so it is
// at the next start, until the operator takes it as new.
func TestAnEmptiedStore(t *testing.T) {
	for _, kind := range []string{"sqlite", "postgres", "redis"} {
		t.Run(kind, func(t *testing.T) {
			dir, args := folder(t)
			spec := sharedStores[kind](t)
			args = append(args, "-store", spec)
			path := filepath.Join(dir, "keys.json")
			marked := func() string {
				id, err := readMark(path)
				require.NoError(t, err)
				return id
			}
			s := start(t, args...)
			_, token := s.login(s.app("web"))
			id := marked()
			require.NotEmpty(t, id)
			info, err := os.Stat(path + ".store")
			require.NoError(t, err)
			require.EqualValues(t, 0o600, info.Mode().Perm())
			s = restart(s, args)
			require.Equal(t, id, marked())
			require.Equal(t, http.StatusOK, newBrowser(t).get(s.issuer+"/readyz").status)

			emptied(t, spec)
			require.Eventually(t, func() bool {
				p := newBrowser(t).get(s.issuer + "/readyz")
				return p.status == http.StatusServiceUnavailable && p.body == "the database has lost its data\n"
			}, time.Minute, 10*time.Millisecond)
			require.Eventually(t, func() bool { return strings.Contains(s.stderr.String(), "msg=store_lost") }, time.Minute, 10*time.Millisecond)
			refresh := s.api("/oauth/token", "web", webSecret, map[string][]string{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken}})
			require.Equal(t, http.StatusServiceUnavailable, refresh.status, refresh.body)

			require.NoError(t, s.end())
			err = run(t.Context(), args, noEnv, io.Discard, io.Discard)
			require.ErrorIs(t, err, errEmptyStore)
			require.Equal(t, 2, exitCode(err, &bytes.Buffer{}))
			require.ErrorContains(t, err, id)

			s = start(t, append(args, "-accept-empty-store")...)
			require.NotEqual(t, id, marked())
			_, token = s.login(s.app("web"))
			s = restart(s, args)
			require.Equal(t, http.StatusOK, newBrowser(t).get(s.issuer+"/readyz").status)
			require.Equal(t, http.StatusOK, s.userinfo(token.AccessToken).status)
			require.NotContains(t, s.stderr.String(), "msg=store_lost")
		})
	}
}

// The mark goes where the keys are, and nothing is left beside it.
func TestMarkKeysBehindALink(t *testing.T) {
	dir, args := folder(t)
	s := start(t, args...)
	require.NoError(t, s.end())
	path := filepath.Join(dir, "keys.json")
	body, err := os.ReadFile(path)
	require.NoError(t, err)
	id, err := readMark(path)
	require.NoError(t, err)

	mounted := filepath.Join(dir, "mounted")
	require.NoError(t, os.Mkdir(mounted, 0o700))
	put(t, mounted, "keys.json", string(body))
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Remove(path+".store"))
	require.NoError(t, os.Symlink(filepath.Join(mounted, "keys.json"), path))
	s = start(t, args...)
	require.NoError(t, s.end())
	info, err := os.Lstat(path)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSymlink, "the link stays one")
	body, err = os.ReadFile(filepath.Join(mounted, "keys.json.store"))
	require.NoError(t, err)
	require.Equal(t, id+"\n", string(body))

	require.Error(t, markKeys(filepath.Join(dir, "none.json"), id))
	left, err := filepath.Glob(filepath.Join(dir, ".keys-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
