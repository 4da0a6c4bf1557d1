package browser

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// A Secret is what a session cookie holds.
type Secret struct {
	SID    string
	secret [32]byte
}

// maxSIDLen bounds what is looked up: an ID of a session is shorter.
const maxSIDLen = 64

// Text is the value of the cookie.
func (b *Secret) Text() string {
	return "1." + base64.RawURLEncoding.EncodeToString(b.secret[:]) + "." + b.SID
}

// ParseSecret reads what [Secret.Text] wrote.
func ParseSecret(text string) (b Secret, ok bool) {
	version, rest, ok := strings.Cut(text, ".")
	secret, sid, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || version != "1" || len(secret) > 64 || sid == "" || len(sid) > maxSIDLen {
		return b, false
	}
	raw, err := seal.Decode(secret)
	if err != nil || len(raw) != len(b.secret) {
		return b, false
	}
	b.SID = sid
	copy(b.secret[:], raw)
	return b, true
}

// Hash is how the secret appears in a store.
func (b *Secret) Hash() []byte {
	sum := sha256.Sum256(b.secret[:])
	return sum[:]
}

// NewSecret returns one that nobody holds yet.
func NewSecret() *Secret {
	b := new(Secret)
	rand.Read(b.secret[:])
	return b
}

// Cookie returns the session cookie with the secret for a session that took it.
func (b *Secret) Cookie(s *store.Session) *http.Cookie {
	b.SID = s.ID
	names := NamesOf(s.Subject.Issuer)
	return names.Cookie(names.Session, b.Text(), 0)
}
