package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

var (
	alice = store.Subject{Issuer: issuer, ID: "alice"}
	noon  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

func newSession(n int) store.Session {
	return store.Session{
		Format: store.Format, ID: fmt.Sprintf("%s-%d", store.Bucket(alice), n), Subject: alice, Accounts: []string{"default"},
		Kind: policy.Browser, Client: web, Started: noon, Authenticated: noon, LastActivity: noon,
	}
}

func added(n int) change {
	s := newSession(n)
	return change{s.ID, &s}
}

func ended(n int, reason policy.Reason) change {
	s := newSession(n)
	s.End = &store.End{At: noon, Reason: reason}
	return change{s.ID, &s}
}

func TestReplay(t *testing.T) {
	deleted := change{id: newSession(1).ID}
	bob := newSession(1)
	bob.Subject.ID = "bob"
	start := []commit{{added(1)}, {added(2)}, {added(3)}}
	for name, c := range map[string]struct {
		more []commit
		want string // empty: nothing is wrong
	}{
		"at the cap":               {nil, ""},
		"one more":                 {[]commit{{added(4)}}, "alice has 4 sessions that have not ended, at a cap of 3"},
		"one more, and back":       {[]commit{{added(4)}, {ended(1, policy.ReasonConcurrency)}}, "alice has 4 sessions"},
		"changed at once":          {[]commit{{added(4), ended(1, policy.ReasonConcurrency)}}, ""},
		"room first":               {[]commit{{ended(1, policy.ReasonLogout)}, {added(4)}}, ""},
		"deleted":                  {[]commit{{ended(1, policy.ReasonLogout)}, {deleted}, {added(4)}}, ""},
		"brought back":             {[]commit{{ended(1, policy.ReasonLogout)}, {added(1)}}, "was brought back"},
		"ended twice":              {[]commit{{ended(1, policy.ReasonLogout)}, {ended(1, policy.ReasonRevoked)}}, "ended twice"},
		"added ended":              {[]commit{{ended(4, policy.ReasonLogout)}}, "was added ended"},
		"another subject":          {[]commit{{{bob.ID, &bob}}}, "changed its subject"},
		"kept under another's ID":  {[]commit{{{"x", added(1).session}}}, "is kept under the ID x"},
		"two subjects at the cap":  {[]commit{{{"bob-1", func() *store.Session { s := bob; s.ID = "bob-1"; return &s }()}}}, ""},
		"one that ended is no use": {[]commit{{ended(1, policy.ReasonLogout)}, {added(4)}, {added(5)}}, "alice has 4 sessions"},
	} {
		r := newReplay(limit)
		err := r.run(append(append([]commit(nil), start...), c.more...))
		if c.want == "" {
			require.NoError(t, err, name)
			require.Equal(t, limit, r.peak, name)
			continue
		}
		require.ErrorContains(t, err, c.want, name)
	}
}

// Each engine's history shows an admission that is no serializable step, and the
// same logins through Admit are within the cap.
func TestHistoryCatchesATornAdmission(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine, _ string) {
		for _, torn := range []bool{false, true} {
			sessions, end, err := e.open(t.Context())
			require.NoError(t, err)
			if !torn {
				require.NoError(t, e.record(t.Context()))
			}
			const racers = 2 * limit
			var listed, wg sync.WaitGroup
			listed.Add(racers)
			errs := make([]error, racers)
			for i := range racers {
				s := newSession(i)
				if torn {
					s.ID += "-torn"
					s.Subject.ID = "torn"
					s.ID = store.Bucket(s.Subject) + s.ID[len(store.Bucket(alice)):]
				}
				wg.Go(func() {
					if torn {
						errs[i] = tornAdmit(t.Context(), sessions, s, &listed)
						return
					}
					errs[i] = sessions.Admit(t.Context(), s.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
						if len(held) >= limit {
							return nil, errFull
						}
						return []store.Session{s}, nil
					})
				})
			}
			wg.Wait()
			require.NoError(t, end())
			refused := 0
			for _, err := range errs {
				if errors.Is(err, errFull) {
					refused++
					continue
				}
				require.NoError(t, err)
			}
			history, err := e.history(t.Context())
			require.NoError(t, err)
			r := newReplay(limit)
			err = r.run(history)
			if !torn {
				require.NoError(t, err)
				require.Equal(t, limit, r.peak)
				require.Equal(t, racers-limit, refused)
				continue
			}
			var broken *capError
			require.ErrorAs(t, err, &broken)
			require.Equal(t, &capError{store.Subject{Issuer: issuer, ID: "torn"}, limit + 1, limit}, broken)
		}
	})
}

var errFull = errors.New("full")

// tornAdmit looks first and writes then, when all others have looked too.
func tornAdmit(ctx context.Context, sessions store.Store, s store.Session, listed *sync.WaitGroup) error {
	held, _, err := sessions.List(ctx, store.Filter{Subject: s.Subject, State: store.Unended}, "", 100)
	listed.Done()
	if err != nil {
		return err
	}
	listed.Wait()
	if len(held) >= limit {
		return errFull
	}
	return sessions.Create(ctx, s, 1000)
}
