package providertest

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mangle returns what can become of a token, by what was done to it. strict
// also does what some encodings overlook: it changes the last bits, and adds a
// line break.
func mangle(token, other string, strict bool) map[string]string {
	half := len(token) / 2
	flip := func(at int) string {
		b := []byte(token)
		b[at] ^= 1
		return string(b)
	}
	m := map[string]string{
		"empty":            "",
		"one character":    "a",
		"a space":          " ",
		"dots":             "....",
		"colons":           ":::",
		"three parts":      "a.b.c",
		"five parts":       "a.b.c.d.e",
		"first half":       token[:half],
		"second half":      token[half:],
		"without its head": token[1:],
		"longer":           token + "AAAA",
		"twice":            token + token,
		"bit at the head":  flip(0),
		"bit in the half":  flip(half),
		"halves swapped":   token[half:] + token[:half],
		"halves of two":    token[:half] + other[min(half, len(other)):],
		"upper case":       strings.ToUpper(token),
		"very long":        token + strings.Repeat("A", 100_000),
		"NUL":              token[:half] + "\x00" + token[half:],
		"NUL behind":       token + "\x00",
		"unicode":          "токен-令牌-🔑",
		"not UTF-8":        "\xff\xfe" + token,
		"a path":           "../../etc/passwd",
		"percent":          "%00%",
	}
	if parts := strings.Split(token, "."); len(parts) > 1 {
		m["without a part"] = strings.Join(parts[1:], ".")
		m["with an empty part"] = strings.Join(parts[:len(parts)-1], ".") + "."
		first := append([]string(nil), parts...)
		first[0], first[len(parts)-1] = first[len(parts)-1], first[0]
		m["parts swapped"] = strings.Join(first, ".")
		if others := strings.Split(other, "."); len(others) == len(parts) {
			mixed := append(append([]string(nil), parts[:len(parts)-1]...), others[len(parts)-1])
			m["parts of two"] = strings.Join(mixed, ".")
		}
	}
	if strict {
		m["last character lost"] = token[:len(token)-1]
		m["last bit"] = flip(len(token) - 1)
		m["line break"] = token + "\r\n"
	}
	for name, value := range m {
		if value == token || value == other { // such as parts of two tokens that differ in one
			delete(m, name)
		}
	}
	return m
}

// mangledTokens presents everything everywhere. Each must be refused as the
// client's mistake, and nothing must be lost by it.
func mangledTokens(t *testing.T, k *kit) {
	user := k.user(t)
	s := k.start(t, k.Web, user)
	refresh, access, id := s.now.refresh(), s.now.access(), s.now.id()

	b := k.browser()
	before := time.Now()
	v, err := b.login(k.Web, user, nil)
	require.NoError(t, err)
	require.NotEmpty(t, v.code(), "%s", v)
	for name, code := range mangle(v.code(), refresh, false) {
		mustBeClientError(t, "code: "+name, k.redeem(k.Web, code))
	}
	for name, token := range map[string]string{"refresh token": refresh, "access token": access, "ID token": id} {
		mustBeClientError(t, "as code: "+name, k.redeem(k.Web, token))
	}
	mustBeClientError(t, "as refresh token: code", k.refresh(k.Web, v.code()))
	other := k.redeemed(t, k.Web, user, b, k.redeem(k.Web, v.code()), before) // the code is still good

	for name, token := range mangle(refresh, other.now.refresh(), true) {
		mustBeClientError(t, "refresh token: "+name, k.refresh(k.Web, token))
	}
	for name, token := range map[string]string{"access token": access, "ID token": id} {
		mustBeClientError(t, "as refresh token: "+name, k.refresh(k.Web, token))
	}

	use := func() { // the sessions, lest a slow machine ends them
		s.mustRefresh(t)
		other.mustRefresh(t)
	}
	use()
	if !k.Off.DeviceGrant {
		start := k.post("device_authorization_endpoint", k.Device, url.Values{"scope": {k.scope()}})
		codes := mangle(start.str("device_code"), refresh, true)
		codes["refresh token"] = refresh
		for name, code := range codes {
			mustBeClientError(t, "device code: "+name, k.token(k.Device, url.Values{"grant_type": {deviceGrant}, "device_code": {code}}))
		}
	}

	use()
	bearers := mangle(access, other.now.access(), false)
	bearers["refresh token"], bearers["ID token"] = refresh, id
	for name, token := range bearers {
		if !strings.ContainsAny(token, "\x00\r\n") { // which no client can send in a header
			r := k.userinfo(token)
			require.True(t, r.status >= 400 && r.status < 500, "userinfo with %s: %s", name, r)
		}
		if !k.Off.Introspection {
			r := k.introspect(k.Web, token)
			require.True(t, r.status == http.StatusOK || r.status == http.StatusBadRequest, "introspection of %s: %s", name, r)
			if token != refresh {
				require.NotEqual(t, true, r.json["active"], "introspection of %s: %s", name, r)
			}
		}
	}
	if !k.Off.Revocation {
		for name, token := range mangle(refresh, other.now.refresh(), true) {
			r := k.revoke(k.Web, token)
			require.True(t, r.status >= 200 && r.status < 500, "revocation of %s: %s", name, r)
		}
	}

	use()
	hints := mangle(id, other.now.id(), false)
	hints["refresh token"], hints["access token"], hints["code"] = refresh, access, v.code()
	for name, hint := range hints {
		v, err := k.browser().authorize(k.Web, url.Values{"id_token_hint": {hint}, "prompt": {"none"}})
		require.NoError(t, err, "authorization with hint %s", name)
		require.Less(t, v.page.StatusCode, 500, "authorization with hint %s: %s", name, v)
		require.Empty(t, v.code(), "authorization with hint %s: %s", name, v)
		require.NotEqual(t, "server_error", v.err(), "authorization with hint %s: %s", name, v)
		if k.Off.EndSession {
			continue
		}
		v, err = k.browser().endSession(url.Values{"id_token_hint": {hint}, "post_logout_redirect_uri": {k.Web.PostLogoutRedirectURI}})
		require.NoError(t, err, "signing out with hint %s", name)
		require.Less(t, v.page.StatusCode, 500, "signing out with hint %s: %s", name, v)
		require.False(t, v.atApplication(), "signing out with hint %s: %s", name, v)
	}

	s.mustLive(t)
	other.mustLive(t)
}

// mustBeClientError checks a refusal of the token endpoint.
func mustBeClientError(t *testing.T, what string, r reply) {
	t.Helper()
	require.True(t, r.status >= 400 && r.status < 500, "%s: %s", what, r)
	require.NotEmpty(t, r.err(), "%s: no OAuth error: %s", what, r)
	require.NotEqual(t, "server_error", r.err(), "%s: %s", what, r)
	mustBeWellFormed(t, r)
}
