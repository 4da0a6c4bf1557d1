package admin_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

// fields are the members of the bodies that a route takes, each with a good
// value.
func fields(r admin.Route) map[string]string {
	switch {
	case r.IBM:
		return map[string]string{
			"session_expiration_in_seconds": `"3600"`, "session_invalidation_in_seconds": `"1800"`, "max_sessions_per_identity": `"5"`,
			"restrict_create_service_id": `"RESTRICTED"`, "restrict_create_platform_apikey": `"RESTRICTED"`,
			"restrict_user_list_visibility": `"RESTRICTED"`, "allowed_ip_addresses": `"10.0.0.1"`, "mfa": `"TOTP"`,
			"user_mfa":              `[{"iam_id":"i","mfa":"NONE"}]`,
			"restrict_user_domains": `[{"realm_id":"r","restrict_invitation":true}]`,
			"system_access_token_expiration_in_seconds":  `"3600"`,
			"system_refresh_token_expiration_in_seconds": `"3600"`, "account_id": `"acme"`,
		}
	case strings.HasSuffix(r.Pattern, "/restore"):
		return map[string]string{"version": `1`, "message": `"m"`}
	case strings.HasSuffix(r.Pattern, "/deliveries"):
		return map[string]string{"client": `"web"`}
	case r.Action == admin.EndSessions:
		return map[string]string{"sessions": `["x"]`, "user": `"x"`, "client": `"x"`, "all": `true`, "except_mine": `true`}
	}
	return map[string]string{"settings": `{"active":"1h"}`, "message": `"m"`}
}

func object(members map[string]string) string {
	var list []string
	for name, value := range members {
		list = append(list, fmt.Sprintf("%q:%s", name, value))
	}
	return "{" + strings.Join(list, ",") + "}"
}

// Hostile values in every field of every route that takes a body: each is refused
// with an error that names the field, and nothing changes.
func TestHostileValuesAreRefusedByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 0, 0))
	before := w.Everything()

	values := map[string]string{
		"NUL": `"a\u0000b"`, "bidi": `"a\u202egpj.exe"`, "isolate": `"\u2066a"`, "line": `"a\nb"`, "escape": `"\u001b[2Jx"`,
		"not UTF-16": `"\ud800"`, "number": `123456.5`, "negative": `-1`, "object": `{"a":{"b":1}}`, "list of lists": `[[1]]`, "null": `null`,
		"deep": strings.Repeat(`[`, 40) + strings.Repeat(`]`, 40), "deep object": strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40),
		"far too long": `"` + strings.Repeat("x", 70<<10) + `"`,
	}
	tried := 0
	for _, r := range admin.Routes() {
		if !r.Body || r.Action == admin.Heartbeat {
			continue
		}
		good := fields(r)
		for field := range good {
			for kind, value := range values {
				members := map[string]string{field: value}
				if field == "message" { // the only one that may be alone
					for name, v := range good {
						if name != field {
							members[name] = v
						}
					}
				}
				got := w.Send(r.Method, address(r, "acme", "x"), root, object(members), "If-Match", "*")
				what := fmt.Sprintf("%s %s, %s: %s: %d %s", r.Method, r.Pattern, field, kind, got.Status, got.Body[:min(len(got.Body), 300)])
				require.Contains(t, []int{400, 413}, got.Status, what)
				if got.Status == 400 && !strings.HasPrefix(kind, "deep") {
					require.Contains(t, string(got.Body), field, what)
				}
				require.Less(t, len(got.Body), 4096, "an error repeats little of what it got")
				tried++
			}
			// Twice, and in another case: encoding/json would take either.
			for kind, text := range map[string]string{
				"twice": fmt.Sprintf(`{%q:%s,%q:%s}`, field, good[field], field, good[field]),
				"case":  fmt.Sprintf(`{%q:%s}`, strings.ToUpper(field), good[field]),
			} {
				got := w.Send(r.Method, address(r, "acme", "x"), root, text, "If-Match", "*")
				require.Equal(t, 400, got.Status, "%s %s: %s", r.Pattern, text, got.Body)
				require.Contains(t, strings.ToLower(string(got.Body)), field, kind)
			}
		}
		// Whole bodies.
		for kind, text := range map[string]string{
			"empty": ``, "not JSON": `{`, "list": `[]`, "string": `"x"`, "null": `null`, "two values": object(good) + `{}`,
			"not UTF-8": "{\"a\":\"\xff\"}", "unknown": `{"<script>":1}`, "prototype": `{"__proto__":{}}`, "HTML": `<html>`, "NaN": `{"version":NaN}`,
		} {
			got := w.Send(r.Method, address(r, "acme", "x"), root, text, "If-Match", "*")
			require.Equal(t, 400, got.Status, "%s %s: %s", r.Pattern, kind, got.Body)
			require.NotContains(t, string(got.Body), "<script>", kind)
		}
		large := `{"message":"` + strings.Repeat("x", 10<<20) + `"}`
		require.Equal(t, 413, w.Send(r.Method, address(r, "acme", "x"), root, large, "If-Match", "*").Status, r.Pattern)
		for _, typ := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-16"} {
			require.Equal(t, 415, w.Send(r.Method, address(r, "acme", "x"), root, object(good), "If-Match", "*", "Content-Type", typ).Status, typ)
		}
		require.Equal(t, 415, w.Send(r.Method, address(r, "acme", "x"), root, object(good), "If-Match", "*", "Content-Encoding", "br").Status)
		require.Equal(t, 400, w.Send(r.Method, address(r, "acme", "x"), root, object(good), "If-Match", "*", "Content-Encoding", "gzip").Status)
		require.Equal(t, before, w.Everything(), r.Pattern)
	}
	require.Greater(t, tried, 200)
}

// What is wrong inside of settings is named by its path.
func TestHostileSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	before := w.Everything()
	for text, field := range map[string]string{
		`{"active":"721h"}`:                           "settings.active",
		`{"active":"1h","inactivity":"2h"}`:           "settings.inactivity",
		`{"active":"5m"}`:                             "settings.active",
		`{"active":3600}`:                             "settings.active",
		`{"active":"1e9h"}`:                           "settings.active",
		`{"concurrent":0}`:                            "settings.concurrent",
		`{"concurrent":-1}`:                           "settings.concurrent",
		`{"concurrent":"3"}`:                          "settings.concurrent",
		`{"concurrent":99999999999999999999}`:         "settings.concurrent",
		`{"at_limit":"explode"}`:                      "settings.at_limit",
		`{"activity":["refresh","refresh"]}`:          "settings.activity[1]",
		`{"observe":"yes"}`:                           "settings.observe",
		`{"kinds":{"fridge":{}}}`:                     "settings.kinds.fridge",
		`{"users":{"":{}}}`:                           `settings.users.\"\"`,
		`{"users":{"a\u0000":{"concurrent":1}}}`:      "settings.users",
		`{"groups":{"\u202eroot":{"concurrent":1}}}`:  "settings.groups",
		`{"clients":{"a\r\nb":{"concurrent":1}}}`:     "settings.clients",
		`{"users":{"a":{"concurrent":1,"users":{}}}}`: "settings.users.a.users",
		`{"active":"1h","active":"2h"}`:               "settings.active",
		`{"extensions":{}}`:                           "settings.extensions",
		`{"users":{"` + strings.Repeat("x", 300) + `":{"concurrent":1}}}`: "settings.users",
	} {
		got := w.Send("PUT", "/v1/accounts/acme/settings", root, `{"settings":`+text+`}`, "If-Match", "*")
		require.Equal(t, 400, got.Status, text)
		require.Contains(t, string(got.Body), field, text)
	}
	require.Equal(t, before, w.Everything())

	// What is only odd is kept as it is, and comes back as data: escaped, in
	// a admintest.Response that no browser takes for a page.
	odd := map[string]any{
		"settings": map[string]any{"users": map[string]any{"<img src=x onerror=alert(1)>": map[string]any{"concurrent": 1}, "=HYPERLINK(1)": map[string]any{"concurrent": 2}}},
		"message":  `=1+1 <script>alert(1)</script> 'quoted' "twice" ütf-8 日本`,
	}
	var s service.Settings
	got := w.Send("PUT", "/v1/accounts/acme/settings", root, odd, "If-Match", "*").Into(200, &s)
	require.Equal(t, odd["message"], s.Message)
	require.Contains(t, s.Settings.Users, "<img src=x onerror=alert(1)>")
	require.NotContains(t, string(got.Body), "<")
	require.Equal(t, "application/json", got.Header.Get("Content-Type"))
	require.Equal(t, "nosniff", got.Header.Get("X-Content-Type-Options"))
	var again map[string]any
	require.NoError(t, json.Unmarshal(got.Body, &again))

	// A document that is large, and one that is too large.
	users := map[string]any{}
	for i := range 5000 {
		users[fmt.Sprintf("user-%0100d", i)] = map[string]any{"concurrent": 1}
	}
	w.Send("PUT", "/v1/accounts/acme/settings", root, map[string]any{"settings": map[string]any{"users": users}}, "If-Match", "*").Into(200, &s)
	require.Len(t, s.Settings.Users, 5000)
	large := `{"settings":{"users":{` + strings.Repeat(" ", policy.MaxDocument) + `}}}`
	require.Contains(t, string(w.Send("PUT", "/v1/accounts/acme/settings", root, large, "If-Match", "*").Body), "is larger than")
	large = `{"settings":{"users":{` + strings.Repeat(" ", policy.MaxDocument+(64<<10)) + `}}}`
	require.Equal(t, 413, w.Send("PUT", "/v1/accounts/acme/settings", root, large, "If-Match", "*").Status)
}

// Query parameters and what is in the address.
func TestHostileAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	before := w.Everything()
	for _, r := range admin.Routes() {
		if r.Action == admin.ReadDescription {
			continue
		}
		for _, value := range []string{"%00", "a%0d%0ab", "%E2%80%AEx", "%ff"} {
			// Whoever may not know the account is told nothing else.
			got := w.Send(r.Method, address(r, value, "x"), root, body(r), "If-Match", "*")
			require.Contains(t, []int{403, 404}, got.Status, "%s %s", r.Pattern, value)
			if strings.Contains(r.Pattern, "{sid}") {
				require.Equal(t, 404, w.Send(r.Method, address(r, "acme", value), root, body(r), "If-Match", "*").Status, r.Pattern)
			}
			for _, name := range r.Query {
				got := w.Send(r.Method, strings.Split(address(r, "acme", "x"), "?")[0]+"?"+name+"="+value, root, body(r), "If-Match", "*")
				require.Equal(t, 400, got.Status, "%s %s=%s", r.Pattern, name, value)
				require.Contains(t, string(got.Body), name)
			}
		}
	}
	require.Equal(t, before, w.Everything())
}
