package notify

import (
	"errors"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/internal/plain"
	"github.com/curfew-oidc/curfew/store"
)

// A Notification is what is sent to one client about one end.
type Notification struct {
	SID         string
	Subject     store.Subject
	Client      string
	Why         string // why the session ended, as a refused refresh says it
	URI         string
	WithSubject bool  // the client is told the subject too
	Err         error // why there is no URI to send it to
}

// Host is what a notification waits for others to.
func (n *Notification) Host() string {
	u, err := url.Parse(n.URI)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

// place is where a notification went, for people: what follows in a URI may be
// secret.
func (n *Notification) place() string {
	u, err := url.Parse(n.URI)
	if err != nil {
		return ""
	}
	return plain.Short((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), maxText)
}

// ErrNoKey is why a process cannot tell applications of an issuer's: others may.
var ErrNoKey = errors.New("this process has not served a login of the issuer, and has no key to sign logout tokens with")

// Of a notification: after how many refusals it is given up, how long after the
// first failure it is sent again, and how long after a later one at most.
const (
	maxRefusals = 3
	againAfter  = 30 * time.Second
	againAtMost = time.Hour
)

// maxText is how much of an error or a URI is kept, in bytes.
const maxText = 200

// leaveFor is for how long at the most a process without the key leaves what is due
// to others: sweeps are rarely further apart.
const leaveFor = 10 * time.Second

// A Ledger keeps in a session's document what is owed about its end. It changes the
// document that it is given, and writes nothing.
type Ledger struct {
	// Signs reports whether this process can tell applications of an issuer's.
	Signs func(issuer string) bool

	Sending  time.Duration // the longest that one try takes, waiting not included
	Remember time.Duration // how long what was given up is remembered
	Tries    int           // how often it is tried
}

// claim returns when a notification that this process sends now may be sent by
// another one: after longer than an attempt can take. The random part keeps two
// senders from colliding every time.
func (l *Ledger) claim(now time.Time) time.Time {
	return now.Add(l.Sending + outboxWait + rand.N(10*time.Second).Truncate(time.Microsecond))
}

// Clients returns the clients that got tokens in a session: whom Back-Channel
// Logout 1.0 section 2.3 means. A client that has revoked its token since is
// among them: it may be signed in all the same.
func Clients(s *store.Session) []string {
	var clients []string
	for _, g := range s.Grants {
		if g.Client != "" && !slices.Contains(clients, g.Client) {
			clients = append(clients, g.Client)
		}
	}
	if len(clients) == 0 && s.Client != "" {
		clients = []string{s.Client}
	}
	return clients
}

// Owe enters that each client of a session that ends is owed a notification, which
// this process sends if it can.
func (l *Ledger) Owe(s *store.Session, now time.Time) {
	next := now
	if l.Signs(s.Subject.Issuer) { // or another process sends it
		next = l.claim(now)
	}
	s.Deliveries = nil
	for _, client := range Clients(s) {
		s.Deliveries = append(s.Deliveries, store.Delivery{Client: client, Next: next})
	}
}

// OweAgain enters a notification of one client anew, with all its tries, which this
// process sends.
func (l *Ledger) OweAgain(s *store.Session, client string, now time.Time) {
	Strike(s, []string{client})
	s.Deliveries = append(s.Deliveries, store.Delivery{Client: client, Next: l.claim(now)})
}

// Next returns when the next notification that is owed is tried; the zero time if
// nothing is owed.
func Next(s *store.Session) time.Time {
	var next time.Time
	for _, d := range s.Deliveries {
		if d.GivenUp.IsZero() && (next.IsZero() || d.Next.Before(next)) {
			next = d.Next
		}
	}
	return next
}

// Owed returns the clients that are owed a notification.
func Owed(s *store.Session) []string {
	var clients []string
	for _, d := range s.Deliveries {
		if d.GivenUp.IsZero() {
			clients = append(clients, d.Client)
		}
	}
	return clients
}

// Strike removes what is owed to the given clients.
func Strike(s *store.Session, clients []string) {
	if len(clients) > 0 {
		s.Deliveries = slices.DeleteFunc(slices.Clone(s.Deliveries), func(d store.Delivery) bool { return slices.Contains(clients, d.Client) })
	}
}

// Claim takes what is due for this process to send, and returns the clients. What
// this process has no key for it leaves to others.
func (l *Ledger) Claim(s *store.Session, now time.Time) []string {
	if !l.Signs(s.Subject.Issuer) {
		l.leave(s, now)
		return nil
	}
	var clients []string
	claimed := l.claim(now)
	s.Deliveries = slices.Clone(s.Deliveries)
	for i := range s.Deliveries {
		d := &s.Deliveries[i]
		if d.GivenUp.IsZero() && !d.Next.After(now) {
			d.Next = claimed
			clients = append(clients, d.Client)
		}
	}
	return clients
}

// leave puts what is due off, so that a process that has the issuer's key may come
// first. What no process had a key for as long as an end is remembered is given up.
func (l *Ledger) leave(s *store.Session, now time.Time) {
	later := now.Add(rand.N(leaveFor).Truncate(time.Microsecond))
	s.Deliveries = slices.Clone(s.Deliveries)
	for i := range s.Deliveries {
		d := &s.Deliveries[i]
		switch {
		case !d.GivenUp.IsZero() || d.Next.After(now):
		case s.End != nil && now.Sub(s.End.At) > l.Remember:
			d.Next, d.GivenUp, d.Error = time.Time{}, now, plain.Short(ErrNoKey.Error(), maxText)
		default:
			d.Next = later
		}
	}
}

// RememberedUntil returns the later of at and when the last record of what was given
// up is forgotten: it is remembered like an end.
func (l *Ledger) RememberedUntil(s *store.Session, at time.Time) time.Time {
	for _, d := range s.Deliveries {
		if until := d.GivenUp.Add(l.Remember); !d.GivenUp.IsZero() && until.After(at) {
			at = until
		}
	}
	return at
}

// An Outcome is what came of a try.
type Outcome uint8

const (
	NotOwed   Outcome = iota // nobody owes it any more
	Delivered                // the client took it
	Failed                   // it is tried again
	GivenUp                  // it is not tried again
)

// Note enters what came of a try.
func (l *Ledger) Note(s *store.Session, n Notification, cause error, now time.Time) Outcome {
	i := slices.IndexFunc(s.Deliveries, func(d store.Delivery) bool { return d.Client == n.Client })
	if s.End == nil || i < 0 {
		return NotOwed
	}
	s.Deliveries = slices.Clone(s.Deliveries)
	if cause == nil {
		s.Deliveries = slices.Delete(s.Deliveries, i, i+1)
		return Delivered
	}
	d := &s.Deliveries[i]
	d.Attempts++
	d.URI, d.Error = n.place(), plain.Short(cause.Error(), maxText)
	if errors.Is(cause, ErrRefused) {
		d.Refused++
	}
	if d.Attempts >= l.Tries || d.Refused >= maxRefusals {
		d.Next, d.GivenUp = time.Time{}, now
		return GivenUp
	}
	d.Next, d.GivenUp = now.Add(retryIn(d.Attempts)).UTC().Truncate(time.Microsecond), time.Time{}
	return Failed
}

// retryIn is how long after the given number of tries the next one is. What
// failed together is not tried again together.
func retryIn(attempts int) time.Duration {
	wait := min(againAfter<<min(attempts-1, 10), againAtMost)
	return wait - rand.N(wait/5)
}
