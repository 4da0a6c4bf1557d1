// Package pgprimary runs steps on the primary of a PostgreSQL database, for the
// packages that keep something there.
//
// A database that fails over keeps its name, and a pool keeps its connections: to a
// server that has become a standby, or was one when they were made, or that was
// read-only then. Such a connection works, but it refuses writes, and what it reads
// may be old. It is closed when that shows, and so are its neighbours.
package pgprimary

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Pool runs steps on connections of the caller's pool. Make one with [New].
type Pool struct {
	pool *pgxpool.Pool

	mu      sync.Mutex
	renewed time.Time
}

// New returns a Pool. The connections stay the caller's to close.
func New(pool *pgxpool.Pool) *Pool { return &Pool{pool: pool} }

// ErrStandby is that the server is a standby. A read there might say that what has
// ended is live.
var ErrStandby = errors.New("the server is a standby, and not the primary")

// Do runs a step on a connection. The server may be unable to run the step, without having changed
// anything: it is a standby, read-only, or accepts no connections now. Then the connection is
// closed, and the step is run once more, on a new one: the
// name may lead elsewhere by now. What that one answers is the answer.
//
// broken is whether the connection did not survive the step, for another reason: what
// the step had sent by then may have taken effect.
func (p *Pool) Do(ctx context.Context, step func(*pgx.Conn) error) (broken bool, err error) {
	broken, err = p.try(ctx, step)
	if cannot(err) && ctx.Err() == nil {
		p.renew()
		broken, err = p.try(ctx, step)
	}
	// A context that ends breaks the connection that it waits for. If nobody gave up,
	// no answer came in time, and none may come to any other: the server may be gone.
	if broken && ctx.Err() == nil || err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		p.renew()
	}
	return broken, err
}

// try runs a step on a connection of the pool.
func (p *Pool) try(ctx context.Context, step func(*pgx.Conn) error) (broken bool, err error) {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	// One that is left in a transaction is closed.
	defer conn.Release()
	c := conn.Conn()
	if err = requirePrimary(ctx, c); err == nil {
		err = step(c)
	}
	switch {
	case cannot(err):
		_ = c.Close(ctx)
		return false, err
	case Ends(err):
		_ = c.Close(ctx)
	case err != nil && !c.IsClosed() && c.PgConn().TxStatus() != 'I':
		_, _ = c.Exec(ctx, `ROLLBACK`)
	}
	return c.IsClosed(), err
}

// requirePrimary returns ErrStandby of a connection to a standby. PostgreSQL 14 and
// later say so unasked, when a connection is made and when a standby is promoted: it
// costs no round trip. A pooler in between may say what was true once, so that a yes
// is asked for again.
func requirePrimary(ctx context.Context, c *pgx.Conn) error {
	if c.PgConn().ParameterStatus("in_hot_standby") != "on" {
		return nil
	}
	var standby bool
	if err := c.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby); err != nil {
		return err
	}
	if standby {
		return ErrStandby
	}
	return nil
}

// cannot reports whether a server said that it cannot do a step, which has changed
// nothing: read_only_sql_transaction, and cannot_connect_now.
func cannot(err error) bool {
	var answer *pgconn.PgError
	return errors.Is(err, ErrStandby) || errors.As(err, &answer) && (answer.Code == "25006" || answer.Code == "57P03")
}

// Ends reports whether a server said that it ends the connection, with whatever had
// been sent to it: admin_shutdown, crash_shutdown and the others of their kind, and
// whatever else it does not survive. A panic comes of a log of writes that cannot be
// flushed, too, in which a commit may be found afterwards. No commit is under way in a
// connection that ends for its transaction (class 25), as one that idles in it does.
func Ends(err error) bool {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return false
	}
	fatal := answer.SeverityUnlocalized == "FATAL" || answer.SeverityUnlocalized == "PANIC"
	return strings.HasPrefix(answer.Code, "57P") || fatal && !strings.HasPrefix(answer.Code, "25")
}

// renew closes all connections, those in use when they are given back. It does so
// at most once a second: a database that stays read-only does not have them all made
// anew by each write.
func (p *Pool) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.renewed) >= time.Second {
		p.renewed = now
		p.pool.Reset()
	}
}
