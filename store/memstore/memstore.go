// Package memstore keeps login sessions in the memory of one process.
//
// It is exact: caps hold however many goroutines race. It is not durable: when
// the process ends all sessions are gone, and every user signs in again. It is for tests, and for a
// provider of one process that can accept that.
//
// Get, Create, Update, Stats and CountUnended take the same time whatever the number of sessions;
// Due and List of a subject, or of the unended sessions of an account, take time in proportion to the number of
// sessions that they return. List with any other filter walks over all sessions, in steps that do not delay other
// calls.
package memstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/store"
)

// Store is a [store.Store] in memory. It is made by [New].
type Store struct {
	mu        sync.RWMutex
	sessions  map[string]*entry
	subjects  map[store.Subject]*subject
	byID      ordered[*entry] // all sessions
	byDue     ordered[*entry] // those with a Due time
	unended   int             // how many of them have not ended
	writes    uint64          // counts the writes of sessions
	fences    map[store.Subject]store.Fence
	documents map[string][]store.Document
	counts    map[string]hours // by account

	// byAccount are those that have not ended, of each account that has some.
	byAccount map[string]*ordered[*entry]
}

// An entry is one session. The document of an entry is never changed, only
// replaced, so that it can be copied without the lock.
type entry struct {
	session *store.Session
	of      *subject
	claimed time.Time // until when a sweeper has it
}

// A subject holds the sessions of one subject.
type subject struct {
	all     map[string]*entry
	unended map[string]*entry

	// changed is Store.writes at the last write of a session of this subject.
	// An admission that finds another one than it began with starts again.
	changed uint64
}

// New returns an empty store.
func New() *Store {
	return &Store{
		sessions:  map[string]*entry{},
		subjects:  map[store.Subject]*subject{},
		byID:      ordered[*entry]{compare: compareID},
		byDue:     ordered[*entry]{compare: compareDue},
		byAccount: map[string]*ordered[*entry]{},
		fences:    map[store.Subject]store.Fence{},
		documents: map[string][]store.Document{},
		counts:    map[string]hours{},
	}
}

func compareID(a, b *entry) int { return strings.Compare(a.session.ID, b.session.ID) }

func compareDue(a, b *entry) int {
	if c := a.session.Due.Compare(b.session.Due); c != 0 {
		return c
	}
	return compareID(a, b)
}

func notFound(id string) error { return fmt.Errorf("session %q: %w", id, store.ErrNotFound) }
func exists(id string) error   { return fmt.Errorf("session %q: %w", id, store.ErrExists) }

// Get implements [store.Sessions].
func (m *Store) Get(ctx context.Context, id string) (store.Session, error) {
	if err := ctx.Err(); err != nil {
		return store.Session{}, fmt.Errorf("get session: %w", err)
	}
	m.mu.RLock()
	e, ok := m.sessions[id]
	var s store.Session
	if ok {
		s = m.read(e)
	}
	m.mu.RUnlock()
	if !ok {
		return store.Session{}, notFound(id)
	}
	return s.Clone(), nil
}

// Create implements [store.Sessions].
func (m *Store) Create(ctx context.Context, s store.Session, max int) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("create session: %w", err)
	}
	if s.End != nil {
		return fmt.Errorf("create session %q: it has ended", s.ID)
	}
	next, err := own(s, 1)
	if err != nil {
		return fmt.Errorf("create session: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions[s.ID] != nil {
		return exists(s.ID)
	}
	if n := len(m.subject(s.Subject).unended); n >= max {
		return fmt.Errorf("%w: the subject has %d", store.ErrFull, n)
	}
	if fence := m.fences[s.Subject]; fence.Past(next.Started) {
		return fmt.Errorf("session %q: %w", s.ID, store.ErrFenced)
	}
	m.put(next)
	return nil
}

// Update implements [store.Sessions].
func (m *Store) Update(ctx context.Context, s store.Session) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("update session: %w", err)
	}
	next, err := own(s, s.Revision+1)
	if err != nil {
		return 0, fmt.Errorf("update session: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.sessions[s.ID]
	if e == nil {
		return 0, notFound(s.ID)
	}
	if e.session.Revision != s.Revision {
		return 0, fmt.Errorf("session %q: %w: its revision is %d, not %d", s.ID, store.ErrConflict, e.session.Revision, s.Revision)
	}
	if err := replaceable(e.session, next); err != nil {
		return 0, err
	}
	m.put(next)
	return next.Revision, nil
}

// Admit implements [store.Sessions].
func (m *Store) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("admit: %w", err)
	}
	for {
		// The decision is made without the lock, so that nobody waits for
		// it, and made again if the subject's sessions changed meanwhile.
		held, fence, changed := m.held(subject)
		result, err := decide(held, fence)
		if err != nil {
			return err
		}
		done, err := m.write(subject, changed, result)
		if done || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("admit: %w: %w", store.ErrConflict, err)
		}
	}
}

// held returns copies of the subject's unended sessions, its fence, and when they
// changed.
func (m *Store) held(subject store.Subject) (held []store.Session, fence store.Fence, changed uint64) {
	m.mu.RLock()
	sub := m.subject(subject)
	held = make([]store.Session, 0, len(sub.unended))
	for _, e := range sub.unended {
		held = append(held, m.read(e))
	}
	fence, changed = m.fenceOf(subject), sub.changed
	m.mu.RUnlock()

	slices.SortFunc(held, func(a, b store.Session) int { return strings.Compare(a.ID, b.ID) })
	for i := range held {
		held[i] = held[i].Clone()
	}
	fence.Spared = slices.Clone(fence.Spared)
	return held, fence, changed
}

// read returns the session of an entry as it is read, not copied yet. The lock is
// held.
func (m *Store) read(e *entry) store.Session {
	s := *e.session
	s.Fence = m.fenceOf(s.Subject)
	return s
}

// write writes what an admission decided, all of it or nothing. It is not done
// if the subject's sessions changed since the decision was made.
func (m *Store) write(subject store.Subject, changed uint64, result []store.Session) (done bool, err error) {
	next := make([]*store.Session, len(result))
	for i, s := range result {
		if next[i], err = own(s, 1); err != nil {
			return false, fmt.Errorf("admit: %w", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	sub := m.subject(subject)
	if sub.changed != changed {
		return false, nil
	}
	seen := make(map[string]bool, len(next))
	for _, s := range next {
		switch e := m.sessions[s.ID]; {
		case seen[s.ID]:
			return false, fmt.Errorf("admit: session %q was decided twice", s.ID)
		case s.Subject != subject:
			return false, fmt.Errorf("admit: session %q is of another subject", s.ID)
		case sub.unended[s.ID] != nil:
			s.Revision = e.session.Revision + 1
		case e != nil:
			return false, exists(s.ID)
		case s.End != nil:
			return false, fmt.Errorf("admit: session %q is new and has ended", s.ID)
		}
		seen[s.ID] = true
	}
	for _, s := range next {
		m.put(s)
	}
	return true, nil
}

// List implements [store.Sessions].
func (m *Store) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("list sessions: limit is %d, at least 1 is required", limit)
	}
	var found []store.Session
	var err error
	if f.Subject != (store.Subject{}) {
		found, err = m.listSubject(ctx, f, cursor)
	} else {
		found, err = m.listAll(ctx, f, cursor, limit+1)
	}
	if err != nil {
		return nil, "", fmt.Errorf("list sessions: %w", err)
	}
	next := ""
	if len(found) > limit {
		found = found[:limit]
		next = found[limit-1].ID
	}
	page := make([]store.Session, len(found))
	for i, s := range found {
		page[i] = s.Clone()
	}
	return page, next, nil
}

func (m *Store) listSubject(ctx context.Context, f store.Filter, cursor string) ([]store.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var found []store.Session
	for id, e := range m.subject(f.Subject).all {
		if id > cursor && matches(e.session, f) {
			found = append(found, m.read(e))
		}
	}
	slices.SortFunc(found, func(a, b store.Session) int { return strings.Compare(a.ID, b.ID) })
	return found, nil
}

// listStep is how many sessions are looked at before the lock is released: some
// tens of microseconds.
const listStep = 1000

func (m *Store) listAll(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, error) {
	var found []store.Session
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		seen := 0
		m.mu.RLock()
		sessions := &m.byID
		if f.Account != "" && f.State == store.Unended {
			sessions = m.account(f.Account)
		}
		for e := range sessions.after(&entry{session: &store.Session{ID: cursor}}) {
			cursor = e.session.ID
			if matches(e.session, f) {
				found = append(found, m.read(e))
			}
			if seen++; seen == listStep || len(found) == limit {
				break
			}
		}
		m.mu.RUnlock()
		if seen < listStep || len(found) == limit {
			return found, nil
		}
	}
}

func matches(s *store.Session, f store.Filter) bool {
	switch {
	case f.Subject != (store.Subject{}) && s.Subject != f.Subject,
		f.Account != "" && !slices.Contains(s.Accounts, f.Account),
		f.Kind != "" && s.Kind != f.Kind,
		f.State == store.Unended && s.End != nil,
		f.State == store.Ended && s.End == nil:
		return false
	}
	return f.Client == "" || s.Client == f.Client ||
		slices.ContainsFunc(s.Grants, func(g store.Grant) bool { return g.Client == f.Client })
}

// Due implements [store.Sessions].
func (m *Store) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("due sessions: %w", err)
	}
	if limit < 1 {
		return nil, fmt.Errorf("due sessions: limit is %d, at least 1 is required", limit)
	}
	var found []store.Session
	m.mu.Lock()
	for e := range m.byDue.all() {
		if len(found) == limit || e.session.Due.After(now) {
			break
		}
		if e.claimed.After(now) && (lease <= 0 || !e.claimed.After(now.Add(3*lease))) {
			continue
		}
		e.claimed = now.Add(lease).Round(0)
		found = append(found, m.read(e))
	}
	m.mu.Unlock()
	list := make([]store.Session, len(found))
	for i, s := range found {
		list[i] = s.Clone()
	}
	return list, nil
}

// Delete implements [store.Sessions].
func (m *Store) Delete(ctx context.Context, id string, revision int64) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete session: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.sessions[id]
	if e == nil {
		return nil
	}
	if e.session.Revision != revision {
		return fmt.Errorf("session %q: %w: its revision is %d, not %d", id, store.ErrConflict, e.session.Revision, revision)
	}
	m.remove(e)
	return nil
}

// Stats implements [store.Sessions].
func (m *Store) Stats(ctx context.Context) (store.Stats, error) {
	if err := ctx.Err(); err != nil {
		return store.Stats{}, fmt.Errorf("stats: %w", err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	stats := store.Stats{Unended: m.unended, Ended: len(m.sessions) - m.unended}
	for first := range m.byDue.all() {
		stats.NextDue = first.session.Due
		break
	}
	return stats, nil
}

// own returns the store's own copy of s, as a store that writes it down would
// return it: times in UTC and without a monotonic clock reading.
func own(s store.Session, revision int64) (*store.Session, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	s.Fence = store.Fence{} // which is kept once, for the subject
	s = s.Clone()
	s.Format, s.Revision = store.Format, revision
	for _, t := range []*time.Time{&s.Gone, &s.Started, &s.Authenticated, &s.LastActivity, &s.ReservedUntil, &s.Due} {
		normalize(t)
	}
	for i := range s.Grants {
		normalize(&s.Grants[i].Authenticated)
		normalize(&s.Grants[i].Rotated)
		normalize(&s.Grants[i].Revoked)
	}
	for i := range s.Codes {
		normalize(&s.Codes[i].Until)
		normalize(&s.Codes[i].Used)
	}
	if s.End != nil {
		normalize(&s.End.At)
	}
	for i := range s.Deliveries {
		normalize(&s.Deliveries[i].Next)
		normalize(&s.Deliveries[i].GivenUp)
	}
	return &s, nil
}

func normalize(t *time.Time) { *t = t.UTC() } // which drops the monotonic reading

// replaceable returns why next must not take the place of s.
func replaceable(s, next *store.Session) error {
	switch {
	case s.Subject != next.Subject:
		return fmt.Errorf("session %q is of another subject", s.ID)
	case s.End != nil && next.End == nil:
		return fmt.Errorf("session %q has ended and cannot be brought back", s.ID)
	}
	return nil
}

// put adds or replaces a session. The lock is held for writing.
func (m *Store) put(s *store.Session) {
	e := m.sessions[s.ID]
	if e == nil {
		e = m.add(s)
	} else {
		m.replace(e, s)
	}
	m.writes++
	e.of.changed = m.writes
}

func (m *Store) add(s *store.Session) *entry {
	sub := m.subjects[s.Subject]
	if sub == nil {
		sub = &subject{all: map[string]*entry{}, unended: map[string]*entry{}}
		m.subjects[s.Subject] = sub
	}
	e := &entry{session: s, of: sub}
	m.sessions[s.ID], sub.all[s.ID] = e, e
	m.byID.insert(e)
	if !s.Due.IsZero() {
		m.byDue.insert(e)
	}
	m.enter(e)
	return e
}

// replace changes of what sessions are found by only what is different: a refresh
// mostly changes nothing of it.
func (m *Store) replace(e *entry, s *store.Session) {
	was := e.session
	found := was.End == nil == (s.End == nil) && slices.Equal(was.Accounts, s.Accounts)
	queued := was.Due.Equal(s.Due)
	if !found {
		m.leave(e)
	}
	if !queued && !was.Due.IsZero() {
		m.byDue.remove(e)
	}
	e.session, e.claimed = s, time.Time{}
	if !queued && !s.Due.IsZero() {
		m.byDue.insert(e)
	}
	if !found {
		m.enter(e)
	}
}

// enter and leave do what has to do with the sessions that have not ended.
func (m *Store) enter(e *entry) {
	if e.session.End == nil {
		m.enterAccounts(e)
		e.of.unended[e.session.ID] = e
		m.unended++
	}
}

func (m *Store) leave(e *entry) {
	if e.session.End == nil {
		m.leaveAccounts(e)
		delete(e.of.unended, e.session.ID)
		m.unended--
	}
}

// remove removes a session. The lock is held for writing.
func (m *Store) remove(e *entry) {
	s := e.session
	m.leave(e)
	delete(m.sessions, s.ID)
	m.byID.remove(e)
	if !s.Due.IsZero() {
		m.byDue.remove(e)
	}
	m.writes++
	e.of.changed = m.writes
	delete(e.of.all, s.ID)
	if len(e.of.all) == 0 {
		delete(m.subjects, s.Subject)
	}
}

var noSubject subject

// subject returns the sessions of a subject, to read.
func (m *Store) subject(s store.Subject) *subject {
	if sub := m.subjects[s]; sub != nil {
		return sub
	}
	return &noSubject
}
