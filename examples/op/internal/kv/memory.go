package kv

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A Memory is a Store that is gone when the process ends. Use NewMemory.
type Memory struct {
	mu      sync.Mutex
	records map[string]Record
	groups  map[string]map[string]bool // the keys of each group
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{records: map[string]Record{}, groups: map[string]map[string]bool{}}
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.records[key]
	if !ok {
		return Record{}, fmt.Errorf("get: %w", ErrNotFound)
	}
	return r.clone(), nil
}

// Put implements Store.
func (m *Memory) Put(ctx context.Context, r Record) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.records[r.Key]
	if old.Revision != r.Revision || ok != (r.Revision > 0) {
		return fmt.Errorf("put: %w", ErrConflict)
	}
	m.remove(r.Key)
	r = r.clone()
	r.Revision++
	m.records[r.Key] = r
	if r.Group != "" {
		if m.groups[r.Group] == nil {
			m.groups[r.Group] = map[string]bool{}
		}
		m.groups[r.Group][r.Key] = true
	}
	return nil
}

// remove takes a record out; m.mu is held.
func (m *Memory) remove(key string) bool {
	r, ok := m.records[key]
	if !ok {
		return false
	}
	delete(m.records, key)
	if keys := m.groups[r.Group]; keys != nil {
		delete(keys, key)
		if len(keys) == 0 {
			delete(m.groups, r.Group)
		}
	}
	return true
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.remove(key) {
		return fmt.Errorf("delete: %w", ErrNotFound)
	}
	return nil
}

// DeleteGroup implements Store.
func (m *Memory) DeleteGroup(ctx context.Context, group string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.groups[group] {
		m.remove(key)
	}
	return nil
}

// Sweep implements Store. It looks at all records, which a memory store can
// afford.
func (m *Memory) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for key, r := range m.records {
		if n == limit {
			break
		}
		if !r.Expires.After(now) {
			m.remove(key)
			n++
		}
	}
	return n, nil
}
