package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/plain"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// admitLogin gives the login of an auth request its session. Where tokens follow
// it is only reserved: by a code, or because the storage may yet fail.
func (c *signingIn) admitLogin(ctx context.Context, req *request, ar op.AuthRequest, client op.Client) error {
	at := ar.GetAuthTime()
	if err := c.setUpFor(ctx, at); err != nil {
		return err
	}
	if again := ar.GetAuthTime(); !again.Equal(at) {
		c.h.misconfigured(ctx, errMovingAuthTime)
	}
	req.asking = nil
	req.answers(ctx, ar)
	if refused := req.cancelledBy(ar); refused != nil {
		return refused
	}
	l := c.loginOf(ctx, ar, client)
	c.h.describe(ctx, req, &l, embedders(&l, ar, client))
	b, err := c.fromBrowser(ctx, req, &l, ar, client.ApplicationType() == op.ApplicationTypeNative)
	if err != nil {
		return err
	}
	until, inTime := askUntil(l.Authenticated, c.h.now())
	l.CanAsk = l.Prompted && req.askable && inTime
	s, r, err := c.h.admit(ctx, l)
	if err != nil {
		var refused *refusedError
		if errors.As(err, &refused) {
			refused.silent = l.Silent
			if refused.ask != nil {
				req.askInstead(ar, &l, *refused.ask, until)
			}
		}
		return err
	}
	c.h.signers.learn(s.Subject.Issuer, c.backing)
	if b != nil {
		c.h.keep(ctx, req, &s, b)
	}
	req.finished, req.admitted = ar, true
	req.belong(c.h, s, r, policy.Use{Client: client.GetID(), Authenticated: session.RestsOn(l.Authenticated, &s)})
	return c.roomForToken(req, client.ClockSkew())
}

// loginOf returns what an auth request says of its login. It is not described yet.
func (c *signingIn) loginOf(ctx context.Context, ar op.AuthRequest, client op.Client) session.Login {
	subject := subjectOf(ctx, ar.GetSubject())
	l := session.Login{
		Subject: subject, Client: client.GetID(), Authenticated: authTimeOf(ar.GetAuthTime()), AMR: ar.GetAMR(), ACR: keptACR(ar.GetACR()),
		SID: derivedSID(subject, "auth", ar.GetID()), Mark: loginMark(ar.GetID()),
		NoTokens: ar.GetResponseType() == oidc.ResponseTypeIDTokenOnly,
	}
	// A native client does not join: each of its logins is its own.
	if c.h.cfg.SSOSession != nil && client.ApplicationType() != op.ApplicationTypeNative {
		if id := c.h.cfg.SSOSession(ctx, embedders(&l, ar, client)); id != "" {
			atPlace(&l, "sso", id)
		}
	}
	return l
}

// atPlace names the one session into which a login comes, by what all logins of its place
// have in common.
func atPlace(l *session.Login, name ...string) {
	sum := seal.Digest(append([]string{"login place"}, name...)...)
	l.Place, l.Former = sum[:16], derivedSID(l.Subject, name...)
}

// loginMark is how the login of an auth request, or its code, appears in a session.
func loginMark(authRequestID string) []byte {
	sum := seal.Digest("code", authRequestID)
	return sum[:16]
}

// authTimeOf is an auth_time as stores keep it.
func authTimeOf(at time.Time) time.Time { return at.UTC().Truncate(time.Microsecond) }

// embedders is a login as the embedder's functions are shown it.
func embedders(l *session.Login, ar op.AuthRequest, client op.Client) Login {
	return Login{Subject: l.Subject, Client: client, AuthRequest: ar, AuthTime: ar.GetAuthTime()}
}

// describe enters what the session of a login is to say of it. It asks the embedder,
// and is for a login that is admitted: one that only looks for its session needs none
// of it.
func (h *admissions) describe(ctx context.Context, req *request, l *session.Login, as Login) {
	l.Kind, l.ClientName = h.cfg.Kind(ctx, as), h.clientName(ctx, l.Client)
	l.Address, l.UserAgent = coarse(req.address), strings.ToValidUTF8(plain.Short(req.userAgent, 200), "")
}

// asks is the login of a token request that no browser brought.
func (h *admissions) asks(ctx context.Context, req *request, as Login) session.Login {
	l := session.Login{Subject: as.Subject, Authenticated: authTimeOf(as.AuthTime), SID: newSID(as.Subject), Lasting: true}
	if as.Client != nil {
		l.Client = as.Client.GetID()
	}
	h.describe(ctx, req, &l, as)
	return l
}

// loginSession finds the session that the callback admitted a login to. If no
// callback did, the login is admitted now: nobody gets round token creation. i notes it.
func (c *signingIn) loginSession(ctx context.Context, req *request, ar op.AuthRequest, i *issuance) (store.Session, ruling, error) {
	client, err := c.clientOf(ctx, req, ar.GetClientID())
	if err != nil {
		return store.Session{}, ruling{}, err
	}
	l := c.loginOf(ctx, ar, client)
	s, err := c.h.find(ctx, &l)
	switch {
	case errors.Is(err, store.ErrNotFound):
		l.Again, i.unheard = true, true
		c.h.describe(ctx, req, &l, embedders(&l, ar, client))
		return c.h.admit(ctx, l)
	case err != nil:
		return store.Session{}, ruling{}, err
	case s.End == nil && l.ForgottenBy(&s):
		return store.Session{}, ruling{}, spentCode()
	case s.End == nil && l.Late(&s, c.h.now()) && s.Codes[session.CodeAt(s.Codes, l.Mark)].Used.IsZero():
		return store.Session{}, ruling{}, lateCode()
	}
	return c.h.inUse(ctx, s)
}

// find returns the session that has taken a login in, ended or not: that which it began,
// or the one among its subject's that lists it. If there is none the error wraps
// store.ErrNotFound.
func (h *admissions) find(ctx context.Context, l *session.Login) (store.Session, error) {
	s, err := h.get(ctx, l.SID)
	for err == nil && l.Lasting && cameToNothing(&s) {
		s, err = h.get(ctx, sidAfter(&s))
	}
	switch {
	case err == nil && s.Joined == "":
		return s, nil
	case err != nil && (l.Lasting || !errors.Is(err, store.ErrNotFound)):
		return store.Session{}, err // what lasts joins nothing
	}
	for _, state := range []store.State{store.Unended, store.Ended} {
		for s, err := range h.stored(ctx, store.Filter{Subject: l.Subject, State: state}, 500) {
			switch {
			case err != nil && !(alone(err) && state == store.Ended):
				return store.Session{}, err
			case err == nil && l.Lists(&s):
				h.obey(ctx, &s)
				return s, nil
			}
		}
	}
	return store.Session{}, fmt.Errorf("the session of a login: %w", store.ErrNotFound)
}

// cameToNothing reports whether a session was the reservation of a login that was not
// finished: the next by its name is that of sidAfter.
func cameToNothing(s *store.Session) bool {
	return s.End != nil && s.End.Reason == policy.ReasonAbandoned
}

func sidAfter(s *store.Session) string { return derivedSID(s.Subject, "after", s.ID) }

func (c *backing) clientOf(ctx context.Context, req *request, clientID string) (op.Client, error) {
	if req != nil && req.client != nil && req.client.GetID() == clientID {
		return req.client, nil
	}
	return c.Storage.GetClientByClientID(ctx, clientID)
}

// clientIDOf returns the ID by which limits know the client that a request names: a
// storage may know one in other letters too.
func (c *backing) clientIDOf(ctx context.Context, req *request, clientID string) (string, error) {
	client, err := c.clientOf(ctx, req, clientID)
	if err != nil {
		return "", err
	}
	return client.GetID(), nil
}

// callbackError is the answer at the callback, where op redirects it to the
// application: OpenID Connect Core 1.0 section 3.1.2.6.
func (c *backing) callbackError(ctx context.Context, req *request, err error) error {
	var refused *refusedError
	if errors.As(err, &refused) && refused.over {
		return asOAuth(refused, oidc.ErrLoginRequired())
	}
	if refused != nil && refused.silent { // with the user something could be done about it
		return c.answer(ctx, req, err, oidc.ErrInteractionRequired())
	}
	return c.answer(ctx, req, err, oidc.ErrAccessDenied())
}

// outdatedApart reports whether an authorization request that a sign-on on the
// browser's session s would answer could only be refused: its login would be a
// session of its own, and s began with other credentials than are the user's now.
// What cannot be told is for the callback to decide.
func (c *signingIn) outdatedApart(ctx context.Context, req *request, ar *oidc.AuthRequest, s *store.Session) bool {
	if !s.Fence.Past(s.Authenticated) {
		if outdated, err := c.h.outdated(ctx, s.Subject, s.Authenticated); err != nil || !outdated {
			return false
		}
	}
	client, err := c.clientOf(ctx, req, ar.ClientID)
	if err != nil {
		return false
	}
	if client.ApplicationType() == op.ApplicationTypeNative {
		return true
	}
	l := session.Login{Client: client.GetID(), Kind: c.h.cfg.Kind(ctx, Login{Subject: s.Subject, Client: client, AuthTime: s.Authenticated})}
	r, err := c.h.rules(ctx, s.Subject, true)
	return err == nil && !l.MayJoin(r.rules, s)
}
