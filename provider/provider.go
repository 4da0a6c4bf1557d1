// Package provider puts login-session policy into an OpenID Provider built on
// github.com/zitadel/oidc/v3/pkg/op.
//
// Two lines install it: the hook decorates the provider's storage and wraps
// its outermost HTTP handler.
//
//	hook, err := provider.New(provider.Config{Store: memstore.New(), Keys: keys})
//	...
//	p, err := op.NewProvider(config, hook.Storage(storage), op.StaticIssuer(issuer))
//	...
//	http.ListenAndServe(addr, hook.Handler(p))
//
// [Hook.Run] sweeps in the background; the limits hold without it.
package provider

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// Config configures [New]. Store and Keys are required.
type Config struct {
	// Store keeps the sessions. Processes that share it share the caps.
	Store store.Store

	// Keys seal what clients hold. Processes that share a store share them.
	Keys Keys

	// Settings are the limits. Nil: they are read from Store, where
	// [SaveAccount] puts them; an account without settings has no limits.
	Settings SettingsSource

	// SettingsMaxAge is how old cached settings may get before they are read
	// again: how long a changed policy may take to apply. Zero means 1 s,
	// a negative value reads them at each use.
	SettingsMaxAge time.Duration

	// Membership returns the accounts that a user belongs to, with the
	// user's groups in each. If it fails, logins are refused and refreshes
	// answered with 503. Nil: every user belongs to the account "default".
	Membership func(ctx context.Context, subject store.Subject) ([]policy.Membership, error)

	// Kind decides what kind of session a login makes. Nil: a device grant
	// or a native client makes a CLI session, a token exchange of a foreign
	// subject an automation session, everything else a browser session.
	Kind func(ctx context.Context, login Login) policy.Kind

	// SSOSession returns the provider's own ID of the browser session that a
	// login belongs to, for a provider with a single sign-on of its own: a
	// second application then joins the session, and takes no new slot.
	// Empty, or a nil function: each login is a session of its own.
	SSOSession func(ctx context.Context, login Login) string

	// OnEnd is called after each end of a session, so that the provider can
	// end what it keeps itself. An error is reported as an event.
	OnEnd func(ctx context.Context, s store.Session) error

	// Events receives what happens. It must not block. Nil: nobody is told.
	// See [Audit] for a handler that logs.
	Events func(ctx context.Context, e Event)

	// CodeLifetime is how long a login whose code was not redeemed holds its
	// slot, and how long the code may be redeemed. Zero means 60 s, the most
	// that FAPI 2.0 section 5.3.2.1 allows.
	CodeLifetime time.Duration

	// Grace is how long after a rotation the previous refresh token gets the
	// same answer again, at most 60 s. Zero means 30 s; see NoGrace.
	Grace time.Duration

	// NoGrace switches the grace off, and NoLostResponse the mending of a
	// lost response after it: every refresh token then works once, as
	// strictly as RFC 9700 section 4.14.2 can be read.
	NoGrace, NoLostResponse bool

	// NoExpirationMembers leaves "refresh_token_timeout" and
	// "authorization_expires_in" out of token responses, NoExpirationMetadata
	// "refresh_token_expiration_types_supported" out of discovery
	// (draft-ietf-oauth-refresh-token-expiration-03 sections 6.1 and 8).
	NoExpirationMembers, NoExpirationMetadata bool

	// AdoptUntil is until when refresh tokens from before the installation
	// are adopted. Zero: never.
	AdoptUntil time.Time

	// KeyRollover is for how long after the creation of a key a token sealed
	// with it is answered with 503 by a process that does not have the key
	// yet. Zero means one hour.
	KeyRollover time.Duration

	// Remember is how long the reason of an ended session is remembered.
	// Zero means 31 days: longer than any token of a session can live that
	// is bounded by the documented 720 hours.
	Remember time.Duration

	// StoreTimeout bounds each step that waits for the store. Zero means 3 s.
	StoreTimeout time.Duration

	// MaxSessions bounds the sessions of one subject that the store keeps
	// unended, even where no cap is set. Zero means 1000.
	MaxSessions int

	// MaxGrants bounds the grants of one session: with one more, the one that
	// was unused for longest is revoked. Zero means 50.
	MaxGrants int

	// SweepEvery is how often [Hook.Run] looks for what is due. Zero means
	// 10 s.
	SweepEvery time.Duration

	// Now is the clock. Nil means time.Now. op and most storages read
	// time.Now themselves, so a clock of one's own gives nonsense lifetimes:
	// tests over hours use testing/synctest.
	Now func() time.Time
}

// A Login is what is known of a login when it is admitted.
type Login struct {
	Subject store.Subject
	Client  op.Client // nil for a JWT profile grant

	// AuthRequest is the request that was answered by signing in. Nil for the
	// device grant and for token exchange.
	AuthRequest op.AuthRequest

	// Device and Exchange say that the login is a device grant or the
	// exchange of a token of a subject that has no session.
	Device, Exchange bool

	// AuthTime is when the user entered their credentials, as the provider
	// says; zero if it does not.
	AuthTime time.Time
}

// A SettingsSource returns the settings of an account. An account that is not
// known has the zero Account.
type SettingsSource interface {
	Account(ctx context.Context, account string) (policy.Account, error)
}

// StaticSettings is a SettingsSource that does not change.
type StaticSettings policy.Settings

// Account implements [SettingsSource].
func (s StaticSettings) Account(_ context.Context, account string) (policy.Account, error) {
	return s.Accounts[account], nil
}

// SaveAccount stores the settings of an account, where a [Config] without
// Settings reads them. It replaces the version ifVersion (0: there is none
// yet); if that is not the current one the error wraps [store.ErrConflict].
func SaveAccount(ctx context.Context, s store.Documents, account string, settings policy.Account, ifVersion int64, by, message string, now time.Time) (version int64, err error) {
	panic("to be written")
}

// LoadAccount returns the stored settings of an account, and their version; 0
// if there are none.
func LoadAccount(ctx context.Context, s store.Documents, account string) (policy.Account, int64, error) {
	panic("to be written")
}

// Hook is the policy in place. It is made by [New].
type Hook struct{ cfg Config }

// ErrConfig is wrapped by the errors of [New] that name a field.
var ErrConfig = errors.New("curfew: invalid configuration")

// New checks the configuration and returns the hook.
func New(cfg Config) (*Hook, error) { panic("to be written") }

// Storage decorates the storage of a provider. The result implements the
// optional interfaces that change what a provider advertises if and only if s
// does.
func (h *Hook) Storage(s op.Storage) op.Storage { panic("to be written") }

// Handler wraps the outermost HTTP handler of the provider. It needs no issuer
// in the context. Without it no token is issued.
func (h *Hook) Handler(next http.Handler) http.Handler { panic("to be written") }

// Run sweeps until the context ends: sessions that are over end, reasons that
// were remembered for long enough are forgotten, and a changed policy is
// applied to live sessions. The limits hold without it. It returns the
// context's error.
func (h *Hook) Run(ctx context.Context) error { panic("to be written") }

// End ends one session, with who ended it. Ending a session that has ended
// succeeds and changes nothing. If there is none the error wraps
// [store.ErrNotFound].
func (h *Hook) End(ctx context.Context, sid string, reason policy.Reason, by string) error {
	panic("to be written")
}

// EndAll ends all sessions of a subject but the excepted ones, logins whose
// code was not redeemed yet among them, and returns how many. Use it when a password is
// reset (ReasonCredentialChange) or an account disabled
// (ReasonAccountDisabled).
func (h *Hook) EndAll(ctx context.Context, subject store.Subject, reason policy.Reason, by string, except ...string) (int, error) {
	panic("to be written")
}

// Session returns one session as it is now: one that is over is returned as
// ended, with its reason, even if no sweep came by yet. If there is none the
// error wraps [store.ErrNotFound].
func (h *Hook) Session(ctx context.Context, sid string) (store.Session, error) {
	panic("to be written")
}

// List returns one page of sessions as they are now; see [store.Sessions].
// Reservations are not among them.
func (h *Hook) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	panic("to be written")
}

// Deadline returns when a session ends if nothing more happens, and of what.
// The zero time means never.
func (h *Hook) Deadline(ctx context.Context, s store.Session) (time.Time, policy.Reason, error) {
	panic("to be written")
}

// Describe returns the sentence that a user is shown for the end of a session
// or the refusal of a login, such as "You were signed out after 2 hours
// without activity."
func Describe(s store.Session) string { panic("to be written") }

// EventType says what happened.
type EventType string

const (
	EventStarted     EventType = "session_started"
	EventRefused     EventType = "login_refused"        // by the policy
	EventEnded       EventType = "session_ended"        // with its reason
	EventReplay      EventType = "refresh_replay"       // a spent refresh token was presented
	EventRepeatMoved EventType = "repeat_elsewhere"     // a repeat inside the grace came from another address
	EventRollback    EventType = "rollback_seen"        // the store forgot a rotation that it had acknowledged, or never got it
	EventWriteLost   EventType = "write_lost"           // a rotation was answered though the store did not take it
	EventWouldRefuse EventType = "would_refuse"         // an observed policy would have refused
	EventWouldEnd    EventType = "would_end"            // an observed policy would have ended a session
	EventOnEndFailed EventType = "on_end_failed"        // Config.OnEnd returned an error
	EventSweepFailed EventType = "sweep_failed"         // Run could not do its work; it tries again
	EventSettingsOld EventType = "settings_unavailable" // settings could not be read; the last known ones were used
)

// An Event is something that happened. It holds no token.
type Event struct {
	Type    EventType
	At      time.Time
	Subject store.Subject
	SID     string
	Client  string
	Kind    policy.Kind
	Reason  policy.Reason // for an end or a refusal
	By      string        // who ended it
	Used    int           // of a cap that refused
	Max     int
	Err     error
}

// Audit returns an Events function that logs each event as one record.
func Audit(l *slog.Logger) func(context.Context, Event) { panic("to be written") }
