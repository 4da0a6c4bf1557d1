package redisstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/unreadable"
)

// putBack is how many claims that are over one call of Due puts back in each
// bucket.
const putBack = 1000

// Due implements [store.Sessions]. It searches all buckets in one round trip, and claims in
// another.
func (s *Store) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	if limit < 1 {
		return nil, fmt.Errorf("due sessions: limit is %d, at least 1 is required", limit)
	}
	sessions, unread, err := s.due(ctx, now, lease, limit)
	if err != nil {
		return nil, fmt.Errorf("due sessions: %w", err)
	}
	if err := unread.Err(); err != nil {
		return sessions, fmt.Errorf("due sessions: %w", err)
	}
	return sessions, nil
}

// An item is a session in the queue: its time, sortable, and its ID.
type item string

func (i item) id() string     { return string(i[timeSize:]) }
func (i item) bucket() string { return string(i[timeSize : timeSize+2]) }

func (s *Store) due(ctx context.Context, now time.Time, lease time.Duration, limit int) (list []store.Session, unread unreadable.List, _ error) {
	var claimed []item
	sessions := map[item]store.Session{}
	seen := map[item]bool{}
	for len(claimed)+unread.Len() < limit {
		// Without a lease what is claimed here stays in the queue.
		items, err := s.peek(ctx, now, notHeeded(now, lease), min(limit, 1<<20))
		if err != nil {
			return nil, unread, err
		}
		items = slices.DeleteFunc(items, func(i item) bool { return seen[i] })
		items = items[:min(limit-len(claimed)-unread.Len(), len(items))]
		if len(items) == 0 {
			break
		}
		for _, i := range items {
			seen[i] = true
		}
		won, err := s.claim(ctx, now, lease, items, &unread)
		if err != nil {
			return nil, unread, err
		}
		for i, one := range won {
			claimed = append(claimed, i)
			sessions[i] = one
		}
	}
	slices.Sort(claimed)
	list = make([]store.Session, 0, len(claimed))
	for _, i := range claimed {
		list = append(list, sessions[i])
	}
	return list, unread, nil
}

// notHeeded returns from when on a claim is not heeded.
func notHeeded(now time.Time, lease time.Duration) string {
	if lease <= 0 {
		return ""
	}
	return sortable(now.Add(3*lease + time.Microsecond))
}

// peek returns the most overdue items of all buckets, up to limit, in order.
func (s *Store) peek(ctx context.Context, now time.Time, far string, limit int) ([]item, error) {
	// Each bucket is first asked for more than its share; those that have all
	// of that among the most overdue are asked for more.
	ask := limit
	if limit > 2*buckets {
		ask = limit/buckets*2 + 16
	} else if limit > 16 {
		ask = limit/16 + 4
	}
	in := make([]string, buckets)
	for n := range in {
		in[n] = bucketName(n)
	}
	found := map[string][]item{}
	for ; ; ask *= 4 {
		calls := make([]call, len(in))
		for i, bucket := range in {
			calls[i] = call{peek, queueKeys(bucket), []any{"(" + sortable(now.Add(time.Microsecond)), ask, putBack, far}}
		}
		results, err := s.run(ctx, calls...)
		if err != nil {
			return nil, err
		}
		for i, bucket := range in {
			found[bucket] = nil
			for _, text := range texts(results[i]) {
				if len(text) < timeSize+2 {
					return nil, fmt.Errorf("the queue of bucket %s: %w", bucket, errRecord)
				}
				found[bucket] = append(found[bucket], item(text))
			}
		}
		var all []item
		for _, items := range found {
			all = append(all, items...)
		}
		slices.Sort(all)
		all = all[:min(limit, len(all))]
		in = slices.DeleteFunc(in, func(bucket string) bool {
			items := found[bucket]
			return len(items) < ask || len(all) == limit && items[len(items)-1] >= all[limit-1]
		})
		if len(in) == 0 {
			return all, nil
		}
	}
}

// claim claims items and returns those that nobody else has claimed, and can be read.
func (s *Store) claim(ctx context.Context, now time.Time, lease time.Duration, items []item, unread *unreadable.List) (map[item]store.Session, error) {
	until := ""
	if lease > 0 {
		until = sortable(now.Add(lease))
	}
	items = slices.Clone(items)
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.id(), b.id()) })
	var calls []call
	var of [][]item
	for len(items) > 0 {
		bucket := items[0].bucket()
		n := 0
		for n < len(items) && items[n].bucket() == bucket {
			n++
		}
		c := call{claim, append(queueKeys(bucket), fencesKey(bucket)), []any{sortable(now), until, notHeeded(now, lease)}}
		for _, i := range items[:n] {
			c.keys = append(c.keys, sessionKey(i.id()))
			c.args = append(c.args, string(i))
		}
		calls, of = append(calls, c), append(of, items[:n])
		items = items[n:]
	}
	results, err := s.run(ctx, calls...)
	if err != nil {
		return nil, err
	}
	won := map[item]store.Session{}
	for n, result := range results {
		list := texts(result)
		for k, i := range of[n] {
			if len(list) < 2*k+2 || list[2*k] == "" {
				continue
			}
			one, err := parseFenced(list[2*k], list[2*k+1])
			if err != nil {
				unread.Add(fmt.Errorf("session %q: %w", i.id(), err))
				continue
			}
			won[i] = one
		}
	}
	return won, nil
}

// Stats implements [store.Sessions]. It takes one round trip and no longer if
// there are more sessions.
func (s *Store) Stats(ctx context.Context) (store.Stats, error) {
	calls := make([]call, buckets)
	for n := range calls {
		bucket := bucketName(n)
		queues := queueKeys(bucket)
		calls[n] = call{count, []string{indexKey(bucket, false, ""), indexKey(bucket, true, ""), queues[0], queues[2]}, nil}
	}
	results, err := s.run(ctx, calls...)
	if err != nil {
		return store.Stats{}, fmt.Errorf("stats: %w", err)
	}
	var stats store.Stats
	first := ""
	for _, result := range results {
		array, _ := result.([]any)
		if len(array) != 4 {
			return store.Stats{}, fmt.Errorf("stats: the script returned %v", result)
		}
		unended, _ := array[0].(int64)
		ended, _ := array[1].(int64)
		stats.Unended += int(unended)
		stats.Ended += int(ended)
		for _, text := range texts(array[2:]) {
			if len(text) >= timeSize && (first == "" || text[:timeSize] < first) {
				first = text[:timeSize]
			}
		}
	}
	if first != "" {
		stats.NextDue = fromSortable(first)
	}
	return stats, nil
}
