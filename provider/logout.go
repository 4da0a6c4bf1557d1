package provider

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/provider/internal/notify"
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

// newLedger returns what keeps the deliveries that are owed.
func (h *Hook) newLedger() *notify.Ledger {
	return &notify.Ledger{
		Signs:    h.signers.signs,
		Sending:  h.cfg.Logout.Timeout + 2*h.cfg.StoreTimeout,
		Remember: h.cfg.Remember,
		Tries:    h.cfg.Logout.Tries,
	}
}

func (h *Hook) newBackChannel() *notify.BackChannel {
	l := &h.cfg.Logout
	return &notify.BackChannel{
		Client: notify.NewClient(notify.ClientConfig{Timeout: l.Timeout, Loopback: l.Loopback, Allow: l.Allow, RootCAs: l.RootCAs}),
		Key:    h.signers.key, Now: h.now, OmitReason: l.OmitReason,
	}
}

// owe enters what is owed to the clients of a session that ends.
func (h *Hook) owe(s *store.Session) {
	if s.Deliveries = nil; h.cfg.Logout.URIs != nil {
		h.ledger.Owe(s, h.now())
	}
}

// forgetAt is when an ended session to which nothing is owed is forgotten: what was
// given up is remembered like the end itself.
func (h *Hook) forgetAt(s *store.Session) time.Time {
	return h.ledger.RememberedUntil(s, s.End.At.Add(h.remember(s)))
}

// notifications asks where to send what is owed to the given clients, and returns
// those that have no place to send it to apart.
func (h *Hook) notifications(ctx context.Context, s *store.Session, clients []string) (list []notify.Notification, none []string) {
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
		list = append(list, notify.Notification{
			SID: s.ID, Subject: s.Subject, Client: client, Why: endedText(s), URI: uris.BackChannel, WithSubject: uris.WithSubject, Err: err,
		})
	}
	return list, none
}

// send hands notifications that are claimed to the outbox, and returns when each
// has been tried once, or been left for later.
func (h *Hook) send(list []notify.Notification) <-chan struct{} {
	tried := make(chan struct{})
	if len(list) == 0 {
		close(tried)
		return tried
	}
	var left atomic.Int64
	left.Store(int64(len(list)))
	for _, n := range list {
		h.outbox.Put(n.Host(), func(run bool) {
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
			notify.Strike(s, none)
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
func (h *Hook) deliver(n notify.Notification) error {
	// A context of its own: the request in which the session ended may be over.
	ctx := op.ContextWithIssuer(context.Background(), n.Subject.Issuer)
	cause := n.Err
	if cause == nil {
		cause = h.backChannel.Send(ctx, n)
	}
	if err := h.noteDelivery(ctx, n, cause); err != nil && !errors.Is(err, store.ErrNotFound) {
		h.event(ctx, Event{Type: EventUnavailable, Subject: n.Subject, SID: n.SID, Client: n.Client, Err: err})
	}
	return cause
}

// noteDelivery notes what came of a try.
func (h *Hook) noteDelivery(ctx context.Context, n notify.Notification, cause error) error {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	s, err := h.load(ctx, n.SID)
	if err != nil {
		return err
	}
	var outcome notify.Outcome
	s, err = h.change(ctx, s, func(s *store.Session) error {
		if outcome = h.ledger.Note(s, n, cause, h.now()); outcome == notify.NotOwed {
			return errNoChange
		}
		h.schedule(s, ruling{})
		return nil
	})
	if err != nil {
		return err
	}
	e := Event{Type: outcomes[outcome], Subject: s.Subject, SID: s.ID, Client: n.Client, Kind: s.Kind, Err: cause}
	if s.End != nil {
		e.Reason, e.By = s.End.Reason, s.End.By
	}
	h.event(ctx, e)
	return nil
}

// outcomes are the events that tell of them. A notification that nobody owes any
// more has reached its client all the same, if this process got that far.
var outcomes = map[notify.Outcome]EventType{
	notify.NotOwed: EventDelivered, notify.Delivered: EventDelivered, notify.Failed: EventDeliveryFailed, notify.GivenUp: EventDeliveryGivenUp,
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
		return fmt.Errorf("%w: %s", notify.ErrNoKey, s.Subject.Issuer)
	}
	had := slices.Contains(notify.Clients(&s), client) || slices.ContainsFunc(s.Deliveries, func(d store.Delivery) bool { return d.Client == client })
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
		h.ledger.OweAgain(s, client, h.now())
		h.schedule(s, ruling{})
		return nil
	})
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	h.outbox.Put(list[0].Host(), func(run bool) {
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
