package provider

import (
	"context"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// What Membership says of a user may change at any time, and nobody tells the hook.
// Where a session is used it compares, and otherwise a sweep does within lookAgain.

// inUse returns a session that is used, as it is now, with its rules.
func (h *members) inUse(ctx context.Context, s store.Session) (store.Session, ruling, error) {
	r, err := h.rulesOf(ctx, &s)
	if err != nil {
		return s, r, err
	}
	return h.settle(ctx, s, r)
}

// settle applies to a session what changed in whose it is: a user in other groups has
// other caps, and one who is in no account any more keeps the limits for
// Config.GoneAfter. It returns the session as it is then.
func (h *members) settle(ctx context.Context, s store.Session, r ruling) (store.Session, ruling, error) {
	if s.End != nil || s.Joined != "" {
		return s, r, nil
	}
	if len(r.accounts) == 0 && len(s.Accounts) > 0 {
		var err error
		if r, err = h.rulesOf(ctx, &s); err != nil {
			return s, r, err
		}
	}
	switch {
	case h.goneTooLong(&s, r):
		s, err := h.endGone(ctx, s, r)
		return s, r, err
	case r.gone == s.Gone.IsZero():
		s, err := h.noteGone(ctx, s, r)
		return s, r, err
	case r.gone || s.Who == "" || s.Who == r.who:
		return s, r, nil
	}
	// If that fails the next use does it: limits that were changed since are not
	// in force at once, and nobody is signed out for an outage.
	if err := h.applySubject(ctx, s.Subject); err != nil {
		h.event(ctx, Event{Type: EventUnavailable, Subject: s.Subject, SID: s.ID, Err: err})
		return s, r, nil
	}
	s, err := h.get(ctx, s.ID)
	return s, r, err
}

// goneTooLong reports whether a session goes on no longer because its user is in no
// account any more.
func (h *documents) goneTooLong(s *store.Session, r ruling) bool {
	return r.gone && s.End == nil && !s.Gone.IsZero() && !h.now().Before(s.Gone.Add(h.cfg.GoneAfter))
}

func (h *members) endGone(ctx context.Context, s store.Session, r ruling) (store.Session, error) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	did := false
	s, err := h.change(ctx, s, func(s *store.Session) error {
		if did = h.goneTooLong(s, r); !did {
			return errNoChange
		}
		h.finishAt(s, r, s.Gone.Add(h.cfg.GoneAfter), policy.ReasonAccountDisabled, "")
		return nil
	})
	if err == nil && did {
		h.announceEnd(ctx, r, s)
	}
	return s, err
}

// noteGone notes that the user of a session is in no account any more, or is again.
func (h *members) noteGone(ctx context.Context, s store.Session, r ruling) (store.Session, error) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	did := false
	s, err := h.change(ctx, s, func(s *store.Session) error {
		if did = s.End == nil && r.gone == s.Gone.IsZero(); !did {
			return errNoChange
		}
		h.schedule(s, r)
		return nil
	})
	if err == nil && did && r.gone {
		h.sessionEvent(ctx, EventGone, &s, "")
	}
	return s, err
}
