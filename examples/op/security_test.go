package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// Forms that another website sends are refused, with whatever the browser says
// about them.
func TestCrossSiteForms(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	b, _ := s.login(a)
	device := s.api("/device_authorization", "cli", "", url.Values{"scope": {"openid"}})
	userCode := device.json["user_code"].(string)
	confirm := b.signIn(b.submit(b.get(device.json["verification_uri_complete"].(string)), nil), "alice", alicePassword)
	token := attributes(inputTag.FindStringSubmatch(confirm.body)[1])["value"]
	require.NotEmpty(t, token)
	login := newBrowser(t).get(a.url())

	for name, form := range map[string]url.Values{
		"/signout":        {},
		"/login":          {"id": {login.url.Query().Get("id")}, "username": {"alice"}, "password": {alicePassword}},
		"/device":         {"user_code": {userCode}},
		"/device/login":   {"user_code": {userCode}, "username": {"alice"}, "password": {alicePassword}},
		"/device/confirm": {"token": {token}, "action": {"approve"}},
	} {
		for _, header := range []http.Header{
			{"Sec-Fetch-Site": {"cross-site"}},
			{"Sec-Fetch-Site": {"same-site"}},
			{"Origin": {"https://evil.example"}},
			{"Origin": {"null"}},
			{"Sec-Fetch-Site": {"cross-site"}, "Origin": {s.issuer + ".evil.example"}},
		} {
			b.header = header
			p := b.post(s.issuer+name, form)
			require.Equal(t, http.StatusForbidden, p.status, "%s %v", name, header)
			require.Contains(t, p.body, "another website")
		}
		b.header = nil
		if name != "/signout" && name != "/device" { // a link does nothing either
			require.GreaterOrEqual(t, b.get(s.issuer+name+"?"+form.Encode()).status, 200)
		}
	}
	b.header = http.Header{}
	require.Equal(t, http.StatusMethodNotAllowed, b.get(s.issuer+"/signout").status)
	require.Equal(t, http.StatusMethodNotAllowed, b.get(s.issuer+"/device/confirm?action=approve&token="+token).status)
	require.Contains(t, b.get(s.issuer+"/").body, "You are signed in as alice")
	require.Equal(t, "authorization_pending", s.poll(device.json["device_code"].(string)).json["error"])

	// Our own forms, as browsers send them.
	for _, header := range []http.Header{{"Sec-Fetch-Site": {"same-origin"}}, {"Origin": {s.issuer}}} {
		b.header = header
		p := b.signIn(b.get(a.url(oauth2.SetAuthURLParam("prompt", "login"))), "alice", alicePassword)
		require.NotEmpty(t, p.params.Get("code"))
	}
	// The session cookie goes along with no form of another site.
	req, err := http.NewRequest(http.MethodPost, s.issuer+"/login", strings.NewReader(url.Values{
		"id": {login.url.Query().Get("id")}, "username": {"alice"}, "password": {alicePassword},
	}.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	require.Equal(t, http.StatusForbidden, newBrowser(t).once(req).status)
}

func TestOpenRedirects(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	b := newBrowser(t)
	for _, uri := range []string{
		"https://evil.example/cb", "http://127.0.0.1:9999/cb/..", "http://127.0.0.1:9999/cb?x=y", "http://127.0.0.1:9998/cb",
		"http://127.0.0.1:9999@evil.example/cb", "//evil.example", "javascript:alert(1)", "http://127.0.0.1:9999/cb%00", "",
	} {
		p := b.get(a.url(oauth2.SetAuthURLParam("redirect_uri", uri)))
		require.Equal(t, http.StatusBadRequest, p.status, uri)
		require.Empty(t, p.header.Get("Location"), uri)
		require.Contains(t, p.header.Get("Content-Type"), "text/html", uri)
		require.Contains(t, p.body, "Go back to the application", uri)
		require.NotContains(t, p.body, "evil", uri)
	}
	p := b.get(a.url(oauth2.SetAuthURLParam("client_id", "nobody")))
	require.Equal(t, http.StatusBadRequest, p.status)

	cli := s.app("cli")
	for _, uri := range []string{"http://evil.example/cb", "http://127.0.0.1.evil.example/cb", "http://127.0.0.1/other"} {
		p := b.get(cli.url(oauth2.SetAuthURLParam("redirect_uri", uri)))
		require.Equal(t, http.StatusBadRequest, p.status, uri)
	}

	_, token := s.login(a)
	idToken := token.Extra("id_token").(string)
	for _, query := range []url.Values{
		{"id_token_hint": {idToken}, "post_logout_redirect_uri": {"https://evil.example/"}},
		{"client_id": {"web"}, "post_logout_redirect_uri": {"https://evil.example/"}},
		{"id_token_hint": {"garbage"}, "post_logout_redirect_uri": {"http://127.0.0.1:9999/bye"}},
		{"id_token_hint": {idToken}, "client_id": {"spa"}},
	} {
		p := b.get(s.issuer + "/end_session?" + query.Encode())
		require.Equal(t, http.StatusBadRequest, p.status, query)
		require.Contains(t, p.body, "could not sign you out", query)
	}
	// Nobody is signed out by a link alone.
	p = b.get(s.issuer + "/end_session?" + url.Values{"client_id": {"web"}, "post_logout_redirect_uri": {"http://127.0.0.1:9999/bye"}}.Encode())
	require.Equal(t, "http://127.0.0.1:9999/bye", p.url.String(), "a registered address, and nobody to sign out here")
	_, err := a.refresh(t, token)
	require.NoError(t, err)
	p = b.get(s.issuer + "/end_session?" + url.Values{"id_token_hint": {idToken}, "post_logout_redirect_uri": {"http://127.0.0.1:9999/bye"}, "state": {"x"}}.Encode())
	require.Equal(t, "http://127.0.0.1:9999/bye?state=x", p.url.String())
}

func TestHeaders(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	b := newBrowser(t)
	login := b.get(s.app("web").url())
	for _, p := range []page{
		b.get(s.issuer + "/"), login, b.get(s.issuer + "/device"), b.get(s.issuer + "/authorize?client_id=x"), b.signIn(login, "alice", "wrong"),
	} {
		csp := p.header.Get("Content-Security-Policy")
		require.Contains(t, csp, "default-src 'none'", p.url)
		require.Contains(t, csp, "frame-ancestors 'none'", p.url)
		require.Contains(t, csp, "form-action 'self'", p.url)
		require.NotContains(t, csp, "unsafe", p.url)
		require.NotContains(t, csp, "script-src", p.url)
		require.NotContains(t, p.body, "<script", p.url)
		require.NotContains(t, p.body, "style=", p.url)
		require.Equal(t, "nosniff", p.header.Get("X-Content-Type-Options"), p.url)
		require.Equal(t, "no-store", p.header.Get("Cache-Control"), p.url)
		require.Equal(t, "same-origin", p.header.Get("Referrer-Policy"), p.url)
		require.Contains(t, p.body, `<html lang="en">`, p.url)
		for _, tag := range inputTag.FindAllStringSubmatch(p.body, -1) {
			if a := attributes(tag[1]); a["type"] == "text" || a["type"] == "password" {
				require.Contains(t, p.body, `<label for="`+a["id"]+`">`, p.url)
			}
		}
	}
	require.Contains(t, login.header.Get("Content-Security-Policy"), "form-action 'self' http://127.0.0.1:9999")
	p := b.get(s.issuer + "/static/style.css")
	require.Contains(t, p.header.Get("Content-Type"), "text/css")
	require.Contains(t, p.body, "prefers-color-scheme: dark")
	require.Equal(t, "frame-ancestors 'none'", b.get(s.issuer+"/keys").header.Get("Content-Security-Policy"))
}

func TestHostileForms(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	b := newBrowser(t)
	login := b.get(s.app("web").url())
	id := login.url.Query().Get("id")
	long := strings.Repeat("x", maxBody+1)
	odd := []string{"", "\x00", "' OR 1=1 --", "<script>alert(1)</script>", "../../etc/passwd", "%", strings.Repeat("a", 5000), "\xff\xfe", "ａｌｉｃｅ", "{{.}}", "a\r\nSet-Cookie: x=y"}
	for _, v := range odd {
		for path, forms := range map[string][]url.Values{
			"/login": {
				{"id": {v}, "username": {"alice"}, "password": {alicePassword}}, {"id": {id}, "username": {v}, "password": {"x"}},
				{"id": {id}, "username": {"alice"}, "password": {v}}, {"id": {v}, "action": {"cancel"}},
			},
			"/device":             {{"user_code": {v}}},
			"/device/login":       {{"user_code": {v}, "username": {v}, "password": {v}}},
			"/device/confirm":     {{"token": {v}, "action": {"approve"}}, {"token": {"x"}, "action": {v}}},
			"/authorize/callback": {{"id": {v}}},
		} {
			for _, form := range forms {
				p := b.post(s.issuer+path, form)
				require.GreaterOrEqual(t, p.status, 400, "%s %q", path, v)
				require.Less(t, p.status, 500, "%s %q", path, v)
				require.NotContains(t, p.body, "<script")
				require.Empty(t, p.header.Get("Set-Cookie"))
			}
		}
		require.Less(t, b.get(s.issuer+"/login?id="+url.QueryEscape(v)).status, 500)
		require.Less(t, b.get(s.issuer+"/device?user_code="+url.QueryEscape(v)).status, 500)
		req, err := http.NewRequest(http.MethodGet, s.issuer+"/", nil)
		require.NoError(t, err)
		req.Header.Set("Cookie", "curfew-session-00000000="+url.QueryEscape(v))
		require.Equal(t, http.StatusOK, b.once(req).status)
	}
	for _, path := range []string{"/login", "/device", "/device/login", "/device/confirm", "/authorize/callback"} {
		p := b.post(s.issuer+path, url.Values{"id": {id}, "username": {long}})
		require.Equal(t, http.StatusRequestEntityTooLarge, p.status, path)
	}
	require.GreaterOrEqual(t, s.api("/oauth/token", "cli", "", url.Values{"grant_type": {long}}).status, 400)

	// A form that is no form.
	for _, body := range []string{"%zz", "a=b;c=d", "\x00\x01"} {
		req, err := http.NewRequest(http.MethodPost, s.issuer+"/login", strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		p := b.once(req)
		require.Equal(t, http.StatusBadRequest, p.status, body)
	}
	// The password in the address is not taken.
	req, err := http.NewRequest(http.MethodPost, s.issuer+"/login?"+url.Values{"id": {id}, "username": {"alice"}, "password": {alicePassword}}.Encode(), http.NoBody)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, b.once(req).status)
}

func TestThrottle(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	tr := newThrottle(3, 10*time.Second)
	for range 3 {
		require.Zero(t, tr.wait("a", now))
		tr.fail("a", now)
	}
	require.Equal(t, 10*time.Second, tr.wait("a", now))
	require.Equal(t, time.Second, tr.wait("a", now.Add(9*time.Second)).Round(time.Millisecond))
	require.Zero(t, tr.wait("a", now.Add(10*time.Second)))
	require.Zero(t, tr.wait("b", now))
	tr.fail("a", now.Add(10*time.Second))
	require.Equal(t, 10*time.Second, tr.wait("a", now.Add(10*time.Second)).Round(time.Millisecond), "one more, not three")
	require.Zero(t, tr.wait("a", now.Add(time.Hour)))

	// Many names do not fill the memory, and are forgotten when they are harmless.
	for i := range maxBuckets + 10 {
		tr.fail(strconv.Itoa(i), now)
	}
	require.Equal(t, maxBuckets, len(tr.buckets))
	tr.fail("late", now.Add(time.Hour))
	require.Equal(t, 1, len(tr.buckets))

	for remote, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1", "[2001:db8:1:2:3::4]:5": "2001:db8:1:2::/64", "[::ffff:192.0.2.1]:5": "192.0.2.1", "odd": "odd", "host:1": "host",
	} {
		require.Equal(t, want, addressOf(&http.Request{RemoteAddr: remote}))
	}
}

func TestGuessing(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	b := newBrowser(t)
	p := b.get(a.url())
	for tries := 0; p.status != http.StatusTooManyRequests; tries++ {
		require.Less(t, tries, 20)
		require.Contains(t, []int{http.StatusOK, http.StatusUnauthorized}, p.status)
		p = b.signIn(p, "alice", "wrong")
	}
	require.NotEmpty(t, p.header.Get("Retry-After"))
	require.Contains(t, p.body, "Please wait")
	p = b.signIn(p, "alice", alicePassword)
	require.Equal(t, http.StatusTooManyRequests, p.status, "the right one does not get through either")
	p = b.signIn(p, "root", rootPassword)
	require.NotEmpty(t, p.params.Get("code"), "others do")

	p = b.get(s.issuer + "/device")
	for tries := 0; p.status != http.StatusTooManyRequests; tries++ {
		require.Less(t, tries, 40)
		p = b.submit(p, map[string]string{"user_code": "BBBB-BBBB"})
	}
	require.NotEmpty(t, p.header.Get("Retry-After"))
}

func TestUnknownUserTakesAsLong(t *testing.T) {
	us, err := newUsers([]*user{{Username: "a", Password: "p", Subject: "a"}})
	require.NoError(t, err)
	u := us.byName["a"]
	require.Empty(t, u.Password, "the plain password is gone")
	require.Equal(t, u.PasswordHash[:7], string(us.nobody[:7]), "the same kind of hash, at the same cost")
	_, err = us.authenticate("a", "p")
	require.NoError(t, err)
	for _, password := range []string{"", "P", "p ", strings.Repeat("p", 73), "nobody has this password"} {
		for _, name := range []string{"a", "A", "b", ""} {
			_, err := us.authenticate(name, password)
			require.ErrorIs(t, err, errWrongPassword, "%q %q", name, password)
		}
	}
	// bcrypt looks at 72 bytes: what comes after them must not be ignored.
	long := strings.Repeat("x", 72)
	us, err = newUsers([]*user{{Username: "a", Password: long, Subject: "a"}})
	require.NoError(t, err)
	_, err = us.authenticate("a", long)
	require.NoError(t, err)
	_, err = us.authenticate("a", long+"y")
	require.ErrorIs(t, err, errWrongPassword)
}

// brokenRecords are records that cannot be had for a while.
type brokenRecords struct {
	kv.Store
	broken atomic.Bool
}

var errBroken = errors.New("disk on fire")

func (b *brokenRecords) Get(ctx context.Context, key string) (kv.Record, error) {
	if b.broken.Load() {
		return kv.Record{}, errBroken
	}
	return b.Store.Get(ctx, key)
}

func (b *brokenRecords) Put(ctx context.Context, r kv.Record) error {
	if b.broken.Load() {
		return errBroken
	}
	return b.Store.Put(ctx, r)
}

func (b *brokenRecords) Delete(ctx context.Context, key string) error {
	if b.broken.Load() {
		return errBroken
	}
	return b.Store.Delete(ctx, key)
}

// A store that cannot answer is no logout: everybody is asked to try again, and
// what they hold works afterwards.
func TestOutage(t *testing.T) {
	dir, _ := folder(t)
	records := &brokenRecords{Store: kv.NewMemory()}
	sessions := faultstore.New(memstore.New())
	db := &database{sessions: sessions, records: records}
	us, clients, err := readPeople(config{users: filepath.Join(dir, "users.yaml"), clients: filepath.Join(dir, "clients.json")})
	require.NoError(t, err)
	keys, err := openKeys(t.Context(), filepath.Join(dir, "keys.json"), "ES256", db.sessions, false, time.Now())
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{t: t, issuer: "http://" + listener.Addr().String()}
	st := &storage{kv: records, users: us, clients: clients, keys: keys}
	srv, _, err := newServer(t.Context(), s.issuer, st, db, storedSettings{db.sessions}, provider.Logout{}, administration{}, provider.Audit(testLog(t)), testLog(t))
	require.NoError(t, err)
	go func() { _ = srv.Serve(listener) }() // ends with Close
	t.Cleanup(func() { require.NoError(t, srv.Close()) })

	a := s.app("web")
	b, token := s.login(a)
	fresh := newBrowser(t)
	code := fresh.signIn(fresh.get(a.url()), "alice", alicePassword).params.Get("code")
	waiting := newBrowser(t)
	login := waiting.get(a.url())
	device := s.api("/device_authorization", "cli", "", url.Values{"scope": {"openid"}})
	deviceCode := device.json["device_code"].(string)
	refresh := func() reply {
		return s.api("/oauth/token", "web", webSecret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken}})
	}
	redeem := func() reply {
		return s.api("/oauth/token", "web", webSecret, url.Values{
			"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirectURI}, "code_verifier": {a.verifier},
		})
	}

	// The sessions cannot be had.
	sessions.Script(faultstore.Always(faultstore.Before))
	for name, r := range map[string]reply{
		"refresh": refresh(), "code": redeem(), "userinfo": s.userinfo(token.AccessToken), "introspection": s.introspect(token.AccessToken),
	} {
		require.Equal(t, http.StatusServiceUnavailable, r.status, "%s: %s", name, r.body)
		require.NotEmpty(t, r.header.Get("Retry-After"), name)
	}
	for name, p := range map[string]page{
		"home": b.get(s.issuer + "/"), "sign out": b.post(s.issuer+"/signout", nil),
		"end session": b.get(s.issuer + "/end_session?" + url.Values{"id_token_hint": {token.Extra("id_token").(string)}}.Encode()),
	} {
		require.Equal(t, http.StatusServiceUnavailable, p.status, "%s: %s", name, p.body)
		require.Contains(t, p.body, "Nothing is lost", name)
	}
	sessions.Script(nil)

	// What the provider keeps beside them cannot be had.
	records.broken.Store(true)
	for name, r := range map[string]reply{
		"refresh": refresh(), "code": redeem(), "device": s.poll(deviceCode),
		"userinfo": s.userinfo(token.AccessToken), "introspection": s.introspect(token.AccessToken),
		"revocation":   s.api("/revoke", "web", webSecret, url.Values{"token": {token.AccessToken}}),
		"start device": s.api("/device_authorization", "cli", "", url.Values{}),
	} {
		require.Equal(t, http.StatusServiceUnavailable, r.status, "%s: %s", name, r.body)
		require.Equal(t, "server_error", r.json["error"], name)
		require.NotEmpty(t, r.header.Get("Retry-After"), name)
		require.NotContains(t, r.body, "fire", name)
	}
	for name, p := range map[string]page{
		"login": waiting.get(login.url.String()), "sign in": waiting.signIn(login, "alice", alicePassword),
		"device":   waiting.post(s.issuer+"/device", url.Values{"user_code": {"BBBB-BBBB"}}),
		"callback": waiting.get(s.issuer + "/authorize/callback?id=x"),
	} {
		require.Equal(t, http.StatusServiceUnavailable, p.status, name)
		require.Contains(t, p.body, "Nothing is lost", name)
		require.NotContains(t, p.body, "fire", name)
	}
	require.Equal(t, "server_error", b.get(a.url()).params.Get("error"), "an application is told by redirect")
	require.Contains(t, b.get(s.issuer+"/").body, "You are signed in as alice", "the sessions say so")

	records.broken.Store(false)
	require.Equal(t, http.StatusOK, redeem().status)
	require.Equal(t, http.StatusOK, s.userinfo(token.AccessToken).status)
	require.Equal(t, http.StatusOK, refresh().status)
	require.Equal(t, "authorization_pending", s.poll(deviceCode).json["error"])
	require.NotEmpty(t, waiting.signIn(login, "alice", alicePassword).params.Get("code"))
}

// A user who is taken out of the users file is signed out, and told so.
func TestRemovedUser(t *testing.T) {
	dir, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	_, token := s.login(a)
	users, err := os.ReadFile(filepath.Join(dir, "users.yaml"))
	require.NoError(t, err)
	put(t, dir, "users.yaml", strings.ReplaceAll(strings.ReplaceAll(string(users), "alice,", "carol,"), "sub-alice", "sub-carol"))
	s = restart(s, args) // at the same address: another issuer knows nobody
	require.GreaterOrEqual(t, s.userinfo(token.AccessToken).status, 400)
	require.NotEqual(t, true, s.introspect(token.AccessToken).json["active"])
	_, err = a.refresh(t, token)
	require.ErrorContains(t, err, "account_disabled")
}

// Nothing secret is in the log or in the files of the database, whatever happens.
func TestNoSecretAnywhere(t *testing.T) {
	for name, newStore := range sharedStores {
		t.Run(name, func(t *testing.T) { testNoSecretAnywhere(t, newStore(t)) })
	}
}

func testNoSecretAnywhere(t *testing.T, spec string) {
	dir, args := folder(t)
	s := start(t, append(args, "-store", spec)...)
	secrets := map[string]string{
		"alice's password": alicePassword, "a wrong password": "mistyped-password-1", "a password as username": "password-in-the-wrong-field",
		"client secret": webSecret, "a wrong client secret": "wrong-client-secret", "application's state": "state-1",
	}
	note := func(name, value string) {
		t.Helper()
		require.NotEmpty(t, value, name)
		secrets[name] = value
	}
	tokens := func(name string, r map[string]any) {
		t.Helper()
		for _, kind := range []string{"access_token", "refresh_token", "id_token"} {
			note(name+" "+kind, r[kind].(string))
		}
	}
	for _, client := range []string{"web", "spa"} {
		a := s.app(client)
		b := newBrowser(t)
		p := b.signIn(b.get(a.url()), "alice", "mistyped-password-1")
		p = b.signIn(p, "password-in-the-wrong-field", "x")
		p = b.signIn(p, "alice", alicePassword)
		code := p.params.Get("code")
		note(client+" code", code)
		note(client+" verifier", a.verifier)
		u, err := url.Parse(s.issuer)
		require.NoError(t, err)
		cookies := b.client.Jar.Cookies(u)
		require.Len(t, cookies, 3)
		for _, cookie := range cookies {
			note(client+" "+cookie.Name, cookie.Value)
		}
		form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirectURI}, "code_verifier": {a.verifier}}
		secret := map[string]string{"web": webSecret}[client]
		r := s.api("/oauth/token", client, secret, maps.Clone(form))
		require.Equal(t, http.StatusOK, r.status, r.body)
		tokens(client+" first", r.json)
		refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {r.json["refresh_token"].(string)}}
		next := s.api("/oauth/token", client, secret, maps.Clone(refresh))
		require.Equal(t, http.StatusOK, next.status, next.body)
		tokens(client+" second", next.json)
		s.userinfo(next.json["access_token"].(string))
		s.introspect(next.json["access_token"].(string))
		s.userinfo(next.json["access_token"].(string) + "x")
		s.api("/oauth/token", client, secret, maps.Clone(refresh)) // a repeat
		s.api("/oauth/token", client, secret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {next.json["refresh_token"].(string) + "x"}})
		s.api("/oauth/token", client, secret, maps.Clone(form)) // a reused code ends the session
		s.api("/oauth/token", client, secret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {next.json["refresh_token"].(string)}})
		s.api("/oauth/token", "web", "wrong-client-secret", url.Values{"grant_type": {"authorization_code"}, "code": {code}})
		s.api("/revoke", "other", "other-secret", url.Values{"token": {next.json["refresh_token"].(string)}})
		b.get(a.url(oauth2.SetAuthURLParam("prompt", "none")))
		b.get(a.url(oauth2.SetAuthURLParam("redirect_uri", "https://evil.example")))
		b.get(s.issuer + "/authorize/callback?id=" + code)
	}
	device := s.api("/device_authorization", "cli", "", url.Values{"scope": {"openid profile offline_access"}})
	note("device code", device.json["device_code"].(string))
	note("user code", device.json["user_code"].(string))
	b := newBrowser(t)
	p := b.signIn(b.submit(b.get(device.json["verification_uri_complete"].(string)), nil), "alice", alicePassword)
	note("confirmation", attributes(inputTag.FindStringSubmatch(p.body)[1])["value"])
	b.submit(p, nil)
	r := s.poll(device.json["device_code"].(string))
	require.Equal(t, http.StatusOK, r.status, r.body)
	tokens("device", r.json)
	require.NoError(t, s.end())

	said := s.stdout.String() + s.stderr.String()
	require.Contains(t, said, "session_ended", "the log is on")
	require.Contains(t, said, "sign-in failed")
	if password := passwordOf(t, spec); password != "" {
		note("the password of the store", password)
	}
	for name, secret := range secrets {
		require.NotContains(t, said, secret, name)
	}

	keys, err := loadKeys(filepath.Join(dir, "keys.json"))
	require.NoError(t, err)
	for _, k := range keys.sealing {
		text, err := k.MarshalText()
		require.NoError(t, err)
		secrets["sealing key"] = string(text[len(text)-43:])
	}
	secrets["crypto key"] = string(keys.crypto[:])
	delete(secrets, "application's state") // it is the application's, and in the auth request until that is used
	kept := contents(t, spec)
	for name, secret := range secrets {
		require.NotContains(t, kept, secret, name)
	}
	require.Contains(t, kept, "sub-alice", "it is the store")
}

// contents returns all that is in a store.
func contents(t *testing.T, spec string) string {
	t.Helper()
	var kept bytes.Buffer
	if path, ok := strings.CutPrefix(spec, "sqlite:"); ok {
		files, err := filepath.Glob(path + "*")
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			body, err := os.ReadFile(file)
			require.NoError(t, err)
			kept.Write(body)
		}
		return kept.String()
	}
	at, err := parseStore(spec)
	require.NoError(t, err)
	if at.postgres != nil {
		conn, err := pgx.ConnectConfig(t.Context(), at.postgres.ConnConfig)
		require.NoError(t, err)
		defer conn.Close(context.Background())
		rows, err := conn.Query(t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`)
		require.NoError(t, err)
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		for _, table := range tables {
			_, err := conn.PgConn().CopyTo(t.Context(), &kept, "COPY "+table+" TO STDOUT (FORMAT binary)")
			require.NoError(t, err, table)
		}
		return kept.String()
	}
	var mu sync.Mutex
	dump := func(ctx context.Context, c *redis.Client) error {
		keys, err := c.Keys(ctx, "*").Result()
		for _, key := range keys {
			var value any
			switch kind := c.Type(ctx, key).Val(); kind {
			case "string":
				value, err = c.Get(ctx, key).Result()
			case "hash":
				value, err = c.HGetAll(ctx, key).Result()
			case "zset":
				value, err = c.ZRange(ctx, key, 0, -1).Result()
			case "set":
				value, err = c.SMembers(ctx, key).Result()
			case "list":
				value, err = c.LRange(ctx, key, 0, -1).Result()
			default:
				err = fmt.Errorf("%s is a %s", key, kind)
			}
			if err != nil {
				return err
			}
			mu.Lock()
			fmt.Fprintln(&kept, key, value)
			mu.Unlock()
		}
		return err
	}
	client := redis.NewUniversalClient(at.redis)
	defer client.Close()
	switch client := client.(type) {
	case *redis.Client:
		require.NoError(t, dump(t.Context(), client))
	case *redis.ClusterClient:
		require.NoError(t, client.ForEachMaster(t.Context(), dump))
	default:
		require.Fail(t, "unknown client")
	}
	return kept.String()
}
