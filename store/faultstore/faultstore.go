// Package faultstore makes a store fail, for the tests of its callers.
//
//	faulty := faultstore.New(memstore.New())
//	faulty.Script(faultstore.Once(faulty.Calls()+1, faultstore.After))
//	err := faulty.Create(ctx, session, 10) // fails, but the session is there
//
// A network or a database fails in three ways, which a caller can distinguish only by the state
// that it finds later: nothing happened, everything happened and the answer was lost, or no answer
// came in time.
package faultstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/store"
)

// ErrFault is wrapped by the errors that a [Store] injects.
var ErrFault = errors.New("injected fault")

// A Fault is what happens to a call.
type Fault int

const (
	None         Fault = iota // the call goes through
	Before                    // it does nothing and fails with ErrFault
	After                     // it takes effect; then it fails with ErrFault
	Timeout                   // it does nothing until the context ends; then it fails with the context's error
	TimeoutAfter              // it takes effect; then it waits until the context ends and fails with the context's error
)

// A Call is one call of a method of the store.
type Call struct {
	N      int    // which one it is of all calls, from 1
	Method string // such as "Get"
}

// Store is a [store.Store] around another one, which fails as its script says.
// If the other store itself fails, its error is returned. Store is made by
// [New].
type Store struct {
	inner store.Store

	mu     sync.Mutex
	script func(Call) Fault
	calls  int
	counts map[string]int
}

// New returns a store that passes every call on to inner, until it gets a
// script.
func New(inner store.Store) *Store {
	return &Store{inner: inner, counts: map[string]int{}}
}

// Script sets what happens to the calls that follow; nil lets them through. The
// script is called once for each of them, never twice at a time. It must not
// call the Store.
func (f *Store) Script(script func(Call) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = script
}

// Once is the script by which the call number n meets the fault, and no other.
func Once(n int, fault Fault) func(Call) Fault {
	return func(c Call) Fault {
		if c.N == n {
			return fault
		}
		return None
	}
}

// Always is the script by which every call of one of the methods meets the
// fault; with no methods, every call.
func Always(fault Fault, methods ...string) func(Call) Fault {
	return func(c Call) Fault {
		if len(methods) == 0 {
			return fault
		}
		for _, m := range methods {
			if c.Method == m {
				return fault
			}
		}
		return None
	}
}

// Calls returns the number of calls so far, including those that failed.
func (f *Store) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// Counts returns the number of calls so far by method, including those that failed. It omits
// methods that were not called.
func (f *Store) Counts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.counts)
}

// Reset sets the counts to zero, so that the next call is number 1.
func (f *Store) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = 0
	clear(f.counts)
}

// do counts a call, and makes it or lets it fail.
func (f *Store) do(ctx context.Context, method string, call func() error) error {
	f.mu.Lock()
	f.calls++
	f.counts[method]++
	fault := None
	if f.script != nil {
		fault = f.script(Call{N: f.calls, Method: method})
	}
	f.mu.Unlock()

	switch fault {
	case Before:
		return fmt.Errorf("%s: %w before it was done", method, ErrFault)
	case Timeout:
		<-ctx.Done()
		return fmt.Errorf("%s: %w: %w", method, ErrFault, ctx.Err())
	}
	if err := call(); err != nil {
		return err
	}
	switch fault {
	case After:
		return fmt.Errorf("%s: %w after it was done", method, ErrFault)
	case TimeoutAfter:
		<-ctx.Done()
		return fmt.Errorf("%s: %w: %w", method, ErrFault, ctx.Err())
	}
	return nil
}

// Get implements [store.Sessions].
func (f *Store) Get(ctx context.Context, id string) (s store.Session, err error) {
	err = f.do(ctx, "Get", func() (err error) {
		s, err = f.inner.Get(ctx, id)
		return err
	})
	if err != nil {
		return store.Session{}, err
	}
	return s, nil
}

// Create implements [store.Sessions].
func (f *Store) Create(ctx context.Context, s store.Session, max int) error {
	return f.do(ctx, "Create", func() error { return f.inner.Create(ctx, s, max) })
}

// Update implements [store.Sessions].
func (f *Store) Update(ctx context.Context, s store.Session) (revision int64, err error) {
	err = f.do(ctx, "Update", func() (err error) {
		revision, err = f.inner.Update(ctx, s)
		return err
	})
	if err != nil {
		return 0, err
	}
	return revision, nil
}

// Admit implements [store.Sessions].
func (f *Store) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	return f.do(ctx, "Admit", func() error { return f.inner.Admit(ctx, subject, decide) })
}

// List implements [store.Sessions].
func (f *Store) List(ctx context.Context, filter store.Filter, cursor string, limit int) (page []store.Session, next string, err error) {
	err = f.do(ctx, "List", func() (err error) {
		page, next, err = f.inner.List(ctx, filter, cursor, limit)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrUnreadable) {
		return nil, "", err
	}
	return page, next, err
}

// Due implements [store.Sessions].
func (f *Store) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) (due []store.Session, err error) {
	err = f.do(ctx, "Due", func() (err error) {
		due, err = f.inner.Due(ctx, now, lease, limit)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrUnreadable) {
		return nil, err
	}
	return due, err
}

// Delete implements [store.Sessions].
func (f *Store) Delete(ctx context.Context, id string, revision int64) error {
	return f.do(ctx, "Delete", func() error { return f.inner.Delete(ctx, id, revision) })
}

// Stats implements [store.Sessions].
func (f *Store) Stats(ctx context.Context) (stats store.Stats, err error) {
	err = f.do(ctx, "Stats", func() (err error) {
		stats, err = f.inner.Stats(ctx)
		return err
	})
	if err != nil {
		return store.Stats{}, err
	}
	return stats, nil
}

// PutFence implements [store.Fences].
func (f *Store) PutFence(ctx context.Context, fence store.Fence) (put store.Fence, err error) {
	err = f.do(ctx, "PutFence", func() (err error) {
		put, err = f.inner.PutFence(ctx, fence)
		return err
	})
	if err != nil {
		return store.Fence{}, err
	}
	return put, nil
}

// MoveFence implements [store.Fences].
func (f *Store) MoveFence(ctx context.Context, fence store.Fence, due time.Time) error {
	return f.do(ctx, "MoveFence", func() error { return f.inner.MoveFence(ctx, fence, due) })
}

// DueFences implements [store.Fences].
func (f *Store) DueFences(ctx context.Context, now time.Time, limit int) (due []store.Fence, err error) {
	err = f.do(ctx, "DueFences", func() (err error) {
		due, err = f.inner.DueFences(ctx, now, limit)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrUnreadable) {
		return nil, err
	}
	return due, err
}

// Document implements [store.Documents].
func (f *Store) Document(ctx context.Context, key string) (d store.Document, err error) {
	err = f.do(ctx, "Document", func() (err error) {
		d, err = f.inner.Document(ctx, key)
		return err
	})
	if err != nil {
		return store.Document{}, err
	}
	return d, nil
}

// PutDocument implements [store.Documents].
func (f *Store) PutDocument(ctx context.Context, d store.Document) (version int64, err error) {
	err = f.do(ctx, "PutDocument", func() (err error) {
		version, err = f.inner.PutDocument(ctx, d)
		return err
	})
	if err != nil {
		return 0, err
	}
	return version, nil
}

// History implements [store.Documents].
func (f *Store) History(ctx context.Context, key string, before int64, limit int) (list []store.Document, err error) {
	err = f.do(ctx, "History", func() (err error) {
		list, err = f.inner.History(ctx, key, before, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// DropDocument implements [store.Documents].
func (f *Store) DropDocument(ctx context.Context, key string) error {
	return f.do(ctx, "DropDocument", func() error { return f.inner.DropDocument(ctx, key) })
}

// AddCounts implements [store.Counts].
func (f *Store) AddCounts(ctx context.Context, counts []store.Count) error {
	return f.do(ctx, "AddCounts", func() error { return f.inner.AddCounts(ctx, counts) })
}

// ReadCounts implements [store.Counts].
func (f *Store) ReadCounts(ctx context.Context, account string, from, to time.Time) (list []store.Count, err error) {
	err = f.do(ctx, "ReadCounts", func() (err error) {
		list, err = f.inner.ReadCounts(ctx, account, from, to)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// DropCounts implements [store.Counts].
func (f *Store) DropCounts(ctx context.Context, account string, before time.Time) error {
	return f.do(ctx, "DropCounts", func() error { return f.inner.DropCounts(ctx, account, before) })
}

// CountUnended implements [store.Counts].
func (f *Store) CountUnended(ctx context.Context, account string) (n int, err error) {
	err = f.do(ctx, "CountUnended", func() (err error) {
		n, err = f.inner.CountUnended(ctx, account)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}
