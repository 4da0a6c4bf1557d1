package engine

import "context"

// Gone reports whether a process does not run any more.
func Gone(pid int) bool { return gone(pid) }

// Query executes statements in a database and returns what is printed of their rows.
func (p *Postgres) Query(ctx context.Context, database string, statements ...string) (string, error) {
	return p.query(ctx, database, statements...)
}

// Psql is the path of PostgreSQL's client.
func (p *Postgres) Psql() string { return p.programs + "/psql" }

// Stranger sends a Redis a command without a password.
func Stranger(ctx context.Context, r *Redis, command ...string) ([]string, error) {
	return do(ctx, r.Addr(), "", command...)
}
