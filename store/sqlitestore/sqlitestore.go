// Package sqlitestore keeps login sessions in an SQLite database.
//
// It takes the caller's [*sql.DB] and imports no driver: it works with any driver for SQLite 3.37
// or later. With github.com/ncruces/go-sqlite3/driver, which needs no C compiler:
//
//	db, err := sql.Open("sqlite3", "file:/var/lib/op/sessions.db?_pragma=busy_timeout(1000)&_txlock=immediate")
//	...
//	db.SetMaxOpenConns(8)
//	db.SetMaxIdleConns(8)
//	sessions, err := sqlitestore.New(ctx, db)
//
// The tables' names begin with "curfew_"; the rest of the database is the
// caller's. The file holds no secret in the clear, but it shows which users are signed in, and with
// which browsers and applications: keep it in a directory that nobody else can read.
//
// # Who may share it
//
// Any number of processes of one machine may share the file: caps are exact
// across all of them. The file must be on a local disk. Network file systems do
// not lock reliably.
//
// # Durability
//
// An acknowledged write survives the death of the process and, if the disk is honest about its
// writes, the loss of power. For this, [New]
// sets the journal mode to WAL, which stays in the file, and each write makes sure that
// synchronous=FULL is set on the connection that it uses. The data source name cannot lower that.
// Begin your own transactions with BeginTx: if somebody executes BEGIN as a statement and returns
// the connection to the pool, the store's updates on it become part of that transaction. A copy of
// the file alone is not a backup: use the backup API, VACUUM INTO, or copy the file with its "-wal"
// while no process uses it.
//
// A cleaner of old files, or somebody who restores a backup, may remove or replace a file that is
// open. The open file goes on working, and all later writes to it are lost when it is closed. So a
// store in use checks once a second that the database, its "-wal" and its "-shm" are the files that
// it has open. While they are not, every call fails. If a moved file is put back, the store
// resumes; after a file was removed or replaced, restart the process. The check does not cover
// files in the driver's own file system, or a file that is overwritten in place.
//
// While the disk is full, writes fail with an error and reads go on; writes succeed again when
// there is room.
//
// # Waiting
//
// SQLite has one writer at a time. Within a process writers queue up, in order;
// between processes they try again until the context ends. The driver's busy timeout is how long
// the driver itself waits before the store tries again: about a second is good. If the driver
// ignores the context while it waits, a cancellation is noticed that much later. Transactions
// should begin
// immediately (most drivers know "_txlock=immediate", for ncruces it is the
// default): deferred transactions are as exact, but lose races more often.
//
// Connections are expensive, and database/sql closes all idle ones but two: set the same limit for
// open and for idle connections. The store is correct with one connection, but reads then wait for
// writes, and a caller that holds that connection in its own transaction waits until the context
// ends.
package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/internal/sqlitefile"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/unreadable"
)

// Store is a [store.Store] in an SQLite database. It is made by [New].
type Store struct {
	db *sql.DB

	// writing holds a token while this store writes: SQLite has one writer
	// anyway, and waiting here is fair and ends with the context.
	writing chan struct{}

	// durability is executed before each write on its connection. A refresh only asks
	// whether it was.
	durability string

	// file is nil until the database is open.
	file *sqlitefile.File

	get, count, held, insert, update, state, rewrite, remove   *sql.Stmt
	addTerm, removeTerm, anyDue, due, claim, stats             *sql.Stmt
	document, currentVersion, insertVersion, documentHistories *sql.Stmt
	onlyVersion, dropDocument                                  *sql.Stmt
	addCount, counts, dropCounts, unended                      *sql.Stmt
	fence, putFence, removeFence, dueFences                    *sql.Stmt
}

const (
	// What each read of a session brings. A subject rarely has a fence.
	sessionCols = `s.revision, s.document, (SELECT f.document FROM curfew_fences f WHERE f.issuer = s.issuer AND f.subject = s.subject)`

	getSQL   = `SELECT ` + sessionCols + ` FROM curfew_sessions s WHERE s.id = ?1`
	countSQL = `SELECT count(*) FROM (SELECT 1 FROM curfew_sessions WHERE issuer = ?1 AND subject = ?2 AND ended = 0 LIMIT ?3)`
	heldSQL  = `SELECT s.id, s.revision, s.document, NULL FROM curfew_sessions s WHERE s.issuer = ?1 AND s.subject = ?2 AND s.ended = 0 ORDER BY s.id`

	insertSQL = `INSERT INTO curfew_sessions (id, revision, issuer, subject, ended, terms, due, document)
		VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING`

	// A refresh: nothing changes that the session is found by. It is a transaction
	// by itself, so it changes nothing if its connection does not wait for the disk.
	// The pragma has its argument so that no table can go by its name.
	updateSQL = `UPDATE curfew_sessions SET revision = revision + 1, due = ?7, claimed = 0, document = ?8
		WHERE id = ?1 AND revision = ?2 AND issuer = ?3 AND subject = ?4 AND ended = ?5 AND terms = ?6
		AND (SELECT synchronous FROM pragma_synchronous('main')) >= 2`

	stateSQL   = `SELECT revision, issuer, subject, ended, terms FROM curfew_sessions WHERE id = ?1`
	rewriteSQL = `UPDATE curfew_sessions SET revision = revision + 1, ended = ?2, terms = ?3, due = ?4, claimed = 0, document = ?5 WHERE id = ?1`
	removeSQL  = `DELETE FROM curfew_sessions WHERE id = ?1`

	addTermSQL    = `INSERT INTO curfew_terms (term, ended, id) VALUES (?1, ?2, ?3)`
	removeTermSQL = `DELETE FROM curfew_terms WHERE term = ?1 AND ended = ?2 AND id = ?3`

	anyDueSQL = `SELECT 1 FROM curfew_sessions WHERE due <= ?1 AND (claimed <= ?1 OR claimed > ?2) LIMIT 1`
	dueSQL    = `SELECT s.id, ` + sessionCols + ` FROM curfew_sessions s WHERE s.due <= ?1 AND (s.claimed <= ?1 OR s.claimed > ?2) ORDER BY s.due, s.id LIMIT ?3`
	claimSQL  = `UPDATE curfew_sessions SET claimed = ?2 WHERE id = ?1`

	// One statement, which sees one moment. Each part walks along an index.
	statsSQL = `SELECT (SELECT count(*) FROM curfew_sessions WHERE ended = 0), (SELECT count(*) FROM curfew_sessions WHERE ended = 1),
		(SELECT min(due) FROM curfew_sessions WHERE due IS NOT NULL)`

	documentSQL       = `SELECT version, body, at, by, message FROM curfew_documents WHERE key = ?1 ORDER BY version DESC LIMIT 1`
	currentVersionSQL = `SELECT coalesce(max(version), 0) FROM curfew_documents WHERE key = ?1`
	insertVersionSQL  = `INSERT INTO curfew_documents (key, version, body, at, by, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6)`
	onlyVersionSQL    = `DELETE FROM curfew_documents WHERE key = ?1 AND version < ?2`
	dropDocumentSQL   = `DELETE FROM curfew_documents WHERE key = ?1`
	historySQL        = `SELECT version, body, at, by, message FROM curfew_documents WHERE key = ?1 AND version < ?2 ORDER BY version DESC LIMIT ?3`
)

// New returns the store in a database. It creates missing tables, also if several processes do so
// at once, and fails if a newer version of this package changed them. It fails if the database does
// not support WAL mode, as a database in memory does not. The caller closes the database; the store
// is unusable after that.
func New(ctx context.Context, db *sql.DB) (*Store, error) {
	s := &Store{db: db, writing: make(chan struct{}, 1), durability: `PRAGMA synchronous = FULL`}
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("open SQLite session store: %w", fault(ctx, err))
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := s.again(ctx, func() error { return s.prove(ctx) }); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	for stmt, query := range map[**sql.Stmt]string{
		&s.get: getSQL, &s.count: countSQL, &s.held: heldSQL, &s.insert: insertSQL, &s.update: updateSQL,
		&s.state: stateSQL, &s.rewrite: rewriteSQL, &s.remove: removeSQL, &s.addTerm: addTermSQL, &s.removeTerm: removeTermSQL,
		&s.anyDue: anyDueSQL, &s.due: dueSQL, &s.claim: claimSQL, &s.stats: statsSQL,
		&s.document: documentSQL, &s.currentVersion: currentVersionSQL, &s.insertVersion: insertVersionSQL, &s.documentHistories: historySQL,
		&s.onlyVersion: onlyVersionSQL, &s.dropDocument: dropDocumentSQL,
		&s.addCount: addCountSQL, &s.counts: countsSQL, &s.dropCounts: dropCountsSQL, &s.unended: unendedSQL,
		&s.fence: fenceSQL, &s.putFence: putFenceSQL, &s.removeFence: removeFenceSQL, &s.dueFences: dueFencesSQL,
	} {
		err := s.again(ctx, func() (err error) {
			*stmt, err = s.db.PrepareContext(ctx, query)
			return err
		})
		if err != nil {
			return err
		}
	}
	return s.again(ctx, func() (err error) {
		s.file, err = sqlitefile.Find(ctx, s.db)
		return err
	})
}

// prove makes the database durable and proves that it is.
func (s *Store) prove(ctx context.Context) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var mode string
	if err := conn.QueryRowContext(ctx, `PRAGMA journal_mode = WAL`).Scan(&mode); err != nil {
		return fmt.Errorf("set journal_mode: %w", err)
	}
	if mode != "wal" {
		return fmt.Errorf("journal_mode is %q and cannot be set to WAL: the database must be a file that can be written", mode)
	}
	if _, err := conn.ExecContext(ctx, s.durability); err != nil {
		return fmt.Errorf("set synchronous: %w", err)
	}
	var level int
	if err := conn.QueryRowContext(ctx, `PRAGMA synchronous`).Scan(&level); err != nil {
		return fmt.Errorf("read synchronous: %w", err)
	}
	if level < 2 { // 0 OFF, 1 NORMAL, 2 FULL, 3 EXTRA
		return fmt.Errorf("synchronous is %d and cannot be set to 2 (FULL)", level)
	}
	return nil
}

// again tries an operation again while the database is busy, until the context
// ends. It begins none on a database that is not where it was.
func (s *Store) again(ctx context.Context, try func() error) error {
	if err := s.file.Check(ctx); err != nil {
		return err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := try()
		if err == nil || !busy(err) {
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-timer.C:
		}
	}
}

// busy reports whether SQLite says that the same must be tried again:
// SQLITE_BUSY and SQLITE_LOCKED. The messages are SQLite's own; the drivers have
// no error in common.
func busy(err error) bool {
	var refused *refusal
	if errors.As(err, &refused) {
		return false
	}
	msg := err.Error()
	return strings.Contains(msg, "database is locked") || strings.Contains(msg, "database table is locked")
}

// A refusal is an error that is not the engine's: it is the answer.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(format string, args ...any) error { return &refusal{fmt.Errorf(format, args...)} }

func notFound(id string) error { return refuse("session %q: %w", id, store.ErrNotFound) }
func exists(id string) error   { return refuse("session %q: %w", id, store.ErrExists) }
func conflict(id string, is, want int64) error {
	return refuse("session %q: %w: its revision is %d, not %d", id, store.ErrConflict, is, want)
}

// fault returns err as the context's error if the context ended, whatever the
// driver made of that.
func fault(ctx context.Context, err error) error {
	var refused *refusal
	switch end := ctx.Err(); {
	case errors.As(err, &refused):
		return refused.err
	case err == nil || end == nil || errors.Is(err, end):
		return err
	default:
		return fmt.Errorf("%w: %w", end, err)
	}
}

// A commitError is a commit that failed: whether the step took effect is not
// known.
type commitError struct{ err error }

func (e *commitError) Error() string { return "commit: " + e.err.Error() }
func (e *commitError) Unwrap() error { return e.err }

// write runs one step in a transaction of its own, and again as often as SQLite
// asks for it.
func (s *Store) write(ctx context.Context, step func(tx *sql.Tx) error) error {
	return s.inTurn(ctx, func() error { return s.try(ctx, step) })
}

// inTurn has the caller be the one who writes, as often as SQLite asks for it.
func (s *Store) inTurn(ctx context.Context, write func() error) error {
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.again(ctx, write)
}

func (s *Store) try(ctx context.Context, step func(tx *sql.Tx) error) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The pool may hand out a connection that was opened just now, or that
	// somebody changed.
	if _, err := conn.ExecContext(ctx, s.durability); err != nil {
		return err
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after the commit
	if err := step(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) || errors.Is(err, sql.ErrTxDone) || busy(err) {
			return err // it was rolled back instead
		}
		return &commitError{err}
	}
	return nil
}

// A row is a session as it is written.
type row struct {
	s        *store.Session
	ended    bool
	terms    []string
	termsCol string
	due      any
	document []byte
}

func newRow(s *store.Session) (row, error) {
	document, err := s.AppendDocument(nil)
	if err != nil {
		return row{}, &refusal{err}
	}
	r := row{s: s, ended: s.End != nil, terms: terms(s), document: document}
	r.termsCol = formatTerms(r.terms)
	if !s.Due.IsZero() {
		r.due = s.Due.UnixMicro()
	}
	return r, nil
}

// terms returns what a session is found by, in order, each once.
func terms(s *store.Session) []string {
	list := make([]string, 0, 8)
	for _, account := range s.Accounts {
		list = append(list, accountTerm+account)
	}
	list = append(list, clientTerm+s.Client, kindTerm+string(s.Kind))
	for i := range s.Grants {
		list = append(list, clientTerm+s.Grants[i].Client)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

const (
	accountTerm = "account:"
	clientTerm  = "client:"
	kindTerm    = "kind:"
)

func formatTerms(terms []string) string {
	b, err := json.Marshal(terms)
	if err != nil { // a list of strings
		panic(err)
	}
	return string(b)
}

func parseTerms(col string) (terms []string, err error) {
	err = json.Unmarshal([]byte(col), &terms)
	return terms, err
}

func scan(revision int64, document, fence []byte) (store.Session, error) {
	var s store.Session
	if err := s.UnmarshalJSON(document); err != nil {
		return store.Session{}, err
	}
	s.Revision = revision
	if fence == nil {
		return s, nil
	}
	var err error
	s.Fence, err = store.ParseFence(string(fence))
	return s, err
}

// Get implements [store.Sessions].
func (s *Store) Get(ctx context.Context, id string) (store.Session, error) {
	var revision int64
	var document, fence []byte
	err := s.again(ctx, func() error { return s.get.QueryRowContext(ctx, id).Scan(&revision, &document, &fence) })
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return store.Session{}, fmt.Errorf("get %w", fault(ctx, notFound(id)))
	case err != nil:
		return store.Session{}, fmt.Errorf("get session: %w", fault(ctx, err))
	}
	got, err := scan(revision, document, fence)
	if err != nil {
		return store.Session{}, fmt.Errorf("get session %q: %w", id, err)
	}
	return got, nil
}

// Create implements [store.Sessions].
func (s *Store) Create(ctx context.Context, session store.Session, max int) error {
	if session.End != nil {
		return fmt.Errorf("create session %q: it has ended", session.ID)
	}
	r, err := newRow(&session)
	if err == nil {
		err = s.write(ctx, func(tx *sql.Tx) error {
			_, taken, err := s.readState(ctx, tx, session.ID)
			if err != nil {
				return err
			}
			if taken {
				return exists(session.ID)
			}
			found := 0
			if max > 0 {
				if err := tx.StmtContext(ctx, s.count).QueryRowContext(ctx, session.Subject.Issuer, session.Subject.ID, max).Scan(&found); err != nil {
					return err
				}
			}
			if found >= max {
				return refuse("%w: the subject has %d or more", store.ErrFull, found)
			}
			fence, err := s.fenceOf(ctx, tx, session.Subject)
			if err != nil {
				return err
			}
			if fence.Past(session.Started) {
				return refuse("session %q: %w", session.ID, store.ErrFenced)
			}
			return s.add(ctx, tx, r)
		})
	}
	if err != nil {
		return fmt.Errorf("create session: %w", fault(ctx, err))
	}
	return nil
}

// add adds a session.
func (s *Store) add(ctx context.Context, tx *sql.Tx, r row) error {
	result, err := tx.StmtContext(ctx, s.insert).ExecContext(ctx,
		r.s.ID, r.s.Subject.Issuer, r.s.Subject.ID, r.ended, r.termsCol, r.due, r.document)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, exists(r.s.ID))
	}
	return s.setTerms(ctx, tx, r.s.ID, nil, false, r.terms, r.ended)
}

// Update implements [store.Sessions].
func (s *Store) Update(ctx context.Context, session store.Session) (int64, error) {
	r, err := newRow(&session)
	if err == nil {
		err = s.inTurn(ctx, func() error {
			result, err := s.update.ExecContext(ctx,
				session.ID, session.Revision, session.Subject.Issuer, session.Subject.ID, r.ended, r.termsCol, r.due, r.document)
			if err != nil {
				return err
			}
			if n, err := result.RowsAffected(); err != nil || n == 1 {
				return err
			}
			return s.try(ctx, func(tx *sql.Tx) error { return s.updateAll(ctx, tx, r) })
		})
	}
	if err != nil {
		return 0, fmt.Errorf("update session: %w", fault(ctx, err))
	}
	return session.Revision + 1, nil
}

// A state is what the columns of a session say, other than its document.
type state struct {
	revision int64
	subject  store.Subject
	ended    bool
	terms    string
}

// readState reads the state of a session; found is whether there is one.
func (s *Store) readState(ctx context.Context, tx *sql.Tx, id string) (st state, found bool, err error) {
	err = tx.StmtContext(ctx, s.state).QueryRowContext(ctx, id).Scan(&st.revision, &st.subject.Issuer, &st.subject.ID, &st.ended, &st.terms)
	if errors.Is(err, sql.ErrNoRows) {
		return state{}, false, nil
	}
	return st, err == nil, err
}

// updateAll updates a session that changes in what it is found by, or on a
// connection that was not durable, or finds out why it must not be updated.
func (s *Store) updateAll(ctx context.Context, tx *sql.Tx, r row) error {
	old, found, err := s.readState(ctx, tx, r.s.ID)
	switch {
	case err != nil:
		return err
	case !found:
		return notFound(r.s.ID)
	case old.revision != r.s.Revision:
		return conflict(r.s.ID, old.revision, r.s.Revision)
	case old.subject != r.s.Subject:
		return refuse("session %q is of another subject", r.s.ID)
	case old.ended && !r.ended:
		return refuse("session %q has ended and cannot be brought back", r.s.ID)
	}
	return s.rewriteFrom(ctx, tx, r, old)
}

// replace replaces a session that is there and has not ended.
func (s *Store) replace(ctx context.Context, tx *sql.Tx, r row) error {
	old, found, err := s.readState(ctx, tx, r.s.ID)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("session %q was held and is gone", r.s.ID)
	}
	return s.rewriteFrom(ctx, tx, r, old)
}

func (s *Store) rewriteFrom(ctx context.Context, tx *sql.Tx, r row, old state) error {
	if _, err := tx.StmtContext(ctx, s.rewrite).ExecContext(ctx, r.s.ID, r.ended, r.termsCol, r.due, r.document); err != nil {
		return err
	}
	if old.terms == r.termsCol && old.ended == r.ended {
		return nil
	}
	terms, err := parseTerms(old.terms)
	if err != nil {
		return fmt.Errorf("session %q: terms: %w", r.s.ID, err)
	}
	return s.setTerms(ctx, tx, r.s.ID, terms, old.ended, r.terms, r.ended)
}

// setTerms changes what a session is found by.
func (s *Store) setTerms(ctx context.Context, tx *sql.Tx, id string, old []string, oldEnded bool, terms []string, ended bool) error {
	for _, term := range old {
		if oldEnded != ended || !slices.Contains(terms, term) {
			if _, err := tx.StmtContext(ctx, s.removeTerm).ExecContext(ctx, term, oldEnded, id); err != nil {
				return err
			}
		}
	}
	for _, term := range terms {
		if oldEnded != ended || !slices.Contains(old, term) {
			if _, err := tx.StmtContext(ctx, s.addTerm).ExecContext(ctx, term, ended, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// Admit implements [store.Sessions].
func (s *Store) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("admit: %w", err)
	}
	var decided error
	err := s.write(ctx, func(tx *sql.Tx) error {
		decided = nil
		held, _, unread, err := sessions(tx.StmtContext(ctx, s.held).QueryContext(ctx, subject.Issuer, subject.ID))
		if err != nil {
			return err
		}
		if err := unread.Err(); err != nil {
			return &refusal{err}
		}
		fence, err := s.fenceOf(ctx, tx, subject)
		if err != nil {
			return err
		}
		fence.Revision = 0
		wasHeld := make(map[string]bool, len(held))
		for i := range held {
			wasHeld[held[i].ID] = true
			held[i].Fence = fence
		}
		result, err := decide(held, fence)
		if err != nil {
			decided = err
			return &refusal{err}
		}
		return s.writeDecided(ctx, tx, subject, wasHeld, result)
	})
	var refused *refusal
	var commit *commitError
	switch {
	case err == nil:
		return nil
	case decided != nil:
		return decided
	case ctx.Err() != nil && !errors.As(err, &refused) && !errors.As(err, &commit):
		return fmt.Errorf("admit: %w: %w", store.ErrConflict, fault(ctx, err))
	}
	return fmt.Errorf("admit: %w", fault(ctx, err))
}

func (s *Store) writeDecided(ctx context.Context, tx *sql.Tx, subject store.Subject, wasHeld map[string]bool, result []store.Session) error {
	seen := make(map[string]bool, len(result))
	for i := range result {
		one := &result[i]
		r, err := newRow(one)
		if err != nil {
			return err
		}
		if one.Subject != subject {
			return refuse("session %q is of another subject", one.ID)
		}
		if seen[one.ID] {
			return refuse("session %q was decided twice", one.ID)
		}
		seen[one.ID] = true
		if wasHeld[one.ID] {
			err = s.replace(ctx, tx, r)
		} else {
			err = s.add(ctx, tx, r)
			if err == nil && one.End != nil {
				err = refuse("session %q is new and has ended", one.ID)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Delete implements [store.Sessions].
func (s *Store) Delete(ctx context.Context, id string, revision int64) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		old, found, err := s.readState(ctx, tx, id)
		switch {
		case err != nil:
			return err
		case !found:
			return nil
		case old.revision != revision:
			return conflict(id, old.revision, revision)
		}
		terms, err := parseTerms(old.terms)
		if err != nil {
			return fmt.Errorf("session %q: terms: %w", id, err)
		}
		if err := s.setTerms(ctx, tx, id, terms, old.ended, nil, old.ended); err != nil {
			return err
		}
		_, err = tx.StmtContext(ctx, s.remove).ExecContext(ctx, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete session: %w", fault(ctx, err))
	}
	return nil
}

// Due implements [store.Sessions].
func (s *Store) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	if limit < 1 {
		return nil, fmt.Errorf("due sessions: limit is %d, at least 1 is required", limit)
	}
	far := int64(math.MaxInt64) // a claim until after that is not heeded
	if lease > 0 {
		far = now.Add(3 * lease).UnixMicro()
	}
	// Most of the time nothing is due: look before becoming the writer.
	err := s.again(ctx, func() error { return s.anyDue.QueryRowContext(ctx, now.UnixMicro(), far).Scan(new(int)) })
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	var due []store.Session
	var unread unreadable.List
	if err == nil {
		err = s.write(ctx, func(tx *sql.Tx) (err error) {
			var ids []string
			if due, ids, unread, err = sessions(tx.StmtContext(ctx, s.due).QueryContext(ctx, now.UnixMicro(), far, limit)); err != nil {
				return err
			}
			until := now.Add(lease).UnixMicro()
			for _, id := range ids {
				if _, err := tx.StmtContext(ctx, s.claim).ExecContext(ctx, id, until); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("due sessions: %w", fault(ctx, err))
	}
	if err := unread.Err(); err != nil {
		return due, fmt.Errorf("due sessions: %w", err)
	}
	return due, nil
}

// Stats implements [store.Sessions]. It counts the entries of an index.
func (s *Store) Stats(ctx context.Context) (store.Stats, error) {
	var stats store.Stats
	var due sql.NullInt64
	err := s.again(ctx, func() error { return s.stats.QueryRowContext(ctx).Scan(&stats.Unended, &stats.Ended, &due) })
	if err != nil {
		return store.Stats{}, fmt.Errorf("stats: %w", fault(ctx, err))
	}
	if due.Valid {
		stats.NextDue = time.UnixMicro(due.Int64).UTC()
	}
	return stats, nil
}

// sessions reads the rows of a query for ID, revision, document and fence: ids are
// those of all rows.
func sessions(rows *sql.Rows, err error) (list []store.Session, ids []string, unread unreadable.List, _ error) {
	if err != nil {
		return nil, nil, unread, err
	}
	defer rows.Close()
	var document, fence sql.RawBytes // which scan copies
	for rows.Next() {
		var id string
		var revision int64
		if err := rows.Scan(&id, &revision, &document, &fence); err != nil {
			return nil, nil, unread, err
		}
		ids = append(ids, id)
		one, err := scan(revision, document, fence)
		if err != nil {
			unread.Add(fmt.Errorf("session %q: %w", id, err))
			continue
		}
		list = append(list, one)
	}
	return list, ids, unread, rows.Err()
}
