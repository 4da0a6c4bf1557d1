package provider

import (
	"context"
	"net"

	"github.com/curfew-oidc/curfew/provider/internal/notify"
)

// DialLogout replaces how notifications are dialled, for tests without sockets. It
// replaces the check of addresses too.
func (h *Hook) DialLogout(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	h.backChannel.Client.Dial(dial)
}

// ResolveLogout replaces what knows the addresses of names. The check stays.
func (h *Hook) ResolveLogout(r *net.Resolver) {
	h.backChannel.Client.Resolve(r)
}

// AllowedAddress is notify.Allowed.
var AllowedAddress = notify.Allowed

// Sealed seals a text under a prefix, as what the hook seals for its own use.
func (h *Hook) Sealed(prefix string) string { return h.ring.Seal(prefix, []byte("sealed")) }

// DerivedSID is the ID of the session that is named by something.
var DerivedSID = derivedSID
