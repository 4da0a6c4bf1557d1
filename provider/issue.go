package provider

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// An issuance is the first tokens of one client in a session.
type issuance struct {
	request       op.TokenRequest // what the storage handed out
	client        string
	name          []string // what the grant is named by
	refresh       bool
	scopes        []string
	authenticated time.Time // the authentication that the grant rests on
	acr           string    // and how it was made
	code          []byte    // hash of what names the code or device code that is redeemed; nil: there is none
	redeemed      bool      // it is known that the code brought its tokens before
	unheard       bool      // nobody had heard of the login before its code came
}

// maxACR bounds how a user signed in where it is kept, in bytes: an acr is a URI or a
// registered name. A provider may repeat what acr_values asked for.
const maxACR = 256

// keptACR is an acr as it is kept: not at all if it is too long, or no text that a
// store keeps.
func keptACR(acr string) string {
	if len(acr) > maxACR || !utf8.ValidString(acr) {
		return ""
	}
	return acr
}

// acrOf returns how the user signed in for a grant. The session's own is that of its
// latest authentication, and says nothing of a grant that rests on an older one.
func acrOf(s *store.Session, g *store.Grant) string {
	if g.ACR == "" && !g.Authenticated.Before(s.Authenticated) {
		return s.ACR
	}
	return g.ACR
}

// issue lets the storage create tokens, enters the grant in the session and
// seals what the client gets. The storage goes first: if our write fails, the
// code stays good and the next try creates others; these were never sealed, so
// nobody can use them.
func (c *issuing) issue(ctx context.Context, req *request, s store.Session, r ruling, i issuance) (access, refresh string, expires time.Time, err error) {
	h := c.h
	now := h.now()
	name := h.clientName(ctx, i.client)
	i.authenticated = session.RestsOn(i.authenticated, &s)
	use := policy.Use{Client: i.client, Authenticated: i.authenticated}
	if i.request.GetSubject() != s.Subject.ID {
		return "", "", time.Time{}, oidc.ErrServerError().WithDescription("the subject of a request changed after it was admitted")
	}
	if err := usable(&s, r, now, use); err != nil {
		return "", "", time.Time{}, err
	}
	req.belong(h, s, r, use)
	skew := c.skew(req)
	if err := c.roomForToken(req, skew); err != nil {
		return "", "", time.Time{}, err
	}

	if redeemed(&s, i) {
		return c.redeemedAgain(ctx, req, s, r, i)
	}

	var id, token string
	if i.refresh {
		id, token, expires, err = c.Storage.CreateAccessAndRefreshTokens(ctx, i.request, "")
	} else {
		id, expires, err = c.Storage.CreateAccessToken(ctx, i.request)
	}
	if err != nil {
		return "", "", time.Time{}, storageError{err}
	}
	if err := c.roomForToken(req, skew); err != nil { // the storage took its time
		return "", "", time.Time{}, err
	}

	// A new family starts above every generation that one by its name, since
	// dropped, can have come to: an old token is never ahead of it.
	g := store.Grant{Client: i.client, Authenticated: i.authenticated, Rotated: now, Generation: uint64(now.UnixMicro())}
	g.ACR = keptACR(i.acr)
	g.ID = session.AccessGrantID(i.client, i.authenticated, g.ACR)
	nonce := seal.NewNonce()
	if i.refresh {
		g.ID = session.GrantID(i.name...)
		g.NonceHash = nonce.Hash()
	}
	wctx, cancel := h.detach(ctx)
	defer cancel()
	var was store.Session
	var before *store.Grant
	expires = c.bound(req, h.now(), expires, skew)
	a := seal.Answer{Token: token, Expires: expires, Scopes: i.scopes}
	var other store.Session // in which another request has redeemed the code meanwhile
	s, err = h.change(wctx, s, func(s *store.Session) error {
		if err := usable(s, r, now, use); err != nil {
			return err
		}
		if redeemed(s, i) {
			other = *s
			return errRedeemed
		}
		was, before = *s, nil
		was.Grants = slices.Clone(s.Grants)
		old := s.Grant(g.ID)
		if old != nil {
			kept := *old
			before = &kept
		}
		switch {
		case old == nil:
			session.PutGrant(s, g, h.cfg.MaxGrants)
		case !old.Revoked.IsZero():
			return &refusedError{reason: policy.ReasonRevoked, text: policy.ReasonRevoked.Info().Description(), over: true}
		case i.refresh: // of a provider that names no code: a new generation voids the one before
			g.Generation = max(g.Generation, old.Generation+1)
			session.PutGrant(s, g, h.cfg.MaxGrants)
		default:
			g.Generation = old.Generation // an access token alone, once more
			old.Used = true               // which is good whatever becomes of the one before
		}
		a.Access = h.ring.SealAccess(seal.AccessToken{ID: id, SID: s.ID, Grant: g.ID, Generation: g.Generation, Expires: expires})
		if i.refresh {
			a.Refresh = h.ring.SealRefresh(seal.RefreshToken{
				Token: token, SID: s.ID, Grant: g.ID, Client: i.client, Subject: s.Subject, Scopes: i.scopes,
				Authenticated: i.authenticated, Generation: g.Generation, Nonce: nonce,
			})
		}
		if old != nil && !i.refresh && i.code == nil && s.ReservedUntil.IsZero() && before.Used {
			return errNoChange
		}
		h.redeem(s, i, req, a, now)
		s.ClientNames = session.WithName(s.ClientNames, name)
		s.ReservedUntil = time.Time{}
		h.schedule(s, r)
		return nil
	})
	if errors.Is(err, errRedeemed) {
		return c.redeemedAgain(ctx, req, other, r, i)
	}
	if err != nil {
		return "", "", time.Time{}, err
	}
	b := &begun{session: s, ruling: r, grant: g, before: before}
	for _, old := range was.Grants {
		if s.Grant(old.ID) == nil {
			b.evicted = append(b.evicted, old)
		}
	}
	if !was.ReservedUntil.IsZero() {
		b.reserved = was
	}
	if i.code != nil {
		b.code, b.redeemed = i.code, now
	}
	c.h.begin(ctx, req, b)
	c.h.signers.learn(s.Subject.Issuer, c.backing)

	req.belong(h, s, r, use)
	req.acr = acrOf(&s, &g)
	if i.refresh {
		h.announceExpiry(req, now)
	}
	req.private = true
	return a.Access, a.Refresh, a.Expires, nil
}

// skew is the clock skew that op adds to what the client is told.
func (c *backing) skew(req *request) time.Duration {
	if req.client == nil {
		return 0
	}
	return req.client.ClockSkew()
}

// bound shortens an access token's life to what the session allows. op adds
// the client's ClockSkew, so it is taken off first.
func (c *backing) bound(req *request, now, expires time.Time, skew time.Duration) time.Time {
	end := req.live.rules.TokenEnd(now, req.session.Policy(), req.live.use)
	if end.IsZero() {
		return expires
	}
	if end = end.Add(-skew); end.Before(expires) {
		return end
	}
	return expires
}

// maxScopes bounds the scopes that are kept with a grant, in bytes: op does not
// filter those of a device grant.
const maxScopes = 4096

// create issues the first tokens of a login, or the tokens of an exchange.
func (c *issuing) create(ctx context.Context, req *request, tr op.TokenRequest, refresh bool) (string, string, time.Time, error) {
	i := issuance{request: tr, refresh: refresh, scopes: tr.GetScopes()}
	if n := len(strings.Join(i.scopes, " ")); n > maxScopes {
		return "", "", time.Time{}, oidc.ErrInvalidScope().WithDescription("the scopes are %d bytes long, at most %d are allowed", n, maxScopes)
	}
	refusal := oidc.ErrInvalidGrant()
	var s store.Session
	var r ruling
	var err error
	if err := c.issued(ctx); err != nil {
		return "", "", time.Time{}, err
	}
	sid, stated := statedSession(ctx)
	_, assertion := tr.(*oidc.JWTTokenRequest)
	if req.client == nil && !stated && !assertion {
		c.h.misconfigured(ctx, errRawClient)
	}
	// The order is op's: see needsRefreshToken in its token.go.
	switch t := tr.(type) {
	case op.AuthRequest:
		if err := c.setUpFor(ctx, t.GetAuthTime()); err != nil {
			return "", "", time.Time{}, err
		}
		i.name = []string{"auth", t.GetID()}
		if !req.redeemsCode { // it is answered right here
			req.answers(ctx, t)
		}
		i.client, err = c.clientIDOf(ctx, req, t.GetClientID())
		switch {
		case err != nil:
		case req.admitted && req.finished.GetID() == t.GetID():
			s, r = *req.session, req.ruling
		default:
			s, r, err = c.loginSession(ctx, req, t, &i)
		}
		i.authenticated, i.acr = t.GetAuthTime(), t.GetACR()
		if req.redeemsCode && t.GetResponseType() == oidc.ResponseTypeCode {
			i.code = loginMark(t.GetID())
		}
	case op.TokenExchangeRequest:
		refusal = oidc.ErrInvalidRequest() // RFC 8693 section 2.2.2
		x := req.exchange
		if x == nil || x.session.ID == "" {
			return "", "", time.Time{}, oidc.ErrServerError().WithDescription("token exchange was not validated")
		}
		i.client, i.name, i.request = t.GetClientID(), []string{"exchange", newSID(x.session.Subject)}, x.forwarded
		i.authenticated, i.acr = x.authenticated, x.acr
		s, r = x.session, x.ruling
	case *op.DeviceAuthorizationState:
		if err := c.setUpFor(ctx, t.GetAuthTime()); err != nil {
			return "", "", time.Time{}, err
		}
		refusal = oidc.ErrAccessDenied() // RFC 8628 section 3.5
		i.name = []string{"device", req.deviceCode}
		if i.client, err = c.clientIDOf(ctx, req, t.GetClientID()); err == nil {
			s, r, i.redeemed, err = c.admitDevice(ctx, req, t)
		}
		i.authenticated = t.GetAuthTime()
		if req.deviceCode != "" {
			i.code = deviceHash(req.deviceCode)
		}
	case *oidc.JWTTokenRequest:
		// An assertion about a user: each is an authentication, and all of
		// one service about one user are one session.
		i.client, i.name = t.Issuer, []string{"jwt"}
		l := c.h.asks(ctx, req, Login{Subject: subjectOf(ctx, t.Subject), AuthTime: c.h.now()})
		l.Client, l.ClientName = t.Issuer, c.h.clientName(ctx, t.Issuer)
		l.Current = true
		atPlace(&l, "jwt", t.Issuer)
		s, r, err = c.h.admit(ctx, l)
	default:
		if !stated {
			return "", "", time.Time{}, c.h.misconfiguredAnswer(ctx, unknownRequest(tr))
		}
		i.name = []string{"own", newSID(subjectOf(ctx, tr.GetSubject()))}
		s, r, i.client, err = c.inSession(ctx, req, tr, sid)
		i.authenticated, i.acr = s.Authenticated, s.ACR
	}
	_, isAuthRequest := tr.(op.AuthRequest)
	var access, token string
	var expires time.Time
	if err == nil {
		access, token, expires, err = c.issue(ctx, req, s, r, i)
	}
	var own storageError
	switch {
	case err == nil:
		return access, token, expires, nil
	case errors.As(err, &own):
		err = own.error
	case isAuthRequest && !req.redeemsCode: // an implicit flow
		err = c.callbackError(ctx, req, err)
	default:
		err = c.answer(ctx, req, err, refusal)
	}
	return "", "", time.Time{}, err
}

// CreateAccessToken is the last place where a login can be admitted, for every
// way to a first token that asks for no refresh token.
func (c *issuing) CreateAccessToken(ctx context.Context, tr op.TokenRequest) (string, time.Time, error) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if withoutSession(ctx) {
		if err := c.issued(ctx); err != nil {
			return "", time.Time{}, err
		}
		id, expires, err := c.Storage.CreateAccessToken(ctx, tr)
		return c.sealSessionless(ctx, tr, id, expires), expires, err
	}
	if req == nil {
		return "", time.Time{}, c.noHandler(ctx)
	}
	if sessionless(req, tr) {
		id, expires, err := c.Storage.CreateAccessToken(ctx, tr)
		return c.sealSessionless(ctx, tr, id, expires), expires, err
	}
	access, _, expires, err := c.create(ctx, req, tr, false)
	return access, expires, err
}

// CreateAccessAndRefreshTokens is the same with a refresh token, and the
// exchange of one.
func (c *issuing) CreateAccessAndRefreshTokens(ctx context.Context, tr op.TokenRequest, current string) (string, string, time.Time, error) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if withoutSession(ctx) {
		return "", "", time.Time{}, c.h.misconfiguredAnswer(ctx, errNoRefresh)
	}
	if req == nil {
		return "", "", time.Time{}, c.noHandler(ctx)
	}
	if sessionless(req, tr) {
		id, token, expires, err := c.Storage.CreateAccessAndRefreshTokens(ctx, tr, current)
		return c.sealSessionless(ctx, tr, id, expires), token, expires, err
	}
	if current != "" {
		return c.refresh(ctx, req, tr, current)
	}
	return c.create(ctx, req, tr, true)
}

// sessionless reports whether a token request has no user session: the client
// acts for itself.
func sessionless(req *request, tr op.TokenRequest) bool {
	if req.clientCredentials {
		return true
	}
	jwt, ok := tr.(*oidc.JWTTokenRequest)
	return ok && jwt.Subject == jwt.Issuer
}

// sealSessionless seals the ID of an access token that has no session, so that it is
// known for an access token of ours.
func (c *issuing) sealSessionless(ctx context.Context, tr op.TokenRequest, id string, expires time.Time) string {
	if id == "" {
		return ""
	}
	return c.h.ring.SealAccess(seal.AccessToken{ID: id, Grant: holderMark(subjectOf(ctx, tr.GetSubject())), Expires: expires})
}

// roomForToken refuses a login or a use that is so near its end that, less the
// clock skew that op adds, a token would have to be clamped into the past. Tokens
// have whole seconds, rounded down.
func (c *backing) roomForToken(req *request, skew time.Duration) error {
	now := c.h.now()
	end := req.live.window.Over()
	if end.IsZero() || end.Add(-skew).Truncate(time.Second).After(now) {
		return nil
	}
	d := req.live.rules.Check(end, req.session.Policy(), req.live.use)
	return &refusedError{reason: d.Reason, text: refusalText(d), over: true}
}

// belong records the session that a request belongs to.
func (req *request) belong(h *Hook, s store.Session, r ruling, use policy.Use) {
	if req.session == nil {
		req.session, req.live = &req.own.session, &req.own.usage
	}
	*req.session, req.ruling = s, r
	use.Within = r.within
	*req.live = usage{rules: r.rules, use: use, window: r.rules.Window(s.Policy(), use)}
}
