package storetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// stats requires what the store says of itself.
func (f *fixture) stats(unended, ended int, nextDue time.Time) {
	f.Helper()
	got, err := f.s.Stats(f.ctx)
	require.NoError(f, err)
	require.Equal(f, store.Stats{Unended: unended, Ended: ended, NextDue: nextDue}, got)
}

var statsTests = []contractTest{
	{"Empty", func(f *fixture) {
		f.stats(0, 0, time.Time{})
		f.put(store.Document{Key: "k"})
		f.stats(0, 0, time.Time{})
	}},
	{"FollowsWrites", func(f *fixture) {
		f.create(session("a", alice), session("b", alice), session("c", bob))
		f.stats(3, 0, time.Time{})
		require.ErrorIs(f, f.s.Create(f.ctx, session("a", alice), many), store.ErrExists)
		require.ErrorIs(f, f.s.Create(f.ctx, session("d", alice), 2), store.ErrFull)
		f.stats(3, 0, time.Time{})

		f.update(f.get("a"))
		f.stats(3, 0, time.Time{})
		b := f.update(ended(f.get("b"), policy.ReasonLogout))
		f.stats(2, 1, time.Time{})
		b = f.update(b) // an ended one that stays ended
		f.stats(2, 1, time.Time{})
		lost := f.get("a")
		lost.Revision--
		_, err := f.s.Update(f.ctx, ended(lost, policy.ReasonLogout))
		require.ErrorIs(f, err, store.ErrConflict)
		f.stats(2, 1, time.Time{})

		// One step that ends some and adds some.
		require.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			return []store.Session{ended(held[0], policy.ReasonConcurrency), session("e", alice), session("f", alice)}, nil
		}))
		f.stats(3, 2, time.Time{})
		declined := fmt.Errorf("declined")
		require.Equal(f, declined, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			return []store.Session{ended(held[0], policy.ReasonConcurrency)}, declined
		}))
		require.NoError(f, f.s.Admit(f.ctx, alice, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, nil }))
		f.stats(3, 2, time.Time{})

		require.ErrorIs(f, f.s.Delete(f.ctx, sid("b"), b.Revision+1), store.ErrConflict)
		f.stats(3, 2, time.Time{})
		require.NoError(f, f.s.Delete(f.ctx, sid("b"), b.Revision))
		require.NoError(f, f.s.Delete(f.ctx, sid("b"), b.Revision))
		f.stats(3, 1, time.Time{})
		for _, s := range f.list(store.Filter{}, 10) {
			require.NoError(f, f.s.Delete(f.ctx, s.ID, s.Revision))
		}
		f.stats(0, 0, time.Time{})
		f.create(session("a", alice)) // an ID that was there before
		f.stats(1, 0, time.Time{})
	}},
	// Over all buckets, ended and not.
	{"Buckets", func(f *fixture) {
		next := time.Time{}
		for i := range 64 {
			s := session(fmt.Sprintf("s%d", i), store.Subject{Issuer: "https://login.example.com", ID: fmt.Sprintf("user-%d", i)})
			s.Due = at.Add(time.Duration(100-i) * time.Minute)
			next = s.Due
			if s = f.createOne(s); i%4 == 0 {
				f.update(ended(s, policy.ReasonLogout))
			}
		}
		f.stats(48, 16, next)
	}},
	{"NextDue", func(f *fixture) {
		f.create(dueSession("never", time.Time{}))
		f.stats(1, 0, time.Time{})
		b := f.createOne(dueSession("b", at.Add(time.Hour)))
		f.stats(2, 0, at.Add(time.Hour))
		a := f.createOne(dueSession("a", at.Add(µs)))
		f.create(dueSession("same", at.Add(µs)))
		f.stats(4, 0, at.Add(µs))

		// Who claims an item does not hide it: only when it is done it is.
		require.Equal(f, []string{"a", "same", "b"}, f.due(at.Add(time.Hour), time.Hour, 10))
		f.stats(4, 0, at.Add(µs))

		same := f.get("same")
		require.NoError(f, f.s.Delete(f.ctx, same.ID, same.Revision))
		f.stats(3, 0, at.Add(µs))
		a.Due = at.Add(2 * time.Hour)
		a = f.update(a)
		f.stats(3, 0, at.Add(time.Hour))
		require.NoError(f, f.s.Admit(f.ctx, alice, func([]store.Session, store.Fence) ([]store.Session, error) {
			next := ended(b, policy.ReasonActiveLimit)
			next.Due = at.Add(3 * time.Hour)
			return []store.Session{next}, nil
		}))
		f.stats(2, 1, at.Add(2*time.Hour))
		a.Due = time.Time{}
		a = f.update(a)
		f.stats(2, 1, at.Add(3*time.Hour)) // of one that has ended
		b = f.get("b")
		require.NoError(f, f.s.Delete(f.ctx, b.ID, b.Revision))
		f.stats(2, 0, time.Time{})
		a.Due = time.Date(1901, 1, 1, 0, 0, 0, 0, time.UTC) // before the epoch
		f.update(a)
		f.stats(2, 0, a.Due)
	}},
	{"Context", func(f *fixture) {
		f.create(session("a", alice))
		canceled, cancel := context.WithCancel(f.ctx)
		cancel()
		late, cancelLate := context.WithDeadline(f.ctx, at)
		defer cancelLate()
		for want, ctx := range map[error]context.Context{context.Canceled: canceled, context.DeadlineExceeded: late} {
			got, err := f.s.Stats(ctx)
			require.ErrorIs(f, err, want)
			require.Zero(f, got)
		}
		f.stats(1, 0, time.Time{})
	}},
	// No write of those that race is counted twice or lost, and nothing that never
	// was is ever seen.
	{"Race", func(f *fixture) {
		const writers, rounds = 6, 10
		done := make(chan struct{})
		var watcher, wg sync.WaitGroup
		watcher.Go(func() {
			for {
				got, err := f.s.Stats(f.ctx)
				if !assert.NoError(f, err) {
					return
				}
				assert.True(f, got.Unended >= 0 && got.Ended >= 0 && got.Unended+got.Ended <= 2*writers*rounds, "%+v", got)
				select {
				case <-done:
					return
				default:
				}
			}
		})
		for w := range writers {
			subject := []store.Subject{alice, bob}[w%2]
			wg.Go(func() {
				for i := range rounds {
					name := fmt.Sprintf("%d-%d", w, i)
					s := session(name, subject)
					if !assert.NoError(f, f.s.Create(f.ctx, s, many)) {
						return
					}
					s.Revision = 1
					if i%2 == 0 {
						revision, err := f.s.Update(f.ctx, ended(s, policy.ReasonLogout))
						assert.NoError(f, err)
						s.Revision = revision
					}
					if i%5 == 0 { // one that has ended, and one that has not
						assert.NoError(f, f.s.Delete(f.ctx, s.ID, s.Revision))
					}
					assert.NoError(f, f.s.Admit(f.ctx, subject, func([]store.Session, store.Fence) ([]store.Session, error) {
						return []store.Session{session(name+"-second", subject)}, nil
					}))
				}
			})
		}
		wg.Wait()
		close(done)
		watcher.Wait()
		f.stats(writers*(rounds+4), writers*4, time.Time{})
	}},
}
