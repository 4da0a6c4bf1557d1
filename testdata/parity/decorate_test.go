// Package op_test is copied next to op's own tests, which then run against a
// storage and a handler that the hook decorates: see TestOwnTestsOfOp in
// package provider.
package op_test

import (
	"context"
	"net/http"
	"os"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A variable, because op's tests make their provider in init functions.
var _ = decorate()

// decorate sets what the copy of op calls wherever it is given a storage and
// wherever it has made a handler.
func decorate() bool {
	if os.Getenv("CURFEW_DECORATE") == "" {
		return false
	}
	hook, err := provider.New(provider.Config{
		Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())},
		NoGrace: true, NoLostResponse: true, NoExpirationMembers: true, NoExpirationMetadata: true, NoResponseIssuer: true,
	})
	if err != nil {
		panic(err)
	}
	job = hook.JobContext
	op.DecorateHandler = func(next http.Handler) http.Handler {
		return hook.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), handled{}, true)))
		}))
	}
	op.DecorateStorage = func(s op.Storage) op.Storage {
		own, ok := s.(ownStorage)
		if !ok {
			return hook.Storage(s)
		}
		return &decorated{all: hook.Storage(s).(all), own: own}
	}
	return true
}

// undecorated is for tests that ask a provider for its storage to call what
// only the example's has.
func undecorated(s op.Storage) op.Storage {
	if d, ok := s.(*decorated); ok {
		return d.own
	}
	return s
}

var _ = undecorated // not all packages have such tests

type handled struct{}

// all is what hook.Storage returns for the example's storage.
type all interface {
	op.Storage
	op.ClientCredentialsStorage
	op.DeviceAuthorizationStorage
	op.TokenExchangeStorage
	op.CanSetUserinfoFromRequest
	op.CanTerminateSessionFromRequest
	op.JWTProfileTokenStorage
	op.TokenExchangeTokensVerifierStorage
}

// ownStorage is the example's, or one that embeds it.
type ownStorage interface {
	op.Storage
	op.ClientCredentialsStorage
	op.DeviceAuthorizationStorage
	op.TokenExchangeStorage
	op.CanSetUserinfoFromRequest
	AuthRequestDone(id string) error
}

// decorated is what hook.Storage returns, for tests that call it or op's
// functions outside of any HTTP request: each such call becomes a request of
// its own. What the hook has to know from one call to the next of one request
// is missing then.
type decorated struct {
	all
	own ownStorage
}

func (d *decorated) AuthRequestDone(id string) error { return d.own.AuthRequestDone(id) }

func in(ctx context.Context) context.Context {
	if ctx.Value(handled{}) != nil {
		return ctx
	}
	issuer := op.IssuerFromContext(ctx)
	if issuer == "" { // some of op's tests have none, where a server always has one
		issuer = "https://localhost:9998/"
	}
	return job(ctx, issuer)
}

// job is the hook's JobContext.
var job func(ctx context.Context, issuer string) context.Context

func (d *decorated) CreateAuthRequest(ctx context.Context, r *oidc.AuthRequest, userID string) (op.AuthRequest, error) {
	return d.all.CreateAuthRequest(in(ctx), r, userID)
}

func (d *decorated) SaveAuthCode(ctx context.Context, id, code string) error {
	return d.all.SaveAuthCode(in(ctx), id, code)
}

func (d *decorated) CreateAccessToken(ctx context.Context, r op.TokenRequest) (string, time.Time, error) {
	return d.all.CreateAccessToken(in(ctx), r)
}

func (d *decorated) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, current string) (string, string, time.Time, error) {
	return d.all.CreateAccessAndRefreshTokens(in(ctx), r, current)
}

func (d *decorated) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	return d.all.TokenRequestByRefreshToken(in(ctx), token)
}

func (d *decorated) GetRefreshTokenInfo(ctx context.Context, clientID, token string) (string, string, error) {
	return d.all.GetRefreshTokenInfo(in(ctx), clientID, token)
}

func (d *decorated) RevokeToken(ctx context.Context, token, userID, clientID string) *oidc.Error {
	return d.all.RevokeToken(in(ctx), token, userID, clientID)
}

func (d *decorated) TerminateSessionFromRequest(ctx context.Context, r *op.EndSessionRequest) (string, error) {
	return d.all.TerminateSessionFromRequest(in(ctx), r)
}

func (d *decorated) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	return d.all.SetUserinfoFromRequest(in(ctx), info, r, scopes)
}

func (d *decorated) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	return d.all.SetUserinfoFromToken(in(ctx), info, tokenID, subject, origin)
}

func (d *decorated) SetIntrospectionFromToken(ctx context.Context, info *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	return d.all.SetIntrospectionFromToken(in(ctx), info, tokenID, subject, clientID)
}

func (d *decorated) GetDeviceAuthorizatonState(ctx context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	return d.all.GetDeviceAuthorizatonState(in(ctx), clientID, deviceCode)
}

func (d *decorated) ValidateTokenExchangeRequest(ctx context.Context, r op.TokenExchangeRequest) error {
	return d.all.ValidateTokenExchangeRequest(in(ctx), r)
}

func (d *decorated) SetUserinfoFromTokenExchangeRequest(ctx context.Context, info *oidc.UserInfo, r op.TokenExchangeRequest) error {
	return d.all.SetUserinfoFromTokenExchangeRequest(in(ctx), info, r)
}
