package main

import (
	"context"
	"fmt"

	"github.com/curfew-oidc/curfew/store"
)

// An engine is a database that the processes share, and which tells afterwards
// what was committed to it, in the order in which it was.
type engine interface {
	name() string

	// url is what the flag -store of examples/op says.
	url() string

	// open returns the store in it, for who has to write past the processes.
	open(ctx context.Context) (store.Store, func() error, error)

	// record begins the history. The tables are there already.
	record(ctx context.Context) error

	// history returns what was committed since it was called last, or since
	// record.
	history(ctx context.Context) ([]commit, error)

	close() error
}

// engineNames are the engines that newEngine knows.
var engineNames = []string{"SQLite", "PostgreSQL", "Redis"}

// newEngine returns an empty engine. dir is for its files.
func newEngine(ctx context.Context, name, dir string) (engine, error) {
	switch name {
	case "SQLite":
		return newSQLite(dir), nil
	case "PostgreSQL":
		return newPostgres(ctx)
	case "Redis":
		return newRedis()
	}
	return nil, fmt.Errorf("unknown engine %q", name)
}
