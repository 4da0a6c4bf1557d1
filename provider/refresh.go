package provider

import (
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// op exchanges a refresh token in two storage calls. TokenRequestByRefreshToken
// comes before it has compared the clients, and op turns every error of it into
// a bare invalid_grant. So that call only reads: for a refusal or an outage it
// returns a request of ours, which the storage never sees, and the second
// call, CreateAccessAndRefreshTokens, answers it with the right error.

// A standing is how a presented refresh token stands to its grant.
type standing uint8

const (
	current  standing = iota // the newest one
	repeated                 // the one before, within the grace: the same answer again
	lost                     // the one before, after the grace, its successor never seen: the response was lost
	ahead                    // newer than the store knows: the store lost a rotation
	replayed                 // spent
)

// stands tells how a token stands.
func (h *Hook) stands(g *store.Grant, t *refreshToken, now time.Time) standing {
	sum := nonceSum(t.Nonce)
	hash := sum[:]
	switch {
	case t.Generation == g.Generation && subtle.ConstantTimeCompare(hash, g.NonceHash) == 1:
		return current
	case t.Generation > g.Generation:
		return ahead
	case subtle.ConstantTimeCompare(hash, g.FromHash) != 1:
		return replayed
	case !h.cfg.NoGrace && now.Before(g.Rotated.Add(h.cfg.Grace)):
		return repeated
	case !h.cfg.NoLostResponse && !g.Used:
		return lost
	}
	return replayed
}

// A refreshState is what the first call found, for the second.
type refreshState struct {
	presented string       // as the client sent it
	token     refreshToken // what was in it
	session   store.Session
	ruling    ruling
	standing  standing
	inner     string // the storage's token to exchange
	answer    answer // for a repeat
	adopt     bool   // the token is from before the installation; session is not in the store yet
}

// A refusedRequest stands in for the storage's refresh request when there is a
// refusal or an outage to answer. Its client is the presented token's, so that
// op still tells another client nothing but invalid_grant.
type refusedRequest struct {
	token  refreshToken
	client string
	err    error // a *refusedError, or an outage
	replay bool  // the session ends
	state  *refreshState
}

func (r *refusedRequest) GetAMR() []string          { return nil }
func (r *refusedRequest) GetAudience() []string     { return []string{r.client} }
func (r *refusedRequest) GetAuthTime() time.Time    { return r.token.Authenticated }
func (r *refusedRequest) GetClientID() string       { return r.client }
func (r *refusedRequest) GetScopes() []string       { return r.token.Scopes }
func (r *refusedRequest) GetSubject() string        { return r.token.Subject.ID }
func (r *refusedRequest) SetCurrentScopes([]string) {}

var (
	errUnknownSession = &refusedError{
		reason: policy.ReasonUnknownSession, text: refusalText(policy.Decision{Reason: policy.ReasonUnknownSession}), over: true,
	}
	errGrantRevoked = &refusedError{reason: policy.ReasonRevoked, text: endText(policy.ReasonRevoked), over: true}
	errReplay       = &refusedError{reason: policy.ReasonReplay, text: endText(policy.ReasonReplay), over: true}
)

// TokenRequestByRefreshToken reads; see above. It is called for token exchange
// as well.
func (c *core) TokenRequestByRefreshToken(ctx context.Context, presented string) (op.RefreshTokenRequest, error) {
	req := requestFrom(ctx)
	if req == nil {
		return nil, noHandler()
	}
	token, err := c.h.ring.openRefresh(presented, c.h.now())
	switch {
	case errors.Is(err, errForeign):
		return c.adoptable(ctx, req, presented)
	case errors.Is(err, errKeyAhead):
		refused := &refusedRequest{err: err}
		if req.client != nil {
			refused.client = req.client.GetID()
		}
		return refused, nil
	case err != nil:
		return nil, err
	}
	st := &refreshState{presented: presented, token: token}
	st.session, err = c.h.get(ctx, token.SID)
	if err != nil {
		return c.refused(st, err), nil
	}
	return c.request(ctx, req, st)
}

func (c *core) refused(st *refreshState, err error) *refusedRequest {
	if errors.Is(err, store.ErrNotFound) {
		err = errUnknownSession
	}
	return &refusedRequest{token: st.token, client: st.token.Client, err: err, state: st}
}

// request finds how the token stands and asks the storage for its request.
func (c *core) request(ctx context.Context, req *request, st *refreshState) (op.RefreshTokenRequest, error) {
	h := c.h
	var err error
	if st.ruling, err = h.rules(ctx, st.session.Subject, false); err != nil {
		return c.refused(st, err), nil
	}
	waited := 2 * time.Millisecond
	deadline := time.Now().Add(loserPatience)
	for {
		if err := c.judge(st); err != nil {
			refused := c.refused(st, err)
			refused.replay = errors.Is(err, errReplay)
			return refused, nil
		}
		ir, err := c.Storage.TokenRequestByRefreshToken(ctx, st.inner)
		if err == nil {
			req.refresh = st
			return ir, nil
		}
		// The storage refuses a token that is good by our book: it was
		// revoked there, or another request is just exchanging it and has
		// not told us yet.
		if h.cfg.NoGrace || time.Now().After(deadline) {
			return nil, err
		}
		if !pause(ctx, waited) {
			return nil, err
		}
		waited = min(2*waited, 100*time.Millisecond)
		s, getErr := h.get(ctx, st.session.ID)
		if getErr != nil {
			return c.refused(st, getErr), nil
		}
		st.session = s
	}
}

// loserPatience is for how long a request that lost the race for one refresh
// token waits for the winner's answer.
const loserPatience = 2 * time.Second

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

// judge finds how the token stands to the session in st, and what to ask the
// storage for. The error is a *refusedError.
func (c *core) judge(st *refreshState) error {
	h := c.h
	now := h.now()
	g := st.session.Grant(st.token.Grant)
	if g == nil || !g.Revoked.IsZero() {
		if st.session.End != nil { // the better reason
			return c.usable(&st.session, st.ruling, now, policy.Use{})
		}
		return errGrantRevoked
	}
	if err := c.usable(&st.session, st.ruling, now, policy.Use{Client: g.Client, Authenticated: g.Authenticated}); err != nil {
		return err
	}
	st.standing = h.stands(g, &st.token, now)
	st.inner = st.token.Token
	switch st.standing {
	case replayed:
		return errReplay
	case repeated, lost:
		var err error
		if st.answer, err = openRepeat(st.token.Nonce, g.Repeat); err != nil {
			return errReplay
		}
		st.inner = st.answer.Token
	}
	return nil
}

// refresh answers an exchange of a refresh token: op has authenticated the
// client and compared it by now.
func (c *core) refresh(ctx context.Context, req *request, tr op.TokenRequest, presented string) (string, string, time.Time, error) {
	if refused, ok := tr.(*refusedRequest); ok {
		return "", "", time.Time{}, c.answerRefused(ctx, req, refused)
	}
	st := req.refresh
	if st == nil || st.presented != presented {
		return "", "", time.Time{}, oidc.ErrServerError().WithDescription("the refresh token was not looked up")
	}
	a, err := c.rotate(ctx, req, tr, st)
	if err == nil {
		req.private = true
		return a.Access, a.Refresh, a.Expires, nil
	}
	var own storageError
	switch {
	case errors.As(err, &own):
		return "", "", time.Time{}, own.error
	case errors.Is(err, errReplay):
		return "", "", time.Time{}, c.answerRefused(ctx, req, &refusedRequest{err: err, replay: true, state: st, token: st.token})
	}
	return "", "", time.Time{}, c.answer(ctx, req, err, oidc.ErrInvalidGrant())
}

// answerRefused answers a request that was refused in the first call, and does
// what the refusal calls for: it comes from the right client.
func (c *core) answerRefused(ctx context.Context, req *request, refused *refusedRequest) error {
	h := c.h
	req.private = true
	if st := refused.state; st != nil && st.session.End == nil && !st.adopt {
		ctx, cancel := h.detach(ctx)
		defer cancel()
		if refused.replay {
			h.sessionEvent(ctx, EventReplay, &st.session, refused.token.Client)
			// The family and its session end: who copied the token cannot be
			// told from who owns it (RFC 9700 section 4.14.2).
			if _, _, err := h.end(ctx, st.session, st.ruling, policy.ReasonReplay, ""); err != nil {
				return c.outage(ctx, req, err)
			}
		} else if d := st.ruling.rules.Check(h.now(), st.session.Policy(), policy.Use{}); !d.Allow && d.Reason != "" {
			// Over, and nobody noticed before. That it cannot be written now
			// does no harm: it stays over.
			if st.session.ID != "" {
				_, _, _ = h.end(ctx, st.session, st.ruling, d.Reason, "")
			}
		}
	}
	return c.answer(ctx, req, refused.err, oidc.ErrInvalidGrant())
}

// rotate exchanges the token. The storage goes first, our write follows; of
// requests that race for one token one wins, and the others give its answer.
func (c *core) rotate(ctx context.Context, req *request, tr op.TokenRequest, st *refreshState) (answer, error) {
	h := c.h
	unlock, waited := h.locks.lock(st.token.SID + " " + st.token.Grant)
	defer unlock()
	if waited && !st.adopt {
		// Somebody else held the lock: what was read may be old.
		s, err := h.get(ctx, st.session.ID)
		if err != nil {
			return answer{}, err
		}
		st.session = s
		before := st.inner
		if err := c.judge(st); err != nil {
			return answer{}, err
		}
		if st.standing != repeated && st.inner != before {
			// tr is the storage's request for another token.
			return answer{}, errors.New("the refresh token changed while it was exchanged")
		}
	}
	if st.standing == repeated {
		return c.repeat(ctx, req, tr, st)
	}

	now := h.now()
	g := st.session.Grant(st.token.Grant)
	use := policy.Use{Client: g.Client, Authenticated: g.Authenticated}
	after := st.session
	h.slide(&after, st.ruling, g.Client, now, policy.Refresh)
	req.belong(h, after, st.ruling, use)
	skew := c.skew(req)
	if err := c.roomForToken(req, skew); err != nil {
		return answer{}, err
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
	expires = c.bound(req, now, expires, skew)

	keep := h.cfg.KeepRefreshToken != nil && req.client != nil && token == st.inner && st.standing == current &&
		h.cfg.KeepRefreshToken(ctx, req.client)
	next := st.token
	next.Token, next.Scopes = token, st.token.Scopes
	if !keep {
		next.Generation = max(g.Generation, st.token.Generation) + 1
		next.Nonce = newNonce()
	}
	a := answer{
		Refresh: h.ring.sealRefresh(next), Token: token, Expires: expires, Scopes: tr.GetScopes(),
		Access: h.ring.sealAccess(accessToken{ID: id, SID: st.session.ID, Grant: g.ID, Generation: next.Generation, Expires: expires}),
	}
	rotated := *g
	if !keep {
		rotated.Generation, rotated.NonceHash = next.Generation, nonceHash(next.Nonce)
		rotated.FromHash, rotated.Rotated, rotated.Used = nonceHash(st.token.Nonce), now, false
		rotated.Repeat = sealRepeat(st.token.Nonce, a)
		rotated.Address = addressHash(st.token.Nonce, req.address)
	}
	if st.standing == ahead {
		h.sessionEvent(ctx, EventRollback, &st.session, g.Client)
	}
	return c.commit(ctx, req, tr, st, a, rotated, use, now)
}

// errMoved is returned by a change whose grant another request moved.
var errMoved = errors.New("the grant was rotated by another request")

// commit writes a rotation that the storage has made already.
func (c *core) commit(ctx context.Context, req *request, tr op.TokenRequest, st *refreshState, a answer, rotated store.Grant, use policy.Use, now time.Time) (answer, error) {
	h := c.h
	wctx, cancel := h.detach(ctx)
	defer cancel()
	if st.adopt {
		s := st.session
		s.Grants = []store.Grant{rotated}
		return c.commitAdopted(wctx, req, tr, st, a, s, use, now)
	}
	base := *st.session.Grant(rotated.ID)
	change := func(s *store.Session) error {
		g := s.Grant(rotated.ID)
		switch {
		case s.End != nil:
			return c.usable(s, st.ruling, now, use)
		case g == nil || !g.Revoked.IsZero():
			return errGrantRevoked
		case g.Generation == rotated.Generation && subtle.ConstantTimeCompare(g.NonceHash, rotated.NonceHash) == 1 && !sameGrant(g, &base):
			return errNoChange // an earlier try of ours did take effect
		case !sameGrant(g, &base):
			return errMoved
		}
		rotated.Unknown = g.Unknown
		*g = rotated
		h.slide(s, st.ruling, g.Client, now, policy.Refresh)
		h.schedule(s, st.ruling)
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
			return answer{}, err
		}
		if errors.Is(err, errMoved) {
			return c.lostRace(ctx, req, tr, st, errMoved)
		}
		// The store did not answer. The storage has moved on already, so
		// it is worth trying again; whether the write took effect shows.
		if !pause(wctx, delay) {
			break
		}
		if s, getErr := h.cfg.Store.Get(wctx, st.session.ID); getErr == nil {
			st.session = s
		}
	}
	if a.Token == st.inner {
		// The storage did not rotate: the client's token is still good, and
		// better than one that the store does not know.
		return answer{}, err
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

// lostRace waits for the answer of the request that won the race for the token,
// and gives the same.
func (c *core) lostRace(ctx context.Context, req *request, tr op.TokenRequest, st *refreshState, cause error) (answer, error) {
	h := c.h
	deadline := time.Now().Add(loserPatience)
	for delay := 2 * time.Millisecond; ; delay = min(2*delay, 100*time.Millisecond) {
		s, err := h.get(ctx, st.session.ID)
		switch {
		case st.adopt && errors.Is(err, store.ErrNotFound): // the winner has not written yet
		case err != nil:
			return answer{}, err
		default:
			if st.adopt {
				st.session, st.adopt = s, false
			}
			was := st.standing
			st.session = s
			if err := c.judge(st); err != nil {
				return answer{}, err
			}
			if st.standing == repeated {
				return c.repeat(ctx, req, tr, st)
			}
			if st.standing != was && st.standing != current && st.standing != ahead {
				return answer{}, cause
			}
		}
		if h.cfg.NoGrace || time.Now().After(deadline) || !pause(ctx, delay) {
			return answer{}, cause
		}
	}
}

// repeat gives the answer again that the token got before.
func (c *core) repeat(ctx context.Context, req *request, tr op.TokenRequest, st *refreshState) (answer, error) {
	h := c.h
	now := h.now()
	if !sameScopes(tr.GetScopes(), st.answer.Scopes) {
		// The access token of the answer is for its scopes. The client keeps
		// its token: nothing was exchanged.
		return answer{}, oidc.ErrInvalidScope().WithDescription("a repeated refresh must ask for the same scopes; use the newest refresh token")
	}
	g := st.session.Grant(st.token.Grant)
	if len(g.Address) > 0 && subtle.ConstantTimeCompare(g.Address, addressHash(st.token.Nonce, req.address)) != 1 {
		h.sessionEvent(ctx, EventRepeatMoved, &st.session, g.Client)
	}
	req.belong(h, st.session, st.ruling, policy.Use{Client: g.Client, Authenticated: g.Authenticated})
	if err := c.roomForToken(req, c.skew(req)); err != nil {
		return answer{}, err
	}
	h.announceExpiry(req, now)
	a := st.answer
	if !a.Expires.After(now) {
		// op computes an unsigned number of seconds from it. The access token
		// is over all the same: its end is sealed in.
		a.Expires = now.Add(time.Second)
	}
	return a, nil
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
