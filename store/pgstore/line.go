package pgstore

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
)

// A line makes those who want the same thing wait for each other before they take a
// connection, in the order of their coming. The database's locks are what keeps them
// apart; this only keeps one subject from holding all connections while another
// process has such a lock.
type line struct {
	mu    sync.Mutex
	turns map[string]*turn
}

type turn struct {
	tokens chan struct{} // holds one for each who has the turn
	users  int           // who has it and who waits
}

// updatesAtOnce is how many updates of one subject's sessions have a connection.
const updatesAtOnce = 4

// admitInLine runs a step that counts the sessions of a subject as [Store.do] does,
// when no other of this process does.
func (s *Store) admitInLine(ctx context.Context, subject []byte, step func(c *pgx.Conn) error) error {
	return s.line.wait(ctx, "admit "+string(subject), 1, func() error { return s.do(ctx, step) })
}

// writeInLine runs a step that writes a session as [Store.do] does, when no other of
// this process writes it.
func (s *Store) writeInLine(ctx context.Context, id string, step func(c *pgx.Conn) error) error {
	return s.line.wait(ctx, "session "+id, 1, func() error { return s.do(ctx, step) })
}

// updateInLine does so when few write others of the subject's, all of which a step of
// another process locks.
func (s *Store) updateInLine(ctx context.Context, id string, subject []byte, step func(c *pgx.Conn) error) error {
	return s.line.wait(ctx, "session "+id, 1, func() error {
		return s.line.wait(ctx, "updates "+string(subject), updatesAtOnce, func() error { return s.do(ctx, step) })
	})
}

// wait calls do when it is its turn, which so many have at once.
func (l *line) wait(ctx context.Context, key string, atOnce int, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t := l.join(key, atOnce)
	defer l.leave(key, t)
	select {
	case t.tokens <- struct{}{}:
		defer func() { <-t.tokens }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return do()
}

func (l *line) join(key string, atOnce int) *turn {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.turns[key]
	if t == nil {
		t = &turn{tokens: make(chan struct{}, atOnce)}
		if l.turns == nil {
			l.turns = map[string]*turn{}
		}
		l.turns[key] = t
	}
	t.users++
	return t
}

func (l *line) leave(key string, t *turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.users--; t.users == 0 {
		delete(l.turns, key)
	}
}
