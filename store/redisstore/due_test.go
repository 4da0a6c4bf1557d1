package redisstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultnet"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
)

// A queue is what sweepers find in one bucket, with one session in it.
type queue struct {
	t      *testing.T
	client *redis.Client
	s      *redisstore.Store
	one    store.Session
	now    time.Time // it is due
}

func newQueue(t *testing.T) *queue {
	q := &queue{t: t, client: single(t), one: session("a", "alice")}
	q.s = newStore(t, q.client)
	require.NoError(t, q.s.Create(t.Context(), q.one, 1))
	q.one.Revision = 1
	q.now = q.one.Due.Add(time.Second)
	return q
}

func (q *queue) peek(now time.Time) []string {
	q.t.Helper()
	items, err := q.s.Peek(q.t.Context(), now, 10)
	require.NoError(q.t, err)
	return items
}

// claim claims for a minute.
func (q *queue) claim(now time.Time, items []string) []store.Session {
	q.t.Helper()
	won, err := q.s.Claim(q.t.Context(), now, time.Minute, items)
	require.NoError(q.t, err)
	return won
}

// holds requires how many items each queue has.
func (q *queue) holds(due, claims, claimed int64) {
	q.t.Helper()
	bucket := "curfew:{" + q.one.ID[:2] + "}:q:"
	require.Equal(q.t, []int64{due, claims, claimed}, []int64{
		q.client.ZCard(q.t.Context(), bucket+"due").Val(),
		q.client.ZCard(q.t.Context(), bucket+"claims").Val(),
		q.client.ZCard(q.t.Context(), bucket+"claimed").Val(),
	})
}

// What a sweeper has found is claimed only if it is due as it was.
func TestClaimOfWhatWasPutOff(t *testing.T) {
	q := newQueue(t)
	items := q.peek(q.now)
	require.Len(t, items, 1)
	q.one.Due = q.one.Due.Add(time.Hour)
	_, err := q.s.Update(t.Context(), q.one)
	require.NoError(t, err)
	require.Empty(t, q.claim(q.now, items))
	q.holds(1, 0, 0)
	require.Empty(t, q.peek(q.now))
	require.Len(t, q.claim(q.now.Add(time.Hour), q.peek(q.now.Add(time.Hour))), 1)
}

// Of two sweepers that have found the same one has it. It comes back when that one's
// lease is over, though the other one's clock is behind and it was put back before.
func TestClaimsThatMeet(t *testing.T) {
	q := newQueue(t)
	ahead := q.now.Add(90 * time.Second)
	require.Len(t, q.claim(ahead, q.peek(ahead)), 1)
	q.holds(0, 1, 1)
	again := ahead.Add(2 * time.Minute)
	items := q.peek(again) // puts it back
	require.Len(t, items, 1)
	q.holds(1, 0, 0)

	// By the clock that is behind the lease is not over.
	require.Empty(t, q.claim(q.now, q.peek(q.now)))
	q.holds(0, 1, 1)
	require.Empty(t, q.claim(ahead, items), "it is claimed")
	require.Empty(t, q.peek(ahead))
	require.Len(t, q.claim(again, q.peek(again)), 1)
	q.holds(0, 1, 1)
}

// A sweeper whose clock is ahead takes over what another one has just claimed. Of the
// other's claim nothing is left.
func TestAClaimIsTakenOver(t *testing.T) {
	q := newQueue(t)
	ahead := q.now.Add(10 * time.Minute)
	items := q.peek(ahead)
	require.Len(t, q.claim(q.now, q.peek(q.now)), 1)
	require.Len(t, q.claim(ahead, items), 1)
	q.holds(0, 1, 1)
	require.Empty(t, q.peek(ahead), "it is not put back when the first lease is over")
	q.holds(0, 1, 1)
	require.Len(t, q.peek(ahead.Add(2*time.Minute)), 1)
	q.holds(1, 0, 0)
	stats, err := q.s.Stats(t.Context())
	require.NoError(t, err)
	require.True(t, q.one.Due.Equal(stats.NextDue))
}

// A claim whose answer is lost is an error, and not the answer that nothing is due.
func TestALostClaim(t *testing.T) {
	q := newQueue(t)
	require.Len(t, q.claim(q.now, q.peek(q.now)), 1) // the server has the scripts
	proxy, err := faultnet.Listen(q.client.Options().Addr)
	require.NoError(t, err)
	defer proxy.Close()
	client := opened(t, redis.NewClient(&redis.Options{Addr: proxy.Addr(), Password: q.client.Options().Password, ContextTimeoutEnabled: true}))
	far := newStore(t, client)
	now := q.now.Add(2 * time.Minute)
	items, err := far.Peek(t.Context(), now, 10)
	require.NoError(t, err)
	require.Len(t, items, 1)
	lost := proxy.Lost()
	proxy.Set(faultnet.Fault{LoseAnswers: 1})
	_, err = far.Claim(t.Context(), now, time.Minute, items)
	require.Error(t, err)
	require.Equal(t, lost+1, proxy.Lost(), "it is sent once")
	proxy.Set(faultnet.Fault{})
	list, err := far.Due(t.Context(), now.Add(2*time.Minute), time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, list, 1, "it comes back when the lease is over")
}

// With a rare and a common filter the rare index is walked: pages are full.
func TestPagesOfTheRareAreFull(t *testing.T) {
	s := newStore(t, single(t))
	for i := range 600 {
		one := session(fmt.Sprintf("%04d", i), fmt.Sprint("user-", i%3))
		if i%20 == 0 {
			one.Accounts = []string{"rare"}
		}
		require.NoError(t, s.Create(t.Context(), one, 1000))
	}
	for _, f := range []store.Filter{
		{Account: "rare", Client: "web"}, {Account: "rare", Client: "web", State: store.Unended}, {Account: "rare", Kind: "browser"},
	} {
		total, pages := 0, 0
		for cursor := ""; ; pages++ {
			page, next, err := s.List(t.Context(), f, cursor, 10)
			require.NoError(t, err)
			if total += len(page); next == "" {
				break
			}
			require.Len(t, page, 10)
			cursor = next
		}
		require.Equal(t, 30, total)
		require.LessOrEqual(t, pages, 3)
	}
}
