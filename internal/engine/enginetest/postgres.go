package enginetest

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
)

var postgres = sync.OnceValues(func() (*engine.Postgres, error) {
	p, err := engine.NewPostgres()
	if err == nil {
		atExit(p.Close)
	}
	return p, err
})

// Postgres returns the test binary's PostgreSQL server, which all its tests
// share: a test that stops it must start one of its own.
func Postgres(t testing.TB) *engine.Postgres {
	t.Helper()
	p, err := postgres()
	require.NoError(t, err)
	return p
}

// PostgresURL returns the connection URL of a new, empty database of that server.
func PostgresURL(t testing.TB) string {
	t.Helper()
	url, err := Postgres(t).CreateDatabase(t.Context())
	require.NoError(t, err)
	return url
}
