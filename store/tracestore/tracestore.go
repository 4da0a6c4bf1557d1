// Package tracestore makes an OpenTelemetry span of each call of a store.
//
//	sessions := tracestore.New(inner, otel.GetTracerProvider())
//	counts := tracestore.Counts(inner, otel.GetTracerProvider()) // if it keeps counts
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

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/curfew-oidc/curfew/internal/intercept"
	"github.com/curfew-oidc/curfew/internal/outcome"
	"github.com/curfew-oidc/curfew/store"
)

// Scope is the name of the instrumentation scope of the spans.
const Scope = "github.com/curfew-oidc/curfew/store/tracestore"

// New returns a store that passes every call on to inner, within a span of the
// provider. Nil instead of a provider means no spans.
func New(inner store.Store, provider trace.TracerProvider) store.Store {
	return intercept.New(inner, hooks(provider))
}

// Counts is [New] for what keeps counts, which may be the same store.
func Counts(inner store.Counts, provider trace.TracerProvider) store.Counts {
	return intercept.NewCounts(inner, hooks(provider))
}

func hooks(provider trace.TracerProvider) *intercept.Hooks[trace.Span] {
	if provider == nil {
		provider = noop.NewTracerProvider()
	}
	tracer := provider.Tracer(Scope)
	starts := map[intercept.Operation]start{}
	for _, op := range intercept.Operations {
		starts[op] = start{"store." + op.Method, trace.WithAttributes(attribute.String("curfew.store.operation", op.Name))}
	}
	return &intercept.Hooks[trace.Span]{
		Before: func(ctx context.Context, op intercept.Operation) (context.Context, trace.Span, error) {
			ctx, span := tracer.Start(ctx, starts[op].name, starts[op].option)
			return ctx, span, nil
		},
		After: func(_ context.Context, span trace.Span, op intercept.Operation, r intercept.Result) error {
			defer span.End()
			if span.IsRecording() {
				describe(span, op.Method, r)
			}
			return nil
		},
	}
}

// A start is what the spans of an operation begin with, made once.
type start struct {
	name   string
	option trace.SpanStartEventOption
}

const (
	outcomeKey  = attribute.Key("curfew.store.outcome")
	sessionsKey = attribute.Key("curfew.store.sessions")
	retriesKey  = attribute.Key("curfew.store.retries")
)

// describe says on a span how the call came out.
func describe(span trace.Span, method string, r intercept.Result) {
	switch method {
	case "Admit":
		span.SetAttributes(sessionsKey.Int(r.Sessions), retriesKey.Int(r.Retries))
	case "List", "Due":
		span.SetAttributes(sessionsKey.Int(r.Sessions))
	}
	how := r.Outcome()
	span.SetAttributes(outcomeKey.String(how))
	switch how {
	case outcome.Timeout:
		span.SetStatus(codes.Error, "the store did not answer in time")
	case outcome.Error:
		span.SetStatus(codes.Error, "the store could not answer")
	}
}
