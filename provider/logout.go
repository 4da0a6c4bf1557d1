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

// Logout is how applications are notified that their session ended: OpenID
// Connect Back-Channel Logout 1.0, for every end and not only for a user who
// signs out, and Front-Channel Logout 1.0. The zero Logout tells nobody.
//
// The owed notifications are written with the end itself, so that no crash loses them. Each is sent
// at once, and then at growing intervals, until the application has accepted it or Tries are used
// up. The record of a notification that was given up stays with the session, where [Hook.List]
// shows it; see [Hook.Redeliver].
//
// Only processes in which [Hook.Storage] was called send, because they have the signing key. If a
// process leaves a notification unsent, [Hook.Run] of another one sends it.
type Logout struct {
	// URIs returns the logout URIs that a client is registered with. URIs come only from here,
	// never from a request. It is called at each try, so that a change counts at once. It returns
	// the zero LogoutURIs for a client without URIs, and for an unknown client. After an error the
	// notification is tried again, as if the application had not answered. Nil: no application is
	// notified.
	URIs func(ctx context.Context, clientID string) (LogoutURIs, error)

	// FrontChannel switches Front-Channel Logout 1.0 on: a user who signs out
	// sees a page that loads the FrontChannel URIs in frames, before they
	// go on. Browsers that keep third-party cookies from frames make it
	// unreliable (section 4.1): it is an addition to the back channel.
	FrontChannel bool

	// Template is executed with a [LogoutPage]. Nil: a plain page.
	Template *template.Template

	// Loopback allows back-channel URIs on loopback addresses, with http too, for development.
	// Without it a URI must be https.
	Loopback bool

	// Allow lists ranges of addresses to which notifications may be sent, beside public addresses,
	// such as 10.20.0.0/16 for applications in your own network. The address that a name resolves
	// to is checked when the connection is made. A cloud's metadata address is allowed only by a
	// range that contains nothing else.
	Allow []netip.Prefix

	// RootCAs are the certificate authorities for applications' certificates. Nil: those of the
	// system.
	RootCAs *x509.CertPool

	// Timeout is how long an application may take to answer, and the longest that a user who signs
	// out waits for all of them. Zero means 5 s; the maximum is 20 s.
	Timeout time.Duration

	// Tries is how often a notification is sent before it is given up. Zero
	// means 30, which takes about a day.
	Tries int

	// OmitReason leaves "session_end_reason" out of logout tokens, so that applications without a
	// refresh token do not learn why a session ended: for example, that the user's account was
	// disabled. Users still see the reason on the provider's sign-in page.
	OmitReason bool
}

// LogoutURIs are the logout URIs that a client is registered with.
type LogoutURIs struct {
	BackChannel  string // backchannel_logout_uri; empty: none
	FrontChannel string // frontchannel_logout_uri; empty: none

	// WithSubject puts "sub" into the client's logout tokens, beside "sid", for an application that
	// needs it. Do not set it for others: some end all sessions of the user when they see a "sub",
	// including sessions that began since. It must not be set if ID tokens have pairwise subjects:
	// "sub" is the storage's.
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
			return invalid.Errorf(ErrConfig, "provider.Config.Logout.Allow: %s has bits beyond its length: use %s, or an address", p, p.Masked())
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
