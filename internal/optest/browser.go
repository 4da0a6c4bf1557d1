package optest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/storage"
	zoidc "github.com/zitadel/oidc/v3/pkg/oidc"
	"golang.org/x/oauth2"
)

// Scope is what [Browser.Authorize] asks for unless told otherwise.
const Scope = "openid profile email offline_access"

// verifier is the PKCE verifier of every request. Tests hide nothing.
const verifier = "optest-optest-optest-optest-optest-optest-verifier"

// A Browser is one user agent, with its cookies.
type Browser struct {
	HTTP      *http.Client
	UserAgent string // of its requests; empty: Go's own
	s         *Server
}

// Browser returns a new browser, without cookies.
func (s *Server) Browser() *Browser { return s.BrowserFrom("127.0.0.1") }

// BrowserFrom returns a new browser at an address; see [Server.ClientFrom].
func (s *Server) BrowserFrom(address string) *Browser {
	client := s.ClientFrom(address)
	jar, err := cookiejar.New(nil)
	require.NoError(s.t, err)
	client.Jar = jar
	return &Browser{HTTP: client, s: s}
}

// A Visit is where a browser stands after redirects: at the application if
// Params is not nil, else at a page of the provider.
type Visit struct {
	Status   int
	Header   http.Header
	Body     string
	URL      string     // the page, or the redirect to the application
	Params   url.Values // what the application gets: query, fragment or form
	Callback string     // the provider's callback that was visited; it can be visited again
}

// Code, Error and Description are what the application got.
func (v Visit) Code() string        { return v.Params.Get("code") }
func (v Visit) Error() string       { return v.Params.Get("error") }
func (v Visit) Description() string { return v.Params.Get("error_description") }

// AtForm reports whether the provider asks the user something.
func (v Visit) AtForm() bool { return v.Params == nil && strings.Contains(v.Body, `name="password"`) }

// AuthorizeURL returns the address of an authorization request: code with
// PKCE, [Scope], a state and a nonce. extra replaces parameters; an empty value
// removes one.
func (s *Server) AuthorizeURL(client string, extra url.Values) string {
	q := url.Values{
		"client_id": {client}, "redirect_uri": {RedirectURI}, "response_type": {"code"}, "scope": {Scope},
		"state": {"state-1"}, "nonce": {"nonce-1"},
		"code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)}, "code_challenge_method": {"S256"},
	}
	for k, v := range extra {
		if q[k] = v; len(v) == 0 || v[0] == "" {
			delete(q, k)
		}
	}
	return s.Issuer + "/authorize?" + q.Encode()
}

// Authorize makes an authorization request, and stops at the sign-in page or
// at the application.
func (b *Browser) Authorize(client string, extra url.Values) Visit {
	b.s.t.Helper()
	return b.Get(b.s.AuthorizeURL(client, extra))
}

// Login makes an authorization request, signs the user in where the provider
// asks for it, and ends at the application, or at a page with an error.
func (b *Browser) Login(client, user string, extra url.Values) Visit {
	b.s.t.Helper()
	v := b.Authorize(client, extra)
	if v.AtForm() {
		return b.SignIn(v, user)
	}
	return v
}

// SignIn fills in the form at which v stands.
func (b *Browser) SignIn(v Visit, user string) Visit {
	b.s.t.Helper()
	form := inputs(v.Body)
	form.Set("username", user)
	form.Set("password", Password)
	action := attribute(v.Body, "action")
	require.NotEmpty(b.s.t, action, "no form at %s: %d %s", v.URL, v.Status, v.Body)
	req, err := http.NewRequest(http.MethodPost, b.s.Issuer+action, strings.NewReader(form.Encode()))
	require.NoError(b.s.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.follow(req)
}

// Submit posts the hidden inputs of the form at which v stands, and form, and
// follows redirects up to the application.
func (b *Browser) Submit(v Visit, form url.Values) Visit {
	b.s.t.Helper()
	values := url.Values{}
	for _, tag := range inputTag.FindAllString(v.Body, -1) {
		if attribute(tag, "type") == "hidden" {
			values.Set(attribute(tag, "name"), attribute(tag, "value"))
		}
	}
	for name, list := range form {
		values[name] = list
	}
	page, err := url.Parse(v.URL)
	require.NoError(b.s.t, err)
	action, err := page.Parse(attribute(v.Body, "action"))
	require.NoError(b.s.t, err)
	return b.Post(action.String(), "application/x-www-form-urlencoded", values.Encode())
}

// Post posts a body to an address, and follows redirects up to the application.
func (b *Browser) Post(address, contentType, body string) Visit {
	b.s.t.Helper()
	req, err := http.NewRequest(http.MethodPost, address, strings.NewReader(body))
	require.NoError(b.s.t, err)
	req.Header.Set("Content-Type", contentType)
	return b.follow(req)
}

// Get visits an address, and follows redirects up to the application.
func (b *Browser) Get(address string) Visit {
	b.s.t.Helper()
	req, err := http.NewRequest(http.MethodGet, address, nil)
	require.NoError(b.s.t, err)
	return b.follow(req)
}

func (b *Browser) follow(req *http.Request) Visit {
	t := b.s.t
	t.Helper()
	var v Visit
	for range 10 {
		if b.UserAgent != "" {
			req.Header.Set("User-Agent", b.UserAgent)
		}
		resp, err := b.HTTP.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		v.Status, v.Header, v.Body, v.URL = resp.StatusCode, resp.Header, string(body), req.URL.String()
		if strings.HasSuffix(req.URL.Path, "/callback") {
			v.Callback = v.URL
		}
		if action := attribute(v.Body, "action"); strings.HasPrefix(action, RedirectURI) {
			v.Params = inputs(v.Body) // response_mode=form_post
			return v
		}
		location := cmp.Or(resp.Header.Get("Location"), strings.TrimPrefix(resp.Header.Get("Refresh"), "0; url="))
		if location == "" {
			return v
		}
		next, err := req.URL.Parse(location)
		require.NoError(t, err)
		if base := next.Scheme + "://" + next.Host + next.Path; base == RedirectURI || base == PostLogoutURI {
			v.URL, v.Params = next.String(), next.Query()
			if next.Fragment != "" {
				v.Params, err = url.ParseQuery(next.EscapedFragment())
				require.NoError(t, err)
			}
			return v
		}
		req, err = http.NewRequest(http.MethodGet, next.String(), nil)
		require.NoError(t, err)
	}
	require.Fail(t, "more than 10 redirects", "%s", v.URL)
	return v
}

var (
	inputTag = regexp.MustCompile(`<input[^>]*>`)
	unescape = strings.NewReplacer("&#43;", "+", "&amp;", "&", "&#34;", `"`, "&#39;", "'", "&lt;", "<", "&gt;", ">")
)

// attribute returns the first value of an attribute in a piece of HTML.
func attribute(html, name string) string {
	_, rest, ok := strings.Cut(html, " "+name+`="`)
	if !ok {
		return ""
	}
	value, _, _ := strings.Cut(rest, `"`)
	return unescape.Replace(value)
}

func inputs(html string) url.Values {
	values := url.Values{}
	for _, tag := range inputTag.FindAllString(html, -1) {
		if name := attribute(tag, "name"); name != "" {
			values.Set(name, attribute(tag, "value"))
		}
	}
	return values
}

// A Reply is an answer of the provider to an application.
type Reply struct {
	Status int
	Header http.Header
	Body   string
	JSON   map[string]any // nil if the body is no JSON object
}

// String returns a member that is a string; empty if there is none.
func (r Reply) String(member string) string {
	s, _ := r.JSON[member].(string)
	return s
}

// Number returns a member that is a number, and whether there is one.
func (r Reply) Number(member string) (float64, bool) {
	n, ok := r.JSON[member].(float64)
	return n, ok
}

func (r Reply) AccessToken() string  { return r.String("access_token") }
func (r Reply) RefreshToken() string { return r.String("refresh_token") }
func (r Reply) IDToken() string      { return r.String("id_token") }
func (r Reply) Error() string        { return r.String("error") }
func (r Reply) Description() string  { return r.String("error_description") }

// Do sends a request and reads the answer. It may be called by any goroutine;
// an error of the transport is a Reply with Status 0.
func (s *Server) Do(client *http.Client, req *http.Request) Reply {
	resp, err := client.Do(req)
	if err != nil {
		return Reply{Body: err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Reply{Body: err.Error()}
	}
	r := Reply{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
	_ = json.Unmarshal(body, &r.JSON) // a page or a plain text: JSON stays nil
	return r
}

// Post posts a form, with the client's authentication. client may be empty.
func (s *Server) Post(path, client string, form url.Values) Reply {
	return s.PostFrom(s.HTTP, path, client, form)
}

// PostFrom is Post through another HTTP client; see [Server.ClientFrom].
func (s *Server) PostFrom(via *http.Client, path, client string, form url.Values) Reply {
	c, _ := s.Storage.Client(client).(interface {
		Secret() string
		AuthMethod() zoidc.AuthMethod
	})
	body := url.Values{}
	for k, v := range form {
		body[k] = v
	}
	basic := false
	switch {
	case client == "":
	case client == ServiceUser:
		basic = true
	case c == nil || c.AuthMethod() == zoidc.AuthMethodNone:
		body.Set("client_id", client)
	case c.AuthMethod() == zoidc.AuthMethodPost && path != introspectPath: // there op takes Basic only
		body.Set("client_id", client)
		body.Set("client_secret", c.Secret())
	default:
		basic = true
	}
	req, err := http.NewRequest(http.MethodPost, s.Issuer+path, strings.NewReader(body.Encode()))
	if err != nil {
		return Reply{Body: err.Error()}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if basic {
		secret := ServiceSecret
		if client != ServiceUser {
			secret = c.Secret()
		}
		req.SetBasicAuth(url.QueryEscape(client), url.QueryEscape(secret))
	}
	return s.Do(via, req)
}

// Token asks the token endpoint.
func (s *Server) Token(client string, form url.Values) Reply {
	return s.Post("/oauth/token", client, form)
}

// Code redeems the code of a visit.
func (s *Server) Code(client string, v Visit) Reply {
	return s.Token(client, url.Values{
		"grant_type": {"authorization_code"}, "code": {v.Code()}, "redirect_uri": {RedirectURI}, "code_verifier": {verifier},
	})
}

// Login signs a user in with a new browser and redeems the code.
func (s *Server) Login(client, user string) Reply {
	s.t.Helper()
	v := s.Browser().Login(client, user, nil)
	require.NotEmpty(s.t, v.Code(), "%d %s %s", v.Status, v.URL, v.Body)
	r := s.Code(client, v)
	require.Equal(s.t, http.StatusOK, r.Status, r.Body)
	return r
}

// Refresh uses a refresh token. extra, at most one, adds parameters.
func (s *Server) Refresh(client, token string, extra ...url.Values) Reply {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	for _, more := range extra {
		for k, v := range more {
			form[k] = v
		}
	}
	return s.Token(client, form)
}

// DeviceStart starts a device grant.
func (s *Server) DeviceStart(client string) Reply {
	return s.Post("/device_authorization", client, url.Values{"scope": {Scope}})
}

// DeviceApprove signs the user in at the device page and approves; DeviceDeny
// denies.
func (s *Server) DeviceApprove(start Reply, user string) Visit {
	return s.decideDevice(start, user, "allow")
}

// DeviceDeny signs the user in at the device page and denies.
func (s *Server) DeviceDeny(start Reply, user string) Visit {
	return s.decideDevice(start, user, "deny")
}

func (s *Server) decideDevice(start Reply, user, action string) Visit {
	s.t.Helper()
	b := s.Browser()
	v := b.Get(start.String("verification_uri_complete"))
	form := inputs(v.Body)
	form.Set("username", user)
	form.Set("password", Password)
	form.Set("action", action)
	req, err := http.NewRequest(http.MethodPost, s.Issuer+"/device", strings.NewReader(form.Encode()))
	require.NoError(s.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	v = b.follow(req)
	require.Equal(s.t, http.StatusOK, v.Status, v.Body)
	return v
}

// DevicePoll asks for the tokens of a device grant.
func (s *Server) DevicePoll(client string, start Reply) Reply {
	return s.Token(client, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {start.String("device_code")},
	})
}

// DeviceLogin is all of a device grant.
func (s *Server) DeviceLogin(client, user string) Reply {
	s.t.Helper()
	start := s.DeviceStart(client)
	require.Equal(s.t, http.StatusOK, start.Status, start.Body)
	s.DeviceApprove(start, user)
	return s.DevicePoll(client, start)
}

// Token types of RFC 8693 section 3.
const (
	AccessTokenType  = "urn:ietf:params:oauth:token-type:access_token"
	RefreshTokenType = "urn:ietf:params:oauth:token-type:refresh_token"
	IDTokenType      = "urn:ietf:params:oauth:token-type:id_token"
	JWTTokenType     = "urn:ietf:params:oauth:token-type:jwt"
)

// TokenExchange exchanges a subject token. extra adds parameters, such as
// requested_token_type.
func (s *Server) TokenExchange(client, token, tokenType string, extra url.Values) Reply {
	form := url.Values{
		"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token": {token}, "subject_token_type": {tokenType}, "scope": {"openid"}, "audience": {client},
	}
	for k, v := range extra {
		form[k] = v
	}
	return s.Token(client, form)
}

// ClientCredentials asks for a token of [ServiceUser].
func (s *Server) ClientCredentials() Reply {
	return s.Token(ServiceUser, url.Values{"grant_type": {"client_credentials"}, "scope": {"openid"}})
}

// JWTProfile asks for a token with an assertion of [Service] about a subject;
// [Service] itself if it is empty.
func (s *Server) JWTProfile(subject string) Reply {
	s.t.Helper()
	if subject == "" {
		subject = Service
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{
		Key: serviceKey(), KeyID: storage.ServiceUserKeyID,
	}}, nil)
	require.NoError(s.t, err)
	now := time.Now()
	assertion, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: Service, Subject: subject, Audience: jwt.Audience{s.Issuer},
		IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(time.Minute)),
	}).Serialize()
	require.NoError(s.t, err)
	return s.Token("", url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}, "scope": {"openid"},
	})
}

const introspectPath = "/oauth/introspect"

// Introspect asks about a token.
func (s *Server) Introspect(client, token string) Reply {
	return s.Post(introspectPath, client, url.Values{"token": {token}})
}

// Userinfo presents an access token at the userinfo endpoint.
func (s *Server) Userinfo(token string) Reply {
	req, err := http.NewRequest(http.MethodGet, s.Issuer+"/userinfo", nil)
	if err != nil {
		return Reply{Body: err.Error()}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return s.Do(s.HTTP, req)
}

// Revoke revokes a token. hint may be empty.
func (s *Server) Revoke(client, token, hint string) Reply {
	form := url.Values{"token": {token}}
	if hint != "" {
		form.Set("token_type_hint", hint)
	}
	return s.Post("/revoke", client, form)
}

// EndSession visits the end_session endpoint.
func (b *Browser) EndSession(params url.Values) Visit {
	b.s.t.Helper()
	return b.Get(b.s.Issuer + "/end_session?" + params.Encode())
}

// Discovery returns the provider's metadata.
func (s *Server) Discovery() Reply {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.Issuer+"/.well-known/openid-configuration", nil)
	require.NoError(s.t, err)
	return s.Do(s.HTTP, req)
}

// ParseIDToken verifies an ID token with the keys that the provider serves, by
// an independent implementation, and returns its claims.
func (s *Server) ParseIDToken(client, token string) map[string]any {
	s.t.Helper()
	return s.parseIDToken(token, &oidc.Config{ClientID: client, Now: time.Now})
}

func (s *Server) parseIDToken(token string, checks *oidc.Config) map[string]any {
	s.t.Helper()
	ctx := oidc.ClientContext(context.Background(), s.HTTP)
	p, err := oidc.NewProvider(ctx, s.Issuer)
	require.NoError(s.t, err)
	idToken, err := p.Verifier(checks).Verify(ctx, token)
	require.NoError(s.t, err, "ID token %q", token)
	claims := map[string]any{}
	require.NoError(s.t, idToken.Claims(&claims))
	return claims
}

// Claim returns a claim of the reply's ID token as text: "<nil>" if it is
// missing. The token may have expired since.
func (s *Server) Claim(client string, r Reply, name string) string {
	s.t.Helper()
	return fmt.Sprint(s.parseIDToken(r.IDToken(), &oidc.Config{ClientID: client, SkipExpiryCheck: true})[name])
}
