package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/internal/faultnet"
	"github.com/curfew-oidc/curfew/internal/pgprimary"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/pgstore"
)

// through returns a server's URL by way of a proxy, which is the server's name.
func through(t *testing.T, server *engine.Postgres, name *faultnet.Proxy) string {
	t.Helper()
	u, err := url.Parse(server.URL())
	require.NoError(t, err)
	u.Host = name.Addr()
	return u.String()
}

const failoverCap = 3

// A crowd logs in, refreshes and logs out without end, each of its members with one
// of a few users, by two stores that share a database.
type crowd struct {
	stop chan struct{}
	wg   sync.WaitGroup

	rounds   []atomic.Int64 // of each member, that succeeded
	failures atomic.Int64   // calls
	standby  atomic.Int64   // of these, because the server was a standby

	mu     sync.Mutex
	said   map[string]string // ID to the last that was acknowledged
	broken []string          // what must never be
}

const crowdUsers = 4

func startCrowd(members int, stores ...*pgstore.Store) *crowd {
	c := &crowd{stop: make(chan struct{}), rounds: make([]atomic.Int64, members), said: map[string]string{}}
	for m := range members {
		c.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-c.stop:
					return
				default:
				}
				err := c.round(stores[m%len(stores)], session(fmt.Sprintf("%d-%d", m, n), fmt.Sprintf("user-%d", m%crowdUsers)))
				if err == nil {
					c.rounds[m].Add(1)
					continue
				}
				c.failures.Add(1)
				if errors.Is(err, pgprimary.ErrStandby) {
					c.standby.Add(1)
				}
				time.Sleep(10 * time.Millisecond) // a client that tries again
			}
		})
	}
	return c
}

// round is the life of a session.
func (c *crowd) round(s *pgstore.Store, one store.Session) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		out := []store.Session{one}
		for len(held) > failoverCap {
			c.say("", fmt.Sprintf("%d sessions are held", len(held)))
			held = held[1:]
		}
		if len(held) == failoverCap {
			held[0].End = &store.End{At: held[0].Started, Reason: policy.ReasonConcurrency, By: one.ID}
			out = append(out, held[0])
		}
		return out, nil
	})
	if err != nil {
		return err
	}
	c.say(one.ID, "created")
	got, err := s.Get(ctx, one.ID)
	if errors.Is(err, store.ErrNotFound) {
		c.say("", "what was acknowledged is not there: "+one.ID)
	}
	if err != nil {
		return err
	}
	if got.End != nil {
		return nil // another login took its place
	}
	got.LastActivity = got.LastActivity.Add(time.Minute)
	if got.Revision, err = s.Update(ctx, got); errors.Is(err, store.ErrConflict) {
		return nil
	}
	if err != nil {
		return err
	}
	c.say(one.ID, "refreshed")
	got.End = &store.End{At: got.LastActivity, Reason: policy.ReasonLogout}
	if _, err = s.Update(ctx, got); errors.Is(err, store.ErrConflict) {
		return nil
	}
	if err == nil {
		c.say(one.ID, "ended")
	}
	return err
}

func (c *crowd) say(id, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == "" {
		c.broken = append(c.broken, what)
	} else {
		c.said[id] = what
	}
}

// progress waits until each member has done some more rounds.
func (c *crowd) progress(t *testing.T, more int64) {
	t.Helper()
	until := make([]int64, len(c.rounds))
	for m := range c.rounds {
		until[m] = c.rounds[m].Load() + more
	}
	for m := range c.rounds {
		require.Eventually(t, func() bool { return c.rounds[m].Load() >= until[m] }, 2*time.Minute, time.Millisecond, "member %d does not get on", m)
	}
}

// recovers waits until everybody gets on, and requires that no more calls failed in
// between than there were connections and calls on their way.
func (c *crowd) recovers(t *testing.T, what string, conns int) {
	t.Helper()
	before, began := c.failures.Load(), time.Now()
	c.progress(t, 1)
	took := time.Since(began)
	c.progress(t, 10)
	failed := c.failures.Load() - before
	t.Logf("%s: all get on after %s, %d calls failed", what, took.Round(time.Millisecond), failed)
	require.LessOrEqual(t, failed, int64(2*conns+len(c.rounds)), what)
}

// A database that is switched over behind its name, under load, is found by itself:
// no connection stays where nothing can be written, nothing is read there, nothing
// that was acknowledged is lost, and the caps hold.
func TestFailover(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	primary, err := engine.NewPostgres()
	require.NoError(t, err)
	defer primary.Close()
	standby, err := primary.NewStandby()
	require.NoError(t, err)
	defer standby.Close()
	require.NoError(t, primary.WaitForStandby(ctx))
	name, err := faultnet.Listen(primary.Addr())
	require.NoError(t, err)
	defer name.Close()

	const conns = 2 * 8 // of openPool, twice
	address := through(t, primary, name)
	c := startCrowd(8, newStore(t, openPool(t, address)), newStore(t, openPool(t, address)))
	var once sync.Once
	stop := func() { once.Do(func() { close(c.stop); c.wg.Wait() }) }
	defer stop()
	c.progress(t, 10)

	met := func() {
		t.Helper()
		before := c.standby.Load()
		require.Eventually(t, func() bool { return c.standby.Load() > before+conns }, 2*time.Minute, time.Millisecond, "nobody meets the standby")
	}
	for i := range 2 {
		// The name is faster than the promotion: connections are made to what is
		// a standby yet.
		require.NoError(t, primary.Kill())
		name.Redirect(standby.Addr())
		met()
		require.NoError(t, standby.Promote(ctx))
		c.recovers(t, fmt.Sprintf("switch-over %d", i+1), conns)
		require.NoError(t, primary.Follow(standby))
		primary, standby = standby, primary
		require.NoError(t, primary.WaitForStandby(ctx))
		c.progress(t, 10)

		// The name leads astray for a while, and back. What was connected stays
		// connected to a server that works, and is not the primary.
		name.Redirect(standby.Addr())
		name.Set(faultnet.Fault{Cut: true})
		name.Set(faultnet.Fault{})
		met()
		name.Redirect(primary.Addr())
		c.recovers(t, fmt.Sprintf("led astray %d", i+1), conns)
	}
	stop()

	require.Empty(t, c.broken)
	pool := openPool(t, primary.URL())
	s := newStore(t, pool)
	for id, what := range c.said {
		one, err := s.Get(ctx, id)
		require.NoError(t, err, "%s was %s", id, what)
		switch what {
		case "refreshed":
			require.GreaterOrEqual(t, one.Revision, int64(2), id)
		case "ended":
			require.NotNil(t, one.End, "the end of %s came undone", id)
		}
	}
	require.Greater(t, len(c.said), 100)
	live := 0
	for user := range crowdUsers {
		list, next, err := s.List(ctx, store.Filter{Subject: session("", fmt.Sprintf("user-%d", user)).Subject, State: store.Unended}, "", 100)
		require.NoError(t, err)
		require.Empty(t, next)
		require.LessOrEqual(t, len(list), failoverCap)
		live += len(list)
	}
	stats, err := s.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, live, stats.Unended, "counted anew")
	requireSound(t, pool)
}

// fillPool has a pool make all its connections.
func fillPool(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	var all []*pgxpool.Conn
	for range pool.Config().MaxConns {
		c, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		all = append(all, c)
	}
	for _, c := range all {
		c.Release()
	}
}

// code returns what the server said.
func code(err error) string {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return ""
	}
	return answer.Code
}

// A database that was read-only for a while is written to when it is over, by
// connections that were made meanwhile as well; and while it lasts, it is read.
func TestReadOnlyForAWhile(t *testing.T) {
	t.Parallel()
	server, err := engine.NewPostgres()
	require.NoError(t, err)
	defer server.Close()
	ctx := t.Context()
	admin := openPool(t, server.URL()+"&default_transaction_read_only=off")
	pool := openPool(t, server.URL())
	s := newStore(t, pool)
	one := session("a", "alice")
	require.NoError(t, s.Create(ctx, one, 10))
	one.Revision = 1
	writes := map[string]func() error{
		"Create": func() error { return s.Create(ctx, session(fmt.Sprint(one.Revision), "bob"), 1000) },
		"Update": func() (err error) { _, err = s.Update(ctx, one); return err },
		"Admit": func() error {
			return s.Admit(ctx, one.Subject, func(h []store.Session, _ store.Fence) ([]store.Session, error) { return h, nil })
		},
		"Due":         func() error { _, err := s.Due(ctx, one.Due, time.Minute, 1); return err },
		"PutDocument": func() error { _, err := s.PutDocument(ctx, store.Document{Key: fmt.Sprint(one.Revision)}); return err },
		"AddCounts": func() error {
			return s.AddCounts(ctx, []store.Count{{Account: "a", Hour: time.Unix(0, 0), Name: "n", N: 1}})
		},
		"DropCounts": func() error { return s.DropCounts(ctx, "a", time.Unix(0, 0)) },
		"Delete":     func() error { return s.Delete(ctx, "none", 1) },
	}
	for name, write := range writes {
		_, err := admin.Exec(ctx, `ALTER DATABASE postgres SET default_transaction_read_only = on`)
		require.NoError(t, err)
		pool.Reset()
		fillPool(t, pool)
		made := pool.Stat().NewConnsCount()
		require.Equal(t, "25006", code(write()), name)
		require.LessOrEqual(t, pool.Stat().NewConnsCount()-made, int64(2), "it is not tried for ever: %s", name)
		one, err = s.Get(ctx, one.ID)
		require.NoError(t, err)
		fillPool(t, pool)

		_, err = admin.Exec(ctx, `ALTER DATABASE postgres RESET default_transaction_read_only`)
		require.NoError(t, err)
		failed := 0
		for err := write(); err != nil; err = write() {
			require.Equal(t, "25006", code(err), name)
			failed++
			require.LessOrEqual(t, failed, int(pool.Config().MaxConns)/2, "connections that cannot write stay: %s", name)
		}
		one, err = s.Get(ctx, one.ID)
		require.NoError(t, err)
	}
}

// What the server ends, it ends for all connections: a read is done on another, and
// of the writes at most one does not know what came of it.
func TestServerEndsConnections(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := engine.NewPostgres()
	require.NoError(t, err)
	defer server.Close()
	admin := openPool(t, server.URL())
	pool := openPool(t, server.URL(), func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["application_name"] = "mine"
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	})
	s := newStore(t, pool)
	one := session("a", "alice")
	require.NoError(t, s.Create(ctx, one, 10))
	end := func() {
		t.Helper()
		fillPool(t, pool)
		_, err := admin.Exec(ctx, `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'mine'`)
		require.NoError(t, err)
	}
	end()
	one, err = s.Get(ctx, one.ID)
	require.NoError(t, err)
	s = newStore(t, pool) // it has not seen the first time
	end()
	if _, err = s.Update(ctx, one); err != nil {
		require.ErrorContains(t, err, "whether it was written is not known")
		require.Equal(t, "57P01", code(err))
	}
	for i := range 8 {
		require.NoError(t, s.Create(ctx, session(fmt.Sprint(i), "bob"), 10), "all that were ended are gone")
	}

	// One that shuts down takes no connection, and goes on with those that it has.
	held, err := admin.Acquire(ctx)
	require.NoError(t, err)
	var directory string
	require.NoError(t, held.QueryRow(ctx, `SHOW data_directory`).Scan(&directory))
	file, err := os.ReadFile(filepath.Join(directory, "postmaster.pid"))
	require.NoError(t, err)
	parent, err := strconv.Atoi(strings.Fields(string(file))[0])
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(parent, syscall.SIGTERM))
	require.Eventually(t, func() bool {
		pool.Reset()
		_, err := s.Get(ctx, one.ID)
		return code(err) == "57P03"
	}, time.Minute, 10*time.Millisecond)
	_, err = s.Get(ctx, one.ID)
	require.Equal(t, "57P03", code(err), "an error at once: the caller knows how long to wait")
	held.Release()
}

// A server that vanishes from the network, as one does that has lost its power, ends no
// connection. The first call that gets no answer in time has all of them made anew: not
// each of them costs a call.
func TestServerVanishes(t *testing.T) {
	t.Parallel()
	server := enginetest.Postgres(t)
	way, err := faultnet.Listen(server.Addr())
	require.NoError(t, err)
	defer way.Close()
	name, err := faultnet.Listen(way.Addr())
	require.NoError(t, err)
	defer name.Close()
	u, err := url.Parse(enginetest.PostgresURL(t))
	require.NoError(t, err)
	u.Host = name.Addr()
	pool := openPool(t, u.String())
	s := newStore(t, pool)
	fillPool(t, pool)
	name.Redirect(server.Addr())
	way.Set(faultnet.Fault{Hold: true})
	defer way.Set(faultnet.Fault{})
	failed := 0
	for get := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := s.Get(ctx, "none")
		return err
	}; !errors.Is(get(), store.ErrNotFound); failed++ {
		require.Less(t, failed, int(pool.Config().MaxConns)-2)
	}
	require.Positive(t, failed, "it did not vanish")
}
