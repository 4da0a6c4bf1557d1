package pgstore

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
)

// A line makes those who want the same subject wait for each other before they
// take a connection, in the order of their coming. The database's lock is what
// keeps them apart; this only keeps one subject from holding all connections.
type line struct {
	mu   sync.Mutex
	subs map[string]*turn
}

type turn struct {
	token chan struct{} // holds one while somebody has the turn
	users int           // who has it and who waits
}

// inLine runs a step as [Store.do] does, when it is its turn.
func (s *Store) inLine(ctx context.Context, subject []byte, step func(c *pgx.Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := string(subject)
	t := s.line.join(key)
	defer s.line.leave(key, t)
	select {
	case t.token <- struct{}{}:
		defer func() { <-t.token }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.do(ctx, step)
}

func (l *line) join(key string) *turn {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.subs[key]
	if t == nil {
		t = &turn{token: make(chan struct{}, 1)}
		if l.subs == nil {
			l.subs = map[string]*turn{}
		}
		l.subs[key] = t
	}
	t.users++
	return t
}

func (l *line) leave(key string, t *turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.users--; t.users == 0 {
		delete(l.subs, key)
	}
}
