package console_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/console"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
)

// consoleAddress fills in the pattern of a route, so that who may gets an answer.
func consoleAddress(r console.Route, account, sid string) string {
	path := strings.NewReplacer("{account}", account, "{sid}", sid, "{$}", "").Replace(strings.TrimPrefix(r.Pattern, "/"))
	switch {
	case strings.HasSuffix(path, "/explain"):
		path += "?user=" + optest.SubjectOf("ann")
	case r.Method == "GET" && strings.HasSuffix(path, "/review"):
		path += "?what=restore&restored=0"
	}
	return path
}

func consoleForm(r console.Route, sid string) url.Values {
	if r.Method != "POST" {
		return nil
	}
	return url.Values{
		"what": {"remove"}, "scope": {"kinds"}, "name": {"cli"}, "which": {"marked"}, "sid": {sid}, "confirm": {"yes"},
		"client": {"web"}, "active": {"limit"}, "active_n": {"1"}, "active_unit": {"hours"},
	}
}

// Every address of the console, from the table: nobody who is not signed in, no
// member, no administrator of another account and nobody who may only read sees or
// changes anything, nor learns whether an account exists.
func TestConsoleIsForThoseWhoMay(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root, otherRoot, ann, auditor := w.SignIn("root"), w.SignIn("other-root"), w.SignIn("ann"), w.SignIn("auditor")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 0, 0))
	sid := listSessions(w, root, "user="+optest.SubjectOf("ann"))[0].ID
	before := w.Everything()

	for _, r := range console.Routes() {
		name := r.Method + " " + r.Pattern
		send := func(token, account string) admintest.Page {
			return w.Page(r.Method, consoleAddress(r, account, sid), token, consoleForm(r, sid))
		}
		for _, token := range []string{"", "nonsense", sid} {
			got := send(token, "acme")
			if r.Action == "" { // nothing to choose from
				require.Equal(t, 403, got.Status, name)
				continue
			}
			require.Equal(t, 401, got.Status, "%s: %s", name, got.Body)
			require.NotContains(t, got.Body, "acme", name)
		}
		strangers := []string{otherRoot, ann}
		if r.Action == admin.WriteSettings || r.Action == admin.EndSessions || r.Action == admin.PreviewSettings {
			strangers = append(strangers, auditor)
		}
		for _, token := range strangers {
			got, missing := send(token, "acme"), send(token, "no-such-account")
			if r.Action == "" {
				require.NotContains(t, got.Body+got.Location, "acme", name)
				continue
			}
			require.Equal(t, 403, got.Status, "%s: %s", name, got.Body)
			require.Equal(t, missing.Body, got.Body, name)
			require.NotContains(t, got.Body, "ann", name)
			require.NotContains(t, got.Body, "8 hours", name)
		}
		require.Equal(t, before, w.Everything(), name)
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "", "Origin", "https://evil.example"}} {
			if r.Method == "POST" {
				got := w.Page(r.Method, consoleAddress(r, "acme", sid), root, consoleForm(r, sid), header...)
				require.Equal(t, 403, got.Status, name)
				require.Contains(t, got.Body, "another website")
			}
		}
		require.Equal(t, before, w.Everything(), name)
	}
	// With the right token each of them does something.
	for _, r := range console.Routes() {
		got := w.Page(r.Method, consoleAddress(r, "acme", sid), root, consoleForm(r, sid))
		want := []int{200, 303}
		switch {
		case strings.HasSuffix(r.Pattern, "/save"):
			want = []int{412} // without the tag of what it is about
		}
		require.Contains(t, want, got.Status, "%s %s: %s", r.Method, r.Pattern, got.Text())
	}
	require.NotEqual(t, before, w.Everything())
	// An auditor sees all of it, and no button.
	for _, r := range console.Routes() {
		if r.Method == "GET" && (r.Action == admin.ReadSettings || r.Action == admin.ReadSessions) {
			got := w.Page("GET", consoleAddress(r, "acme", sid), auditor, nil)
			require.Equal(t, 200, got.Status, r.Pattern)
			require.NotContains(t, got.Body, `method="post"`, r.Pattern)
			require.NotContains(t, got.Body, `/edit`, r.Pattern)
		}
	}
}

func TestConsoleReadOnly(t *testing.T) {
	t.Parallel()
	w := admintest.New(t, func(_ *admintest.World, c *provider.Config, a *admin.Config) {
		c.Settings = provider.StaticSettings{Accounts: map[string]policy.Account{"acme": admintest.Bounds(8*time.Hour, time.Hour, 0, 0)}}
		a.ReadOnly = "They are in the file settings.yaml."
	})
	root := w.SignIn("root")
	for _, path := range []string{"", "overrides", "history", "presets", "explain", "sessions"} {
		got := w.Page("GET", "acme/"+path, root, nil)
		require.Equal(t, 200, got.Status, path)
		require.Contains(t, got.Text(), "They are in the file settings.yaml.", path)
		require.NotContains(t, got.Body, "/edit", path)
		require.NotContains(t, got.Body, "Undo", path)
	}
	require.Contains(t, w.Page("GET", "acme/", root, nil).Text(), "8 hours")
	require.Equal(t, 409, w.Page("GET", "acme/edit", root, nil).Status)
	got := w.Page("POST", "acme/save", root, url.Values{"active": {"unlimited"}, "field": {"active"}})
	require.Equal(t, 409, got.Status)
	require.Contains(t, got.Text(), "They are in the file settings.yaml.")
}

// Hostile values in every field: none is kept that would mislead, none breaks out
// of the page, and a form that is too large is refused.
func TestConsoleHostileValues(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 0, 0))
	w.SignIn("ann")
	sid := listSessions(w, root, "user="+optest.SubjectOf("ann"))[0].ID
	before := w.Everything()
	byMethod := map[string][]string{
		"GET": {
			"what", "tag", "version", "scope", "name", "field", "restored", "preset", "message",
			"user", "client", "kind", "state", "cursor", "before", "find", "saved", "ended", "told",
		},
		"POST": {
			"what", "tag", "version", "scope", "name", "field", "restored", "observe", "message",
			"active", "active_n", "active_unit", "inactivity", "inactivity_n", "inactivity_unit",
			"concurrent", "concurrent_n", "at_limit", "activity", "class",
		},
	}
	hostile := map[string]string{
		"HTML": `"><script>alert(1)</script><img src=x onerror=alert(1)>`, "attribute": `' onfocus='alert(1)`,
		"formula": `=HYPERLINK("https://evil.example","x")`, "bidi": "a\u202eb\u2066c", "NUL": "a\x00b", "line": "a\r\nLocation: https://evil.example",
		"not UTF-8": "a\xffb", "template": "{{.}}${7*7}", "path": "../../../etc/passwd", "number": "99999999999999999999999", "minus": "-1",
	}
	for _, r := range console.Routes() {
		if r.Action == admin.EndSessions {
			continue // below: they end something
		}
		for name, value := range hostile {
			fields, all := byMethod[r.Method], url.Values{}
			for _, field := range fields {
				all.Set(field, value)
			}
			singles := []url.Values{all}
			if name == "HTML" && r.Method == "POST" || name == "NUL" {
				for _, field := range fields {
					one := url.Values{"what": {"limits"}, "field": {"all"}, "message": {""}}
					one.Set(field, value)
					singles = append(singles, one)
				}
			}
			for _, values := range singles {
				path := strings.SplitN(consoleAddress(r, "acme", sid), "?", 2)[0]
				var got admintest.Page
				if r.Method == "GET" {
					got = w.Page("GET", path+"?"+values.Encode(), root, nil)
				} else {
					got = w.Page("POST", path, root, values)
				}
				require.Less(t, got.Status, 500, "%s %s: %s", path, name, got.Body)
				require.NotContains(t, got.Body, "<script", path)
				require.NotContains(t, got.Body, "<img", path)
				require.NotContains(t, got.Body, "\x00", path)
				require.NotContains(t, got.Location, "evil", path)
			}
		}
		for _, account := range []string{"a%00b", "%3Cscript%3E", "%E2%80%AE", strings.Repeat("x", 300)} {
			got := w.Page(r.Method, strings.SplitN(consoleAddress(r, account, sid), "?", 2)[0], root, consoleForm(r, sid))
			require.Less(t, got.Status, 500, account)
		}
	}
	require.Equal(t, before, w.Everything())

	large := url.Values{"message": {strings.Repeat("x", 10<<20)}}
	for _, r := range console.Routes() {
		if r.Method == "POST" {
			require.Equal(t, 413, w.Page("POST", consoleAddress(r, "acme", sid), root, large).Status, r.Pattern)
			got := w.Page("POST", consoleAddress(r, "acme", sid), root, nil, "Content-Type", "application/x-www-form-urlencoded; %%%")
			require.Less(t, got.Status, 500)
		}
	}
	require.Equal(t, 413, w.Page("GET", "acme/sessions?user="+strings.Repeat("x", 9000), root, nil).Status)
	for name, value := range hostile {
		for _, form := range []url.Values{
			{"which": {"marked"}, "sid": {value}, "confirm": {"yes"}}, {"which": {value}, "confirm": {"yes"}},
			{"which": {"matching"}, "user": {value}, "confirm": {"yes"}}, {"which": {"matching"}, "client": {value}, "confirm": {"yes"}},
		} {
			require.Less(t, w.Page("POST", "acme/sessions/end", root, form).Status, 500, name)
		}
		got := w.Page("POST", "acme/sessions/"+sid+"/deliveries", root, url.Values{"client": {value}})
		require.Less(t, got.Status, 500, name)
	}
	require.Equal(t, before, w.Everything())
}
