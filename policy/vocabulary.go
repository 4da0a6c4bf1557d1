package policy

import (
	"cmp"
	"strings"
)

// What there is of each sort of thing that has a name, and what people call it.
// Texts, settings, counters, metrics, pages and applications take it from here:
// whatever is added here is known everywhere.

// words are the name of a thing, as settings and documents write it, and what
// administrators read.
type words struct{ name, label string }

// AtLimit is what happens to a login that would exceed a cap on concurrent
// sessions. The zero AtLimit inherits; where no scope sets it, it is [Refuse].
type AtLimit uint8

const (
	InheritAtLimit AtLimit = iota
	Refuse                 // "refuse": refuse the new login
	EndOldest              // "end_oldest": end the session with the earliest login
	EndIdlest              // "end_idlest": end the session that was unused for longest
	Ask                    // "ask": the user picks which session to end; a client that cannot show a page is refused
)

var actions = []words{
	InheritAtLimit: {inheritText, "Not set"},
	Refuse:         {"refuse", "Refuse the new sign-in"},
	EndOldest:      {"end_oldest", "End the oldest session"},
	EndIdlest:      {"end_idlest", "End the session unused for longest"},
	Ask:            {"ask", "Ask which session to end"},
}

// AtLimits returns all values of AtLimit except InheritAtLimit.
func AtLimits() []AtLimit { return upTo[AtLimit](len(actions))[Refuse:] }

// Label returns what administrators read: "Refuse the new sign-in".
func (a AtLimit) Label() string { return label(actions, int(a), a.String()) }

// A Class is a kind of activity. Which classes slide the inactivity clock is a
// setting. Documents keep its name.
type Class uint8

const (
	Interactive   Class = iota // the user signed in or consented
	Refresh                    // a refresh token was exchanged
	Silent                     // an authorization request with prompt=none was answered
	Userinfo                   // an access token was presented at userinfo
	Introspection              // an access token was introspected; introspecting a refresh token never counts
	Heartbeat                  // an application reported that its user is there
)

var classes = []words{
	Interactive:   {"interactive", "Signing in and consent"},
	Refresh:       {"refresh", "Refreshing tokens"},
	Silent:        {"silent", "Silent sign-in (prompt=none)"},
	Userinfo:      {"userinfo", "Asking for user information"},
	Introspection: {"introspection", "Checking an access token"},
	Heartbeat:     {"heartbeat", "An application's heartbeat"},
}

// AllClasses returns every class of activity.
func AllClasses() []Class { return upTo[Class](len(classes)) }

// Label returns what administrators read: "Refreshing tokens".
func (c Class) Label() string { return label(classes, int(c), c.String()) }

// A Kind says what holds a session.
type Kind string

const (
	Browser    Kind = "browser"
	CLI        Kind = "cli"
	Automation Kind = "automation"
)

var kinds = []struct {
	kind      Kind
	one, many string
}{
	{Browser, "Browser", "Browsers"},
	{CLI, "Command line or device", "Command lines and devices"},
	{Automation, "Automation", "Automation"},
}

// Kinds returns every kind of session that settings know.
func Kinds() []Kind {
	list := make([]Kind, len(kinds))
	for i, k := range kinds {
		list[i] = k.kind
	}
	return list
}

// Known reports whether settings know the kind.
func (k Kind) Known() bool {
	for _, known := range kinds {
		if known.kind == k {
			return true
		}
	}
	return false
}

// Label returns what people read: "Command line or device". For a kind that settings do not know it
// is the kind itself, and for the empty kind "Browser".
func (k Kind) Label() string {
	one, _ := k.labels()
	return one
}

// Plural returns the plural label: "Command lines and devices".
func (k Kind) Plural() string {
	_, many := k.labels()
	return many
}

func (k Kind) labels() (one, many string) {
	for _, known := range kinds {
		if known.kind == cmp.Or(k, Browser) {
			return known.one, known.many
		}
	}
	return string(k), string(k)
}

func label(list []words, i int, otherwise string) string {
	if i < 0 || i >= len(list) {
		return otherwise
	}
	return list[i].label
}

func names(list []words) string {
	var all []string
	for _, w := range list {
		all = append(all, w.name)
	}
	return strings.Join(all, ", ")
}

func upTo[T AtLimit | Class](n int) []T {
	list := make([]T, n)
	for i := range list {
		list[i] = T(i)
	}
	return list
}
