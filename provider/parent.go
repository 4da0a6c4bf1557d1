package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// A session that token exchange makes for another subject is the child of the
// session whose token was exchanged. It rests on the authentication of that token and
// ends with its parent. The parent knows it before it begins, and who ends the parent
// ends it: what a process that dies leaves undone is a part of the end that is owed.
// Until then a use of the child asks for its parent.

// maxAncestors bounds how many sessions in a row are made from each other: each use
// asks for them all.
const maxAncestors = 8

// getWithParent reads a session, and ends it if its parent has ended.
func (h *ends) getWithParent(ctx context.Context, sid string) (store.Session, error) {
	s, err := h.getOrLost(ctx, sid)
	if err != nil {
		return s, err
	}
	return h.endedWithParent(ctx, s)
}

// endedWithParent ends a session whose parent has ended. That it cannot be written
// does no harm: the session that is returned has ended.
func (h *ends) endedWithParent(ctx context.Context, s store.Session) (store.Session, error) {
	end, err := h.endOfParent(ctx, s)
	if err != nil || end == nil {
		return s, err
	}
	r := h.rulesToEnd(ctx, &s)
	if ended, err := h.endWith(ctx, s, r, end); err == nil {
		return ended, nil
	}
	h.finishWith(&s, r, end)
	return s, nil
}

// endOfParent returns how the parent of a session ended; nil if the session goes on.
// One that is not in the store any more ended long ago, or the store was lost.
func (h *documents) endOfParent(ctx context.Context, s store.Session) (*store.End, error) {
	if s.Parent == "" || s.End != nil {
		return nil, nil
	}
	parent, err := h.get(ctx, s.Parent)
	if errors.Is(err, store.ErrNotFound) {
		return &store.End{At: h.now(), Reason: policy.ReasonUnknownSession}, nil
	}
	if err == nil {
		parent, err = h.asOfNow(ctx, parent)
	}
	if err != nil {
		return nil, fmt.Errorf("the session that it was made from: %w", err)
	}
	if parent.End == nil || h.outlives(ctx, parent, s) {
		return nil, nil
	}
	return parent.End, nil
}

func (h *documents) outlives(ctx context.Context, parent, child store.Session) bool {
	return h.cfg.Outlives != nil && h.cfg.Outlives(ctx, parent.Clone(), child.Clone())
}

// errTooManyAncestors refuses one more exchange for another user.
var errTooManyAncestors = &refusedError{text: fmt.Sprintf("the token was made by more than %d exchanges for other users in a row", maxAncestors)}

// withParents returns the rules of a session with the earliest end of those that it was
// made from, and ends with: no token outlives it.
func (h *ends) withParents(ctx context.Context, s store.Session, r ruling) (ruling, error) {
	for range maxAncestors {
		if s.Parent == "" || h.cfg.Outlives != nil {
			break
		}
		parent, err := h.get(ctx, s.Parent)
		if errors.Is(err, store.ErrNotFound) {
			break // which ends it at its next use
		}
		if err != nil {
			return r, err
		}
		pr, err := h.rulesOf(ctx, &parent)
		if err != nil {
			return r, err
		}
		r.within = pr.rules.Window(parent.Policy(), policy.Use{Within: r.within})
		s = parent
	}
	return r, nil
}

// endWith ends a session as its parent ended.
func (h *ends) endWith(ctx context.Context, s store.Session, r ruling, end *store.End) (store.Session, error) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	did := false
	ended, err := h.change(ctx, s, func(s *store.Session) error {
		if did = s.End == nil; !did {
			return errNoChange
		}
		h.finishWith(s, r, end)
		return nil
	})
	if err == nil && did {
		h.announceEnd(ctx, r, ended)
	}
	return ended, err
}

// finishWith makes s a session that ended as its parent did, unless it was over
// before.
func (h *documents) finishWith(s *store.Session, r ruling, end *store.End) {
	if d := r.rules.Check(end.At, s.Policy(), policy.Use{}); !d.Allow {
		h.finish(s, r, d.At, d.Reason, "")
		return
	}
	h.finishAs(s, r, store.End{At: end.At, Reason: end.Reason, By: end.By, WithParent: true})
}

// endChildren ends the sessions that were made from one that has ended.
func (h *ends) endChildren(ctx context.Context, parent *store.Session) error {
	var mu sync.Mutex // for errs
	var errs failures
	someAtOnce(ctx, parent.Children, func(sid string) {
		child, err := h.get(ctx, sid)
		if err == nil && child.End == nil && !h.outlives(ctx, *parent, child) {
			_, err = h.endWith(ctx, child, h.rulesToEnd(ctx, &child), parent.End)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) { // it never began, or was forgotten
			mu.Lock()
			defer mu.Unlock()
			errs.add(err)
		}
	})
	return errs.join()
}

// enterChild enters a session that is about to begin in the one that it is made from,
// unless that has ended. It may never begin, and so takes nobody's place yet: see
// boundChildren.
func (h *admissions) enterChild(ctx context.Context, parent store.Session, sid string) (store.Session, error) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	gone := map[string]bool{}
	if len(parent.Children) >= h.cfg.MaxGrants && !slices.Contains(parent.Children, sid) {
		for _, sid := range parent.Children {
			s, err := h.load(ctx, sid)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return store.Session{}, err
			}
			gone[sid] = err != nil || s.End != nil
		}
	}
	return h.change(ctx, parent, func(s *store.Session) error {
		switch {
		case s.End != nil:
			return hasEnded(s)
		case slices.Contains(s.Children, sid):
			return errNoChange
		}
		children := slices.DeleteFunc(slices.Clone(s.Children), func(sid string) bool { return gone[sid] })
		s.Children = append(children, sid)
		return nil
	})
}

// boundChildren ends the oldest sessions that were made from one, where with the one
// that has begun now there are more than Config.MaxGrants.
func (h *admissions) boundChildren(ctx context.Context, parent store.Session, sid string) error {
	others := slices.DeleteFunc(slices.Clone(parent.Children), func(other string) bool { return other == sid })
	tooMany := others[:max(0, len(parent.Children)-h.cfg.MaxGrants)]
	if len(tooMany) == 0 {
		return nil
	}
	for _, sid := range tooMany {
		if err := h.endID(ctx, sid, policy.ReasonConcurrency, ""); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	_, err := h.change(ctx, parent, func(s *store.Session) error {
		s.Children = slices.DeleteFunc(slices.Clone(s.Children), func(sid string) bool { return slices.Contains(tooMany, sid) })
		return nil
	})
	return err
}

// mayHaveChild refuses to make a session from one that stands at the end of a long row.
func (h *admissions) mayHaveChild(ctx context.Context, s store.Session) error {
	for range maxAncestors {
		if s.Parent == "" {
			return nil
		}
		var err error
		if s, err = h.get(ctx, s.Parent); errors.Is(err, store.ErrNotFound) {
			return nil // which this one has outlived
		} else if err != nil {
			return err
		}
	}
	return errTooManyAncestors
}
