package provider

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/provider/internal/seal"
)

// Keys are the sealing keys of the hook. The first seals; all unseal. To
// rotate, first add the new key behind the others everywhere, then move it to
// the front, then, once the longest Active has passed, remove the old one
// (where Active is unlimited: once the inactivity window has passed, since a
// token is sealed anew at each refresh).
type Keys []Key

// A Key is one sealing key.
type Key struct {
	// Created is when it was made, to the second. It is part of the key's
	// ID, which tokens carry in the clear, so that a process without the key recognises it as new.
	Created time.Time

	// Secret is the key itself.
	Secret [32]byte
}

// sealing returns the keys as package seal takes them.
func (k Keys) sealing() []seal.Key {
	keys := make([]seal.Key, len(k))
	for i := range k {
		keys[i] = seal.Key(k[i])
	}
	return keys
}

// NewKey makes a key from the system's randomness.
func NewKey(now time.Time) Key {
	k := Key{Created: now.UTC().Truncate(time.Second)}
	rand.Read(k.Secret[:]) // never fails: see crypto/rand.Read
	return k
}

// keyPrefix starts the text form of a key, for people and for scanners that
// look for secrets.
const keyPrefix = "curfew-key-1"

// ID names the key without revealing it: eight hexadecimal digits of its
// creation in Unix seconds, and four of a digest of the secret.
func (k Key) ID() string { return seal.KeyID(k.Created, k.Secret) }

// String returns the key's ID: never the secret.
func (k Key) String() string { return k.ID() }

// GoString returns what String returns.
func (k Key) GoString() string { return k.ID() }

// MarshalText encodes the key, secret included, on one line of printable
// characters, to be kept in a file of mode 0600.
func (k Key) MarshalText() ([]byte, error) {
	if k.Created.IsZero() {
		return nil, errors.New("key: Created is not set")
	}
	return fmt.Appendf(nil, "%s.%s.%s", keyPrefix, k.Created.UTC().Format(time.RFC3339),
		base64.RawURLEncoding.EncodeToString(k.Secret[:])), nil
}

// UnmarshalText decodes the text that MarshalText returns. Its errors do not repeat the text.
func (k *Key) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ".")
	if len(parts) != 3 || parts[0] != keyPrefix {
		return fmt.Errorf("key: want %s.TIME.SECRET", keyPrefix)
	}
	created, err := time.Parse(time.RFC3339, parts[1])
	if err != nil {
		return errors.New("key: the time of creation is not in RFC 3339 form")
	}
	secret, err := seal.Decode(parts[2])
	if err != nil || len(secret) != len(k.Secret) {
		return fmt.Errorf("key: the secret is not %d bytes in unpadded base64url", len(k.Secret))
	}
	*k = Key{Created: created.UTC().Truncate(time.Second), Secret: [32]byte(secret)}
	return nil
}
