package middleware

import (
	"context"
	"errors"
	"time"
)

// A [SessionStore] returns these errors, wrapped. Any other error means that it could not answer.
var (
	ErrNotFound = errors.New("the store has no such record")
	ErrConflict = errors.New("the record has changed")
)

// A StoredSession is what a [SessionStore] keeps. All its text is opaque to the
// store: IDs and index entries are hashes, and Data is sealed.
type StoredSession struct {
	ID      string
	Index   []string // further entries by which it is found; at most two
	Data    string
	Version int64     // counts the writes, from 1
	Expires time.Time // the store may remove it from then on; UTC, to the microsecond
}

// A SessionStore keeps the sessions of an application. Processes that share it are one application
// to the user. The tests of package sessiontest are its contract: [NewMemoryStore] and package
// sqlsessions pass them.
//
// IDs and names compare byte by byte. The caller may keep and change a call's arguments and
// results. Calls may run at the same time, in several processes; each is atomic, and every later
// call sees it. A store starts no goroutine. When it stores something new, it removes records that
// have expired at now, so that it does not grow for ever; until then it may still return them.
type SessionStore interface {
	// Create keeps a new record, as version 1. ErrConflict: a record has
	// this ID already.
	Create(ctx context.Context, now time.Time, s StoredSession) error

	// Get returns the record with this ID. ErrNotFound: the store has no such record.
	Get(ctx context.Context, id string) (StoredSession, error)

	// Replace writes s over the record with its ID and Version, as the next
	// version. ErrConflict: the version is another one, or there is no record.
	Replace(ctx context.Context, s StoredSession) error

	// Delete removes the record with this ID. It is not an error if the store has no such record.
	Delete(ctx context.Context, id string) error

	// Find returns the IDs of the records that have this index entry.
	Find(ctx context.Context, index string) ([]string, error)

	// Mark remembers, until the time until, that name was marked at the time at. first is false if
	// a mark is already remembered beyond now; then the later of both values is kept, for at and
	// until each. If calls race for one name, exactly one is first.
	Mark(ctx context.Context, name string, at, until, now time.Time) (first bool, err error)

	// Marked returns when name was marked, the zero time if it was not. A mark
	// that is over may still be returned.
	Marked(ctx context.Context, name string) (at time.Time, err error)
}
