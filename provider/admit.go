package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/browser"
	"github.com/curfew-oidc/curfew/provider/internal/notify"
	"github.com/curfew-oidc/curfew/store"
)

// An admission is a login that asks for a session.
type admission struct {
	subject    store.Subject
	client     string // its ID
	clientName string // by which users know it
	kind       policy.Kind
	authTime   time.Time // when the user entered their credentials; zero: the provider does not say

	// From where it comes, as far as that is kept.
	address, userAgent string

	// sid returns the session's ID. n counts the sessions before it that
	// went by the same name and do not stand in its way; see passed. Each has
	// another ID.
	sid func(n int) string

	// renews says that a newer authentication starts a new session under the
	// same name: the name is the provider's own session, not a request.
	renews bool

	// reserve holds the slot for the code's lifetime only. The code is known
	// by the hash of its auth request's ID; nil: there is none.
	reserve bool
	code    []byte

	// browser gives the session the cookie of the browser that signs in to
	// it; nil: it gets none. joins is the session that the login belongs to
	// already, own the name that stands for this login alone, and alias the
	// same where it has to be noted that the login joined another session.
	browser           *browser.Join
	joins, own, alias string

	// silent says that the application asked for an answer without the user
	// (prompt=none), prompted that it did not. Neither: nobody knows.
	silent, prompted bool

	// apart returns the session's ID where a session by the first name is that of
	// another tab of its browser, and not limited as this login would be; nil: the
	// name is nobody else's.
	apart func(n int) string

	// named says that the provider's own session is the name.
	named bool

	// idToken says that the application gets an ID token and nothing else, so
	// that no grant of tokens says that it was signed in to.
	idToken bool

	// outdated says that the login rests on credentials from before
	// Config.NotBefore: it begins no session, and goes on in one that began
	// before and was not ended then.
	outdated bool

	// adopt admits a session from before the installation: it counts, and is
	// not refused for the cap.
	adopt bool

	// ask offers the user the choice which other session to end, where a cap
	// asks, and reports whether it can be offered here. Nil: it cannot.
	ask func(s store.Session, d policy.Decision) bool

	// parent is the session that token exchange makes this one from: it rests on the
	// same authentication, of that one's user, and begins only if that goes on. Nil:
	// none.
	parent *store.Session

	amr []string
	acr string
}

// maxCodes bounds how many codes a session remembers, and codeRemembered how long it
// does after they are late: as long as an abandoned login is.
const (
	maxCodes       = 16
	codeRemembered = 24 * time.Hour
)

// late reports whether the login's code has outlived its time. Nothing makes
// that longer: not a callback that is loaded again, nor a session that was there
// before.
func (a *admission) late(s *store.Session, now time.Time) bool {
	i := a.codeIn(s)
	return i >= 0 && !now.Before(s.Codes[i].Until)
}

// forgotten reports whether the session has had so many codes that the login's is not
// among them any more. Where codes are noted at their redemption alone, by a provider
// that does without the callback, one that is not there may be new.
func (a *admission) forgotten(s *store.Session) bool {
	return a.code != nil && a.codeIn(s) < 0 && len(s.Codes) >= maxCodes &&
		!slices.ContainsFunc(s.Codes, func(c store.Code) bool { return c.Used.Equal(c.Until) })
}

func (a *admission) codeIn(s *store.Session) int {
	if a.code == nil {
		return -1
	}
	return codeAt(s.Codes, a.code)
}

// reserveIn enters the login's code in a session, unless it is there, and returns
// until when it is good.
func (a *admission) reserveIn(s *store.Session, now time.Time, lifetime time.Duration) time.Time {
	if i := a.codeIn(s); i >= 0 {
		return s.Codes[i].Until
	}
	until := now.Add(lifetime)
	if a.code == nil {
		return until
	}
	s.Codes = withCode(s.Codes, store.Code{Hash: a.code, Until: until}, now)
	return until
}

// enterClient remembers the application of a login that is answered by an ID token
// alone: it is told of the end like those that have a grant (Back-Channel Logout
// 1.0 section 2.3).
func (a *admission) enterClient(s *store.Session, now time.Time, max int) {
	if !a.idToken {
		return
	}
	id := accessGrantID(a.client, s.Authenticated, "")
	if s.Grant(id) == nil {
		putGrant(s, store.Grant{ID: id, Client: a.client, Authenticated: s.Authenticated, Rotated: now, Generation: uint64(now.UnixMicro())}, max)
	}
}

// passed reports whether an ended session by the same name does not stand in
// the way of a new login.
func (a *admission) passed(s *store.Session, now time.Time) bool {
	if s.End == nil || a.late(s, now) {
		return false
	}
	if a.authTime.IsZero() && a.alias != "" {
		return true // the name is another tab's, and nothing says that the credentials are older
	}
	if a.parent != nil {
		return true // which goes on, and is who may begin another one
	}
	return s.End.Reason == policy.ReasonAbandoned || a.renews && !a.authTime.Before(s.End.At)
}

// authenticated is who entered the credentials that the login rests on.
func (a *admission) authenticated() store.Subject {
	if a.parent != nil {
		return a.parent.Subject
	}
	return a.subject
}

// freed reports whether a name leads to a session that has ended, and that this
// login never was in: its credentials are newer, so another one may have the name.
// Where the provider says nothing of them, they were entered now.
func (a *admission) freed(s *store.Session) bool {
	return s.End != nil && a.codeIn(s) < 0 &&
		(s.End.Reason == policy.ReasonAbandoned || a.authTime.IsZero() || a.authTime.After(s.End.At))
}

// standingApart is a login that has a session of its own, and leaves the browser
// its other one.
func (a admission) standingApart() admission {
	a.sid, a.apart, a.alias, a.browser = a.apart, nil, "", nil
	return a
}

// admit gives a login its session: the one it has already, or a new one if the
// policy lets it. It is the one choke point: every first token comes after it.
// The error is a *refusedError, or one of the store.
func (h *Hook) admit(ctx context.Context, a admission) (store.Session, ruling, error) {
	r, err := h.rules(ctx, a.subject, true)
	if err != nil {
		return store.Session{}, r, fmt.Errorf("settings: %w", err)
	}
	// Before, so that it ends nobody's session at a cap.
	if a.outdated, err = h.outdated(ctx, a.authenticated(), a.authTime); err != nil {
		return store.Session{}, r, err
	}
	s, r, err := h.admitUnder(ctx, a, r)
	if err != nil || a.outdated {
		return s, r, err
	}
	// And after: what is changed from now on finds the session, and ends it.
	switch outdated, err := h.outdated(ctx, a.authenticated(), a.authTime); {
	case err != nil:
		return store.Session{}, r, err
	case outdated:
		h.withdraw(ctx, s, r, &a)
		h.tellOutdated(ctx, &a, r, policy.ReasonCredentialChange)
		return store.Session{}, r, isOver(policy.Decision{Reason: policy.ReasonCredentialChange}, h.now())
	}
	return s, r, nil
}

// outdated asks Config.NotBefore about an authentication. Times are compared as
// stores keep them: a database may have rounded one of the two.
func (h *Hook) outdated(ctx context.Context, subject store.Subject, at time.Time) (bool, error) {
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

// errOutdated is returned by a change of a session that an outdated login may not
// go on in.
var errOutdated = errors.New("the login rests on credentials that are not the user's any more")

// withdraw ends the reservation of a login that is refused after all, unless newer
// credentials came to it. If that fails it is over soon.
func (h *Hook) withdraw(ctx context.Context, s store.Session, r ruling, a *admission) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	_, _ = h.change(ctx, s, func(s *store.Session) error {
		if s.End != nil || s.ReservedUntil.IsZero() || s.Authenticated.After(a.authTime) {
			return errNoChange
		}
		s.ReservedUntil = h.now()
		h.finish(s, r, s.ReservedUntil, policy.ReasonAbandoned, "")
		return nil
	})
}

// confirm makes a session of a reservation, where no grant that is made confirms it.
func (h *Hook) confirm(ctx context.Context, s store.Session, r ruling) (store.Session, error) {
	s, began, err := h.makeSession(ctx, s, r)
	if err != nil || !began {
		return s, err
	}
	h.started(ctx, &s)
	return s, nil
}

// makeSession makes a session of a reservation, and reports whether it was still one.
func (h *Hook) makeSession(ctx context.Context, s store.Session, r ruling) (made store.Session, began bool, err error) {
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

// admitUnder is admit under the rules r.
func (h *Hook) admitUnder(ctx context.Context, a admission, r ruling) (store.Session, ruling, error) {
	base := ctx
	ctx, cancel := h.detach(ctx)
	defer cancel()
	if a.joins != "" {
		direct := a
		if a.joins != a.own {
			direct.apart = nil // whether it may was asked before
		}
		joined, err := h.join(ctx, direct, r, a.joins)
		switch {
		case err == nil && joined.End == nil:
			return joined, r, nil
		case errors.Is(err, errApart):
			a = a.standingApart()
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return joined, r, err
		case a.joins != a.own: // and is noted for the code
			return store.Session{}, r, lateCode()
		}
		// The session that it joined is no more, and it may have another one.
	}
	s := h.newSession(a, r, a.sid(0))
	tooOld := policy.Decision{Reason: policy.ReasonCredentialChange}
	if !a.outdated {
		var err error
		if tooOld, err = h.tooOld(ctx, s, r); err != nil {
			return store.Session{}, r, err
		}
	}
	var first store.Session // by the name, if it is over
	for n := 0; ; {
		got, err := h.createOrJoin(base, s, a, r, tooOld)
		if errors.Is(err, errApart) {
			a, n = a.standingApart(), 0
			s = h.newSession(a, r, a.sid(0))
			continue
		}
		if err != nil {
			return got, r, err
		}
		if !a.passed(&got, h.now()) {
			if n > 0 {
				h.renewed(base, first, n, got.ID)
			}
			return got, r, nil
		}
		if n == 0 {
			first = got
		}
		n = nextNamesake(n, &got)
		s.ID = a.sid(n)
	}
}

// createOrJoin makes the session s, or returns the one that has its ID. It has its
// own time: one before it may have ended a session, and waited for OnEnd.
func (h *Hook) createOrJoin(ctx context.Context, s store.Session, a admission, r ruling, tooOld policy.Decision) (store.Session, error) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	if tooOld.Allow {
		var parent store.Session
		if a.parent != nil {
			var err error
			if parent, err = h.enterChild(ctx, *a.parent, s.ID); err != nil {
				return store.Session{}, err
			}
		}
		created, err := h.create(ctx, s, a, r)
		if err == nil && a.parent != nil {
			err = h.boundChildren(ctx, parent, s.ID)
		}
		if !errors.Is(err, store.ErrExists) {
			return created, err
		}
	}
	joined, err := h.join(ctx, a, r, s.ID)
	if errors.Is(err, store.ErrNotFound) && !tooOld.Allow {
		h.tellRefused(ctx, s, tooOld)
		return store.Session{}, isOver(tooOld, h.now())
	}
	return joined, err
}

// nextNamesake returns the number of the session to look at after s, the n-th
// by its name, which was passed. The first one tells of the latest, so that a
// name costs the same after a thousand ends.
func nextNamesake(n int, s *store.Session) int {
	if n == 0 && s.End != nil {
		return max(1, int(s.End.Renewals))
	}
	return n + 1
}

// renewed notes on the first session by a name that the n-th is its latest. If
// it fails, the next login by the name has a longer way, and notes it then.
func (h *Hook) renewed(ctx context.Context, first store.Session, n int, latest string) {
	if first.End.Renewals >= uint64(n) {
		return
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	_, _ = h.change(ctx, first, func(s *store.Session) error {
		if s.End == nil || s.End.Renewals >= uint64(n) {
			return errNoChange
		}
		end := *s.End
		end.Latest, end.Renewals = latest, uint64(n)
		s.End = &end
		if !end.Owed && notify.Next(s).IsZero() {
			s.Due = h.now().Add(h.cfg.Remember)
		}
		return nil
	})
}

// newSession is the session that a login makes if it is admitted.
func (h *Hook) newSession(a admission, r ruling, id string) store.Session {
	now := h.now()
	started := a.authTime.UTC().Truncate(time.Microsecond)
	if a.authTime.IsZero() || started.After(now) {
		started = now
	}
	s := store.Session{
		Format: store.Format, ID: id, Subject: a.subject,
		Accounts: r.accounts, Who: r.who, Kind: a.kind,
		Started: started, Authenticated: started, LastActivity: now, ActivityClass: policy.Interactive,
		AMR: a.amr, ACR: a.acr,
		UserAgent: a.userAgent, Address: a.address,
		ClientNames: withName(nil, a.clientName),
		Adopted:     a.adopt, Client: a.client,
	}
	if a.parent != nil {
		s.Parent, s.Actor, s.Started = a.parent.ID, a.parent.Subject.ID, now
	}
	if a.reserve {
		s.ReservedUntil = a.reserveIn(&s, now, h.cfg.CodeLifetime)
	}
	a.enterClient(&s, now, h.cfg.MaxGrants)
	if a.browser != nil {
		a.browser.Enter(&s, true)
	}
	h.schedule(&s, r)
	return s
}

// tooOld decides whether the authentication of a new session is over already.
// A single sign-on that remembers a login cannot restart it: the session is as
// old as its authentication, for both limits, unless it was in use meanwhile.
func (h *Hook) tooOld(ctx context.Context, s store.Session, r ruling) (policy.Decision, error) {
	now := h.now()
	p := s.Policy()
	p.ReservedUntil = time.Time{}
	if s.Parent == "" { // which is in use now
		p.LastActivity = s.Authenticated
	}
	d := r.rules.Check(now, p, policy.Use{})
	if d.Reason == policy.ReasonInactivity {
		used, err := h.lastUseOf(ctx, s.Subject, s.Authenticated, r, now)
		if err != nil {
			return d, err
		}
		if used.After(p.LastActivity) {
			p.LastActivity = used
			d = r.rules.Check(now, p, policy.Use{})
		}
	}
	if d.Allow && r.observes {
		if would := r.observed.Check(now, p, policy.Use{}); !would.Allow {
			h.wouldRefuse(ctx, s, would)
		}
	}
	if d.Allow {
		d = h.almostOver(&s, r, s.Client, s.Authenticated, now)
	}
	return d, nil
}

// almostOver refuses a session of which less is left than [Config.Remainder], as it is
// for a login by a client that rests on an authentication.
func (h *Hook) almostOver(s *store.Session, r ruling, client string, authTime, now time.Time) policy.Decision {
	w := r.rules.Window(s.Policy(), policy.Use{Client: client, Authenticated: restsOn(authTime, s)})
	if w.End.IsZero() || w.End.Sub(now) >= h.remainder(w.Active) {
		return policy.Decision{Allow: true}
	}
	return policy.Decision{Reason: policy.ReasonActiveLimit, At: w.End, Limit: w.Active}
}

// remainder is how much must be left of an active limit.
func (h *Hook) remainder(active time.Duration) time.Duration { return min(h.cfg.Remainder, active/10) }

// create adds the session s if the policy lets it begin. If there is one with
// its ID the error wraps [store.ErrExists].
func (h *Hook) create(ctx context.Context, s store.Session, a admission, r ruling) (store.Session, error) {
	now := h.now()
	var err error
	if !r.rules.Capped(s.Kind, s.Client) && !(r.observes && r.observed.Capped(s.Kind, s.Client)) {
		if err = h.cfg.Store.Create(ctx, s, h.cfg.MaxSessions); err == nil {
			h.started(ctx, &s)
			return s, nil
		}
		if !errors.Is(err, store.ErrFull) && !errors.Is(err, store.ErrFenced) {
			return store.Session{}, err
		}
		// Full of sessions that are over, perhaps: the long way ends them. Or it
		// rests on an authentication from before an end of all sessions: the long
		// way says why they ended.
	}

	var ended []store.Session
	var observed policy.Decision
	err = h.step(ctx, s.Subject, r, func(held []store.Session, fence store.Fence) ([]store.Session, error) {
		ended = ended[:0]
		if fence.Past(s.Started) {
			return nil, &decidedError{policy.Decision{Reason: fence.Reason}, true}
		}
		others := make([]policy.Session, 0, len(held))
		byID := make(map[string]*store.Session, len(held))
		for i := range held {
			if held[i].ID == s.ID {
				return nil, store.ErrExists
			}
			byID[held[i].ID] = &held[i]
			others = append(others, held[i].Policy())
		}
		d := r.rules.Admit(now, others, s.Policy())
		if !d.Allow && a.adopt {
			d = policy.Decision{Allow: true}
		}
		if !d.Allow {
			return nil, &decidedError{d, false}
		}
		d.End = append(d.End, h.beyondBound(held, d.End)...)
		if r.observes {
			observed = r.observed.Admit(now, others, s.Policy())
		}
		for _, e := range d.End {
			gone := byID[e.ID]
			h.finish(gone, r, now, e.Reason, "")
			ended = append(ended, *gone)
		}
		return append(append([]store.Session(nil), ended...), s), nil
	})
	var refused *decidedError
	switch {
	case errors.As(err, &refused):
		// The step does not see sessions that have ended. If there is one by
		// this name, the login may yet join the one that came after it.
		if _, err := h.load(ctx, s.ID); !errors.Is(err, store.ErrNotFound) {
			return store.Session{}, cmp.Or(err, store.ErrExists)
		}
		if refused.over {
			h.tellRefused(ctx, s, refused.d)
			return store.Session{}, isOver(refused.d, h.now())
		}
		if refused.d.Ask && a.ask != nil && a.ask(s, refused.d) {
			h.tellAsked(ctx, s, refused.d)
			return store.Session{}, oneTooMany(refused.d)
		}
		h.tellRefused(ctx, s, refused.d)
		return store.Session{}, oneTooMany(refused.d)
	case err != nil:
		return store.Session{}, err
	}
	if r.observes {
		if !observed.Allow {
			h.wouldRefuse(ctx, s, observed)
		}
		for _, e := range observed.End {
			h.event(ctx, Event{Type: EventWouldEnd, Subject: s.Subject, SID: e.ID, Reason: e.Reason})
		}
	}
	for i := range ended {
		h.announceEnd(ctx, r, ended[i])
	}
	h.started(ctx, &s)
	return s, nil
}

// lastUseOf returns when the subject's live sessions that rest on the same
// authentication were used last; zero if there is none. They are what a single
// sign-on of the provider's own signed in to other applications, where
// [Config.SSOSession] does not say so.
func (h *Hook) lastUseOf(ctx context.Context, subject store.Subject, authenticated time.Time, r ruling, now time.Time) (time.Time, error) {
	var last time.Time
	for s, err := range h.stored(ctx, store.Filter{Subject: subject, State: store.Unended}, 100) {
		if err != nil {
			return time.Time{}, err
		}
		if !s.Fenced() && s.Authenticated.Equal(authenticated) && s.LastActivity.After(last) && r.rules.Check(now, s.Policy(), policy.Use{}).Allow {
			last = s.LastActivity
		}
	}
	return last, nil
}

// beyondBound returns what must end beside the given endings for one more
// session to stay within Config.MaxSessions: the longest unused. Where no cap
// is set, old sessions that nobody signed out of must not lock their user out.
func (h *Hook) beyondBound(held []store.Session, ending []policy.Ending) []policy.Ending {
	surplus := len(held) - len(ending) + 1 - h.cfg.MaxSessions
	if surplus <= 0 {
		return nil
	}
	var left []store.Session
	for _, s := range held {
		if !slices.ContainsFunc(ending, func(e policy.Ending) bool { return e.ID == s.ID }) {
			left = append(left, s)
		}
	}
	slices.SortFunc(left, func(a, b store.Session) int {
		return cmp.Or(a.LastActivity.Compare(b.LastActivity), cmp.Compare(a.ID, b.ID))
	})
	end := make([]policy.Ending, surplus)
	for i := range end {
		end[i] = policy.Ending{ID: left[i].ID, Reason: policy.ReasonConcurrency}
	}
	return end
}

// A decidedError carries a refusal out of the serializable step.
type decidedError struct {
	d    policy.Decision
	over bool // the login is over, rather than one too many
}

func (e *decidedError) Error() string { return "refused: " + string(e.d.Reason) }

// tellRefused tells of a login that is refused, and counts it.
func (h *Hook) tellRefused(ctx context.Context, s store.Session, d policy.Decision) {
	e := Event{
		Type: EventRefused, Subject: s.Subject, Client: s.Client, Kind: s.Kind,
		Reason: d.Reason, Used: d.Used, Max: d.Max,
	}
	h.count(e, &s)
	h.event(ctx, e)
}

// tellAsked tells of a login whose user is asked to make room first.
func (h *Hook) tellAsked(ctx context.Context, s store.Session, d policy.Decision) {
	h.event(ctx, Event{Type: EventAsked, Subject: s.Subject, Client: s.Client, Kind: s.Kind, Reason: d.Reason, Used: d.Used, Max: d.Max})
}

// tellOutdated tells of a login that rests on credentials that are not the user's
// any more, or on an authentication from before all sessions ended.
func (h *Hook) tellOutdated(ctx context.Context, a *admission, r ruling, why policy.Reason) {
	h.tellRefused(ctx, store.Session{Subject: a.subject, Accounts: r.accounts, Client: a.client, Kind: a.kind}, policy.Decision{Reason: why})
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

func (h *Hook) wouldRefuse(ctx context.Context, s store.Session, d policy.Decision) {
	h.event(ctx, Event{
		Type: EventWouldRefuse, Subject: s.Subject, SID: s.ID, Client: s.Client, Kind: s.Kind,
		Reason: d.Reason, Used: d.Used, Max: d.Max,
	})
}

// started tells of a session that began. A reservation has not begun yet.
func (h *Hook) started(ctx context.Context, s *store.Session) {
	if s.ReservedUntil.IsZero() {
		h.sessionEvent(ctx, EventStarted, s, "")
	}
}

// join finds the session that a login continues. A re-authentication starts
// new limits for it; its slot stays the same. A session that is over is ended
// and, unless it is passed, refuses the login.
func (h *Hook) join(ctx context.Context, a admission, r ruling, id string) (store.Session, error) {
	s, err := h.load(ctx, id)
	if err != nil {
		return store.Session{}, err
	}
	named := s
	followed := s.Joined != "" // the name of a login that joined another session, for good
	if followed {
		if s, err = h.load(ctx, s.Joined); err != nil {
			return store.Session{}, err
		}
	}
	if s.Subject != a.subject {
		return store.Session{}, fmt.Errorf("session %s is another subject's", id)
	}
	if s, r, err = h.settle(ctx, s, r); err != nil {
		return store.Session{}, err
	}
	decided := a.codeIn(&s) >= 0 // before, that it joins it
	if a.apart != nil && s.End == nil && !decided && !h.mayJoin(&a, r, &s) {
		return store.Session{}, errApart
	}
	now := h.now()
	name := a.clientName
	var soon policy.Decision
	var why policy.Reason // the login may not go on
	joined, err := h.change(ctx, s, func(s *store.Session) error {
		if s.End != nil {
			return errNoChange
		}
		if d := r.rules.Check(now, s.Policy(), policy.Use{}); !d.Allow {
			h.finish(s, r, d.At, d.Reason, "")
			return nil
		}
		if a.late(s, now) {
			return lateCode()
		}
		t := a.authTime.UTC().Truncate(time.Microsecond)
		older := !t.IsZero() && s.Fence.Past(t)
		if (a.outdated || older) && (!s.ReservedUntil.IsZero() || t.After(s.Authenticated)) {
			if why = policy.ReasonCredentialChange; older {
				why = s.Fence.Reason
			}
			return errOutdated
		}
		// Without new credentials a request may have been answered behind the
		// user's back (prompt=none). Where nobody knows, it counts as that.
		class := policy.Silent
		if a.prompted {
			class = policy.Interactive
		}
		renewed := t.After(s.Authenticated) && !t.After(now)
		// Of a provider that gives no auth_time nobody knows whether the user was asked.
		if soon = h.almostOver(s, r, a.client, t, now); !soon.Allow && !renewed && !t.IsZero() && a.codeIn(s) < 0 {
			return errAlmostOver
		}
		if renewed {
			s.Authenticated = t
			s.AMR, s.ACR = a.amr, a.acr
			class = policy.Interactive
		}
		if a.browser != nil {
			a.browser.Enter(s, renewed)
		}
		h.slide(s, r, a.client, now, class)
		s.ClientNames = withName(s.ClientNames, name)
		a.enterClient(s, now, h.cfg.MaxGrants)
		if !a.reserve {
			s.ReservedUntil = time.Time{}
		} else if until := a.reserveIn(s, now, h.cfg.CodeLifetime); !s.ReservedUntil.IsZero() && until.After(s.ReservedUntil) {
			s.ReservedUntil = until
		}
		h.schedule(s, r)
		return nil
	})
	switch {
	case errors.Is(err, errOutdated):
		h.tellOutdated(ctx, &a, r, why)
		err = isOver(policy.Decision{Reason: why}, now)
	case errors.Is(err, errAlmostOver):
		h.tellRefused(ctx, store.Session{Subject: s.Subject, Accounts: s.Accounts, Client: a.client, Kind: s.Kind}, soon)
		err = isOver(soon, now)
	}
	if err != nil {
		return store.Session{}, err
	}
	if s.End == nil && joined.End != nil {
		h.announceEnd(ctx, r, joined)
	}
	if followed && a.freed(&joined) {
		if named.End == nil {
			named.End = &store.End{At: named.ReservedUntil, Reason: policy.ReasonAbandoned}
		}
		return named, nil
	}
	if joined.End != nil && (followed || !a.passed(&joined, now)) {
		return joined, &refusedError{reason: joined.End.Reason, text: endedText(&joined), over: true}
	}
	confirmed := s.End == nil && !s.ReservedUntil.IsZero() && joined.ReservedUntil.IsZero()
	if confirmed || joined.End == nil && a.unheardOf(&s, now.Add(-h.cfg.CodeLifetime)) {
		h.started(ctx, &joined)
		return joined, nil
	}
	return joined, nil
}

// errAlmostOver is returned by a change of a session that no authorization goes on in any
// more; see [Config.Remainder].
var errAlmostOver = errors.New("too little is left of the session")

// errApart says that a login must not join the session that another tab of its
// browser began; see Hook.mayJoin.
var errApart = errors.New("the session is not limited as the login would be")

// lateCode is the answer to a login whose code was not redeemed in its time.
func lateCode() error {
	return &refusedError{
		reason: policy.ReasonAbandoned, text: policy.ReasonAbandoned.Info().Description(), over: true,
	}
}

// unheardOf reports whether s is a session that this same login made a moment ago
// and that nobody has written since: the store's answer was lost, or what came
// after it failed, and it may be that nobody was told of the beginning.
func (a *admission) unheardOf(s *store.Session, since time.Time) bool {
	return s.Revision == 1 && s.End == nil && s.ReservedUntil.IsZero() && s.LastActivity.After(since) &&
		(a.authTime.IsZero() || !a.authTime.UTC().Truncate(time.Microsecond).After(s.Authenticated))
}
