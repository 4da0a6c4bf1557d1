package provider

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// A core decorates the methods of op.Storage, and those of the optional
// interfaces whose absence it can stand in for. The others are in wrap.go.
//
// It never wraps what the storage returns, but clients: storages type-switch
// on their own requests.
type core struct {
	op.Storage
	h *Hook
}

// answer turns an error of the hook into what op gives to the application:
// refusals as the given OAuth error, everything else as an outage.
func (c *core) answer(ctx context.Context, req *request, err error, refusal *oidc.Error) *oidc.Error {
	req.private = true
	var refused *refusedError
	if errors.As(err, &refused) {
		return refused.oidc(refusal)
	}
	var own *oidc.Error
	if errors.As(err, &own) {
		return own
	}
	return c.outage(ctx, req, err)
}

// outage is the answer when the store or the settings cannot be asked. It is
// not a refusal: what the client holds stays good.
func (c *core) outage(ctx context.Context, req *request, err error) *oidc.Error {
	req.unavailable = true
	c.h.unavailableEvent(ctx, err)
	return oidc.ErrServerError().WithDescription("%s", unavailableText).WithParent(err)
}

// callbackError is the answer at the callback, where op redirects it to the
// application: OpenID Connect Core 1.0 section 3.1.2.6.
func (c *core) callbackError(ctx context.Context, req *request, err error) error {
	var refused *refusedError
	if errors.As(err, &refused) && refused.over {
		return refused.oidc(oidc.ErrLoginRequired())
	}
	if refused != nil && refused.silent { // with the user something could be done about it
		return c.answer(ctx, req, err, oidc.ErrInteractionRequired())
	}
	return c.answer(ctx, req, err, oidc.ErrAccessDenied())
}

func subjectOf(ctx context.Context, sub string) store.Subject {
	return store.Subject{Issuer: op.IssuerFromContext(ctx), ID: sub}
}

// AuthRequestByID leaves a finished request in the holder: the callback asks
// for the client next, and there the login is admitted.
func (c *core) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
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
func (c *core) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
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
func (c *core) GetClientByClientID(ctx context.Context, clientID string) (op.Client, error) {
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
func (c *core) SaveAuthCode(ctx context.Context, id, code string) error {
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
	a := c.loginAdmission(ctx, ar, client)
	a.idToken = ar.GetResponseType() == oidc.ResponseTypeIDTokenOnly
	a.reserve = true
	if err := c.fromBrowser(ctx, req, &a, ar, client.ApplicationType() == op.ApplicationTypeNative); err != nil {
		return err
	}
	if a.prompted {
		a.ask = func(s store.Session, d policy.Decision) bool { return c.h.askInstead(req, ar, s, d) }
	}
	s, r, err := c.h.admit(ctx, req, a)
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
	req.belong(c.h, s, r, policy.Use{Client: client.GetID(), Authenticated: restsOn(a.login.AuthTime, &s)})
	return c.roomForToken(req, client.ClockSkew())
}

// restsOn returns the authentication that the tokens of a login rest on: its own,
// if that is older than the session's.
func restsOn(authTime time.Time, s *store.Session) time.Time {
	authTime = authTime.UTC().Truncate(time.Microsecond)
	if authTime.IsZero() || authTime.After(s.Authenticated) {
		return s.Authenticated
	}
	return authTime
}

func (c *core) loginAdmission(ctx context.Context, ar op.AuthRequest, client op.Client) admission {
	login := Login{Subject: subjectOf(ctx, ar.GetSubject()), Client: client, AuthRequest: ar, AuthTime: ar.GetAuthTime()}
	a := admission{login: login, amr: ar.GetAMR(), acr: keptACR(ar.GetACR())}
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
func (c *core) standsApart(ctx context.Context, a *admission, s *store.Session) (bool, error) {
	if a.apart == nil || a.codeIn(s) >= 0 || s.Client == a.clientID() && c.h.cfg.Kind(ctx, a.login) == s.Kind {
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
	a := c.loginAdmission(ctx, ar, client)
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
		apart, err := c.standsApart(ctx, &a, &s)
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
	return c.h.admit(ctx, req, a)
}

func (c *core) clientOf(ctx context.Context, req *request, clientID string) (op.Client, error) {
	if req.client != nil && req.client.GetID() == clientID {
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

// belong records the session that a request belongs to.
func (req *request) belong(h *Hook, s store.Session, r ruling, use policy.Use) {
	if req.session == nil {
		req.session, req.live = &req.own.session, &req.own.usage
	}
	*req.session, req.ruling = s, r
	use.Within = r.within
	*req.live = usage{rules: r.rules, use: use, window: r.rules.Window(s.Policy(), use)}
}

// roomForToken refuses a login or a use that is so near its end that, less the
// clock skew that op adds, a token would have to be clamped into the past. Tokens
// have whole seconds, rounded down.
func (c *core) roomForToken(req *request, skew time.Duration) error {
	now := c.h.now()
	end := req.live.window.Over()
	if end.IsZero() || end.Add(-skew).Truncate(time.Second).After(now) {
		return nil
	}
	d := req.live.rules.Check(end, req.session.Policy(), req.live.use)
	return &refusedError{reason: d.Reason, text: refusalText(d), over: true}
}

// CreateAccessToken is the last place where a login can be admitted, for every
// way to a first token that asks for no refresh token.
func (c *core) CreateAccessToken(ctx context.Context, tr op.TokenRequest) (string, time.Time, error) {
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
func (c *core) CreateAccessAndRefreshTokens(ctx context.Context, tr op.TokenRequest, current string) (string, string, time.Time, error) {
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
func (c *core) sealSessionless(ctx context.Context, tr op.TokenRequest, id string, expires time.Time) string {
	if id == "" {
		return ""
	}
	return c.h.ring.SealAccess(seal.AccessToken{ID: id, Grant: holderMark(subjectOf(ctx, tr.GetSubject())), Expires: expires})
}

// maxScopes bounds the scopes that are kept with a grant, in bytes: op does not
// filter those of a device grant.
const maxScopes = 4096

// create issues the first tokens of a login, or the tokens of an exchange.
func (c *core) create(ctx context.Context, req *request, tr op.TokenRequest, refresh bool) (string, string, time.Time, error) {
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
			s, r, err = c.loginSession(ctx, req, t)
		}
		i.authenticated, i.acr = t.GetAuthTime(), t.GetACR()
		if req.redeemsCode && t.GetResponseType() == oidc.ResponseTypeCode {
			i.code = codeHash(t)
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
		login := Login{Subject: subjectOf(ctx, t.Subject), AuthTime: c.h.now()}
		s, r, err = c.h.admit(ctx, req, admission{
			login: login, client: t.Issuer, renews: true, reserve: true,
			sid: func(n int) string { return derivedSID(login.Subject, n, "jwt", t.Issuer) },
		})
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

// admitDevice decides about a device login when its tokens are created. The
// device code makes one session, however often it is polled.
func (c *core) admitDevice(ctx context.Context, req *request, t *op.DeviceAuthorizationState) (s store.Session, r ruling, redeemed bool, err error) {
	name := req.deviceCode
	if name == "" { // a provider that keeps device codes by itself
		name = newSID(subjectOf(ctx, t.GetSubject()))
	}
	client, err := c.clientOf(ctx, req, t.GetClientID())
	if err != nil {
		return store.Session{}, ruling{}, false, err
	}
	login := Login{Subject: subjectOf(ctx, t.GetSubject()), Client: client, Device: true, AuthTime: t.GetAuthTime()}
	sid := func(n int) string { return derivedSID(login.Subject, n, "device", name) }
	if !t.Expires.IsZero() && c.h.now().After(t.Expires.Add(c.h.cfg.CodeLifetime)) {
		// op takes a device code that was approved for ever. Its session may
		// have ended and be forgotten: no other one is made of it.
		if first, err := c.h.get(ctx, sid(0)); errors.Is(err, store.ErrNotFound) || err == nil && c.h.cameToNothing(&first) {
			return store.Session{}, ruling{}, false, oidc.ErrExpiredDeviceCode()
		}
	}
	if s, r, redeemed, err = c.redeemedDevice(ctx, sid, deviceHash(name)); redeemed || err != nil {
		return s, r, redeemed, err
	}
	s, r, err = c.h.admit(ctx, req, admission{login: login, amr: t.GetAMR(), reserve: true, sid: sid})
	return s, r, false, c.h.withSessionsURL(err)
}

// cameToNothing reports whether a session was only ever reserved, and none by its
// name came after it.
func (h *Hook) cameToNothing(s *store.Session) bool {
	if s.End != nil {
		return s.End.Reason == policy.ReasonAbandoned && s.End.Latest == ""
	}
	return !s.ReservedUntil.IsZero() && !h.now().Before(s.ReservedUntil)
}

// A storageError is an error of the embedded storage. It is passed on as it
// is: the embedded server is unchanged otherwise.
type storageError struct{ error }

func (e storageError) Unwrap() error { return e.error }

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
func (c *core) issue(ctx context.Context, req *request, s store.Session, r ruling, i issuance) (access, refresh string, expires time.Time, err error) {
	h := c.h
	now := h.now()
	name := h.clientName(ctx, i.client)
	i.authenticated = restsOn(i.authenticated, &s)
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
	g.ID = accessGrantID(i.client, i.authenticated, g.ACR)
	nonce := seal.NewNonce()
	if i.refresh {
		g.ID = grantID(i.name...)
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
			putGrant(s, g, h.cfg.MaxGrants)
		case !old.Revoked.IsZero():
			return &refusedError{reason: policy.ReasonRevoked, text: policy.ReasonRevoked.Info().Description(), over: true}
		case i.refresh: // of a provider that names no code: a new generation voids the one before
			g.Generation = max(g.Generation, old.Generation+1)
			putGrant(s, g, h.cfg.MaxGrants)
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
		s.ClientNames = withName(s.ClientNames, name)
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
	c.h.signers.learn(s.Subject.Issuer, c)

	req.belong(h, s, r, use)
	req.acr = acrOf(&s, &g)
	if i.refresh {
		h.announceExpiry(req, now)
	}
	req.private = true
	return a.Access, a.Refresh, a.Expires, nil
}

// usable refuses a session that has ended or is over.
func usable(s *store.Session, r ruling, now time.Time, use policy.Use) error {
	if s.End != nil {
		return &refusedError{reason: s.End.Reason, text: endedText(s), over: true}
	}
	if d := r.rules.Check(now, s.Policy(), use); !d.Allow {
		return &refusedError{reason: d.Reason, text: refusalText(d), over: true}
	}
	return nil
}

// putGrant enters a grant. With too many, one is dropped: a revoked one, or the
// longest unused of the same client, or else of all. A token of a dropped grant
// is refused as revoked.
func putGrant(s *store.Session, g store.Grant, max int) {
	if old := s.Grant(g.ID); old != nil {
		g.Unknown = old.Unknown
		*old = g
		return
	}
	rank := func(g2 store.Grant) int {
		switch {
		case !g2.Revoked.IsZero():
			return 0
		case g2.Client == g.Client:
			return 1
		}
		return 2
	}
	for len(s.Grants) >= max {
		drop := slices.MinFunc(s.Grants, func(a, b store.Grant) int {
			return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Rotated.Compare(b.Rotated))
		})
		dropGrant(s, drop.ID)
	}
	s.Grants = append(s.Grants, g)
}

func dropGrant(s *store.Session, id string) {
	s.Grants = slices.DeleteFunc(s.Grants, func(g store.Grant) bool { return g.ID == id })
}

// skew is the clock skew that op adds to what the client is told.
func (c *core) skew(req *request) time.Duration {
	if req.client == nil {
		return 0
	}
	return req.client.ClockSkew()
}

// bound shortens an access token's life to what the session allows. op adds
// the client's ClockSkew, so it is taken off first.
func (c *core) bound(req *request, now, expires time.Time, skew time.Duration) time.Time {
	end := req.live.rules.TokenEnd(now, req.session.Policy(), req.live.use)
	if end.IsZero() {
		return expires
	}
	if end = end.Add(-skew); end.Before(expires) {
		return end
	}
	return expires
}

// DeleteAuthRequest is the last call before tokens of an auth request leave op.
func (c *core) DeleteAuthRequest(ctx context.Context, id string) error {
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

// noteClientCredentials notes a request that has no user session.
func (c *core) noteClientCredentials(ctx context.Context) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req != nil {
		req.clientCredentials = true
	}
}

// SetUserinfoFromScopes is called for an ID token before
// SetUserinfoFromRequest. The storage is not called where op would not have
// called it: for the hook's own scope alone.
func (c *core) SetUserinfoFromScopes(ctx context.Context, info *oidc.UserInfo, userID, clientID string, scopes []string) error {
	if scopes = withoutOwnScope(scopes); len(scopes) == 0 {
		return nil
	}
	return c.Storage.SetUserinfoFromScopes(ctx, info, userID, clientID, scopes)
}

// SetUserinfoFromRequest adds the session's claims to an ID token. It is the
// last place where a login for an ID token alone can be admitted.
func (c *core) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, ir op.IDTokenRequest, scopes []string) error {
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
func (c *core) sessionClaims(req *request, info *oidc.UserInfo, subject string, acr bool) {
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
