package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
)

// impersonate is the scope by which an administrator asks for another user's
// token: "impersonate:alice".
const impersonate = "impersonate:"

// ValidateTokenExchangeRequest implements op.TokenExchangeStorage (RFC 8693).
// A client that has the grant may exchange a user's access token for one of the
// same user with the same scopes or fewer. Another user's token is only for
// administrators: by the scope impersonate:SUB, or with an actor token.
func (s *storage) ValidateTokenExchangeRequest(ctx context.Context, r op.TokenExchangeRequest) error {
	c, ok := s.clients[r.GetClientID()]
	if !ok || !c.grants(oidc.GrantTypeTokenExchange) {
		return oidc.ErrUnauthorizedClient().WithDescription("the client may not exchange tokens")
	}
	subject, err := s.exchangedToken(ctx, r.GetExchangeSubjectTokenType(), r.GetExchangeSubjectTokenIDOrToken(), r.GetExchangeSubject())
	if err != nil {
		return err
	}
	if actor := r.GetExchangeActor(); actor != "" {
		if _, err := s.exchangedToken(ctx, r.GetExchangeActorTokenType(), r.GetExchangeActorTokenIDOrToken(), actor); err != nil {
			return err
		}
		if actor != r.GetExchangeSubject() && !s.users.bySubject[actor].isAdministrator() {
			return oidc.ErrAccessDenied().WithDescription("only an administrator may act for another user")
		}
	}
	if len(r.GetResourses()) > 0 {
		return oidc.ErrInvalidTarget().WithDescription("resource is not supported; use audience")
	}
	for _, audience := range r.GetAudience() {
		if s.clients[audience] == nil {
			return oidc.ErrInvalidTarget().WithDescription("the audience is not a client of this provider")
		}
	}

	allowed := subject.Scopes
	scopes := slices.Clone(r.GetScopes())
	if i := slices.IndexFunc(scopes, func(scope string) bool { return strings.HasPrefix(scope, impersonate) }); i >= 0 {
		target := strings.TrimPrefix(scopes[i], impersonate)
		if !s.users.bySubject[r.GetExchangeSubject()].isAdministrator() {
			return oidc.ErrAccessDenied().WithDescription("only an administrator may act as another user")
		}
		if s.users.bySubject[target] == nil {
			return oidc.ErrInvalidRequest().WithDescription("the user to act as does not exist")
		}
		r.SetSubject(target)
		scopes = slices.Delete(scopes, i, i+1)
		// As somebody else for a moment, not for good.
		allowed = slices.DeleteFunc(slices.Clone(allowed), func(scope string) bool { return scope == oidc.ScopeOfflineAccess })
	}
	if len(scopes) == 0 {
		scopes = allowed
	}
	for _, scope := range scopes {
		if !slices.Contains(allowed, scope) {
			return oidc.ErrInvalidScope().WithDescription("a scope goes beyond those of the subject token")
		}
	}
	r.SetCurrentScopes(scopes)

	switch r.GetRequestedTokenType() {
	case "":
		r.SetRequestedTokenType(oidc.AccessTokenType)
	case oidc.RefreshTokenType:
		if !c.grants(oidc.GrantTypeRefreshToken) || !slices.Contains(scopes, oidc.ScopeOfflineAccess) {
			return oidc.ErrInvalidRequest().WithDescription("a refresh token needs the grant type refresh_token and the scope offline_access")
		}
	}
	return nil
}

// exchangedToken reads a subject or actor token: a user's access token.
func (s *storage) exchangedToken(ctx context.Context, tokenType oidc.TokenType, id, subject string) (accessRecord, error) {
	if tokenType != oidc.AccessTokenType {
		return accessRecord{}, oidc.ErrInvalidRequest().WithDescription("only access tokens are exchanged")
	}
	r, err := s.accessToken(ctx, id, subject)
	switch {
	case errors.Is(err, kv.ErrNotFound), errors.Is(err, errUnknownUser), err == nil && r.Machine:
		return r, oidc.ErrInvalidRequest().WithDescription("the token is not a valid access token of a user").WithParent(err)
	case err != nil:
		return r, failed(err)
	}
	return r, nil
}

// CreateTokenExchangeRequest implements op.TokenExchangeStorage.
func (s *storage) CreateTokenExchangeRequest(context.Context, op.TokenExchangeRequest) error {
	return nil
}

// actor is who acts for the subject, for the claim "act" (RFC 8693 section 4.1);
// empty if the subject does.
func actor(r op.TokenExchangeRequest) string {
	for _, who := range []string{r.GetExchangeActor(), r.GetExchangeSubject()} {
		if who != "" && who != r.GetSubject() {
			return who
		}
	}
	return ""
}

// GetPrivateClaimsFromTokenExchangeRequest implements op.TokenExchangeStorage.
func (s *storage) GetPrivateClaimsFromTokenExchangeRequest(_ context.Context, r op.TokenExchangeRequest) (map[string]any, error) {
	if who := actor(r); who != "" {
		return map[string]any{"act": map[string]any{"sub": who}}, nil
	}
	return nil, nil
}

// SetUserinfoFromTokenExchangeRequest implements op.TokenExchangeStorage, for ID
// tokens.
func (s *storage) SetUserinfoFromTokenExchangeRequest(_ context.Context, info *oidc.UserInfo, r op.TokenExchangeRequest) error {
	if err := s.setUserinfo(info, r.GetSubject(), r.GetScopes()); err != nil {
		return err
	}
	if who := actor(r); who != "" {
		info.AppendClaims("act", map[string]any{"sub": who})
	}
	return nil
}
