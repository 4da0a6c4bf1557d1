package provider_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"
	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/middleware/resource"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// Rule 13: a token opens only the door that it was made for.
//
// tokenKinds are all kinds of token that the hook or op issues, tokenDoors all places
// where a token is presented, and situations what can be the matter with one. Each
// kind says which doors it opens in which situation; at every other door it must be
// refused, and leave every session as it is. TestNoKindAndNoDoorIsForgotten finds
// kinds and doors in the code that have no row here.

// A situation is what is the matter with a token.
type situation string

const (
	live        situation = "live session"
	ended       situation = "ended session"
	otherClient situation = "other client's"
	otherIssuer situation = "other issuer"
	noID        situation = "empty token ID"
)

var situations = []situation{live, ended, otherClient, otherIssuer, noID}

// A tokenKind is a kind of token.
type tokenKind struct {
	name string
	make func(w *kindsWorld, in situation) string // empty: there is no such token
	// opens says at which doors it is what is asked for, and in which situations.
	opens map[string][]situation

	prefix string // of the text, if the hook seals it
	typ    string // of the JWT's header, if it has one that tells
	member string // of the answer of op that it is in
}

// A tokenDoor is a place where a token is presented. enter reports whether it was
// accepted.
type tokenDoor struct {
	name  string
	enter func(w *kindsWorld, text string) bool
}

// A kindsWorld is a provider, another issuer beside it on the same store and keys, and
// what looks at their tokens.
type kindsWorld struct {
	*notified
	t       *testing.T
	other   *setup
	p       *op.Provider
	api     http.Handler // the admin API
	rp      *middleware.RelyingParty
	byJWT   *resource.Server
	byAsk   *resource.Server
	subject string // a good subject token
}

// kindUser may exchange tokens, and every token of the table is hers.
const kindUser = "admin"

// profiled is a storage that gives services JWT access tokens.
type profiled struct{ *optest.Storage }

func (profiled) JWTProfileTokenType(context.Context, op.TokenRequest) (op.AccessTokenType, error) {
	return op.AccessTokenTypeJWT, nil
}

// issuerOnly is a storage that vouches for each JWT of its provider, whatever it is,
// and says nothing of what is in it.
type issuerOnly struct {
	profiled
	say bool // what is in it
}

func (s issuerOnly) VerifyExchangeSubjectToken(ctx context.Context, token string, _ oidc.TokenType) (string, string, map[string]any, error) {
	claims := map[string]any{}
	if _, err := oidc.ParseToken(token, &claims); err != nil || claims["iss"] != op.IssuerFromContext(ctx) {
		return "", "", nil, errors.New("not known")
	}
	subject, _ := claims["sub"].(string)
	if !s.say {
		claims = nil
	}
	return token, subject, claims, nil
}

func (s issuerOnly) VerifyExchangeActorToken(ctx context.Context, token string, typ oidc.TokenType) (string, string, map[string]any, error) {
	return s.VerifyExchangeSubjectToken(ctx, token, typ)
}

func newKindsWorld(t *testing.T, embedding optest.Embedding, wrap func(*optest.Storage) op.Storage) *kindsWorld {
	t.Helper()
	keys := provider.Keys{provider.NewKey(time.Now())}
	sessions := memstore.New()
	change := func(p *provider.Config, o *optest.Config) {
		p.Store, p.Keys = sessions, keys
		// Tokens from before the installation are still adopted: none of these is one.
		p.AdoptUntil = time.Now().Add(time.Hour)
		o.Embedding, o.Wrap = embedding, wrap
	}
	_, err := sessions.PutDocument(t.Context(), store.Document{Key: "installation", At: time.Now().Add(-time.Hour), Body: make([]byte, 32)})
	require.NoError(t, err)
	w := &kindsWorld{t: t}
	w.notified = startNotified(t, limits(8*time.Hour, 2*time.Hour, 0, 0), change)
	w.other = start(t, limits(8*time.Hour, 2*time.Hour, 0, 0), change) // on a socket: another issuer

	w.p, err = op.NewProvider(&op.Config{CryptoKey: sha256.Sum256([]byte("optest")), CryptoKeyId: "optest"},
		w.hook.Storage(w.Storage), op.StaticIssuer(w.Issuer), op.WithAllowInsecure())
	require.NoError(t, err)
	api, err := admin.New(admin.Config{Hook: w.hook, Store: w.store, Issuer: w.Issuer, Authorize: func(ctx context.Context, r *http.Request, _ admin.Action, _ string) (admin.Actor, error) {
		at, err := w.hook.AccessToken(op.ContextWithIssuer(ctx, w.Issuer), w.p, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		if err != nil {
			return admin.Actor{}, fmt.Errorf("%w: %w", admin.ErrUnauthenticated, err)
		}
		return admin.Actor{ID: at.Subject}, nil
	}})
	require.NoError(t, err)
	w.api = api
	w.rp, err = middleware.New(middleware.Config{
		Issuer: w.Issuer, ClientID: optest.Web, ClientSecret: optest.Web + "-secret", RedirectURL: optest.RedirectURI,
		Keys: [][]byte{make([]byte, 32)}, HTTPClient: w.HTTP,
	})
	require.NoError(t, err)
	w.byJWT, err = resource.New(resource.Config{Issuer: w.Issuer, Audience: optest.JWT, InsecureAcceptPlainJWT: true, HTTPClient: w.HTTP})
	require.NoError(t, err)
	w.byAsk, err = resource.New(resource.Config{
		Issuer: w.Issuer, HTTPClient: w.HTTP, CacheFor: -1,
		Introspection: &resource.Introspection{ClientID: optest.Exchange, ClientSecret: optest.Exchange + "-secret"},
	})
	require.NoError(t, err)
	w.subject = w.Login(optest.Exchange, kindUser).AccessToken()
	return w
}

// at returns the server that a token of the situation comes from.
func (w *kindsWorld) at(in situation) *setup {
	if in == otherIssuer {
		return w.other
	}
	return w.setup
}

// tokens signs the user in to a client, or to another one, and ends the session where
// the situation says so.
func (w *kindsWorld) tokens(in situation, client, another string) optest.Reply {
	s := w.at(in)
	if in == otherClient {
		client = another
	}
	r := s.Login(client, kindUser)
	if in == ended {
		require.NoError(w.t, s.hook.End(w.t.Context(), s.sid(w.t, client, r), policy.ReasonAccountDisabled, "root"))
	}
	return r
}

// sign signs claims with the provider's key, as op and the hook do.
func (w *kindsWorld) sign(typ string, claims map[string]any) string {
	key, err := w.Storage.SigningKey(w.t.Context())
	require.NoError(w.t, err)
	options := &jose.SignerOptions{}
	if typ != "" {
		options = options.WithType(jose.ContentType(typ))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.SignatureAlgorithm(), Key: &jose.JSONWebKey{Key: key.Key(), KeyID: key.ID()}}, options)
	require.NoError(w.t, err)
	payload, err := json.Marshal(claims)
	require.NoError(w.t, err)
	signed, err := signer.Sign(payload)
	require.NoError(w.t, err)
	text, err := signed.CompactSerialize()
	require.NoError(w.t, err)
	return text
}

// altered is a JWT of the provider with other claims; nil takes one away.
func (w *kindsWorld) altered(jwt string, change map[string]any) string {
	typ, claims := readJWT(w.t, jwt)
	for name, value := range change {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return w.sign(typ, claims)
}

func readJWT(t testing.TB, jwt string) (typ string, claims map[string]any) {
	t.Helper()
	parsed, err := jose.ParseSignedCompact(jwt, []jose.SignatureAlgorithm{jose.RS256})
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &claims))
	typ, _ = parsed.Signatures[0].Header.ExtraHeaders[jose.HeaderType].(string)
	return typ, claims
}

// jwt returns one of the user's JWTs in a situation: of another issuer with the same
// key, too.
func (w *kindsWorld) jwt(in situation, client, another string, of func(optest.Reply) string) string {
	if in == otherIssuer {
		return w.altered(of(w.tokens(live, client, another)), map[string]any{"iss": "https://other.example"})
	}
	return of(w.tokens(in, client, another))
}

// event returns a security event token about a session of the user.
func (w *kindsWorld) event(in situation, typ, event string) string {
	r := w.tokens(in, optest.Web, optest.Web2)
	claims := map[string]any{
		"iss": w.Issuer, "sub": optest.SubjectOf(kindUser), "aud": optest.Web, "iat": time.Now().Unix(), "exp": time.Now().Add(2 * time.Minute).Unix(),
		"jti": rand.Text(), "sid": "0a.nosuchsession", "events": map[string]any{event: map[string]any{}},
	}
	switch in {
	case otherIssuer:
		claims["iss"] = "https://other.example"
	case otherClient:
		claims["aud"], claims["sid"] = optest.Web2, w.sid(w.t, optest.Web2, r)
	case noID:
		delete(claims, "jti")
	default:
		claims["sid"] = w.sid(w.t, optest.Web, r)
	}
	return w.sign(typ, claims)
}

// withoutID is an opaque access token whose ID is empty.
func (w *kindsWorld) withoutID() string {
	text, err := w.p.Crypto().Encrypt(":" + optest.SubjectOf(kindUser))
	require.NoError(w.t, err)
	return text
}

const backchannelEvent = "http://schemas.openid.net/event/backchannel-logout"

var (
	asAccess  = "exchange, subject called access_token"
	asID      = "exchange, subject called id_token"
	asRefresh = "exchange, subject called refresh_token"
	asJWT     = "exchange, subject called jwt"
	actAccess = "exchange, actor called access_token"
	actID     = "exchange, actor called id_token"
	actRefr   = "exchange, actor called refresh_token"
	actJWT    = "exchange, actor called jwt"
)

// opensOfAccess are the doors of an access token.
func opensOfAccess(more map[string][]situation) map[string][]situation {
	both := []situation{live, otherClient}
	doors := map[string][]situation{
		asAccess: both, actAccess: both, "userinfo": both, "Hook.AccessToken": both, "admin API": both,
		"introspection": {live}, // the storage lets those introspect that are in aud
		"revocation":    {live}, "Resource, introspection": {live},
	}
	maps.Copy(doors, more)
	return doors
}

var tokenKinds = []tokenKind{
	{
		name: "access token, opaque", member: "access_token", prefix: "curfew_at_",
		make: func(w *kindsWorld, in situation) string {
			if in == noID {
				return w.withoutID()
			}
			return w.tokens(in, optest.Exchange, optest.Web).AccessToken()
		},
		opens: opensOfAccess(nil),
	},
	{
		name: "access token, JWT", member: "access_token",
		make: func(w *kindsWorld, in situation) string {
			if in == otherClient {
				return "" // there is one with JWTs, and it is not the one that exchanges
			}
			r := w.jwt(in, optest.JWT, "", optest.Reply.AccessToken)
			if in == noID {
				return w.altered(r, map[string]any{"jti": nil})
			}
			return r
		},
		opens: opensOfAccess(map[string][]situation{
			asJWT: {live, otherClient}, actJWT: {live, otherClient}, // where the storage vouches for it
			"Resource, introspection": {},            // which is another client's
			"Resource, JWT":           {live, ended}, // verified offline it lives to its exp
		}),
	},
	{
		name: "access token of a client for itself", member: "access_token",
		make: func(w *kindsWorld, in situation) string {
			if in != live && in != otherIssuer {
				return ""
			}
			return w.at(in).ClientCredentials().AccessToken()
		},
		// It is no user's, and for no audience. A client may act for a user.
		opens: map[string][]situation{"Hook.AccessToken": {live}, "admin API": {live}, actAccess: {live}},
	},
	{
		name: "access token of a service for itself, JWT", member: "access_token",
		make: func(w *kindsWorld, in situation) string {
			switch in {
			case live:
				return w.JWTProfile("").AccessToken()
			case otherIssuer:
				return w.altered(w.JWTProfile("").AccessToken(), map[string]any{"iss": "https://other.example"})
			case noID:
				return w.altered(w.JWTProfile("").AccessToken(), map[string]any{"jti": nil})
			}
			return ""
		},
		opens: map[string][]situation{"Hook.AccessToken": {live}, "admin API": {live}, actAccess: {live}, actJWT: {live}},
	},
	{
		name: "ID token", member: "id_token",
		make: func(w *kindsWorld, in situation) string {
			if in == noID { // which none has: with an ID
				return w.altered(w.tokens(live, optest.Exchange, "").IDToken(), map[string]any{"jti": ""})
			}
			return w.jwt(in, optest.Exchange, optest.Web, optest.Reply.IDToken)
		},
		opens: map[string][]situation{
			asID: {live, otherClient, noID}, actID: {live, otherClient, noID}, asJWT: {live, otherClient, noID}, actJWT: {live, otherClient, noID},
			"end_session hint": {live, ended, otherClient, noID}, "authorize hint": {live, ended, otherClient, noID},
		},
	},
	{
		name: "refresh token", member: "refresh_token", prefix: "curfew_rt_",
		make: func(w *kindsWorld, in situation) string {
			if in == noID {
				return ""
			}
			return w.tokens(in, optest.Exchange, optest.Web).RefreshToken()
		},
		opens: map[string][]situation{asRefresh: {live}, actRefr: {live}, "refresh": {live}, "revocation": {live}},
	},
	{
		name: "logout token", typ: "logout+jwt",
		make:  func(w *kindsWorld, in situation) string { return w.event(in, "logout+jwt", backchannelEvent) },
		opens: map[string][]situation{"back channel": {live, ended}},
	},
	{
		name: "logout token as it was delivered", typ: "logout+jwt",
		make: func(w *kindsWorld, in situation) string {
			if in != ended {
				return ""
			}
			before := len(w.web.Raw())
			w.tokens(ended, optest.Web, "")
			require.Eventually(w.t, func() bool { return len(w.web.Raw()) > before }, time.Minute, time.Millisecond)
			return w.web.Raw()[before]
		},
		opens: map[string][]situation{"back channel": {ended}},
	},
	{
		name: "security event token", typ: "secevent+jwt",
		make: func(w *kindsWorld, in situation) string {
			return w.event(in, "secevent+jwt", "https://schemas.openid.net/secevent/caep/event-type/session-revoked")
		},
	},
	{
		name: "security event token of no type",
		make: func(w *kindsWorld, in situation) string { return w.event(in, "", backchannelEvent) },
	},
	{
		name: "authorization code", member: "code",
		make: func(w *kindsWorld, in situation) string {
			client := optest.Exchange
			switch in {
			case noID:
				return ""
			case otherClient:
				client = optest.Web
			}
			s := w.at(in)
			v := s.Browser().Login(client, kindUser, nil)
			if in == ended {
				_, err := s.hook.EndAll(w.t.Context(), s.subject(kindUser), policy.ReasonAccountDisabled, "root")
				require.NoError(w.t, err)
				w.subject = w.Login(optest.Exchange, kindUser).AccessToken()
			}
			return v.Code()
		},
		opens: map[string][]situation{"code": {live}},
	},
	{
		name: "device code", member: "device_code",
		make:  func(w *kindsWorld, in situation) string { return w.device(in).String("device_code") },
		opens: map[string][]situation{"device": {live}},
	},
	{
		name: "user code", member: "user_code",
		make: func(w *kindsWorld, in situation) string { return w.device(in).String("user_code") },
	},
	{name: "answer that is kept for a repeat", prefix: "curfew_rp_", make: sealedAs("curfew_rp_")},
	{name: "choice at the cap", prefix: "curfew_ask_", make: sealedAs("curfew_ask_")},
	{name: "binding of a browser", prefix: "curfew_lb_", make: sealedAs("curfew_lb_")},
	{name: "confirmation of a sign-out", prefix: "curfew_lo_", make: sealedAs("curfew_lo_")},
}

func (w *kindsWorld) device(in situation) optest.Reply {
	if in == noID {
		return optest.Reply{}
	}
	client := optest.Native
	if in == otherClient {
		client = optest.Device
	}
	s := w.at(in)
	r := s.DeviceStart(client)
	s.DeviceApprove(r, kindUser)
	if in == ended { // its session came and went
		sid := s.sid(w.t, client, s.DevicePoll(client, r))
		require.NoError(w.t, s.hook.End(w.t.Context(), sid, policy.ReasonAccountDisabled, "root"))
	}
	return r
}

// sealedAs is a text that the hook has sealed for a use of its own.
func sealedAs(prefix string) func(*kindsWorld, situation) string {
	return func(w *kindsWorld, in situation) string {
		if in != live {
			return ""
		}
		return w.hook.Sealed(prefix)
	}
}

// exchanges are the doors of token exchange: each type of a subject and of an actor.
func exchanges() []tokenDoor {
	var doors []tokenDoor
	for _, typ := range oidc.AllTokenTypes {
		short := string(typ)[strings.LastIndexByte(string(typ), ':')+1:]
		doors = append(doors,
			tokenDoor{"exchange, subject called " + short, func(w *kindsWorld, text string) bool {
				return w.exchange(url.Values{"subject_token": {text}, "subject_token_type": {string(typ)}})
			}},
			tokenDoor{"exchange, actor called " + short, func(w *kindsWorld, text string) bool {
				return w.exchange(url.Values{"actor_token": {text}, "actor_token_type": {string(typ)}})
			}})
	}
	return doors
}

func (w *kindsWorld) exchange(form url.Values) bool {
	form["requested_token_type"] = []string{optest.AccessTokenType}
	return w.TokenExchange(optest.Exchange, w.subject, optest.AccessTokenType, form).Status == http.StatusOK
}

var tokenDoors = slices.Concat(exchanges(), []tokenDoor{
	{"introspection", func(w *kindsWorld, text string) bool {
		return w.active(text)
	}},
	{"userinfo", func(w *kindsWorld, text string) bool {
		return w.Userinfo(text).Status == http.StatusOK || w.Post("/userinfo", "", url.Values{"access_token": {text}}).Status == http.StatusOK
	}},
	{"Hook.AccessToken", func(w *kindsWorld, text string) bool {
		_, err := w.hook.AccessToken(op.ContextWithIssuer(w.t.Context(), w.Issuer), w.p, text)
		if err != nil {
			require.ErrorIs(w.t, err, provider.ErrInvalidToken)
		}
		return err == nil
	}},
	{"admin API", func(w *kindsWorld, text string) bool {
		r := httptest.NewRequest(http.MethodGet, "/v1/accounts/default/settings", nil)
		r.Header.Set("Authorization", "Bearer "+text)
		rec := httptest.NewRecorder()
		w.api.ServeHTTP(rec, r)
		return rec.Code != http.StatusUnauthorized
	}},
	{"revocation", func(w *kindsWorld, text string) bool {
		was, before := w.active(text), w.snapshot()
		for _, client := range []string{optest.Exchange, optest.JWT} {
			for _, hint := range []string{"", "access_token", "refresh_token"} {
				r := w.Revoke(client, text, hint)
				require.Contains(w.t, []int{http.StatusOK, http.StatusUnauthorized}, r.Status, r.Body)
			}
		}
		return was && !w.active(text) || before != w.snapshot()
	}},
	{"end_session hint", func(w *kindsWorld, text string) bool {
		return w.Browser().EndSession(url.Values{"id_token_hint": {text}}).Status != http.StatusBadRequest
	}},
	{"authorize hint", func(w *kindsWorld, text string) bool {
		return w.Browser().Authorize(optest.Web, url.Values{"id_token_hint": {text}}).AtForm()
	}},
	{"request object", func(w *kindsWorld, text string) bool {
		return w.Browser().Authorize(optest.Web, url.Values{"request": {text}}).AtForm()
	}},
	{"refresh", func(w *kindsWorld, text string) bool {
		return w.Refresh(optest.Exchange, text).Status == http.StatusOK
	}},
	{"code", func(w *kindsWorld, text string) bool {
		return w.Code(optest.Exchange, optest.Visit{Params: url.Values{"code": {text}}}).Status == http.StatusOK
	}},
	{"device", func(w *kindsWorld, text string) bool {
		return w.DevicePoll(optest.Native, optest.Reply{JSON: map[string]any{"device_code": text}}).Status == http.StatusOK
	}},
	{"assertion", func(w *kindsWorld, text string) bool {
		return w.Token("", url.Values{"grant_type": {string(oidc.GrantTypeBearer)}, "assertion": {text}, "scope": {"openid"}}).Status == http.StatusOK
	}},
	{"client_assertion", func(w *kindsWorld, text string) bool {
		return w.Token("", url.Values{"grant_type": {string(oidc.GrantTypeClientCredentials)}, "scope": {"openid"},
			"client_assertion": {text}, "client_assertion_type": {oidc.ClientAssertionTypeJWTAssertion}}).Status == http.StatusOK
	}},
	{"client secret", func(w *kindsWorld, text string) bool {
		return w.Token("", url.Values{"grant_type": {string(oidc.GrantTypeClientCredentials)}, "scope": {"openid"},
			"client_id": {optest.ServiceUser}, "client_secret": {text}}).Status == http.StatusOK
	}},
	{"back channel", func(w *kindsWorld, text string) bool {
		r := httptest.NewRequest(http.MethodPost, "/auth/backchannel", strings.NewReader(url.Values{"logout_token": {text}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		rec := httptest.NewRecorder()
		w.rp.Handler(http.NotFoundHandler()).ServeHTTP(rec, r)
		require.Contains(w.t, []int{http.StatusOK, http.StatusBadRequest}, rec.Code, rec.Body)
		return rec.Code == http.StatusOK
	}},
	{"Resource, introspection", func(w *kindsWorld, text string) bool { return callsAPI(w.t, w.byAsk, text) }},
	{"Resource, JWT", func(w *kindsWorld, text string) bool { return callsAPI(w.t, w.byJWT, text) }},
})

// active asks about a token as each of the two clients that get access tokens.
func (w *kindsWorld) active(text string) bool {
	return w.Introspect(optest.Exchange, text).JSON["active"] == true || w.Introspect(optest.JWT, text).JSON["active"] == true
}

func callsAPI(t *testing.T, api *resource.Server, text string) bool {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+text)
	rec := httptest.NewRecorder()
	api.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })).ServeHTTP(rec, r)
	require.Contains(t, []int{http.StatusOK, http.StatusUnauthorized, http.StatusBadRequest}, rec.Code, rec.Body)
	return rec.Code == http.StatusOK
}

// snapshot is all that a token can change of all sessions.
func (w *kindsWorld) snapshot() string {
	var b strings.Builder
	for cursor := ""; ; {
		page, next, err := w.store.List(w.t.Context(), store.Filter{State: store.Any}, cursor, 500)
		require.NoError(w.t, err)
		for _, s := range page {
			fmt.Fprintln(&b, s.ID, s.End != nil, s.ReservedUntil, s.Authenticated, s.LastActivity)
			for _, g := range s.Grants {
				fmt.Fprintln(&b, "", g.ID, g.Generation, g.Used, g.Revoked)
			}
		}
		if next == "" {
			return b.String()
		}
		cursor = next
	}
}

// elsewhere are the doors at which nothing of op's HTTP is in between.
var elsewhere = []string{"Hook.AccessToken", "admin API", "back channel", "Resource, introspection", "Resource, JWT"}

// The embeddings differ in who reads a request, not in what can be the matter with a
// token: with the others, tokens that are good somewhere are tried.
func TestATokenOpensOnlyItsOwnDoor(t *testing.T) {
	quiet(t)
	own := func(s *optest.Storage) op.Storage { return profiled{s} }
	for name, world := range map[string]struct {
		embedding  optest.Embedding
		wrap       func(*optest.Storage) op.Storage
		vouches    bool
		situations []situation
		without    []string // doors
	}{
		"the storage knows its own":                              {wrap: own, situations: situations},
		"the storage vouches for each JWT":                       {wrap: func(s *optest.Storage) op.Storage { return issuerOnly{profiled{s}, true} }, vouches: true, situations: situations},
		"the storage vouches for each JWT, and does not say how": {wrap: func(s *optest.Storage) op.Storage { return issuerOnly{profiled{s}, false} }, vouches: true, situations: situations},
		"LegacyServer": {embedding: optest.AsLegacyServer, wrap: own, situations: []situation{live, otherClient}, without: elsewhere},
		"Server":       {embedding: optest.AsServer, wrap: own, situations: []situation{live, otherClient}, without: elsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			w := newKindsWorld(t, world.embedding, world.wrap)
			for _, kind := range tokenKinds {
				for _, in := range world.situations {
					text := kind.make(w, in)
					for _, door := range tokenDoors {
						if slices.Contains(world.without, door.name) {
							continue
						}
						if text == "" {
							text = kind.make(w, in)
						}
						if text == "" {
							break // there is no such token
						}
						want := slices.Contains(kind.opens[door.name], in)
						if !world.vouches && strings.HasSuffix(door.name, "called jwt") {
							want = false // op does not read it
						}
						before := w.snapshot()
						got := door.enter(w, text)
						if got != want {
							t.Errorf("%s (%s) at the door %q: accepted %t, want %t", kind.name, in, door.name, got, want)
						}
						if !want && !got && before != w.snapshot() {
							t.Errorf("%s (%s) at the door %q was refused, and changed a session", kind.name, in, door.name)
						}
						if got { // it may be spent
							text = ""
						}
					}
				}
			}
		})
	}
}

// doorsOfRoutes says at which doors the routes of op take tokens, and doorsOfGrants those
// of the token endpoint.
var (
	doorsOfRoutes = map[string][]string{
		"/healthz": nil, "/ready": nil, "/.well-known/openid-configuration": nil, "/keys": nil,
		"/.well-known/openid-configuration/*": nil, "/.well-known/oauth-authorization-server": nil, "/.well-known/oauth-authorization-server/*": nil,
		"/authorize":            {"authorize hint", "request object"},
		"/authorize/callback":   nil, // the ID of an auth request, which is no token
		"/oauth/token":          {"client_assertion", "client secret"},
		"/oauth/introspect":     {"introspection"},
		"/userinfo":             {"userinfo"},
		"/revoke":               {"revocation"},
		"/end_session":          {"end_session hint"},
		"/device_authorization": nil,
	}
	doorsOfGrants = map[string][]string{
		string(oidc.GrantTypeCode):              {"code"},
		string(oidc.GrantTypeImplicit):          nil,
		string(oidc.GrantTypeRefreshToken):      {"refresh"},
		string(oidc.GrantTypeClientCredentials): nil,
		string(oidc.GrantTypeBearer):            {"assertion"},
		string(oidc.GrantTypeDeviceCode):        {"device"},
		string(oidc.GrantTypeTokenExchange):     {asAccess, asID, asRefresh, asJWT, actAccess, actID, actRefr, actJWT},
	}

	// doorsOfFunctions are the functions that read tokens: what they call is in
	// tokenReaders.
	doorsOfFunctions = map[string][]string{
		"provider.open":                       {"introspection", "userinfo", "Hook.AccessToken", "admin API", asAccess, actAccess, asJWT, actJWT},
		"provider.openAccessToken":            {"Hook.AccessToken", "admin API"},
		"provider.bare":                       {"introspection", "userinfo", "Hook.AccessToken"},
		"provider.revokeBare":                 {"revocation"},
		"provider.RevokeToken":                {"revocation"},
		"provider.GetRefreshTokenInfo":        {"revocation"},
		"provider.TokenRequestByRefreshToken": {"refresh", asRefresh, actRefr},
		"provider.lookUp":                     {"refresh", asRefresh, actRefr},
		"provider.exchangedForeign":           {asRefresh, actRefr},
		"provider.kindOfExchanged":            {asAccess, asID, asJWT, actAccess, actID, actJWT},
		"provider.isIDToken":                  {"authorize hint", "end_session hint"},
		"provider.checkHint":                  {"authorize hint"},
		"provider.checkLogoutHint":            {"end_session hint"},
		"provider.codeAgain":                  nil, // what these three open comes from the session, where it is sealed
		"provider.asPresented":                nil,
		"provider.presentNewest":              nil,
		"issuer.VerifySignature":              {"back channel"}, // and ID tokens of a sign-in or refresh: TestOnlyAnIDTokenSignsIn
		"middleware.verifyLogout":             {"back channel"},
		"middleware.verify":                   {"back channel"}, // by a verifier of go-oidc, and ID tokens
		"resource.verify":                     {"Resource, JWT"},
		"middleware.identify":                 nil, // the answer of the token endpoint: TestOnlyAnIDTokenSignsIn in package middleware
	}
	tokenReaders = []string{"Verify", "OpenAccess", "OpenRefresh", "Decrypt", "VerifyAccessToken", "VerifyIDTokenHint", "VerifyLogout", "ParseSigned", "parseJWT", "kindOf"}
)

func TestNoKindAndNoDoorIsForgotten(t *testing.T) {
	t.Parallel()
	rows := map[string]bool{}
	for _, d := range tokenDoors {
		rows[d.name] = true
	}
	known := func(what string, doors []string, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("%s: nothing says which doors of the table it is", what)
		}
		for _, d := range doors {
			if !rows[d] {
				t.Errorf("%s: there is no door %q", what, d)
			}
		}
	}
	for _, kind := range tokenKinds {
		known(kind.name, slices.Collect(maps.Keys(kind.opens)), true)
	}

	w := newKindsWorld(t, optest.AsProvider, nil)
	require.NoError(t, chi.Walk(op.CreateRouter(w.p), func(_, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		doors, ok := doorsOfRoutes[route]
		known("route "+route, doors, ok)
		return nil
	}))
	grants := w.Discovery().JSON["grant_types_supported"].([]any)
	require.Greater(t, len(grants), 4)
	for _, g := range grants {
		doors, ok := doorsOfGrants[g.(string)]
		known("grant "+g.(string), doors, ok)
	}
	for f := range functionsThatCall(t, tokenReaders, "provider", "provider/admin", "middleware", "middleware/resource") {
		doors, ok := doorsOfFunctions[f]
		known("function "+f, doors, ok)
	}

	// Kinds: what op answers with, what the hook seals, and what it signs.
	members := map[string]bool{}
	for _, kind := range tokenKinds {
		members[kind.member] = true
	}
	for _, name := range []string{"token_type", "expires_in", "scope", "state", "iss", "session_state", "verification_uri", "verification_uri_complete", "issued_token_type"} {
		members[name] = true
	}
	check := func(answer map[string]any) {
		t.Helper()
		require.NotEmpty(t, answer)
		for name, value := range answer {
			if _, text := value.(string); text && !members[name] {
				t.Errorf("the member %q of an answer is no kind of token in the table", name)
			}
		}
	}
	v := w.Browser().Login(optest.Exchange, kindUser, nil)
	check(paramsOf(v.Params))
	check(ok(t, w.Code(optest.Exchange, v)).JSON)
	check(paramsOf(w.Browser().Login(optest.Implicit, kindUser, url.Values{"response_type": {"id_token token"}}).Params))
	check(w.DeviceStart(optest.Native).JSON)
	check(ok(t, w.DeviceLogin(optest.Native, kindUser)).JSON)
	check(ok(t, w.ClientCredentials()).JSON)
	check(ok(t, w.TokenExchange(optest.Exchange, w.subject, optest.AccessTokenType, wantRefresh)).JSON)

	prefixes, types := sealedAndSigned(t, "provider")
	require.GreaterOrEqual(t, len(prefixes), 6)
	require.Contains(t, types, "logout+jwt")
	for _, prefix := range prefixes {
		if !slices.ContainsFunc(tokenKinds, func(k tokenKind) bool { return k.prefix == prefix }) {
			t.Errorf("what is sealed as %q is no kind of token in the table", prefix)
		}
	}
	for _, typ := range types {
		if !slices.ContainsFunc(tokenKinds, func(k tokenKind) bool { return k.typ == typ }) {
			t.Errorf("a JWT of the type %q is no kind of token in the table", typ)
		}
	}
}

func paramsOf(values url.Values) map[string]any {
	params := map[string]any{}
	for name := range values {
		params[name] = values.Get(name)
	}
	return params
}

// wantRefresh asks an exchange for a refresh token.
var wantRefresh = url.Values{"requested_token_type": {optest.RefreshTokenType}, "scope": {"openid offline_access"}}

// parsedFiles calls visit for each file of a package of the module, and of what is
// internal to it, but the tests.
func parsedFiles(t *testing.T, pkg string, visit func(*ast.File)) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("..", pkg, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	below, err := filepath.Glob(filepath.Join("..", pkg, "internal", "*", "*.go"))
	require.NoError(t, err)
	for _, name := range append(names, below...) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		visit(f)
	}
}

// functionsThatCall returns the functions, as "package.name", that call one of others.
func functionsThatCall(t *testing.T, others []string, pkgs ...string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, pkg := range pkgs {
		parsedFiles(t, pkg, func(f *ast.File) {
			for _, d := range f.Decls {
				function, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				ast.Inspect(function, func(n ast.Node) bool {
					name := ""
					switch n := n.(type) {
					case *ast.SelectorExpr:
						name = n.Sel.Name
					case *ast.CallExpr:
						if id, ok := n.Fun.(*ast.Ident); ok {
							name = id.Name
						}
					}
					if slices.Contains(others, name) {
						found[f.Name.Name+"."+function.Name.Name] = true
					}
					return true
				})
			}
		})
	}
	require.Greater(t, len(found), 8)
	return found
}

// sealedAndSigned returns the prefixes of what a package seals, which are constants named
// so, and the types of the JWTs that it signs.
func sealedAndSigned(t *testing.T, pkg string) (prefixes, types []string) {
	t.Helper()
	text := func(e ast.Expr) string {
		literal, ok := e.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return ""
		}
		s, err := strconv.Unquote(literal.Value)
		require.NoError(t, err)
		return s
	}
	parsedFiles(t, pkg, func(f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if i < len(n.Values) && strings.HasSuffix(name.Name, "Prefix") && strings.HasPrefix(text(n.Values[i]), "curfew_") {
						prefixes = append(prefixes, text(n.Values[i]))
					}
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "WithType" && len(n.Args) == 1 {
					types = append(types, text(n.Args[0]))
				}
			}
			return true
		})
	})
	return prefixes, types
}

// Tokens from before the installation are what they were while tokens are adopted. What
// the hook has not sealed can be one only if it is that old: nothing that was issued
// since.
func TestTokensFromBeforeTheInstallationOpenTheirDoors(t *testing.T) {
	t.Parallel()
	for name, adopt := range map[string]time.Duration{"adopting": 24 * time.Hour, "adopting no more": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := optest.NewStorage()
				bare := optest.Start(t, optest.Config{Storage: storage, InMemory: true})
				authenticated := time.Now()
				opaque, jwt := bare.Login(optest.Exchange, kindUser), bare.Login(optest.JWT, kindUser)
				time.Sleep(time.Minute)
				s := start(t, limits(8*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
					inMemory(p, o)
					o.Storage = storage
					p.AdoptUntil = time.Now().Add(adopt)
				})
				ok := func(r optest.Reply) bool { return r.Status == http.StatusOK }
				exchange := func(token, typ string) optest.Reply { return s.TokenExchange(optest.Exchange, token, typ, wantRefresh) }
				w := &kindsWorld{notified: &notified{setup: s}, t: t}

				// An opaque one is the storage's own at any time: op has encrypted it.
				require.True(t, ok(s.Userinfo(opaque.AccessToken())))
				require.True(t, w.active(opaque.AccessToken()))
				adopting := adopt > 0
				require.Equal(t, adopting, ok(s.Userinfo(jwt.AccessToken())))
				require.Equal(t, adopting, ok(s.Post("/userinfo", "", url.Values{"access_token": {jwt.AccessToken()}})))
				require.Equal(t, adopting, w.active(jwt.AccessToken()))
				require.False(t, ok(s.Userinfo(opaque.IDToken())))
				require.False(t, ok(s.Userinfo(w.sign("at+jwt", map[string]any{ // of the storage's own, since
					"iss": s.Issuer, "sub": optest.SubjectOf(kindUser), "jti": "1", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}))))

				for _, x := range []struct{ token, typ string }{
					{opaque.AccessToken(), optest.AccessTokenType}, {jwt.AccessToken(), optest.AccessTokenType}, {opaque.RefreshToken(), optest.RefreshTokenType},
				} {
					r := exchange(x.token, x.typ)
					require.Equal(t, adopting, ok(r), "%s: %s", x.typ, r.Body)
					if !adopting {
						continue
					}
					for _, session := range s.live(t, kindUser) {
						require.WithinDuration(t, authenticated, session.Authenticated, time.Minute, "not at the exchange")
					}
				}
				r := s.TokenExchange(optest.Exchange, opaque.IDToken(), optest.IDTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}})
				require.Equal(t, adopting, ok(r), r.Body)
				for _, x := range []struct{ token, typ string }{
					{opaque.IDToken(), optest.AccessTokenType}, {jwt.AccessToken(), optest.IDTokenType}, {jwt.IDToken(), optest.AccessTokenType},
				} {
					require.False(t, ok(exchange(x.token, x.typ)))
				}
				// A sign-out by an ID token of then is one at any time, and none by another token.
				require.Equal(t, http.StatusBadRequest, s.Browser().EndSession(url.Values{"id_token_hint": {jwt.AccessToken()}}).Status)
				require.Equal(t, "signed out", s.Browser().EndSession(url.Values{"id_token_hint": {opaque.IDToken()}}).Body)
				require.True(t, s.Browser().Authorize(optest.Web, url.Values{"id_token_hint": {opaque.IDToken()}}).AtForm())

				require.Equal(t, http.StatusOK, s.Revoke(optest.JWT, jwt.AccessToken(), "").Status)
				require.False(t, ok(s.Userinfo(jwt.AccessToken())))
			})
		})
	}
}
