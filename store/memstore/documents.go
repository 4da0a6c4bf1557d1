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
	if n := int64(len(versions)); n != d.Version {
		return 0, fmt.Errorf("document %q: %w: its version is %d, not %d", d.Key, store.ErrConflict, n, d.Version)
	}
	d.Version++
	m.documents[d.Key] = append(versions, d)
	return d.Version, nil
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
	n := int64(len(versions))
	if before > 0 && before-1 < n {
		n = before - 1
	}
	var page []store.Document
	for ; n > 0 && len(page) < limit; n-- {
		page = append(page, clone(versions[n-1]))
	}
	return page, nil
}

func clone(d store.Document) store.Document {
	d.Body = bytes.Clone(d.Body)
	return d
}
