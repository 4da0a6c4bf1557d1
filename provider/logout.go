package provider

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"html/template"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/store"
)

// Logout is how applications are told that a session of theirs ended: OpenID
// Connect Back-Channel Logout 1.0, for every end and not only for a user who
// signs out, and Front-Channel Logout 1.0. The zero Logout tells nobody.
//
// What is owed is written with the end itself, so that no crash loses it. It is
// sent at once, and again, less and less often, until the application has taken
// it or Tries are over. The record of what was given up stays with the session,
// where [Hook.List] shows it; see [Hook.Redeliver].
//
// The processes that send are those in which [Hook.Storage] was called, as they
// have the signing key; what a process left undone is done by [Hook.Run] of
// another one.
type Logout struct {
	// URIs returns with which logout URIs a client is registered. A URI comes
	// from here and from nowhere else, never from a request; it is asked for
	// at each try, so that a change counts at once. The zero LogoutURIs is for
	// a client that has none, and for one that is not known. After an error
	// it is tried again, as if the application had not answered. Nil: nobody
	// is told.
	URIs func(ctx context.Context, clientID string) (LogoutURIs, error)

	// FrontChannel switches Front-Channel Logout 1.0 on: a user who signs out
	// sees a page that loads the FrontChannel URIs in frames, before they
	// go on. Browsers that keep third-party cookies from frames make it
	// unreliable (section 4.1): it is an addition to the back channel.
	FrontChannel bool

	// Template is executed with a [LogoutPage]. Nil: a plain page.
	Template *template.Template

	// Loopback allows back-channel URIs on loopback addresses, with http too:
	// for development. Without it a URI must be https.
	Loopback bool

	// Allow are ranges of addresses that notifications may be sent to beside
	// the public internet, such as 10.20.0.0/16 for applications in one's
	// own network. It counts what a name resolves to when the connection is
	// made. A cloud's metadata address is allowed only by a range that holds
	// nothing else.
	Allow []netip.Prefix

	// RootCAs are who may vouch for applications' certificates. Nil: those of
	// the system.
	RootCAs *x509.CertPool

	// Timeout is how long an application may take to answer, and how long a
	// user who signs out waits for all of them at most. Zero means 5 s, the
	// most is 20 s.
	Timeout time.Duration

	// Tries is how often a notification is sent before it is given up. Zero
	// means 30, which takes about a day.
	Tries int

	// OmitReason leaves "session_end_reason" out of logout tokens, where
	// applications that have no refresh token are not to know why a session
	// ended: that the account was disabled, for example. Their users read it on
	// the provider's sign-in page.
	OmitReason bool
}

// LogoutURIs are the logout URIs that a client is registered with.
type LogoutURIs struct {
	BackChannel  string // backchannel_logout_uri; empty: none
	FrontChannel string // frontchannel_logout_uri; empty: none

	// WithSubject puts "sub" into the client's logout tokens, beside "sid", for an
	// application that needs it. Others are better off without: some end all sessions
	// of the user when they see a "sub", also those that were begun since. Where ID
	// tokens have pairwise subjects it must not be set: "sub" is the storage's.
	WithSubject bool
}

func (l *Logout) check() error {
	switch {
	case l.Timeout < 0:
		return fmt.Errorf("%w: Logout.Timeout is negative", ErrConfig)
	case l.Timeout > 20*time.Second:
		return fmt.Errorf("%w: Logout.Timeout is %s, at most 20s is allowed", ErrConfig, l.Timeout)
	case l.Tries < 0:
		return fmt.Errorf("%w: Logout.Tries is negative", ErrConfig)
	}
	if l.FrontChannel && l.URIs == nil {
		return fmt.Errorf("%w: Logout.FrontChannel needs Logout.URIs", ErrConfig)
	}
	if l.Template == nil {
		l.Template = defaultLogoutTemplate
	}
	for _, sample := range []LogoutPage{{Confirm: &LogoutConfirm{}}, {Stayed: true}, {Frames: []string{"https://app.example.org/"}, Continue: "/"}} {
		if err := l.Template.Execute(io.Discard, sample); err != nil {
			return fmt.Errorf("%w: Logout.Template: %w", ErrConfig, err)
		}
	}
	for i, p := range l.Allow {
		if !p.IsValid() {
			return fmt.Errorf("%w: Logout.Allow: range %d is not set", ErrConfig, i)
		}
		if p.Addr().Is4In6() {
			return fmt.Errorf("%w: Logout.Allow: %s must be written as IPv4", ErrConfig, p)
		}
		if p.Masked() != p {
			return fmt.Errorf("%w: Logout.Allow: %s has bits beyond its length: %s is meant, or an address", ErrConfig, p, p.Masked())
		}
	}
	if l.Timeout == 0 {
		l.Timeout = 5 * time.Second
	}
	if l.Tries == 0 {
		l.Tries = 30
	}
	return nil
}

// Of a notification: how long it may wait for others to the same host, for how
// long who sends it has it to themselves, after how many refusals it is given
// up, and how long after a failure it is sent again.
const (
	logoutWaits    = 10 * time.Second
	logoutRefusals = 3
	logoutAgain    = 30 * time.Second
	logoutAtMost   = time.Hour
)

// claimFor is how long who means to send a notification has it to themselves:
// longer than they can take. Who is late by chance is not late each time.
func (h *Hook) claimFor() time.Duration {
	late := rand.N(10 * time.Second).Truncate(time.Microsecond)
	return h.cfg.Logout.Timeout + logoutWaits + 2*h.cfg.StoreTimeout + late
}

// retryIn is how long after the given number of tries the next one is. What
// failed together is not tried again together.
func retryIn(attempts int) time.Duration {
	wait := min(logoutAgain<<min(attempts-1, 10), logoutAtMost)
	return wait - rand.N(wait/5)
}

// clientsOf returns the clients that got tokens in a session: whom Back-Channel
// Logout 1.0 section 2.3 means. A client that has revoked its token since is
// among them: it may be signed in all the same.
func clientsOf(s *store.Session) []string {
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

// owe enters what is owed to the clients of a session that ends.
func (h *Hook) owe(s *store.Session) {
	s.Deliveries = nil
	if h.cfg.Logout.URIs == nil {
		return
	}
	claimed := h.now()
	if h.signers.signs(s.Subject.Issuer) { // or another process sends it
		claimed = claimed.Add(h.claimFor())
	}
	for _, client := range clientsOf(s) {
		s.Deliveries = append(s.Deliveries, store.Delivery{Client: client, Next: claimed})
	}
}

// nextDelivery is when the next notification that is owed is tried; zero if none is
// owed.
func nextDelivery(s *store.Session) time.Time {
	var next time.Time
	for _, d := range s.Deliveries {
		if d.GivenUp.IsZero() && (next.IsZero() || d.Next.Before(next)) {
			next = d.Next
		}
	}
	return next
}

// owedTo returns to whom a notification is owed.
func owedTo(s *store.Session) []string {
	var clients []string
	for _, d := range s.Deliveries {
		if d.GivenUp.IsZero() {
			clients = append(clients, d.Client)
		}
	}
	return clients
}

// claim takes what is due to be sent, and returns to whom. What this process has no
// key for it leaves to others.
func (h *Hook) claim(s *store.Session, now time.Time) []string {
	if !h.signers.signs(s.Subject.Issuer) {
		h.leave(s, now)
		return nil
	}
	var clients []string
	claimed := now.Add(h.claimFor())
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

// leaveFor is for how long at the most a process without the key leaves what is due
// to others: sweeps are rarely further apart.
const leaveFor = 10 * time.Second

// leave puts what is due off, so that a process that has the issuer's key may come
// first. What no process had a key for as long as an end is remembered is given up.
func (h *Hook) leave(s *store.Session, now time.Time) {
	later := now.Add(rand.N(leaveFor).Truncate(time.Microsecond))
	s.Deliveries = slices.Clone(s.Deliveries)
	for i := range s.Deliveries {
		d := &s.Deliveries[i]
		switch {
		case !d.GivenUp.IsZero() || d.Next.After(now):
		case s.End != nil && now.Sub(s.End.At) > h.cfg.Remember:
			d.Next, d.GivenUp, d.Error = time.Time{}, now, short(errNoSigner.Error(), 200)
		default:
			d.Next = later
		}
	}
}

// forgetAt is when an ended session to which nothing is owed is forgotten: what was
// given up is remembered like the end itself.
func (h *Hook) forgetAt(s *store.Session) time.Time {
	at := s.End.At.Add(h.remember(s))
	for _, d := range s.Deliveries {
		if until := d.GivenUp.Add(h.cfg.Remember); !d.GivenUp.IsZero() && until.After(at) {
			at = until
		}
	}
	return at
}

// A notification is what is sent to one client.
type notification struct {
	sid     string
	subject store.Subject
	client  string
	why     string // why the session ended, as a refused refresh says it
	uri     string
	named   bool  // the client is told the subject too
	err     error // why there is no URI to send it to
}

// notifications asks where to send what is owed to the given clients, and returns
// those that have no place to send it to apart.
func (h *Hook) notifications(ctx context.Context, s *store.Session, clients []string) (list []notification, none []string) {
	if len(clients) == 0 || !h.signers.signs(s.Subject.Issuer) { // or another process sends it
		return nil, nil
	}
	if h.cfg.Logout.URIs == nil { // not any more
		return nil, clients
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	for _, client := range clients {
		uris, err := h.cfg.Logout.URIs(ctx, client)
		if err == nil && uris.BackChannel == "" {
			none = append(none, client)
			continue
		}
		if err != nil {
			err = fmt.Errorf("its URI cannot be had: %w", err)
		}
		list = append(list, notification{sid: s.ID, subject: s.Subject, client: client, why: endedText(s), uri: uris.BackChannel, named: uris.WithSubject, err: err})
	}
	return list, none
}

// strike removes what is owed to the given clients.
func strike(s *store.Session, clients []string) {
	if len(clients) > 0 {
		s.Deliveries = slices.DeleteFunc(slices.Clone(s.Deliveries), func(d store.Delivery) bool { return slices.Contains(clients, d.Client) })
	}
}

// send hands notifications that are claimed to the outbox, and returns when each
// has been tried once, or been left for later.
func (h *Hook) send(list []notification) <-chan struct{} {
	tried := make(chan struct{})
	if len(list) == 0 {
		close(tried)
		return tried
	}
	var left atomic.Int64
	left.Store(int64(len(list)))
	for _, n := range list {
		h.outbox.put(n.host(), func(run bool) {
			if run {
				_ = h.deliver(n) // it is noted
			}
			if left.Add(-1) == 0 {
				close(tried)
			}
		})
	}
	return tried
}

// resend sends what a sweep has claimed of a session that ended before.
func (h *Hook) resend(ctx context.Context, s store.Session, claimed []string) error {
	list, none := h.notifications(ctx, &s, claimed)
	if len(none) > 0 {
		_, err := h.change(ctx, s, func(s *store.Session) error {
			strike(s, none)
			h.schedule(s, ruling{})
			return nil
		})
		if err != nil {
			return err
		}
	}
	h.send(list)
	return nil
}

// deliver sends one notification and notes what came of it. If that cannot be
// noted, or the process dies, it is sent again under another "jti": at least
// once.
func (h *Hook) deliver(n notification) error {
	// A context of its own: the request in which the session ended may be over.
	ctx := op.ContextWithIssuer(context.Background(), n.subject.Issuer)
	cause := n.err
	if cause == nil {
		cause = h.notify(ctx, n)
	}
	if err := h.noteDelivery(ctx, n, cause); err != nil && !errors.Is(err, store.ErrNotFound) {
		h.event(ctx, Event{Type: EventUnavailable, Subject: n.subject, SID: n.sid, Client: n.client, Err: err})
	}
	return cause
}

// noteDelivery notes what came of a try.
func (h *Hook) noteDelivery(ctx context.Context, n notification, cause error) error {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	s, err := h.load(ctx, n.sid)
	if err != nil {
		return err
	}
	what := EventDelivered
	s, err = h.change(ctx, s, func(s *store.Session) error {
		what = EventDelivered
		i := slices.IndexFunc(s.Deliveries, func(d store.Delivery) bool { return d.Client == n.client })
		if s.End == nil || i < 0 {
			return errNoChange
		}
		s.Deliveries = slices.Clone(s.Deliveries)
		if cause == nil {
			s.Deliveries = slices.Delete(s.Deliveries, i, i+1)
		} else {
			what = h.failed(&s.Deliveries[i], n, cause)
		}
		h.schedule(s, ruling{})
		return nil
	})
	if err != nil {
		return err
	}
	e := Event{Type: what, Subject: s.Subject, SID: s.ID, Client: n.client, Kind: s.Kind, Err: cause}
	if s.End != nil {
		e.Reason, e.By = s.End.Reason, s.End.By
	}
	h.event(ctx, e)
	return nil
}

// failed notes a try that failed, and returns what to tell of it.
func (h *Hook) failed(d *store.Delivery, n notification, cause error) EventType {
	now := h.now()
	d.Attempts++
	d.URI, d.Error = n.place(), short(cause.Error(), 200)
	if errors.Is(cause, errRefused) {
		d.Refused++
	}
	if d.Attempts >= h.cfg.Logout.Tries || d.Refused >= logoutRefusals {
		d.Next, d.GivenUp = time.Time{}, now
		return EventDeliveryGivenUp
	}
	d.Next, d.GivenUp = now.Add(retryIn(d.Attempts)).UTC().Truncate(time.Microsecond), time.Time{}
	return EventDeliveryFailed
}

// Redeliver tells a client once more that a session ended: after its
// notification was given up, or if the client says that it got none. It is sent
// at once, and Redeliver returns what came of it: nil if the client took it. If
// not, it is owed again, with all its tries. If there is no such session, or the
// client had no part in it, the error wraps [store.ErrNotFound].
func (h *Hook) Redeliver(ctx context.Context, sid, client string) error {
	if err := h.redeliver(ctx, sid, client); err != nil {
		return fmt.Errorf("redeliver the end of session %q to %q: %w", sid, client, err)
	}
	return nil
}

func (h *Hook) redeliver(ctx context.Context, sid, client string) error {
	s, err := h.get(ctx, sid)
	if err != nil {
		return err
	}
	if !h.signers.signs(s.Subject.Issuer) {
		return fmt.Errorf("%w: %s", errNoSigner, s.Subject.Issuer)
	}
	had := slices.Contains(clientsOf(&s), client) || slices.ContainsFunc(s.Deliveries, func(d store.Delivery) bool { return d.Client == client })
	switch {
	case !had:
		return fmt.Errorf("the client had no part in it: %w", store.ErrNotFound)
	case s.End == nil:
		return errors.New("it has not ended")
	}
	list, none := h.notifications(ctx, &s, []string{client})
	if len(none) > 0 {
		return errors.New("the client has no back-channel logout URI")
	}
	wctx, cancel := h.detach(ctx)
	defer cancel()
	_, err = h.change(wctx, s, func(s *store.Session) error {
		strike(s, []string{client})
		s.Deliveries = append(s.Deliveries, store.Delivery{Client: client, Next: h.now().Add(h.claimFor())})
		h.schedule(s, ruling{})
		return nil
	})
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	h.outbox.put(list[0].host(), func(run bool) {
		if !run {
			result <- errBusy
			return
		}
		result <- h.deliver(list[0])
	})
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errBusy is why a notification was left for a sweep.
var errBusy = errors.New("too many notifications wait for the same host: it is sent later")
