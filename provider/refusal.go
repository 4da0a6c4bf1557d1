package provider

import (
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

// A refusedError is why a login or a use was refused. Each path answers it
// with the OAuth error that it calls for.
type refusedError struct {
	reason policy.Reason
	text   string // for the application
	over   bool   // the login is over, rather than one too many
	silent bool   // and the application wants an answer without the user

	ask *policy.Decision // of a cap that asks, where the user can be asked; nil: not so
}

func (e *refusedError) Error() string { return "refused by policy: " + e.text }

const unavailableText = "the login session cannot be checked at the moment; try again, the token stays good"

// The texts for applications. Each starts with the reason and a colon, for
// programs; none has a character that RFC 6749 section 5.2 does not allow in
// error_description.

// refusalText is the error_description of a refusal.
func refusalText(d policy.Decision) string {
	if d.Reason == policy.ReasonConcurrency {
		return fmt.Sprintf("concurrency: used=%d max=%d; sign out of another login session first, then sign in again", d.Used, d.Max)
	}
	return d.Reason.Info().DescriptionOf(d.Limit)
}

// almostOverText is that of a session of which too little is left to begin with.
func almostOverText(d policy.Decision) string {
	return fmt.Sprintf("%s: the login session is about to reach its limit of %s; sign in again", d.Reason, policy.LimitInWords(d.Limit))
}

// endedText is the error_description for a session with an end: with the
// durations where the end came from a limit.
func endedText(s *store.Session) string {
	if s.End.WithParent {
		return fmt.Sprintf("%s: the login session that this one was made from is over: %s; sign in again", s.End.Reason, s.End.Reason.Info().Cause)
	}
	return s.End.Reason.Info().DescriptionOf(view.Reached(s))
}

// hasEnded is the refusal of what belongs to a session that has ended.
func hasEnded(s *store.Session) *refusedError {
	return &refusedError{reason: s.End.Reason, text: endedText(s), over: true}
}

// usable refuses a session that has ended or is over.
func usable(s *store.Session, r ruling, now time.Time, use policy.Use) error {
	if s.End != nil {
		return hasEnded(s)
	}
	if d := r.rules.Check(now, s.Policy(), use); !d.Allow {
		return &refusedError{reason: d.Reason, text: refusalText(d), over: true}
	}
	return nil
}
