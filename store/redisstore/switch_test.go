package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/faultnet"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
)

// A load is users who sign in at a cap and sign out, and readers of their sessions,
// by a store that may not answer for a while. It remembers what was acknowledged.
type load struct {
	t        *testing.T
	s        *redisstore.Store
	patience time.Duration // of a call
	stop     chan struct{}
	wg       sync.WaitGroup

	reads, admitted, failed atomic.Int64

	mu    sync.Mutex
	known map[string]*store.Session // acknowledged; nil: a write of it is under way, or its answer was lost
}

const (
	loadUsers = 6
	loadCap   = 4
)

func loadUser(n int) store.Session { return session("", fmt.Sprint("user-", n)) }

// startLoad begins with loadCap sessions for each user.
func startLoad(t *testing.T, s *redisstore.Store) *load {
	l := &load{t: t, s: s, patience: 3 * time.Second, stop: make(chan struct{}), known: map[string]*store.Session{}}
	for n := range loadUsers {
		for i := range loadCap {
			one := session(fmt.Sprint("first-", i), loadUser(n).Subject.ID)
			require.NoError(t, s.Create(t.Context(), one, loadCap))
			l.know(one)
		}
	}
	return l
}

func (l *load) know(one store.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[one.ID] = &one
}

// doubt forgets what was known of sessions.
func (l *load) doubt(ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.known[id] = nil
	}
}

// acknowledged returns what is known of sessions.
func (l *load) acknowledged() map[string]store.Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]store.Session, len(l.known))
	for id, one := range l.known {
		if one != nil {
			all[id] = *one
		}
	}
	return all
}

func (l *load) bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), l.patience)
}

// run has readers and one who signs in and out for each user.
func (l *load) run() {
	for range 8 {
		l.forever(l.read)
	}
	for n := range loadUsers {
		i := 0
		l.forever(func() {
			i++
			l.signIn(n, i)
		})
	}
}

func (l *load) forever(do func()) {
	l.wg.Go(func() {
		for {
			select {
			case <-l.stop:
				return
			default:
				do()
			}
		}
	})
}

// read reads what is known: it may fail, but what it finds is not older than that.
func (l *load) read() {
	for id, known := range l.acknowledged() {
		ctx, cancel := l.bounded()
		got, err := l.s.Get(ctx, id)
		cancel()
		if err == nil {
			l.reads.Add(1)
			assert.True(l.t, known.End == nil || got.End != nil, "%s has ended, and is said to be live", id)
			continue
		}
		l.failed.Add(1)
		assert.NotErrorIs(l.t, err, store.ErrNotFound)
		l.plain(err)
	}
}

// plain requires that what a server says to those who follow its cluster is not said
// to the caller.
func (l *load) plain(err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		return // with the last of the servers' answers, for whoever looks for the cause
	}
	for _, word := range []string{"MOVED", "ASK", "TRYAGAIN", "BUSY", "READONLY", "non local key"} {
		assert.NotContains(l.t, err.Error(), word)
	}
}

// signIn has a user sign in where they have their oldest session's place.
func (l *load) signIn(n, i int) {
	one := session(fmt.Sprint("later-", i), loadUser(n).Subject.ID)
	var out store.Session
	ctx, cancel := l.bounded()
	defer cancel()
	err := l.s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		if len(held) == 0 {
			return []store.Session{one}, nil
		}
		out = held[0]
		for _, h := range held {
			if h.Started.Before(out.Started) {
				out = h
			}
		}
		assert.LessOrEqual(l.t, len(held), loadCap)
		l.doubt(out.ID, one.ID)
		out.End = &store.End{At: out.Started, Reason: policy.ReasonConcurrency}
		return []store.Session{out, one}, nil
	})
	if err != nil {
		l.failed.Add(1)
		l.plain(err)
		return
	}
	l.admitted.Add(1)
	l.know(one)
	if out.ID != "" {
		l.know(out)
	}
}

// end ends the load.
func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
}

// more waits until there were more reads and sign-ins: those who use the store are
// served again.
func (l *load) more() {
	l.t.Helper()
	reads, admitted := l.reads.Load(), l.admitted.Load()
	require.Eventually(l.t, func() bool {
		return l.reads.Load() >= reads+500 && l.admitted.Load() >= admitted+50
	}, 2*time.Minute, 5*time.Millisecond)
}

// recount requires that no user has more live sessions than the cap, and that what
// was acknowledged is there.
func (l *load) recount() {
	l.t.Helper()
	for n := range loadUsers {
		live := listAll(l.t, l.s, store.Filter{Subject: loadUser(n).Subject, State: store.Unended})
		require.LessOrEqual(l.t, len(live), loadCap)
	}
	for id, known := range l.acknowledged() {
		got, err := l.s.Get(l.t.Context(), id)
		require.NoError(l.t, err)
		require.Equal(l.t, known.End != nil, got.End != nil, id)
	}
}

// A pair is two servers, and a name that leads to the primary.
type pair struct {
	t       *testing.T
	servers [2]*engine.Redis
	direct  [2]*redis.Client
	name    *faultnet.Proxy
	primary int
}

func newPair(t *testing.T, settings ...string) *pair {
	first, err := engine.NewRedis(settings...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, first.Close()) })
	second, err := first.NewReplica(settings...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, second.Close()) })
	p := &pair{t: t, servers: [2]*engine.Redis{first, second}}
	for i, r := range p.servers {
		p.direct[i] = opened(t, redis.NewClient(&redis.Options{Addr: r.Addr(), Password: r.Password()}))
	}
	p.name, err = faultnet.Listen(first.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.name.Close()) })
	return p
}

func (p *pair) client() *redis.Client {
	return opened(p.t, redis.NewClient(&redis.Options{Addr: p.name.Addr(), Password: p.servers[0].Password(), ContextTimeoutEnabled: true}))
}

func (p *pair) follow(i int, addr string) {
	p.t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	require.NoError(p.t, p.direct[i].ReplicaOf(p.t.Context(), host, port).Err())
}

func (p *pair) field(i int, name string) string {
	text, err := p.direct[i].Info(p.t.Context(), "replication").Result()
	require.NoError(p.t, err)
	for line := range strings.Lines(text) {
		if field, value, _ := strings.Cut(strings.TrimSpace(line), ":"); field == name {
			return value
		}
	}
	return ""
}

// swap has the replica take over, with all that was acknowledged, and the name lead
// to it. The old primary stays behind: it follows nobody who answers, and answers
// with what it has until it is told to catch up.
func (p *pair) swap() (catchUp func()) {
	p.t.Helper()
	ctx := p.t.Context()
	old, next := p.primary, 1-p.primary
	require.NoError(p.t, p.direct[old].Do(ctx, "client", "pause", 60_000, "write").Err())
	require.Eventually(p.t, func() bool {
		return p.field(old, "master_repl_offset") == p.field(next, "slave_repl_offset")
	}, time.Minute, time.Millisecond)
	require.NoError(p.t, p.direct[next].Do(ctx, "replicaof", "no", "one").Err())
	p.name.Redirect(p.servers[next].Addr())
	p.follow(old, "127.0.0.1:1") // nobody
	require.NoError(p.t, p.direct[old].Do(ctx, "client", "unpause").Err())
	p.primary = next
	return func() {
		p.t.Helper()
		p.follow(old, p.servers[next].Addr())
		require.Eventually(p.t, func() bool { return p.field(old, "master_link_status") == "up" }, time.Minute, time.Millisecond)
	}
}

// After a switch behind a name, connections that were made before lead to what is a
// replica now, and falls behind. Nobody reads there: no live session is said to be
// none, no ended one to be live, and all who use the store are served by the new
// primary without being started again.
func TestSwitchBehindAName(t *testing.T) {
	for name, settings := range map[string][]string{
		"a replica that answers":                      nil,
		"one that answers only when it has caught up": {"replica-serve-stale-data=no"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, settings...)
			s := newStore(t, p.client())
			l := startLoad(t, s)
			l.run()
			l.more()
			for range 2 {
				catchUp := p.swap()
				l.more()
				l.more() // with what the old primary does not know
				catchUp()
				l.more()
			}
			l.end()
			l.recount()
			require.Positive(t, l.admitted.Load())
		})
	}
}

// The same for each call by itself, none of which has the others' connections closed
// for it.
func TestNothingIsReadFromAReplica(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	one := session("a", "alice")
	one.Revision = 1
	for name, stale := range map[string]string{"a replica that answers": "yes", "one that does not": "no"} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, "replica-serve-stale-data="+stale)
			admin := newStore(t, opened(t, redis.NewClient(&redis.Options{Addr: p.servers[0].Addr(), Password: p.servers[0].Password(), ContextTimeoutEnabled: true})))
			_, err := admin.PutDocument(t.Context(), store.Document{Key: "k", At: at})
			require.NoError(t, err)
			stores := map[string]*redisstore.Store{}
			calls := map[string]func(ctx context.Context, s *redisstore.Store) error{
				"Get": func(ctx context.Context, s *redisstore.Store) error {
					_, err := s.Get(ctx, one.ID)
					return err
				},
				"Update": func(ctx context.Context, s *redisstore.Store) error {
					got, err := s.Get(ctx, one.ID)
					if err == nil {
						_, err = s.Update(ctx, got)
					}
					return err
				},
				"Admit": func(ctx context.Context, s *redisstore.Store) error {
					return s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
						if len(held) != 1 {
							return nil, fmt.Errorf("%d sessions", len(held))
						}
						return nil, nil
					})
				},
				"List": func(ctx context.Context, s *redisstore.Store) error {
					list, _, err := s.List(ctx, store.Filter{}, "", 10)
					if err == nil && len(list) != 1 {
						err = fmt.Errorf("%d sessions", len(list))
					}
					return err
				},
				"List of a subject": func(ctx context.Context, s *redisstore.Store) error {
					list, _, err := s.List(ctx, store.Filter{Subject: one.Subject}, "", 10)
					if err == nil && len(list) != 1 {
						err = fmt.Errorf("%d sessions", len(list))
					}
					return err
				},
				"Due": func(ctx context.Context, s *redisstore.Store) error {
					list, err := s.Due(ctx, one.Due.Add(time.Hour), 0, 10)
					if err == nil && len(list) != 1 {
						err = fmt.Errorf("%d sessions", len(list))
					}
					return err
				},
				"Stats": func(ctx context.Context, s *redisstore.Store) error {
					stats, err := s.Stats(ctx)
					if err == nil && stats.Unended != 1 {
						err = fmt.Errorf("%+v", stats)
					}
					return err
				},
				"Document": func(ctx context.Context, s *redisstore.Store) error {
					d, err := s.Document(ctx, "k")
					if err == nil && d.Version != 2 {
						err = fmt.Errorf("version %d", d.Version)
					}
					return err
				},
				"History": func(ctx context.Context, s *redisstore.Store) error {
					list, err := s.History(ctx, "k", 0, 10)
					if err == nil && len(list) != 2 {
						err = fmt.Errorf("%d versions", len(list))
					}
					return err
				},
				"ReadCounts": func(ctx context.Context, s *redisstore.Store) error {
					list, err := s.ReadCounts(ctx, "default", at, at.Add(time.Hour))
					if err == nil && len(list) != 1 {
						err = fmt.Errorf("%d counts", len(list))
					}
					return err
				},
				"CountUnended": func(ctx context.Context, s *redisstore.Store) error {
					n, err := s.CountUnended(ctx, "default")
					if err == nil && n != 1 {
						err = fmt.Errorf("%d sessions", n)
					}
					return err
				},
			}
			for name := range calls {
				stores[name] = newStore(t, p.client()) // which has a connection now
			}
			p.swap()
			admin = newStore(t, p.client())
			require.NoError(t, admin.Create(t.Context(), one, 1))
			_, err = admin.PutDocument(t.Context(), store.Document{Key: "k", Version: 1, At: at})
			require.NoError(t, err)
			require.NoError(t, admin.AddCounts(t.Context(), []store.Count{{Account: "default", Hour: at, Name: "n", N: 1}}))
			for name, call := range calls {
				require.NoError(t, call(t.Context(), stores[name]), name)
			}
			catch := stores["Get"]
			require.NoError(t, catch.DropCounts(t.Context(), "default", at.Add(time.Hour)))
		})
	}
}

// A write that finds at a replica that it must not be made is made at the primary: each
// by a connection from before the switch, which no read has closed.
func TestNothingIsDecidedByAReplica(t *testing.T) {
	p := newPair(t)
	ctx := t.Context()
	later, changed, gone := session("a", "alice"), session("b", "bob"), session("c", "carol")
	admin := newStore(t, p.client())
	require.NoError(t, admin.Create(ctx, changed, 1))
	require.NoError(t, admin.Create(ctx, gone, 1))
	_, err := admin.PutDocument(ctx, store.Document{Key: "k"})
	require.NoError(t, err)
	changed.Revision, later.Revision = 1, 1
	stores := map[string]*redisstore.Store{}
	calls := map[string]func(s *redisstore.Store) error{
		"Update of what is new":      func(s *redisstore.Store) error { _, err := s.Update(ctx, later); return err },
		"Update of what has changed": func(s *redisstore.Store) error { _, err := s.Update(ctx, changed); return err },
		"Create where there is room": func(s *redisstore.Store) error { return s.Create(ctx, session("d", "carol"), 1) },
		"PutDocument of a new version": func(s *redisstore.Store) error {
			_, err := s.PutDocument(ctx, store.Document{Key: "k", Version: 2})
			return err
		},
	}
	for name := range calls {
		stores[name] = newStore(t, p.client())
	}
	p.swap()
	admin = newStore(t, p.client())
	require.NoError(t, admin.Create(ctx, later, 1))
	changed.Revision, err = admin.Update(ctx, changed)
	require.NoError(t, err)
	require.NoError(t, admin.Delete(ctx, gone.ID, 1))
	_, err = admin.PutDocument(ctx, store.Document{Key: "k", Version: 1})
	require.NoError(t, err)
	for name, call := range calls {
		require.NoError(t, call(stores[name]), name)
	}
}

// Sentinels find a new primary, twice. What the replica had is there all the time,
// and no user has more than the cap.
func TestFailoverTwice(t *testing.T) {
	ctx := t.Context()
	sentinel, err := engine.NewRedisSentinel()
	require.NoError(t, err)
	defer sentinel.Close()
	s := newStore(t, failoverClient(t, sentinel))
	l := startLoad(t, s)
	for n := range 2 {
		primary, err := sentinel.Primary(ctx)
		require.NoError(t, err)
		// What was acknowledged up to here has arrived at the replica; what is
		// after it may be lost, and is not looked at.
		direct := opened(t, redis.NewClient(&redis.Options{Addr: primary.Addr(), Password: primary.Password()}))
		conn := direct.Conn()
		require.NoError(t, conn.Set(ctx, "last", n, 0).Err())
		require.EqualValues(t, 1, conn.Wait(ctx, 1, time.Minute).Val())
		require.NoError(t, conn.Close())
		for range 8 {
			l.forever(l.read)
		}
		for user := range 4 {
			i := 0
			l.forever(func() { // of users of its own, as to whom nothing is known
				i++
				one := session(fmt.Sprintf("%d-%d", n, i), fmt.Sprint("other-", user))
				ctx, cancel := l.bounded()
				defer cancel()
				err := s.Create(ctx, one, loadCap)
				if err == nil {
					l.admitted.Add(1)
					return
				}
				for _, answer := range []error{store.ErrExists, store.ErrConflict, store.ErrNotFound} {
					assert.NotErrorIs(t, err, answer)
				}
				if errors.Is(err, store.ErrFull) {
					live, _, err := s.List(ctx, store.Filter{Subject: one.Subject, State: store.Unended}, "", 100)
					assert.LessOrEqual(t, len(live), loadCap)
					if err == nil && len(live) > 0 {
						_ = s.Delete(ctx, live[0].ID, live[0].Revision)
					}
				}
			})
		}
		l.more()
		require.NoError(t, primary.Kill())
		require.Eventually(t, func() bool {
			now, err := sentinel.Primary(ctx)
			return err == nil && now != primary
		}, 2*time.Minute, 10*time.Millisecond)
		l.more()
		l.end()
		l.recount()
		for user := range 4 {
			live := listAll(t, s, store.Filter{Subject: session("", fmt.Sprint("other-", user)).Subject, State: store.Unended})
			require.LessOrEqual(t, len(live), loadCap)
		}
		l.stop = make(chan struct{})
		require.NoError(t, primary.Start())
		require.Eventually(t, func() bool { // it is a replica that has all, and the sentinels know
			info, err := direct.Info(ctx, "replication").Result()
			if err != nil || !strings.Contains(info, "master_link_status:up") {
				return false
			}
			first := redis.NewSentinelClient(&redis.Options{Addr: sentinel.Sentinels[0].Addr()})
			defer first.Close()
			known, err := first.Replicas(ctx, sentinel.Name()).Result()
			return err == nil && len(known) == 1 && known[0]["flags"] == "slave" && known[0]["master-link-status"] == "ok"
		}, 2*time.Minute, 50*time.Millisecond)
	}
}

// A server that vanishes without a word leaves connections behind that nobody closes. One
// that was idle for longer than ConnMaxIdleTime costs nobody a call.
func TestServerVanishes(t *testing.T) {
	server, err := engine.NewRedis()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	way, err := faultnet.Listen(server.Addr())
	require.NoError(t, err)
	defer way.Close()
	name, err := faultnet.Listen(way.Addr())
	require.NoError(t, err)
	defer name.Close()
	client := opened(t, redis.NewClient(&redis.Options{
		Addr: name.Addr(), Password: server.Password(), ContextTimeoutEnabled: true, ConnMaxIdleTime: 50 * time.Millisecond,
	}))
	s := newStore(t, client)
	var conns []*redis.Conn
	for range 10 {
		conns = append(conns, client.Conn())
		require.NoError(t, conns[len(conns)-1].Ping(t.Context()).Err())
	}
	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	require.EqualValues(t, 10, client.PoolStats().IdleConns)
	name.Redirect(server.Addr()) // for new connections
	way.Set(faultnet.Fault{Hold: true})
	defer way.Set(faultnet.Fault{})
	time.Sleep(100 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = s.Get(ctx, session("a", "alice").ID)
	require.ErrorIs(t, err, store.ErrNotFound)
}
