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
// [Hook.Run] sweeps in the background and notifies applications; the limits hold without it.
package provider

import (
	"context"
	"encoding/hex"
	"errors"
	"html/template"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/keylock"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/browser"
	"github.com/curfew-oidc/curfew/provider/internal/invalid"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// Config configures [New]. Store and Keys are required. A duration or a number
// below zero is an error, but for SettingsMaxAge.
type Config struct {
	// Store keeps the sessions. Processes that share it share the caps.
	Store store.Store

	// Counts keeps what [Hook.Counts] returns, which the console draws: logins, refusals
	// and ends by account and hour. The stores of this module do it too: set it to
	// the same value as Store. Nil: nothing is counted, and nothing is dropped that was
	// counted before. All processes that share a store should have it, or none.
	Counts store.Counts

	// Keys seal the tokens and cookies that clients hold. Processes that share a store share them.
	Keys Keys

	// StoreID is the ID of Store, as [Hook.StoreID] returned it before. With it the hook notices a
	// store that has lost its data at the start too, and treats it as an outage whatever Settings
	// are. Empty: the hook accepts the store that it finds, and notices a loss from then on.
	StoreID string

	// Settings are the limits. Nil: they are read from Store, where
	// [SaveAccount] puts them; an account without settings has no limits. If settings vanish,
	// because the store was emptied, that is an outage, and not the end of all limits: see
	// [ErrStoreLost].
	Settings SettingsSource

	// SettingsMaxAge is how old cached settings may get before they are read again. A changed
	// policy takes at most that long to apply. Zero means 1 s,
	// a negative value reads them at each use.
	SettingsMaxAge time.Duration

	// Membership returns the accounts that a user belongs to, with the
	// user's groups in each. If it fails, logins are refused and refreshes
	// answered with 503. Nil: every user belongs to the account "default".
	//
	// It must return an error if it does not know. A user for whom it returns no account and no
	// error has NO LIMITS: all their logins are admitted. See GoneAfter for the sessions of a user
	// who was in an account before.
	//
	// A changed answer applies when one of the user's sessions is next used. If none is, [Hook.Run]
	// applies it within 24 hours.
	Membership func(ctx context.Context, subject store.Subject) ([]policy.Membership, error)

	// GoneAfter is how long sessions go on after their user left the last account, counted from
	// when the hook noticed, at a use or by [Hook.Run]. Until then the sessions keep their
	// accounts, with the limits of these; then they end (account_disabled). Zero means one hour. A
	// user who is in an account again by then keeps the sessions.
	//
	// It is a safety net. [Hook.EndAll] ends the sessions at once: call that when a user is
	// disabled or deleted.
	GoneAfter time.Duration

	// NotBefore returns when a user's credentials last changed: when the password was reset, or the
	// user disabled. A login whose user authenticated before that time is refused
	// (credential_change), so that it begins no session after [Hook.EndAll]: a login with the old
	// password that waits for its application, an approved device code, a refresh token from before
	// the installation. Such a login also ends no other session, neither on the page at the cap nor
	// by taking its slot. Write the time first, then call EndAll: no login gets through in between.
	//
	// Sessions that EndAll spared go on, and other applications join them. A login that would be a
	// session of its own needs the new credentials even in such a browser: the storage gets a
	// max_age that requires them.
	//
	// It is called twice for each login, before its session begins and after, and at the
	// authorization requests of a browser with a session. If it fails, logins are refused. Nothing
	// is refused if the function is nil or returns the zero time, if the storage reports no
	// auth_time, or when another provider's token is exchanged. For a session that token exchange
	// makes from another user's session, it is called with that other user, who authenticated.
	// Times count to the microsecond. If auth_time has whole seconds, a user who signs in during
	// the second of the change must sign in again.
	NotBefore func(ctx context.Context, subject store.Subject) (time.Time, error)

	// Kind decides what kind of session a login makes. Nil, as [DefaultKind]: a
	// device grant or a native client makes a CLI session, a token exchange of a
	// foreign subject or a JWT profile grant an automation session, everything
	// else a browser session.
	Kind func(ctx context.Context, login Login) policy.Kind

	// SSOSession returns the provider's own ID of the browser session that a
	// login belongs to, for a provider with a single sign-on of its own: a
	// second application then joins the session, and takes no new slot.
	// Empty, or a nil function: the hook's own cookie identifies the session; see NoBrowserSession.
	// SSOSession is called at the callback and again when the code is redeemed, and must give the
	// same answer from login.AuthRequest. It is not called for native clients.
	SSOSession func(ctx context.Context, login Login) string

	// NoBrowserSession switches off the hook's own cookies. Logins in one browser are then one
	// session only if SSOSession says so, the provider alone enforces prompt, max_age and
	// id_token_hint, and [Hook.BrowserSession] finds nothing.
	NoBrowserSession bool

	// ClientName returns the name by which users know a client, such as "Mail".
	// It must not block. The name is stored with each session that the client takes part in, so
	// that pages can describe the session. Nil, or an empty name: the client_id.
	ClientName func(ctx context.Context, clientID string) string

	// AskTemplate is the page on which a user at the cap picks the sessions to end, if the settings
	// say so (policy.Ask). It is executed with an [AskPage]. [New] executes it with samples. Nil:
	// the hook's own page.
	AskTemplate *template.Template

	// SessionsURL is the address of a page where users can end their sessions. A device or command
	// line that is refused at the cap gets it in error_description. It is absolute, and https, or
	// http on loopback. Empty: no such page.
	SessionsURL string

	// KeepRefreshToken says for which clients refresh tokens must not rotate
	// (FAPI 2.0 section 5.3.2.1), because something else binds them to the
	// client. Nil: all rotate.
	KeepRefreshToken func(ctx context.Context, client op.Client) bool

	// ExchangeRefreshToken says whether a client may exchange (RFC 8693) a refresh token that was
	// issued to another client, owner. Nil: no client may; a refresh token belongs to its client
	// alone (RFC 6749 section 10.4).
	ExchangeRefreshToken func(ctx context.Context, client op.Client, owner string) bool

	// Outlives says whether child, which token exchange made from parent for another user, goes on
	// after parent has ended: parent.End says how. It is called at the end and at each later use,
	// while the end is remembered; after that the parent is unknown, and the child is over; see
	// Remember. Nil: every child ends with its parent.
	Outlives func(ctx context.Context, parent, child store.Session) bool

	// RemoteAddress returns the address of the client of a request, for a
	// server behind a proxy. Nil means the host of r.RemoteAddr.
	RemoteAddress func(r *http.Request) string

	// OnEnd is called after each end of a session, so that the provider can end its own records of
	// it. Its context ends after StoreTimeout, and it must honour that. An error is reported as an
	// event, and OnEnd is called again, at growing intervals, until it succeeds or Remember is
	// over: it must tolerate repeated calls. Like all functions here it is called by many
	// goroutines at once: those of requests, and four of a sweep.
	OnEnd func(ctx context.Context, s store.Session) error

	// Logout is how applications are told that a session ended. The zero
	// Logout tells nobody.
	Logout Logout

	// Events receives each event. It must not block. Nil: events are dropped, except that
	// slog.Default logs an [EventMisconfigured] as a warning. See
	// [Audit] for a handler that logs everything.
	Events func(ctx context.Context, e Event)

	// CodeLifetime is how long a login whose code was not redeemed holds its
	// slot, and how long the code may be redeemed, at most 10 minutes (RFC 6749
	// section 4.1.2). Zero means 60 s, the most that FAPI 2.0 section 5.3.2.1
	// allows.
	CodeLifetime time.Duration

	// Remainder is the time that a session must have left, until its active limit, for a new
	// authorization to join it. With less, the session counts as over for that authorization: the
	// user is asked for credentials, or prompt=none is answered with login_required. Many
	// applications cannot start with a login that is over at once. Remainder is never more than a
	// tenth of the active limit. Refreshes work until the limit itself. Zero
	// means 60 s.
	Remainder time.Duration

	// Grace is how long after its exchange a refresh token gets its answer again, or the newest
	// answer since, at most 60 s. It holds for codes and device codes too. Zero means 30 s; see
	// NoGrace.
	Grace time.Duration

	// NoGrace switches off the grace, and NoLostResponse the mending of a lost response after it.
	// With both, every refresh token works once, the strictest reading of RFC 9700 section 4.14.2.
	NoGrace, NoLostResponse bool

	// NoExpirationMembers leaves "refresh_token_timeout" and
	// "authorization_expires_in" out of token responses, NoExpirationMetadata
	// "refresh_token_expiration_types_supported" out of discovery
	// (draft-ietf-oauth-refresh-token-expiration-03 sections 6.1 and 8).
	NoExpirationMembers, NoExpirationMetadata bool

	// NoResponseIssuer leaves "iss" out of authorization responses, and
	// "authorization_response_iss_parameter_supported" out of discovery (RFC
	// 9207): for a provider whose own pages send errors to applications without reading the auth
	// request through the decorated storage, so that the hook cannot complete them.
	NoResponseIssuer bool

	// AdoptUntil is the time until which refresh tokens from before the installation are adopted.
	// Zero: never.
	AdoptUntil time.Time

	// KeyRollover is how long after the creation of a key a process that does not have it yet
	// answers a token sealed with it by 503. Zero means one hour.
	KeyRollover time.Duration

	// Remember is how long the reason of an ended session is remembered.
	// Zero means 31 days: longer than any token can live if its session has an active limit of at
	// most the documented 720 hours.
	Remember time.Duration

	// StoreTimeout bounds each step that waits for the store. Zero means 3 s.
	StoreTimeout time.Duration

	// MaxSessions bounds the unended sessions of one subject, even without a cap: one more ends the
	// session that was unused for longest (ReasonConcurrency). Zero means 1000.
	MaxSessions int

	// MaxGrants bounds the grants of one session: one more revokes the grant that was unused for
	// longest. It also bounds the sessions that token exchange makes from one session: one more
	// ends the oldest (ReasonConcurrency). Zero means
	// 50.
	MaxGrants int

	// SweepEvery is how often [Hook.Run] looks for sessions that are due. Zero means 10 s.
	SweepEvery time.Duration

	// Now is the clock. Nil means time.Now. op and most storages read time.Now themselves, so
	// another clock gives nonsense lifetimes: to test hours use testing/synctest.
	Now func() time.Time
}

// A Login describes a login that is about to be admitted.
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

// A SettingsSource returns the settings of an account. For an unknown account it returns the zero
// Account.
type SettingsSource interface {
	Account(ctx context.Context, account string) (policy.Account, error)
}

// StaticSettings is a SettingsSource that does not change. [New] validates it: a
// cap below 1, or a limit above what the documentation promises, is an error. There
// is no floor.
type StaticSettings policy.Settings

// Account implements [SettingsSource].
func (s StaticSettings) Account(_ context.Context, account string) (policy.Account, error) {
	return s.Accounts[account], nil
}

// Hook is the policy in place. It is made by [New].
type Hook struct {
	*pages

	patience patience
	locks    keylock.Locks // by grant: one refresh at a time in this process

	decorates atomic.Int32   // how many storages
	handles   atomic.Bool    // Handler was called
	announces []announcement // in discovery
}

// ErrConfig is wrapped by the errors of [New] that name a field.
var ErrConfig = errors.New("curfew: invalid configuration")

// What a field of [Config] is if it is zero.
const (
	DefaultCodeLifetime   = 60 * time.Second
	DefaultGrace          = 30 * time.Second
	DefaultRemainder      = 60 * time.Second
	DefaultKeyRollover    = time.Hour
	DefaultRemember       = 31 * 24 * time.Hour
	DefaultStoreTimeout   = 3 * time.Second
	DefaultSweepEvery     = 10 * time.Second
	DefaultGoneAfter      = time.Hour
	DefaultSettingsMaxAge = time.Second
	DefaultMaxSessions    = 1000
	DefaultMaxGrants      = 50
)

// New checks the configuration and returns the hook.
func New(cfg Config) (*Hook, error) {
	if cfg.Store == nil {
		return nil, invalid.Errorf(ErrConfig, "provider.Config.Store is required")
	}
	if len(cfg.Keys) == 0 {
		return nil, invalid.Errorf(ErrConfig, "provider.Config.Keys is required: at least one key")
	}
	for _, d := range []struct {
		name    string
		value   *time.Duration
		instead time.Duration
		max     time.Duration
	}{
		{"CodeLifetime", &cfg.CodeLifetime, DefaultCodeLifetime, 10 * time.Minute}, // RFC 6749 section 4.1.2 recommends at most 10 minutes
		{"Grace", &cfg.Grace, DefaultGrace, 60 * time.Second},
		{"Remainder", &cfg.Remainder, DefaultRemainder, 0},
		{"KeyRollover", &cfg.KeyRollover, DefaultKeyRollover, 0},
		{"Remember", &cfg.Remember, DefaultRemember, 0},
		{"StoreTimeout", &cfg.StoreTimeout, DefaultStoreTimeout, 0},
		{"SweepEvery", &cfg.SweepEvery, DefaultSweepEvery, 0},
		{"GoneAfter", &cfg.GoneAfter, DefaultGoneAfter, 0},
	} {
		switch {
		case *d.value < 0:
			return nil, invalid.Errorf(ErrConfig, "provider.Config.%s is negative", d.name)
		case *d.value == 0:
			*d.value = d.instead
		case d.max != 0 && *d.value > d.max:
			return nil, invalid.Errorf(ErrConfig, "provider.Config.%s is %s, at most %s is allowed", d.name, *d.value, d.max)
		}
	}
	for _, n := range []struct {
		name    string
		value   *int
		instead int
	}{
		{"MaxSessions", &cfg.MaxSessions, DefaultMaxSessions},
		{"MaxGrants", &cfg.MaxGrants, DefaultMaxGrants},
	} {
		switch {
		case *n.value < 0:
			return nil, invalid.Errorf(ErrConfig, "provider.Config.%s is negative", n.name)
		case *n.value == 0:
			*n.value = n.instead
		}
	}
	if err := cfg.Logout.check(); err != nil {
		return nil, err
	}
	if cfg.SettingsMaxAge == 0 {
		cfg.SettingsMaxAge = DefaultSettingsMaxAge
	}
	if fixed, is := cfg.Settings.(StaticSettings); is {
		if err := policy.Settings(fixed).Validate(maxRange); err != nil {
			return nil, invalid.Errorf(ErrConfig, "provider.Config.Settings: %w", err)
		}
	}
	if cfg.Kind == nil {
		cfg.Kind = DefaultKind
	}
	if cfg.Events == nil {
		cfg.Events = logMistakes
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if raw, err := hex.DecodeString(cfg.StoreID); err != nil || cfg.StoreID != "" && len(raw) != storeIDSize {
		return nil, invalid.Errorf(ErrConfig, "provider.Config.StoreID is %q, which is not an ID that Hook.StoreID returns", cfg.StoreID)
	}
	if err := checkSessionsURL(cfg.SessionsURL); err != nil {
		return nil, invalid.Errorf(ErrConfig, "provider.Config.SessionsURL: %w", err)
	}
	if cfg.AskTemplate == nil {
		cfg.AskTemplate = defaultAskTemplate
	} else {
		// A template that was executed cannot be changed any more: the
		// embedder's own stays as it is.
		if own, err := cfg.AskTemplate.Clone(); err == nil {
			cfg.AskTemplate = own
		}
		if err := checkAskTemplate(cfg.AskTemplate, cfg.Now()); err != nil {
			return nil, invalid.Errorf(ErrConfig, "provider.Config.AskTemplate: %w", err)
		}
	}
	ring, err := seal.New(cfg.Keys.sealing(), cfg.KeyRollover)
	if err != nil {
		return nil, invalid.Errorf(ErrConfig, "provider.Config.Keys: %w", err)
	}
	watch := &storeWatch{
		docs: cfg.Store, timeout: cfg.StoreTimeout, id: cfg.StoreID, refuses: cfg.Settings == nil || cfg.StoreID != "",
		had: map[string]acceptance{}, missing: map[string]bool{},
	}
	switch {
	case cfg.Settings == nil:
		cfg.Settings = watchedSettings{watch}
	case watch.refuses:
		cfg.Settings = besideSettings{cfg.Settings, watch}
	}
	c := &cookies{sweeps: newEngine(cfg, watch), ring: ring}
	c.browsers = &browser.Keeper{Ring: ring, Now: c.now}
	h := &Hook{pages: &pages{c}, patience: patienceOf(cfg), announces: announcements(cfg)}
	return h, nil
}

// defaultMembership is what every user belongs to where [Config.Membership] is
// nil.
var defaultMembership = []policy.Membership{{Account: "default"}}

// DefaultKind is the [Config.Kind] of a Config that sets none.
func DefaultKind(_ context.Context, l Login) policy.Kind {
	switch {
	case l.Exchange, l.Client == nil:
		return policy.Automation
	case l.Device, l.Client.ApplicationType() == op.ApplicationTypeNative:
		return policy.CLI
	}
	return policy.Browser
}

// now is the time, in the precision and zone that stores keep.
func (h *base) now() time.Time { return h.cfg.Now().UTC().Truncate(time.Microsecond) }
