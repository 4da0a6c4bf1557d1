// Package storetest is the contract of package store as tests.
//
// A store's own test is one call:
//
//	func TestContract(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store { return memstore.New() })
//	}
//
// A store that writes documents has a second one, [RunUnreadable]. Run them with -race. No test can
// be left out: a store that fails one of them lets a user hold one session more than the cap, loses
// a logout, or shows one user the sessions of another.
package storetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// Run tests that a store keeps the contract. For each part it calls open, which returns an
// initialized, empty store that is usable until the test t ends.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, group := range []struct {
		name  string
		tests []contractTest
	}{
		{"Get", getTests},
		{"Create", createTests},
		{"Update", updateTests},
		{"Admit", admitTests},
		{"Kept", keptTests},
		{"List", listTests},
		{"Due", dueTests},
		{"Delete", deleteTests},
		{"Stats", statsTests},
		{"Buckets", bucketTests},
		{"Fences", fenceTests},
		{"Documents", documentTests},
		{"Counts", countTests},
		{"Context", contextTests},
		{"Race", raceTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, test := range group.tests {
				t.Run(test.name, func(t *testing.T) {
					// No part may wait forever.
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					test.run(&fixture{T: t, ctx: ctx, s: open(t)})
				})
			}
		})
	}
}

type contractTest struct {
	name string
	run  func(*fixture)
}

// A fixture is one test with its store.
type fixture struct {
	*testing.T
	ctx context.Context
	s   store.Store
}

// at is the time at which the sessions of the tests begin. It is in the past:
// stores do not read a clock.
var at = time.Date(2019, 3, 1, 12, 0, 0, 123456000, time.UTC)

// They share one bucket, so that an ID may be of the one or of the other.
var (
	alice = store.Subject{Issuer: "https://login.example.com", ID: "alice"}
	bob   = store.Subject{Issuer: "https://login.example.com", ID: "bob175"}
)

// many is a cap that is not reached.
const many = 1000

// sid returns the ID of the session of that name of alice or bob.
func sid(name string) string { return store.Bucket(alice) + name }

// session returns a small session. Its ID is the name after the bucket.
func session(name string, subject store.Subject) store.Session {
	return store.Session{
		Format: store.Format, ID: store.Bucket(subject) + name, Subject: subject, Accounts: []string{"default"}, Kind: policy.Browser, Client: "web",
		Started: at, Authenticated: at, LastActivity: at,
		Grants: []store.Grant{{ID: "g", Client: "web", Authenticated: at}},
	}
}

// ended returns s as it ended.
func ended(s store.Session, reason policy.Reason) store.Session {
	s.End = &store.End{At: at.Add(time.Hour), Reason: reason}
	return s
}

// create adds sessions and returns them as they are stored.
func (f *fixture) create(list ...store.Session) []store.Session {
	f.Helper()
	var stored []store.Session
	for _, s := range list {
		require.NoError(f, f.s.Create(f.ctx, s, many))
		stored = append(stored, f.read(s.ID))
	}
	return stored
}

func (f *fixture) createOne(s store.Session) store.Session {
	f.Helper()
	return f.create(s)[0]
}

// get returns the session of that name of alice or bob.
func (f *fixture) get(name string) store.Session {
	f.Helper()
	return f.read(sid(name))
}

// read returns the session with that ID.
func (f *fixture) read(id string) store.Session {
	f.Helper()
	s, err := f.s.Get(f.ctx, id)
	require.NoError(f, err)
	return s
}

func (f *fixture) update(s store.Session) store.Session {
	f.Helper()
	revision, err := f.s.Update(f.ctx, s)
	require.NoError(f, err)
	s.Revision = revision
	return s
}

// held returns the unended sessions of a subject, as one step sees them.
func (f *fixture) held(subject store.Subject) []store.Session {
	f.Helper()
	var held []store.Session
	require.NoError(f, f.s.Admit(f.ctx, subject, func(now []store.Session, _ store.Fence) ([]store.Session, error) {
		held = now
		return nil, nil
	}))
	return held
}

// list returns all sessions that match, over as many pages as it takes.
func (f *fixture) list(filter store.Filter, limit int) []store.Session {
	f.Helper()
	var all []store.Session
	for cursor := ""; ; {
		page, next, err := f.s.List(f.ctx, filter, cursor, limit)
		require.NoError(f, err)
		require.LessOrEqual(f, len(page), limit)
		all = append(all, page...)
		if next == "" {
			return all
		}
		require.NotEqual(f, cursor, next, "the cursor does not move")
		cursor = next
	}
}

func ids(list []store.Session) []string {
	ids := make([]string, len(list))
	for i, s := range list {
		ids[i] = s.ID
	}
	return ids
}

// namesOf returns the IDs without their buckets.
func namesOf(list []store.Session) []string {
	names := ids(list)
	for i, s := range list {
		names[i] = strings.TrimPrefix(s.ID, store.Bucket(s.Subject))
	}
	return names
}

// refused requires that err is the store's refusal of its argument: neither one
// of the questions that callers ask, nor the end of the context.
func (f *fixture) refused(err error) {
	f.Helper()
	require.Error(f, err)
	for _, other := range []error{store.ErrNotFound, store.ErrConflict, store.ErrExists, store.ErrFull, store.ErrFenced, context.Canceled, context.DeadlineExceeded} {
		require.NotErrorIs(f, err, other)
	}
}
