package provider

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
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
func (c *core) open(ctx context.Context, id, subject, presented string) (t seal.AccessToken, s store.Session, r ruling, err error) {
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
func (c *core) touch(ctx context.Context, s store.Session, r ruling, t seal.AccessToken, class policy.Class) error {
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
			h.slide(s, r, s.Grant(t.Grant).Client, now, class)
		}
		if seen {
			s.Grant(t.Grant).Used = true
		}
		h.postpone(s, r)
		return nil
	})
	return err
}

// SetIntrospectionFromToken answers for the session as well as for the token.
// op has authenticated the caller; the storage decides whether it may know.
func (c *core) SetIntrospectionFromToken(ctx context.Context, resp *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return c.noHandler(ctx)
	}
	presented, _ := req.param("token")
	t, s, r, err := c.open(ctx, tokenID, subject, presented)
	if err != nil {
		if !errors.Is(err, errInactive) {
			return c.outage(ctx, req, err)
		}
		return err
	}
	if err := c.Storage.SetIntrospectionFromToken(ctx, resp, t.ID, subject, clientID); err != nil {
		// op writes the half-filled response with active:false; RFC 7662
		// section 2.2 wants nothing else in it.
		*resp = oidc.IntrospectionResponse{}
		return err
	}
	if s.ID == "" {
		return nil
	}
	if err := c.touch(ctx, s, r, t, policy.Introspection); err != nil {
		*resp = oidc.IntrospectionResponse{}
		return c.outage(ctx, req, err)
	}
	if own := oidc.FromTime(t.Expires); resp.Expiration == 0 || own < resp.Expiration {
		resp.Expiration = own
	}
	g := s.Grant(t.Grant)
	if resp.AuthTime == 0 { // RFC 9470 section 6.2
		resp.AuthTime = oidc.FromTime(g.Authenticated)
	}
	// Spliced into the answer, as in a token response: with Claims op would
	// write all members in another order. They go between members that op's own
	// clients and tests have never seen as one text.
	if _, has := resp.Claims["sid"]; has { // then op writes them so in any case
		resp.Claims = maps.Clone(resp.Claims)
		resp.Claims["sid"] = s.ID
	} else {
		req.extra, req.extraAfter = appendMember(nil, "sid", s.ID), "exp"
	}
	acr := acrOf(&s, g)
	if _, has := resp.Claims["acr"]; acr != "" && !has {
		req.extra = appendMember(req.extra, "acr", acr) // RFC 9470 section 6.2
	}
	return c.introspectActor(req, resp, &s)
}

// appendMember appends a member of a JSON object.
func appendMember(b []byte, name, value string) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // a string always encodes
	}
	return appendRaw(b, name, string(text))
}

// appendRaw is appendMember for a value that is JSON already.
func appendRaw(b []byte, name, value string) []byte {
	if b != nil {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return append(b, value...)
}

// SetUserinfoFromToken answers for the session as well as for the token.
func (c *core) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return c.noHandler(ctx)
	}
	t, s, r, err := c.open(ctx, tokenID, subject, req.bearer())
	if err != nil {
		if !errors.Is(err, errInactive) {
			return c.outage(ctx, req, err)
		}
		req.unauthorized = true
		return err
	}
	if err := c.Storage.SetUserinfoFromToken(ctx, info, t.ID, subject, origin); err != nil || s.ID == "" {
		return err
	}
	if err := c.touch(ctx, s, r, t, policy.Userinfo); err != nil {
		return c.outage(ctx, req, err)
	}
	return nil
}

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

// noteDevice notes the device code that is polled: the login is decided when its
// tokens are created. op tells the storage the device code here and nowhere
// else.
func (c *core) noteDevice(ctx context.Context, deviceCode string) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req != nil {
		req.deviceCode, req.repeatKey = grantID("device code", strings.ToLower(deviceCode)), repeatKey(deviceCode)
	}
}

var errNoCode = errors.New("the device code has characters that none has")

// isCode reports whether a text may be a device code (RFC 6749 appendix A: VSCHAR, and no
// space). Databases that compare without case, as many do unless they are told otherwise,
// also take for equal what has spaces, accents or characters without a width in it; and
// the session of a device code is named by it.
func isCode(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// TerminateSessionFromRequest ends the session that the hint names, the "sid" of
// an ID token that op has verified (RP-Initiated Logout 1.0 section 2), or the
// browser's, once its user has said so.
func (c *core) TerminateSessionFromRequest(ctx context.Context, er *op.EndSessionRequest) (string, error) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return "", c.noHandler(ctx)
	}
	if err := c.issued(ctx); err != nil {
		return "", err
	}
	if err := c.checkLogoutHint(ctx, req, er); err != nil {
		return "", err
	}
	w, err := c.whoseLogout(ctx, req, er)
	if err != nil {
		return "", c.outage(ctx, req, err)
	}
	if w.ask != nil {
		req.page = w.ask
		return er.RedirectURI, nil // which the page takes the place of
	}
	redirect := er.RedirectURI
	own, precise := c.Storage.(op.CanTerminateSessionFromRequest)
	if precise {
		var err error
		if redirect, err = own.TerminateSessionFromRequest(ctx, w.request(er)); err != nil {
			return "", err
		}
	}
	last := true
	var ended []endedLogout
	if w.user != "" {
		var err error
		if last, ended, err = c.logout(ctx, w.user, er.ClientID, w.sid, w.hinted); err != nil {
			return "", c.outage(ctx, req, err)
		}
	}
	if !precise && last {
		if err := c.Storage.TerminateSession(ctx, w.user, er.ClientID); err != nil {
			return "", err
		}
	}
	// The browser keeps its cookie, which is good for nothing any more but to say
	// why: without it the provider's own sign-on could continue what has ended.
	c.leave(ctx, req, ended, redirect)
	return redirect, nil
}

// An endedLogout is a session that a logout ended, and when its applications were
// told.
type endedLogout struct {
	session store.Session
	told    <-chan struct{}
}

// logout ends sessions of a subject, and reports whether none with the client is
// left that is live: TerminateSession of a typical storage ends them all. An empty
// ID is none: a hint from before the installation has no other.
func (c *core) logout(ctx context.Context, userID, clientID string, sids ...string) (last bool, ended []endedLogout, err error) {
	h := c.h
	ctx = context.WithoutCancel(ctx) // of which each step has a time of its own: OnEnd may use up its
	subject := subjectOf(ctx, userID)
	for _, sid := range sids {
		if sid == "" {
			continue
		}
		s, told, err := c.logoutOf(ctx, subject, sid)
		if err != nil {
			return false, ended, err
		}
		if told != nil {
			ended = append(ended, endedLogout{s, told})
		}
	}
	for cursor := ""; ; {
		page, next, err := h.List(ctx, store.Filter{Subject: subject, Client: clientID, State: store.Unended}, cursor, 100)
		if errors.Is(err, store.ErrUnreadable) {
			return false, ended, nil // there may be one that is live
		}
		if err != nil {
			return false, ended, err
		}
		if len(page) > 0 {
			return false, ended, nil
		}
		if next == "" {
			return true, ended, nil
		}
		cursor = next
	}
}

// logoutOf ends one session, if it is the subject's and has not ended; told is nil
// if not.
func (c *core) logoutOf(ctx context.Context, subject store.Subject, sid string) (s store.Session, told <-chan struct{}, err error) {
	h := c.h
	ctx, cancel := h.detach(ctx)
	defer cancel()
	s, err = h.getOrLost(ctx, sid)
	if errors.Is(err, store.ErrNotFound) || err == nil && (s.Subject != subject || s.End != nil) {
		return s, nil, nil
	}
	if err != nil {
		return s, nil, err
	}
	return h.endTelling(ctx, s, h.rulesToEnd(ctx, &s), policy.ReasonLogout, subject.ID)
}

// TerminateSession is called by op only where TerminateSessionFromRequest is
// missing, which it is not. An embedder who calls it means the user's sessions
// with the client, as the storage does.
func (c *core) TerminateSession(ctx context.Context, userID, clientID string) error {
	return c.Storage.TerminateSession(ctx, userID, clientID)
}

// JWTProfileTokenType stands in for op's default.
func (c *core) JWTProfileTokenType(ctx context.Context, tr op.TokenRequest) (op.AccessTokenType, error) {
	if own, ok := c.Storage.(op.JWTProfileTokenStorage); ok {
		return own.JWTProfileTokenType(ctx, tr)
	}
	return op.AccessTokenTypeBearer, nil
}

// CreateAuthRequest passes the storage a request that asks for credentials
// where the session that the provider would continue is over.
func (c *core) CreateAuthRequest(ctx context.Context, ar *oidc.AuthRequest, userID string) (op.AuthRequest, error) {
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
	tightened, err := c.tighten(ctx, ar, userID)
	if err != nil {
		return nil, err
	}
	made, err := c.Storage.CreateAuthRequest(ctx, c.afterTheEnd(ctx, tightened), userID)
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
func (c *core) tighten(ctx context.Context, ar *oidc.AuthRequest, userID string) (*oidc.AuthRequest, error) {
	if userID == "" {
		return ar, nil
	}
	h := c.h
	subject := subjectOf(ctx, userID)
	r, err := h.rules(ctx, subject, true)
	if err != nil {
		return nil, oidc.ErrServerError().WithDescription("%s", unavailableText).WithParent(err)
	}
	kind := policy.Browser
	if client, err := c.Storage.GetClientByClientID(ctx, ar.ClientID); err == nil {
		kind = h.cfg.Kind(ctx, Login{Subject: subject, Client: client})
	}
	active, limits := r.rules.Limits(kind, ar.ClientID).Active.Value()
	if !limits {
		return ar, nil
	}
	age := uint((active - h.remainder(active)) / time.Second)
	if ar.MaxAge != nil && *ar.MaxAge <= age {
		return ar, nil
	}
	tight := *ar
	tight.MaxAge = &age
	return &tight, nil
}
