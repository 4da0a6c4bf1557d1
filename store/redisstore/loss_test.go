package redisstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/faultnet"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
)

// A write whose answer was lost took effect once, and is not taken for the loss
// of a race to somebody else.
func TestLostAnswers(t *testing.T) {
	ctx := t.Context()
	direct := single(t)
	s := newStore(t, direct)
	proxy, err := faultnet.Listen(direct.Options().Addr)
	require.NoError(t, err)
	defer proxy.Close()
	o := *direct.Options()
	o.Addr, o.Dialer = proxy.Addr(), nil
	client := opened(t, redis.NewClient(&o))
	far := newStore(t, client)

	// The server has the scripts: else the answer that is lost were that.
	first := session("first", "alice")
	require.NoError(t, s.Create(ctx, first, 1))
	first.Revision = 1
	_, err = s.Update(ctx, first)
	require.NoError(t, err)
	require.NoError(t, s.Delete(ctx, first.ID, 2))
	_, err = s.PutDocument(ctx, store.Document{Key: "other"})
	require.NoError(t, err)

	one := session("a", "alice")
	one.Due = time.Time{}
	for _, c := range []struct {
		name string
		call func(s *redisstore.Store) error
		done func(t *testing.T)
	}{
		{"Create", func(s *redisstore.Store) error { return s.Create(ctx, one, 1) }, func(t *testing.T) {
			got, err := s.Get(ctx, one.ID)
			require.NoError(t, err)
			require.EqualValues(t, 1, got.Revision)
		}},
		{"Update", func(s *redisstore.Store) error {
			next := one
			next.Revision, next.UserAgent = 1, "updated"
			_, err := s.Update(ctx, next)
			return err
		}, func(t *testing.T) {
			got, err := s.Get(ctx, one.ID)
			require.NoError(t, err)
			require.EqualValues(t, 2, got.Revision)
			require.Equal(t, "updated", got.UserAgent)
		}},
		{"Delete", func(s *redisstore.Store) error { return s.Delete(ctx, one.ID, 2) }, func(t *testing.T) {
			_, err := s.Get(ctx, one.ID)
			require.ErrorIs(t, err, store.ErrNotFound)
			require.NoError(t, s.Create(ctx, one, 1))
		}},
		{"PutDocument", func(s *redisstore.Store) error {
			_, err := s.PutDocument(ctx, store.Document{Key: "k"})
			return err
		}, func(t *testing.T) {
			d, err := s.Document(ctx, "k")
			require.NoError(t, err)
			require.EqualValues(t, 1, d.Version)
		}},
		// The read is answered, the write is not: see below.
		{"Admit", func(s *redisstore.Store) error {
			return s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				proxy.Set(faultnet.Fault{LoseAnswers: 1})
				held[0].End = &store.End{At: held[0].Started, Reason: policy.ReasonConcurrency}
				return []store.Session{held[0], session("b", "alice")}, nil
			})
		}, func(t *testing.T) {
			got, err := s.Get(ctx, one.ID)
			require.NoError(t, err)
			require.EqualValues(t, 2, got.Revision)
			require.NotNil(t, got.End)
			got, err = s.Get(ctx, session("b", "alice").ID)
			require.NoError(t, err)
			require.EqualValues(t, 1, got.Revision)
		}},
	} {
		proxy.Set(faultnet.Fault{})
		require.NoError(t, client.Ping(ctx).Err())
		before := proxy.Lost()
		through := far
		switch c.name {
		case "Admit":
		case "Delete":
			// It reads first, and a read is made again: only the answer of
			// the script shall be lost.
			client := opened(t, redis.NewClient(&o))
			client.AddHook(&loseScripts{proxy})
			through = newStore(t, client)
		default:
			proxy.Set(faultnet.Fault{LoseAnswers: 1})
		}
		err := c.call(through)
		require.Error(t, err, c.name)
		for _, other := range []error{store.ErrConflict, store.ErrExists, store.ErrFull, store.ErrNotFound, context.DeadlineExceeded} {
			require.NotErrorIs(t, err, other, c.name)
		}
		require.Equal(t, before+1, proxy.Lost(), "%s: it is sent once", c.name)
		c.done(t)
	}
	proxy.Set(faultnet.Fault{})
	_, err = far.Get(ctx, one.ID)
	require.NoError(t, err, "and all goes on")
}

// loseScripts has the answers of scripts lost.
type loseScripts struct{ proxy *faultnet.Proxy }

func (l *loseScripts) DialHook(next redis.DialHook) redis.DialHook { return next }
func (l *loseScripts) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" && !redisstore.IsRead(cmd) {
			l.proxy.Set(faultnet.Fault{LoseAnswers: 1})
		}
		return next(ctx, cmd)
	}
}
func (l *loseScripts) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// What was acknowledged survives that the server is killed at any moment, ends
// included: New says so of appendfsync always.
func TestAcknowledgedSurvivesKill(t *testing.T) {
	ctx := t.Context()
	server, err := engine.NewRedis()
	require.NoError(t, err)
	defer server.Close()
	o, err := redis.ParseURL(server.URL())
	require.NoError(t, err)
	o.ContextTimeoutEnabled = true
	client := opened(t, redis.NewClient(o))
	s := newStore(t, client)

	type said struct {
		revision int64
		ended    bool
	}
	acknowledged := map[string]said{}
	for round := range 4 {
		var mu sync.Mutex
		var wg sync.WaitGroup
		enough := make(chan struct{})
		var once sync.Once
		goal := 40 + rand.N(80)
		n := 0
		for w := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					one := session(fmt.Sprintf("%d-%d-%d", round, w, i), fmt.Sprintf("user-%d", i%7))
					say := func(revision int64, ended bool) {
						mu.Lock()
						defer mu.Unlock()
						acknowledged[one.ID] = said{revision, ended}
						if n++; n >= goal {
							once.Do(func() { close(enough) })
						}
					}
					if s.Create(ctx, one, 1<<30) != nil {
						return
					}
					say(1, false)
					one.Revision, one.LastActivity = 1, one.LastActivity.Add(time.Minute)
					if _, err := s.Update(ctx, one); err != nil {
						return
					}
					say(2, false)
					if i%2 == 0 {
						one.Revision, one.End = 2, &store.End{At: one.LastActivity, Reason: policy.ReasonLogout}
						if _, err := s.Update(ctx, one); err != nil {
							return
						}
						say(3, true)
					}
				}
			})
		}
		<-enough
		require.NoError(t, server.Kill())
		wg.Wait()
		require.NoError(t, server.Start())
		again := newStore(t, client)
		for id, said := range acknowledged {
			got, err := again.Get(ctx, id)
			require.NoError(t, err)
			require.GreaterOrEqual(t, got.Revision, said.revision)
			require.True(t, !said.ended || got.End != nil, "an end came undone")
		}
		requireSound(t, again, client)
	}
	require.NotEmpty(t, acknowledged)
}

// requireSound requires that what sessions are found by is what is in them: that
// each list has the sessions that it must have, and that nothing is left when all
// are removed. It removes nothing that it does not put back.
func requireSound(t *testing.T, s *redisstore.Store, client *redis.Client) {
	t.Helper()
	ctx := t.Context()
	all := map[string]store.Session{}
	for _, one := range listAll(t, s, store.Filter{}) {
		all[one.ID] = one
	}
	records := 0
	for _, key := range client.Keys(ctx, "curfew:{??}:s:*").Val() {
		require.Contains(t, all, key[len("curfew:{00}:s:"):])
		records++
	}
	require.Equal(t, records, len(all))
	unended, due := 0, 0
	for _, one := range all {
		if one.End == nil {
			unended++
		}
		if !one.Due.IsZero() {
			due++
		}
	}
	stats, err := s.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, []int{unended, len(all) - unended}, []int{stats.Unended, stats.Ended})
	for _, f := range []store.Filter{{State: store.Unended}, {Account: "default", State: store.Unended}, {Client: "web", State: store.Unended}, {Kind: "browser", State: store.Unended}} {
		require.Len(t, listAll(t, s, f), unended, "%+v", f)
	}
	list, err := s.Due(ctx, time.Date(2500, 1, 1, 0, 0, 0, 0, time.UTC), 0, 1<<30)
	require.NoError(t, err)
	require.Len(t, list, due)
}

func listAll(t *testing.T, s store.Store, f store.Filter) (all []store.Session) {
	t.Helper()
	for cursor := ""; ; {
		page, next, err := s.List(t.Context(), f, cursor, 500)
		require.NoError(t, err)
		if all = append(all, page...); next == "" {
			return all
		}
		cursor = next
	}
}
