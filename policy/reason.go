package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Reason says why a session ended, or why a login or a use was refused. It is stable,
// machine-readable, and safe to show. [Reason.Info] describes it.
type Reason string

const (
	ReasonInactivity       Reason = "inactivity"        // unused for longer than Limits.Inactivity
	ReasonActiveLimit      Reason = "active_limit"      // older than Limits.Active
	ReasonConcurrency      Reason = "concurrency"       // ended by, or refused because of, the cap
	ReasonPolicyChange     Reason = "policy_change"     // surplus after a cap was lowered
	ReasonLogout           Reason = "logout"            // the user signed out
	ReasonEndedByUser      Reason = "ended_by_user"     // the user ended it from elsewhere
	ReasonEndedByAdmin     Reason = "ended_by_admin"    // an administrator ended it
	ReasonRevoked          Reason = "revoked"           // its tokens were revoked (RFC 7009)
	ReasonReplay           Reason = "replay"            // a spent refresh token was used
	ReasonCredentialChange Reason = "credential_change" // the user's password or factor changed
	ReasonAccountDisabled  Reason = "account_disabled"  // the user was disabled; not the [Account], which is a tenant

	// ReasonAbandoned closes a reservation whose code was never redeemed. It
	// is never the end of a session.
	ReasonAbandoned Reason = "abandoned"

	// ReasonUnknownSession refuses a token whose session the store does not
	// know. No session ends with it.
	ReasonUnknownSession Reason = "unknown_session"
)

// An EndClass says what a reason ends, and whether a limit or an act gives it.
type EndClass uint8

const (
	// NoEnd: a token is refused, and no session ends with it.
	NoEnd EndClass = iota

	// ByTime is the end by a limit. Only the rule gives such a reason: a live session has not
	// reached its limits.
	ByTime

	// ByAct is the end of a live session by an act of somebody, or of the rule.
	ByAct
)

// A ReasonInfo describes one reason.
type ReasonInfo struct {
	Reason Reason
	Class  EndClass

	// Label is what administrators read: "Ended by an administrator".
	Label string

	// Sentence is what the user is told.
	Sentence string

	// Limited is the sentence if the limit that was reached is known, with %s in its place; see
	// [ReasonInfo.SentenceOf]. Empty for a reason that is not a limit.
	Limited string

	// Cause is why the session is over, in a few words for the developers of
	// applications. It has only characters that error_description may have (RFC 6749 section 5.2).
	Cause string

	told, toldLimit string // what applications are told if it is not the usual
}

// reasons are all reasons, in the order in which administrators see them.
var reasons = []ReasonInfo{
	{
		Reason: ReasonInactivity, Class: ByTime, Label: "Inactivity",
		Sentence: "You were signed out because of inactivity.",
		Limited:  "You were signed out after %s without activity.",
		Cause:    "it was unused for too long", toldLimit: "the login session ended after %s without activity",
	}, {
		Reason: ReasonActiveLimit, Class: ByTime, Label: "Active limit reached",
		Sentence: "You were signed out because a sign-in lasts only so long.",
		Limited:  "You were signed out because a sign-in lasts at most %s.",
		Cause:    "it reached its time limit", toldLimit: "the login session reached its limit of %s",
	}, {
		Reason: ReasonConcurrency, Class: ByAct, Label: "Too many sessions",
		Sentence: "You were signed out because you signed in elsewhere, and only so many sign-ins are allowed at once.",
		Cause:    "another login took its place",
	}, {
		Reason: ReasonPolicyChange, Class: ByAct, Label: "Policy change",
		Sentence: "You were signed out because your organization now allows fewer sign-ins at once.",
		Cause:    "fewer login sessions are allowed now",
	}, {
		Reason: ReasonLogout, Class: ByAct, Label: "Signed out",
		Sentence: "You signed out.",
		Cause:    "the user signed out",
	}, {
		Reason: ReasonEndedByUser, Class: ByAct, Label: "Ended by the user elsewhere",
		Sentence: "You ended this sign-in from another one.",
		Cause:    "the user ended it",
	}, {
		Reason: ReasonEndedByAdmin, Class: ByAct, Label: "Ended by an administrator",
		Sentence: "An administrator ended your sign-in.",
		Cause:    "an administrator ended it",
	}, {
		Reason: ReasonRevoked, Class: ByAct, Label: "Tokens revoked",
		Sentence: "You were signed out by the application.",
		Cause:    "its tokens were revoked",
	}, {
		Reason: ReasonReplay, Class: ByAct, Label: "Stolen or replayed token",
		Sentence: "You were signed out for safety: an old token of this sign-in was used again, which may mean that it was copied.",
		Cause:    "a refresh token was used that was spent already",
	}, {
		Reason: ReasonCredentialChange, Class: ByAct, Label: "Password or factor changed",
		Sentence: "You were signed out because your password or another way to sign in was changed.",
		Cause:    "a credential was changed",
	}, {
		Reason: ReasonAccountDisabled, Class: ByAct, Label: "User disabled",
		Sentence: "You were signed out because your account was disabled.",
		Cause:    "the account was disabled",
	}, {
		Reason: ReasonAbandoned, Class: ByTime, Label: "Sign-in not completed",
		Sentence: "The sign-in was not completed in time.",
		Cause:    "the login was not completed in time", told: "the login was not completed in time",
	}, {
		Reason: ReasonUnknownSession, Class: NoEnd, Label: "Unknown session",
		Sentence: "You were signed out: the provider does not know this sign-in any more.",
		Cause:    "it is not known any more", told: "the login session is not known",
	},
}

// Reasons returns the description of every reason, in the order in which administrators see them.
func Reasons() []ReasonInfo { return slices.Clone(reasons) }

// Info describes r. For a reason that is not of this package it returns general words, and ByAct.
func (r Reason) Info() ReasonInfo {
	for _, info := range reasons {
		if info.Reason == r {
			return info
		}
	}
	return ReasonInfo{Reason: r, Class: ByAct, Label: "Another reason", Sentence: "You were signed out.", Cause: "it ended"}
}

// Known reports whether r is a reason of this package.
func (r Reason) Known() bool {
	return slices.ContainsFunc(reasons, func(info ReasonInfo) bool { return info.Reason == r })
}

// SentenceOf returns Sentence with the limit that was reached: "You were signed out after 2 hours
// without activity." For a reason that is not a limit it returns Sentence.
func (i ReasonInfo) SentenceOf(limit time.Duration) string {
	if i.Limited == "" {
		return i.Sentence
	}
	return fmt.Sprintf(i.Limited, LimitInWords(limit))
}

// Description returns the error_description (RFC 6749 section 5.2) for a token whose session is
// over. It begins with the reason and a colon, for programs:
// "logout: the login session is over: the user signed out; sign in again".
func (i ReasonInfo) Description() string {
	return fmt.Sprintf("%s: %s; sign in again", i.Reason, cmp.Or(i.told, "the login session is over: "+i.Cause))
}

// DescriptionOf returns Description with the limit that was reached: "inactivity: the login session
// ended after 2 hours without activity; sign in again". For a reason that is not a limit it returns
// Description.
func (i ReasonInfo) DescriptionOf(limit time.Duration) string {
	if i.toldLimit == "" {
		return i.Description()
	}
	return fmt.Sprintf("%s: "+i.toldLimit+"; sign in again", i.Reason, LimitInWords(limit))
}

// ReasonOf returns the reason at the start of an error_description that a
// provider with Curfew wrote, such as "inactivity: the login session ended ...".
// It is empty if the text does not begin with a reason of this package.
func ReasonOf(description string) Reason {
	word, _, ok := strings.Cut(description, ":")
	if r := Reason(word); ok && r.Known() {
		return r
	}
	return ""
}

// SentenceFrom returns the sentence that tells the user of the end in an error_description, with
// the limit if the description names one. The sentence contains nothing else of the text, because
// the text's author is not trusted. It is empty if the text does not begin with a reason of this
// package.
func SentenceFrom(description string) string {
	r := ReasonOf(description)
	if r == "" {
		return ""
	}
	i := r.Info()
	if m := limitTold.FindStringSubmatch(description); m != nil && i.Limited != "" {
		return fmt.Sprintf(i.Limited, m[1])
	}
	return i.Sentence
}

// limitTold finds a limit in an error_description, as LimitInWords writes it.
var limitTold = regexp.MustCompile(`\b(?:after|limit of) (\d{1,9} (?:day|hour|minute|second)s?(?: \d{1,2} (?:hour|minute|second)s?)?)(?: without activity)?;`)

// LimitInWords returns the duration of a limit as people say it, in its two
// largest units: "2 hours", "1 day 12 hours".
//
// The duration may be measured rather than set. It is then rounded to the limit that was set:
// clients get whole seconds, rounded down, some time after the limit began to run. Limits are whole
// minutes, except very short ones.
func LimitInWords(d time.Duration) string {
	var words []string
	for _, part := range LimitParts(d) {
		unit := part.Unit
		if part.N != 1 {
			unit += "s"
		}
		words = append(words, fmt.Sprintf("%d %s", part.N, unit))
	}
	return cmp.Or(strings.Join(words, " "), "a moment")
}

// A LimitPart is a number of a unit of time, which is "day", "hour", "minute" or
// "second".
type LimitPart struct {
	N    int
	Unit string
}

// LimitParts returns what [LimitInWords] says, for other languages: at most two
// parts, and none for less than a second.
func LimitParts(d time.Duration) []LimitPart {
	d = max(0, asSet(d))
	var parts []LimitPart
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		n := d / u.unit
		d -= n * u.unit
		if n > 0 && len(parts) < 2 {
			parts = append(parts, LimitPart{int(n), u.name})
		}
	}
	return parts
}

// asSet returns the limit that was set where d was measured: a little less than
// it, or up to a second more, where a time was rounded.
func asSet(d time.Duration) time.Duration {
	minutes := (d - 2*time.Second + time.Minute - 1).Truncate(time.Minute)
	if d < time.Minute || minutes-d > d/10 {
		return d.Round(time.Second)
	}
	return minutes
}
