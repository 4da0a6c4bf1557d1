package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A rig is an empty store in an engine of its own.
type rig struct {
	version string // of the engine; empty: it is a part of this program
	store   store.Store

	// bare is the same driver on a table of its own in the same engine. Nil:
	// there is no driver.
	bare bare

	// processes returns the IDs of the engine's processes. Nil: the engine is
	// a part of this one.
	processes func() ([]int, error)

	// load adds sessions, in ascending order of ID, by the fastest way there is
	// that leaves what the store would have written.
	load func(ctx context.Context, sessions iter.Seq[store.Session]) error

	// size returns how many bytes the engine uses for what is in the store.
	size func(ctx context.Context) (int64, error)

	close func() error
}

// A bare is what a store is compared with: a driver that reads and durably
// writes a row, and knows nothing of sessions.
type bare interface {
	put(ctx context.Context, id string, document []byte) error
	read(ctx context.Context, id string) (document []byte, err error)
	update(ctx context.Context, id string, document []byte) error
}

// engineNames are the engines, as the tables call them.
var engineNames = []string{"memory", "SQLite", "PostgreSQL", "Redis"}

// connections is how many connections to a server a rig may use: one for each
// of the most clients.
const connections = manyClients

// newRig starts an engine; dir is where files go.
func newRig(ctx context.Context, name, dir string) (*rig, error) {
	var r *rig
	var err error
	switch name {
	case "memory":
		r = newMemoryRig()
	case "SQLite":
		r, err = newSQLiteRig(dir)
	case "PostgreSQL":
		r, err = newPostgresRig(ctx)
	case "Redis":
		r, err = newRedisRig(ctx)
	default:
		err = errors.New("there is no such engine")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

func newMemoryRig() *rig {
	s := memstore.New()
	return &rig{store: s, load: loadByCreate(s, 1), close: func() error { return nil }}
}

// loadByCreate adds sessions by the store's own Create, several at a time.
func loadByCreate(s store.Store, workers int) func(context.Context, iter.Seq[store.Session]) error {
	return func(ctx context.Context, sessions iter.Seq[store.Session]) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		queue, done := make(chan store.Session, workers), make(chan struct{})
		for range workers {
			go func() {
				defer func() { done <- struct{}{} }()
				for one := range queue {
					if err := s.Create(ctx, one, math.MaxInt32); err != nil {
						cancel(err)
					}
				}
			}()
		}
		for one := range sessions {
			if ctx.Err() != nil {
				break
			}
			queue <- one
		}
		close(queue)
		for range workers {
			<-done
		}
		return context.Cause(ctx)
	}
}
