package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// A change is one write of one session, as a database recorded it.
type change struct {
	id      string
	session *store.Session // what it is from then on; nil: it was deleted
}

// A commit is the changes that took effect together.
type commit []change

// A replay follows a database's own history of the sessions of some subjects,
// commit by commit. It asks no policy: more sessions of a subject that have not
// ended than the cap are too many, at whatever moment.
//
// That is stricter than the cap, which counts live ones. It can be, since a
// login that is admitted at a cap ends those that are over in the same step.
type replay struct {
	cap      int
	sessions map[string]store.Session

	commits  int
	admitted int
	peak     int // the most of one subject that had not ended after a commit
	ends     map[policy.Reason]int
	swept    int // ends for inactivity of those whom everybody forgot
	rotated  int // commits that moved a grant to another generation
}

func newReplay(limit int) *replay {
	return &replay{cap: limit, sessions: map[string]store.Session{}, ends: map[policy.Reason]int{}}
}

// run follows the next part of a history.
func (r *replay) run(history []commit) error {
	for _, c := range history {
		if err := r.apply(c); err != nil {
			return fmt.Errorf("commit %d: %w", r.commits, err)
		}
	}
	return nil
}

// apply takes the next commit, and returns what it broke.
func (r *replay) apply(c commit) error {
	r.commits++
	for _, ch := range c {
		old, known := r.sessions[ch.id]
		if ch.session == nil {
			delete(r.sessions, ch.id)
			continue
		}
		s := *ch.session
		switch {
		case s.ID != ch.id:
			return fmt.Errorf("session %s is kept under the ID %s", s.ID, ch.id)
		case !known && s.End != nil:
			return fmt.Errorf("session %s was added ended", s.ID)
		case !known:
			r.admitted++
		case old.Subject != s.Subject:
			return fmt.Errorf("session %s changed its subject", s.ID)
		case old.End != nil && s.End == nil:
			return fmt.Errorf("session %s was brought back", s.ID)
		case old.End != nil && (!old.End.At.Equal(s.End.At) || old.End.Reason != s.End.Reason):
			return fmt.Errorf("session %s ended twice: %s, then %s", s.ID, old.End.Reason, s.End.Reason)
		case old.End == nil && s.End != nil:
			r.ends[s.End.Reason]++
			if s.End.Reason == policy.ReasonInactivity && strings.HasPrefix(s.Subject.ID, forgotten) {
				r.swept++
			}
		}
		if known && generations(&s) > generations(&old) {
			r.rotated++
		}
		r.sessions[s.ID] = s
	}
	for subject, n := range r.unended() {
		r.peak = max(r.peak, n)
		if n > r.cap {
			return &capError{subject: subject, have: n, cap: r.cap}
		}
	}
	return nil
}

// A capError is the one thing that must never happen.
type capError struct {
	subject   store.Subject
	have, cap int
}

func (e *capError) Error() string {
	return fmt.Sprintf("%s has %d sessions that have not ended, at a cap of %d", e.subject.ID, e.have, e.cap)
}

func generations(s *store.Session) (sum uint64) {
	for i := range s.Grants {
		sum += s.Grants[i].Generation
	}
	return sum
}

func (r *replay) unended() map[store.Subject]int {
	n := map[store.Subject]int{}
	for _, s := range r.sessions {
		if s.End == nil {
			n[s.Subject]++
		}
	}
	return n
}

// live returns the sessions of a subject that have not ended and hold tokens:
// not those of a code that nobody redeemed, nor those that are unused since idle
// ago.
func (r *replay) live(subject string, now time.Time, idle time.Duration) (live []store.Session) {
	for _, s := range r.sessions {
		if s.Subject.ID == subject && s.End == nil && s.ReservedUntil.IsZero() &&
			(s.Kind != policy.CLI || now.Sub(s.LastActivity) < idle) {
			live = append(live, s)
		}
	}
	return live
}

// parseSession reads a session document out of a history.
func parseSession(document []byte) (*store.Session, error) {
	var s store.Session
	if err := s.UnmarshalJSON(document); err != nil {
		return nil, fmt.Errorf("a session in the history: %w", err)
	}
	if s.ID == "" {
		return nil, errors.New("a session in the history has no ID")
	}
	return &s, nil
}
