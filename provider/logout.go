package provider

import (
	"context"
	"crypto/x509"
	"html/template"
	"io"
	"net/netip"
	"time"

	"github.com/curfew-oidc/curfew/provider/internal/invalid"
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
		return invalid.Errorf(ErrConfig, "provider.Config.Logout.Timeout is negative")
	case l.Timeout > 20*time.Second:
		return invalid.Errorf(ErrConfig, "provider.Config.Logout.Timeout is %s, at most 20s is allowed", l.Timeout)
	case l.Tries < 0:
		return invalid.Errorf(ErrConfig, "provider.Config.Logout.Tries is negative")
	}
	if l.FrontChannel && l.URIs == nil {
		return invalid.Errorf(ErrConfig, "provider.Config.Logout.FrontChannel needs Logout.URIs")
	}
	if l.Template == nil {
		l.Template = defaultLogoutTemplate
	}
	for _, sample := range []LogoutPage{{Confirm: &LogoutConfirm{}}, {Stayed: true}, {Frames: []string{"https://app.example.org/"}, Continue: "/"}} {
		if err := l.Template.Execute(io.Discard, sample); err != nil {
			return invalid.Errorf(ErrConfig, "provider.Config.Logout.Template: %w", err)
		}
	}
	for i, p := range l.Allow {
		if !p.IsValid() {
			return invalid.Errorf(ErrConfig, "provider.Config.Logout.Allow: range %d is not set", i)
		}
		if p.Addr().Is4In6() {
			return invalid.Errorf(ErrConfig, "provider.Config.Logout.Allow: %s must be written as IPv4", p)
		}
		if p.Masked() != p {
			return invalid.Errorf(ErrConfig, "provider.Config.Logout.Allow: %s has bits beyond its length: %s is meant, or an address", p, p.Masked())
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
