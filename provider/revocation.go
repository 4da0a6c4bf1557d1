package provider

import (
	"context"
	"errors"
	"slices"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// GetRefreshTokenInfo names a sealed refresh token by itself, so that
// RevokeToken finds everything in it.
func (c *core) GetRefreshTokenInfo(ctx context.Context, clientID, token string) (userID, tokenID string, err error) {
	t, err := c.h.ring.OpenRefresh(token, c.h.now())
	switch {
	case errors.Is(err, seal.ErrForeign):
		return c.Storage.GetRefreshTokenInfo(ctx, clientID, token)
	case errors.Is(err, seal.ErrAhead):
		req, leave := c.h.enter(ctx)
		defer leave()
		if req != nil {
			return "", "", c.outage(ctx, req, err)
		}
		return "", "", err
	case err != nil:
		return "", "", op.ErrInvalidRefreshToken
	}
	return t.Subject.ID, token, nil
}

// RevokeToken revokes a grant or an access token, from the right client only
// (RFC 7009 section 2.1).
func (c *core) RevokeToken(ctx context.Context, tokenOrID, userID, clientID string) *oidc.Error {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return c.noHandler(ctx)
	}
	now := c.h.now()
	t, err := c.h.ring.OpenRefresh(tokenOrID, now)
	switch {
	case err == nil:
		return c.revokeGrant(ctx, req, t, clientID)
	case errors.Is(err, seal.ErrAhead):
		return c.outage(ctx, req, err)
	case !errors.Is(err, seal.ErrForeign):
		return nil // not a token: RFC 7009 section 2.2
	}
	a, err := c.h.ring.OpenAccess(tokenOrID, now)
	switch {
	case errors.Is(err, seal.ErrForeign):
		return c.revokeBare(ctx, req, tokenOrID, userID, clientID)
	case errors.Is(err, seal.ErrAhead):
		return c.outage(ctx, req, err)
	case err != nil:
		return nil
	case a.SID == "":
		if a.Grant != holderMark(subjectOf(ctx, userID)) {
			return nil
		}
		return c.Storage.RevokeToken(ctx, a.ID, userID, clientID)
	}
	s, err := c.h.getOrLost(ctx, a.SID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return c.outage(ctx, req, err)
	}
	if g := s.Grant(a.Grant); g != nil && g.Client != clientID {
		return wrongClient()
	}
	if op.IssuerFromContext(ctx) == "" {
		return c.h.misconfiguredAnswer(ctx, errNoIssuer)
	}
	if err == nil && s.Subject.Issuer != op.IssuerFromContext(ctx) {
		return nil
	}
	if _, err := c.seen(ctx, s, a.Grant, a.Generation); err != nil {
		return c.outage(ctx, req, err)
	}
	return c.Storage.RevokeToken(ctx, a.ID, userID, clientID)
}

// revokeBare revokes a token that the hook did not seal: an access token of the
// storage's own, by its ID, or a text that op could not read, such as a refresh token
// from before the installation. A JWT that is no access token is not a token here:
// RFC 7009 section 2.2.
func (c *core) revokeBare(ctx context.Context, req *request, tokenOrID, userID, clientID string) *oidc.Error {
	presented, _ := req.param("token")
	if _, claims, isJWT := parseJWT(presented); !isJWT || claims["iss"] != op.IssuerFromContext(ctx) {
		if tokenOrID == "" {
			return nil
		}
		return c.Storage.RevokeToken(ctx, tokenOrID, userID, clientID)
	}
	switch err := c.bare(ctx, tokenOrID, presented); {
	case errors.Is(err, errInactive):
		return nil
	case err != nil:
		return c.outage(ctx, req, err)
	}
	return c.Storage.RevokeToken(ctx, tokenOrID, userID, clientID)
}

func wrongClient() *oidc.Error {
	return oidc.ErrInvalidClient().WithDescription("token was not issued for this client")
}

// revokeGrant revokes the family of a refresh token. Our write comes first:
// after it no token of the family is good any more, whatever the storage does.
// The last grant of a session that is not a browser's ends the session.
func (c *core) revokeGrant(ctx context.Context, req *request, t seal.RefreshToken, clientID string) *oidc.Error {
	if t.Client != clientID {
		return wrongClient()
	}
	if op.IssuerFromContext(ctx) == "" {
		return c.h.misconfiguredAnswer(ctx, errNoIssuer)
	}
	if t.Subject.Issuer != op.IssuerFromContext(ctx) {
		return nil // not a token here: RFC 7009 section 2.2
	}
	h := c.h
	wctx, cancel := h.detach(ctx)
	defer cancel()
	s, err := h.getOrLost(wctx, t.SID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return c.outage(ctx, req, err)
	}
	if s, err = h.endedWithParent(wctx, s); err != nil {
		return c.outage(ctx, req, err)
	}
	r, err := h.rulesOf(ctx, &s)
	if err != nil {
		return c.outage(ctx, req, err)
	}
	// A spent token says here what it says at a refresh.
	st := &refreshState{token: t, session: s, ruling: r}
	if err := c.judge(st); errors.Is(err, errReplay) {
		if err := c.consequences(ctx, req, &refusedRequest{state: st, err: err}); err != nil {
			return c.outage(ctx, req, err)
		}
	}
	var ended bool
	s, err = h.change(wctx, s, func(s *store.Session) error {
		ended = false
		g := s.Grant(t.Grant)
		if s.End != nil || g == nil || !g.Revoked.IsZero() {
			return errNoChange
		}
		g.Revoked, g.Repeat, g.Chain = h.now(), nil, nil
		if s.Kind != policy.Browser && !slices.ContainsFunc(s.Grants, func(g store.Grant) bool { return g.Revoked.IsZero() && g.NonceHash != nil }) {
			at, reason := g.Revoked, policy.ReasonRevoked
			if d := r.rules.Check(at, s.Policy(), policy.Use{}); !d.Allow {
				at, reason = d.At, d.Reason // it was over before
			}
			h.finish(s, r, at, reason, "")
			ended = true
		}
		return nil
	})
	if err != nil {
		return c.outage(ctx, req, err)
	}
	if ended {
		h.announceEnd(ctx, r, s)
	}
	userID, tokenID, err := c.Storage.GetRefreshTokenInfo(ctx, clientID, t.Token)
	if err != nil {
		if errors.Is(err, op.ErrInvalidRefreshToken) {
			return nil // spent there already
		}
		return oidc.ErrServerError().WithParent(err)
	}
	return c.Storage.RevokeToken(ctx, tokenID, userID, clientID)
}
