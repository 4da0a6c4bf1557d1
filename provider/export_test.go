package provider

import (
	"context"
	"net"
)

// DialLogout replaces how notifications are dialled, for tests without sockets. It
// replaces the check of addresses too.
func (h *Hook) DialLogout(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	timely := func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, h.cfg.Logout.Timeout) // as a net.Dialer does
		defer cancel()
		return dial(ctx, network, address)
	}
	h.logoutClient.https.DialContext = timely
	if h.logoutClient.loopback != nil {
		h.logoutClient.loopback.DialContext = timely
	}
}

// ResolveLogout replaces what knows the addresses of names. The check stays.
func (h *Hook) ResolveLogout(r *net.Resolver) {
	for _, d := range h.logoutClient.dialers {
		d.Resolver = r
	}
}

// AllowedAddress is allowedAddress.
var AllowedAddress = allowedAddress

// Sealed seals a text under a prefix, as what the hook seals for its own use.
func (h *Hook) Sealed(prefix string) string { return h.ring.Seal(prefix, []byte("sealed")) }
