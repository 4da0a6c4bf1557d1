package memstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/store"
)

// Whoever is gone leaves nothing behind: a process that runs for a year meets more
// users and accounts than fit into its memory.
func TestNothingIsLeftBehind(t *testing.T) {
	ctx := t.Context()
	m := New()
	hour := time.Unix(0, 0)
	for i := range 1000 {
		s := sample.Typical()
		s.Subject.ID = fmt.Sprint("user", i)
		s.ID, s.Accounts = fmt.Sprint(store.Bucket(s.Subject), i), []string{fmt.Sprint("account", i), "shared", "shared"}
		require.NoError(t, m.Create(ctx, s, 1))
		require.NoError(t, m.AddCounts(ctx, []store.Count{{Account: s.Accounts[0], Hour: hour, Name: "n", N: 1}}))
		n, err := m.CountUnended(ctx, "shared")
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.NoError(t, m.Delete(ctx, s.ID, 1))
		require.NoError(t, m.DropCounts(ctx, s.Accounts[0], hour.Add(time.Hour)))
	}
	require.Empty(t, m.sessions)
	require.Empty(t, m.subjects)
	require.Empty(t, m.byAccount)
	require.Empty(t, m.counts)
	require.Empty(t, m.byID.blocks)
	require.Empty(t, m.byDue.blocks)
}

// A claim is a time of the calendar: a reading of this machine's other clock is not
// compared with what another source says the time is.
func TestClaimHasNoMonotonicReading(t *testing.T) {
	m := New()
	s := sample.Typical()
	require.NoError(t, m.Create(t.Context(), s, 1))
	now := time.Now()
	require.Contains(t, now.String(), "m=")
	due, err := m.Due(t.Context(), now, time.Minute, 1)
	require.NoError(t, err)
	require.Len(t, due, 1)
	require.NotContains(t, m.sessions[s.ID].claimed.String(), "m=")
}
