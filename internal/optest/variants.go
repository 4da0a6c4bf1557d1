package optest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// NonRotating answers a refresh with the same refresh token. For Config.Wrap.
func NonRotating(s *Storage) op.Storage { return nonRotating{s} }

type nonRotating struct{ *Storage }

func (s nonRotating) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	if current == "" {
		return s.Storage.CreateAccessAndRefreshTokens(ctx, request, "")
	}
	if _, err := s.TokenRequestByRefreshToken(ctx, current); err != nil {
		return "", "", time.Time{}, err
	}
	id, expires, err := s.CreateAccessToken(ctx, request)
	return id, current, expires, err
}

// Bare implements no optional interface. For Config.Wrap.
func Bare(s *Storage) op.Storage { return struct{ op.Storage }{s} }

// ForeignToken is a subject token, of type urn:ietf:params:oauth:token-type:jwt,
// with which [Foreign] knows the user of the given name.
func ForeignToken(name string) string { return "foreign:" + name }

// Foreign also verifies foreign tokens in a token exchange. For Config.Wrap.
func Foreign(s *Storage) op.Storage { return foreign{s} }

type foreign struct{ *Storage }

func (s foreign) VerifyExchangeSubjectToken(_ context.Context, token string, _ oidc.TokenType) (string, string, map[string]any, error) {
	name, ok := strings.CutPrefix(token, ForeignToken(""))
	if !ok {
		return "", "", nil, errors.New("not a foreign token")
	}
	return token, SubjectOf(name), map[string]any{"iss": "foreign"}, nil
}

func (s foreign) VerifyExchangeActorToken(ctx context.Context, token string, typ oidc.TokenType) (string, string, map[string]any, error) {
	return s.VerifyExchangeSubjectToken(ctx, token, typ)
}

// Intercepted is a storage in front of which and behind which something else
// happens: a delay, a barrier, an error, a count. Both functions get the name
// of the op.Storage method. An error of Before is returned instead of the call,
// an error of After instead of its result. For Config.Wrap:
//
//	Wrap: func(s *optest.Storage) op.Storage { return &optest.Intercepted{Storage: s, Before: ...} }
type Intercepted struct {
	*Storage
	Before, After func(ctx context.Context, method string) error
}

func around[T any](ctx context.Context, s *Intercepted, method string, call func() (T, error)) (T, error) {
	var zero T
	if s.Before != nil {
		if err := s.Before(ctx, method); err != nil {
			return zero, err
		}
	}
	v, err := call()
	if err != nil {
		return zero, err
	}
	if s.After != nil {
		if err := s.After(ctx, method); err != nil {
			return zero, err
		}
	}
	return v, nil
}

func (s *Intercepted) do(ctx context.Context, method string, call func() error) error {
	_, err := around(ctx, s, method, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func (s *Intercepted) CreateAuthRequest(ctx context.Context, req *oidc.AuthRequest, userID string) (op.AuthRequest, error) {
	return around(ctx, s, "CreateAuthRequest", func() (op.AuthRequest, error) { return s.Storage.CreateAuthRequest(ctx, req, userID) })
}

func (s *Intercepted) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	return around(ctx, s, "AuthRequestByID", func() (op.AuthRequest, error) { return s.Storage.AuthRequestByID(ctx, id) })
}

func (s *Intercepted) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	return around(ctx, s, "AuthRequestByCode", func() (op.AuthRequest, error) { return s.Storage.AuthRequestByCode(ctx, code) })
}

func (s *Intercepted) SaveAuthCode(ctx context.Context, id, code string) error {
	return s.do(ctx, "SaveAuthCode", func() error { return s.Storage.SaveAuthCode(ctx, id, code) })
}

func (s *Intercepted) DeleteAuthRequest(ctx context.Context, id string) error {
	return s.do(ctx, "DeleteAuthRequest", func() error { return s.Storage.DeleteAuthRequest(ctx, id) })
}

type created struct {
	id, refresh string
	expires     time.Time
}

func (s *Intercepted) CreateAccessToken(ctx context.Context, request op.TokenRequest) (string, time.Time, error) {
	c, err := around(ctx, s, "CreateAccessToken", func() (c created, err error) {
		c.id, c.expires, err = s.Storage.CreateAccessToken(ctx, request)
		return c, err
	})
	return c.id, c.expires, err
}

func (s *Intercepted) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	c, err := around(ctx, s, "CreateAccessAndRefreshTokens", func() (c created, err error) {
		c.id, c.refresh, c.expires, err = s.Storage.CreateAccessAndRefreshTokens(ctx, request, current)
		return c, err
	})
	return c.id, c.refresh, c.expires, err
}

func (s *Intercepted) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	return around(ctx, s, "TokenRequestByRefreshToken", func() (op.RefreshTokenRequest, error) {
		return s.Storage.TokenRequestByRefreshToken(ctx, token)
	})
}

func (s *Intercepted) TerminateSession(ctx context.Context, userID, clientID string) error {
	return s.do(ctx, "TerminateSession", func() error { return s.Storage.TerminateSession(ctx, userID, clientID) })
}

func (s *Intercepted) RevokeToken(ctx context.Context, token, userID, clientID string) *oidc.Error {
	var refused *oidc.Error
	err := s.do(ctx, "RevokeToken", func() error {
		refused = s.Storage.RevokeToken(ctx, token, userID, clientID)
		return nil
	})
	if err != nil {
		return oidc.ErrServerError().WithParent(err)
	}
	return refused
}

func (s *Intercepted) GetRefreshTokenInfo(ctx context.Context, clientID, token string) (string, string, error) {
	ids, err := around(ctx, s, "GetRefreshTokenInfo", func() (ids [2]string, err error) {
		ids[0], ids[1], err = s.Storage.GetRefreshTokenInfo(ctx, clientID, token)
		return ids, err
	})
	return ids[0], ids[1], err
}

func (s *Intercepted) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	return around(ctx, s, "GetClientByClientID", func() (op.Client, error) { return s.Storage.GetClientByClientID(ctx, id) })
}

func (s *Intercepted) AuthorizeClientIDSecret(ctx context.Context, id, secret string) error {
	return s.do(ctx, "AuthorizeClientIDSecret", func() error { return s.Storage.AuthorizeClientIDSecret(ctx, id, secret) })
}

func (s *Intercepted) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	return s.do(ctx, "SetUserinfoFromToken", func() error { return s.Storage.SetUserinfoFromToken(ctx, info, tokenID, subject, origin) })
}

func (s *Intercepted) SetIntrospectionFromToken(ctx context.Context, info *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	return s.do(ctx, "SetIntrospectionFromToken", func() error {
		return s.Storage.SetIntrospectionFromToken(ctx, info, tokenID, subject, clientID)
	})
}

func (s *Intercepted) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, request op.IDTokenRequest, scopes []string) error {
	return s.do(ctx, "SetUserinfoFromRequest", func() error { return s.Storage.SetUserinfoFromRequest(ctx, info, request, scopes) })
}

func (s *Intercepted) GetDeviceAuthorizatonState(ctx context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	return around(ctx, s, "GetDeviceAuthorizatonState", func() (*op.DeviceAuthorizationState, error) {
		return s.Storage.GetDeviceAuthorizatonState(ctx, clientID, deviceCode)
	})
}

func (s *Intercepted) ValidateTokenExchangeRequest(ctx context.Context, r op.TokenExchangeRequest) error {
	return s.do(ctx, "ValidateTokenExchangeRequest", func() error { return s.Storage.ValidateTokenExchangeRequest(ctx, r) })
}

// Complaisant is a storage that drops what an application asked for about the
// user's authentication: each request is answered from the sign-on that the
// browser has. It needs Storage.SSO. For Config.Wrap.
func Complaisant(s *Storage) op.Storage { return complaisant{s} }

type complaisant struct{ *Storage }

func (s complaisant) CreateAuthRequest(ctx context.Context, req *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	asked := *req
	asked.Prompt, asked.MaxAge = nil, nil
	return s.Storage.CreateAuthRequest(ctx, &asked, "")
}
