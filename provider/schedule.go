package provider

import (
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/notify"
	"github.com/curfew-oidc/curfew/store"
)

// schedule sets when a sweep has to look at s next.
func (h *documents) schedule(s *store.Session, r ruling) {
	if s.End != nil {
		forget := h.forgetAt(s)
		if s.End.Latest == "" || s.Due.Before(forget) {
			s.Due = forget
		}
		next := notify.Next(s)
		if s.End.Owed {
			if announce := h.now().Add(h.announceIn(s.End)); next.IsZero() || announce.Before(next) {
				next = announce
			}
		}
		if !next.IsZero() { // something is left to do first
			s.Due = next
		}
		return
	}
	h.belongs(s, r)
	s.Due, _ = r.rules.Deadline(s.Policy())
	look := h.now().Add(lookAgain)
	if !s.Gone.IsZero() && s.Gone.Add(h.cfg.GoneAfter).Before(look) {
		look = s.Gone.Add(h.cfg.GoneAfter)
	}
	if s.Due.IsZero() || look.Before(s.Due) {
		s.Due = look
	}
}

// lookAgain is how long a sweep leaves a live session alone at most: whose user was
// deleted, or is in another group since, shows in nothing but a look.
const lookAgain = 24 * time.Hour

// belongs notes whose session it is: the accounts of its user, and since when there
// are none any more. It keeps those that it had.
func (h *documents) belongs(s *store.Session, r ruling) {
	switch {
	case r.gone || len(r.accounts) == 0 && len(s.Accounts) > 0:
		if s.Gone.IsZero() {
			s.Gone = h.now()
		}
		return
	case s.Who == "":
		s.Who = r.who // it is from before a version that notes it
	}
	s.Accounts, s.Gone = r.accounts, time.Time{}
}

// postpone is schedule after an activity, which moves the deadline back. The time
// that was set stays as long as it is not too early by more than half of what is
// left: stores have an index of these times, and to change that costs more than the
// rest of a refresh. A sweep that comes too early sets the right one.
func (h *documents) postpone(s *store.Session, r ruling) {
	was := s.Due
	h.schedule(s, r)
	if middle := s.LastActivity.Add(s.Due.Sub(s.LastActivity) / 2); s.End == nil && was.After(middle) && was.Before(s.Due) {
		s.Due = was
	}
}

// remember is how long an ended session is kept. A login that was never
// completed is worth a day: until no code for it can turn up any more. One that
// was adopted is kept for as long as its token would be adopted again.
func (h *documents) remember(s *store.Session) time.Duration {
	if s.Adopted {
		return max(h.cfg.Remember, h.cfg.AdoptUntil.Sub(s.End.At))
	}
	if s.End.Reason == policy.ReasonAbandoned {
		return min(24*time.Hour, h.cfg.Remember)
	}
	return h.cfg.Remember
}

// forgetAt is when an ended session to which nothing is owed is forgotten: what was
// given up is remembered like the end itself.
func (h *documents) forgetAt(s *store.Session) time.Time {
	return h.ledger.RememberedUntil(s, s.End.At.Add(h.remember(s)))
}
