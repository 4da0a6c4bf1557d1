package tracestore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/storetest"
	"github.com/curfew-oidc/curfew/store/tracestore"
)

// recorder returns a provider that keeps every span, and where it keeps them.
func recorder() (trace.TracerProvider, *tracetest.SpanRecorder) {
	r := tracetest.NewSpanRecorder()
	return sdk.NewTracerProvider(sdk.WithSpanProcessor(r)), r
}

// counting is a store and its counts, each traced.
type counting struct {
	store.Store
	store.Counts
}

// A traced store is the store that it traces, with a provider and without.
func TestContract(t *testing.T) {
	recording, _ := recorder()
	for name, provider := range map[string]trace.TracerProvider{"Recording": recording, "None": nil} {
		t.Run(name, func(t *testing.T) {
			open := func(*testing.T) counting {
				inner := memstore.New()
				return counting{tracestore.New(inner, provider), tracestore.Counts(inner, provider)}
			}
			storetest.Run(t, open)
			storetest.RunCounts(t, open)
		})
	}
}

// A contextStore notes the span that a call has in its context.
type contextStore struct {
	storetest.Counting
	seen trace.SpanContext
}

func (c *contextStore) note(ctx context.Context) { c.seen = trace.SpanContextFromContext(ctx) }

func (c *contextStore) Get(ctx context.Context, id string) (store.Session, error) {
	c.note(ctx)
	return c.Counting.Get(ctx, id)
}

func (c *contextStore) Create(ctx context.Context, s store.Session, max int) error {
	c.note(ctx)
	return c.Counting.Create(ctx, s, max)
}

func (c *contextStore) Update(ctx context.Context, s store.Session) (int64, error) {
	c.note(ctx)
	return c.Counting.Update(ctx, s)
}

func (c *contextStore) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	c.note(ctx)
	return c.Counting.Admit(ctx, subject, decide)
}

func (c *contextStore) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	c.note(ctx)
	return c.Counting.List(ctx, f, cursor, limit)
}

func (c *contextStore) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	c.note(ctx)
	return c.Counting.Due(ctx, now, lease, limit)
}

func (c *contextStore) Delete(ctx context.Context, id string, revision int64) error {
	c.note(ctx)
	return c.Counting.Delete(ctx, id, revision)
}

func (c *contextStore) Stats(ctx context.Context) (store.Stats, error) {
	c.note(ctx)
	return c.Counting.Stats(ctx)
}

func (c *contextStore) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	c.note(ctx)
	return c.Counting.PutFence(ctx, f)
}

func (c *contextStore) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	c.note(ctx)
	return c.Counting.MoveFence(ctx, f, due)
}

func (c *contextStore) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	c.note(ctx)
	return c.Counting.DueFences(ctx, now, limit)
}

func (c *contextStore) Document(ctx context.Context, key string) (store.Document, error) {
	c.note(ctx)
	return c.Counting.Document(ctx, key)
}

func (c *contextStore) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	c.note(ctx)
	return c.Counting.PutDocument(ctx, d)
}

func (c *contextStore) DropDocument(ctx context.Context, key string) error {
	c.note(ctx)
	return c.Counting.DropDocument(ctx, key)
}

func (c *contextStore) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	c.note(ctx)
	return c.Counting.History(ctx, key, before, limit)
}

func (c *contextStore) AddCounts(ctx context.Context, counts []store.Count) error {
	c.note(ctx)
	return c.Counting.AddCounts(ctx, counts)
}

func (c *contextStore) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	c.note(ctx)
	return c.Counting.ReadCounts(ctx, account, from, to)
}

func (c *contextStore) DropCounts(ctx context.Context, account string, before time.Time) error {
	c.note(ctx)
	return c.Counting.DropCounts(ctx, account, before)
}

func (c *contextStore) CountUnended(ctx context.Context, account string) (int, error) {
	c.note(ctx)
	return c.Counting.CountUnended(ctx, account)
}

// Every name in this test that somebody chose has this in it.
const secret = "zqxj"

func one(name string) store.Session {
	s := sample.Typical()
	s.Subject = store.Subject{Issuer: "https://" + secret + ".example.com", ID: secret + "-subject"}
	s.ID = store.Bucket(s.Subject) + "." + secret + name
	s.Client = secret + "-client"
	return s
}

// Each call is one span, with what is said of it, and one call of the inner
// store, within that span.
func TestSpans(t *testing.T) {
	provider, spans := recorder()
	counted := faultstore.New(memstore.New())
	inner := &contextStore{Counting: counted}
	s := counting{tracestore.New(inner, provider), tracestore.Counts(inner, provider)}
	a, b := one("a"), one("b")
	key := secret + "-key"
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	decided := func(n int) func([]store.Session, store.Fence) ([]store.Session, error) {
		return func(held []store.Session, _ store.Fence) ([]store.Session, error) { return held[:n], nil }
	}

	type calls []struct {
		name string // of the span
		want string // what it says, by its attributes
		call func(ctx context.Context) error
	}
	all := calls{
		{"store.Create", "create ok", func(ctx context.Context) error { return s.Create(ctx, a, 10) }},
		{"store.Create", "create exists", func(ctx context.Context) error { return s.Create(ctx, a, 10) }},
		{"store.Create", "create full", func(ctx context.Context) error { return s.Create(ctx, b, 1) }},
		{"store.Create", "create ok", func(ctx context.Context) error { return s.Create(ctx, b, 10) }},
		{"store.Get", "get ok", func(ctx context.Context) error { _, err := s.Get(ctx, a.ID); return err }},
		{"store.Get", "get not_found", func(ctx context.Context) error { _, err := s.Get(ctx, secret); return err }},
		{"store.Get", "get canceled", func(ctx context.Context) error {
			_, err := s.Get(trace.ContextWithSpan(canceled, trace.SpanFromContext(ctx)), a.ID)
			return err
		}},
		{"store.Update", "update conflict", func(ctx context.Context) error { _, err := s.Update(ctx, a); return err }},
		{"store.Admit", "admit ok sessions=1 retries=0", func(ctx context.Context) error { return s.Admit(ctx, a.Subject, decided(1)) }},
		{"store.Admit", "admit declined sessions=0 retries=0", func(ctx context.Context) error {
			return s.Admit(ctx, a.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) { return held, errors.New(secret) })
		}},
		{"store.Admit", "admit ok sessions=2 retries=1", func(ctx context.Context) error {
			runs := 0
			return s.Admit(ctx, a.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				if runs++; runs == 1 { // it loses a race
					if _, err := counted.Update(context.Background(), held[0].Clone()); err != nil {
						return nil, err
					}
				}
				return held, nil
			})
		}},
		{"store.List", "list ok sessions=2", func(ctx context.Context) error {
			_, _, err := s.List(ctx, store.Filter{Subject: a.Subject}, "", 5)
			return err
		}},
		{"store.Due", "due ok sessions=1", func(ctx context.Context) error { _, err := s.Due(ctx, a.Due, 0, 1); return err }},
		{"store.Delete", "delete conflict", func(ctx context.Context) error { return s.Delete(ctx, a.ID, 77) }},
		{"store.Delete", "delete ok", func(ctx context.Context) error { return s.Delete(ctx, secret, 1) }},
		{"store.Stats", "stats ok", func(ctx context.Context) error { _, err := s.Stats(ctx); return err }},
		{"store.PutFence", "put_fence ok", func(ctx context.Context) error {
			_, err := s.PutFence(ctx, store.Fence{Subject: a.Subject, At: a.Started.Add(time.Hour), By: secret})
			return err
		}},
		{"store.Create", "create fenced", func(ctx context.Context) error { return s.Create(ctx, one("c"), 10) }},
		{"store.DueFences", "due_fences ok", func(ctx context.Context) error { _, err := s.DueFences(ctx, a.Due, 1); return err }},
		{"store.MoveFence", "move_fence conflict", func(ctx context.Context) error {
			return s.MoveFence(ctx, store.Fence{Subject: a.Subject}, time.Time{})
		}},
		{"store.PutDocument", "put_document ok", func(ctx context.Context) error {
			_, err := s.PutDocument(ctx, store.Document{Key: key, By: secret})
			return err
		}},
		{"store.Document", "document ok", func(ctx context.Context) error { _, err := s.Document(ctx, key); return err }},
		{"store.History", "history ok", func(ctx context.Context) error { _, err := s.History(ctx, key, 0, 1); return err }},
		{"store.DropDocument", "drop_document ok", func(ctx context.Context) error { return s.DropDocument(ctx, key) }},
		{"store.AddCounts", "add_counts ok", func(ctx context.Context) error {
			return s.AddCounts(ctx, []store.Count{{Account: key, Hour: time.Unix(0, 0), Name: "n", N: 1}})
		}},
		{"store.ReadCounts", "read_counts ok", func(ctx context.Context) error {
			_, err := s.ReadCounts(ctx, key, time.Unix(0, 0), time.Unix(1, 0))
			return err
		}},
		{"store.DropCounts", "drop_counts ok", func(ctx context.Context) error { return s.DropCounts(ctx, key, time.Unix(0, 0)) }},
		{"store.CountUnended", "count_unended ok", func(ctx context.Context) error { _, err := s.CountUnended(ctx, key); return err }},
	}
	methods := map[string]bool{}
	for _, c := range all {
		methods[c.name] = true
		for _, try := range []struct {
			fault  faultstore.Fault
			want   string // instead of the outcome
			status sdk.Status
		}{
			{faultstore.None, "", sdk.Status{}},
			{faultstore.Before, "error", sdk.Status{Code: codes.Error, Description: "the store could not answer"}},
			{faultstore.Timeout, "timeout", sdk.Status{Code: codes.Error, Description: "the store did not answer in time"}},
		} {
			if try.fault != faultstore.None && c.want == "get canceled" {
				continue
			}
			spans.Reset()
			calls := counted.Calls()
			counted.Script(func(call faultstore.Call) faultstore.Fault {
				if call.N == calls+1 {
					return try.fault
				}
				return faultstore.None
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if try.fault == faultstore.Timeout {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), time.Microsecond)
			}
			ctx, parent := provider.Tracer("test").Start(ctx, "parent")
			_ = c.call(ctx)
			cancel()
			require.Less(t, calls, counted.Calls())

			ended := spans.Ended()
			require.Len(t, ended, 1, "%s: one call is one span", c.want)
			span := ended[0]
			require.Equal(t, c.name, span.Name())
			require.Equal(t, tracestore.Scope, span.InstrumentationScope().Name)
			require.Equal(t, parent.SpanContext().SpanID(), span.Parent().SpanID())
			if try.fault == faultstore.None {
				require.Equal(t, c.want, said(t, span))
				require.Equal(t, span.SpanContext(), inner.seen, "%s: the span goes down with the context", c.want)
			} else {
				operation, _, _ := strings.Cut(c.want, " ")
				require.True(t, strings.HasPrefix(said(t, span)+" ", operation+" "+try.want+" "), said(t, span))
			}
			require.Equal(t, try.status, span.Status())
			require.Empty(t, span.Events(), "in which an error's text would be")
			require.NotContains(t, fmt.Sprint(span.Name(), span.Attributes(), span.Status()), secret)
			require.NotContains(t, fmt.Sprint(span.Name(), span.Attributes(), span.Status()), a.ID[:2]+".")
		}
	}
	require.Len(t, methods, 19)
}

// said returns a span's attributes in a line; it requires that there is no other.
func said(t *testing.T, span sdk.ReadOnlySpan) string {
	t.Helper()
	attributes := attribute.NewSet(span.Attributes()...)
	var words []string
	for _, key := range []string{"operation", "outcome", "sessions", "retries"} {
		value, ok := attributes.Value(attribute.Key("curfew.store." + key))
		switch {
		case ok && value.Type() == attribute.INT64:
			words = append(words, fmt.Sprintf("%s=%d", key, value.AsInt64()))
		case ok:
			words = append(words, value.AsString())
		}
	}
	require.Equal(t, attributes.Len(), len(words), "%v", span.Attributes())
	return strings.Join(words, " ")
}

// A store that panics leaves no span open.
func TestAPanicEndsTheSpan(t *testing.T) {
	provider, spans := recorder()
	s := tracestore.New(memstore.New(), provider)
	require.Panics(t, func() {
		_ = s.Admit(t.Context(), one("a").Subject, func([]store.Session, store.Fence) ([]store.Session, error) { panic("decide") })
	})
	require.Len(t, spans.Ended(), 1)
	require.Len(t, spans.Started(), 1)
}

// A provider that keeps no span costs next to nothing.
func TestTracingIsCheap(t *testing.T) {
	inner := memstore.New()
	require.NoError(t, inner.Create(t.Context(), one("a"), 10))
	id := one("a").ID
	decide := func([]store.Session, store.Fence) ([]store.Session, error) { return nil, nil }
	subject := store.Subject{Issuer: "i", ID: "nobody"}
	sampled, _ := recorder()
	for name, c := range map[string]struct {
		provider trace.TracerProvider
		limit    float64
	}{
		"none":    {nil, 5},
		"never":   {sdk.NewTracerProvider(sdk.WithSampler(sdk.NeverSample())), 7},
		"sampled": {sampled, 15},
	} {
		for method, call := range map[string]func(store.Store) error{
			"Get":   func(s store.Store) error { _, err := s.Get(t.Context(), id); return err },
			"Admit": func(s store.Store) error { return s.Admit(t.Context(), subject, decide) },
		} {
			allocs := func(s store.Store) float64 {
				return testing.AllocsPerRun(100, func() { require.NoError(t, call(s)) })
			}
			more := allocs(tracestore.New(inner, c.provider)) - allocs(inner)
			t.Logf("%s %s: %v more allocations", name, method, more)
			require.LessOrEqual(t, more, c.limit, "%s %s", name, method)
		}
	}
}
