package provider

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// An exchangeState is what ValidateTokenExchangeRequest decided.
type exchangeState struct {
	forwarded     *exchangeRequest
	session       store.Session
	ruling        ruling
	authenticated time.Time // the authentication that the subject token rests on
	acr           string    // and how it was made
}

// An exchangeRequest shows the storage its own tokens and IDs instead of the
// sealed ones, and the authentication that the subject token rests on, of which op
// knows nothing. Everything else is op's request.
type exchangeRequest struct {
	op.TokenExchangeRequest
	subject, actor presentedToken
}

func (r *exchangeRequest) GetExchangeSubjectTokenIDOrToken() string { return r.subject.token }
func (r *exchangeRequest) GetExchangeActorTokenIDOrToken() string   { return r.actor.token }

func (r *exchangeRequest) GetAuthTime() time.Time {
	if r.subject.authenticated.IsZero() {
		return r.TokenExchangeRequest.GetAuthTime() // op says now
	}
	return r.subject.authenticated
}

func (r *exchangeRequest) GetExchangeSubjectTokenClaims() map[string]any {
	return r.subject.unsealed(r.TokenExchangeRequest.GetExchangeSubjectTokenClaims())
}

func (r *exchangeRequest) GetExchangeActorTokenClaims() map[string]any {
	return r.actor.unsealed(r.TokenExchangeRequest.GetExchangeActorTokenClaims())
}

// exchanger implements op.TokenExchangeStorage over a storage that does.
type exchanger struct {
	*core
	storage op.TokenExchangeStorage
}

// forward returns the storage's view of an exchange request.
func (x exchanger) forward(ctx context.Context, tr op.TokenExchangeRequest) op.TokenExchangeRequest {
	req, leave := x.h.enter(ctx)
	defer leave()
	if req != nil && req.exchange != nil {
		return req.exchange.forwarded
	}
	return tr
}

// ValidateTokenExchangeRequest decides about an exchange: a token of a live
// session stays in that session; of a dead one it is refused; another subject
// is admitted like a login.
func (x exchanger) ValidateTokenExchangeRequest(ctx context.Context, tr op.TokenExchangeRequest) error {
	req, leave := x.h.enter(ctx)
	defer leave()
	if req == nil {
		return x.noHandler(ctx)
	}
	if err := x.issued(ctx); err != nil {
		return err
	}
	f := &exchangeRequest{TokenExchangeRequest: tr}
	subject, err := x.exchanged(ctx, req, exchangeToken{
		name: "subject_token", client: tr.GetClientID(), kind: tr.GetExchangeSubjectTokenType(), vouched: req.vouched.subject,
		token: tr.GetExchangeSubjectTokenIDOrToken(), user: tr.GetExchangeSubject(), claims: tr.GetExchangeSubjectTokenClaims(),
	})
	if err != nil {
		return x.answer(ctx, req, invalidToken(err, "subject_token"), oidc.ErrInvalidRequest())
	}
	f.subject = subject
	if acts, unclear := req.param("actor_token"); acts != "" || unclear || tr.GetExchangeActor() != "" {
		actor, err := x.exchanged(ctx, req, exchangeToken{
			name: "actor_token", client: tr.GetClientID(), kind: tr.GetExchangeActorTokenType(), vouched: req.vouched.actor,
			token: tr.GetExchangeActorTokenIDOrToken(), user: tr.GetExchangeActor(), claims: tr.GetExchangeActorTokenClaims(),
		})
		if err != nil {
			return x.answer(ctx, req, invalidToken(err, "actor_token"), oidc.ErrInvalidRequest())
		}
		f.actor = actor
	}
	if err := x.storage.ValidateTokenExchangeRequest(ctx, f); err != nil {
		return err
	}
	if f.GetRequestedTokenType() != oidc.AccessTokenType && f.GetRequestedTokenType() != oidc.RefreshTokenType &&
		f.GetRequestedTokenType() != oidc.IDTokenType {
		// op refuses it after this call: no session for it.
		req.exchange = &exchangeState{forwarded: f}
		return nil
	}

	state := &exchangeState{forwarded: f, session: subject.session, ruling: subject.ruling, authenticated: subject.authenticated, acr: subject.acr}
	if who := subjectOf(ctx, f.GetSubject()); who != subject.session.Subject {
		l, err := x.exchangeLogin(ctx, req, f, who)
		if err != nil {
			return x.answer(ctx, req, err, oidc.ErrInvalidRequest())
		}
		if state.session, state.ruling, err = x.h.admit(ctx, l); err != nil {
			return x.answer(ctx, req, deadOr(err), oidc.ErrInvalidRequest())
		}
		state.authenticated, state.acr = session.RestsOn(l.Authenticated, &state.session), l.ACR
		// What ended the session that it is made from may have come before this
		// one was there to be ended.
		if state.session, err = x.h.endedWithParent(ctx, state.session); err != nil {
			return x.answer(ctx, req, err, oidc.ErrInvalidRequest())
		}
	}
	if state.ruling, err = x.h.withParents(ctx, state.session, state.ruling); err != nil {
		return x.answer(ctx, req, err, oidc.ErrInvalidRequest())
	}
	req.exchange = state
	use := policy.Use{Client: f.GetClientID(), Authenticated: state.authenticated}
	req.belong(x.h, state.session, state.ruling, use)
	req.acr = state.acr
	// Here, since nobody asks again before an ID token is made.
	err = usable(&state.session, state.ruling, x.h.now(), use)
	if err == nil {
		err = x.roomForToken(req, x.skew(req))
	}
	if err != nil {
		return x.answer(ctx, req, err, oidc.ErrInvalidRequest())
	}
	return nil
}

// exchangeLogin is the login of an exchange that is not for the subject of the
// session whose token is exchanged. It is reserved: the tokens come in the next
// calls, or never.
//
// What is made from a session is named by that and the client, and else by the token,
// so that an exchange that is sent again finds its session.
func (x exchanger) exchangeLogin(ctx context.Context, req *request, f *exchangeRequest, who store.Subject) (session.Login, error) {
	client, err := x.clientOf(ctx, req, f.GetClientID())
	if err != nil {
		return session.Login{}, err
	}
	l := x.h.asks(ctx, req, Login{Subject: who, Client: client, Exchange: true, AuthTime: f.subject.authenticated})
	l.ACR = f.subject.acr
	parent := &f.subject.session
	if parent.ID == "" {
		parent = &f.actor.session // on whose word it is made
	}
	if parent.ID == "" || parent.Subject == who {
		atPlace(&l, "exchange", string(f.GetExchangeSubjectTokenType()), f.subject.token, f.GetClientID())
		l.SID = l.Former // nothing else has this place: its session is found by name when it has ended
		return l, nil
	}
	l.Parent, l.Current = parent, true
	atPlace(&l, "exchange from", parent.ID, f.GetClientID())
	if parent == &f.subject.session {
		l.AMR = parent.AMR
	}
	return l, x.h.mayHaveChild(ctx, *parent)
}

// A presentedToken is a subject or actor token.
type presentedToken struct {
	token         string // as the storage is shown it: its own ID or token
	id            string // of an access token, the storage's own
	session       store.Session
	ruling        ruling
	authenticated time.Time
	acr           string
}

// unsealed returns the claims of a JWT access token with the storage's own ID in
// "jti".
func (t presentedToken) unsealed(claims map[string]any) map[string]any {
	if jti, ok := claims["jti"].(string); !ok || !strings.HasPrefix(jti, seal.AccessPrefix) {
		return claims
	}
	claims = maps.Clone(claims)
	claims["jti"] = t.id
	return claims
}

// errDeadToken refuses a token that is not good, whose reason is not ours to
// tell.
var errDeadToken = &refusedError{text: "the token has expired, or its login session is over or not known", over: true}

// errOtherKind refuses a token of ours that is not what the request calls it.
var errOtherKind = &refusedError{text: "the token is not of the type that the request says, or is no token"}

// errUnclear refuses a token of which nobody can tell how it was presented.
var errUnclear = &refusedError{text: "the token is there more than once, or in a form that is too long, encoded, or not application/x-www-form-urlencoded"}

// invalidToken says in a refusal, as op does, which token it is about.
func invalidToken(err error, which string) error {
	var refused *refusedError
	if !errors.As(err, &refused) {
		return err
	}
	about := *refused
	about.text += "; " + which + " is invalid"
	return &about
}

// An exchangeToken is a subject or actor token as op or the storage has read it.
type exchangeToken struct {
	name    string // of the parameter
	client  string // that exchanges it
	kind    oidc.TokenType
	vouched string // what the storage vouches for: op could not read it; empty: op could
	token   string
	user    string
	claims  map[string]any
}

// exchanged looks a subject or actor token up. One of no session comes back as it
// is.
//
// What kind a JWT of this issuer is, does not hang on what the request calls it, nor
// on who vouches for it: see core.kindOf. In a token of another provider nothing names
// a session here.
func (c *exchanging) exchanged(ctx context.Context, req *request, e exchangeToken) (presentedToken, error) {
	if e.kind == oidc.RefreshTokenType {
		return c.exchangedRefreshToken(ctx, req, e)
	}
	presented, kind, claims, err := c.kindOfExchanged(ctx, req, e)
	if err != nil {
		return presentedToken{}, err
	}
	jti, _ := claims["jti"].(string)
	_, says := claims["iss"].(string)
	switch {
	case kind == accessKind && e.kind != oidc.IDTokenType:
		return c.exchangedAccessToken(ctx, e, jti, presented)
	case kind == idKind && e.kind != oidc.AccessTokenType:
		return c.exchangedIDToken(ctx, e.token, claims)
	case kind == bareAccessKind && e.kind != oidc.IDTokenType, kind == bareIDKind && e.kind != oidc.AccessTokenType:
		return c.exchangedBare(e.token, claims)
	case kind != foreignKind:
		return presentedToken{}, errOtherKind
	case says: // another one's
		return presentedToken{token: e.token}, nil
	}
	return c.exchangedAccessToken(ctx, e, e.token, presented)
}

// exchangedAccessToken looks an access token up by its ID. A text that the storage
// vouches for, and that is none of ours, is of no session.
func (c *exchanging) exchangedAccessToken(ctx context.Context, e exchangeToken, id, presented string) (presentedToken, error) {
	if !strings.HasPrefix(id, seal.AccessPrefix) {
		if e.vouched != "" {
			return presentedToken{token: e.token}, nil
		}
		return c.exchangedOpaque(ctx, e.token)
	}
	t, s, r, err := c.open(ctx, id, e.user, presented)
	if err != nil {
		return presentedToken{}, deadOr(err)
	}
	p := presentedToken{token: e.token, id: t.ID}
	if id == e.token || e.kind == oidc.AccessTokenType {
		p.token = t.ID
	}
	if s.ID == "" {
		return p, nil
	}
	g := *s.Grant(t.Grant) // which may be dropped meanwhile
	p.ruling, p.authenticated, p.acr = r, g.Authenticated, acrOf(&s, &g)
	if p.session, err = c.seen(ctx, s, t.Grant, t.Generation); err != nil {
		return presentedToken{}, err
	}
	return p, nil
}

// exchangedOpaque is an opaque access token that the hook did not seal. op does not
// ask the storage whether it is still good, and nothing in it says when it was
// issued: it is taken for as long as tokens from before the installation are, and
// rests on an authentication from before that.
func (c *exchanging) exchangedOpaque(ctx context.Context, token string) (presentedToken, error) {
	if token == "" || !c.adopting() {
		return presentedToken{}, errDeadToken
	}
	installation, err := c.h.watch.installed(ctx)
	if err != nil {
		return presentedToken{}, err
	}
	return presentedToken{token: token, authenticated: installation.at}, nil
}

// exchangedBare is a JWT from before the installation. Its user authenticated before
// it was issued.
func (c *exchanging) exchangedBare(token string, claims map[string]any) (presentedToken, error) {
	if !c.adopting() {
		return presentedToken{}, errDeadToken
	}
	at, ok := claims["auth_time"].(float64)
	if !ok {
		at, _ = claims["iat"].(float64)
	}
	acr, _ := claims["acr"].(string)
	return presentedToken{token: token, authenticated: unixTime(at), acr: acr}, nil
}

// restsOnClaim is in an ID token that an exchange asked for: its "auth_time" is the
// time of the exchange, which is op's doing.
const restsOnClaim = "session_auth_time"

// exchangedIDToken looks up the session that an ID token names.
func (c *exchanging) exchangedIDToken(ctx context.Context, token string, claims map[string]any) (presentedToken, error) {
	sid, _ := claims["sid"].(string)
	s, err := c.h.getWithParent(ctx, sid)
	if err == nil && s.Subject.Issuer != op.IssuerFromContext(ctx) {
		err = store.ErrNotFound
	}
	if err != nil {
		return presentedToken{}, deadOr(err)
	}
	s, r, err := c.h.inUse(ctx, s)
	if err != nil {
		return presentedToken{}, err
	}
	authenticated := s.Authenticated
	for _, name := range []string{"auth_time", restsOnClaim} {
		if t, ok := claims[name].(float64); ok && int64(t) < authenticated.Unix() {
			authenticated = unixTime(t)
		}
	}
	if err := usable(&s, r, c.h.now(), policy.Use{Authenticated: authenticated}); err != nil {
		return presentedToken{}, err
	}
	acr, _ := claims["acr"].(string)
	return presentedToken{token: token, session: s, ruling: r, authenticated: authenticated, acr: acr}, nil
}

// errSpent refuses to exchange a refresh token whose successor was never seen: a
// refresh mends that, and voids the successor. Here both would stay good.
var errSpent = &refusedError{text: "the refresh token was refreshed already, and its successor not used yet; refresh it once more, and exchange what comes"}

// exchangedRefreshToken looks a refresh token up that is exchanged for others. It
// stands here as at a refresh, and what is refused has the same consequences. op had
// it looked up already, by TokenRequestByRefreshToken; for the actor of an exchange
// as well, before the subject is asked for, and so one of two is looked up again: as part
// of this call, which goes on when the response is over.
func (c *exchanging) exchangedRefreshToken(ctx context.Context, req *request, e exchangeToken) (presentedToken, error) {
	if st := req.refresh; st == nil || st.presented != e.token {
		if refused := req.refused; refused == nil || refused.state.presented != e.token {
			if _, err := c.lookUp(ctx, req, e.token); err != nil {
				if e.vouched != "" {
					return c.exchangedForeign(ctx, req, e, err)
				}
				return presentedToken{}, deadOr(err)
			}
		}
	}
	st := req.refresh
	if req.refused != nil {
		st = req.refused.state
	}
	if st == nil || st.presented != e.token {
		return presentedToken{}, c.noHandler(ctx) // the response went out before it was looked up
	}
	if owner := st.token.Client; owner != e.client && !c.mayExchange(ctx, req, e.client, owner) {
		return presentedToken{}, errDeadToken // as a refresh tells another client nothing
	}
	refused := req.refused
	if refused == nil {
		if err := c.standsForExchange(ctx, req, st); err != nil {
			refused = &refusedRequest{state: st, err: err}
		}
	}
	if refused != nil {
		if err := c.consequences(ctx, req, refused); err != nil {
			return presentedToken{}, err
		}
		return presentedToken{}, deadOr(refused.err)
	}
	g := st.session.Grant(st.token.Grant)
	return presentedToken{
		token: st.inner, session: st.session, ruling: st.ruling, authenticated: g.Authenticated, acr: acrOf(&st.session, g),
	}, nil
}

// exchangedForeign is a refresh token that is not one of ours, for cause, and that the
// storage's verifier vouches for.
func (c *exchanging) exchangedForeign(ctx context.Context, req *request, e exchangeToken, cause error) (presentedToken, error) {
	if _, err := c.h.ring.OpenRefresh(e.token, c.h.now()); !errors.Is(err, seal.ErrForeign) {
		return presentedToken{}, deadOr(cause)
	}
	_, kind, _, err := c.kindOfExchanged(ctx, req, e)
	if err == nil && kind != foreignKind {
		err = errOtherKind
	}
	return presentedToken{token: e.token}, err
}

// kindOfExchanged tells what a subject or actor token is, from the token as it was
// presented. What the storage says is in one that it vouches for counts only for a
// token that nobody else can read.
func (c *exchanging) kindOfExchanged(ctx context.Context, req *request, e exchangeToken) (presented string, kind jwtKind, claims map[string]any, err error) {
	presented, unclear := req.param(e.name)
	if unclear || presented == "" {
		return "", otherKind, nil, errUnclear
	}
	typ, claims, isJWT := parseJWT(presented)
	if !e.is(presented, claims, isJWT) {
		return "", otherKind, nil, errUnclear
	}
	if !isJWT {
		claims = e.claims
	}
	kind, err = c.kindOf(ctx, typ, claims)
	return presented, kind, claims, err
}

// is reports whether the token that was found in the request is the one that op has read,
// as far as op tells of it: something inside of the handler may have changed the request.
func (e *exchangeToken) is(presented string, claims map[string]any, isJWT bool) bool {
	switch {
	case e.vouched != "":
		return presented == e.vouched
	case e.kind == oidc.AccessTokenType:
		id, _ := claims["jti"].(string)
		return isJWT == (e.claims != nil) && (!isJWT || id == e.token)
	}
	return presented == e.token
}

// mayExchange asks Config.ExchangeRefreshToken about another client's refresh token.
func (c *exchanging) mayExchange(ctx context.Context, req *request, clientID, owner string) bool {
	if c.h.cfg.ExchangeRefreshToken == nil {
		return false
	}
	client, err := c.clientOf(ctx, req, clientID)
	return err == nil && c.h.cfg.ExchangeRefreshToken(ctx, client, owner)
}

// standsForExchange does for a refresh token that is exchanged what its standing calls
// for.
func (c *exchanging) standsForExchange(ctx context.Context, req *request, st *refreshState) error {
	if err := c.adopt(ctx, st); err != nil {
		return err
	}
	g := st.session.Grant(st.token.Grant)
	switch st.standing {
	case current:
		if st.token.Generation == 0 {
			return nil // adopted, and its storage's answer not sealed yet
		}
		var err error
		st.session, err = c.seen(ctx, st.session, g.ID, g.Generation)
		return err
	case repeated:
		c.tellMoved(ctx, req, st)
		c.h.sessionEvent(ctx, EventRepeat, &st.session, g.Client)
	case lost:
		return errSpent
	case ahead:
		c.h.sessionEvent(ctx, EventRollback, &st.session, g.Client)
	}
	return nil
}

// unseen reports whether no token of the grant's current generation was seen yet.
func unseen(s *store.Session, grant string, generation uint64) bool {
	g := s.Grant(grant)
	return s.End == nil && g != nil && !g.Used && g.Generation == generation
}

// seen records that a token of a generation was seen: the refresh that brought
// it cannot have been lost.
func (c *reading) seen(ctx context.Context, s store.Session, grant string, generation uint64) (store.Session, error) {
	if !unseen(&s, grant, generation) {
		return s, nil
	}
	ctx, cancel := c.h.detach(ctx)
	defer cancel()
	return c.h.change(ctx, s, func(s *store.Session) error {
		if !unseen(s, grant, generation) {
			return errNoChange
		}
		s.Grant(grant).Used = true
		return nil
	})
}

// deadOr makes a refusal of what the token is to blame for, and leaves outages.
func deadOr(err error) error {
	if errors.Is(err, errInactive) || errors.Is(err, seal.ErrBroken) || errors.Is(err, store.ErrNotFound) {
		return errDeadToken
	}
	return err
}

// CreateTokenExchangeRequest implements op.TokenExchangeStorage.
//
// op has a storage choose subject and token type in
// ValidateTokenExchangeRequest; one that does it here is refused.
func (x exchanger) CreateTokenExchangeRequest(ctx context.Context, tr op.TokenExchangeRequest) error {
	f := x.forward(ctx, tr)
	subject, requested := f.GetSubject(), f.GetRequestedTokenType()
	if err := x.storage.CreateTokenExchangeRequest(ctx, f); err != nil {
		return err
	}
	if f.GetSubject() != subject || f.GetRequestedTokenType() != requested {
		return oidc.ErrServerError().WithDescription("the subject or the token type of an exchange changed after it was validated")
	}
	return nil
}

// GetPrivateClaimsFromTokenExchangeRequest implements op.TokenExchangeStorage.
func (x exchanger) GetPrivateClaimsFromTokenExchangeRequest(ctx context.Context, tr op.TokenExchangeRequest) (map[string]any, error) {
	req, leave := x.h.enter(ctx)
	defer leave()
	claims, err := x.storage.GetPrivateClaimsFromTokenExchangeRequest(ctx, x.forward(ctx, tr))
	return withActor(req, claims), err
}

// SetUserinfoFromTokenExchangeRequest adds the session's claims to an exchanged
// ID token. One that was asked for alone makes no access token: its session is
// confirmed here.
func (x exchanger) SetUserinfoFromTokenExchangeRequest(ctx context.Context, info *oidc.UserInfo, tr op.TokenExchangeRequest) error {
	req, leave := x.h.enter(ctx)
	defer leave()
	if req == nil {
		return x.noHandler(ctx)
	}
	if err := x.storage.SetUserinfoFromTokenExchangeRequest(ctx, info, x.forward(ctx, tr)); err != nil {
		return err
	}
	if ex := req.exchange; ex != nil && ex.session.ID != "" && !ex.session.ReservedUntil.IsZero() {
		s, err := x.h.confirmFor(ctx, req, ex.session, ex.ruling)
		if err != nil {
			return x.answer(ctx, req, err, oidc.ErrInvalidRequest())
		}
		ex.session = s
		req.belong(x.h, s, ex.ruling, req.live.use)
	}
	x.sessionClaims(req, info, tr.GetSubject(), true)
	if ex := req.exchange; ex != nil && !ex.authenticated.IsZero() && ex.authenticated.Unix() != tr.GetAuthTime().Unix() {
		info.AppendClaims(restsOnClaim, ex.authenticated.Unix())
	}
	return nil
}

// VerifyExchangeSubjectToken asks the storage about a token that is not op's.
// Where the storage cannot, op treats the error like the missing interface.
func (c *exchanging) VerifyExchangeSubjectToken(ctx context.Context, token string, tokenType oidc.TokenType) (string, string, map[string]any, error) {
	if own, ok := c.Storage.(op.TokenExchangeTokensVerifierStorage); ok {
		req, leave := c.h.enter(ctx)
		defer leave()
		if req != nil {
			req.vouched.subject = token
		}
		return own.VerifyExchangeSubjectToken(ctx, token, tokenType)
	}
	return "", "", nil, errors.New("the token is not one of this provider")
}

// VerifyExchangeActorToken is the same for an actor token.
func (c *exchanging) VerifyExchangeActorToken(ctx context.Context, token string, tokenType oidc.TokenType) (string, string, map[string]any, error) {
	if own, ok := c.Storage.(op.TokenExchangeTokensVerifierStorage); ok {
		req, leave := c.h.enter(ctx)
		defer leave()
		if req != nil {
			req.vouched.actor = token
		}
		return own.VerifyExchangeActorToken(ctx, token, tokenType)
	}
	return "", "", nil, errors.New("the token is not one of this provider")
}
