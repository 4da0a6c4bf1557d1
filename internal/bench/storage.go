package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
)

const (
	redirectURI   = "https://app.example.org/callback"
	tokenLifetime = 5 * time.Minute
)

var scopes = []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeOfflineAccess}

// A storage is the least that op can work on: every answer is one look into a
// map, so that next to it the hook's share looks as large as it can. The bare
// provider and the one with the hook each have one, and it rotates refresh
// tokens.
type storage struct {
	key    signingKey
	client *optest.Client

	// claims adds to ID tokens the claims that the hook adds.
	claims bool

	mu       sync.Mutex
	requests map[string]*authRequest
	codes    map[string]*authRequest
	refresh  map[string]*refreshRequest
}

func newStorage(key signingKey) *storage {
	return &storage{
		key: key,
		client: &optest.Client{
			ID: "web", Auth: oidc.AuthMethodNone, Redirects: []string{redirectURI},
			Responses: []oidc.ResponseType{oidc.ResponseTypeCode},
			Grants:    []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken},
		},
		requests: map[string]*authRequest{},
		codes:    map[string]*authRequest{},
		refresh:  map[string]*refreshRequest{},
	}
}

// answered adds an auth request to which the user has signed in already: the
// browser stands before the callback. It returns the request's ID.
func (s *storage) answered(subject string, now time.Time) string {
	r := &authRequest{id: rand.Text(), subject: subject, authTime: now}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[r.id] = r
	return r.id
}

// An authRequest is an authorization request with PKCE, answered by a sign-in.
type authRequest struct {
	id, subject string
	authTime    time.Time
	code        string
}

func (r *authRequest) GetID() string                      { return r.id }
func (r *authRequest) GetACR() string                     { return "" }
func (r *authRequest) GetAMR() []string                   { return []string{"pwd"} }
func (r *authRequest) GetAudience() []string              { return []string{"web"} }
func (r *authRequest) GetAuthTime() time.Time             { return r.authTime }
func (r *authRequest) GetClientID() string                { return "web" }
func (r *authRequest) GetNonce() string                   { return "nonce" }
func (r *authRequest) GetRedirectURI() string             { return redirectURI }
func (r *authRequest) GetScopes() []string                { return scopes }
func (r *authRequest) GetState() string                   { return "state" }
func (r *authRequest) GetSubject() string                 { return r.subject }
func (r *authRequest) Done() bool                         { return true }
func (r *authRequest) GetResponseType() oidc.ResponseType { return oidc.ResponseTypeCode }
func (r *authRequest) GetResponseMode() oidc.ResponseMode { return "" }
func (r *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	return &oidc.CodeChallenge{Challenge: oidc.NewSHACodeChallenge(verifier), Method: oidc.CodeChallengeMethodS256}
}

type refreshRequest struct {
	subject  string
	authTime time.Time
	scopes   []string
}

func (r *refreshRequest) GetAMR() []string               { return []string{"pwd"} }
func (r *refreshRequest) GetAudience() []string          { return []string{"web"} }
func (r *refreshRequest) GetAuthTime() time.Time         { return r.authTime }
func (r *refreshRequest) GetClientID() string            { return "web" }
func (r *refreshRequest) GetScopes() []string            { return r.scopes }
func (r *refreshRequest) GetSubject() string             { return r.subject }
func (r *refreshRequest) SetCurrentScopes(only []string) { r.scopes = only }

var errNone = errors.New("there is none")

func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.requests[id]; r != nil {
		return r, nil
	}
	return nil, errNone
}

func (s *storage) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.codes[code]; r != nil {
		return r, nil
	}
	return nil, errNone
}

func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests[id]
	if r == nil {
		return errNone
	}
	r.code = code
	s.codes[code] = r
	return nil
}

func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.requests[id]; r != nil {
		delete(s.codes, r.code)
	}
	delete(s.requests, id)
	return nil
}

func (s *storage) CreateAccessAndRefreshTokens(_ context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	next := &refreshRequest{subject: request.GetSubject(), scopes: request.GetScopes()}
	switch r := request.(type) {
	case *authRequest:
		next.authTime = r.authTime
	case *refreshRequest:
		next.authTime = r.authTime
	default:
		return "", "", time.Time{}, fmt.Errorf("unexpected %T", request)
	}
	token := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	if current != "" {
		if s.refresh[current] == nil {
			return "", "", time.Time{}, op.ErrInvalidRefreshToken
		}
		delete(s.refresh, current)
	}
	s.refresh[token] = next
	return rand.Text(), token, time.Now().Add(tokenLifetime), nil
}

func (s *storage) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.refresh[token]; r != nil {
		return r, nil
	}
	return nil, op.ErrInvalidRefreshToken
}

func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != s.client.ID {
		return nil, errNone
	}
	return s.client, nil
}

func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, request op.IDTokenRequest, _ []string) error {
	info.Subject, info.Name = request.GetSubject(), "Alice Example"
	if s.claims {
		info.AppendClaims("sid", "00.AAAAAAAAAAAAAAAAAAAAAAAA")
		info.AppendClaims("session_expiry", request.GetAuthTime().Unix())
	}
	return nil
}

func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.key, nil }

// What refresh and login do not need answers that there is nothing.

func (s *storage) CreateAuthRequest(context.Context, *oidc.AuthRequest, string) (op.AuthRequest, error) {
	return nil, errNone
}

func (s *storage) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return "", time.Time{}, errNone
}

func (s *storage) TerminateSession(context.Context, string, string) error { return errNone }

func (s *storage) RevokeToken(context.Context, string, string, string) *oidc.Error {
	return oidc.ErrServerError()
}

func (s *storage) GetRefreshTokenInfo(context.Context, string, string) (string, string, error) {
	return "", "", op.ErrInvalidRefreshToken
}

func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{s.key.SignatureAlgorithm()}, nil
}

func (s *storage) KeySet(context.Context) ([]op.Key, error) { return nil, nil }

func (s *storage) AuthorizeClientIDSecret(context.Context, string, string) error { return errNone }

func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

func (s *storage) SetUserinfoFromToken(context.Context, *oidc.UserInfo, string, string, string) error {
	return errNone
}

func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errNone
}

func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errNone
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errNone
}

func (s *storage) Health(context.Context) error { return nil }

// A signingKey signs ID tokens.
type signingKey struct {
	alg jose.SignatureAlgorithm
	key any
}

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return k.alg }
func (k signingKey) Key() any                                    { return k.key }
func (k signingKey) ID() string                                  { return "bench" }

func newSigningKey(alg jose.SignatureAlgorithm) (signingKey, error) {
	var key any
	var err error
	switch alg {
	case jose.RS256:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		err = fmt.Errorf("unexpected algorithm %s", alg)
	}
	return signingKey{alg, key}, err
}
