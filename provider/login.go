package provider

import (
	"context"
	"errors"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/plain"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// admitLogin gives the login of an auth request its session. Where tokens follow
// it is only reserved: by a code, or because the storage may yet fail.
func (c *core) admitLogin(ctx context.Context, req *request, ar op.AuthRequest, client op.Client) error {
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
	login := loginOf(ctx, ar, client)
	a := c.loginAdmission(ctx, login)
	c.h.describe(ctx, req, &a, login)
	a.idToken = ar.GetResponseType() == oidc.ResponseTypeIDTokenOnly
	a.reserve = true
	if err := c.fromBrowser(ctx, req, &a, ar, client.ApplicationType() == op.ApplicationTypeNative); err != nil {
		return err
	}
	if a.prompted {
		a.ask = func(s store.Session, d policy.Decision) bool { return c.h.askInstead(req, ar, s, d) }
	}
	s, r, err := c.h.admit(ctx, a)
	if err == nil {
		err = c.h.alias(ctx, &a, &s, a.alias)
	}
	if err != nil {
		var refused *refusedError
		if errors.As(err, &refused) {
			refused.silent = a.silent
		}
		return err
	}
	c.h.signers.learn(s.Subject.Issuer, c)
	if a.browser != nil {
		c.h.keep(ctx, req, &s, a.browser)
	}
	req.finished, req.admitted = ar, true
	req.belong(c.h, s, r, policy.Use{Client: client.GetID(), Authenticated: restsOn(a.authTime, &s)})
	return c.roomForToken(req, client.ClockSkew())
}

// asks returns what a login asks for: the plain values of it.
func (h *Hook) asks(ctx context.Context, req *request, l Login) admission {
	a := admission{subject: l.Subject, authTime: l.AuthTime}
	if l.Client != nil {
		a.client = l.Client.GetID()
	}
	h.describe(ctx, req, &a, l)
	return a
}

// describe enters what the session of a login is to say of it. It asks the embedder,
// and is for a login that is admitted: one that only looks for its session needs none
// of it.
func (h *Hook) describe(ctx context.Context, req *request, a *admission, l Login) {
	a.kind, a.clientName = h.cfg.Kind(ctx, l), h.clientName(ctx, a.client)
	a.address, a.userAgent = coarse(req.address), strings.ToValidUTF8(plain.Short(req.userAgent, 200), "")
}

func loginOf(ctx context.Context, ar op.AuthRequest, client op.Client) Login {
	return Login{Subject: subjectOf(ctx, ar.GetSubject()), Client: client, AuthRequest: ar, AuthTime: ar.GetAuthTime()}
}

// loginAdmission returns under which names the login of an auth request finds its
// session. It is not described yet.
func (c *core) loginAdmission(ctx context.Context, login Login) admission {
	ar, client := login.AuthRequest, login.Client
	a := admission{
		subject: login.Subject, authTime: login.AuthTime, client: client.GetID(), amr: ar.GetAMR(), acr: keptACR(ar.GetACR()),
	}
	if ar.GetResponseType() == oidc.ResponseTypeCode {
		a.code = codeHash(ar)
	}
	name := []string{"auth", ar.GetID()}
	// A native client does not join: each of its logins is its own.
	if c.h.cfg.SSOSession != nil && client.ApplicationType() != op.ApplicationTypeNative {
		if id := c.h.cfg.SSOSession(ctx, login); id != "" {
			name, a.renews, a.named = []string{"sso", id}, true, true
		}
	}
	a.sid = func(n int) string { return derivedSID(login.Subject, n, name...) }
	a.own = derivedSID(login.Subject, 0, "auth", ar.GetID())
	if !a.named && !c.h.cfg.NoBrowserSession { // other tabs may have named theirs by it
		a.apart = func(n int) string { return derivedSID(login.Subject, n, "apart", ar.GetID()) }
	}
	return a
}

// standsApart reports whether the session that another tab has named by this login,
// or left word of, is not the one that the login is in, but stands apart from.
func (c *core) standsApart(ctx context.Context, a *admission, login Login, s *store.Session) (bool, error) {
	if a.apart == nil || a.codeIn(s) >= 0 || s.Client == a.client && c.h.cfg.Kind(ctx, login) == s.Kind {
		return false, nil
	}
	_, err := c.h.get(ctx, a.apart(0))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// loginSession finds the session that the callback admitted a login to. If no
// callback did, the login is admitted now: nobody gets round token creation.
func (c *core) loginSession(ctx context.Context, req *request, ar op.AuthRequest) (store.Session, ruling, error) {
	client, err := c.clientOf(ctx, req, ar.GetClientID())
	if err != nil {
		return store.Session{}, ruling{}, err
	}
	login := loginOf(ctx, ar, client)
	a := c.loginAdmission(ctx, login)
	renews := a.renews
	a.renews = renews || !c.h.cfg.NoBrowserSession // another tab's login may have had the name before
	abandoned := false
	ctx, cancel := c.h.bounded(ctx)
	defer cancel()
	for n := 0; ; {
		s, err := c.h.get(ctx, a.sid(n))
		if errors.Is(err, store.ErrNotFound) {
			break
		}
		if err != nil {
			return store.Session{}, ruling{}, err
		}
		named, followed := s, s.Joined != ""
		if followed {
			if s, err = c.h.get(ctx, s.Joined); errors.Is(err, store.ErrNotFound) {
				return store.Session{}, ruling{}, &refusedError{
					reason: policy.ReasonUnknownSession, text: policy.ReasonUnknownSession.Info().Description(), over: true,
				}
			} else if err != nil {
				return store.Session{}, ruling{}, err
			}
		}
		apart, err := c.standsApart(ctx, &a, login, &s)
		if err != nil {
			return store.Session{}, ruling{}, err
		}
		if apart {
			a.sid, a.apart, n = a.apart, nil, 0
			continue
		}
		if followed && a.freed(&s) {
			n = nextNamesake(n, &named)
			continue
		}
		if followed || a.codeIn(&s) >= 0 || !a.passed(&s, c.h.now()) {
			if s.End == nil && a.forgotten(&s) {
				return store.Session{}, ruling{}, spentCode()
			}
			if i := a.codeIn(&s); s.End == nil && a.late(&s, c.h.now()) && s.Codes[i].Used.IsZero() {
				return store.Session{}, ruling{}, lateCode()
			}
			return c.h.inUse(ctx, s)
		}
		abandoned = s.End.Reason == policy.ReasonAbandoned
		n = nextNamesake(n, &s)
	}
	if abandoned {
		return store.Session{}, ruling{}, lateCode()
	}
	a.renews, a.reserve = renews, true // until the token is there
	c.h.describe(ctx, req, &a, login)
	return c.h.admit(ctx, a)
}

func (c *core) clientOf(ctx context.Context, req *request, clientID string) (op.Client, error) {
	if req != nil && req.client != nil && req.client.GetID() == clientID {
		return req.client, nil
	}
	return c.Storage.GetClientByClientID(ctx, clientID)
}

// clientIDOf returns the ID by which limits know the client that a request names: a
// storage may know one in other letters too.
func (c *core) clientIDOf(ctx context.Context, req *request, clientID string) (string, error) {
	client, err := c.clientOf(ctx, req, clientID)
	if err != nil {
		return "", err
	}
	return client.GetID(), nil
}

// callbackError is the answer at the callback, where op redirects it to the
// application: OpenID Connect Core 1.0 section 3.1.2.6.
func (c *core) callbackError(ctx context.Context, req *request, err error) error {
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
func (c *core) outdatedApart(ctx context.Context, req *request, ar *oidc.AuthRequest, s *store.Session) bool {
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
	a := admission{subject: s.Subject, client: client.GetID(), kind: c.h.cfg.Kind(ctx, Login{Subject: s.Subject, Client: client, AuthTime: s.Authenticated})}
	r, err := c.h.rules(ctx, s.Subject, true)
	return err == nil && !c.h.mayJoin(&a, r, s)
}

// cameToNothing reports whether a session was only ever reserved, and none by its
// name came after it.
func (h *Hook) cameToNothing(s *store.Session) bool {
	if s.End != nil {
		return s.End.Reason == policy.ReasonAbandoned && s.End.Latest == ""
	}
	return !s.ReservedUntil.IsZero() && !h.now().Before(s.ReservedUntil)
}
