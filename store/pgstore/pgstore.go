// Package pgstore keeps login sessions in a PostgreSQL database.
//
//	pool, err := pgxpool.New(ctx, "postgres://op:...@db.example.com/op?pool_max_conns=16")
//	...
//	sessions, err := pgstore.New(ctx, pool)
//
// The tables' names begin with "curfew_", and they are made in the first schema
// of the search path; the rest of the database is the caller's. They hold no secret in the clear,
// but they show which users are signed in, and with which browsers and applications. New needs the
// right to create tables once, and again after an upgrade that adds a table; afterwards SELECT,
// INSERT, UPDATE and DELETE on them are enough. The package is tested with PostgreSQL 15.
//
// # Who may share it
//
// Any number of processes on any number of machines: caps are exact across all
// of them. All must write to one primary. The store never reads from a replica: a replica lags
// behind, so that an ended session would still be live there. A fail-over to a replica undoes all
// writes that the replica had not received, including ends: see Durability.
//
// # Durability
//
// A method returns when the database has acknowledged the commit. The parameter synchronous_commit
// says what that means. The role or the connection may set it; this package never changes it.
//
//   - "on", PostgreSQL's default: an acknowledged write survives the death of the server process
//     and the loss of power; with synchronous_standby_names (and "on", "remote_write" or
//     "remote_apply") it also survives a fail-over to such a standby.
//   - "local": the same, but no fail-over.
//   - "off": a crash of the server undoes the last moments, up to three times
//     wal_writer_delay (0.6 s by default), including acknowledged ends, logins and refreshes. It
//     undoes the latest commits, with no gap in between. The end of a provider's process loses
//     nothing.
//   - fsync=off: a crash of the machine may lose and damage anything.
//
// Store.Durability returns the settings of a connection. With "on", an acknowledged end is never
// undone.
//
// # Exactness
//
// Steps that count the sessions of a subject, Admit and Create, take an advisory
// lock of the subject for their transaction, with the two numbers 0x43757266 and a
// hash of the subject; another use of the same numbers only makes them wait. Writes of a document
// take one too, with 0x43757267 and a hash of its key. Transactions are READ COMMITTED whatever the
// default is: each statement then sees everything that was committed before it began, and so
// everything that was written before the lock was taken. All other writes are one statement, which
// compares the revision. Admit writes only if the sessions that it read and replaces have not
// changed, and otherwise runs again. A call never waits for a subject's lock after it has sent a
// commit, so that a call whose context ends during the wait has changed nothing.
//
// If a process vanishes from the network during a step, it keeps the lock until the server notices.
// Until then this one subject cannot log in: set
// idle_in_transaction_session_timeout to a few seconds, and tcp_keepalives_idle.
//
// # Failure
//
// The store retries after serialization failures (40001), deadlocks (40P01), a lock_timeout (55P03)
// and lost races until the context ends. If a connection breaks, as when the server restarts, it
// also retries reads, and writes that were not committed. It does not retry a write whose answer
// did not arrive, or whose answer says that the server panicked: the write may have been committed,
// and a retry would then report a conflict with itself. The error says so, and the next read shows
// the result. Too many clients, and a connection that cannot be made, are errors at once: the
// caller knows better how long its user can wait.
//
// # Fail-over
//
// If a database fails over behind its name, the store finds the new primary by itself. It closes a
// connection on which the server reports that it is read-only (25006), shuts down or has crashed
// (57P01, 57P02), or accepts no connections now (57P03). At most once a second it closes all other
// connections too, since the name may lead elsewhere by now. It repeats the step once on a new
// connection, unless the step may have been committed. If a server vanishes silently, the first
// call whose context's deadline passes replaces all connections.
// The store never reads from a standby: an end that the standby has not received would still be
// live there, and a new session unknown. PostgreSQL 14 and later report whether they are a standby
// when a connection is made; with an older server, or behind a pooler, only a write detects it.
//
// # Connections
//
// A call uses one connection at a time. It takes one round trip (Get, Update, Create, Delete, List, Due, PutDocument), or two
// or three (Admit). It takes two more if an update changes the index entries of the session or loses its race, or if another
// process works on the same subject. Calls for one subject queue up in the process before they take a connection, so that they
// do not all wait for a lock that another process holds: a user who logs in a thousand times at once uses one connection, and
// one for each session that is written, at most four. Before the pool uses a connection that was idle for more than a second,
// it checks that it is alive, which is one more round trip; see ShouldPing of pgxpool.Config.
//
// Behind PgBouncer in transaction mode set default_query_exec_mode=exec (or
// max_prepared_statements in PgBouncer 1.21 and later). Statement mode does not work.
package pgstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/curfew-oidc/curfew/internal/keylock"
	"github.com/curfew-oidc/curfew/internal/pgprimary"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/unreadable"
)

// Store is a [store.Store] in a PostgreSQL database. It is made by [New].
type Store struct {
	pool  *pgprimary.Pool
	lines lines
}

// New returns the store in a database. It creates the tables that are missing,
// in as many processes at once as may be, and fails if a newer version of this
// package changed them. The pool stays the caller's to close; the store is then
// of no more use.
func New(ctx context.Context, pool *pgxpool.Pool) (*Store, error) {
	s := &Store{pool: pgprimary.New(pool), lines: lines{updates: keylock.Locks{AtOnce: updatesAtOnce}}}
	if err := s.migrate(ctx); err != nil {
		return nil, fmt.Errorf("open PostgreSQL session store: %w", fault(ctx, err))
	}
	return s, nil
}

// Durability has the settings of a connection that decide what an acknowledged write survives.
// Other connections of the pool have the same settings, unless the caller configures them
// differently.
type Durability struct {
	SynchronousCommit  string // "on", "off", "local", "remote_write" or "remote_apply"
	Fsync              bool
	SynchronousStandby string // synchronous_standby_names; empty: there is none
}

// SurvivesCrash reports whether an acknowledged write survives a crash of the server or its
// machine.
func (d Durability) SurvivesCrash() bool { return d.Fsync && d.SynchronousCommit != "off" }

// Durability asks the database.
func (s *Store) Durability(ctx context.Context) (Durability, error) {
	var d Durability
	err := s.do(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT current_setting('synchronous_commit'), current_setting('fsync') = 'on',
			current_setting('synchronous_standby_names')`).Scan(&d.SynchronousCommit, &d.Fsync, &d.SynchronousStandby)
	})
	if err != nil {
		return Durability{}, fmt.Errorf("durability: %w", fault(ctx, err))
	}
	return d, nil
}

const (
	beginSQL  = `BEGIN ISOLATION LEVEL READ COMMITTED`
	commitSQL = `COMMIT`

	lockSQL = `SELECT pg_advisory_xact_lock($1::integer, $2::integer)`

	// Whether the lock was to be had is for the next statement, which begins
	// after it and so sees what was committed before.
	tryLockSQL = `SELECT set_config('curfew.locked', pg_try_advisory_xact_lock($1::integer, $2::integer)::text, true)`

	// The fence of a session's subject: one of its terms is the subject's.
	fenceOf = `(SELECT f.document FROM curfew_fences f WHERE f.subject = ANY (s.terms))`

	getSQL = `SELECT s.id, s.revision, s.document, ` + fenceOf + ` FROM curfew_sessions s WHERE s.id = $1::bytea`

	// OFFSET 0 keeps the planner from turning the look-up of each row by its key
	// into a walk over the whole table, here and below.
	//
	// What a step saw stays until it is committed: an end or a removal that others
	// see before the step is one that the step has seen.
	heldSQL = `SELECT t.id, s.revision, s.document, NULL::bytea
		FROM curfew_terms t, LATERAL (
			SELECT revision, document FROM curfew_sessions x WHERE x.id = t.id AND NOT x.ended OFFSET 0 FOR NO KEY UPDATE) s
		WHERE t.term = $1::bytea AND t.ended = false ORDER BY t.id`

	// $6 is the subject's term, $7 the cap, $8 whether the lock is held anyway, $9
	// when the session began.
	createSQL = `WITH room AS MATERIALIZED (
			SELECT count(*) AS n FROM (SELECT 1 FROM curfew_terms WHERE term = $6::bytea AND ended = false LIMIT $7::bigint) x),
		may AS MATERIALIZED (SELECT $8::boolean OR current_setting('curfew.locked', true) = 'true' AS locked,
			EXISTS (SELECT 1 FROM curfew_fences WHERE subject = $6::bytea AND at >= $9::bigint) AS fenced),
		added AS (
			INSERT INTO curfew_sessions (id, revision, ended, terms, due, document)
			SELECT $1::bytea, 1, $2::boolean, $3::bytea[], $4::bigint, $5::bytea FROM room, may WHERE locked AND NOT fenced AND n < $7::bigint
			ON CONFLICT (id) DO NOTHING RETURNING 1),
		found AS (
			INSERT INTO curfew_terms (term, ended, id) SELECT unnest($3::bytea[]), $2::boolean, $1::bytea FROM added)
		SELECT locked, fenced, n, (SELECT count(*) FROM added) = 1, EXISTS (SELECT 1 FROM curfew_sessions WHERE id = $1::bytea) FROM room, may`

	addSQL = `WITH added AS (
			INSERT INTO curfew_sessions (id, revision, ended, terms, due, document)
			VALUES ($1::bytea, 1, $2::boolean, $3::bytea[], $4::bigint, $5::bytea)
			ON CONFLICT (id) DO NOTHING RETURNING 1),
		found AS (
			INSERT INTO curfew_terms (term, ended, id) SELECT unnest($3::bytea[]), $2::boolean, $1::bytea FROM added)
		SELECT (SELECT count(*) FROM added) = 1`

	// A refresh: nothing changes that the session is found by.
	updateSQL = `UPDATE curfew_sessions SET revision = revision + 1, due = $4::bigint, claimed = NULL, document = $5::bytea
		WHERE id = $1::bytea AND revision = $6::bigint AND ended = $2::boolean AND terms = $3::bytea[]`

	// Any update, and why it was not made. $7 is the subject's term.
	rewriteSQL = `WITH old AS MATERIALIZED (
			SELECT revision, ended, terms FROM curfew_sessions WHERE id = $1::bytea FOR NO KEY UPDATE),
		fit AS MATERIALIZED (
			SELECT * FROM old WHERE revision = $6::bigint AND (NOT ended OR $2::boolean) AND $7::bytea = ANY (terms)),
		written AS (
			UPDATE curfew_sessions s SET revision = s.revision + 1, ended = $2::boolean, terms = $3::bytea[],
				due = $4::bigint, claimed = NULL, document = $5::bytea
			FROM fit WHERE s.id = $1::bytea AND s.revision = $6::bigint RETURNING 1),
		lost AS (
			DELETE FROM curfew_terms t USING (SELECT unnest(terms) AS term, ended FROM fit) f
			WHERE t.term = f.term AND t.ended = f.ended AND t.id = $1::bytea
				AND (f.ended <> $2::boolean OR t.term <> ALL ($3::bytea[]))),
		found AS (
			INSERT INTO curfew_terms (term, ended, id)
			SELECT n.term, $2::boolean, $1::bytea FROM fit, unnest($3::bytea[]) AS n (term)
			WHERE fit.ended <> $2::boolean OR n.term <> ALL (fit.terms))
		SELECT revision, ended, $7::bytea = ANY (terms), (SELECT count(*) FROM written) = 1 FROM old`

	removeSQL = `WITH gone AS (
			DELETE FROM curfew_sessions WHERE id = $1::bytea AND revision = $2::bigint RETURNING ended, terms),
		lost AS (
			DELETE FROM curfew_terms t USING (SELECT unnest(terms) AS term, ended FROM gone) g
			WHERE t.term = g.term AND t.ended = g.ended AND t.id = $1::bytea)
		SELECT (SELECT count(*) FROM gone) = 1, coalesce((SELECT revision FROM curfew_sessions WHERE id = $1::bytea), 0)`

	// The limit is part of the text: with one that it does not know the planner
	// thinks that much is to be read.
	dueSQL = `WITH claimed AS (
			UPDATE curfew_sessions SET claimed = $2::bigint WHERE id = ANY (ARRAY(
				SELECT id FROM curfew_sessions WHERE due <= $1::bigint AND (claimed IS NULL OR claimed <= $1::bigint OR claimed > $3::bigint)
				ORDER BY due, id LIMIT %d FOR NO KEY UPDATE SKIP LOCKED))
			RETURNING due, id, revision, document, terms)
		SELECT s.id, s.revision, s.document, ` + fenceOf + ` FROM claimed s ORDER BY s.due, s.id`

	statsSQL = `SELECT
		(SELECT count(*) FROM curfew_terms WHERE term = '*' AND ended = false),
		(SELECT count(*) FROM curfew_terms WHERE term = '*' AND ended = true),
		(SELECT due FROM curfew_sessions WHERE due IS NOT NULL ORDER BY due, id LIMIT 1)`
)

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

// An unknownOutcome is that a write was sent and its answer did not come: whether
// it took effect is not known.
type unknownOutcome struct{ err error }

func (e *unknownOutcome) Error() string {
	return "whether it was written is not known: " + e.err.Error()
}
func (e *unknownOutcome) Unwrap() error { return e.err }

// sent returns the error of a write that commits: an answer of the server's that
// it failed is one, while it goes on, and so is a batch of which no more than the
// preparation was sent. That pgconn.SafeToRetry says that nothing
// was sent is none: of a batch whose connection broke it says so, too.
func sent(err error) error {
	var answer *pgconn.PgError
	var refused *refusal
	var unsent pgx.ErrPreprocessingBatch
	if err == nil || errors.As(err, &refused) || errors.As(err, &unsent) || errors.As(err, &answer) && !pgprimary.Ends(answer) {
		return err
	}
	return &unknownOutcome{err}
}

// errRaced is that a step lost a race and changed nothing.
var errRaced = errors.New("lost a race")

// transient reports whether nothing changed and the same must be tried again:
// serialization_failure, deadlock_detected, lock_not_available, a lost race.
func transient(err error) bool {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code == "40001" || answer.Code == "40P01" || answer.Code == "55P03"
	}
	return errors.Is(err, errRaced)
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

// do runs one step on a connection, and again when it must be and may be, until
// the context ends.
func (s *Store) do(ctx context.Context, step func(c *pgx.Conn) error) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return err
		}
		broken, err := s.pool.Do(ctx, step)
		if err == nil || ctx.Err() != nil {
			return err
		}
		var refused *refusal
		var unknown *unknownOutcome
		switch {
		case errors.As(err, &refused):
			return err
		case transient(err):
		case broken && !errors.As(err, &unknown):
		default:
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

// A row is a session as it is written.
type row struct {
	s        *store.Session
	id       []byte
	subject  []byte // the subject's term
	ended    bool
	terms    [][]byte
	due      *int64
	document []byte
}

// maxName is how long an ID or a key may be: the rows of an index are bounded.
const maxName = 1024

func newRow(s *store.Session) (row, error) {
	if len(s.ID) > maxName {
		return row{}, refuse("the ID of the session has %d bytes, at most %d are possible", len(s.ID), maxName)
	}
	document, err := s.AppendDocument(nil)
	if err != nil {
		return row{}, &refusal{err}
	}
	r := row{s: s, id: []byte(s.ID), subject: subjectTerm(s.Subject), ended: s.End != nil, document: document}
	r.terms = terms(s, r.subject)
	if !s.Due.IsZero() {
		due := s.Due.UnixMicro()
		r.due = &due
	}
	return r, nil
}

// terms returns what a session is found by, in order, each once.
func terms(s *store.Session, subject []byte) [][]byte {
	list := make([][]byte, 0, 8)
	list = append(list, []byte(allTerm), subject)
	for _, account := range s.Accounts {
		list = append(list, term('a', account))
	}
	list = append(list, term('c', s.Client), term('k', string(s.Kind)))
	for i := range s.Grants {
		list = append(list, term('c', s.Grants[i].Client))
	}
	slices.SortFunc(list, bytes.Compare)
	return slices.CompactFunc(list, bytes.Equal)
}

// allTerm is a term of each session.
const allTerm = "*"

// term returns the term of a name: a long one by its hash, because the rows of an
// index are bounded.
func term(letter byte, name string) []byte {
	if len(name) > 200 {
		sum := sha256.Sum256([]byte(name))
		return append([]byte{letter, '#'}, sum[:]...)
	}
	return append([]byte{letter, ':'}, name...)
}

func subjectTerm(subject store.Subject) []byte {
	length := binary.AppendUvarint(nil, uint64(len(subject.Issuer)))
	return term('s', string(length)+subject.Issuer+subject.ID)
}

// lockOf returns the second number of the advisory lock of a subject.
func lockOf(subject []byte) int32 {
	sum := sha256.Sum256(subject)
	return int32(binary.BigEndian.Uint32(sum[:]))
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

// sessions reads the rows of a query for ID, revision, document and fence.
func sessions(rows pgx.Rows, err error) (list []store.Session, unread unreadable.List, _ error) {
	if err != nil {
		return nil, unread, err
	}
	defer rows.Close()
	var id, document, fence pgtype.DriverBytes // which scan copies
	for rows.Next() {
		var revision int64
		if err := rows.Scan(&id, &revision, &document, &fence); err != nil {
			return nil, unread, err
		}
		one, err := scan(revision, document, fence)
		if err != nil {
			unread.Add(fmt.Errorf("session %q: %w", id, err))
			continue
		}
		list = append(list, one)
	}
	return list, unread, rows.Err()
}

// allSessions is sessions where one that cannot be read is an error.
func allSessions(rows pgx.Rows, err error) ([]store.Session, error) {
	list, unread, err := sessions(rows, err)
	if err == nil && unread.Len() > 0 {
		err = &refusal{unread.Err()}
	}
	return list, err
}

// Get implements [store.Sessions].
func (s *Store) Get(ctx context.Context, id string) (store.Session, error) {
	var got store.Session
	err := s.do(ctx, func(c *pgx.Conn) error {
		list, err := allSessions(c.Query(ctx, getSQL, []byte(id)))
		if err == nil && len(list) == 0 {
			err = notFound(id)
		}
		if err == nil {
			got = list[0]
		}
		return err
	})
	if err != nil {
		return store.Session{}, fmt.Errorf("get session: %w", fault(ctx, err))
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
		err = s.admitInLine(ctx, r.subject, func(c *pgx.Conn) error {
			locked, err := s.create(ctx, c, r, max, false)
			if err != nil || locked {
				return err
			}
			// Another process has it. Wait, and only then send what commits.
			if _, _, err := begin(ctx, c, r.subject); err != nil {
				return err
			}
			_, err = s.create(ctx, c, r, max, true)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("create session: %w", fault(ctx, err))
	}
	return nil
}

// create adds a session, in one round trip, unless another transaction holds the
// lock of the subject. With held, that is this one.
func (s *Store) create(ctx context.Context, c *pgx.Conn, r row, most int, held bool) (locked bool, err error) {
	var b pgx.Batch
	if !held {
		b.Queue(beginSQL)
		b.Queue(tryLockSQL, lockClass, lockOf(r.subject))
	}
	var count int64
	var added, taken, fenced bool
	b.Queue(createSQL, r.id, r.ended, r.terms, r.due, r.document, r.subject, int64(max(most, 0)), held, r.s.Started.UnixMicro()).
		QueryRow(func(row pgx.Row) error { return row.Scan(&locked, &fenced, &count, &added, &taken) })
	b.Queue(commitSQL)
	err = sent(c.SendBatch(ctx, &b).Close())
	switch {
	case err != nil || !locked || added:
		return locked, err
	case taken:
		return true, exists(r.s.ID)
	case count >= int64(most):
		return true, refuse("%w: the subject has %d or more", store.ErrFull, count)
	case fenced:
		return true, refuse("session %q: %w", r.s.ID, store.ErrFenced)
	default: // it was added while this waited for who did it
		return true, exists(r.s.ID)
	}
}

// begin begins a transaction that has the lock of the subject, and returns the
// subject's sessions that have not ended, and its fence.
func begin(ctx context.Context, c *pgx.Conn, subject []byte) (held []store.Session, fence store.Fence, err error) {
	var b pgx.Batch
	b.Queue(beginSQL)
	b.Queue(lockSQL, lockClass, lockOf(subject))
	b.Queue(heldSQL, subject).Query(func(rows pgx.Rows) (err error) {
		held, err = allSessions(rows, nil)
		return err
	})
	b.Queue(fenceSQL, subject).Query(func(rows pgx.Rows) error {
		var err error
		fence, err = oneFence(rows, nil)
		fence.Revision = 0
		return err
	})
	err = c.SendBatch(ctx, &b).Close()
	for i := range held {
		held[i].Fence = fence
	}
	return held, fence, err
}

// Update implements [store.Sessions].
func (s *Store) Update(ctx context.Context, session store.Session) (int64, error) {
	r, err := newRow(&session)
	if err == nil {
		err = s.updateInLine(ctx, session.ID, r.subject, func(c *pgx.Conn) error {
			tag, err := c.Exec(ctx, updateSQL, r.id, r.ended, r.terms, r.due, r.document, session.Revision)
			if err != nil || tag.RowsAffected() == 1 {
				return sent(err)
			}
			fit, err := queryFit(c.QueryRow(ctx, rewriteSQL, r.rewriteArgs(session.Revision)...))
			if err != nil {
				return sent(err)
			}
			return fit.refusal(r.s)
		})
	}
	if err != nil {
		return 0, fmt.Errorf("update session: %w", fault(ctx, err))
	}
	return session.Revision + 1, nil
}

func (r *row) rewriteArgs(revision int64) []any {
	return []any{r.id, r.ended, r.terms, r.due, r.document, revision, r.subject}
}

// A fit is what came of an update, and what the session was before.
type fit struct {
	found, written, ended, same bool
	revision                    int64
}

func queryFit(row pgx.Row) (f fit, err error) {
	err = row.Scan(&f.revision, &f.ended, &f.same, &f.written)
	if errors.Is(err, pgx.ErrNoRows) {
		return fit{}, nil
	}
	f.found = true
	return f, err
}

// refusal returns why s was not written.
func (f fit) refusal(s *store.Session) error {
	switch {
	case f.written:
		return nil
	case !f.found:
		return notFound(s.ID)
	case f.revision != s.Revision:
		return conflict(s.ID, f.revision, s.Revision)
	case !f.same:
		return refuse("session %q is of another subject", s.ID)
	case f.ended && s.End == nil:
		return refuse("session %q has ended and cannot be brought back", s.ID)
	default:
		return errRaced
	}
}

// Admit implements [store.Sessions].
func (s *Store) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("admit: %w", err)
	}
	var decided error
	term := subjectTerm(subject)
	err := s.admitInLine(ctx, term, func(c *pgx.Conn) error {
		decided = nil
		held, fence, err := begin(ctx, c, term)
		if err != nil {
			return err
		}
		revisions := make(map[string]int64, len(held))
		for i := range held {
			revisions[held[i].ID] = held[i].Revision
		}
		result, err := decide(held, fence)
		if err != nil {
			decided = err
			return &refusal{err}
		}
		return writeDecided(ctx, c, subject, revisions, result)
	})
	var refused *refusal
	var unknown *unknownOutcome
	switch {
	case err == nil:
		return nil
	case decided != nil:
		return decided
	case ctx.Err() != nil && !errors.As(err, &refused) && !errors.As(err, &unknown):
		return fmt.Errorf("admit: %w: %w", store.ErrConflict, fault(ctx, err))
	}
	return fmt.Errorf("admit: %w", fault(ctx, err))
}

// writeDecided writes what a step decided and commits.
func writeDecided(ctx context.Context, c *pgx.Conn, subject store.Subject, held map[string]int64, result []store.Session) error {
	var b pgx.Batch
	var failed error // of the first that was not written
	fail := func(err error) {
		if failed == nil {
			failed = err
		}
	}
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
		if revision, was := held[one.ID]; was {
			b.Queue(rewriteSQL, r.rewriteArgs(revision)...).QueryRow(func(row pgx.Row) error {
				fit, err := queryFit(row)
				if err == nil && !fit.written {
					fail(errRaced)
				}
				return err
			})
			continue
		}
		b.Queue(addSQL, r.id, r.ended, r.terms, r.due, r.document).QueryRow(func(row pgx.Row) error {
			var added bool
			err := row.Scan(&added)
			switch {
			case err != nil:
			case !added:
				fail(exists(one.ID))
			case one.End != nil:
				fail(refuse("session %q is new and has ended", one.ID))
			}
			return err
		})
	}
	// A single write takes place or does not: it needs no look before the commit.
	if len(result) < 2 && (len(result) == 0 || result[0].End == nil) {
		b.Queue(commitSQL)
		if err := sent(c.SendBatch(ctx, &b).Close()); err != nil {
			return err
		}
		return failed
	}
	if err := c.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	_, err := c.Exec(ctx, commitSQL)
	return sent(err)
}

// Delete implements [store.Sessions].
func (s *Store) Delete(ctx context.Context, id string, revision int64) error {
	err := s.writeInLine(ctx, id, func(c *pgx.Conn) error {
		for {
			var gone bool
			var is int64
			err := c.QueryRow(ctx, removeSQL, []byte(id), revision).Scan(&gone, &is)
			switch {
			case err != nil || gone || is == 0:
				return sent(err)
			case is != revision:
				return conflict(id, is, revision)
			}
			// It was as it had to be when the statement began, and changed while
			// that waited for who changed it.
		}
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
	query := fmt.Sprintf(dueSQL, limit)
	far := int64(math.MaxInt64) // a claim until after that is not heeded
	if lease > 0 {
		far = now.Add(3 * lease).UnixMicro()
	}
	var due []store.Session
	var unread unreadable.List
	err := s.do(ctx, func(c *pgx.Conn) (err error) {
		due, unread, err = sessions(c.Query(ctx, query, now.UnixMicro(), now.Add(lease).UnixMicro(), far))
		return sent(err)
	})
	if err != nil {
		return nil, fmt.Errorf("due sessions: %w", fault(ctx, err))
	}
	if err := unread.Err(); err != nil {
		return due, fmt.Errorf("due sessions: %w", err)
	}
	return due, nil
}

// Stats implements [store.Sessions].
func (s *Store) Stats(ctx context.Context) (store.Stats, error) {
	var stats store.Stats
	var due *int64
	err := s.do(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, statsSQL).Scan(&stats.Unended, &stats.Ended, &due)
	})
	if err != nil {
		return store.Stats{}, fmt.Errorf("stats: %w", fault(ctx, err))
	}
	if due != nil {
		stats.NextDue = time.UnixMicro(*due).UTC()
	}
	return stats, nil
}
