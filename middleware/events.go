package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// An EventType says what happened.
type EventType string

const (
	EventSignedIn       EventType = "signed_in"
	EventSignInFailed   EventType = "sign_in_failed"   // Err says why
	EventRefreshed      EventType = "refreshed"        // tokens were refreshed
	EventUnavailable    EventType = "unavailable"      // the provider or the store did not answer
	EventEnded          EventType = "ended"            // Reason says why
	EventLogoutReceived EventType = "logout_received"  // a logout token was obeyed
	EventLogoutRefused  EventType = "logout_refused"   // a logout token was invalid, or there were too many requests to end unknown logins
	EventCrossOrigin    EventType = "cross_origin"     // another website sent a form
	EventRefreshLost    EventType = "refresh_not_kept" // refreshed, but the store did not accept the new tokens
	EventFailed         EventType = "failed"           // the middleware itself failed
)

// An Event is for operators. It holds no secret.
type Event struct {
	Type    EventType
	At      time.Time
	Issuer  string
	Subject string // empty: not known
	SID     string // the provider's ID of the login; empty: it has none, or it is unknown
	Reason  Reason
	Err     error
}

// LogEvents returns a [Config.Events] function that logs each event.
func LogEvents(l *slog.Logger) func(context.Context, Event) {
	return func(ctx context.Context, e Event) {
		level := slog.LevelInfo
		switch e.Type {
		case EventRefreshed:
			level = slog.LevelDebug
		case EventLogoutRefused, EventSignInFailed, EventCrossOrigin:
			level = slog.LevelWarn
		case EventUnavailable, EventRefreshLost, EventFailed:
			level = slog.LevelError
		}
		attrs := []slog.Attr{slog.Time("at", e.At)}
		for _, a := range []struct{ key, value string }{
			{"iss", e.Issuer}, {"sub", e.Subject}, {"sid", e.SID}, {"reason", string(e.Reason)},
		} {
			if a.value != "" {
				attrs = append(attrs, slog.String(a.key, a.value))
			}
		}
		if e.Err != nil {
			attrs = append(attrs, slog.Any("error", e.Err))
		}
		l.LogAttrs(ctx, level, string(e.Type), attrs...)
	}
}

// A teller tells the application what happened.
type teller struct {
	issuer string
	now    func() time.Time
	tell   func(context.Context, Event) // nil: nobody
}

func (t *teller) event(ctx context.Context, e Event) {
	if t.tell == nil {
		return
	}
	e.At, e.Issuer = t.now().UTC(), t.issuer
	t.tell(ctx, e)
}

// storeFailed tells that the store did not answer, and returns that.
func (t *teller) storeFailed(ctx context.Context, err error) error {
	return t.unavailable(ctx, fmt.Errorf("the session store: %w", err))
}

// unavailable tells that something did not answer, and returns that.
func (t *teller) unavailable(ctx context.Context, err error) error {
	u := unavailable(err)
	if !errors.Is(ctx.Err(), context.Canceled) { // else the browser went away, which is nobody's fault
		t.event(ctx, Event{Type: EventUnavailable, Err: u})
	}
	return u
}
