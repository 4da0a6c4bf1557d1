package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/internal/proctest"
)

func TestLogin(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	for _, client := range []string{"web", "spa"} {
		t.Run(client, func(t *testing.T) {
			s.t = t
			a := s.app(client)
			b, token := s.login(a)
			claims := a.claims(t, token)
			require.Equal(t, "sub-alice", claims["sub"])
			require.Equal(t, "nonce-1", claims["nonce"])
			require.NotEmpty(t, claims["sid"])
			require.NotEmpty(t, claims["session_expiry"])
			require.Equal(t, []any{"pwd"}, claims["amr"])

			info := s.userinfo(token.AccessToken)
			require.Equal(t, http.StatusOK, info.status, info.body)
			require.Equal(t, "alice", info.json["preferred_username"])
			require.Equal(t, "sub-alice", info.json["sub"])
			if client == "web" {
				seen := s.introspect(token.AccessToken)
				require.Equal(t, true, seen.json["active"], seen.body)
				require.Equal(t, claims["sid"], seen.json["sid"])
				require.Equal(t, "alice", seen.json["preferred_username"])
			} else {
				require.Equal(t, 2, strings.Count(token.AccessToken, "."), "a JWT")
				seen := s.introspect(token.AccessToken)
				require.Equal(t, map[string]any{"active": false}, seen.json, "it is for others")
			}

			next, err := a.refresh(t, token)
			require.NoError(t, err)
			require.NotEqual(t, token.RefreshToken, next.RefreshToken)
			require.Equal(t, claims["sid"], a.claims(t, next)["sid"])
			require.Equal(t, claims["auth_time"], a.claims(t, next)["auth_time"])

			home := b.get(s.issuer + "/")
			require.Contains(t, home.body, "You are signed in as alice")
			require.Contains(t, home.body, "At the latest until")
			require.Contains(t, home.body, "Without activity until")
			require.NotContains(t, home.body, "no limit")

			out := b.get(s.issuer + "/end_session?" + url.Values{
				"id_token_hint": {next.Extra("id_token").(string)}, "state": {"s"},
			}.Encode())
			require.Equal(t, http.StatusOK, out.status)
			require.Contains(t, out.body, "You signed out.")
			require.Equal(t, http.StatusUnauthorized, s.userinfo(next.AccessToken).status)
			_, err = a.refresh(t, next)
			require.ErrorContains(t, err, "logout: ")
		})
	}
}

func TestImplicitLogin(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("spa")
	for _, responseType := range []string{"id_token", "id_token token"} {
		b := newBrowser(t)
		p := b.get(strings.Replace(a.url(oauth2.SetAuthURLParam("response_type", responseType)), "&nonce=nonce-1", "", 1))
		require.Equal(t, "invalid_request", p.params.Get("error"), "%d %s", p.status, p.url)
		require.Contains(t, p.params.Get("error_description"), "nonce")
		p = b.signIn(b.get(a.url(oauth2.SetAuthURLParam("response_type", responseType))), "alice", alicePassword)
		require.NotEmpty(t, p.params.Get("id_token"), "%d %s %s", p.status, p.url, p.body)
		require.Contains(t, b.get(s.issuer+"/").body, "You are signed in as alice")
		if responseType == "id_token token" {
			require.Equal(t, http.StatusOK, s.userinfo(p.params.Get("access_token")).status)
		}
		require.Contains(t, b.submit(b.get(s.issuer+"/"), nil).body, "You signed out.")
		if responseType == "id_token token" {
			require.Equal(t, http.StatusUnauthorized, s.userinfo(p.params.Get("access_token")).status)
		}
	}
}

// What an application finds out about the provider, and about the user, whatever it
// asks for.
func TestClaimsAndMetadata(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		req, err := http.NewRequest(http.MethodGet, s.issuer+path, nil)
		require.NoError(t, err)
		document := s.answer(req)
		require.Equal(t, s.issuer, document.json["issuer"], document.body)
		require.Equal(t, true, document.json["authorization_response_iss_parameter_supported"])
		require.Equal(t, true, document.json["backchannel_logout_supported"])
		require.NotEmpty(t, document.json["refresh_token_expiration_types_supported"])
		require.Subset(t, document.json["claims_supported"], []any{"name", "email", "email_verified", "acr"})
		require.Subset(t, document.json["scopes_supported"], []any{"openid", "profile", "email"})
		require.Equal(t, []any{acr}, document.json["acr_values_supported"])
		req.URL.Path += "/nobody"
		require.Equal(t, http.StatusNotFound, s.answer(req).status)
	}

	a := s.app("web")
	a.config.Scopes = append(a.config.Scopes, "email")
	_, token := s.login(a)
	require.Equal(t, acr, a.claims(t, token)["acr"])
	next, err := a.refresh(t, token)
	require.NoError(t, err)
	require.Equal(t, acr, a.claims(t, next)["acr"])
	for name, want := range map[string]any{"name": "Alice Liddell", "preferred_username": "alice", "email": "alice@example.com", "email_verified": true} {
		require.Equal(t, want, s.userinfo(token.AccessToken).json[name], name)
	}
	require.NotContains(t, a.claims(t, token), "email", "which is at userinfo")

	spa := s.app("spa")
	spa.config.Scopes = append(spa.config.Scopes, "email")
	b := newBrowser(t)
	p := b.signIn(b.get(spa.url(oauth2.SetAuthURLParam("response_type", "id_token"))), "root", rootPassword)
	claims := spa.claims(t, (&oauth2.Token{}).WithExtra(map[string]any{"id_token": p.params.Get("id_token")}))
	require.Equal(t, "root", claims["name"], "who has no other name")
	require.Equal(t, acr, claims["acr"])
	require.NotContains(t, claims, "email", "who has none")
}

// Every answer to an application names the issuer, those of the provider's own pages
// too, and an error is posted where the application wants that.
func TestAnswersNameTheIssuer(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	for _, mode := range []string{"", "fragment", "form_post"} {
		a := s.app("web")
		b := newBrowser(t)
		ask := func(options ...oauth2.AuthCodeOption) page {
			return b.get(a.url(append(options, oauth2.SetAuthURLParam("response_mode", mode))...))
		}
		for want, p := range map[string]page{
			"login_required":  ask(oauth2.SetAuthURLParam("prompt", "none")),
			"access_denied":   b.submit(ask(), nil, "cancel"),
			"invalid_request": ask(oauth2.SetAuthURLParam("prompt", "none login")),
			"":                b.signIn(ask(), "alice", alicePassword),
		} {
			require.Equal(t, want, p.params.Get("error"), "%q: %d %s %s", mode, p.status, p.url, p.body)
			require.Equal(t, []string{s.issuer}, p.params["iss"], "%q: %s", mode, want)
			require.Equal(t, "state-1", p.params.Get("state"))
			require.Equal(t, mode == "form_post", strings.Contains(p.body, `action="`+redirectURI+`"`), "%q: %s", mode, p.body)
		}
	}
	require.NotContains(t, s.stderr.String(), "misconfigured")
}

func TestNativeLoopbackLogin(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("cli")
	_, token := s.login(a)
	require.Equal(t, "sub-alice", a.claims(t, token)["sub"])
}

func TestLoginPage(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	b := newBrowser(t)

	p := b.get(a.url(oauth2.SetAuthURLParam("login_hint", `al"<ice`)))
	require.Contains(t, p.body, `value="al&#34;&lt;ice"`)
	require.Contains(t, p.body, "<strong>web</strong>")
	p = b.signIn(p, "alice", "wrong")
	require.Equal(t, http.StatusUnauthorized, p.status)
	wrong := p.body
	p = b.signIn(p, "nobody", "wrong")
	require.Equal(t, http.StatusUnauthorized, p.status)
	require.Equal(t, strings.Replace(wrong, `value="alice"`, `value="nobody"`, 1), p.body, "an unknown user looks the same")
	require.NotContains(t, p.body, "wrong\"", "the password does not come back")
	p = b.signIn(p, "", "")
	require.Equal(t, http.StatusBadRequest, p.status)
	p = b.signIn(p, "alice", alicePassword)
	require.NotEmpty(t, p.params.Get("code"))
	require.Equal(t, "state-1", p.params.Get("state"))

	b = newBrowser(t)
	p = b.get(a.url(oauth2.SetAuthURLParam("prompt", "none")))
	require.Equal(t, "login_required", p.params.Get("error"))
	require.Equal(t, "state-1", p.params.Get("state"))
	p = b.submit(b.get(a.url()), nil, "cancel")
	require.Equal(t, "access_denied", p.params.Get("error"))
	require.Equal(t, "state-1", p.params.Get("state"))
	require.Contains(t, p.url.String(), redirectURI)

	// Somebody else than the one the application named.
	_, token := s.login(a)
	p = b.get(a.url(oauth2.SetAuthURLParam("id_token_hint", token.Extra("id_token").(string))))
	require.Equal(t, http.StatusForbidden, b.signIn(p, "root", rootPassword).status)
	require.NotEmpty(t, b.signIn(p, "alice", alicePassword).params.Get("code"))
}

// Whoever presses the button twice is signed in, and so is one whose first try was
// not answered but came through later; a second user is not taken for the first.
func TestTwoTriesAtOnceAreOneSignIn(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	b := newBrowser(t)
	p := b.get(s.app("web").url())
	form := url.Values{"id": {p.url.Query().Get("id")}, "username": {"alice"}, "password": {alicePassword}}
	answers := make([]page, 6)
	var tries sync.WaitGroup
	for i := range answers {
		tries.Go(func() {
			form := maps.Clone(form)
			if i == 0 {
				form["username"], form["password"] = []string{"root"}, []string{rootPassword}
			}
			req, err := http.NewRequest(http.MethodPost, s.issuer+"/login", strings.NewReader(form.Encode()))
			if assert.NoError(t, err) {
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				answers[i], err = b.try(req)
				assert.NoError(t, err)
			}
		})
	}
	tries.Wait()
	in := map[bool]int{} // by whether it is root
	for i, a := range answers {
		switch a.status {
		case http.StatusSeeOther:
			require.Contains(t, a.header.Get("Location"), "/authorize/callback")
			in[i == 0]++
		default:
			require.Equal(t, http.StatusBadRequest, a.status)
			require.Contains(t, a.body, "not known any more")
		}
	}
	if in[false] < len(answers)-1 { // root was first
		require.Equal(t, 1, in[true])
	}
	p = b.get(s.issuer + "/authorize/callback?id=" + form.Get("id"))
	require.NotEmpty(t, p.params.Get("code"))
}

func TestPKCEIsRequired(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("spa")
	b := newBrowser(t)
	for name, params := range map[string]string{
		"none":  "",
		"plain": "&code_challenge=" + strings.Repeat("a", 43) + "&code_challenge_method=plain",
		"empty": "&code_challenge=" + strings.Repeat("a", 43),
	} {
		p := b.get(a.config.AuthCodeURL("s") + params)
		require.Equal(t, "invalid_request", p.params.Get("error"), name)
	}
	// The wrong verifier gets nothing, and the right one still does.
	p := b.signIn(b.get(a.url()), "alice", alicePassword)
	_, err := a.config.Exchange(t.Context(), p.params.Get("code"), oauth2.VerifierOption(oauth2.GenerateVerifier()))
	require.ErrorContains(t, err, "invalid_grant")
	_, err = a.redeem(t, p.params.Get("code"))
	require.NoError(t, err)
}

func TestCodeWorksOnce(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	b := newBrowser(t)
	_, neighbour := s.login(a)

	p := b.signIn(b.get(a.url()), "alice", alicePassword)
	code := p.params.Get("code")
	token, err := a.redeem(t, code)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, s.userinfo(token.AccessToken).status)

	_, err = a.redeem(t, code)
	require.ErrorContains(t, err, "invalid_grant")
	require.Equal(t, http.StatusUnauthorized, s.userinfo(token.AccessToken).status, "what was issued with it is over")
	_, err = a.refresh(t, token)
	require.ErrorContains(t, err, "replay: ")
	require.Contains(t, b.get(s.issuer+"/").body, "You were signed out for safety")
	_, err = a.redeem(t, code)
	require.ErrorContains(t, err, "invalid_grant")

	_, err = a.refresh(t, neighbour)
	require.NoError(t, err, "the user's other session goes on")
}

// However many requests bring one code at the same time, tokens that work are
// handed out once at most.
func TestCodeRace(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	b := newBrowser(t)
	code := b.signIn(b.get(a.url()), "alice", alicePassword).params.Get("code")
	var wg sync.WaitGroup
	tokens := make(chan *oauth2.Token, 8)
	for range cap(tokens) {
		wg.Go(func() {
			if token, err := a.config.Exchange(t.Context(), code, oauth2.VerifierOption(a.verifier)); err == nil {
				tokens <- token
			}
		})
	}
	wg.Wait()
	close(tokens)
	require.LessOrEqual(t, len(tokens), 1)
	for token := range tokens {
		_, err := a.refresh(t, token)
		require.Error(t, err, "somebody else had the code too")
	}
}

// A callback that is reloaded before the code was used brings another code for
// the same session. The one that is not used does no harm.
func TestReloadedCallback(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	b := newBrowser(t)
	login := b.get(a.url())
	first := b.signIn(login, "alice", alicePassword)
	again := b.get(login.url.String()) // the back button: there is nothing to sign in to any more
	require.NotEmpty(t, again.params.Get("code"))
	require.NotEqual(t, first.params.Get("code"), again.params.Get("code"))
	token, err := a.redeem(t, again.params.Get("code"))
	require.NoError(t, err)
	_, err = a.redeem(t, first.params.Get("code"))
	require.ErrorContains(t, err, "invalid_grant")
	_, err = a.refresh(t, token)
	require.NoError(t, err)

	p := b.get(login.url.String())
	require.Equal(t, http.StatusBadRequest, p.status)
	require.Contains(t, p.body, "Go back to the application")
}

// Who sends somebody the address of a sign-in page does not get the code, and who
// learns the address of a callback does not either.
func TestCallbackInAnotherBrowser(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	attacker, victim := newBrowser(t), newBrowser(t)
	elsewhere := func(p page) {
		t.Helper()
		require.Equal(t, http.StatusForbidden, p.status)
		require.Empty(t, p.params)
		require.Contains(t, p.body, "another browser")
	}
	login := attacker.get(a.url())
	id := login.url.Query().Get("id")
	form := url.Values{"id": {id}, "username": {"alice"}, "password": {alicePassword}}
	elsewhere(victim.get(login.url.String()))
	elsewhere(victim.post(s.issuer+"/login", form))
	callback := s.issuer + "/authorize/callback?id="
	require.Equal(t, "interaction_required", attacker.get(callback+id).params.Get("error"), "there is no code for anybody")

	// The other way round: the attacker is faster at the victim's callback.
	id = victim.get(a.url()).url.Query().Get("id")
	form.Set("id", id)
	u, err := url.Parse(s.issuer)
	require.NoError(t, err)
	req, err := http.NewRequest(http.MethodPost, s.issuer+"/login", strings.NewReader(form.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	require.Equal(t, http.StatusSeeOther, victim.once(req).status)
	for _, p := range []page{
		attacker.get(callback + id),
		attacker.post(s.issuer+"/authorize/callback", url.Values{"id": {id}}),
		attacker.get(s.issuer + "/login?id=" + id),
		attacker.post(s.issuer+"/login", url.Values{"id": {id}, "username": {"root"}, "password": {rootPassword}}),
	} {
		elsewhere(p)
	}
	for _, cookie := range attacker.client.Jar.Cookies(u) {
		require.NotContains(t, cookie.Name, "session")
	}
	require.NotEmpty(t, victim.get(callback+id).params.Get("code"))
}

// A browser that has more pages to sign in at open than the hook keeps cookies of: each
// of them still leads to the application, with what it asked for. The browser is known by
// its mark, and in no other one does the address of such a page begin anything.
func TestManyPagesToSignInAt(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a, b := s.app("web"), newBrowser(t)
	tabs := make([]page, 30)
	for i := range tabs {
		tabs[i] = b.get(a.url(oauth2.SetAuthURLParam("state", fmt.Sprint("tab-", i)), oauth2.SetAuthURLParam("max_age", "5000")))
		require.Contains(t, tabs[i].body, "password")
	}
	thief := newBrowser(t)
	thief.get(a.url()) // has a mark of its own
	for _, p := range []page{thief.get(tabs[0].url.String()), thief.submit(tabs[0], map[string]string{"username": "alice", "password": alicePassword})} {
		require.Equal(t, http.StatusForbidden, p.status)
		require.Contains(t, p.body, "another browser")
	}

	p := b.get(tabs[0].url.String())
	require.Equal(t, tabs[0].url.String(), p.url.String(), "loaded again, it is there")
	p = b.signIn(p, "alice", alicePassword)
	require.NotEqual(t, tabs[0].url.String(), p.url.String())
	require.Equal(t, http.StatusOK, p.status, p.body)
	p = b.signIn(p, "alice", alicePassword)
	require.Equal(t, "tab-0", p.params.Get("state"))
	first, err := a.redeem(t, p.params.Get("code"))
	require.NoError(t, err)

	for i, tab := range tabs[1:] {
		p := b.get(tab.url.String()) // as somebody is signed in by now
		require.Equal(t, fmt.Sprint("tab-", i+1), p.params.Get("state"), "%d %s", p.status, p.body)
		token, err := a.redeem(t, p.params.Get("code"))
		require.NoError(t, err)
		require.Equal(t, a.claims(t, first)["sid"], a.claims(t, token)["sid"], "one session")
	}
}

// The browser that signed in once is signed in for the next application: in one
// session, silently where that was asked for, until the session ends.
func TestSignOn(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	web, spa, cli := s.app("web"), s.app("spa"), s.app("cli")
	b, first := s.login(web)
	sid := web.claims(t, first)["sid"]
	authTime := web.claims(t, first)["auth_time"]
	hint := oauth2.SetAuthURLParam("id_token_hint", first.Extra("id_token").(string))
	root := newBrowser(t)
	other, err := web.redeem(t, root.signIn(root.get(web.url()), "root", rootPassword).params.Get("code"))
	require.NoError(t, err)
	none, again := oauth2.SetAuthURLParam("prompt", "none"), oauth2.SetAuthURLParam("prompt", "login")
	for name, options := range map[string][]oauth2.AuthCodeOption{
		"nothing": nil, "none": {none}, "max_age": {oauth2.SetAuthURLParam("max_age", "10000"), none}, "hint": {hint, none},
	} {
		p := b.get(spa.url(options...))
		token, err := spa.redeem(t, p.params.Get("code"))
		require.NoError(t, err, "%s: %s", name, p.url)
		require.Equal(t, sid, spa.claims(t, token)["sid"], name)
		require.Equal(t, authTime, spa.claims(t, token)["auth_time"], name)
	}
	for name, option := range map[string]oauth2.AuthCodeOption{
		"login": again, "consent": oauth2.SetAuthURLParam("prompt", "consent"), "max_age": oauth2.SetAuthURLParam("max_age", "0"),
		"hint": oauth2.SetAuthURLParam("id_token_hint", other.Extra("id_token").(string)),
	} {
		p := b.get(web.url(option))
		require.Contains(t, p.body, "wants to be sure that it is you", name)
		require.Contains(t, p.body, `value="alice"`)
		if name == "max_age" || name == "hint" {
			require.Equal(t, "login_required", b.get(web.url(option, none)).params.Get("error"), name)
		}
	}
	require.Contains(t, b.get(cli.url()).body, `name="password"`, "an application on a device asks")

	p := b.signIn(b.get(web.url(again)), "alice", alicePassword)
	token, err := web.redeem(t, p.params.Get("code"))
	require.NoError(t, err)
	require.Equal(t, sid, web.claims(t, token)["sid"], "the same session")

	b.submit(b.get(s.issuer+"/"), nil) // signs out
	require.Contains(t, b.get(s.issuer+"/").body, "You signed out.")
	require.Equal(t, "login_required", b.get(web.url(none)).params.Get("error"))
	p = b.get(web.url())
	require.Contains(t, p.body, "You signed out.", "the page says why it asks")
	p = b.signIn(p, "alice", alicePassword)
	token, err = web.redeem(t, p.params.Get("code"))
	require.NoError(t, err, "%s", p.url)
	require.NotEqual(t, sid, web.claims(t, token)["sid"])
}

func TestDeviceFlow(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("cli")
	begin := func() (reply, string) {
		t.Helper()
		r := s.api("/device_authorization", "cli", "", url.Values{"scope": {"openid profile offline_access made-up"}})
		require.Equal(t, http.StatusOK, r.status, r.body)
		return r, r.json["device_code"].(string)
	}
	device, code := begin()
	require.Equal(t, "authorization_pending", s.poll(code).json["error"])

	b := newBrowser(t)
	p := b.get(device.json["verification_uri_complete"].(string))
	require.Contains(t, p.body, device.json["user_code"].(string))
	p = b.submit(p, nil)
	require.Contains(t, p.body, "<strong>cli</strong>")
	p = b.signIn(p, "alice", "wrong")
	require.Equal(t, http.StatusUnauthorized, p.status)
	p = b.signIn(p, "alice", alicePassword)
	require.Contains(t, p.body, "Connect this device?")
	require.Contains(t, p.body, "<strong>cli</strong>")
	require.Equal(t, "authorization_pending", s.poll(code).json["error"], "nothing is decided yet")
	confirm := p
	p = b.submit(p, nil)
	require.Contains(t, p.body, "Your device is connected")
	require.Equal(t, http.StatusBadRequest, b.submit(confirm, nil).status, "a confirmation works once")
	require.Equal(t, http.StatusBadRequest, b.submit(confirm, nil, "deny").status)

	r := s.poll(code)
	require.Equal(t, http.StatusOK, r.status, r.body)
	token := (&oauth2.Token{AccessToken: r.json["access_token"].(string), RefreshToken: r.json["refresh_token"].(string)}).WithExtra(r.json)
	require.Equal(t, "sub-alice", a.claims(t, token)["sub"])
	require.NotContains(t, r.json["scope"], "made-up")
	require.Equal(t, http.StatusOK, s.userinfo(token.AccessToken).status)
	_, err := a.refresh(t, token)
	require.NoError(t, err)

	// Typed by hand, in lower case and without the dash; and refused.
	device, code = begin()
	typed := strings.ToLower(strings.ReplaceAll(device.json["user_code"].(string), "-", " "))
	p = b.submit(b.get(s.issuer+"/device"), map[string]string{"user_code": typed})
	p = b.signIn(p, "alice", alicePassword)
	p = b.submit(p, nil, "deny")
	require.Contains(t, p.body, "Your device is not connected")
	require.Equal(t, "access_denied", s.poll(code).json["error"])

	// Another client gets nothing for it.
	_, code = begin()
	r = s.api("/oauth/token", "spa", "", url.Values{"grant_type": {deviceGrantType}, "device_code": {code}})
	require.Equal(t, "access_denied", r.json["error"])

	p = b.submit(b.get(s.issuer+"/device"), map[string]string{"user_code": "BBBB-BBBB"})
	require.Equal(t, http.StatusBadRequest, p.status)
	require.Contains(t, p.body, "This code is not known")
	r = s.api("/device_authorization", "web", webSecret, url.Values{})
	require.Equal(t, "unauthorized_client", r.json["error"])
	r = s.api("/device_authorization", "nobody", "", url.Values{})
	require.Equal(t, "invalid_client", r.json["error"], r.body)
}

func TestClientCredentials(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	form := func() url.Values {
		return url.Values{"grant_type": {"client_credentials"}, "scope": {"openid profile"}}
	}
	r := s.api("/oauth/token", "web", webSecret, form())
	require.Equal(t, http.StatusOK, r.status, r.body)
	token := r.json["access_token"].(string)
	seen := s.introspect(token)
	require.Equal(t, true, seen.json["active"], seen.body)
	require.Equal(t, "web", seen.json["sub"])
	require.Empty(t, seen.json["sid"])
	require.GreaterOrEqual(t, s.userinfo(token).status, 400, "it is no user")
	require.Equal(t, "invalid_client", s.api("/oauth/token", "web", "wrong", form()).json["error"])
	require.Equal(t, "unauthorized_client", s.api("/oauth/token", "other", "other-secret", form()).json["error"])
}

func TestTokenExchange(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	_, alice := s.login(a)
	b := newBrowser(t)
	root, err := a.redeem(t, b.signIn(b.get(a.url()), "root", rootPassword).params.Get("code"))
	require.NoError(t, err)
	const accessType = "urn:ietf:params:oauth:token-type:access_token"
	exchange := func(client, secret, token string, extra url.Values) reply {
		t.Helper()
		form := url.Values{
			"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"subject_token": {token}, "subject_token_type": {accessType},
		}
		for k, v := range extra {
			form[k] = v
		}
		return s.api("/oauth/token", client, secret, form)
	}
	actor := func(token string) url.Values {
		return url.Values{"actor_token": {token}, "actor_token_type": {accessType}}
	}

	r := exchange("web", webSecret, alice.AccessToken, url.Values{"scope": {"openid"}})
	require.Equal(t, http.StatusOK, r.status, r.body)
	seen := s.introspect(r.json["access_token"].(string))
	require.Equal(t, "sub-alice", seen.json["sub"], seen.body)
	require.Equal(t, a.claims(t, alice)["sid"], seen.json["sid"], "it stays in the session")

	r = exchange("web", webSecret, root.AccessToken, url.Values{"scope": {"openid impersonate:sub-alice"}})
	require.Equal(t, http.StatusOK, r.status, r.body)
	seen = s.introspect(r.json["access_token"].(string))
	require.Equal(t, "sub-alice", seen.json["sub"], seen.body)
	require.NotEqual(t, a.claims(t, root)["sid"], seen.json["sid"])

	r = exchange("web", webSecret, alice.AccessToken, actor(root.AccessToken))
	require.Equal(t, http.StatusOK, r.status, r.body)
	r = exchange("web", webSecret, alice.AccessToken, url.Values{"actor_token": {root.AccessToken}, "actor_token_type": {accessType},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:id_token"}})
	require.Equal(t, http.StatusOK, r.status, r.body)
	require.Equal(t, map[string]any{"sub": "sub-root"}, payload(t, r.json["access_token"].(string))["act"])

	for name, r := range map[string]struct {
		reply reply
		want  string
	}{
		"a client that may not":     {exchange("other", "other-secret", alice.AccessToken, nil), "unauthorized_client"},
		"a wrong secret":            {exchange("web", "wrong", alice.AccessToken, nil), "invalid_client"},
		"as another user":           {exchange("web", webSecret, alice.AccessToken, url.Values{"scope": {"impersonate:sub-root"}}), "access_denied"},
		"as nobody":                 {exchange("web", webSecret, root.AccessToken, url.Values{"scope": {"impersonate:nobody"}}), "invalid_request"},
		"an actor who may not":      {exchange("web", webSecret, root.AccessToken, actor(alice.AccessToken)), "access_denied"},
		"more scopes":               {exchange("web", webSecret, alice.AccessToken, url.Values{"scope": {"openid email"}}), "invalid_scope"},
		"for good as somebody":      {exchange("web", webSecret, root.AccessToken, url.Values{"scope": {"offline_access impersonate:sub-alice"}}), "invalid_scope"},
		"a foreign audience":        {exchange("web", webSecret, alice.AccessToken, url.Values{"audience": {"elsewhere"}}), "invalid_target"},
		"a resource":                {exchange("web", webSecret, alice.AccessToken, url.Values{"resource": {"https://elsewhere.example"}}), "invalid_target"},
		"garbage":                   {exchange("web", webSecret, "garbage", nil), "invalid_request"},
		"another kind":              {exchange("web", webSecret, alice.RefreshToken, url.Values{"subject_token_type": {"urn:ietf:params:oauth:token-type:refresh_token"}}), "invalid_request"},
		"refresh, narrowed to less": {exchange("web", webSecret, alice.AccessToken, url.Values{"scope": {"openid"}, "requested_token_type": {"urn:ietf:params:oauth:token-type:refresh_token"}}), "invalid_request"},
	} {
		require.Equal(t, r.want, r.reply.json["error"], "%s: %s", name, r.reply.body)
	}
}

func payload(t *testing.T, jwt string) map[string]any {
	t.Helper()
	parts := strings.Split(jwt, ".")
	require.Len(t, parts, 3)
	body, err := b64(parts[1])
	require.NoError(t, err)
	claims := map[string]any{}
	require.NoError(t, json.Unmarshal(body, &claims))
	return claims
}

func TestRevocation(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	_, token := s.login(a)
	r := s.api("/revoke", "other", "other-secret", url.Values{"token": {token.RefreshToken}})
	require.Equal(t, "invalid_client", r.json["error"], r.body)
	token, err := a.refresh(t, token)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, s.api("/revoke", "web", webSecret, url.Values{"token": {token.AccessToken}}).status)
	require.Equal(t, map[string]any{"active": false}, s.introspect(token.AccessToken).json)
	token, err = a.refresh(t, token)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, s.api("/revoke", "web", webSecret, url.Values{"token": {token.RefreshToken}}).status)
	_, err = a.refresh(t, token)
	require.ErrorContains(t, err, "invalid_grant")
	require.Equal(t, http.StatusOK, s.api("/revoke", "web", webSecret, url.Values{"token": {"garbage"}}).status)
}

// The home page says why, in words, and the application is told too.
func TestReasons(t *testing.T) {
	dir, args := folder(t)
	settings := put(t, dir, "settings.yaml", `accounts: {default: {inactivity: 2s, active: 1h, concurrent: 2}}`)
	s := start(t, append(args, "-floor", "1s", "-settings", settings)...)
	a := s.app("web")
	b, token := s.login(a)
	s.login(a)

	third := newBrowser(t)
	p := third.signIn(third.get(a.url()), "alice", alicePassword)
	require.Equal(t, "access_denied", p.params.Get("error"))
	require.Contains(t, p.params.Get("error_description"), "used=2 max=2")
	require.Contains(t, third.get(s.issuer+"/").body, "Nobody is signed in")

	proctest.Eventually(t, func() bool {
		return strings.Contains(b.get(s.issuer+"/").body, "You were signed out after 2 seconds without activity.")
	})
	_, err := a.refresh(t, token)
	require.ErrorContains(t, err, "inactivity: ")
	p = third.signIn(third.get(a.url()), "alice", alicePassword)
	require.NotEmpty(t, p.params.Get("code"), "the places are free again")
}

func TestSweep(t *testing.T) {
	us, err := newUsers(demoUsers())
	require.NoError(t, err)
	st := &storage{kv: newMemoryRecords(), users: us}
	for i, expires := range []time.Time{time.Now().Add(-time.Second), time.Now().Add(time.Hour)} {
		r := recordAt(string(rune('a'+i)), expires)
		require.NoError(t, st.write(t.Context(), r, "v"))
	}
	var v string
	_, err = st.read(t.Context(), "a", &v)
	require.ErrorIs(t, err, errExpired, "over before it is removed")
	require.NoError(t, st.sweep(t.Context()))
	_, err = st.kv.Get(t.Context(), "a")
	require.Error(t, err)
	_, err = st.kv.Get(t.Context(), "b")
	require.NoError(t, err)
}

// A session that ended leaves nothing of what was issued in it.
func TestEndRemovesRecords(t *testing.T) {
	dir, args := folder(t)
	s := start(t, args...)
	b, _ := s.login(s.app("web"))
	s.login(s.app("spa"))
	kinds := func() map[string]int {
		t.Helper()
		count := map[string]int{}
		for _, key := range keysIn(t, filepath.Join(dir, "op.db")) {
			kind, _, _ := strings.Cut(key, "/")
			count[kind+"/"]++
		}
		return count
	}
	require.Equal(t, map[string]int{kindCode: 2, kindAccess: 2, kindRefresh: 2}, kinds())
	b.submit(b.get(s.issuer+"/"), nil)
	require.Equal(t, map[string]int{kindCode: 1, kindAccess: 1, kindRefresh: 1}, kinds())
}

func keysIn(t *testing.T, path string) (keys []string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_pragma=busy_timeout(2000)")
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	rows, err := db.QueryContext(t.Context(), `SELECT key FROM op_records`)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		var key string
		require.NoError(t, rows.Scan(&key))
		keys = append(keys, key)
	}
	require.NoError(t, rows.Err())
	return keys
}

// What the pages check first, the storage checks too: between the two somebody
// else may have been faster.
func TestStorageDecidesOnce(t *testing.T) {
	clients, err := newClients(demoClients())
	require.NoError(t, err)
	st := &storage{kv: newMemoryRecords(), clients: clients}

	r, err := st.CreateAuthRequest(t.Context(), &oidc.AuthRequest{ClientID: "web", RedirectURI: redirectURI, ResponseType: "code"}, "")
	require.NoError(t, err)
	require.NoError(t, st.signIn(t.Context(), r.GetID(), "alice", time.Now()))
	require.ErrorIs(t, st.signIn(t.Context(), r.GetID(), "root", time.Now()), errSignedIn)
	r, err = st.AuthRequestByID(t.Context(), r.GetID())
	require.NoError(t, err)
	require.Equal(t, "alice", r.GetSubject())

	require.NoError(t, st.StoreDeviceAuthorization(t.Context(), "cli", "device", "AAAA-AAAA", time.Now().Add(time.Minute), nil))
	require.ErrorIs(t, st.StoreDeviceAuthorization(t.Context(), "cli", "other", "aaaa aaaa", time.Now().Add(time.Minute), nil), op.ErrDuplicateUserCode)
	key, _, err := st.deviceByUserCode(t.Context(), "AAAAAAAA")
	require.NoError(t, err)
	var secrets []string
	for _, subject := range []string{"alice", "root"} {
		secret, err := st.beginConfirm(t.Context(), confirmRecord{Device: key, Subject: subject})
		require.NoError(t, err)
		secrets = append(secrets, secret)
	}
	require.NoError(t, st.decideDevice(t.Context(), secrets[0], true))
	require.ErrorIs(t, st.decideDevice(t.Context(), secrets[1], true), kv.ErrNotFound)
	require.ErrorIs(t, st.decideDevice(t.Context(), secrets[1], false), kv.ErrNotFound)
	for _, secret := range secrets {
		_, err := st.kv.Get(t.Context(), keyOf(kindConfirm, secret))
		require.ErrorIs(t, err, kv.ErrNotFound, "a confirmation is used up")
	}
	_, _, err = st.deviceByUserCode(t.Context(), "AAAA-AAAA")
	require.ErrorIs(t, err, kv.ErrNotFound, "nothing is left to decide")

	for _, id := range []string{"spa", "cli", "nobody", ""} {
		require.Error(t, st.AuthorizeClientIDSecret(t.Context(), id, ""), "no secret is not the right secret: %q", id)
	}
	require.Error(t, st.AuthorizeClientIDSecret(t.Context(), "web", ""))
	require.NoError(t, st.AuthorizeClientIDSecret(t.Context(), "web", webSecret))
}
