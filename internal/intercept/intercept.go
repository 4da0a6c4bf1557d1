// Package intercept stands around a store and tells of each call.
//
// Stores that inject faults, make spans or measure differ in what they do before and after a call, not in
// how they pass it on. That is written here, once: a method that is added to the contract of a store is
// added to this package, and to no other wrapper.
package intercept

import (
	"context"
	"errors"
	"time"

	"github.com/curfew-oidc/curfew/internal/outcome"
	"github.com/curfew-oidc/curfew/store"
)

// An Operation is a method of a store.
type Operation struct {
	Method string // such as "PutFence"
	Name   string // such as "put_fence", in metrics and spans
}

// A Result is how a call came out.
type Result struct {
	Err      error // what the inner store returned; if it panicked, an error that says so
	Declined bool  // Admit's decide returned the error
	Sessions int   // how many List and Due returned, or Admit wrote
	Retries  int   // how often Admit's decide ran again
}

// Outcome returns the result in one word, of those of package outcome.
func (r *Result) Outcome() string {
	if r.Declined {
		return outcome.Declined
	}
	return outcome.Of(r.Err)
}

// Hooks are what a wrapper does around each call. S is what Before remembers for After. Both are required.
type Hooks[S any] struct {
	// Before returns the context for the call. If it returns an error, the call is not made and fails with it.
	Before func(ctx context.Context, op Operation) (context.Context, S, error)

	// After is called once for each call that was made, also for one that panicked. Its error becomes that of
	// a call that went well, which then returns nothing else.
	After func(ctx context.Context, s S, op Operation, r Result) error
}

var errPanic = errors.New("the store panicked")

// call makes one call. It calls do and does not keep it, so that the closures of the methods below need no
// memory: measuring allocates nothing.
func call[S, R any](ctx context.Context, hooks *Hooks[S], op Operation, do func(context.Context) (R, Result)) (value R, err error) {
	ctx, state, err := hooks.Before(ctx, op)
	if err != nil {
		return value, err
	}
	result := Result{Err: errPanic}
	defer func() {
		if failed := hooks.After(ctx, state, op, result); failed != nil && err == nil {
			var nothing R
			value, err = nothing, failed
		}
	}()
	value, result = do(ctx)
	return value, result.Err
}

// get makes a call of which nothing is told but its error.
func get[S, R any](ctx context.Context, hooks *Hooks[S], op Operation, do func(context.Context) (R, error)) (R, error) {
	return call(ctx, hooks, op, func(ctx context.Context) (R, Result) {
		value, err := do(ctx)
		return value, Result{Err: err}
	})
}

// run makes a call that returns an error only.
func run[S any](ctx context.Context, hooks *Hooks[S], op Operation, do func(context.Context) error) error {
	_, err := call(ctx, hooks, op, func(ctx context.Context) (struct{}, Result) { return struct{}{}, Result{Err: do(ctx)} })
	return err
}

// Operations are all of them.
var Operations = []Operation{
	opGet, opCreate, opUpdate, opAdmit, opList, opDue, opDelete, opStats,
	opPutFence, opMoveFence, opDueFences,
	opDocument, opPutDocument, opHistory, opDropDocument,
	opAddCounts, opReadCounts, opDropCounts, opCountUnended,
}

var (
	opGet    = Operation{"Get", "get"}
	opCreate = Operation{"Create", "create"}
	opUpdate = Operation{"Update", "update"}
	opAdmit  = Operation{"Admit", "admit"}
	opList   = Operation{"List", "list"}
	opDue    = Operation{"Due", "due"}
	opDelete = Operation{"Delete", "delete"}
	opStats  = Operation{"Stats", "stats"}

	opPutFence  = Operation{"PutFence", "put_fence"}
	opMoveFence = Operation{"MoveFence", "move_fence"}
	opDueFences = Operation{"DueFences", "due_fences"}

	opDocument     = Operation{"Document", "document"}
	opPutDocument  = Operation{"PutDocument", "put_document"}
	opHistory      = Operation{"History", "history"}
	opDropDocument = Operation{"DropDocument", "drop_document"}

	opAddCounts    = Operation{"AddCounts", "add_counts"}
	opReadCounts   = Operation{"ReadCounts", "read_counts"}
	opDropCounts   = Operation{"DropCounts", "drop_counts"}
	opCountUnended = Operation{"CountUnended", "count_unended"}
)

// Store is a [store.Store] around another one. It embeds nothing, so that no method is forgotten. It is made
// by [New].
type Store[S any] struct {
	inner store.Store
	hooks *Hooks[S]
}

// New returns a store that calls the hooks around each call of inner.
func New[S any](inner store.Store, hooks *Hooks[S]) *Store[S] {
	return &Store[S]{inner, hooks}
}

// Get implements [store.Sessions].
func (s *Store[S]) Get(ctx context.Context, id string) (store.Session, error) {
	return get(ctx, s.hooks, opGet, func(ctx context.Context) (store.Session, error) { return s.inner.Get(ctx, id) })
}

// Create implements [store.Sessions].
func (s *Store[S]) Create(ctx context.Context, session store.Session, max int) error {
	return run(ctx, s.hooks, opCreate, func(ctx context.Context) error { return s.inner.Create(ctx, session, max) })
}

// Update implements [store.Sessions].
func (s *Store[S]) Update(ctx context.Context, session store.Session) (revision int64, err error) {
	return get(ctx, s.hooks, opUpdate, func(ctx context.Context) (int64, error) { return s.inner.Update(ctx, session) })
}

// Admit implements [store.Sessions].
func (s *Store[S]) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	_, err := call(ctx, s.hooks, opAdmit, func(ctx context.Context) (struct{}, Result) {
		var step outcome.Step
		r := Result{Err: s.inner.Admit(ctx, subject, step.Watch(decide))}
		r.Declined, r.Retries = step.Of(r.Err) == outcome.Declined, max(0, step.Runs-1)
		if r.Err == nil {
			r.Sessions = step.Decided
		}
		return struct{}{}, r
	})
	return err
}

// List implements [store.Sessions].
func (s *Store[S]) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	type page struct {
		sessions []store.Session
		next     string
	}
	p, err := call(ctx, s.hooks, opList, func(ctx context.Context) (page, Result) {
		sessions, next, err := s.inner.List(ctx, f, cursor, limit)
		return page{sessions, next}, Result{Err: err, Sessions: len(sessions)}
	})
	return p.sessions, p.next, err
}

// Due implements [store.Sessions].
func (s *Store[S]) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	return call(ctx, s.hooks, opDue, func(ctx context.Context) ([]store.Session, Result) {
		due, err := s.inner.Due(ctx, now, lease, limit)
		return due, Result{Err: err, Sessions: len(due)}
	})
}

// Delete implements [store.Sessions].
func (s *Store[S]) Delete(ctx context.Context, id string, revision int64) error {
	return run(ctx, s.hooks, opDelete, func(ctx context.Context) error { return s.inner.Delete(ctx, id, revision) })
}

// Stats implements [store.Sessions].
func (s *Store[S]) Stats(ctx context.Context) (store.Stats, error) {
	return get(ctx, s.hooks, opStats, func(ctx context.Context) (store.Stats, error) { return s.inner.Stats(ctx) })
}

// PutFence implements [store.Fences].
func (s *Store[S]) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	return get(ctx, s.hooks, opPutFence, func(ctx context.Context) (store.Fence, error) { return s.inner.PutFence(ctx, f) })
}

// MoveFence implements [store.Fences].
func (s *Store[S]) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	return run(ctx, s.hooks, opMoveFence, func(ctx context.Context) error { return s.inner.MoveFence(ctx, f, due) })
}

// DueFences implements [store.Fences].
func (s *Store[S]) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	return get(ctx, s.hooks, opDueFences, func(ctx context.Context) ([]store.Fence, error) { return s.inner.DueFences(ctx, now, limit) })
}

// Document implements [store.Documents].
func (s *Store[S]) Document(ctx context.Context, key string) (store.Document, error) {
	return get(ctx, s.hooks, opDocument, func(ctx context.Context) (store.Document, error) { return s.inner.Document(ctx, key) })
}

// PutDocument implements [store.Documents].
func (s *Store[S]) PutDocument(ctx context.Context, d store.Document) (version int64, err error) {
	return get(ctx, s.hooks, opPutDocument, func(ctx context.Context) (int64, error) { return s.inner.PutDocument(ctx, d) })
}

// History implements [store.Documents].
func (s *Store[S]) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	return get(ctx, s.hooks, opHistory, func(ctx context.Context) ([]store.Document, error) { return s.inner.History(ctx, key, before, limit) })
}

// DropDocument implements [store.Documents].
func (s *Store[S]) DropDocument(ctx context.Context, key string) error {
	return run(ctx, s.hooks, opDropDocument, func(ctx context.Context) error { return s.inner.DropDocument(ctx, key) })
}

// Counts is a [store.Counts] around another one. It is made by [NewCounts].
type Counts[S any] struct {
	inner store.Counts
	hooks *Hooks[S]
}

// NewCounts is [New] for counts.
func NewCounts[S any](inner store.Counts, hooks *Hooks[S]) *Counts[S] {
	return &Counts[S]{inner, hooks}
}

// AddCounts implements [store.Counts].
func (s *Counts[S]) AddCounts(ctx context.Context, counts []store.Count) error {
	return run(ctx, s.hooks, opAddCounts, func(ctx context.Context) error { return s.inner.AddCounts(ctx, counts) })
}

// ReadCounts implements [store.Counts].
func (s *Counts[S]) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	return get(ctx, s.hooks, opReadCounts, func(ctx context.Context) ([]store.Count, error) { return s.inner.ReadCounts(ctx, account, from, to) })
}

// DropCounts implements [store.Counts].
func (s *Counts[S]) DropCounts(ctx context.Context, account string, before time.Time) error {
	return run(ctx, s.hooks, opDropCounts, func(ctx context.Context) error { return s.inner.DropCounts(ctx, account, before) })
}

// CountUnended implements [store.Counts].
func (s *Counts[S]) CountUnended(ctx context.Context, account string) (int, error) {
	return get(ctx, s.hooks, opCountUnended, func(ctx context.Context) (int, error) { return s.inner.CountUnended(ctx, account) })
}
