package console_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/console"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
)

func TestConsoleAccounts(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	// One is gone to; of several one chooses. See world: of the two root may one.
	require.Equal(t, "./acme/", w.Page("GET", "", root, nil).Location)
	several, err := console.New(console.Config{
		Admin:    w.API,
		Accounts: anyAccounts("acme", "<b>", "a/b", "elsewhere"), Authorize: anybody,
	})
	require.NoError(t, err)
	got := serve(several, "GET", "/")
	require.Contains(t, got, `href="./acme/"`)
	require.Contains(t, got, `href="./a%2Fb/"`)
	require.Contains(t, got, `<bdi>&lt;b&gt;</bdi>`)
	require.Contains(t, serve(several, "GET", "/a%2Fb/sessions"), `href="../a%2Fb/overrides"`)
	require.Contains(t, serve(several, "GET", "/console.css"), "--ground")

	for name, spoil := range map[string]func(*console.Config){
		"Admin":          func(c *console.Config) { c.Admin = nil },
		"Accounts":       func(c *console.Config) { c.Accounts = nil },
		"Authorize":      func(c *console.Config) { c.Authorize = nil },
		"TrustedOrigins": func(c *console.Config) { c.TrustedOrigins = []string{"nonsense"} },
	} {
		c := console.Config{Admin: w.API, Accounts: anyAccounts(), Authorize: anybody}
		spoil(&c)
		_, err := console.New(c)
		require.ErrorContains(t, err, "curfew: console.Config."+name)
		require.ErrorIs(t, err, provider.ErrConfig)
	}
	require.Equal(t, 405, w.Page("PUT", "acme/save", root, nil).Status)
	require.Equal(t, 404, w.Page("GET", "acme/nothing", root, nil).Status)
	require.Equal(t, 404, w.Page("GET", "acme/sessions/none", root, nil).Status)
	require.Equal(t, 404, w.Page("GET", "acme/review?what=restore&restored=77", root, nil).Status)
}

func anyAccounts(list ...string) func(context.Context, *http.Request) ([]string, error) {
	return func(context.Context, *http.Request) ([]string, error) { return list, nil }
}

func anybody(context.Context, *http.Request, admin.Action, string) (admin.Actor, error) {
	return admin.Actor{ID: "root"}, nil
}
