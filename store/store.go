// Package store defines where login sessions are kept.
//
// A [Store] is dumb and exact: it keeps documents, compares revisions and runs
// one serializable step per subject. It knows no limit and no reason; policy is
// never re-written in SQL or Lua. The implementations are memstore, for one
// process and its lifetime, sqlitestore, for the processes of one machine, and
// pgstore and redisstore, for those of several.
//
// Package storetest tests that a store keeps this contract, with no exception
// for any engine.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/curfew-oidc/curfew/policy"
)

var (
	// ErrNotFound is wrapped by errors about something that is not in the
	// store.
	ErrNotFound = errors.New("not found")

	// ErrConflict is wrapped by errors about a write that lost a race: the
	// stored revision is not the one that was read, or, from Admit, the step
	// kept losing races until its context ended.
	ErrConflict = errors.New("conflict")

	// ErrExists is wrapped by the error of Create and Admit when there is a
	// session with the ID of one to be added.
	ErrExists = errors.New("already exists")

	// ErrFull is wrapped by Create's error when the subject has max sessions
	// that have not ended.
	ErrFull = errors.New("too many sessions")

	// ErrFenced is wrapped by Create's error when all of the subject's sessions
	// ended after the one to be added began: see [Fence].
	ErrFenced = errors.New("older than the end of all sessions of the subject")

	// ErrUnreadable is wrapped by errors about a session, or a fence, that is in the
	// store and cannot be read: it is damaged, or a newer version of this package wrote
	// it, and then the error wraps ErrFormat too. What such a session is, or whether it
	// goes on, nobody knows until it is repaired.
	ErrUnreadable = errors.New("the document cannot be read")
)

// Sessions keeps the login sessions of all subjects.
//
// Implementations must be safe for concurrent use by any number of goroutines
// and, where the engine allows it, processes. They never read a clock to decide
// anything: the caller passes the time. They leave no goroutine behind but one that
// waits for an engine's answer, and log nothing.
//
// What is kept: times to at least the microsecond, in UTC, and the zero time as
// the zero time; members of a session document that this version does not know,
// on every level; an empty slice or map may come back as nil. IDs, subjects and
// all other names are compared and ordered byte by byte: upper and lower case,
// trailing spaces, different normal forms of Unicode, and NUL make a difference.
// A name that is not valid UTF-8 is not in the store: reading finds nothing, and
// what [Session.Validate] or [Document.Validate] refuses is not written. The ID of
// a session begins with the [Bucket] of its subject; a store may rely on it.
// Arguments are not kept and returned values not used again: both are the
// caller's to change.
//
// Every method sees all writes that returned before it was called. A write is
// durable, as far as the engine is set up to be, when the method returns.
//
// Every method honours its context, also while it waits for others. With a
// context that has ended already it changes nothing. The error of a method whose
// context ended wraps the context's error. Where the engine answers that a step
// must be tried again (a serialization failure, a busy database), the store
// tries again until the context ends.
//
// One session that cannot be read does not hold up others. List, Due and DueFences
// return those that can, as if it were not there, together with an error that wraps
// ErrUnreadable and names it, or ten of them and how many more there are. It counts
// for caps all the same: Create counts it, and Admit of its subject fails with such an
// error. Delete removes it.
//
// An error that wraps one of the errors above, or decide's error, means that
// nothing changed, but for a claim of Due. Any other error means that the store could not answer;
// whether a write took effect is then unknown, unless its argument was refused.
type Sessions interface {
	// Get returns the session with the given ID, ended or not, with the fence of
	// its subject. If there is none the error wraps ErrNotFound.
	Get(ctx context.Context, id string) (Session, error)

	// Create adds a session; its revision is then 1, whatever s.Revision is.
	// If there is one with its ID, ended or not, the error wraps ErrExists;
	// otherwise, if its subject has max or more that have not ended, the
	// error wraps ErrFull; and if s began by the time of the subject's fence,
	// ErrFenced. It does not load the subject's sessions. The session that it
	// adds must not have ended.
	Create(ctx context.Context, s Session, max int) error

	// Update replaces a session if its stored revision is still s.Revision,
	// and returns the new one, which is one more. If it is not, the error
	// wraps ErrConflict; if there is no such session, ErrNotFound. ID and
	// Subject never change, and a session that has ended is never brought
	// back: an Update that would do either returns another error and changes
	// nothing. An ended session can be updated as long as it stays ended.
	Update(ctx context.Context, s Session) (revision int64, err error)

	// Admit runs one serializable step over the sessions of one subject that
	// have not ended (s.End is nil; whether they are over is for the policy
	// to say), and its fence. A fence that is put while a step is under way may
	// or may not be seen by it. What decide returns is written, all or nothing: sessions that
	// were in held are replaced, whatever their Revision, others are added;
	// those of held that are not returned stay as they are. It may end
	// sessions, not delete them. Of concurrent steps of one subject each sees
	// the result of the one before, and none loses a concurrent Update, Create
	// or Delete.
	//
	// A step that loses a race is tried again here, not by the caller, until
	// the context ends; then the error wraps ErrConflict and the context's
	// error. So decide may run more than once and must only compute: it must
	// not call the Store, and it must decide from its arguments alone; held is in
	// ascending order of ID, and it may change it. If decide returns an
	// error nothing changes, and Admit returns that error unwrapped.
	//
	// A session to be added whose ID exists already (ended, or of another
	// subject) makes the error wrap ErrExists. A session of another subject,
	// one that is added and has ended, and one ID twice are errors.
	Admit(ctx context.Context, subject Subject, decide func(held []Session, fence Fence) ([]Session, error)) error

	// List returns one page of the sessions that match f, in ascending order
	// of ID, starting after the cursor (empty: from the first), at most limit
	// of them, and the cursor of the next page, empty on the last. A page may
	// be short or empty and not be the last: only an empty cursor says that
	// it is. A session that matches all the time is returned exactly once
	// over the pages, whatever is written in between; one that begins or
	// ceases to match meanwhile at most once. A limit below 1 is an error. A
	// cursor is only good for the filter that it was made with.
	List(ctx context.Context, f Filter, cursor string, limit int) (page []Session, next string, err error)

	// Due returns up to limit sessions whose Due time is set and not after
	// now, the most overdue first (and of equally overdue ones that with the
	// lower ID), and claims them until now+lease: another Due that passes a
	// time before that does not return them. A claim that would last for more
	// than three times the lease from now is not heeded: the clock that made it
	// was ahead, and was set right. A write of a claimed session
	// releases the claim. A claim is not a write: the revision stays the
	// same, and nobody but Due heeds it. A session that cannot be read takes its
	// place within the limit and is claimed as the others are: it is named again
	// when the lease is over. A limit below 1 is an error.
	Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]Session, error)

	// Delete removes a session if its stored revision is still the given one.
	// If it is not, the error wraps ErrConflict. Deleting what is not there
	// succeeds.
	Delete(ctx context.Context, id string, revision int64) error

	// Stats counts what is kept, for monitoring. It loads no document, but it
	// may take time in proportion to the number of sessions: nothing that a
	// user waits for asks for it.
	Stats(ctx context.Context) (Stats, error)
}

// Stats is what a store keeps. The three are exact for what was committed when
// the store was asked, each for itself: writes in between may show in one and not
// yet in another.
type Stats struct {
	Unended int // sessions that have not ended
	Ended   int // sessions that have

	// NextDue is the earliest Due time of all sessions, claimed or not, to the
	// microsecond. The zero time: none is set.
	NextDue time.Time
}

// Documents keeps small named documents with their history: settings, and what
// else must be shared by all processes. The same rules as for [Sessions] hold.
type Documents interface {
	// Document returns the current version. If there is none the error wraps
	// ErrNotFound.
	Document(ctx context.Context, key string) (Document, error)

	// PutDocument writes a new version if the current one is d.Version (0:
	// there is none yet), and returns the new version, which is one more. If
	// it is not, the error wraps ErrConflict and nothing changes. With
	// d.NoHistory the versions before it are removed.
	PutDocument(ctx context.Context, d Document) (version int64, err error)

	// History returns the versions of a document, newest first, older than
	// the version before (0: from the newest), at most limit of them. It
	// includes the current version. A document that is not there has none. A
	// limit below 1 is an error.
	History(ctx context.Context, key string, before int64, limit int) ([]Document, error)

	// DropDocument removes a document with all its versions. Removing what is
	// not there succeeds.
	DropDocument(ctx context.Context, key string) error
}

// A Store keeps sessions, fences and documents. Counts are not among them: see [Counts].
type Store interface {
	Sessions
	Fences
	Documents
}

// A Document is one version of a named document.
type Document struct {
	Key     string    `json:"key"`
	Version int64     `json:"version"` // 1, 2, 3, ...; its entity tag
	Body    []byte    `json:"body"`
	At      time.Time `json:"at"`                // when it was written
	By      string    `json:"by,omitempty"`      // who wrote it
	Message string    `json:"message,omitempty"` // why

	// NoHistory is for PutDocument: of what is written often, and of which nobody
	// reads what it was before, only the newest version is kept. It is false in
	// what is read.
	NoHistory bool `json:"-"`
}

// Validate returns why a store must refuse to write d, and nil if it need not:
// see [Session.Validate]. A body is bytes, of any kind.
func (d *Document) Validate() error {
	if d.Key == "" {
		return errors.New("the document has no key")
	}
	e := encoder{b: []byte{'{'}}
	e.text("key", d.Key)
	e.time("at", d.At)
	e.text("by", d.By)
	e.text("message", d.Message)
	_, err := e.bytes()
	return err
}

// A Filter selects sessions. A zero field selects all.
type Filter struct {
	Subject Subject // both fields, or none
	Account string
	Kind    policy.Kind
	Client  string // a client that the session has a grant of, or began with
	State   State
}

// State selects by whether a session has ended. Whether an unended session is
// over is for the policy to say.
type State uint8

const (
	Any     State = iota
	Unended       // s.End is nil
	Ended         // s.End is set
)
