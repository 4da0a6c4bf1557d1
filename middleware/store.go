package middleware

import (
	"context"
	"errors"
	"time"
)

// What a [SessionStore] answers, wrapped. Every other error means that it could
// not answer.
var (
	ErrNotFound = errors.New("the store has no such record")
	ErrConflict = errors.New("the record has changed")
)

// A StoredSession is what a [SessionStore] keeps. All its text is opaque to the
// store: IDs and index entries are hashes, and Data is sealed.
type StoredSession struct {
	ID      string
	Index   []string // what it is found by beside its ID; at most two
	Data    string
	Version int64     // counts the writes, from 1
	Expires time.Time // from then on nobody needs it; UTC, to the microsecond
}

// A SessionStore keeps the sessions of an application. One that several processes
// share makes them one application to the user. The tests of package sessiontest
// are its contract: [NewMemoryStore] and package sqlsessions pass them.
//
// IDs and names compare byte by byte. What a call returns is the caller's to
// keep, and what it was given stays the caller's. Calls may run at the same time,
// in several processes; each happens at once or not at all, and is seen by all
// that begin after it. A store starts no goroutine. It removes what has expired
// at now when it is given something new, so that it does not grow for ever; until
// then it may still return it.
type SessionStore interface {
	// Create keeps a new record, as version 1. ErrConflict: a record has
	// this ID already.
	Create(ctx context.Context, now time.Time, s StoredSession) error

	// Get returns the record with this ID. ErrNotFound: the store has no such record.
	Get(ctx context.Context, id string) (StoredSession, error)

	// Replace writes s over the record with its ID and Version, as the next
	// version. ErrConflict: the version is another one, or there is no record.
	Replace(ctx context.Context, s StoredSession) error

	// Delete removes the record with this ID. It is no error if the store has no such record.
	Delete(ctx context.Context, id string) error

	// Find returns the IDs of the records that have this index entry.
	Find(ctx context.Context, index string) ([]string, error)

	// Mark remembers, until a time, that name was marked, and when that was.
	// first is false if it is remembered already, unless that was only until
	// now or earlier; then the later of both times, for each of at and until,
	// is kept. Of calls that race for one name exactly one is first.
	Mark(ctx context.Context, name string, at, until, now time.Time) (first bool, err error)

	// Marked returns when name was marked, the zero time if it was not. A mark
	// that is over may still be returned.
	Marked(ctx context.Context, name string) (at time.Time, err error)
}
