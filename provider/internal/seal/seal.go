package seal

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// The prefixes of what is sealed say what it is.
const (
	RefreshPrefix = "curfew_rt_"
	AccessPrefix  = "curfew_at_"
	repeatPrefix  = "curfew_rp_"
)

var (
	// ErrForeign is returned for a text that does not have our form: a token
	// from before the installation, or not a token.
	ErrForeign = errors.New("not sealed by curfew")
	// ErrBroken is returned for a text of our form that does not open.
	ErrBroken = errors.New("seal broken")
	// ErrAhead is returned for a token sealed with a key that is younger
	// than the roll-over time and not here yet.
	ErrAhead = errors.New("sealed with a key that this process does not have yet")
)

// A Ring seals and opens. It is made once.
type Ring struct {
	keys     []ringKey
	rollover time.Duration
}

type ringKey struct {
	id   string
	aead cipher.AEAD
}

// New returns the ring of the keys, which need not be checked before. A token of a
// key that is not here is [ErrAhead] for as long after its creation as rollover
// says.
func New(keys []Key, rollover time.Duration) (*Ring, error) {
	r := &Ring{rollover: rollover}
	seen := map[string]bool{}
	for i, k := range keys {
		if k.Created.IsZero() || k.Secret == ([32]byte{}) {
			return nil, fmt.Errorf("key %d is not set", i)
		}
		id := KeyID(k.Created, k.Secret)
		if seen[id] {
			return nil, fmt.Errorf("key %d (%s) appears twice", i, id)
		}
		seen[id] = true
		aead, err := chacha20poly1305.NewX(Derive(k.Secret, "seal"))
		if err != nil {
			return nil, err
		}
		r.keys = append(r.keys, ringKey{id: id, aead: aead})
	}
	return r, nil
}

// Derive makes a key for one purpose from a uniformly random one.
func Derive(secret [32]byte, purpose string) []byte {
	m := hmac.New(sha256.New, secret[:])
	m.Write([]byte("curfew 1 " + purpose))
	return m.Sum(nil)
}

// Seal seals a record under the first key. What prefixes it is authenticated: it
// opens under the same prefix alone.
func (r *Ring) Seal(prefix string, record []byte) string {
	k := r.keys[0]
	box := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(record)+chacha20poly1305.Overhead)
	rand.Read(box)
	text := make([]byte, 0, len(prefix)+len(k.id)+1+base64.RawURLEncoding.EncodedLen(cap(box)))
	text = append(append(text, prefix...), k.id...)
	box = k.aead.Seal(box, box, record, text)
	return string(base64.RawURLEncoding.AppendEncode(append(text, '.'), box))
}

// Open returns the record of what Seal made with the same prefix. Its errors are
// [ErrForeign], [ErrBroken] and [ErrAhead].
func (r *Ring) Open(prefix, text string, now time.Time) (record string, err error) {
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return "", ErrForeign
	}
	id, body, ok := strings.Cut(rest, ".")
	if !ok {
		return "", ErrBroken
	}
	box, err := Decode(body)
	if err != nil || len(box) < chacha20poly1305.NonceSizeX+chacha20poly1305.Overhead {
		return "", ErrBroken
	}
	for _, k := range r.keys {
		if k.id != id {
			continue
		}
		nonce, sealed := box[:chacha20poly1305.NonceSizeX], box[chacha20poly1305.NonceSizeX:]
		plain, err := k.aead.Open(sealed[:0], nonce, sealed, []byte(text[:len(prefix)+len(id)]))
		if err != nil {
			return "", ErrBroken
		}
		return string(plain), nil
	}
	if created, ok := keyCreated(id); ok && now.Sub(created) < r.rollover && created.Sub(now) < r.rollover {
		return "", ErrAhead
	}
	return "", ErrBroken
}

// Decode decodes base64url so that one value has one text: nobody can make a
// second token out of one. Package base64 skips line breaks even in its strict
// mode.
func Decode(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, ErrBroken
	}
	return strictly.DecodeString(text)
}

var strictly = base64.RawURLEncoding.Strict()
