package storetest

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

var contextTests = []contractTest{
	{"EndedBefore", func(f *fixture) {
		s := session("a", alice)
		s.Due = at
		s = f.createOne(s)
		f.put(store.Document{Key: "k", Message: "first"})
		kept := f.putFence(fence(bob, time.Hour))
		canceled, cancel := context.WithCancel(f.ctx)
		cancel()
		late, cancelLate := context.WithDeadline(f.ctx, at)
		defer cancelLate()
		for want, ctx := range map[error]context.Context{context.Canceled: canceled, context.DeadlineExceeded: late} {
			_, err := f.s.Get(ctx, sid("a"))
			require.ErrorIs(f, err, want)
			_, err = f.s.Get(ctx, sid("none"))
			require.ErrorIs(f, err, want)
			require.NotErrorIs(f, err, store.ErrNotFound)
			require.ErrorIs(f, f.s.Create(ctx, session("b", alice), many), want)
			next := s
			next.UserAgent = "changed"
			_, err = f.s.Update(ctx, next)
			require.ErrorIs(f, err, want)
			require.ErrorIs(f, f.s.Admit(ctx, alice, func([]store.Session, store.Fence) ([]store.Session, error) {
				return []store.Session{session("c", alice)}, nil
			}), want)
			_, _, err = f.s.List(ctx, store.Filter{}, "", 10)
			require.ErrorIs(f, err, want)
			_, _, err = f.s.List(ctx, store.Filter{Subject: alice}, "", 10)
			require.ErrorIs(f, err, want)
			_, err = f.s.Due(ctx, at, time.Hour, 10)
			require.ErrorIs(f, err, want)
			require.ErrorIs(f, f.s.Delete(ctx, sid("a"), s.Revision), want)
			_, err = f.s.PutFence(ctx, fence(alice, time.Hour))
			require.ErrorIs(f, err, want)
			require.ErrorIs(f, f.s.MoveFence(ctx, kept, time.Time{}), want)
			_, err = f.s.DueFences(ctx, at, 10)
			require.ErrorIs(f, err, want)
			_, err = f.s.Document(ctx, "k")
			require.ErrorIs(f, err, want)
			_, err = f.s.PutDocument(ctx, store.Document{Key: "k", Version: 1})
			require.ErrorIs(f, err, want)
			_, err = f.s.History(ctx, "k", 0, 10)
			require.ErrorIs(f, err, want)
			require.ErrorIs(f, f.s.DropDocument(ctx, "k"), want)
		}
		require.Equal(f, []store.Session{s}, f.list(store.Filter{}, 10))
		require.Len(f, f.history("k", 0, 10), 1)
		require.Equal(f, []string{"a"}, f.due(at, time.Hour, 10), "it was not claimed")
		require.Equal(f, []store.Fence{kept}, f.dueFences(kept.Due, 10))
	}},
	{"EndsWhileWaiting", endsWhileWaiting},
	// A step that loses each race is tried again until its context ends.
	// Where a step waits for nobody, decide's own write below makes it lose;
	// where it locks others out, that write fails and the step succeeds.
	{"LosesEveryRace", func(f *fixture) {
		first := f.createOne(session("a", alice))
		ctx, cancel := context.WithTimeout(f.ctx, 300*time.Millisecond)
		defer cancel()
		var runs, won uint64 // a write that was cut off may have won, too
		err := f.s.Admit(ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			require.Len(f, held, 1)
			require.Equal(f, runs, held[0].Grants[0].Generation, "it ran again though nothing had changed")
			runs++
			inner, cancel := context.WithTimeout(f.ctx, 50*time.Millisecond)
			defer cancel()
			other := held[0].Clone()
			other.Grants[0].Generation++
			if _, err := f.s.Update(inner, other); err == nil {
				won++
			}
			return []store.Session{ended(held[0], policy.ReasonConcurrency), session("b", alice)}, nil
		})
		got := f.get("a")
		require.LessOrEqual(f, won, got.Grants[0].Generation, "a write was lost")
		if err == nil {
			require.Equal(f, runs-1, got.Grants[0].Generation, "the last run won though it had lost a race")
			require.Equal(f, first.Revision+int64(runs), got.Revision)
			require.NotNil(f, got.End)
			f.get("b")
			return
		}
		require.ErrorIs(f, err, store.ErrConflict)
		require.ErrorIs(f, err, context.DeadlineExceeded)
		require.Nil(f, got.End)
		_, err = f.s.Get(f.ctx, sid("b"))
		require.ErrorIs(f, err, store.ErrNotFound)
	}},
	// What was held and is gone by the time that a step writes does not come back with
	// it. Where a step waits for nobody it runs again, and where it locks others out the
	// deletion is what waits.
	{"DeletedMeanwhile", func(f *fixture) {
		f.createOne(session("a", alice))
		deleted := false
		require.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			if deleted {
				require.Empty(f, held)
				return []store.Session{session("b", alice)}, nil
			}
			require.Len(f, held, 1)
			inner, cancel := context.WithTimeout(f.ctx, 50*time.Millisecond)
			defer cancel()
			deleted = f.s.Delete(inner, sid("a"), held[0].Revision) == nil
			held[0].UserAgent = "written"
			return append(held, session("b", alice)), nil
		}))
		got, err := f.s.Get(f.ctx, sid("a"))
		if deleted {
			require.ErrorIs(f, err, store.ErrNotFound, "it is back")
		} else {
			require.NoError(f, err)
			require.Equal(f, "written", got.UserAgent)
		}
		f.get("b")
	}},
}

// A step that takes its time holds others up in some stores, and in
// others it does not: but nobody waits longer than their context lasts.
func endsWhileWaiting(f *fixture) {
	s := session("a", alice)
	s.Due = at
	s = f.createOne(s)
	spare := f.create(session("b", alice), session("c", bob))

	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := make(chan error, 1)
	go func() {
		slow <- f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			once.Do(func() { close(entered) })
			<-release
			held[0].UserAgent = "slow"
			return append(held[:1], session("slow", alice)), nil
		})
	}()
	<-entered

	calls := map[string]func(ctx context.Context) error{
		"Get":    func(ctx context.Context) error { _, err := f.s.Get(ctx, sid("a")); return err },
		"Create": func(ctx context.Context) error { return f.s.Create(ctx, session("created", alice), many) },
		"Update": func(ctx context.Context) error {
			s := spare[0]
			s.UserAgent = "updated"
			_, err := f.s.Update(ctx, s)
			return err
		},
		"Admit": func(ctx context.Context) error {
			return f.s.Admit(ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				return []store.Session{session("admitted", alice)}, nil
			})
		},
		"AdmitOther": func(ctx context.Context) error {
			return f.s.Admit(ctx, bob, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				return []store.Session{session("other", bob)}, nil
			})
		},
		"List":         func(ctx context.Context) error { _, _, err := f.s.List(ctx, store.Filter{}, "", 10); return err },
		"Due":          func(ctx context.Context) error { _, err := f.s.Due(ctx, at, time.Minute, 10); return err },
		"Delete":       func(ctx context.Context) error { return f.s.Delete(ctx, sid("c"), spare[1].Revision) },
		"Document":     func(ctx context.Context) error { _, err := f.s.History(ctx, "k", 0, 10); return err },
		"PutDocument":  func(ctx context.Context) error { _, err := f.s.PutDocument(ctx, store.Document{Key: "k"}); return err },
		"DropDocument": func(ctx context.Context) error { return f.s.DropDocument(ctx, "none") },
	}
	maps.Copy(calls, f.countCalls())
	type result struct {
		name string
		err  error
	}
	results := make(chan result, len(calls))
	for name, call := range calls {
		go func() {
			ctx, cancel := context.WithTimeout(f.ctx, 100*time.Millisecond)
			defer cancel()
			results <- result{name, call(ctx)}
		}()
	}
	failed := map[string]error{}
	for range calls {
		select {
		case r := <-results:
			failed[r.name] = r.err
		case <-time.After(30 * time.Second):
			close(release)
			require.Fail(f, "a call goes on long after its context ended", "still going on: all but %v", failed)
		}
	}
	close(release)
	require.NoError(f, <-slow)

	for name, err := range failed {
		if err != nil {
			require.ErrorIs(f, err, context.DeadlineExceeded, name)
		}
	}
	for _, c := range []struct {
		name, id string
		subject  store.Subject
	}{{"Admit", "admitted", alice}, {"AdmitOther", "other", bob}} {
		_, err := f.s.Get(f.ctx, sid(c.id))
		switch {
		case failed[c.name] == nil:
			require.NoError(f, err)
		case errors.Is(failed[c.name], store.ErrConflict):
			require.ErrorIs(f, err, store.ErrNotFound, "the step did not take place")
		case err == nil: // it was cut off as it was committed: nobody knew
			delete(failed, c.name)
		}
	}
	require.Equal(f, "slow", f.get("a").UserAgent)
	f.get("slow")
	for name, call := range calls { // and all works again
		if failed[name] == nil {
			continue
		}
		// So may a write that was cut off: then it has taken effect already.
		if err := call(f.ctx); !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists) {
			require.NoError(f, err, name)
		}
	}
	f.get("created")
	require.Equal(f, "updated", f.get("b").UserAgent)
}
