// Package kv is where the example provider keeps what is its own: auth
// requests, codes, tokens and device codes. It is small on purpose, so that it
// fits any database that can keep the login sessions.
package kv

import (
	"context"
	"errors"
	"slices"
	"time"
)

var (
	// ErrNotFound is wrapped by errors about a record that is not there.
	ErrNotFound = errors.New("not found")

	// ErrConflict is wrapped by Put's error when the stored revision is not
	// the record's.
	ErrConflict = errors.New("conflict")
)

// Any other error means that the database could not answer; whether a write
// took effect is then unknown.

// A Store keeps records. It is safe for concurrent use by any number of
// goroutines and, where the database allows it, processes. Keys compare byte by
// byte. A write is durable, as far as the database is set up to be, when the
// method returns. Returned records are the caller's to keep and to change.
type Store interface {
	// Get returns a record, expired or not: the store reads no clock. If
	// there is none the error wraps ErrNotFound.
	Get(ctx context.Context, key string) (Record, error)

	// Put writes a record if the stored revision is still r.Revision, 0
	// meaning that there must be none. If it is not, the error wraps
	// ErrConflict and nothing changes. The stored revision becomes
	// r.Revision+1. Keys are never used again after a Delete: the revision
	// starts anew.
	Put(ctx context.Context, r Record) error

	// Delete removes a record. Of concurrent calls one succeeds; if there is
	// none the error wraps ErrNotFound.
	Delete(ctx context.Context, key string) error

	// DeleteGroup removes all records of a group. An empty group has none.
	DeleteGroup(ctx context.Context, group string) error

	// Sweep removes up to limit records whose Expires is not after now, and
	// returns how many it removed.
	Sweep(ctx context.Context, now time.Time, limit int) (int, error)
}

// A Record is one value under a key.
type Record struct {
	Key      string
	Group    string // what it is deleted with; empty: nothing
	Value    []byte
	Expires  time.Time // required; kept to the microsecond
	Revision int64
}

func (r Record) clone() Record {
	r.Value = slices.Clone(r.Value)
	r.Expires = r.Expires.UTC().Truncate(time.Microsecond)
	return r
}

// check refuses what no store should be asked to keep.
func (r Record) check() error {
	switch {
	case r.Key == "":
		return errors.New("a record needs a key")
	case r.Expires.IsZero():
		return errors.New("a record needs an expiry")
	case r.Revision < 0:
		return errors.New("a revision is not negative")
	}
	return nil
}
