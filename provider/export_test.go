package provider

import (
	"context"
	"net"

	"github.com/curfew-oidc/curfew/provider/internal/notify"
	"github.com/curfew-oidc/curfew/provider/internal/texts"
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

// The codes of the page at the cap.
var (
	AskErrors  = askErrors
	AskNotices = askNotices
)

// The hook's own templates.
var (
	AskTemplate      = defaultAskTemplate
	LogoutTemplate   = defaultLogoutTemplate
	FormPostTemplate = formPostTemplate
)

// PageTextsIn are the texts of pages in a language.
func PageTextsIn(c *texts.Catalogue) PageTexts { return PageTexts{c} }

// DerivedSID is the ID of the session that is named by something.
var DerivedSID = derivedSID
