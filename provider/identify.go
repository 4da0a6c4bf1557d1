package provider

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"

	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// newSID makes the ID of a session that nothing else names.
func newSID(subject store.Subject) string {
	var b [18]byte
	rand.Read(b[:])
	return store.Bucket(subject) + "." + base64.RawURLEncoding.EncodeToString(b[:])
}

// derivedSID makes the ID of a session from what stands for the login: an auth
// request, a device code, the provider's own session. So a reloaded callback
// or a code that is sent again finds the session that it made. The ID is
// published; it gives nothing away about the parts, which are not guessable.
func derivedSID(subject store.Subject, name ...string) string {
	parts := append([]string{"sid", subject.Issuer, subject.ID, "0"}, name...)
	sum := seal.Digest(parts...)
	return store.Bucket(subject) + "." + base64.RawURLEncoding.EncodeToString(sum[:18])
}

// adoptedToken is the record of a refresh token from before the installation:
// generation 0 of a grant and a session that are named by a MAC of it, under a
// key that was made at the installation.
func adoptedToken(key []byte, token string, subject store.Subject) seal.RefreshToken {
	mac := func(purpose string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(purpose + "\x00" + token))
		return m.Sum(nil)
	}
	t := seal.RefreshToken{Token: token, Subject: subject, Grant: base64.RawURLEncoding.EncodeToString(mac("grant")[:12])}
	t.SID = store.Bucket(subject) + "." + base64.RawURLEncoding.EncodeToString(mac("sid")[:18])
	copy(t.Nonce[:], mac("nonce"))
	return t
}

// coarse makes an address too vague to follow a person with: the /24 of IPv4,
// the /48 of IPv6.
func coarse(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	bits := 48
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		bits = 24
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}

// addressHash is how a full address appears in a grant: enough to notice
// another one. It is keyed with the token's nonce, or the few billion
// addresses could be tried.
func addressHash(nonce seal.Nonce, address string) []byte {
	sum := seal.Digest("address", string(nonce[:]), address)
	return sum[:8]
}
