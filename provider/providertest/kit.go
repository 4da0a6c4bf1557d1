package providertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/policy"
)

// A kit is a target with what the tests share.
type kit struct {
	Target
	direct    *http.Client // an application's: no cookies, no redirects
	provider  *oidc.Provider
	metadata  map[string]any
	endpoints map[string]string // by their names in the metadata
	receiver  *logoutReceiver   // nil with Off.BackChannelLogout
	pool      *pool
}

func newKit(t *testing.T, target Target) *kit {
	t.Helper()
	require.Empty(t, target.missing(), "the Target is not complete")
	k := &kit{Target: target, pool: newPool(target.Users), endpoints: map[string]string{}}
	if k.Off.PublicClients {
		k.Public = k.Web2
	}
	if k.Transport == nil {
		k.Transport = http.DefaultTransport
	}
	k.direct = &http.Client{
		Transport:     k.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       time.Minute,
	}
	var err error
	k.provider, err = oidc.NewProvider(oidc.ClientContext(context.Background(), k.direct), k.Issuer)
	require.NoError(t, err, "discovery")
	require.NoError(t, k.provider.Claims(&k.metadata))
	for name, value := range k.metadata {
		if s, ok := value.(string); ok {
			k.endpoints[name] = s
		}
	}
	for name, off := range map[string]bool{
		"authorization_endpoint": false, "token_endpoint": false, "userinfo_endpoint": false,
		"device_authorization_endpoint": k.Off.DeviceGrant, "end_session_endpoint": k.Off.EndSession,
		"introspection_endpoint": k.Off.Introspection, "revocation_endpoint": k.Off.Revocation,
	} {
		require.True(t, off || k.endpoints[name] != "", "the metadata has no %s, and Off does not say so", name)
	}
	if !k.Off.BackChannelLogout {
		k.receiver = newLogoutReceiver(t, k.BackChannelLogout)
	}
	return k
}

// isApplication reports whether an address is one of a client's.
func (k *kit) isApplication(u *url.URL) bool {
	base := u.Scheme + "://" + u.Host + u.Path
	for _, c := range []Client{k.Web, k.Web2, k.Public, k.Device} {
		for _, uri := range []string{c.RedirectURI, c.PostLogoutRedirectURI} {
			if registered, _, _ := strings.Cut(uri, "?"); registered != "" && base == registered {
				return true
			}
		}
	}
	return false
}

// A browser is one user agent.
type browser struct {
	k    *kit
	http *http.Client
}

func (k *kit) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // cookiejar.New documents that it is always nil
	}
	return &browser{k: k, http: &http.Client{
		Transport: k.Transport, Jar: jar, Timeout: time.Minute,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if k.isApplication(req.URL) {
				return http.ErrUseLastResponse
			}
			if len(via) > 20 {
				return errors.New("more than 20 redirects")
			}
			return nil
		},
	}}
}

// A visit is where a browser stands.
type visit struct {
	kit    *kit
	params url.Values     // what the application gets; nil at a page of the provider
	page   *http.Response // the last answer, its body kept
	body   string
}

func (v visit) atApplication() bool { return v.params != nil }
func (v visit) code() string        { return v.params.Get("code") }
func (v visit) err() string         { return v.params.Get("error") }

func (v visit) String() string {
	if v.atApplication() {
		return "at the application with " + v.params.Encode()
	}
	return fmt.Sprintf("at %s with %d: %.300s", v.page.Request.URL, v.page.StatusCode, v.body)
}

// arrive reads an answer.
func (b *browser) arrive(resp *http.Response, err error) (visit, error) {
	if err != nil {
		return visit{}, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // read to the end, or failed already
	if err != nil {
		return visit{}, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	v := visit{kit: b.k, page: resp, body: string(body)}
	if to, err := resp.Location(); err == nil && b.k.isApplication(to) {
		v.params = to.Query()
		if v.params == nil {
			v.params = url.Values{}
		}
	}
	return v, nil
}

func (b *browser) get(address string) (visit, error) { return b.arrive(b.http.Get(address)) }

// proves reports whether a client uses PKCE.
func (k *kit) proves(c Client) bool { return c.Secret == "" || !k.Off.PKCE }

// verifier is the PKCE verifier of all requests: tests hide nothing.
const verifier = "providertest-verifier-of-at-least-43-characters-0"

const state = "state-of-the-request"

// authorize makes an authorization request. An empty value in extra removes a
// parameter.
func (b *browser) authorize(c Client, extra url.Values) (visit, error) {
	q := url.Values{
		"client_id": {c.ID}, "redirect_uri": {c.RedirectURI}, "response_type": {"code"}, "scope": {b.k.scope()},
		"state": {state}, "nonce": {"nonce-of-the-request"},
	}
	if b.k.proves(c) {
		q.Set("code_challenge", oauth2.S256ChallengeFromVerifier(verifier))
		q.Set("code_challenge_method", "S256")
	}
	for name, values := range extra {
		if q[name] = values; len(values) == 0 || values[0] == "" {
			q.Del(name)
		}
	}
	return b.get(b.k.endpoints["authorization_endpoint"] + "?" + q.Encode())
}

// login makes an authorization request and signs the user in if asked to.
func (b *browser) login(c Client, user string, extra url.Values) (visit, error) {
	v, err := b.authorize(c, extra)
	if err != nil || v.atApplication() {
		return v, err
	}
	return b.signIn(v, user)
}

func (b *browser) signIn(at visit, user string) (visit, error) {
	v, err := b.arrive(b.k.SignIn(b.http, at.page, user))
	if code := v.code(); code != "" {
		b.k.pool.began(code, user)
	}
	return v, err
}

// A reply is what the provider answers to an application.
type reply struct {
	status int
	header http.Header
	body   string
	json   map[string]any
	login  string // the code or device code that its tokens came of
}

func (r reply) String() string      { return fmt.Sprintf("%d: %.300s", r.status, r.body) }
func (r reply) ok() bool            { return r.status == http.StatusOK }
func (r reply) str(m string) string { s, _ := r.json[m].(string); return s }
func (r reply) access() string      { return r.str("access_token") }
func (r reply) refresh() string     { return r.str("refresh_token") }
func (r reply) id() string          { return r.str("id_token") }
func (r reply) err() string         { return r.str("error") }

func (r reply) reason() policy.Reason { return reasonOf(r.str("error_description")) }

// do sends a request of an application. A failure of the transport, such as a
// server that panics, is a reply with status 0.
func (k *kit) do(req *http.Request, err error) reply {
	if err != nil {
		return reply{body: err.Error()}
	}
	resp, err := k.direct.Do(req)
	if err != nil {
		return reply{body: err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{body: err.Error()}
	}
	r := reply{status: resp.StatusCode, header: resp.Header, body: string(body)}
	_ = json.Unmarshal(body, &r.json) // json stays nil if it is none
	return r
}

// post posts a form to an endpoint, as the client.
func (k *kit) post(endpoint string, c Client, form url.Values) reply {
	body := url.Values{}
	for name, values := range form {
		body[name] = values
	}
	method := c.AuthMethod
	if method == "" && c.Secret != "" {
		method = "client_secret_basic"
	}
	switch method {
	case "client_secret_basic":
	case "client_secret_post":
		body.Set("client_secret", c.Secret)
		body.Set("client_id", c.ID)
	default:
		body.Set("client_id", c.ID)
	}
	req, err := http.NewRequest(http.MethodPost, k.endpoints[endpoint], strings.NewReader(body.Encode()))
	if err == nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if method == "client_secret_basic" {
			req.SetBasicAuth(url.QueryEscape(c.ID), url.QueryEscape(c.Secret))
		}
	}
	return k.do(req, err)
}

func (k *kit) token(c Client, form url.Values) reply { return k.post("token_endpoint", c, form) }

func (k *kit) redeem(c Client, code string) reply {
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {c.RedirectURI}}
	if k.proves(c) {
		form.Set("code_verifier", verifier)
	}
	r := k.token(c, form)
	r.login = code
	return r
}

func (k *kit) refresh(c Client, token string) reply {
	return k.token(c, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// approvedDevice starts a device grant and approves it.
func (k *kit) approvedDevice(user string) (deviceCode string, err error) {
	start := k.post("device_authorization_endpoint", k.Device, url.Values{"scope": {k.scope()}})
	if !start.ok() {
		return "", fmt.Errorf("device authorization: %s", start)
	}
	b := k.browser()
	v, err := b.get(start.str("verification_uri_complete"))
	if err != nil {
		return "", err
	}
	k.pool.began(start.str("device_code"), user)
	return start.str("device_code"), k.ApproveDevice(b.http, v.page, user)
}

// poll asks for the tokens of a device that was approved.
func (k *kit) poll(deviceCode string) reply {
	var r reply
	for range 20 {
		r = k.token(k.Device, url.Values{"grant_type": {deviceGrant}, "device_code": {deviceCode}})
		r.login = deviceCode
		if r.err() != "authorization_pending" && r.err() != "slow_down" {
			return r
		}
		time.Sleep(time.Second) // a provider may take a moment to see the approval, and must be polled slowly
	}
	return r
}

func (k *kit) introspect(c Client, token string) reply {
	return k.post("introspection_endpoint", c, url.Values{"token": {token}})
}

func (k *kit) userinfo(token string) reply {
	req, err := http.NewRequest(http.MethodGet, k.endpoints["userinfo_endpoint"], nil)
	if err == nil {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return k.do(req, err)
}

func (k *kit) revoke(c Client, token string) reply {
	return k.post("revocation_endpoint", c, url.Values{"token": {token}, "token_type_hint": {"refresh_token"}})
}

func (b *browser) endSession(params url.Values) (visit, error) {
	v, err := b.get(b.k.endpoints["end_session_endpoint"] + "?" + params.Encode())
	if err != nil {
		return v, err
	}
	return v.goOn(), nil
}

// claims verifies an ID token and returns what it says. Expiry is for the
// tests to judge.
func (k *kit) claims(t *testing.T, c Client, idToken string) map[string]any {
	t.Helper()
	verifier := k.provider.Verifier(&oidc.Config{ClientID: c.ID, SkipExpiryCheck: true})
	parsed, err := verifier.Verify(oidc.ClientContext(context.Background(), k.direct), idToken)
	require.NoError(t, err, "ID token %q", idToken)
	claims := map[string]any{}
	require.NoError(t, parsed.Claims(&claims))
	return claims
}

// number returns a claim that is a number of seconds, of a time or a duration.
func number(t *testing.T, claims map[string]any, name string) float64 {
	t.Helper()
	n, ok := claims[name].(float64)
	require.True(t, ok, "%q is %v, want a number; all: %v", name, claims[name], claims)
	return n
}

// A session is one login with its newest tokens.
type session struct {
	k       *kit
	client  Client
	user    string
	browser *browser
	first   reply // the first token response
	now     reply // the newest

	// The sign-in lies between before and after; sent and got enclose the
	// newest successful refresh or first token.
	before, after, sent, got time.Time
}

// redeemed makes a session of a first token response, and ends it with the
// test.
func (k *kit) redeemed(t *testing.T, c Client, user string, b *browser, r reply, before time.Time) *session {
	t.Helper()
	require.True(t, r.ok(), "first tokens: %s", r)
	require.NotEmpty(t, r.access(), "no access token: %s", r)
	if k.Off.RefreshTokens {
		require.Empty(t, r.refresh(), "Off.RefreshTokens is set: %s", r)
	} else {
		require.NotEmpty(t, r.refresh(), "no refresh token: %s", r)
	}
	require.NotEmpty(t, r.id(), "no ID token: %s", r)
	s := k.session(c, user, b, r, before)
	t.Cleanup(s.signOut)
	return s
}

// session is that of a first token response.
func (k *kit) session(c Client, user string, b *browser, r reply, before time.Time) *session {
	now := time.Now()
	k.pool.redeemed(r.login)
	return &session{k: k, client: c, user: user, browser: b, first: r, now: r, before: before, after: now, sent: before, got: now}
}

// start signs the user in with a new browser.
func (k *kit) start(t *testing.T, c Client, user string) *session {
	t.Helper()
	return k.startIn(t, k.browser(), c, user, nil)
}

func (k *kit) startIn(t *testing.T, b *browser, c Client, user string, extra url.Values) *session {
	t.Helper()
	before := time.Now()
	v, err := b.login(c, user, extra)
	require.NoError(t, err)
	require.NotEmpty(t, v.code(), "signing in to %s: %s", c.ID, v)
	require.Equal(t, state, v.params.Get("state"))
	return k.redeemed(t, c, user, b, k.redeem(c, v.code()), before)
}

func (k *kit) startDevice(t *testing.T, user string) *session {
	t.Helper()
	before := time.Now()
	code, err := k.approvedDevice(user)
	require.NoError(t, err)
	return k.redeemed(t, k.Device, user, k.browser(), k.poll(code), before)
}

// refresh uses the newest refresh token, and keeps the answer if it is one.
func (s *session) refresh() reply {
	sent := time.Now()
	r := s.k.refresh(s.client, s.now.refresh())
	if r.ok() {
		r.login = s.now.login
		s.now, s.sent, s.got = r, sent, time.Now()
	}
	return r
}

// renew gets new tokens, where the provider has a way to.
func (s *session) renew(t *testing.T) {
	t.Helper()
	if !s.k.Off.RefreshTokens {
		s.mustRefresh(t)
	}
}

func (s *session) mustRefresh(t *testing.T) {
	t.Helper()
	r := s.refresh()
	require.True(t, r.ok(), "refresh: %s", r)
	require.NotEmpty(t, r.refresh(), "no refresh token: %s", r)
}

func (s *session) claims(t *testing.T) map[string]any {
	t.Helper()
	return s.k.claims(t, s.client, s.now.id())
}

// sid returns the session's public ID, which every ID token has.
func (s *session) sid(t *testing.T) string {
	t.Helper()
	sid, _ := s.claims(t)["sid"].(string)
	require.NotEmpty(t, sid, "the ID token has no sid: %v", s.claims(t))
	return sid
}

// introspects reports whether the session's client may introspect.
func (s *session) introspects() bool { return !s.k.Off.Introspection && s.client.Secret != "" }

// mustLive checks that the session's newest tokens work, and refreshes.
func (s *session) mustLive(t *testing.T) {
	t.Helper()
	for range 5 {
		s.renew(t)
		info := s.k.userinfo(s.now.access())
		active := reply{status: http.StatusOK, json: map[string]any{"active": true}}
		if s.introspects() {
			active = s.k.introspect(s.client, s.now.access())
		}
		// Limits make access tokens short: on a busy machine one may be
		// over before it was used.
		if lives, ok := s.now.json["expires_in"].(float64); ok && time.Since(s.sent) > time.Duration(lives)*time.Second {
			continue
		}
		require.True(t, info.ok(), "userinfo: %s", info)
		require.Equal(t, true, active.json["active"], "introspection: %s", active)
		return
	}
	if s.k.Off.RefreshTokens {
		t.Logf("the access token is over: the session cannot be seen any more")
		return
	}
	require.Fail(t, "access tokens are over before they can be used")
}

// mustBeOver checks that the session's tokens are refused, with the reason. An
// empty reason takes any.
func (s *session) mustBeOver(t *testing.T, reason policy.Reason) {
	t.Helper()
	s.mustHaveDeadAccess(t)
	if !s.k.Off.RefreshTokens {
		mustRefuse(t, s.k.refresh(s.client, s.now.refresh()), reason)
	}
}

func (s *session) mustHaveDeadAccess(t *testing.T) {
	t.Helper()
	if s.introspects() {
		r := s.k.introspect(s.client, s.now.access())
		require.Equal(t, http.StatusOK, r.status, "%s", r)
		require.Equal(t, map[string]any{"active": false}, r.json, "RFC 7662 section 2.2: nothing but active")
	}
	r := s.k.userinfo(s.now.access())
	require.Equal(t, http.StatusUnauthorized, r.status, "userinfo: %s", r)
	// RFC 6750 section 3 demands the header of every refusal. op leaves it out where
	// it finds by itself that a token is over, such as a JWT behind its exp: then the
	// session was not asked.
	if challenge := r.header.Get("WWW-Authenticate"); challenge == "" {
		t.Logf("warning: userinfo refuses without WWW-Authenticate (RFC 6750 section 3)")
	} else {
		require.Contains(t, challenge, "invalid_token", "RFC 6750 section 3.1")
	}
}

// mustRefuse checks the refusal of a refresh token.
func mustRefuse(t *testing.T, r reply, reason policy.Reason) {
	t.Helper()
	require.Equal(t, http.StatusBadRequest, r.status, "%s", r)
	require.Equal(t, "invalid_grant", r.err(), "%s", r)
	mustBeWellFormed(t, r)
	if reason != "" {
		require.Equal(t, reason, r.reason(), "%s", r)
	}
}

// mustBeWellFormed checks an error response: RFC 6749 section 5.2.
func mustBeWellFormed(t *testing.T, r reply) {
	t.Helper()
	for _, c := range r.str("error_description") {
		require.True(t, c >= 0x20 && c <= 0x7e && c != '"' && c != '\\', "error_description has %q: %s", c, r)
	}
}
