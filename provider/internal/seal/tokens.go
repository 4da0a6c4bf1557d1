package seal

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/curfew-oidc/curfew/store"
)

// A RefreshToken is what is sealed in a refresh token.
type RefreshToken struct {
	Token         string // the storage's own
	SID           string
	Grant         string
	Client        string
	Subject       store.Subject
	Scopes        []string
	Authenticated time.Time
	Generation    uint64
	Nonce         Nonce
}

// SealRefresh returns the refresh token that a client gets.
func (r *Ring) SealRefresh(t RefreshToken) string {
	w := NewRecord()
	w.Text(t.Token, t.SID, t.Grant, t.Client, t.Subject.Issuer, t.Subject.ID)
	w.List(t.Scopes)
	w.Time(t.Authenticated)
	w.Number(t.Generation)
	w.Raw(t.Nonce[:])
	return r.Seal(RefreshPrefix, w.Bytes())
}

// OpenRefresh opens what [Ring.SealRefresh] made; its errors are those of [Ring.Open].
func (r *Ring) OpenRefresh(text string, now time.Time) (RefreshToken, error) {
	plain, err := r.Open(RefreshPrefix, text, now)
	if err != nil {
		return RefreshToken{}, err
	}
	var t RefreshToken
	d := ReadRecord(plain)
	for _, s := range []*string{&t.Token, &t.SID, &t.Grant, &t.Client, &t.Subject.Issuer, &t.Subject.ID} {
		*s = d.Text()
	}
	t.Scopes = d.List()
	t.Authenticated = d.Time()
	t.Generation = d.Number()
	copy(t.Nonce[:], d.Raw(len(t.Nonce)))
	if !d.Done() {
		return RefreshToken{}, ErrBroken
	}
	return t, nil
}

// An AccessToken is what is sealed in the ID of an access token.
type AccessToken struct {
	ID         string // the storage's own
	SID        string // empty: it has no session
	Grant      string // without a session, the holderMark
	Generation uint64
	Expires    time.Time
}

// SealAccess returns the ID of the access token that a client gets.
func (r *Ring) SealAccess(t AccessToken) string {
	w := NewRecord()
	w.Text(t.ID, t.SID, t.Grant)
	w.Number(t.Generation)
	w.Time(t.Expires)
	return r.Seal(AccessPrefix, w.Bytes())
}

// OpenAccess opens what [Ring.SealAccess] made; its errors are those of [Ring.Open].
func (r *Ring) OpenAccess(text string, now time.Time) (AccessToken, error) {
	plain, err := r.Open(AccessPrefix, text, now)
	if err != nil {
		return AccessToken{}, err
	}
	var t AccessToken
	d := ReadRecord(plain)
	for _, s := range []*string{&t.ID, &t.SID, &t.Grant} {
		*s = d.Text()
	}
	t.Generation = d.Number()
	t.Expires = d.Time()
	if !d.Done() {
		return AccessToken{}, ErrBroken
	}
	return t, nil
}

// An Answer is what a refresh was answered with. It is kept so that a repeat gets
// the same.
type Answer struct {
	Refresh string // sealed, as the client got it
	Token   string // the storage's own refresh token inside it
	Access  string // the sealed ID of the access token
	Expires time.Time
	Scopes  []string
}

// Stale reports whether the access token of an answer is over, but for a rest of which op
// could tell the client nothing: it counts in seconds.
func (a *Answer) Stale(now time.Time) bool { return a.Expires.Sub(now) < time.Second }

// Seal seals an answer under a key derived from the nonce of the token that was
// presented for it: a reader of the store cannot open it.
func (a *Answer) Seal(under Nonce) []byte {
	w := NewRecord()
	w.Text(a.Refresh, a.Token, a.Access)
	w.Time(a.Expires)
	w.List(a.Scopes)
	box := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(w.Bytes())+chacha20poly1305.Overhead)
	rand.Read(box)
	return answerAEAD(under).Seal(box, box, w.Bytes(), []byte(repeatPrefix))
}

// OpenAnswer opens what [Answer.Seal] made.
func OpenAnswer(under Nonce, box []byte) (Answer, error) {
	if len(box) < chacha20poly1305.NonceSizeX {
		return Answer{}, ErrBroken
	}
	plain, err := answerAEAD(under).Open(nil, box[:chacha20poly1305.NonceSizeX], box[chacha20poly1305.NonceSizeX:], []byte(repeatPrefix))
	if err != nil {
		return Answer{}, ErrBroken
	}
	var a Answer
	d := ReadRecord(string(plain))
	for _, s := range []*string{&a.Refresh, &a.Token, &a.Access} {
		*s = d.Text()
	}
	a.Expires = d.Time()
	a.Scopes = d.List()
	if !d.Done() {
		return Answer{}, ErrBroken
	}
	return a, nil
}

func answerAEAD(nonce Nonce) cipher.AEAD {
	key := sha256.Sum256(append([]byte("curfew 1 repeat "), nonce[:]...))
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic(err) // the key has the right size
	}
	return aead
}

// A Nonce makes each refresh token of a grant another one.
type Nonce [16]byte

// NewNonce returns a random one.
func NewNonce() (n Nonce) {
	rand.Read(n[:])
	return n
}

// Hash is how the nonce appears in a store.
func (n Nonce) Hash() []byte {
	sum := n.sum()
	return sum[:]
}

// Is reports, in constant time, whether a hash in a store is that of the nonce.
func (n Nonce) Is(hash []byte) bool {
	sum := n.sum()
	return subtle.ConstantTimeCompare(sum[:], hash) == 1
}

func (n Nonce) sum() [sha256.Size]byte {
	const label = "curfew 1 nonce "
	var b [len(label) + len(n)]byte
	copy(b[copy(b[:], label):], n[:])
	return sha256.Sum256(b[:])
}

// Next is the nonce of the token that is made from one with the nonce n. The salt is
// random. It is kept, so that the token leads to its successor; without the token it
// says nothing of that.
func (n Nonce) Next(salt [16]byte) Nonce {
	const label = "curfew 1 next "
	var b [len(label) + len(n) + len(salt)]byte
	copy(b[copy(b[:], label):], n[:])
	copy(b[len(label)+len(n):], salt[:])
	sum := sha256.Sum256(b[:])
	return Nonce(sum[:16])
}
