package provider

import (
	"context"
	"maps"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/store"
)

// Tokens of a session that was made from another one say so in "act" (RFC 8693
// section 4.1): the subject who acts, and the sid of the session in which they do.
// What the storage says there stays.

// actorOf returns the member "act" for a session; nil if nobody else acts in it.
func actorOf(s *store.Session, own any) map[string]any {
	if s == nil || s.Parent == "" {
		return nil
	}
	act := map[string]any{"sub": s.Actor}
	if said, ok := own.(map[string]any); ok {
		maps.Copy(act, said)
	}
	act["sid"] = s.Parent
	return act
}

// withActor adds "act" to the claims of a token of the request's session.
func withActor(req *request, claims map[string]any) map[string]any {
	if req == nil {
		return claims
	}
	act := actorOf(req.session, claims["act"])
	if act == nil {
		return claims
	}
	claims = maps.Clone(claims) // the storage may use its map again
	if claims == nil {
		claims = map[string]any{}
	}
	claims["act"] = act
	return claims
}

// GetPrivateClaimsFromScopes adds "act" to a JWT access token.
func (c *backing) GetPrivateClaimsFromScopes(ctx context.Context, userID, clientID string, scopes []string) (map[string]any, error) {
	req, leave := c.h.enter(ctx)
	defer leave()
	claims, err := c.Storage.GetPrivateClaimsFromScopes(ctx, userID, clientID, scopes)
	return withActor(req, claims), err
}

// GetPrivateClaimsFromRequest is the same where the storage wants the request.
func (p privateClaims) GetPrivateClaimsFromRequest(ctx context.Context, tr op.TokenRequest, scopes []string) (map[string]any, error) {
	req, leave := p.h.enter(ctx)
	defer leave()
	claims, err := p.storage.GetPrivateClaimsFromRequest(ctx, tr, scopes)
	return withActor(req, claims), err
}
