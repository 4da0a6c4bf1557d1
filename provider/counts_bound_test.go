package provider

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// droppingCounts notes what is dropped.
type droppingCounts struct {
	store.Counts
	accounts []string
	before   time.Time
}

func (s *droppingCounts) DropCounts(ctx context.Context, account string, before time.Time) error {
	s.accounts, s.before = append(s.accounts, account), before
	return s.Counts.DropCounts(ctx, account, before)
}

// What waits to be written is bounded, and so is what one sweep drops; what it drops
// is older than anybody can ask for.
func TestCountersThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	s := &droppingCounts{Counts: memstore.New()}
	h, err := New(Config{Store: memstore.New(), Counts: s, Keys: Keys{NewKey(time.Now())}})
	require.NoError(t, err)
	hour := time.Now().UTC().Truncate(time.Hour)
	for range 2 {
		for i := range maxCounters + 10 {
			h.addCount(store.Count{Account: fmt.Sprint(i), Hour: hour, Name: "n"}, 1)
		}
	}
	require.Len(t, h.counter.waiting, maxCounters)
	require.NoError(t, h.keepCounts(t.Context()))
	require.Empty(t, h.counter.waiting)
	require.Len(t, s.accounts, dropAtOnce)
	require.WithinDuration(t, time.Now().Add(-CountsKept-dropEvery), s.before, time.Hour)
}

// However many accounts have live sessions, the store is given no more at a time than it
// takes.
func TestLiveSessionsOfManyAccountsAreCounted(t *testing.T) {
	t.Parallel()
	s := memstore.New()
	h, err := New(Config{Store: memstore.New(), Counts: s, Keys: Keys{NewKey(time.Now())}})
	require.NoError(t, err)
	live := map[string]int64{}
	for i := range 2*store.MaxAddedCounts + 1 {
		live[fmt.Sprint(i)] = 1
	}
	hour := time.Now().UTC().Truncate(time.Hour)
	require.NoError(t, h.countLive(t.Context(), hour, live))
	for account := range live {
		counts, err := s.ReadCounts(t.Context(), account, hour, hour.Add(time.Hour))
		require.NoError(t, err)
		require.Len(t, counts, 1)
	}
}
