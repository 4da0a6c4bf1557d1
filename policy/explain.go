package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// An Explanation says which limits bind one user's sessions of one kind and client, and why.
type Explanation struct {
	Kind   Kind   `json:"kind"`
	Client string `json:"client"`

	Active     Explained[Bound[time.Duration]] `json:"active"`
	Inactivity Explained[Bound[time.Duration]] `json:"inactivity"`

	// Activity may come from an account that does not set it: an account that limits inactivity has
	// [DefaultClasses], even if another account sets more.
	Activity Explained[Classes] `json:"activity"`

	// Caps are those of the client, of the kind, and on all sessions, in
	// this order.
	Caps []ExplainedCap `json:"caps"`
}

// Explained is one effective value.
type Explained[T any] struct {
	Value T `json:"value"`

	// From are the scopes that set the value: several if they agree, or if the value is the
	// intersection of their sets of classes. Empty: no scope sets it, and Value is the default.
	From []Scope `json:"from"`

	// Overrode are the values of other scopes, the most specific first.
	Overrode []Setting[T] `json:"overrode"`
}

// A Setting is what one scope sets.
type Setting[T any] struct {
	Value T     `json:"value"`
	From  Scope `json:"from"`
}

// An ExplainedCap is one account's cap on concurrent sessions. It is present even if the cap is
// unlimited.
type ExplainedCap struct {
	Max  Bound[int] `json:"max"`
	From Scope      `json:"from"`

	// AtLimit is what happens at the cap. Nil if Max is unlimited.
	AtLimit *Explained[AtLimit] `json:"at_limit,omitempty"`

	// Overrode are the caps of less specific scopes, or of groups that are
	// less strict.
	Overrode []Setting[Bound[int]] `json:"overrode"`

	// Exempt are the unlimited scopes that take sessions of this kind and client out of the count.
	// If there are any, or if Max is unlimited, the cap does not count these sessions.
	Exempt []Scope `json:"exempt"`
}

// Counts reports whether the cap counts sessions of the explained kind and client.
func (c ExplainedCap) Counts() bool {
	_, limits := c.Max.Value()
	return limits && len(c.Exempt) == 0
}

// Explain says which limits bind a session of the given kind when the given client uses it, where
// they come from, and which values they override. It agrees with
// [Rules.Limits] and [Rules.Caps].
func (r Rules) Explain(kind Kind, client string) Explanation {
	var active, inactivity []ranked[Bound[time.Duration]]
	var activity []ranked[Classes]
	activitySet := false
	caps := []ExplainedCap{}
	for i := range r.members {
		m := &r.members[i]
		levels := m.levels(kind, client)
		active = append(active, rank(levels, func(l Limits) Bound[time.Duration] { return l.Active })...)
		inactivity = append(inactivity, rank(levels, func(l Limits) Bound[time.Duration] { return l.Inactivity })...)
		classes := rank(levels, func(l Limits) Classes { return l.Activity })
		activitySet = activitySet || len(classes) > 0
		if _, limits := m.limits(kind, client).Inactivity.Value(); limits && len(classes) == 0 {
			classes = append(classes, ranked[Classes]{value: DefaultClasses, scope: Scope{Account: m.account}, wins: true})
		}
		activity = append(activity, classes...)
		caps = append(caps, m.explainCaps(kind, client)...)
	}
	if !activitySet {
		activity = nil // the default, of which no account has to be told
	}
	slices.SortStableFunc(caps, func(a, b ExplainedCap) int { return b.From.what() - a.From.what() })
	l := r.Limits(kind, client)
	return Explanation{
		Kind: kind, Client: client,
		Active:     explained(l.Active, active),
		Inactivity: explained(l.Inactivity, inactivity),
		Activity:   explained(l.Activity, activity),
		Caps:       caps,
	}
}

// what orders scopes as Caps does: 2 for a client, 1 for a kind, else 0.
func (s Scope) what() int {
	switch {
	case s.Client != "":
		return 2
	case s.Kind != "":
		return 1
	default:
		return 0
	}
}

// A scoped is the limits of one scope.
type scoped struct {
	scope  Scope
	limits Limits
}

// levels returns the scopes that a session of kind and client is in, the most
// specific first. Scopes on one level are equals.
func (m *member) levels(kind Kind, client string) [][]scoped {
	var groups []scoped
	for _, g := range m.groups {
		groups = append(groups, scoped{Scope{Account: m.account, Group: g.name}, g.limits})
	}
	return [][]scoped{
		{{Scope{Account: m.account, User: m.userName}, m.user}},
		groups,
		{{Scope{Account: m.account, Client: client}, m.settings.Clients[client]}},
		{{Scope{Account: m.account, Kind: kind}, m.settings.Kinds[kind]}},
		{{Scope{Account: m.account}, m.settings.Limits}},
	}
}

// A ranked is what one scope sets, and whether no more specific one of the same
// account does.
type ranked[T comparable] struct {
	value T
	scope Scope
	wins  bool
}

// rank returns what the scopes of one account set of one field. The zero T is
// not set.
func rank[T comparable](levels [][]scoped, get func(Limits) T) []ranked[T] {
	var list []ranked[T]
	var zero T
	for _, level := range levels {
		wins := len(list) == 0
		for _, s := range level {
			if v := get(s.limits); v != zero {
				list = append(list, ranked[T]{v, s.scope, wins})
			}
		}
	}
	return list
}

// explained divides the candidates into those that make the value and those
// that it overrode.
func explained[T comparable](value T, candidates []ranked[T]) Explained[T] {
	out := Explained[T]{Value: value, From: []Scope{}, Overrode: []Setting[T]{}}
	made := slices.ContainsFunc(candidates, func(c ranked[T]) bool { return c.wins && c.value == value })
	for _, c := range candidates {
		if c.wins && (c.value == value || !made) {
			out.From = append(out.From, c.scope)
		} else {
			out.Overrode = append(out.Overrode, Setting[T]{c.value, c.scope})
		}
	}
	return out
}

// explainCaps explains the caps of one account for a kind and client.
func (m *member) explainCaps(kind Kind, client string) []ExplainedCap {
	var out []ExplainedCap
	byClient, byKind := m.settings.Clients[client], m.settings.Kinds[kind]
	clientScope, kindScope := Scope{Account: m.account, Client: client}, Scope{Account: m.account, Kind: kind}

	exempt := []Scope{}
	if _, limits := byClient.Concurrent.Value(); limits {
		out = append(out, m.explainCap(byClient.Concurrent, clientScope, byClient, nil, exempt))
	}
	if byClient.Concurrent.IsUnlimited() {
		exempt = append(exempt, clientScope)
	}
	if _, limits := byKind.Concurrent.Value(); limits {
		out = append(out, m.explainCap(byKind.Concurrent, kindScope, byKind, nil, slices.Clone(exempt)))
	}
	if byKind.Concurrent.IsUnlimited() {
		exempt = append(exempt, kindScope)
	}
	scope, bound := m.whoCap()
	if bound.Inherits() {
		return out
	}
	var overrode []Setting[Bound[int]]
	for _, s := range m.who() {
		if !s.limits.Concurrent.Inherits() && s.scope != scope {
			overrode = append(overrode, Setting[Bound[int]]{s.limits.Concurrent, s.scope})
		}
	}
	return append(out, m.explainCap(bound, scope, Limits{}, overrode, exempt))
}

// who returns the scopes that choose the cap on all sessions.
func (m *member) who() []scoped {
	levels := m.levels("", "")
	return slices.Concat(levels[0], levels[1], levels[4])
}

// explainCap explains one cap; what are the limits of its scope if that is a
// client or a kind.
func (m *member) explainCap(bound Bound[int], scope Scope, what Limits, overrode []Setting[Bound[int]], exempt []Scope) ExplainedCap {
	c := ExplainedCap{Max: bound, From: scope, Overrode: overrode, Exempt: exempt}
	if c.Overrode == nil {
		c.Overrode = []Setting[Bound[int]]{}
	}
	if bound.IsUnlimited() {
		return c
	}
	at, from := m.whoAtLimit(scope.Group)
	candidates := m.who()
	if scope.what() > 0 {
		at, from = m.whatAtLimit(what, scope)
		candidates = append([]scoped{{scope, what}}, candidates...)
	}
	e := Explained[AtLimit]{Value: at, From: []Scope{}, Overrode: []Setting[AtLimit]{}}
	if from != (Scope{}) {
		e.From = append(e.From, from)
	}
	for _, s := range candidates {
		if s.limits.AtLimit != InheritAtLimit && s.scope != from {
			e.Overrode = append(e.Overrode, Setting[AtLimit]{s.limits.AtLimit, s.scope})
		}
	}
	c.AtLimit = &e
	return c
}

// String returns the explanation as text, one line for each value.
func (e Explanation) String() string {
	var b strings.Builder
	line := func(name, value string, from []Scope, overrode []string) {
		fmt.Fprintf(&b, "%s: %s", name, value)
		if len(from) == 0 {
			b.WriteString(" (no scope sets it)")
		}
		for i, s := range from {
			fmt.Fprintf(&b, "%s %v", []string{", from", " and"}[min(i, 1)], s)
		}
		if len(overrode) > 0 {
			b.WriteString(", over " + strings.Join(overrode, ", "))
		}
		b.WriteByte('\n')
	}
	line("active", e.Active.Value.String(), e.Active.From, overrodeText(e.Active.Overrode))
	line("inactivity", e.Inactivity.Value.String(), e.Inactivity.From, overrodeText(e.Inactivity.Overrode))
	line("activity", e.Activity.Value.String(), e.Activity.From, overrodeText(e.Activity.Overrode))
	for _, c := range e.Caps {
		name := "concurrent"
		if len(c.Exempt) > 0 {
			name = fmt.Sprintf("concurrent (not counted here: %v is unlimited)", c.Exempt[0])
		}
		line(name, c.Max.String(), []Scope{c.From}, overrodeText(c.Overrode))
		if c.AtLimit != nil {
			line("  at_limit", c.AtLimit.Value.String(), c.AtLimit.From, overrodeText(c.AtLimit.Overrode))
		}
	}
	return b.String()
}

func overrodeText[T fmt.Stringer](list []Setting[T]) []string {
	var out []string
	for _, s := range list {
		out = append(out, fmt.Sprintf("%v (%v)", s.Value, s.From))
	}
	return out
}
