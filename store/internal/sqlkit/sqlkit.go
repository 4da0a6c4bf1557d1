// Package sqlkit is what the stores in SQL databases have in common: which of their errors are answers, and
// how they write a document. Statements, terms and transactions differ with the database and are its own.
package sqlkit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/store"
)

// A Refusal is an error that is not the engine's: it is the answer, and the step is not tried again.
type Refusal struct{ Err error }

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns Err.
func (r *Refusal) Unwrap() error { return r.Err }

// Refuse returns a [Refusal] of the text, which may wrap an error.
func Refuse(format string, args ...any) error { return &Refusal{fmt.Errorf(format, args...)} }

// NotFound refuses what is asked of a session that is not in the store.
func NotFound(id string) error { return Refuse("session %q: %w", id, store.ErrNotFound) }

// Exists refuses to add a session under the ID of another one.
func Exists(id string) error { return Refuse("session %q: %w", id, store.ErrExists) }

// Conflict refuses a write of a session that was written meanwhile.
func Conflict(id string, is, want int64) error {
	return Refuse("session %q: %w: its revision is %d, not %d", id, store.ErrConflict, is, want)
}

// Newer refuses a schema that this version does not know yet.
func Newer(version, known int) error {
	return Refuse("the database has schema version %d, made by a newer version of Curfew; this one knows up to %d", version, known)
}

// Refused reports whether err is a refusal.
func Refused(err error) bool {
	var refused *Refusal
	return errors.As(err, &refused)
}

// Fault returns err as the caller sees it: a refusal as what was refused, and otherwise as the context's error
// if the context ended, whatever the driver made of that.
func Fault(ctx context.Context, err error) error {
	var refused *Refusal
	switch end := ctx.Err(); {
	case errors.As(err, &refused):
		return refused.Err
	case err == nil || end == nil || errors.Is(err, end):
		return err
	default:
		return fmt.Errorf("%w: %w", end, err)
	}
}

// Columns returns the time and the body of a document as they are stored, or why it must not be.
func Columns(d *store.Document) (at string, body []byte, err error) {
	if err := d.Validate(); err != nil {
		return "", nil, err
	}
	if !d.At.IsZero() {
		at = d.At.UTC().Format(time.RFC3339Nano)
	}
	if body = d.Body; body == nil {
		body = []byte{} // a column that is not null
	}
	return at, body, nil
}

// ReadTime sets the time of a document as it was stored.
func ReadTime(d *store.Document, at string) (err error) {
	d.At = time.Time{}
	if at == "" {
		return nil
	}
	if d.At, err = time.Parse(time.RFC3339Nano, at); err != nil {
		return Refuse("document %q, version %d: %w", d.Key, d.Version, err)
	}
	return nil
}
