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
	subject, err := x.exchanged(ctx, req, tr.GetExchangeSubjectTokenType(), tr.GetExchangeSubjectTokenIDOrToken(), tr.GetExchangeSubjectTokenClaims())
	if err != nil {
		return x.answer(ctx, req, invalidToken(err, "subject_token"), oidc.ErrInvalidRequest())
	}
	f.subject = subject
	if tr.GetExchangeActor() != "" {
		actor, err := x.exchanged(ctx, req, tr.GetExchangeActorTokenType(), tr.GetExchangeActorTokenIDOrToken(), tr.GetExchangeActorTokenClaims())
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

	state := &exchangeState{forwarded: f, session: subject.session, ruling: subject.ruling, authenticated: subject.authenticated}
	if subject.session.ID == "" || f.GetSubject() != subject.session.Subject.ID {
		client, err := x.clientOf(ctx, req, f.GetClientID())
		if err != nil {
			return err
		}
		login := Login{Subject: subjectOf(ctx, f.GetSubject()), Client: client, Exchange: true}
		id := newSID(login.Subject)
		// Reserved: the tokens come in the next calls, or never.
		s, r, err := x.h.admit(ctx, req, admission{login: login, reserve: true, sid: func(int) string { return id }})
		if err != nil {
			return x.answer(ctx, req, err, oidc.ErrInvalidRequest())
		}
		state.session, state.ruling, state.authenticated = s, r, s.Authenticated
	}
	req.exchange = state
	req.belong(x.h, state.session, state.ruling, policy.Use{Client: f.GetClientID(), Authenticated: state.authenticated})
	return nil
}

// A presentedToken is a subject or actor token.
type presentedToken struct {
	token         string // the storage's own ID or token
	session       store.Session
	ruling        ruling
	authenticated time.Time
}

// unsealed returns the claims of a JWT access token with the storage's own ID in
// "jti".
func (t presentedToken) unsealed(claims map[string]any) map[string]any {
	if jti, ok := claims["jti"].(string); !ok || !strings.HasPrefix(jti, accessPrefix) {
		return claims
	}
	claims = maps.Clone(claims)
	claims["jti"] = t.token
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

// exchanged looks a subject or actor token up. A token of no session comes back
// as it is.
func (c *core) exchanged(ctx context.Context, req *request, tokenType oidc.TokenType, token string, claims map[string]any) (presentedToken, error) {
	switch tokenType {
	case oidc.RefreshTokenType:
		t, err := c.h.ring.openRefresh(token, c.h.now())
		if errors.Is(err, errForeign) {
			return presentedToken{token: token}, nil
		}
		if err != nil {
			return presentedToken{}, deadOr(err)
		}
		// It must be good for a refresh: not revoked, and not spent.
		st := &refreshState{presented: token, token: t}
		if st.session, err = c.h.get(ctx, t.SID); err != nil {
			return presentedToken{}, deadOr(err)
		}
		if st.ruling, err = c.h.rules(ctx, st.session.Subject, false); err != nil {
			return presentedToken{}, err
		}
		if err := c.judge(st); err != nil {
			return presentedToken{}, err
		}
		return presentedToken{st.inner, st.session, st.ruling, st.session.Grant(t.Grant).Authenticated}, nil

	case oidc.IDTokenType:
		sid, _ := claims["sid"].(string)
		if sid == "" {
			return presentedToken{token: token}, nil
		}
		s, err := c.h.get(ctx, sid)
		if err != nil {
			return presentedToken{}, deadOr(err)
		}
		r, err := c.h.rules(ctx, s.Subject, false)
		if err != nil {
			return presentedToken{}, err
		}
		authenticated := s.Authenticated
		if t, ok := claims["auth_time"].(float64); ok && int64(t) < s.Authenticated.Unix() {
			authenticated = time.Unix(int64(t), 0).UTC()
		}
		if err := c.usable(&s, r, c.h.now(), policy.Use{Authenticated: authenticated}); err != nil {
			return presentedToken{}, err
		}
		return presentedToken{token, s, r, authenticated}, nil
	}
	t, s, r, sealed, err := c.open(ctx, token)
	if err != nil {
		return presentedToken{}, deadOr(err)
	}
	if !sealed {
		return presentedToken{token: token}, nil
	}
	return presentedToken{t.ID, s, r, s.Grant(t.Grant).Authenticated}, nil
}

// deadOr makes a refusal of what the token is to blame for, and leaves outages.
func deadOr(err error) error {
	if errors.Is(err, errInactive) || errors.Is(err, errBroken) || errors.Is(err, store.ErrNotFound) {
		return errDeadToken
	}
	return err
}

// CreateTokenExchangeRequest implements op.TokenExchangeStorage.
func (x exchanger) CreateTokenExchangeRequest(ctx context.Context, tr op.TokenExchangeRequest) error {
	return x.storage.CreateTokenExchangeRequest(ctx, x.forward(ctx, tr))
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
		wctx, cancel := x.h.detach(ctx)
		defer cancel()
		s, err := x.h.change(wctx, ex.session, func(s *store.Session) error {
			if err := x.usable(s, ex.ruling, x.h.now(), policy.Use{}); err != nil {
				return err
			}
			s.ReservedUntil = time.Time{}
			x.h.schedule(s, ex.ruling)
			return nil
		})
		if err != nil {
			return x.answer(ctx, req, err, oidc.ErrInvalidRequest())
		}
		x.h.started(ctx, &s)
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
