package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// adminFolder is folder with an administrator of another account and clients that
// may use the API.
func adminFolder(t *testing.T) (dir string, args []string) {
	t.Helper()
	dir, args = folder(t)
	put(t, dir, "users.yaml", `
- {username: alice, password_hash: "`+cheapHash(t, alicePassword)+`", sub: sub-alice}
- {username: root, password_hash: "`+cheapHash(t, rootPassword)+`", sub: sub-root, roles: [administrator]}
- {username: eve, password_hash: "`+cheapHash(t, "eve-4")+`", sub: sub-eve, accounts: [partner], roles: [administrator]}
`)
	put(t, dir, "clients.json", `[
{"client_id": "web", "client_secret": "`+webSecret+`", "type": "web", "redirect_uris": ["`+redirectURI+`"], "scopes": ["curfew.admin"],
 "grant_types": ["authorization_code", "refresh_token", "client_credentials"]},
{"client_id": "spa", "type": "spa", "redirect_uris": ["`+redirectURI+`"], "access_token_type": "jwt", "scopes": ["curfew.admin"],
 "grant_types": ["authorization_code", "refresh_token"]},
{"client_id": "other", "client_secret": "other-secret", "type": "web", "redirect_uris": ["`+redirectURI+`"], "grant_types": ["authorization_code", "refresh_token"]},
{"client_id": "admin-api", "client_secret": "api-secret", "type": "web", "grant_types": ["client_credentials"], "scopes": ["curfew.admin"], "accounts": ["default"]}]`)
	return dir, args
}

// v1 makes a request to the API.
func (s *server) v1(method, path, token, body string) reply {
	s.t.Helper()
	req, err := http.NewRequest(method, s.issuer+"/v1/"+path, strings.NewReader(body))
	require.NoError(s.t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("If-Match", "*")
	return s.answer(req)
}

// tokenOf signs a user in by the code flow, and asks for more scopes.
func (s *server) tokenOf(client, username, password string, more ...string) *oauth2.Token {
	s.t.Helper()
	a := s.app(client)
	a.config.Scopes = append(append([]string{}, scopes...), more...)
	b := newBrowser(s.t)
	p := b.signIn(b.get(a.url()), username, password)
	require.NotEmpty(s.t, p.params.Get("code"), "%d %s", p.status, p.body)
	token, err := a.redeem(s.t, p.params.Get("code"))
	require.NoError(s.t, err)
	return token
}

func (s *server) machineToken(client, secret string) string {
	s.t.Helper()
	r := s.api("/oauth/token", client, secret, url.Values{"grant_type": {"client_credentials"}, "scope": {adminScope}})
	require.Equal(s.t, 200, r.status, r.body)
	return r.json["access_token"].(string)
}

func TestWhoAdministers(t *testing.T) {
	dir, args := adminFolder(t)
	s := start(t, append(args, "-settings-import", put(t, dir, "settings.yaml", "accounts: {default: {active: 24h}}"))...)
	allowed := map[string]string{
		"an administrator, opaque": s.tokenOf("web", "root", rootPassword, adminScope).AccessToken,
		"an administrator, JWT":    s.tokenOf("spa", "root", rootPassword, adminScope).AccessToken,
		"the client":               s.machineToken("admin-api", "api-secret"),
	}
	for who, token := range allowed {
		r := s.v1("GET", "accounts/default/settings", token, "")
		require.Equal(t, 200, r.status, "%s: %s", who, r.body)
		require.Equal(t, 403, s.v1("GET", "accounts/partner/settings", token, "").status, who)
		require.Equal(t, 403, s.v1("GET", "accounts/no-such-account/settings", token, "").status, who)
	}
	refused := map[string]string{
		"an administrator without the scope":  s.tokenOf("web", "root", rootPassword).AccessToken,
		"a client that may not ask for it":    s.tokenOf("other", "root", rootPassword, adminScope).AccessToken,
		"a user who is no administrator":      s.tokenOf("web", "alice", alicePassword, adminScope).AccessToken,
		"an administrator of another account": s.tokenOf("web", "eve", "eve-4", adminScope).AccessToken,
		"a client with no account":            s.machineToken("web", webSecret),
	}
	before := s.v1("GET", "accounts/default/settings", allowed["the client"], "").body
	for who, token := range refused {
		require.Equal(t, 403, s.v1("GET", "accounts/default/settings", token, "").status, who)
		require.Equal(t, 403, s.v1("PUT", "accounts/default/settings", token, `{"settings":{}}`).status, who)
	}
	for who, token := range map[string]string{"nobody": "", "a guess": "x", "a refresh token": s.tokenOf("web", "root", rootPassword, adminScope).RefreshToken} {
		require.Equal(t, 401, s.v1("GET", "accounts/default/settings", token, "").status, who)
	}
	require.Equal(t, before, s.v1("GET", "accounts/default/settings", allowed["the client"], "").body)

	// Whoever is signed out administers nothing any more.
	root := s.tokenOf("web", "root", rootPassword, adminScope)
	r := s.v1("POST", "accounts/default/sessions/end", allowed["the client"], `{"user":"sub-root"}`)
	require.Equal(t, 200, r.status, r.body)
	require.Equal(t, 401, s.v1("GET", "accounts/default/settings", root.AccessToken, "").status)
	require.Equal(t, 401, s.v1("GET", "accounts/default/settings", allowed["an administrator, JWT"], "").status)

	// A change is in force for the next login, and by whom is in the history.
	r = s.v1("PUT", "accounts/default/settings", allowed["the client"], `{"settings":{"concurrent":1},"message":"one each"}`)
	require.Equal(t, 200, r.status, r.body)
	require.Equal(t, "client:admin-api", r.json["changed_by"])
	s.tokenOf("web", "root", rootPassword)
	b := newBrowser(t)
	p := b.signIn(b.get(s.app("web").url()), "root", rootPassword)
	require.Contains(t, p.params.Get("error_description"), "used=1 max=1")
}

func TestHeartbeatOfAnyUser(t *testing.T) {
	_, args := adminFolder(t)
	s := start(t, args...)
	alice := s.tokenOf("other", "alice", alicePassword)
	sid := s.app("other").claims(t, alice)["sid"].(string)
	require.Equal(t, 204, s.v1("PATCH", "sessions/"+sid+"/state", alice.AccessToken, "").status)
	require.Equal(t, 404, s.v1("PATCH", "sessions/other/state", alice.AccessToken, "").status)
	require.Equal(t, 404, s.v1("PATCH", "sessions/"+sid+"/state", s.machineToken("admin-api", "api-secret"), "").status)
}

func TestSettingsFileIsReadOnly(t *testing.T) {
	dir, args := adminFolder(t)
	settings := put(t, dir, "settings.yaml", "accounts: {default: {active: 8h, concurrent: 2, at_limit: refuse}}")
	s := start(t, append(args, "-settings", settings)...)
	token := s.machineToken("admin-api", "api-secret")
	r := s.v1("GET", "accounts/default/settings", token, "")
	require.Equal(t, 200, r.status, r.body)
	require.Contains(t, r.json["read_only"], "settings file")
	require.Equal(t, "8h", r.json["settings"].(map[string]any)["active"])
	r = s.v1("PUT", "accounts/default/settings", token, `{"settings":{}}`)
	require.Equal(t, 409, r.status)
	require.Contains(t, r.json["detail"], "settings file")
	r = s.v1("PUT", "accounts/default/settings/identity", token, `{"mfa":"TOTP"}`)
	require.Equal(t, 409, r.status)
	require.Contains(t, r.body, "settings file")
}

func TestSettingsImport(t *testing.T) {
	dir, args := adminFolder(t)
	settings := put(t, dir, "settings.yaml", "accounts: {default: {active: 8h}, partner: {concurrent: 1}}")
	args = append(args, "-settings-import", settings)
	active := func(s *server) (string, float64) {
		r := s.v1("GET", "accounts/default/settings", s.machineToken("admin-api", "api-secret"), "")
		require.Equal(t, 200, r.status, r.body)
		return r.json["settings"].(map[string]any)["active"].(string), r.json["version"].(float64)
	}
	s := start(t, args...)
	got, version := active(s)
	require.Equal(t, "8h", got)
	require.EqualValues(t, 1, version)
	require.Contains(t, s.stderr.String(), "settings imported")
	r := s.v1("PUT", "accounts/default/settings", s.machineToken("admin-api", "api-secret"), `{"settings":{"active":"9h"}}`)
	require.Equal(t, 200, r.status, r.body)
	require.NoError(t, s.end())

	// The same file again does not undo what an administrator did.
	s = start(t, args...)
	got, _ = active(s)
	require.Equal(t, "9h", got)
	require.Contains(t, s.stderr.String(), "nothing was imported")
	require.NoError(t, s.end())

	// One bad account, and nothing of the file is taken.
	put(t, dir, "settings.yaml", "accounts: {default: {active: 10h}, partner: {concurrent: 0}}")
	code, said := exit(t, noEnv, args...)
	require.Equal(t, 2, code)
	require.Contains(t, said, "accounts.partner.concurrent")
	put(t, dir, "settings.yaml", "accounts: {default: {active: 10h}}")
	s = start(t, args...)
	got, version = active(s)
	require.Equal(t, "10h", got)
	require.EqualValues(t, 3, version, "a new version: the history stays")
	require.NoError(t, s.end())
	code, said = exit(t, noEnv, append(args, "-settings", settings)...)
	require.Equal(t, 2, code)
	require.Contains(t, said, "-settings-import: ")

	// Cut short before the end, an import begins again.
	docs := memstore.New()
	require.NoError(t, importSettings(t.Context(), docs, settings, rangeFrom(1), time.Now(), testLog(t)))
	d, err := docs.Document(t.Context(), importedKey)
	require.NoError(t, err)
	d.Body = []byte("another")
	_, err = docs.PutDocument(t.Context(), d)
	require.NoError(t, err)
	require.NoError(t, importSettings(t.Context(), docs, settings, rangeFrom(1), time.Now(), testLog(t)))
	stored, err := provider.LoadStored(t.Context(), docs, "default")
	require.NoError(t, err)
	require.EqualValues(t, 1, stored.Version, "what is there already is not written again")
}

func TestCheckSettingsWarns(t *testing.T) {
	dir, args := adminFolder(t)
	settings := put(t, dir, "settings.yaml", `accounts: {default: {active: 24h, inactivity: 2h, concurrent: 1, at_limit: end_oldest}}`)
	args = append(args, "-settings", settings, "-check-settings")
	code, said := exit(t, noEnv, append(args, "-baseline", "nist-63b4-aal2, pci-dss-4")...)
	require.Zero(t, code, said)
	for _, want := range []string{
		`account "default": error L12: inactivity: 2h is above the 15m of PCI DSS 4 (PCI DSS, requirement 8.2.8, 4.0.1 (2024))`,
		`warn L12: inactivity: 2h is above the 1h of NIST AAL2, revision 4 (NIST SP 800-63B-4, section 2.2.3, 4 (2025))`,
		`warn L14: at_limit: `, `warn L16: clients.web: has no backchannel_logout_uri`,
	} {
		require.Contains(t, said, want)
	}
	code, said = exit(t, noEnv, append(args, "-baseline", "iso-9000")...)
	require.Equal(t, 2, code)
	require.Contains(t, said, `-baseline: there is no preset "iso-9000"`)
}

func TestDescriptionIsServed(t *testing.T) {
	_, args := adminFolder(t)
	s := start(t, args...)
	r := s.v1("GET", "openapi.json", "", "")
	require.Equal(t, 200, r.status)
	require.True(t, json.Valid([]byte(r.body)))
	require.FileExists(t, filepath.Join("..", "..", "provider", "admin", "openapi.json"))
}
