package middleware

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// A Reason is why nobody is signed in. A provider with Curfew says why it ended a
// login, in the first word of an error_description; the others are what the
// middleware itself finds.
type Reason string

// Reasons that a provider with Curfew gives, all of which are its own words.
const (
	ReasonInactivity       Reason = "inactivity"
	ReasonActiveLimit      Reason = "active_limit"
	ReasonConcurrency      Reason = "concurrency"
	ReasonLogout           Reason = "logout" // also: signed out here
	ReasonEndedByUser      Reason = "ended_by_user"
	ReasonEndedByAdmin     Reason = "ended_by_admin"
	ReasonPolicyChange     Reason = "policy_change"
	ReasonReplay           Reason = "replay"
	ReasonRevoked          Reason = "revoked"
	ReasonAccountDisabled  Reason = "account_disabled"
	ReasonCredentialChange Reason = "credential_change"
	ReasonUnknownSession   Reason = "unknown_session"
)

// Reasons of the middleware.
const (
	// ReasonNone: this browser has not signed in, or so long ago that nothing is
	// known of it.
	ReasonNone Reason = "not_signed_in"

	// ReasonEnded: the provider ended the login and did not say why.
	ReasonEnded Reason = "ended"

	// ReasonLoggedOutElsewhere: the provider told so, through the back channel
	// or the front channel, and the user signed out, or it did not say why.
	ReasonLoggedOutElsewhere Reason = "logged_out_elsewhere"

	// ReasonIdentity: at a refresh the provider sent an ID token that is not one
	// of this login (OpenID Connect Core 1.0 section 12.2).
	ReasonIdentity Reason = "identity"

	// ReasonTooOld: the user did not authenticate recently enough for max_age.
	ReasonTooOld Reason = "too_old"
)

var known = map[Reason]string{
	ReasonNone:               "",
	ReasonInactivity:         "You were signed out because of inactivity.",
	ReasonActiveLimit:        "You were signed out because a sign-in lasts only so long.",
	ReasonConcurrency:        "You were signed out because you signed in elsewhere, and only so many sign-ins are allowed at once.",
	ReasonLogout:             "You signed out.",
	ReasonEndedByUser:        "You ended this sign-in from another one.",
	ReasonEndedByAdmin:       "An administrator ended your sign-in.",
	ReasonPolicyChange:       "You were signed out because your organization now allows fewer sign-ins at once.",
	ReasonReplay:             "You were signed out for safety: an old token of this sign-in was used again, which may mean that it was copied.",
	ReasonRevoked:            "You were signed out by the application.",
	ReasonAccountDisabled:    "You were signed out because your account was disabled.",
	ReasonCredentialChange:   "You were signed out because your password or another way to sign in was changed.",
	ReasonUnknownSession:     "You were signed out.",
	ReasonEnded:              "You were signed out.",
	ReasonLoggedOutElsewhere: "You were signed out, here or in another application.",
	ReasonIdentity:           "You were signed out for safety: the provider spoke of somebody else.",
	ReasonTooOld:             "You have to sign in again, because it was too long ago.",
}

// Durations as a provider with Curfew writes them. Nothing else of its text is
// shown to a user, nor kept.
const someTime = `(\d{1,9} (?:day|hour|minute|second)s?(?: \d{1,2} (?:hour|minute|second)s?)?)`

var (
	inactivityText = regexp.MustCompile(`\bafter ` + someTime + ` without activity`)
	limitText      = regexp.MustCompile(`\blimit of ` + someTime + `;`)
)

// reasonOf reads the error_description of an invalid_grant.
func reasonOf(description string) (Reason, string) {
	word, _, ok := strings.Cut(description, ":")
	reason := Reason(word)
	if !ok || known[reason] == "" {
		return ReasonEnded, known[ReasonEnded]
	}
	switch reason {
	case ReasonInactivity:
		if m := inactivityText.FindStringSubmatch(description); m != nil {
			return reason, inactivityWords(m[1])
		}
	case ReasonActiveLimit:
		if m := limitText.FindStringSubmatch(description); m != nil {
			return reason, limitWords(m[1])
		}
	}
	return reason, known[reason]
}

// toldReason reads the session_end_reason of a logout token, which is what an
// invalid_grant would say.
func toldReason(description string) (Reason, string) {
	reason, text := reasonOf(description)
	if reason == ReasonEnded || reason == ReasonLogout {
		// Where the user signed out is not known.
		return ReasonLoggedOutElsewhere, known[ReasonLoggedOutElsewhere]
	}
	return reason, text
}

func inactivityWords(d string) string {
	return fmt.Sprintf("You were signed out after %s without activity.", d)
}

func limitWords(d string) string {
	return fmt.Sprintf("You were signed out because a sign-in lasts at most %s.", d)
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

// words writes the duration of a limit as people say it, in its two largest units.
func words(d time.Duration) string {
	d = asSet(d)
	var parts []string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		n := d / u.unit
		d -= n * u.unit
		switch {
		case n <= 0 || len(parts) == 2:
		case n == 1:
			parts = append(parts, "1 "+u.name)
		default:
			parts = append(parts, fmt.Sprintf("%d %ss", n, u.name))
		}
	}
	if len(parts) == 0 {
		return "a moment"
	}
	return strings.Join(parts, " ")
}
