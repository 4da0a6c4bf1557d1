package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// The bars. A missed one makes the program fail.
const (
	maxShare     = 6.0 // percent that the hook adds to an RS256 refresh
	maxAdded     = 60 * time.Microsecond
	maxAllocs    = 80
	maxGrowth    = 1.25 // of refresh and login, from few to many sessions
	maxAdmission = 3 * time.Millisecond
	maxSlower    = 1.3 // times the bare driver: what a refresh asks of the store
	minShare     = 0.7 // of the bare driver's throughput, with many clients
	admissionCap = 100
	fewSessions  = 10
)

// limits are the settings of the account in all measurements but that of
// admission: durations that bind, and no cap.
var limits = policy.Limits{
	Active:     policy.LimitTo(24 * time.Hour),
	Inactivity: policy.LimitTo(2 * time.Hour),
}

// A size is how much is measured.
type size struct {
	runs, steps int
	sessions    int           // of a large account, in memory
	window      time.Duration // how long clients run at the same time
	many        int           // sessions of an engine that has many
	sweep       int           // how many of them are swept
}

// newHook returns a hook on a store whose settings are read from the store, as
// by default.
func newHook(s store.Store, l policy.Limits) (*provider.Hook, error) {
	_, err := provider.SaveAccount(context.Background(), s, "default", policy.Account{Limits: l}, 0, "", "", time.Now())
	if err != nil {
		return nil, err
	}
	return provider.New(provider.Config{Store: s, Counts: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}})
}

// refreshing refreshes a login over and over.
func refreshing(s *server) (flow, error) {
	token, err := s.login("alice")
	if err != nil {
		return flow{}, err
	}
	return flow{s, func() (err error) {
		token, err = s.refresh(token)
		return err
	}}, nil
}

// loggingIn logs users in, each a few times: no subject comes to the bound that
// even an account without cap has.
func loggingIn(s *server) flow {
	n := 0
	return flow{s, func() error {
		n++
		_, err := s.login(fmt.Sprintf("user-%d", n/10))
		return err
	}}
}

// fill puts live sessions of an account into a store, of which own belong to
// the subject.
func fill(s store.Store, subject string, own, all int) error {
	now := time.Now().UTC().Truncate(time.Microsecond)
	for i := range all {
		id := store.Subject{Issuer: issuer, ID: subject}
		if i >= own {
			id.ID = fmt.Sprintf("other-%d", i/100)
		}
		at := now.Add(-time.Duration(i) * time.Second / 50)
		err := s.Create(context.Background(), store.Session{
			Format: store.Format, ID: fmt.Sprintf("%s.filled-%d", store.Bucket(id), i),
			Subject: id, Accounts: []string{"default"}, Kind: policy.Browser, Client: "web",
			Started: at, Authenticated: at, LastActivity: at, Due: at.Add(2 * time.Hour),
			Grants: []store.Grant{{ID: "filled", Client: "web", Authenticated: at, Rotated: at, NonceHash: make([]byte, 32)}},
		}, all+1)
		if err != nil {
			return err
		}
	}
	return nil
}

// measure does it all. The SQLite database is made at path.
func measure(path string, n size) (*report, error) {
	r := &report{size: n}
	var err error
	if r.machine, err = describe(filepath.Dir(path)); err != nil {
		return nil, err
	}
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256} {
		key, err := newSigningKey(alg)
		if err != nil {
			return nil, err
		}
		for _, engine := range []string{"memory", "SQLite"} {
			if err := r.compare(key, engine, fmt.Sprintf("%s-%s", path, alg), n); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", alg, engine, err)
			}
		}
	}
	key, err := newSigningKey(jose.ES256)
	if err != nil {
		return nil, err
	}
	if err := r.grow(key, n); err != nil {
		return nil, fmt.Errorf("many sessions: %w", err)
	}
	if err := r.admit(key, path+"-admit", n); err != nil {
		return nil, fmt.Errorf("admission: %w", err)
	}
	return r, nil
}

// open opens a store of an engine.
func open(engine, path string) (store.Store, func() error, error) {
	if engine == "memory" {
		return memstore.New(), func() error { return nil }, nil
	}
	return openSQLite(path)
}

// compare measures refresh and login, bare and with the hook.
func (r *report) compare(key signingKey, engine, path string, n size) (err error) {
	opened, closeStore, err := open(engine, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	counting := &countingStore{Store: opened}
	hook, err := newHook(counting, limits)
	if err != nil {
		return err
	}
	bare, err := newServer(key, nil)
	if err != nil {
		return err
	}
	hooked, err := newServer(key, hook)
	if err != nil {
		return err
	}

	a, err := refreshing(bare)
	if err != nil {
		return err
	}
	b, err := refreshing(hooked)
	if err != nil {
		return err
	}
	if err := r.row("refresh", key, engine, a, b, counting, n); err != nil {
		return err
	}
	if engine == "memory" {
		if err := r.addClaims(key, a, n); err != nil {
			return err
		}
	}
	return r.row("login", key, engine, loggingIn(bare), loggingIn(hooked), counting, n)
}

// addClaims measures what op itself does more for the claims that the hook adds
// to an ID token: it encodes a token with claims of the storage's in two more
// passes. A provider without the hook pays the same for its own "sid".
func (r *report) addClaims(key signingKey, bare flow, n size) error {
	srv, err := newServer(key, nil)
	if err != nil {
		return err
	}
	srv.storage.claims = true
	f, err := refreshing(srv)
	if err != nil {
		return err
	}
	var counting countingStore // there is no store
	return r.row(claimsFlow, key, "none", bare, f, &counting, n)
}

// row measures one line of the table.
func (r *report) row(name string, key signingKey, engine string, a, b flow, counting *countingStore, n size) error {
	if _, err := pair(a, b, 1, max(1, n.steps/4)); err != nil { // to warm up
		return err
	}
	l := line{flow: name, alg: string(key.alg), engine: engine}
	before := [...]int64{counting.reads.Load(), counting.writes.Load(), counting.others.Load()}
	var err error
	if l.pairing, err = pair(a, b, n.runs, n.steps); err != nil {
		return err
	}
	did := float64(n.runs * n.steps)
	l.reads = float64(counting.reads.Load()-before[0]) / did
	l.writes = float64(counting.writes.Load()-before[1]) / did
	l.others = float64(counting.others.Load()-before[2]) / did
	if l.bare, err = allocations(a, 20); err != nil {
		return err
	}
	if l.hook, err = allocations(b, 20); err != nil {
		return err
	}
	r.lines = append(r.lines, l)
	return nil
}

// grow measures refresh and login with few and with many sessions in an account
// without cap. The user has nearly as many of them as one user may have. The
// signature is ES256, which hides least.
func (r *report) grow(key signingKey, n size) error {
	var refreshes, logins [2]flow
	for i, sessions := range []int{fewSessions, n.sessions} {
		s := memstore.New()
		if err := fill(s, "alice", min(sessions, 990), sessions); err != nil {
			return err
		}
		hook, err := newHook(s, limits)
		if err != nil {
			return err
		}
		srv, err := newServer(key, hook)
		if err != nil {
			return err
		}
		if refreshes[i], err = refreshing(srv); err != nil {
			return err
		}
		logins[i] = flow{srv, func() error {
			if _, err := srv.login("alice"); err != nil {
				return err
			}
			return remove(s, srv.sid) // so that there are as many as before
		}}
	}
	var err error
	if r.refreshGrowth, err = pair(refreshes[0], refreshes[1], n.runs, n.steps); err != nil {
		return err
	}
	r.loginGrowth, err = pair(logins[0], logins[1], n.runs, n.steps)
	return err
}

func remove(s store.Store, sid string) error {
	session, err := s.Get(context.Background(), sid)
	if err != nil {
		return err
	}
	return s.Delete(context.Background(), sid, session.Revision)
}

// admit measures the callback of a user who stands at the cap, where the new
// login ends the oldest one: one session read for all, and two written.
func (r *report) admit(key signingKey, path string, n size) (err error) {
	s, closeStore, err := openSQLite(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	if err := fill(s, "alice", admissionCap, admissionCap); err != nil {
		return err
	}
	capped := limits
	capped.Concurrent, capped.AtLimit = policy.LimitTo(admissionCap), policy.EndOldest
	hook, err := newHook(s, capped)
	if err != nil {
		return err
	}
	flows := [2]flow{}
	for i, h := range []*provider.Hook{nil, hook} {
		srv, err := newServer(key, h)
		if err != nil {
			return err
		}
		flows[i] = flow{srv, func() error {
			_, err := srv.callback("alice")
			return err
		}}
	}
	r.admission, err = pair(flows[0], flows[1], n.runs, n.steps)
	return err
}
