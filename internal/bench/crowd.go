package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// ownSessions is how many of many sessions are one user's: nearly as many as one
// user may have.
const ownSessions = 990

// typical returns a session as the hook makes it: after a login and two
// refreshes.
func typical(key signingKey) (store.Session, error) {
	s := memstore.New()
	hook, err := newHook(s, limits)
	if err != nil {
		return store.Session{}, err
	}
	srv, err := newServer(key, hook)
	if err != nil {
		return store.Session{}, err
	}
	f, err := refreshing(srv)
	if err != nil {
		return store.Session{}, err
	}
	if err := errors.Join(f.step(), f.step()); err != nil {
		return store.Session{}, err
	}
	return s.Get(context.Background(), srv.sid)
}

// A population is many live sessions of one account that were last used at
// different times of the last hour. They are not kept in memory.
type population struct {
	like store.Session
	ids  []string       // in ascending order
	who  map[string]int // the number of each
	own  int            // how many are alice's
}

func newPopulation(like store.Session, own, n int) *population {
	p := &population{like: like, ids: make([]string, n), who: make(map[string]int, n), own: own}
	for i := range n {
		p.ids[i] = p.id(i)
		p.who[p.ids[i]] = i
	}
	slices.Sort(p.ids)
	return p
}

// subject returns whose the i-th session is: the first are alice's, of the others
// every three are one user's.
func (p *population) subject(i int) store.Subject {
	if i < p.own {
		return store.Subject{Issuer: issuer, ID: "alice"}
	}
	return store.Subject{Issuer: issuer, ID: fmt.Sprintf("other-%d", i/3)}
}

func (p *population) id(i int) string {
	sum := sha256.Sum256([]byte(fmt.Sprint("session ", i)))
	return store.Bucket(p.subject(i)) + "." + base64.RawURLEncoding.EncodeToString(sum[:18])
}

func (p *population) session(id string) store.Session {
	i := p.who[id]
	s := p.like.Clone()
	s.ID, s.Subject, s.Revision = id, p.subject(i), 0
	back := -time.Duration(i%3600) * time.Second
	s.Started, s.Authenticated, s.LastActivity = s.Started.Add(back), s.Authenticated.Add(back), s.LastActivity.Add(back)
	s.Due = s.Due.Add(back)
	g := &s.Grants[0]
	g.Authenticated, g.Rotated = g.Authenticated.Add(back), g.Rotated.Add(back)
	random(g.NonceHash, g.FromHash, g.Repeat)
	return s
}

// all returns the sessions, in ascending order of ID.
func (p *population) all() iter.Seq[store.Session] {
	return func(yield func(store.Session) bool) {
		for _, id := range p.ids {
			if !yield(p.session(id)) {
				return
			}
		}
	}
}

// dueEvery is how many refreshes of a session move its due time once: one of four,
// as with access tokens of 15 minutes and an inactivity window of two hours.
const dueEvery = 4

// refreshed changes what a refresh does, at no cost: what is measured is the
// store. The document's size stays the same.
func refreshed(s *store.Session) {
	s.LastActivity = s.LastActivity.Add(time.Second)
	g := &s.Grants[0]
	if g.Generation++; g.Generation%dueEvery == 0 {
		s.Due = s.Due.Add(dueEvery * time.Second)
	}
	g.Rotated = g.Rotated.Add(time.Second)
	g.NonceHash[0]++
	g.FromHash[0]++
	g.Repeat[0]++
}

// random fills in what nobody can compress, as sealed bytes and hashes are.
func random(lists ...[]byte) {
	for _, b := range lists {
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
	}
}

// A crowd is what many sessions in an engine cost.
type crowd struct {
	engine, version string
	few, many       int
	refresh         pairing // of a refresh through op, with few and with many

	// Get and Update of one of the sessions, each time another one.
	anywhere pairing

	loaded     time.Duration
	perSession float64 // bytes

	// Hook.Sweep ended swept of the sessions, all of which were due.
	swept    int
	sweeping time.Duration
}

// A crowdsPart is the crowds of all engines.
type crowdsPart struct {
	size    size
	machine machine
	crowds  []crowd
}

func (n size) crowds(dir string) (p crowdsPart, err error) {
	p.size = n
	if p.machine, err = describe(dir); err != nil {
		return p, err
	}
	key, err := newSigningKey(jose.ES256)
	if err != nil {
		return p, err
	}
	like, err := typical(key)
	if err != nil {
		return p, err
	}
	for _, engine := range engineNames {
		if engine == "memory" {
			continue // it is measured with the hook, with fewer
		}
		c := crowd{engine: engine, few: fewSessions, many: n.many}
		if err := c.measure(dir, key, like, n); err != nil {
			return p, fmt.Errorf("%d sessions, %s: %w", n.many, engine, err)
		}
		p.machine.addEngine(engine, c.version)
		p.crowds = append(p.crowds, c)
	}
	return p, nil
}

func (c *crowd) measure(dir string, key signingKey, like store.Session, n size) (err error) {
	ctx := context.Background()
	var refreshes [2]flow
	var anywhere [2]func() (time.Duration, error)
	var large *rig
	for i, sessions := range []int{c.few, c.many} {
		r, err := newRig(ctx, c.engine, dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.close()) }()
		hook, err := newHook(r.store, limits)
		if err != nil {
			return err
		}
		empty, err := r.size(ctx)
		if err != nil {
			return err
		}
		people, start := newPopulation(like, min(ownSessions, sessions), sessions), time.Now()
		if err := r.load(ctx, people.all()); err != nil {
			return fmt.Errorf("load: %w", err)
		}
		c.loaded = time.Since(start)
		full, err := r.size(ctx)
		if err != nil {
			return err
		}
		c.perSession = float64(full-empty) / float64(sessions)
		if refreshes[i], err = refreshingSeveral(key, hook, sessions); err != nil {
			return err
		}
		anywhere[i] = func() (time.Duration, error) {
			id := people.ids[rand.IntN(len(people.ids))]
			return getAndUpdate(ctx, r.store, id)
		}
		large, c.version = r, r.version
	}
	if _, err := pair(refreshes[0], refreshes[1], 1, n.steps); err != nil { // to warm up
		return err
	}
	if c.refresh, err = pair(refreshes[0], refreshes[1], n.runs, n.steps); err != nil {
		return err
	}
	if c.anywhere, err = alternate(anywhere[0], anywhere[1], n.runs, n.steps); err != nil {
		return err
	}
	return c.sweep(large, n)
}

// refreshingSeveral refreshes several logins in turn, half of them alice's: not
// one that stays in every cache.
func refreshingSeveral(key signingKey, hook *provider.Hook, sessions int) (flow, error) {
	srv, err := newServer(key, hook)
	if err != nil {
		return flow{}, err
	}
	tokens := make([]string, min(sessions, fewSessions))
	for i := range tokens {
		subject := "alice"
		if i%2 == 1 {
			subject = fmt.Sprintf("member-%d", i)
		}
		if tokens[i], err = srv.login(subject); err != nil {
			return flow{}, err
		}
	}
	i := 0
	return flow{srv, func() (err error) {
		i = (i + 1) % len(tokens)
		tokens[i], err = srv.refresh(tokens[i])
		return err
	}}, nil
}

// sweep measures Hook.Sweep when every session is due: after three hours without
// activity. The settings are not read from the store, nor is what to do when they
// change.
func (c *crowd) sweep(r *rig, n size) error {
	own := memstore.New()
	part := &partStore{Sessions: r.store, Fences: own, Documents: own, left: n.sweep}
	hook, err := provider.New(provider.Config{
		Store: part, Counts: own, Keys: provider.Keys{provider.NewKey(time.Now())},
		Now:      func() time.Time { return time.Now().Add(3 * time.Hour) },
		Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": {Limits: limits}}},
	})
	if err != nil {
		return err
	}
	start := time.Now()
	if err := hook.Sweep(context.Background()); err != nil {
		return err
	}
	c.sweeping, c.swept = time.Since(start), n.sweep-part.left
	return nil
}

// A partStore has a sweep end after a number of sessions.
type partStore struct {
	store.Sessions
	store.Fences
	store.Documents
	left int
}

func (p *partStore) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	if p.left == 0 {
		return nil, nil
	}
	due, err := p.Sessions.Due(ctx, now, lease, min(limit, p.left))
	p.left -= len(due)
	return due, err
}
