package middleware

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/internal/keylock"
	"github.com/curfew-oidc/curfew/middleware/internal/seal"
)

const (
	// leaseTime is for how long a process has a session to refresh: longer than
	// a refresh may take, and what others wait if the process dies meanwhile.
	leaseTime = providerTimeout + 5*time.Second

	// leasePoll is how often a waiting request looks again.
	leasePoll = 50 * time.Millisecond

	// keepTrying is for how long tokens are tried to be kept, which the provider
	// has given and will not give again.
	keepTrying = 5 * time.Second
)

// A refresher asks the provider for new tokens: for one session once, however many
// requests and processes want them.
type refresher struct {
	sessions *sessions
	upstream *upstream
	events   *teller
	now      func() time.Time
	locks    keylock.Locks // by session

	outage struct {
		sync.Mutex
		until time.Time
	}
}

// refresh brings a session up to date: it asks the provider for new tokens if that
// is due, or always if it is forced. One at a time: in this process by a lock,
// among processes by a lease in the store. A request that finds another at it goes
// on with the tokens at hand while they are good, and waits otherwise.
func (f *refresher) refresh(ctx context.Context, h *held, force bool) error {
	since := h.rec.Refreshed
	wanted := func() bool {
		st := h.rec.stands(f.now())
		return st == must || st == due && !f.resting() || force && st != over && h.rec.Refresh != "" && !h.rec.Refreshed.After(since)
	}
	if h.rec.stands(f.now()) == over {
		return f.sessions.over(ctx, h)
	}
	if !wanted() {
		return nil
	}
	waits := func() bool { return force || h.rec.stands(f.now()) == must }
	unlock := f.locks.TryLock(h.id)
	if unlock == nil && !waits() {
		return nil // somebody is at it
	}
	if unlock == nil {
		var err error
		if unlock, err = f.locks.Lock(ctx, h.id); err != nil {
			return unavailable(err)
		}
	}
	defer unlock()

	me := seal.NewSecret()[:16]
	for {
		again, err := f.sessions.load(ctx, h.id)
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, seal.ErrNotOurs):
			return &SignedOutError{Reason: ReasonNone} // deleted meanwhile
		case err != nil:
			return f.events.storeFailed(ctx, err)
		}
		*h = *again
		now := f.now()
		switch {
		case h.rec.stands(now) == over:
			return f.sessions.over(ctx, h)
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
		switch err := f.sessions.replace(ctx, h); {
		case errors.Is(err, ErrConflict):
			continue
		case err != nil:
			return f.events.storeFailed(ctx, err)
		}
		return f.renew(context.WithoutCancel(ctx), h)
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
func (f *refresher) renew(ctx context.Context, h *held) error {
	renewed, err := f.upstream.refresh(ctx, h.rec)
	var out *SignedOutError
	if errors.As(err, &out) {
		if out.Reason == ReasonEnded {
			// The provider does not say why. Perhaps the limits do.
			out.Reason, out.Text = h.rec.lapsed(f.now())
		}
		if err := f.sessions.end(ctx, h, out.Reason, out.Text); err != nil {
			return err
		}
		return f.sessions.over(ctx, h)
	}
	if err != nil {
		u := unavailable(err)
		f.rest(u.RetryAfter)
		f.events.event(ctx, Event{Type: EventUnavailable, Subject: h.rec.Subject, SID: h.rec.SID, Err: u})
		st := h.rec.stands(f.now())
		h.rec.LeaseBy, h.rec.LeaseUntil = "", time.Time{}
		_ = f.sessions.replace(ctx, h) // else the lease runs out by itself
		if st == must {
			return u
		}
		return nil
	}
	if renewed.SID != h.rec.SID {
		_ = f.sessions.know(ctx, renewed.SID) // an event tells; the tokens are spent
	}
	return f.keep(ctx, h, renewed)
}

// keep writes the renewed record, for as long as there is hope. If the session was
// ended meanwhile it stays so.
func (f *refresher) keep(ctx context.Context, h *held, renewed record) error {
	h.rec = renewed
	for deadline := f.now().Add(keepTrying); ; {
		err := f.sessions.replace(ctx, h)
		switch {
		case err == nil:
			f.events.event(ctx, Event{Type: EventRefreshed, Subject: h.rec.Subject, SID: h.rec.SID})
			return f.judge(ctx, h)
		case errors.Is(err, ErrConflict):
			current, err := f.sessions.load(ctx, h.id)
			if errors.Is(err, ErrNotFound) {
				return &SignedOutError{Reason: ReasonNone}
			}
			if err == nil {
				if !current.rec.EndedAt.IsZero() {
					*h = *current
					return f.sessions.over(ctx, h)
				}
				h.version = current.version
				continue
			}
		}
		if !f.now().Before(deadline) {
			// What was given is good for this request. The next one comes with
			// the refresh token before, which is as if the response was lost.
			f.events.event(ctx, Event{Type: EventRefreshLost, Subject: h.rec.Subject, SID: h.rec.SID, Err: err})
			return nil
		}
		_ = sleep(ctx, leasePoll)
	}
}

// judge is for tokens that were given just now: if they do not go beyond the
// limits that made us ask, the login is over.
func (f *refresher) judge(ctx context.Context, h *held) error {
	now := f.now()
	if passed(h.rec.SessionExpiry, now) || passed(h.rec.AuthorizationEnds, now) || passed(h.rec.LocalEnds, now) {
		return f.sessions.over(ctx, h)
	}
	return nil
}

// While the provider does not answer, tokens that are good are left alone.
func (f *refresher) rest(d time.Duration) {
	f.outage.Lock()
	defer f.outage.Unlock()
	f.outage.until = f.now().Add(d)
}

func (f *refresher) resting() bool {
	f.outage.Lock()
	defer f.outage.Unlock()
	now := f.now()
	// A clock that was set back is no outage.
	return now.Before(f.outage.until) && !now.Before(f.outage.until.Add(-time.Minute))
}
