// Package hourly is what stores have in common that keep counters.
package hourly

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/store"
)

// Merge validates counts to be added and returns them as a store writes
// them: each counter once, in ascending order of account, hour and name.
func Merge(counts []store.Count) ([]store.Count, error) {
	if len(counts) > store.MaxAddedCounts {
		return nil, fmt.Errorf("%d counts are to be added, at most %d are possible at once", len(counts), store.MaxAddedCounts)
	}
	merged := make([]store.Count, len(counts))
	for i := range counts {
		if err := counts[i].Validate(); err != nil {
			return nil, err
		}
		merged[i] = counts[i]
		merged[i].Hour = counts[i].Hour.UTC()
	}
	slices.SortFunc(merged, compare)
	n := 0
	for i := range merged {
		if n > 0 && compare(merged[n-1], merged[i]) == 0 {
			merged[n-1].N += merged[i].N
			continue
		}
		merged[n] = merged[i]
		n++
	}
	return merged[:n], nil
}

// compare compares which counters a and b are of: by account, hour and name.
func compare(a, b store.Count) int {
	return cmp.Or(strings.Compare(a.Account, b.Account), a.Hour.Compare(b.Hour), strings.Compare(a.Name, b.Name))
}

// Range returns the first hour, and the first after the last one, that a
// question for counters is about, as hours since 1970. It is an error if they
// are more than [store.MaxCountedHours].
func Range(from, to time.Time) (first, end int64, err error) {
	first, end = Number(from), Number(to)
	if end-first > store.MaxCountedHours {
		return 0, 0, fmt.Errorf("counts of %d hours are asked for, at most %d are possible at once", end-first, store.MaxCountedHours)
	}
	return first, end, nil
}

// Number returns the number of the first whole hour that is not before t, in
// hours since 1970.
func Number(t time.Time) int64 {
	seconds := t.Unix()
	if t.Nanosecond() > 0 {
		seconds++
	}
	n := seconds / 3600
	if seconds%3600 > 0 {
		n++
	}
	return n
}

// Time returns the hour of that number.
func Time(n int64) time.Time { return time.Unix(n*3600, 0).UTC() }
