package console

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

// durationInWords writes a limit as people say it: "30 minutes", "24 hours", "30
// days".
func durationInWords(d time.Duration) string {
	if d >= 48*time.Hour && d%(24*time.Hour) == 0 {
		return plural(int(d/(24*time.Hour)), "day")
	}
	var parts []string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := d / u.unit; n > 0 {
			parts = append(parts, plural(int(n), u.name))
			d -= n * u.unit
		}
	}
	if d > 0 || len(parts) == 0 {
		parts = append(parts, d.String())
	}
	return strings.Join(parts, " ")
}

// plural writes a number of things: "1 session", "1,200 sessions".
func plural(n int, thing string) string {
	if n != 1 {
		if strings.HasSuffix(thing, "person") {
			thing = strings.TrimSuffix(thing, "person") + "people"
		} else {
			thing += "s"
		}
	}
	return grouped(n) + " " + thing
}

// grouped writes a number with commas.
func grouped(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func timeBoundInWords(b policy.Bound[time.Duration]) string {
	d, limits := b.Value()
	switch {
	case limits:
		return durationInWords(d)
	case b.IsUnlimited():
		return "Unlimited"
	}
	return "Not set"
}

func capInWords(b policy.Bound[int]) string {
	n, limits := b.Value()
	switch {
	case limits:
		return grouped(n)
	case b.IsUnlimited():
		return "Unlimited"
	}
	return "Not set"
}

func classesInWords(s policy.Classes) string {
	if s.Inherits() {
		return "Not set"
	}
	var names []string
	for _, c := range s.List() {
		names = append(names, lowerFirst(c.Label()))
	}
	if len(names) == 0 {
		return "Nothing"
	}
	return upperFirst(strings.Join(names, ", "))
}

// kindsInWords is a kind in the plural.
func kindsInWords(kind policy.Kind) string { return view.Clean(kind.Plural()) }

// scopeInWords names a scope: "everyone", "group staff".
func scopeInWords(s policy.Scope) string {
	switch {
	case s.User != "":
		return "user " + view.Clean(s.User)
	case s.Group != "":
		return "group " + view.Clean(s.Group)
	case s.Client != "":
		return "application " + view.Clean(s.Client)
	case s.Kind != "":
		return "kind " + strings.ToLower(kindsInWords(s.Kind))
	}
	return "everyone"
}

// The fields of limits, with what they are called.
var fieldWords = map[string]string{
	"active": "Active sessions", "inactivity": "Sign out due to inactivity", "concurrent": "Concurrent sessions",
	"at_limit": "At the limit", "activity": "What counts as activity", "observe": "Observe only",
}

// valueInWords is a value of a [policy.Change] for people.
func valueInWords(field, value string) string {
	switch {
	case field == "observe":
		return map[string]string{"true": "On", "false": "Off"}[value]
	case value == "inherit":
		return "Not set"
	case value == "unlimited":
		return "Unlimited"
	case field == "active", field == "inactivity":
		if d, err := time.ParseDuration(value); err == nil {
			return durationInWords(d)
		}
	case field == "at_limit":
		var a policy.AtLimit
		if a.UnmarshalText([]byte(value)) == nil {
			return a.Label()
		}
	case field == "activity":
		var classes []policy.Class
		for name := range strings.SplitSeq(strings.Trim(value, "[]"), ", ") {
			if c, err := policy.ParseClass(name); err == nil {
				classes = append(classes, c)
			}
		}
		return classesInWords(policy.ClassesOf(classes...))
	}
	return value
}

// A changeInWords is a [policy.Change] for people.
type changeInWords struct{ Field, Scope, Before, After string }

// changesInWords are the first of some changes. More is how many are left out:
// thousands of users may have settings of their own.
type changesInWords struct {
	List []changeInWords
	More int
}

const maxChanges = 100

func newChangesInWords(list []policy.Change) (out changesInWords) {
	out.More = max(0, len(list)-maxChanges)
	for _, c := range list[:min(len(list), maxChanges)] {
		scope, name := splitField(c.Path)
		out.List = append(out.List, changeInWords{cmp.Or(fieldWords[name], name), scope, valueInWords(name, c.Before), valueInWords(name, c.After)})
	}
	return out
}

var sectionWords = map[string]string{"kinds": "kind", "clients": "application", "groups": "group", "users": "user"}

// splitField takes a path such as "kinds.cli.inactivity" apart: the scope in
// words, empty for everyone, and the field.
func splitField(path string) (scope, field string) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return "", path
	}
	scope, field = path[:i], path[i+1:]
	if fieldWords[field] == "" { // the scope itself
		scope, field = path, ""
	}
	section, name, _ := strings.Cut(scope, ".")
	word, known := sectionWords[section]
	if !known {
		return scope, field
	}
	if unquoted, err := strconv.Unquote(name); err == nil {
		name = view.Clean(unquoted)
	}
	if section == "kinds" {
		name = strings.ToLower(kindsInWords(policy.Kind(name)))
	}
	return word + " " + name, field
}

// whereInWords is where a warning or an error is.
func whereInWords(path string) string {
	scope, field := splitField(path)
	switch name := cmp.Or(fieldWords[field], field); {
	case scope == "" && name == "":
		return ""
	case scope == "":
		return name
	case name == "":
		return upperFirst(scope)
	default:
		return fmt.Sprintf("%s, for the %s", name, scope)
	}
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// durationsInWords replaces the durations in a text that was written for
// settings files, such as "24h" or "1h30m", by words.
func durationsInWords(text string) string {
	words := strings.Split(text, " ")
	for i, w := range words {
		bare := strings.TrimRight(w, ",.;:)")
		if d, err := time.ParseDuration(bare); err == nil && d > 0 && bare[len(bare)-1] > '9' {
			words[i] = durationInWords(d) + w[len(bare):]
		}
	}
	return strings.Join(words, " ")
}
