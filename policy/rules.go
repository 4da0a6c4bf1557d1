package policy

import "time"

// Rules are settings narrowed to one user. The zero Rules binds nothing.
type Rules struct {
	who      Who
	accounts []Account
}

// Rules narrows the settings to one user. Accounts that observe (see
// [Account.Observe]) do not bind; see [Rules.Observed].
func (s Settings) Rules(who Who) Rules { panic("to be written") }

// Observed returns the rules as they would be if no account only observed, and
// whether any does.
func (s Settings) Observed(who Who) (Rules, bool) { panic("to be written") }

// Limits returns the durations and classes that bind a session of the given
// kind when the given client uses it. Concurrent and AtLimit are not part of
// it: they are caps, see Caps.
func (r Rules) Limits(kind Kind, client string) Limits { panic("to be written") }

// A Scope names where a setting comes from.
type Scope struct {
	Account string
	Kind    Kind   // set for the settings of a kind
	Client  string // set for the settings of a client
	Group   string
	User    string
}

// A Cap is one limit on concurrent sessions. It counts the sessions for which
// Counts is true.
type Cap struct {
	Max     int
	AtLimit AtLimit // never InheritAtLimit
	Scope   Scope   // where Max comes from
	// unexported: what it counts, and what other scopes took out of it
}

// Counts reports whether the cap counts s.
func (c Cap) Counts(s Session) bool { panic("to be written") }

// Caps returns every cap that binds the user. All of them must hold.
func (r Rules) Caps() []Cap { panic("to be written") }

// Capped reports whether any cap could count a session of this kind and
// client: whether a login has to look at the user's other sessions at all.
func (r Rules) Capped(kind Kind, client string) bool { panic("to be written") }

// Window returns how long s may go on as use uses it. It does not ask whether
// s is over: see Check.
func (r Rules) Window(s Session, use Use) Window { panic("to be written") }

// Deadline returns when s is over if nothing more happens, and of what. The
// zero time means never.
func (r Rules) Deadline(s Session) (time.Time, Reason) { panic("to be written") }

// Check decides whether s may be used at now.
func (r Rules) Check(now time.Time, s Session, use Use) Decision { panic("to be written") }

// Slides reports whether activity of class c slides the inactivity clock of s
// when the client uses it.
func (r Rules) Slides(s Session, client string, c Class) bool { panic("to be written") }

// TouchEvery returns how stale LastActivity of s may get before frequent
// activity (userinfo, introspection) is written again: min(30 s, window/60).
// Such a session may end that much early, never late.
func (r Rules) TouchEvery(s Session, client string) time.Duration { panic("to be written") }

// TokenEnd returns the latest time at which a token issued at now may expire.
// For an access token that is also less than the inactivity window away (half
// of it), or a working user would be signed out between two refreshes. The
// zero time means no bound.
func (r Rules) TokenEnd(now time.Time, s Session, use Use) (access, id time.Time) {
	panic("to be written")
}

// Admit decides whether the session next may begin at now beside the held
// ones. held are the sessions of the same subject that have not ended; those
// that are over do not count, and an admission ends them with their own
// reason. A session that continues (same ID as next) must not be asked about.
//
// Surplus from a cap that was lowered ends with ReasonPolicyChange, the ones
// that make room for next with ReasonConcurrency. Admit does not modify held.
func (r Rules) Admit(now time.Time, held []Session, next Session) Decision {
	panic("to be written")
}

// Surplus returns the sessions that a lowered cap with [EndOldest] or
// [EndIdlest] ends, with ReasonPolicyChange, and those that are over with
// their own reason.
func (r Rules) Surplus(now time.Time, held []Session) []Ending { panic("to be written") }

// A Holder is one user with the sessions they hold, for [Preview].
type Holder struct {
	Who      Who
	Sessions []Session
}

// Preview returns exactly the sessions that replacing current by proposed
// ends at now: live before, and over or surplus after. A session that is over
// already is not among them.
func Preview(now time.Time, current, proposed Settings, holders []Holder) []Ending {
	panic("to be written")
}
