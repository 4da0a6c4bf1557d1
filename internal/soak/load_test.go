package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

// A load is clients at work: keepers, who signed in once and refresh all the
// time, and must never be refused, and visitors, who come and go.
type load struct {
	w       *world
	keepers []*login
	mayLose bool // whether a visitor's login may be lost: its process is killed

	refreshes atomic.Int64 // of keepers
	visits    tally
	stopping  chan struct{}
	wg        sync.WaitGroup

	mu  sync.Mutex
	err error
}

// keptUsers have as many keepers as the cap allows; so many more users have
// visitors.
const (
	keptUsers    = 2
	visitedUsers = 2
)

// work signs the keepers in and starts everybody.
func (w *world) work(t *testing.T, mayLose bool) *load {
	t.Helper()
	ctx := t.Context()
	l := &load{w: w, mayLose: mayLose, stopping: make(chan struct{})}
	var entered tally
	for user := range keptUsers {
		for i := range limit {
			k, err := w.enter(ctx, i, web, fmt.Sprintf("user-%d", user), &entered)
			require.NoError(t, err)
			require.NotEmpty(t, k.refreshToken)
			l.keepers = append(l.keepers, k)
		}
	}
	for _, k := range l.keepers {
		l.wg.Go(func() {
			for l.goesOn() {
				if err := k.refresh(ctx); err != nil {
					l.fail(fmt.Errorf("a refresh of %s: %w", k.username, err))
					return
				}
				l.refreshes.Add(1)
			}
		})
	}
	for user := range visitedUsers {
		for n := range 2 {
			l.wg.Go(func() {
				for i := n; l.goesOn(); i++ {
					v, err := w.visit(ctx, i, fmt.Sprintf("user-%d", keptUsers+user), &l.visits)
					switch {
					case err == nil:
					case l.mayLose && errors.Is(err, errLost):
						l.visits.lost.Add(1)
					default:
						l.fail(fmt.Errorf("a login of %s: %w", v.username, err))
						return
					}
				}
			})
		}
	}
	t.Cleanup(func() { // before the processes are ended
		if l.goesOn() {
			_ = l.stop() // the test has failed already
		}
	})
	return l
}

func (l *load) goesOn() bool {
	select {
	case <-l.stopping:
		return false
	default:
		return true
	}
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, err)
}

func (l *load) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// stop lets everybody finish what they do.
func (l *load) stop() error {
	close(l.stopping)
	l.wg.Wait()
	return l.failed()
}

// advance waits until so many more refreshes succeeded.
func (l *load) advance(t *testing.T, more int64) {
	t.Helper()
	goal, deadline := l.refreshes.Load()+more, time.Now().Add(stepLimit)
	for l.refreshes.Load() < goal {
		require.NoError(t, l.failed())
		require.True(t, time.Now().Before(deadline), "the clients do not get on")
		time.Sleep(2 * time.Millisecond)
	}
}

// suffer waits until there were so many answers 503 and lost connections.
func (l *load) suffer(t *testing.T, goal int64) {
	t.Helper()
	deadline := time.Now().Add(stepLimit)
	for l.w.fleet.outages.Load() < goal {
		require.NoError(t, l.failed())
		require.True(t, time.Now().Before(deadline), "nobody notices")
		time.Sleep(2 * time.Millisecond)
	}
}

// finish ends the load: every keeper's token works, and the history has neither
// too many sessions nor the end of one that was kept.
func (l *load) finish(t *testing.T) *replay {
	t.Helper()
	require.NoError(t, l.stop())
	ctx, cancel := context.WithTimeout(t.Context(), stepLimit)
	defer cancel()
	for _, k := range l.keepers {
		require.NoError(t, k.refresh(ctx), k.username)
	}
	r, err := l.w.replay(ctx)
	require.NoError(t, err)
	for user := range keptUsers {
		require.Len(t, r.live(fmt.Sprintf("user-%d", user), time.Now(), idle), limit)
	}
	require.LessOrEqual(t, int64(r.ends[policy.ReasonReplay]), l.w.taken.Load())
	require.Equal(t, limit, r.peak)
	v := l.visits.outcome(0)
	t.Logf("%d refreshes, %d logins admitted, %d refused, %d lost, %d signed out; %d answers, %d tries without one; %d commits",
		l.refreshes.Load(), v.admitted, v.refused, l.visits.lost.Load(), v.ends,
		l.w.fleet.requests.Load(), l.w.fleet.outages.Load(), r.commits)
	return r
}

// kills is how often a process is killed.
const kills = 6

// A process that is killed amid logins and refreshes takes no client's token
// along, whatever it had written and not answered yet.
func TestKillOneOfFour(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine, dir string) {
		w := startWorld(t, e, dir, keptUsers+visitedUsers)
		l := w.work(t, true)
		for i := range kills {
			l.advance(t, 20)
			p := w.fleet.processes[i%places]
			require.NoError(t, p.kill())
			l.advance(t, 20)
			require.NoError(t, p.start())
		}
		l.advance(t, 20)
		l.finish(t)
		require.Positive(t, w.fleet.outages.Load(), "no request was hit")
	})
}
