// Package policy is the rule of Curfew: how long a login session may last, how
// long it may go unused, and how many of them one user may hold at once.
//
// It keeps no state, reads no clock and does no I/O. Settings are what an
// administrator wrote; [Settings.Rules] narrows them to one user; a [Rules]
// then answers questions about given sessions at a given time:
//
//	rules := settings.Rules(policy.Who{User: "alice", Memberships: []policy.Membership{{Account: "default"}}})
//	d := rules.Admit(now, held, next)   // may this login begin?
//	d = rules.Check(now, session, use)  // may this session still be used?
//
// A session is live while now is before its deadline; at the deadline it is
// over. The package imports the standard library only.
package policy

import "time"

// A Bound is one limit in one scope: a value, expressly unlimited, or inherited from a wider scope.
// The three are different; the zero Bound inherits. If no scope sets a bound, nothing is limited.
type Bound[T time.Duration | int] struct {
	value T
	state boundState
}

type boundState uint8

const (
	inherit boundState = iota
	unlimited
	limited
)

// LimitTo returns the bound with the value v.
func LimitTo[T time.Duration | int](v T) Bound[T] { return Bound[T]{value: v, state: limited} }

// Unlimited returns the bound that expressly does not limit.
func Unlimited[T time.Duration | int]() Bound[T] { return Bound[T]{state: unlimited} }

// Value returns the limit, and whether there is one.
func (b Bound[T]) Value() (v T, limits bool) { return b.value, b.state == limited }

// Inherits reports whether b inherits from a wider scope.
func (b Bound[T]) Inherits() bool { return b.state == inherit }

// IsUnlimited reports whether b expressly does not limit.
func (b Bound[T]) IsUnlimited() bool { return b.state == unlimited }

// Classes is a set of activity classes, or inherits. The zero Classes inherits; with a set that is
// expressly empty, no activity slides the clock.
type Classes uint8

// DefaultClasses slide the clock if no scope sets Activity: all classes but Silent.
var DefaultClasses = ClassesOf(Interactive, Refresh, Userinfo, Introspection, Heartbeat)

const classesSet Classes = 1 << 7

// ClassesOf returns the set of the given classes.
func ClassesOf(list ...Class) Classes {
	s := classesSet
	for _, c := range list {
		s |= 1 << c
	}
	return s
}

// Inherits reports whether s inherits from a wider scope.
func (s Classes) Inherits() bool { return s&classesSet == 0 }

// Has reports whether s was set and contains c.
func (s Classes) Has(c Class) bool { return s&classesSet != 0 && s&(1<<c) != 0 }

// Limits are the limits that one scope sets. The zero Limits binds nothing.
// Limits is a plain value: copy it, compare it.
type Limits struct {
	// Active is how long a login may last before the user must enter their credentials again,
	// counted from when they last did.
	Active Bound[time.Duration] `json:"active,omitzero"`

	// Inactivity is how long a login may go unused, counted from the last activity of a class in
	// Activity.
	Inactivity Bound[time.Duration] `json:"inactivity,omitzero"`

	// Concurrent is how many sessions may be live at once.
	Concurrent Bound[int] `json:"concurrent,omitzero"`

	// AtLimit is what happens to a login that would exceed Concurrent.
	AtLimit AtLimit `json:"at_limit,omitzero"`

	// Activity are the classes that slide the inactivity clock.
	Activity Classes `json:"activity,omitzero"`
}

// An Account is the settings of one tenant: for everyone in it, and for the
// narrower scopes. A nil map sets nothing.
//
// Each duration, and the set of classes, is decided separately: the most specific scope that sets
// it wins, in the order user, group, client, kind, account. Between equals (several groups of a
// user, or several accounts) the strictest wins.
//
// All caps must hold. User, group and account choose one cap, which counts all the user's sessions.
// A client and a kind each add a cap on their own sessions. If that cap is unlimited, it takes
// those sessions out of the wider counts of the same account.
//
// The most specific of user, groups and account decides what happens at a cap; a client or kind may
// decide it for its own cap.
type Account struct {
	Limits // for everyone

	// Observe decides and reports but refuses and ends nothing: for a first
	// week in production.
	Observe bool `json:"observe,omitempty"`

	Kinds   map[Kind]Limits   `json:"kinds,omitempty"`
	Clients map[string]Limits `json:"clients,omitempty"` // by client ID
	Groups  map[string]Limits `json:"groups,omitempty"`
	Users   map[string]Limits `json:"users,omitempty"` // by subject
}

// Settings are the settings of all accounts, by account ID. The zero Settings limits nothing. See
// [ParseSettings] for their form as a document.
type Settings struct {
	Accounts map[string]Account
}

// A Membership is one account that a user belongs to, with the user's groups
// in it.
type Membership struct {
	Account string
	Groups  []string
}

// Who is a user as the settings see them. The zero Who is in no account, and has no limits.
type Who struct {
	User        string // the subject, "sub"
	Memberships []Membership
}

// A Session has the facts of one login that the rule needs.
type Session struct {
	ID     string // the "sid"
	Kind   Kind
	Client string // the client that it began with

	Started       time.Time // when it began
	Authenticated time.Time // when the user last entered their credentials
	LastActivity  time.Time // the last activity that slid the clock

	// ReservedUntil is set on a login whose authorization code was not
	// redeemed yet: it holds its slot until then. Zero on a session.
	ReservedUntil time.Time
}

// An Ending is a session that a decision ends, and why.
type Ending struct {
	ID     string
	Reason Reason
}

// A Decision is the outcome of a question to [Rules]. The zero Decision is a
// refusal, so that a forgotten assignment fails closed.
type Decision struct {
	Allow  bool
	Reason Reason // why not; empty when Allow is true

	// End are the sessions that this decision ends, each once, in the order in which they end. Empty
	// when Allow is false: refusing changes nothing.
	End []Ending

	// Used and Max describe the cap that refused: how many sessions it
	// counts now, and how many it admits. Zero when no cap refused.
	Used, Max int

	// Ask says that the user may be asked which session to end instead
	// ([Ask]).
	Ask bool

	// At is when the refusing limit was reached. Zero when Reason is not
	// ReasonInactivity, ReasonActiveLimit or ReasonAbandoned.
	At time.Time

	// Limit is the duration that was exceeded, for the text shown to the
	// user. Zero when Reason is not ReasonInactivity or ReasonActiveLimit.
	Limit time.Duration
}

// A Use is one client's use of a session.
type Use struct {
	// Client is the client that uses the session. Empty means the client that began it.
	Client string

	// Authenticated is the time of the authentication that the client's grant rests on. Zero means
	// the session's own: an older grant keeps the end of its own authentication.
	Authenticated time.Time

	// Within is the window of the parent session, with which this one ends: this session's End is
	// not later. Zero: no parent.
	Within Window
}

// A Window is how long a session, as one client uses it, may go on. A zero
// time is no bound.
type Window struct {
	End        time.Time // the absolute end, from Active
	Idle       time.Time // when the session ends if it is not used again, from Inactivity
	Active     time.Duration
	Inactivity time.Duration
}

// Over returns the earlier of End and Idle: when the session is over if nothing more
// happens. The zero time: never.
func (w Window) Over() time.Time {
	if w.End.IsZero() || !w.Idle.IsZero() && w.Idle.Before(w.End) {
		return w.Idle
	}
	return w.End
}
