package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// A code or device code brings tokens once. Within the grace it gets the same answer
// again, as a refresh does; after it nothing. op and most storages know a device code
// for ever, and of two requests with one code that race both may have found it good.

// deviceHash is how a device code appears in a session; name is a hash of it.
func deviceHash(name string) []byte {
	sum := seal.Digest("device code", name)
	return sum[:16]
}

// repeatKey is what the answer to a code is sealed with, instead of a token's nonce.
func repeatKey(code string) (key seal.Nonce) {
	sum := seal.Digest("repeat", code)
	copy(key[:], sum[:])
	return key
}

// errRedeemed is returned by a change that finds the code redeemed.
var errRedeemed = errors.New("the code was redeemed by another request")

// spentCode is the answer to a code that brought its tokens. Whoever presents it has
// no token by that, and it says nothing of those who have: nothing ends.
func spentCode() error {
	return oidc.ErrInvalidGrant().WithDescription("the code has brought its tokens already; use the refresh token, or sign in again")
}

// redeemed reports whether the code of an issuance has brought its tokens in s: of one
// that was forgotten since, or redeemed by the version before, its grant says so.
func redeemed(s *store.Session, i issuance) bool {
	if i.code == nil || i.redeemed {
		return i.redeemed
	}
	if x := session.CodeAt(s.Codes, i.code); x >= 0 && !s.Codes[x].Used.IsZero() {
		return true
	}
	return i.refresh && s.Grant(session.GrantID(i.name...)) != nil
}

// redeem notes that a code has brought its tokens, and its answer for a repeat.
func (h *Hook) redeem(s *store.Session, i issuance, req *request, a seal.Answer, now time.Time) {
	if i.code == nil {
		return
	}
	codes := session.WithoutAnswers(s.Codes, func(x store.Code) bool { return !h.patience.repeats(x.Used, now) })
	at := session.CodeAt(codes, i.code)
	if at < 0 {
		codes = session.WithCode(codes, store.Code{Hash: i.code, Until: now}, now)
		at = len(codes) - 1
	} else {
		codes = slices.Clone(codes)
	}
	x := &codes[at]
	if x.Used = now; i.unheard {
		x.Until = now
	}
	if h.patience.grace > 0 && req.repeatKey != (seal.Nonce{}) {
		x.Repeat, x.Address = a.Seal(req.repeatKey), addressHash(req.repeatKey, req.address)
	}
	s.Codes = codes
}

// redeemedAgain answers a code that has brought its tokens: within the grace with the
// same answer, or with the newest one if its refresh token was exchanged meanwhile.
func (c *issuing) redeemedAgain(ctx context.Context, req *request, s store.Session, r ruling, i issuance) (access, refresh string, expires time.Time, err error) {
	a, err := c.codeAgain(ctx, req, s, r, i)
	if err != nil {
		return "", "", time.Time{}, err
	}
	req.private = true
	return a.Access, a.Refresh, a.Expires, nil
}

func (c *issuing) codeAgain(ctx context.Context, req *request, s store.Session, r ruling, i issuance) (seal.Answer, error) {
	h := c.h
	now := h.now()
	at := session.CodeAt(s.Codes, i.code)
	if at < 0 || !h.patience.repeats(s.Codes[at].Used, now) {
		return seal.Answer{}, spentCode()
	}
	x := s.Codes[at]
	a, err := seal.OpenAnswer(req.repeatKey, x.Repeat)
	if err != nil {
		return seal.Answer{}, spentCode() // another code of the same login
	}
	t, err := h.ring.OpenAccess(a.Access, now)
	if err != nil {
		return seal.Answer{}, fmt.Errorf("the answer to repeat: %w", err)
	}
	g := s.Grant(t.Grant)
	if g == nil || !g.Revoked.IsZero() {
		return seal.Answer{}, errGrantRevoked
	}
	if s, err = h.noteAgain(ctx, s, i.code, t); err != nil {
		return seal.Answer{}, err
	}
	g = s.Grant(t.Grant)
	if a.Refresh == "" {
		h.noteMoved(ctx, &s, g.Client, x.Address, addressHash(req.repeatKey, req.address))
		if a.Stale(now) {
			if a, err = c.anotherAccessToken(ctx, req, s, r, i, g); err != nil {
				return seal.Answer{}, err
			}
		}
		return c.answerAgain(ctx, req, s, r, g, a)
	}

	st, err := c.asPresented(s, r, a, now)
	switch {
	case err != nil:
		return seal.Answer{}, err
	case !sameScopes(i.scopes, st.answer.Scopes):
		return seal.Answer{}, spentCode() // a refresh asked for fewer, and op would tell of more
	}
	h.noteMoved(ctx, &s, g.Client, x.Address, addressHash(req.repeatKey, req.address))
	if st.answer.Stale(now) {
		return c.exchangeNewest(ctx, req, st)
	}
	if a, err = c.answerAgain(ctx, req, s, r, g, st.answer); err == nil {
		h.announceExpiry(req, now)
	}
	return a, err
}

// errTakenBack is returned where the request that redeemed a code has failed meanwhile.
// The code is good again, and asked for once more.
var errTakenBack = errors.New("the code was redeemed by a request that failed meanwhile")

// noteAgain notes that another request gets the answer to a code: should the first one
// fail yet, it takes nothing back. t is the access token of the answer.
func (h *admissions) noteAgain(ctx context.Context, s store.Session, code []byte, t seal.AccessToken) (store.Session, error) {
	if at := session.CodeAt(s.Codes, code); at >= 0 && s.Codes[at].Again {
		return s, nil
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	return h.change(ctx, s, func(s *store.Session) error {
		at := session.CodeAt(s.Codes, code)
		switch {
		case s.End != nil:
			return usable(s, ruling{}, h.now(), policy.Use{})
		case s.Grant(t.Grant) == nil, at >= 0 && s.Codes[at].Used.IsZero():
			return errTakenBack
		case at < 0 || s.Codes[at].Again:
			return errNoChange
		}
		s.Codes = slices.Clone(s.Codes)
		s.Codes[at].Again = true
		return nil
	})
}

// anotherAccessToken takes the place of one that is over, where there is no refresh token
// to get another one with.
func (c *issuing) anotherAccessToken(ctx context.Context, req *request, s store.Session, r ruling, i issuance, g *store.Grant) (seal.Answer, error) {
	id, expires, err := c.Storage.CreateAccessToken(ctx, i.request)
	if err != nil {
		return seal.Answer{}, storageError{err}
	}
	req.belong(c.h, s, r, policy.Use{Client: g.Client, Authenticated: g.Authenticated})
	a := seal.Answer{Expires: c.bound(req, c.h.now(), expires, c.skew(req)), Scopes: i.scopes}
	a.Access = c.h.ring.SealAccess(seal.AccessToken{ID: id, SID: s.ID, Grant: g.ID, Generation: g.Generation, Expires: a.Expires})
	return a, nil
}

// asPresented judges the refresh token in the answer to a code as if it had been
// presented itself, and finds the newest answer that it leads to.
func (c *issuing) asPresented(s store.Session, r ruling, a seal.Answer, now time.Time) (*refreshState, error) {
	st := &refreshState{session: s, ruling: r}
	var err error
	if st.token, err = c.h.ring.OpenRefresh(a.Refresh, now); err != nil {
		return nil, fmt.Errorf("the answer to repeat: %w", err)
	}
	switch err := c.judge(st); {
	case errors.Is(err, errReplay):
		return nil, spentCode()
	case err != nil:
		return nil, err
	case st.standing == current:
		st.answer = a
	case st.standing != repeated:
		return nil, spentCode()
	}
	return st, nil
}

// exchangeNewest exchanges the newest refresh token of an answer whose access token is
// over; see presentNewest.
func (c *issuing) exchangeNewest(ctx context.Context, req *request, st *refreshState) (seal.Answer, error) {
	if err := c.presentNewest(st); err != nil {
		return seal.Answer{}, err
	}
	st.inner = st.token.Token
	tr, err := c.Storage.TokenRequestByRefreshToken(ctx, st.inner)
	if err != nil {
		return seal.Answer{}, storageError{err}
	}
	return c.rotate(ctx, req, tr, st)
}

// redeemedDevice finds the live session in which a device code has brought its tokens.
// The code makes no other one, and slides nothing. The version before noted no codes: a
// session that lists none was begun by this one. expired says that the code is over. op
// takes one that was approved for ever, so where nothing is known of it any more, it is
// refused.
func (c *signingIn) redeemedDevice(ctx context.Context, l *session.Login, expired bool) (s store.Session, r ruling, redeemed bool, err error) {
	s, err = c.h.find(ctx, l)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if expired {
			return store.Session{}, ruling{}, false, oidc.ErrExpiredDeviceCode()
		}
		return store.Session{}, ruling{}, false, nil
	case err != nil:
		return store.Session{}, ruling{}, false, err
	case expired && !s.ReservedUntil.IsZero() && !c.h.now().Before(s.ReservedUntil):
		return store.Session{}, ruling{}, false, oidc.ErrExpiredDeviceCode()
	case s.End != nil, !s.ReservedUntil.IsZero():
		return store.Session{}, ruling{}, false, nil
	}
	if at := session.CodeAt(s.Codes, l.Mark); at >= 0 && s.Codes[at].Used.IsZero() {
		return store.Session{}, ruling{}, false, nil
	}
	if s, r, err = c.h.inUse(ctx, s); err != nil {
		return store.Session{}, ruling{}, false, err
	}
	return s, r, usable(&s, r, c.h.now(), policy.Use{}) == nil, nil
}
