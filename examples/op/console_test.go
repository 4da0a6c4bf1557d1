package main

import (
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/proctest"
)

// console signs somebody in to the console, in a browser of their own.
func (s *server) console(username, password string) (*browser, page) {
	s.t.Helper()
	b := newBrowser(s.t)
	b.header = http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Site": {"same-origin"}}
	p := b.signIn(b.get(s.issuer+"/console/"), username, password)
	return b, p
}

// The console is an application of its own provider: administrators of the account
// see it, and nobody else does; it ends with their session, at once.
func TestConsole(t *testing.T) {
	t.Parallel()
	dir, args := adminFolder(t)
	s := start(t, append(args, "-settings-import", put(t, dir, "settings.yaml", "accounts: {default: {active: 24h}, partner: {active: 12h}}"))...)

	root, p := s.console("root", rootPassword)
	require.Equal(t, http.StatusOK, p.status, p.body)
	require.Contains(t, p.body, "24 hours")
	require.Contains(t, p.body, "sub-root")
	require.Equal(t, http.StatusForbidden, root.get(s.issuer+"/console/partner/").status)
	require.Equal(t, http.StatusForbidden, root.get(s.issuer+"/console/no-such-account/").status)
	_, p = s.console("eve", "eve-4")
	require.Contains(t, p.body, "12 hours", "it is her account that she comes to")
	require.NotContains(t, p.body, "24 hours")

	alice, p := s.console("alice", alicePassword)
	require.Equal(t, http.StatusForbidden, p.status)
	for _, path := range []string{"", "sessions", "history", "edit"} {
		p = alice.get(s.issuer + "/console/default/" + path)
		require.Equal(t, http.StatusForbidden, p.status)
		require.NotContains(t, p.body, "24 hours")
	}

	// Another administrator's session, or a token of the API, ends it.
	list := s.v1("GET", "accounts/default/sessions?client=console&user=sub-root", s.machineToken("admin-api", "api-secret"), "")
	require.Equal(t, http.StatusOK, list.status, list.body)
	sid := list.json["sessions"].([]any)[0].(map[string]any)["id"].(string)
	require.Equal(t, http.StatusOK, s.v1("DELETE", "accounts/default/sessions/"+sid, s.machineToken("admin-api", "api-secret"), "").status)
	p = root.get(s.issuer + "/console/default/")
	require.Equal(t, http.StatusUnauthorized, p.status)
	require.NotContains(t, p.body, "24 hours")
	require.Contains(t, p.body, `href="/console/auth/signin?return=/console/"`)
	p = root.post(s.issuer+"/console/default/save", url.Values{"field": {"active"}, "active": {"unlimited"}})
	require.Equal(t, http.StatusUnauthorized, p.status)
}

func TestConsoleIsAClientOfItsOwn(t *testing.T) {
	t.Parallel()
	dir, args := folder(t)
	put(t, dir, "clients.json", `[{"client_id": "console", "client_secret": "x", "type": "web", "redirect_uris": ["http://127.0.0.1:1/cb"], "grant_types": ["authorization_code"]}]`)
	err := run(t.Context(), args, noEnv, &proctest.Output{}, &proctest.Output{})
	require.ErrorContains(t, err, `"console" is the client_id of the provider's own console`)
	require.FileExists(t, filepath.Join(dir, "clients.json"))

	// Without its secret nobody is the console.
	_, args = folder(t)
	s := start(t, args...)
	for _, secret := range []string{"", "console-secret", strings.Repeat("A", 43)} {
		require.Equal(t, http.StatusUnauthorized, s.api("/oauth/introspect", consoleID, secret, url.Values{"token": {"x"}}).status)
	}
}
