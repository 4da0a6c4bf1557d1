package notify

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newLedger(signs bool) *Ledger {
	return &Ledger{Signs: func(string) bool { return signs }, Sending: 10 * time.Second, Remember: 24 * time.Hour, Tries: 5}
}

func endedSession(clients ...string) *store.Session {
	s := &store.Session{ID: "ab.sid", Client: "first", End: &store.End{At: now, Reason: policy.ReasonLogout}}
	for _, c := range clients {
		s.Grants = append(s.Grants, store.Grant{ID: c, Client: c})
	}
	return s
}

func TestOwe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		clients []string
		want    []string
	}{
		"each client once":       {[]string{"a", "b", "a"}, []string{"a", "b"}},
		"no grant is a client's": {nil, []string{"first"}},
	} {
		mine, others := endedSession(c.clients...), endedSession(c.clients...)
		newLedger(true).Owe(mine, now)
		newLedger(false).Owe(others, now)
		require.Equal(t, c.want, Owed(mine), name)
		require.Equal(t, c.want, Owed(others), name)
		// What this process sends is its own for longer than a try can take.
		require.True(t, Next(mine).After(now.Add(10*time.Second+outboxWait-time.Nanosecond)), name)
		require.Equal(t, now, Next(others), "%s: another process sends it at once", name)
	}
}

func TestClaim(t *testing.T) {
	t.Parallel()
	s := endedSession()
	s.Deliveries = []store.Delivery{
		{Client: "due", Next: now}, {Client: "later", Next: now.Add(time.Nanosecond)}, {Client: "given up", GivenUp: now.Add(-time.Hour)},
	}
	before := s.Deliveries
	require.Equal(t, []string{"due"}, newLedger(true).Claim(s, now))
	require.True(t, s.Deliveries[0].Next.After(now.Add(10*time.Second)))
	require.Equal(t, before[1:], s.Deliveries[1:])
	require.Equal(t, now, before[0].Next, "the document that was read is not changed")

	// A process without the key leaves what is due to others for a moment, and gives it
	// up when the end is remembered no more.
	s.Deliveries = before
	require.Empty(t, newLedger(false).Claim(s, now))
	require.False(t, s.Deliveries[0].Next.After(now.Add(leaveFor)))
	require.True(t, s.Deliveries[0].GivenUp.IsZero())
	s.End.At = now.Add(-24*time.Hour - time.Second)
	s.Deliveries = before
	require.Empty(t, newLedger(false).Claim(s, now))
	require.Equal(t, store.Delivery{Client: "due", GivenUp: now, Error: ErrNoKey.Error()}, s.Deliveries[0])
}

func TestNote(t *testing.T) {
	t.Parallel()
	n := Notification{Client: "a", URI: "https://app.example.com/cb?secret=1"}
	down := errors.New(strings.Repeat("x", 500))
	refused := fmt.Errorf("it said no: %w", ErrRefused)
	for name, c := range map[string]struct {
		had   store.Delivery
		cause error
		want  Outcome
	}{
		"taken":                   {store.Delivery{Client: "a"}, nil, Delivered},
		"failed":                  {store.Delivery{Client: "a"}, down, Failed},
		"the last try":            {store.Delivery{Client: "a", Attempts: 4}, down, GivenUp},
		"the last but one":        {store.Delivery{Client: "a", Attempts: 3}, down, Failed},
		"refused":                 {store.Delivery{Client: "a", Refused: 1}, refused, Failed},
		"refused for the last":    {store.Delivery{Client: "a", Refused: 2}, refused, GivenUp},
		"taken by another try":    {store.Delivery{Client: "b"}, nil, NotOwed},
		"failed, and told anyway": {store.Delivery{Client: "b"}, down, NotOwed},
	} {
		s := endedSession()
		s.Deliveries = []store.Delivery{{Client: "c"}, c.had}
		before := s.Deliveries
		require.Equal(t, c.want, newLedger(true).Note(s, n, c.cause, now), name)
		require.Equal(t, []store.Delivery{{Client: "c"}, c.had}, before, "%s: the document that was read is not changed", name)
		switch c.want {
		case NotOwed:
			require.Equal(t, before, s.Deliveries, name)
		case Delivered:
			require.Equal(t, before[:1], s.Deliveries, name)
		default:
			got := s.Deliveries[1]
			require.Equal(t, c.had.Attempts+1, got.Attempts, name)
			require.Equal(t, "https://app.example.com/cb", got.URI, "%s: what follows may be secret", name)
			require.LessOrEqual(t, len(got.Error), 200, name)
			require.Equal(t, c.want == GivenUp, got.Next.IsZero(), name)
			require.Equal(t, c.want == GivenUp, got.GivenUp.Equal(now), name)
		}
	}
	live := &store.Session{Deliveries: []store.Delivery{{Client: "a"}}}
	require.Equal(t, NotOwed, newLedger(true).Note(live, n, nil, now), "it has not ended")
}

func TestRetriesGrowLessFrequent(t *testing.T) {
	t.Parallel()
	for attempts, most := range map[int]time.Duration{1: 30 * time.Second, 2: time.Minute, 5: 8 * time.Minute, 8: time.Hour, 1000: time.Hour} {
		wait := retryIn(attempts)
		require.LessOrEqual(t, wait, most)
		require.Greater(t, wait, most-most/5)
	}
}

func TestWhatWasGivenUpIsRemembered(t *testing.T) {
	t.Parallel()
	s := endedSession()
	at := now.Add(time.Hour)
	require.Equal(t, at, newLedger(true).RememberedUntil(s, at))
	s.Deliveries = []store.Delivery{{Client: "a", GivenUp: now}, {Client: "b"}}
	require.Equal(t, now.Add(24*time.Hour), newLedger(true).RememberedUntil(s, at))
	require.Equal(t, now.Add(48*time.Hour), newLedger(true).RememberedUntil(s, now.Add(48*time.Hour)))
}
