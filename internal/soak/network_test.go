package main

import (
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultnet"
)

// A distant engine is one that the processes reach over a bad network. Its
// history is read without it.
type distant struct {
	engine
	network *faultnet.Proxy
	address string // what the processes are told
}

// atDistance puts a network between the processes and an engine.
func atDistance(t *testing.T, e engine) *distant {
	t.Helper()
	u, err := url.Parse(e.url())
	require.NoError(t, err)
	network, err := faultnet.Listen(u.Host)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, network.Close()) })
	u.Host = network.Addr()
	return &distant{engine: e, network: network, address: u.String()}
}

func (e *distant) url() string { return e.address }

// Between the providers and their store connections are cut, answers lost, and
// everything delayed and held back, amid logins and refreshes. An outage is not a
// logout: those who signed in before keep their tokens through all of it, nothing
// is admitted unchecked, and service resumes by itself.
func TestBadNetwork(t *testing.T) {
	for _, name := range []string{"PostgreSQL", "Redis"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEngine(t, name, func(t *testing.T, e engine, dir string) {
				d := atDistance(t, e)
				w := startWorld(t, d, dir, keptUsers+visitedUsers)
				l := w.work(t, true)
				for _, bad := range []struct {
					what  string
					fault faultnet.Fault
				}{
					{"cut", faultnet.Fault{Cut: true}}, {"answers lost", faultnet.Fault{LoseAnswers: 7}},
					{"delayed", faultnet.Fault{Delay: 40 * time.Millisecond}}, {"held back", faultnet.Fault{Hold: true}},
				} {
					l.advance(t, 10)
					outages := w.fleet.outages.Load()
					d.network.Set(bad.fault)
					if bad.fault.Cut || bad.fault.Hold {
						// Nobody gets on. Each process says so, until it is over.
						l.suffer(t, outages+2*places)
					} else {
						l.advance(t, 20)
					}
					d.network.Set(faultnet.Fault{})
					t.Logf("%s: %d tries without an answer", bad.what, w.fleet.outages.Load()-outages)
				}
				l.advance(t, 20)
				l.finish(t)
				require.Positive(t, d.network.Lost(), "no answer was lost")
			})
		})
	}
}
