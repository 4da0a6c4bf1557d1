package redisstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/curfew-oidc/curfew/store"
)

// documentKey returns the key of a document: a hash with a field for each
// version, and "newest" for one that was written without its history. Each
// document has a slot of its own.
func documentKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return keyPrefix + "{d:" + hex.EncodeToString(sum[:8]) + "}:" + key
}

// Document implements [store.Documents].
func (s *Store) Document(ctx context.Context, key string) (store.Document, error) {
	results, err := s.run(ctx, call{current, []string{documentKey(key)}, nil})
	if err != nil {
		return store.Document{}, fmt.Errorf("document: %w", err)
	}
	text, ok := results[0].(string)
	if !ok {
		return store.Document{}, fmt.Errorf("document %q: %w", key, store.ErrNotFound)
	}
	return parseDocument(key, text)
}

func parseDocument(key, text string) (store.Document, error) {
	var d store.Document
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return store.Document{}, fmt.Errorf("document %q: %w", key, err)
	}
	return d, nil
}

// PutDocument implements [store.Documents].
func (s *Store) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	if err := d.Validate(); err != nil {
		return 0, fmt.Errorf("put document: %w", err)
	}
	next := d
	next.Version++
	next.At = d.At.UTC()
	text, err := json.Marshal(next)
	if err != nil {
		return 0, fmt.Errorf("put document %q: %w", d.Key, err)
	}
	results, err := s.run(ctx, call{put, []string{documentKey(d.Key)}, []any{d.Version, next.Version, text, d.NoHistory}})
	if err != nil {
		return 0, fmt.Errorf("put document: %w", err)
	}
	if is, other := results[0].(int64); other {
		return 0, fmt.Errorf("put document %q: %w: its version is %d, not %d", d.Key, store.ErrConflict, is, d.Version)
	}
	return next.Version, nil
}

// History implements [store.Documents].
func (s *Store) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	if limit < 1 {
		return nil, fmt.Errorf("history of document %q: limit is %d, at least 1 is required", key, limit)
	}
	list, err := s.history(ctx, key, before, limit)
	if err != nil {
		return nil, fmt.Errorf("history of document %q: %w", key, err)
	}
	return list, nil
}

func (s *Store) history(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	var list []store.Document
	for len(list) < limit {
		ask := min(limit-len(list), pageSize)
		results, err := s.run(ctx, call{versions, []string{documentKey(key)}, []any{before, ask}})
		if err != nil {
			return nil, err
		}
		page := texts(results[0])
		for _, text := range page {
			d, err := parseDocument(key, text)
			if err != nil {
				return nil, err
			}
			list = append(list, d)
		}
		if len(page) < ask || list[len(list)-1].Version == 1 {
			break // the first version is among them
		}
		before = list[len(list)-1].Version
	}
	return list, nil
}

// DropDocument implements [store.Documents].
func (s *Store) DropDocument(ctx context.Context, key string) error {
	if _, err := s.run(ctx, call{drop, []string{documentKey(key)}, nil}); err != nil {
		return fmt.Errorf("drop document: %w", err)
	}
	return nil
}
