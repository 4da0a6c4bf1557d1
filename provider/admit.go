package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// admit gives a login its session: the one it goes on in, or joins, or a new one if the
// policy lets it. It is the one choke point: every first token of a login comes after it.
// (A token from before the installation is no login: its session is entered by
// enterSession, which this calls too. Tokens of the provider's own are of a session that
// there is.) [session.Login.Decide] decides. The error is a *refusedError, or one of the store.
func (h *admissions) admit(ctx context.Context, l session.Login) (store.Session, ruling, error) {
	r, err := h.rules(ctx, l.Subject, true)
	if err != nil {
		return store.Session{}, r, fmt.Errorf("settings: %w", err)
	}
	// Before, so that it ends nobody's session at a cap.
	if l.Outdated, err = h.outdated(ctx, authenticatedOf(&l), l.Authenticated); err != nil {
		return store.Session{}, r, err
	}
	s, r, err := h.enterSession(ctx, &l, r)
	if err != nil || l.Outdated {
		return s, r, err
	}
	// And after: what is changed from now on finds the session, and ends it.
	switch outdated, err := h.outdated(ctx, authenticatedOf(&l), l.Authenticated); {
	case err != nil:
		return store.Session{}, r, err
	case outdated:
		h.withdraw(ctx, s, r, l.Authenticated)
		d := policy.Decision{Reason: policy.ReasonCredentialChange}
		h.tellRefused(ctx, asRefused(&l, r), d)
		return store.Session{}, r, isOver(d, h.now())
	}
	return s, r, nil
}

// authenticatedOf is who entered the credentials that a login rests on.
func authenticatedOf(l *session.Login) store.Subject {
	if l.Parent != nil {
		return l.Parent.Subject
	}
	return l.Subject
}

// errUndecided ends a step that writes nothing.
var errUndecided = errors.New("the login takes no session")

// enterSession decides about a login, in one serializable step with all others of its
// subject, and does what was decided. The step is repeated if it has to know more first.
func (h *admissions) enterSession(ctx context.Context, l *session.Login, r ruling) (store.Session, ruling, error) {
	terms := h.terms(r)
	var known session.View // of sessions that have ended
	for {
		v, s, ended, err := h.stepIn(ctx, l, r, terms, known)
		switch {
		case errors.Is(err, store.ErrExists):
			// There is a document by the ID of the session that the login would begin: it
			// has ended, it came to nothing, or it is a record of a version before.
			if l.Adopted {
				return store.Session{}, r, err
			}
			if s, err = h.get(ctx, l.SID); err != nil {
				return store.Session{}, r, err
			}
			if s.Joined == "" && s.End != nil && !(l.Lasting && cameToNothing(&s)) {
				return store.Session{}, r, hasEnded(&s)
			}
			l.SID = sidAfter(&s)
			continue
		case err != nil && !errors.Is(err, errUndecided):
			return store.Session{}, r, err
		}
		switch v.Act {
		case session.Look:
			known, err = h.look(ctx, l)
		case session.Begin:
			if l.Known() {
				return h.began(ctx, l, r, v, s, ended)
			}
			var parent store.Session
			if parent, err = h.enterChild(ctx, *l.Parent, l.SID); err == nil {
				l.Parent = &parent
			}
		case session.GoOn, session.Join:
			return h.joined(ctx, s, r)
		default:
			err = h.refusal(ctx, l, r, v, known.Ended)
		}
		if err != nil {
			return store.Session{}, r, err
		}
	}
}

// terms are what holds for the logins of a subject with the rules r.
func (h *rulebook) terms(r ruling) *session.Terms {
	t := &session.Terms{
		Rules: r.rules, Accounts: r.accounts, Who: r.who, CodeLifetime: h.cfg.CodeLifetime,
		Remainder: h.cfg.Remainder, MaxSessions: h.cfg.MaxSessions, MaxGrants: h.cfg.MaxGrants,
	}
	if r.observes {
		t.Observed = &r.observed
	}
	return t
}

// stepIn is the step: it returns the verdict, the session that the login is in, and
// those that ended for it. A session that is another one's child begins once that one
// knows it.
func (h *admissions) stepIn(ctx context.Context, l *session.Login, r ruling, t *session.Terms, known session.View) (v session.Verdict, s store.Session, ended []store.Session, err error) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	err = h.step(ctx, l.Subject, func(held []store.Session, fence store.Fence) ([]store.Session, error) {
		view := known
		view.Now, view.Fence, view.Held = h.now(), fence, held
		v, ended = l.Decide(t, &view), nil
		find := func(id string) store.Session {
			i := slices.IndexFunc(held, func(s store.Session) bool { return s.ID == id })
			return held[i]
		}
		switch {
		case v.Act == session.GoOn, v.Act == session.Join:
			s = find(v.Session)
			l.Enter(&s, t, view.Now)
			h.schedule(&s, r)
			s.Revision++
			return []store.Session{s}, nil
		case v.Act == session.Begin && l.Known():
			if slices.ContainsFunc(held, func(s store.Session) bool { return s.ID == l.SID }) {
				return nil, store.ErrExists
			}
			s = l.Session(t, view.Now)
			if l.Browser != nil && !v.Apart {
				l.Browser.Keep(&s, true)
			}
			h.schedule(&s, r)
			s.Revision = 1
			for _, e := range v.End {
				gone := find(e.ID)
				h.finish(&gone, r, view.Now, e.Reason, "")
				ended = append(ended, gone)
			}
			return append(ended[:len(ended):len(ended)], s), nil
		}
		return nil, errUndecided
	})
	return v, s, ended, err
}

// look reads what a login needs to know of the sessions of its subject that have ended:
// one, if no other can refuse it, since there may be very many. One that cannot be read
// refuses nobody: the limits hold without it.
func (h *admissions) look(ctx context.Context, l *session.Login) (session.View, error) {
	v := session.View{Looked: true}
	if l.Current || l.SID == l.Former {
		first, err := h.get(ctx, l.Former)
		switch {
		case err == nil && first.End != nil:
			v.Former = first.End.Latest
		case errors.Is(err, store.ErrNotFound) || err != nil && alone(err):
			err = nil
		}
		return v, err
	}
	for s, err := range h.stored(ctx, store.Filter{Subject: l.Subject, State: store.Ended}, 500) {
		switch {
		case err != nil && !alone(err):
			return v, err
		case err != nil || s.Joined != "":
			continue
		}
		if s.ID == l.Former {
			v.Former = s.End.Latest
		}
		v.Ended = append(v.Ended, s)
	}
	return v, nil
}

// began tells of a session that a login began.
func (h *admissions) began(ctx context.Context, l *session.Login, r ruling, v session.Verdict, s store.Session, ended []store.Session) (store.Session, ruling, error) {
	if !v.Observed.Allow {
		h.wouldRefuse(ctx, s, v.Observed)
	}
	for _, e := range v.Observed.End {
		h.event(ctx, Event{Type: EventWouldEnd, Subject: s.Subject, SID: e.ID, Reason: e.Reason})
	}
	for i := range ended {
		h.announceEnd(ctx, r, ended[i])
	}
	h.started(ctx, &s)
	if l.Parent != nil {
		if err := h.boundChildren(ctx, *l.Parent, s.ID); err != nil {
			return store.Session{}, r, err
		}
	}
	return s, r, nil
}

// joined looks at a session that a login went on in, as it is now.
func (h *admissions) joined(ctx context.Context, s store.Session, r ruling) (store.Session, ruling, error) {
	s, r, err := h.settle(ctx, s, r)
	if err == nil {
		err = usable(&s, r, h.now(), policy.Use{})
	}
	return s, r, err
}

// refusal tells of a refused login, and returns the refusal.
func (h *admissions) refusal(ctx context.Context, l *session.Login, r ruling, v session.Verdict, ended []store.Session) error {
	switch {
	case v.Act == session.Ask:
		h.tellAsked(ctx, asRefused(l, r), v.Decision)
		return &refusedError{reason: v.Decision.Reason, text: refusalText(v.Decision), ask: &v.Decision}
	case v.Refusal == session.TooMany:
		h.tellRefused(ctx, asRefused(l, r), v.Decision)
		return oneTooMany(v.Decision)
	case v.Refusal == session.Over:
		h.tellRefused(ctx, asRefused(l, r), v.Decision)
		return isOver(v.Decision, h.now())
	case v.Refusal == session.Ended:
		i := slices.IndexFunc(ended, func(s store.Session) bool { return s.ID == v.Session })
		return hasEnded(&ended[i])
	case v.Refusal == session.Nobody:
		return notSignedIn()
	}
	return lateCode()
}

// asRefused is what is told of the session that a refused login would have begun.
func asRefused(l *session.Login, r ruling) store.Session {
	return store.Session{Subject: l.Subject, Accounts: r.accounts, Client: l.Client, Kind: l.Kind}
}

// outdated asks Config.NotBefore about an authentication. Times are compared as
// stores keep them: a database may have rounded one of the two.
func (h *admissions) outdated(ctx context.Context, subject store.Subject, at time.Time) (bool, error) {
	if h.cfg.NotBefore == nil || at.IsZero() {
		return false, nil
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	since, err := h.cfg.NotBefore(ctx, subject)
	if err != nil {
		return false, fmt.Errorf("Config.NotBefore: %w", err)
	}
	return at.Truncate(time.Microsecond).Before(since.Truncate(time.Microsecond)), nil
}

// withdraw ends the reservation of a login that is refused after all, unless newer
// credentials came to it. If that fails it is over soon.
func (h *admissions) withdraw(ctx context.Context, s store.Session, r ruling, authTime time.Time) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	_, _ = h.change(ctx, s, func(s *store.Session) error {
		if s.End != nil || s.ReservedUntil.IsZero() || s.Authenticated.After(authTime) {
			return errNoChange
		}
		s.ReservedUntil = h.now()
		h.finish(s, r, s.ReservedUntil, policy.ReasonAbandoned, "")
		return nil
	})
}

// confirm makes a session of a reservation, where no grant that is made confirms it.
func (h *admissions) confirm(ctx context.Context, s store.Session, r ruling) (store.Session, error) {
	s, began, err := h.makeSession(ctx, s, r)
	if err != nil || !began {
		return s, err
	}
	h.started(ctx, &s)
	return s, nil
}

// makeSession makes a session of a reservation, and reports whether it was still one.
func (h *admissions) makeSession(ctx context.Context, s store.Session, r ruling) (made store.Session, began bool, err error) {
	if s.ReservedUntil.IsZero() {
		return s, false, nil
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	made, err = h.change(ctx, s, func(s *store.Session) error {
		if err := usable(s, r, h.now(), policy.Use{}); err != nil {
			return err
		}
		began = !s.ReservedUntil.IsZero() // else the request that made a session of it tells
		s.ReservedUntil = time.Time{}
		h.schedule(s, r)
		return nil
	})
	if err != nil {
		return store.Session{}, false, err
	}
	return made, began, nil
}

// tellRefused tells of a login that is refused, and counts it.
func (h *base) tellRefused(ctx context.Context, s store.Session, d policy.Decision) {
	e := Event{
		Type: EventRefused, Subject: s.Subject, Client: s.Client, Kind: s.Kind,
		Reason: d.Reason, Used: d.Used, Max: d.Max,
	}
	h.count(e, &s)
	h.event(ctx, e)
}

// tellAsked tells of a login whose user is asked to make room first.
func (h *base) tellAsked(ctx context.Context, s store.Session, d policy.Decision) {
	h.event(ctx, Event{Type: EventAsked, Subject: s.Subject, Client: s.Client, Kind: s.Kind, Reason: d.Reason, Used: d.Used, Max: d.Max})
}

// oneTooMany is the refusal of a login by a cap.
func oneTooMany(d policy.Decision) *refusedError {
	return &refusedError{reason: d.Reason, text: refusalText(d)}
}

// isOver is the refusal of a login that is over, or is about to be.
func isOver(d policy.Decision, now time.Time) *refusedError {
	text := refusalText(d)
	if d.At.After(now) {
		text = almostOverText(d)
	}
	return &refusedError{reason: d.Reason, text: text, over: true}
}

func (h *base) wouldRefuse(ctx context.Context, s store.Session, d policy.Decision) {
	h.event(ctx, Event{
		Type: EventWouldRefuse, Subject: s.Subject, SID: s.ID, Client: s.Client, Kind: s.Kind,
		Reason: d.Reason, Used: d.Used, Max: d.Max,
	})
}

// started tells of a session that began. A reservation has not begun yet.
func (h *base) started(ctx context.Context, s *store.Session) {
	if s.ReservedUntil.IsZero() {
		h.sessionEvent(ctx, EventStarted, s, "")
	}
}

// lateCode is the answer to a login whose code was not redeemed in its time.
func lateCode() error {
	return &refusedError{
		reason: policy.ReasonAbandoned, text: policy.ReasonAbandoned.Info().Description(), over: true,
	}
}
