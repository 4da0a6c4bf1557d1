package middleware

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
	sealVersion = 1
	sealKeyID   = 4
	sealSalt    = 16
)

// errSealed says nothing about why a text did not open: it may come from anybody.
var errSealed = errors.New("this was not sealed here")

// A sealer seals what the browser or a store keeps for us. The application is
// part of every seal, so that what one application wrote means nothing to
// another, though they have the same keys.
type sealer struct {
	app  string
	keys []sealKey // the first one seals, all open
}

type sealKey struct {
	id     [sealKeyID]byte
	secret []byte
}

func newSealer(app string, keys [][]byte) (*sealer, error) {
	s := &sealer{app: app}
	seen := map[[sealKeyID]byte]bool{}
	for i, k := range keys {
		if len(k) < minKey {
			return nil, fmt.Errorf("key %d has %d bytes, fewer than %d", i+1, len(k), minKey)
		}
		key := sealKey{secret: append([]byte(nil), k...)}
		sum := sha256.Sum256(append([]byte("curfew middleware key ID\x00"), k...))
		copy(key.id[:], sum[:])
		if seen[key.id] {
			return nil, fmt.Errorf("key %d is there twice", i+1)
		}
		seen[key.id] = true
		s.keys = append(s.keys, key)
	}
	return s, nil
}

// aead returns the cipher for one text. about is what the text is for: it does
// not open for anything else.
func (s *sealer) aead(key sealKey, salt []byte, about string) (cipher.AEAD, error) {
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

// seal returns text that only [sealer.open] with the same about opens. It has no
// character that needs care in a cookie, a form or a URL.
func (s *sealer) seal(about string, plain []byte) (string, error) {
	key := s.keys[0]
	head := append([]byte{sealVersion}, key.id[:]...)
	salt := make([]byte, sealSalt)
	rand.Read(salt) // never fails
	head = append(head, salt...)
	aead, err := s.aead(key, salt, about)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(aead.Seal(head, nil, plain, head)), nil
}

// sealedSize is how long a sealed text of so many bytes is.
func sealedSize(plain int) int {
	const nonce, tag = 12, 16 // of AES-GCM
	return base64.RawURLEncoding.EncodedLen(1 + sealKeyID + sealSalt + nonce + tag + plain)
}

func (s *sealer) open(about, text string) ([]byte, error) {
	// Strict: else the unused bits of the last character could be changed.
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(sealed) < 1+sealKeyID+sealSalt || sealed[0] != sealVersion {
		return nil, errSealed
	}
	head, body := sealed[:1+sealKeyID+sealSalt], sealed[1+sealKeyID+sealSalt:]
	for _, key := range s.keys {
		if string(key.id[:]) != string(head[1:1+sealKeyID]) {
			continue
		}
		aead, err := s.aead(key, head[1+sealKeyID:], about)
		if err != nil {
			return nil, err
		}
		if plain, err := aead.Open(nil, nil, body, head); err == nil {
			return plain, nil
		}
	}
	return nil, errSealed
}

// newSecret returns 256 bits that nobody can guess.
func newSecret() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// digest names something without saying it.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
