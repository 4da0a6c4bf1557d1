package browser

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"slices"
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

// Holds reports whether a hash is one of those of a session's cookie.
func Holds(s *store.Session, hash []byte) bool {
	found := 0
	for have := s.BrowserHash; len(have) >= sha256.Size; have = have[sha256.Size:] {
		found |= subtle.ConstantTimeCompare(have[:sha256.Size], hash)
	}
	return found == 1
}

// A Join gives a session the cookie of the browser that signs in to it.
type Join struct {
	Binding Binding
	shown   []byte // hash of the secret that the browser showed; nil: none
	next    Secret
}

// NewJoin returns one for a login with a binding. shown is the hash of the secret that
// the browser showed; nil: it showed none.
func NewJoin(b Binding, shown []byte) *Join {
	j := &Join{Binding: b, shown: shown}
	rand.Read(j.next.secret[:])
	return j
}

// Enter notes in a session which secret its browser holds from now on. A new
// authentication makes a new secret, and the old one is void. A browser that
// cannot show one was given it by a callback that ran at the same time, or whose
// answer was lost: both secrets are good then, or the cookie that arrives last
// might be the one that is void.
func (j *Join) Enter(s *store.Session, renewed bool) {
	shown := j.shown != nil && Holds(s, j.shown)
	switch {
	case shown && !renewed:
	case shown:
		s.BrowserHash = j.next.Hash()
	default:
		hashes := slices.Concat(s.BrowserHash, j.next.Hash())
		s.BrowserHash = hashes[max(0, len(hashes)-maxSecrets*sha256.Size):]
	}
}

// Cookie returns the session cookie of a session that took the secret of the join;
// nil if another one has replaced it since.
func (j *Join) Cookie(s *store.Session) *http.Cookie {
	if !Holds(s, j.next.Hash()) {
		return nil
	}
	j.next.SID = s.ID
	names := NamesOf(s.Subject.Issuer)
	return names.Cookie(names.Session, j.next.Text(), 0)
}
