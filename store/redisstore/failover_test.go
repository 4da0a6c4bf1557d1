package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

func failoverClient(t testing.TB, s *engine.RedisSentinel) redis.UniversalClient {
	return opened(t, redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: s.Addrs(), MasterName: s.Name(), Password: s.Password(), ContextTimeoutEnabled: true,
	}))
}

// Two clients know as little of each other as two processes do.
func TestContractSentinel(t *testing.T) {
	open := func(t *testing.T) storetest.Counting {
		s := enginetest.RedisSentinel(t)
		return &alternating{stores: [2]storetest.Counting{newStore(t, failoverClient(t, s)), newStore(t, failoverClient(t, s))}}
	}
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

// alternating passes each call to another one of two stores.
type alternating struct {
	calls  atomic.Int64
	stores [2]storetest.Counting
}

func (a *alternating) next() storetest.Counting { return a.stores[a.calls.Add(1)%2] }

func (a *alternating) Get(ctx context.Context, id string) (store.Session, error) {
	return a.next().Get(ctx, id)
}
func (a *alternating) Create(ctx context.Context, s store.Session, max int) error {
	return a.next().Create(ctx, s, max)
}
func (a *alternating) Update(ctx context.Context, s store.Session) (int64, error) {
	return a.next().Update(ctx, s)
}
func (a *alternating) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	return a.next().Admit(ctx, subject, decide)
}
func (a *alternating) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	return a.next().List(ctx, f, cursor, limit)
}
func (a *alternating) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	return a.next().Due(ctx, now, lease, limit)
}
func (a *alternating) Delete(ctx context.Context, id string, revision int64) error {
	return a.next().Delete(ctx, id, revision)
}
func (a *alternating) Stats(ctx context.Context) (store.Stats, error) { return a.next().Stats(ctx) }
func (a *alternating) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	return a.next().PutFence(ctx, f)
}
func (a *alternating) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	return a.next().MoveFence(ctx, f, due)
}
func (a *alternating) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	return a.next().DueFences(ctx, now, limit)
}
func (a *alternating) Document(ctx context.Context, key string) (store.Document, error) {
	return a.next().Document(ctx, key)
}
func (a *alternating) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	return a.next().PutDocument(ctx, d)
}
func (a *alternating) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	return a.next().History(ctx, key, before, limit)
}
func (a *alternating) DropDocument(ctx context.Context, key string) error {
	return a.next().DropDocument(ctx, key)
}
func (a *alternating) AddCounts(ctx context.Context, counts []store.Count) error {
	return a.next().AddCounts(ctx, counts)
}
func (a *alternating) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	return a.next().ReadCounts(ctx, account, from, to)
}
func (a *alternating) DropCounts(ctx context.Context, account string, before time.Time) error {
	return a.next().DropCounts(ctx, account, before)
}
func (a *alternating) CountUnended(ctx context.Context, account string) (int, error) {
	return a.next().CountUnended(ctx, account)
}

// When the primary dies the store cannot answer, says nothing else meanwhile, and
// goes on by itself on the replica, with what had reached it.
func TestFailover(t *testing.T) {
	ctx := t.Context()
	sentinel, err := engine.NewRedisSentinel()
	require.NoError(t, err)
	defer sentinel.Close()
	client := failoverClient(t, sentinel)
	s := newStore(t, client)
	for i := range 20 {
		require.NoError(t, s.Create(ctx, session(fmt.Sprint(i), "alice"), 20))
	}
	primary, err := sentinel.Primary(ctx)
	require.NoError(t, err)
	// The replica has it all: what it has not received would be lost.
	direct := opened(t, redis.NewClient(&redis.Options{Addr: primary.Addr(), Password: primary.Password()}))
	replicated := direct.Conn()
	require.NoError(t, replicated.Set(ctx, "last", "", 0).Err())
	require.EqualValues(t, 1, replicated.Wait(ctx, 1, time.Minute).Val())
	require.NoError(t, replicated.Close())

	require.NoError(t, primary.Kill())
	failed, n := 0, 0
	require.Eventually(t, func() bool {
		n++
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		one := session(fmt.Sprint("after", n), "bob")
		err := s.Create(ctx, one, 1<<30)
		if err == nil {
			return true
		}
		failed++
		for _, answer := range []error{store.ErrExists, store.ErrFull, store.ErrConflict, store.ErrNotFound} {
			require.NotErrorIs(t, err, answer)
		}
		return false
	}, 2*time.Minute, 50*time.Millisecond)
	require.Positive(t, failed)
	require.ErrorIs(t, s.Create(ctx, session("one more", "alice"), 20), store.ErrFull)
	for i := range 20 {
		_, err := s.Get(ctx, session(fmt.Sprint(i), "alice").ID)
		require.NoError(t, err)
	}
	// The old primary comes back as a replica, which a store refuses.
	require.NoError(t, primary.Start())
	o := *direct.Options()
	o.ContextTimeoutEnabled = true
	old := opened(t, redis.NewClient(&o))
	require.Eventually(t, func() bool {
		_, err := redisstore.New(ctx, old)
		return err != nil && err.Error() == "open Redis session store: the server is a replica"
	}, 2*time.Minute, 50*time.Millisecond)
}

// New refuses what would lose sessions.
func TestNewRefuses(t *testing.T) {
	ctx := t.Context()
	good := single(t).Options()
	refused := func(client redis.UniversalClient, why string) {
		t.Helper()
		_, err := redisstore.New(ctx, opened(t, client))
		require.ErrorContains(t, err, why)
	}
	patient := *good
	patient.ContextTimeoutEnabled = false
	refused(redis.NewClient(&patient), "set ContextTimeoutEnabled")
	cached := *good
	cached.Protocol, cached.ClientSideCacheConfig = 3, &redis.ClientSideCacheConfig{}
	refused(redis.NewClient(&cached), "the client answers reads from a cache")
	refused(redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": good.Addr}, Password: good.Password, ContextTimeoutEnabled: true}), "Ring")
	c := cluster(t).Options()
	for _, change := range []func(*redis.ClusterOptions){
		func(o *redis.ClusterOptions) { o.ReadOnly = true },
		func(o *redis.ClusterOptions) { o.RouteByLatency = true },
		func(o *redis.ClusterOptions) { o.RouteRandomly = true },
	} {
		o := redis.ClusterOptions{Addrs: c.Addrs, Password: c.Password, ContextTimeoutEnabled: true}
		change(&o)
		refused(redis.NewClusterClient(&o), "the client reads from replicas")
	}
	refused(redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs, Password: c.Password}), "set ContextTimeoutEnabled")
	refused(redis.NewClient(&redis.Options{Addr: c.Addrs[0], Password: c.Password, ContextTimeoutEnabled: true}), "use a cluster client")

	client := opened(t, redis.NewClient(good))
	require.NoError(t, client.ConfigSet(ctx, "maxmemory-policy", "allkeys-lru").Err())
	_, err := redisstore.New(ctx, client)
	require.ErrorContains(t, err, "maxmemory-policy is allkeys-lru")
	require.NoError(t, client.ConfigSet(ctx, "maxmemory-policy", "noeviction").Err())

	newStore(t, client)
	newStore(t, client) // nothing to do
	require.NoError(t, client.Set(ctx, "curfew:format", 2, 0).Err())
	_, err = redisstore.New(ctx, client)
	require.ErrorContains(t, err, "format 2, made by a newer version of Curfew; this one knows up to 1")
	require.NoError(t, client.Del(ctx, "curfew:format").Err())

	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, err = redisstore.New(canceled, client)
	require.ErrorIs(t, err, context.Canceled)

	wrong := *good
	wrong.Password = "hunter2"
	_, err = redisstore.New(ctx, opened(t, redis.NewClient(&wrong)))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}

// A server that would evict sessions, by a setting that was changed or after a
// fail-over, cannot keep a cap: what it throws away is not counted. So nothing is
// added there, and that is no silent refusal. What has begun goes on and can end, and
// sweeps look at what is due.
func TestAServerThatEvictsAdmitsNobody(t *testing.T) {
	onEach := func(client redis.UniversalClient, do func(context.Context, *redis.Client) error) error {
		if c, ok := client.(*redis.ClusterClient); ok {
			return c.ForEachMaster(context.Background(), do)
		}
		return do(context.Background(), client.(*redis.Client))
	}
	for name, open := range map[string]func() redis.UniversalClient{
		"single":  func() redis.UniversalClient { return single(t) },
		"cluster": func() redis.UniversalClient { return cluster(t) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			client := open()
			s := newStore(t, client)
			evict := func(policy string) {
				assert.NoError(t, onEach(client, func(ctx context.Context, c *redis.Client) error {
					return c.ConfigSet(ctx, "maxmemory-policy", policy).Err()
				}))
			}
			defer evict("noeviction")
			one := session("a", "alice")
			require.NoError(t, s.Create(ctx, one, 2))
			one.Revision = 1
			refused := func(err error) {
				t.Helper()
				require.ErrorContains(t, err, "maxmemory-policy")
				for _, other := range []error{store.ErrConflict, store.ErrExists, store.ErrFull, store.ErrFenced, store.ErrUnreadable, context.DeadlineExceeded} {
					require.NotErrorIs(t, err, other)
				}
			}
			for _, eviction := range []string{"allkeys-lru", "allkeys-lfu", "allkeys-random"} {
				evict(eviction)
				refused(s.Create(ctx, session("b", "alice"), 2))
				refused(s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
					require.Len(t, held, 1)
					held[0].End = &store.End{At: held[0].Started, Reason: policy.ReasonConcurrency}
					return []store.Session{held[0], session("b", "alice")}, nil
				}))
			}
			revision, err := s.Update(ctx, one)
			require.NoError(t, err)
			due, err := s.Due(ctx, one.Due.Add(time.Second), time.Minute, 10)
			require.NoError(t, err)
			require.Len(t, due, 1)
			_, err = s.PutDocument(ctx, store.Document{Key: "k"})
			require.NoError(t, err)
			require.NoError(t, s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				require.EqualValues(t, revision, held[0].Revision)
				held[0].End = &store.End{At: held[0].Started, Reason: policy.ReasonPolicyChange}
				return held, nil
			}), "an end is possible")
			for _, eviction := range []string{"volatile-lru", "noeviction"} { // nothing of ours expires
				evict(eviction)
				require.NoError(t, s.Create(ctx, session("b-"+eviction, "alice"), 2))
			}
		})
	}
}

// When memory is full what adds a session fails and changes nothing, reads and
// Delete go on, and all works again when there is room.
func TestMemoryFull(t *testing.T) {
	ctx := t.Context()
	client := single(t)
	s := newStore(t, client)
	one := session("a", "alice")
	require.NoError(t, s.Create(ctx, one, 1))
	one.Revision = 1
	gone := session("b", "bob")
	require.NoError(t, s.Create(ctx, gone, 1))
	require.NoError(t, client.ConfigSet(ctx, "maxmemory", "1").Err())
	defer client.ConfigSet(ctx, "maxmemory", "0")
	_, err := s.Update(ctx, one)
	require.ErrorContains(t, err, "OOM")
	err = s.Create(ctx, session("c", "alice"), 10)
	require.ErrorContains(t, err, "OOM")
	err = s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		return []store.Session{session("c", "alice")}, nil
	})
	require.ErrorContains(t, err, "OOM")
	require.False(t, errors.Is(err, store.ErrConflict))
	got, err := s.Get(ctx, one.ID)
	require.NoError(t, err)
	require.EqualValues(t, 1, got.Revision)
	require.NoError(t, s.Delete(ctx, gone.ID, 1))
	// What has begun can end.
	_, err = s.PutFence(ctx, store.Fence{Subject: one.Subject, At: one.Started.Add(-time.Hour), Reason: policy.ReasonAccountDisabled})
	require.NoError(t, err)
	for _, end := range []func(store.Session) error{
		func(one store.Session) error { _, err := s.Update(ctx, one); return err },
		func(one store.Session) error {
			return s.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return []store.Session{one}, nil })
		},
	} {
		require.NoError(t, client.ConfigSet(ctx, "maxmemory", "0").Err())
		ends := session("e", "eve")
		require.NoError(t, s.Create(ctx, ends, 1))
		require.NoError(t, client.ConfigSet(ctx, "maxmemory", "1").Err())
		ends.Revision, ends.End = 1, &store.End{At: ends.Started.Add(time.Hour), Reason: policy.ReasonLogout}
		ends.Due = ends.End.At.Add(time.Hour)
		require.NoError(t, end(ends))
		require.NoError(t, s.Delete(ctx, ends.ID, 2))
	}
	require.NoError(t, client.ConfigSet(ctx, "maxmemory", "0").Err())
	_, err = s.Update(ctx, one)
	require.NoError(t, err)
	requireSound(t, s, client)
}
