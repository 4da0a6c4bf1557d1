package redisstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/unreadable"
)

// A fence is kept as
//
//	at         8 bytes
//	revision   8 bytes
//	due        8 bytes, 0: never
//	document
const fenceHead = timeSize + revisionSize + timeSize

func fenceRecord(f store.Fence) ([]byte, error) {
	b := []byte(sortable(f.At))
	b = binary.BigEndian.AppendUint64(b, uint64(f.Revision))
	if f.Due.IsZero() {
		b = append(b, make([]byte, timeSize)...)
	} else {
		b = append(b, sortable(f.Due)...)
	}
	return f.AppendDocument(b)
}

func parseFence(record string) (store.Fence, error) {
	if len(record) < fenceHead {
		return store.Fence{}, fmt.Errorf("a fence: %w", errRecord)
	}
	f, err := store.ParseFence(record[fenceHead:])
	f.Revision = headRevision(record[timeSize:])
	return f, err
}

// swapFence puts a record in the place of another ("": of none, or to remove it),
// and returns what is there instead, if that is not so.
func (s *Store) swapFence(ctx context.Context, subject store.Subject, before string, after []byte) (done bool, instead string, err error) {
	bucket := store.Bucket(subject)
	results, err := s.run(ctx, call{putFence, []string{fencesKey(bucket), fencesDueKey(bucket)}, []any{subjectTerm(subject), before, after}})
	if err != nil {
		return false, "", err
	}
	list := texts(results[0])
	if len(list) == 0 {
		return true, "", nil
	}
	return false, list[0], nil
}

// PutFence implements [store.Fences]. It is one round trip, and one more if there is a fence
// already.
func (s *Store) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	var is store.Fence
	for before := ""; ; {
		joined := is.Join(f)
		joined.Revision = is.Revision + 1
		record, err := fenceRecord(joined)
		if err != nil {
			return store.Fence{}, fmt.Errorf("put fence: %w", err)
		}
		done, instead, err := s.swapFence(ctx, f.Subject, before, record)
		switch {
		case err != nil:
			return store.Fence{}, fmt.Errorf("put fence: %w", err)
		case done:
			return joined, nil
		}
		is = store.Fence{}
		if before = instead; before != "" {
			if is, err = parseFence(before); err != nil {
				return store.Fence{}, fmt.Errorf("put fence: %w", err)
			}
		}
	}
}

// MoveFence implements [store.Fences].
func (s *Store) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	if err := s.moveFence(ctx, f, due); err != nil {
		return fmt.Errorf("move fence: %w", err)
	}
	return nil
}

func (s *Store) moveFence(ctx context.Context, f store.Fence, due time.Time) error {
	results, err := s.run(ctx, call{oneFence, []string{fencesKey(store.Bucket(f.Subject))}, []any{subjectTerm(f.Subject)}})
	if err != nil {
		return err
	}
	before, _ := results[0].(string)
	if before == "" {
		return nil
	}
	is, err := parseFence(before)
	if err != nil {
		return err
	}
	if f.Moved(is) {
		return fmt.Errorf("%w: it was written meanwhile", store.ErrConflict)
	}
	var after []byte
	if is.Due, is.Revision = due, is.Revision+1; !due.IsZero() {
		if after, err = fenceRecord(is); err != nil {
			return err
		}
	}
	done, _, err := s.swapFence(ctx, f.Subject, before, after)
	if err == nil && !done {
		err = fmt.Errorf("%w: it was written meanwhile", store.ErrConflict)
	}
	return err
}

// DueFences implements [store.Fences]. It looks into all buckets in one round trip.
func (s *Store) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	if limit < 1 {
		return nil, fmt.Errorf("due fences: limit is %d, at least 1 is required", limit)
	}
	var due []store.Fence
	var unread unreadable.List
	for before := -1; before < unread.Len(); { // in place of those that cannot be read others are asked for
		before = unread.Len()
		var err error
		if due, unread, err = s.peekFences(ctx, now, limit+before); err != nil {
			return nil, fmt.Errorf("due fences: %w", err)
		}
	}
	slices.SortFunc(due, func(a, b store.Fence) int {
		if c := a.Due.Compare(b.Due); c != 0 {
			return c
		}
		return strings.Compare(subjectTerm(a.Subject), subjectTerm(b.Subject))
	})
	due = due[:min(limit, len(due))]
	if err := unread.Err(); err != nil {
		return due, fmt.Errorf("due fences: %w", err)
	}
	return due, nil
}

// peekFences returns the most overdue fences of each bucket, up to limit of each.
func (s *Store) peekFences(ctx context.Context, now time.Time, limit int) (due []store.Fence, unread unreadable.List, _ error) {
	calls := make([]call, buckets)
	for n := range calls {
		bucket := bucketName(n)
		calls[n] = call{dueFences, []string{fencesKey(bucket), fencesDueKey(bucket)}, []any{"(" + sortable(now.Add(time.Microsecond)), limit}}
	}
	results, err := s.run(ctx, calls...)
	if err != nil {
		return nil, unread, err
	}
	for _, result := range results {
		for one := range slices.Chunk(texts(result), 2) { // a term and a record
			if one[1] == "" {
				continue
			}
			f, err := parseFence(one[1])
			if err != nil {
				unread.Add(fmt.Errorf("of subject %q: %w", one[0], err))
				continue
			}
			due = append(due, f)
		}
	}
	return due, unread, nil
}
