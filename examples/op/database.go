package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/redis/go-redis/v9"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/pgstore"
	"github.com/curfew-oidc/curfew/store/redisstore"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// A database keeps the login sessions, which are the hook's, and the records,
// which are the provider's.
type database struct {
	sessions store.Store
	counts   store.Counts // in the same place
	records  kv.Store
	close    func() error
}

// startTimeout is how long the database may take to answer at the start, and
// another process to bring its tables up to date.
const startTimeout = 10 * time.Second

func openDatabase(ctx context.Context, at storeURL) (*database, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	open := openMemory
	switch {
	case at.sqlite != "":
		open = openSQLite
	case at.postgres != nil:
		open = openPostgres
	case at.redis != nil:
		open = openRedis
	}
	db, err := open(ctx, at)
	for err != nil && at.remote() && tookTooLong(err) && ctx.Err() == nil {
		db, err = open(ctx, at) // a step has less time than all of it
	}
	if err != nil {
		if at.remote() && ctx.Err() != nil {
			err = fmt.Errorf("no answer within %s: %w", startTimeout, err)
		}
		return nil, fmt.Errorf("%s: %w", at.where, err)
	}
	return db, nil
}

// tookTooLong reports whether a server did not answer in time, rather than in the
// negative.
func tookTooLong(err error) bool {
	var slow net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout()
}

func openMemory(context.Context, storeURL) (*database, error) {
	sessions := memstore.New()
	return &database{sessions, sessions, kv.NewMemory(), func() error { return nil }}, nil
}

func openSQLite(ctx context.Context, at storeURL) (*database, error) {
	path, err := filepath.Abs(at.sqlite)
	if err != nil {
		return nil, err
	}
	// Made here, so that nobody else can read it. The driver makes the log of
	// writes beside it for everybody to read unless it is told whose mode to take,
	// and the index of that log, which has no content, in any case: who can read
	// it can lock it.
	for _, name := range []string{path, path + "-shm"} {
		file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := file.Close(); err != nil {
			return nil, err
		}
	}
	// What is acknowledged is on the disk: synchronous. Who finds the database
	// busy waits, in this process and in others.
	query := "_pragma=busy_timeout(2000)&_pragma=synchronous(full)&_txlock=immediate&modeof=" +
		strings.ReplaceAll(url.QueryEscape(path), "+", "%20") // SQLite takes + for itself
	name := url.URL{Scheme: "file", Path: path, RawQuery: query}
	db, err := sql.Open("sqlite3", name.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	sessions, err := sqlitestore.New(ctx, db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	records, err := kv.NewSQLite(ctx, db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &database{sessions, sessions, records, db.Close}, nil
}

func openPostgres(ctx context.Context, at storeURL) (*database, error) {
	pool, err := pgxpool.NewWithConfig(ctx, at.postgres)
	if err != nil {
		return nil, err
	}
	sessions, err := pgstore.New(ctx, pool)
	if err != nil {
		pool.Close()
		return nil, err
	}
	records, err := kv.NewPostgres(ctx, pool)
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &database{sessions, sessions, timely{records}, func() error {
		pool.Close()
		return nil
	}}, nil
}

func openRedis(ctx context.Context, at storeURL) (*database, error) {
	client := redis.NewUniversalClient(at.redis)
	sessions, err := redisstore.New(ctx, client)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &database{sessions, sessions, timely{kv.NewRedis(client)}, client.Close}, nil
}

// redisLog is where the Redis client says what it notices, such as a fail-over.
// What fails is said by those who asked.
type redisLog struct{}

func init() { redis.SetLogger(redisLog{}) }

func (redisLog) Printf(ctx context.Context, format string, args ...any) {
	slog.InfoContext(ctx, "Redis client: "+fmt.Sprintf(format, args...))
}

// timely is records over a network, which may swallow a question. The hook gives
// each step of its own a time; this does it for the provider's.
type timely struct{ kv.Store }

func (s timely) Get(ctx context.Context, key string) (kv.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.Store.Get(ctx, key)
}

func (s timely) Put(ctx context.Context, r kv.Record) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.Store.Put(ctx, r)
}

func (s timely) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.Store.Delete(ctx, key)
}

func (s timely) DeleteGroup(ctx context.Context, group string) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.Store.DeleteGroup(ctx, group)
}

func (s timely) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.Store.Sweep(ctx, now, limit)
}
