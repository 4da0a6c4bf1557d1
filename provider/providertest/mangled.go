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

// A pair is two sessions of one user, whose tokens are mangled.
type pair struct {
	*kit
	s, other            *session
	refresh, access, id string // of s
}

// spare is a refresh token, or an access token where there are none.
func (p pair) spare() string {
	if p.Off.RefreshTokens {
		return p.access
	}
	return p.refresh
}

// mangledTokens presents everything everywhere. Each must be refused as the
// client's mistake, and nothing must be lost by it.
func mangledTokens(t *testing.T, k *kit) {
	for name, run := range map[string]func(*testing.T, pair){
		"refresh token": mangledRefreshTokens,
		"code":          mangledCodes,
		"device code":   mangledDeviceCodes,
		"userinfo":      mangledBearers,
		"introspection": mangledIntrospection,
		"revocation":    mangledRevocation,
		"authorization": mangledHints,
		"end_session":   mangledLogoutHints,
	} {
		t.Run(name, func(t *testing.T) {
			user := k.user(t)
			s, other := k.start(t, k.Web, user), k.start(t, k.Web, user)
			run(t, pair{kit: k, s: s, other: other, refresh: s.now.refresh(), access: s.now.access(), id: s.now.id()})
			s.mustLive(t)
			other.mustLive(t)
		})
	}
}

func mangledRefreshTokens(t *testing.T, p pair) {
	if p.Off.RefreshTokens {
		t.Logf("not applicable: Off.RefreshTokens is set")
		return
	}
	for name, token := range mangle(p.refresh, p.other.now.refresh(), true) {
		mustBeClientError(t, name, p.kit.refresh(p.Web, token))
	}
	for name, token := range map[string]string{"access token": p.access, "ID token": p.id} {
		mustBeClientError(t, name, p.kit.refresh(p.Web, token))
	}
}

func mangledCodes(t *testing.T, p pair) {
	p.other.signOut() // its slot is for the code
	b := p.browser()
	before := time.Now()
	v, err := b.login(p.Web, p.s.user, nil)
	require.NoError(t, err)
	require.NotEmpty(t, v.code(), "%s", v)
	for name, code := range mangle(v.code(), p.spare(), false) {
		mustBeClientError(t, name, p.redeem(p.Web, code))
	}
	for name, token := range map[string]string{"refresh token": p.spare(), "access token": p.access, "ID token": p.id} {
		mustBeClientError(t, name, p.redeem(p.Web, token))
	}
	mustBeClientError(t, "as refresh token", p.kit.refresh(p.Web, v.code()))
	*p.other = *p.redeemed(t, p.Web, p.s.user, b, p.redeem(p.Web, v.code()), before) // the code is still good
}

func mangledDeviceCodes(t *testing.T, p pair) {
	if p.Off.DeviceGrant {
		t.Logf("not applicable: Off.DeviceGrant is set")
		return
	}
	start := p.post("device_authorization_endpoint", p.Device, url.Values{"scope": {p.scope()}})
	require.True(t, start.ok(), "%s", start)
	codes := mangle(start.str("device_code"), p.spare(), true)
	codes["refresh token"] = p.spare()
	for name, code := range codes {
		mustBeClientError(t, name, p.token(p.Device, url.Values{"grant_type": {deviceGrant}, "device_code": {code}}))
	}
}

// bearers are what is no access token.
func (p pair) bearers() map[string]string {
	m := mangle(p.access, p.other.now.access(), false)
	if m["ID token"] = p.id; !p.Off.RefreshTokens {
		m["refresh token"] = p.refresh
	}
	return m
}

func mangledBearers(t *testing.T, p pair) {
	for name, token := range p.bearers() {
		if strings.ContainsAny(token, "\x00\r\n") {
			continue // no client can send these in a header
		}
		r := p.userinfo(token)
		require.True(t, r.status >= 400 && r.status < 500, "%s: %s", name, r)
	}
}

func mangledIntrospection(t *testing.T, p pair) {
	if !p.s.introspects() {
		t.Logf("not applicable: Off.Introspection or Off.ConfidentialClients is set")
		return
	}
	for name, token := range p.bearers() {
		r := p.introspect(p.Web, token)
		// A server that bounds what it reads does not get to see the longest one.
		require.True(t, r.status == http.StatusOK || r.status >= 400 && r.status < 500, "%s: %s", name, r)
		if name != "refresh token" { // which a server may introspect
			require.NotEqual(t, true, r.json["active"], "%s: %s", name, r)
		}
	}
}

func mangledRevocation(t *testing.T, p pair) {
	if p.Off.Revocation || p.Off.RefreshTokens {
		t.Logf("not applicable: Off.Revocation or Off.RefreshTokens is set")
		return
	}
	for name, token := range mangle(p.refresh, p.other.now.refresh(), true) {
		r := p.revoke(p.Web, token)
		require.True(t, r.status >= 200 && r.status < 500, "%s: %s", name, r)
	}
}

// hints are what is no ID token.
func (p pair) hints() map[string]string {
	m := mangle(p.id, p.other.now.id(), false)
	m["refresh token"], m["access token"] = p.spare(), p.access
	return m
}

func mangledHints(t *testing.T, p pair) {
	for name, hint := range p.hints() {
		v, err := p.browser().authorize(p.Web, url.Values{"id_token_hint": {hint}, "prompt": {"none"}})
		require.NoError(t, err, "%s", name)
		require.Less(t, v.page.StatusCode, 500, "%s: %s", name, v)
		require.Empty(t, v.code(), "%s: %s", name, v)
		require.NotEqual(t, "server_error", v.err(), "%s: %s", name, v)
	}
}

func mangledLogoutHints(t *testing.T, p pair) {
	if p.Off.EndSession {
		t.Logf("not applicable: Off.EndSession is set")
		return
	}
	for name, hint := range p.hints() {
		v, err := p.browser().endSession(url.Values{"id_token_hint": {hint}, "post_logout_redirect_uri": {p.Web.PostLogoutRedirectURI}})
		require.NoError(t, err, "%s", name)
		require.Less(t, v.page.StatusCode, 500, "%s: %s", name, v)
		require.False(t, v.atApplication(), "%s: %s", name, v)
	}
}

// mustBeClientError checks a refusal of the token endpoint.
func mustBeClientError(t *testing.T, what string, r reply) {
	t.Helper()
	require.True(t, r.status >= 400 && r.status < 500, "%s: %s", what, r)
	require.NotEmpty(t, r.err(), "%s: no OAuth error: %s", what, r)
	require.NotEqual(t, "server_error", r.err(), "%s: %s", what, r)
	mustBeWellFormed(t, r)
}
