// Package service is what administrators do with an account, for those who may: read
// and change its settings, see what a change would do, list sessions and end them. It
// is below the API and the console, which ask first who may do what. It reads no
// request and writes no answer.
package service

import (
	"errors"
	"net/http"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// Config is what package admin is configured with, complete: see admin.Config.
type Config struct {
	Hook        *provider.Hook
	Store       store.Documents // nil only if ReadOnly is set
	Issuer      string
	Range       policy.Range
	Deployment  policy.Deployment
	ReadOnly    string
	PreviewTime time.Duration
	Failed      func(r *http.Request, err error)
	Now         func() time.Time
}

// RetryAfter is when to come back after a 429 or a 503, in seconds.
const RetryAfter = 2

// States are the states of sessions to choose from, by name.
var States = map[string]store.State{"live": store.Unended, "ended": store.Ended, "any": store.Any}

// A Service administers accounts. Make one by its Config.
type Service struct {
	Config

	previews previews
}

// An Actor is admin.Actor.
type Actor struct{ ID, User, SID, Client string }

var (
	// ErrStale is wrapped by the error about a change to settings that are
	// not the current ones any more.
	ErrStale = errors.New("the settings were changed meanwhile")

	// ErrReadOnly is wrapped by the error about a change where
	// [Config.ReadOnly] is set.
	ErrReadOnly = errors.New("the settings are read-only")

	// ErrNoUser is wrapped by the error about a user who is not in the
	// account.
	ErrNoUser = errors.New("the user is not in the account")

	// ErrBusy is wrapped by the error about a preview that an actor asks for while
	// others of theirs are still running.
	ErrBusy = errors.New("previews of the same administrator are still running")

	// ErrLive is wrapped by the error about a logout notification for a session that
	// has not ended.
	ErrLive = errors.New("the session has not ended")
)

// Time is the time, in the precision and zone that stores keep.
func (sv *Service) Time() time.Time { return sv.Now().UTC().Truncate(time.Microsecond) }
