package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/curfew-oidc/curfew/store"
)

// A comparison is a store next to the bare driver: Get and Update of a typical
// session, and the read and the durable write of a row of the same size.
type comparison struct {
	engine string
	bytes  int     // of the session document
	alone  pairing // one client: a is the bare driver, b the store

	// Pairs of read and write per second, by many clients each on a subject of
	// its own, in each run: the two in turn.
	bare, store []float64
}

// manyClients is how many clients the comparison's throughput is measured with.
const manyClients = 64

// slower returns by how much the store takes longer than the bare driver.
func (c *comparison) slower() float64 {
	return float64(median(c.alone.b)) / float64(median(c.alone.a))
}

// share returns how much of the bare driver's throughput the store has.
func (c *comparison) share() float64 { return median(c.store) / median(c.bare) }

// besides puts a session for each client into the store of a rig, and a row of the
// same size into a table of the bare driver's, if there is one. It returns what
// each client does, and the size.
func besides(ctx context.Context, r *rig, like store.Session, clients int) (stores, bares []func() (time.Duration, error), bytes int, err error) {
	people := newPopulation(like, 0, 3*clients)
	for i := range clients {
		id := people.id(3 * i)
		one := people.session(id)
		if err := r.store.Create(ctx, one, 1); err != nil {
			return nil, nil, 0, err
		}
		stores = append(stores, func() (time.Duration, error) { return getAndUpdate(ctx, r.store, id) })
		if r.bare == nil {
			continue
		}
		// Made before: encoding is the store's part, not the driver's.
		document, err := one.MarshalJSON()
		if err != nil {
			return nil, nil, 0, err
		}
		refreshed(&one)
		other, err := one.MarshalJSON()
		if err != nil {
			return nil, nil, 0, err
		}
		bytes = len(document)
		if err := r.bare.put(ctx, id, document); err != nil {
			return nil, nil, 0, err
		}
		bares = append(bares, func() (time.Duration, error) {
			document, other = other, document
			start := time.Now()
			got, err := r.bare.read(ctx, id)
			if err != nil {
				return 0, err
			}
			if len(got) != len(other) {
				return 0, fmt.Errorf("the row has %d bytes, not %d", len(got), len(other))
			}
			err = r.bare.update(ctx, id, document)
			return time.Since(start), err
		})
	}
	return stores, bares, bytes, nil
}

// getAndUpdate does what a refresh asks of the store.
func getAndUpdate(ctx context.Context, s store.Store, id string) (time.Duration, error) {
	start := time.Now()
	one, err := s.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	refreshed(&one)
	_, err = s.Update(ctx, one)
	return time.Since(start), err
}

// compareBare compares the store of a rig with the bare driver in it.
func compareBare(engine string, r *rig, like store.Session, n size) (c comparison, err error) {
	c.engine = engine
	var stores, bares []func() (time.Duration, error)
	stores, bares, c.bytes, err = besides(context.Background(), r, like, manyClients)
	if err != nil {
		return c, err
	}
	if _, err := alternate(bares[0], stores[0], 1, n.steps); err != nil { // to warm up
		return c, err
	}
	if c.alone, err = alternate(bares[0], stores[0], n.runs, n.steps); err != nil {
		return c, err
	}
	for run := range n.runs + 1 {
		bare, err := together(untimed(bares), n.window/2)
		if err != nil {
			return c, fmt.Errorf("bare: %w", err)
		}
		stored, err := together(untimed(stores), n.window/2)
		if err != nil {
			return c, err
		}
		if run > 0 { // the first warms up
			c.bare, c.store = append(c.bare, bare.perSecond), append(c.store, stored.perSecond)
		}
	}
	return c, nil
}

func untimed(timed []func() (time.Duration, error)) []func() error {
	steps := make([]func() error, len(timed))
	for i, f := range timed {
		steps[i] = func() error {
			_, err := f()
			return err
		}
	}
	return steps
}

// A storesPart is everything that was measured of stores.
type storesPart struct {
	size        size
	machine     machine
	loads       []load
	comparisons []comparison
}

// stores measures each store under load, and next to its driver.
func (n size) stores(dir string) (p storesPart, err error) {
	key, err := newSigningKey(jose.ES256)
	if err != nil {
		return p, err
	}
	like, err := typical(key)
	if err != nil {
		return p, err
	}
	p.size = n
	if p.machine, err = describe(dir); err != nil {
		return p, err
	}
	for _, engine := range engineNames {
		if err := p.measure(engine, dir, key, like, n); err != nil {
			return p, fmt.Errorf("%s: %w", engine, err)
		}
	}
	return p, nil
}

func (p *storesPart) measure(engine, dir string, key signingKey, like store.Session, n size) (err error) {
	r, err := newRig(context.Background(), engine, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	p.machine.addEngine(engine, r.version)
	if r.bare != nil {
		c, err := compareBare(engine, r, like, n)
		if err != nil {
			return err
		}
		p.comparisons = append(p.comparisons, c)
	}
	loads, err := serve(engine, r, key, n)
	p.loads = append(p.loads, loads...)
	return err
}
