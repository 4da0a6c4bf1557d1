package main

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/pgstore"
)

func newPostgresRig(ctx context.Context) (*rig, error) {
	server, err := engine.NewPostgres()
	if err != nil {
		return nil, err
	}
	pool, err := newPool(ctx, server.URL(), "on")
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	r := &rig{bare: barePostgres{pool}, close: func() error {
		pool.Close()
		return server.Close()
	}}
	fail := func(err error) (*rig, error) { return nil, errors.Join(err, r.close()) }
	if r.store, err = pgstore.New(ctx, pool); err != nil {
		return fail(err)
	}
	if _, err := pool.Exec(ctx, `CREATE TABLE bare (id bytea NOT NULL PRIMARY KEY, document bytea NOT NULL)`); err != nil {
		return fail(err)
	}
	var pidFile string
	err = pool.QueryRow(ctx, `SELECT current_setting('server_version'), pg_read_file('postmaster.pid')`).Scan(&r.version, &pidFile)
	if err != nil {
		return fail(err)
	}
	r.version, _, _ = strings.Cut(r.version, " ") // what follows is the distribution's
	first, _, _ := strings.Cut(pidFile, "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return fail(err)
	}
	r.processes = func() ([]int, error) { return family(pid) }
	r.size = func(ctx context.Context) (bytes int64, err error) {
		err = pool.QueryRow(ctx, `SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
			WHERE c.relkind = 'r' AND c.relname LIKE 'curfew%'`).Scan(&bytes)
		return bytes, err
	}
	r.load = func(ctx context.Context, sessions iter.Seq[store.Session]) error {
		// Durable at the end is enough, and nothing must be left to do then.
		fast, err := newPool(ctx, server.URL(), "off")
		if err != nil {
			return err
		}
		defer fast.Close()
		s, err := pgstore.New(ctx, fast)
		if err != nil {
			return err
		}
		if err := loadByCreate(s, 16)(ctx, sessions); err != nil {
			return err
		}
		for _, statement := range []string{`VACUUM ANALYZE`, `CHECKPOINT`} {
			if _, err := pool.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	}
	return r, nil
}

// newPool returns connections with a value of synchronous_commit, which is "on" by
// default.
func newPool(ctx context.Context, url, synchronousCommit string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = connections
	config.ConnConfig.RuntimeParams["synchronous_commit"] = synchronousCommit
	return pgxpool.NewWithConfig(ctx, config)
}

// A barePostgres reads and writes rows by pgx.
type barePostgres struct{ pool *pgxpool.Pool }

func (b barePostgres) put(ctx context.Context, id string, document []byte) error {
	_, err := b.pool.Exec(ctx, `INSERT INTO bare (id, document) VALUES ($1, $2)`, []byte(id), document)
	return err
}

func (b barePostgres) read(ctx context.Context, id string) (document []byte, err error) {
	err = b.pool.QueryRow(ctx, `SELECT document FROM bare WHERE id = $1`, []byte(id)).Scan(&document)
	return document, err
}

func (b barePostgres) update(ctx context.Context, id string, document []byte) error {
	_, err := b.pool.Exec(ctx, `UPDATE bare SET document = $2 WHERE id = $1`, []byte(id), document)
	return err
}
