package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/curfew-oidc/curfew/store"
)

// A timedStore measures the time inside of a store's calls.
type timedStore struct {
	store.Store
	inside atomic.Int64 // nanoseconds, the calls of all clients together
}

func (t *timedStore) since(start time.Time) { t.inside.Add(int64(time.Since(start))) }

func (t *timedStore) Get(ctx context.Context, id string) (store.Session, error) {
	defer t.since(time.Now())
	return t.Store.Get(ctx, id)
}

func (t *timedStore) Create(ctx context.Context, s store.Session, max int) error {
	defer t.since(time.Now())
	return t.Store.Create(ctx, s, max)
}

func (t *timedStore) Update(ctx context.Context, s store.Session) (int64, error) {
	defer t.since(time.Now())
	return t.Store.Update(ctx, s)
}

func (t *timedStore) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	defer t.since(time.Now())
	return t.Store.Admit(ctx, subject, decide)
}

func (t *timedStore) Document(ctx context.Context, key string) (store.Document, error) {
	defer t.since(time.Now())
	return t.Store.Document(ctx, key)
}

// A rate is what clients got done, all at the same time.
type rate struct {
	steps     int
	perSecond float64
	p50, p99  time.Duration
	total     time.Duration // the time of all steps together
}

// together has each client take its step over and over for the window, at least
// once.
func together(clients []func() error, window time.Duration) (rate, error) {
	took := make([][]time.Duration, len(clients))
	errs := make([]error, len(clients))
	var running sync.WaitGroup
	start := time.Now()
	for i, step := range clients {
		running.Go(func() {
			for len(took[i]) == 0 || time.Since(start) < window {
				before := time.Now()
				if errs[i] = step(); errs[i] != nil {
					return
				}
				took[i] = append(took[i], time.Since(before))
			}
		})
	}
	running.Wait()
	elapsed := time.Since(start)
	var all []time.Duration
	for _, list := range took {
		all = append(all, list...)
	}
	r := rate{
		steps: len(all), perSecond: float64(len(all)) / elapsed.Seconds(),
		p50: percentile(all, 50), p99: percentile(all, 99),
	}
	for _, t := range all {
		r.total += t
	}
	return r, errors.Join(errs...)
}

// A load is what several clients do through op with the hook, on one store.
type load struct {
	engine, flow string
	clients      int
	rate         rate
	inStore      float64       // the part of the steps' time that is inside of store calls
	own, engines time.Duration // CPU time of a step: of this process, and of the engine's
	apart        bool          // whether the engine has processes of its own
}

var clientCounts = []int{1, 8, 64}

// serve measures refreshes and logins on one store with several clients at once.
func serve(engine string, r *rig, key signingKey, n size) ([]load, error) {
	timed := &timedStore{Store: r.store}
	hook, err := newHook(timed, limits)
	if err != nil {
		return nil, err
	}
	srv, err := newServer(key, hook)
	if err != nil {
		return nil, err
	}
	var loads []load
	for _, flow := range []string{"refresh", "login"} {
		for _, count := range clientCounts {
			clients := make([]func() error, count)
			for i := range clients {
				if clients[i], err = srv.client(flow, fmt.Sprintf("%s-%d-%d", flow, count, i)); err != nil {
					return nil, err
				}
			}
			if _, err := together(clients, n.window/4); err != nil { // to warm up
				return nil, err
			}
			l := load{engine: engine, flow: flow, clients: count, apart: r.processes != nil}
			ownBefore, enginesBefore, err := r.cpu()
			if err != nil {
				return nil, err
			}
			timed.inside.Store(0)
			if l.rate, err = together(clients, n.window); err != nil {
				return nil, err
			}
			l.inStore = float64(timed.inside.Load()) / float64(l.rate.total)
			own, engines, err := r.cpu()
			if err != nil {
				return nil, err
			}
			l.own = (own - ownBefore) / time.Duration(l.rate.steps)
			l.engines = (engines - enginesBefore) / time.Duration(l.rate.steps)
			loads = append(loads, l)
		}
	}
	return loads, nil
}

// client returns the step of a client of its own at the same provider: it
// refreshes one login over and over, or logs users in.
func (s *server) client(flow, name string) (func() error, error) {
	own := &server{storage: s.storage, handler: s.handler, serve: s.handler.ServeHTTP}
	n := 0
	if flow == "login" {
		return func() error {
			n++
			_, err := own.login(fmt.Sprintf("%s-user-%d", name, n/10))
			return err
		}, nil
	}
	token, err := own.login(name)
	return func() (err error) {
		token, err = own.refresh(token)
		return err
	}, err
}

// cpu returns the CPU time that was used so far: by this process, and by those of
// the engine.
func (r *rig) cpu() (own, engines time.Duration, err error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, 0, err
	}
	own = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	if r.processes == nil {
		return own, 0, nil
	}
	processes, err := r.processes()
	if err != nil {
		return 0, 0, err
	}
	for _, pid := range processes {
		used, _, err := processTime(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended since; its parent counts it
		}
		if err != nil {
			return 0, 0, err
		}
		engines += used
	}
	return own, engines, nil
}

// processTime returns the CPU time of a process and of those of its children that
// have ended, to 10 ms, and its parent. See proc(5).
func processTime(pid int) (used time.Duration, parent int, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name, in parentheses, may hold spaces and parentheses itself.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
	}
	if parent, err = strconv.Atoi(fields[1]); err != nil {
		return 0, 0, err
	}
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		used += time.Duration(ticks) * (time.Second / 100)
	}
	return used, parent, nil
}

// family returns a process and its children.
func family(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	pids := []int{pid}
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue // no process
		}
		if _, parent, err := processTime(child); err == nil && parent == pid {
			pids = append(pids, child)
		}
	}
	return pids, nil
}
