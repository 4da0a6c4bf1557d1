package provider_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// strictHook is a hook that is as strict about refresh tokens as a server that
// rotates them, sets no limits and adds nothing that can be switched off.
func strictHook(t testing.TB, change ...func(*provider.Config)) *provider.Hook {
	t.Helper()
	cfg := provider.Config{
		Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())},
		NoGrace: true, NoLostResponse: true, NoExpirationMembers: true, NoExpirationMetadata: true, NoResponseIssuer: true,
	}
	for _, f := range change {
		f(&cfg)
	}
	hook, err := provider.New(cfg)
	require.NoError(t, err)
	return hook
}

// namingIssuer switches "iss" in authorization responses on again.
func namingIssuer(cfg *provider.Config) { cfg.NoResponseIssuer = false }

// quiet keeps op, which logs each error to the default logger, from filling the
// output of a test that makes hundreds.
func quiet(t *testing.T) {
	previous := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(previous) })
}

// TestUnchangedOtherwise does the same to a provider without and with the
// hook, and compares every answer: what works, what fails, and how.
func TestUnchangedOtherwise(t *testing.T) {
	quiet(t)
	deviations := meantDeviations()
	kinds := worlds()
	ran := 0
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			ran++
			var seen [2][]observation
			for i, hooked := range []bool{false, true} {
				// Everyone's clock moves together, so that all times are equal.
				synctest.Test(t, func(t *testing.T) {
					w := kind.open(t, hooked)
					w.t, w.hooked = t, hooked
					kind.script(w)
					seen[i] = w.seen
				})
			}
			require.Greater(t, len(seen[0]), 300)
			compare(t, seen[0], seen[1], deviations)
		})
	}
	for _, d := range deviations {
		if !d.seen && ran == len(kinds) {
			t.Errorf("this difference was not seen: step %s, field %s (%s)", d.step, d.field, d.reason)
		}
	}
}

type worldKind struct {
	name   string
	open   func(t *testing.T, hooked bool) *world
	script func(*world)
}

// worlds are the servers to compare: the library's example server on its
// example storage, as they are, in both ways of embedding; and the same storage
// behind optest's clients, which have JWT access tokens, hybrid response types
// and device grants that work, in all ways of embedding, and with none and with
// all of op's optional interfaces.
func worlds() []worldKind {
	kinds := []worldKind{
		{"example, Provider", func(t *testing.T, hooked bool) *world { return exampleWorld(t, hooked, false) }, script},
		{"example, LegacyServer", func(t *testing.T, hooked bool) *world { return exampleWorld(t, hooked, true) }, script},
	}
	for name, embedding := range optest.Embeddings {
		kinds = append(kinds,
			worldKind{"optest, " + name, func(t *testing.T, hooked bool) *world {
				return optestWorld(t, hooked, embedding, func(s *optest.Storage) op.Storage { return keyed{s} })
			}, script},
			worldKind{"bare storage, " + name, func(t *testing.T, hooked bool) *world {
				return optestWorld(t, hooked, embedding, func(s *optest.Storage) op.Storage { return struct{ op.Storage }{scoped{keyed{s}}} })
			}, script},
			worldKind{"full storage, " + name, func(t *testing.T, hooked bool) *world {
				return optestWorld(t, hooked, embedding, func(s *optest.Storage) op.Storage { return full{keyed{s}} })
			}, script},
			worldKind{"failing storage, " + name, func(t *testing.T, hooked bool) *world {
				f := &failing{}
				w := optestWorld(t, hooked, embedding, func(s *optest.Storage) op.Storage {
					return &optest.Intercepted{Storage: s, Before: f.before}
				})
				w.failing = f
				return w
			}, storageErrors},
		)
	}
	return kinds
}

func exampleWorld(t *testing.T, hooked, asServer bool) *world {
	const issuer = "http://127.0.0.1:9998"
	clients := map[string]*storage.Client{
		"native": storage.NativeClient("native", optest.RedirectURI),
		"device": storage.DeviceClient("device", "device-secret"),
	}
	for _, id := range []string{"web", "web2", "implicit", "exchange", "service"} {
		clients[id] = storage.WebClient(id, id+"-secret", optest.RedirectURI)
	}
	example := serviceKeyed{storage.NewStorageWithClients(storage.NewUserStore(issuer), clients)}
	var handler http.Handler
	if hooked {
		hook := strictHook(t, namingIssuer)
		handler = hook.Handler(exampleop.SetupServer(issuer, decoratedExample{hook.Storage(example).(decoratedFull), example}, nil, asServer))
	} else {
		handler = exampleop.SetupServer(issuer, example, nil, asServer)
	}
	return &world{
		t: t, issuer: issuer, send: serve(t, handler),
		crypto:        op.NewAES256GCMCrypto(sha256.Sum256([]byte("test")), "key1"),
		oldCrypto:     op.NewAESDecrypter(sha256.Sum256([]byte("test"))),
		authorizePath: "/auth", loginPath: "/login/username",
		users: map[string]credentials{
			"admin": {"test-user@127.0.0.1", "verysecure", "id1"},
			"user":  {"test-user2", "verysecure", "id2"},
		},
		approve: func(w *world, step, userCode, user, decision string) {
			u := w.users[user]
			r := w.post(step+": sign in", "/device/login", "", form("user_code", userCode, "username", u.name, "password", u.password))
			req := w.request(http.MethodPost, "/device/confirm", form("action", decision).Encode())
			req.Header.Set("Cookie", r.header.Get("Set-Cookie"))
			w.do(step+": confirm", req)
		},
	}
}

// serve serves a handler over connections in memory.
func serve(t *testing.T, h http.Handler) func(*http.Request) (*http.Response, error) {
	listener := &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: closeOnPanic(h), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // always http.ErrServerClosed
	}()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		listener.conns <- server
		return client, nil
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		<-done
	})
	return transport.RoundTrip
}

type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9998} }

// serviceKeyed is the example with a key of the test's for the client "service":
// its own is for the issuer of its own main program.
type serviceKeyed struct{ *storage.Storage }

func (s serviceKeyed) GetKeyByIDAndClientID(ctx context.Context, keyID, clientID string) (*jose.JSONWebKey, error) {
	return keyOfService(keyID, clientID)
}

func keyOfService(keyID, clientID string) (*jose.JSONWebKey, error) {
	if clientID != "service" || keyID != "key1" {
		return nil, errors.New("key not found")
	}
	return &jose.JSONWebKey{KeyID: keyID, Use: "sig", Key: serviceKey().Public()}, nil
}

// decoratedFull is what hook.Storage returns for a storage that has what
// the example has.
type decoratedFull interface {
	op.Storage
	op.ClientCredentialsStorage
	op.DeviceAuthorizationStorage
	op.TokenExchangeStorage
	op.CanSetUserinfoFromRequest
	op.CanTerminateSessionFromRequest
	op.JWTProfileTokenStorage
	op.TokenExchangeTokensVerifierStorage
}

// decoratedExample is the decorated storage, and what the example server's own
// pages call on the storage.
type decoratedExample struct {
	decoratedFull
	pages serviceKeyed
}

func (d decoratedExample) CheckUsernamePassword(username, password, id string) error {
	return d.pages.CheckUsernamePassword(username, password, id)
}

func (d decoratedExample) CheckUsernamePasswordSimple(username, password string) error {
	return d.pages.CheckUsernamePasswordSimple(username, password)
}

func (d decoratedExample) GetDeviceAuthorizationByUserCode(ctx context.Context, userCode string) (*op.DeviceAuthorizationState, error) {
	return d.pages.GetDeviceAuthorizationByUserCode(ctx, userCode)
}

func (d decoratedExample) CompleteDeviceAuthorization(ctx context.Context, userCode, subject string) error {
	return d.pages.CompleteDeviceAuthorization(ctx, userCode, subject)
}

func (d decoratedExample) DenyDeviceAuthorization(ctx context.Context, userCode string) error {
	return d.pages.DenyDeviceAuthorization(ctx, userCode)
}

func optestWorld(t *testing.T, hooked bool, embedding optest.Embedding, wrap func(*optest.Storage) op.Storage) *world {
	service := &optest.Client{
		ID: "service", Auth: oidc.AuthMethodPrivateKeyJWT, NoProd: true,
		Responses: []oidc.ResponseType{oidc.ResponseTypeCode},
		Grants:    []oidc.GrantType{oidc.GrantTypeCode},
		Redirects: []string{optest.RedirectURI},
	}
	all := optest.DefaultClients()
	for _, c := range all {
		switch c.ID {
		case optest.Web2: // claims in the ID token beside an access token, and JWT access tokens with custom claims
			c.TokenType, c.IDClaims, c.ExtraScopes, c.Skew = op.AccessTokenTypeJWT, true, []string{"custom_scope"}, 5*time.Second
		case optest.Web:
			c.ExtraScopes = []string{"custom_scope"}
		case optest.Native: // no scope is left for the ID token
			c.RestrictID = func([]string) []string { return nil }
		case optest.Exchange:
			c.TokenType = op.AccessTokenTypeJWT
		}
	}
	clients := []op.Client{service}
	for _, c := range all {
		clients = append(clients, c)
	}
	cfg := optest.Config{Storage: optest.NewStorage(clients...), Embedding: embedding, InMemory: true, Wrap: wrap}
	if hooked {
		cfg.Hook = strictHook(t, namingIssuer)
	}
	cfg.Middleware = closeOnPanic
	s := optest.Start(t, cfg)
	return &world{
		t: t, issuer: s.Issuer, send: s.HTTP.Do,
		crypto:        op.NewAES256GCMCrypto(sha256.Sum256([]byte("optest")), "optest"),
		oldCrypto:     op.NewAESDecrypter(sha256.Sum256([]byte("optest"))),
		authorizePath: "/authorize", loginPath: "/login",
		users: map[string]credentials{
			"admin": {"admin", optest.Password, optest.SubjectOf("admin")},
			"user":  {"user", optest.Password, optest.SubjectOf("user")},
		},
		approve: func(w *world, step, userCode, user, decision string) {
			action := map[string]string{"allowed": "allow", "denied": "deny"}[decision]
			u := w.users[user]
			w.post(step, "/device", "", form("user_code", userCode, "username", u.name, "password", u.password, "action", action))
		},
	}
}

// closeOnPanic lets a server close the connection without writing a trace.
func closeOnPanic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() != nil {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// keyed is the storage with the test's key for "service".
type keyed struct{ *optest.Storage }

func (s keyed) GetKeyByIDAndClientID(_ context.Context, keyID, clientID string) (*jose.JSONWebKey, error) {
	return keyOfService(keyID, clientID)
}

// scoped puts into an ID token what the example puts there only where it is
// asked by request.
type scoped struct{ keyed }

func (s scoped) SetUserinfoFromScopes(ctx context.Context, info *oidc.UserInfo, userID, clientID string, scopes []string) error {
	return s.SetUserinfoFromRequest(ctx, info, &op.DeviceAuthorizationState{ClientID: clientID, Subject: userID}, scopes)
}

// full has all of op's optional interfaces, and does with each something that
// shows.
type full struct{ keyed }

func (full) JWTProfileTokenType(context.Context, op.TokenRequest) (op.AccessTokenType, error) {
	return op.AccessTokenTypeJWT, nil
}

func (full) GetPrivateClaimsFromRequest(_ context.Context, r op.TokenRequest, scopes []string) (map[string]any, error) {
	return map[string]any{"private": fmt.Sprintf("%s %q", kindOf(r), scopes)}, nil
}

func kindOf(r op.TokenRequest) string {
	switch r.(type) {
	case op.AuthRequest:
		return "auth request"
	case op.RefreshTokenRequest:
		return "refresh request"
	}
	return "other"
}

func (s full) TerminateSessionFromRequest(ctx context.Context, r *op.EndSessionRequest) (string, error) {
	if r.LogoutHint == "user" {
		return "", oidc.ErrInvalidRequest().WithDescription("not this user")
	}
	u, err := url.Parse(r.RedirectURI)
	if err != nil {
		return "", err
	}
	q := u.Query()
	q.Set("from", "storage")
	u.RawQuery = q.Encode()
	return u.String(), s.TerminateSession(ctx, r.UserID, r.ClientID)
}

// ClientCredentialsTokenRequest makes tokens that say something at userinfo and
// introspection, which the example's never do.
func (full) ClientCredentialsTokenRequest(_ context.Context, clientID string, scopes []string) (op.TokenRequest, error) {
	return &oidc.JWTTokenRequest{Issuer: clientID, Subject: optest.SubjectOf("user"), Audience: []string{"web"}, Scopes: scopes}, nil
}

func (full) VerifyExchangeSubjectToken(_ context.Context, token string, tokenType oidc.TokenType) (string, string, map[string]any, error) {
	if tokenType != oidc.JWTTokenType {
		return "", "", nil, errors.New("another token")
	}
	return "foreign", optest.SubjectOf("admin"), map[string]any{"iss": "foreign"}, nil
}

func (full) VerifyExchangeActorToken(_ context.Context, token string, tokenType oidc.TokenType) (string, string, map[string]any, error) {
	if token != "unknown" {
		return "", "", nil, errors.New("another token")
	}
	return "foreign actor", optest.SubjectOf("admin"), nil, nil
}

func (full) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	info.AppendClaims("from_request", strings.Join(scopes, " "))
	return nil
}

func (full) SetUserinfoFromScopes(_ context.Context, info *oidc.UserInfo, userID, clientID string, scopes []string) error {
	info.Subject = userID
	info.AppendClaims("from_scopes", strings.Join(scopes, " "))
	return nil
}

// meantDeviations are the differences that are meant, each with its reason. One
// that is not seen any more fails too.
func meantDeviations() []*deviation {
	return []*deviation{
		differs(`.*`, `.*refresh_token`, `<uuid>`, `<sealed rt>`,
			"what clients hold are sealed tokens"),
		differs(`.*`, `.*access_token\.0`, `<uuid>`, `<sealed at>`,
			"what clients hold are sealed tokens: this is the ID in an opaque access token"),
		differs(`.*`, `.*access_token\.jti`, `<uuid>`, `<sealed at>`,
			"a JWT's jti is sealed"),
		differs(`.*`, `(.*\.id_token|body\.access_token)\.sid`, ``, `<sid>`,
			"an ID token names its session (Back-Channel Logout 1.0 section 2.1); an exchanged one is in access_token"),
		differs(`.*`, `header\.(Cache-Control|Pragma)`, ``, `no-store|no-cache`,
			"an answer with tokens must not be kept (RFC 6749 section 5.1)"),
		differs(`.*authorize.*`, `header\.Set-Cookie`, ``, `<login cookie>`,
			"an authorization request is bound to its browser"),
		differs(`.*callback.*`, `header\.Set-Cookie`, ``, `(<session cookie>, )?<login cookie>`,
			"a login gives the browser its session; the binding goes with the code"),

		differs(`.*`, `(location\.(query|fragment)|form)\.iss`, ``, `http://127\.0\.0\.1:9998`,
			"an authorization response names its issuer (RFC 9207 section 2)"),
		differs(`.*discovery.*|.*openid-configuration.*`, `body\.authorization_response_iss_parameter_supported`, ``, `true`,
			"and discovery says so (RFC 9207 section 3)"),
		differs(`.*`, `body`, `(?s)(.*)</form>(.*)`, `(?s)(.*)<input type="hidden" name="iss" value="<iss>"/>\n</form>(.*)`,
			"the form that posts it has it too"),
		answers(`authorize: error to be posted`, `302`, `200`,
			"an error is posted where the application asks for that (OAuth 2.0 Form Post Response Mode section 2); op redirects it"),

		differs(`no openid: redeem|device granted profile offline_access device: refresh`, `body\.id_token\.sub`, ``, `id.*`,
			"where the storage gives no subject, op makes an ID token without sub, which is none (Core 1.0 section 2): what op had before stays"),

		differs(`.*introspect.*`, `body\.sid`, ``, `<sid>`,
			"introspection names the session"),
		differs(`.*introspect.*`, `body\.auth_time`, ``, `9466\d+`,
			"introspection gives the authentication (RFC 9470 section 6.2)"),
		differs(`.*introspect.*`, `body\.exp`, `\d+`, ``,
			"nothing is said of a token that is not active for the caller (RFC 7662 section 2.2)"),
		answers(`.*userinfo.*`, `403.*`, `401 invalid_token`,
			"a token that is not good any more is 401 (RFC 6750 section 3.1)"),

		differs(`.*refresh.*`, `body\.error_description`, ``, `(replay|revoked|logout): the login session is over: .*`,
			"the reason of an end is in the first refused refresh"),
		answers(`late code: redeem`, `200`, `400 invalid_grant abandoned: .*`,
			"a code holds its slot for 60 s (FAPI 2.0 section 5.3.2.1), not forever"),
		answers(`device granted .*: poll again`, `200|500 server_error.*`, `400 invalid_grant the code has brought its tokens already.*`,
			"a device code brings its tokens once, not forever"),
		answers(`exchange \d+: of an ended session`, `200`, `400 invalid_request .*`,
			"no token comes of a session that ended; the example leaves the access tokens of a logout before the last refresh"),
		answers(`exchange \d+: of an ended session, refresh token`, `400 invalid_request .*`, `400 invalid_request .*logout.*`,
			"the reason of an end"),
		answers(`exchange \d+: (ID|access) taken for .*(access|id)_token`, `200|500 .*`, `400 invalid_request .*not of the type.*`,
			"a token is accepted only as the kind that it is (RFC 8725 section 3.11)"),
		differs(`exchange \d+: impersonation.*`, `.*\.act\.sid`, ``, `<sid>`,
			"who acts for another user does so in a session, with which this one ends"),
		answers(`late: exchange`, `200`, `400 invalid_request .*`,
			"an access token that expired stands for nobody; op does not look at exp here, and neither does the example"),
		answers(`end_session: neighbour`, `403.*`, `200`,
			"a logout ends one session: the example ends all of the user's with the client"),
		answers(`end_session: neighbour refreshes`, `400 invalid_grant`, `200`,
			"a logout ends one session: the example ends all of the user's with the client"),
	}
}
