package providertest

import (
	"maps"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

// A pool lends the users to the tests. A user comes back rested: no session of it
// takes a slot from the next test.
type pool struct {
	mu     sync.Mutex
	freed  *sync.Cond
	users  []pooled
	lent   int
	logins map[string]*login // not known to be over, by code or device code
}

type pooled struct {
	name string
	from time.Time // until then it rests
}

// A login is one that a test began. Several sessions of the kit may come of it, if
// its code is sent several times.
type login struct {
	user     string
	sessions int
}

func newPool(users []string) *pool {
	p := &pool{logins: map[string]*login{}}
	p.freed = sync.NewCond(&p.mu)
	for _, name := range users {
		p.users = append(p.users, pooled{name: name})
	}
	return p
}

// take waits until n users have rested, and returns nil if there will never be
// as many.
func (p *pool) take(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		now := time.Now()
		var taken []string
		var left []pooled
		var next time.Time
		for _, u := range p.users {
			switch {
			case len(taken) < n && !u.from.After(now):
				taken = append(taken, u.name)
				continue
			case u.from.After(now) && (next.IsZero() || u.from.Before(next)):
				next = u.from
			}
			left = append(left, u)
		}
		if len(taken) == n {
			p.users = left
			p.lent += n
			return taken
		}
		if len(p.users)+p.lent < n {
			return nil
		}
		if !next.IsZero() {
			wake := time.AfterFunc(time.Until(next), func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.freed.Broadcast()
			})
			p.freed.Wait()
			wake.Stop()
			continue
		}
		p.freed.Wait()
	}
}

// began notes that a user signed in, with the code that came of it.
func (p *pool) began(code, user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logins[code] = &login{user: user}
}

// redeemed notes that tokens came of a code.
func (p *pool) redeemed(code string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.logins[code]; l != nil {
		l.sessions++
	}
}

// alone reports whether only one session of the kit came of a code.
func (p *pool) alone(code string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.logins[code]
	return l == nil || l.sessions == 1
}

// over notes that a login takes no slot any more.
func (p *pool) over(code string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.logins, code)
}

// leftOf forgets the logins of a user, and reports whether there were any.
func (p *pool) leftOf(user string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.logins)
	maps.DeleteFunc(p.logins, func(_ string, l *login) bool { return l.user == user })
	return len(p.logins) < before
}

// giveBack takes a user back that rests for a time.
func (p *pool) giveBack(user string, rest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users = append(p.users, pooled{name: user, from: time.Now().Add(rest)})
	p.lent--
	p.freed.Broadcast()
}

// lose takes a user back that is good for nothing any more.
func (p *pool) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent--
	p.freed.Broadcast()
}

// user takes a user for the rest of the test: nobody else uses it.
func (k *kit) user(t *testing.T) string {
	t.Helper()
	return k.takeUsers(t, 1)[0]
}

// takeUsers takes n users at once, so that tests never wait for each other in
// a circle.
func (k *kit) takeUsers(t *testing.T, n int) []string {
	t.Helper()
	taken := k.pool.take(n)
	require.NotNil(t, taken, "no user is left: sessions of them could not be ended; give Target.EndSessions")
	t.Cleanup(func() {
		for _, user := range taken {
			k.release(t, user)
		}
	})
	return taken
}

// afterLimits is how long after its last use a session is surely over, beyond its
// limits: what rounding and clocks may add.
const afterLimits = 2 * time.Second

// release gives a user back, after the test has ended what it began.
func (k *kit) release(t *testing.T, user string) {
	t.Helper()
	left := k.pool.leftOf(user)
	_, capped := k.Limits.Concurrent.Value()
	idle, hasIdle := k.Limits.Inactivity.Value()
	active, hasActive := k.Limits.Active.Value()
	switch {
	case !left || !capped:
		k.pool.giveBack(user, 0)
	case k.EndSessions != nil:
		if err := k.EndSessions(user); err != nil {
			k.pool.lose()
			t.Errorf("Target.EndSessions of %s: %v", user, err)
			return
		}
		k.pool.giveBack(user, 0)
	case hasIdle && hasActive:
		k.pool.giveBack(user, min(idle, active)+afterLimits)
	case hasIdle:
		k.pool.giveBack(user, idle+afterLimits)
	case hasActive:
		k.pool.giveBack(user, active+afterLimits)
	default:
		k.pool.lose()
	}
}

// signOut ends the session, however it stands, so that the user's slots are
// free for the next test.
func (s *session) signOut() {
	if !s.k.Off.EndSession {
		// If another session took its place in the browser, the user would be
		// asked there; a new browser has nothing to ask about.
		for _, b := range []*browser{s.browser, s.k.browser()} {
			_, _ = b.endSession(url.Values{"id_token_hint": {s.first.id()}})
		}
	}
	if !s.k.Off.Revocation && !s.k.Off.RefreshTokens {
		s.k.revoke(s.client, s.now.refresh())
	}
	if s.isOver() {
		s.k.pool.over(s.now.login)
	}
}

// isOver reports whether the session is known to be over.
func (s *session) isOver() bool {
	if _, capped := s.k.Limits.Concurrent.Value(); !capped {
		return true // nobody counts
	}
	if s.k.Off.RefreshTokens {
		lives, _ := s.now.json["expires_in"].(float64)
		dead := s.k.userinfo(s.now.access()).status == http.StatusUnauthorized
		return dead && time.Since(s.sent) < time.Duration(lives)*time.Second
	}
	r := s.k.refresh(s.client, s.now.refresh())
	switch reason := r.reason(); {
	case r.err() != "invalid_grant":
		return false
	case reason == policy.ReasonRevoked:
		// Of a login in a browser that ends the grant, and the login goes on.
		return s.client.ID == s.k.Device.ID
	default:
		// Of a code that was sent several times the storage may have voided this
		// token, and the session lives.
		return s.k.pool.alone(s.now.login) || reason.Known() && reason.Info().Class != policy.NoEnd
	}
}
