// Package middleware is for applications: it keeps their users signed in for as
// long as an OpenID provider says, and no longer.
//
// A [RelyingParty] signs the users of a web application in. Its handler stands in
// front of the application's own:
//
//	rp, err := middleware.New(middleware.Config{
//		Issuer: "https://login.example.com", ClientID: "shop", ClientSecret: secret,
//		RedirectURL: "https://shop.example.com/auth/callback", Keys: [][]byte{key},
//	})
//	if err != nil {
//		return err
//	}
//	return http.ListenAndServe(addr, rp.Handler(shop))
//
// The application's handlers get the user from [SessionFrom]. The middleware works with any
// standard provider. With a Curfew provider it obeys the limits to the second, and tells users why
// they were signed out.
//
// Package resource protects an API, whose callers send an access token.
//
// # What a user sees when the login is over
//
// A page redirects to sign-in and back to itself. A posted form is kept: see [Config.RedactField]. A
// script's request gets a 401 with a challenge and JSON, never
// a redirect. An event stream or a WebSocket is closed. A provider or a store that does not answer
// is not a logout: requests go on while the current tokens are valid, and get a 503 afterwards.
package middleware

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/curfew-oidc/curfew/internal/loopback"
	"github.com/curfew-oidc/curfew/middleware/internal/issuer"
	"github.com/curfew-oidc/curfew/middleware/internal/seal"
)

// A Config says how an application signs its users in.
type Config struct {
	// Issuer is the provider, as its discovery document writes it. Required.
	Issuer string

	// ClientID and ClientSecret are the application's registration at the provider. Without a
	// secret it is a public client; PKCE protects it either way.
	ClientID, ClientSecret string

	// RedirectURL is the address to which the provider sends browsers back: https, or http on
	// loopback. Required. The middleware answers at its path.
	RedirectURL string

	// Keys seal the data that browsers and the store keep, above all tokens. Each has at least 32
	// random bytes. The first one seals, all unseal. To replace a key, put the new one behind the
	// old one in every process, then in front; remove the old one when the sessions that it sealed
	// are over. Required.
	Keys [][]byte

	// Store keeps the sessions. Nil: [NewMemoryStore]. Several processes of one
	// application need a store that they share.
	Store SessionStore

	// InCookies keeps the sessions, sealed, in the browser instead of the Store. The Store then
	// keeps only ended sessions, used logout tokens, forms between a click and the return, and with
	// FrontChannel a hash of the sid of each session. Sessions last at most 30 days, because the
	// Store must remember the end of each, in case its cookie was copied. Several processes then do
	// not share the refresh of a session: each process runs its own, one at a time. If each process
	// has its own Store, a logout through the back channel ends the session only in the process
	// that receives it.
	InCookies bool

	// PostLogoutURL is where the browser goes after the provider has signed the user out; it must
	// be registered there. Empty: no such address is sent, and the user stays at the provider.
	PostLogoutURL string

	// Base is the path of the middleware's other pages: sign-in, sign-out and so on. It begins and
	// ends with a slash. Empty: the folder of RedirectURL,
	// or /auth/ if that is the root.
	Base string

	// Scopes to ask for. Nil: openid, profile and offline_access, which requests a refresh token.
	// openid is always requested.
	Scopes []string

	// AuthParams are further parameters of authorization requests, such as prompt
	// or acr_values.
	AuthParams url.Values

	// MaxAge is the longest time since users entered their credentials when they sign in here: the
	// max_age of OpenID Connect Core 1.0. Zero means that they always enter them. Nil: the provider
	// decides. An ID token of an older authentication is refused.
	MaxAge *time.Duration

	// Lifetime ends a session this long after the sign-in, whatever the provider allows. Zero: as
	// long as the provider says; 12 hours if it does not say and issues no refresh token with which
	// to ask.
	Lifetime time.Duration

	// RefreshAfter is the age at which a request refreshes the tokens. Zero: a twelfth of the
	// provider's refresh_token_timeout, so that the provider's record of the last activity lags by
	// at most that;
	// if the provider sends none, when the access token is about to expire. Tokens are refreshed
	// before they expire in any case.
	RefreshAfter time.Duration

	// IsBackground reports requests that are no sign of the user, such as a page's polling. They do
	// not refresh, if the provider has said how long a session may go unused. So they are answered
	// until the access token expires, and then get 503 until another request has brought a new one.
	// Nil: only event streams and WebSockets, which count as background in any case.
	IsBackground func(*http.Request) bool

	// RedactField reports names of form fields that must not be kept in a page while the user signs
	// in again, beside names that suggest a secret. Nil: no other names.
	RedactField func(name string) bool

	// FormToken returns the name and the value of the application's own token against cross-site
	// request forgery, for a form that is about to be sent again in a new session. Nil: the
	// application has no such token. The middleware applies [http.CrossOriginProtection], which needs
	// no token, to every request.
	FormToken func(w http.ResponseWriter, r *http.Request) (name, value string)

	// TrustedOrigins are other origins whose pages may send forms here.
	TrustedOrigins []string

	// ExplainFirst shows the reason for the end before the sign-in page. Otherwise it is shown
	// after sign-in: see [Notice].
	ExplainFirst bool

	// FrontChannel answers front-channel logout, at "frontchannel" below Base.
	// Anybody can send a sid there. For sign-ins that are under way, each process remembers unknown
	// ones: at most a thousand in half an hour.
	FrontChannel bool

	// Algorithms are the accepted signature algorithms of ID tokens and logout tokens: those of the
	// client's registration, such as its id_token_signed_response_alg. Nil: those that the
	// provider's discovery document announces. Symmetric ones and "none" cannot be allowed.
	Algorithms []jose.SignatureAlgorithm

	// InsecureAllowUntypedLogoutTokens accepts logout tokens of providers that do not
	// write the type logout+jwt, which OpenID Connect Back-Channel Logout 1.0
	// recommends. It needs Algorithms: only its claims and its algorithm then distinguish a logout
	// token from other tokens that the provider signs (RFC 8725 sections 3.1 and 3.11).
	InsecureAllowUntypedLogoutTokens bool

	// Page is the template of the middleware's own pages, executed with a
	// [PageData]. Nil: a plain page.
	Page *template.Template

	// HTTPClient talks to the provider. Nil: one with a timeout of 10 s.
	HTTPClient *http.Client

	// Events receives each event, in the goroutine where it happened. Nil: events are dropped.
	// [LogEvents] returns a function that logs them.
	Events func(context.Context, Event)

	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

const (
	// unboundedLife is the end of a session for which nobody has set one.
	unboundedLife = 12 * time.Hour

	// longestLife bounds what is remembered of a session whose end is not
	// known, and how long one in a cookie may last: 30 days.
	longestLife = 720 * time.Hour

	// keepEnded is for how long it is known why a session ended: over a long
	// weekend and a holiday.
	keepEnded = 7 * 24 * time.Hour
)

// A RelyingParty signs users in. Make one with [New].
//
// Its parts know of each other in one direction: what is told, kept and asked (teller,
// sessions, upstream) does not know of browsers; what a browser has (jar, sessionCookies,
// signIns) does not know of answers; a refresher and logouts change sessions; pages answer.
// The methods of RelyingParty are what happens at each address.
type RelyingParty struct {
	cfg     Config
	now     func() time.Time
	events  *teller
	origins *http.CrossOriginProtection
	own     map[string]route // the middleware's own pages

	sessions  *sessions
	upstream  *upstream
	refresher *refresher
	logouts   *logouts
	forms     *forms

	jar     *jar
	cookies *sessionCookies
	signIns *signIns

	site  *site
	pages *pages
}

// ErrConfig is wrapped by the errors of [New], which also name the field.
var ErrConfig = errors.New("curfew: middleware.Config")

// New checks the configuration. It does not talk to the provider: that happens
// when the first user signs in, so that an application starts while its provider
// is down. Its errors wrap [ErrConfig].
func New(cfg Config) (*RelyingParty, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.complete()
	site, err := newSite(&cfg)
	if err != nil {
		return nil, err
	}
	origins := http.NewCrossOriginProtection()
	for _, origin := range append([]string{site.origin}, cfg.TrustedOrigins...) {
		if err := origins.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("%w.TrustedOrigins: %w", ErrConfig, err)
		}
	}
	// The cookies of two applications on one host, which differ in any of these,
	// have different names.
	app := seal.Digest("application", cfg.Issuer, cfg.ClientID, cfg.RedirectURL)
	sealer, err := seal.New(app, cfg.Keys)
	if err != nil {
		return nil, fmt.Errorf("%w.Keys: %w", ErrConfig, err)
	}

	rp := &RelyingParty{cfg: cfg, now: cfg.Now, origins: origins, site: site}
	now := cfg.Now
	rp.events = &teller{issuer: cfg.Issuer, now: now, tell: cfg.Events}
	rp.sessions = &sessions{app: app, sealer: sealer, now: now, events: rp.events, kept: cfg.Store, shared: cfg.Store}
	if cfg.InCookies {
		rp.sessions.cache = newMemoryStore()
		rp.sessions.kept, rp.sessions.knowsSIDs = rp.sessions.cache, cfg.FrontChannel
	}
	rp.upstream = &upstream{cfg: &rp.cfg, client: issuer.BoundedClient(*cfg.HTTPClient), events: rp.events, now: now}
	rp.refresher = &refresher{sessions: rp.sessions, upstream: rp.upstream, events: rp.events, now: now}
	rp.logouts = &logouts{
		issuer: cfg.Issuer, sessions: rp.sessions, upstream: rp.upstream, events: rp.events, now: now,
		allowsUntyped: cfg.InsecureAllowUntypedLogoutTokens,
	}
	rp.forms = &forms{app: app, sealer: sealer, now: now, store: cfg.Store, redact: cfg.RedactField}

	secure := strings.HasPrefix(site.origin, "https://")
	rp.jar = &jar{name: cookieName(app, secure), secure: secure, sealer: sealer}
	rp.cookies = &sessionCookies{jar: rp.jar, sealer: sealer, sessions: rp.sessions, now: now, events: rp.events}
	rp.signIns = &signIns{jar: rp.jar, sealer: sealer, now: now, beside: cfg.InCookies}

	rp.pages = &pages{template: cfg.Page, policy: pagePolicy(cfg.Issuer), site: site, events: rp.events}
	rp.own = rp.routes()
	for path := range rp.own {
		site.pages[path] = true
	}
	return rp, nil
}

// complete sets the defaults.
func (cfg *Config) complete() {
	cfg.Algorithms = slices.Clone(cfg.Algorithms)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Store == nil {
		cfg.Store = NewMemoryStore()
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = &http.Client{Timeout: providerTimeout}
	}
	if cfg.Page == nil {
		cfg.Page = defaultPage
	}
}

// check returns what is wrong with the configuration.
func (cfg *Config) check() error {
	for _, required := range []struct {
		field string
		empty bool
	}{
		{"Issuer", cfg.Issuer == ""}, {"ClientID", cfg.ClientID == ""}, {"RedirectURL", cfg.RedirectURL == ""}, {"Keys", len(cfg.Keys) == 0},
	} {
		if required.empty {
			return fmt.Errorf("%w.%s is required", ErrConfig, required.field)
		}
	}
	for _, address := range []struct{ field, value string }{
		{"Issuer", cfg.Issuer}, {"RedirectURL", cfg.RedirectURL}, {"PostLogoutURL", cfg.PostLogoutURL},
	} {
		if address.value == "" {
			continue
		}
		if err := checkWebURL(address.value); err != nil {
			return fmt.Errorf("%w.%s: %w", ErrConfig, address.field, err)
		}
	}
	redirect, err := url.Parse(cfg.RedirectURL)
	if err != nil || redirect.Path == "" || redirect.Path == "/" || redirect.RawQuery != "" {
		return fmt.Errorf("%w.RedirectURL: %q must have its own path, and no query", ErrConfig, cfg.RedirectURL)
	}
	for _, alg := range cfg.Algorithms {
		if !slices.Contains(issuer.Algorithms, alg) {
			return fmt.Errorf("%w.Algorithms: %q is not an asymmetric signature algorithm", ErrConfig, alg)
		}
	}
	if cfg.InsecureAllowUntypedLogoutTokens && len(cfg.Algorithms) == 0 {
		return fmt.Errorf("%w.Algorithms is required with InsecureAllowUntypedLogoutTokens: list those of the client's registration", ErrConfig)
	}
	maxAge := time.Duration(0)
	if cfg.MaxAge != nil {
		maxAge = *cfg.MaxAge
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"MaxAge", maxAge}, {"Lifetime", cfg.Lifetime}, {"RefreshAfter", cfg.RefreshAfter}} {
		if d.value < 0 {
			return fmt.Errorf("%w.%s is negative", ErrConfig, d.field)
		}
	}
	return nil
}

// checkWebURL allows https, and http on loopback.
func checkWebURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return fmt.Errorf("%q is not a URL such as https://example.com", s)
	case u.User != nil || strings.Contains(s, "#"):
		return fmt.Errorf("%q has a username or a fragment", s)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && loopback.Host(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q is not https; http is allowed on loopback only", s)
}
