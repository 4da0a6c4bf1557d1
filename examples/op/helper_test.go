package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/internal/proctest"
)

// The test binary is the program too, for tests that need a process.
func TestMain(m *testing.M) {
	if os.Getenv("CURFEW_OP_TEST_RUN") != "" {
		main()
		return
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "32"); err != nil { // they wait for limits more than they work
		panic(err)
	}
	os.Exit(enginetest.Main(m))
}

// A server is the program, run in this process.
type server struct {
	t              *testing.T
	issuer         string
	stdout, stderr *proctest.Output
	end            func() error // ends it and returns run's error
}

const (
	alicePassword = "wonderland-1"
	rootPassword  = "owner-3"
	webSecret     = "web-secret"
	redirectURI   = "http://127.0.0.1:9999/cb"
)

// folder returns a folder with a users and a clients file, and the flags for it.
// Hashes are of the lowest cost: the tests are not about bcrypt.
func folder(t *testing.T) (dir string, args []string) {
	t.Helper()
	dir = t.TempDir()
	hash := func(password string) string { return cheapHash(t, password) }
	put(t, dir, "users.yaml", fmt.Sprintf(`
- {username: alice, password_hash: %q, sub: sub-alice, accounts: [default], groups: [], name: Alice Liddell, email: alice@example.com}
- {username: bob, password_hash: %q, sub: sub-bob}
- {username: root, password_hash: %q, sub: sub-root, roles: [administrator]}
`, hash(alicePassword), hash("builder-2"), hash(rootPassword)))
	put(t, dir, "clients.json", `[
{"client_id": "web", "client_secret": "`+webSecret+`", "type": "web", "redirect_uris": ["`+redirectURI+`"],
 "grant_types": ["authorization_code", "refresh_token", "client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"],
 "post_logout_redirect_uris": ["http://127.0.0.1:9999/bye"], "backchannel_logout_uri": ""},
{"client_id": "other", "client_secret": "other-secret", "type": "web", "redirect_uris": ["`+redirectURI+`"],
 "grant_types": ["authorization_code", "refresh_token"]},
{"client_id": "spa", "type": "spa", "redirect_uris": ["`+redirectURI+`"], "access_token_type": "jwt",
 "response_types": ["code", "id_token", "id_token token"], "grant_types": ["authorization_code", "refresh_token", "implicit"]},
{"client_id": "cli", "type": "native", "redirect_uris": ["http://127.0.0.1/cb"],
 "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]}]`)
	return dir, []string{
		"-listen", "127.0.0.1:0", "-users", filepath.Join(dir, "users.yaml"), "-clients", filepath.Join(dir, "clients.json"),
		"-keys", filepath.Join(dir, "keys.json"), "-store", "sqlite:" + filepath.Join(dir, "op.db"), "-signing-alg", "ES256",
	}
}

// cheapHash hashes a password at the lowest cost: tests are not about bcrypt.
func cheapHash(t *testing.T, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	require.NoError(t, err)
	return string(h)
}

func put(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func noEnv(string) string { return "" }

// start starts the program and waits until it says that it is ready.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t}
	p := proctest.Start(t, func(ctx context.Context, stdout, stderr io.Writer) error {
		return run(ctx, args, noEnv, stdout, stderr)
	}, func(p *proctest.Program) bool {
		_, rest, _ := strings.Cut(p.Stdout.String(), "The OpenID provider ")
		issuer, _, ok := strings.Cut(rest, " is ready.\n")
		s.issuer = issuer
		return ok
	})
	s.stdout, s.stderr, s.end = p.Stdout, p.Stderr, p.End
	return s
}

// A browser keeps cookies, and stops at the application.
type browser struct {
	t      *testing.T
	client *http.Client
	header http.Header // sent with each request
}

func newBrowser(t *testing.T) *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &browser{t, &http.Client{
		Jar: jar, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, http.Header{}}
}

// A page is where a browser is: a page of the provider, or an application's
// redirect URI, with params.
type page struct {
	status int
	header http.Header
	url    *url.URL
	body   string
	params url.Values
}

func (b *browser) get(address string) page {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodGet, address, nil)
	require.NoError(b.t, err)
	return b.do(req)
}

func (b *browser) post(address string, form url.Values) page {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodPost, address, strings.NewReader(form.Encode()))
	require.NoError(b.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(req)
}

func (b *browser) do(req *http.Request) page {
	b.t.Helper()
	p := b.once(req)
	for range 10 {
		if strings.Contains(p.body, `<form method="post" action="`+redirectURI+`">`) { // response_mode=form_post
			p.params = url.Values{}
			for _, tag := range inputTag.FindAllStringSubmatch(p.body, -1) {
				a := attributes(tag[1])
				p.params.Add(a["name"], a["value"])
			}
			return p
		}
		location := cmp.Or(p.header.Get("Location"), strings.TrimPrefix(p.header.Get("Refresh"), "0; url="))
		if location == "" || p.params != nil {
			return p
		}
		next, err := p.url.Parse(location)
		require.NoError(b.t, err)
		if next.Host != p.url.Host {
			p.url, p.params = next, next.Query()
			if next.Fragment != "" {
				p.params, err = url.ParseQuery(next.EscapedFragment())
				require.NoError(b.t, err)
			}
			return p
		}
		req, err = http.NewRequest(http.MethodGet, next.String(), nil)
		require.NoError(b.t, err)
		p = b.once(req)
	}
	require.Fail(b.t, "too many redirects")
	return p
}

// once makes one request and follows nothing.
func (b *browser) once(req *http.Request) page {
	b.t.Helper()
	for name, values := range b.header {
		req.Header[name] = values
	}
	p, err := b.try(req)
	require.NoError(b.t, err)
	return p
}

func (b *browser) try(req *http.Request) (page, error) {
	resp, err := b.client.Do(req)
	if err != nil {
		return page{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return page{status: resp.StatusCode, header: resp.Header, url: req.URL, body: string(body)}, err
}

// tryLogin signs alice in, from any goroutine.
func (b *browser) tryLogin(address string) (p page, err error) {
	next := func(method, address, body string) (page, error) {
		req, err := http.NewRequest(method, address, strings.NewReader(body))
		if err != nil {
			return page{}, err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return b.try(req)
	}
	if p, err = next(http.MethodGet, address, ""); err != nil {
		return p, err
	}
	login, err := p.url.Parse(p.header.Get("Location"))
	if err != nil {
		return p, err
	}
	form := url.Values{"id": {login.Query().Get("id")}, "username": {"alice"}, "password": {alicePassword}}
	if p, err = next(http.MethodPost, p.url.Scheme+"://"+p.url.Host+"/login", form.Encode()); err != nil {
		return p, err
	}
	if p, err = next(http.MethodGet, p.header.Get("Location"), ""); err != nil {
		return p, err
	}
	end, err := url.Parse(p.header.Get("Location"))
	if err != nil || end.Host == "" {
		return p, fmt.Errorf("%d %s: %w", p.status, p.body, err)
	}
	p.params = end.Query()
	return p, nil
}

var (
	formTag   = regexp.MustCompile(`(?s)<form([^>]*)>(.*?)</form>`)
	inputTag  = regexp.MustCompile(`<(?:input|button)([^>]*)>`)
	attribute = regexp.MustCompile(`([a-z]+)(?:="([^"]*)")?`)
)

func attributes(tag string) map[string]string {
	m := map[string]string{}
	for _, a := range attribute.FindAllStringSubmatch(tag, -1) {
		m[a[1]] = html.UnescapeString(a[2])
	}
	return m
}

// submit fills in the form on a page and presses its first button, or the one
// with the given value.
func (b *browser) submit(p page, values map[string]string, button ...string) page {
	b.t.Helper()
	form := formTag.FindStringSubmatch(p.body)
	require.NotNil(b.t, form, "no form on %s: %d %s", p.url, p.status, p.body)
	data := url.Values{}
	pressed := false
	for _, tag := range inputTag.FindAllStringSubmatch(form[2], -1) {
		a := attributes(tag[1])
		if a["type"] == "submit" {
			if !pressed && (len(button) == 0 || a["value"] == button[0]) {
				pressed = true
				if a["name"] != "" {
					data.Set(a["name"], a["value"])
				}
			}
			continue
		}
		data.Set(a["name"], a["value"])
	}
	require.True(b.t, pressed, "no button %q on %s", button, p.body)
	for name, value := range values {
		require.True(b.t, data.Has(name), "no input %q on %s", name, p.body)
		data.Set(name, value)
	}
	target, err := p.url.Parse(attributes(form[1])["action"])
	require.NoError(b.t, err)
	return b.post(target.String(), data)
}

func (b *browser) signIn(p page, username, password string) page {
	b.t.Helper()
	return b.submit(p, map[string]string{"username": username, "password": password})
}

var scopes = []string{oidc.ScopeOpenID, "profile", oidc.ScopeOfflineAccess}

// An app is a relying party.
type app struct {
	config   oauth2.Config
	provider *oidc.Provider
	verifier string
}

func (s *server) app(client string) *app {
	s.t.Helper()
	p, err := oidc.NewProvider(s.t.Context(), s.issuer)
	require.NoError(s.t, err)
	a := &app{provider: p, verifier: oauth2.GenerateVerifier(), config: oauth2.Config{
		ClientID: client, Endpoint: p.Endpoint(), RedirectURL: redirectURI, Scopes: scopes,
	}}
	a.config.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	switch client {
	case "web":
		a.config.ClientSecret, a.config.Endpoint.AuthStyle = webSecret, oauth2.AuthStyleInHeader
	case "other":
		a.config.ClientSecret = "other-secret"
	case "cli":
		a.config.RedirectURL = "http://127.0.0.1:45678/cb"
	}
	return a
}

func (a *app) url(options ...oauth2.AuthCodeOption) string {
	return a.config.AuthCodeURL("state-1", append(options, oidc.Nonce("nonce-1"), oauth2.S256ChallengeOption(a.verifier))...)
}

func (a *app) redeem(t *testing.T, code string) (*oauth2.Token, error) {
	t.Helper()
	return a.config.Exchange(t.Context(), code, oauth2.VerifierOption(a.verifier))
}

func (a *app) refresh(t *testing.T, token *oauth2.Token) (*oauth2.Token, error) {
	t.Helper()
	return a.config.TokenSource(t.Context(), &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
}

// login signs alice in with a new browser.
func (s *server) login(a *app) (*browser, *oauth2.Token) {
	s.t.Helper()
	b := newBrowser(s.t)
	p := b.signIn(b.get(a.url()), "alice", alicePassword)
	require.NotEmpty(s.t, p.params.Get("code"), "%d %s %s", p.status, p.url, p.body)
	token, err := a.redeem(s.t, p.params.Get("code"))
	require.NoError(s.t, err)
	return b, token
}

// claims verifies an ID token.
func (a *app) claims(t *testing.T, token *oauth2.Token) map[string]any {
	t.Helper()
	raw, ok := token.Extra("id_token").(string)
	require.True(t, ok, "no ID token")
	idToken, err := a.provider.VerifierContext(t.Context(), &oidc.Config{ClientID: a.config.ClientID, SupportedSigningAlgs: []string{"RS256", "ES256"}}).Verify(t.Context(), raw)
	require.NoError(t, err)
	claims := map[string]any{}
	require.NoError(t, idToken.Claims(&claims))
	return claims
}

// A reply is a JSON answer.
type reply struct {
	status int
	header http.Header
	body   string
	json   map[string]any
}

// api posts a form as a client; a client with a secret authenticates.
func (s *server) api(path, client, secret string, form url.Values) reply {
	s.t.Helper()
	if secret == "" && client != "" {
		form.Set("client_id", client)
	}
	req, err := http.NewRequest(http.MethodPost, s.issuer+path, strings.NewReader(form.Encode()))
	require.NoError(s.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if secret != "" {
		req.SetBasicAuth(client, secret)
	}
	return s.answer(req)
}

func (s *server) answer(req *http.Request) reply {
	s.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	require.NoError(s.t, resp.Body.Close())
	r := reply{status: resp.StatusCode, header: resp.Header, body: string(body)}
	_ = json.Unmarshal(body, &r.json) // not all answers are JSON
	return r
}

func (s *server) userinfo(token string) reply {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.issuer+"/userinfo", nil)
	require.NoError(s.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	return s.answer(req)
}

func (s *server) introspect(token string) reply {
	s.t.Helper()
	return s.api("/oauth/introspect", "web", webSecret, url.Values{"token": {token}})
}

const deviceGrantType = "urn:ietf:params:oauth:grant-type:device_code"

func (s *server) poll(deviceCode string) reply {
	s.t.Helper()
	return s.api("/oauth/token", "cli", "", url.Values{"grant_type": {deviceGrantType}, "device_code": {deviceCode}})
}

// exit runs the program with what it must not start with, and returns its exit
// code and what it says.
func exit(t *testing.T, getenv func(string) string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stdout, stderr := &proctest.Output{}, &proctest.Output{}
	code := exitCode(run(ctx, args, getenv, stdout, stderr), stderr)
	require.NoError(t, ctx.Err(), "it started: %s", stdout)
	return code, stdout.String() + stderr.String()
}

func b64(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }

func newMemoryRecords() kv.Store { return kv.NewMemory() }

func recordAt(key string, expires time.Time) kv.Record { return kv.Record{Key: key, Expires: expires} }
