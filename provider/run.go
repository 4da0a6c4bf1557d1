package provider

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/notify"
	"github.com/curfew-oidc/curfew/store"
)

// sweepLease is for how long a sweeper has what it took to itself: longer than
// a batch takes, so that a dead process's share is taken over soon.
const (
	sweepLease = time.Minute
	sweepBatch = 100

	// sweepAtOnce is how many sessions or subjects a sweep looks at at once: most
	// of the time it waits for the store, or for a slow OnEnd. Few, so that users
	// do not wait for the store's connections.
	sweepAtOnce = 4
)

// Run sweeps until the context ends. It ends sessions that are over, forgets ended sessions after
// Config.Remember, applies a changed policy to live sessions, sends owed notifications to
// applications, and writes the counts of [Hook.Counts]. The limits hold without it. When the
// context ends, Run finishes the sessions that it is working on, which takes a few StoreTimeouts at
// most. It waits for notifications under way, for at most Config.Logout.Timeout, and writes the
// last counts within StoreTimeout. Then it returns the context's error. End it after the HTTP
// server.
func (h *Hook) Run(ctx context.Context) error {
	tick := time.NewTicker(h.cfg.SweepEvery)
	defer tick.Stop()
	defer h.lastCounts(ctx)
	for {
		if _, err := h.watch.installed(ctx); err != nil {
			h.sweepFailed(ctx, err)
		}
		if err := h.Sweep(ctx); err != nil {
			h.sweepFailed(ctx, err)
		}
		select {
		case <-ctx.Done():
			<-h.outbox.Drop()
			return ctx.Err()
		case <-tick.C:
		case <-h.wake:
		}
	}
}

func (h *sweeps) sweepFailed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		h.event(ctx, Event{Type: EventSweepFailed, Err: err})
	}
}

// Sweep does once what [Hook.Run] does repeatedly. Sessions that are due come first. If the store
// fails, Sweep stops and returns the error. If the store was replaced by another one, Sweep leaves
// it alone: this process may not know its users.
func (h *Hook) Sweep(ctx context.Context) error {
	if err := h.notLost(ctx); err != nil {
		return err
	}
	var errs failures
	if !h.sweepDue(ctx, &errs) {
		return errs.join()
	}
	err := h.keepCounts(ctx)
	errs.add(err)
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return errs.join() // what follows would wait as long; else it is the counters' alone
	}
	h.convergeKnown(ctx, &errs)
	h.walk(ctx, &errs)
	errs.add(ctx.Err())
	return errs.join()
}

// sweepDue looks at what is due, and reports whether it came to the end of it.
func (h *sweeps) sweepDue(ctx context.Context, errs *failures) bool {
	for {
		dctx, cancel := h.bounded(ctx)
		batch, err := h.cfg.Store.Due(dctx, h.now(), sweepLease, sweepBatch)
		cancel()
		errs.add(err)
		if err != nil && !alone(err) {
			return false
		}
		if h.sweepAll(ctx, batch, errs) {
			return false
		}
		if ctx.Err() != nil {
			errs.add(ctx.Err())
			return false
		}
		if len(batch) < sweepBatch && err == nil {
			return h.sweepFences(ctx, errs)
		}
	}
}

// sweepAll looks at the sessions of a batch, and reports whether the store seems to
// be down: then it is tried again by the next sweep.
func (h *sweeps) sweepAll(ctx context.Context, batch []store.Session, errs *failures) (broken bool) {
	var mu sync.Mutex // for errs and broken
	began := time.Now()
	someAtOnce(ctx, batch, func(s store.Session) {
		if time.Since(began) > sweepLease/2 {
			return // before others take it; it is due again soon
		}
		err := h.sweep(ctx, s)
		if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		errs.add(err)
		broken = broken || err != nil && !alone(err)
	})
	return broken
}

// someAtOnce calls f for each of a list, for sweepAtOnce of them at the same time,
// and returns when all are done. When the context ends it begins with no other. A
// panic of f is the caller's, who may know what to do about it.
func someAtOnce[T any](ctx context.Context, list []T, f func(T)) {
	var wg sync.WaitGroup
	var taken atomic.Int64
	var panicked atomic.Pointer[string]
	for range min(sweepAtOnce, len(list)) {
		wg.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					text := fmt.Sprintf("%v\n\n%s", v, debug.Stack())
					panicked.Store(&text)
				}
			}()
			for ctx.Err() == nil && panicked.Load() == nil {
				i := int(taken.Add(1)) - 1
				if i >= len(list) {
					return
				}
				f(list[i])
			}
		})
	}
	wg.Wait()
	if text := panicked.Load(); text != nil {
		panic(*text)
	}
}

// failures collects errors, of which one look at many sessions may bring many
// that are alike.
type failures struct {
	errs []error
	more int
}

func (f *failures) add(err error) {
	switch {
	case err == nil:
	case len(f.errs) < 10:
		f.errs = append(f.errs, err)
	default:
		f.more++
	}
}

func (f *failures) join() error {
	err := errors.Join(f.errs...)
	if f.more > 0 {
		err = fmt.Errorf("%w\nand %d more", err, f.more)
	}
	return err
}

// A rulesError is why the rules for one subject cannot be had.
type rulesError struct{ err error }

func (e *rulesError) Error() string { return e.err.Error() }
func (e *rulesError) Unwrap() error { return e.err }

// alone reports whether an error is about one session or user, and others fare
// better.
func alone(err error) bool {
	var rules *rulesError
	return errors.As(err, &rules) || errors.Is(err, store.ErrUnreadable)
}

// sweepAgain is when a session whose rules cannot be had is looked at again. The
// limits hold meanwhile.
const sweepAgain = 10 * time.Minute

// sweep looks at one session that is due. It asks for no rules where the session
// has ended: its user may be gone.
func (h *sweeps) sweep(ctx context.Context, s store.Session) error {
	now := h.now()
	var r ruling
	if s.Fenced() {
		_, _, err := h.endByFence(ctx, s, s.Fence)
		return err
	}
	if s.End == nil && s.Joined == "" {
		var err error
		if s, r, err = h.inUse(ctx, s); err == nil && s.End != nil {
			return nil // it was ended, and everybody told
		}
		if err != nil {
			if ctx.Err() != nil {
				return err // it is this process that stops: another one has it when the lease is over
			}
			ctx, cancel := h.detach(ctx)
			defer cancel()
			if _, putOff := h.change(ctx, s, func(s *store.Session) error {
				s.Due = now.Add(sweepAgain)
				return nil
			}); putOff != nil {
				return errors.Join(err, putOff)
			}
			return &rulesError{err}
		}
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	if s.End != nil && notify.Next(&s).IsZero() && !now.Before(h.forgetAt(&s)) {
		return h.forget(ctx, s)
	}
	if s.End == nil {
		var err error
		if s, err = h.endedWithParent(ctx, s); err != nil || s.End != nil {
			return err
		}
	}
	var fresh bool // it ended now
	var claimed []string
	ended, err := h.change(ctx, s, func(s *store.Session) error {
		fresh, claimed = s.End == nil, nil
		if s.End == nil {
			if d := r.rules.Check(now, s.Policy(), policy.Use{}); !d.Allow {
				h.finish(s, r, d.At, d.Reason, "")
				return nil
			}
		}
		claimed = h.ledger.Claim(s, now)
		h.schedule(s, r) // of an end that is owed: when to try again
		return nil
	})
	switch {
	case err != nil:
		return err
	case fresh:
		h.announceEnd(ctx, r, ended)
	case ended.End != nil:
		h.announce(ctx, r, ended, nil)
		return h.resend(ctx, ended, claimed)
	}
	return nil
}

// forget deletes an ended session that was remembered for long enough. The first
// of several by one name stays as long as the latest is there: a login finds
// that by it.
func (h *sweeps) forget(ctx context.Context, s store.Session) error {
	if s.End.Latest != "" {
		_, err := h.cfg.Store.Get(ctx, s.End.Latest)
		if err == nil {
			_, err = h.change(ctx, s, func(s *store.Session) error {
				s.Due = h.now().Add(h.cfg.Remember)
				return nil
			})
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return h.cfg.Store.Delete(ctx, s.ID, s.Revision)
}
