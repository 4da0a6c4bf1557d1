package redisstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/hourly"
)

// countsPrefix returns what the keys of an account's counters begin with. They
// are in one slot, and go on with
//
//	hours    the hours that have some, as a sorted set in which all scores are equal
//	n:HOUR   a hash of the counters of an hour by name; hours are 8 bytes in their order
func countsPrefix(account string) string {
	sum := sha256.Sum256([]byte(account))
	return keyPrefix + "{c:" + hex.EncodeToString(sum[:8]) + "}:" + account + ":"
}

func hourKey(hour int64) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(hour)^1<<63))
}

// hoursAtOnce is how many hours one call of a script looks at: as many as Redis
// can without others noticing.
const hoursAtOnce = 200

// AddCounts implements [store.Counts]. It is one round trip.
func (s *Store) AddCounts(ctx context.Context, counts []store.Count) error {
	merged, err := hourly.Merge(counts)
	if err != nil {
		return fmt.Errorf("add counts: %w", err)
	}
	var calls []call
	for i, c := range merged {
		hour := hourKey(hourly.Number(c.Hour))
		if i == 0 || merged[i-1].Account != c.Account || !merged[i-1].Hour.Equal(c.Hour) {
			prefix := countsPrefix(c.Account)
			calls = append(calls, call{addCounts, []string{prefix + "hours", prefix + "n:" + hour}, []any{hour}})
		}
		last := &calls[len(calls)-1]
		last.args = append(last.args, c.Name, c.N)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("add counts: %w", err)
	}
	if _, err := s.run(ctx, calls...); err != nil {
		return fmt.Errorf("add counts: %w", err)
	}
	return nil
}

// ReadCounts implements [store.Counts]. It is a round trip for each 200 hours.
func (s *Store) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	first, end, err := hourly.Range(from, to)
	if err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	prefix := countsPrefix(account)
	after, before := "["+hourKey(first), "("+hourKey(end)
	var list []store.Count
	for {
		results, err := s.run(ctx, call{readCounts, []string{prefix + "hours"}, []any{after, before, hoursAtOnce, prefix + "n:"}})
		if err != nil {
			return nil, fmt.Errorf("read counts: %w", err)
		}
		array, _ := results[0].([]any)
		for _, one := range array {
			texts := texts(one)
			if len(texts)%2 != 1 || len(texts[0]) != 8 {
				return nil, fmt.Errorf("read counts: the script returned %v", one)
			}
			hour := int64(binary.BigEndian.Uint64([]byte(texts[0])) ^ 1<<63)
			began := len(list)
			for i := 1; i < len(texts); i += 2 {
				n, err := strconv.ParseInt(texts[i+1], 10, 64)
				if err != nil {
					return nil, fmt.Errorf("read counts: %w", err)
				}
				list = append(list, store.Count{Account: account, Hour: hourly.Time(hour), Name: texts[i], N: n})
			}
			slices.SortFunc(list[began:], func(a, b store.Count) int { return strings.Compare(a.Name, b.Name) })
			after = "(" + texts[0]
		}
		if len(array) < hoursAtOnce {
			return list, nil
		}
	}
}

// DropCounts implements [store.Counts]. It is two round trips for each 200 dropped hours, and one
// more.
func (s *Store) DropCounts(ctx context.Context, account string, before time.Time) error {
	prefix := countsPrefix(account)
	for {
		results, err := s.run(ctx, call{args: []any{
			"zrangebylex", prefix + "hours", "-", "(" + hourKey(hourly.Number(before)), "limit", 0, hoursAtOnce,
		}})
		if err != nil {
			return fmt.Errorf("drop counts: %w", err)
		}
		hours := texts(results[0])
		if len(hours) == 0 {
			return nil
		}
		c := call{dropCounts, []string{prefix + "hours"}, nil}
		for _, hour := range hours {
			c.keys, c.args = append(c.keys, prefix+"n:"+hour), append(c.args, hour)
		}
		if _, err := s.run(ctx, c); err != nil {
			return fmt.Errorf("drop counts: %w", err)
		}
	}
}

// CountUnended implements [store.Counts]. It takes one round trip and no longer if
// there are more sessions.
func (s *Store) CountUnended(ctx context.Context, account string) (int, error) {
	calls := make([]call, buckets)
	for n := range calls {
		calls[n] = call{size, []string{indexKey(bucketName(n), false, accountTerm+account)}, nil}
	}
	results, err := s.run(ctx, calls...)
	if err != nil {
		return 0, fmt.Errorf("count unended sessions: %w", err)
	}
	total := 0
	for _, result := range results {
		n, ok := result.(int64)
		if !ok {
			return 0, fmt.Errorf("count unended sessions: the script returned %v", result)
		}
		total += int(n)
	}
	return total, nil
}
