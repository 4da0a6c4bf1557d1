package memstore

import (
	"bytes"
	"context"
	"fmt"

	"github.com/curfew-oidc/curfew/store"
)

// Document implements [store.Documents].
func (m *Store) Document(ctx context.Context, key string) (store.Document, error) {
	if err := ctx.Err(); err != nil {
		return store.Document{}, fmt.Errorf("get document: %w", err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	versions := m.documents[key]
	if len(versions) == 0 {
		return store.Document{}, fmt.Errorf("document %q: %w", key, store.ErrNotFound)
	}
	return clone(versions[len(versions)-1]), nil
}

// PutDocument implements [store.Documents].
func (m *Store) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("put document: %w", err)
	}
	if err := d.Validate(); err != nil {
		return 0, fmt.Errorf("put document: %w", err)
	}
	d = clone(d)
	normalize(&d.At)
	m.mu.Lock()
	defer m.mu.Unlock()
	versions := m.documents[d.Key]
	var is int64
	if n := len(versions); n > 0 {
		is = versions[n-1].Version
	}
	if is != d.Version {
		return 0, fmt.Errorf("document %q: %w: its version is %d, not %d", d.Key, store.ErrConflict, is, d.Version)
	}
	if d.NoHistory {
		versions = nil
	}
	d.Version++
	d.NoHistory = false
	m.documents[d.Key] = append(versions, d)
	return d.Version, nil
}

// DropDocument implements [store.Documents].
func (m *Store) DropDocument(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("drop document: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.documents, key)
	return nil
}

// History implements [store.Documents].
func (m *Store) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("document history: %w", err)
	}
	if limit < 1 {
		return nil, fmt.Errorf("document history: limit is %d, at least 1 is required", limit)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	versions := m.documents[key]
	var page []store.Document
	for n := len(versions); n > 0 && len(page) < limit; n-- {
		if d := versions[n-1]; before <= 0 || d.Version < before {
			page = append(page, clone(d))
		}
	}
	return page, nil
}

func clone(d store.Document) store.Document {
	d.Body = bytes.Clone(d.Body)
	return d
}
