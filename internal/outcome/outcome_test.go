package outcome_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/outcome"
	"github.com/curfew-oidc/curfew/store"
)

func TestOf(t *testing.T) {
	for want, err := range map[string]error{
		outcome.OK:       nil,
		outcome.NotFound: fmt.Errorf("session %q: %w", "a", store.ErrNotFound),
		outcome.Conflict: fmt.Errorf("update: %w", store.ErrConflict),
		outcome.Exists:   fmt.Errorf("create: %w", store.ErrExists),
		outcome.Full:     fmt.Errorf("create: %w", store.ErrFull),
		outcome.Fenced:   fmt.Errorf("create: %w", store.ErrFenced),
		outcome.Canceled: fmt.Errorf("admit: %w: %w", store.ErrConflict, context.Canceled),
		outcome.Timeout:  fmt.Errorf("admit: %w: %w", store.ErrConflict, context.DeadlineExceeded),
		outcome.Error:    errors.New("connection refused"),
	} {
		require.Equal(t, want, outcome.Of(err))
		require.Equal(t, want == outcome.Timeout || want == outcome.Error, outcome.Outage(want), want)
	}
}

// What decide says is no failure of the store, whatever kind of error it is; and
// what an earlier run said does not count.
func TestStep(t *testing.T) {
	var step outcome.Step
	results := []error{errors.New("too many"), context.DeadlineExceeded, nil}
	decide := step.Watch(func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		err := results[0]
		results = results[1:]
		return held, err
	})
	require.Equal(t, outcome.Timeout, step.Of(context.DeadlineExceeded), "it did not come to a decision")
	for i, want := range []string{outcome.Declined, outcome.Declined} {
		_, err := decide(nil, store.Fence{})
		require.Equal(t, want, step.Of(err))
		require.Equal(t, i+1, step.Runs)
	}
	held := make([]store.Session, 3)
	got, err := decide(held, store.Fence{})
	require.NoError(t, err)
	require.Len(t, got, 3)
	require.Equal(t, 3, step.Decided)
	require.Equal(t, 3, step.Runs)
	require.Equal(t, outcome.OK, step.Of(nil))
	require.Equal(t, outcome.Error, step.Of(errors.New("disk full")))
}
