package main

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"time"
)

// A flow does one thing once, with a server of its own.
type flow struct {
	server *server
	step   func() error
}

// A cost is what one step of a flow allocates inside of the HTTP handler.
type cost struct{ allocs, bytes uint64 }

// timed takes one step with a stopwatch around the handler.
func (f flow) timed() (time.Duration, error) {
	var took time.Duration
	f.server.serve = func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		f.server.handler.ServeHTTP(w, r)
		took += time.Since(start)
	}
	err := f.step()
	return took, err
}

// counted takes one step with a count of allocations around the handler.
func (f flow) counted() (c cost, err error) {
	var before, after runtime.MemStats
	f.server.serve = func(w http.ResponseWriter, r *http.Request) {
		runtime.ReadMemStats(&before)
		f.server.handler.ServeHTTP(w, r)
		runtime.ReadMemStats(&after)
		c.allocs += after.Mallocs - before.Mallocs
		c.bytes += after.TotalAlloc - before.TotalAlloc
	}
	err = f.step()
	return c, err
}

// A pairing is two flows side by side, over several runs.
type pairing struct {
	a, b  []time.Duration // the median step of each run
	added []time.Duration // the median of b minus a in each run
}

// pair runs two flows in turn.
func pair(a, b flow, runs, steps int) (pairing, error) {
	return alternate(a.timed, b.timed, runs, steps)
}

// alternate takes two kinds of timed steps in turn: step by step, so that what
// disturbs the machine disturbs both, and each goes first half of the time.
func alternate(a, b func() (time.Duration, error), runs, steps int) (pairing, error) {
	var p pairing
	for range runs {
		var as, bs, added []time.Duration
		runtime.GC()
		for i := range steps {
			var ta, tb time.Duration
			var errA, errB error
			if i%2 == 0 {
				ta, errA = a()
				tb, errB = b()
			} else {
				tb, errB = b()
				ta, errA = a()
			}
			if errA != nil || errB != nil {
				return pairing{}, fmt.Errorf("step %d: %v, %v", i, errA, errB)
			}
			as, bs, added = append(as, ta), append(bs, tb), append(added, tb-ta)
		}
		p.a, p.b, p.added = append(p.a, median(as)), append(p.b, median(bs)), append(p.added, median(added))
	}
	return p, nil
}

// allocations returns the median of what a step allocates.
func allocations(f flow, steps int) (cost, error) {
	var allocs, bytes []uint64
	for range steps {
		c, err := f.counted()
		if err != nil {
			return cost{}, err
		}
		allocs, bytes = append(allocs, c.allocs), append(bytes, c.bytes)
	}
	return cost{median(allocs), median(bytes)}, nil
}

// percentile returns the value that p of 100 are not above.
func percentile(list []time.Duration, p int) time.Duration {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

func median[T ~int64 | ~uint64 | ~float64](list []T) T {
	sorted := slices.Sorted(slices.Values(list))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
