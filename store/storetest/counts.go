package storetest

import (
	"context"
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

// hour returns a whole hour, n after the one in which the tests begin.
func hour(n int) time.Time { return at.Truncate(time.Hour).Add(time.Duration(n) * time.Hour) }

func count(account string, n int, name string, value int64) store.Count {
	return store.Count{Account: account, Hour: hour(n), Name: name, N: value}
}

func (f *fixture) add(counts ...store.Count) {
	f.Helper()
	require.NoError(f, f.c.AddCounts(f.ctx, counts))
}

// counts returns an account's counters of the hours from until before to.
func (f *fixture) counts(account string, from, to int) []store.Count {
	f.Helper()
	list, err := f.c.ReadCounts(f.ctx, account, hour(from), hour(to))
	require.NoError(f, err)
	return list
}

func (f *fixture) unended(account string, want int) {
	f.Helper()
	got, err := f.c.CountUnended(f.ctx, account)
	require.NoError(f, err)
	require.Equal(f, want, got, "unended sessions in %q", account)
}

var countTests = []contractTest{
	{"None", func(f *fixture) {
		require.Empty(f, f.counts("a", 0, 100))
		require.NoError(f, f.c.DropCounts(f.ctx, "a", hour(100)))
		f.add()
		require.Empty(f, f.counts("a", 0, 100))
	}},
	{"Adds", func(f *fixture) {
		// In no order, one counter twice, and in another zone.
		twice := count("a", 1, "m", 5)
		twice.Hour = twice.Hour.In(time.FixedZone("", 3600))
		f.add(count("b", 1, "n", 1), count("a", 2, "n", 2), count("a", 1, "n", 3), twice, count("a", 2, "n", 4))
		want := []store.Count{count("a", 1, "m", 5), count("a", 1, "n", 3), count("a", 2, "n", 6)}
		require.Equal(f, want, f.counts("a", 0, 100))
		f.add(count("a", 1, "n", 10), count("a", 0, "z", 1))
		want = []store.Count{count("a", 0, "z", 1), count("a", 1, "m", 5), count("a", 1, "n", 13), count("a", 2, "n", 6)}
		require.Equal(f, want, f.counts("a", 0, 100))
		require.Equal(f, []store.Count{count("b", 1, "n", 1)}, f.counts("b", 0, 100))
	}},
	{"Range", func(f *fixture) {
		for n := -3; n <= 3; n++ {
			f.add(count("a", n, "n", int64(n)+4))
		}
		require.Len(f, f.counts("a", -3, 4), 7)
		require.Equal(f, []store.Count{count("a", 0, "n", 4), count("a", 1, "n", 5)}, f.counts("a", 0, 2))
		require.Empty(f, f.counts("a", 0, 0))
		require.Empty(f, f.counts("a", 2, 1))
		require.Empty(f, f.counts("a", 4, 100))
		// An hour counts by its beginning.
		for _, c := range []struct {
			from, to time.Time
			want     int
		}{
			{hour(0).Add(time.Nanosecond), hour(2), 1}, {hour(0), hour(1).Add(time.Nanosecond), 2},
			{hour(0).Add(-time.Nanosecond), hour(1).Add(-time.Nanosecond), 1}, {hour(0).Add(time.Minute), hour(0).Add(2 * time.Minute), 0},
		} {
			list, err := f.c.ReadCounts(f.ctx, "a", c.from, c.to)
			require.NoError(f, err)
			require.Len(f, list, c.want, "%s to %s", c.from, c.to)
		}
	}},
	// As much as may be asked for, with hours before and after 1970.
	{"Limits", func(f *fixture) {
		var batch []store.Count
		for n := range store.MaxAddedCounts {
			batch = append(batch, count("a", n, "n", 1))
		}
		f.add(batch...)
		require.Equal(f, batch, f.counts("a", 0, store.MaxCountedHours))
		f.refused(f.c.AddCounts(f.ctx, append(batch, count("b", 0, "n", 1))))
		require.Empty(f, f.counts("b", 0, 1))
		_, err := f.c.ReadCounts(f.ctx, "a", hour(0), hour(store.MaxCountedHours+1))
		f.refused(err)

		long := store.Count{
			Account: strings.Repeat("\u00e9", store.MaxCountAccount/2), Name: strings.Repeat("n", store.MaxCountName),
			Hour: time.Date(1, 1, 1, 1, 0, 0, 0, time.UTC), N: store.MaxAddedCount,
		}
		last := long
		last.Hour = time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC)
		f.add(long, last)
		f.add(long)
		for _, c := range []struct {
			count store.Count
			n     int64
		}{{long, 2 * store.MaxAddedCount}, {last, store.MaxAddedCount}} {
			list, err := f.c.ReadCounts(f.ctx, c.count.Account, c.count.Hour, c.count.Hour.Add(time.Hour))
			require.NoError(f, err)
			c.count.N = c.n
			require.Equal(f, []store.Count{c.count}, list)
		}
	}},
	{"Refused", func(f *fixture) {
		for name, bad := range map[string]func(c *store.Count){
			"no account":   func(c *store.Count) { c.Account = "" },
			"long account": func(c *store.Count) { c.Account = strings.Repeat("a", store.MaxCountAccount+1) },
			"account":      func(c *store.Count) { c.Account = "\xff" },
			"no name":      func(c *store.Count) { c.Name = "" },
			"long name":    func(c *store.Count) { c.Name = strings.Repeat("n", store.MaxCountName+1) },
			"name":         func(c *store.Count) { c.Name = "\xff" },
			"no hour":      func(c *store.Count) { c.Hour = c.Hour.Add(time.Nanosecond) },
			"late":         func(c *store.Count) { c.Hour = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
			"zero":         func(c *store.Count) { c.N = 0 },
			"negative":     func(c *store.Count) { c.N = -1 },
			"too much":     func(c *store.Count) { c.N = store.MaxAddedCount + 1 },
		} {
			c := count("a", 0, "n", 1)
			bad(&c)
			f.refused(f.c.AddCounts(f.ctx, []store.Count{count("a", 0, "good", 1), c}))
			require.Empty(f, f.counts("a", -1, 2), "%s: all or nothing", name)
		}
	}},
	{"Names", func(f *fixture) {
		var batch []store.Count
		for i, name := range names {
			batch = append(batch, count(name, 0, "n", int64(i)+1), count("all", 0, name, int64(i)+1))
		}
		f.add(batch...)
		for i, name := range names {
			require.Equal(f, []store.Count{count(name, 0, "n", int64(i)+1)}, f.counts(name, 0, 1))
		}
		var want []store.Count
		for i, name := range names {
			want = append(want, count("all", 0, name, int64(i)+1))
		}
		slices.SortFunc(want, func(a, b store.Count) int { return strings.Compare(a.Name, b.Name) })
		require.Equal(f, want, f.counts("all", 0, 1))
		require.Empty(f, f.counts("\xff", 0, 1))
		for i, name := range names {
			require.NoError(f, f.c.DropCounts(f.ctx, name, hour(1)))
			require.Empty(f, f.counts(name, 0, 1))
			if i+1 < len(names) {
				require.Len(f, f.counts(names[i+1], 0, 1), 1)
			}
		}
		require.Equal(f, want, f.counts("all", 0, 1))
	}},
	{"Drop", func(f *fixture) {
		var batch []store.Count
		for n := range 450 {
			batch = append(batch, count("a", n, "m", 1), count("a", n, "n", 2))
		}
		batch = append(batch, count("b", 0, "n", 1))
		f.add(batch...)
		require.NoError(f, f.c.DropCounts(f.ctx, "a", hour(0)))
		require.Len(f, f.counts("a", 0, 450), 900)
		require.NoError(f, f.c.DropCounts(f.ctx, "a", hour(440).Add(time.Nanosecond)))
		require.Equal(f, batch[882:900], f.counts("a", 0, 450))
		require.Len(f, f.counts("b", 0, 1), 1)
		f.add(count("a", 1, "m", 7)) // begins at 0 again
		require.Equal(f, []store.Count{count("a", 1, "m", 7)}, f.counts("a", 0, 100))
		require.NoError(f, f.c.DropCounts(f.ctx, "a", hour(10_000)))
		require.Empty(f, f.counts("a", 0, 450))
		require.Len(f, f.counts("b", 0, 1), 1)
	}},
	// Of additions that race none is lost, while others are read and dropped.
	{"Race", func(f *fixture) {
		const writers, each = 12, 15
		var wg, watcher sync.WaitGroup
		done := make(chan struct{})
		watcher.Go(func() {
			for seen := int64(0); ; {
				list, err := f.c.ReadCounts(f.ctx, "a", hour(0), hour(1))
				if !assert.NoError(f, err) || !assert.NoError(f, f.c.DropCounts(f.ctx, "a", hour(0))) {
					return
				}
				now := int64(0)
				for _, c := range list {
					now += c.N
				}
				assert.GreaterOrEqual(f, now, seen, "counters only grow")
				seen = now
				select {
				case <-done:
					return
				default:
				}
			}
		})
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					batch := []store.Count{
						count("a", 0, "n", 1), count("a", 0, fmt.Sprint(w), 2), count("b", i%3, "n", 3), count("a", -1, "gone", 1), count("c", 0, "n", 1),
					}
					if w%2 == 1 { // so that they would meet head on
						slices.Reverse(batch)
					}
					assert.NoError(f, f.c.AddCounts(f.ctx, batch))
				}
			})
		}
		wg.Wait()
		close(done)
		watcher.Wait()
		sums := map[string]int64{}
		for _, account := range []string{"a", "b", "c"} {
			for _, c := range f.counts(account, 0, 3) {
				sums[account+" "+c.Name] += c.N
			}
		}
		want := map[string]int64{"a n": writers * each, "b n": 3 * writers * each, "c n": writers * each}
		for w := range writers {
			want[fmt.Sprintf("a %d", w)] = 2 * each
		}
		require.Equal(f, want, sums)
	}},
	{"Unended", func(f *fixture) {
		f.unended("default", 0)
		in := func(s store.Session, accounts ...string) store.Session {
			s.Accounts = accounts
			return s
		}
		a := f.createOne(in(session("a", alice), "one", "two", "one"))
		f.create(in(session("b", alice), "one"), in(session("c", bob), "two"), in(session("d", bob)))
		for i := range 20 { // in all buckets
			f.create(in(session(fmt.Sprint("e", i), store.Subject{Issuer: "https://login.example.com", ID: fmt.Sprint(i)}), "many"))
		}
		check := func(one, two, three int) {
			f.Helper()
			f.unended("one", one)
			f.unended("two", two)
			f.unended("three", three)
			f.unended("many", 20)
		}
		check(2, 2, 0)
		for _, name := range []string{"One", "one ", "on", "\xff", "default"} {
			f.unended(name, 0)
		}
		f.update(in(a, "two", "three"))
		check(1, 2, 1)
		require.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			return []store.Session{ended(held[0], policy.ReasonConcurrency), in(session("f", alice), "three")}, nil
		}))
		check(1, 1, 1)
		a = f.get("a")
		a = f.update(in(a, "one")) // it has ended
		check(1, 1, 1)
		require.NoError(f, f.s.Delete(f.ctx, a.ID, a.Revision))
		check(1, 1, 1)
		b := f.get("b")
		require.NoError(f, f.s.Delete(f.ctx, b.ID, b.Revision))
		check(0, 1, 1)
	}},
	{"ContextEndedBefore", func(f *fixture) {
		f.add(count("kept", 0, "n", 1))
		canceled, cancel := context.WithCancel(f.ctx)
		cancel()
		late, cancelLate := context.WithDeadline(f.ctx, at)
		defer cancelLate()
		for want, ctx := range map[error]context.Context{context.Canceled: canceled, context.DeadlineExceeded: late} {
			require.ErrorIs(f, f.c.AddCounts(ctx, []store.Count{count("a", 0, "n", 1)}), want)
			require.ErrorIs(f, f.c.AddCounts(ctx, nil), want)
			_, err := f.c.ReadCounts(ctx, "a", hour(0), hour(9))
			require.ErrorIs(f, err, want)
			require.ErrorIs(f, f.c.DropCounts(ctx, "kept", hour(9)), want)
			n, err := f.c.CountUnended(ctx, "default")
			require.ErrorIs(f, err, want)
			require.Zero(f, n)
		}
		require.Empty(f, f.counts("a", 0, 9))
		require.Len(f, f.counts("kept", 0, 9), 1)
	}},
	{"ContextEndsWhileWaiting", endsWhileWaiting},
}

// countCalls are calls of everything that the counts can do, and none if the store keeps none.
func (f *fixture) countCalls() map[string]func(ctx context.Context) error {
	if f.c == nil {
		return nil
	}
	return map[string]func(ctx context.Context) error{
		"AddCounts":  func(ctx context.Context) error { return f.c.AddCounts(ctx, []store.Count{count("a", 0, "n", 1)}) },
		"ReadCounts": func(ctx context.Context) error { _, err := f.c.ReadCounts(ctx, "a", hour(0), hour(9)); return err },
		"DropCounts": func(ctx context.Context) error { return f.c.DropCounts(ctx, "b", hour(0)) },
		"Unended":    func(ctx context.Context) error { _, err := f.c.CountUnended(ctx, "default"); return err },
	}
}
