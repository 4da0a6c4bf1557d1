package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// An end of all sessions of a subject is one write, its fence: from then on the
// sessions that it stops have ended, wherever they are read, and no older
// authentication begins one. The documents follow, one by one, so that everybody is
// told; what is missing a sweep does.

// obey makes an ended session of one that its subject's fence stops. It is not
// written.
func (h *documents) obey(ctx context.Context, s *store.Session) {
	if s.Fenced() {
		h.stop(s, h.rulesToEnd(ctx, s), s.Fence)
	}
}

// stop makes an ended session of one that a fence stops.
func (h *documents) stop(s *store.Session, r ruling, f store.Fence) {
	h.finishAt(s, r, f.At, f.Reason, f.By)
}

// finishAt makes s a session that ended at a time in the past, unless it was over by
// then.
func (h *documents) finishAt(s *store.Session, r ruling, at time.Time, reason policy.Reason, by string) {
	if d := r.rules.Check(at, s.Policy(), policy.Use{}); !d.Allow {
		h.finish(s, r, d.At, d.Reason, "")
		return
	}
	h.finish(s, r, at, reason, by)
}

// step is one serializable step over the sessions of a subject that have not ended. What
// the fence stops has: its documents are for the end that put it, and for a sweep.
func (h *documents) step(ctx context.Context, subject store.Subject, decide func(held []store.Session, fence store.Fence) ([]store.Session, error)) error {
	return h.cfg.Store.Admit(ctx, subject, func(held []store.Session, fence store.Fence) ([]store.Session, error) {
		over := map[string]bool{} // the IDs of those that are not shown: no session takes the place of one
		held = slices.DeleteFunc(held, func(s store.Session) bool {
			over[s.ID] = s.Fenced() || s.Joined != ""
			return over[s.ID]
		})
		decided, err := decide(held, fence)
		if err == nil && slices.ContainsFunc(decided, func(s store.Session) bool { return over[s.ID] }) {
			return nil, store.ErrExists
		}
		return decided, err
	})
}

// raise puts the fence of a subject: the sessions that began by now end, but the
// excepted ones that are live.
func (h *ends) raise(ctx context.Context, subject store.Subject, reason policy.Reason, by string, except []string) (store.Fence, error) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	now := h.now()
	f := store.Fence{Subject: subject, At: now, Reason: reason, By: by, Due: now.Add(announceEvery)}
	for _, sid := range except {
		if sid == "" {
			continue
		}
		s, err := h.load(ctx, sid)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return store.Fence{}, err
		case s.Subject == subject && s.End == nil:
			f.Spared = append(f.Spared, store.Spared{ID: s.ID, Started: s.Started})
		}
	}
	return h.cfg.Store.PutFence(ctx, f)
}

// endStopped writes the ends of the sessions of a subject that picked chooses, one by
// one, and returns those that it ended. It may be called again, and by several
// processes at once.
func (h *ends) endStopped(ctx context.Context, f store.Fence, picked func(*store.Session) bool) ([]store.Session, error) {
	var ended []store.Session
	err := h.each(ctx, store.Filter{Subject: f.Subject, State: store.Unended}, func(s store.Session) error {
		if s.Joined != "" || !picked(&s) {
			return nil
		}
		s, told, err := h.endByFence(ctx, s, f)
		if err == nil && told {
			ended = append(ended, s)
		}
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return ended, err
}

// endByFence writes the end of one session, and reports whether it was this call that
// did.
func (h *ends) endByFence(ctx context.Context, s store.Session, f store.Fence) (ended store.Session, did bool, err error) {
	r := h.rulesToEnd(ctx, &s)
	wctx, cancel := h.detach(ctx)
	defer cancel()
	ended, err = h.changeAs(wctx, h.cfg.Store.Get, s, func(s *store.Session) error {
		did = s.End == nil
		switch {
		case !did:
			return errNoChange
		case s.Fenced():
			h.stop(s, r, s.Fence)
		default:
			h.finishAt(s, r, h.now(), f.Reason, f.By)
		}
		return nil
	})
	if err != nil || !did {
		return ended, false, err
	}
	h.announceEnd(ctx, r, ended)
	return ended, true, nil
}

// fenceLife is for how long a fence is kept: as long as something from before it
// could turn up, as an ended session is remembered.
func (h *documents) fenceLife(f store.Fence) time.Time {
	return f.At.Add(max(h.cfg.Remember, h.cfg.AdoptUntil.Sub(f.At)))
}

const fenceBatch = 100

// sweepFences ends what a process that put a fence did not come to, and forgets the
// fences that stop nothing any more. It reports whether it came to the end of it.
func (h *sweeps) sweepFences(ctx context.Context, errs *failures) bool {
	dctx, cancel := h.bounded(ctx)
	defer cancel()
	due, err := h.cfg.Store.DueFences(dctx, h.now(), fenceBatch)
	if err != nil {
		errs.add(fmt.Errorf("fences: %w", err))
	}
	if err != nil && !alone(err) {
		return false
	}
	began := time.Now()
	for _, f := range due {
		err := h.sweepFence(ctx, f)
		if err == nil {
			continue
		}
		errs.add(err)
		if ctx.Err() != nil || time.Since(began) > sweepLease/2 {
			return false // what follows may wait as long for what does not answer
		}
		// What fails alone is put off. If that fails too the store seems to be down.
		if err := h.moveFence(ctx, f, h.now().Add(announceEvery)); err != nil {
			errs.add(fmt.Errorf("fences: %w", err))
			return false
		}
	}
	return true
}

func (h *sweeps) sweepFence(ctx context.Context, f store.Fence) error {
	_, err := h.endStopped(ctx, f, (*store.Session).Fenced)
	if err != nil {
		return fmt.Errorf("end what a fence stops: %w", err)
	}
	return h.carriedOut(ctx, f)
}

// carriedOut notes that all that a fence stops has ended in its own document.
func (h *ends) carriedOut(ctx context.Context, f store.Fence) error {
	due := h.fenceLife(f)
	if !h.now().Before(due) {
		due = time.Time{}
	}
	return h.moveFence(ctx, f, due)
}

// moveFence notes when a sweep has to look at a fence next; zero: it is forgotten.
func (h *documents) moveFence(ctx context.Context, f store.Fence, due time.Time) error {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	err := h.cfg.Store.MoveFence(ctx, f, due)
	if errors.Is(err, store.ErrConflict) {
		return nil // another one was put, and is due
	}
	return err
}
