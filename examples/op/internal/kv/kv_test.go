package kv

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"
)

// Every store passes the same tests.
func TestStores(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) Store{
		"memory": func(*testing.T) Store { return NewMemory() },
		"sqlite": func(t *testing.T) Store {
			db, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "kv.db")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)")
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, db.Close()) })
			s, err := NewSQLite(t.Context(), db)
			require.NoError(t, err)
			_, err = NewSQLite(t.Context(), db) // a second start
			require.NoError(t, err)
			return s
		},
	} {
		for _, test := range []struct {
			name string
			run  func(t *testing.T, s Store)
		}{
			{"round trip", testRoundTrip},
			{"refused records", testRefused},
			{"compare and swap", testSwap},
			{"keys by byte", testKeys},
			{"delete once", testDeleteOnce},
			{"groups", testGroups},
			{"sweep", testSweep},
			{"one winner", testOneWinner},
			{"cancelled", testCancelled},
		} {
			t.Run(name+"/"+test.name, func(t *testing.T) { test.run(t, open(t)) })
		}
	}
}

var at = time.Date(2030, 1, 2, 3, 4, 5, 678901000, time.UTC)

func testRoundTrip(t *testing.T, s Store) {
	for _, value := range [][]byte{nil, {}, {0, 255, '\''}, []byte(`{"a":"ü"}`)} {
		key := fmt.Sprintf("k/%x", value) + fmt.Sprint(value == nil)
		require.NoError(t, s.Put(t.Context(), Record{Key: key, Group: "g'", Value: value, Expires: at.In(time.FixedZone("x", 3600))}))
		r, err := s.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, len(value), len(r.Value))
		require.Equal(t, string(value), string(r.Value))
		require.Equal(t, "g'", r.Group)
		require.Equal(t, at, r.Expires)
		require.EqualValues(t, 1, r.Revision)
		if len(r.Value) > 0 { // the caller's to change
			r.Value[0]++
			again, err := s.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, string(value), string(again.Value))
		}
	}
	_, err := s.Get(t.Context(), "missing")
	require.ErrorIs(t, err, ErrNotFound)
}

func testRefused(t *testing.T, s Store) {
	for _, r := range []Record{{Expires: at}, {Key: "k"}, {Key: "k", Expires: at, Revision: -1}} {
		require.Error(t, s.Put(t.Context(), r))
	}
}

func testSwap(t *testing.T, s Store) {
	r := Record{Key: "k", Value: []byte("1"), Expires: at}
	missing := r
	missing.Revision = 1
	require.ErrorIs(t, s.Put(t.Context(), missing), ErrConflict)
	require.NoError(t, s.Put(t.Context(), r))
	require.ErrorIs(t, s.Put(t.Context(), r), ErrConflict)
	r.Revision, r.Value, r.Group, r.Expires = 1, []byte("2"), "g", at.Add(time.Hour)
	require.NoError(t, s.Put(t.Context(), r))
	require.ErrorIs(t, s.Put(t.Context(), r), ErrConflict)
	got, err := s.Get(t.Context(), "k")
	require.NoError(t, err)
	r.Revision = 2
	require.Equal(t, r, got)
}

func testKeys(t *testing.T, s Store) {
	for _, key := range []string{"a", "A", "a ", "ä", "a\u0308"} {
		require.NoError(t, s.Put(t.Context(), Record{Key: key, Value: []byte(key), Expires: at}))
	}
	for _, key := range []string{"a", "A", "a ", "ä", "a\u0308"} {
		r, err := s.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, key, string(r.Value))
	}
}

func testDeleteOnce(t *testing.T, s Store) {
	require.NoError(t, s.Put(t.Context(), Record{Key: "k", Expires: at}))
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if s.Delete(context.Background(), "k") == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, won.Load())
	require.ErrorIs(t, s.Delete(t.Context(), "k"), ErrNotFound)
}

func testGroups(t *testing.T, s Store) {
	for key, group := range map[string]string{"a": "g", "b": "g", "c": "G", "d": ""} {
		require.NoError(t, s.Put(t.Context(), Record{Key: key, Group: group, Expires: at}))
	}
	require.NoError(t, s.Put(t.Context(), Record{Key: "b", Group: "other", Expires: at, Revision: 1}))
	require.NoError(t, s.DeleteGroup(t.Context(), "g"))
	require.NoError(t, s.DeleteGroup(t.Context(), "g"))
	require.NoError(t, s.DeleteGroup(t.Context(), ""))
	_, err := s.Get(t.Context(), "a")
	require.ErrorIs(t, err, ErrNotFound)
	for _, key := range []string{"b", "c", "d"} {
		_, err := s.Get(t.Context(), key)
		require.NoError(t, err, key)
	}
}

func testSweep(t *testing.T, s Store) {
	for i := range 5 {
		require.NoError(t, s.Put(t.Context(), Record{Key: fmt.Sprint(i), Group: "g", Expires: at.Add(time.Duration(i) * time.Microsecond)}))
	}
	n, err := s.Sweep(t.Context(), at.Add(-time.Microsecond), 10)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = s.Sweep(t.Context(), at.Add(2*time.Microsecond), 2)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	n, err = s.Sweep(t.Context(), at.Add(2*time.Microsecond), 2)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = s.Get(t.Context(), "2")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = s.Get(t.Context(), "3")
	require.NoError(t, err)
}

func testOneWinner(t *testing.T, s Store) {
	for revision := range int64(5) {
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				err := s.Put(context.Background(), Record{Key: "k", Value: []byte{byte(i)}, Expires: at, Revision: revision})
				if err == nil {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load())
	}
}

func testCancelled(t *testing.T, s Store) {
	require.NoError(t, s.Put(t.Context(), Record{Key: "k", Expires: at}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, "k")
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, s.Put(ctx, Record{Key: "l", Expires: at}), context.Canceled)
	require.ErrorIs(t, s.Delete(ctx, "k"), context.Canceled)
	require.ErrorIs(t, s.DeleteGroup(ctx, "g"), context.Canceled)
	_, err = s.Sweep(ctx, at, 1)
	require.ErrorIs(t, err, context.Canceled)
}
