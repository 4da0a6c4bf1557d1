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
// sealed ones. Everything else is op's request.
type exchangeRequest struct {
	op.TokenExchangeRequest
	subject, actor presentedToken
}

func (r *exchangeRequest) GetExchangeSubjectTokenIDOrToken() string { return r.subject.token }
func (r *exchangeRequest) GetExchangeActorTokenIDOrToken() string   { return r.actor.token }

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
	if req := requestFrom(ctx); req != nil && req.exchange != nil {
		return req.exchange.forwarded
	}
	return tr
}

// ValidateTokenExchangeRequest decides about an exchange: a token of a live
// session stays in that session; of a dead one it is refused; another subject
// is admitted like a login.
func (x exchanger) ValidateTokenExchangeRequest(ctx context.Context, tr op.TokenExchangeRequest) error {
	req := requestFrom(ctx)
	if req == nil {
		return noHandler()
	}
	f := &exchangeRequest{TokenExchangeRequest: tr}
	subject, err := x.exchanged(ctx, req, tr.GetExchangeSubjectTokenType(), tr.GetExchangeSubjectTokenIDOrToken(), tr.GetExchangeSubject(), tr.GetExchangeSubjectTokenClaims())
	if err != nil {
		return x.answer(ctx, req, invalidToken(err, "subject_token"), oidc.ErrInvalidRequest())
	}
	f.subject = subject
	if tr.GetExchangeActor() != "" {
		actor, err := x.exchanged(ctx, req, tr.GetExchangeActorTokenType(), tr.GetExchangeActorTokenIDOrToken(), tr.GetExchangeActor(), tr.GetExchangeActorTokenClaims())
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
		client, err := x.clientOf(ctx, req, f.GetClientID())
		if err != nil {
			return err
		}
		// Named by the token, so that an exchange that is sent again finds its
		// session. Reserved: the tokens come in the next calls, or never.
		login := Login{Subject: who, Client: client, Exchange: true}
		s, r, err := x.h.admit(ctx, req, admission{login: login, reserve: true, sid: func(n int) string {
			return derivedSID(who, n, "exchange", string(tr.GetExchangeSubjectTokenType()), subject.token, f.GetClientID())
		}})
		if err != nil {
			return x.answer(ctx, req, err, oidc.ErrInvalidRequest())
		}
		state.session, state.ruling, state.authenticated, state.acr = s, r, s.Authenticated, s.ACR
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
	if jti, ok := claims["jti"].(string); !ok || !strings.HasPrefix(jti, accessPrefix) {
		return claims
	}
	claims = maps.Clone(claims)
	claims["jti"] = t.id
	return claims
}

// errDeadToken refuses a token that is not good, whose reason is not ours to
// tell.
var errDeadToken = &refusedError{text: "the token has expired, or its login session is over or not known", over: true}

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

// exchanged looks a subject or actor token up, which is of the given user. A token
// of no session comes back as it is.
//
// The storage may vouch for tokens that op cannot read. One of our own is of its
// session all the same, and in one of another provider nothing names a session here.
func (c *core) exchanged(ctx context.Context, req *request, tokenType oidc.TokenType, token, user string, claims map[string]any) (presentedToken, error) {
	if tokenType == oidc.RefreshTokenType {
		return c.exchangedRefreshToken(ctx, req, token)
	}
	if issuer, says := claims["iss"].(string); says && issuer != op.IssuerFromContext(ctx) {
		return presentedToken{token: token}, nil
	}
	id := token
	if jti, _ := claims["jti"].(string); strings.HasPrefix(jti, accessPrefix) {
		id = jti
	}
	if sid, _ := claims["sid"].(string); sid != "" && id == token && tokenType != oidc.AccessTokenType {
		return c.exchangedIDToken(ctx, tokenType, token, sid, claims)
	}
	t, s, r, sealed, err := c.open(ctx, id, user)
	if err != nil {
		return presentedToken{}, deadOr(err)
	}
	if !sealed {
		return presentedToken{token: token}, nil
	}
	g := *s.Grant(t.Grant) // which may be dropped meanwhile
	p := presentedToken{token: token, id: t.ID, ruling: r, authenticated: g.Authenticated, acr: acrOf(&s, &g)}
	if id == token || tokenType == oidc.AccessTokenType {
		p.token = t.ID
	}
	if p.session, err = c.seen(ctx, s, t.Grant, t.Generation); err != nil {
		return presentedToken{}, err
	}
	return p, nil
}

// exchangedIDToken looks up the session that an ID token names.
func (c *core) exchangedIDToken(ctx context.Context, tokenType oidc.TokenType, token, sid string, claims map[string]any) (presentedToken, error) {
	s, err := c.h.get(ctx, sid)
	if errors.Is(err, store.ErrNotFound) && tokenType != oidc.IDTokenType {
		return presentedToken{token: token}, nil // the storage means something else by it
	}
	if err != nil {
		return presentedToken{}, deadOr(err)
	}
	s, r, err := c.h.inUse(ctx, s)
	if err != nil {
		return presentedToken{}, err
	}
	authenticated := s.Authenticated
	if t, ok := claims["auth_time"].(float64); ok && int64(t) < s.Authenticated.Unix() {
		authenticated = time.Unix(int64(t), 0).UTC()
	}
	if err := usable(&s, r, c.h.now(), policy.Use{Authenticated: authenticated}); err != nil {
		return presentedToken{}, err
	}
	acr, _ := claims["acr"].(string)
	return presentedToken{token: token, session: s, ruling: r, authenticated: authenticated, acr: acr}, nil
}

// exchangedRefreshToken looks a refresh token up that is exchanged for others:
// it must be good for a refresh. op had it looked up already, by
// TokenRequestByRefreshToken; for the actor of an exchange as well, before the
// subject is asked for, and so one of two is looked up again.
func (c *core) exchangedRefreshToken(ctx context.Context, req *request, token string) (presentedToken, error) {
	if st := req.refresh; st == nil || st.presented != token {
		if refused := req.refused; refused == nil || refused.state.presented != token {
			if _, err := c.TokenRequestByRefreshToken(ctx, token); err != nil {
				// Not one of ours: what the storage's verifier vouches for.
				if _, sealed := c.h.ring.openRefresh(token, c.h.now()); errors.Is(sealed, errForeign) {
					return presentedToken{token: token}, nil
				}
				return presentedToken{}, deadOr(err)
			}
		}
	}
	if refused := req.refused; refused != nil {
		return presentedToken{}, deadOr(refused.err)
	}
	st := req.refresh
	if err := c.adopt(ctx, st); err != nil {
		return presentedToken{}, err
	}
	g := st.session.Grant(st.token.Grant)
	if st.standing == current && st.token.Generation > 0 {
		var err error
		if st.session, err = c.seen(ctx, st.session, g.ID, g.Generation); err != nil {
			return presentedToken{}, err
		}
	}
	return presentedToken{
		token: st.inner, session: st.session, ruling: st.ruling, authenticated: g.Authenticated, acr: acrOf(&st.session, g),
	}, nil
}

// unseen reports whether no token of the grant's current generation was seen yet.
func unseen(s *store.Session, grant string, generation uint64) bool {
	g := s.Grant(grant)
	return s.End == nil && g != nil && !g.Used && g.Generation == generation
}

// seen records that a token of a generation was seen: the refresh that brought
// it cannot have been lost.
func (c *core) seen(ctx context.Context, s store.Session, grant string, generation uint64) (store.Session, error) {
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
	if errors.Is(err, errInactive) || errors.Is(err, errBroken) || errors.Is(err, store.ErrNotFound) {
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
	return x.storage.GetPrivateClaimsFromTokenExchangeRequest(ctx, x.forward(ctx, tr))
}

// SetUserinfoFromTokenExchangeRequest adds the session's claims to an exchanged
// ID token. One that was asked for alone makes no access token: its session is
// confirmed here.
func (x exchanger) SetUserinfoFromTokenExchangeRequest(ctx context.Context, info *oidc.UserInfo, tr op.TokenExchangeRequest) error {
	req := requestFrom(ctx)
	if req == nil {
		return noHandler()
	}
	if err := x.storage.SetUserinfoFromTokenExchangeRequest(ctx, info, x.forward(ctx, tr)); err != nil {
		return err
	}
	if ex := req.exchange; ex != nil && ex.session.ID != "" && !ex.session.ReservedUntil.IsZero() {
		s, err := x.h.confirm(ctx, ex.session, ex.ruling)
		if err != nil {
			return x.answer(ctx, req, err, oidc.ErrInvalidRequest())
		}
		ex.session = s
		req.belong(x.h, s, ex.ruling, req.live.use)
	}
	x.sessionClaims(req, info, tr.GetSubject(), true)
	return nil
}

// VerifyExchangeSubjectToken asks the storage about a token that is not op's.
// Where the storage cannot, op treats the error like the missing interface.
func (c *core) VerifyExchangeSubjectToken(ctx context.Context, token string, tokenType oidc.TokenType) (string, string, map[string]any, error) {
	if own, ok := c.Storage.(op.TokenExchangeTokensVerifierStorage); ok {
		return own.VerifyExchangeSubjectToken(ctx, token, tokenType)
	}
	return "", "", nil, errors.New("the token is not one of this provider")
}

// VerifyExchangeActorToken is the same for an actor token.
func (c *core) VerifyExchangeActorToken(ctx context.Context, token string, tokenType oidc.TokenType) (string, string, map[string]any, error) {
	if own, ok := c.Storage.(op.TokenExchangeTokensVerifierStorage); ok {
		return own.VerifyExchangeActorToken(ctx, token, tokenType)
	}
	return "", "", nil, errors.New("the token is not one of this provider")
}
