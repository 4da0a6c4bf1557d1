package memstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

func sessionOf(i int) store.Session {
	subject := store.Subject{Issuer: "https://op.example.org", ID: fmt.Sprintf("user-%d", i)}
	now := time.Now().UTC()
	return store.Session{
		ID: store.Bucket(subject) + subject.ID, Subject: subject, Accounts: []string{fmt.Sprintf("account-%d", i), "all", "all"},
		Kind: policy.Browser, Client: "web", Started: now, Authenticated: now, LastActivity: now, Due: now,
	}
}

// Of what is gone nothing stays in memory: subjects, accounts, places in a queue,
// counters, documents.
func TestNothingStays(t *testing.T) {
	m := New()
	ctx := t.Context()
	hour := time.Now().UTC().Truncate(time.Hour)
	for i := range 1000 {
		s := sessionOf(i)
		require.NoError(t, m.Create(ctx, s, 10))
		require.NoError(t, m.AddCounts(ctx, []store.Count{{Account: s.Accounts[0], Hour: hour, Name: "n", N: 1}}))
		_, err := m.PutDocument(ctx, store.Document{Key: s.ID})
		require.NoError(t, err)
	}
	n, err := m.CountUnended(ctx, "all")
	require.NoError(t, err)
	require.Equal(t, 1000, n, "each once")
	require.Len(t, m.byAccount, 1001)
	for i := range 1000 {
		s := sessionOf(i)
		revision := int64(1)
		switch i % 3 {
		case 1: // it ends first
			s.Revision, s.End = 1, &store.End{At: s.Started, Reason: policy.ReasonLogout}
			revision, err = m.Update(ctx, s)
			require.NoError(t, err)
		case 2: // it moves to another account first
			s.Revision, s.Accounts = 1, []string{"other"}
			revision, err = m.Update(ctx, s)
			require.NoError(t, err)
		}
		require.NoError(t, m.Delete(ctx, s.ID, revision))
		require.NoError(t, m.DropCounts(ctx, sessionOf(i).Accounts[0], hour.Add(time.Hour)))
		require.NoError(t, m.DropDocument(ctx, s.ID))
	}
	require.Empty(t, m.sessions)
	require.Empty(t, m.subjects)
	require.Empty(t, m.byAccount)
	require.Empty(t, m.byID.blocks)
	require.Empty(t, m.byDue.blocks)
	require.Empty(t, m.counts)
	require.Empty(t, m.documents)
	require.Zero(t, m.unended)
}

// A claim is a time of the caller's, and not of the clock of this machine: a time
// without a reading of that clock finds it over at the same moment.
func TestAClaimHasNoMonotonicReading(t *testing.T) {
	m := New()
	require.NoError(t, m.Create(t.Context(), sessionOf(1), 10))
	now := time.Now()
	list, err := m.Due(t.Context(), now, time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	for _, e := range m.sessions {
		require.Equal(t, now.Add(time.Minute).Round(0), e.claimed)
	}
}

// A session that is removed changes what an admission decided from.
func TestAnAdmissionSeesARemoval(t *testing.T) {
	m := New()
	ctx := t.Context()
	s := sessionOf(1)
	require.NoError(t, m.Create(ctx, s, 10))
	var saw []int
	err := m.Admit(ctx, s.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		if saw = append(saw, len(held)); len(saw) == 1 {
			require.NoError(t, m.Delete(ctx, s.ID, 1))
			another := sessionOf(1)
			another.ID += "-2" // so that the subject stays
			require.NoError(t, m.Create(ctx, another, 10))
		}
		return nil, nil
	})
	require.NoError(t, err)
	require.Equal(t, []int{1, 1}, saw)
	saw = nil
	err = m.Admit(ctx, s.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		if saw = append(saw, len(held)); len(saw) == 1 {
			require.NoError(t, m.Delete(ctx, held[0].ID, 1))
		}
		return nil, nil
	})
	require.NoError(t, err)
	require.Equal(t, []int{1, 0}, saw)
}
