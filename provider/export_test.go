package provider

import (
	"context"
	"net"
)

// DialLogout replaces how notifications are dialled, for tests without sockets. It
// replaces the check of addresses too.
func (h *Hook) DialLogout(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	h.logoutClient.https.DialContext = dial
	if h.logoutClient.loopback != nil {
		h.logoutClient.loopback.DialContext = dial
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
