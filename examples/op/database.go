package main

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	_ "github.com/ncruces/go-sqlite3/driver"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// A database keeps the login sessions, which are the hook's, and the records,
// which are the provider's.
type database struct {
	sessions store.Store
	records  kv.Store
	close    func() error
}

func openDatabase(ctx context.Context, spec string) (_ *database, err error) {
	path, ok := strings.CutPrefix(spec, "sqlite:")
	if !ok {
		return &database{memstore.New(), kv.NewMemory(), func() error { return nil }}, nil
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	// Made here, so that nobody else can read it; SQLite gives the files beside
	// it the same mode.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	// What is acknowledged is on the disk: synchronous. Who finds the database
	// busy waits, in this process and in others.
	name := url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(2000)&_pragma=synchronous(full)&_txlock=immediate"}
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
	return &database{sessions, records, db.Close}, nil
}
