package pgstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// rounds counts round trips: how often something is read after something was
// written.
type rounds struct {
	mu    sync.Mutex
	wrote bool
	n     int
}

func (r *rounds) take() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.n
	r.n = 0
	return n
}

func (r *rounds) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &countedConn{c, r}, err
}

type countedConn struct {
	net.Conn
	rounds *rounds
}

func (c *countedConn) Write(b []byte) (int, error) {
	c.rounds.mu.Lock()
	c.rounds.wrote = true
	c.rounds.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.rounds.mu.Lock()
	defer c.rounds.mu.Unlock()
	if n > 0 && c.rounds.wrote {
		c.rounds.wrote = false
		c.rounds.n++
	}
	return n, err
}

var errRefused = errors.New("refused")

// Each call is as many round trips as the documentation says. The first of its
// kind on a connection is one more, which prepares the statements.
func TestRoundTrips(t *testing.T) {
	var count rounds
	pool := openPool(t, enginetest.PostgresURL(t), func(c *pgxpool.Config) {
		c.MaxConns = 1
		c.ConnConfig.DialFunc = count.dial
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	})
	ctx := t.Context()
	s := newStore(t, pool)
	n := 0
	next := func() store.Session { n++; return session(fmt.Sprint(n), "alice") }
	one := next()
	require.NoError(t, s.Create(ctx, one, 1000))
	one.Revision = 1
	update := func() (err error) {
		one.LastActivity = one.LastActivity.Add(time.Second)
		one.Due = one.Due.Add(time.Second)
		one.Revision, err = s.Update(ctx, one)
		return err
	}
	version := int64(0)
	for _, c := range []struct {
		name string
		call func() error
		want int
	}{
		{"Get", func() error { _, err := s.Get(ctx, one.ID); return err }, 1},
		{"Update", update, 1},
		{"refresh", func() error { _, err := s.Get(ctx, one.ID); return errors.Join(err, update()) }, 2},
		{"Create", func() error { return s.Create(ctx, next(), 1000) }, 1},
		{"Create, full", func() error {
			require.ErrorIs(t, s.Create(ctx, next(), 1), store.ErrFull)
			return nil
		}, 1},
		{"Update that lost", func() error {
			lost := one
			lost.Revision--
			_, err := s.Update(ctx, lost)
			require.ErrorIs(t, err, store.ErrConflict)
			return nil
		}, 2},
		{"Update of nothing", func() error {
			_, err := s.Update(ctx, session("none", "alice"))
			require.ErrorIs(t, err, store.ErrNotFound)
			return nil
		}, 2},
		{"end", func() error {
			gone := next()
			require.NoError(t, s.Create(ctx, gone, 1000))
			count.take()
			gone.Revision, gone.End = 1, &store.End{At: gone.Started, Reason: policy.ReasonLogout}
			_, err := s.Update(ctx, gone)
			return err
		}, 2},
		{"Admit, refused", func() error {
			err := s.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, errRefused })
			require.Equal(t, errRefused, err)
			return nil
		}, 2},
		{"Admit", func() error {
			return s.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return []store.Session{next()}, nil })
		}, 2},
		{"Admit, for another", func() error {
			return s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				gone := held[len(held)-1]
				if gone.ID == one.ID {
					gone = held[0]
				}
				gone.End = &store.End{At: gone.Started, Reason: policy.ReasonConcurrency}
				return []store.Session{next(), gone}, nil
			})
		}, 3},
		{"List", func() error {
			_, _, err := s.List(ctx, store.Filter{Account: "default", Client: "web", State: store.Unended}, "", 10)
			return err
		}, 1},
		{"Due", func() error { _, err := s.Due(ctx, one.Due, time.Minute, 10); return err }, 1},
		{"Stats", func() error { _, err := s.Stats(ctx); return err }, 1},
		{"Document", func() error {
			_, err := s.Document(ctx, "none")
			require.ErrorIs(t, err, store.ErrNotFound)
			return nil
		}, 1},
		{"PutDocument", func() (err error) {
			version, err = s.PutDocument(ctx, store.Document{Key: "k", Version: version})
			return err
		}, 1},
		{"Delete", func() error { return s.Delete(ctx, "none", 1) }, 1},
		{"AddCounts", func() error {
			return s.AddCounts(ctx, []store.Count{
				{Account: "a", Hour: time.Unix(0, 0), Name: "n", N: 1}, {Account: "b", Hour: time.Unix(3600, 0), Name: "n", N: 1},
			})
		}, 1},
		{"ReadCounts", func() error { _, err := s.ReadCounts(ctx, "a", time.Unix(0, 0), time.Unix(3600, 0)); return err }, 1},
		{"DropCounts", func() error { return s.DropCounts(ctx, "a", time.Unix(0, 0)) }, 1},
		{"CountUnended", func() error { _, err := s.CountUnended(ctx, "default"); return err }, 1},
	} {
		require.NoError(t, c.call(), c.name) // prepares
		count.take()
		require.NoError(t, c.call(), c.name)
		require.Equal(t, c.want, count.take(), c.name)
	}
}

// An account without a cap, whose users have any number of sessions, has none of
// them loaded at login: what the server sends does not grow with them.
func TestCreateLoadsNothing(t *testing.T) {
	var count received
	pool := openPool(t, enginetest.PostgresURL(t), func(c *pgxpool.Config) {
		c.MaxConns = 1
		c.ConnConfig.DialFunc = count.dial
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	})
	s := newStore(t, pool)
	for i := range 200 {
		require.NoError(t, s.Create(t.Context(), session(fmt.Sprint(i), "alice"), 1<<30))
	}
	count.n = 0
	require.NoError(t, s.Create(t.Context(), session("last", "alice"), 1<<30))
	require.Less(t, count.n, 1000)
	require.Positive(t, count.n)
}

// received counts the bytes that come in.
type received struct{ n int }

func (r *received) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &receivingConn{c, r}, err
}

type receivingConn struct {
	net.Conn
	received *received
}

func (c *receivingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.n += n
	return n, err
}

// losing makes the first connection that sends a text break when the answer to it
// comes.
func losing(text string) func(*pgxpool.Config) {
	var once sync.Once
	return func(c *pgxpool.Config) {
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // sends the text each time
		c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &losingConn{Conn: c, text: []byte(text), once: &once}, err
		}
	}
}

type losingConn struct {
	net.Conn
	text []byte
	once *sync.Once
	lose atomic.Bool
}

func (c *losingConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, c.text) {
		c.once.Do(func() { c.lose.Store(true) })
	}
	return c.Conn.Write(b)
}

func (c *losingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.lose.Load() && n > 0 {
		return 0, errors.Join(io.ErrUnexpectedEOF, c.Close())
	}
	return n, err
}

// panicking makes the server panic after the first time that a connection sends a
// text, as it does when the log of writes cannot be flushed: what was written may be
// there all the same after its recovery.
func panicking(text string) func(*pgxpool.Config) {
	var once sync.Once
	return func(c *pgxpool.Config) {
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
		c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &panickingConn{losingConn: losingConn{Conn: c, text: []byte(text), once: &once}}, err
		}
	}
}

type panickingConn struct {
	losingConn
	said bool
}

func (c *panickingConn) Read(b []byte) (int, error) {
	if !c.said {
		n, err := c.Conn.Read(b)
		if !c.lose.Load() || n == 0 {
			return n, err
		}
		c.said = true
		answer, err := (&pgproto3.ErrorResponse{
			Severity: "PANIC", SeverityUnlocalized: "PANIC", Code: "58030", Message: "could not fsync file",
		}).Encode(nil)
		return copy(b, answer), err
	}
	return 0, errors.Join(io.EOF, c.Close())
}

// A commit in which the server panicked is not tried again.
func TestAServerThatPanicsInACommit(t *testing.T) {
	url := enginetest.PostgresURL(t)
	s := newStore(t, openPool(t, url))
	ctx := t.Context()
	one := session("a", "alice")
	require.NoError(t, s.Create(ctx, one, 10))
	one.Revision = 1
	lossy := newStore(t, openPool(t, url, panicking("UPDATE curfew_sessions SET revision")))
	_, err := lossy.Update(ctx, one)
	require.Error(t, err)
	require.NotErrorIs(t, err, store.ErrConflict, "with itself")

	lossy = newStore(t, openPool(t, url, panicking("COMMIT\x00")))
	n := 0
	err = lossy.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
		n++
		return []store.Session{session(fmt.Sprintf("new-%d", n), "alice")}, nil
	})
	require.Error(t, err)
	require.Equal(t, 1, n)
	stats, err := s.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, 2, stats.Unended)
}
