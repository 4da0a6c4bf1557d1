// Package outcome says in one word how a call of a store came out, for metrics
// and traces.
//
// The words are few, and hold nothing of an error's text: there may be the ID of
// a session in it.
package outcome

import (
	"context"
	"errors"

	"github.com/curfew-oidc/curfew/store"
)

// What a call of a store comes to. All but Timeout and Error are answers.
const (
	OK       = "ok"
	NotFound = "not_found"
	Conflict = "conflict"
	Exists   = "exists"
	Full     = "full"
	Fenced   = "fenced"
	Declined = "declined" // Admit's decide returned an error
	Canceled = "canceled" // the caller gave up
	Timeout  = "timeout"  // the caller's time was over
	Error    = "error"    // the store could not answer, or refused an argument
)

// Of returns the outcome of a call that returned err. Of an Admit see [Step].
func Of(err error) string {
	// The context comes first: an Admit that waits for an engine which is gone
	// returns a conflict as well.
	switch {
	case err == nil:
		return OK
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, store.ErrNotFound):
		return NotFound
	case errors.Is(err, store.ErrConflict):
		return Conflict
	case errors.Is(err, store.ErrExists):
		return Exists
	case errors.Is(err, store.ErrFull):
		return Full
	case errors.Is(err, store.ErrFenced):
		return Fenced
	}
	return Error
}

// Outage reports whether an outcome means that the store did not answer.
func Outage(outcome string) bool { return outcome == Timeout || outcome == Error }

// A Step watches the decisions of one call of Admit.
type Step struct {
	Runs    int // how often decide ran
	Decided int // how many sessions the last run returned
	err     error
}

// Watch returns decide, watched.
func (s *Step) Watch(decide func([]store.Session, store.Fence) ([]store.Session, error)) func([]store.Session, store.Fence) ([]store.Session, error) {
	return func(held []store.Session, fence store.Fence) ([]store.Session, error) {
		result, err := decide(held, fence)
		s.Runs++
		s.Decided, s.err = len(result), err
		return result, err
	}
}

// Of returns the outcome of the Admit, which returned err.
func (s *Step) Of(err error) string {
	if err != nil && s.err != nil {
		return Declined
	}
	return Of(err)
}
