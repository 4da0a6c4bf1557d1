package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/curfew-oidc/curfew/policy"
)

// A Fence records when all of a subject's sessions ended. A session or login that began by then
// cannot go on, even if its own document does not say so yet. A single write ends them all, and no
// number of racing logins can delay it.
//
// A subject has at most one fence. The zero Fence stops nothing.
type Fence struct {
	Subject Subject `json:"subject"`

	// At is the time of the end. Sessions that began at or before it have ended, and no earlier
	// authentication begins a session.
	At time.Time `json:"at,omitzero"`

	Reason policy.Reason `json:"reason,omitempty"` // why they ended
	By     string        `json:"by,omitempty"`     // who ended them: see [End]

	// Spared are the earlier sessions that go on, at most [MaxSpared].
	Spared []Spared `json:"spared,omitempty"`

	// Due is when a sweeper must process the fence next: to write missing ends, or to remove it.
	// Zero: never.
	Due time.Time `json:"due,omitzero"`

	// Revision is 1 when the fence is first put, and one more with each write. It is not part of
	// the document, and is zero if the fence comes with a session.
	Revision int64 `json:"-"`
}

// A Spared is a session that a fence does not stop.
type Spared struct {
	ID      string    `json:"sid"`
	Started time.Time `json:"started,omitzero"` // as the session's
}

// MaxSpared is the most sessions that a fence may spare. It is small because the fence is read with
// each session.
const MaxSpared = 16

// Past reports whether a session or authentication that began at the given time is from before the
// fence.
func (f *Fence) Past(began time.Time) bool { return !f.At.IsZero() && !began.After(f.At) }

// Stops reports whether the fence ended the session with the given ID and start.
func (f *Fence) Stops(id string, started time.Time) bool {
	return f.Past(started) && !slices.ContainsFunc(f.Spared, func(s Spared) bool { return s.ID == id })
}

// Fenced reports whether the fence that the session was read with has ended it, although its own
// document does not say so.
func (s *Session) Fenced() bool {
	return s.End == nil && s.Joined == "" && s.Fence.Stops(s.ID, s.Started)
}

// Moved reports whether the stored fence is no longer f, which was returned before.
func (f Fence) Moved(stored Fence) bool {
	return stored.Revision != f.Revision || !stored.At.Equal(f.At)
}

// Join returns the fence that stops all that f or g stops. Its At, Reason and By are those of the
// later one, its Due the earlier of both. Neither the order of joins nor their number changes which
// sessions are stopped.
func (f Fence) Join(g Fence) Fence {
	if g.At.Before(f.At) {
		f, g = g, f
	}
	joined := g
	joined.Spared = nil
	for _, s := range g.Spared {
		if !f.Stops(s.ID, s.Started) {
			joined.Spared = append(joined.Spared, s)
		}
	}
	if joined.Due.IsZero() || !f.Due.IsZero() && f.Due.Before(joined.Due) {
		joined.Due = f.Due
	}
	return joined.inUTC()
}

// Validate returns why a store must refuse to write f, and nil if it need not.
func (f *Fence) Validate() error {
	_, err := f.AppendDocument(nil)
	return err
}

// AppendDocument appends the document of f, which [ParseFence] reads, to b.
func (f *Fence) AppendDocument(b []byte) ([]byte, error) {
	if f.At.IsZero() {
		return nil, errors.New("the fence has no time")
	}
	if len(f.Spared) > MaxSpared {
		return nil, fmt.Errorf("the fence spares %d sessions, at most %d are possible", len(f.Spared), MaxSpared)
	}
	texts := []string{f.Subject.Issuer, f.Subject.ID, string(f.Reason), f.By}
	times := []time.Time{f.At, f.Due}
	for _, s := range f.Spared {
		texts, times = append(texts, s.ID), append(times, s.Started)
	}
	if i := slices.IndexFunc(texts, func(text string) bool { return !utf8.ValidString(text) }); i >= 0 {
		return nil, fmt.Errorf("a text of the fence, %q, is not valid UTF-8", texts[i])
	}
	if i := slices.IndexFunc(times, outOfRange); i >= 0 {
		return nil, fmt.Errorf("a time of the fence is outside of the years 0 to 9999")
	}
	document, err := json.Marshal(f.inUTC())
	return append(b, document...), err
}

func outOfRange(t time.Time) bool { return t.UTC().Year() < 0 || t.UTC().Year() > 9999 }

// inUTC returns a copy of f as a store that writes it down would return it.
func (f Fence) inUTC() Fence {
	f.At, f.Due = f.At.UTC().Round(0), f.Due.UTC().Round(0)
	f.Spared = slices.Clone(f.Spared)
	for i := range f.Spared {
		f.Spared[i].Started = f.Spared[i].Started.UTC().Round(0)
	}
	return f
}

// ParseFence returns the fence of a document. Its Revision is zero. Its errors wrap
// [ErrUnreadable].
func ParseFence(document string) (Fence, error) {
	var f Fence
	if err := json.NewDecoder(strings.NewReader(document)).Decode(&f); err != nil {
		return Fence{}, fmt.Errorf("read the document of a fence: %w: %w", ErrUnreadable, err)
	}
	return f, nil
}

// Fences keeps the fence of each subject that has one. The rules of Sessions hold here too. A call
// that is made after a fence was put sees it: Get, List and Due return it with each session, Admit
// passes it to the decision, and Create compares with it.
type Fences interface {
	// PutFence puts a fence, joined to the existing one (see [Fence.Join]), and returns the stored
	// result. It does not depend on writes of sessions, so it loses no race to logins, however many
	// there are. Putting a fence twice stops no more than once. f.Revision is ignored.
	PutFence(ctx context.Context, f Fence) (Fence, error)

	// MoveFence sets when a sweeper must process the fence f next; f is as it was returned. A zero
	// due time removes the fence. If the stored fence is no longer f ([Fence.Moved]), the error
	// wraps ErrConflict and nothing changes. Moving a fence that does not exist succeeds.
	MoveFence(ctx context.Context, f Fence, due time.Time) error

	// DueFences returns up to limit fences whose Due time is set and not after now, the most
	// overdue first. Fences that cannot be read do not count towards the limit. A limit below 1 is
	// an error.
	DueFences(ctx context.Context, now time.Time, limit int) ([]Fence, error)
}
