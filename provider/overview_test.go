package provider_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// What a user sees of their sessions is what the policy says of them now: what is
// over is over though nobody swept, what a cap counts is what admission counts, and
// what was never completed is no session.
func TestOverview(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)
	subject := store.Subject{Issuer: "https://login.example.com", ID: "alice"}
	s := faultstore.New(memstore.New())
	account := limits(24*time.Hour, 2*time.Hour, 4, policy.Refuse)
	account.Clients = map[string]policy.Limits{"free": {Concurrent: policy.Unlimited[int]()}}
	account.Kinds = map[policy.Kind]policy.Limits{policy.CLI: {Concurrent: policy.LimitTo(1)}}
	hook, err := provider.New(provider.Config{
		Store: s, Keys: provider.Keys{provider.NewKey(at)}, Now: func() time.Time { return at },
		Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": account}},
	})
	require.NoError(t, err)
	add := func(name string, change func(*store.Session)) {
		one := store.Session{
			ID: store.Bucket(subject) + name, Subject: subject, Accounts: []string{"default"}, Kind: policy.Browser, Client: "web",
			Started: at.Add(-time.Hour), Authenticated: at.Add(-time.Hour), LastActivity: at.Add(-time.Hour),
		}
		change(&one)
		require.NoError(t, s.Create(t.Context(), one, 1<<20))
	}
	add("a", func(s *store.Session) { s.LastActivity = at.Add(-time.Minute) })
	add("b", func(s *store.Session) { s.Kind = policy.CLI })
	add("c", func(s *store.Session) { s.Client = "free" })
	add("d", func(s *store.Session) { s.ReservedUntil = at.Add(time.Second) })
	add("abandoned", func(s *store.Session) { s.ReservedUntil = at })
	add("over", func(s *store.Session) { s.Started, s.Authenticated = at.Add(-24*time.Hour), at.Add(-24*time.Hour) })
	add("ended", func(s *store.Session) {})
	require.NoError(t, hook.End(t.Context(), store.Bucket(subject)+"ended", policy.ReasonEndedByAdmin, "root"))
	add("other", func(s *store.Session) { s.Subject.ID = "bob"; s.ID = store.Bucket(s.Subject) + "other" })
	s.Reset()

	o, err := hook.Overview(t.Context(), subject)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"List": 2}, s.Counts())
	var live []string
	for _, one := range o.Live {
		live = append(live, one.ID[2:])
	}
	require.Equal(t, []string{"a", "b", "c"}, live)
	require.Equal(t, at.Add(119*time.Minute), o.Live[0].Deadline)
	require.Equal(t, policy.ReasonInactivity, o.Live[0].Limit)
	require.Equal(t, 1, o.Pending)
	require.Len(t, o.Ended, 2)
	require.Equal(t, []policy.Reason{policy.ReasonEndedByAdmin, policy.ReasonActiveLimit}, []policy.Reason{o.Ended[0].End.Reason, o.Ended[1].End.Reason})
	require.False(t, o.Incomplete)
	require.Len(t, o.Caps, 2)
	require.Equal(t, policy.CLI, o.Caps[0].Scope.Kind)
	require.Equal(t, []int{1, 1, 3, 4}, []int{o.Caps[0].Used, o.Caps[0].Max, o.Caps[1].Used, o.Caps[1].Max}, "the free one is not counted, the pending one is")

	// Nothing is written by looking.
	one, err := s.Get(t.Context(), store.Bucket(subject)+"over")
	require.NoError(t, err)
	require.Nil(t, one.End)

	// More ended ones than anybody looks through.
	for i := range 2500 {
		add(fmt.Sprintf("x%d", i), func(s *store.Session) {})
		ended, err := s.Get(t.Context(), fmt.Sprintf("%sx%d", store.Bucket(subject), i))
		require.NoError(t, err)
		ended.End = &store.End{At: at.Add(-time.Duration(i) * time.Second), Reason: policy.ReasonLogout}
		_, err = s.Update(t.Context(), ended)
		require.NoError(t, err)
	}
	s.Reset()
	o, err = hook.Overview(t.Context(), subject)
	require.NoError(t, err)
	require.True(t, o.Incomplete)
	require.Len(t, o.Ended, provider.MaxOverviewEnded)
	require.LessOrEqual(t, s.Calls(), 10)

	for n := 1; n <= 2; n++ {
		s.Reset()
		s.Script(faultstore.Once(n, faultstore.Before))
		_, err = hook.Overview(t.Context(), subject)
		require.ErrorIs(t, err, faultstore.ErrFault)
	}
}
