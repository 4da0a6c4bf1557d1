package session

import (
	"cmp"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// Terms are what holds for the logins of one subject.
type Terms struct {
	Rules    policy.Rules
	Observed *policy.Rules // as if no account only observed; nil: none does

	Accounts []string // of the subject
	Who      string   // a fingerprint of its accounts and groups

	CodeLifetime time.Duration // of a reservation
	Remainder    time.Duration // how much must be left of an active limit, at most
	MaxSessions  int           // of one subject, also where no cap is set
	MaxGrants    int           // of one session
}

// A View is what there is of a subject when a login is decided.
type View struct {
	Now   time.Time
	Held  []store.Session // those that have not ended
	Fence store.Fence     // before which no authentication begins anything

	// Ended are the sessions that have ended, if Looked: most logins need not look.
	Ended  []store.Session
	Looked bool

	// Former is the ID of the newest session of the login's place that a version before
	// this one made.
	Former string
}

// An Act is what becomes of a login.
type Act uint8

const (
	Refuse Act = iota // see Verdict.Refusal
	Look              // at the sessions that have ended, and decide again
	GoOn              // in the session that lists it
	Join              // the session that it belongs to
	Begin             // a session
	Ask               // the user which other session to end
)

// A Refusal is why a login is refused.
type Refusal uint8

const (
	TooMany Refusal = iota // one too many for a cap: Verdict.Decision says for which
	Over                   // its authentication is over, or about to be: so does it
	Ended                  // its session has ended: Verdict.Session
	Late                   // its code was not redeemed in its time
	Nobody                 // prompt=none, and nobody is signed in in its browser
)

// A Verdict is what becomes of a login. The zero one refuses.
type Verdict struct {
	Act      Act
	Refusal  Refusal         // of Refuse
	Decision policy.Decision // of TooMany, Over and Ask
	Session  string          // the ID of the session of GoOn, Join and Ended

	End   []policy.Ending // the sessions that end for a login that begins
	Apart bool            // a session of its browser keeps the cookie, which the login may not join

	Observed policy.Decision // of Begin: what a policy that only observes would have said
}

func over(d policy.Decision) Verdict { return Verdict{Refusal: Over, Decision: d} }

// Decide is the one place where it is decided what becomes of a login. Its rows are the
// table of admission in docs/architecture.md, which a test holds against it.
//
// In a session, credentials from before the fence or outdated ones do not renew it, nor
// make one of a reservation.
func (l *Login) Decide(t *Terms, v *View) Verdict {
	if i := slices.IndexFunc(v.Held, func(s store.Session) bool { return l.Lists(&s) }); i >= 0 {
		s := &v.Held[i]
		switch d := t.Rules.Check(v.Now, s.Policy(), policy.Use{}); {
		case !d.Allow && d.Reason == policy.ReasonAbandoned && l.Lasting:
			// It came to nothing, and what names it is good for another one.
		case !d.Allow && d.Reason != policy.ReasonAbandoned:
			return over(d)
		case !d.Allow, l.Late(s, v.Now):
			return Verdict{Refusal: Late}
		default:
			return l.into(GoOn, s, t, v)
		}
	} else if l.Mark != nil && slices.ContainsFunc(v.Held, func(s store.Session) bool { return s.ID == l.SID }) {
		return Verdict{Refusal: Late}
	}
	if l.Mark != nil && !l.Lasting && (l.Again || l.Unbound || l.Place != nil && !l.First) {
		if !v.Looked {
			return Verdict{Act: Look}
		}
		if refused, was := l.wasThere(v); was {
			return refused
		}
	}
	home, yielding, apart := l.home(t, v)
	switch {
	case home != nil:
		return l.into(Join, home, t, v)
	case l.Silent && l.Browser != nil && l.Place == nil && !apart:
		return Verdict{Refusal: Nobody}
	case l.Place != nil && !v.Looked:
		return Verdict{Act: Look}
	case l.Place != nil && !l.Current:
		if refused, has := l.placeEnded(t, v); has {
			return refused
		}
	}
	return l.begin(t, v, yielding, apart)
}

// home finds the session that a login belongs to: that of its place, or of its browser.
// A reservation of which too little is left to redeem another code in gives way to the
// new login. apart says that there is one of its browser which it may not join: the
// limits of a kind or client could else be got round by beginning with another one.
func (l *Login) home(t *Terms, v *View) (home *store.Session, yielding []policy.Ending, apart bool) {
	for i := range v.Held {
		s := &v.Held[i]
		of := l.in(s, v.Former)
		if l.Place == nil {
			of = l.Browser.Has(s) && (!l.Unbound || l.restsOnOneOf(s))
		}
		if !of || !t.Rules.Check(v.Now, s.Policy(), policy.Use{}).Allow {
			continue
		}
		switch {
		case l.Place == nil && !l.MayJoin(t.Rules, s):
			apart = true
		case !s.ReservedUntil.IsZero() && s.ReservedUntil.Sub(v.Now) < t.CodeLifetime/2:
			yielding = append(yielding, policy.Ending{ID: s.ID, Reason: policy.ReasonAbandoned})
		case home == nil || l.Browser != nil && Holds(s, l.Browser.Shown):
			home = s
		}
	}
	return home, yielding, apart
}

// MayJoin reports whether a login may become part of a session of its browser: not if it
// would make one of another kind, nor if a cap that counts it does not count the session.
func (l *Login) MayJoin(r policy.Rules, s *store.Session) bool {
	return l.Kind == s.Kind && r.MayJoin(s.Policy(), l.Client)
}

// into decides about a login that goes on in a session, or joins it.
func (l *Login) into(act Act, s *store.Session, t *Terms, v *View) Verdict {
	fenced := !l.Authenticated.IsZero() && v.Fence.Past(l.Authenticated)
	if (l.Outdated || fenced) && (!s.ReservedUntil.IsZero() || l.Authenticated.After(s.Authenticated)) {
		return over(policy.Decision{Reason: l.outdatedBy(fenced, v)})
	}
	// Of a provider that gives no auth_time nobody knows whether the user was asked.
	if act == Join && !l.renews(s, v.Now) && !l.Authenticated.IsZero() {
		if soon := AlmostOver(s, t, l.Client, l.Authenticated, v.Now); !soon.Allow {
			return over(soon)
		}
	}
	return Verdict{Act: act, Session: s.ID}
}

func (l *Login) outdatedBy(fenced bool, v *View) policy.Reason {
	if fenced {
		return v.Fence.Reason
	}
	return policy.ReasonCredentialChange
}

// wasThere refuses a login that was in a session which has ended, or that a session
// forgot. Where nobody knows that it was answered before, and no cookie of ours is to be
// expected, or its place takes it in anyway, it is taken for a new one: more logins than a
// session lists are no reason to refuse the next.
func (l *Login) wasThere(v *View) (Verdict, bool) {
	if i := slices.IndexFunc(v.Ended, func(s store.Session) bool { return l.Lists(&s) }); i >= 0 {
		return Verdict{Refusal: Ended, Session: v.Ended[i].ID}, true
	}
	forgotten := func(s store.Session) bool {
		return dropped(&s) && (l.Again || l.Unbound && l.Place == nil && l.restsOnOneOf(&s))
	}
	if slices.ContainsFunc(v.Held, forgotten) || slices.ContainsFunc(v.Ended, forgotten) {
		return Verdict{Refusal: Late}, true
	}
	return Verdict{}, false
}

// placeEnded refuses a login whose credentials are from before the end of a session of
// its place, which may not be written yet. Where the provider does not say when they were
// entered, it was before.
func (l *Login) placeEnded(t *Terms, v *View) (Verdict, bool) {
	since := func(s *store.Session, at time.Time, why policy.Reason) bool {
		return why != policy.ReasonAbandoned && l.in(s, v.Former) && l.Authenticated.Before(at)
	}
	for i := range v.Held {
		d := t.Rules.Check(v.Now, v.Held[i].Policy(), policy.Use{})
		if !d.Allow && since(&v.Held[i], d.At, d.Reason) {
			return over(d), true
		}
	}
	for i := range v.Ended {
		if e := v.Ended[i].End; since(&v.Ended[i], e.At, e.Reason) {
			return Verdict{Refusal: Ended, Session: v.Ended[i].ID}, true
		}
	}
	return Verdict{}, false
}

// begin decides about a login that would begin a session. Those that yield to it do
// not count.
func (l *Login) begin(t *Terms, v *View, yielding []policy.Ending, apart bool) Verdict {
	s := l.Session(t, v.Now)
	next := s.Policy()
	if fenced := v.Fence.Past(s.Started); fenced || l.Outdated {
		return over(policy.Decision{Reason: l.outdatedBy(fenced, v)})
	}
	held := slices.DeleteFunc(slices.Clone(v.Held), func(s store.Session) bool {
		return slices.ContainsFunc(yielding, func(e policy.Ending) bool { return e.ID == s.ID })
	})
	if !l.Adopted {
		if d := l.tooOld(t.Rules, held, &s, v.Now); !d.Allow {
			return over(d)
		}
		if d := AlmostOver(&s, t, s.Client, s.Authenticated, v.Now); !d.Allow {
			return over(d)
		}
	}
	others := make([]policy.Session, len(held))
	for i := range held {
		others[i] = held[i].Policy()
	}
	d := t.Rules.Admit(v.Now, others, next)
	if l.Adopted && !d.Allow {
		d = policy.Decision{Allow: true}
	}
	evicts := slices.ContainsFunc(d.End, func(e policy.Ending) bool { return e.Reason == policy.ReasonConcurrency })
	switch {
	case !d.Allow && d.Ask && l.CanAsk:
		return Verdict{Act: Ask, Decision: d}
	case !d.Allow:
		return Verdict{Refusal: TooMany, Decision: d}
	case evicts && l.Unbound && slices.ContainsFunc(held, func(s store.Session) bool { return l.restsOnOneOf(&s) }):
		// A sign-on that the provider remembers, in a place that shows no cookie of
		// ours, such as a hidden frame: nobody knows whether its user is there.
		return Verdict{Refusal: TooMany, Decision: full(t.Rules, others, next, v.Now)}
	}
	verdict := Verdict{Act: Begin, Apart: apart, End: append(yielding, d.End...), Observed: policy.Decision{Allow: true}}
	verdict.End = append(verdict.End, beyondBound(held, d.End, t.MaxSessions)...)
	if t.Observed != nil {
		verdict.Observed = l.tooOld(*t.Observed, held, &s, v.Now)
		if verdict.Observed.Allow {
			verdict.Observed = t.Observed.Admit(v.Now, others, next)
		}
	}
	return verdict
}

// full is the refusal by a cap that would make room otherwise.
func full(r policy.Rules, held []policy.Session, next policy.Session, now time.Time) policy.Decision {
	d := policy.Decision{Reason: policy.ReasonConcurrency}
	for _, c := range r.Caps() {
		if !c.Counts(next) {
			continue
		}
		used := 0
		for _, s := range held {
			if c.Counts(s) && r.Check(now, s, policy.Use{}).Allow {
				used++
			}
		}
		if used >= c.Max {
			d.Used, d.Max = used, c.Max
			break
		}
	}
	return d
}

// tooOld decides whether the authentication of a new session is over already. A single
// sign-on that remembers a login cannot restart it: the session is as old as its
// authentication, for both limits, unless it was in use meanwhile, by the sessions that
// rest on it too: what a sign-on of the provider's own signed in to other applications.
func (l *Login) tooOld(r policy.Rules, held []store.Session, s *store.Session, now time.Time) policy.Decision {
	p := s.Policy()
	if l.Parent == nil { // which is in use now
		p.LastActivity = s.Authenticated
	}
	for i := range held {
		o := &held[i]
		if o.Authenticated.Equal(s.Authenticated) && o.LastActivity.After(p.LastActivity) && r.Check(now, o.Policy(), policy.Use{}).Allow {
			p.LastActivity = o.LastActivity
		}
	}
	return r.Check(now, p, policy.Use{})
}

// AlmostOver refuses a session of which too little is left, as it is for a login by a
// client that rests on an authentication.
func AlmostOver(s *store.Session, t *Terms, client string, authTime, now time.Time) policy.Decision {
	w := t.Rules.Window(s.Policy(), policy.Use{Client: client, Authenticated: RestsOn(authTime, s)})
	if w.End.IsZero() || w.End.Sub(now) >= t.Left(w.Active) {
		return policy.Decision{Allow: true}
	}
	return policy.Decision{Reason: policy.ReasonActiveLimit, At: w.End, Limit: w.Active}
}

// Left is how much must be left of an active limit.
func (t *Terms) Left(active time.Duration) time.Duration { return min(t.Remainder, active/10) }

// beyondBound returns what must end beside the given endings for one more session to
// stay within a bound: the longest unused. Where no cap is set, old sessions that nobody
// signed out of must not lock their user out.
func beyondBound(held []store.Session, ending []policy.Ending, bound int) []policy.Ending {
	surplus := len(held) - len(ending) + 1 - bound
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
