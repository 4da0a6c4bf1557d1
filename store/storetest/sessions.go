package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

var getTests = []contractTest{
	{"NotFound", func(f *fixture) {
		f.create(session("a", alice))
		for _, id := range []string{"", "none", "\xff", "none\x00", "a", "3", sid(""), sid("none"), sid("\xff"), sid("a\x00"), strings.ToUpper(sid("a"))} {
			_, err := f.s.Get(f.ctx, id)
			require.ErrorIs(f, err, store.ErrNotFound, "%q", id)
		}
	}},
	{"Ended", func(f *fixture) {
		s := f.update(ended(f.createOne(session("a", alice)), policy.ReasonLogout))
		require.Equal(f, s, f.get("a"))
	}},
}

var createTests = []contractTest{
	{"Revision", func(f *fixture) {
		s := session("a", alice)
		s.Revision = 17
		s.Format = 0
		got := f.createOne(s)
		s.Revision, s.Format = 1, store.Format
		require.Equal(f, s, got)
	}},
	{"Exists", func(f *fixture) {
		first := f.createOne(session("a", alice))
		other := session("a", alice)
		other.Client = "other"
		require.ErrorIs(f, f.s.Create(f.ctx, other, many), store.ErrExists)
		require.ErrorIs(f, f.s.Create(f.ctx, other, 1), store.ErrExists, "also when the subject is full")
		other.Subject = bob
		require.ErrorIs(f, f.s.Create(f.ctx, other, many), store.ErrExists, "of another subject")
		require.Equal(f, first, f.get("a"))

		last := f.update(ended(first, policy.ReasonLogout))
		require.ErrorIs(f, f.s.Create(f.ctx, session("a", alice), many), store.ErrExists, "ended")
		require.Equal(f, last, f.get("a"))
		require.Empty(f, f.held(bob))
		require.Empty(f, f.held(alice))
	}},
	{"Full", func(f *fixture) {
		require.ErrorIs(f, f.s.Create(f.ctx, session("z", alice), 0), store.ErrFull)
		require.ErrorIs(f, f.s.Create(f.ctx, session("z", alice), -1), store.ErrFull)
		a := f.createOne(session("a", alice))
		require.NoError(f, f.s.Create(f.ctx, session("b", alice), 2))
		require.ErrorIs(f, f.s.Create(f.ctx, session("c", alice), 2), store.ErrFull)
		require.ErrorIs(f, f.s.Create(f.ctx, session("c", alice), 1), store.ErrFull)
		_, err := f.s.Get(f.ctx, sid("c"))
		require.ErrorIs(f, err, store.ErrNotFound)

		require.NoError(f, f.s.Create(f.ctx, session("d", bob), 1), "others do not count")
		require.NoError(f, f.s.Create(f.ctx, session("e", store.Subject{Issuer: "https://other.example.com", ID: alice.ID}), 1), "the same name of another issuer is somebody else")
		f.update(ended(a, policy.ReasonLogout))
		require.NoError(f, f.s.Create(f.ctx, session("c", alice), 2), "ended ones do not count")
	}},
	{"Refused", func(f *fixture) {
		f.refused(f.s.Create(f.ctx, ended(session("a", alice), policy.ReasonLogout), many))
		for _, s := range invalid() {
			f.refused(f.s.Create(f.ctx, s, many))
		}
		require.Empty(f, f.list(store.Filter{}, 10))
	}},
}

// invalid are sessions that no store may write.
func invalid() []store.Session {
	noID := session("", alice)
	noID.ID = ""
	noBucket := session("a", alice)
	noBucket.ID = "a"
	otherBucket := session("a", alice)
	otherBucket.ID = "00a"
	otherSubject := session("a", alice)
	otherSubject.Subject.ID = "carol"
	badID := session("a\xff", alice)
	badSubject := session("a", store.Subject{Issuer: alice.Issuer, ID: "\xed\xa0\x80"})
	badAccount := session("a", alice)
	badAccount.Accounts = []string{"ok", "\xc3"}
	badClient := session("a", alice)
	badClient.Grants[0].Client = "\xfe"
	newer := session("a", alice)
	newer.Format = store.Format + 1
	known := session("a", alice)
	known.Grants[0].Unknown = map[string]json.RawMessage{"id": json.RawMessage(`"another"`)}
	notJSON := session("a", alice)
	notJSON.Unknown = map[string]json.RawMessage{"x": json.RawMessage(`1}`)}
	list := []store.Session{noID, noBucket, otherBucket, otherSubject, badID, badSubject, badAccount, badClient, newer, known, notJSON}
	for _, t := range []time.Time{
		time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 30, 0, 0, time.FixedZone("", -3600)),
		time.Date(-1, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(0, 1, 1, 0, 30, 0, 0, time.FixedZone("", 3600)),
		time.Unix(1<<62, 0), time.Unix(-1<<62, 0),
	} {
		due, rotated := session("a", alice), session("a", alice)
		due.Due, rotated.Grants[0].Rotated = t, t
		list = append(list, due, rotated)
	}
	return list
}

var updateTests = []contractTest{
	{"CompareAndSwap", func(f *fixture) {
		first := f.createOne(session("a", alice))
		next := first
		next.UserAgent = "changed"
		revision, err := f.s.Update(f.ctx, next)
		require.NoError(f, err)
		require.Equal(f, first.Revision+1, revision)
		next.Revision = revision
		require.Equal(f, next, f.get("a"))

		stale := first
		stale.UserAgent = "stale"
		for _, r := range []int64{first.Revision, 0, -1, revision + 1} {
			stale.Revision = r
			_, err = f.s.Update(f.ctx, stale)
			require.ErrorIs(f, err, store.ErrConflict, "revision %d", r)
		}
		require.Equal(f, next, f.get("a"))
		require.Equal(f, []store.Session{next}, f.held(alice))
	}},
	{"NotFound", func(f *fixture) {
		s := session("none", alice)
		for _, s.Revision = range []int64{0, 1} {
			_, err := f.s.Update(f.ctx, s)
			require.ErrorIs(f, err, store.ErrNotFound)
		}
		require.Empty(f, f.list(store.Filter{}, 10))
	}},
	{"SubjectStays", func(f *fixture) {
		s := f.createOne(session("a", alice))
		for _, other := range []store.Subject{bob, {}, {Issuer: alice.Issuer, ID: "Alice"}, {Issuer: alice.Issuer + "/", ID: alice.ID}} {
			moved := s
			moved.Subject = other
			_, err := f.s.Update(f.ctx, moved)
			f.refused(err)
		}
		require.Equal(f, s, f.get("a"))
		require.Empty(f, f.held(bob))
	}},
	{"EndIsFinal", func(f *fixture) {
		s := f.createOne(session("a", alice))
		over := f.update(ended(s, policy.ReasonInactivity))
		back := over
		back.End = nil
		_, err := f.s.Update(f.ctx, back)
		f.refused(err)
		back.Revision = s.Revision
		_, err = f.s.Update(f.ctx, back)
		require.ErrorIs(f, err, store.ErrConflict)
		require.Equal(f, over, f.get("a"))
		require.Empty(f, f.held(alice))

		// What is owed after the end is still written.
		over.Deliveries = []store.Delivery{{Client: "web", URI: "https://web.example.com/logout", Attempts: 1}}
		over = f.update(over)
		require.Equal(f, over, f.get("a"))
		require.Empty(f, f.held(alice))
	}},
	{"Refused", func(f *fixture) {
		s := f.createOne(session("a", alice))
		for _, bad := range invalid() {
			bad.Revision = s.Revision
			_, err := f.s.Update(f.ctx, bad)
			require.Error(f, err)
		}
		require.Equal(f, s, f.get("a"))
	}},
}

var errDecided = errors.New("decided against it")

var admitTests = []contractTest{
	{"AllOrNothingInAnyOrder", func(f *fixture) {
		taken := f.createOne(session("taken", bob))
		again := session("taken", alice)
		again.ID = taken.ID
		for _, decided := range [][]store.Session{{session("a", alice), again}, {again, session("a", alice)}, {session("a", alice), session("b", alice), again}} {
			err := f.s.Admit(f.ctx, alice, func([]store.Session, store.Fence) ([]store.Session, error) { return decided, nil })
			require.ErrorIs(f, err, store.ErrExists)
			require.Empty(f, f.held(alice))
			require.Equal(f, taken, f.read(taken.ID))
		}
	}},
	{"Held", func(f *fixture) {
		require.Empty(f, f.held(alice))
		require.Empty(f, f.held(store.Subject{}))
		require.Empty(f, f.held(store.Subject{Issuer: "\xff", ID: "\xff"}))
		stored := f.create(session("c", alice), session("a", alice), session("b", alice), session("d", bob), session("B", alice))
		gone := f.createOne(session("ab", alice))
		f.update(ended(gone, policy.ReasonLogout))
		require.Equal(f, []store.Session{stored[4], stored[1], stored[2], stored[0]}, f.held(alice), "the unended ones, in order of ID")
		require.Equal(f, stored[3:4], f.held(bob))
	}},
	{"Written", func(f *fixture) {
		stored := f.create(session("a", alice), session("b", alice), session("c", alice))
		fresh := session("d", alice)
		fresh.Revision = 99
		require.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			require.Equal(f, stored, held)
			held[0] = ended(held[0], policy.ReasonConcurrency)
			held[1].UserAgent = "changed"
			held[1].Revision = -5 // does not count
			return []store.Session{fresh, held[1], held[0]}, nil
		}))
		a, b, d := ended(stored[0], policy.ReasonConcurrency), stored[1], fresh
		b.UserAgent = "changed"
		a.Revision, b.Revision, d.Revision = stored[0].Revision+1, stored[1].Revision+1, 1
		require.Equal(f, a, f.get("a"))
		require.Equal(f, b, f.get("b"))
		require.Equal(f, stored[2], f.get("c"), "not returned: as it was")
		require.Equal(f, d, f.get("d"))
		require.Equal(f, []store.Session{b, stored[2], d}, f.held(alice))
	}},
	{"DecidesAgainst", func(f *fixture) {
		stored := f.create(session("a", alice), session("b", alice))
		err := f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			return []store.Session{ended(held[0], policy.ReasonLogout), session("c", alice)}, errDecided
		})
		require.True(f, err == errDecided, "the error of decide is returned as it is, not %v", err)
		require.Equal(f, stored, f.held(alice))
		require.Len(f, f.list(store.Filter{}, 10), 2)

		// Errors that mean something to the store mean nothing to it here.
		for _, own := range []error{store.ErrExists, store.ErrConflict, store.ErrNotFound} {
			err = f.s.Admit(f.ctx, alice, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, own })
			require.True(f, err == own)
		}
	}},
	{"AllOrNothing", func(f *fixture) {
		stored := f.create(session("a", alice), session("b", alice), session("taken", bob))
		over := f.update(ended(f.createOne(session("over", alice)), policy.ReasonLogout))
		step := func(more ...store.Session) error {
			return f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				held[1].UserAgent = "changed"
				return append([]store.Session{ended(held[0], policy.ReasonLogout), session("new", alice), held[1]}, more...), nil
			})
		}
		require.ErrorIs(f, step(session("taken", alice)), store.ErrExists)
		require.ErrorIs(f, step(session("over", alice)), store.ErrExists)
		require.ErrorIs(f, step(ended(session("over", alice), policy.ReasonReplay)), store.ErrExists)
		f.refused(step(session("elsewhere", bob)))
		f.refused(step(ended(session("stillborn", alice), policy.ReasonLogout)))
		f.refused(step(session("new", alice)))
		f.refused(step(stored[1]))
		for _, bad := range invalid() {
			require.Error(f, step(bad))
		}
		stolen := stored[1]
		stolen.Subject = bob
		f.refused(f.s.Admit(f.ctx, alice, func([]store.Session, store.Fence) ([]store.Session, error) { return []store.Session{stolen}, nil }))

		require.Equal(f, stored[:2], f.held(alice))
		require.Equal(f, stored[2:], f.held(bob))
		require.Equal(f, []store.Session{stored[0], stored[1], over, stored[2]}, f.list(store.Filter{}, 10))
	}},
	{"Nothing", func(f *fixture) {
		s := f.createOne(session("a", alice))
		require.NoError(f, f.s.Admit(f.ctx, alice, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, nil }))
		require.Equal(f, s, f.get("a"))
	}},
	{"OneAfterTheOther", func(f *fixture) {
		for i := range 10 {
			require.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				require.Len(f, held, i)
				return []store.Session{session(fmt.Sprint(i), alice)}, nil
			}))
		}
	}},
	{"ManyHeld", func(f *fixture) {
		const n = 300
		var want []string
		for i := range n {
			id := fmt.Sprintf("%03d", (i*7)%n)
			want = append(want, id)
			require.NoError(f, f.s.Create(f.ctx, session(id, alice), n))
		}
		slices.Sort(want)
		require.Equal(f, want, namesOf(f.held(alice)))
		require.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			for i := range held {
				held[i] = ended(held[i], policy.ReasonPolicyChange)
			}
			return held, nil
		}))
		require.Empty(f, f.held(alice))
		require.Len(f, f.list(store.Filter{State: store.Ended}, 1000), n)
	}},
}

var deleteTests = []contractTest{
	{"CompareAndSwap", func(f *fixture) {
		s := f.createOne(session("a", alice))
		for _, r := range []int64{0, -1, s.Revision + 1} {
			require.ErrorIs(f, f.s.Delete(f.ctx, sid("a"), r), store.ErrConflict)
		}
		require.Equal(f, s, f.get("a"))
		require.NoError(f, f.s.Delete(f.ctx, sid("a"), s.Revision))
		_, err := f.s.Get(f.ctx, sid("a"))
		require.ErrorIs(f, err, store.ErrNotFound)
		_, err = f.s.Update(f.ctx, s)
		require.ErrorIs(f, err, store.ErrNotFound)
	}},
	{"NotThere", func(f *fixture) {
		f.create(session("a", alice))
		for _, id := range []string{"", "none", "\xff", "a", "3", sid(""), sid("none"), sid("\xff")} {
			require.NoError(f, f.s.Delete(f.ctx, id, 1))
		}
		f.get("a")
	}},
	{"NothingIsLeft", func(f *fixture) {
		s := session("a", alice)
		s.Due = at
		s = f.createOne(s)
		other := f.createOne(session("b", alice))
		over := f.update(ended(f.createOne(session("c", alice)), policy.ReasonLogout))
		require.NoError(f, f.s.Delete(f.ctx, sid("a"), s.Revision))
		require.NoError(f, f.s.Delete(f.ctx, sid("c"), over.Revision))
		for _, filter := range []store.Filter{{}, {Subject: alice}, {Account: "default"}, {Client: "web"}, {Kind: policy.Browser}, {State: store.Unended}} {
			require.Equal(f, []store.Session{other}, f.list(filter, 10))
		}
		require.Empty(f, f.list(store.Filter{State: store.Ended}, 10))
		due, err := f.s.Due(f.ctx, at.Add(time.Hour), time.Minute, 10)
		require.NoError(f, err)
		require.Empty(f, due)
		require.NoError(f, f.s.Create(f.ctx, session("d", alice), 2), "its slot is free")
		require.Equal(f, int64(1), f.createOne(session("a", alice)).Revision, "and so is its ID")
	}},
}
