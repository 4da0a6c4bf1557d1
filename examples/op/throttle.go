package main

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// A throttle slows down who guesses: a failure takes something from a bucket,
// which fills again with time. It is per process and in memory: processes that
// share a store allow as many times more, and a restart forgives.
type throttle struct {
	burst  float64       // failures in a row
	refill time.Duration // for one more

	mu      sync.Mutex
	buckets map[string]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

// maxBuckets bounds the memory. Beyond it the full ones go, and if there are
// none, new names are not throttled: the other throttles still hold.
const maxBuckets = 100_000

func newThrottle(burst int, refill time.Duration) *throttle {
	return &throttle{burst: float64(burst), refill: refill, buckets: map[string]bucket{}}
}

// level is what is in the bucket at now; t.mu is held.
func (t *throttle) level(b bucket, now time.Time) float64 {
	return min(t.burst, b.left+float64(now.Sub(b.at))/float64(t.refill))
}

// wait returns for how long the name has to wait; 0 if it may go on.
func (t *throttle) wait(name string, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, ok := t.buckets[name]
	if !ok {
		return 0
	}
	if left := t.level(b, now); left < 1 {
		return time.Duration((1 - left) * float64(t.refill))
	}
	return 0
}

// fail counts one failure.
func (t *throttle) fail(name string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, ok := t.buckets[name]
	if !ok {
		if len(t.buckets) >= maxBuckets {
			for name, b := range t.buckets {
				if t.level(b, now) >= t.burst {
					delete(t.buckets, name)
				}
			}
			if len(t.buckets) >= maxBuckets {
				return
			}
		}
		b = bucket{t.burst, now}
	}
	t.buckets[name] = bucket{max(0, t.level(b, now)-1), now}
}

// guesses throttles the pages where something can be guessed. The numbers leave
// room for people who try all their passwords, and for offices behind one
// address.
type guesses struct {
	pair    *throttle // an address and a username
	address *throttle
	name    *throttle // a username from many addresses; generous, or anybody could lock anybody out
	code    *throttle // device codes, by address (RFC 8628 section 5.1)
}

func newGuesses() guesses {
	return guesses{
		pair:    newThrottle(8, 15*time.Second),
		address: newThrottle(60, 2*time.Second),
		name:    newThrottle(200, 5*time.Second),
		code:    newThrottle(20, 10*time.Second),
	}
}

func (g guesses) passwords(address, username string) map[*throttle]string {
	return map[*throttle]string{g.pair: address + " " + username, g.address: address, g.name: username}
}

// passwordWait returns for how long no password is looked at.
func (g guesses) passwordWait(address, username string, now time.Time) (wait time.Duration) {
	for t, name := range g.passwords(address, username) {
		wait = max(wait, t.wait(name, now))
	}
	return wait
}

// passwordFailed counts a wrong password. A right one counts for nothing: who
// knows it may sign in as often as the policy lets them.
func (g guesses) passwordFailed(address, username string, now time.Time) {
	for t, name := range g.passwords(address, username) {
		t.fail(name, now)
	}
}

// addressOf is who asks, as far as the network knows: the address, or the /64
// that one IPv6 user has all of. Behind a reverse proxy it is the proxy, which
// then has to throttle.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	if prefix, err := ip.Prefix(64); err == nil {
		return prefix.String()
	}
	return host
}
