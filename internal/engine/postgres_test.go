package engine_test

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
)

func TestPostgres(t *testing.T) {
	p, err := engine.NewPostgres("synchronous_commit=off")
	require.NoError(t, err)
	defer p.Close()

	one := func(url, query string) string {
		value, err := p.Query(t.Context(), url, query)
		require.NoError(t, err)
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
		_, err = p.Query(t.Context(), a, `SELECT 'x'`)
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
	_, err = p.Query(t.Context(), u.String(), `SELECT 'x'`)
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

// A standby follows, is promoted, and the primary that failed comes back as its
// standby: nothing that was acknowledged is lost when commits wait.
func TestStandby(t *testing.T) {
	ctx := t.Context()
	a, err := engine.NewPostgres()
	require.NoError(t, err)
	defer a.Close()
	b, err := a.NewStandby()
	require.NoError(t, err)
	defer b.Close()
	exec := func(p *engine.Postgres, statement string) error {
		_, err := p.Query(ctx, p.URL(), statement)
		return err
	}
	require.NoError(t, exec(a, `CREATE TABLE t (n int)`))
	for _, addrs := range [][2]string{{a.Addr(), b.Addr()}, {b.Addr(), a.Addr()}} {
		require.NoError(t, a.WaitForStandby(ctx))
		require.NoError(t, exec(a, `INSERT INTO t VALUES (1)`))
		require.ErrorContains(t, exec(b, `INSERT INTO t VALUES (2)`), "25006")
		require.NoError(t, a.Kill())
		require.NoError(t, b.Promote(ctx))
		require.NoError(t, exec(b, `INSERT INTO t VALUES (3)`))
		require.NoError(t, a.Follow(b))
		require.Equal(t, addrs, [2]string{a.Addr(), b.Addr()})
		a, b = b, a
	}
	sum, err := a.Query(ctx, a.URL(), `SELECT sum(n) FROM t`)
	require.NoError(t, err)
	require.Equal(t, "8", sum)
}

// connected connects a client until the test is over, and returns the process of the
// server that serves it.
func connected(t *testing.T, p *engine.Postgres) int {
	t.Helper()
	psql := exec.Command(p.Psql(), "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--dbname="+p.URL())
	in, err := psql.StdinPipe()
	require.NoError(t, err)
	out, err := psql.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, psql.Start())
	t.Cleanup(func() {
		require.NoError(t, psql.Process.Kill())
		require.Error(t, psql.Wait())
	})
	_, err = io.WriteString(in, "SELECT pg_backend_pid();\n")
	require.NoError(t, err)
	var child int
	_, err = fmt.Fscan(out, &child)
	require.NoError(t, err)
	return child
}

// No child outlives the server, not even one that does not notice that its parent
// died: the data is nobody's when Kill, Stop, Start or Close is done.
func TestNoChildOutlivesThePostgres(t *testing.T) {
	ctx := t.Context()
	for name, end := range map[string]func(*engine.Postgres) error{
		"kill": (*engine.Postgres).Kill, "stop": (*engine.Postgres).Stop, "start": (*engine.Postgres).Start, "close": (*engine.Postgres).Close,
	} {
		t.Run(name, func(t *testing.T) {
			p, err := engine.NewPostgres()
			require.NoError(t, err)
			defer p.Close()
			directory, err := p.Query(ctx, p.URL(), `SHOW data_directory`)
			require.NoError(t, err)
			child := connected(t, p)
			pidFile, err := os.ReadFile(filepath.Join(directory, "postmaster.pid"))
			require.NoError(t, err)
			parent, err := strconv.Atoi(strings.Fields(string(pidFile))[0])
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(child, syscall.SIGSTOP))
			require.NoError(t, syscall.Kill(parent, syscall.SIGKILL)) // by somebody else
			// Its end is noticed in a moment.
			require.Eventually(t, func() bool { return end(p) == nil && engine.Gone(child) }, time.Minute, 10*time.Millisecond)
		})
	}
}
