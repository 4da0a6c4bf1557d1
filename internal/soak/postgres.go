package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	private "github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/pgstore"
)

// A postgres is an engine. Its history is what the server's logical decoding says
// of its write-ahead log: whole transactions, in the order in which they were
// committed.
type postgres struct {
	server   *private.Postgres
	database string
}

func newPostgres(ctx context.Context) (*postgres, error) {
	server, err := private.NewPostgres("wal_level=logical")
	if err != nil {
		return nil, err
	}
	database, err := server.CreateDatabase(ctx)
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	return &postgres{server, database}, nil
}

func (e *postgres) name() string { return "PostgreSQL" }
func (e *postgres) url() string  { return e.database }
func (e *postgres) close() error { return e.server.Close() }

func (e *postgres) open(ctx context.Context) (store.Store, func() error, error) {
	pool, err := pgxpool.New(ctx, e.database)
	if err != nil {
		return nil, nil, err
	}
	s, err := pgstore.New(ctx, pool)
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return s, func() error { pool.Close(); return nil }, nil
}

func (e *postgres) connected(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, e.database)
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close(ctx))
}

func (e *postgres) record(ctx context.Context) error {
	return e.connected(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_create_logical_replication_slot('soak', 'test_decoding')`)
		return err
	})
}

// The lines of test_decoding.
var (
	decodedWrite  = regexp.MustCompile(`^table public\.curfew_sessions: (?:INSERT|UPDATE): .* document\[bytea\]:(?:'\\x([0-9a-f]*)'|unchanged-toast-datum)$`)
	decodedDelete = regexp.MustCompile(`^table public\.curfew_sessions: DELETE: id\[bytea\]:'\\x([0-9a-f]*)'$`)
)

func (e *postgres) history(ctx context.Context) (list []commit, err error) {
	err = e.connected(ctx, func(conn *pgx.Conn) error {
		// What was got does not come again.
		rows, err := conn.Query(ctx, `SELECT data FROM pg_logical_slot_get_changes('soak', NULL, NULL)`)
		if err != nil {
			return err
		}
		defer rows.Close()
		list = nil
		var c commit
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				return err
			}
			switch {
			case strings.HasPrefix(line, "BEGIN "):
				c = nil
			case strings.HasPrefix(line, "COMMIT "):
				if len(c) > 0 {
					list = append(list, c)
				}
			case strings.HasPrefix(line, "table public.curfew_sessions: "):
				if c, err = appendDecoded(c, line); err != nil {
					return err
				}
			}
		}
		return rows.Err()
	})
	return list, err
}

// appendDecoded appends what a line says of a session.
func appendDecoded(c commit, line string) (commit, error) {
	if m := decodedDelete.FindStringSubmatch(line); m != nil {
		id, err := hex.DecodeString(m[1])
		return append(c, change{id: string(id)}), err
	}
	m := decodedWrite.FindStringSubmatch(line)
	switch {
	case m == nil:
		return nil, fmt.Errorf("the server's log has a line that is not understood: %.200q", line)
	case m[1] == "": // the document stayed as it was: a claim
		return c, nil
	}
	document, err := hex.DecodeString(m[1])
	if err != nil {
		return nil, err
	}
	s, err := parseSession(document)
	if err != nil {
		return nil, err
	}
	return append(c, change{id: s.ID, session: s}), nil
}
