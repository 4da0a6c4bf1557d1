package redisstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/unreadable"
)

// pageSize is how many sessions one page looks at, however long it may be.
const pageSize = 1000

// List implements [store.Sessions]. It reads at most limit sessions, and at most 1,000, so a page
// may be short.
func (s *Store) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("list sessions: limit is %d, at least 1 is required", limit)
	}
	page, next, unread, err := s.list(ctx, f, cursor, min(limit, pageSize))
	if err != nil {
		return nil, "", fmt.Errorf("list sessions: %w", err)
	}
	if err := unread.Err(); err != nil {
		return page, next, fmt.Errorf("list sessions: %w", err)
	}
	return page, next, nil
}

func (s *Store) list(ctx context.Context, f store.Filter, cursor string, limit int) (matching []store.Session, next string, unread unreadable.List, _ error) {
	if err := ctx.Err(); err != nil {
		return nil, "", unread, err
	}
	if f.Subject != (store.Subject{}) {
		return s.listSubject(ctx, f, cursor, limit)
	}
	var in []string // the buckets that may have some, in order
	for n := range buckets {
		in = append(in, bucketName(n))
	}
	in = slices.DeleteFunc(in, func(bucket string) bool { return len(cursor) >= 2 && bucket < cursor[:2] })

	// Where there are many sessions the first bucket has enough of them, and
	// where there are few one has to look into many.
	var ids []string
	for n := 2; len(in) > 0 && len(ids) <= limit; n *= 4 {
		some := in[:min(n, len(in))]
		in = in[len(some):]
		found, err := s.candidates(ctx, f, some, cursor, limit+1-len(ids))
		if err != nil {
			return nil, "", unread, err
		}
		ids = append(ids, found...)
	}
	if len(ids) > limit {
		ids = ids[:limit]
		next = ids[limit-1]
	}
	sessions, unread, err := s.load(ctx, ids)
	if err != nil {
		return nil, "", unread, err
	}
	// An index that was read a moment ago says nothing of the other filters,
	// nor of now.
	return slices.DeleteFunc(sessions, func(one store.Session) bool { return !matches(&one, f) }), next, unread, nil
}

// listSubject reads a page of one subject's sessions at one moment: they are all
// in one bucket.
func (s *Store) listSubject(ctx context.Context, f store.Filter, cursor string, limit int) (matching []store.Session, next string, unread unreadable.List, _ error) {
	bucket, after := store.Bucket(f.Subject), "-"
	if cursor != "" {
		after = "(" + cursor
	}
	var indexes []string
	for _, ended := range partsOf(f.State) {
		indexes = append(indexes, indexKey(bucket, ended, subjectTerm(f.Subject)))
	}
	list, err := s.records(ctx, call{page, append([]string{fencesKey(bucket)}, indexes...), []any{
		after, strconv.Itoa(limit + 1), bucketPrefix(bucket) + "s:", subjectTerm(f.Subject), len(indexes),
	}}, indexes, 1)
	if err != nil {
		return nil, "", unread, err
	}
	fence, found := list[0], slices.Collect(slices.Chunk(list[1:], 2)) // each an ID and a record
	slices.SortFunc(found, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	if len(found) > limit {
		found = found[:limit]
		next = found[limit-1][0]
	}
	for _, one := range found {
		s, err := parseFenced(one[1], fence)
		if err != nil {
			unread.Add(fmt.Errorf("session %q: %w", one[0], err))
		} else if matches(&s, f) {
			matching = append(matching, s)
		}
	}
	return matching, next, unread, nil
}

// records makes a call of a script that returns, after some other texts, the records of
// the sessions in indexes, whose keys are not declared. One that is not there may be on
// another server, if a cluster moves them: then the call is made once more, with those
// keys, and has to wait until they are in one place.
func (s *Store) records(ctx context.Context, c call, indexes []string, others int) ([]string, error) {
	results, err := s.run(ctx, c)
	for again := true; err == nil; again = false {
		list := texts(results[0])
		if len(list) < others {
			return nil, fmt.Errorf("the script returned %v", results[0])
		}
		if !again || !slices.Contains(list[others:], "") {
			return list, nil
		}
		if results, err = s.run(ctx, call{candidates, indexes, []any{len(indexes), "-", -1}}); err == nil {
			for _, id := range texts(results[0]) {
				c.keys = append(c.keys, sessionKey(id))
			}
			results, err = s.run(ctx, c)
		}
	}
	return nil, err
}

// partsOf returns the parts of an index that hold what is in the state.
func partsOf(state store.State) []bool {
	switch state {
	case store.Unended:
		return []bool{false}
	case store.Ended:
		return []bool{true}
	}
	return []bool{false, true}
}

// candidates returns IDs after the cursor, in order and at least limit if there
// are so many, among which all sessions of the buckets are that match.
func (s *Store) candidates(ctx context.Context, f store.Filter, in []string, cursor string, limit int) ([]string, error) {
	after := "-"
	if cursor != "" {
		after = "(" + cursor
	}
	parts := partsOf(f.State)
	found := filterTerms(f)
	calls := make([]call, len(in))
	for i, bucket := range in {
		var keys []string
		for _, term := range found {
			for _, ended := range parts {
				keys = append(keys, indexKey(bucket, ended, term))
			}
		}
		calls[i] = call{candidates, keys, []any{len(parts), after, strconv.Itoa(limit)}}
	}
	results, err := s.run(ctx, calls...)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, result := range results {
		part := texts(result)
		slices.Sort(part)
		ids = append(ids, part[:min(limit, len(part))]...)
	}
	return ids, nil
}

// filterTerms returns the terms by each of which what matches is found.
func filterTerms(f store.Filter) []string {
	var list []string
	if f.Subject != (store.Subject{}) {
		list = append(list, subjectTerm(f.Subject))
	}
	for letter, name := range map[string]string{accountTerm: f.Account, clientTerm: f.Client, kindTerm: string(f.Kind)} {
		if name != "" {
			list = append(list, letter+name)
		}
	}
	if list == nil {
		return []string{""}
	}
	return list
}

// load returns the sessions with these IDs that are still there.
func (s *Store) load(ctx context.Context, ids []string) (sessions []store.Session, unread unreadable.List, _ error) {
	if len(ids) == 0 {
		return nil, unread, nil
	}
	calls := make([]call, len(ids))
	for i, id := range ids {
		calls[i] = getCall(id)
	}
	results, err := s.run(ctx, calls...)
	if err != nil {
		return nil, unread, err
	}
	sessions = make([]store.Session, 0, len(ids))
	for i, result := range results {
		list := texts(result)
		if len(list) == 0 {
			continue
		}
		one, err := parseFenced(list[0], list[1])
		if err != nil {
			unread.Add(fmt.Errorf("session %q: %w", ids[i], err))
			continue
		}
		sessions = append(sessions, one)
	}
	return sessions, unread, nil
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
