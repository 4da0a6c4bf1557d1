package console_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

func TestConsoleOverrides(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 0, 0))
	name := `<b>"R&D" a.b/c</b>`
	for scope, name := range map[string]string{"kinds": "cli", "clients": "web", "groups": name, "users": optest.SubjectOf("ann")} {
		edit := w.Page("GET", "acme/edit?"+url.Values{"scope": {scope}, "name": {name}}.Encode(), root, nil)
		require.Equal(t, 200, edit.Status, edit.Text())
		edit.Send("review", "inactivity", "limit", "inactivity_n", "20", "inactivity_unit", "minutes").Send("save").Follow()
	}
	var s service.Settings
	w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &s)
	twenty := policy.Limits{Inactivity: policy.LimitTo(20 * time.Minute)}
	require.Equal(t, map[policy.Kind]policy.Limits{policy.CLI: twenty}, s.Settings.Kinds)
	require.Equal(t, map[string]policy.Limits{"web": twenty}, s.Settings.Clients)
	require.Equal(t, map[string]policy.Limits{name: twenty}, s.Settings.Groups)
	require.Equal(t, map[string]policy.Limits{optest.SubjectOf("ann"): twenty}, s.Settings.Users)

	list := w.Page("GET", "acme/overrides", root, nil)
	require.Contains(t, list.Text(), name)
	explained := w.Page("GET", "acme/explain?user="+optest.SubjectOf("ann"), root, nil)
	require.Contains(t, explained.Text(), "Sign out due to inactivity 20 minutes user "+optest.SubjectOf("ann"))
	require.Contains(t, explained.Text(), "1 hour of everyone")
	require.Contains(t, w.Page("GET", "acme/explain?user="+optest.SubjectOf("other-ann"), root, nil).Body, `id="user-error">There is no such user`)

	// A mistake is said beside the field of the override.
	edit := w.Page("GET", "acme/edit?scope=groups&name="+url.QueryEscape(name), root, nil)
	wrong := edit.Send("review", "inactivity_n", "1")
	require.Equal(t, 400, wrong.Status)
	require.Contains(t, wrong.Body, `id="inactivity-error">1 minute is below the floor`)

	remove := w.Page("GET", "acme/review?"+url.Values{"what": {"remove"}, "scope": {"groups"}, "name": {name}}.Encode(), root, nil)
	remove.Send("save").Follow()
	var after service.Settings
	w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &after)
	require.Empty(t, after.Settings.Groups)
	for _, query := range []string{"scope=groups", "scope=groups&name=", "scope=kinds&name=toaster", "scope=users&name=a%00b", "scope=users&name=" + strings.Repeat("x", 256)} {
		got := w.Page("GET", "acme/edit?"+query, root, nil)
		require.Equal(t, 400, got.Status, query)
		require.Contains(t, got.Body, `id="name-error"`, query)
	}
}
