package provider

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// CreateAuthRequest passes the storage a request that asks for credentials
// where the session that the provider would continue is over.
func (c *signingIn) CreateAuthRequest(ctx context.Context, ar *oidc.AuthRequest, userID string) (op.AuthRequest, error) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req != nil { // whose browser is to be known again by its issuer
		if err := c.issued(ctx); err != nil {
			return nil, err
		}
		req.answers(ctx, ar)
	}
	if err := c.checkHint(ctx, ar); err != nil {
		return nil, err
	}
	began := c.h.now()
	tightened, err := c.tighten(ctx, req, ar, userID)
	if err != nil {
		return nil, err
	}
	made, err := c.Storage.CreateAuthRequest(ctx, c.afterTheEnd(ctx, req, tightened), userID)
	if err != nil {
		return made, err
	}
	if made.Done() && made.GetAuthTime().After(began) { // nobody was asked for anything
		c.h.misconfigured(ctx, errAuthTimeNow)
	}
	c.bind(ctx, ar, userID, made.GetID())
	return made, nil
}

// tighten lowers max_age to Limits.Active less Config.Remainder, if the request names
// the user by a hint: an authentication older than that could only make a session that
// is over already, or almost. Whether it went unused does not show in its age. Without a hint
// nobody knows the user yet; the callback decides.
func (c *signingIn) tighten(ctx context.Context, req *request, ar *oidc.AuthRequest, userID string) (*oidc.AuthRequest, error) {
	if userID == "" {
		return ar, nil
	}
	h := c.h
	subject := subjectOf(ctx, userID)
	r, err := h.rules(ctx, subject, true)
	if err != nil {
		return nil, oidc.ErrServerError().WithDescription("%s", unavailableText).WithParent(err)
	}
	kind, clientID := policy.Browser, ar.ClientID
	if client, err := c.clientOf(ctx, req, clientID); err == nil {
		kind, clientID = h.cfg.Kind(ctx, Login{Subject: subject, Client: client}), client.GetID()
	}
	active, limits := r.rules.Limits(kind, clientID).Active.Value()
	if !limits {
		return ar, nil
	}
	age := uint((active - h.terms(r).Left(active)) / time.Second)
	if ar.MaxAge != nil && *ar.MaxAge <= age {
		return ar, nil
	}
	tight := *ar
	tight.MaxAge = &age
	return &tight, nil
}

// afterTheEnd lowers max_age where the session of the browser is over, so that
// the provider's own sign-on does not continue it: an authentication from before
// the end could only be refused at the callback. With prompt=none it is, with
// the reason. The same holds for a session that is almost over (see Config.Remainder),
// and for an authentication from before Config.NotBefore of a login that stands apart
// from a session which goes on.
func (c *signingIn) afterTheEnd(ctx context.Context, req *request, ar *oidc.AuthRequest) *oidc.AuthRequest {
	if slices.Contains(ar.Prompt, oidc.PromptNone) {
		return ar
	}
	s, live, err := c.h.browserSession(ctx, req)
	if err != nil {
		return ar // if it cannot be told now, the callback decides
	}
	var age uint
	switch now := c.h.now(); {
	case live && (c.almostOver(ctx, req, ar, &s) || c.outdatedApart(ctx, req, ar, &s)):
		age = uint(max(0, now.Sub(s.Authenticated)-time.Second) / time.Second)
	case live, s.End == nil, s.End.Reason == policy.ReasonAbandoned:
		return ar
	default:
		age = uint(max(0, now.Sub(s.End.At)) / time.Second)
	}
	if ar.MaxAge != nil && *ar.MaxAge <= age {
		return ar
	}
	tight := *ar
	tight.MaxAge = &age
	return &tight
}

// almostOver reports whether too little is left of the browser's session for an
// authorization request. What cannot be told is for the callback to decide.
func (c *signingIn) almostOver(ctx context.Context, req *request, ar *oidc.AuthRequest, s *store.Session) bool {
	clientID, err := c.clientIDOf(ctx, req, ar.ClientID)
	if err != nil {
		return false
	}
	r, err := c.h.rules(ctx, s.Subject, true)
	return err == nil && !session.AlmostOver(s, c.h.terms(r), clientID, s.Authenticated, c.h.now()).Allow
}

// AuthRequestByID leaves a finished request in the holder: the callback asks
// for the client next, and there the login is admitted.
func (c *signingIn) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	ar, err := c.Storage.AuthRequestByID(ctx, id)
	if err != nil {
		return ar, err
	}
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return ar, nil
	}
	if ar.Done() {
		req.finished, req.admitted = ar, false
	}
	req.answers(ctx, ar)
	return ar, nil
}

// AuthRequestByCode is called at the token endpoint only.
func (c *signingIn) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req != nil {
		req.redeemsCode, req.repeatKey = true, repeatKey(code)
	}
	return c.Storage.AuthRequestByCode(ctx, code)
}

// GetClientByClientID is where a finished login is admitted: the callback calls
// it for every response type, before any code or token exists, and redirects
// its error to the application.
func (c *signingIn) GetClientByClientID(ctx context.Context, clientID string) (op.Client, error) {
	client, err := c.Storage.GetClientByClientID(ctx, clientID)
	if err != nil {
		return nil, err
	}
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return client, nil
	}
	req.client, req.issuer = client, cmp.Or(op.IssuerFromContext(ctx), req.issuer)
	if ar := req.finished; ar != nil && !req.admitted && ar.GetClientID() == clientID {
		if err := c.admitLogin(ctx, req, ar, client); err != nil {
			return nil, c.callbackError(ctx, req, err)
		}
	}
	return wrapClient(client, req, c.h), nil
}

// SaveAuthCode admits a login whose provider builds the authorization response
// itself, without op's callback.
func (c *signingIn) SaveAuthCode(ctx context.Context, id, code string) error {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return c.noHandler(ctx)
	}
	if req.finished == nil || req.finished.GetID() != id || !req.admitted {
		ar, err := c.Storage.AuthRequestByID(ctx, id)
		if err != nil {
			return err
		}
		client, err := c.Storage.GetClientByClientID(ctx, ar.GetClientID())
		if err != nil {
			return err
		}
		if err := c.admitLogin(ctx, req, ar, client); err != nil {
			return c.callbackError(ctx, req, err)
		}
	}
	return c.Storage.SaveAuthCode(ctx, id, code)
}

// DeleteAuthRequest is the last call before tokens of an auth request leave op.
func (c *signingIn) DeleteAuthRequest(ctx context.Context, id string) error {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return c.Storage.DeleteAuthRequest(ctx, id)
	}
	if !req.boundIDToken {
		issued := req.session != nil
		if !issued {
			ar, err := c.Storage.AuthRequestByID(ctx, id)
			issued = err == nil && ar.Done() && ar.GetResponseType() == oidc.ResponseTypeIDTokenOnly
		}
		if issued {
			return c.h.misconfiguredAnswer(ctx, errRawClient)
		}
	}
	if req.aloneAndReserved() {
		s, err := c.h.confirmFor(ctx, req, *req.session, req.ruling)
		if err != nil {
			return c.callbackError(ctx, req, err)
		}
		*req.session = s
	}
	return c.Storage.DeleteAuthRequest(ctx, id)
}
