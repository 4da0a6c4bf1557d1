package pgstore

import (
	"context"

	"github.com/curfew-oidc/curfew/internal/keylock"
	"github.com/jackc/pgx/v5"
)

// lines make those who want the same thing wait for each other before they take a
// connection, in the order of their coming. The database's locks are what keeps them
// apart; this only keeps one subject from holding all connections while another
// process has such a lock.
type lines struct {
	alone   keylock.Locks // by step and subject or session
	updates keylock.Locks // by subject, of updatesAtOnce
}

// updatesAtOnce is how many updates of one subject's sessions have a connection.
const updatesAtOnce = 4

// admitInLine runs a step that counts the sessions of a subject as [Store.do] does,
// when no other of this process does.
func (s *Store) admitInLine(ctx context.Context, subject []byte, step func(c *pgx.Conn) error) error {
	return wait(ctx, &s.lines.alone, "admit "+string(subject), func() error { return s.do(ctx, step) })
}

// writeInLine runs a step that writes a session as [Store.do] does, when no other of
// this process writes it.
func (s *Store) writeInLine(ctx context.Context, id string, step func(c *pgx.Conn) error) error {
	return wait(ctx, &s.lines.alone, "session "+id, func() error { return s.do(ctx, step) })
}

// updateInLine does so when few write others of the subject's, all of which a step of
// another process locks.
func (s *Store) updateInLine(ctx context.Context, id string, subject []byte, step func(c *pgx.Conn) error) error {
	return wait(ctx, &s.lines.alone, "session "+id, func() error {
		return wait(ctx, &s.lines.updates, string(subject), func() error { return s.do(ctx, step) })
	})
}

// wait calls do when it has the lock of the name.
func wait(ctx context.Context, locks *keylock.Locks, name string, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	unlock, err := locks.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}
