package provider

import (
	"time"

	"github.com/curfew-oidc/curfew/provider/internal/seal"
)

// Keys are the sealing keys of the hook. The first seals; all unseal. To
// rotate, first add the new key behind the others everywhere, then move it to
// the front, then, once the longest Active has passed, remove the old one
// (where Active is unlimited: once the inactivity window has passed, since a
// token is sealed anew at each refresh).
type Keys = seal.Keys

// A Key is one sealing key.
type Key = seal.Key

// NewKey makes a key from the system's randomness.
func NewKey(now time.Time) Key { return seal.NewKey(now) }
