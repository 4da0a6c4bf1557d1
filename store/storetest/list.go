package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

var listTests = []contractTest{
	{"Empty", func(f *fixture) {
		page, next, err := f.s.List(f.ctx, store.Filter{}, "", 10)
		require.NoError(f, err)
		require.Empty(f, page)
		require.Empty(f, next)
	}},
	{"Limit", func(f *fixture) {
		f.create(session("a", alice), session("b", alice))
		for _, limit := range []int{0, -1} {
			_, _, err := f.s.List(f.ctx, store.Filter{}, "", limit)
			f.refused(err)
			_, _, err = f.s.List(f.ctx, store.Filter{Subject: alice}, "", limit)
			f.refused(err)
		}
		for _, limit := range []int{1, 2, 3, 1 << 40} {
			require.Equal(f, []string{"a", "b"}, namesOf(f.list(store.Filter{}, limit)))
			require.Equal(f, []string{"a", "b"}, namesOf(f.list(store.Filter{Subject: alice}, limit)))
		}
	}},
	{"Filters", func(f *fixture) {
		var all []store.Session
		n := 0
		for _, subject := range []store.Subject{alice, {Issuer: "https://other.example.com", ID: "alice"}} {
			for _, accounts := range [][]string{nil, {"default"}, {"other", "default", "other"}} {
				for _, kind := range []policy.Kind{"", policy.CLI} {
					for _, clients := range [][]string{{""}, {"web"}, {"cli", "web", "web"}, {"", "cli"}} {
						n++
						s := session(fmt.Sprintf("%04d", n*7919%10007), subject)
						s.Accounts, s.Kind, s.Client, s.Grants = accounts, kind, clients[0], nil
						for i, c := range clients[1:] {
							s.Grants = append(s.Grants, store.Grant{ID: fmt.Sprint(i), Client: c})
						}
						s = f.createOne(s)
						if n%3 == 0 {
							s = f.update(ended(s, policy.ReasonLogout))
						}
						all = append(all, s)
					}
				}
			}
		}
		slices.SortFunc(all, func(a, b store.Session) int { return strings.Compare(a.ID, b.ID) })
		for _, subject := range []store.Subject{{}, alice, {Issuer: alice.Issuer}, {ID: "alice"}} {
			for _, account := range []string{"", "other", "none"} {
				for _, kind := range []policy.Kind{"", policy.CLI} {
					for _, client := range []string{"", "web", "cli"} {
						for _, state := range []store.State{store.Any, store.Unended, store.Ended} {
							filter := store.Filter{Subject: subject, Account: account, Kind: kind, Client: client, State: state}
							var want []string
							for _, s := range all {
								if matches(s, filter) {
									want = append(want, s.ID)
								}
							}
							require.ElementsMatch(f, want, ids(f.list(filter, 10)), "%+v", filter)
						}
					}
				}
			}
		}
		require.Equal(f, all, f.list(store.Filter{}, 17))
	}},
	{"FiltersFollowWrites", func(f *fixture) {
		s := session("a", alice)
		s.Accounts, s.Client, s.Grants = []string{"one", "two"}, "web", []store.Grant{{ID: "1", Client: "cli"}}
		s = f.createOne(s)
		f.create(session("b", alice))
		found := func(filter store.Filter) bool { return slices.Contains(namesOf(f.list(filter, 10)), "a") }
		require.True(f, found(store.Filter{Account: "two"}))
		require.True(f, found(store.Filter{Client: "cli"}))

		s.Accounts = []string{"two", "three"}
		s.Grants = append(s.Grants, store.Grant{ID: "2", Client: "spa"})
		s.Kind = policy.CLI
		s = f.update(s)
		require.False(f, found(store.Filter{Account: "one"}))
		require.True(f, found(store.Filter{Account: "two"}))
		require.True(f, found(store.Filter{Account: "three", Client: "spa", Kind: policy.CLI, State: store.Unended}))
		require.False(f, found(store.Filter{Kind: policy.Browser}))

		require.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			held[0].Grants = held[0].Grants[1:] // the one of "cli" is gone
			held[0].Accounts = nil
			return held[:1], nil
		}))
		require.False(f, found(store.Filter{Client: "cli"}))
		require.True(f, found(store.Filter{Client: "spa"}))
		require.True(f, found(store.Filter{Client: "web"}))
		require.False(f, found(store.Filter{Account: "two"}))

		s = f.update(ended(f.get("a"), policy.ReasonLogout))
		require.False(f, found(store.Filter{Client: "spa", State: store.Unended}))
		require.True(f, found(store.Filter{Client: "spa", State: store.Ended}))
		require.True(f, found(store.Filter{Subject: alice, Kind: policy.CLI, State: store.Ended}))
		s.Grants = nil
		f.update(s)
		require.False(f, found(store.Filter{Client: "spa"}))
		require.True(f, found(store.Filter{Client: "web", State: store.Ended}))
	}},
	{"StableCursorAll", stableCursor(store.Filter{}, onlyAlice)},
	{"StableCursorUnended", stableCursor(store.Filter{State: store.Unended}, onlyAlice)},
	{"StableCursorSubject", stableCursor(store.Filter{Subject: alice, State: store.Unended}, onlyAlice)},
	{"StableCursorAccount", stableCursor(store.Filter{Account: "default"}, onlyAlice)},
	{"StableCursorClient", stableCursor(store.Filter{Client: "web", State: store.Unended}, onlyAlice)},
	{"StableCursorAllBuckets", stableCursor(store.Filter{}, user)},
	{"StableCursorAccountBuckets", stableCursor(store.Filter{Account: "default", State: store.Unended}, user)},
	{"StableUnderRace", func(f *fixture) {
		var stable []string
		for i := range 60 {
			s := session(fmt.Sprintf("%03d-stable", i*16), alice)
			stable = append(stable, s.ID)
			f.create(s)
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() {
				for i := range 200 {
					select {
					case <-stop:
						return
					default:
					}
					id := fmt.Sprintf("%03d-%d-%d", i*37%1000, w, i)
					if !assert.NoError(f, f.s.Create(f.ctx, session(id, alice), many*many)) {
						return
					}
					s, err := f.s.Get(f.ctx, sid(id))
					if !assert.NoError(f, err) {
						return
					}
					_, err = f.s.Update(f.ctx, ended(s, policy.ReasonLogout))
					if !assert.NoError(f, err) {
						return
					}
				}
			})
		}
		for range 5 {
			for _, filter := range []store.Filter{{State: store.Unended}, {Account: "default"}, {Subject: alice, State: store.Unended}} {
				seen := ids(f.list(filter, 11))
				require.IsIncreasing(f, seen, "in order, none twice")
				for _, id := range stable {
					require.Contains(f, seen, id)
				}
			}
		}
		close(stop)
		wg.Wait()
	}},
}

// onlyAlice is the subject of each of the sessions that are listed.
func onlyAlice(int) store.Subject { return alice }

// stableCursor lists page by page the sessions of subjects, of which it makes
// some, and writes between the pages.
func stableCursor(filter store.Filter, subject func(i int) store.Subject) func(*fixture) {
	return func(f *fixture) {
		const n = 40
		var stored []store.Session
		for i := range n {
			stored = append(stored, session(fmt.Sprintf("%02d", i), subject(i)))
		}
		slices.SortFunc(stored, func(a, b store.Session) int { return strings.Compare(a.ID, b.ID) })
		f.create(stored...)
		var seen []string
		gone := map[string]bool{}
		cursor := ""
		for round := 0; ; round++ {
			page, next, err := f.s.List(f.ctx, filter, cursor, 7)
			require.NoError(f, err)
			seen = append(seen, ids(page)...)
			if next == "" {
				break
			}
			cursor = next
			if round > 4 {
				continue
			}
			// One begins before the cursor and one after it; one ends
			// that was seen, and one that was not; one is removed.
			before, after := stored[0].Subject, stored[n-1].Subject
			f.create(session(fmt.Sprintf("00-%d", round), before), session(fmt.Sprintf("99-%d", round), after))
			for _, i := range []int{round, n - 1 - 2*round} {
				id := stored[i].ID
				gone[id] = true
				f.update(ended(f.read(id), policy.ReasonLogout))
			}
			id := stored[n-2-2*round].ID
			gone[id] = true
			require.NoError(f, f.s.Delete(f.ctx, id, f.read(id).Revision))
		}
		require.IsIncreasing(f, seen, "in order, none twice")
		for _, s := range stored {
			if !gone[s.ID] {
				require.Contains(f, seen, s.ID)
			}
		}
	}
}

// matches is what the contract says of a filter, in the plainest words.
func matches(s store.Session, f store.Filter) bool {
	if f.Subject != (store.Subject{}) && s.Subject != f.Subject {
		return false
	}
	if f.Account != "" && !slices.Contains(s.Accounts, f.Account) {
		return false
	}
	if f.Kind != "" && s.Kind != f.Kind {
		return false
	}
	if f.State == store.Unended && s.End != nil || f.State == store.Ended && s.End == nil {
		return false
	}
	if f.Client == "" || s.Client == f.Client {
		return true
	}
	for _, g := range s.Grants {
		if g.Client == f.Client {
			return true
		}
	}
	return false
}
