package engine_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
)

func TestPostgres(t *testing.T) {
	p, err := engine.NewPostgres("synchronous_commit=off")
	require.NoError(t, err)
	defer p.Close()

	one := func(url, query string) (value string) {
		conn, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		defer conn.Close(context.WithoutCancel(t.Context()))
		require.NoError(t, conn.QueryRow(t.Context(), query).Scan(&value))
		return value
	}
	require.Equal(t, "off", one(p.URL(), `SHOW synchronous_commit`))
	require.Equal(t, "on", one(p.URL(), `SHOW fsync`))
	require.Equal(t, "127.0.0.1", one(p.URL(), `SHOW listen_addresses`))

	a, err := p.CreateDatabase(t.Context())
	require.NoError(t, err)
	b, err := p.CreateDatabase(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, a, b)
	one(a, `SELECT txid_current()::text`)
	require.Equal(t, "made", one(a, `WITH x AS (SELECT set_config('synchronous_commit', 'on', false)) SELECT 'made' FROM x`))
	directory := one(a, `SHOW data_directory`)

	addr := p.Addr()
	for _, end := range []func() error{p.Stop, p.Kill} {
		require.NoError(t, end())
		_, err = pgx.Connect(t.Context(), a)
		require.Error(t, err)
		require.NoError(t, end(), "it is down already")
		require.NoError(t, p.Start())
		require.NoError(t, p.Start(), "it runs already")
		require.Equal(t, addr, p.Addr())
		one(a, `SELECT 'x'`)
	}

	// Nobody gets in without the password.
	u, err := url.Parse(a)
	require.NoError(t, err)
	u.User = url.UserPassword(u.User.Username(), "wrong")
	_, err = pgx.Connect(t.Context(), u.String())
	require.ErrorContains(t, err, "password authentication failed")

	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	_, err = os.Stat(filepath.Dir(directory))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestPostgresWithASettingThatIsNone(t *testing.T) {
	_, err := engine.NewPostgres("no_such_setting=1")
	require.ErrorContains(t, err, "no_such_setting")
}
