package redisstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// Whatever changes of what a step has read, by another process and between its
// read and its write, the step begins again; and for what is no change it does
// not.
func TestAdmitSeesEveryChange(t *testing.T) {
	ctx := t.Context()
	other := newStore(t, single(t))
	must := func(err error) {
		t.Helper()
		require.NoError(t, err)
	}
	read := func(name string) store.Session {
		t.Helper()
		one, err := other.Get(ctx, session(name, "alice").ID)
		must(err)
		return one
	}
	update := func(name string, f func(*store.Session)) {
		t.Helper()
		one := read(name)
		f(&one)
		_, err := other.Update(ctx, one)
		must(err)
	}
	end := func(one *store.Session) {
		one.End = &store.End{At: one.Started, Reason: policy.ReasonLogout}
	}
	for name, c := range map[string]struct {
		meanwhile func()
		runs      int
		held      []string // by the last run
	}{
		"another one begins":                 {func() { must(other.Create(ctx, session("c", "alice"), 10)) }, 2, []string{"a", "b", "c"}},
		"one that is not decided on changes": {func() { update("b", func(one *store.Session) { one.UserAgent = "changed" }) }, 2, []string{"a", "b"}},
		"one that is decided on changes":     {func() { update("a", func(one *store.Session) { one.UserAgent = "changed" }) }, 2, []string{"a", "b"}},
		"one ends":                           {func() { update("b", end) }, 2, []string{"a"}},
		"one ends, another one begins": {func() {
			update("b", end)
			must(other.Create(ctx, session("c", "alice"), 10))
		}, 2, []string{"a", "c"}},
		"one is another one of the same ID": {func() {
			must(other.Delete(ctx, read("b").ID, 1))
			must(other.Create(ctx, session("b", "alice"), 10))
		}, 2, []string{"a", "b"}},
		"one is claimed": {func() {
			_, err := other.Due(ctx, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), time.Hour, 10)
			must(err)
		}, 1, []string{"a", "b"}},
		"one that has ended is removed": {func() {
			old := read("old")
			must(other.Delete(ctx, old.ID, old.Revision))
		}, 1, []string{"a", "b"}},
		"somebody else's begins": {func() { must(other.Create(ctx, session("c", "bob"), 10)) }, 1, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			client := single(t) // emptied
			s := newStore(t, client)
			must(s.Create(ctx, session("a", "alice"), 10))
			must(s.Create(ctx, session("b", "alice"), 10))
			must(s.Create(ctx, session("old", "alice"), 10))
			update("old", end)
			runs := 0
			var last []string
			must(s.Admit(ctx, session("", "alice").Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				if runs++; runs == 1 {
					c.meanwhile()
				}
				last = nil
				for _, one := range held {
					last = append(last, one.ID)
				}
				held[0].ACR = "decided"
				return []store.Session{held[0], session("new", "alice")}, nil
			}))
			require.Equal(t, c.runs, runs)
			var want []string
			for _, name := range c.held {
				want = append(want, session(name, "alice").ID)
			}
			require.Equal(t, want, last)
			require.Equal(t, "decided", read("a").ACR)
			requireSound(t, s, client)
		})
	}
}

// A session is in one queue, whatever is done to it while it is claimed.
func TestQueues(t *testing.T) {
	ctx := t.Context()
	client := single(t)
	s := newStore(t, client)
	now := session("a", "alice").Due.Add(time.Hour)
	claim := func(now time.Time, n int) {
		t.Helper()
		list, err := s.Due(ctx, now, time.Minute, 10)
		require.NoError(t, err)
		require.Len(t, list, n)
	}
	queues := func(due, claimed int64) {
		t.Helper()
		bucket := "curfew:{" + session("a", "alice").ID[:2] + "}:q:"
		require.Equal(t, due, client.ZCard(ctx, bucket+"due").Val(), "due")
		require.Equal(t, claimed, client.ZCard(ctx, bucket+"claimed").Val(), "claimed")
		require.Equal(t, claimed, client.ZCard(ctx, bucket+"claims").Val(), "claims")
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		require.NoError(t, s.Create(ctx, session(name, "alice"), 10))
	}
	queues(4, 0)
	claim(now, 4)
	queues(0, 4)
	one, err := s.Get(ctx, session("a", "alice").ID)
	require.NoError(t, err)
	one.Due = one.Due.Add(time.Second)
	one.Revision, err = s.Update(ctx, one)
	require.NoError(t, err)
	queues(1, 3)
	claim(now, 1)
	queues(0, 4)
	one.Revision, err = s.Update(ctx, one) // due at the same time
	require.NoError(t, err)
	queues(1, 3)
	require.NoError(t, s.Delete(ctx, session("b", "alice").ID, 1))
	queues(1, 2)
	require.NoError(t, s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		held[1].Due = time.Time{}
		return held[1:], nil // "c" and "d"
	}))
	queues(2, 0)
	claim(now, 2)
	claim(now.Add(-time.Second), 0) // a clock that was stepped back
	claim(now.Add(2*time.Minute), 2)
	queues(0, 2)
	one.Due = time.Time{}
	_, err = s.Update(ctx, one)
	require.NoError(t, err)
	queues(0, 1)
	require.NoError(t, s.Delete(ctx, session("d", "alice").ID, 2))
	queues(0, 0)
	requireSound(t, s, client)

	// When all sessions are gone, so is all but what counts what is gone.
	for _, one := range listAll(t, s, store.Filter{}) {
		require.NoError(t, s.Delete(ctx, one.ID, one.Revision))
	}
	require.ElementsMatch(t, []string{"curfew:format", "curfew:{" + one.ID[:2] + "}:g"}, client.Keys(ctx, "*").Val())
}

// A step whose context ends before it was written has changed nothing, and says so.
func TestAdmitThatEndsBeforeItsWrite(t *testing.T) {
	client := single(t)
	s := newStore(t, client)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Admit(ctx, session("", "alice").Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
		cancel()
		return []store.Session{session("a", "alice")}, nil
	})
	require.ErrorIs(t, err, store.ErrConflict)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, listAll(t, s, store.Filter{}))
}
