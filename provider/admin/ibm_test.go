package admin_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

// What IBM's form has no word for stays as it is when a client sends back all that it
// has read: an express "unlimited", what happens at the limit, and the overrides.
func TestIBMsFormLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	settings := admintest.Bounds(0, 0, 3, policy.Refuse)
	settings.Active, settings.Inactivity = policy.Unlimited[time.Duration](), policy.LimitTo(2*time.Hour)
	override := policy.Limits{Active: policy.LimitTo(2 * time.Hour)}
	settings.Kinds = map[policy.Kind]policy.Limits{policy.CLI: override}
	settings.Clients = map[string]policy.Limits{"web": override}
	settings.Groups = map[string]policy.Limits{"staff": override}
	settings.Users = map[string]policy.Limits{"ann": override}
	before := w.Save(root, settings)

	const path = "/v1/accounts/acme/settings/identity"
	var form map[string]any
	w.Send("GET", path, root, nil).Into(200, &form)
	require.Equal(t, "NOT_SET", form["session_expiration_in_seconds"])
	form["mfa"] = "TOTP"
	w.Send("PUT", path, root, form, "If-Match", before.EntityTag).Into(200, &form)

	var after service.Settings
	w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &after)
	require.Equal(t, before.Settings, after.Settings)
	require.NotEqual(t, before.EntityTag, after.EntityTag)
}

// A newer version of the form may have kept fields that this one does not know. They
// stay, whatever they are, through a save in either form.
func TestFieldsOfAnotherVersionStay(t *testing.T) {
	t.Parallel()
	const path = "/v1/accounts/acme/settings/identity"
	for name, kept := range map[string]string{
		"unknown fields": `{"mfa":"TOTP","of_tomorrow":{"list":[null,1e400,{"a":[]}]},"restrict_tomorrow":null}`,
		"null":           `null`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			root := w.SignIn("root")
			_, err := provider.SaveStored(t.Context(), w.Store, "acme", provider.StoredAccount{
				Settings: admintest.Bounds(8*time.Hour, 0, 0, 0), Extensions: map[string]json.RawMessage{"ibm": json.RawMessage(kept)},
			})
			require.NoError(t, err)
			var form map[string]any
			w.Send("GET", path, root, nil).Into(200, &form)
			w.Send("PUT", path, root, map[string]any{"session_expiration_in_seconds": "7200", "restrict_create_service_id": "RESTRICTED"}, "If-Match", "*").Into(200, &form)
			w.Save(root, admintest.Bounds(3*time.Hour, 0, 0, 0))

			s, err := provider.LoadStored(t.Context(), w.Store, "acme")
			require.NoError(t, err)
			want := `{"restrict_create_service_id":"RESTRICTED"}`
			if kept != "null" {
				want = `{"mfa":"TOTP","of_tomorrow":{"list":[null,1e400,{"a":[]}]},"restrict_create_service_id":"RESTRICTED","restrict_tomorrow":null}`
			}
			require.Equal(t, want, string(s.Extensions["ibm"]))
		})
	}
}
