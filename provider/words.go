package provider

import (
	"time"

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
		return "The sign-in that this one was made from is over: " + s.End.Reason.Info().Cause + "."
	}
	return s.End.Reason.Info().SentenceOf(reached(&s))
}

// reached returns the limit that the session reached, as far as its end says; it
// has no meaning for an end by anything else.
func reached(s *store.Session) time.Duration {
	if s.End.Reason == policy.ReasonInactivity {
		return unused(s)
	}
	return s.End.At.Sub(s.Authenticated)
}

// unused is for how long a session was not used when it ended: entering credentials is a
// use.
func unused(s *store.Session) time.Duration {
	if s.Authenticated.After(s.LastActivity) {
		return s.End.At.Sub(s.Authenticated)
	}
	return s.End.At.Sub(s.LastActivity)
}

// The texts for applications. Each starts with the reason and a colon, for
// programs; none has a character that RFC 6749 section 5.2 does not allow in
// error_description.
