package admin_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
)

// address fills in the pattern of a route.
func address(r admin.Route, account, sid string) string {
	path := strings.NewReplacer("{account}", account, "{sid}", sid, "{version}", "1").Replace(r.Pattern)
	if strings.HasSuffix(path, "/explain") {
		path += "?user=" + optest.SubjectOf("ann")
	}
	return path
}

// body is a good body for a route that takes one: sent by who may, it changes
// something.
func body(r admin.Route) any {
	switch {
	case !r.Body || r.Action == admin.Heartbeat:
		return nil
	case r.IBM:
		return map[string]any{"session_expiration_in_seconds": "3600"}
	case strings.HasSuffix(r.Pattern, "/restore"):
		return map[string]any{"version": 0}
	case strings.HasSuffix(r.Pattern, "/deliveries"):
		return map[string]any{"client": "web"}
	case r.Action == admin.EndSessions:
		return map[string]any{"all": true}
	}
	return map[string]any{"settings": map[string]any{"active": "1h"}}
}

// Every route, from the table: nobody without a token, no user of the account, no
// administrator of another one, and nobody who may only read sees or changes
// anything; and none of them learns whether an account exists.
func TestEveryRouteIsForThoseWhoMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root, otherRoot, ann, auditor := w.SignIn("root"), w.SignIn("other-root"), w.SignIn("ann"), w.SignIn("auditor")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 0, 0))
	sid := listSessions(w, root, "user="+optest.SubjectOf("ann"))[0].ID
	before := w.Everything()

	routes := 0
	for _, r := range admin.Routes() {
		name := r.Method + " " + r.Pattern
		if r.Action == admin.ReadDescription {
			got := w.Send(r.Method, r.Pattern, "", nil)
			require.Equal(t, 200, got.Status)
			require.JSONEq(t, string(admin.Description()), string(got.Body), "what is public is the same for everybody")
			continue
		}
		routes++
		send := func(token, account string) admintest.Response {
			return w.Send(r.Method, address(r, account, sid), token, body(r), "If-Match", "*")
		}
		for who, token := range map[string]string{"nobody": "", "a guess": "nonsense", "an ID": sid} {
			got := send(token, "acme")
			require.Equal(t, 401, got.Status, "%s by %s: %s", name, who, got.Body)
			want := "Bearer"
			if token != "" {
				want = `Bearer error="invalid_token"`
			}
			require.Equal(t, want, got.Header.Get("WWW-Authenticate"), name)
		}
		strangers := map[string]string{"another account": otherRoot, "a member": ann}
		if r.Action == admin.WriteSettings || r.Action == admin.EndSessions || r.Action == admin.PreviewSettings {
			strangers["who may only read"] = auditor
		}
		for who, token := range strangers {
			got, missing := send(token, "acme"), send(token, "no-such-account")
			want := 403
			if r.Action == admin.Heartbeat {
				if who == "a member" {
					continue // it is their own session
				}
				want = 404
			}
			require.Equal(t, want, got.Status, "%s by %s: %s", name, who, got.Body)
			require.Equal(t, withoutContext(t, missing.Body), withoutContext(t, got.Body), "%s by %s", name, who)
			require.NotContains(t, string(got.Body), "ann", name)
			require.NotContains(t, string(got.Body), "8h", name)
			require.Empty(t, got.Header.Get("ETag"), name)
		}
		require.Equal(t, before, w.Everything(), name)

		for header, want := range map[string]string{
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		} {
			require.Equal(t, want, send("", "acme").Header.Get(header), name)
		}
	}
	require.Equal(t, len(admin.Routes())-1, routes)

	// With the right token each of them does something, so the above means
	// something. What ends sessions comes last.
	for _, ending := range []bool{false, true} {
		for _, r := range admin.Routes() {
			if r.Action == admin.ReadDescription || (r.Action == admin.EndSessions) != ending {
				continue
			}
			token := root
			if r.Action == admin.Heartbeat {
				token = ann
			}
			got := w.Send(r.Method, address(r, "acme", sid), token, body(r), "If-Match", "*")
			if strings.HasSuffix(r.Pattern, "/sessions/end") {
				root = w.SignIn("root") // it ended that one too
			}
			require.Less(t, got.Status, 300, "%s %s: %s", r.Method, r.Pattern, got.Body)
		}
	}
	require.NotEqual(t, before, w.Everything())
}

// withoutContext is a body without what differs from answer to answer.
func withoutContext(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var m map[string]any
	require.NoError(t, json.Unmarshal(data, &m))
	delete(m, "context")
	delete(m, "trace")
	return m
}

func TestNothingIsOpenByDefault(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	may := func(context.Context, *http.Request, admin.Action, string) (admin.Actor, error) {
		return admin.Actor{}, nil
	}
	good := admin.Config{Hook: w.Hook, Store: w.Store, Issuer: w.Issuer, Authorize: may}
	_, err := admin.New(good)
	require.NoError(t, err)
	for name, spoil := range map[string]func(*admin.Config){
		"Hook":      func(c *admin.Config) { c.Hook = nil },
		"Store":     func(c *admin.Config) { c.Store = nil },
		"Issuer":    func(c *admin.Config) { c.Issuer = "" },
		"Authorize": func(c *admin.Config) { c.Authorize = nil },
	} {
		c := good
		spoil(&c)
		_, err := admin.New(c)
		require.EqualError(t, err, "curfew: admin.Config."+name+" is required")
		require.ErrorIs(t, err, provider.ErrConfig)
	}
}

// A page of somebody else cannot make a browser send anything that changes
// something, whatever the browser sends along with it.
func TestAnotherWebsiteChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	before := w.Everything()
	for _, r := range admin.Routes() {
		if r.Method == "GET" {
			continue
		}
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example"}} {
			got := w.Send(r.Method, address(r, "acme", "x"), root, body(r), append(header, "If-Match", "*")...)
			require.Equal(t, 403, got.Status, r.Pattern)
			require.Contains(t, string(got.Body), "cross_origin")
		}
	}
	require.Equal(t, before, w.Everything())
}

// Rule 8: that nobody can tell is no refusal.
func TestAnOutageIs503(t *testing.T) {
	t.Parallel()
	gone := false
	w := newWorld(t, func(w *admintest.World, c *provider.Config, _ *admin.Config) {
		c.Membership = func(_ context.Context, s store.Subject) ([]policy.Membership, error) {
			if gone {
				return nil, context.DeadlineExceeded
			}
			return admintest.Memberships(s.ID), nil
		}
	})
	root := w.SignIn("root")
	gone = true
	got := w.Send("GET", "/v1/accounts/acme/settings", root, nil)
	got.Problem(503, "unavailable")
	require.Equal(t, "2", got.Header.Get("Retry-After"))
	require.NotContains(t, string(got.Body), "deadline", "the cause is for the log")
	require.ErrorIs(t, w.Failures()[0], context.DeadlineExceeded)
	gone = false
	require.Equal(t, 200, w.Send("GET", "/v1/accounts/acme/settings", root, nil).Status)
}

func TestUnknownAddressesAndMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Send("GET", "/v1/", "", nil).Problem(404, "not_found")
	w.Send("GET", "/v1/accounts", "", nil).Problem(404, "not_found")
	got := w.Send("PATCH", "/v1/accounts/acme/settings", "", nil)
	got.Problem(405, "method_not_allowed")
	require.Equal(t, "GET, PUT", got.Header.Get("Allow"))
	got = w.Send("PUT", "/v1/accounts/acme/sessions/end", "", nil)
	require.Equal(t, "DELETE, GET, POST", got.Header.Get("Allow"))
}

// With settings that are in a file everything can be read and nothing changed,
// and the administrator is told why.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	settings := provider.StaticSettings{Accounts: map[string]policy.Account{"acme": admintest.Bounds(8*time.Hour, time.Hour, 0, 0)}}
	w := newWorld(t, func(_ *admintest.World, c *provider.Config, a *admin.Config) {
		c.Settings, a.ReadOnly = settings, "They are in the file settings.yaml."
	})
	root := w.SignIn("root")
	for _, r := range admin.Routes() {
		if r.Action == admin.ReadDescription || r.Action == admin.Heartbeat || r.Action == admin.EndSessions {
			continue // the latter changes no setting
		}
		got := w.Send(r.Method, address(r, "acme", "x"), root, body(r), "If-Match", "*")
		switch {
		case strings.Contains(r.Pattern, "{sid}"), strings.Contains(r.Pattern, "{version}"):
			require.Equal(t, 404, got.Status, r.Pattern)
		case r.Action == admin.WriteSettings:
			require.Equal(t, 409, got.Status, r.Pattern)
			require.Contains(t, string(got.Body), "They are in the file settings.yaml.")
		default:
			require.Equal(t, 200, got.Status, "%s: %s", r.Pattern, got.Body)
		}
	}
	var s service.Settings
	w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &s)
	require.Equal(t, settings.Accounts["acme"], s.Settings)
	require.Equal(t, "They are in the file settings.yaml.", s.ReadOnly)
	require.NotEmpty(t, s.EntityTag)
}
