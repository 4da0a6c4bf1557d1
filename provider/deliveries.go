package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/provider/internal/notify"
	"github.com/curfew-oidc/curfew/store"
)

// newLedger returns what keeps the deliveries that are owed.
func (h *documents) newLedger() *notify.Ledger {
	return &notify.Ledger{
		Signs:    h.signers.signs,
		Sending:  h.cfg.Logout.Timeout + 2*h.cfg.StoreTimeout,
		Remember: h.cfg.Remember,
		Tries:    h.cfg.Logout.Tries,
	}
}

func (h *ends) newBackChannel() *notify.BackChannel {
	l := &h.cfg.Logout
	return &notify.BackChannel{
		Client: notify.NewClient(notify.ClientConfig{Timeout: l.Timeout, Loopback: l.Loopback, Allow: l.Allow, RootCAs: l.RootCAs}),
		Key:    h.signers.key, Now: h.now, OmitReason: l.OmitReason,
	}
}

// owe enters what is owed to the clients of a session that ends.
func (h *documents) owe(s *store.Session) {
	if h.cfg.Logout.URIs == nil {
		s.Deliveries = nil
		return
	}
	h.ledger.Owe(s, h.now())
}

// notifications asks where to send what is owed to the given clients, and returns
// those that have no place to send it to apart.
func (h *ends) notifications(ctx context.Context, s *store.Session, clients []string) (list []notify.Notification, none []string) {
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
func (h *ends) send(list []notify.Notification) <-chan struct{} {
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
func (h *ends) resend(ctx context.Context, s store.Session, claimed []string) error {
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
func (h *ends) deliver(n notify.Notification) error {
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
func (h *ends) noteDelivery(ctx context.Context, n notify.Notification, cause error) error {
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
	if err != nil || outcome == notify.NotOwed && cause != nil { // somebody else has told it, or gave it up
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
// more has reached its client all the same.
var outcomes = map[notify.Outcome]EventType{
	notify.NotOwed: EventDelivered, notify.Delivered: EventDelivered, notify.Failed: EventDeliveryFailed, notify.GivenUp: EventDeliveryGivenUp,
}

// Redeliver tells a client once more that a session ended: after its
// notification was given up, or if the client says that it got none. Redeliver sends it at once,
// and returns nil if the client accepted it. If not, the notification is owed again, with all its
// tries. If there is no such session, or the client had no part in it, the error wraps [store.ErrNotFound].
func (h *Hook) Redeliver(ctx context.Context, sid, client string) error {
	if err := h.redeliver(ctx, sid, client); err != nil {
		return fmt.Errorf("redeliver the end of session %q to %q: %w", sid, client, err)
	}
	return nil
}

func (h *ends) redeliver(ctx context.Context, sid, client string) error {
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
