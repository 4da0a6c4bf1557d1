package storetest

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// fence returns a fence of a subject, so long after the sessions of the tests begin.
// It is due then.
func fence(subject store.Subject, after time.Duration) store.Fence {
	return store.Fence{
		Subject: subject, At: at.Add(after), Reason: policy.ReasonCredentialChange, By: "root", Due: at.Add(after),
	}
}

func (f *fixture) putFence(fence store.Fence) store.Fence {
	f.Helper()
	put, err := f.s.PutFence(f.ctx, fence)
	require.NoError(f, err)
	return put
}

func (f *fixture) dueFences(now time.Time, limit int) []store.Fence {
	f.Helper()
	list, err := f.s.DueFences(f.ctx, now, limit)
	require.NoError(f, err)
	return list
}

// fenceOf returns the fence of a subject, as one step sees it.
func (f *fixture) fenceOf(subject store.Subject) store.Fence {
	f.Helper()
	var is store.Fence
	require.NoError(f, f.s.Admit(f.ctx, subject, func(held []store.Session, fence store.Fence) ([]store.Session, error) {
		is = fence
		for _, s := range held {
			require.Equal(f, fence, s.Fence)
		}
		return nil, nil
	}))
	return is
}

// read returns a fence as it comes with a session.
func read(f store.Fence) store.Fence {
	f.Revision = 0
	return f
}

var fenceTests = []contractTest{
	// Each read of a session brings the fence of its subject, and nobody else's.
	{"ComesWithTheSession", func(f *fixture) {
		a := session("a", alice)
		a.Due = at
		b := session("b", bob)
		b.Due = at
		f.create(a, b)
		require.Zero(f, f.get("a").Fence)
		require.Zero(f, f.fenceOf(alice))

		want := fence(alice, time.Hour)
		want.Spared = []store.Spared{{ID: sid("x"), Started: at.Add(µs)}, {ID: sid("y")}}
		put := f.putFence(want)
		require.EqualValues(f, 1, put.Revision)
		require.Equal(f, want, read(put))
		for _, filter := range []store.Filter{{}, {Subject: alice}, {Account: "default"}, {Account: "default", Client: "web"}, {State: store.Unended}} {
			for _, s := range f.list(filter, 1) {
				if s.Subject == alice {
					require.Equal(f, want, s.Fence, "%+v", filter)
				} else {
					require.Zero(f, s.Fence, "%+v", filter)
				}
			}
		}
		require.Equal(f, want, f.get("a").Fence)
		require.True(f, new(f.get("a")).Fenced())
		require.Zero(f, f.get("b").Fence)
		require.Equal(f, want, f.fenceOf(alice))
		require.Zero(f, f.fenceOf(bob))
		due, err := f.s.Due(f.ctx, at, time.Hour, 10)
		require.NoError(f, err)
		require.Len(f, due, 2)
		require.Equal(f, want, due[0].Fence)
		require.Zero(f, due[1].Fence)

		// It is not written with a session, nor changed with one.
		s := f.get("a")
		s.Fence = store.Fence{}
		f.update(s)
		require.Equal(f, want, f.get("a").Fence)
		c := session("c", bob)
		c.Fence = want
		require.Zero(f, f.createOne(c).Fence)
		s = f.update(ended(f.get("a"), want.Reason))
		require.Equal(f, want, f.get("a").Fence)
		require.NoError(f, f.s.Delete(f.ctx, s.ID, s.Revision))
		require.Equal(f, want, f.fenceOf(alice), "the subject has no session")
	}},
	// A session begins later than the fence.
	{"Create", func(f *fixture) {
		f.putFence(fence(alice, time.Hour))
		begun := func(name string, subject store.Subject, after time.Duration) store.Session {
			s := session(name, subject)
			s.Started = at.Add(after)
			return s
		}
		require.ErrorIs(f, f.s.Create(f.ctx, begun("a", alice, time.Hour), many), store.ErrFenced)
		zero := session("a", alice)
		zero.Started = time.Time{}
		require.ErrorIs(f, f.s.Create(f.ctx, zero, many), store.ErrFenced)
		_, err := f.s.Get(f.ctx, sid("a"))
		require.ErrorIs(f, err, store.ErrNotFound)
		require.ErrorIs(f, f.s.Create(f.ctx, begun("a", alice, 0), 0), store.ErrFull, "full comes first")
		require.NoError(f, f.s.Create(f.ctx, begun("a", alice, time.Hour+µs), many))
		require.NoError(f, f.s.Create(f.ctx, begun("b", alice, 100*365*24*time.Hour), many))
		require.ErrorIs(f, f.s.Create(f.ctx, begun("a", alice, 0), many), store.ErrExists, "so does the other session")
		require.NoError(f, f.s.Create(f.ctx, begun("c", bob, 0), many), "of somebody else")
		require.False(f, new(f.get("a")).Fenced())
		require.Equal(f, []string{"a", "b"}, namesOf(f.held(alice)))
	}},
	{"Names", func(f *fixture) {
		long := strings.Repeat("x", 300)
		subjects := []store.Subject{
			{Issuer: "i", ID: "ab"}, {Issuer: "ia", ID: "b"}, {Issuer: "i", ID: "AB"}, {Issuer: "i", ID: "ab "}, {Issuer: "i", ID: "ab\x00"},
			{Issuer: long, ID: "a"}, {Issuer: long, ID: "b"}, {Issuer: "i", ID: long}, {Issuer: "i" + long[:126], ID: "a"}, {},
		}
		for i, subject := range subjects {
			require.NoError(f, f.s.Create(f.ctx, session("s", subject), many))
			f.putFence(fence(subject, time.Duration(i+1)*time.Hour))
		}
		for i, subject := range subjects {
			want := fence(subject, time.Duration(i+1)*time.Hour)
			require.Equal(f, want, f.read(session("s", subject).ID).Fence)
			require.Equal(f, want, f.fenceOf(subject))
		}
		require.Len(f, f.dueFences(at.Add(100*time.Hour), 100), len(subjects))
	}},
	// Whatever the order in which fences arrive, together they stop what each stops.
	{"Join", func(f *fixture) {
		early, late := fence(alice, time.Hour), fence(alice, 2*time.Hour)
		late.Reason, late.By = policy.ReasonEndedByUser, "alice"
		before, between := at, at.Add(90*time.Minute)
		early.Spared = []store.Spared{{ID: "1", Started: before}, {ID: "2", Started: before}}
		late.Spared = []store.Spared{{ID: "2", Started: before}, {ID: "3", Started: before}, {ID: "4", Started: between}}
		want := late
		want.Spared = []store.Spared{{ID: "2", Started: before}, {ID: "4", Started: between}}
		want.Due = early.Due
		require.Equal(f, early, read(f.putFence(early)))
		require.Equal(f, want, read(f.putFence(late)))
		require.Equal(f, want, read(f.putFence(early)))
		put := f.putFence(late)
		require.Equal(f, want, read(put))
		require.EqualValues(f, 4, put.Revision)
		require.Equal(f, want, f.fenceOf(alice))

		early.Subject, late.Subject, want.Subject = bob, bob, bob
		f.putFence(late)
		require.Equal(f, want, read(f.putFence(early)))
		require.Equal(f, want, f.fenceOf(bob))
	}},
	{"Due", func(f *fixture) {
		a, b := f.putFence(fence(alice, 2*time.Hour)), f.putFence(fence(bob, time.Hour))
		never := fence(store.Subject{Issuer: "i", ID: "never"}, time.Hour)
		never.Due = time.Time{}
		f.putFence(never)
		require.Empty(f, f.dueFences(b.Due.Add(-µs), 10))
		require.Equal(f, []store.Fence{b}, f.dueFences(b.Due, 10))
		require.Equal(f, []store.Fence{b, a}, f.dueFences(a.Due, 10))
		require.Equal(f, []store.Fence{b}, f.dueFences(a.Due, 1))
		_, err := f.s.DueFences(f.ctx, a.Due, 0)
		f.refused(err)

		later := a.Due.Add(time.Hour)
		require.NoError(f, f.s.MoveFence(f.ctx, b, later))
		require.Equal(f, []store.Fence{a}, f.dueFences(a.Due, 10))
		require.ErrorIs(f, f.s.MoveFence(f.ctx, b, time.Time{}), store.ErrConflict, "it is not as it was")
		b.Due, b.Revision = later, 2
		require.Equal(f, []store.Fence{a, b}, f.dueFences(later, 10))
		require.Equal(f, read(b), f.fenceOf(bob))
		f.putFence(fence(alice, 3*time.Hour))
		require.ErrorIs(f, f.s.MoveFence(f.ctx, a, time.Time{}), store.ErrConflict, "another one was put")
		require.Equal(f, at.Add(3*time.Hour), f.fenceOf(alice).At)

		require.NoError(f, f.s.MoveFence(f.ctx, b, time.Time{}))
		require.Zero(f, f.fenceOf(bob))
		require.NoError(f, f.s.Create(f.ctx, session("b", bob), many), "nothing stops it any more")
		require.NoError(f, f.s.MoveFence(f.ctx, b, time.Time{}), "it is not there")
		require.NoError(f, f.s.MoveFence(f.ctx, b, later))
		require.Zero(f, f.fenceOf(bob))
		b = f.putFence(fence(bob, time.Hour))
		b.At = b.At.Add(µs)
		require.ErrorIs(f, f.s.MoveFence(f.ctx, b, time.Time{}), store.ErrConflict, "one of the same revision, put anew")
	}},
	{"Refused", func(f *fixture) {
		for name, spoil := range map[string]func(*store.Fence){
			"no time":    func(f *store.Fence) { f.At = time.Time{} },
			"subject":    func(f *store.Fence) { f.Subject.ID = "\xff" },
			"by":         func(f *store.Fence) { f.By = "\xff" },
			"spared":     func(f *store.Fence) { f.Spared = []store.Spared{{ID: "\xff"}} },
			"year":       func(f *store.Fence) { f.At = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
			"due":        func(f *store.Fence) { f.Due = time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC) },
			"all spared": func(f *store.Fence) { f.Spared = make([]store.Spared, store.MaxSpared+1) },
		} {
			bad := fence(alice, time.Hour)
			spoil(&bad)
			_, err := f.s.PutFence(f.ctx, bad)
			require.Error(f, err, name)
			f.refused(err)
		}
		require.Zero(f, f.fenceOf(alice))
		full := fence(alice, time.Hour)
		for i := range store.MaxSpared {
			full.Spared = append(full.Spared, store.Spared{ID: fmt.Sprint(i)})
		}
		require.Equal(f, full, read(f.putFence(full)))
	}},
	{"Together", func(f *fixture) {
		together(racers, func(i int) {
			one := fence(alice, time.Duration(i)*time.Minute)
			one.Spared = []store.Spared{{ID: fmt.Sprint(i % 2), Started: at.Add(-time.Hour)}}
			_, err := f.s.PutFence(f.ctx, one)
			assert.NoError(f, err)
		})
		want := fence(alice, (racers-1)*time.Minute)
		want.Due = at
		require.Equal(f, want, f.fenceOf(alice), "each is stopped by one that does not spare it")
	}},
	// However many log in at the same time: the fence is put, and from then on
	// nothing older begins or goes on.
	{"WinsAgainstAFlood", func(f *fixture) {
		old := f.createOne(session("old", alice))
		stop := make(chan struct{})
		var flood sync.WaitGroup
		var wrote atomic.Int64
		for i := range 8 {
			flood.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					s := session(fmt.Sprintf("f%d-%d", i, n), alice)
					s.Started = at.Add(2 * time.Hour)
					if n%2 == 0 {
						assert.NoError(f, f.s.Create(f.ctx, s, 1<<20))
					} else {
						assert.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
							result := []store.Session{s}
							for _, other := range held {
								if strings.HasPrefix(other.ID, sid(fmt.Sprintf("f%d-", i))) {
									result = append(result, ended(other, policy.ReasonConcurrency))
								}
							}
							return result, nil
						}))
					}
					wrote.Add(1)
				}
			})
		}
		defer func() { close(stop); flood.Wait() }()
		for i := range 10 {
			for before := wrote.Load(); wrote.Load() < before+8; {
				time.Sleep(time.Millisecond)
			}
			one := fence(alice, time.Duration(i+1)*time.Minute)
			f.putFence(one)
			require.True(f, new(f.read(old.ID)).Fenced())
			require.Equal(f, one.At, f.read(old.ID).Fence.At)
			require.Equal(f, one.At, f.fenceOf(alice).At)
			late := session("late", alice)
			late.Started = one.At
			require.ErrorIs(f, f.s.Create(f.ctx, late, 1<<20), store.ErrFenced)
		}
	}},
}
