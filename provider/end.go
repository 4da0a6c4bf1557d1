package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/notify"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// finish makes s an ended session. It is not written yet.
func (h *documents) finish(s *store.Session, r ruling, at time.Time, reason policy.Reason, by string) {
	// A session that a limit ended, ended when it was reached, not when
	// somebody noticed.
	if deadline, why := r.rules.Deadline(s.Policy()); why == reason && !deadline.IsZero() {
		at = deadline
	}
	h.finishAs(s, r, store.End{At: at, Reason: reason, By: by})
}

// finishAs is finish with all of an end but what is owed.
func (h *documents) finishAs(s *store.Session, r ruling, end store.End) {
	end.At = end.At.UTC().Truncate(time.Microsecond)
	end.Owed = s.ReservedUntil.IsZero() // or it never began, and there is nobody to tell
	s.End = &end
	for i := range s.Grants {
		s.Grants[i].Repeat, s.Grants[i].Chain = nil, nil // no answer is repeated any more
	}
	s.Codes = session.WithoutAnswers(s.Codes, func(store.Code) bool { return true })
	if s.End.Owed {
		h.owe(s)
	}
	h.schedule(s, r)
}

// A sweep announces an end that nobody announced after announceEvery: long
// enough for who ended the session to do it. It tries Config.OnEnd again less and
// less often, in the end every announceAtMost.
const (
	announceEvery  = time.Minute
	announceAtMost = time.Hour
)

// announceIn is how long after now an owed end is announced again.
func (h *documents) announceIn(e *store.End) time.Duration {
	if !e.Reported {
		return announceEvery
	}
	return min(max(announceEvery, h.now().Sub(e.At)), announceAtMost)
}

// announceEnd tells of an end that was written: first the provider, whose own
// sign-on must be over before an application sends its user there again, then
// the applications. It does not wait for those; the channel is closed when each
// was tried once.
func (h *ends) announceEnd(ctx context.Context, r ruling, s store.Session) <-chan struct{} {
	if s.End == nil || !s.End.Owed {
		return h.send(nil)
	}
	notes, none := h.notifications(ctx, &s, notify.Owed(&s))
	h.announce(ctx, r, s, none)
	return h.send(notes)
}

// announce tells the provider of an end that was written, ends the sessions that were
// made from this one, and notes that it is done, and that nothing is owed to the given
// clients. If that fails, or nobody
// comes to it because the process dies, a sweep does it: each end is announced at
// least once. The event comes once for all tries of OnEnd.
func (h *ends) announce(ctx context.Context, r ruling, s store.Session, none []string) {
	if s.End == nil || !s.End.Owed {
		return
	}
	ctx = context.WithoutCancel(ctx)
	if !s.End.Reported {
		h.sessionEvent(ctx, EventEnded, &s, "")
	}
	owed := false
	if err := h.endChildren(ctx, &s); err != nil {
		h.event(ctx, Event{Type: EventUnavailable, Subject: s.Subject, SID: s.ID, Err: fmt.Errorf("sessions that were made from it: %w", err)})
		owed = true
	}
	if h.cfg.OnEnd != nil {
		// It has a deadline: logins and the sweep wait for it.
		octx, cancel := h.detach(ctx)
		err := h.cfg.OnEnd(octx, s.Clone())
		cancel()
		if err != nil {
			h.event(ctx, Event{Type: EventOnEndFailed, Subject: s.Subject, SID: s.ID, Err: err})
			owed = true
		}
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	_, err := h.change(ctx, s, func(s *store.Session) error {
		if s.End == nil || len(none) == 0 && (!s.End.Owed || owed && s.End.Reported) {
			return errNoChange
		}
		notify.Strike(s, none)
		if s.End.Owed {
			end := *s.End
			end.Owed, end.Reported = owed, owed
			s.End = &end
		}
		h.schedule(s, r)
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		h.event(ctx, Event{Type: EventUnavailable, Subject: s.Subject, SID: s.ID, Err: err}) // a sweep will repeat it
	}
}

// end ends a session once, and reports whether it was this call that did. For
// the reason of a limit it ends a session only if that is over.
func (h *ends) end(ctx context.Context, s store.Session, r ruling, reason policy.Reason, by string) (store.Session, bool, error) {
	ended, told, err := h.endTelling(ctx, s, r, reason, by)
	return ended, told != nil, err
}

// endTelling is end, and returns when each application was told once; nil if it
// was not this call that ended the session.
func (h *ends) endTelling(ctx context.Context, s store.Session, r ruling, reason policy.Reason, by string) (store.Session, <-chan struct{}, error) {
	var did bool
	ended, err := h.change(ctx, s, func(s *store.Session) error {
		did = false
		if s.End != nil {
			return errNoChange
		}
		now := h.now()
		if d := r.rules.Check(now, s.Policy(), policy.Use{}); !d.Allow {
			// It was over before anybody ended it.
			h.finish(s, r, d.At, d.Reason, "")
		} else if reason.Info().Class == policy.ByTime {
			return errNoChange // a use came in time
		} else {
			h.finish(s, r, now, reason, by)
		}
		did = true
		return nil
	})
	if err == nil && did {
		return ended, h.announceEnd(ctx, r, ended), nil
	}
	return ended, nil, err
}

// End ends one session, and records by, who ended it. Ending a session that has ended
// succeeds and changes nothing. If there is none the error wraps
// [store.ErrNotFound]. A live session cannot be ended for the reason of a limit (ReasonInactivity,
// ReasonActiveLimit, ReasonAbandoned): that is an error.
func (h *Hook) End(ctx context.Context, sid string, reason policy.Reason, by string) error {
	return h.endID(ctx, sid, reason, by)
}

func (h *ends) endID(ctx context.Context, sid string, reason policy.Reason, by string) error {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	s, err := h.getOrLost(ctx, sid)
	if err != nil {
		return fmt.Errorf("end session %q: %w", sid, err)
	}
	if s.End != nil {
		return nil
	}
	r := h.rulesToEnd(ctx, &s)
	ended, _, err := h.end(ctx, s, r, reason, by)
	if err == nil && ended.End == nil {
		err = errLive(reason)
	}
	if err != nil {
		return fmt.Errorf("end session %q: %w", sid, err)
	}
	return nil
}

func errLive(reason policy.Reason) error {
	return fmt.Errorf("%q is the reason of a limit that was reached, and the session is live", reason)
}

// rulesToEnd returns the rules for a session for an end that does not depend on
// them: if they cannot be had, only a limit that was reached before is missed. Of a
// session of which nothing but the subject is known they are the subject's.
func (h *rulebook) rulesToEnd(ctx context.Context, s *store.Session) ruling {
	r, err := h.rulesOf(ctx, s)
	if err != nil {
		return ruling{}
	}
	return r
}

// EndAll ends all sessions of a subject except the given ones, at most [store.MaxSpared], and
// returns how many it ended. Logins whose code is not redeemed yet end as well, uncounted. Use it
// when a password is reset
// (ReasonCredentialChange) or an account disabled (ReasonAccountDisabled).
//
// Its first write is the fence of the subject. It is a single write, and no number of racing logins
// can delay it. Once it is written, every session that began before has ended, whoever reads it,
// and a login that rests on an older authentication is refused with the reason. Such a login may
// still join other applications to an excepted session. Then EndAll writes each session's own
// document, and sends events and notifications. If that fails, an event says so
// ([EventUnavailable]), the returned number is too low, and a sweep finishes the work: the sessions
// have ended all the same. An error means that the fence may not have been written.
//
// An authentication is as old as its auth_time. If the provider keeps whole seconds, a user who
// signs in during the second of the end must sign in again. If the provider remembers
// authentications for longer than Config.Remember after the end, set [Config.NotBefore].
//
// As for [Hook.End], the reason of a limit is an error if a session is live; then no session ends.
func (h *Hook) EndAll(ctx context.Context, subject store.Subject, reason policy.Reason, by string, except ...string) (int, error) {
	excepted := func(s *store.Session) bool { return slices.Contains(except, s.ID) }
	var ended []store.Session
	var err error
	if reason.Info().Class == policy.ByTime {
		ended, err = h.endThose(ctx, subject, reason, by, func(s *store.Session) bool { return !excepted(s) })
	} else {
		ended, err = h.endAll(ctx, subject, reason, by, except)
	}
	if err != nil {
		return 0, fmt.Errorf("end all sessions: %w", err)
	}
	n := 0
	for i := range ended {
		if ended[i].ReservedUntil.IsZero() && ended[i].End.Reason == reason {
			n++
		}
	}
	return n, nil
}

// endAll ends all sessions of a subject but the excepted ones: see [Hook.EndAll]. It
// returns those whose documents it wrote.
func (h *ends) endAll(ctx context.Context, subject store.Subject, reason policy.Reason, by string, except []string) ([]store.Session, error) {
	ctx = context.WithoutCancel(ctx) // of which each step has a time of its own
	f, err := h.raise(ctx, subject, reason, by, except)
	if err != nil {
		return nil, err
	}
	ended, err := h.endStopped(ctx, f, func(s *store.Session) bool {
		// One that began later is of a clock that is ahead, or of a login that
		// races this.
		return s.Fenced() || !slices.Contains(except, s.ID)
	})
	if err == nil {
		err = h.carriedOut(ctx, f)
	}
	if err != nil {
		h.event(ctx, Event{Type: EventUnavailable, Subject: subject, Err: fmt.Errorf("end all sessions: a sweep goes on: %w", err)})
	}
	if err == nil && len(ended) == 0 {
		nctx, cancel := h.detach(ctx)
		defer cancel()
		if err := h.notLost(nctx); err != nil { // what comes back would be live
			return nil, err
		}
	}
	return ended, nil
}

// endThose ends the sessions of a subject that pick chooses, in one step with
// admission, and returns them: those that were over already too, with their own
// reason. pick may be called more than once for a session.
func (h *ends) endThose(ctx context.Context, subject store.Subject, reason policy.Reason, by string, pick func(*store.Session) bool) ([]store.Session, error) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	r := h.rulesToEnd(ctx, &store.Session{Subject: subject})
	var ended []store.Session
	err := h.step(ctx, subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		ended = ended[:0]
		now := h.now()
		for _, s := range held {
			if !pick(&s) {
				continue
			}
			if d := r.rules.Check(now, s.Policy(), policy.Use{}); !d.Allow {
				h.finish(&s, r, d.At, d.Reason, "")
			} else if reason.Info().Class == policy.ByTime {
				return nil, errLive(reason)
			} else {
				h.finish(&s, r, now, reason, by)
			}
			ended = append(ended, s)
		}
		return ended, nil
	})
	if err == nil && len(ended) == 0 {
		err = h.notLost(ctx) // what comes back would be live
	}
	if err != nil {
		return nil, err
	}
	for i := range ended {
		h.announceEnd(ctx, r, ended[i])
	}
	return ended, nil
}
