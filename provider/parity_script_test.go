package provider_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/internal/optest"
)

const (
	parityVerifier = "parity-parity-parity-parity-parity-parity-parity"

	tokenPath      = "/oauth/token"
	introspectPath = "/oauth/introspect"
	assertionType  = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// script does to a world everything that we could think of, most of which
// fails. Each step has its own name.
func script(w *world) {
	w.readKeys()
	w.metadata()
	w.authorizations()
	w.callbacks()
	w.implicit()
	w.jwts()
	w.codes()
	w.tokenEndpoint()
	w.refreshes()
	w.introspections()
	w.userinfos()
	w.revocations()
	w.endSessions()
	w.exchanges()
	w.clientCredentials()
	w.jwtProfiles()
	w.deviceGrants()
	w.expired()
}

func (w *world) readKeys() {
	r := w.get("keys", "/keys", nil)
	require.NoError(w.t, json.Unmarshal([]byte(r.body), &w.keys), "%s", r.body)
	require.NotEmpty(w.t, w.keys.Keys)
	w.keys.Keys = append(w.keys.Keys, jose.JSONWebKey{Key: serviceKey().Public(), KeyID: "key1"})
}

func (w *world) metadata() {
	for _, path := range []string{"/.well-known/openid-configuration", "/healthz", "/ready", "/nothing-here"} {
		w.get("get "+path, path, nil)
	}
	w.post("post discovery", "/.well-known/openid-configuration", "", nil)
	for _, path := range []string{tokenPath, "/userinfo", "/.well-known/openid-configuration"} {
		req := w.request(http.MethodOptions, path, "")
		req.Header.Set("Origin", "https://spa.example.org")
		req.Header.Set("Access-Control-Request-Method", "POST")
		req.Header.Set("Access-Control-Request-Headers", "authorization")
		w.do("preflight "+path, req)
	}
}

// authorization is a good authorization request.
func (w *world) authorization(client string) url.Values {
	return form("client_id", client, "redirect_uri", optest.RedirectURI, "response_type", "code",
		"scope", "openid profile email offline_access", "state", "state-1", "nonce", "nonce-1",
		"code_challenge", oauth2.S256ChallengeFromVerifier(parityVerifier), "code_challenge_method", "S256")
}

func (w *world) authorizations() {
	good := w.authorization("web")
	hint := w.login("for a hint", "web", "user").str("id_token")
	for _, c := range []struct {
		name  string
		pairs []string
	}{
		{"good", nil},
		{"no client", []string{"client_id", ""}},
		{"unknown client", []string{"client_id", "nobody"}},
		{"no redirect_uri", []string{"redirect_uri", ""}},
		{"foreign redirect_uri", []string{"redirect_uri", "https://evil.example.org/cb"}},
		{"redirect_uri of another port", []string{"redirect_uri", "http://127.0.0.1:1/cb"}},
		{"redirect_uri of another port, native", []string{"client_id", "native", "redirect_uri", "http://127.0.0.1:1/cb"}},
		{"custom scheme", []string{"redirect_uri", "app:/cb"}},
		{"no scope", []string{"scope", ""}},
		{"unknown scope", []string{"scope", "openid unheard_of"}},
		{"only unknown scopes", []string{"scope", "unheard_of"}},
		{"the hook's own scope", []string{"scope", "openid curfew:session"}},
		{"no response type", []string{"response_type", ""}},
		{"response type none", []string{"response_type", "none"}},
		{"response type token", []string{"response_type", "token"}},
		{"unknown response type", []string{"response_type", "surprise"}},
		{"response types the other way round", []string{"response_type", "token id_token"}},
		{"hybrid code id_token", []string{"response_type", "code id_token"}},
		{"hybrid code token", []string{"response_type", "code token"}},
		{"hybrid code id_token token", []string{"response_type", "code id_token token"}},
		{"native hybrid", []string{"client_id", "native", "response_type", "code id_token"}},
		{"native implicit", []string{"client_id", "native", "response_type", "id_token"}},
		{"response mode query", []string{"response_mode", "query"}},
		{"response mode fragment", []string{"response_mode", "fragment"}},
		{"response mode form_post", []string{"response_mode", "form_post"}},
		{"unknown response mode", []string{"response_mode", "jwt"}},
		{"error in a fragment", []string{"response_mode", "fragment", "prompt", "none login"}},
		{"error to be posted", []string{"response_mode", "form_post", "prompt", "none login"}},
		{"prompt none", []string{"prompt", "none"}},
		{"prompt none and login", []string{"prompt", "none login"}},
		{"prompt login", []string{"prompt", "login"}},
		{"prompt consent", []string{"prompt", "consent"}},
		{"unknown prompt", []string{"prompt", "surprise"}},
		{"max_age 0", []string{"max_age", "0"}},
		{"max_age not a number", []string{"max_age", "soon"}},
		{"max_age negative", []string{"max_age", "-1"}},
		{"challenge method plain", []string{"code_challenge_method", "plain"}},
		{"unknown challenge method", []string{"code_challenge_method", "S1"}},
		{"method without challenge", []string{"code_challenge", ""}},
		{"display and locales", []string{"display", "popup", "ui_locales", "de en", "acr_values", "1"}},
		{"hint", []string{"id_token_hint", hint}},
		{"hint and max_age", []string{"id_token_hint", hint, "max_age", "3600"}},
		{"hint and prompt none", []string{"id_token_hint", hint, "prompt", "none"}},
		{"broken hint", []string{"id_token_hint", hint[:len(hint)-4] + "AAAA"}},
		{"hint that is no token", []string{"id_token_hint", "hint"}},
		{"request object that is no token", []string{"request", "object"}},
		{"request_uri", []string{"request_uri", "https://client.example.org/object"}},
	} {
		w.get("authorize: "+c.name, w.authorizePath, with(good, c.pairs...))
	}
	w.post("authorize: by POST", w.authorizePath, "", good)
	w.do("authorize: broken form", w.request(http.MethodPost, w.authorizePath, "client_id=%zz"))
	w.get("authorize: nothing", w.authorizePath, nil)

	service := w.authorization("service")
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(w.t, err)
	object := map[string]any{"client_id": "service", "response_type": "code", "state": "state of the object"}
	for _, c := range []struct{ name, request string }{
		{"request object", w.signed(serviceKey(), object)},
		{"request object, foreign key", w.signed(other, object)},
		{"request object for another", w.signed(serviceKey(), map[string]any{"client_id": "web"})},
		{"request object without aud", w.signed(serviceKey(), map[string]any{"client_id": "service", "aud": nil})},
	} {
		w.get("authorize: "+c.name, w.authorizePath, with(service, "request", c.request))
	}
}

// start makes an authorization request and signs the user in, up to the
// provider's callback, whose address it returns.
func (w *world) start(step, client, user string, pairs ...string) (callback string) {
	w.t.Helper()
	r := w.get(step+": authorize", w.authorizePath, with(w.authorization(client), pairs...))
	w.cookies = (&http.Response{Header: r.header}).Cookies()
	id := r.params.Get("authRequestID")
	require.NotEmpty(w.t, id, "%s: %d %s %s", step, r.status, r.header, r.body)
	r = w.post(step+": sign in", w.loginPath, "", form("id", id, "username", w.users[user].name, "password", w.users[user].password))
	u, err := url.Parse(r.header.Get("Location"))
	require.NoError(w.t, err)
	require.NotEmpty(w.t, u.Path, "%s: %d %s", step, r.status, r.body)
	return u.RequestURI()
}

// front is start and the callback.
func (w *world) front(step, client, user string, pairs ...string) url.Values {
	w.t.Helper()
	req := w.request(http.MethodGet, w.start(step, client, user, pairs...), "")
	for _, cookie := range w.cookies {
		req.AddCookie(cookie)
	}
	return w.do(step+": callback", req).params
}

func redeem(code string) url.Values {
	return form("grant_type", "authorization_code", "code", code, "redirect_uri", optest.RedirectURI, "code_verifier", parityVerifier)
}

// as is the authentication of a client.
func as(client string) string {
	switch client {
	case "native", "spa", "":
		return client
	}
	return client + ":" + client + "-secret"
}

// login is a whole code flow.
func (w *world) login(step, client, user string, pairs ...string) reply {
	w.t.Helper()
	code := w.front(step, client, user, pairs...).Get("code")
	require.NotEmpty(w.t, code, "%s", step)
	r := w.post(step+": redeem", tokenPath, as(client), redeem(code))
	require.Equal(w.t, 200, r.status, "%s: %s", step, r.body)
	return r
}

// tokens is login until none of the refresh tokens is misread by op. op tries
// to decrypt what may be an access token by AES-CFB, without authentication: one UUID in
// twenty or so decrypts to something with one ':' and is taken for an access
// token. That is how op is; but whether it happens is chance.
func (w *world) tokens(step, client, user string, pairs ...string) reply {
	w.t.Helper()
	r := w.login(step, client, user, pairs...)
	for w.misread(r.str("refresh_token")) {
		seen := w.seen
		r = w.login(step, client, user, pairs...)
		w.seen = seen
	}
	return r
}

func (w *world) callbacks() {
	path := w.authorizePath + "/callback"
	w.get("callback: no id", path, nil)
	w.get("callback: unknown id", path, form("id", "unknown"))
	r := w.get("callback not done: authorize", w.authorizePath, w.authorization("web"))
	w.get("callback: not done", path, form("id", r.params.Get("authRequestID")))
	w.post("callback: wrong password", w.loginPath, "",
		form("id", r.params.Get("authRequestID"), "username", w.users["user"].name, "password", "guess"))
	w.get("callback: still not done", path, form("id", r.params.Get("authRequestID")))

	callback := w.start("callback", "web", "user")
	first := w.do("callback: done", w.request(http.MethodGet, callback, "")).params.Get("code")
	second := w.do("callback: done again", w.request(http.MethodGet, callback, "")).params.Get("code")
	w.do("callback: by POST", w.request(http.MethodPost, callback, ""))
	w.post("callback: redeem the second code", tokenPath, as("web"), redeem(second))
	w.post("callback: redeem the first code", tokenPath, as("web"), redeem(first))
	w.do("callback: after redeeming", w.request(http.MethodGet, callback, ""))

	for _, mode := range []string{"query", "fragment", "form_post", "jwt"} {
		code := w.front("mode "+mode, "web", "user", "response_mode", mode).Get("code")
		w.post("mode "+mode+": redeem", tokenPath, as("web"), redeem(code))
	}
	w.front("no state, no nonce", "web", "user", "state", "", "nonce", "")
	w.login("no openid", "web", "user", "scope", "profile offline_access")
	w.login("no offline_access", "web", "user", "scope", "openid email")
	w.login("openid alone", "web", "user", "scope", "openid")
	w.login("all scopes", "web", "user", "scope", "openid profile email phone address offline_access custom_scope")
	w.login("max_age", "web", "user", "max_age", "3600")
	w.login("public client", "native", "user")

	for _, responseType := range []string{"code id_token", "code token", "code id_token token"} {
		step := "hybrid " + responseType
		r := w.get(step+": authorize", w.authorizePath, with(w.authorization("implicit"), "response_type", responseType))
		id := r.params.Get("authRequestID")
		if id == "" {
			continue // the example's clients may not
		}
		w.post(step+": sign in", w.loginPath, "", form("id", id, "username", w.users["user"].name, "password", w.users["user"].password))
		params := w.get(step+": callback", path, form("id", id)).params
		w.userinfo(step+": userinfo", params.Get("access_token"))
		w.post(step+": redeem", tokenPath, as("implicit"), redeem(params.Get("code")))
	}
}

// jwts is a client with JWT access tokens, where the world has one.
func (w *world) jwts() {
	r := w.login("jwt", "web2", "user", "scope", "openid profile email offline_access custom_scope")
	w.userinfo("jwt: userinfo", r.str("access_token"))
	w.post("jwt: introspect", introspectPath, as("web2"), form("token", r.str("access_token")))
	w.post("jwt: introspect by another", introspectPath, as("web"), form("token", r.str("access_token")))
	w.post("jwt: revoke by another", "/revoke", as("web"), form("token", r.str("access_token")))
	w.post("jwt: exchange", tokenPath, as("exchange"), exchanging(r.str("access_token"), accessType))
	again := w.post("jwt: refresh", tokenPath, as("web2"), refreshing(r.str("refresh_token")))
	w.userinfo("jwt: userinfo with the first", r.str("access_token"))
	w.userinfo("jwt: userinfo with the second", again.str("access_token"))
	w.post("jwt: revoke", "/revoke", as("web2"), form("token", again.str("access_token"), "token_type_hint", "access_token"))
	w.userinfo("jwt: userinfo after it", again.str("access_token"))
	w.post("jwt: refresh after it", tokenPath, as("web2"), refreshing(again.str("refresh_token")))
}

func (w *world) implicit() {
	for _, responseType := range []string{"id_token", "id_token token"} {
		for _, mode := range []string{"", "query", "fragment", "form_post"} {
			step := fmt.Sprintf("implicit %s by %q", responseType, mode)
			params := w.front(step, "implicit", "user", "response_type", responseType, "response_mode", mode)
			require.NotEmpty(w.t, params.Get("id_token"), step)
			if token := params.Get("access_token"); token != "" {
				w.userinfo(step+": userinfo", token)
				w.post(step+": introspect", introspectPath, as("implicit"), form("token", token))
			}
		}
	}
	callback := w.start("implicit again", "implicit", "user", "response_type", "id_token")
	w.do("implicit again: callback", w.request(http.MethodGet, callback, ""))
	w.do("implicit again: callback twice", w.request(http.MethodGet, callback, ""))
}

func (w *world) codes() {
	code := w.front("code", "web", "user").Get("code")
	good := redeem(code)
	try := func(name, auth string, params url.Values) { w.post("code: "+name, tokenPath, auth, params) }
	try("missing", as("web"), with(good, "code", ""))
	try("unknown", as("web"), with(good, "code", "unknown"))
	try("no redirect_uri", as("web"), with(good, "redirect_uri", ""))
	try("wrong redirect_uri", as("web"), with(good, "redirect_uri", optest.RedirectURI+"/"))
	try("wrong verifier", as("web"), with(good, "code_verifier", parityVerifier+"x"))
	try("no client", "", good)
	try("unknown client", "nobody:secret", good)
	try("wrong secret", "web:guess", good)
	try("empty secret", "web:", good)
	try("client ID without secret", "web", good)
	try("secret in the body", "", with(good, "client_id", "web", "client_secret", "web-secret", "code", "unknown"))
	try("secret in header and body", as("web"), with(good, "client_id", "web", "client_secret", "web-secret"))
	try("another client", as("web2"), good)
	try("a public client", "native", good)
	try("a client without the grant", as("device"), good)
	try("broken assertion", "", with(good, "client_assertion", "x", "client_assertion_type", assertionType))
	try("assertion of another client", "", with(good, "client_assertion", w.signed(serviceKey(), nil), "client_assertion_type", assertionType))
	req := w.request(http.MethodPost, tokenPath, good.Encode())
	req.Header.Set("Authorization", "Basic !!!")
	w.do("code: broken header", req)
	w.get("code: by GET", tokenPath, with(good, "client_id", "web"))
	try("no verifier", as("web"), with(good, "code_verifier", ""))
	try("good", as("web"), good) // op.Server took the code without its verifier
	try("again", as("web"), good)

	code = w.front("code without challenge", "web", "user", "code_challenge", "", "code_challenge_method", "").Get("code")
	try("verifier without challenge", as("web"), redeem(code))
	try("without challenge", as("web"), with(redeem(code), "code_verifier", ""))
	code = w.front("public code without challenge", "native", "user", "code_challenge", "", "code_challenge_method", "").Get("code")
	try("public without challenge", as("native"), with(redeem(code), "code_verifier", ""))
	code = w.front("public code", "native", "user").Get("code")
	try("public, no verifier", as("native"), with(redeem(code), "code_verifier", ""))
	try("public, wrong verifier", as("native"), with(redeem(code), "code_verifier", "guess"))
	try("public, with a secret", "native:guess", redeem(code))
}

func (w *world) tokenEndpoint() {
	w.post("token: no grant type", tokenPath, as("web"), nil)
	w.post("token: unknown grant type", tokenPath, as("web"), form("grant_type", "surprise"))
	w.post("token: password", tokenPath, as("web"), form("grant_type", "password", "username", "user", "password", "guess"))
	w.post("token: implicit", tokenPath, as("web"), form("grant_type", "implicit"))
	w.get("token: by GET", tokenPath, nil)
	w.do("token: PUT", w.request(http.MethodPut, tokenPath, "grant_type=refresh_token"))
	w.do("token: broken form", w.request(http.MethodPost, tokenPath, "grant_type=%zz"))
	req := w.request(http.MethodPost, tokenPath, `{"grant_type":"refresh_token"}`)
	req.Header.Set("Content-Type", "application/json")
	w.do("token: JSON", req)
}

func refreshing(token string) url.Values {
	return form("grant_type", "refresh_token", "refresh_token", token)
}

func (w *world) refreshes() {
	first := w.login("refresh", "web", "user")
	good := refreshing(first.str("refresh_token"))
	try := func(name, auth string, params url.Values) reply {
		return w.post("refresh: "+name, tokenPath, auth, params)
	}
	try("missing", as("web"), with(good, "refresh_token", ""))
	try("unknown", as("web"), with(good, "refresh_token", "unknown"))
	try("an access token", as("web"), with(good, "refresh_token", first.str("access_token")))
	try("an ID token", as("web"), with(good, "refresh_token", first.str("id_token")))
	try("no client", "", good)
	try("unknown client", "nobody:secret", good)
	try("wrong secret", "web:guess", good)
	try("without secret", "web", good)
	try("another client", as("web2"), good)
	try("a public client", as("native"), good)
	try("a client without the grant", as("service"), good)
	try("assertion of another client", "", with(good, "client_assertion", w.signed(serviceKey(), nil), "client_assertion_type", assertionType))
	try("more scopes", as("web"), with(good, "scope", "openid phone"))
	try("unknown scope", as("web"), with(good, "scope", "surprise"))
	second := try("good", as("web"), good)
	third := try("fewer scopes", as("web"), with(refreshing(second.str("refresh_token")), "scope", "openid"))
	w.userinfo("refresh: userinfo with fewer scopes", third.str("access_token"))
	w.userinfo("refresh: userinfo with the first access token", first.str("access_token"))
	try("another's session goes on", as("web"), refreshing(third.str("refresh_token")))
	try("the first again", as("web"), good)

	public := w.login("refresh public", "native", "user")
	again := try("public", as("native"), refreshing(public.str("refresh_token")))
	try("public, second", as("native"), refreshing(again.str("refresh_token")))
}

func (w *world) userinfo(step, token string) reply {
	w.t.Helper()
	req := w.request(http.MethodGet, "/userinfo", "")
	req.Header.Set("Authorization", "Bearer "+token)
	return w.do(step, req)
}

func (w *world) introspections() {
	r := w.tokens("introspect", "web", "user", "scope", "openid profile email offline_access custom_scope")
	try := func(name, auth, token string) {
		w.post("introspect: "+name, introspectPath, auth, form("token", token))
	}
	try("good", as("web"), r.str("access_token"))
	try("no token", as("web"), "")
	try("unknown", as("web"), "unknown")
	try("a refresh token", as("web"), r.str("refresh_token"))
	try("an ID token", as("web"), r.str("id_token"))
	try("no client", "", r.str("access_token"))
	try("unknown client", "nobody:secret", r.str("access_token"))
	try("wrong secret", "web:guess", r.str("access_token"))
	try("without secret", "web", r.str("access_token"))
	try("another client", as("web2"), r.str("access_token"))
	try("a public client", as("native"), r.str("access_token"))
	w.post("introspect: by assertion", introspectPath, "", form("token", r.str("access_token"),
		"client_assertion", w.signed(serviceKey(), nil), "client_assertion_type", assertionType))
	w.post("introspect: by broken assertion", introspectPath, "", form("token", r.str("access_token"),
		"client_assertion", "x", "client_assertion_type", assertionType))
	w.get("introspect: by GET", introspectPath, form("token", r.str("access_token")))
}

func (w *world) userinfos() {
	r := w.tokens("userinfo", "web", "user")
	w.userinfo("userinfo: good", r.str("access_token"))
	w.userinfo("userinfo: unknown", "unknown")
	w.userinfo("userinfo: nothing", "")
	w.userinfo("userinfo: a refresh token", r.str("refresh_token"))
	w.userinfo("userinfo: an ID token", r.str("id_token"))
	w.get("userinfo: no header", "/userinfo", nil)
	w.post("userinfo: in the body", "/userinfo", "", form("access_token", r.str("access_token")))
	req := w.request(http.MethodGet, "/userinfo", "")
	req.SetBasicAuth("web", "web-secret")
	w.do("userinfo: Basic", req)
	req = w.request(http.MethodGet, "/userinfo", "")
	req.Header.Set("Authorization", "bearer "+r.str("access_token"))
	req.Header.Set("Origin", "https://spa.example.org")
	w.do("userinfo: from a page", req)
}

func (w *world) revocations() {
	n := 0
	try := func(name, auth, token, hint string) {
		n++
		params := form("token", token)
		if hint != "" {
			params.Set("token_type_hint", hint)
		}
		w.post(fmt.Sprintf("revoke %d: %s, hint %q", n, name, hint), "/revoke", auth, params)
	}
	hints := []string{"", "access_token", "refresh_token", "surprise"}
	kept := w.tokens("revoke", "web", "user")
	for _, hint := range hints {
		try("unknown", as("web"), "unknown", hint)
		try("no token", as("web"), "", hint)
		try("foreign access token", as("web2"), kept.str("access_token"), hint)
		try("foreign refresh token", as("web2"), kept.str("refresh_token"), hint)
		try("foreign, public client", as("native"), kept.str("refresh_token"), hint)
		try("foreign ID token", as("web2"), kept.str("id_token"), hint)
		try("no client", "", kept.str("access_token"), hint)
		try("unknown client", "nobody:secret", kept.str("access_token"), hint)
		try("wrong secret", "web:guess", kept.str("access_token"), hint)
		try("without secret", "web", kept.str("access_token"), hint)
	}
	w.post("revoke: by assertion of another client", "/revoke", "", form("token", kept.str("refresh_token"),
		"client_assertion", w.signed(serviceKey(), nil), "client_assertion_type", assertionType))
	w.get("revoke: by GET", "/revoke", form("token", kept.str("access_token")))
	w.userinfo("revoke: nothing happened to the access token", kept.str("access_token"))
	w.post("revoke: nothing happened to the refresh token", tokenPath, as("web"), refreshing(kept.str("refresh_token")))

	for _, client := range []string{"web", "native"} {
		for _, hint := range hints {
			step := fmt.Sprintf("revoke %s %q", client, hint)
			r := w.tokens(step, client, "user")
			try("access token of "+client, as(client), r.str("access_token"), hint)
			w.userinfo(step+": userinfo after the access token", r.str("access_token"))
			w.post(step+": introspect after the access token", introspectPath, as(client), form("token", r.str("access_token")))
			try("access token of "+client+" again", as(client), r.str("access_token"), hint)
			r = w.post(step+": refresh after the access token", tokenPath, as(client), refreshing(r.str("refresh_token")))
			for w.misread(r.str("refresh_token")) { // see tokens
				seen := w.seen
				r = w.post("", tokenPath, as(client), refreshing(r.str("refresh_token")))
				w.seen = seen
			}
			try("refresh token of "+client, as(client), r.str("refresh_token"), hint)
			w.userinfo(step+": userinfo after the refresh token", r.str("access_token"))
			w.post(step+": introspect after the refresh token", introspectPath, as(client), form("token", r.str("access_token")))
			try("refresh token of "+client+" again", as(client), r.str("refresh_token"), hint)
			w.post(step+": refresh after the refresh token", tokenPath, as(client), refreshing(r.str("refresh_token")))
		}
	}
}

func (w *world) endSessions() {
	r := w.login("end", "web", "user")
	hint := r.str("id_token")
	try := func(name string, pairs ...string) { w.get("end_session: "+name, "/end_session", form(pairs...)) }
	try("nothing")
	try("state alone", "state", "s-1")
	try("unknown client", "client_id", "nobody")
	try("client alone", "client_id", "web")
	try("foreign redirect", "client_id", "web", "post_logout_redirect_uri", "https://evil.example.org/")
	try("redirect without client", "post_logout_redirect_uri", optest.PostLogoutURI)
	try("broken hint", "id_token_hint", hint[:len(hint)-4]+"AAAA")
	try("hint that is no token", "id_token_hint", "hint")
	try("hint of another client", "id_token_hint", hint, "client_id", "web2")
	try("hint and foreign redirect", "id_token_hint", hint, "post_logout_redirect_uri", "https://evil.example.org/")
	try("an access token for a hint", "id_token_hint", r.str("access_token"))
	r = w.post("end_session: goes on", tokenPath, as("web"), refreshing(r.str("refresh_token")))
	neighbour := w.login("end neighbour", "web", "user")
	stranger := w.login("end another client", "native", "user")
	try("hint", "id_token_hint", hint)
	try("hint again", "id_token_hint", hint)
	w.userinfo("end_session: userinfo after it", r.str("access_token"))
	w.post("end_session: introspect after it", introspectPath, as("web"), form("token", r.str("access_token")))
	w.post("end_session: refresh after it", tokenPath, as("web"), refreshing(r.str("refresh_token")))
	w.userinfo("end_session: neighbour", neighbour.str("access_token"))
	w.post("end_session: neighbour refreshes", tokenPath, as("web"), refreshing(neighbour.str("refresh_token")))
	w.post("end_session: another client refreshes", tokenPath, as("native"), refreshing(stranger.str("refresh_token")))

	for _, c := range []struct {
		name string
		more []string
	}{
		{"with a redirect", []string{"post_logout_redirect_uri", optest.PostLogoutURI}},
		{"with state", []string{"post_logout_redirect_uri", optest.PostLogoutURI, "state", "s-2"}},
		{"with the client", []string{"client_id", "web", "logout_hint", "user", "ui_locales", "de"}},
		{"by the next hint", nil},
	} {
		step := "end_session " + c.name
		r := w.login(step, "web", "user")
		if c.more == nil {
			r = w.post(step+": refresh", tokenPath, as("web"), refreshing(r.str("refresh_token")))
		}
		w.get(step+": end", "/end_session", form(append(c.more, "id_token_hint", r.str("id_token"))...))
		w.userinfo(step+": userinfo", r.str("access_token"))
		w.post(step+": refresh after", tokenPath, as("web"), refreshing(r.str("refresh_token")))
	}
	r = w.login("end by POST", "web", "user")
	w.post("end by POST: end", "/end_session", "", form("id_token_hint", r.str("id_token")))
	w.userinfo("end by POST: userinfo", r.str("access_token"))
	w.do("end_session: broken form", w.request(http.MethodPost, "/end_session", "state=%zz"))
}

const (
	accessType  = optest.AccessTokenType
	refreshType = optest.RefreshTokenType
	idType      = optest.IDTokenType
	jwtType     = optest.JWTTokenType
)

func exchanging(token, tokenType string, pairs ...string) url.Values {
	return with(form("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token", token,
		"subject_token_type", tokenType, "scope", "openid profile", "audience", "exchange"), pairs...)
}

func (w *world) exchanges() {
	admin := w.tokens("exchange", "exchange", "admin")
	user := w.tokens("exchange by user", "exchange", "user")
	n := 0
	try := func(name, auth string, params url.Values) reply {
		n++
		return w.post(fmt.Sprintf("exchange %d: %s", n, name), tokenPath, auth, params)
	}
	subjects := []struct{ name, token, tokenType string }{
		{"access", admin.str("access_token"), accessType},
		{"refresh", admin.str("refresh_token"), refreshType},
		{"ID", admin.str("id_token"), idType},
		{"jwt", w.signed(serviceKey(), nil), jwtType},
		{"unknown", "unknown", accessType},
	}
	for _, s := range subjects {
		for _, requested := range []string{"", accessType, refreshType, idType, jwtType, "surprise"} {
			r := try(s.name+" for "+requested, as("exchange"), exchanging(s.token, s.tokenType, "requested_token_type", requested))
			if access := r.str("access_token"); access != "" && r.status == 200 && requested != idType {
				w.userinfo(fmt.Sprintf("exchange %d: userinfo", n), access)
				w.post(fmt.Sprintf("exchange %d: introspect", n), introspectPath, as("exchange"), form("token", access))
			}
			if refresh := r.str("refresh_token"); refresh != "" {
				again := w.post(fmt.Sprintf("exchange %d: refresh", n), tokenPath, as("exchange"), refreshing(refresh))
				w.post(fmt.Sprintf("exchange %d: refresh the refreshed", n), tokenPath, as("exchange"), refreshing(again.str("refresh_token")))
			}
		}
	}
	for _, s := range subjects {
		for _, tokenType := range []string{accessType, refreshType, idType, jwtType, "surprise", ""} {
			if tokenType == s.tokenType {
				continue
			}
			try(s.name+" taken for "+tokenType, as("exchange"), exchanging(s.token, tokenType))
		}
	}
	try("no subject token", as("exchange"), exchanging("", accessType, "subject_token", ""))
	try("no client", "", exchanging(admin.str("access_token"), accessType))
	try("client in the body", "exchange", exchanging(admin.str("access_token"), accessType))
	try("wrong secret", "exchange:guess", exchanging(admin.str("access_token"), accessType))
	try("client without the grant", as("web2"), exchanging(admin.str("access_token"), accessType))
	try("public client", as("native"), exchanging(admin.str("access_token"), accessType))
	try("no permission", as("exchange"), exchanging(user.str("access_token"), accessType))
	try("no permission, refresh token", as("exchange"), exchanging(user.str("refresh_token"), refreshType))
	try("impersonation", as("exchange"), exchanging(admin.str("access_token"), accessType,
		"scope", "openid profile custom_scope custom_scope:impersonate:"+w.users["user"].subject, "requested_token_type", accessType))
	try("impersonation with a refresh token", as("exchange"), exchanging(admin.str("refresh_token"), refreshType,
		"scope", "openid custom_scope:impersonate:"+w.users["user"].subject))
	try("impersonation in an ID token", as("exchange"), exchanging(admin.str("id_token"), idType,
		"scope", "openid custom_scope:impersonate:"+w.users["user"].subject, "requested_token_type", idType))
	try("impersonation of nobody", as("exchange"), exchanging(admin.str("access_token"), accessType,
		"scope", "openid custom_scope:impersonate:nobody", "requested_token_type", idType))
	for _, actor := range []struct{ name, token, tokenType string }{
		{"access", admin.str("access_token"), accessType},
		{"refresh", admin.str("refresh_token"), refreshType},
		{"ID", admin.str("id_token"), idType},
		{"unknown", "unknown", accessType},
		{"of an unknown type", "unknown", "surprise"},
		{"without type", admin.str("access_token"), ""},
	} {
		try("actor "+actor.name, as("exchange"), exchanging(user.str("access_token"), accessType,
			"actor_token", actor.token, "actor_token_type", actor.tokenType, "requested_token_type", accessType))
	}
	try("resource", as("exchange"), exchanging(admin.str("access_token"), accessType, "resource", "https://api.example.org"))
	w.post("exchange: refresh the subject token", tokenPath, as("exchange"), refreshing(admin.str("refresh_token")))
	w.post("exchange: end the session", "/end_session", "", form("id_token_hint", admin.str("id_token")))
	try("of an ended session", as("exchange"), exchanging(admin.str("access_token"), accessType))
	try("of an ended session, refresh token", as("exchange"), exchanging(admin.str("refresh_token"), refreshType))
}

func (w *world) clientCredentials() {
	params := form("grant_type", "client_credentials", "scope", "openid")
	r := w.post("client credentials: good", tokenPath, "sid1:verysecret", params)
	w.post("client credentials: in the body", tokenPath, "", with(params, "client_id", "sid1", "client_secret", "verysecret"))
	w.post("client credentials: wrong secret", tokenPath, "sid1:guess", params)
	w.post("client credentials: no client", tokenPath, "", params)
	w.post("client credentials: another client", tokenPath, as("web"), params)
	w.post("client credentials: no scope", tokenPath, "sid1:verysecret", with(params, "scope", ""))
	w.userinfo("client credentials: userinfo", r.str("access_token"))
	w.post("client credentials: introspect", introspectPath, as("web"), form("token", r.str("access_token")))
	w.post("client credentials: revoke", "/revoke", as("web"), form("token", r.str("access_token")))
	w.post("client credentials: exchange", tokenPath, as("exchange"), exchanging(r.str("access_token"), accessType))
}

func (w *world) jwtProfiles() {
	try := func(name, assertion string) reply {
		return w.post("jwt profile: "+name, tokenPath, "",
			form("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion", assertion, "scope", "openid email"))
	}
	r := try("good", w.signed(serviceKey(), nil))
	try("about another", w.signed(serviceKey(), map[string]any{"sub": w.users["user"].subject}))
	try("of another", w.signed(serviceKey(), map[string]any{"iss": "web", "sub": "web"}))
	try("for another", w.signed(serviceKey(), map[string]any{"aud": "https://another.example.org"}))
	try("expired", w.signed(serviceKey(), map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}))
	try("without exp", w.signed(serviceKey(), map[string]any{"exp": nil}))
	try("from the future", w.signed(serviceKey(), map[string]any{"iat": time.Now().Add(time.Hour).Unix()}))
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(w.t, err)
	try("foreign key", w.signed(other, nil))
	try("no token", "assertion")
	try("missing", "")
	w.userinfo("jwt profile: userinfo", r.str("access_token"))
	w.post("jwt profile: introspect", introspectPath, as("web"), form("token", r.str("access_token")))
	w.post("jwt profile: revoke", "/revoke", as("web"), form("token", r.str("access_token")))
}

func (w *world) deviceGrants() {
	begin := func(step, auth, scope string) reply {
		return w.post("device "+step+": begin", "/device_authorization", auth, form("scope", scope))
	}
	poll := func(step, auth string, r reply) reply {
		return w.post("device "+step, tokenPath, auth,
			form("grant_type", "urn:ietf:params:oauth:grant-type:device_code", "device_code", r.str("device_code")))
	}
	begin("without client", "", "openid")
	begin("unknown client", "nobody:secret", "openid")
	begin("wrong secret", "device:guess", "openid")
	begin("client without the grant", as("web"), "openid")
	begin("without scope", as("device"), "")
	poll("unknown: poll", as("device"), reply{})

	r := begin("pending", as("device"), "openid offline_access")
	poll("pending: poll", as("device"), r)
	poll("pending: another client", as("web"), r)
	poll("pending: no client", "", r)
	poll("pending: wrong secret", "device:guess", r)
	poll("pending: without secret", "device", r)

	w.approve(w, "device denied: deny", r.str("user_code"), "user", "denied")
	poll("denied: poll", as("device"), r)
	poll("denied: poll again", as("device"), r)

	// The example's own device page names the user by name, not by ID: with
	// "openid" no ID token can be made. It stays that way.
	for _, scope := range []string{"openid profile offline_access", "profile", "profile offline_access"} {
		for _, client := range []string{"device", "native"} {
			step := "granted " + scope + " " + client
			r := begin(step, as(client), scope)
			if r.str("device_code") == "" {
				continue // the example's native client may not
			}
			w.approve(w, "device "+step+": approve", r.str("user_code"), "user", "allowed")
			poll(step+": another client", as("web"), r)
			if client == "device" {
				poll(step+": without secret", "device", r)
			}
			tokens := poll(step+": poll", as(client), r)
			w.userinfo("device "+step+": userinfo", tokens.str("access_token"))
			w.post("device "+step+": introspect", introspectPath, as(client), form("token", tokens.str("access_token")))
			w.post("device "+step+": refresh", tokenPath, as(client), refreshing(tokens.str("refresh_token")))
			poll(step+": poll again", as(client), r)
		}
	}

	r = begin("expired", as("device"), "openid")
	time.Sleep(5*time.Minute + time.Second)
	poll("expired: poll", as("device"), r)
}

// expired waits until things expire, one kind after the other.
func (w *world) expired() {
	code := w.front("late code", "web", "user").Get("code")
	r := w.tokens("late", "web", "user")
	admin := w.tokens("late exchange", "exchange", "admin")
	time.Sleep(61 * time.Second)
	w.post("late code: redeem", tokenPath, as("web"), redeem(code))

	time.Sleep(5 * time.Minute)
	w.userinfo("late: userinfo", r.str("access_token"))
	w.post("late: introspect", introspectPath, as("web"), form("token", r.str("access_token")))
	w.post("late: revoke the access token", "/revoke", as("web"), form("token", r.str("access_token")))
	w.post("late: exchange", tokenPath, as("exchange"), exchanging(admin.str("access_token"), accessType))

	time.Sleep(2 * time.Hour)
	w.post("late: exchange the ID token", tokenPath, as("exchange"), exchanging(admin.str("id_token"), idType, "requested_token_type", accessType))
	w.get("late: hint at authorize", w.authorizePath, with(w.authorization("web"), "id_token_hint", r.str("id_token")))
	next := w.post("late: refresh", tokenPath, as("web"), refreshing(r.str("refresh_token")))
	time.Sleep(6 * time.Hour)
	w.post("late: refresh too late", tokenPath, as("web"), refreshing(next.str("refresh_token")))
	w.get("late: hint at end_session", "/end_session", form("id_token_hint", r.str("id_token")))
	w.post("late: refresh after the end", tokenPath, as("exchange"), refreshing(admin.str("refresh_token")))
}

// misread reports whether op's older crypto, which it still reads by, decrypts
// a text to something with the form of an access token; see tokens.
func (w *world) misread(text string) bool {
	inside, err := w.oldCrypto.Decrypt(text)
	return err == nil && strings.Count(inside, ":") == 1
}
