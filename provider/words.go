package provider

import (
	"fmt"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// Describe returns the sentence that a user is shown for the end of a session,
// such as "You were signed out after 2 hours without activity." It is empty
// for a session that has not ended.
func Describe(s store.Session) string {
	if s.End == nil {
		return ""
	}
	if s.End.WithParent {
		return "The sign-in that this one was made from is over: " + endCause(s.End.Reason) + "."
	}
	switch s.End.Reason {
	case policy.ReasonInactivity:
		return fmt.Sprintf("You were signed out after %s without activity.", words(unused(&s)))
	case policy.ReasonActiveLimit:
		return fmt.Sprintf("You were signed out because a sign-in lasts at most %s.", words(s.End.At.Sub(s.Authenticated)))
	case policy.ReasonConcurrency:
		return "You were signed out because you signed in elsewhere, and only so many sign-ins are allowed at once."
	case policy.ReasonLogout:
		return "You signed out."
	case policy.ReasonEndedByUser:
		return "You ended this sign-in from another one."
	case policy.ReasonEndedByAdmin:
		return "An administrator ended your sign-in."
	case policy.ReasonPolicyChange:
		return "You were signed out because your organization now allows fewer sign-ins at once."
	case policy.ReasonReplay:
		return "You were signed out for safety: an old token of this sign-in was used again, which may mean that it was copied."
	case policy.ReasonRevoked:
		return "You were signed out by the application."
	case policy.ReasonAccountDisabled:
		return "You were signed out because your account was disabled."
	case policy.ReasonCredentialChange:
		return "You were signed out because your password or another way to sign in was changed."
	case policy.ReasonAbandoned:
		return "The sign-in was not completed in time."
	}
	return "You were signed out."
}

// asSet is a limit as somebody set it, of what was measured of it: a little less, since
// clients are told whole seconds, rounded down, and some time after it began to run; or
// a second more, where a time was rounded on its way here. Limits are whole minutes, but
// for very short ones.
func asSet(d time.Duration) time.Duration {
	minutes := (d - 2*time.Second + time.Minute - 1).Truncate(time.Minute)
	if d < time.Minute || minutes-d > d/10 {
		return d.Round(time.Second)
	}
	return minutes
}

// unused is for how long a session was not used when it ended: entering credentials is a
// use.
func unused(s *store.Session) time.Duration {
	if s.Authenticated.After(s.LastActivity) {
		return s.End.At.Sub(s.Authenticated)
	}
	return s.End.At.Sub(s.LastActivity)
}

// words writes the duration of a limit as people say it, in its two largest units.
func words(d time.Duration) string {
	d = max(0, asSet(d))
	var parts []string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		n := d / u.unit
		d -= n * u.unit
		if n == 0 {
			continue
		}
		name := u.name
		if n > 1 {
			name += "s"
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, name))
	}
	switch len(parts) {
	case 0:
		return "a moment"
	case 1:
		return parts[0]
	}
	return parts[0] + " " + parts[1]
}

// The texts for applications. Each starts with the reason and a colon, for
// programs; none has a character that RFC 6749 section 5.2 does not allow in
// error_description.

const unavailableText = "the login session cannot be checked at the moment; try again, the token stays good"

// refusalText is the error_description of a refusal.
func refusalText(d policy.Decision) string {
	switch d.Reason {
	case policy.ReasonInactivity:
		return fmt.Sprintf("inactivity: the login session ended after %s without activity; sign in again", words(d.Limit))
	case policy.ReasonActiveLimit:
		return fmt.Sprintf("active_limit: the login session reached its limit of %s; sign in again", words(d.Limit))
	case policy.ReasonConcurrency:
		return fmt.Sprintf("concurrency: used=%d max=%d; sign out of another login session first, then sign in again", d.Used, d.Max)
	case policy.ReasonAbandoned:
		return "abandoned: the login was not completed in time; sign in again"
	case policy.ReasonUnknownSession:
		return "unknown_session: the login session is not known; sign in again"
	}
	return endText(d.Reason)
}

// almostOverText is that of a session of which too little is left to begin with.
func almostOverText(d policy.Decision) string {
	return fmt.Sprintf("%s: the login session is about to reach its limit of %s; sign in again", d.Reason, words(d.Limit))
}

// endText is the error_description for a session that has ended.
func endText(reason policy.Reason) string {
	return fmt.Sprintf("%s: the login session is over: %s; sign in again", reason, endCause(reason))
}

// endCause is why a session ended, in a few words.
func endCause(reason policy.Reason) string {
	what := map[policy.Reason]string{
		policy.ReasonInactivity:       "it was unused for too long",
		policy.ReasonActiveLimit:      "it reached its time limit",
		policy.ReasonConcurrency:      "another login took its place",
		policy.ReasonLogout:           "the user signed out",
		policy.ReasonEndedByUser:      "the user ended it",
		policy.ReasonEndedByAdmin:     "an administrator ended it",
		policy.ReasonPolicyChange:     "fewer login sessions are allowed now",
		policy.ReasonReplay:           "a refresh token was used that was spent already",
		policy.ReasonRevoked:          "its tokens were revoked",
		policy.ReasonAccountDisabled:  "the account was disabled",
		policy.ReasonCredentialChange: "a credential was changed",
		policy.ReasonAbandoned:        "the login was not completed in time",
		policy.ReasonUnknownSession:   "it is not known any more",
	}[reason]
	if what == "" {
		what = "it ended"
	}
	return what
}

// endedText is the error_description for a session with an end: with the
// durations where the end came from a limit.
func endedText(s *store.Session) string {
	if s.End.WithParent {
		return fmt.Sprintf("%s: the login session that this one was made from is over: %s; sign in again", s.End.Reason, endCause(s.End.Reason))
	}
	d := policy.Decision{Reason: s.End.Reason}
	switch s.End.Reason {
	case policy.ReasonInactivity:
		d.Limit = unused(s)
	case policy.ReasonActiveLimit:
		d.Limit = s.End.At.Sub(s.Authenticated)
	default:
		return endText(s.End.Reason)
	}
	return refusalText(d)
}

// A refusedError is why a login or a use was refused. Each path answers it
// with the OAuth error that it calls for.
type refusedError struct {
	reason policy.Reason
	text   string // for the application
	over   bool   // the login is over, rather than one too many
	silent bool   // and the application wants an answer without the user
}

func (e *refusedError) Error() string { return "refused by policy: " + e.text }

// oidc returns the refusal as the given OAuth error.
func (e *refusedError) oidc(base *oidc.Error) *oidc.Error {
	base.Description = e.text
	return base.WithParent(e)
}

// ReasonOf returns the machine-readable reason at the start of an
// error_description that the hook wrote, or "" if it is none.
func ReasonOf(description string) policy.Reason {
	reason, _, ok := strings.Cut(description, ":")
	if !ok || strings.ContainsAny(reason, " .") {
		return ""
	}
	return policy.Reason(reason)
}
