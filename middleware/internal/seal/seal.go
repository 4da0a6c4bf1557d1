// Package seal seals what browsers and stores keep for an application, under keys that
// the application alone has. What was sealed for one application or one purpose does not
// open for another, and why a text does not open is told to nobody.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

// minKey is the least length of a key: what AES-256 is worth.
const minKey = 32

// The parts of a sealed text. The key of each text is derived with a salt of its
// own, so that no number of texts wears out the nonces of AES-GCM.
const (
	version   = 1
	keyIDSize = 4
	saltSize  = 16
)

// ErrNotOurs is returned for a text that does not open. It says nothing about why: the text
// may come from anybody.
var ErrNotOurs = errors.New("this was not sealed here")

// A Sealer seals what the browser or a store keeps for us. The application is
// part of every seal, so that what one application wrote means nothing to
// another, though they have the same keys.
type Sealer struct {
	app  string
	keys []key // the first one seals, all open
}

type key struct {
	id     [keyIDSize]byte
	secret []byte
}

// New returns the sealer of an application. The first key seals, all open.
func New(app string, keys [][]byte) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("there is no key")
	}
	s := &Sealer{app: app}
	seen := map[[keyIDSize]byte]bool{}
	for i, k := range keys {
		if len(k) < minKey {
			return nil, fmt.Errorf("key %d has %d bytes, fewer than %d", i+1, len(k), minKey)
		}
		key := key{secret: append([]byte(nil), k...)}
		sum := sha256.Sum256(append([]byte("curfew middleware key ID\x00"), k...))
		copy(key.id[:], sum[:])
		if seen[key.id] {
			return nil, fmt.Errorf("key %d appears twice", i+1)
		}
		seen[key.id] = true
		s.keys = append(s.keys, key)
	}
	return s, nil
}

// aead returns the cipher for one text. about is what the text is for: it does
// not open for anything else.
func (s *Sealer) aead(key key, salt []byte, about string) (cipher.AEAD, error) {
	derived, err := hkdf.Key(sha256.New, key.secret, salt, "curfew middleware\x00"+s.app+"\x00"+about, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Seal returns text that only [Sealer.Open] with the same about opens. It has no
// character that needs care in a cookie, a form or a URL.
func (s *Sealer) Seal(about string, plain []byte) (string, error) {
	key := s.keys[0]
	head := append([]byte{version}, key.id[:]...)
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails
	head = append(head, salt...)
	aead, err := s.aead(key, salt, about)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(aead.Seal(head, nil, plain, head)), nil
}

// Size is how long a sealed text of so many bytes is.
func Size(plain int) int {
	const nonce, tag = 12, 16 // of AES-GCM
	return base64.RawURLEncoding.EncodedLen(1 + keyIDSize + saltSize + nonce + tag + plain)
}

// Open returns what was sealed. The error is [ErrNotOurs] if the text was sealed for
// something else, by somebody else, or changed.
func (s *Sealer) Open(about, text string) ([]byte, error) {
	// Strict: else the unused bits of the last character could be changed.
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(sealed) < 1+keyIDSize+saltSize || sealed[0] != version {
		return nil, ErrNotOurs
	}
	head, body := sealed[:1+keyIDSize+saltSize], sealed[1+keyIDSize+saltSize:]
	for _, key := range s.keys {
		if string(key.id[:]) != string(head[1:1+keyIDSize]) {
			continue
		}
		aead, err := s.aead(key, head[1+keyIDSize:], about)
		if err != nil {
			return nil, err
		}
		if plain, err := aead.Open(nil, nil, body, head); err == nil {
			return plain, nil
		}
	}
	return nil, ErrNotOurs
}

// NewSecret returns 256 bits that nobody can guess.
func NewSecret() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// Digest names something without saying it.
func Digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
