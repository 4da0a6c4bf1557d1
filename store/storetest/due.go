package storetest

import (
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// due returns the IDs of what is due, and claims it.
func (f *fixture) due(now time.Time, lease time.Duration, limit int) []string {
	f.Helper()
	list, err := f.s.Due(f.ctx, now, lease, limit)
	require.NoError(f, err)
	return namesOf(list)
}

// dueSession returns a session of alice that is due at the given time.
func dueSession(id string, due time.Time) store.Session {
	s := session(id, alice)
	s.Due = due
	return s
}

const µs = time.Microsecond

var dueTests = []contractTest{
	{"Order", func(f *fixture) {
		f.create(dueSession("never", time.Time{}), dueSession("a3", at.Add(3*µs)), dueSession("c1", at.Add(1*µs)), dueSession("b2", at.Add(2*µs)),
			dueSession("b1", at.Add(1*µs)), dueSession("first", time.Date(1901, 1, 1, 0, 0, 0, 0, time.UTC)))
		require.Empty(f, f.due(time.Time{}, 0, 10))
		require.Equal(f, []string{"first"}, f.due(at, 0, 10))
		require.Equal(f, []string{"first", "b1", "c1"}, f.due(at.Add(1*µs), 0, 10), "not after now means at it, too")
		require.Equal(f, []string{"first", "b1"}, f.due(at.Add(time.Hour), 0, 2))
		require.Equal(f, []string{"first", "b1", "c1", "b2", "a3"}, f.due(at.Add(time.Hour), 0, 10), "a lease of zero claims nothing")
	}},
	{"Limit", func(f *fixture) {
		f.create(dueSession("a", at))
		for _, limit := range []int{0, -1} {
			_, err := f.s.Due(f.ctx, at, time.Minute, limit)
			f.refused(err)
		}
		require.Equal(f, []string{"a"}, f.due(at, 0, 1<<40))
	}},
	{"Ended", func(f *fixture) {
		f.update(ended(f.createOne(dueSession("a", at)), policy.ReasonLogout))
		require.Equal(f, []string{"a"}, f.due(at, time.Minute, 10))
	}},
	{"Lease", func(f *fixture) {
		f.create(dueSession("a", at), dueSession("b", at.Add(time.Second)), dueSession("c", at.Add(2*time.Second)))
		now := at.Add(time.Minute)
		require.Equal(f, []string{"a", "b"}, f.due(now, time.Minute, 2))
		require.Equal(f, []string{"c"}, f.due(now, 2*time.Minute, 2), "what is claimed is passed over")
		require.Empty(f, f.due(now, time.Minute, 10))
		require.Empty(f, f.due(now.Add(time.Minute-µs), time.Minute, 10))
		require.Empty(f, f.due(now.Add(-time.Second), time.Minute, 10), "a clock that was stepped back")
		require.Equal(f, []string{"a", "b"}, f.due(now.Add(time.Minute), time.Minute, 10), "the lease is over: they are taken over")
		require.Equal(f, []string{"a", "b", "c"}, f.due(now.Add(2*time.Minute), time.Minute, 10), "each by its own lease")
	}},
	{"ClockAhead", func(f *fixture) {
		f.create(dueSession("a", at), dueSession("b", at.Add(time.Second)))
		now := at.Add(time.Hour)
		require.Equal(f, []string{"a"}, f.due(now.Add(24*time.Hour), time.Minute, 1), "by a clock that is a day ahead")
		require.Equal(f, []string{"b"}, f.due(now, 0, 10), "who claims nothing heeds every claim")
		require.Equal(f, []string{"a", "b"}, f.due(now, time.Minute, 10), "by one that is right")
		require.Empty(f, f.due(now, time.Minute, 10))
		require.Empty(f, f.due(now.Add(-2*time.Minute), time.Minute, 10), "three leases away is not too far")
		require.Equal(f, []string{"a", "b"}, f.due(now.Add(-2*time.Minute-µs), time.Minute, 10))
		require.Equal(f, []string{"a", "b"}, f.due(now.Add(time.Minute), time.Minute, 10))
		f.update(f.get("a"))
		require.Equal(f, []string{"a"}, f.due(now.Add(time.Minute), time.Minute, 10), "a write releases it as ever")
	}},
	{"ClaimIsNoWrite", func(f *fixture) {
		s := f.createOne(dueSession("a", at))
		list, err := f.s.Due(f.ctx, at, time.Minute, 10)
		require.NoError(f, err)
		require.Equal(f, []store.Session{s}, list)
		require.Equal(f, s, f.get("a"))
		require.Equal(f, []store.Session{s}, f.held(alice))
		f.update(s) // with the revision from before the claim
	}},
	{"WriteReleases", func(f *fixture) {
		s := f.createOne(dueSession("a", at))
		f.create(dueSession("b", at))
		require.Equal(f, []string{"a", "b"}, f.due(at, time.Hour, 10))
		f.update(s)
		require.Equal(f, []string{"a"}, f.due(at, time.Hour, 10))
		require.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) { return held[:1], nil }))
		require.Equal(f, []string{"a"}, f.due(at, time.Hour, 10))
		s = f.get("a")
		s.UserAgent = "lost the race"
		s.Revision--
		_, err := f.s.Update(f.ctx, s)
		require.ErrorIs(f, err, store.ErrConflict)
		require.Empty(f, f.due(at, time.Hour, 10), "a write that lost releases nothing")
	}},
	{"FollowsWrites", func(f *fixture) {
		s := f.createOne(dueSession("a", at))
		s.Due = at.Add(time.Hour)
		s = f.update(s)
		require.Empty(f, f.due(at.Add(time.Minute), 0, 10))
		require.Equal(f, []string{"a"}, f.due(at.Add(time.Hour), 0, 10))
		s.Due = time.Time{}
		f.update(s)
		require.Empty(f, f.due(at.Add(1000*time.Hour), 0, 10))
		require.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			held[0].Due = at
			return append(held, dueSession("b", at)), nil
		}))
		require.Equal(f, []string{"a", "b"}, f.due(at, 0, 10))
	}},
	{"ClaimedOnce", func(f *fixture) {
		const sessions, sweepers = 120, 12
		for i := range sessions {
			f.create(dueSession(fmt.Sprintf("%03d", i), at.Add(time.Duration(i%5)*time.Second)))
		}
		var mu sync.Mutex
		claims := map[string]int{}
		var wg sync.WaitGroup
		for range sweepers {
			wg.Go(func() {
				for {
					list, err := f.s.Due(f.ctx, at.Add(time.Minute), time.Hour, 7)
					if !assert.NoError(f, err) || len(list) == 0 {
						return
					}
					mu.Lock()
					for _, s := range list {
						claims[s.ID]++
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		require.Len(f, claims, sessions, "every one is claimed")
		for id, n := range claims {
			require.Equal(f, 1, n, "%s is claimed by %d sweepers", id, n)
		}
		require.Len(f, f.due(at.Add(time.Minute+time.Hour), time.Hour, sessions+1), sessions, "after the lease they are taken over")
	}},
}
