package console_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/console"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
)

// An outage is said to be one, and told to the operator.
func TestConsoleOutage(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	away := errors.New("the store is away")
	console, err := console.New(console.Config{
		Admin: w.API, Accounts: anyAccounts("acme"),
		Authorize: func(context.Context, *http.Request, admin.Action, string) (admin.Actor, error) {
			return admin.Actor{}, away
		},
	})
	require.NoError(t, err)
	rec := httptest.NewRecorder()
	console.ServeHTTP(rec, httptest.NewRequest("GET", "/acme/", nil))
	require.Equal(t, 503, rec.Code)
	require.Equal(t, "2", rec.Header().Get("Retry-After"))
	require.NotContains(t, rec.Body.String(), "away")
	require.ErrorIs(t, w.Failures()[0], away)
}
