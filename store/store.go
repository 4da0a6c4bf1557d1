// Package store defines how login sessions are stored.
//
// A Store is simple and exact: it keeps documents, compares revisions and runs one serializable
// step per subject. It does not know limits or reasons; policy is never re-written in SQL or Lua. The
// implementations are memstore, for one
// process and its lifetime, sqlitestore, for the processes of one machine, and
// pgstore and redisstore, for those of several.
//
// Package storetest tests that a store keeps this contract, with no exception
// for any engine. Package faultstore wraps a store to make it fail.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/curfew-oidc/curfew/policy"
)

var (
	// ErrNotFound is wrapped by errors about a session or document that is not in the store.
	ErrNotFound = errors.New("not found")

	// ErrConflict is wrapped by errors about a write that lost a race: the stored revision is no
	// longer the one that was read, or, from Admit, the step lost every race until its context
	// ended.
	ErrConflict = errors.New("conflict")

	// ErrExists is wrapped by the error of Create and Admit when a session to be added has the ID
	// of an existing one.
	ErrExists = errors.New("already exists")

	// ErrFull is wrapped by Create's error when the subject has max unended sessions.
	ErrFull = errors.New("too many sessions")

	// ErrFenced is wrapped by Create's error when all of the subject's sessions
	// ended after the one to be added began: see [Fence].
	ErrFenced = errors.New("older than the end of all sessions of the subject")

	// ErrUnreadable is wrapped by errors about a session, or a fence, that is in the
	// store and cannot be read: it is damaged, or a newer version of this package wrote it, and
	// then the error wraps ErrFormat too. Until it is repaired, nobody knows whether such a session
	// is live.
	ErrUnreadable = errors.New("the document cannot be read")
)

// Sessions keeps the login sessions of all subjects.
//
// Implementations must be safe for concurrent use by any number of goroutines
// and, where the engine allows it, processes. They never read a clock to decide
// anything: the caller passes the time. They log nothing, and leave no goroutine behind, except one
// that waits for an engine's answer.
//
// A store keeps times to at least the microsecond, in UTC, and the zero time as the zero time. It
// keeps members of a session document that this version does not know, on every level. An empty
// slice or map may come back as nil. IDs, subjects and
// all other names are compared and ordered byte by byte: upper and lower case,
// trailing spaces, different normal forms of Unicode, and NUL make a difference.
// A name that is not valid UTF-8 is never in the store: reading it finds nothing. A store does not
// write what [Session.Validate] or [Document.Validate] refuses. The ID of a session begins with the
// [Bucket] of its subject; a store may rely on that. A store keeps neither its arguments nor the
// values that it returns: the caller may change both.
//
// Every method sees all writes that returned before it was called. When a method returns, its write
// is as durable as the engine is configured to make it.
//
// Every method honours its context, also while it waits for others. If the context has already
// ended, the method changes nothing. The error of a method whose
// context ended wraps the context's error. If the engine answers that a step must be retried (a
// serialization failure, a busy database), the store retries until the context ends.
//
// A session that cannot be read does not hold up others. List, Due and DueFences return the
// readable ones as if it did not exist, together with an error that wraps ErrUnreadable and names
// it; the error names at most ten, and counts the rest. An unreadable session still counts for
// caps: Create counts it, and Admit of its subject fails with such an error. Delete removes it.
//
// An error that wraps one of the errors above, or decide's error, means that nothing changed,
// except claims of Due. Any other error means that the store could not answer; it is then unknown
// whether a write took effect, unless its argument was refused.
type Sessions interface {
	// Get returns the session with the given ID, ended or not, with the fence of
	// its subject. If there is none the error wraps ErrNotFound.
	Get(ctx context.Context, id string) (Session, error)

	// Create adds a session; its revision is then 1, whatever s.Revision is.
	// If a session with its ID exists, ended or not, the error wraps ErrExists. Otherwise, if its
	// subject has max or more unended sessions, the error wraps ErrFull; and if s began by the time
	// of the subject's fence, ErrFenced. It does not load the subject's sessions. The session to be
	// added must not have ended.
	Create(ctx context.Context, s Session, max int) error

	// Update replaces a session if its stored revision is still s.Revision, and returns the new
	// revision, which is one more. If the stored revision is another one, the error wraps
	// ErrConflict; if there is no such session, ErrNotFound. ID and Subject never change, and a
	// session that has ended is never brought back: an Update that attempts either returns another
	// error and changes nothing. An ended session can be updated as long as it stays ended.
	Update(ctx context.Context, s Session) (revision int64, err error)

	// Admit runs one serializable step over the unended sessions of one subject (s.End is nil; the
	// policy decides whether they are over), and the subject's fence. A step may or may not see a
	// fence that is put while it runs. The sessions that decide returns are written, all or
	// nothing: sessions that were in held are replaced, whatever their Revision, and others are
	// added. Sessions of held that decide does not return stay unchanged. decide may end sessions,
	// but not delete them. Each of several concurrent steps of one subject sees the result of the
	// one before, and no concurrent Update, Create or Delete is lost.
	//
	// If a step loses a race, Admit itself retries it until the context ends; then the error wraps
	// ErrConflict and the context's error. So decide may run more than once, and must only compute:
	// it must not call the Store, and it must decide from its arguments alone. held is in ascending
	// order of ID, and decide may change it. If decide returns an error nothing changes, and Admit
	// returns that error unwrapped.
	//
	// If the ID of a session to be added already exists (ended, or of another subject), the error
	// wraps ErrExists. These are errors too: a session of another subject, an added session that
	// has ended, and the same ID twice.
	Admit(ctx context.Context, subject Subject, decide func(held []Session, fence Fence) ([]Session, error)) error

	// List returns one page of the sessions that match f, in ascending order
	// of ID, starting after the cursor (empty: from the first), at most limit
	// of them, and the cursor of the next page, empty on the last. A page may be short or empty and
	// not be the last: only an empty cursor marks the last page. A session that matches all the
	// time is returned exactly once over the pages, whatever is written in between; a session that
	// begins or ceases to match meanwhile is returned at most once. A limit below 1 is an error. A
	// cursor is valid only for the filter that it was made with.
	List(ctx context.Context, f Filter, cursor string, limit int) (page []Session, next string, err error)

	// Due returns up to limit sessions whose Due time is set and not after
	// now, the most overdue first (between equally overdue ones, the lower ID first), and claims
	// them until now+lease: another Due with an earlier time does not return them. Due ignores a
	// claim that would last for more than three times the lease from now: the clock that made it
	// was ahead, and was corrected. A write of a claimed session releases the claim. A claim is not
	// a write: the revision stays the same, and only Due observes it. A session that cannot be read
	// counts towards the limit and is claimed like the others: its error is returned again when the
	// lease is over. A limit below 1 is an error.
	Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]Session, error)

	// Delete removes a session if its stored revision is still the given one. If it is not, the
	// error wraps ErrConflict. Deleting a session that does not exist succeeds.
	Delete(ctx context.Context, id string, revision int64) error

	// Stats counts the stored sessions, for monitoring. It loads no document, but it may take time
	// in proportion to the number of sessions: nothing that a user waits for calls it.
	Stats(ctx context.Context) (Stats, error)
}

// Stats describes the contents of a store. Each of the three values is exact for what was committed
// when the store read it, but they are read separately: a write in between may show in one and not
// in another.
type Stats struct {
	Unended int // sessions that have not ended
	Ended   int // sessions that have

	// NextDue is the earliest Due time of all sessions, claimed or not, to the
	// microsecond. The zero time: none is set.
	NextDue time.Time
}

// Documents keeps small named documents with their history: settings, and other data that all
// processes share. The rules of Sessions hold here too.
type Documents interface {
	// Document returns the current version. If there is none the error wraps
	// ErrNotFound.
	Document(ctx context.Context, key string) (Document, error)

	// PutDocument writes a new version if the current one is d.Version (0: there is none yet), and
	// returns the new version, which is one more. If the current version is another one, the error
	// wraps ErrConflict and nothing changes. With d.NoHistory earlier versions are removed.
	PutDocument(ctx context.Context, d Document) (version int64, err error)

	// History returns the versions of a document, newest first, older than
	// the version before (0: from the newest), at most limit of them. It includes the current
	// version. A document that does not exist has no versions. A
	// limit below 1 is an error.
	History(ctx context.Context, key string, before int64, limit int) ([]Document, error)

	// DropDocument removes a document with all its versions. Removing what is
	// not there succeeds.
	DropDocument(ctx context.Context, key string) error
}

// A Store is all of them.
type Store interface {
	Sessions
	Fences
	Documents
	Counts
}

// A Document is one version of a named document.
type Document struct {
	Key     string    `json:"key"`
	Version int64     `json:"version"` // 1, 2, 3, ...; its entity tag
	Body    []byte    `json:"body"`
	At      time.Time `json:"at"`                // when it was written
	By      string    `json:"by,omitempty"`      // who wrote it
	Message string    `json:"message,omitempty"` // why

	// NoHistory tells PutDocument to keep only the newest version: for documents that are written
	// often, and whose older versions nobody reads. It is false in documents that are read.
	NoHistory bool `json:"-"`
}

// Validate returns why a store must refuse to write d, and nil if it need not:
// see [Session.Validate]. A body may be any bytes.
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
	Client  string // a client that has a grant in the session, or began it
	State   State
}

// State selects by whether a session has ended. The policy decides whether an unended session is
// over.
type State uint8

const (
	Any     State = iota
	Unended       // s.End is nil
	Ended         // s.End is set
)
