package resource_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware/resource"
	"github.com/curfew-oidc/curfew/store/faultstore"
)

const (
	introspectionPath = "/oauth/introspect"
	keysPath          = "/keys"
	discoveryPath     = "/.well-known/openid-configuration"

	badToken  = `Bearer realm="api", error="invalid_token"`
	badHeader = `Bearer realm="api", error="invalid_request"`
)

func TestAuthorizationHeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.Login(optest.Web, "alice").AccessToken()
	jwt := w.Login(optest.JWT, "alice").AccessToken()
	for name, tt := range map[string]struct {
		headers   []string
		status    int
		challenge string
	}{
		"none":            {nil, 401, `Bearer realm="api"`},
		"empty":           {[]string{""}, 401, `Bearer realm="api"`},
		"basic":           {[]string{"Basic d2ViOndlYi1zZWNyZXQ="}, 401, `Bearer realm="api"`},
		"dpop":            {[]string{"DPoP " + good}, 401, `Bearer realm="api"`},
		"no scheme":       {[]string{good}, 401, `Bearer realm="api"`},
		"tab":             {[]string{"Bearer\t" + good}, 401, `Bearer realm="api"`},
		"no token":        {[]string{"Bearer"}, 400, badHeader},
		"blank token":     {[]string{"Bearer  "}, 400, badHeader},
		"padding alone":   {[]string{"Bearer ="}, 400, badHeader},
		"two words":       {[]string{"Bearer " + good + " " + good}, 400, badHeader},
		"a list":          {[]string{"Bearer " + good + ", Bearer " + good}, 400, badHeader},
		"a space behind":  {[]string{"Bearer " + good + " "}, 400, badHeader},
		"quoted":          {[]string{`Bearer "` + good + `"`}, 400, badHeader},
		"not ASCII":       {[]string{"Bearer " + good + "é"}, 400, badHeader},
		"a zero byte":     {[]string{"Bearer " + good + "\x00"}, 400, badHeader},
		"twice":           {[]string{"Bearer " + good, "Bearer " + good}, 400, badHeader},
		"twice, two ways": {[]string{"Basic x", "Bearer " + good}, 400, badHeader},
		"too long":        {[]string{"Bearer " + strings.Repeat("a", 16<<10+1)}, 401, badToken},
	} {
		t.Run(name, func(t *testing.T) {
			for _, api := range []*resource.Server{w.introspecting(t), w.verifying(t, acceptPlainJWT)} {
				before := w.count(introspectionPath) + w.count(keysPath)
				r := callAPI(t, api, tt.headers)
				require.Equal(t, tt.status, r.status)
				require.Equal(t, tt.challenge, r.challenge)
				require.Equal(t, before, w.count(introspectionPath)+w.count(keysPath), "nobody was asked")
			}
		})
	}
	for _, scheme := range []string{"bearer ", "BEARER ", "Bearer   "} {
		require.Equal(t, http.StatusOK, callAPI(t, w.introspecting(t), []string{scheme + good}).status)
		require.Equal(t, http.StatusOK, callAPI(t, w.verifying(t, acceptPlainJWT), []string{scheme + jwt}).status)
	}

	// Nowhere else is a token looked for.
	form := url.Values{"access_token": {good}}
	req := httptest.NewRequest(http.MethodPost, "/?"+form.Encode(), strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.AddCookie(&http.Cookie{Name: "access_token", Value: good})
	require.Equal(t, `Bearer realm="api"`, callAPIWith(t, w.introspecting(t), req).challenge)

	realm := w.introspecting(t, func(cfg *resource.Config) { cfg.Realm = "a \"b\" \\ c\r\nX: y" })
	require.Equal(t, `Bearer realm="a \"b\" \\ cX: y"`, callAPI(t, realm, nil).challenge)
}

func newECDSA(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

// A provider that is down is neither asked in a flood nor a verdict on a token.
func TestProviderDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		web, now := w.Login(optest.Web, "alice"), time.Now().Unix()
		long := w.sign(t, map[string]any{
			"iss": w.Issuer, "sub": "a", "aud": optest.JWT, "exp": now + 7200, "iat": now, "jti": "1", "client_id": "c",
		}, map[jose.HeaderKey]any{"typ": "at+jwt"})
		for _, tt := range []struct {
			name  string
			api   *resource.Server
			token string
		}{
			{"introspection", w.introspecting(t), web.AccessToken()},
			{"JWT", w.verifying(t), long},
		} {
			name := tt.name
			unavailable := func() {
				t.Helper()
				r := callAPI(t, tt.api, bearer(tt.token))
				require.Equal(t, http.StatusServiceUnavailable, r.status, name)
				require.Equal(t, "2", r.header.Get("Retry-After"))
				require.Empty(t, r.challenge)
				require.Equal(t, "server_error", r.body["error"])
			}
			w.down.Store(true)
			before := w.count(discoveryPath)
			for range 20 {
				unavailable()
			}
			require.Equal(t, before+1, w.count(discoveryPath))
			w.down.Store(false)
			time.Sleep(time.Second)
			require.Equal(t, http.StatusOK, callAPI(t, tt.api, bearer(tt.token)).status, "discovery is tried again")

			w.down.Store(true)
			require.Equal(t, http.StatusOK, callAPI(t, tt.api, bearer(tt.token)).status, "known, and fresh enough")
			if name == "introspection" {
				time.Sleep(30 * time.Second)
				unavailable()
			} else {
				time.Sleep(30 * time.Minute) // keys outlast an outage
				require.Equal(t, http.StatusOK, callAPI(t, tt.api, bearer(tt.token)).status)
				synctest.Wait()
				require.Equal(t, http.StatusOK, callAPI(t, tt.api, bearer(tt.token)).status)
			}
			w.down.Store(false)
			time.Sleep(time.Second)
			require.Equal(t, http.StatusOK, callAPI(t, tt.api, bearer(tt.token)).status)
		}

		// The provider is up and its store is down: 503 there, so 503 here.
		api := w.introspecting(t)
		web = w.Login(optest.Web, "alice")
		w.sessions.Script(faultstore.Always(faultstore.Before))
		require.Equal(t, http.StatusServiceUnavailable, callAPI(t, api, bearer(web.AccessToken())).status)
		w.sessions.Script(nil)
		require.Equal(t, http.StatusOK, callAPI(t, api, bearer(web.AccessToken())).status)

		// So is a provider that does not know this API: the operator's mistake, not the caller's.
		api = w.introspecting(t, func(cfg *resource.Config) { cfg.Introspection.ClientSecret = "wrong" })
		require.Equal(t, http.StatusServiceUnavailable, callAPI(t, api, bearer(web.AccessToken())).status)
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := func() resource.Config {
		return resource.Config{
			Issuer: "https://login.example.com", Introspection: &resource.Introspection{ClientID: "a", ClientSecret: "hunter2"},
		}
	}
	for _, issuer := range []string{"https://login.example.com", "http://login.localhost:9998", "http://[::1]:9998"} {
		cfg := good()
		cfg.Issuer = issuer
		_, err := resource.New(cfg)
		require.NoError(t, err, "nobody is asked yet")
	}
	for want, change := range map[string]func(*resource.Config){
		"Issuer is required": func(c *resource.Config) { c.Issuer = "" },
		"Issuer: \"http://login.example.com\" is not https": func(c *resource.Config) { c.Issuer = "http://login.example.com" },
		"Issuer: \"https://x/?y\" is not a URL":             func(c *resource.Config) { c.Issuer = "https://x/?y" },
		"Issuer: \"//x\" is not https":                      func(c *resource.Config) { c.Issuer = "//x" },
		"Audience is required":                              func(c *resource.Config) { c.Introspection = nil },
		"Introspection.ClientID is required":                func(c *resource.Config) { c.Introspection.ClientID = "" },
		"Introspection.ClientSecret is required":            func(c *resource.Config) { c.Introspection.ClientSecret = "" },
		"Introspection.AuthStyle: 7 is unknown":             func(c *resource.Config) { c.Introspection.AuthStyle = 7 },
		"Algorithms: \"HS256\" is not":                      func(c *resource.Config) { c.Algorithms = []jose.SignatureAlgorithm{"RS256", "HS256"} },
		"Algorithms: \"none\" is not":                       func(c *resource.Config) { c.Algorithms = []jose.SignatureAlgorithm{"none"} },
		"CacheSize is negative":                             func(c *resource.Config) { c.CacheSize = -1 },
		"Timeout is negative":                               func(c *resource.Config) { c.Timeout = -1 },
	} {
		cfg := good()
		change(&cfg)
		_, err := resource.New(cfg)
		require.ErrorIs(t, err, resource.ErrConfig)
		require.ErrorContains(t, err, "curfew: resource.Config."+want)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// An endpoint that is reached less safely than the issuer is not used.
func TestEndpointsAreSafe(t *testing.T) {
	t.Parallel()
	var discovery string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, discovery) }))
	t.Cleanup(server.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	for _, endpoint := range []string{"http://" + listener.Addr().String() + "/x", "ftp://x/", "/x"} {
		discovery = fmt.Sprintf(`{"issuer":%q,"jwks_uri":"https://x/keys","introspection_endpoint":%q}`, server.URL, endpoint)
		api, err := resource.New(resource.Config{
			Issuer: server.URL, HTTPClient: server.Client(),
			Introspection: &resource.Introspection{ClientID: "a", ClientSecret: "b"},
		})
		require.NoError(t, err)
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.Header.Set("Authorization", "Bearer token")
		_, err = api.Check(req)
		require.ErrorContains(t, err, "introspection_endpoint: it is not https")
	}
}

// The provider need not be ours: the example server of zitadel/oidc, without the
// hook, knows no sid and ends tokens by revocation.
func TestWithABareProvider(t *testing.T) {
	t.Parallel()
	const redirect = "http://127.0.0.1:9999/cb"
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	issuer := server.URL + "/"
	clients := map[string]*storage.Client{"web": storage.WebClient("web", "secret", redirect)}
	handler = exampleop.SetupServer(issuer, storage.NewStorageWithClients(storage.NewUserStore(issuer), clients), nil, false)

	config := oauth2.Config{ClientID: "web", ClientSecret: "secret", RedirectURL: redirect, Scopes: []string{"openid", "profile"},
		Endpoint: oauth2.Endpoint{AuthURL: issuer + "auth", TokenURL: issuer + "oauth/token", AuthStyle: oauth2.AuthStyleInHeader}}
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	location := func(resp *http.Response, err error) *url.URL {
		t.Helper()
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		u, err := resp.Location()
		require.NoError(t, err)
		return u
	}
	login := location(browser.Get(config.AuthCodeURL("s")))
	callback := location(browser.PostForm(server.URL+"/login/username", url.Values{
		"id": {login.Query().Get("authRequestID")}, "username": {"test-user2"}, "password": {"verysecure"},
	}))
	code := location(browser.Get(callback.String())).Query().Get("code")
	token, err := config.Exchange(t.Context(), code)
	require.NoError(t, err)

	api, err := resource.New(resource.Config{
		Issuer: issuer, CacheFor: -1, Introspection: &resource.Introspection{ClientID: "web", ClientSecret: "secret"},
	})
	require.NoError(t, err)
	r := callAPI(t, api, bearer(token.AccessToken), resource.Scopes("profile"))
	require.Equal(t, http.StatusOK, r.status)
	require.Equal(t, "id2", r.body["sub"])
	require.Empty(t, r.body["sid"])
	require.Equal(t, badToken, callAPI(t, api, bearer(token.Extra("id_token").(string))).challenge)

	req, err := http.NewRequest(http.MethodPost, issuer+"revoke", strings.NewReader(url.Values{"token": {token.AccessToken}}.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("web", "secret")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, badToken, callAPI(t, api, bearer(token.AccessToken)).challenge)
}
