package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/policy"
)

// Format is the version of the session document that this code writes.
const Format = 1

// A Subject is one user of one issuer ("iss" and "sub", OpenID Connect Core 1.0
// section 2).
type Subject struct {
	Issuer string `json:"iss"`
	ID     string `json:"sub"`
}

// A Session is one login of one subject in one browser, command line or device.
//
// It holds no secret in the clear: tokens, codes and cookies appear as hashes or
// sealed. Its JSON form is what stores keep; members that this version does not
// know are kept when it is written back.
type Session struct {
	// Format is the version of the document's format; see the constant. A
	// session that was read has it; zero means the current one.
	Format int `json:"v"`

	// ID is the "sid" of OpenID Connect Back-Channel Logout 1.0 section 2.1.
	// It is published to applications, so holding it proves nothing. It begins
	// with the [Bucket] of the subject.
	ID string `json:"sid"`

	Subject Subject `json:"subject"`

	// Accounts are those that the subject belonged to when Due was last set, or to
	// which it belonged last if it is in none any more. They are what it is listed
	// by; which limits apply is asked anew at each use.
	Accounts []string `json:"accounts,omitempty"`

	// Who is a fingerprint of the accounts and groups by whose limits the session
	// was admitted, or was looked at together with the subject's others.
	Who string `json:"who,omitempty"`

	// Gone is since when the subject is known to be in no account any more. Zero:
	// it is in one, or never was.
	Gone time.Time `json:"gone,omitzero"`

	Kind   policy.Kind `json:"kind,omitempty"`
	Client string      `json:"client,omitempty"` // the client that it began with

	// Started is the auth_time of the login that it began with, or when that was
	// admitted if the provider gives none. Authenticated is the auth_time of the
	// latest one in it: Active is counted from it.
	Started       time.Time `json:"started,omitzero"`
	Authenticated time.Time `json:"authenticated,omitzero"`

	// LastActivity is the latest activity of a class that counts, ActivityClass
	// the class: Inactivity is counted from it. The document has its name, as "activity",
	// and for programs of before its number, as "activity_class".
	LastActivity  time.Time    `json:"last_activity,omitzero"`
	ActivityClass policy.Class `json:"activity_class,omitempty"`

	// AMR and ACR are how the user authenticated, as the provider says (OpenID
	// Connect Core 1.0 section 2). Empty: it does not.
	AMR []string `json:"amr,omitempty"`
	ACR string   `json:"acr,omitempty"`

	// What the user would recognise the session by. Address is coarse: never
	// a full IP address.
	ClientNames []string `json:"client_names,omitempty"`
	UserAgent   string   `json:"user_agent,omitempty"`
	Address     string   `json:"address,omitempty"`

	// BrowserHash is the SHA-256 of the secret in the browser's session
	// cookie. Where logins of several tabs ran at once and each was given a
	// secret, it is the hashes of them all, one after the other. Empty: the
	// session is bound to no browser.
	BrowserHash []byte `json:"browser_hash,omitempty"`

	// ReservedUntil is set while the login's authorization code was not
	// redeemed: the session holds its slot until then and has no token yet.
	ReservedUntil time.Time `json:"reserved_until,omitzero"`

	// Codes are the latest logins by authorization code that this session was
	// made for or joined by, and how long the code of each is good; and the
	// device codes that brought tokens in it.
	Codes []Code `json:"codes,omitempty"`

	// Adopted is whether it was made from a refresh token from before the
	// installation.
	Adopted bool `json:"adopted,omitempty"`

	// Joined is set if this is no session of its own but the name of a login
	// that joined another one: the ID of that. ReservedUntil is then when it
	// was made, so that it was over from the beginning.
	Joined string `json:"joined,omitempty"`

	// Parent is the session that this one was made from by token exchange, of
	// another subject of the same issuer: the ID of that, and Actor the subject,
	// who acts in this one. It ends with that one. Empty: it was made from none.
	Parent string `json:"parent,omitempty"`
	Actor  string `json:"actor,omitempty"`

	// Children are the sessions that were made from this one, and end with it:
	// their IDs, entered before they begin. One that has ended, or never began,
	// may be among them.
	Children []string `json:"children,omitempty"`

	Grants []Grant `json:"grants,omitempty"`

	// End is set when the session ended, once.
	End *End `json:"end,omitempty"`

	// Deliveries are the logout notifications that are owed, or were given
	// up. They are written with the end.
	Deliveries []Delivery `json:"deliveries,omitempty"`

	// Due is when a sweeper has to look at the session next: at its deadline,
	// for a delivery, or to forget it. Zero: never.
	Due time.Time `json:"due,omitzero"`

	// Unknown are the members of the document that this version does not
	// know. They are written back as they are.
	Unknown map[string]json.RawMessage `json:"-"`

	// Revision is the store's compare-and-swap token: 1 when the session was
	// added, one more with each write. It is not part of the document.
	Revision int64 `json:"-"`

	// Fence is that of the subject, as it was when the session was read: see
	// [Session.Fenced]. It is no part of the document, and not written with it.
	Fence Fence `json:"-"`
}

// A Grant is one client's refresh-token family inside a session.
type Grant struct {
	ID     string `json:"id"`
	Client string `json:"client,omitempty"`

	// Authenticated is the authentication that the grant rests on; its end
	// is counted from it.
	Authenticated time.Time `json:"authenticated,omitzero"`

	// ACR is how the user signed in for it ("acr", OpenID Connect Core 1.0
	// section 2). Empty: it is not known, or the session's own is meant.
	ACR string `json:"acr,omitempty"`

	// Generation counts rotations. NonceHash is the SHA-256 of the current
	// token's nonce, FromHash that of the token it was made from.
	Generation uint64    `json:"generation,omitempty"`
	NonceHash  []byte    `json:"nonce_hash,omitempty"`
	FromHash   []byte    `json:"from_hash,omitempty"`
	Rotated    time.Time `json:"rotated,omitzero"` // when it was made from it

	// Used is whether the current token, or the access token issued with
	// it, was seen.
	Used bool `json:"used,omitempty"`

	// Repeat is the answer that carried the current token, sealed under a key
	// derived from the token it was made from.
	Repeat []byte `json:"repeat,omitempty"`

	// Chain is one record for each of the latest rotations that followed each
	// other closely, the latest last: when it was, and what the nonce of the new
	// token was made with. Only the nonce of a token of the chain leads to
	// those of the later ones.
	Chain []byte `json:"chain,omitempty"`

	// Address is the hash of the address that rotated last, to notice a
	// repeat from another one.
	Address []byte `json:"address,omitempty"`

	// Revoked is when it was revoked (RFC 7009). Zero: it was not.
	Revoked time.Time `json:"revoked,omitzero"`

	Unknown map[string]json.RawMessage `json:"-"`
}

// A Code is the authorization code of one login (RFC 6749 section 4.1.2), or a
// device code that has brought its tokens (RFC 8628 section 3.4).
type Code struct {
	Hash  []byte    `json:"hash,omitempty"` // of what names the login
	Until time.Time `json:"until,omitzero"` // it is late from then on

	// Used is when it brought its tokens; zero: it has not yet. Repeat is the
	// answer that carried them, sealed under a key derived from the code, and
	// Address the hash of the address that got it. These two are kept for a
	// moment only.
	Used    time.Time `json:"used,omitzero"`
	Repeat  []byte    `json:"repeat,omitempty"`
	Address []byte    `json:"address,omitempty"`

	// Again is set when another request has got the same answer: what the first one
	// began is not its own to take back any more.
	Again bool `json:"again,omitempty"`

	Unknown map[string]json.RawMessage `json:"-"`
}

// An End is how a session ended.
type End struct {
	At     time.Time     `json:"at,omitzero"` // of a limit: when it was reached, not when it was noticed
	Reason policy.Reason `json:"reason,omitempty"`
	By     string        `json:"by,omitempty"` // who ended it: a user or administrator; empty: the policy

	// Owed is set until the end was announced to all that must act on it: it is
	// written with the end, so that a crash in between loses no announcement.
	Owed bool `json:"owed,omitempty"`

	// Reported is set when the end was reported as an event and is owed all
	// the same: somebody else could not act on it yet.
	Reported bool `json:"reported,omitempty"`

	// Latest is the ID of the newest of the sessions that began under the
	// same name since, and Renewals how many did: a name has its sessions one
	// after the other. They are kept on the first session of a name only.
	Latest   string `json:"latest,omitempty"`
	Renewals uint64 `json:"renewals,omitempty"`

	// WithParent is set if the session ended because Session.Parent did: At,
	// Reason and By are those of that end.
	WithParent bool `json:"with_parent,omitempty"`

	Unknown map[string]json.RawMessage `json:"-"`
}

// A Delivery is a logout notification that one client was not sent, or did not
// take, yet.
type Delivery struct {
	Client string `json:"client,omitempty"`

	// URI is where it was tried last, without its query, and Error what came
	// of it. They are for people: where it goes is asked anew each time.
	URI   string `json:"uri,omitempty"`
	Error string `json:"error,omitempty"`

	Attempts int       `json:"attempts,omitempty"`
	Refused  int       `json:"refused,omitempty"` // of them: the client answered that it will not
	Next     time.Time `json:"next,omitzero"`     // when it is tried again
	GivenUp  time.Time `json:"given_up,omitzero"` // zero: it is owed

	Unknown map[string]json.RawMessage `json:"-"`
}

// Clone returns a deep copy of s. The copy's slices share two arrays, each with
// no room to grow, so appending to one never touches another.
func (s Session) Clone() Session {
	texts := make([]string, 0, len(s.Accounts)+len(s.AMR)+len(s.ClientNames)+len(s.Children))
	s.Accounts, texts = carve(texts, s.Accounts)
	s.AMR, texts = carve(texts, s.AMR)
	s.Children, texts = carve(texts, s.Children)
	s.ClientNames, _ = carve(texts, s.ClientNames)

	n := len(s.BrowserHash)
	for i := range s.Codes {
		x := &s.Codes[i]
		n += len(x.Hash) + len(x.Repeat) + len(x.Address)
	}
	for i := range s.Grants {
		g := &s.Grants[i]
		n += len(g.NonceHash) + len(g.FromHash) + len(g.Repeat) + len(g.Chain) + len(g.Address)
	}
	bytes := make([]byte, 0, n)
	s.BrowserHash, bytes = carve(bytes, s.BrowserHash)
	s.Codes = slices.Clone(s.Codes)
	for i := range s.Codes {
		x := &s.Codes[i]
		x.Hash, bytes = carve(bytes, x.Hash)
		x.Repeat, bytes = carve(bytes, x.Repeat)
		x.Address, bytes = carve(bytes, x.Address)
		x.Unknown = cloneUnknown(x.Unknown)
	}
	s.Grants = slices.Clone(s.Grants)
	for i := range s.Grants {
		g := &s.Grants[i]
		g.NonceHash, bytes = carve(bytes, g.NonceHash)
		g.FromHash, bytes = carve(bytes, g.FromHash)
		g.Repeat, bytes = carve(bytes, g.Repeat)
		g.Chain, bytes = carve(bytes, g.Chain)
		g.Address, bytes = carve(bytes, g.Address)
		g.Unknown = cloneUnknown(g.Unknown)
	}
	if s.End != nil {
		end := *s.End
		end.Unknown = cloneUnknown(end.Unknown)
		s.End = &end
	}
	s.Deliveries = slices.Clone(s.Deliveries)
	for i := range s.Deliveries {
		s.Deliveries[i].Unknown = cloneUnknown(s.Deliveries[i].Unknown)
	}
	s.Unknown = cloneUnknown(s.Unknown)
	s.Fence.Spared = slices.Clone(s.Fence.Spared)
	return s
}

// carve appends v to block, whose room was counted before, and returns the copy
// and the block.
func carve[T any](block, v []T) (copied, rest []T) {
	if v == nil {
		return nil, block
	}
	n := len(block)
	block = append(block, v...)
	return block[n:len(block):len(block)], block
}

func cloneUnknown(m map[string]json.RawMessage) map[string]json.RawMessage {
	m = maps.Clone(m)
	for name, raw := range m {
		m[name] = slices.Clone(raw)
	}
	return m
}

// Validate returns why a store must refuse to write s, and nil if it need not.
// A text that is not valid UTF-8 could not be told from another one once it was
// written, an empty ID could not be listed, and one that does not begin with the
// [Bucket] of its subject could not be found.
func (s *Session) Validate() error {
	if err := s.validateID(); err != nil {
		return err
	}
	buffer := validated.Get().(*[]byte)
	defer validated.Put(buffer)
	e := encoder{b: (*buffer)[:0], checking: true}
	e.session(s)
	*buffer = e.b
	_, err := e.bytes()
	return err
}

func (s *Session) validateID() error {
	if s.ID == "" {
		return errors.New("the session has no ID")
	}
	if bucket := Bucket(s.Subject); !strings.HasPrefix(s.ID, bucket) {
		return fmt.Errorf("the ID of the session is %q and does not begin with %q, the bucket of its subject", s.ID, bucket)
	}
	return nil
}

// validated holds buffers for documents that are only checked and thrown away.
var validated = sync.Pool{New: func() any { return new([]byte) }}

// Policy returns what the policy needs to know of s.
func (s *Session) Policy() policy.Session {
	return policy.Session{
		ID: s.ID, Kind: s.Kind, Client: s.Client,
		Started: s.Started, Authenticated: s.Authenticated, LastActivity: s.LastActivity,
		ReservedUntil: s.ReservedUntil,
	}
}

// Grant returns the grant with the given ID, or nil.
func (s *Session) Grant(id string) *Grant {
	for i := range s.Grants {
		if s.Grants[i].ID == id {
			return &s.Grants[i]
		}
	}
	return nil
}
