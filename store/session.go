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
// sealed. Stores keep its JSON form; members that this version does not know are kept when the
// session is written back.
type Session struct {
	// Format is the version of the document's format; see the constant. It is set in a session that
	// was read; zero means the current format.
	Format int `json:"v"`

	// ID is the "sid" of OpenID Connect Back-Channel Logout 1.0 section 2.1.
	// It is published to applications, so holding it proves nothing. It begins
	// with the [Bucket] of the subject.
	ID string `json:"sid"`

	Subject Subject `json:"subject"`

	// Accounts are the subject's accounts when Due was last set, or its last accounts if it has
	// left them all. Lists select sessions by them. The limits that apply are looked up anew at
	// each use.
	Accounts []string `json:"accounts,omitempty"`

	// Who is a fingerprint of the accounts and groups whose limits applied when the session was
	// admitted, or was last checked together with the subject's other sessions.
	Who string `json:"who,omitempty"`

	// Gone is when the subject was first found to be in no account any more. Zero: it is in an
	// account, or never was.
	Gone time.Time `json:"gone,omitzero"`

	Kind   policy.Kind `json:"kind,omitempty"`
	Client string      `json:"client,omitempty"` // the client that began it

	// Started is the auth_time of the first login, or the time of its admission if the provider
	// gives no auth_time. Authenticated is the auth_time of the latest login: Active is counted
	// from it.
	Started       time.Time `json:"started,omitzero"`
	Authenticated time.Time `json:"authenticated,omitzero"`

	// LastActivity is the latest activity of a class that counts, ActivityClass
	// the class: Inactivity is counted from it.
	LastActivity  time.Time    `json:"last_activity,omitzero"`
	ActivityClass policy.Class `json:"activity_class,omitempty"`

	// AMR and ACR are how the user authenticated, as the provider says (OpenID Connect Core 1.0
	// section 2). Empty: the provider does not say.
	AMR []string `json:"amr,omitempty"`
	ACR string   `json:"acr,omitempty"`

	// Details by which the user would recognise the session. Address is coarse: never a full IP
	// address.
	ClientNames []string `json:"client_names,omitempty"`
	UserAgent   string   `json:"user_agent,omitempty"`
	Address     string   `json:"address,omitempty"`

	// BrowserHash is the SHA-256 of the secret in the browser's session cookie. If logins of
	// several tabs ran at once and each got a secret, it is the hashes of all these secrets,
	// concatenated. Empty: the session is bound to no browser.
	BrowserHash []byte `json:"browser_hash,omitempty"`

	// Place is a hash of the name of the one place into which several logins come: the
	// provider's own session, a service that vouches for the subject, or an exchange of
	// tokens. Empty: the session has none.
	Place []byte `json:"place,omitempty"`

	// ReservedUntil is set while the login's authorization code is not redeemed: until that time
	// the session holds its slot, and it has no token yet.
	ReservedUntil time.Time `json:"reserved_until,omitzero"`

	// Codes are the authorization codes of the latest logins that began or joined this session,
	// each with its expiry, and the device codes that were exchanged for tokens in it.
	Codes []Code `json:"codes,omitempty"`

	// Adopted says that the session was made from a refresh token from before the installation.
	Adopted bool `json:"adopted,omitempty"`

	// Joined is set if this record is not a session: earlier versions kept one for each login
	// that joined another session, whose ID this is. Such a record counts for nothing, and is
	// forgotten after a day.
	Joined string `json:"joined,omitempty"`

	// Parent is the ID of the session that this one was made from by token exchange. The parent is
	// of another subject of the same issuer: Actor, who acts in this session. This session ends
	// with its parent. Empty: the session has no parent.
	Parent string `json:"parent,omitempty"`
	Actor  string `json:"actor,omitempty"`

	// Children are the IDs of the sessions that were made from this one, and end with it. An ID is
	// entered before its session begins, so some may have ended, or may never have begun.
	Children []string `json:"children,omitempty"`

	Grants []Grant `json:"grants,omitempty"`

	// End is set when the session ended, once.
	End *End `json:"end,omitempty"`

	// Deliveries are the logout notifications that are owed, or were given
	// up. They are written with the end.
	Deliveries []Delivery `json:"deliveries,omitempty"`

	// Due is when a sweeper must process the session next: at its deadline, for a delivery, or to
	// delete it. Zero: never.
	Due time.Time `json:"due,omitzero"`

	// Unknown are the members of the document that this version does not know. They are written
	// back unchanged.
	Unknown map[string]json.RawMessage `json:"-"`

	// Revision is the store's compare-and-swap token: 1 when the session was
	// added, one more with each write. It is not part of the document.
	Revision int64 `json:"-"`

	// Fence is the subject's fence when the session was read: see [Session.Fenced]. It is not part
	// of the document, and is not written with it.
	Fence Fence `json:"-"`
}

// A Grant is one client's refresh-token family inside a session.
type Grant struct {
	ID     string `json:"id"`
	Client string `json:"client,omitempty"`

	// Authenticated is the time of the authentication that the grant rests on; the grant's absolute
	// end is counted from it.
	Authenticated time.Time `json:"authenticated,omitzero"`

	// ACR is how the user signed in for it ("acr", OpenID Connect Core 1.0
	// section 2). Empty: unknown, or the same as the session's.
	ACR string `json:"acr,omitempty"`

	// Generation counts rotations. NonceHash is the SHA-256 of the current token's nonce, FromHash
	// that of the nonce of the token that it was made from.
	Generation uint64    `json:"generation,omitempty"`
	NonceHash  []byte    `json:"nonce_hash,omitempty"`
	FromHash   []byte    `json:"from_hash,omitempty"`
	Rotated    time.Time `json:"rotated,omitzero"` // when the current token was made from it

	// Used is whether the current token, or the access token issued with
	// it, was seen.
	Used bool `json:"used,omitempty"`

	// Repeat is the answer with the current token, sealed under a key derived from the token that
	// it was made from.
	Repeat []byte `json:"repeat,omitempty"`

	// Chain has one record for each of the latest rotations that followed each other closely, the
	// latest last: its time, and the input that the nonce of the new token was derived with. Only
	// the nonce of a token of the chain leads to the nonces of later ones.
	Chain []byte `json:"chain,omitempty"`

	// Address is the hash of the address that rotated last, to detect a repeat from another
	// address.
	Address []byte `json:"address,omitempty"`

	// Revoked is when the grant was revoked (RFC 7009). Zero: it was not.
	Revoked time.Time `json:"revoked,omitzero"`

	Unknown map[string]json.RawMessage `json:"-"`
}

// A Code is the authorization code of one login (RFC 6749 section 4.1.2), or a
// device code that has brought its tokens (RFC 8628 section 3.4).
type Code struct {
	Hash  []byte    `json:"hash,omitempty"` // the hash of the name of the login
	Until time.Time `json:"until,omitzero"` // the code is refused from then on

	// Used is when it was exchanged for tokens; zero: not yet. Repeat is the answer with these
	// tokens, sealed under a key derived from the code, and Address the hash of the address that
	// got it. Repeat and Address are kept only briefly.
	Used    time.Time `json:"used,omitzero"`
	Repeat  []byte    `json:"repeat,omitempty"`
	Address []byte    `json:"address,omitempty"`

	// Again is set when another request has got the same answer: the first request may then no
	// longer take back what it began.
	Again bool `json:"again,omitempty"`

	Unknown map[string]json.RawMessage `json:"-"`
}

// An End is how a session ended.
type End struct {
	At     time.Time     `json:"at,omitzero"` // for a limit: when it was reached, not when it was noticed
	Reason policy.Reason `json:"reason,omitempty"`
	By     string        `json:"by,omitempty"` // who ended it: a user or administrator; empty: the policy

	// Owed is set until the end was announced to everything that must act on it. It is written with
	// the end, so that a crash in between loses no announcement.
	Owed bool `json:"owed,omitempty"`

	// Reported is set when the end was reported as an event but is still owed: another receiver
	// could not act on it yet.
	Reported bool `json:"reported,omitempty"`

	// Earlier versions gave a place several sessions by one name, one after the other, and noted
	// on the first of them the ID of the newest, and how many came after the first.
	Latest   string `json:"latest,omitempty"`
	Renewals uint64 `json:"renewals,omitempty"`

	// WithParent is set if the session ended because Session.Parent did: At, Reason and By are
	// those of the parent's end.
	WithParent bool `json:"with_parent,omitempty"`

	Unknown map[string]json.RawMessage `json:"-"`
}

// A Delivery is a logout notification that was not yet sent to a client, or that the client has not
// yet accepted.
type Delivery struct {
	Client string `json:"client,omitempty"`

	// URI is the address of the last try, without its query, and Error the result. They are for
	// people: each try asks for the address anew.
	URI   string `json:"uri,omitempty"`
	Error string `json:"error,omitempty"`

	Attempts int       `json:"attempts,omitempty"`
	Refused  int       `json:"refused,omitempty"` // of these, the tries that the client refused
	Next     time.Time `json:"next,omitzero"`     // the time of the next try
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

	n := len(s.BrowserHash) + len(s.Place)
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
	s.Place, bytes = carve(bytes, s.Place)
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
// A text that is not valid UTF-8 could not be distinguished from another one once it was written.
// An empty ID could not be listed. An ID that does not begin with the [Bucket] of its subject could
// not be found.
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

// Policy returns s as the policy sees it.
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
