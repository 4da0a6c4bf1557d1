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
// [Hook.Run] sweeps in the background and sends what is owed to applications; the
// limits hold without it.
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
	"github.com/curfew-oidc/curfew/provider/internal/notify"
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

	// Keys seal what clients hold. Processes that share a store share them.
	Keys Keys

	// StoreID is what [Hook.StoreID] said that Store is called. With it a store that
	// has lost what it had is noticed at the start too, and an outage whatever Settings
	// are. Empty: the hook takes the store that it finds, and notices from then on.
	StoreID string

	// Settings are the limits. Nil: they are read from Store, where
	// [SaveAccount] puts them; an account without settings has no limits. Settings
	// that were there and are not any more, because the store was emptied, are an
	// outage, and not the end of all limits: see [ErrStoreLost].
	Settings SettingsSource

	// SettingsMaxAge is how old cached settings may get before they are read
	// again: how long a changed policy may take to apply. Zero means 1 s,
	// a negative value reads them at each use.
	SettingsMaxAge time.Duration

	// Membership returns the accounts that a user belongs to, with the
	// user's groups in each. If it fails, logins are refused and refreshes
	// answered with 503. Nil: every user belongs to the account "default".
	//
	// It must fail where it cannot tell. A user for whom it returns no account and
	// no error has NO LIMITS: their logins are admitted, however many.
	// See GoneAfter for the sessions of a user who was in an account before.
	//
	// What changes in it is applied when one of the user's sessions is used next,
	// and by [Hook.Run] within 24 hours where none is.
	Membership func(ctx context.Context, subject store.Subject) ([]policy.Membership, error)

	// GoneAfter is how long the sessions of a user go on who is in no account any
	// more, counted from when it was noticed, at a use or by [Hook.Run]. Until then
	// they keep their accounts, with the limits of these; then they end
	// (account_disabled). Zero means one hour. A user who is in an account again by
	// then keeps them.
	//
	// It is a net below [Hook.EndAll], which ends them at once: call that when an
	// account is disabled or deleted.
	GoneAfter time.Duration

	// NotBefore returns since when a user's credentials are what they are: when
	// the password was reset, or the account disabled. A login whose user
	// authenticated before is refused (credential_change), and begins no
	// session after [Hook.EndAll]: one that was signed in to with the old
	// password, and waits for its application; a device code that was
	// approved; a refresh token from before the installation. Nor does it end
	// other sessions, at the page of a cap or by taking their place. Write the
	// time first, then call EndAll, and none gets through in between.
	//
	// Sessions that EndAll left alone go on, and take other applications in. A
	// login that would be a session of its own needs the new credentials there
	// too: for it the storage is given a max_age that asks for them.
	//
	// It is asked twice for each login, before its session begins and after,
	// and at the authorization requests of a browser with a session. If it
	// fails, logins are refused. The zero time, or a nil function, refuses
	// nothing, and neither is a login refused of which the storage has no
	// auth_time, nor the exchange of another provider's token. For a session that
	// token exchange makes from another user's, that user is asked about, who
	// authenticated. Times count to the microsecond: with an auth_time of whole seconds, who signs
	// in within the second of the change has to do so again.
	NotBefore func(ctx context.Context, subject store.Subject) (time.Time, error)

	// Kind decides what kind of session a login makes. Nil, as [DefaultKind]: a
	// device grant or a native client makes a CLI session, a token exchange of a
	// foreign subject or a JWT profile grant an automation session, everything
	// else a browser session.
	Kind func(ctx context.Context, login Login) policy.Kind

	// SSOSession returns the provider's own ID of the browser session that a
	// login belongs to, for a provider with a single sign-on of its own: a
	// second application then joins the session, and takes no new slot.
	// Empty, or a nil function: the hook's own cookie says which session it
	// is; see NoBrowserSession. It is asked at the callback and again when the
	// code is redeemed, and must answer the same from l.AuthRequest. It is not
	// asked for native clients.
	SSOSession func(ctx context.Context, login Login) string

	// NoBrowserSession switches the hook's own cookies off: logins in one
	// browser are then one session only where SSOSession says so, prompt,
	// max_age and id_token_hint are left to the provider, and
	// [Hook.BrowserSession] finds nothing.
	NoBrowserSession bool

	// ClientName returns the name by which users know a client, such as "Mail".
	// It must answer at once. It is kept with each session that the client takes
	// part in, so that pages can say what a session is. Nil, or an empty name:
	// the client_id.
	ClientName func(ctx context.Context, clientID string) string

	// AskTemplate is the page on which a user at the cap picks which sessions to
	// end, where the settings say so (policy.Ask). It is executed with an
	// [AskPage]. [New] tries it with samples. Nil: a page of the hook's own.
	AskTemplate *template.Template

	// SessionsURL is the address of a page where users can end their sessions,
	// which a device or command line that is refused at the cap is told in
	// error_description: absolute, https, or http on loopback. Empty: none.
	SessionsURL string

	// KeepRefreshToken says for which clients refresh tokens must not rotate
	// (FAPI 2.0 section 5.3.2.1), because something else binds them to the
	// client. Nil: all rotate.
	KeepRefreshToken func(ctx context.Context, client op.Client) bool

	// ExchangeRefreshToken says whether a client may exchange (RFC 8693) a refresh
	// token that was issued to another one, owner. Nil: none may; a refresh token
	// is its client's alone (RFC 6749 section 10.4).
	ExchangeRefreshToken func(ctx context.Context, client op.Client, owner string) bool

	// Outlives says whether a session that was made from another one by token
	// exchange, for another user, goes on when that one has ended: parent.End says
	// how. It is asked at the end and at each later use, for as long as the end is
	// remembered; after that nobody knows the parent, and the child is over; see
	// Remember. Nil: none does.
	Outlives func(ctx context.Context, parent, child store.Session) bool

	// RemoteAddress returns the address of the client of a request, for a
	// server behind a proxy. Nil means the host of r.RemoteAddr.
	RemoteAddress func(r *http.Request) string

	// OnEnd is called after each end of a session, so that the provider can
	// end what it keeps itself. Its context ends after StoreTimeout, and it
	// must honour that. An error is reported as an event, and it is tried
	// again, later each time, until it succeeds or Remember is over: it must
	// bear to be called twice. Like all functions here it is called by many
	// goroutines at once: those of requests, and four of a sweep.
	OnEnd func(ctx context.Context, s store.Session) error

	// Logout is how applications are told that a session ended. The zero
	// Logout tells nobody.
	Logout Logout

	// Events receives what happens. It must not block. Nil: nobody is told, but
	// that an [EventMisconfigured] is logged as a warning by slog.Default. See
	// [Audit] for a handler that logs everything.
	Events func(ctx context.Context, e Event)

	// CodeLifetime is how long a login whose code was not redeemed holds its
	// slot, and how long the code may be redeemed, at most 10 minutes (RFC 6749
	// section 4.1.2). Zero means 60 s, the most that FAPI 2.0 section 5.3.2.1
	// allows.
	CodeLifetime time.Duration

	// Remainder is how much of a session must be left, until its active limit, for
	// an authorization to go on in it. With less the session counts as over for that: the
	// user is asked for credentials, or prompt=none answered with login_required.
	// Many applications cannot begin with a login that is over at once. It is never
	// more than a tenth of the active limit. A refresh goes on to the end. Zero
	// means 60 s.
	Remainder time.Duration

	// Grace is how long after a refresh token was exchanged it gets its answer
	// again, or the newest one since, at most 60 s. It holds for codes and device
	// codes too. Zero means 30 s; see NoGrace.
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

	// NoResponseIssuer leaves "iss" out of authorization responses, and
	// "authorization_response_iss_parameter_supported" out of discovery (RFC
	// 9207): for a provider whose own pages send errors to applications that the
	// hook cannot complete, as they read auth requests round the decorated
	// storage.
	NoResponseIssuer bool

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
	// unended, even where no cap is set: with one more, the one that was
	// unused for longest ends (ReasonConcurrency). Zero means 1000.
	MaxSessions int

	// MaxGrants bounds the grants of one session: with one more, the one that
	// was unused for longest is revoked. As many sessions may be made from it by
	// token exchange: with one more, the oldest ends (ReasonConcurrency). Zero means
	// 50.
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
	cfg      Config
	ring     *seal.Ring
	browsers *browser.Keeper
	settings *settingsCache
	watch    *storeWatch
	counter  counter
	walker   walker
	patience patience
	locks    keylock.Locks // by grant: one refresh at a time in this process
	wake     chan struct{} // holds a value when Run should not wait for its tick

	decorates   atomic.Int32 // how many storages
	handles     atomic.Bool  // Handler was called
	signers     signers
	mistakes    mistakes
	keyUnknown  seldom // EventKeyUnknown
	ledger      *notify.Ledger
	outbox      notify.Outbox
	backChannel *notify.BackChannel
	announces   []announcement // in discovery
}

// ErrConfig is wrapped by the errors of [New] that name a field.
var ErrConfig = errors.New("curfew: invalid configuration")

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
		{"CodeLifetime", &cfg.CodeLifetime, 60 * time.Second, 10 * time.Minute}, // RFC 6749 section 4.1.2 recommends at most 10 minutes
		{"Grace", &cfg.Grace, 30 * time.Second, 60 * time.Second},
		{"Remainder", &cfg.Remainder, 60 * time.Second, 0},
		{"KeyRollover", &cfg.KeyRollover, time.Hour, 0},
		{"Remember", &cfg.Remember, 31 * 24 * time.Hour, 0},
		{"StoreTimeout", &cfg.StoreTimeout, 3 * time.Second, 0},
		{"SweepEvery", &cfg.SweepEvery, 10 * time.Second, 0},
		{"GoneAfter", &cfg.GoneAfter, time.Hour, 0},
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
		{"MaxSessions", &cfg.MaxSessions, 1000},
		{"MaxGrants", &cfg.MaxGrants, 50},
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
		cfg.SettingsMaxAge = time.Second
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
		return nil, invalid.Errorf(ErrConfig, "provider.Config.StoreID is %q, which is none that Hook.StoreID returns", cfg.StoreID)
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
	h := &Hook{
		cfg: cfg, ring: ring, watch: watch,
		settings:  newSettingsCache(cfg.Settings, cfg.SettingsMaxAge, cfg.StoreTimeout),
		patience:  patienceOf(cfg),
		wake:      make(chan struct{}, 1),
		announces: announcements(cfg),
	}
	h.browsers = &browser.Keeper{Ring: ring, Now: h.now}
	h.ledger, h.backChannel = h.newLedger(), h.newBackChannel()
	watch.now = h.now
	watch.tell = func(ctx context.Context, err error) { h.event(ctx, Event{Type: EventStoreLost, Err: err}) }
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
func (h *Hook) now() time.Time { return h.cfg.Now().UTC().Truncate(time.Microsecond) }
