package provider

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// op exchanges a refresh token in two storage calls. TokenRequestByRefreshToken
// comes before it has compared the clients, and op turns every error of it into
// a bare invalid_grant. So that call only reads: for a refusal or an outage it
// returns a request of ours, which the storage never sees, and the second
// call, CreateAccessAndRefreshTokens, answers it with the right error.

// A refreshState is what the first call found, for the second.
type refreshState struct {
	presented string            // as the client sent it
	token     seal.RefreshToken // what was in it
	session   store.Session
	ruling    ruling
	standing  standing
	from      seal.Nonce     // for a repeat: the nonce of the token that the newest one was made from
	inner     string         // the storage's token to exchange
	answer    seal.Answer    // for a repeat
	adopt     *session.Login // the token is from before the installation, and its session not in the store yet
}

// A refusedRequest stands in for the storage's refresh request when there is a
// refusal or an outage to answer. Its client is the presented token's, so that
// op still tells another client nothing but invalid_grant.
type refusedRequest struct {
	state *refreshState
	err   error // a *refusedError, or an outage
}

func (r *refusedRequest) GetAMR() []string          { return nil }
func (r *refusedRequest) GetAudience() []string     { return []string{r.state.token.Client} }
func (r *refusedRequest) GetAuthTime() time.Time    { return r.state.token.Authenticated }
func (r *refusedRequest) GetClientID() string       { return r.state.token.Client }
func (r *refusedRequest) GetScopes() []string       { return r.state.token.Scopes }
func (r *refusedRequest) GetSubject() string        { return r.state.token.Subject.ID }
func (r *refusedRequest) SetCurrentScopes([]string) {}

var (
	errUnknownSession = &refusedError{
		reason: policy.ReasonUnknownSession, text: policy.ReasonUnknownSession.Info().Description(), over: true,
	}
	errGrantRevoked = &refusedError{reason: policy.ReasonRevoked, text: policy.ReasonRevoked.Info().Description(), over: true}
	errReplay       = &refusedError{reason: policy.ReasonReplay, text: policy.ReasonReplay.Info().Description(), over: true}
)

// errOvertaken is returned for a token that was good when the request first
// looked, and was spent by others meanwhile. That is no evidence of theft: the
// client is asked to come again, and its token judged anew.
var errOvertaken = errors.New("the refresh token was exchanged by other requests meanwhile")

// TokenRequestByRefreshToken reads; see above. It is called for token exchange
// as well.
//
// From here to the end of the HTTP request the grant is locked in this process:
// of requests that race for a token the storage sees one. A storage that takes
// a token presented twice for stolen is spared it, as far as one process goes.
func (c *rotating) TokenRequestByRefreshToken(ctx context.Context, presented string) (op.RefreshTokenRequest, error) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil { // the second call says why
		st := &refreshState{presented: presented}
		st.token, _ = c.h.ring.OpenRefresh(presented, c.h.now())
		return &refusedRequest{state: st}, nil
	}
	return c.lookUp(ctx, req, presented)
}

// lookUp looks a refresh token up: see [rotating.TokenRequestByRefreshToken].
func (c *rotating) lookUp(ctx context.Context, req *request, presented string) (op.RefreshTokenRequest, error) {
	st := &refreshState{presented: presented}
	var err error
	st.token, err = c.h.ring.OpenRefresh(presented, c.h.now())
	req.refresh, req.refused = nil, nil
	if err := c.issued(ctx); err != nil {
		return c.refused(req, st, err), nil
	}
	switch {
	case errors.Is(err, seal.ErrForeign):
		return c.adoptable(ctx, req, presented)
	case errors.Is(err, seal.ErrAhead):
		return nil, c.outage(ctx, req, err)
	case err != nil:
		return nil, err
	case st.token.Subject != subjectOf(ctx, st.token.Subject.ID):
		return nil, fmt.Errorf("%w: of another issuer", seal.ErrBroken)
	}
	if err := c.lock(ctx, req, st.token.SID+" "+st.token.Grant); err != nil {
		return c.refused(req, st, err), nil
	}
	if st.session, err = c.h.getWithParent(ctx, st.token.SID); err != nil {
		return c.refused(req, st, err), nil
	}
	return c.request(ctx, req, st)
}

// lock locks a grant until the HTTP request ends. A request that has one lock
// already, for the other token of an exchange, takes no second: two of them
// could wait for each other.
func (c *rotating) lock(ctx context.Context, req *request, key string) error {
	if req.unlock != nil {
		return nil
	}
	ctx, cancel := c.h.bounded(ctx)
	defer cancel()
	unlock, err := c.h.locks.Lock(ctx, key)
	if err != nil {
		return fmt.Errorf("another refresh of the grant is under way: %w", err)
	}
	req.unlock = unlock
	return nil
}

func (c *rotating) refused(req *request, st *refreshState, err error) *refusedRequest {
	if errors.Is(err, store.ErrNotFound) {
		err = errUnknownSession
	}
	req.refused = &refusedRequest{state: st, err: err}
	return req.refused
}

// request finds how the token stands and asks the storage for its request.
func (c *rotating) request(ctx context.Context, req *request, st *refreshState) (op.RefreshTokenRequest, error) {
	h := c.h
	var err error
	if st.session, st.ruling, err = h.inUse(ctx, st.session); err != nil {
		return c.refused(req, st, err), nil
	}
	if st.ruling, err = h.withParents(ctx, st.session, st.ruling); err != nil {
		return c.refused(req, st, err), nil
	}
	if err := c.judge(st); err != nil {
		return c.refused(req, st, err), nil
	}
	for {
		ir, err := c.Storage.TokenRequestByRefreshToken(ctx, st.inner)
		if err == nil {
			req.refresh = st
			return ir, nil
		}
		// The storage refuses a token that is good by our book: it was
		// revoked there, or another process is just exchanging it and has
		// not told us yet. The storage is not asked again before it has.
		moved, getErr := c.awaitMove(ctx, st)
		if getErr != nil {
			return c.refused(req, st, getErr), nil
		}
		if !moved {
			return nil, err
		}
		if err := c.judgeAgain(st); err != nil {
			return c.refused(req, st, err), nil
		}
	}
}

// awaitMove waits for another process to write what it did with the grant, and
// reports whether it has. A process that has exchanged a token at the storage
// writes within the store's time-out, or not at all.
func (c *rotating) awaitMove(ctx context.Context, st *refreshState) (moved bool, err error) {
	h := c.h
	if h.cfg.NoGrace || st.adopt != nil {
		return false, nil
	}
	was := st.session.Grant(st.token.Grant)
	deadline := time.Now().Add(h.cfg.StoreTimeout + time.Second)
	for delay := 5 * time.Millisecond; time.Now().Before(deadline); delay = min(2*delay, 500*time.Millisecond) {
		if !pause(ctx, delay) {
			return false, ctx.Err()
		}
		s, err := h.getOrLost(ctx, st.session.ID)
		if err != nil {
			return false, err
		}
		if g := s.Grant(st.token.Grant); s.End != nil || g == nil || !sameGrant(g, was) {
			st.session = s
			return true, nil
		}
	}
	return false, nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// judgeAgain judges a token that was good when the request first looked.
func (c *rotating) judgeAgain(st *refreshState) error {
	err := c.judge(st)
	if errors.Is(err, errReplay) {
		return errOvertaken
	}
	return err
}

// judge finds how the token stands to the session in st, and what to ask the
// storage for.
func (c *rotating) judge(st *refreshState) error {
	h := c.h
	now := h.now()
	g := st.session.Grant(st.token.Grant)
	if g == nil || !g.Revoked.IsZero() {
		if st.session.End != nil { // the better reason
			return usable(&st.session, st.ruling, now, policy.Use{})
		}
		return errGrantRevoked
	}
	if err := usable(&st.session, st.ruling, now, policy.Use{Client: g.Client, Authenticated: g.Authenticated}); err != nil {
		return err
	}
	var place tokenPlace
	place, st.from = placeIn(g, &st.token)
	st.standing = place.standing(h.patience, now)
	st.inner = st.token.Token
	switch st.standing {
	case replayed:
		return errReplay
	case repeated, lost:
		var err error
		if st.answer, err = seal.OpenAnswer(st.from, g.Repeat); err != nil {
			return fmt.Errorf("the answer to repeat: %w", err)
		}
		st.inner = st.answer.Token
	}
	return nil
}

// refresh answers an exchange of a refresh token: op has authenticated the
// client and compared it by now.
func (c *rotating) refresh(ctx context.Context, req *request, tr op.TokenRequest, presented string) (string, string, time.Time, error) {
	if refused, ok := tr.(*refusedRequest); ok {
		return "", "", time.Time{}, c.answerRefused(ctx, req, refused)
	}
	if req.client == nil {
		c.h.misconfigured(ctx, errRawClient)
	}
	st := req.refresh
	if st == nil || st.presented != presented {
		return "", "", time.Time{}, oidc.ErrServerError().WithDescription("the refresh token was not looked up")
	}
	a, err := c.rotate(ctx, req, tr, st)
	if err == nil {
		c.h.signers.learn(st.session.Subject.Issuer, c.backing)
		req.private = true
		return a.Access, a.Refresh, a.Expires, nil
	}
	var own storageError
	if errors.As(err, &own) {
		return "", "", time.Time{}, own.error
	}
	return "", "", time.Time{}, c.answerRefused(ctx, req, &refusedRequest{state: st, err: err})
}

// answerRefused answers a refusal, and does what it calls for: it comes from the
// right client.
func (c *rotating) answerRefused(ctx context.Context, req *request, refused *refusedRequest) error {
	if err := c.consequences(ctx, req, refused); err != nil {
		return c.outage(ctx, req, err)
	}
	return c.answer(ctx, req, refused.err, oidc.ErrInvalidGrant())
}

// consequences does what a refused refresh token calls for, at whichever door the
// right client presents it. The error is one of the store.
func (c *rotating) consequences(ctx context.Context, req *request, refused *refusedRequest) error {
	h, st := c.h, refused.state
	if st.session.ID != "" && st.session.End == nil && st.adopt == nil {
		wctx, cancel := h.detach(ctx)
		defer cancel()
		if errors.Is(refused.err, errReplay) {
			h.sessionEvent(ctx, EventReplay, &st.session, st.token.Client)
			// The family and its session end: who copied the token cannot be
			// told from who owns it (RFC 9700 section 4.14.2).
			if _, _, err := h.end(wctx, st.session, st.ruling, policy.ReasonReplay, ""); err != nil {
				return err
			}
		} else if d := st.ruling.rules.Check(h.now(), st.session.Policy(), policy.Use{}); !d.Allow {
			// Over, and nobody noticed before. That it cannot be written now
			// does no harm: it stays over.
			_, _, _ = h.end(wctx, st.session, st.ruling, d.Reason, "")
		}
	}
	var why *refusedError
	if errors.As(refused.err, &why) {
		h.event(ctx, Event{
			Type: EventRefreshRefused, Subject: st.token.Subject, SID: st.token.SID, Client: st.token.Client,
			Kind: st.session.Kind, Reason: why.reason,
		})
	}
	return nil
}

// rotate exchanges the token. The storage goes first, our write follows; of
// processes that race for one token one wins, and the others give its answer.
func (c *rotating) rotate(ctx context.Context, req *request, tr op.TokenRequest, st *refreshState) (seal.Answer, error) {
	h := c.h
	if st.adopt != nil {
		if err := c.adopt(ctx, st); err != nil {
			return seal.Answer{}, err
		}
		if st.inner != st.presented {
			return seal.Answer{}, errOvertaken // tr is the storage's request for another token
		}
	}
	if st.standing == repeated {
		if !st.answer.Stale(h.now()) {
			return c.repeat(ctx, req, tr, st)
		}
		if err := c.presentNewest(st); err != nil {
			return seal.Answer{}, err
		}
	}

	now := h.now()
	g := st.session.Grant(st.token.Grant)
	use := policy.Use{Client: g.Client, Authenticated: g.Authenticated}
	after := st.session
	session.Slide(&after, st.ruling.rules, g.Client, now, policy.Refresh)
	req.belong(h, after, st.ruling, use)
	req.acr = acrOf(&st.session, g)
	skew := c.skew(req)
	if err := c.roomForToken(req, skew); err != nil {
		return seal.Answer{}, err
	}
	if st.ruling.observes {
		if d := st.ruling.observed.Check(now, st.session.Policy(), use); !d.Allow {
			h.wouldRefuse(ctx, st.session, d)
		}
	}

	id, token, expires, err := c.Storage.CreateAccessAndRefreshTokens(ctx, tr, st.inner)
	if err != nil {
		return c.lostRace(ctx, req, tr, st, storageError{err})
	}
	if err := c.roomForToken(req, skew); err != nil { // the storage took its time
		return seal.Answer{}, err
	}
	expires = c.bound(req, h.now(), expires, skew)

	keep := h.cfg.KeepRefreshToken != nil && req.client != nil && token == st.inner && st.standing == current &&
		h.cfg.KeepRefreshToken(ctx, req.client)
	next, salt := st.token, seal.NewNonce()
	next.Token = token
	if !keep {
		next.Generation = max(g.Generation, st.token.Generation) + 1
		next.Nonce = st.token.Nonce.Next(salt)
	}
	a := seal.Answer{
		Refresh: h.ring.SealRefresh(next), Token: token, Expires: expires, Scopes: tr.GetScopes(),
		Access: h.ring.SealAccess(seal.AccessToken{ID: id, SID: st.session.ID, Grant: g.ID, Generation: next.Generation, Expires: expires}),
	}
	rotated := *g
	if !keep {
		rotated.Generation, rotated.NonceHash = next.Generation, next.Nonce.Hash()
		rotated.FromHash, rotated.Rotated, rotated.Used = st.token.Nonce.Hash(), now, false
		rotated.Repeat = a.Seal(st.token.Nonce)
		rotated.Address = addressHash(st.token.Nonce, req.address)
		if st.standing != current {
			rotated.Chain = nil // it led to a token that is void now
		}
		rotated.Chain = h.patience.lengthened(rotated.Chain, now, salt)
	}
	if st.standing == ahead {
		h.sessionEvent(ctx, EventRollback, &st.session, g.Client)
	}
	return c.commit(ctx, req, tr, st, a, rotated, use, now)
}

// errMoved is returned by a change whose grant another request moved.
var errMoved = errors.New("the grant was rotated by another request")

// commit writes a rotation that the storage has made already.
func (c *rotating) commit(ctx context.Context, req *request, tr op.TokenRequest, st *refreshState, a seal.Answer, rotated store.Grant, use policy.Use, now time.Time) (seal.Answer, error) {
	h := c.h
	wctx, cancel := h.detach(ctx)
	defer cancel()
	base := *st.session.Grant(rotated.ID)
	change := func(s *store.Session) error {
		g := s.Grant(rotated.ID)
		switch {
		case s.End != nil:
			return usable(s, st.ruling, now, use)
		case g == nil || !g.Revoked.IsZero():
			return errGrantRevoked
		case g.Generation == rotated.Generation && subtle.ConstantTimeCompare(g.NonceHash, rotated.NonceHash) == 1 && !sameGrant(g, &base):
			return errNoChange // an earlier try of ours did take effect
		case !sameGrant(g, &base):
			return errMoved
		case st.standing == lost && g.Used:
			return errReplay // its successor turned up meanwhile
		}
		rotated.Unknown = g.Unknown
		*g = rotated
		s.Codes = session.WithoutAnswers(s.Codes, func(x store.Code) bool { return !h.patience.repeats(x.Used, now) })
		session.Slide(s, st.ruling.rules, g.Client, now, policy.Refresh)
		h.postpone(s, st.ruling)
		return nil
	}
	var err error
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, 200*time.Millisecond) {
		var s store.Session
		if s, err = h.change(wctx, st.session, change); err == nil {
			st.session = s
			req.belong(h, s, st.ruling, use)
			h.announceExpiry(req, now)
			return a, nil
		}
		var refused *refusedError
		if errors.As(err, &refused) {
			return seal.Answer{}, err
		}
		if errors.Is(err, errMoved) {
			return c.lostRace(ctx, req, tr, st, errMoved)
		}
		if errors.Is(err, store.ErrNotFound) {
			return seal.Answer{}, errUnknownSession
		}
		// The store did not answer. The storage has moved on already, so
		// it is worth trying again; whether the write took effect shows.
		if !pause(wctx, delay) {
			break
		}
		if s, getErr := h.load(wctx, st.session.ID); getErr == nil {
			st.session = s
		}
	}
	if a.Token == st.inner && !h.cfg.NoGrace && !h.cfg.NoLostResponse {
		// The storage did not rotate: the client's token is still good, whether
		// or not the write took effect, and better than one that the store may
		// not know. Under the strict settings it would count as a replay if
		// the write did.
		return seal.Answer{}, err
	}
	// The storage rotated: the client's token is gone. It gets the new one; at
	// its next use a generation above the stored one is taken.
	h.event(ctx, Event{Type: EventWriteLost, Subject: st.session.Subject, SID: st.session.ID, Client: st.token.Client, Err: err})
	h.announceExpiry(req, now)
	return a, nil
}

// sameGrant reports whether no rotation and no revocation lies between a and b.
func sameGrant(a, b *store.Grant) bool {
	return a.Generation == b.Generation && subtle.ConstantTimeCompare(a.NonceHash, b.NonceHash) == 1 &&
		subtle.ConstantTimeCompare(a.FromHash, b.FromHash) == 1
}

// lostRace waits for the answer of the process that won the race for the token,
// and gives the same.
func (c *rotating) lostRace(ctx context.Context, req *request, tr op.TokenRequest, st *refreshState, cause error) (seal.Answer, error) {
	if errors.Is(cause, errMoved) {
		s, err := c.h.getOrLost(ctx, st.session.ID)
		if err != nil {
			return seal.Answer{}, err
		}
		st.session = s
	} else {
		moved, err := c.awaitMove(ctx, st)
		if err != nil {
			return seal.Answer{}, err
		}
		if !moved {
			return seal.Answer{}, cause
		}
	}
	if err := c.judgeAgain(st); err != nil {
		return seal.Answer{}, err
	}
	if st.standing != repeated {
		return seal.Answer{}, errOvertaken
	}
	return c.repeat(ctx, req, tr, st)
}

// presentNewest puts the newest refresh token in the place of one that would get it again,
// beside an access token that is over: the client would refresh at once, and had
// waited for nothing. tr is the storage's request for the newest already.
func (c *rotating) presentNewest(st *refreshState) error {
	newest, err := c.h.ring.OpenRefresh(st.answer.Refresh, c.h.now())
	if err != nil {
		return fmt.Errorf("the answer to repeat: %w", err)
	}
	st.token, st.standing = newest, current
	return nil
}

// repeat gives the answer again that the token got before, or the newest one since.
func (c *rotating) repeat(ctx context.Context, req *request, tr op.TokenRequest, st *refreshState) (seal.Answer, error) {
	h := c.h
	now := h.now()
	if !sameScopes(tr.GetScopes(), st.answer.Scopes) {
		// The access token of the answer is for its scopes. The client keeps
		// its token: nothing was exchanged.
		return seal.Answer{}, oidc.ErrInvalidScope().WithDescription("a repeated refresh must ask for the same scopes; use the newest refresh token")
	}
	g := st.session.Grant(st.token.Grant)
	c.tellMoved(ctx, req, st)
	a, err := c.answerAgain(ctx, req, st.session, st.ruling, g, st.answer)
	if err == nil {
		h.announceExpiry(req, now)
	}
	return a, err
}

// noteMoved tells of a repeat from another address than the one that got the answer.
func (h *documents) noteMoved(ctx context.Context, s *store.Session, client string, was, is []byte) {
	if len(was) > 0 && subtle.ConstantTimeCompare(was, is) != 1 {
		h.sessionEvent(ctx, EventRepeatMoved, s, client)
	}
}

// answerAgain gives an answer once more, as the limits of now allow.
func (c *rotating) answerAgain(ctx context.Context, req *request, s store.Session, r ruling, g *store.Grant, a seal.Answer) (seal.Answer, error) {
	h := c.h
	now := h.now()
	req.belong(h, s, r, policy.Use{Client: g.Client, Authenticated: g.Authenticated})
	req.acr = acrOf(&s, g)
	skew := c.skew(req)
	if err := c.roomForToken(req, skew); err != nil {
		return seal.Answer{}, err
	}
	h.sessionEvent(ctx, EventRepeat, &s, g.Client)
	if !a.Expires.After(now) {
		// op computes an unsigned number of seconds from it. The access token
		// is over all the same: its end is sealed in.
		a.Expires = now.Add(time.Second)
	}
	// op writes it into a JWT once more, and the limits may be shorter by now.
	a.Expires = c.bound(req, now, a.Expires, skew)
	return a, nil
}

// tellMoved tells of a repeat that comes from another address than the first.
func (c *rotating) tellMoved(ctx context.Context, req *request, st *refreshState) {
	g := st.session.Grant(st.token.Grant)
	c.h.noteMoved(ctx, &st.session, g.Client, g.Address, addressHash(st.from, req.address))
}

func sameScopes(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// announceExpiry tells the client its clocks: draft-ietf-oauth-refresh-token-
// expiration-03 section 6.1, in seconds from the response, rounded down.
func (h *Hook) announceExpiry(req *request, now time.Time) {
	if h.cfg.NoExpirationMembers {
		return
	}
	w := req.live.window
	extra := make([]byte, 0, 80)
	if !w.Idle.IsZero() {
		timeout := w.Idle
		if !w.End.IsZero() && w.End.Before(timeout) {
			timeout = w.End
		}
		extra = append(extra, `"refresh_token_timeout":`...)
		extra = strconv.AppendInt(extra, seconds(timeout.Sub(now)), 10)
	}
	if !w.End.IsZero() {
		if len(extra) > 0 {
			extra = append(extra, ',')
		}
		extra = append(extra, `"authorization_expires_in":`...)
		extra = strconv.AppendInt(extra, seconds(w.End.Sub(now)), 10)
	}
	if len(extra) > 0 {
		req.extra = extra
	}
}

func seconds(d time.Duration) int64 { return max(0, int64(d/time.Second)) }
