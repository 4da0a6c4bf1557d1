package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// errInactive is the answer for an access token of a session that ended. op
// makes active:false of it, and the handler 401 at userinfo.
var errInactive = errors.New("the access token is not active")

// open looks an access token's ID up: what was sealed, and the live session
// that it belongs to. The session is zero for a token that has none: of a client
// that acts for itself, or one that the storage made past the hook; see core.bare,
// for which presented is the token that the ID was found in.
//
// subject is whose the token is, as op says. Only the ID is sealed: in an opaque
// token that op has encrypted without authentication (op.NewAESCrypto) somebody
// can put another subject beside it.
func (c *reading) open(ctx context.Context, id, subject, presented string) (t seal.AccessToken, s store.Session, r ruling, err error) {
	h := c.h
	now := h.now()
	t, err = h.ring.OpenAccess(id, now)
	switch {
	case errors.Is(err, seal.ErrForeign):
		return seal.AccessToken{ID: id}, s, r, c.bare(ctx, id, presented)
	case op.IssuerFromContext(ctx) == "":
		return t, s, r, c.issued(ctx)
	case errors.Is(err, seal.ErrAhead):
		return t, s, r, err
	case err != nil, !now.Before(t.Expires):
		return t, s, r, errInactive
	case t.SID == "":
		if t.Grant != holderMark(subjectOf(ctx, subject)) {
			return t, s, r, errInactive
		}
		return t, s, r, nil
	}
	if s, err = h.getWithParent(ctx, t.SID); errors.Is(err, store.ErrNotFound) {
		return t, s, r, errInactive
	}
	if err != nil {
		return t, s, r, err
	}
	g := s.Grant(t.Grant)
	if s.End != nil || g == nil || !g.Revoked.IsZero() || s.Subject != subjectOf(ctx, subject) {
		return t, s, r, errInactive
	}
	if s, r, err = h.inUse(ctx, s); err != nil {
		return t, s, r, err
	}
	if g = s.Grant(t.Grant); s.End != nil || g == nil || !g.Revoked.IsZero() {
		return t, s, r, errInactive // since then
	}
	if !r.rules.Check(now, s.Policy(), policy.Use{Client: g.Client, Authenticated: g.Authenticated}).Allow {
		if d := r.rules.Check(now, s.Policy(), policy.Use{}); !d.Allow {
			// Nobody noticed before. That it cannot be written now does no
			// harm: it stays over, unless the policy is widened first.
			ctx, cancel := h.detach(ctx)
			defer cancel()
			_, _, _ = h.end(ctx, s, r, d.Reason, "")
		}
		return t, s, r, errInactive
	}
	return t, s, r, nil
}

// touch records activity with an access token, and that the token was seen: a
// refresh that brought it cannot have been lost. Activity of high frequency is
// not written each time.
func (c *reading) touch(ctx context.Context, s store.Session, r ruling, t seal.AccessToken, class policy.Class) error {
	h := c.h
	now := h.now()
	needs := func(s *store.Session) (slides, seen bool) {
		g := s.Grant(t.Grant)
		if s.End != nil || g == nil {
			return false, false
		}
		p := s.Policy()
		slides = r.rules.Slides(p, g.Client, class) && now.Sub(s.LastActivity) >= r.rules.TouchEvery(p, g.Client) && now.After(s.LastActivity)
		seen = unseen(s, t.Grant, t.Generation)
		return slides, seen
	}
	if slides, seen := needs(&s); !slides && !seen {
		return nil
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	_, err := h.change(ctx, s, func(s *store.Session) error {
		slides, seen := needs(s)
		if !slides && !seen {
			return errNoChange
		}
		if slides {
			if d := r.rules.Check(now, s.Policy(), policy.Use{}); !d.Allow {
				return errNoChange // over meanwhile: nothing brings it back
			}
			session.Slide(s, r.rules, s.Grant(t.Grant).Client, now, class)
		}
		if seen {
			s.Grant(t.Grant).Used = true
		}
		h.postpone(s, r)
		return nil
	})
	return err
}

// An AccessToken is an access token of the provider, opened.
type AccessToken struct {
	// ID is the token's ID as the storage knows it.
	ID      string
	Subject string

	// Session is the live session that the token belongs to, and Client the client that it was
	// issued to. Both are empty for a token without a session: a token of a client that acts for
	// itself, one from before the installation, or one that the storage made without the hook.
	Session store.Session
	Client  string
}

// ErrInvalidToken is wrapped by the errors of [Hook.AccessToken] for a token that is not an access
// token, or whose session has ended.
var ErrInvalidToken = errors.New("the access token is not valid")

// AccessToken opens an access token that was presented to a resource server in
// the same process, such as package provider/admin. It checks the session, and
// records that the token was used as introspection does
// ([policy.Introspection]). Only the storage knows whether the token itself is valid, and for which
// scopes: ask it by the token's ID.
//
// The context needs the issuer: see [op.ContextWithIssuer]. Any error other than [ErrInvalidToken]
// means that the token cannot be checked at the moment.
func (h *Hook) AccessToken(ctx context.Context, p op.OpenIDProvider, token string) (AccessToken, error) {
	id, subject, err := openAccessToken(ctx, p, token)
	if err != nil {
		return AccessToken{}, err
	}
	c := newCore(nil, h)
	t, s, r, err := c.open(ctx, id, subject, token)
	switch {
	case errors.Is(err, errInactive):
		return AccessToken{}, fmt.Errorf("%w: %w", ErrInvalidToken, err)
	case err != nil:
		return AccessToken{}, err
	case s.ID == "":
		return AccessToken{ID: t.ID, Subject: subject}, nil
	}
	if err := c.touch(ctx, s, r, t, policy.Introspection); err != nil {
		return AccessToken{}, err
	}
	return AccessToken{ID: t.ID, Subject: subject, Session: s, Client: s.Grant(t.Grant).Client}, nil
}

// openAccessToken returns the ID and the subject of an access token, opaque or a
// JWT, as op does.
func openAccessToken(ctx context.Context, p op.OpenIDProvider, token string) (id, subject string, err error) {
	if opened, err := p.Crypto().Decrypt(token); err == nil {
		id, subject, ok := strings.Cut(opened, ":")
		if !ok || strings.Contains(subject, ":") { // codes are encrypted in the same way
			return "", "", fmt.Errorf("%w: it is not of an ID and a subject", ErrInvalidToken)
		}
		return id, subject, nil
	}
	if strings.Count(token, ".") != 2 {
		return "", "", fmt.Errorf("%w: it is neither opaque nor a JWT", ErrInvalidToken)
	}
	// Keys that cannot be had look like a wrong signature below.
	if _, err := p.Storage().KeySet(ctx); err != nil {
		return "", "", fmt.Errorf("key set: %w", err)
	}
	claims, err := op.VerifyAccessToken[*oidc.AccessTokenClaims](ctx, token, p.AccessTokenVerifier(ctx))
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrInvalidToken, err)
	}
	return claims.JWTID, claims.Subject, nil
}
