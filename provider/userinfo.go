package provider

import (
	"context"
	"errors"
	"maps"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
)

// SetUserinfoFromToken answers for the session as well as for the token.
func (c *reading) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return c.noHandler(ctx)
	}
	t, s, r, err := c.open(ctx, tokenID, subject, req.bearer())
	if err != nil {
		if !errors.Is(err, errInactive) {
			return c.outage(ctx, req, err)
		}
		req.unauthorized = true
		return err
	}
	if err := c.Storage.SetUserinfoFromToken(ctx, info, t.ID, subject, origin); err != nil || s.ID == "" {
		return err
	}
	if err := c.touch(ctx, s, r, t, policy.Userinfo); err != nil {
		return c.outage(ctx, req, err)
	}
	return nil
}

// SetUserinfoFromScopes is called for an ID token before
// SetUserinfoFromRequest. The storage is not called where op would not have
// called it: for the hook's own scope alone.
func (c *reading) SetUserinfoFromScopes(ctx context.Context, info *oidc.UserInfo, userID, clientID string, scopes []string) error {
	if scopes = withoutOwnScope(scopes); len(scopes) == 0 {
		return nil
	}
	return c.Storage.SetUserinfoFromScopes(ctx, info, userID, clientID, scopes)
}

// SetUserinfoFromRequest adds the session's claims to an ID token. It is the
// last place where a login for an ID token alone can be admitted.
func (c *signingIn) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, ir op.IDTokenRequest, scopes []string) error {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return c.noHandler(ctx)
	}
	if req.session == nil && !withoutSession(ctx) {
		if ar, ok := ir.(op.AuthRequest); ok {
			client, err := c.clientOf(ctx, req, ar.GetClientID())
			if err != nil {
				return err
			}
			if err := c.admitLogin(ctx, req, ar, client); err != nil {
				return c.callbackError(ctx, req, err)
			}
			// op has asked for the ID token's life already, when nothing was
			// known of a session.
			end := req.live.window.Over()
			if !end.IsZero() && c.h.now().Add(client.IDTokenLifetime()+client.ClockSkew()).After(end) {
				return c.h.misconfiguredAnswer(ctx, errRawRequest)
			}
		}
	}
	if scopes = withoutOwnScope(scopes); len(scopes) > 0 {
		if own, ok := c.Storage.(op.CanSetUserinfoFromRequest); ok {
			if err := own.SetUserinfoFromRequest(ctx, info, ir, scopes); err != nil {
				return err
			}
		}
	}
	_, isAuthRequest := ir.(op.AuthRequest)
	c.sessionClaims(req, info, ir.GetSubject(), !isAuthRequest)
	if req.session != nil && ir.GetAuthTime().IsZero() {
		// The storage keeps none, and op leaves it out (OpenID Connect Core 1.0
		// section 12.2 wants the original one after a refresh).
		info.AppendClaims("auth_time", req.live.use.Authenticated.Unix())
	}
	return nil
}

// sessionClaims adds "sid" (Back-Channel Logout 1.0 section 2.1),
// "session_expiry" (OpenID Connect Enterprise Extensions 1.0) and, where op
// leaves it out, "acr".
func (c *reading) sessionClaims(req *request, info *oidc.UserInfo, subject string, acr bool) {
	if info.Subject == "" {
		info.Subject = subject // op takes the ID token's sub from here
	}
	if req.session == nil {
		return
	}
	info.Claims = maps.Clone(info.Claims) // the storage may use its map again
	info.AppendClaims("sid", req.session.ID)
	if end := req.live.window.End; !end.IsZero() {
		info.AppendClaims("session_expiry", end.Unix())
	}
	if acr && req.acr != "" {
		info.AppendClaims("acr", req.acr)
	}
	info.Claims = withActor(req, info.Claims)
}
