package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// user returns one of many subjects, who are in many buckets.
func user(i int) store.Subject {
	return store.Subject{Issuer: "https://login.example.com", ID: fmt.Sprintf("user-%d", i)}
}

// users is how many it takes for most buckets to have one, and many several.
const users = 400

func (f *fixture) createUsers(each func(i int, s *store.Session)) []store.Session {
	f.Helper()
	buckets := map[string]bool{}
	var all []store.Session
	for i := range users {
		s := session(fmt.Sprintf("%d", i*7919%users), user(i))
		each(i, &s)
		s.Revision = 1
		require.NoError(f, f.s.Create(f.ctx, s, 1))
		buckets[s.ID[:2]] = true
		all = append(all, s)
	}
	require.Greater(f, len(buckets), 150)
	return all
}

// However many buckets there are, it is one store. An engine that keeps them
// apart must not show it.
var bucketTests = []contractTest{
	{"Shared", func(f *fixture) {
		require.Equal(f, store.Bucket(alice), store.Bucket(bob))
		require.NotEqual(f, store.Bucket(alice), store.Bucket(user(1)))
		require.NotEqual(f, store.Bucket(user(0)), store.Bucket(user(1)))
	}},
	{"List", func(f *fixture) {
		all := f.createUsers(func(i int, s *store.Session) {
			s.Accounts = [][]string{nil, {"one"}, {"one", "two"}}[i%3]
			s.Client = []string{"web", "cli"}[i%2]
		})
		for i := range all {
			if i%5 == 0 {
				all[i] = f.update(ended(all[i], policy.ReasonLogout))
			}
		}
		slices.SortFunc(all, func(a, b store.Session) int { return strings.Compare(a.ID, b.ID) })
		require.Equal(f, all, f.list(store.Filter{}, 37))
		require.Equal(f, all, f.list(store.Filter{}, 10*users))
		for _, filter := range []store.Filter{
			{Account: "two"}, {Account: "one", Client: "cli"}, {Client: "web", State: store.Unended}, {State: store.Ended},
			{Subject: user(7)}, {Subject: user(7), Account: "two"}, {Account: "none"}, {Kind: policy.Browser, State: store.Ended},
		} {
			var want []store.Session
			for _, s := range all {
				if matches(s, filter) {
					want = append(want, s)
				}
			}
			for _, limit := range []int{1 + len(want)/3, 1000} {
				require.Equal(f, want, f.list(filter, limit), "%+v", filter)
			}
		}
	}},
	{"ListRare", func(f *fixture) {
		// One of each 100 matches: a page may be short, and the walk ends.
		all := f.createUsers(func(i int, s *store.Session) {
			if i%100 == 0 {
				s.Accounts = []string{"rare"}
			}
		})
		var want []string
		for i := 0; i < users; i += 100 {
			want = append(want, all[i].ID)
		}
		slices.Sort(want)
		require.Equal(f, want, ids(f.list(store.Filter{Account: "rare"}, 1)))
		require.Equal(f, want, ids(f.list(store.Filter{Account: "rare", Kind: policy.Browser, Client: "web", State: store.Unended}, 2)))
	}},
	{"Due", func(f *fixture) {
		// Some are equally overdue, in different buckets.
		all := f.createUsers(func(i int, s *store.Session) { s.Due = at.Add(time.Duration(i*31%users/4) * µs) })
		slices.SortFunc(all, func(a, b store.Session) int {
			if c := a.Due.Compare(b.Due); c != 0 {
				return c
			}
			return strings.Compare(a.ID, b.ID)
		})
		now := at.Add(time.Minute)
		due := func(now time.Time, lease time.Duration, limit int) []store.Session {
			list, err := f.s.Due(f.ctx, now, lease, limit)
			require.NoError(f, err)
			return list
		}
		require.Equal(f, all[:40], due(at.Add(9*µs), 0, users), "none that is not due")
		require.Equal(f, all[:10], due(now, 0, 10), "the most overdue of all buckets")
		require.Equal(f, all, due(now, 0, 10*users))
		for n := 0; n < users; n += 90 {
			require.Equal(f, all[n:min(n+90, users)], due(now, time.Minute, 90), "what is claimed is passed over in each bucket")
		}
		require.Empty(f, due(now, time.Minute, 90))
		require.Equal(f, all, due(now.Add(time.Minute), time.Minute, users))
		s := all[users/2]
		f.update(s)
		require.Equal(f, s.ID, due(now, time.Minute, 5)[0].ID)
	}},
	{"ClaimedOnce", func(f *fixture) {
		f.createUsers(func(i int, s *store.Session) { s.Due = at.Add(time.Duration(i%7) * time.Second) })
		var mu sync.Mutex
		claims := map[string]int{}
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				for {
					list, err := f.s.Due(f.ctx, at.Add(time.Minute), time.Hour, 50)
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
		require.Len(f, claims, users, "every one is claimed")
		for id, n := range claims {
			require.Equal(f, 1, n, "%s is claimed by %d sweepers", id, n)
		}
	}},
	{"Admit", func(f *fixture) {
		// Of subjects in one bucket and in others each has its own sessions.
		subjects := []store.Subject{alice, bob}
		for i := range 10 {
			subjects = append(subjects, user(i))
		}
		together(3*len(subjects), func(i int) {
			s := session(fmt.Sprint(i), subjects[i%len(subjects)])
			assert.NoError(f, f.s.Admit(f.ctx, s.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				for i := range held {
					held[i].UserAgent += "+"
				}
				return append(held, s), nil
			}))
		})
		for _, subject := range subjects {
			held := f.held(subject)
			require.Len(f, held, 3)
			total := 0
			for _, s := range held {
				require.Equal(f, subject, s.Subject)
				total += len(s.UserAgent)
			}
			require.Equal(f, 1+2, total, "each step saw the one before")
		}
	}},
}
