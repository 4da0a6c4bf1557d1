package provider

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// sweepLease is for how long a sweeper has what it took to itself: longer than
// a batch takes, so that a dead process's share is taken over soon.
const (
	sweepLease = time.Minute
	sweepBatch = 100
)

// Run sweeps until the context ends: sessions that are over end, reasons that
// were remembered for long enough are forgotten, and a changed policy is
// applied to live sessions. The limits hold without it. It returns the
// context's error.
func (h *Hook) Run(ctx context.Context) error {
	tick := time.NewTicker(h.cfg.SweepEvery)
	defer tick.Stop()
	for {
		if _, err := h.installed(ctx); err != nil {
			h.sweepFailed(ctx, err)
		}
		if err := h.Sweep(ctx); err != nil {
			h.sweepFailed(ctx, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (h *Hook) sweepFailed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		h.event(ctx, Event{Type: EventSweepFailed, Err: err})
	}
}

// Sweep does once what [Hook.Run] does all the time.
func (h *Hook) Sweep(ctx context.Context) error {
	var errs []error
	for _, account := range h.settings.known() {
		if err := h.converge(ctx, account); err != nil {
			errs = append(errs, err)
		}
	}
	for {
		dctx, cancel := h.bounded(ctx)
		batch, err := h.cfg.Store.Due(dctx, h.now(), sweepLease, sweepBatch)
		cancel()
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, s := range batch {
			if err := h.sweep(ctx, s); err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
				errs = append(errs, err)
			}
		}
		if len(batch) < sweepBatch || len(errs) > 0 {
			return errors.Join(errs...)
		}
	}
}

// sweep looks at one session that is due.
func (h *Hook) sweep(ctx context.Context, s store.Session) error {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	r, err := h.rules(ctx, s.Subject, false)
	if err != nil {
		return err
	}
	now := h.now()
	if s.End != nil && !now.Before(s.End.At.Add(h.remember(&s))) {
		return h.forget(ctx, s)
	}
	ended, err := h.change(ctx, s, func(s *store.Session) error {
		if s.End == nil {
			if d := r.rules.Check(now, s.Policy(), policy.Use{}); !d.Allow {
				h.finish(s, r, d.At, d.Reason, "")
				return nil
			}
		}
		h.schedule(s, r) // of an end that is owed: when to try again
		return nil
	})
	if err == nil {
		h.announceEnd(ctx, r, ended)
	}
	return err
}

// forget deletes an ended session that was remembered for long enough. The first
// of several by one name stays as long as the latest is there: a login finds
// that by it.
func (h *Hook) forget(ctx context.Context, s store.Session) error {
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

// converge applies an account's settings to its live sessions if that has not
// been done yet since they changed: the surplus over a lowered cap ends, and
// sweeps are scheduled for the new deadlines.
func (h *Hook) converge(ctx context.Context, account string) error {
	a, _, err := h.settings.get(ctx, account, true)
	if err != nil {
		return err
	}
	body, err := a.MarshalJSON()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	key := "converged/" + account
	dctx, cancel := h.bounded(ctx)
	defer cancel()
	done, err := h.cfg.Store.Document(dctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && bytes.Equal(done.Body, sum[:]) {
		return nil
	}
	if err := h.applyTo(ctx, account); err != nil {
		return err
	}
	pctx, cancel := h.bounded(ctx)
	defer cancel()
	_, err = h.cfg.Store.PutDocument(pctx, store.Document{Key: key, Version: done.Version, Body: sum[:], At: h.now()})
	if errors.Is(err, store.ErrConflict) {
		return nil // another process did the same
	}
	return err
}

// applyTo applies the current settings to every subject with a live session in
// the account.
func (h *Hook) applyTo(ctx context.Context, account string) error {
	seen := map[store.Subject]bool{}
	for cursor := ""; ; {
		lctx, cancel := h.bounded(ctx)
		page, next, err := h.cfg.Store.List(lctx, store.Filter{Account: account, State: store.Unended}, cursor, 500)
		cancel()
		if err != nil {
			return err
		}
		for _, s := range page {
			if seen[s.Subject] {
				continue
			}
			seen[s.Subject] = true
			if err := h.applySubject(ctx, s.Subject); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		cursor = next
	}
}

// applySubject ends a subject's surplus in one step with admission.
func (h *Hook) applySubject(ctx context.Context, subject store.Subject) error {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	r, err := h.rules(ctx, subject, false)
	if err != nil {
		return err
	}
	var ended []store.Session
	var observed []policy.Ending
	err = h.cfg.Store.Admit(ctx, subject, func(held []store.Session) ([]store.Session, error) {
		ended, observed = ended[:0], nil
		now := h.now()
		list := make([]policy.Session, len(held))
		for i := range held {
			list[i] = held[i].Policy()
		}
		reasons := map[string]policy.Reason{}
		for _, e := range r.rules.Surplus(now, list) {
			reasons[e.ID] = e.Reason
		}
		if r.observes {
			observed = r.observed.Surplus(now, list)
		}
		var changed []store.Session
		for _, s := range held {
			if reason, ends := reasons[s.ID]; ends {
				h.finish(&s, r, now, reason, "")
				ended = append(ended, s)
				changed = append(changed, s)
				continue
			}
			due := s.Due
			if h.schedule(&s, r); !s.Due.Equal(due) {
				changed = append(changed, s)
			}
		}
		return changed, nil
	})
	if err != nil {
		return err
	}
	for i := range ended {
		h.announceEnd(ctx, r, ended[i])
	}
	for _, e := range observed {
		h.event(ctx, Event{Type: EventWouldEnd, Subject: subject, SID: e.ID, Reason: e.Reason})
	}
	return nil
}
