package session

import (
	"crypto/sha256"
	"crypto/subtle"
	"slices"

	"github.com/curfew-oidc/curfew/store"
)

// maxSecrets bounds how many secrets a session cookie can have at once, one for each
// login under way; see store.Session.BrowserHash.
const maxSecrets = 12

// Holds reports whether a hash is one of those of a session's cookie.
func Holds(s *store.Session, hash []byte) bool {
	found := 0
	for have := s.BrowserHash; len(have) >= sha256.Size; have = have[sha256.Size:] {
		found |= subtle.ConstantTimeCompare(have[:sha256.Size], hash)
	}
	return found == 1
}

// Keep notes in a session which secret its browser holds from now on. A new
// authentication makes a new secret, and the old one is void. A browser that
// cannot show one was given it by a callback that ran at the same time, or whose
// answer was lost: both secrets are good then, or the cookie that arrives last
// might be the one that is void.
func (b *Browser) Keep(s *store.Session, renewed bool) {
	shown := Holds(s, b.Shown)
	switch {
	case b.Next == nil, shown && !renewed:
	case shown:
		s.BrowserHash = b.Next
	default:
		hashes := slices.Concat(s.BrowserHash, b.Next)
		s.BrowserHash = hashes[max(0, len(hashes)-maxSecrets*sha256.Size):]
	}
}
