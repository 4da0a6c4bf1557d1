package faultstore_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

// Without a script it is the store that it wraps.
func TestContract(t *testing.T) {
	open := func(*testing.T) *faultstore.Store { return faultstore.New(memstore.New()) }
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

// calls is one call of each method, and whether the inner store shows its
// effect; nil for a method that has none.
var calls = []struct {
	method string
	call   func(context.Context, *faultstore.Store) error
	done   func(context.Context, storetest.Counting) bool
}{
	{"Get", func(ctx context.Context, s *faultstore.Store) error { _, err := s.Get(ctx, sid("a")); return err }, nil},
	{"Create", func(ctx context.Context, s *faultstore.Store) error {
		one := sample.Typical()
		one.ID = sid("b")
		return s.Create(ctx, one, 10)
	}, has("b")},
	{"Update", func(ctx context.Context, s *faultstore.Store) error {
		one := sample.Typical()
		one.ID, one.Revision = sid("a"), 1
		_, err := s.Update(ctx, one)
		return err
	}, func(ctx context.Context, s storetest.Counting) bool {
		one, err := s.Get(ctx, sid("a"))
		return err == nil && one.Revision == 2
	}},
	{"Admit", func(ctx context.Context, s *faultstore.Store) error {
		one := sample.Typical()
		one.ID = sid("c")
		return s.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return []store.Session{one}, nil })
	}, has("c")},
	{"List", func(ctx context.Context, s *faultstore.Store) error {
		_, _, err := s.List(ctx, store.Filter{}, "", 1)
		return err
	}, nil},
	{"Due", func(ctx context.Context, s *faultstore.Store) error {
		_, err := s.Due(ctx, sample.Typical().Due, time.Minute, 1)
		return err
	}, func(ctx context.Context, s storetest.Counting) bool {
		list, err := s.Due(ctx, sample.Typical().Due, 0, 1)
		return err == nil && len(list) == 0 // it is claimed
	}},
	{"Delete", func(ctx context.Context, s *faultstore.Store) error { return s.Delete(ctx, sid("a"), 1) },
		func(ctx context.Context, s storetest.Counting) bool { return !has("a")(ctx, s) }},
	{"Stats", func(ctx context.Context, s *faultstore.Store) error { _, err := s.Stats(ctx); return err }, nil},
	{"PutFence", func(ctx context.Context, s *faultstore.Store) error {
		_, err := s.PutFence(ctx, store.Fence{Subject: store.Subject{ID: "put"}, At: time.Unix(1, 0), Due: time.Unix(2, 0)})
		return err
	}, fences("move", "put")},
	{"MoveFence", func(ctx context.Context, s *faultstore.Store) error {
		return s.MoveFence(ctx, store.Fence{Subject: store.Subject{ID: "move"}, At: time.Unix(1, 0), Revision: 1}, time.Time{})
	}, fences()},
	{"DueFences", func(ctx context.Context, s *faultstore.Store) error {
		_, err := s.DueFences(ctx, time.Unix(2, 0), 1)
		return err
	}, nil},
	{"Document", func(ctx context.Context, s *faultstore.Store) error { _, err := s.Document(ctx, "k"); return err }, nil},
	{"PutDocument", func(ctx context.Context, s *faultstore.Store) error {
		_, err := s.PutDocument(ctx, store.Document{Key: "k", Version: 1})
		return err
	}, func(ctx context.Context, s storetest.Counting) bool {
		d, err := s.Document(ctx, "k")
		return err == nil && d.Version == 2
	}},
	{"History", func(ctx context.Context, s *faultstore.Store) error { _, err := s.History(ctx, "k", 0, 1); return err }, nil},
	{"DropDocument", func(ctx context.Context, s *faultstore.Store) error { return s.DropDocument(ctx, "k") },
		func(ctx context.Context, s storetest.Counting) bool {
			_, err := s.Document(ctx, "k")
			return errors.Is(err, store.ErrNotFound)
		}},
	{"AddCounts", func(ctx context.Context, s *faultstore.Store) error {
		return s.AddCounts(ctx, []store.Count{{Account: "a", Hour: time.Unix(0, 0), Name: "n", N: 1}})
	}, counted(2)},
	{"ReadCounts", func(ctx context.Context, s *faultstore.Store) error {
		_, err := s.ReadCounts(ctx, "a", time.Unix(0, 0), time.Unix(1, 0))
		return err
	}, nil},
	{"DropCounts", func(ctx context.Context, s *faultstore.Store) error { return s.DropCounts(ctx, "a", time.Unix(1, 0)) }, counted(0)},
	{"CountUnended", func(ctx context.Context, s *faultstore.Store) error {
		_, err := s.CountUnended(ctx, "default")
		return err
	}, nil},
}

// counted reports whether the counter that is 1 before has the sum; 0: it is gone.
func counted(sum int64) func(context.Context, storetest.Counting) bool {
	return func(ctx context.Context, s storetest.Counting) bool {
		list, err := s.ReadCounts(ctx, "a", time.Unix(0, 0), time.Unix(1, 0))
		if sum == 0 {
			return err == nil && len(list) == 0
		}
		return err == nil && len(list) == 1 && list[0].N == sum
	}
}

// fences reports whether these subjects, and no others, have a fence. That of "move"
// is there before.
func fences(subjects ...string) func(context.Context, storetest.Counting) bool {
	return func(ctx context.Context, s storetest.Counting) bool {
		list, err := s.DueFences(ctx, time.Unix(2, 0), 10)
		var found []string
		for _, f := range list {
			found = append(found, f.Subject.ID)
		}
		return err == nil && slices.Equal(found, subjects)
	}
}

// sid returns the ID of the session of that name.
func sid(name string) string { return store.Bucket(sample.Typical().Subject) + "." + name }

func has(id string) func(context.Context, storetest.Counting) bool {
	return func(ctx context.Context, s storetest.Counting) bool {
		_, err := s.Get(ctx, sid(id))
		return err == nil
	}
}

func TestFaults(t *testing.T) {
	for _, c := range calls {
		for _, f := range []struct {
			fault faultstore.Fault
			wants []error
			done  bool
		}{
			{faultstore.None, nil, true},
			{faultstore.Before, []error{faultstore.ErrFault}, false},
			{faultstore.After, []error{faultstore.ErrFault}, true},
			{faultstore.Timeout, []error{faultstore.ErrFault, context.DeadlineExceeded}, false},
			{faultstore.TimeoutAfter, []error{faultstore.ErrFault, context.DeadlineExceeded}, true},
		} {
			synctest.Test(t, func(t *testing.T) {
				inner := memstore.New()
				one := sample.Typical()
				one.ID = sid("a")
				require.NoError(t, inner.Create(t.Context(), one, 10))
				_, err := inner.PutDocument(t.Context(), store.Document{Key: "k"})
				require.NoError(t, err)
				_, err = inner.PutFence(t.Context(), store.Fence{Subject: store.Subject{ID: "move"}, At: time.Unix(1, 0), Due: time.Unix(1, 0)})
				require.NoError(t, err)
				require.NoError(t, inner.AddCounts(t.Context(), []store.Count{{Account: "a", Hour: time.Unix(0, 0), Name: "n", N: 1}}))

				s := faultstore.New(inner)
				s.Script(faultstore.Once(1, f.fault))
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				began := time.Now()
				err = c.call(ctx, s)
				if f.wants == nil {
					require.NoError(t, err)
				}
				for _, want := range f.wants {
					require.ErrorIs(t, err, want, "%s %d", c.method, f.fault)
				}
				waits := f.fault == faultstore.Timeout || f.fault == faultstore.TimeoutAfter
				require.Equal(t, waits, time.Since(began) == time.Hour, "%s %d", c.method, f.fault)
				if c.done != nil {
					require.Equal(t, f.done, c.done(t.Context(), inner), "%s %d", c.method, f.fault)
				}
				require.Equal(t, map[string]int{c.method: 1}, s.Counts())
				require.Equal(t, 1, s.Calls())
			})
		}
	}
}

func TestScripts(t *testing.T) {
	ctx := t.Context()
	s := faultstore.New(memstore.New())
	one := sample.Typical()
	create := func(id string) error {
		one.ID = sid(id)
		return s.Create(ctx, one, 10)
	}
	s.Script(faultstore.Always(faultstore.Before, "Create", "Delete"))
	require.ErrorIs(t, create("a"), faultstore.ErrFault)
	_, err := s.Get(ctx, sid("a"))
	require.ErrorIs(t, err, store.ErrNotFound, "the inner store's own errors come through")
	require.ErrorIs(t, create("a"), faultstore.ErrFault)

	s.Script(faultstore.Once(s.Calls()+2, faultstore.After))
	require.NoError(t, create("a"))
	require.ErrorIs(t, create("b"), faultstore.ErrFault)
	require.NoError(t, create("c"))
	s.Script(faultstore.Always(faultstore.After))
	require.ErrorIs(t, create("b"), store.ErrExists, "also when it was to fail afterwards")
	require.Equal(t, map[string]int{"Create": 6, "Get": 1}, s.Counts())

	s.Script(nil)
	s.Reset()
	require.NoError(t, create("d"))
	require.Equal(t, 1, s.Calls())
}
