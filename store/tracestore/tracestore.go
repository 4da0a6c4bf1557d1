// Package tracestore makes an OpenTelemetry span of each call of a store.
//
//	sessions := tracestore.New(inner, otel.GetTracerProvider())
//
// It uses only the API of OpenTelemetry; the caller's provider decides which spans are kept, and
// where they go. The context with the span is passed on, so that the spans of an instrumented
// driver are its children.
//
// A span is named after the method, such as "store.Get", and has attributes:
//
//   - curfew.store.operation: get, create, update, admit, list, due, delete, stats,
//     put_fence, move_fence, due_fences, document, put_document, history, add_counts,
//     read_counts, drop_counts, count_unended.
//   - curfew.store.outcome: ok; not_found, conflict, exists, full, fenced, declined
//     (by the policy), which are answers; canceled (the caller gave up); timeout,
//     error.
//   - curfew.store.sessions: how many sessions List and Due returned, or Admit
//     wrote.
//   - curfew.store.retries: how often the decision of Admit ran again, because
//     the step lost a race.
//
// The status is an error for the outcomes timeout and error, when the store did
// not answer. No attribute, name or status contains a subject, the ID of a session, the key of a
// document, or the text of an error, which might contain one of these.
package tracestore

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/curfew-oidc/curfew/internal/outcome"
	"github.com/curfew-oidc/curfew/store"
)

// Scope is the name of the instrumentation scope of the spans.
const Scope = "github.com/curfew-oidc/curfew/store/tracestore"

// Store is a [store.Store] around another one, which makes spans. It is made by
// [New].
type Store struct {
	inner  store.Store
	tracer trace.Tracer
}

// New returns a store that passes every call on to inner, within a span of the
// provider. Nil instead of a provider means no spans.
func New(inner store.Store, provider trace.TracerProvider) *Store {
	if provider == nil {
		provider = noop.NewTracerProvider()
	}
	return &Store{inner: inner, tracer: provider.Tracer(Scope)}
}

const (
	outcomeKey  = attribute.Key("curfew.store.outcome")
	sessionsKey = attribute.Key("curfew.store.sessions")
	retriesKey  = attribute.Key("curfew.store.retries")
)

// An operation is a method as spans name it.
type operation struct {
	span  string
	start trace.SpanStartEventOption
}

func newOperation(method, name string) operation {
	return operation{"store." + method, trace.WithAttributes(attribute.String("curfew.store.operation", name))}
}

var (
	opGet         = newOperation("Get", "get")
	opCreate      = newOperation("Create", "create")
	opUpdate      = newOperation("Update", "update")
	opAdmit       = newOperation("Admit", "admit")
	opList        = newOperation("List", "list")
	opDue         = newOperation("Due", "due")
	opDelete      = newOperation("Delete", "delete")
	opStats       = newOperation("Stats", "stats")
	opPutFence    = newOperation("PutFence", "put_fence")
	opMoveFence   = newOperation("MoveFence", "move_fence")
	opDueFences   = newOperation("DueFences", "due_fences")
	opDocument    = newOperation("Document", "document")
	opPutDocument = newOperation("PutDocument", "put_document")
	opHistory     = newOperation("History", "history")

	opDropDocument = newOperation("DropDocument", "drop_document")

	opAddCounts    = newOperation("AddCounts", "add_counts")
	opReadCounts   = newOperation("ReadCounts", "read_counts")
	opDropCounts   = newOperation("DropCounts", "drop_counts")
	opCountUnended = newOperation("CountUnended", "count_unended")
)

func (s *Store) start(ctx context.Context, op operation) (context.Context, trace.Span) {
	return s.tracer.Start(ctx, op.span, op.start)
}

// end says on a span how the call came out. The span is ended by the caller's
// defer, which also runs if the store panics.
func end(span trace.Span, how string) {
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(outcomeKey.String(how))
	switch how {
	case outcome.Timeout:
		span.SetStatus(codes.Error, "the store did not answer in time")
	case outcome.Error:
		span.SetStatus(codes.Error, "the store could not answer")
	}
}

// Get implements [store.Sessions].
func (s *Store) Get(ctx context.Context, id string) (store.Session, error) {
	ctx, span := s.start(ctx, opGet)
	defer span.End()
	session, err := s.inner.Get(ctx, id)
	end(span, outcome.Of(err))
	return session, err
}

// Create implements [store.Sessions].
func (s *Store) Create(ctx context.Context, session store.Session, max int) error {
	ctx, span := s.start(ctx, opCreate)
	defer span.End()
	err := s.inner.Create(ctx, session, max)
	end(span, outcome.Of(err))
	return err
}

// Update implements [store.Sessions].
func (s *Store) Update(ctx context.Context, session store.Session) (int64, error) {
	ctx, span := s.start(ctx, opUpdate)
	defer span.End()
	revision, err := s.inner.Update(ctx, session)
	end(span, outcome.Of(err))
	return revision, err
}

// Admit implements [store.Sessions].
func (s *Store) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	ctx, span := s.start(ctx, opAdmit)
	defer span.End()
	var step outcome.Step
	err := s.inner.Admit(ctx, subject, step.Watch(decide))
	written := 0
	if err == nil {
		written = step.Decided
	}
	span.SetAttributes(sessionsKey.Int(written), retriesKey.Int(max(0, step.Runs-1)))
	end(span, step.Of(err))
	return err
}

// List implements [store.Sessions].
func (s *Store) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	ctx, span := s.start(ctx, opList)
	defer span.End()
	page, next, err := s.inner.List(ctx, f, cursor, limit)
	span.SetAttributes(sessionsKey.Int(len(page)))
	end(span, outcome.Of(err))
	return page, next, err
}

// Due implements [store.Sessions].
func (s *Store) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	ctx, span := s.start(ctx, opDue)
	defer span.End()
	due, err := s.inner.Due(ctx, now, lease, limit)
	span.SetAttributes(sessionsKey.Int(len(due)))
	end(span, outcome.Of(err))
	return due, err
}

// Delete implements [store.Sessions].
func (s *Store) Delete(ctx context.Context, id string, revision int64) error {
	ctx, span := s.start(ctx, opDelete)
	defer span.End()
	err := s.inner.Delete(ctx, id, revision)
	end(span, outcome.Of(err))
	return err
}

// Stats implements [store.Sessions].
func (s *Store) Stats(ctx context.Context) (store.Stats, error) {
	ctx, span := s.start(ctx, opStats)
	defer span.End()
	stats, err := s.inner.Stats(ctx)
	end(span, outcome.Of(err))
	return stats, err
}

// PutFence implements [store.Fences].
func (s *Store) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	ctx, span := s.start(ctx, opPutFence)
	defer span.End()
	put, err := s.inner.PutFence(ctx, f)
	end(span, outcome.Of(err))
	return put, err
}

// MoveFence implements [store.Fences].
func (s *Store) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	ctx, span := s.start(ctx, opMoveFence)
	defer span.End()
	err := s.inner.MoveFence(ctx, f, due)
	end(span, outcome.Of(err))
	return err
}

// DueFences implements [store.Fences].
func (s *Store) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	ctx, span := s.start(ctx, opDueFences)
	defer span.End()
	due, err := s.inner.DueFences(ctx, now, limit)
	end(span, outcome.Of(err))
	return due, err
}

// Document implements [store.Documents].
func (s *Store) Document(ctx context.Context, key string) (store.Document, error) {
	ctx, span := s.start(ctx, opDocument)
	defer span.End()
	d, err := s.inner.Document(ctx, key)
	end(span, outcome.Of(err))
	return d, err
}

// PutDocument implements [store.Documents].
func (s *Store) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	ctx, span := s.start(ctx, opPutDocument)
	defer span.End()
	version, err := s.inner.PutDocument(ctx, d)
	end(span, outcome.Of(err))
	return version, err
}

// History implements [store.Documents].
func (s *Store) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	ctx, span := s.start(ctx, opHistory)
	defer span.End()
	list, err := s.inner.History(ctx, key, before, limit)
	end(span, outcome.Of(err))
	return list, err
}

// DropDocument implements [store.Documents].
func (s *Store) DropDocument(ctx context.Context, key string) error {
	ctx, span := s.start(ctx, opDropDocument)
	defer span.End()
	err := s.inner.DropDocument(ctx, key)
	end(span, outcome.Of(err))
	return err
}

// AddCounts implements [store.Counts].
func (s *Store) AddCounts(ctx context.Context, counts []store.Count) error {
	ctx, span := s.start(ctx, opAddCounts)
	defer span.End()
	err := s.inner.AddCounts(ctx, counts)
	end(span, outcome.Of(err))
	return err
}

// ReadCounts implements [store.Counts].
func (s *Store) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	ctx, span := s.start(ctx, opReadCounts)
	defer span.End()
	list, err := s.inner.ReadCounts(ctx, account, from, to)
	end(span, outcome.Of(err))
	return list, err
}

// DropCounts implements [store.Counts].
func (s *Store) DropCounts(ctx context.Context, account string, before time.Time) error {
	ctx, span := s.start(ctx, opDropCounts)
	defer span.End()
	err := s.inner.DropCounts(ctx, account, before)
	end(span, outcome.Of(err))
	return err
}

// CountUnended implements [store.Counts].
func (s *Store) CountUnended(ctx context.Context, account string) (int, error) {
	ctx, span := s.start(ctx, opCountUnended)
	defer span.End()
	n, err := s.inner.CountUnended(ctx, account)
	end(span, outcome.Of(err))
	return n, err
}
