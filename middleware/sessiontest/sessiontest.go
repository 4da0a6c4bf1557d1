// Package sessiontest is the contract of a [middleware.SessionStore], as tests.
//
//	func TestContract(t *testing.T) {
//		sessiontest.Run(t, func(t *testing.T) middleware.SessionStore { return newStore(t) })
//	}
package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/middleware"
)

// now is the time of all tests: a store has no clock.
var now = time.Date(2026, 3, 29, 1, 59, 59, 123456000, time.UTC)

// Run runs all tests. open returns a new, empty store.
func Run(t *testing.T, open func(t *testing.T) middleware.SessionStore) {
	for name, test := range map[string]func(*testing.T, middleware.SessionStore){
		"RoundTrip": roundTrip, "Missing": missing, "Create": create, "Replace": replace, "Find": find,
		"BytesCompare": bytesCompare, "CallersOwn": callersOwn, "Delete": remove, "Expires": expires,
		"Marks": marks, "MarkOnce": markOnce, "MarkRace": markRace, "ReplaceRace": replaceRace, "CreateRace": createRace,
		"Large": large, "CanceledContext": canceled,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func sample(id string, index ...string) middleware.StoredSession {
	return middleware.StoredSession{ID: id, Index: index, Data: "data of " + id, Expires: now.Add(time.Hour)}
}

func roundTrip(t *testing.T, s middleware.SessionStore) {
	want := sample("a", "x", "y")
	require.NoError(t, s.Create(t.Context(), now, want))
	got, err := s.Get(t.Context(), "a")
	require.NoError(t, err)
	want.Version = 1
	require.Equal(t, want, got)
	require.Equal(t, time.UTC, got.Expires.Location())

	require.NoError(t, s.Create(t.Context(), now, sample("no index")))
	got, err = s.Get(t.Context(), "no index")
	require.NoError(t, err)
	require.Empty(t, got.Index)
}

func missing(t *testing.T, s middleware.SessionStore) {
	_, err := s.Get(t.Context(), "a")
	require.ErrorIs(t, err, middleware.ErrNotFound)
	require.ErrorIs(t, s.Replace(t.Context(), sample("a")), middleware.ErrConflict)
	require.NoError(t, s.Delete(t.Context(), "a"))
	ids, err := s.Find(t.Context(), "x")
	require.NoError(t, err)
	require.Empty(t, ids)
	at, err := s.Marked(t.Context(), "a")
	require.NoError(t, err)
	require.True(t, at.IsZero())
}

func create(t *testing.T, s middleware.SessionStore) {
	require.NoError(t, s.Create(t.Context(), now, sample("a", "x")))
	again := sample("a", "y")
	again.Data = "other"
	require.ErrorIs(t, s.Create(t.Context(), now, again), middleware.ErrConflict)
	got, err := s.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "data of a", got.Data)
}

func replace(t *testing.T, s middleware.SessionStore) {
	require.NoError(t, s.Create(t.Context(), now, sample("a", "x", "y")))
	got, err := s.Get(t.Context(), "a")
	require.NoError(t, err)
	next := got
	next.Data, next.Index, next.Expires = "next", []string{"y", "z"}, now.Add(2*time.Hour)
	require.NoError(t, s.Replace(t.Context(), next))
	require.ErrorIs(t, s.Replace(t.Context(), next), middleware.ErrConflict, "the version has been used")
	next.Version = 7
	require.ErrorIs(t, s.Replace(t.Context(), next), middleware.ErrConflict, "a version that never was")
	next.Version = 2
	got, err = s.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, next, got)
	for entry, want := range map[string]int{"x": 0, "y": 1, "z": 1} {
		ids, err := s.Find(t.Context(), entry)
		require.NoError(t, err)
		require.Len(t, ids, want, entry)
	}
}

func find(t *testing.T, s middleware.SessionStore) {
	require.NoError(t, s.Create(t.Context(), now, sample("a", "x", "1")))
	require.NoError(t, s.Create(t.Context(), now, sample("b", "x", "2")))
	require.NoError(t, s.Create(t.Context(), now, sample("c", "2", "x")))
	require.NoError(t, s.Create(t.Context(), now, sample("d", "z")))
	for entry, want := range map[string][]string{"x": {"a", "b", "c"}, "2": {"b", "c"}, "z": {"d"}, "a": nil} {
		ids, err := s.Find(t.Context(), entry)
		require.NoError(t, err)
		slices.Sort(ids)
		require.Equal(t, want, ids, entry)
	}
}

// IDs differ by a letter's case, by a space, by how an accent is written.
func bytesCompare(t *testing.T, s middleware.SessionStore) {
	ids := []string{"a", "A", "a ", " a", "ä", "a\u0308", "Ä", "ss", "ß", "%", "_", "a'--"}
	for _, id := range ids {
		require.NoError(t, s.Create(t.Context(), now, sample(id, "i"+id)), "%q", id)
		first, err := s.Mark(t.Context(), id, now, now.Add(time.Hour), now)
		require.NoError(t, err)
		require.True(t, first, "%q", id)
	}
	for _, id := range ids {
		got, err := s.Get(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, "data of "+id, got.Data)
		found, err := s.Find(t.Context(), "i"+id)
		require.NoError(t, err)
		require.Equal(t, []string{id}, found)
	}
}

func callersOwn(t *testing.T, s middleware.SessionStore) {
	given := sample("a", "x")
	require.NoError(t, s.Create(t.Context(), now, given))
	given.Index[0] = "changed"
	got, err := s.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, []string{"x"}, got.Index)
	got.Index[0] = "changed"
	got, err = s.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, []string{"x"}, got.Index)
}

func remove(t *testing.T, s middleware.SessionStore) {
	require.NoError(t, s.Create(t.Context(), now, sample("a", "x")))
	require.NoError(t, s.Create(t.Context(), now, sample("b", "x")))
	require.NoError(t, s.Delete(t.Context(), "a"))
	require.NoError(t, s.Delete(t.Context(), "a"))
	_, err := s.Get(t.Context(), "a")
	require.ErrorIs(t, err, middleware.ErrNotFound)
	ids, err := s.Find(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, ids)
	require.NoError(t, s.Create(t.Context(), now, sample("a", "x")), "the ID is free")
}

// What has expired is removed while new things arrive; what has not is kept.
func expires(t *testing.T, s middleware.SessionStore) {
	for i := range 80 {
		old := sample(fmt.Sprintf("old %d", i), "x")
		old.Expires = now.Add(time.Minute)
		require.NoError(t, s.Create(t.Context(), now, old))
		_, err := s.Mark(t.Context(), fmt.Sprintf("old %d", i), now, now.Add(time.Minute), now)
		require.NoError(t, err)
	}
	require.NoError(t, s.Create(t.Context(), now, sample("kept", "x")))
	later := now.Add(time.Minute)
	for i := range 120 {
		fresh := sample(fmt.Sprintf("new %d", i))
		require.NoError(t, s.Create(t.Context(), later, fresh))
		_, err := s.Mark(t.Context(), fmt.Sprintf("new %d", i), later, later.Add(time.Hour), later)
		require.NoError(t, err)
	}
	ids, err := s.Find(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, []string{"kept"}, ids)
	at, err := s.Marked(t.Context(), "old 7")
	require.NoError(t, err)
	require.True(t, at.IsZero())
}

func marks(t *testing.T, s middleware.SessionStore) {
	mark := func(at, until, when time.Time) bool {
		first, err := s.Mark(t.Context(), "a", at, until, when)
		require.NoError(t, err)
		return first
	}
	marked := func() time.Time {
		at, err := s.Marked(t.Context(), "a")
		require.NoError(t, err)
		return at
	}
	require.True(t, mark(now, now.Add(time.Hour), now))
	require.Equal(t, now, marked())
	require.False(t, mark(now.Add(-time.Minute), now.Add(time.Minute), now))
	require.Equal(t, now, marked(), "the later time")
	require.False(t, mark(now.Add(time.Minute), now.Add(2*time.Hour), now.Add(59*time.Minute)))
	require.Equal(t, now.Add(time.Minute), marked())
	require.False(t, mark(now, now, now.Add(2*time.Hour-time.Microsecond)), "the later end")
	require.True(t, mark(now, now.Add(3*time.Hour), now.Add(2*time.Hour)), "it was over")
	require.Equal(t, now, marked(), "another mark")
}

func markOnce(t *testing.T, s middleware.SessionStore) {
	for i := range 20 {
		first, err := s.Mark(t.Context(), fmt.Sprint(i%10), now, now.Add(time.Hour), now)
		require.NoError(t, err)
		require.Equal(t, i < 10, first)
	}
}

const racers = 16

// race runs a function many times at once and returns how often it said yes.
func race(t *testing.T, f func(i int) (bool, error)) int64 {
	t.Helper()
	var yes atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, racers)
	start := make(chan struct{})
	for i := range racers {
		wg.Go(func() {
			<-start
			ok, err := f(i)
			if ok {
				yes.Add(1)
			}
			errs[i] = err
		})
	}
	close(start)
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	return yes.Load()
}

func markRace(t *testing.T, s middleware.SessionStore) {
	for round := range 5 {
		when := now.Add(time.Duration(round) * time.Hour) // each mark is over in the next round
		require.EqualValues(t, 1, race(t, func(int) (bool, error) {
			return s.Mark(t.Context(), "a", when, when.Add(time.Hour), when)
		}))
	}
}

func replaceRace(t *testing.T, s middleware.SessionStore) {
	require.NoError(t, s.Create(t.Context(), now, sample("a")))
	for round := range 5 {
		current, err := s.Get(t.Context(), "a")
		require.NoError(t, err)
		require.EqualValues(t, round+1, current.Version)
		require.EqualValues(t, 1, race(t, func(i int) (bool, error) {
			mine := current
			mine.Data = fmt.Sprint(i)
			return won(s.Replace(t.Context(), mine))
		}))
	}
}

func createRace(t *testing.T, s middleware.SessionStore) {
	require.EqualValues(t, 1, race(t, func(int) (bool, error) { return won(s.Create(t.Context(), now, sample("a"))) }))
}

func won(err error) (bool, error) {
	if errors.Is(err, middleware.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// A form of 64 kB, sealed.
func large(t *testing.T, s middleware.SessionStore) {
	big := sample("a")
	big.Data = strings.Repeat("x", 200<<10)
	require.NoError(t, s.Create(t.Context(), now, big))
	got, err := s.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, big.Data, got.Data)
}

// A call whose context has ended does nothing, and says so.
func canceled(t *testing.T, s middleware.SessionStore) {
	require.NoError(t, s.Create(t.Context(), now, sample("a", "x")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, s.Create(ctx, now, sample("b")))
	require.Error(t, s.Delete(ctx, "a"))
	_, err := s.Get(ctx, "a")
	require.Error(t, err)
	require.NotErrorIs(t, err, middleware.ErrNotFound)
	_, err = s.Mark(ctx, "a", now, now.Add(time.Hour), now)
	require.Error(t, err)
	_, err = s.Marked(ctx, "a")
	require.Error(t, err)
	_, err = s.Find(ctx, "x")
	require.Error(t, err)
	_, err = s.Get(t.Context(), "a")
	require.NoError(t, err)
	_, err = s.Get(t.Context(), "b")
	require.ErrorIs(t, err, middleware.ErrNotFound)
}
