package middleware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
	"golang.org/x/oauth2"
)

const (
	// leaseTime is for how long a process has a session to refresh: longer than
	// a refresh may take, and what others wait if the process dies meanwhile.
	leaseTime = providerTimeout + 5*time.Second

	// leasePoll is how often those who wait look again.
	leasePoll = 50 * time.Millisecond

	// keepTrying is for how long tokens are tried to be kept, which the provider
	// has given and will not give again.
	keepTrying = 5 * time.Second
)

// refresh brings a session up to date: it asks the provider for new tokens if that
// is due, or always if it is forced. One at a time: in this process by a lock,
// among processes by a lease in the store. Who finds somebody at it goes on with
// what there is while that is good, and waits otherwise.
func (rp *RelyingParty) refresh(ctx context.Context, h *held, force bool) error {
	since := h.rec.Refreshed
	wanted := func() bool {
		st := h.rec.stands(rp.now())
		return st == must || st == due && !rp.resting() || force && st != over && h.rec.Refresh != "" && !h.rec.Refreshed.After(since)
	}
	if h.rec.stands(rp.now()) == over {
		return rp.over(ctx, h)
	}
	if !wanted() {
		return nil
	}
	waits := func() bool { return force || h.rec.stands(rp.now()) == must }
	unlock := rp.locks.TryLock(h.id)
	if unlock == nil && !waits() {
		return nil // somebody is at it
	}
	if unlock == nil {
		var err error
		if unlock, err = rp.locks.Lock(ctx, h.id); err != nil {
			return unavailable(err)
		}
	}
	defer unlock()

	me := seal.NewSecret()[:16]
	for {
		again, err := rp.load(ctx, h.id)
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, seal.ErrNotOurs):
			return &SignedOutError{Reason: ReasonNone} // deleted meanwhile
		case err != nil:
			return rp.storeFailed(ctx, err)
		}
		*h = *again
		now := rp.now()
		switch {
		case h.rec.stands(now) == over:
			return rp.over(ctx, h)
		case !wanted():
			return nil
		case h.rec.leased(now):
			if !waits() {
				return nil
			}
			if err := sleep(ctx, min(leasePoll, h.rec.LeaseUntil.Sub(now))); err != nil {
				return unavailable(err)
			}
			continue
		}
		h.rec.LeaseBy, h.rec.LeaseUntil = me, now.Add(leaseTime).UTC()
		switch err := rp.replace(ctx, h); {
		case errors.Is(err, ErrConflict):
			continue
		case err != nil:
			return rp.storeFailed(ctx, err)
		}
		return rp.renew(context.WithoutCancel(ctx), h)
	}
}

// leased reports whether somebody is at it. A lease that ends later than any can
// is of a time before a clock was set back.
func (rec *record) leased(now time.Time) bool {
	return rec.LeaseBy != "" && now.Before(rec.LeaseUntil) && rec.LeaseUntil.Sub(now) <= leaseTime+clockSkew
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// renew asks the provider, with the lease in hand.
func (rp *RelyingParty) renew(ctx context.Context, h *held) error {
	renewed, err := rp.askTokens(ctx, h.rec)
	var out *SignedOutError
	if errors.As(err, &out) {
		if out.Reason == ReasonEnded {
			// The provider does not say why. Perhaps the limits do.
			out.Reason, out.Text = h.rec.lapsed(rp.now())
		}
		if err := rp.end(ctx, h, out.Reason, out.Text); err != nil {
			return err
		}
		return rp.over(ctx, h)
	}
	if err != nil {
		u := unavailable(err)
		rp.rest(u.RetryAfter)
		rp.event(ctx, Event{Type: EventUnavailable, Subject: h.rec.Subject, SID: h.rec.SID, Err: u})
		st := h.rec.stands(rp.now())
		h.rec.LeaseBy, h.rec.LeaseUntil = "", time.Time{}
		_ = rp.replace(ctx, h) // else the lease runs out by itself
		if st == must {
			return u
		}
		return nil
	}
	if renewed.SID != h.rec.SID {
		_ = rp.know(ctx, renewed.SID) // an event tells; the tokens are spent
	}
	return rp.keep(ctx, h, renewed)
}

// askTokens returns the record with new tokens in it. A SignedOutError is the end
// of the login; any other error is not.
func (rp *RelyingParty) askTokens(ctx context.Context, rec record) (record, error) {
	e, err := rp.discover(ctx)
	if err != nil {
		return rec, err
	}
	asking, cancel := rp.context(ctx)
	defer cancel()
	asked := rp.now().UTC()
	token, err := e.oauth.TokenSource(asking, &oauth2.Token{RefreshToken: rec.Refresh}).Token()
	if err != nil {
		return rec, tokenError(err)
	}
	t, err := e.identify(asking, token)
	if err == nil && t != nil {
		err = rec.sameLogin(t, asked)
	}
	if errors.Is(err, ErrUnavailable) {
		return rec, err
	}
	if err != nil {
		rp.event(ctx, Event{Type: EventSignInFailed, Subject: rec.Subject, SID: rec.SID, Reason: ReasonIdentity,
			Err: fmt.Errorf("the ID token of a refresh: %w", err)})
		return rec, &SignedOutError{Reason: ReasonIdentity, Text: sentence(ReasonIdentity)}
	}
	rec.take(token, asked, rp.cfg.RefreshAfter)
	if t != nil {
		rec.IDToken, rec.SessionExpiry = t.raw, t.sessionExpiry
		if t.sid != "" {
			rec.SID = t.sid
		}
	}
	rec.LeaseBy, rec.LeaseUntil = "", time.Time{}
	return rec, nil
}

// keep writes the renewed record, for as long as there is hope. If the session was
// ended meanwhile it stays so.
func (rp *RelyingParty) keep(ctx context.Context, h *held, renewed record) error {
	h.rec = renewed
	for deadline := rp.now().Add(keepTrying); ; {
		err := rp.replace(ctx, h)
		switch {
		case err == nil:
			rp.event(ctx, Event{Type: EventRefreshed, Subject: h.rec.Subject, SID: h.rec.SID})
			return rp.judge(ctx, h)
		case errors.Is(err, ErrConflict):
			current, err := rp.load(ctx, h.id)
			if errors.Is(err, ErrNotFound) {
				return &SignedOutError{Reason: ReasonNone}
			}
			if err == nil {
				if !current.rec.EndedAt.IsZero() {
					*h = *current
					return rp.over(ctx, h)
				}
				h.version = current.version
				continue
			}
		}
		if !rp.now().Before(deadline) {
			// What was given is good for this request. The next one comes with
			// the refresh token before, which is as if the response was lost.
			rp.event(ctx, Event{Type: EventRefreshLost, Subject: h.rec.Subject, SID: h.rec.SID, Err: err})
			return nil
		}
		_ = sleep(ctx, leasePoll)
	}
}

// judge is for tokens that were given just now: if they do not go beyond the
// limits that made us ask, the login is over.
func (rp *RelyingParty) judge(ctx context.Context, h *held) error {
	now := rp.now()
	if passed(h.rec.SessionExpiry, now) || passed(h.rec.AuthorizationEnds, now) || passed(h.rec.LocalEnds, now) {
		return rp.over(ctx, h)
	}
	return nil
}

// over returns why a session is over, and ends it where only the clock has.
func (rp *RelyingParty) over(ctx context.Context, h *held) error {
	if h.rec.EndedAt.IsZero() {
		reason, text := h.rec.lapsed(rp.now())
		if err := rp.end(ctx, h, reason, text); err != nil {
			return err
		}
	}
	return &SignedOutError{Reason: h.rec.Reason, Text: h.rec.Text}
}

// While the provider does not answer, tokens that are good are left alone.
func (rp *RelyingParty) rest(d time.Duration) {
	rp.outage.Lock()
	defer rp.outage.Unlock()
	rp.outage.until = rp.now().Add(d)
}

func (rp *RelyingParty) resting() bool {
	rp.outage.Lock()
	defer rp.outage.Unlock()
	now := rp.now()
	// A clock that was set back is no outage.
	return now.Before(rp.outage.until) && !now.Before(rp.outage.until.Add(-time.Minute))
}
