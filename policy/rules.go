package policy

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Rules are settings narrowed to one user. The zero Rules binds nothing. It is
// safe for concurrent use. It refers to the settings that it was made from; do not change them
// while it is in use.
type Rules struct {
	members []member // ordered by account, each account once
}

// A member is one account of the user, with what it says about them.
type member struct {
	account  string
	settings Account
	userName string
	user     Limits
	groups   []groupLimits // ordered by name
}

type groupLimits struct {
	name   string
	limits Limits
}

// Rules narrows the settings to one user. Accounts that observe (see
// [Account.Observe]) do not bind; see [Rules.Observed].
func (s Settings) Rules(who Who) Rules {
	r, _ := s.narrow(who, false)
	return r
}

// Observed returns the rules as if no account observed, and whether any account does.
func (s Settings) Observed(who Who) (Rules, bool) { return s.narrow(who, true) }

func (s Settings) narrow(who Who, observing bool) (r Rules, observes bool) {
	for _, m := range who.Memberships {
		a, known := s.Accounts[m.Account]
		if !known {
			continue
		}
		observes = observes || a.Observe
		if a.Observe && !observing {
			continue
		}
		i := slices.IndexFunc(r.members, func(have member) bool { return have.account == m.Account })
		if i < 0 {
			i = len(r.members)
			r.members = append(r.members, member{account: m.Account, settings: a, userName: who.User, user: a.Users[who.User]})
		}
		for _, name := range m.Groups {
			l, known := a.Groups[name]
			seen := slices.ContainsFunc(r.members[i].groups, func(g groupLimits) bool { return g.name == name })
			if known && !seen {
				r.members[i].groups = append(r.members[i].groups, groupLimits{name, l})
			}
		}
	}
	slices.SortFunc(r.members, func(a, b member) int { return strings.Compare(a.account, b.account) })
	for _, m := range r.members {
		slices.SortFunc(m.groups, func(a, b groupLimits) int { return strings.Compare(a.name, b.name) })
	}
	return r, observes
}

// Limits returns the durations and classes that bind a session of the given
// kind when the given client uses it. It does not set Concurrent and AtLimit: for caps see
// [Rules.Caps]. Activity never inherits: if no scope sets it, it is DefaultClasses.
func (r Rules) Limits(kind Kind, client string) Limits {
	var out Limits
	for i := range r.members {
		out = strictest(out, r.members[i].limits(kind, client))
	}
	if out.Activity.Inherits() {
		out.Activity = DefaultClasses
	}
	return out
}

// limits returns what one account says: field by field, the most specific scope
// that sets it, and the strictest of the user's groups.
func (m *member) limits(kind Kind, client string) Limits {
	out := m.user
	var groups Limits
	for i := range m.groups {
		groups = strictest(groups, m.groups[i].limits)
	}
	out = out.or(groups).or(m.settings.Clients[client]).or(m.settings.Kinds[kind]).or(m.settings.Limits)
	// An account that limits inactivity and does not say what activity is
	// means the default, and another account cannot widen that for it.
	if _, limits := out.Inactivity.Value(); limits && out.Activity.Inherits() {
		out.Activity = DefaultClasses
	}
	return out
}

// or returns the durations and classes of l, those that inherit taken from
// wider.
func (l Limits) or(wider Limits) Limits {
	out := Limits{Active: l.Active, Inactivity: l.Inactivity, Activity: l.Activity}
	if out.Active.Inherits() {
		out.Active = wider.Active
	}
	if out.Inactivity.Inherits() {
		out.Inactivity = wider.Inactivity
	}
	if out.Activity.Inherits() {
		out.Activity = wider.Activity
	}
	return out
}

// strictest returns the stricter of each duration, and the classes that slide
// the clock for both.
func strictest(a, b Limits) Limits {
	return Limits{
		Active:     stricterBound(a.Active, b.Active),
		Inactivity: stricterBound(a.Inactivity, b.Inactivity),
		Activity:   stricterClasses(a.Activity, b.Activity),
	}
}

func stricterBound[T time.Duration | int](a, b Bound[T]) Bound[T] {
	switch {
	case a.state != limited && b.state != limited:
		return Bound[T]{state: max(a.state, b.state)} // unlimited says more than inherit
	case a.state != limited:
		return b
	case b.state != limited:
		return a
	default:
		return LimitTo(min(a.value, b.value))
	}
}

func stricterClasses(a, b Classes) Classes {
	switch {
	case a.Inherits():
		return b
	case b.Inherits():
		return a
	default:
		return a & b
	}
}

// strictness orders what happens at a cap, the strictest first: a refused login
// harms no session, an answer of the user harms none unasked, and the idlest
// session is missed the least.
func (a AtLimit) strictness() int {
	switch a {
	case Ask:
		return 1
	case EndOldest:
		return 2
	case EndIdlest:
		return 3
	default:
		return 0 // Refuse, and a value that does not exist
	}
}

// A Scope names where a setting comes from: an account, or one kind, client,
// group or user in it.
type Scope struct {
	Account string `json:"account"`
	Kind    Kind   `json:"kind,omitempty"`   // set for the settings of a kind
	Client  string `json:"client,omitempty"` // set for the settings of a client
	Group   string `json:"group,omitempty"`
	User    string `json:"user,omitempty"`
}

// A Cap is one limit on concurrent sessions. It counts the sessions for which
// Counts is true.
type Cap struct {
	Max     int
	AtLimit AtLimit // never InheritAtLimit
	Scope   Scope   // where Max comes from

	counts capCounts
	kinds  map[Kind]Limits   // of the account: an unlimited kind is not counted
	client map[string]Limits // likewise
}

type capCounts uint8

const (
	countsAll capCounts = iota // all that no kind or client took out
	countsKind
	countsClient
)

// Counts reports whether the cap counts s: whether s is of the client or kind
// that the cap is for, and not of a narrower scope that is unlimited.
func (c Cap) Counts(s Session) bool {
	switch c.counts {
	case countsClient:
		return s.Client == c.Scope.Client
	case countsKind:
		return s.Kind == c.Scope.Kind && !c.client[s.Client].Concurrent.IsUnlimited()
	default:
		return !c.kinds[s.Kind].Concurrent.IsUnlimited() && !c.client[s.Client].Concurrent.IsUnlimited()
	}
}

// Caps returns every cap that binds the user: those of a client first, then
// those of a kind, then those on all the user's sessions. All of them must
// hold.
func (r Rules) Caps() []Cap {
	var out []Cap
	for i := range r.members {
		out = append(out, r.members[i].caps()...)
	}
	slices.SortFunc(out, func(a, b Cap) int {
		return cmp.Or(cmp.Compare(b.counts, a.counts), strings.Compare(a.Scope.Account, b.Scope.Account),
			strings.Compare(a.Scope.Client, b.Scope.Client), strings.Compare(string(a.Scope.Kind), string(b.Scope.Kind)))
	})
	return out
}

func (m *member) caps() []Cap {
	var out []Cap
	for client, l := range m.settings.Clients {
		if n, limits := l.Concurrent.Value(); limits {
			c := m.newCap(n, Scope{Account: m.account, Client: client}, countsClient)
			c.AtLimit, _ = m.whatAtLimit(l, c.Scope)
			out = append(out, c)
		}
	}
	for kind, l := range m.settings.Kinds {
		if n, limits := l.Concurrent.Value(); limits {
			c := m.newCap(n, Scope{Account: m.account, Kind: kind}, countsKind)
			c.AtLimit, _ = m.whatAtLimit(l, c.Scope)
			out = append(out, c)
		}
	}
	if scope, bound := m.whoCap(); bound.state == limited {
		c := m.newCap(bound.value, scope, countsAll)
		c.AtLimit, _ = m.whoAtLimit(scope.Group)
		out = append(out, c)
	}
	return out
}

func (m *member) newCap(n int, scope Scope, counts capCounts) Cap {
	return Cap{Max: n, Scope: scope, counts: counts, kinds: m.settings.Kinds, client: m.settings.Clients}
}

// whoCap returns the cap on all the user's sessions and the scope that sets it:
// the user's own, else the strictest of their groups', else everyone's.
func (m *member) whoCap() (Scope, Bound[int]) {
	if !m.user.Concurrent.Inherits() {
		return Scope{Account: m.account, User: m.userName}, m.user.Concurrent
	}
	var strictest Bound[int]
	var scope Scope
	var at AtLimit
	for _, g := range m.groups {
		b := g.limits.Concurrent
		if b.Inherits() {
			continue
		}
		action, _ := m.whoAtLimit(g.name)
		same := b == strictest
		if stricterBound(strictest, b) == b && (!same || action.strictness() < at.strictness()) {
			strictest, scope, at = b, Scope{Account: m.account, Group: g.name}, action
		}
	}
	if !strictest.Inherits() {
		return scope, strictest
	}
	return Scope{Account: m.account}, m.settings.Concurrent
}

// whoAtLimit returns what happens at the cap on all the user's sessions, and
// the scope that says so: the most specific of user, groups and account that
// does, and of the groups the one that the cap comes from, if it is one.
func (m *member) whoAtLimit(capGroup string) (AtLimit, Scope) {
	if m.user.AtLimit != InheritAtLimit {
		return m.user.AtLimit, Scope{Account: m.account, User: m.userName}
	}
	var at AtLimit
	var scope Scope
	for _, g := range m.groups {
		if g.limits.AtLimit == InheritAtLimit {
			continue
		}
		s := Scope{Account: m.account, Group: g.name}
		if g.name == capGroup {
			return g.limits.AtLimit, s
		}
		if at == InheritAtLimit || g.limits.AtLimit.strictness() < at.strictness() {
			at, scope = g.limits.AtLimit, s
		}
	}
	if at != InheritAtLimit {
		return at, scope
	}
	if m.settings.AtLimit != InheritAtLimit {
		return m.settings.AtLimit, Scope{Account: m.account}
	}
	return Refuse, Scope{}
}

// whatAtLimit is whoAtLimit for the cap of a client or kind, which says itself
// what happens, or leaves it to the user, groups and account.
func (m *member) whatAtLimit(l Limits, scope Scope) (AtLimit, Scope) {
	if l.AtLimit != InheritAtLimit {
		return l.AtLimit, scope
	}
	return m.whoAtLimit("")
}

// Capped reports whether any cap could count a session of this kind and
// client: whether a login must read the user's other sessions at all.
func (r Rules) Capped(kind Kind, client string) bool {
	s := Session{Kind: kind, Client: client}
	return slices.ContainsFunc(r.Caps(), func(c Cap) bool { return c.Counts(s) })
}

// MayJoin reports whether a login with client may become part of s instead of being
// a session of its own: whether each cap that would count such a session counts s. Otherwise a user
// could get round a client's cap by beginning with another client.
func (r Rules) MayJoin(s Session, client string) bool {
	own := Session{Kind: s.Kind, Client: client}
	return !slices.ContainsFunc(r.Caps(), func(c Cap) bool { return c.Counts(own) && !c.Counts(s) })
}

// limitsOf returns the limits of s as client uses it. The limits that s began
// with hold whoever uses it, and those of the client that uses it hold too.
func (r Rules) limitsOf(s Session, client string) Limits {
	l := r.Limits(s.Kind, s.Client)
	if client != "" && client != s.Client {
		l = strictest(l, r.Limits(s.Kind, client))
	}
	return l
}

// lastUse is what the inactivity clock of s runs from. Entering credentials
// starts it anew, whether or not Interactive is among the classes that slide it.
func lastUse(s Session) time.Time {
	if s.Authenticated.After(s.LastActivity) {
		return s.Authenticated
	}
	return s.LastActivity
}

// Window returns how long s may go on as use uses it. It does not ask whether
// s is over: see [Rules.Check].
func (r Rules) Window(s Session, use Use) Window {
	l := r.limitsOf(s, use.Client)
	var w Window
	if active, limits := l.Active.Value(); limits {
		from := s.Authenticated
		if !use.Authenticated.IsZero() && use.Authenticated.Before(from) {
			from = use.Authenticated
		}
		w.Active, w.End = active, instant(from, active)
	}
	if end := use.Within.End; !end.IsZero() && (w.End.IsZero() || end.Before(w.End)) {
		w.Active, w.End = use.Within.Active, end
	}
	if inactivity, limits := l.Inactivity.Value(); limits {
		w.Inactivity, w.Idle = inactivity, instant(lastUse(s), inactivity)
	}
	return w
}

// instant returns t+d, and never the zero time, which would mean no bound.
func instant(t time.Time, d time.Duration) time.Time {
	t = t.Add(d)
	if t.IsZero() {
		return t.Add(1)
	}
	return t
}

// deadline returns the first of the limits of s that is reached if nothing more
// happens. Where two are reached at the same instant it names the one that
// activity could not have moved.
func (r Rules) deadline(s Session, use Use) (at time.Time, reason Reason, limit time.Duration) {
	w := r.Window(s, use)
	earlier := func(t time.Time) bool { return !t.IsZero() && (at.IsZero() || t.Before(at)) }
	if earlier(s.ReservedUntil) {
		at, reason = s.ReservedUntil, ReasonAbandoned
	}
	if earlier(w.End) {
		at, reason, limit = w.End, ReasonActiveLimit, w.Active
	}
	if earlier(w.Idle) {
		at, reason, limit = w.Idle, ReasonInactivity, w.Inactivity
	}
	return at, reason, limit
}

// Deadline returns when s is over if nothing more happens, and for which reason. The zero time
// means never.
func (r Rules) Deadline(s Session) (time.Time, Reason) {
	at, reason, _ := r.deadline(s, Use{})
	return at, reason
}

// Check decides whether s may be used at now.
func (r Rules) Check(now time.Time, s Session, use Use) Decision {
	at, reason, limit := r.deadline(s, use)
	if at.IsZero() || now.Before(at) {
		return Decision{Allow: true}
	}
	return Decision{Reason: reason, At: at, Limit: limit}
}

// Slides reports whether activity of class c slides the inactivity clock of s
// when the client uses it.
func (r Rules) Slides(s Session, client string, c Class) bool {
	return r.limitsOf(s, client).Activity.Has(c)
}

// touchEvery bounds how often activity of high frequency is written, and
// touchShare how much of its window a session can lose by that.
const (
	touchEvery = 30 * time.Second
	touchShare = 60
)

// TouchEvery returns how stale LastActivity of s may get before frequent
// activity (userinfo, introspection) is written again: min(30 s, window/60).
// Such a session may end that much early, never late.
func (r Rules) TouchEvery(s Session, client string) time.Duration {
	window, limits := r.limitsOf(s, client).Inactivity.Value()
	if !limits {
		return touchEvery
	}
	return max(0, min(touchEvery, window/touchShare))
}

// TokenEnd returns the latest time at which an access token or an ID token issued at
// now may expire; s is the session as it is once the token is issued. It is not after the end of s,
// and at most half of the inactivity window away: many clients refresh only when one of the two has
// expired, and a working user would be signed out between two refreshes. The zero time means no
// bound.
//
// It does not ask whether s is over: see [Rules.Check].
func (r Rules) TokenEnd(now time.Time, s Session, use Use) time.Time {
	w := r.Window(s, use)
	end := w.Over()
	if !w.Idle.IsZero() {
		if half := now.Add(w.Inactivity / 2); half.Before(end) {
			return half
		}
	}
	return end
}

// Admit decides whether the session next may begin at now beside the held
// ones. held are the sessions of the same subject that have not ended; those
// that are over do not count, and an admission ends them with their own
// reason. Do not call it for a session that continues. A session in held with the ID of next counts
// as next itself, and is neither counted nor ended.
//
// If next itself is over, because its credentials were entered too long ago, it is refused with
// that reason.
//
// The surplus of a lowered cap ends with ReasonPolicyChange, and sessions that make room for next
// end with ReasonConcurrency. Admit does not modify held.
func (r Rules) Admit(now time.Time, held []Session, next Session) Decision {
	if d := r.Check(now, next, Use{}); !d.Allow {
		return d
	}
	others := make([]Session, 0, len(held))
	for _, s := range held {
		if s.ID != next.ID {
			others = append(others, s)
		}
	}
	caps := r.Caps()
	live, end := r.settle(now, others, caps)
	if d, refused := refusal(live, caps, next); refused {
		return d
	}
	for _, c := range caps {
		if c.Counts(next) {
			var ended []Session
			live, ended = c.evict(live, c.Max-1)
			end = appendEndings(end, ended, ReasonConcurrency)
		}
	}
	return Decision{Allow: true, End: end}
}

// refusal returns the decision of the caps that next would exceed and that do
// not make room for it. To refuse beats to ask, and a narrow cap is named
// before a wide one.
func refusal(live []Session, caps []Cap, next Session) (d Decision, refused bool) {
	for _, c := range caps {
		if !c.Counts(next) {
			continue
		}
		used := c.used(live)
		asks := c.AtLimit == Ask && c.Max > 0
		makesRoom := c.evicts() && c.Max > 0 // a cap that admits none has no room to make
		if used < c.Max || makesRoom || refused && (asks || !d.Ask) {
			continue
		}
		d, refused = Decision{Reason: ReasonConcurrency, Used: used, Max: c.Max, Ask: asks}, true
	}
	return d, refused
}

// Surplus returns the sessions that a lowered cap with [EndOldest] or
// [EndIdlest] ends, with ReasonPolicyChange, and those that are over with
// their own reason.
func (r Rules) Surplus(now time.Time, held []Session) []Ending {
	_, end := r.settle(now, held, r.Caps())
	return end
}

// settle returns the sessions that are live at now and within the caps that
// end what exceeds them, and the endings of the others: those that are over,
// the first one first, then what exceeds a cap, narrow caps first.
func (r Rules) settle(now time.Time, held []Session, caps []Cap) (live []Session, end []Ending) {
	type over struct {
		at     time.Time
		ending Ending
	}
	var overs []over
	for _, s := range held {
		if d := r.Check(now, s, Use{}); d.Allow {
			live = append(live, s)
		} else {
			overs = append(overs, over{d.At, Ending{ID: s.ID, Reason: d.Reason}})
		}
	}
	slices.SortFunc(overs, func(a, b over) int {
		return cmp.Or(a.at.Compare(b.at), strings.Compare(a.ending.ID, b.ending.ID))
	})
	for _, o := range overs {
		end = append(end, o.ending)
	}
	for _, c := range caps {
		var ended []Session
		live, ended = c.evict(live, c.Max)
		end = appendEndings(end, ended, ReasonPolicyChange)
	}
	return live, end
}

func appendEndings(end []Ending, ended []Session, reason Reason) []Ending {
	for _, s := range ended {
		end = append(end, Ending{ID: s.ID, Reason: reason})
	}
	return end
}

func (c Cap) evicts() bool { return c.AtLimit == EndOldest || c.AtLimit == EndIdlest }

func (c Cap) used(live []Session) int {
	n := 0
	for _, s := range live {
		if c.Counts(s) {
			n++
		}
	}
	return n
}

// evict takes sessions that c counts out of live until at most keep are left,
// in the order of c.AtLimit. If c does not end sessions it takes none.
func (c Cap) evict(live []Session, keep int) (rest, ended []Session) {
	if !c.evicts() {
		return live, nil
	}
	var counted []Session
	for _, s := range live {
		if c.Counts(s) {
			counted = append(counted, s)
		}
	}
	surplus := len(counted) - max(0, keep)
	if surplus <= 0 {
		return live, nil
	}
	slices.SortFunc(counted, func(a, b Session) int {
		if c.AtLimit == EndIdlest {
			if d := lastUse(a).Compare(lastUse(b)); d != 0 {
				return d
			}
		}
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.ID, b.ID))
	})
	ended = counted[:surplus]
	ids := make(map[string]bool, surplus)
	for _, s := range ended {
		ids[s.ID] = true
	}
	for _, s := range live {
		if !ids[s.ID] {
			rest = append(rest, s)
		}
	}
	return rest, ended
}

// A Holder is one user with their sessions, for [Preview].
type Holder struct {
	Who      Who
	Sessions []Session
}

// Preview returns exactly the sessions that replacing current by proposed
// ends at now: live before, and over or surplus after. It omits sessions that are over already.
func Preview(now time.Time, current, proposed Settings, holders []Holder) []Ending {
	var end []Ending
	for _, h := range holders {
		before, after := current.Rules(h.Who), proposed.Rules(h.Who)
		var live []Session
		for _, s := range h.Sessions {
			if before.Check(now, s, Use{}).Allow {
				live = append(live, s)
			}
		}
		end = append(end, after.Surplus(now, live)...)
	}
	return end
}
