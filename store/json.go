package store

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/curfew-oidc/curfew/policy"
)

// The session document is read and written by hand, for two reasons. Members
// that this version does not know must come back out, on every level, which
// encoding/json can only do by reading everything twice. And admission at a cap
// of 100 reads 100 documents inside one serializable step.
//
// FuzzSessionJSON holds it against encoding/json.

// ErrFormat is wrapped by the error of reading a session document that a newer version of this
// package wrote, in a format that this version does not understand.
var ErrFormat = errors.New("unknown format of the session document")

// MarshalJSON returns the session document, without the revision. Times are in
// UTC, to the nanosecond; members that are zero are omitted. It is an error if a text is not valid
// UTF-8, if a time is outside the years 0 to 9999, or if the field Format is set and is not the
// constant.
func (s Session) MarshalJSON() ([]byte, error) { return s.appendJSON(nil) }

// AppendDocument appends the session document, as MarshalJSON returns it, to b. It may change b
// beyond its length. It also returns the errors of Validate: a store that writes the document need
// not call both.
func (s *Session) AppendDocument(b []byte) ([]byte, error) {
	if err := s.validateID(); err != nil {
		return nil, err
	}
	return s.appendJSON(b)
}

func (s *Session) appendJSON(b []byte) ([]byte, error) {
	e := encoder{b: slices.Grow(b, s.sizeHint())}
	e.session(s)
	return e.bytes()
}

// sizeHint returns about how long the document of s is: mostly a little more.
func (s *Session) sizeHint() int {
	n := 512 + len(s.ID) + len(s.Subject.Issuer) + len(s.Subject.ID) + len(s.UserAgent)
	for i := range s.Grants {
		g := &s.Grants[i]
		n += 320 + len(g.Client) + len(g.ACR) + (len(g.NonceHash)+len(g.FromHash)+len(g.Repeat)+len(g.Address))/3*4
	}
	return n
}

// UnmarshalJSON replaces s by the session of the document. Its Revision is then
// zero. Its errors wrap [ErrUnreadable]. If the document's format is newer than Format the error
// wraps ErrFormat too. Added members alone do not make a new format.
func (s *Session) UnmarshalJSON(data []byte) error { return unmarshal(data, s, (*decoder).session) }

// ParseDocument returns the session of a document, as UnmarshalJSON reads it. The
// session's texts are parts of the document, not copies.
func ParseDocument(document string) (Session, error) { return parse(document, (*decoder).session) }

// MarshalJSON works as that of [Session].
func (g Grant) MarshalJSON() ([]byte, error) {
	var e encoder
	e.grant(&g)
	return e.bytes()
}

// UnmarshalJSON works as that of [Session].
func (g *Grant) UnmarshalJSON(data []byte) error { return unmarshal(data, g, (*decoder).grant) }

// MarshalJSON works as that of [Session].
func (x End) MarshalJSON() ([]byte, error) {
	var e encoder
	e.end(&x)
	return e.bytes()
}

// UnmarshalJSON works as that of [Session].
func (x *End) UnmarshalJSON(data []byte) error { return unmarshal(data, x, (*decoder).end) }

// MarshalJSON works as that of [Session].
func (x Code) MarshalJSON() ([]byte, error) {
	var e encoder
	e.code(&x)
	return e.bytes()
}

// UnmarshalJSON works as that of [Session].
func (x *Code) UnmarshalJSON(data []byte) error { return unmarshal(data, x, (*decoder).code) }

// MarshalJSON works as that of [Session].
func (x Delivery) MarshalJSON() ([]byte, error) {
	var e encoder
	e.delivery(&x)
	return e.bytes()
}

// UnmarshalJSON works as that of [Session].
func (x *Delivery) UnmarshalJSON(data []byte) error { return unmarshal(data, x, (*decoder).delivery) }

// The names of the members, to tell the unknown ones.
var (
	sessionNames = []string{"v", "sid", "subject", "accounts", "who", "gone", "kind", "client",
		"started", "authenticated", "last_activity", "activity_class", "amr", "acr",
		"client_names", "user_agent", "address", "browser_hash", "place", "reserved_until", "codes",
		"adopted", "joined", "parent", "actor", "children", "grants", "end", "deliveries", "due"}
	grantNames = []string{"id", "client", "authenticated", "acr", "generation", "nonce_hash",
		"from_hash", "rotated", "used", "repeat", "chain", "address", "revoked"}
	codeNames     = []string{"hash", "until", "used", "repeat", "address", "again"}
	endNames      = []string{"at", "reason", "by", "owed", "reported", "latest", "renewals", "with_parent"}
	deliveryNames = []string{"client", "uri", "error", "attempts", "refused", "next", "given_up"}
)

// An encoder appends members to b. The first error stays. One that is checking
// looks for errors alone: what it appends is no document.
type encoder struct {
	b        []byte
	err      error
	checking bool
}

func (e *encoder) bytes() ([]byte, error) {
	if e.err != nil {
		return nil, fmt.Errorf("write session document: %w", e.err)
	}
	return e.b, nil
}

func (e *encoder) fail(name, problem string) {
	if e.err == nil {
		e.err = fmt.Errorf("%s: %s", name, problem)
	}
}

func (e *encoder) session(s *Session) {
	if s.Format != 0 && s.Format != Format {
		e.fail("v", fmt.Sprintf("cannot write format %d, only %d", s.Format, Format))
	}
	e.b = append(e.b, '{')
	e.uint("v", Format)
	e.name("sid")
	e.quote("sid", s.ID)
	e.name("subject")
	e.b = append(e.b, `{"iss":`...)
	e.quote("iss", s.Subject.Issuer)
	e.b = append(e.b, `,"sub":`...)
	e.quote("sub", s.Subject.ID)
	e.b = append(e.b, '}')
	e.texts("accounts", s.Accounts)
	e.text("who", s.Who)
	e.time("gone", s.Gone)
	e.text("kind", string(s.Kind))
	e.text("client", s.Client)
	e.time("started", s.Started)
	e.time("authenticated", s.Authenticated)
	e.time("last_activity", s.LastActivity)
	e.uint("activity_class", uint64(s.ActivityClass))
	e.texts("amr", s.AMR)
	e.text("acr", s.ACR)
	e.texts("client_names", s.ClientNames)
	e.text("user_agent", s.UserAgent)
	e.text("address", s.Address)
	e.base64("browser_hash", s.BrowserHash)
	e.base64("place", s.Place)
	e.time("reserved_until", s.ReservedUntil)
	if len(s.Codes) > 0 {
		e.name("codes")
		e.b = append(e.b, '[')
		for i := range s.Codes {
			e.comma('[')
			e.code(&s.Codes[i])
		}
		e.b = append(e.b, ']')
	}
	e.bool("adopted", s.Adopted)
	e.text("joined", s.Joined)
	e.text("parent", s.Parent)
	e.text("actor", s.Actor)
	e.texts("children", s.Children)
	if len(s.Grants) > 0 {
		e.name("grants")
		e.b = append(e.b, '[')
		for i := range s.Grants {
			e.comma('[')
			e.grant(&s.Grants[i])
		}
		e.b = append(e.b, ']')
	}
	if s.End != nil {
		e.name("end")
		e.end(s.End)
	}
	if len(s.Deliveries) > 0 {
		e.name("deliveries")
		e.b = append(e.b, '[')
		for i := range s.Deliveries {
			e.comma('[')
			e.delivery(&s.Deliveries[i])
		}
		e.b = append(e.b, ']')
	}
	e.time("due", s.Due)
	e.unknown(s.Unknown, sessionNames)
	e.b = append(e.b, '}')
}

func (e *encoder) grant(g *Grant) {
	e.b = append(e.b, '{')
	e.name("id")
	e.quote("id", g.ID)
	e.text("client", g.Client)
	e.time("authenticated", g.Authenticated)
	e.text("acr", g.ACR)
	e.uint("generation", g.Generation)
	e.base64("nonce_hash", g.NonceHash)
	e.base64("from_hash", g.FromHash)
	e.time("rotated", g.Rotated)
	e.bool("used", g.Used)
	e.base64("repeat", g.Repeat)
	e.base64("chain", g.Chain)
	e.base64("address", g.Address)
	e.time("revoked", g.Revoked)
	e.unknown(g.Unknown, grantNames)
	e.b = append(e.b, '}')
}

func (e *encoder) code(x *Code) {
	e.b = append(e.b, '{')
	e.base64("hash", x.Hash)
	e.time("until", x.Until)
	e.time("used", x.Used)
	e.base64("repeat", x.Repeat)
	e.base64("address", x.Address)
	e.bool("again", x.Again)
	e.unknown(x.Unknown, codeNames)
	e.b = append(e.b, '}')
}

func (e *encoder) end(x *End) {
	e.b = append(e.b, '{')
	e.time("at", x.At)
	e.text("reason", string(x.Reason))
	e.text("by", x.By)
	e.bool("owed", x.Owed)
	e.bool("reported", x.Reported)
	e.text("latest", x.Latest)
	e.uint("renewals", x.Renewals)
	e.bool("with_parent", x.WithParent)
	e.unknown(x.Unknown, endNames)
	e.b = append(e.b, '}')
}

func (e *encoder) delivery(x *Delivery) {
	e.b = append(e.b, '{')
	e.text("client", x.Client)
	e.text("uri", x.URI)
	e.text("error", x.Error)
	e.int("attempts", x.Attempts)
	e.int("refused", x.Refused)
	e.time("next", x.Next)
	e.time("given_up", x.GivenUp)
	e.unknown(x.Unknown, deliveryNames)
	e.b = append(e.b, '}')
}

func (e *encoder) int(name string, v int) {
	if v != 0 {
		e.name(name)
		e.b = strconv.AppendInt(e.b, int64(v), 10)
	}
}

// unknown appends the members that this version does not know, in the order of
// their names.
func (e *encoder) unknown(members map[string]json.RawMessage, known []string) {
	if len(members) == 0 {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		switch {
		case slices.Contains(known, name):
			e.fail(name, "is not an unknown member")
		case !json.Valid(members[name]) || !utf8.Valid(members[name]):
			e.fail(name, "is not valid JSON")
		}
		e.comma('{')
		e.quote("name of an unknown member", name)
		e.b = append(e.b, ':')
		e.b = append(e.b, members[name]...)
	}
}

// comma appends one unless the object or array was just opened.
func (e *encoder) comma(open byte) {
	if e.b[len(e.b)-1] != open {
		e.b = append(e.b, ',')
	}
}

func (e *encoder) name(name string) {
	e.comma('{')
	e.b = append(e.b, '"')
	e.b = append(e.b, name...)
	e.b = append(e.b, `":`...)
}

func (e *encoder) text(name, v string) {
	if v != "" {
		e.name(name)
		e.quote(name, v)
	}
}

func (e *encoder) texts(name string, list []string) {
	if len(list) == 0 {
		return
	}
	e.name(name)
	e.b = append(e.b, '[')
	for _, v := range list {
		e.comma('[')
		e.quote(name, v)
	}
	e.b = append(e.b, ']')
}

// quote appends a JSON string. It never changes a text: what JSON cannot hold
// is an error, or two IDs could become one.
func (e *encoder) quote(name, v string) {
	if !utf8.ValidString(v) {
		e.fail(name, "is not valid UTF-8")
		return
	}
	if e.checking {
		return
	}
	e.b = append(e.b, '"')
	from := 0
	for i := range len(v) {
		c := v[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		e.b = append(e.b, v[from:i]...)
		from = i + 1
		if c < ' ' {
			e.b = append(e.b, `\u00`...)
			e.b = append(e.b, "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
			continue
		}
		e.b = append(e.b, '\\', c)
	}
	e.b = append(e.b, v[from:]...)
	e.b = append(e.b, '"')
}

// The first and the last second that RFC 3339 can tell, since 1970.
const firstSecond, lastSecond = -62_167_219_200, 253_402_300_799

func (e *encoder) time(name string, t time.Time) {
	if t.IsZero() {
		return
	}
	if at := t.Unix(); at < firstSecond || at > lastSecond {
		e.fail(name, "is outside of the years 0 to 9999")
		return
	}
	if e.checking {
		return
	}
	e.name(name)
	e.b = append(e.b, '"')
	e.b = t.UTC().AppendFormat(e.b, time.RFC3339Nano)
	e.b = append(e.b, '"')
}

func (e *encoder) uint(name string, v uint64) {
	if v != 0 {
		e.name(name)
		e.b = strconv.AppendUint(e.b, v, 10)
	}
}

func (e *encoder) bool(name string, v bool) {
	if v {
		e.name(name)
		e.b = append(e.b, "true"...)
	}
}

func (e *encoder) base64(name string, v []byte) {
	if len(v) > 0 && !e.checking {
		e.name(name)
		e.b = append(e.b, '"')
		e.b = base64.StdEncoding.AppendEncode(e.b, v)
		e.b = append(e.b, '"')
	}
}

// A decoder reads a document from src. Texts are parts of src, not copies.
type decoder struct {
	src string
	pos int
}

var errSyntax = errors.New("not valid JSON")

func unmarshal[T any](data []byte, v *T, read func(*decoder, *T) error) error {
	out, err := parse(string(data), read)
	if err == nil {
		*v = out
	}
	return err
}

func parse[T any](document string, read func(*decoder, *T) error) (v T, err error) {
	if !utf8.ValidString(document) {
		return v, fmt.Errorf("read session document: %w: not valid UTF-8", ErrUnreadable)
	}
	d := decoder{src: document}
	err = read(&d, &v)
	if err == nil {
		if d.peek(); d.pos < len(document) {
			err = errSyntax
		}
	}
	if err != nil {
		var none T
		return none, fmt.Errorf("read session document: %w: at byte %d: %w", ErrUnreadable, d.pos, err)
	}
	return v, nil
}

func (d *decoder) session(s *Session) error {
	err := d.object(&s.Unknown, func(name string) (known bool, err error) {
		switch name {
		case "v":
			var v uint64
			if v, err = d.uint(63); err == nil && v > Format {
				return true, fmt.Errorf("%w: it is %d, this version reads up to %d", ErrFormat, v, Format)
			}
			s.Format = int(v)
		case "sid":
			s.ID, err = d.text()
		case "subject":
			err = d.subject(&s.Subject)
		case "accounts":
			s.Accounts, err = d.texts()
		case "who":
			s.Who, err = d.text()
		case "gone":
			s.Gone, err = d.time()
		case "kind":
			var v string
			v, err = d.text()
			s.Kind = policy.Kind(v)
		case "client":
			s.Client, err = d.text()
		case "started":
			s.Started, err = d.time()
		case "authenticated":
			s.Authenticated, err = d.time()
		case "last_activity":
			s.LastActivity, err = d.time()
		case "activity_class":
			var v uint64
			v, err = d.uint(8)
			s.ActivityClass = policy.Class(v)
		case "amr":
			s.AMR, err = d.texts()
		case "acr":
			s.ACR, err = d.text()
		case "client_names":
			s.ClientNames, err = d.texts()
		case "user_agent":
			s.UserAgent, err = d.text()
		case "address":
			s.Address, err = d.text()
		case "browser_hash":
			s.BrowserHash, err = d.base64()
		case "place":
			s.Place, err = d.base64()
		case "reserved_until":
			s.ReservedUntil, err = d.time()
		case "codes":
			s.Codes, err = array(d, (*decoder).code)
		case "adopted":
			s.Adopted, err = d.bool()
		case "joined":
			s.Joined, err = d.text()
		case "parent":
			s.Parent, err = d.text()
		case "actor":
			s.Actor, err = d.text()
		case "children":
			s.Children, err = d.texts()
		case "grants":
			s.Grants, err = array(d, (*decoder).grant)
		case "end":
			if d.null() {
				s.End = nil
				break
			}
			s.End = new(End)
			err = d.end(s.End)
		case "deliveries":
			s.Deliveries, err = array(d, (*decoder).delivery)
		case "due":
			s.Due, err = d.time()
		default:
			return false, nil
		}
		return true, err
	})
	if err == nil && s.Format == 0 {
		return fmt.Errorf(`%w: it has no member "v"`, ErrFormat)
	}
	return err
}

// subject reads a Subject, which is closed: it is compared, so a new member of
// it would be a new format.
func (d *decoder) subject(s *Subject) error {
	*s = Subject{}
	var unknown map[string]json.RawMessage
	err := d.object(&unknown, func(name string) (known bool, err error) {
		switch name {
		case "iss":
			s.Issuer, err = d.text()
		case "sub":
			s.ID, err = d.text()
		default:
			return false, nil
		}
		return true, err
	})
	if err == nil && len(unknown) > 0 {
		return fmt.Errorf("%w: unknown member of a subject", ErrFormat)
	}
	return err
}

func (d *decoder) grant(g *Grant) error {
	return d.object(&g.Unknown, func(name string) (known bool, err error) {
		switch name {
		case "id":
			g.ID, err = d.text()
		case "client":
			g.Client, err = d.text()
		case "authenticated":
			g.Authenticated, err = d.time()
		case "acr":
			g.ACR, err = d.text()
		case "generation":
			g.Generation, err = d.uint(64)
		case "nonce_hash":
			g.NonceHash, err = d.base64()
		case "from_hash":
			g.FromHash, err = d.base64()
		case "rotated":
			g.Rotated, err = d.time()
		case "used":
			g.Used, err = d.bool()
		case "repeat":
			g.Repeat, err = d.base64()
		case "chain":
			g.Chain, err = d.base64()
		case "address":
			g.Address, err = d.base64()
		case "revoked":
			g.Revoked, err = d.time()
		default:
			return false, nil
		}
		return true, err
	})
}

func (d *decoder) end(x *End) error {
	return d.object(&x.Unknown, func(name string) (known bool, err error) {
		switch name {
		case "at":
			x.At, err = d.time()
		case "reason":
			var v string
			v, err = d.text()
			x.Reason = policy.Reason(v)
		case "by":
			x.By, err = d.text()
		case "owed":
			x.Owed, err = d.bool()
		case "reported":
			x.Reported, err = d.bool()
		case "latest":
			x.Latest, err = d.text()
		case "renewals":
			x.Renewals, err = d.uint(63)
		case "with_parent":
			x.WithParent, err = d.bool()
		default:
			return false, nil
		}
		return true, err
	})
}

func (d *decoder) code(x *Code) error {
	return d.object(&x.Unknown, func(name string) (known bool, err error) {
		switch name {
		case "hash":
			x.Hash, err = d.base64()
		case "until":
			x.Until, err = d.time()
		case "used":
			x.Used, err = d.time()
		case "repeat":
			x.Repeat, err = d.base64()
		case "address":
			x.Address, err = d.base64()
		case "again":
			x.Again, err = d.bool()
		default:
			return false, nil
		}
		return true, err
	})
}

func (d *decoder) delivery(x *Delivery) error {
	return d.object(&x.Unknown, func(name string) (known bool, err error) {
		switch name {
		case "client":
			x.Client, err = d.text()
		case "uri":
			x.URI, err = d.text()
		case "error":
			x.Error, err = d.text()
		case "attempts":
			x.Attempts, err = d.int()
		case "refused":
			x.Refused, err = d.int()
		case "next":
			x.Next, err = d.time()
		case "given_up":
			x.GivenUp, err = d.time()
		default:
			return false, nil
		}
		return true, err
	})
}

func (d *decoder) int() (int, error) {
	v := d.number()
	if v == "" {
		return 0, errSyntax
	}
	return strconv.Atoi(v)
}

// peek returns the next byte that is not white space, 0 at the end.
func (d *decoder) peek() byte {
	for ; d.pos < len(d.src); d.pos++ {
		switch c := d.src[d.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// take passes the byte c, if it is next.
func (d *decoder) take(c byte) bool {
	if d.peek() != c {
		return false
	}
	d.pos++
	return true
}

func (d *decoder) literal(s string) bool {
	d.peek()
	if !strings.HasPrefix(d.src[d.pos:], s) {
		return false
	}
	d.pos += len(s)
	return true
}

// null passes a null. For every member it means the zero value.
func (d *decoder) null() bool { return d.peek() == 'n' && d.literal("null") }

// object calls member for each member of an object; what it does not know is
// kept. Of several members of one name the last one counts.
func (d *decoder) object(unknown *map[string]json.RawMessage, member func(name string) (known bool, err error)) error {
	if !d.take('{') {
		return errSyntax
	}
	if d.take('}') {
		return nil
	}
	for {
		if d.peek() != '"' {
			return errSyntax
		}
		name, err := d.text()
		if err != nil {
			return err
		}
		if !d.take(':') {
			return errSyntax
		}
		known, err := member(name)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if !known {
			raw, err := d.raw()
			if err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
			if *unknown == nil {
				*unknown = make(map[string]json.RawMessage)
			}
			(*unknown)[name] = raw
		}
		if d.take('}') {
			return nil
		}
		if !d.take(',') {
			return errSyntax
		}
	}
}

func array[T any](d *decoder, read func(*decoder, *T) error) ([]T, error) {
	if d.null() {
		return nil, nil
	}
	if !d.take('[') {
		return nil, errSyntax
	}
	if d.take(']') {
		return nil, nil
	}
	var list []T
	for {
		var v T
		list = append(list, v)
		if err := read(d, &list[len(list)-1]); err != nil {
			return nil, err
		}
		if d.take(']') {
			return list, nil
		}
		if !d.take(',') {
			return nil, errSyntax
		}
	}
}

func (d *decoder) texts() ([]string, error) {
	return array(d, func(d *decoder, s *string) (err error) {
		*s, err = d.text()
		return err
	})
}

// token passes a string and returns it with its quotes.
func (d *decoder) token() (token string, escaped bool, err error) {
	if !d.take('"') {
		return "", false, errSyntax
	}
	src := d.src[d.pos-1:]
	for i := 1; i < len(src); i++ {
		switch c := src[i]; {
		case c >= '#' && c != '\\':
			// Of nearly all bytes nothing else is asked.
		case c == '"':
			d.pos += i
			return src[:i+1], escaped, nil
		case c == '\\':
			escaped = true
			i++ // the next byte does not end the string
		case c < ' ':
			d.pos += i - 1
			return "", false, errSyntax
		}
	}
	d.pos = len(d.src)
	return "", false, errSyntax
}

func (d *decoder) text() (string, error) {
	if d.null() {
		return "", nil
	}
	token, escaped, err := d.token()
	if err != nil {
		return "", err
	}
	if !escaped {
		return token[1 : len(token)-1], nil
	}
	var s string
	if err := json.Unmarshal([]byte(token), &s); err != nil {
		return "", errSyntax
	}
	return s, nil
}

func (d *decoder) time() (time.Time, error) {
	text, err := d.text()
	if err != nil || text == "" {
		return time.Time{}, err
	}
	var t time.Time
	if err := t.UnmarshalText([]byte(text)); err != nil {
		return time.Time{}, errors.New("not a time of RFC 3339")
	}
	if at := t.Unix(); at < firstSecond || at > lastSecond { // after its offset was added
		return time.Time{}, errors.New("outside of the years 0 to 9999")
	}
	return t.UTC(), nil
}

// strictly decodes base64 so that no two texts are one value.
var strictly = base64.StdEncoding.Strict()

func (d *decoder) base64() ([]byte, error) {
	text, err := d.text()
	if err != nil || text == "" {
		return nil, err
	}
	b, err := strictly.DecodeString(text)
	if err != nil {
		return nil, errors.New("not base64")
	}
	return b, nil
}

func (d *decoder) bool() (bool, error) {
	switch {
	case d.null(), d.literal("false"):
		return false, nil
	case d.literal("true"):
		return true, nil
	}
	return false, errSyntax
}

func (d *decoder) uint(bits int) (uint64, error) {
	text := d.number()
	if text == "" {
		return 0, errSyntax
	}
	v, err := strconv.ParseUint(text, 10, bits)
	if err != nil {
		return 0, fmt.Errorf("not an integer from 0 to 2^%d-1", bits)
	}
	return v, nil
}

// number passes an integer or null and returns it, or nothing.
func (d *decoder) number() string {
	if d.null() {
		return "0"
	}
	d.peek()
	start := d.pos
	for d.pos < len(d.src) && (d.src[d.pos] == '-' || '0' <= d.src[d.pos] && d.src[d.pos] <= '9') {
		d.pos++
	}
	text := d.src[start:d.pos]
	if digits := strings.TrimPrefix(text, "-"); len(digits) > 1 && digits[0] == '0' {
		return "" // JSON has no leading zeros
	}
	return text
}

// raw passes any value and returns a copy of it.
func (d *decoder) raw() (json.RawMessage, error) {
	d.peek()
	start, depth := d.pos, 0
	for d.pos < len(d.src) {
		switch d.src[d.pos] {
		case '"':
			if _, _, err := d.token(); err != nil {
				return nil, err
			}
			continue
		case '{', '[':
			depth++
		case '}', ']', ',':
			if depth == 0 {
				return validRaw(d.src[start:d.pos])
			}
			if d.src[d.pos] != ',' {
				depth--
			}
		}
		d.pos++
	}
	return nil, errSyntax
}

func validRaw(s string) (json.RawMessage, error) {
	raw := json.RawMessage(strings.TrimRight(s, " \t\r\n"))
	if !json.Valid(raw) {
		return nil, errSyntax
	}
	return raw, nil
}
