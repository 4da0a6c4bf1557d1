package admin_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
)

// What IBM's form has no word for stays as it is when a client sends back all that it
// has read: an express "unlimited", what happens at the limit, and the overrides.
func TestIBMsFormLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.login("root")
	settings := bounds(0, 0, 3, policy.Refuse)
	settings.Active, settings.Inactivity = policy.Unlimited[time.Duration](), policy.LimitTo(2*time.Hour)
	override := policy.Limits{Active: policy.LimitTo(2 * time.Hour)}
	settings.Kinds = map[policy.Kind]policy.Limits{policy.CLI: override}
	settings.Clients = map[string]policy.Limits{"web": override}
	settings.Groups = map[string]policy.Limits{"staff": override}
	settings.Users = map[string]policy.Limits{"ann": override}
	before := w.save(root, settings)

	const path = "/v1/accounts/acme/settings/identity"
	var form map[string]any
	w.send("GET", path, root, nil).into(200, &form)
	require.Equal(t, "NOT_SET", form["session_expiration_in_seconds"])
	form["mfa"] = "TOTP"
	w.send("PUT", path, root, form, "If-Match", before.EntityTag).into(200, &form)

	var after admin.Settings
	w.send("GET", "/v1/accounts/acme/settings", root, nil).into(200, &after)
	require.Equal(t, before.Settings, after.Settings)
	require.NotEqual(t, before.EntityTag, after.EntityTag)
}
