package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxDocument is the size of the largest settings document that is read or
// written, in bytes: room for tens of thousands of users with settings of their
// own, and a bound on what one document can make us keep.
const MaxDocument = 4 << 20

// A FieldError is one thing that is wrong with settings.
type FieldError struct {
	// Path is the field, from the outside in, such as
	// "accounts.default.kinds.cli.inactivity". Empty: the document itself.
	Path string

	// Line is its line in the document, from 1. Zero: unknown.
	Line int

	// Reason says what is wrong, for the administrator.
	Reason string
}

// Error returns line, path and reason.
func (e *FieldError) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Reason)
	return b.String()
}

// FieldErrors are all errors in settings, in the order of the document or of their paths. As an
// error it is never empty.
type FieldErrors []*FieldError

// Error returns one line for each error.
func (e FieldErrors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the single errors.
func (e FieldErrors) Unwrap() []error {
	list := make([]error, len(e))
	for i, f := range e {
		list[i] = f
	}
	return list
}

// errOrNil keeps an empty list from becoming an error.
func (e FieldErrors) errOrNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// ParseSettings reads a settings document in JSON. It is strict: unknown and
// duplicate fields, durations without a unit, values of the wrong type, and data after the document
// are errors. Its errors are [FieldErrors]. [Settings.Validate] checks whether the values are
// allowed.
//
// The member "accounts" is required, so that a truncated file is not read as one without limits.
func ParseSettings(data []byte) (Settings, error) {
	var s Settings
	err := s.UnmarshalJSON(data)
	return s, err
}

// ParseAccount reads the settings of one account in JSON, as ParseSettings does.
func ParseAccount(data []byte) (Account, error) {
	var a Account
	err := a.UnmarshalJSON(data)
	return a, err
}

// UnmarshalJSON implements [json.Unmarshaler]; see [ParseSettings]. If there is
// an error, s does not change.
func (s *Settings) UnmarshalJSON(data []byte) error {
	var read Settings
	err := decode(data, func(d *decoder, n node) { d.settings(n, &read) })
	if err == nil {
		*s = read
	}
	return err
}

// UnmarshalJSON implements [json.Unmarshaler]; see [ParseAccount]. If there is
// an error, a does not change.
func (a *Account) UnmarshalJSON(data []byte) error {
	var read Account
	err := decode(data, func(d *decoder, n node) { d.account("", n, &read) })
	if err == nil {
		*a = read
	}
	return err
}

// MarshalJSON encodes s so that [ParseSettings] returns the same meaning. A value that
// ParseSettings would not read is an error: [FieldErrors].
func (s Settings) MarshalJSON() ([]byte, error) {
	if err := s.unwritable().errOrNil(); err != nil {
		return nil, err
	}
	accounts := s.Accounts
	if accounts == nil {
		accounts = map[string]Account{}
	}
	return marshal(struct {
		Accounts map[string]Account `json:"accounts"`
	}{accounts})
}

// MarshalJSON encodes a so that [ParseAccount] returns the same meaning. A value that ParseAccount
// would not read is an error: [FieldErrors].
func (a Account) MarshalJSON() ([]byte, error) {
	if err := a.unwritable("").errOrNil(); err != nil {
		return nil, err
	}
	type plain Account // without this method
	return marshal(plain(a))
}

func marshal(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err == nil && len(data) > MaxDocument {
		return nil, FieldErrors{{Reason: tooLarge}}
	}
	return data, err
}

var tooLarge = fmt.Sprintf("is larger than %d bytes", MaxDocument)

// unwritable returns what a document cannot hold: what the reader refuses.
func (s Settings) unwritable() FieldErrors { return s.problems(Account.unwritable) }

func (a Account) unwritable(path string) (problems FieldErrors) {
	for scope, l := range a.scopes(path) {
		problems = append(problems, scope.unwritable()...)
		problems = append(problems, l.unwritable(scope.path)...)
	}
	return problems
}

// problems collects what find says of each account.
func (s Settings) problems(find func(a Account, path string) FieldErrors) (problems FieldErrors) {
	for _, name := range slices.Sorted(maps.Keys(s.Accounts)) {
		account := namedScope{path: field("accounts", name), named: true, name: name}
		problems = append(problems, account.unwritable()...)
		problems = append(problems, find(s.Accounts[name], account.path)...)
	}
	return problems
}

func (s namedScope) unwritable() FieldErrors {
	if reason := nameProblem(s.name); s.named && reason != "" {
		return FieldErrors{{Path: s.path, Reason: reason}}
	}
	return nil
}

func (l Limits) unwritable(path string) (problems FieldErrors) {
	report := func(name, reason string) {
		problems = append(problems, &FieldError{Path: field(path, name), Reason: reason})
	}
	if d, limits := l.Active.Value(); limits && d <= 0 {
		report("active", "must be above zero")
	}
	if d, limits := l.Inactivity.Value(); limits && d <= 0 {
		report("inactivity", "must be above zero")
	}
	if n, limits := l.Concurrent.Value(); limits && n < 1 {
		report("concurrent", capBelowOne)
	}
	if int(l.AtLimit) >= len(actions) {
		report("at_limit", new(AtLimit).UnmarshalText(nil).Error())
	}
	if !l.Activity.defined() {
		report("activity", "contains a class that is not defined")
	}
	return problems
}

const capBelowOne = "must be at least 1; write unlimited for no cap"

// nameProblem returns why name cannot be the name of an account, kind, client,
// group or user, or "". Invalid UTF-8 would come back as another name.
func nameProblem(name string) string {
	switch {
	case name == "":
		return "the name is empty"
	case !utf8.ValidString(name), strings.ContainsRune(name, utf8.RuneError):
		return "the name is not valid UTF-8"
	default:
		return ""
	}
}

// A namedScope is a scope of an account, for messages.
type namedScope struct {
	path  string
	named bool // false for everyone
	name  string
	kind  bool
	what  bool // a kind or a client
}

// scopes visits everyone's limits and then those of the narrower scopes, in the
// order of their names.
func (a Account) scopes(path string) func(yield func(namedScope, Limits) bool) {
	return func(yield func(namedScope, Limits) bool) {
		if !yield(namedScope{path: path}, a.Limits) {
			return
		}
		for _, kind := range slices.Sorted(maps.Keys(a.Kinds)) {
			s := namedScope{field(field(path, "kinds"), string(kind)), true, string(kind), true, true}
			if !yield(s, a.Kinds[kind]) {
				return
			}
		}
		for _, m := range []struct {
			name   string
			what   bool
			limits map[string]Limits
		}{{"clients", true, a.Clients}, {"groups", false, a.Groups}, {"users", false, a.Users}} {
			for _, name := range slices.Sorted(maps.Keys(m.limits)) {
				s := namedScope{field(field(path, m.name), name), true, name, false, m.what}
				if !yield(s, m.limits[name]) {
					return
				}
			}
		}
	}
}

// A node is one value of a JSON document.
type node struct {
	kind    nodeKind
	line    int
	text    string // of a string, or the literal of a number
	truth   bool
	members []jsonMember
	items   []node
}

type jsonMember struct {
	name  string
	line  int
	value node
}

type nodeKind uint8

const (
	nullNode nodeKind = iota
	boolNode
	numberNode
	stringNode
	arrayNode
	objectNode
)

// maxDepth is how deeply documents may nest. A settings document needs six
// levels; deeper ones are refused before anything looks at them.
const maxDepth = 16

// decode reads data as JSON and passes it on to read.
func decode(data []byte, read func(*decoder, node)) error {
	root, err := parseJSON(data)
	if err != nil {
		return err
	}
	d := &decoder{}
	read(d, root)
	return d.problems.errOrNil()
}

func parseJSON(data []byte) (node, error) {
	if len(data) > MaxDocument {
		return node{}, FieldErrors{{Reason: tooLarge}}
	}
	if !utf8.Valid(data) {
		return node{}, FieldErrors{{Reason: "is not valid UTF-8"}}
	}
	// Syntax and trailing data first: the tokens below are then well-formed.
	var raw json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		problem := &FieldError{Reason: "is not JSON: " + err.Error()}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			problem.Line = 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte{'\n'})
		}
		return node{}, FieldErrors{problem}
	}
	r := &reader{data: data, dec: json.NewDecoder(bytes.NewReader(data)), line: 1}
	r.dec.UseNumber()
	n, err := r.value(0)
	if err != nil {
		return node{}, FieldErrors{{Line: r.line, Reason: err.Error()}}
	}
	return n, nil
}

// A reader makes nodes of tokens, and knows the line of each.
type reader struct {
	data []byte
	dec  *json.Decoder
	at   int // up to where lines were counted
	line int
}

func (r *reader) token() (json.Token, error) {
	t, err := r.dec.Token()
	at := int(r.dec.InputOffset())
	r.line += bytes.Count(r.data[r.at:at], []byte{'\n'})
	r.at = at
	return t, err
}

func (r *reader) value(depth int) (node, error) {
	if depth > maxDepth {
		return node{}, errors.New("is nested too deeply")
	}
	t, err := r.token()
	if err != nil {
		return node{}, err
	}
	n := node{line: r.line}
	switch t := t.(type) {
	case nil:
		n.kind = nullNode
	case bool:
		n.kind, n.truth = boolNode, t
	case json.Number:
		n.kind, n.text = numberNode, t.String()
	case string:
		n.kind, n.text = stringNode, t
	case json.Delim:
		if t == '[' {
			n.kind = arrayNode
			for r.dec.More() {
				item, err := r.value(depth + 1)
				if err != nil {
					return node{}, err
				}
				n.items = append(n.items, item)
			}
		} else {
			n.kind = objectNode
			for r.dec.More() {
				name, err := r.token()
				if err != nil {
					return node{}, err
				}
				m := jsonMember{line: r.line}
				m.name, _ = name.(string) // a name is a string: the syntax was checked
				if m.value, err = r.value(depth + 1); err != nil {
					return node{}, err
				}
				n.members = append(n.members, m)
			}
		}
		if _, err := r.token(); err != nil { // the closing bracket
			return node{}, err
		}
	}
	return n, nil
}

// A decoder makes settings of nodes, and collects what is wrong.
type decoder struct{ problems FieldErrors }

func (d *decoder) report(path string, line int, reason string) {
	d.problems = append(d.problems, &FieldError{Path: path, Line: line, Reason: reason})
}

// object visits the members of n, each name once.
func (d *decoder) object(path string, n node, visit func(path string, m jsonMember)) {
	if n.kind != objectNode {
		d.wrongType(path, n, "an object with named fields")
		return
	}
	seen := make(map[string]bool, len(n.members))
	for _, m := range n.members {
		at := field(path, m.name)
		if seen[m.name] {
			d.report(at, m.line, "appears twice")
			continue
		}
		seen[m.name] = true
		visit(at, m)
	}
}

func (d *decoder) wrongType(path string, n node, want string) {
	reason := "must be " + want
	if n.kind == nullNode {
		reason = "is empty; it " + reason + ", or left out"
	}
	d.report(path, n.line, reason)
}

func (d *decoder) settings(n node, s *Settings) {
	found := false
	d.object("", n, func(path string, m jsonMember) {
		if m.name != "accounts" {
			d.unknown(path, m.line, "accounts")
			return
		}
		found = true
		s.Accounts = map[string]Account{}
		d.object(path, m.value, func(path string, m jsonMember) {
			d.name(path, m)
			var a Account
			d.account(path, m.value, &a)
			s.Accounts[m.name] = a
		})
	})
	if n.kind == objectNode && !found {
		d.report("accounts", n.line, "is missing; write an empty object if no account has settings")
	}
}

var (
	limitsFields  = []string{"active", "inactivity", "concurrent", "at_limit", "activity"}
	accountFields = append(slices.Clone(limitsFields), "observe", "kinds", "clients", "groups", "users")
)

func (d *decoder) account(path string, n node, a *Account) {
	d.object(path, n, func(path string, m jsonMember) {
		switch m.name {
		case "observe":
			if m.value.kind != boolNode {
				d.wrongType(path, m.value, "true or false")
				return
			}
			a.Observe = m.value.truth
		case "kinds":
			a.Kinds = decodeScopes[Kind](d, path, m.value)
		case "clients":
			a.Clients = decodeScopes[string](d, path, m.value)
		case "groups":
			a.Groups = decodeScopes[string](d, path, m.value)
		case "users":
			a.Users = decodeScopes[string](d, path, m.value)
		default:
			d.limit(path, m, accountFields, &a.Limits)
		}
	})
}

func decodeScopes[K ~string](d *decoder, path string, n node) map[K]Limits {
	scopes := map[K]Limits{}
	d.object(path, n, func(path string, m jsonMember) {
		d.name(path, m)
		var l Limits
		d.object(path, m.value, func(path string, m jsonMember) { d.limit(path, m, limitsFields, &l) })
		scopes[K(m.name)] = l
	})
	if len(scopes) == 0 {
		return nil // the same as if it were left out
	}
	return scopes
}

func (d *decoder) name(path string, m jsonMember) {
	if reason := nameProblem(m.name); reason != "" {
		d.report(path, m.line, reason)
	}
}

func (d *decoder) unknown(path string, line int, known ...string) {
	d.report(path, line, "is not a field; known here: "+strings.Join(known, ", "))
}

// limit reads one field of Limits.
func (d *decoder) limit(path string, m jsonMember, known []string, l *Limits) {
	switch m.name {
	case "active":
		decodeBound(d, path, m.value, &l.Active)
	case "inactivity":
		decodeBound(d, path, m.value, &l.Inactivity)
	case "concurrent":
		decodeBound(d, path, m.value, &l.Concurrent)
	case "at_limit":
		if m.value.kind != stringNode {
			d.wrongType(path, m.value, "one of "+names(actions[Refuse:]))
		} else if err := l.AtLimit.UnmarshalText([]byte(m.value.text)); err != nil {
			d.report(path, m.value.line, err.Error())
		}
	case "activity":
		d.classes(path, m.value, &l.Activity)
	default:
		d.unknown(path, m.line, known...)
	}
}

func (d *decoder) classes(path string, n node, s *Classes) {
	if n.kind == stringNode && n.text == inheritText {
		*s = 0
		return
	}
	if n.kind != arrayNode {
		d.wrongType(path, n, "a list of "+names(classes))
		return
	}
	set := ClassesOf()
	for i, item := range n.items {
		at := path + "[" + strconv.Itoa(i) + "]"
		if item.kind != stringNode {
			d.wrongType(at, item, "one of "+names(classes))
			continue
		}
		c, err := ParseClass(item.text)
		switch {
		case err != nil:
			d.report(at, item.line, err.Error())
		case set.Has(c):
			d.report(at, item.line, "appears twice")
		default:
			set |= ClassesOf(c)
		}
	}
	*s = set
}

// decodeBound reads a duration or a number of sessions.
func decodeBound[T time.Duration | int](d *decoder, path string, n node, b *Bound[T]) {
	if n.kind == stringNode && n.text == inheritText {
		*b = Bound[T]{}
		return
	}
	if n.kind == stringNode && n.text == unlimitedText {
		*b = Unlimited[T]()
		return
	}
	switch b := any(b).(type) {
	case *Bound[time.Duration]:
		d.duration(path, n, b)
	case *Bound[int]:
		d.count(path, n, b)
	}
}

func (d *decoder) duration(path string, n node, b *Bound[time.Duration]) {
	if n.kind != stringNode && n.kind != numberNode {
		d.wrongType(path, n, "a duration such as 90m or 24h, or unlimited")
		return
	}
	v, err := parseDuration(n.text)
	if err != nil {
		d.report(path, n.line, printable(n.text)+" "+err.Error())
		return
	}
	*b = LimitTo(v)
}

func (d *decoder) count(path string, n node, b *Bound[int]) {
	if n.kind != numberNode {
		d.wrongType(path, n, "a whole number of at least 1, or unlimited")
		return
	}
	v, err := strconv.Atoi(n.text)
	switch {
	case errors.Is(err, strconv.ErrRange):
		d.report(path, n.line, printable(n.text)+" is too large; write unlimited for no cap")
	case err != nil:
		d.report(path, n.line, printable(n.text)+" is not a whole number")
	case v < 1:
		d.report(path, n.line, capBelowOne)
	default:
		*b = LimitTo(v)
	}
}
