package provider_test

import (
	"context"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A recorder is a storage that notes what it hands out, and checks that it gets
// nothing else back: its own values, its own tokens and IDs, and nothing that
// the hook made.
type recorder struct {
	*optest.Storage

	mu       sync.Mutex
	handed   map[any]bool    // requests and clients, by identity
	issued   map[string]bool // tokens and IDs
	exchange op.TokenExchangeRequest
	calls    map[string]int
	problems []string
}

func newRecorder(s *optest.Storage) *recorder {
	return &recorder{Storage: s, handed: map[any]bool{}, issued: map[string]bool{}, calls: map[string]int{}}
}

func (r *recorder) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// called notes a call, and looks for the hook's marks in all its arguments.
func (r *recorder) called(method string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[method]++
	for i, arg := range args {
		if x, ok := arg.(op.TokenExchangeRequest); ok {
			// What is inside is op's, not for the storage to see.
			arg = []any{x.GetExchangeSubjectTokenIDOrToken(), x.GetExchangeSubject(), x.GetExchangeSubjectTokenClaims(),
				x.GetExchangeActorTokenIDOrToken(), x.GetExchangeActor(), x.GetExchangeActorTokenClaims(),
				x.GetScopes(), x.GetAudience(), x.GetSubject(), x.GetClientID(), x.GetResourses()}
		}
		if text, ok := marked(reflect.ValueOf(arg), 0); ok {
			r.problem("%s: argument %d shows the hook: %q", method, i, text)
		}
	}
}

var marks = regexp.MustCompile(`curfew[_:]`)

// marked looks for one of the hook's marks in a value.
func marked(v reflect.Value, depth int) (string, bool) {
	if depth > 8 {
		return "", false
	}
	switch v.Kind() {
	case reflect.String:
		return v.String(), marks.MatchString(v.String())
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return "", false
		}
		return marked(v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if text, ok := marked(v.Index(i), depth+1); ok {
				return text, true
			}
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			if text, ok := marked(key, depth+1); ok {
				return text, true
			}
			if text, ok := marked(v.MapIndex(key), depth+1); ok {
				return fmt.Sprintf("%v: %s", key, text), true
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if text, ok := marked(v.Field(i), depth+1); ok {
				return v.Type().Field(i).Name + ": " + text, true
			}
		}
	}
	return "", false
}

// own checks that a request is one that was handed out, the very same; or for
// an exchange the one that was validated; or op's own assertion.
func (r *recorder) own(method string, request any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch x := request.(type) {
	case *oidc.JWTTokenRequest:
		return
	case op.TokenExchangeRequest:
		if r.exchange != x {
			r.problem("%s: another exchange request than was validated: %T", method, request)
		}
		return
	}
	if !r.handed[request] {
		r.problem("%s: a request that was not handed out: %T", method, request)
	}
}

// known checks that a token or ID is one of the storage's own.
func (r *recorder) known(method, token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.issued[token] && token != "unknown" {
		r.problem("%s: a token or ID that was not issued: %q", method, token)
	}
}

func hand[T any](r *recorder, v T, err error) (T, error) {
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.handed[v] = true
	}
	return v, err
}

func (r *recorder) issue(tokens ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, token := range tokens {
		r.issued[token] = true
	}
}

func (r *recorder) CreateAuthRequest(ctx context.Context, req *oidc.AuthRequest, userID string) (op.AuthRequest, error) {
	r.called("CreateAuthRequest", req, userID)
	made, err := r.Storage.CreateAuthRequest(ctx, req, userID)
	return hand(r, made, err)
}

func (r *recorder) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	r.called("AuthRequestByID", id)
	found, err := r.Storage.AuthRequestByID(ctx, id)
	return hand(r, found, err)
}

func (r *recorder) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	r.called("AuthRequestByCode", code)
	found, err := r.Storage.AuthRequestByCode(ctx, code)
	return hand(r, found, err)
}

func (r *recorder) SaveAuthCode(ctx context.Context, id, code string) error {
	r.called("SaveAuthCode", id, code)
	return r.Storage.SaveAuthCode(ctx, id, code)
}

func (r *recorder) DeleteAuthRequest(ctx context.Context, id string) error {
	r.called("DeleteAuthRequest", id)
	return r.Storage.DeleteAuthRequest(ctx, id)
}

func (r *recorder) CreateAccessToken(ctx context.Context, request op.TokenRequest) (string, time.Time, error) {
	r.called("CreateAccessToken", request)
	r.own("CreateAccessToken", request)
	id, expires, err := r.Storage.CreateAccessToken(ctx, request)
	r.issue(id)
	return id, expires, err
}

func (r *recorder) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	r.called("CreateAccessAndRefreshTokens", request, current)
	r.own("CreateAccessAndRefreshTokens", request)
	if current != "" {
		r.known("CreateAccessAndRefreshTokens", current)
	}
	id, token, expires, err := r.Storage.CreateAccessAndRefreshTokens(ctx, request, current)
	r.issue(id, token)
	return id, token, expires, err
}

func (r *recorder) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	r.called("TokenRequestByRefreshToken", token)
	r.known("TokenRequestByRefreshToken", token)
	found, err := r.Storage.TokenRequestByRefreshToken(ctx, token)
	return hand(r, found, err)
}

func (r *recorder) TerminateSession(ctx context.Context, userID, clientID string) error {
	r.called("TerminateSession", userID, clientID)
	return r.Storage.TerminateSession(ctx, userID, clientID)
}

func (r *recorder) RevokeToken(ctx context.Context, token, userID, clientID string) *oidc.Error {
	r.called("RevokeToken", token, userID, clientID)
	r.known("RevokeToken", token)
	return r.Storage.RevokeToken(ctx, token, userID, clientID)
}

func (r *recorder) GetRefreshTokenInfo(ctx context.Context, clientID, token string) (string, string, error) {
	r.called("GetRefreshTokenInfo", clientID, token)
	return r.Storage.GetRefreshTokenInfo(ctx, clientID, token)
}

func (r *recorder) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	r.called("GetClientByClientID", id)
	client, err := r.Storage.GetClientByClientID(ctx, id)
	return hand(r, client, err)
}

func (r *recorder) AuthorizeClientIDSecret(ctx context.Context, id, secret string) error {
	r.called("AuthorizeClientIDSecret", id, secret)
	return r.Storage.AuthorizeClientIDSecret(ctx, id, secret)
}

func (r *recorder) SetUserinfoFromScopes(ctx context.Context, info *oidc.UserInfo, userID, clientID string, scopes []string) error {
	r.called("SetUserinfoFromScopes", info, userID, clientID, scopes)
	return r.Storage.SetUserinfoFromScopes(ctx, info, userID, clientID, scopes)
}

func (r *recorder) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	r.called("SetUserinfoFromToken", info, tokenID, subject, origin)
	r.known("SetUserinfoFromToken", tokenID)
	return r.Storage.SetUserinfoFromToken(ctx, info, tokenID, subject, origin)
}

func (r *recorder) SetIntrospectionFromToken(ctx context.Context, info *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	r.called("SetIntrospectionFromToken", info, tokenID, subject, clientID)
	r.known("SetIntrospectionFromToken", tokenID)
	return r.Storage.SetIntrospectionFromToken(ctx, info, tokenID, subject, clientID)
}

func (r *recorder) GetPrivateClaimsFromRequest(_ context.Context, request op.TokenRequest, scopes []string) (map[string]any, error) {
	r.called("GetPrivateClaimsFromRequest", request, scopes)
	r.own("GetPrivateClaimsFromRequest", request)
	return map[string]any{}, nil
}

func (r *recorder) GetKeyByIDAndClientID(ctx context.Context, keyID, clientID string) (*jose.JSONWebKey, error) {
	r.called("GetKeyByIDAndClientID", keyID, clientID)
	return r.Storage.GetKeyByIDAndClientID(ctx, keyID, clientID)
}

func (r *recorder) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, request op.IDTokenRequest, scopes []string) error {
	r.called("SetUserinfoFromRequest", info, request, scopes)
	r.own("SetUserinfoFromRequest", request)
	return r.Storage.SetUserinfoFromRequest(ctx, info, request, scopes)
}

func (r *recorder) JWTProfileTokenType(_ context.Context, request op.TokenRequest) (op.AccessTokenType, error) {
	r.called("JWTProfileTokenType", request)
	return op.AccessTokenTypeBearer, nil
}

func (r *recorder) TerminateSessionFromRequest(ctx context.Context, request *op.EndSessionRequest) (string, error) {
	r.called("TerminateSessionFromRequest", request)
	return request.RedirectURI, r.Storage.TerminateSession(ctx, request.UserID, request.ClientID)
}

func (r *recorder) ClientCredentials(ctx context.Context, clientID, secret string) (op.Client, error) {
	r.called("ClientCredentials", clientID, secret)
	client, err := r.Storage.ClientCredentials(ctx, clientID, secret)
	return hand(r, client, err)
}

func (r *recorder) ClientCredentialsTokenRequest(ctx context.Context, clientID string, scopes []string) (op.TokenRequest, error) {
	r.called("ClientCredentialsTokenRequest", clientID, scopes)
	made, err := r.Storage.ClientCredentialsTokenRequest(ctx, clientID, scopes)
	return hand(r, made, err)
}

func (r *recorder) StoreDeviceAuthorization(ctx context.Context, clientID, deviceCode, userCode string, expires time.Time, scopes []string) error {
	r.called("StoreDeviceAuthorization", clientID, deviceCode, userCode, scopes)
	return r.Storage.StoreDeviceAuthorization(ctx, clientID, deviceCode, userCode, expires, scopes)
}

func (r *recorder) GetDeviceAuthorizatonState(ctx context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	r.called("GetDeviceAuthorizatonState", clientID, deviceCode)
	state, err := r.Storage.GetDeviceAuthorizatonState(ctx, clientID, deviceCode)
	return hand(r, state, err)
}

func (r *recorder) ValidateTokenExchangeRequest(ctx context.Context, request op.TokenExchangeRequest) error {
	r.called("ValidateTokenExchangeRequest", request)
	switch request.GetExchangeSubjectTokenType() {
	case oidc.AccessTokenType, oidc.RefreshTokenType:
		r.known("ValidateTokenExchangeRequest", request.GetExchangeSubjectTokenIDOrToken())
	}
	switch request.GetExchangeActorTokenType() {
	case oidc.AccessTokenType, oidc.RefreshTokenType:
		r.known("ValidateTokenExchangeRequest, actor", request.GetExchangeActorTokenIDOrToken())
	}
	r.mu.Lock()
	r.exchange = request
	r.mu.Unlock()
	return r.Storage.ValidateTokenExchangeRequest(ctx, request)
}

func (r *recorder) CreateTokenExchangeRequest(ctx context.Context, request op.TokenExchangeRequest) error {
	r.called("CreateTokenExchangeRequest", request)
	r.own("CreateTokenExchangeRequest", request)
	return r.Storage.CreateTokenExchangeRequest(ctx, request)
}

func (r *recorder) GetPrivateClaimsFromTokenExchangeRequest(ctx context.Context, request op.TokenExchangeRequest) (map[string]any, error) {
	r.called("GetPrivateClaimsFromTokenExchangeRequest", request)
	r.own("GetPrivateClaimsFromTokenExchangeRequest", request)
	return r.Storage.GetPrivateClaimsFromTokenExchangeRequest(ctx, request)
}

func (r *recorder) SetUserinfoFromTokenExchangeRequest(ctx context.Context, info *oidc.UserInfo, request op.TokenExchangeRequest) error {
	r.called("SetUserinfoFromTokenExchangeRequest", info, request)
	r.own("SetUserinfoFromTokenExchangeRequest", request)
	return r.Storage.SetUserinfoFromTokenExchangeRequest(ctx, info, request)
}

func (r *recorder) VerifyExchangeSubjectToken(_ context.Context, token string, tokenType oidc.TokenType) (string, string, map[string]any, error) {
	r.called("VerifyExchangeSubjectToken", token, tokenType)
	return token, optest.SubjectOf("admin"), nil, nil
}

func (r *recorder) VerifyExchangeActorToken(_ context.Context, token string, tokenType oidc.TokenType) (string, string, map[string]any, error) {
	r.called("VerifyExchangeActorToken", token, tokenType)
	return token, optest.SubjectOf("admin"), nil, nil
}

// TestStorageSeesItsOwn drives every flow and checks every call to the storage.
func TestStorageSeesItsOwn(t *testing.T) {
	quiet(t)
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testStorageSeesItsOwn(t, embedding) })
		})
	}
}

func testStorageSeesItsOwn(t *testing.T, embedding optest.Embedding) {
	var rec *recorder
	ofHook := func(what string, v any) {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rec.calls[what]++
		if !rec.handed[v] {
			rec.problem("%s gets a value that the storage did not hand out: %T", what, v)
		}
	}
	hook, err := provider.New(provider.Config{
		Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())},
		// The embedder's own functions see the storage's values as well.
		Kind: func(ctx context.Context, l provider.Login) policy.Kind {
			ofHook("Config.Kind, client", l.Client)
			if l.AuthRequest != nil {
				ofHook("Config.Kind, request", l.AuthRequest)
			}
			return provider.DefaultKind(ctx, l)
		},
		SSOSession: func(_ context.Context, l provider.Login) string {
			ofHook("Config.SSOSession, request", l.AuthRequest)
			return ""
		},
	})
	require.NoError(t, err)
	s := optest.Start(t, optest.Config{InMemory: true, Embedding: embedding, Hook: hook, Wrap: func(s *optest.Storage) op.Storage {
		rec = newRecorder(s)
		return rec
	}})
	ok := func(r optest.Reply) optest.Reply {
		t.Helper()
		require.Equal(t, 200, r.Status, r.Body)
		return r
	}

	for _, client := range []string{optest.Web, optest.JWT, optest.Native} {
		first := ok(s.Login(client, "alice"))
		second := ok(s.Refresh(client, first.RefreshToken()))
		again := ok(s.Refresh(client, first.RefreshToken())) // within the grace
		require.Equal(t, second.RefreshToken(), again.RefreshToken())
		time.Sleep(31 * time.Second)
		mended := ok(s.Refresh(client, first.RefreshToken())) // its answer was lost
		require.NotEqual(t, second.RefreshToken(), mended.RefreshToken())
		narrow := ok(s.Refresh(client, mended.RefreshToken(), url.Values{"scope": {"openid"}}))
		ok(s.Userinfo(narrow.AccessToken()))
		if client != optest.Native {
			ok(s.Introspect(client, narrow.AccessToken()))
		}
		require.Equal(t, 400, s.Refresh(client, first.RefreshToken()).Status) // a replay
		require.Equal(t, 400, s.Refresh(client, narrow.RefreshToken()).Status)
		s.Userinfo(narrow.AccessToken())

		for _, hint := range []string{"", "access_token", "refresh_token"} {
			r := ok(s.Login(client, "alice"))
			ok(s.Revoke(client, r.AccessToken(), hint))
			s.Revoke(optest.Web2, r.RefreshToken(), hint)
			ok(s.Revoke(client, r.RefreshToken(), hint))
			ok(s.Revoke(client, "unknown", hint))
		}
		r := ok(s.Login(client, "alice"))
		again = ok(s.Refresh(client, r.RefreshToken()))
		s.Browser().EndSession(url.Values{"id_token_hint": {again.IDToken()}})
		require.Equal(t, 400, s.Refresh(client, again.RefreshToken()).Status)
	}

	for _, responseType := range []string{"id_token", "id_token token", "code id_token"} {
		v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {responseType}})
		if token := v.Params.Get("access_token"); token != "" {
			ok(s.Userinfo(token))
		}
	}

	device := ok(s.DeviceLogin(optest.Device, "alice"))
	ok(s.Refresh(optest.Device, device.RefreshToken()))
	ok(s.ClientCredentials())
	ok(s.JWTProfile(""))

	for _, tokenType := range []op.AccessTokenType{op.AccessTokenTypeBearer, op.AccessTokenTypeJWT} {
		client := *s.Storage.Client(optest.Exchange).(*optest.Client)
		client.TokenType = tokenType
		s.Storage.SetClient(&client)
		admin := ok(s.Login(optest.Exchange, "admin"))
		for _, subject := range []struct{ token, tokenType string }{
			{admin.AccessToken(), optest.AccessTokenType},
			{admin.RefreshToken(), optest.RefreshTokenType},
			{admin.IDToken(), optest.IDTokenType},
			{"unknown", optest.JWTTokenType},
		} {
			for _, requested := range []string{optest.AccessTokenType, optest.RefreshTokenType, optest.IDTokenType} {
				if subject.tokenType == optest.IDTokenType && requested == optest.RefreshTokenType {
					continue // the example does not
				}
				r := ok(s.TokenExchange(optest.Exchange, subject.token, subject.tokenType, url.Values{
					"requested_token_type": {requested}, "actor_token": {admin.AccessToken()}, "actor_token_type": {optest.AccessTokenType}}))
				if requested == optest.RefreshTokenType {
					next := ok(s.Refresh(optest.Exchange, r.RefreshToken()))
					ok(s.Userinfo(next.AccessToken()))
				}
			}
		}
		ok(s.TokenExchange(optest.Exchange, admin.AccessToken(), optest.AccessTokenType, url.Values{
			"actor_token": {admin.RefreshToken()}, "actor_token_type": {optest.RefreshTokenType}}))
		ok(s.TokenExchange(optest.Exchange, admin.AccessToken(), optest.AccessTokenType, url.Values{
			"actor_token": {"unknown"}, "actor_token_type": {optest.JWTTokenType}}))
	}

	rec.mu.Lock()
	defer rec.mu.Unlock()
	// A call that was never made proves nothing.
	never := map[string]string{
		"Health":                     "no request about users or tokens",
		"KeySet":                     "no arguments",
		"SigningKey":                 "no arguments",
		"SignatureAlgorithms":        "no arguments",
		"GetPrivateClaimsFromScopes": "op calls GetPrivateClaimsFromRequest instead",
		"TerminateSession":           "op calls TerminateSessionFromRequest instead",
		"ValidateJWTProfileScopes":   "scopes that the client sent",
	}
	for _, of := range []reflect.Type{
		reflect.TypeFor[op.Storage](), reflect.TypeFor[op.ClientCredentialsStorage](), reflect.TypeFor[op.DeviceAuthorizationStorage](),
		reflect.TypeFor[op.TokenExchangeStorage](), reflect.TypeFor[op.TokenExchangeTokensVerifierStorage](),
		reflect.TypeFor[op.CanSetUserinfoFromRequest](), reflect.TypeFor[op.CanGetPrivateClaimsFromRequest](),
		reflect.TypeFor[op.CanTerminateSessionFromRequest](), reflect.TypeFor[op.JWTProfileTokenStorage](),
	} {
		for m := range of.NumMethod() {
			name := of.Method(m).Name
			if never[name] == "" {
				require.Contains(t, rec.calls, name)
			}
		}
	}
	for _, name := range []string{"Config.Kind, client", "Config.Kind, request", "Config.SSOSession, request"} {
		require.Contains(t, rec.calls, name)
	}

	slices.Sort(rec.problems)
	require.Empty(t, slices.Compact(rec.problems))
}
