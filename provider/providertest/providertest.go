// Package providertest tests over HTTP that an OpenID Provider keeps the
// session rules of Curfew: a provider with the hook of package provider, or any
// other that promises the same.
//
// Start your provider with [Settings] (short limits, so that the tests run in
// real time, in about a minute), and a Config.Grace of [Grace]. Then say how to
// reach it and how a user signs in:
//
//	func TestSessions(t *testing.T) {
//		providertest.Run(t, providertest.Target{
//			Issuer: "https://op.example.org",
//			Web:    providertest.Client{ID: "web", Secret: "...", RedirectURI: "https://app.example.org/cb"},
//			...
//			Users:  []string{"u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"},
//			SignIn: func(browser *http.Client, page *http.Response, user string) (*http.Response, error) {
//				return browser.PostForm("https://op.example.org/login", url.Values{"user": {user}, ...})
//			},
//			Limits: providertest.Limits(),
//			Grace:  providertest.Grace,
//		})
//	}
//
// Two kinds of tests run. Those named rule-N are the rules in the project's
// design that can be seen from outside. Those named oidcc-... are the modules of the OpenID
// Foundation's conformance suite that concern sessions, with the same assertions; a warning there
// is a line in the log here. No test can be switched off. Off lists what a server does not offer,
// one field each; the log then names the tests that do not apply, and the rules that were not
// tested at all. go test -v shows it.
//
// The tests that wait run in parallel: give -parallel 16 for speed. Only the tests may use the
// users in the meantime. Each test ends the sessions that it began. If it cannot, its user is not
// used again until the limits have ended them: see Target.EndSessions.
package providertest

import (
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-oidc/curfew/policy"
)

// Grace is the recommended Config.Grace of the provider under test.
const Grace = 4 * time.Second

// Limits returns the recommended limits of the provider under test: as short as possible on a busy
// machine.
func Limits() policy.Limits {
	return policy.Limits{
		Active:     policy.LimitTo(30 * time.Second),
		Inactivity: policy.LimitTo(12 * time.Second),
		Concurrent: policy.LimitTo(3),
		AtLimit:    policy.Refuse,
	}
}

// Settings returns [Limits] as the settings of the account "default".
func Settings() policy.Settings {
	return policy.Settings{Accounts: map[string]policy.Account{"default": {Limits: Limits()}}}
}

// A Target is a running provider. All fields are required unless they say what
// their zero value means.
type Target struct {
	Issuer string

	// Transport reaches the provider. Nil means http.DefaultTransport.
	Transport http.RoundTripper

	// Web and Web2 are two confidential web applications, Public is a native
	// or single-page application without a secret, that uses PKCE. Each has
	// the authorization code and refresh token grants. Device is a
	// client with the device and refresh token grants. See
	// Off.ConfidentialClients, Off.PublicClients and Off.RefreshTokens.
	Web, Web2, Public, Device Client

	// Users are the names of users that may sign in to all clients, with consent if the provider
	// asks for it. At least two; with sixteen, the tests that wait do not wait for each other.
	Users []string

	// EndSessions ends all sessions of a user, in any way that the provider offers. It is called,
	// concurrently, when a test could not end its sessions. Nil: the user is not used again until
	// Limits.Active or Limits.Inactivity has ended them. It is required with a cap if the provider
	// has neither of these limits, and offers applications no way to end a session.
	EndSessions func(user string) error

	// SignIn signs a user in. page is the provider's response to an authorization request; its body
	// can be read. browser keeps cookies, and follows redirects except those to an application:
	// SignIn submits what the provider asks for and returns the last response. It is called
	// concurrently.
	SignIn func(browser *http.Client, page *http.Response, user string) (*http.Response, error)

	// ApproveDevice signs a user in and approves a device. page is the provider's response at
	// verification_uri_complete. It is called
	// concurrently. Nil only with Off.DeviceGrant.
	ApproveDevice func(browser *http.Client, page *http.Response, user string) error

	// ConfirmLogout answers the page that asks whether the user wants to sign
	// out (OpenID Connect RP-Initiated Logout 1.0 section 2): yes. page is that
	// page; its body can be read. It is called concurrently. Nil only with
	// Off.ConfirmLogout or Off.EndSession. See [ConfirmLogout].
	ConfirmLogout func(browser *http.Client, page *http.Response) (*http.Response, error)

	// BackChannelLogout is where Web receives logout tokens: Web is registered with an address of
	// this listener, and the kit serves there. For an https address it is a listener of package
	// crypto/tls. Nil only with
	// Off.BackChannelLogout.
	BackChannelLogout net.Listener

	// FrontChannelLogoutURI is the frontchannel_logout_uri of Web, without a
	// query; nothing need be served there. Empty only with Off.FrontChannelLogout.
	FrontChannelLogoutURI string

	// Limits are the limits that bind every session of the users. The zero Limits limits nothing:
	// tests of limits do not apply then.
	Limits policy.Limits

	// Grace is the provider's Config.Grace. Zero means its default, 30 s.
	Grace time.Duration

	// Scope is the scope that gets an ID token and a refresh token. Empty
	// means "openid offline_access", or "openid" with Off.RefreshTokens.
	Scope string

	// Off is what the provider does not offer.
	Off Off
}

// A Client is an application that is registered with the provider.
type Client struct {
	ID     string
	Secret string // empty: a public client

	// AuthMethod is how the client authenticates: "client_secret_basic",
	// "client_secret_post" or "none". Empty means basic with a secret, none
	// without.
	AuthMethod string

	RedirectURI string // not needed for Device

	// PostLogoutRedirectURI is the address to which users return after signing out.
	// Needed for Web, unless Off.EndSession.
	PostLogoutRedirectURI string
}

// Off is what a provider does not offer. With a field set, tests expect the refusal that the
// specification requires, or do not apply.
type Off struct {
	// SingleSignOn: the provider asks for credentials at every authorization
	// request, and answers prompt=none with login_required. A provider with its own single sign-on
	// sets Config.SSOSession, and ends that sign-on in Config.OnEnd.
	SingleSignOn bool

	// ConfidentialClients: applications have no secrets. Web and Web2 are
	// public clients like Public, with PKCE.
	ConfidentialClients bool

	// PublicClients: every application has a secret. Web2 stands in for
	// Public, which is ignored.
	PublicClients bool

	// PKCE: confidential clients send no code_challenge (RFC 7636). Set it for a provider that
	// refuses code_challenge, not for one that ignores it.
	PKCE bool

	// RefreshTokens: there are no refresh tokens. Anything that only they show is not tested: most
	// of the rules 6 and 7, and the reasons of ends.
	RefreshTokens bool

	// DeviceGrant: there is no device authorization endpoint.
	DeviceGrant bool

	// EndSession: there is no end_session endpoint.
	EndSession bool

	// ConfirmLogout: the provider never asks users whether they want to sign out
	// (Config.NoBrowserSession).
	ConfirmLogout bool

	// BackChannelLogout: applications are not notified through the back channel (Config.Logout).
	BackChannelLogout bool

	// FrontChannelLogout: applications are not notified through the browser (Config.Logout).
	FrontChannelLogout bool

	// Introspection: there is no introspection endpoint, or web applications
	// may not introspect their own tokens there.
	Introspection bool

	// Revocation: there is no revocation endpoint.
	Revocation bool

	// Rotation: a refresh answers with the same refresh token
	// (Config.KeepRefreshToken).
	Rotation bool

	// Grace: Config.NoGrace is set.
	Grace bool

	// LostResponse: Config.NoLostResponse is set.
	LostResponse bool

	// ExpirationMembers: Config.NoExpirationMembers is set.
	ExpirationMembers bool
}

// A check is one test. needs says why it does not apply; empty if it does.
type check struct {
	name  string
	waits bool // real time passes in it
	needs func(*kit) string
	run   func(*testing.T, *kit)
}

// Run tests the provider. It fails t if the target is not complete.
func Run(t *testing.T, target Target) {
	t.Helper()
	k := newKit(t, target)
	tested := map[string]bool{} // by rule
	for _, c := range slices.Concat(rules(), modules(), logoutModules()) {
		var why string
		if c.needs != nil {
			why = c.needs(k)
		}
		rule := ruleOf(c.name)
		tested[rule] = tested[rule] || why == ""
		if why != "" {
			t.Logf("not applicable: %s: %s", c.name, why)
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if c.waits {
				t.Parallel()
			}
			c.run(t, k)
		})
	}
	for _, rule := range slices.Sorted(maps.Keys(tested)) {
		if !tested[rule] {
			t.Logf("warning: nothing of %s is tested on this provider", rule)
		}
	}
}

// ruleOf returns the rule that a check is about, such as rule-7. The others are
// about OpenID Connect.
func ruleOf(check string) string {
	if n, ok := strings.CutPrefix(check, "rule-"); ok {
		number, _, _ := strings.Cut(n, "-")
		return "rule-" + number
	}
	return "OpenID Connect"
}

// missing returns the fields that a target lacks.
func (x Target) missing() []string {
	var names []string
	add := func(missing bool, name string) {
		if missing {
			names = append(names, name)
		}
	}
	add(x.Issuer == "", "Issuer")
	for name, c := range map[string]Client{"Web": x.Web, "Web2": x.Web2} {
		add(c.ID == "", name+".ID")
		add(c.RedirectURI == "", name+".RedirectURI")
		add(c.Secret == "" && !x.Off.ConfidentialClients, name+".Secret (or Off.ConfidentialClients)")
		add(c.Secret != "" && x.Off.ConfidentialClients, name+" without a Secret (or no Off.ConfidentialClients)")
	}
	if !x.Off.PublicClients {
		add(x.Public.ID == "", "Public.ID (or Off.PublicClients)")
		add(x.Public.RedirectURI == "", "Public.RedirectURI")
		add(x.Public.Secret != "", "Public without a Secret")
	}
	add(x.Off.ConfidentialClients && x.Off.PublicClients, "clients: Off.ConfidentialClients and Off.PublicClients exclude each other")
	add(x.Web.ID == x.Web2.ID, "two different web applications")
	add(x.Device.ID == "" && !x.Off.DeviceGrant, "Device.ID (or Off.DeviceGrant)")
	add(x.ApproveDevice == nil && !x.Off.DeviceGrant, "ApproveDevice (or Off.DeviceGrant)")
	add(x.Web.PostLogoutRedirectURI == "" && !x.Off.EndSession, "Web.PostLogoutRedirectURI (or Off.EndSession)")
	add(x.ConfirmLogout == nil && !x.Off.ConfirmLogout && !x.Off.EndSession, "ConfirmLogout (or Off.ConfirmLogout)")
	add(x.BackChannelLogout == nil && !x.Off.BackChannelLogout, "BackChannelLogout (or Off.BackChannelLogout)")
	add(x.FrontChannelLogoutURI == "" && !x.Off.FrontChannelLogout, "FrontChannelLogoutURI (or Off.FrontChannelLogout)")
	add(len(x.Users) < 2, "Users (at least two)")
	add(x.SignIn == nil, "SignIn")
	return names
}

// all joins needs: the first reason counts.
func all(needs ...func(*kit) string) func(*kit) string {
	return func(k *kit) string {
		for _, n := range needs {
			if why := n(k); why != "" {
				return why
			}
		}
		return ""
	}
}

func unless(off func(Off) bool, field string) func(*kit) string {
	return func(k *kit) string {
		if off(k.Off) {
			return "Off." + field + " is set"
		}
		return ""
	}
}

var (
	needsSSO        = unless(func(o Off) bool { return o.SingleSignOn }, "SingleSignOn")
	needsDevice     = unless(func(o Off) bool { return o.DeviceGrant }, "DeviceGrant")
	needsEndSession = unless(func(o Off) bool { return o.EndSession }, "EndSession")
	needsRevocation = unless(func(o Off) bool { return o.Revocation }, "Revocation")
	needsRotation   = all(needsRefresh, unless(func(o Off) bool { return o.Rotation }, "Rotation"))
	needsGrace      = unless(func(o Off) bool { return o.Grace }, "Grace")
	needsRefresh    = unless(func(o Off) bool { return o.RefreshTokens }, "RefreshTokens")
	needsMembers    = unless(func(o Off) bool { return o.ExpirationMembers }, "ExpirationMembers")
)

func needsActive(k *kit) string {
	if _, ok := k.Limits.Active.Value(); !ok {
		return "Limits.Active is not set"
	}
	return ""
}

func needsInactivity(k *kit) string {
	if _, ok := k.Limits.Inactivity.Value(); !ok {
		return "Limits.Inactivity is not set"
	}
	return ""
}

func needsNoLimits(k *kit) string {
	if needsActive(k) == "" || needsInactivity(k) == "" {
		return "Limits are set"
	}
	return ""
}

func needsUserinfoActivity(k *kit) string {
	if classes := k.Limits.Activity; !classes.Inherits() && !classes.Has(policy.Userinfo) {
		return "Limits.Activity has no userinfo"
	}
	return ""
}

// maxCap is the largest cap that is tested: each session is a real login.
const maxCap = 20

func needsCap(k *kit) string {
	n, ok := k.Limits.Concurrent.Value()
	switch {
	case !ok:
		return "Limits.Concurrent is not set"
	case n > maxCap:
		return "Limits.Concurrent is too many logins for a test"
	}
	return ""
}

func needsTwo(k *kit) string {
	if n, ok := k.Limits.Concurrent.Value(); ok && n < 2 {
		return "Limits.Concurrent admits no second session"
	}
	return ""
}

func needsRefusal(k *kit) string {
	if k.evicts() {
		return "Limits.AtLimit ends other sessions instead of refusing"
	}
	return ""
}

func needsEviction(k *kit) string {
	if !k.evicts() {
		return "Limits.AtLimit refuses instead of ending other sessions"
	}
	return ""
}

// needsTimeForGrace is about tests that let the grace pass while the session
// lies idle.
func needsTimeForGrace(k *kit) string {
	if idle, ok := k.Limits.Inactivity.Value(); ok && k.grace()+2*time.Second > idle {
		return "Grace is not well below Limits.Inactivity"
	}
	return ""
}

func (k *kit) evicts() bool {
	return k.Limits.AtLimit == policy.EndOldest || k.Limits.AtLimit == policy.EndIdlest
}

// DefaultGrace is the grace of a server that says nothing else: that of package provider.
const DefaultGrace = 30 * time.Second

func (k *kit) grace() time.Duration {
	switch {
	case k.Off.Grace:
		return 0
	case k.Grace == 0:
		return DefaultGrace
	}
	return k.Grace
}

func (k *kit) scope() string {
	switch {
	case k.Scope != "":
		return k.Scope
	case k.Off.RefreshTokens:
		return "openid"
	}
	return "openid offline_access"
}

// reasonOf returns the machine-readable reason at the start of a description.
func reasonOf(description string) policy.Reason {
	reason, _, _ := strings.Cut(description, ":")
	return policy.Reason(reason)
}
