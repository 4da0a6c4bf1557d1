// Package storebench measures stores, each by the same operations.
package storebench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

const capacity = 100

var busy = store.Subject{Issuer: "https://login.example.com", ID: "busy"}

// Run measures a store with few and with many sessions in it. The sessions that
// only fill it are of one subject each.
func Run(b *testing.B, open func(b *testing.B) store.Store) {
	for _, n := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) {
			s := open(b)
			ctx := context.Background()
			for i := range n {
				require.NoError(b, s.Create(ctx, filler(i), 1))
			}
			for i := range capacity {
				require.NoError(b, s.Create(ctx, held(i), capacity))
			}
			measure(b, s, n)
		})
	}
}

func filler(i int) store.Session {
	s := sample.Typical()
	s.Subject.ID = fmt.Sprintf("user-%d", i)
	s.ID = fmt.Sprintf("%s.%05x.%d", store.Bucket(s.Subject), (i*7919)%(1<<20), i)
	s.Due = s.Due.Add(time.Duration(i) * time.Millisecond)
	return s
}

func held(i int) store.Session {
	s := sample.Typical()
	s.ID, s.Subject = fmt.Sprintf("%s.held.%d", store.Bucket(busy), i), busy
	s.Started = s.Started.Add(time.Duration(i) * time.Second)
	return s
}

func measure(b *testing.B, s store.Store, n int) {
	ctx := context.Background()
	id := filler(n / 2).ID
	logins := capacity
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Get(ctx, id); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Update", func(b *testing.B) {
		b.ReportAllocs()
		one, err := s.Get(ctx, id)
		require.NoError(b, err)
		for b.Loop() {
			one.LastActivity = one.LastActivity.Add(time.Second)
			one.Due = one.Due.Add(time.Second)
			if one.Revision, err = s.Update(ctx, one); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Create", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n++
			if err := s.Create(ctx, filler(n), 1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("AdmitEvictAtCap100", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			one := held(logins)
			logins++
			err := s.Admit(ctx, busy, func(now []store.Session, _ store.Fence) ([]store.Session, error) {
				if len(now) != capacity {
					return nil, fmt.Errorf("%d sessions", len(now))
				}
				oldest := 0
				for i := range now {
					if now[i].Started.Before(now[oldest].Started) {
						oldest = i
					}
				}
				gone := now[oldest]
				gone.End = &store.End{At: one.Started, Reason: policy.ReasonConcurrency}
				return []store.Session{gone, one}, nil
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("AdmitRefuseAtCap100", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			err := s.Admit(ctx, busy, func(now []store.Session, _ store.Fence) ([]store.Session, error) {
				return nil, store.ErrFull
			})
			if err != store.ErrFull {
				b.Fatal(err)
			}
		}
	})
	b.Run("DueNone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if list, err := s.Due(ctx, time.Unix(0, 0), time.Minute, 100); err != nil || len(list) != 0 {
				b.Fatal(list, err)
			}
		}
	})
	b.Run("Due100", func(b *testing.B) {
		b.ReportAllocs()
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		for b.Loop() {
			now = now.Add(time.Hour)
			if list, err := s.Due(ctx, now, time.Minute, 100); err != nil || len(list) < 100 {
				b.Fatal(len(list), err)
			}
		}
	})
	b.Run("ListAccountPage100", func(b *testing.B) {
		b.ReportAllocs()
		live := store.Filter{Account: "default", State: store.Unended}
		_, cursor, err := s.List(ctx, live, "", 10)
		require.NoError(b, err)
		for b.Loop() {
			if _, _, err := s.List(ctx, live, cursor, 100); err != nil {
				b.Fatal(err)
			}
		}
	})
}
