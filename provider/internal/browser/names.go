package browser

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/curfew-oidc/curfew/internal/loopback"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
)

// SessionPrefix begins the name of the session cookie, after __Host-.
const SessionPrefix = "curfew-session-"

// Names are the names of an issuer's cookies. Several issuers may live on
// one host. With https nothing but this host can set them (RFC 6265bis section
// 4.1.3.2); http on loopback has no such names.
type Names struct {
	Session string // of the session cookie
	binding string // the beginning of it
	secure  bool
}

// NamesOf returns the names for an issuer.
func NamesOf(issuer string) Names {
	sum := seal.Digest("issuer", issuer)
	of := hex.EncodeToString(sum[:4])
	n := Names{Session: SessionPrefix + of, binding: "curfew-login-" + of + "-", secure: !IsLoopbackHTTP(issuer)}
	if n.secure {
		n.Session, n.binding = "__Host-"+n.Session, "__Host-"+n.binding
	}
	return n
}

// places are the names that a binding may have.
func (n Names) places(b *Binding) []string {
	kind, count := "", openPlaces
	if b.Silent {
		kind, count = "s", silentPlaces
	}
	if len(b.Request) > longBoundID {
		count /= 2
	}
	names := make([]string, count)
	for i := range names {
		names[i] = n.binding + kind + strconv.Itoa(i)
	}
	return names
}

// formerName is the name of the binding of one auth request in former versions. Those
// in use at an upgrade are read until they expire.
func (n Names) formerName(id string) string {
	sum := seal.Digest("auth request", id)
	return n.binding + hex.EncodeToString(sum[:6])
}

// mayBe reports whether a binding may have this name.
func (n Names) mayBe(name string, b *Binding) bool {
	return slices.Contains(n.places(b), name) || name == n.formerName(b.Request)
}

// IsLoopbackHTTP reports whether an address is http on loopback, where cookies are
// good without Secure.
func IsLoopbackHTTP(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "http" {
		return false
	}
	return loopback.Host(u.Hostname())
}

// Cookie returns a cookie of the host: for the browser's own session if maxAge is 0,
// for so many seconds if it is above, and deleted if it is below.
func (n Names) Cookie(name, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: maxAge,
		Secure: n.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}
