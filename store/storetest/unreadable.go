package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// A Damage replaces documents in a store, without going through it. It changes nothing else in the
// store.
type Damage struct {
	Session func(id, document string)
	Fence   func(subject store.Subject, document string)
}

// RunUnreadable tests what a store does with sessions and fences that cannot be read. It is for a
// store that writes documents: a store that keeps values can read all of them. For each part it
// calls open, as [Run] does.
func RunUnreadable(t *testing.T, open func(t *testing.T) (store.Store, Damage)) {
	for name, document := range map[string]string{
		"Damaged": "\x00\xff{",
		"Newer":   fmt.Sprintf(`{"v":%d,"sid":"a","subject":{"iss":"i","sub":"s"}}`, store.Format+1),
	} {
		t.Run(name, func(t *testing.T) {
			for _, test := range unreadableTests {
				t.Run(test.name, func(t *testing.T) {
					s, damage := open(t)
					test.run(&fixture{T: t, ctx: t.Context(), s: s}, func(id string) { damage.Session(id, document) })
				})
			}
		})
	}
	t.Run("Fence", func(t *testing.T) {
		s, damage := open(t)
		unreadableFences(&fixture{T: t, ctx: t.Context(), s: s}, damage)
	})
}

// unreadable requires that err says of these sessions that they cannot be read, and
// that nothing else is wrong.
func (f *fixture) unreadable(err error, names ...string) {
	f.Helper()
	require.ErrorIs(f, err, store.ErrUnreadable)
	f.refused(err)
	for _, name := range names {
		require.Contains(f, err.Error(), name)
	}
	require.Equal(f, len(names), strings.Count(err.Error(), store.ErrUnreadable.Error()), "%v", err)
}

var unreadableTests = []struct {
	name string
	run  func(f *fixture, damage func(id string))
}{
	{"Get", func(f *fixture, damage func(string)) {
		f.create(session("a", alice), session("b", alice))
		damage(sid("a"))
		_, err := f.s.Get(f.ctx, sid("a"))
		f.unreadable(err, sid("a"))
		f.get("b")
	}},
	{"Due", func(f *fixture, damage func(string)) {
		f.create(dueSession("a", at), dueSession("b", at.Add(1*µs)), dueSession("c", at.Add(2*µs)), dueSession("d", at.Add(3*µs)))
		damage(sid("a"))
		damage(sid("c"))
		due, err := f.s.Due(f.ctx, at, 0, 10)
		f.unreadable(err, sid("a"))
		require.Empty(f, due, "without a lease it is named each time")
		now := at.Add(time.Minute)
		due, err = f.s.Due(f.ctx, now, time.Minute, 2)
		f.unreadable(err, sid("a"))
		require.Equal(f, []string{"b"}, namesOf(due), "it takes its place within the limit")
		due, err = f.s.Due(f.ctx, now, time.Minute, 2)
		f.unreadable(err, sid("c"))
		require.Equal(f, []string{"d"}, namesOf(due), "it does not come before the others again")
		require.Empty(f, f.due(now, time.Minute, 10), "all are claimed")
		due, err = f.s.Due(f.ctx, now.Add(time.Minute), time.Minute, 10)
		f.unreadable(err, sid("a"), sid("c"))
		require.Equal(f, []string{"b", "d"}, namesOf(due), "the lease is over")
	}},
	{"List", func(f *fixture, damage func(string)) {
		f.create(session("a", alice), session("b", alice), session("c", alice), session("d", bob), session("e", alice))
		damage(sid("b"))
		damage(sid("e"))
		for _, filter := range []store.Filter{{}, {State: store.Unended}, {Account: "default"}, {Account: "default", Client: "web", State: store.Unended}, {Subject: alice}, {Subject: alice, Kind: policy.Browser}} {
			want := []string{"a", "c", "d"}
			if filter.Subject == alice {
				want = []string{"a", "c"}
			}
			for limit := 1; limit < 7; limit++ {
				var got, named []string
				for cursor := ""; ; {
					page, next, err := f.s.List(f.ctx, filter, cursor, limit)
					if err != nil {
						for _, name := range []string{"b", "e"} {
							if strings.Contains(err.Error(), `"`+sid(name)+`"`) {
								named = append(named, name)
							}
						}
						require.ErrorIs(f, err, store.ErrUnreadable)
						f.refused(err)
					}
					require.LessOrEqual(f, len(page), limit)
					got = append(got, namesOf(page)...)
					if next == "" {
						break
					}
					require.Greater(f, next, cursor)
					cursor = next
				}
				require.Equal(f, want, got, "%+v, %d at a time", filter, limit)
				require.Equal(f, []string{"b", "e"}, named, "%+v, %d at a time: each is named, once", filter, limit)
			}
		}
	}},
	{"Cap", func(f *fixture, damage func(string)) {
		f.create(session("a", alice), session("b", alice))
		damage(sid("a"))
		err := f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			f.Fatalf("decided from %d sessions of 2", len(held))
			return nil, nil
		})
		f.unreadable(err, sid("a"))
		require.ErrorIs(f, f.s.Create(f.ctx, session("c", alice), 2), store.ErrFull, "it counts")
		require.NoError(f, f.s.Create(f.ctx, session("c", alice), 3))
		f.create(session("d", bob))
		require.Len(f, f.held(bob), 1, "nobody else is concerned")
	}},
	{"Many", func(f *fixture, damage func(string)) {
		for i := range 30 {
			s := f.createOne(dueSession(fmt.Sprintf("%02d", i), at.Add(time.Duration(i)*µs)))
			if i < 25 {
				damage(s.ID)
			}
		}
		due, err := f.s.Due(f.ctx, at.Add(time.Hour), time.Minute, 30)
		require.Len(f, due, 5)
		require.ErrorIs(f, err, store.ErrUnreadable)
		require.ErrorContains(f, err, "and 15 more")
		require.ErrorContains(f, err, sid("09"))
		require.NotContains(f, err.Error(), sid("10"))
	}},
	{"Delete", func(f *fixture, damage func(string)) {
		f.create(session("a", alice), dueSession("b", at))
		damage(sid("b"))
		require.ErrorIs(f, f.s.Delete(f.ctx, sid("b"), 2), store.ErrConflict)
		require.NoError(f, f.s.Delete(f.ctx, sid("b"), 1))
		require.Equal(f, []string{"a"}, namesOf(f.held(alice)))
		require.Equal(f, []string{"a"}, namesOf(f.list(store.Filter{}, 10)))
		require.Empty(f, f.due(at, time.Minute, 10))
	}},
}

// A fence that cannot be read makes the sessions of its subject such ones, too: nobody
// knows which of them it stops.
func unreadableFences(f *fixture, damage Damage) {
	subjects := []store.Subject{alice, bob, {Issuer: alice.Issuer, ID: "carol"}, {Issuer: alice.Issuer, ID: "dan"}}
	for i, subject := range subjects {
		f.create(session(fmt.Sprint("s", i), subject))
		_, err := f.s.PutFence(f.ctx, store.Fence{Subject: subject, At: at.Add(-time.Hour), Due: at.Add(time.Duration(i) * µs)})
		require.NoError(f, err)
	}
	damage.Fence(alice, "\x00\xff{")
	damage.Fence(bob, `{"subject":7}`)
	for limit, want := range map[int][]store.Subject{1: subjects[2:3], 2: subjects[2:], 10: subjects[2:]} {
		due, err := f.s.DueFences(f.ctx, at.Add(time.Hour), limit)
		require.ErrorIs(f, err, store.ErrUnreadable)
		f.refused(err)
		require.ErrorContains(f, err, alice.ID)
		var got []store.Subject
		for _, fence := range due {
			got = append(got, fence.Subject)
		}
		require.Equal(f, want, got, "%d: they stand in nobody's way", limit)
	}
	_, err := f.s.Get(f.ctx, sid("s0"))
	f.unreadable(err, sid("s0"))
	page, _, err := f.s.List(f.ctx, store.Filter{}, "", 10)
	f.unreadable(err, sid("s0"), sid("s1"))
	require.ElementsMatch(f, []string{"s2", "s3"}, namesOf(page))
	require.ErrorIs(f, f.s.Admit(f.ctx, alice, func([]store.Session, store.Fence) ([]store.Session, error) {
		f.Fatal("decided without the fence")
		return nil, nil
	}), store.ErrUnreadable)
	_, err = f.s.PutFence(f.ctx, store.Fence{Subject: alice, At: at})
	require.ErrorIs(f, err, store.ErrUnreadable)
	require.Len(f, f.held(subjects[2]), 1)
}
