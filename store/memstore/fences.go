package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/store"
)

// PutFence implements [store.Fences].
func (m *Store) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	if err := ctx.Err(); err != nil {
		return store.Fence{}, fmt.Errorf("put fence: %w", err)
	}
	f, err := ownFence(f)
	if err != nil {
		return store.Fence{}, fmt.Errorf("put fence: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.fences[f.Subject]
	joined := was.Join(f)
	joined.Revision = was.Revision + 1
	m.fences[f.Subject] = joined
	joined.Spared = slices.Clone(joined.Spared)
	return joined, nil
}

// fenceOf returns the fence of a subject as it comes with a session. The lock is
// held.
func (m *Store) fenceOf(subject store.Subject) store.Fence {
	f := m.fences[subject]
	f.Revision = 0
	return f
}

// ownFence returns the store's own copy of a fence, as it is written down.
func ownFence(f store.Fence) (store.Fence, error) {
	document, err := f.AppendDocument(nil)
	if err != nil {
		return store.Fence{}, err
	}
	return store.ParseFence(string(document))
}

// MoveFence implements [store.Fences].
func (m *Store) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("move fence: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	is, there := m.fences[f.Subject]
	switch {
	case !there:
		return nil
	case f.Moved(is):
		return fmt.Errorf("move fence: %w: it was written meanwhile", store.ErrConflict)
	case due.IsZero():
		delete(m.fences, f.Subject)
		return nil
	}
	is.Due, is.Revision = due.UTC().Round(0), is.Revision+1
	m.fences[f.Subject] = is
	return nil
}

// DueFences implements [store.Fences]. It walks over all fences.
func (m *Store) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("due fences: %w", err)
	}
	if limit < 1 {
		return nil, fmt.Errorf("due fences: limit is %d, at least 1 is required", limit)
	}
	var due []store.Fence
	m.mu.RLock()
	for _, f := range m.fences {
		if !f.Due.IsZero() && !f.Due.After(now) {
			f.Spared = slices.Clone(f.Spared)
			due = append(due, f)
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(due, func(a, b store.Fence) int {
		return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.Subject.Issuer, b.Subject.Issuer), cmp.Compare(a.Subject.ID, b.Subject.ID))
	})
	return due[:min(limit, len(due))], nil
}
