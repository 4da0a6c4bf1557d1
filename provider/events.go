package provider

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// EventType says what happened.
type EventType string

const (
	EventStarted         EventType = "session_started"
	EventRefused         EventType = "login_refused"            // by the policy
	EventAsked           EventType = "login_asked"              // at the cap the user was asked which session to end
	EventNotAsAsked      EventType = "login_not_as_asked"       // a user signed in, but not as the application's prompt, max_age or id_token_hint require, or not since their last session ended
	EventEnded           EventType = "session_ended"            // with its reason
	EventRefreshRefused  EventType = "refresh_refused"          // with its reason: the session is over, or not known
	EventReplay          EventType = "refresh_replay"           // a spent refresh token was presented
	EventRepeat          EventType = "refresh_repeat"           // a refresh was repeated inside the grace and got the same answer
	EventRepeatMoved     EventType = "repeat_elsewhere"         // a repeat inside the grace came from another address
	EventRollback        EventType = "rollback_seen"            // the store forgot a rotation, or never got it
	EventWriteLost       EventType = "write_lost"               // a refresh was answered although the store did not accept the rotation
	EventWouldRefuse     EventType = "would_refuse"             // an observed policy would have refused a login or a use
	EventWouldEnd        EventType = "would_end"                // an observed policy would have ended a session
	EventOnEndFailed     EventType = "on_end_failed"            // Config.OnEnd returned an error
	EventDelivered       EventType = "logout_delivered"         // an application accepted the notification of an end
	EventDeliveryFailed  EventType = "logout_delivery_failed"   // an application did not accept it; the hook tries again
	EventDeliveryGivenUp EventType = "logout_delivery_given_up" // it is not tried again, until Hook.Redeliver
	EventPageFailed      EventType = "page_failed"              // Config.AskTemplate returned an error; the user saw the hook's own page
	EventSweepFailed     EventType = "sweep_failed"             // Run could not do its work; it tries again
	EventGone            EventType = "user_gone"                // the user of a session is no longer in any account; the session ends after Config.GoneAfter
	EventSettingsStale   EventType = "settings_unavailable"     // settings could not be read; the last known ones were used
	EventMisconfigured   EventType = "misconfigured"            // the provider is set up so that the limits do not hold; each mistake is reported once
	EventStoreLost       EventType = "store_lost"               // the store has lost its data: see ErrStoreLost; reported once a minute while it lasts
	EventUnavailable     EventType = "unavailable"              // a request was answered with 503, or a login refused, because the store or the settings did not answer
	EventKeyUnknown      EventType = "key_unknown"              // a request got 503, because its token or cookie names a sealing key that this process does not have yet, or that somebody made up
)

// An Event is something that happened. It holds no token, code or cookie. A field that is unknown,
// or does not apply, is zero.
type Event struct {
	Type    EventType
	At      time.Time // when it was noticed
	Subject store.Subject
	SID     string // of the session
	Parent  string // the sid of the session that it was made from by token exchange
	Actor   string // the subject of that
	Client  string // client_id
	Kind    policy.Kind
	Reason  policy.Reason // of an end or a refusal
	By      string        // who ended the session; empty: the policy
	Used    int           // of a cap that refused, or asked
	Max     int           // the same
	Err     error         // what failed
}

// Audit returns a [Config.Events] function that logs each event as one record:
// failures as errors, events that an operator should look at as warnings, everyday repeats for
// debugging, the rest as information.
func Audit(l *slog.Logger) func(context.Context, Event) {
	return func(ctx context.Context, e Event) {
		level := slog.LevelInfo
		switch e.Type {
		case EventRepeat:
			level = slog.LevelDebug
		case EventReplay, EventRepeatMoved, EventRollback, EventWriteLost, EventGone, EventSettingsStale, EventDeliveryFailed, EventMisconfigured, EventKeyUnknown:
			level = slog.LevelWarn
		case EventOnEndFailed, EventDeliveryGivenUp, EventPageFailed, EventSweepFailed, EventStoreLost, EventUnavailable:
			level = slog.LevelError
		}
		attrs := []slog.Attr{slog.Time("at", e.At)}
		for _, a := range []struct{ key, value string }{
			{"iss", e.Subject.Issuer}, {"sub", e.Subject.ID}, {"sid", e.SID}, {"parent_sid", e.Parent}, {"actor", e.Actor}, {"client_id", e.Client},
			{"kind", string(e.Kind)}, {"reason", string(e.Reason)}, {"by", e.By},
		} {
			if a.value != "" {
				attrs = append(attrs, slog.String(a.key, a.value))
			}
		}
		if e.Max > 0 {
			attrs = append(attrs, slog.Int("used", e.Used), slog.Int("max", e.Max))
		}
		if e.Err != nil {
			attrs = append(attrs, slog.Any("error", e.Err))
		}
		l.LogAttrs(ctx, level, string(e.Type), attrs...)
	}
}

// Tee returns a [Config.Events] function that calls each of the given ones, in
// order. Those that are nil are left out.
func Tee(handlers ...func(context.Context, Event)) func(context.Context, Event) {
	handlers = slices.DeleteFunc(slices.Clone(handlers), func(h func(context.Context, Event)) bool { return h == nil })
	return func(ctx context.Context, e Event) {
		for _, handle := range handlers {
			handle(ctx, e)
		}
	}
}

// keyUnknownEvery is how often a process tells of unknown keys at most. Anybody can make
// up the name of a key.
const keyUnknownEvery = time.Minute

// unavailableEvent tells of a request that was answered with 503.
func (h *base) unavailableEvent(ctx context.Context, err error) {
	switch {
	case errors.Is(err, context.Canceled): // the client hung up: nothing to look at
	case !errors.Is(err, seal.ErrAhead):
		h.event(ctx, Event{Type: EventUnavailable, Err: err})
	case h.keyUnknown.due(h.now(), keyUnknownEvery):
		h.event(ctx, Event{Type: EventKeyUnknown, Err: err})
	}
}

// A seldom is something that is done at most once in a time. The zero value is ready.
type seldom struct{ last atomic.Int64 }

// due reports whether it may be done again, and notes that it is.
func (s *seldom) due(now time.Time, every time.Duration) bool {
	last := s.last.Load()
	since := now.Sub(time.UnixMicro(last))
	return (since < 0 || since >= every) && s.last.CompareAndSwap(last, now.UnixMicro())
}

func (h *base) event(ctx context.Context, e Event) {
	e.At = h.now()
	h.cfg.Events(ctx, e)
}

func (h *base) sessionEvent(ctx context.Context, t EventType, s *store.Session, client string) {
	if client == "" {
		client = s.Client
	}
	e := Event{Type: t, Subject: s.Subject, SID: s.ID, Parent: s.Parent, Actor: s.Actor, Client: client, Kind: s.Kind}
	if s.End != nil {
		e.Reason, e.By = s.End.Reason, s.End.By
	}
	h.count(e, s)
	h.event(ctx, e)
}

// logMistakes is the [Config.Events] of a Config that sets none: what happens is
// told to nobody, but a limit that does not hold is no secret.
func logMistakes(ctx context.Context, e Event) {
	if e.Type == EventMisconfigured {
		slog.WarnContext(ctx, string(e.Type), slog.Any("error", e.Err))
	}
}

// Changed says that the settings of an account were changed: this process reads
// them at their next use, and [Hook.Run] applies them to live sessions at once
// instead of at its next sweep. Without it both happen a little later.
func (h *Hook) Changed(account string) {
	h.settings.outdate(account)
	select {
	case h.wake <- struct{}{}:
	default: // it will look anyway
	}
}
