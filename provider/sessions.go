package provider

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/internal/paged"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// detach gives a write its own time: a client that hangs up must not leave
// half of a login behind.
func (h *base) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), h.cfg.StoreTimeout)
}

// bounded gives a step that waits for the store its time.
func (h *base) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, h.cfg.StoreTimeout)
}

// get reads a session.
func (h *documents) get(ctx context.Context, id string) (store.Session, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	return h.load(ctx, id)
}

// load reads a session as it is: one that its subject's fence stops has ended.
func (h *documents) load(ctx context.Context, id string) (store.Session, error) {
	s, err := h.cfg.Store.Get(ctx, id)
	if err == nil {
		h.obey(ctx, &s)
	}
	return s, err
}

// getOrLost reads a session for who takes it for an answer that there is none: that is
// said only by a store that is the one that it was.
func (h *documents) getOrLost(ctx context.Context, id string) (store.Session, error) {
	s, err := h.get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		if lost := h.notLost(ctx); lost != nil {
			return s, lost
		}
	}
	return s, err
}

// notLost returns an error that wraps ErrStoreLost if the store has lost what it had:
// before it is said that something is not in it.
func (h *rulebook) notLost(ctx context.Context) error {
	if !h.watch.refuses || h.watch.known() == "" {
		return nil
	}
	_, err := h.watch.installed(ctx)
	return err
}

// errNoChange is returned by a change that finds nothing to do.
var errNoChange = errors.New("no change")

// change writes what f makes of s, by compare-and-swap. If s was out of date f
// is called again with what is stored now, until the context ends; f's error
// ends it, and errNoChange ends it well.
func (h *documents) change(ctx context.Context, s store.Session, f func(*store.Session) error) (store.Session, error) {
	return h.changeAs(ctx, h.load, s, f)
}

// changeAs is change that reads the session by load.
func (h *documents) changeAs(ctx context.Context, load func(context.Context, string) (store.Session, error), s store.Session, f func(*store.Session) error) (store.Session, error) {
	for {
		// f works on a copy: after a conflict, and for the caller to
		// compare, s is what it was.
		next := s
		next.Grants = slices.Clone(s.Grants)
		if err := f(&next); err != nil {
			if errors.Is(err, errNoChange) {
				return s, nil
			}
			return store.Session{}, err
		}
		revision, err := h.cfg.Store.Update(ctx, next)
		if err == nil {
			next.Revision = revision
			return next, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return store.Session{}, err
		}
		if ctx.Err() != nil {
			return store.Session{}, fmt.Errorf("%w: %w", err, ctx.Err())
		}
		if s, err = load(ctx, s.ID); err != nil {
			return store.Session{}, err
		}
	}
}

// Session returns one session as it is now: one that is over is returned as
// ended, with its reason, even if no sweep came by yet. If there is none the
// error wraps [store.ErrNotFound].
func (h *Hook) Session(ctx context.Context, sid string) (store.Session, error) {
	s, err := h.getOrLost(ctx, sid)
	if err != nil {
		return store.Session{}, fmt.Errorf("session %q: %w", sid, err)
	}
	return h.asOfNow(ctx, s)
}

func (h *documents) asOfNow(ctx context.Context, s store.Session) (store.Session, error) {
	if h.obey(ctx, &s); s.End != nil {
		return s, nil
	}
	r, err := h.rulesOf(ctx, &s)
	if err != nil {
		return store.Session{}, err
	}
	if d := r.rules.Check(h.now(), s.Policy(), policy.Use{}); !d.Allow {
		h.finish(&s, r, d.At, d.Reason, "")
		return s, nil
	}
	if h.goneTooLong(&s, r) {
		h.finishAt(&s, r, s.Gone.Add(h.cfg.GoneAfter), policy.ReasonAccountDisabled, "")
		return s, nil
	}
	end, err := h.endOfParent(ctx, s)
	if end != nil {
		h.finishWith(&s, r, end)
	}
	return s, err
}

// List returns one page of sessions as they are now, and the cursor of the
// next; see [store.Sessions]. Logins whose code was not redeemed are not among
// them, and with [store.Unended] neither are sessions that are over: a page may
// be short, only an empty cursor says that it is the last. A session whose rules
// cannot be had, such as that of a user who was deleted, is returned as stored. If
// some cannot be read, the page of the others comes with an error that wraps
// [store.ErrUnreadable].
func (h *Hook) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	lctx, cancel := h.bounded(ctx)
	defer cancel()
	found, next, unread := h.cfg.Store.List(lctx, f, cursor, limit)
	if unread != nil {
		unread = fmt.Errorf("list sessions: %w", unread)
	}
	if unread != nil && !alone(unread) {
		return nil, "", unread
	}
	page := make([]store.Session, 0, len(found))
	for _, s := range found {
		if !s.ReservedUntil.IsZero() {
			continue
		}
		if now, err := h.asOfNow(ctx, s); err == nil {
			s = now
		} else if ctx.Err() != nil {
			return nil, "", fmt.Errorf("list sessions: %w", err)
		}
		if s.End != nil && f.State == store.Unended {
			continue
		}
		page = append(page, s)
	}
	return page, next, unread
}

// Pending returns one page of the logins that wait for their applications, and the
// cursor of the next, as [Hook.List] does for sessions: the user has signed in, and no
// token was issued yet. They hold a place, and [Hook.End] ends them. Those that are
// over, or have ended, are not among them.
func (h *Hook) Pending(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	lctx, cancel := h.bounded(ctx)
	defer cancel()
	f.State = store.Unended
	found, next, err := h.cfg.Store.List(lctx, f, cursor, limit)
	if err != nil {
		err = fmt.Errorf("list logins: %w", err)
	}
	now := h.now()
	found = slices.DeleteFunc(found, func(s store.Session) bool {
		return !now.Before(s.ReservedUntil) || s.Joined != "" || s.Fenced()
	})
	return found, next, err
}

// Deadline returns when a session ends if nothing more happens, and of what.
// The zero time means never.
func (h *Hook) Deadline(ctx context.Context, s store.Session) (time.Time, policy.Reason, error) {
	r, err := h.rulesOf(ctx, &s)
	if err != nil {
		return time.Time{}, "", err
	}
	at, reason := r.rules.Deadline(s.Policy())
	if end := s.Gone.Add(h.cfg.GoneAfter); r.gone && !s.Gone.IsZero() && (at.IsZero() || end.Before(at)) {
		return end, policy.ReasonAccountDisabled, nil
	}
	return at, reason, nil
}

// stored returns the sessions that a filter matches, as the store has them, page by
// page; see [paged.All]. Each page has a time of its own.
func (h *documents) stored(ctx context.Context, f store.Filter, pageSize int) iter.Seq2[store.Session, error] {
	return paged.All(func(cursor string) ([]store.Session, string, error) {
		ctx, cancel := h.bounded(ctx)
		defer cancel()
		return h.cfg.Store.List(ctx, f, cursor, pageSize)
	})
}

// each calls visit for every session that the filter matches, until it returns
// an error. That some cannot be read is an error in the end.
func (h *documents) each(ctx context.Context, f store.Filter, visit func(store.Session) error) error {
	var unread failures
	for s, err := range h.stored(ctx, f, 500) {
		switch {
		case err == nil:
			err = visit(s)
		case alone(err):
			unread.add(fmt.Errorf("list sessions: %w", err))
			err = ctx.Err()
		default:
			err = fmt.Errorf("list sessions: %w", err)
		}
		if err != nil {
			return err
		}
	}
	return unread.join()
}
