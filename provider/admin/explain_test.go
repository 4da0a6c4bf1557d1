package admin_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
)

func TestExplainNamesWhereEachValueComesFrom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	a := admintest.Bounds(24*time.Hour, 2*time.Hour, 3, policy.Refuse)
	a.Groups = map[string]policy.Limits{"staff": {Active: policy.LimitTo(8 * time.Hour)}}
	a.Kinds = map[policy.Kind]policy.Limits{policy.CLI: {Inactivity: policy.LimitTo(12 * time.Hour)}}
	w.Save(root, a)
	var e struct {
		User, Kind, Client string
		Groups             []string
		Active, Inactivity struct {
			Value    string
			From     []policy.Scope
			Overrode []struct{ Value string }
		}
		Other bool `json:"other_accounts"`
	}
	explain := func(query string) admintest.Response {
		return w.Send("GET", "/v1/accounts/acme/explain?"+query, root, nil)
	}
	explain("user="+optest.SubjectOf("ann")+"&kind=cli&client=native").Into(200, &e)
	require.Equal(t, "8h", e.Active.Value)
	require.Equal(t, []policy.Scope{{Account: "acme", Group: "staff"}}, e.Active.From)
	require.Equal(t, "24h", e.Active.Overrode[0].Value)
	require.Equal(t, "12h", e.Inactivity.Value)
	require.Equal(t, []string{"staff"}, e.Groups)
	require.False(t, e.Other)

	// Of a user in two accounts, the other one's settings are not told.
	explain("user="+optest.SubjectOf("both")).Into(200, &e)
	require.True(t, e.Other)
	require.Equal(t, "8h", e.Active.Value)

	explain("user="+optest.SubjectOf("other-dan")).Problem(404, "not_found")
	require.Equal(t, "user", explain("kind=cli").Problem(400, "invalid").Errors[0].Field)
	require.Equal(t, "kind", explain("user=a&kind=fridge").Problem(400, "invalid").Errors[0].Field)
	require.Equal(t, "usr", explain("usr=a").Problem(400, "invalid").Errors[0].Field)
	require.Equal(t, "user", explain("user=a&user=b").Problem(400, "invalid").Errors[0].Field)
}
