// Package faultstore makes a store fail, for the tests of its callers.
//
//	faulty := faultstore.New(memstore.New())
//	faulty.Script(faultstore.Once(faulty.Calls()+1, faultstore.After))
//	err := faulty.Create(ctx, session, 10) // fails, but the session is there
//
// A network or a database fails in three ways that a caller can tell apart only
// by what it finds later: nothing happened, all happened and the answer was
// lost, or no answer came in time.
package faultstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/curfew-oidc/curfew/internal/intercept"
	"github.com/curfew-oidc/curfew/store"
)

// ErrFault is wrapped by the errors that a [Store] makes up.
var ErrFault = errors.New("injected fault")

// A Fault is what happens to a call.
type Fault int

const (
	None         Fault = iota // the call goes through
	Before                    // it does nothing and fails with ErrFault
	After                     // it does what it does; then it fails with ErrFault
	Timeout                   // it does nothing until the context ends; then it fails with the context's error
	TimeoutAfter              // it does what it does; then it waits until the context ends and fails with its error
)

// A Call is one call of a method of the store.
type Call struct {
	N      int    // which one it is of all calls, from 1
	Method string // such as "Get"
}

// Store is a [store.Store] and a [store.Counts] around another one, which fails as its
// script says. Where the other store fails itself, its error is returned. Store is made by
// [New].
type Store struct {
	*wrapped
	*wrappedCounts

	mu     sync.Mutex
	script func(Call) Fault
	calls  int
	counts map[string]int
}

type (
	wrapped       = intercept.Store[Fault]
	wrappedCounts = intercept.Counts[Fault]
)

// New returns a store that passes every call on to inner, until it gets a
// script. Its counts are those of inner, which keeps some if they are asked for.
func New(inner store.Store) *Store {
	f := &Store{counts: map[string]int{}}
	hooks := &intercept.Hooks[Fault]{Before: f.before, After: after}
	counts, _ := inner.(store.Counts)
	f.wrapped, f.wrappedCounts = intercept.New(inner, hooks), intercept.NewCounts(counts, hooks)
	return f
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

// Calls returns the number of calls so far, those that failed included.
func (f *Store) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// Counts returns the number of calls so far by method, those that failed
// included. A method that was not called is not in it.
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

// before counts a call, and lets it fail before it is made.
func (f *Store) before(ctx context.Context, op intercept.Operation) (context.Context, Fault, error) {
	switch fault := f.next(op.Method); fault {
	case Before:
		return ctx, fault, fmt.Errorf("%s: %w before it was done", op.Method, ErrFault)
	case Timeout:
		<-ctx.Done()
		return ctx, fault, fmt.Errorf("%s: %w: %w", op.Method, ErrFault, ctx.Err())
	default:
		return ctx, fault, nil
	}
}

// next counts a call and returns what happens to it.
func (f *Store) next(method string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.counts[method]++
	if f.script == nil {
		return None
	}
	return f.script(Call{N: f.calls, Method: method})
}

// after lets a call fail that was made, and did not fail by itself.
func after(ctx context.Context, fault Fault, op intercept.Operation, r intercept.Result) error {
	switch {
	case r.Err != nil:
		return nil
	case fault == After:
		return fmt.Errorf("%s: %w after it was done", op.Method, ErrFault)
	case fault == TimeoutAfter:
		<-ctx.Done()
		return fmt.Errorf("%s: %w: %w", op.Method, ErrFault, ctx.Err())
	}
	return nil
}
