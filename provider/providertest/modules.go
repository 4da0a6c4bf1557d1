package providertest

import (
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// modules are the modules of the OpenID Foundation's conformance suite that
// have to do with sessions, under their names there.
func modules() []check {
	return []check{
		{name: "oidcc-prompt-none-not-logged-in", run: promptNoneNotLoggedIn},
		{name: "oidcc-prompt-none-logged-in", run: promptNoneLoggedIn},
		{name: "oidcc-prompt-login", waits: true, run: promptLogin},
		{name: "oidcc-max-age-1", waits: true, run: maxAge1},
		{name: "oidcc-max-age-10000", run: maxAge10000},
		{name: "oidcc-id-token-hint", run: idTokenHint},
		{name: "oidcc-ensure-request-with-acr-values-succeeds", run: acrValues},
		{name: "oidcc-codereuse", run: func(t *testing.T, k *kit) { codeReuse(t, k, 0) }},
		{name: "oidcc-codereuse-30seconds", waits: true, run: func(t *testing.T, k *kit) { codeReuse(t, k, 30*time.Second) }},
		{name: "oidcc-refresh-token", needs: needsRefresh, run: refreshToken},
		{name: "oidcc-rp-initiated-logout-discovery-endpoint-verification", needs: needsEndSession, run: logoutDiscovery},
		{name: "oidcc-rp-initiated-logout", needs: needsEndSession, run: logout},
		{name: "oidcc-rp-initiated-logout-no-state", needs: needsEndSession, run: logoutNoState},
		{name: "oidcc-rp-initiated-logout-bad-post-logout-redirect-uri", needs: needsEndSession, run: func(t *testing.T, k *kit) {
			stays(t, k, func(good url.Values) { good.Set("post_logout_redirect_uri", "https://attacker.example/out") })
		}},
		{name: "oidcc-rp-initiated-logout-query-added-to-post-logout-redirect-uri", needs: needsEndSession, run: func(t *testing.T, k *kit) {
			stays(t, k, func(good url.Values) {
				good.Set("post_logout_redirect_uri", good.Get("post_logout_redirect_uri")+"?foo=bar")
			})
		}},
		{name: "oidcc-rp-initiated-logout-modified-id-token-hint", needs: needsEndSession, run: func(t *testing.T, k *kit) {
			stays(t, k, func(good url.Values) {
				hint := []byte(good.Get("id_token_hint"))
				hint[len(hint)/2] ^= 1
				good.Set("id_token_hint", string(hint))
			})
		}},
		{name: "oidcc-rp-initiated-logout-bad-id-token-hint", needs: needsEndSession, run: func(t *testing.T, k *kit) {
			stays(t, k, func(good url.Values) { good.Set("id_token_hint", "not.a.token") })
		}},
		{name: "oidcc-rp-initiated-logout-no-id-token-hint", needs: needsEndSession, run: func(t *testing.T, k *kit) {
			asksOrStays(t, k, func(good url.Values) { good.Del("id_token_hint") })
		}},
		{name: "oidcc-rp-initiated-logout-no-post-logout-redirect-uri", needs: needsEndSession, run: func(t *testing.T, k *kit) {
			stays(t, k, func(good url.Values) { good.Del("post_logout_redirect_uri") })
		}},
		{name: "oidcc-rp-initiated-logout-no-params", needs: needsEndSession, run: func(t *testing.T, k *kit) {
			asksOrStays(t, k, func(good url.Values) { clear(good) })
		}},
		{name: "oidcc-rp-initiated-logout-only-state", needs: needsEndSession, run: func(t *testing.T, k *kit) {
			asksOrStays(t, k, func(good url.Values) { clear(good); good.Set("state", "only") })
		}},
	}
}

// mustNeedUser checks an answer to prompt=none that says that the user would
// have to be asked something.
func mustNeedUser(t *testing.T, v visit) {
	t.Helper()
	require.True(t, v.atApplication(), "prompt=none must not show a page: %s", v)
	require.Empty(t, v.code(), "%s", v)
	require.True(t, slices.Contains([]string{"login_required", "interaction_required", "account_selection_required", "consent_required"}, v.err()), "%s", v)
}

func promptNoneNotLoggedIn(t *testing.T, k *kit) {
	long := strings.Repeat("0123456789abcdef", 8)
	v, err := k.browser().authorize(k.Web, url.Values{"prompt": {"none"}, "state": {long}})
	require.NoError(t, err)
	mustNeedUser(t, v)
	require.Equal(t, long, v.params.Get("state"), "128 characters of state")
}

// silently makes a request with prompt=none in the session's browser. Where it
// can succeed it must, with the same login.
func silently(t *testing.T, s *session, extra url.Values) {
	t.Helper()
	params := url.Values{"prompt": {"none"}}
	for name, values := range extra {
		params[name] = values
	}
	v, err := s.browser.authorize(s.client, params)
	require.NoError(t, err)
	if s.k.Off.SingleSignOn {
		require.Equal(t, "login_required", v.err(), "Off.SingleSignOn is set: %s", v)
		return
	}
	require.NotEmpty(t, v.code(), "%s", v)
	again := s.k.redeemed(t, s.client, s.user, s.browser, s.k.redeem(s.client, v.code()), s.before)
	mustBeSameLogin(t, s, again)
}

func mustBeSameLogin(t *testing.T, first, second *session) {
	t.Helper()
	a, b := first.claims(t), second.claims(t)
	require.Equal(t, a["sub"], b["sub"])
	require.Equal(t, number(t, a, "auth_time"), number(t, b, "auth_time"))
}

func promptNoneLoggedIn(t *testing.T, k *kit) {
	silently(t, k.start(t, k.Web, k.user(t)), nil)
}

func idTokenHint(t *testing.T, k *kit) {
	users := k.takeUsers(t, 2)
	s, other := k.start(t, k.Web, users[0]), k.start(t, k.Web, users[1])
	silently(t, s, url.Values{"id_token_hint": {s.now.id()}})
	// OpenID Connect Core 1.0 section 3.1.2.2: no answer about another user.
	v, err := s.browser.authorize(k.Web, url.Values{"prompt": {"none"}, "id_token_hint": {other.now.id()}})
	require.NoError(t, err)
	mustNeedUser(t, v)
}

// askedAgain makes a request in the session's browser for which the user must
// be asked for credentials.
func askedAgain(t *testing.T, s *session, extra url.Values) *session {
	t.Helper()
	at, err := s.browser.authorize(s.client, extra)
	require.NoError(t, err)
	require.False(t, at.atApplication(), "the user was not asked: %s", at)
	before := time.Now()
	v, err := s.browser.signIn(at, s.user)
	require.NoError(t, err)
	require.NotEmpty(t, v.code(), "%s", v)
	again := s.k.redeemed(t, s.client, s.user, s.browser, s.k.redeem(s.client, v.code()), before)
	now := number(t, again.claims(t), "auth_time")
	require.Greater(t, now, number(t, s.claims(t), "auth_time"))
	require.GreaterOrEqual(t, now, float64(before.Unix()), "auth_time is that of the first login")
	return again
}

// nextSecond waits until auth_time, in whole seconds, can be seen to differ.
func nextSecond(s *session) { time.Sleep(time.Until(s.after.Add(1100 * time.Millisecond))) }

func promptLogin(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	nextSecond(s)
	askedAgain(t, s, url.Values{"prompt": {"login"}})
}

func maxAge1(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	time.Sleep(time.Until(s.after.Add(2100 * time.Millisecond)))
	askedAgain(t, s, url.Values{"max_age": {"1"}})
}

func maxAge10000(t *testing.T, k *kit) {
	s := k.startIn(t, k.browser(), k.Web, k.user(t), url.Values{"max_age": {"15000"}})
	number(t, s.claims(t), "auth_time") // required with max_age
	if k.Off.SingleSignOn {
		k.startIn(t, s.browser, k.Web, s.user, url.Values{"max_age": {"10000"}})
		return
	}
	v, err := s.browser.authorize(k.Web, url.Values{"max_age": {"10000"}})
	require.NoError(t, err)
	require.NotEmpty(t, v.code(), "the user need not be asked: %s", v)
	mustBeSameLogin(t, s, k.redeemed(t, k.Web, s.user, s.browser, k.redeem(k.Web, v.code()), s.before))
}

func acrValues(t *testing.T, k *kit) {
	k.startIn(t, k.browser(), k.Web, k.user(t), url.Values{"acr_values": {"urn:example:acr:1 urn:example:acr:2"}})
}

func codeReuse(t *testing.T, k *kit, after time.Duration) {
	user := k.user(t)
	b := k.browser()
	before := time.Now()
	v, err := b.login(k.Web, user, nil)
	require.NoError(t, err)
	require.NotEmpty(t, v.code(), "%s", v)
	s := k.redeemed(t, k.Web, user, b, k.redeem(k.Web, v.code()), before)
	time.Sleep(after)
	r := k.redeem(k.Web, v.code())
	require.Equal(t, http.StatusBadRequest, r.status, "%s", r)
	require.Equal(t, "invalid_grant", r.err(), "%s", r)
	mustBeWellFormed(t, r)
	if after > 0 && k.userinfo(s.now.access()).ok() {
		t.Logf("warning, as in the suite: the access token still works (RFC 6749 section 4.1.2: SHOULD revoke)")
	}
}

// refreshToken asserts what the module asserts of refresh tokens, responses to
// a refresh, and refreshed ID tokens.
func refreshToken(t *testing.T, k *kit) {
	users := k.takeUsers(t, 2)
	s := k.startIn(t, k.browser(), k.Web, users[0], url.Values{"prompt": {"consent"}})
	original := s.claims(t)
	mustBeStrong(t, s.now.refresh())
	access := s.now.access()

	s.mustRefresh(t)
	r := s.now
	mediaType, _, err := mime.ParseMediaType(r.header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "application/json", mediaType)
	require.Contains(t, r.header.Get("Cache-Control"), "no-store", "RFC 6749 section 5.1")
	require.Equal(t, "no-cache", r.header.Get("Pragma"), "RFC 6749 section 5.1")
	require.True(t, strings.EqualFold("Bearer", r.str("token_type")), "%s", r)
	expires, ok := r.json["expires_in"].(float64)
	require.True(t, ok && expires > 0, "expires_in: %s", r)
	if k.Off.Rotation {
		require.NotEmpty(t, r.access())
	} else {
		mustBeStrong(t, r.refresh())
	}
	if r.access() == access {
		t.Logf("information, as in the suite: the access token is the same as before")
	}

	if r.id() != "" { // OpenID Connect Core 1.0 section 12.2
		now := s.claims(t)
		for _, name := range []string{"iss", "sub", "aud", "azp", "auth_time"} {
			require.Equal(t, original[name], now[name], "%s", name)
		}
		require.GreaterOrEqual(t, number(t, now, "iat"), number(t, original, "iat"))
		if nonce, ok := now["nonce"]; ok {
			require.Equal(t, original["nonce"], nonce)
		}
	}

	// Refresh tokens are bound to their clients.
	second := k.start(t, k.Web2, users[1])
	for _, c := range []Client{k.Web, k.Public} {
		if c.ID == k.Web2.ID {
			continue // Off.PublicClients
		}
		wrong := k.refresh(c, second.now.refresh())
		require.Equal(t, http.StatusBadRequest, wrong.status, "%s", wrong)
		require.Equal(t, "invalid_grant", wrong.err(), "%s", wrong)
	}
	second.mustLive(t)
}

// mustBeStrong checks the form of a refresh token: VSCHAR, and as many
// characters as 128 bits take at six bits each (RFC 6749 appendix A.17 and
// section 10.10).
func mustBeStrong(t *testing.T, token string) {
	t.Helper()
	for _, c := range token {
		require.True(t, c >= 0x20 && c <= 0x7e, "refresh token has %q", c)
	}
	require.GreaterOrEqual(t, len(token), 22)
	distinct := map[rune]bool{}
	for _, c := range token {
		distinct[c] = true
	}
	require.Greater(t, len(distinct), 8, "refresh token %q does not look random", token)
}

func logoutDiscovery(t *testing.T, k *kit) {
	u, err := url.Parse(k.endpoints["end_session_endpoint"])
	require.NoError(t, err)
	require.True(t, u.IsAbs(), "%s", u)
	if u.Scheme != "https" {
		t.Logf("warning, as in the suite: end_session_endpoint is not https")
	}
}

// good returns the parameters of a perfect logout request.
func good(s *session) url.Values {
	return url.Values{
		"id_token_hint":            {s.now.id()},
		"post_logout_redirect_uri": {s.k.Web.PostLogoutRedirectURI},
		"state":                    {"bye"},
	}
}

// mustBeSignedOut checks that a silent request fails in the session's browser.
func mustBeSignedOut(t *testing.T, s *session) {
	t.Helper()
	v, err := s.browser.authorize(s.client, url.Values{"prompt": {"none"}})
	require.NoError(t, err)
	mustNeedUser(t, v)
}

func logout(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	v, err := s.browser.endSession(good(s))
	require.NoError(t, err)
	require.True(t, v.atApplication(), "%s", v)
	require.Equal(t, "bye", v.params.Get("state"))
	mustBeSignedOut(t, s)
	s.mustBeOver(t, "")
}

func logoutNoState(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	params := good(s)
	params.Del("state")
	v, err := s.browser.endSession(params)
	require.NoError(t, err)
	require.True(t, v.atApplication(), "%s", v)
	require.False(t, v.params.Has("state"))
	mustBeSignedOut(t, s)
}

// stays checks that a logout request with a flaw does not send the browser to
// the application, or anywhere that the request says.
func stays(t *testing.T, k *kit, spoil func(good url.Values)) (*session, *http.Response) {
	t.Helper()
	s := k.start(t, k.Web, k.user(t))
	params := good(s)
	spoil(params)
	u, err := url.Parse(k.endpoints["end_session_endpoint"])
	require.NoError(t, err)
	u.RawQuery = params.Encode()
	v, err := s.browser.get(u.String())
	require.NoError(t, err, "the browser was sent somewhere that does not exist")
	resp := v.page
	require.Less(t, resp.StatusCode, 500)
	if to, err := resp.Location(); err == nil {
		require.False(t, k.isApplication(to), "redirected to %s", to)
	}
	issuer, err := url.Parse(k.Issuer)
	require.NoError(t, err)
	require.Equal(t, issuer.Host, resp.Request.URL.Host)
	return s, resp
}

// asksOrStays checks a logout request without a hint: where the provider asks it
// does, everywhere it stays.
func asksOrStays(t *testing.T, k *kit, spoil func(good url.Values)) {
	t.Helper()
	if k.Off.ConfirmLogout {
		stays(t, k, spoil)
		return
	}
	asks(t, k, spoil)
}
