package middleware

import "github.com/curfew-oidc/curfew/policy"

// A Reason is why nobody is signed in: a reason of a Curfew provider, such as
// [policy.ReasonInactivity], or one of the middleware's own.
type Reason = policy.Reason

// Reasons of the middleware.
const (
	// ReasonNone: this browser has not signed in, or so long ago that the record is gone.
	ReasonNone Reason = "not_signed_in"

	// ReasonEnded: the provider ended the login and did not say why.
	ReasonEnded Reason = "ended"

	// ReasonLoggedOutElsewhere: the provider ended the login through the back channel or the front
	// channel, because the user signed out, or without saying why.
	ReasonLoggedOutElsewhere Reason = "logged_out_elsewhere"

	// ReasonIdentity: at a refresh the provider sent an ID token of another login (OpenID Connect
	// Core 1.0 section 12.2).
	ReasonIdentity Reason = "identity"

	// ReasonTooOld: the user did not authenticate recently enough for max_age.
	ReasonTooOld Reason = "too_old"
)

var ownSentences = map[Reason]string{
	ReasonNone:               "",
	ReasonEnded:              "You were signed out.",
	ReasonLoggedOutElsewhere: "You were signed out, here or in another application.",
	ReasonIdentity:           "You were signed out for safety: the provider spoke of somebody else.",
	ReasonTooOld:             "You have to sign in again, because it was too long ago.",
}

// sentence returns what the user is told.
func sentence(r Reason) string {
	if text, own := ownSentences[r]; own {
		return text
	}
	return r.Info().Sentence
}

// reasonOf reads the error_description of an invalid_grant.
func reasonOf(description string) (Reason, string) {
	if r := policy.ReasonOf(description); r != "" {
		return r, policy.SentenceFrom(description)
	}
	return ReasonEnded, sentence(ReasonEnded)
}

// toldReason reads the session_end_reason of a logout token, which is what an
// invalid_grant would say.
func toldReason(description string) (Reason, string) {
	reason, text := reasonOf(description)
	if reason == ReasonEnded || reason == policy.ReasonLogout {
		// Where the user signed out is not known.
		return ReasonLoggedOutElsewhere, sentence(ReasonLoggedOutElsewhere)
	}
	return reason, text
}
