package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The words that stand for no limit and for nothing set, in every field.
const (
	unlimitedText = "unlimited"
	inheritText   = "inherit"
)

// String returns the bound as it is written in settings: "24h", "3",
// "unlimited" or "inherit".
func (b Bound[T]) String() string {
	switch b.state {
	case inherit:
		return inheritText
	case unlimited:
		return unlimitedText
	}
	switch v := any(b.value).(type) {
	case time.Duration:
		return formatDuration(v)
	default:
		return fmt.Sprint(v)
	}
}

// MarshalJSON encodes the bound as it is written in settings: a number of
// sessions as a number, everything else as a string.
func (b Bound[T]) MarshalJSON() ([]byte, error) {
	if n, isCount := any(b.value).(int); isCount && b.state == limited {
		return strconv.AppendInt(nil, int64(n), 10), nil
	}
	return json.Marshal(b.String())
}

// UnmarshalJSON decodes what MarshalJSON encodes. Its errors are [FieldErrors].
func (b *Bound[T]) UnmarshalJSON(data []byte) error {
	return decode(data, func(d *decoder, n node) { decodeBound(d, "", n, b) })
}

// formatDuration returns d without the zero units at the end of its String.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// parseDuration is time.ParseDuration for a limit, which must be above zero and
// have a unit.
func parseDuration(text string) (time.Duration, error) {
	if strings.Trim(text, "+-.0123456789") == "" { // also "0", which ParseDuration takes
		return 0, errors.New("has no unit; write a duration such as 90m or 24h, or unlimited")
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, errors.New("is not a duration such as 90m or 24h (units h, m, s), nor unlimited")
	}
	if d <= 0 {
		return 0, errors.New("must be above zero")
	}
	return d, nil
}

// String returns the name that settings use.
func (a AtLimit) String() string {
	if int(a) < len(actions) {
		return actions[a].name
	}
	return fmt.Sprintf("AtLimit(%d)", uint8(a))
}

// MarshalText encodes a by name.
func (a AtLimit) MarshalText() ([]byte, error) {
	if int(a) >= len(actions) {
		return nil, fmt.Errorf("%v is not defined", a)
	}
	return []byte(a.String()), nil
}

// UnmarshalText decodes a name.
func (a *AtLimit) UnmarshalText(text []byte) error {
	i := slices.IndexFunc(actions, func(w words) bool { return w.name == string(text) })
	if i < 0 {
		return fmt.Errorf("must be one of %s", names(actions[Refuse:]))
	}
	*a = AtLimit(i)
	return nil
}

// String returns the name that settings use.
func (c Class) String() string {
	if int(c) < len(classes) {
		return classes[c].name
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}

// ParseClass returns the class with the given name.
func ParseClass(name string) (Class, error) {
	i := slices.IndexFunc(classes, func(w words) bool { return w.name == name })
	if i < 0 {
		return 0, fmt.Errorf("must be one of %s", names(classes))
	}
	return Class(i), nil
}

// List returns the classes in the set; nil if it inherits, and empty but not
// nil if nothing slides the clock.
func (s Classes) List() []Class {
	if s.Inherits() {
		return nil
	}
	list := []Class{}
	for c := range classes {
		if s.Has(Class(c)) {
			list = append(list, Class(c))
		}
	}
	return list
}

// String returns the set as it is written in settings, such as
// "[interactive, refresh]".
func (s Classes) String() string {
	if s.Inherits() {
		return inheritText
	}
	var names []string
	for _, c := range s.List() {
		names = append(names, c.String())
	}
	return "[" + strings.Join(names, ", ") + "]"
}

// MarshalJSON encodes the set as a list of names.
func (s Classes) MarshalJSON() ([]byte, error) {
	if !s.defined() {
		return nil, errors.New("a class of activity is not defined")
	}
	if s.Inherits() {
		return json.Marshal(inheritText)
	}
	names := []string{}
	for _, c := range s.List() {
		names = append(names, c.String())
	}
	return json.Marshal(names)
}

// UnmarshalJSON decodes what MarshalJSON encodes. Its errors are [FieldErrors].
func (s *Classes) UnmarshalJSON(data []byte) error {
	return decode(data, func(d *decoder, n node) { d.classes("", n, s) })
}

// defined reports whether s is a value that ClassesOf can return for classes
// that exist, or inherits.
func (s Classes) defined() bool {
	all := Classes(1)<<len(classes) - 1
	return s == 0 || s&classesSet != 0 && s&^(classesSet|all) == 0
}

// String returns the path of the scope in a settings document, such as
// "accounts.default.kinds.cli".
func (s Scope) String() string {
	path := field("accounts", s.Account)
	switch {
	case s.User != "":
		return field(field(path, "users"), s.User)
	case s.Group != "":
		return field(field(path, "groups"), s.Group)
	case s.Client != "":
		return field(field(path, "clients"), s.Client)
	case s.Kind != "":
		return field(field(path, "kinds"), string(s.Kind))
	default:
		return path
	}
}

// field returns the path of a field of the thing at path. A name that could be
// taken for more than one name, or would garble a log, is quoted.
func field(path, name string) string {
	name = printable(name)
	if path == "" {
		return name
	}
	return path + "." + name
}

// maxName is how much of a name from a document is repeated in an error.
const maxName = 80

func printable(name string) string {
	plain := name != "" && len(name) <= maxName
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("_-@:/+", r):
		default:
			plain = false
		}
	}
	if plain {
		return name
	}
	if len(name) > maxName {
		return strconv.QuoteToASCII(name[:maxName]) + "..."
	}
	return strconv.QuoteToASCII(name)
}
