package intercept_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/intercept"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

// wrapped is a store and its counts, with hooks around each.
type wrapped struct {
	store.Store
	store.Counts
}

func wrap[S any](inner storetest.Counting, hooks *intercept.Hooks[S]) wrapped {
	return wrapped{intercept.New(inner, hooks), intercept.NewCounts(inner, hooks)}
}

func TestContract(t *testing.T) {
	open := func(*testing.T) wrapped {
		return wrap(memstore.New(), &intercept.Hooks[int]{
			Before: func(ctx context.Context, _ intercept.Operation) (context.Context, int, error) { return ctx, 0, nil },
			After:  func(context.Context, int, intercept.Operation, intercept.Result) error { return nil },
		})
	}
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}

// recording returns a store that notes its calls before and after.
func recording(inner storetest.Counting, before, after error) (s wrapped, seen *[]string) {
	seen = new([]string)
	return wrap(inner, &intercept.Hooks[string]{
		Before: func(ctx context.Context, op intercept.Operation) (context.Context, string, error) {
			*seen = append(*seen, "before "+op.Method)
			return ctx, "state of " + op.Method, before
		},
		After: func(_ context.Context, state string, op intercept.Operation, r intercept.Result) error {
			if state != "state of "+op.Method {
				return errors.New("somebody else's state")
			}
			*seen = append(*seen, "after "+op.Method+" "+r.Outcome())
			return after
		},
	}), seen
}

// Each method of the contract is an operation of its name, and no operation is
// without a method.
func TestEveryMethodIsAnOperation(t *testing.T) {
	contract := reflect.TypeFor[storetest.Counting]()
	require.Len(t, intercept.Operations, contract.NumMethod())
	errBefore := errors.New("before")
	s, seen := recording(memstore.New(), errBefore, nil)
	for _, op := range intercept.Operations {
		method, there := contract.MethodByName(op.Method)
		require.True(t, there, op.Method)
		*seen = nil
		in := []reflect.Value{reflect.ValueOf(t.Context())}
		for i := 1; i < method.Type.NumIn(); i++ {
			in = append(in, reflect.Zero(method.Type.In(i)))
		}
		out := reflect.ValueOf(s).MethodByName(op.Method).Call(in)
		require.Equal(t, []string{"before " + op.Method}, *seen, "it is not made")
		require.Equal(t, errBefore, out[len(out)-1].Interface())
	}
}

func TestAfterFailsWhatWentWell(t *testing.T) {
	errAfter := errors.New("after")
	s, seen := recording(memstore.New(), nil, errAfter)
	version, err := s.PutDocument(t.Context(), store.Document{Key: "k"})
	require.Equal(t, errAfter, err)
	require.Zero(t, version)
	_, err = s.Get(t.Context(), "nobody")
	require.ErrorIs(t, err, store.ErrNotFound, "which failed by itself")
	require.Equal(t, []string{"before PutDocument", "after PutDocument ok", "before Get", "after Get not_found"}, *seen)
}

func TestAPanicIsTold(t *testing.T) {
	s, seen := recording(memstore.New(), nil, nil)
	require.PanicsWithValue(t, "decide", func() {
		_ = s.Admit(t.Context(), store.Subject{Issuer: "i", ID: "a"}, func([]store.Session, store.Fence) ([]store.Session, error) { panic("decide") })
	})
	require.Equal(t, []string{"before Admit", "after Admit error"}, *seen)
}
