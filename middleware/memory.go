package middleware

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// NewMemoryStore returns a SessionStore in memory: for one process, whose users sign in again after
// a restart.
func NewMemoryStore() SessionStore { return newMemoryStore() }

func newMemoryStore() *memoryStore {
	return &memoryStore{
		sessions: map[string]StoredSession{}, index: map[string]map[string]bool{}, marks: map[string]mark{},
	}
}

type memoryStore struct {
	mu       sync.Mutex
	sessions map[string]StoredSession
	index    map[string]map[string]bool // entry to IDs
	marks    map[string]mark

	// sweepAt is the number of entries at which to look for expired ones: twice
	// what was left the last time, so that each is looked at a few times at most.
	sweepAt int
}

type mark struct{ at, until time.Time }

func (m *memoryStore) Create(ctx context.Context, now time.Time, s StoredSession) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(now)
	if _, ok := m.sessions[s.ID]; ok {
		return fmt.Errorf("create: %w", ErrConflict)
	}
	s.Version = 1
	m.put(s)
	return nil
}

// adopt keeps a record that is kept elsewhere, with its version, unless there is
// one that is at least as new.
func (m *memoryStore) adopt(now time.Time, s StoredSession) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(now)
	if old, ok := m.sessions[s.ID]; !ok || old.Version < s.Version {
		m.remove(s.ID)
		m.put(s)
	}
}

func (m *memoryStore) put(s StoredSession) {
	s.Index = slices.Clone(s.Index)
	m.sessions[s.ID] = s
	for _, entry := range s.Index {
		if m.index[entry] == nil {
			m.index[entry] = map[string]bool{}
		}
		m.index[entry][s.ID] = true
	}
}

func (m *memoryStore) remove(id string) {
	for _, entry := range m.sessions[id].Index {
		if delete(m.index[entry], id); len(m.index[entry]) == 0 {
			delete(m.index, entry)
		}
	}
	delete(m.sessions, id)
}

func (m *memoryStore) sweep(now time.Time) {
	if len(m.sessions)+len(m.marks) < m.sweepAt {
		return
	}
	for id, s := range m.sessions {
		if !now.Before(s.Expires) {
			m.remove(id)
		}
	}
	for name, k := range m.marks {
		if !now.Before(k.until) {
			delete(m.marks, name)
		}
	}
	m.sweepAt = max(64, 2*(len(m.sessions)+len(m.marks)))
}

func (m *memoryStore) Get(ctx context.Context, id string) (StoredSession, error) {
	if err := ctx.Err(); err != nil {
		return StoredSession{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.sessions[id]
	if !ok {
		return StoredSession{}, fmt.Errorf("get: %w", ErrNotFound)
	}
	s.Index = slices.Clone(s.Index)
	return s, nil
}

func (m *memoryStore) Replace(ctx context.Context, s StoredSession) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.sessions[s.ID]
	if !ok || old.Version != s.Version {
		return fmt.Errorf("replace: %w", ErrConflict)
	}
	s.Version++
	m.remove(s.ID)
	m.put(s)
	return nil
}

func (m *memoryStore) Delete(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(id)
	return nil
}

func (m *memoryStore) Find(ctx context.Context, index string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for id := range m.index[index] {
		ids = append(ids, id)
	}
	return ids, nil
}

func (m *memoryStore) Mark(ctx context.Context, name string, at, until, now time.Time) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(now)
	old, ok := m.marks[name]
	if !ok || !now.Before(old.until) {
		m.marks[name] = mark{at, until}
		return true, nil
	}
	m.marks[name] = mark{later(old.at, at), later(old.until, until)}
	return false, nil
}

func (m *memoryStore) Marked(ctx context.Context, name string) (time.Time, error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.marks[name].at, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
