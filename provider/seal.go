package provider

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/curfew-oidc/curfew/store"
)

// What clients hold is sealed: XChaCha20-Poly1305, whose 24-byte nonces may be
// random, over a small record. The text form is
//
//	prefix keyID "." base64url(nonce ciphertext)
//
// One dot, so that neither the JWE decrypter of op (five parts) nor its JWT
// verifier (three) takes it for its own; no ':', which op puts between an
// access token's ID and its subject. Prefix and key ID are authenticated, so
// that one kind of token cannot stand in for another.
const (
	refreshPrefix = "curfew_rt_"
	accessPrefix  = "curfew_at_"
	repeatPrefix  = "curfew_rp_"
	askPrefix     = "curfew_ask_"
)

var (
	// errForeign is returned for a text that does not have our form: a token
	// from before the installation, or not a token.
	errForeign = errors.New("not sealed by curfew")
	// errBroken is returned for a text of our form that does not open.
	errBroken = errors.New("seal broken")
	// errKeyAhead is returned for a token sealed with a key that is younger
	// than the roll-over time and not here yet.
	errKeyAhead = errors.New("sealed with a key that this process does not have yet")
)

// A keyring seals and opens. It is made once.
type keyring struct {
	keys     []ringKey
	rollover time.Duration
}

type ringKey struct {
	id   string
	aead cipher.AEAD
}

func newKeyring(keys Keys, rollover time.Duration) (*keyring, error) {
	r := &keyring{rollover: rollover}
	seen := map[string]bool{}
	for i, k := range keys {
		if k.Created.IsZero() || k.Secret == ([32]byte{}) {
			return nil, fmt.Errorf("key %d is not set", i)
		}
		if seen[k.ID()] {
			return nil, fmt.Errorf("key %d (%s) is there twice", i, k.ID())
		}
		seen[k.ID()] = true
		aead, err := chacha20poly1305.NewX(derive(k.Secret, "seal"))
		if err != nil {
			return nil, err
		}
		r.keys = append(r.keys, ringKey{id: k.ID(), aead: aead})
	}
	return r, nil
}

// derive makes a key for one purpose from a uniformly random one.
func derive(secret [32]byte, purpose string) []byte {
	m := hmac.New(sha256.New, secret[:])
	m.Write([]byte("curfew 1 " + purpose))
	return m.Sum(nil)
}

// scratch holds empty buffers for what is sealed, opened and answered: memory that
// was used a moment ago is in the processor's caches. What was in them is secret.
var scratch = sync.Pool{New: func() any {
	b := make([]byte, 0, 2048)
	return &b
}}

// giveBack clears a buffer, or the longer one that it became, and keeps it unless it
// is large.
func giveBack(buffer *[]byte, became []byte) {
	b := *buffer
	if cap(became) > cap(b) {
		b = became
	}
	if cap(b) <= 8192 {
		clear(b[:cap(b)])
		*buffer = b[:0]
		scratch.Put(buffer)
	}
}

func (r *keyring) seal(prefix string, plain []byte) string {
	return r.sealRecord(prefix, func(b []byte) []byte { return append(b, plain...) })
}

// sealRecord seals what record appends to a buffer.
func (r *keyring) sealRecord(prefix string, record func([]byte) []byte) string {
	k := r.keys[0]
	buffer := scratch.Get().(*[]byte)
	b := append(append(*buffer, prefix...), k.id...)
	head := len(b)
	b = append(b, make([]byte, chacha20poly1305.NonceSizeX)...)
	nonce := len(b)
	rand.Read(b[head:])
	b = record(b)
	b = k.aead.Seal(b[:nonce], b[head:nonce], b[nonce:], b[:head]) // the record is sealed in its place
	end := len(b)
	b = append(append(b, b[:head]...), '.')
	b = base64.RawURLEncoding.AppendEncode(b, b[head:end])
	text := string(b[end:])
	giveBack(buffer, b)
	return text
}

func (r *keyring) open(prefix, text string, now time.Time) (record string, err error) {
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return "", errForeign
	}
	id, body, ok := strings.Cut(rest, ".")
	if !ok {
		return "", errBroken
	}
	buffer := scratch.Get().(*[]byte)
	// Strict: one token has one text, so that nobody can make a second one
	// out of it.
	box, err := appendDecoded(*buffer, body)
	defer func() { giveBack(buffer, box) }()
	if err != nil || len(box) < chacha20poly1305.NonceSizeX+chacha20poly1305.Overhead {
		return "", errBroken
	}
	for _, k := range r.keys {
		if k.id != id {
			continue
		}
		nonce, sealed := box[:chacha20poly1305.NonceSizeX], box[chacha20poly1305.NonceSizeX:]
		plain, err := k.aead.Open(sealed[:0], nonce, sealed, []byte(prefix+id))
		if err != nil {
			return "", errBroken
		}
		return string(plain), nil
	}
	if created, ok := keyCreated(id); ok && now.Sub(created) < r.rollover && created.Sub(now) < r.rollover {
		return "", errKeyAhead
	}
	return "", errBroken
}

// decodeStrictly decodes base64url so that one value has one text: nobody can
// make a second token out of one. Package base64 skips line breaks even in its
// strict mode.
func decodeStrictly(text string) ([]byte, error) { return appendDecoded(nil, text) }

func appendDecoded(b []byte, text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errBroken
	}
	return strictly.AppendDecode(b, []byte(text))
}

var strictly = base64.RawURLEncoding.Strict()

// A refreshToken is what is sealed in a refresh token.
type refreshToken struct {
	Token         string // the storage's own
	SID           string
	Grant         string
	Client        string
	Subject       store.Subject
	Scopes        []string
	Authenticated time.Time
	Generation    uint64
	Nonce         [16]byte
}

// recordVersion is the first byte of every sealed record.
const recordVersion = 1

func (r *keyring) sealRefresh(t refreshToken) string {
	return r.sealRecord(refreshPrefix, func(b []byte) []byte {
		b = append(b, recordVersion)
		for _, s := range []string{t.Token, t.SID, t.Grant, t.Client, t.Subject.Issuer, t.Subject.ID} {
			b = appendString(b, s)
		}
		b = binary.AppendUvarint(b, uint64(len(t.Scopes)))
		for _, s := range t.Scopes {
			b = appendString(b, s)
		}
		b = appendTime(b, t.Authenticated)
		b = binary.AppendUvarint(b, t.Generation)
		return append(b, t.Nonce[:]...)
	})
}

func (r *keyring) openRefresh(text string, now time.Time) (refreshToken, error) {
	plain, err := r.open(refreshPrefix, text, now)
	if err != nil {
		return refreshToken{}, err
	}
	var t refreshToken
	d := decoder{b: plain}
	d.version()
	for _, s := range []*string{&t.Token, &t.SID, &t.Grant, &t.Client, &t.Subject.Issuer, &t.Subject.ID} {
		*s = d.string()
	}
	t.Scopes = d.strings()
	t.Authenticated = d.time()
	t.Generation = d.uvarint()
	copy(t.Nonce[:], d.bytes(len(t.Nonce)))
	if !d.done() {
		return refreshToken{}, errBroken
	}
	return t, nil
}

// An accessToken is what is sealed in the ID of an access token.
type accessToken struct {
	ID         string // the storage's own
	SID        string // empty: it has no session
	Grant      string // without a session, the holderMark
	Generation uint64
	Expires    time.Time
}

func (r *keyring) sealAccess(t accessToken) string {
	return r.sealRecord(accessPrefix, func(b []byte) []byte {
		b = append(b, recordVersion)
		for _, s := range []string{t.ID, t.SID, t.Grant} {
			b = appendString(b, s)
		}
		b = binary.AppendUvarint(b, t.Generation)
		return appendTime(b, t.Expires)
	})
}

func (r *keyring) openAccess(text string, now time.Time) (accessToken, error) {
	plain, err := r.open(accessPrefix, text, now)
	if err != nil {
		return accessToken{}, err
	}
	var t accessToken
	d := decoder{b: plain}
	d.version()
	for _, s := range []*string{&t.ID, &t.SID, &t.Grant} {
		*s = d.string()
	}
	t.Generation = d.uvarint()
	t.Expires = d.time()
	if !d.done() {
		return accessToken{}, errBroken
	}
	return t, nil
}

// An answer is what a refresh was answered with, kept so that a repeat gets
// the same.
type answer struct {
	Refresh string // sealed, as the client got it
	Token   string // the storage's own refresh token inside it
	Access  string // the sealed ID of the access token
	Expires time.Time
	Scopes  []string
}

// stale reports whether the access token of an answer is over, but for a rest of which op
// could tell the client nothing: it counts in seconds.
func (a *answer) stale(now time.Time) bool { return a.Expires.Sub(now) < time.Second }

// sealRepeat seals an answer under a key derived from the nonce of the token
// that was presented for it: who reads the store cannot open it.
func sealRepeat(nonce [16]byte, a answer) []byte {
	size := 64 + len(a.Refresh) + len(a.Token) + len(a.Access)
	for _, s := range a.Scopes {
		size += len(s) + 2
	}
	b := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+size+chacha20poly1305.Overhead)
	rand.Read(b)
	b = append(b, recordVersion)
	for _, s := range []string{a.Refresh, a.Token, a.Access} {
		b = appendString(b, s)
	}
	b = appendTime(b, a.Expires)
	b = binary.AppendUvarint(b, uint64(len(a.Scopes)))
	for _, s := range a.Scopes {
		b = appendString(b, s)
	}
	head := b[:chacha20poly1305.NonceSizeX] // the record is sealed in its place
	return repeatAEAD(nonce).Seal(head, head, b[len(head):], []byte(repeatPrefix))
}

func openRepeat(nonce [16]byte, box []byte) (answer, error) {
	if len(box) < chacha20poly1305.NonceSizeX {
		return answer{}, errBroken
	}
	plain, err := repeatAEAD(nonce).Open(nil, box[:chacha20poly1305.NonceSizeX], box[chacha20poly1305.NonceSizeX:], []byte(repeatPrefix))
	if err != nil {
		return answer{}, errBroken
	}
	var a answer
	d := decoder{b: string(plain)}
	d.version()
	for _, s := range []*string{&a.Refresh, &a.Token, &a.Access} {
		*s = d.string()
	}
	a.Expires = d.time()
	a.Scopes = d.strings()
	if !d.done() {
		return answer{}, errBroken
	}
	return a, nil
}

func repeatAEAD(nonce [16]byte) cipher.AEAD {
	key := sha256.Sum256(append([]byte("curfew 1 repeat "), nonce[:]...))
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic(err) // the key has the right size
	}
	return aead
}

// nonceHash is how a token's nonce appears in a store.
func nonceHash(nonce [16]byte) []byte {
	sum := nonceSum(nonce)
	return sum[:]
}

func nonceSum(nonce [16]byte) [sha256.Size]byte {
	const label = "curfew 1 nonce "
	var b [len(label) + len(nonce)]byte
	copy(b[copy(b[:], label):], nonce[:])
	return sha256.Sum256(b[:])
}

func newNonce() (n [16]byte) {
	rand.Read(n[:])
	return n
}

// nextNonce is the nonce of the token that is made from one with the given nonce. The
// salt is random: it is kept, so that the token leads to its successor, and says
// nothing of it without the token.
func nextNonce(nonce, salt [16]byte) (next [16]byte) {
	const label = "curfew 1 next "
	var b [len(label) + len(nonce) + len(salt)]byte
	copy(b[copy(b[:], label):], nonce[:])
	copy(b[len(label)+len(nonce):], salt[:])
	sum := sha256.Sum256(b[:])
	copy(next[:], sum[:])
	return next
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendTime keeps microseconds, as stores do; the zero time stays zero.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(b, 0)
	}
	return binary.AppendVarint(b, t.UnixMicro())
}

// A decoder reads a record. After a mistake it returns zero values, and done
// reports false.
type decoder struct {
	b      string
	failed bool
}

func (d *decoder) version() {
	if v := d.bytes(1); len(v) != 1 || v[0] != recordVersion {
		d.failed = true
	}
}

func (d *decoder) bytes(n int) string {
	if d.failed || n < 0 || n > len(d.b) {
		d.failed = true
		return ""
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint([]byte(d.b[:min(len(d.b), binary.MaxVarintLen64)]))
	if d.failed || n <= 0 {
		d.failed = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) length() int {
	v := d.uvarint()
	if v > uint64(len(d.b)) {
		d.failed = true
		return 0
	}
	return int(v)
}

func (d *decoder) string() string { return d.bytes(d.length()) }

func (d *decoder) strings() []string {
	n := d.length()
	if n == 0 {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, d.string())
	}
	return list
}

func (d *decoder) time() time.Time {
	v, n := binary.Varint([]byte(d.b[:min(len(d.b), binary.MaxVarintLen64)]))
	if d.failed || n <= 0 {
		d.failed = true
		return time.Time{}
	}
	d.b = d.b[n:]
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMicro(v).UTC()
}

func (d *decoder) done() bool { return !d.failed && len(d.b) == 0 }
