package policy_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/policy/policyyaml"
)

// Few names, so that scopes meet often.
var (
	kindNames   = []policy.Kind{policy.Browser, policy.CLI, policy.Automation}
	clientNames = []string{"web", "tool", "payroll"}
	groupNames  = []string{"staff", "contractors"}
	userNames   = []string{"alice", "bob"}
	accounts    = []string{"default", "partner"}
	classes     = []policy.Class{policy.Interactive, policy.Refresh, policy.Silent, policy.Userinfo, policy.Introspection, policy.Heartbeat}
)

func drawBound[T time.Duration | int](t *rapid.T, label string, least, most T) policy.Bound[T] {
	switch rapid.IntRange(0, 3).Draw(t, label) {
	case 0:
		return policy.Bound[T]{}
	case 1:
		return policy.Unlimited[T]()
	default:
		return policy.LimitTo(T(rapid.Int64Range(int64(least), int64(most)).Draw(t, label+" value")))
	}
}

func drawLimits(t *rapid.T, label string) policy.Limits {
	l := policy.Limits{
		Active:     drawBound(t, label+" active", time.Minute, 48*time.Hour),
		Inactivity: drawBound(t, label+" inactivity", time.Minute, 24*time.Hour),
		Concurrent: drawBound(t, label+" concurrent", 1, 4),
		AtLimit:    policy.AtLimit(rapid.IntRange(0, 4).Draw(t, label+" at_limit")),
	}
	if rapid.Bool().Draw(t, label+" sets activity") {
		l.Activity = policy.ClassesOf(rapid.SliceOfDistinct(rapid.SampledFrom(classes), rapid.ID).Draw(t, label+" activity")...)
	}
	return l
}

func drawScopes[K ~string](t *rapid.T, label string, names []K) map[K]policy.Limits {
	var scopes map[K]policy.Limits
	for _, name := range names {
		if rapid.IntRange(0, 2).Draw(t, label+" "+string(name)) == 0 {
			if scopes == nil {
				scopes = map[K]policy.Limits{}
			}
			scopes[name] = drawLimits(t, label+" "+string(name))
		}
	}
	return scopes
}

func drawSettings(t *rapid.T, label string) policy.Settings {
	s := policy.Settings{Accounts: map[string]policy.Account{}}
	for _, name := range accounts {
		s.Accounts[name] = policy.Account{
			Limits:  drawLimits(t, label+" "+name),
			Observe: rapid.IntRange(0, 5).Draw(t, label+" observes") == 0,
			Kinds:   drawScopes(t, label+" kind", kindNames),
			Clients: drawScopes(t, label+" client", clientNames),
			Groups:  drawScopes(t, label+" group", groupNames),
			Users:   drawScopes(t, label+" user", userNames),
		}
	}
	return s
}

func drawWho(t *rapid.T) policy.Who {
	who := policy.Who{User: rapid.SampledFrom(userNames).Draw(t, "user")}
	for _, a := range rapid.SliceOfDistinct(rapid.SampledFrom(accounts), rapid.ID).Draw(t, "accounts") {
		groups := rapid.SliceOfDistinct(rapid.SampledFrom(groupNames), rapid.ID).Draw(t, "groups")
		who.Memberships = append(who.Memberships, policy.Membership{Account: a, Groups: groups})
	}
	return who
}

func drawSession(t *rapid.T, id string, now time.Time) policy.Session {
	ago := func(label string) time.Time {
		return now.Add(-time.Duration(rapid.IntRange(0, 50*60).Draw(t, label)) * time.Minute)
	}
	s := policy.Session{
		ID:      id,
		Kind:    rapid.SampledFrom(kindNames).Draw(t, "kind"),
		Client:  rapid.SampledFrom(clientNames).Draw(t, "client"),
		Started: ago("started"),
	}
	s.Authenticated, s.LastActivity = s.Started, s.Started
	if later := ago("authenticated"); later.After(s.Authenticated) {
		s.Authenticated = later
	}
	if later := ago("last activity"); later.After(s.LastActivity) {
		s.LastActivity = later
	}
	if rapid.IntRange(0, 5).Draw(t, "reserved") == 0 {
		s.ReservedUntil = now.Add(time.Duration(rapid.IntRange(-60, 60).Draw(t, "reserved for")) * time.Second)
	}
	return s
}

func drawHeld(t *rapid.T, now time.Time) []policy.Session {
	held := []policy.Session{}
	for i := range rapid.IntRange(0, 8).Draw(t, "held") {
		held = append(held, drawSession(t, string(rune('a'+i)), now))
	}
	return held
}

func drawNext(t *rapid.T, now time.Time) policy.Session {
	return policy.Session{
		ID:      "next",
		Kind:    rapid.SampledFrom(kindNames).Draw(t, "next kind"),
		Client:  rapid.SampledFrom(clientNames).Draw(t, "next client"),
		Started: now, Authenticated: now, LastActivity: now,
	}
}

// A wantCap is a cap as the documentation describes it, worked out here from the
// settings a second time.
type wantCap struct {
	scope  string
	max    int
	action policy.AtLimit
	counts func(policy.Session) bool
}

// wantCaps is written after docs/policy.md, not after the code.
func wantCaps(s policy.Settings, who policy.Who) map[string]wantCap {
	caps := map[string]wantCap{}
	add := func(c wantCap) { caps[c.scope] = c }
	for _, m := range who.Memberships {
		a, known := s.Accounts[m.Account]
		if !known || a.Observe {
			continue
		}
		path := "accounts." + m.Account
		user := a.Users[who.User]

		// What the user, the strictest group, and the account say of the action.
		action := func(group string) policy.AtLimit {
			if user.AtLimit != policy.InheritAtLimit {
				return user.AtLimit
			}
			if own := a.Groups[group].AtLimit; group != "" && own != policy.InheritAtLimit {
				return own
			}
			said := map[policy.AtLimit]bool{}
			for _, g := range m.Groups {
				said[a.Groups[g].AtLimit] = true
			}
			for _, at := range []policy.AtLimit{policy.Refuse, policy.Ask, policy.EndOldest, policy.EndIdlest} {
				if said[at] {
					return at
				}
			}
			if a.AtLimit != policy.InheritAtLimit {
				return a.AtLimit
			}
			return policy.Refuse
		}
		own := func(l policy.Limits) policy.AtLimit {
			if l.AtLimit != policy.InheritAtLimit {
				return l.AtLimit
			}
			return action("")
		}

		for client, l := range a.Clients {
			if n, ok := l.Concurrent.Value(); ok {
				add(wantCap{path + ".clients." + client, n, own(l), func(s policy.Session) bool { return s.Client == client }})
			}
		}
		freeClient := func(s policy.Session) bool { return a.Clients[s.Client].Concurrent.IsUnlimited() }
		freeKind := func(s policy.Session) bool { return a.Kinds[s.Kind].Concurrent.IsUnlimited() }
		for kind, l := range a.Kinds {
			if n, ok := l.Concurrent.Value(); ok {
				add(wantCap{path + ".kinds." + string(kind), n, own(l), func(s policy.Session) bool { return s.Kind == kind && !freeClient(s) }})
			}
		}
		all := func(s policy.Session) bool { return !freeClient(s) && !freeKind(s) }
		if n, ok := user.Concurrent.Value(); ok {
			add(wantCap{path + ".users." + who.User, n, action(""), all})
		}
		if !user.Concurrent.Inherits() {
			continue
		}
		var least *wantCap
		groupsSay := false
		for _, g := range m.Groups {
			groupsSay = groupsSay || !a.Groups[g].Concurrent.Inherits()
			n, ok := a.Groups[g].Concurrent.Value()
			c := wantCap{path + ".groups." + g, n, action(g), all}
			if ok && (least == nil || n < least.max || n == least.max && stricter(c, *least)) {
				least = &c
			}
		}
		if least != nil {
			add(*least)
		}
		if n, ok := a.Concurrent.Value(); ok && !groupsSay {
			add(wantCap{path, n, action(""), all})
		}
	}
	return caps
}

func stricter(a, b wantCap) bool {
	order := []policy.AtLimit{policy.Refuse, policy.Ask, policy.EndOldest, policy.EndIdlest}
	i, j := slices.Index(order, a.action), slices.Index(order, b.action)
	return i < j || i == j && a.scope < b.scope
}

func TestCapsAreThoseOfTheDocumentation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, who := drawSettings(t, "settings"), drawWho(t)
		want := wantCaps(s, who)
		got := s.Rules(who).Caps()
		require.Len(t, got, len(want))
		for _, c := range got {
			w, ok := want[c.Scope.String()]
			require.True(t, ok, c.Scope)
			require.Equal(t, w.max, c.Max, c.Scope)
			require.Equal(t, w.action, c.AtLimit, c.Scope)
			for _, kind := range kindNames {
				for _, client := range clientNames {
					held := policy.Session{Kind: kind, Client: client}
					require.Equal(t, w.counts(held), c.Counts(held), "%v of %v %v", c.Scope, kind, client)
				}
			}
		}
	})
}

// TestNeverMoreLiveThanTheCap plays a user for a while: logins, uses, ends,
// sweeps, a clock that goes on and is stepped back.
func TestNeverMoreLiveThanTheCap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { play(t, drawSettings(t, "settings"), drawWho(t)) })
}

func play(t *rapid.T, settings policy.Settings, who policy.Who) {
	rules, caps := settings.Rules(who), wantCaps(settings, who)
	now := t0
	var held []policy.Session // not ended
	ends := map[string]time.Time{}
	logins := 0

	end := func(list []policy.Ending) {
		for _, e := range list {
			i := slices.IndexFunc(held, func(s policy.Session) bool { return s.ID == e.ID })
			require.GreaterOrEqual(t, i, 0, "an ending of what is not held, or twice: %v", e)
			held = slices.Delete(held, i, i+1)
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"": func(t *rapid.T) {
			for _, c := range caps {
				live := 0
				for _, s := range held {
					if c.counts(s) && rules.Check(now, s, policy.Use{}).Allow {
						live++
					}
				}
				require.LessOrEqual(t, live, c.max, c.scope)
			}
			for _, s := range held {
				if at := rules.Window(s, policy.Use{}).End; !at.IsZero() {
					require.Equal(t, ends[s.ID], at, "the absolute end moved")
					require.False(t, rules.Check(at, s, policy.Use{}).Allow)
				}
			}
		},
		"login": func(t *rapid.T) {
			next := drawNext(t, now)
			logins++
			next.ID = string(rune('0' + logins))
			if rapid.Bool().Draw(t, "with a code") {
				next.ReservedUntil = now.Add(time.Minute)
			}
			before := slices.Clone(held)
			d := rules.Admit(now, held, next)
			require.Equal(t, before, held, "Admit modified held")
			if !d.Allow {
				requireRefusal(t, d, caps, held, next, rules, now)
				return
			}
			require.Empty(t, d.Reason)
			end(d.End)
			held = append(held, next)
			ends[next.ID] = rules.Window(next, policy.Use{}).End
		},
		"redeem": func(t *rapid.T) {
			for i, s := range held {
				if !s.ReservedUntil.IsZero() && rules.Check(now, s, policy.Use{}).Allow {
					held[i].ReservedUntil = time.Time{}
					return
				}
			}
		},
		"use": func(t *rapid.T) {
			if len(held) == 0 {
				return
			}
			s := &held[rapid.IntRange(0, len(held)-1).Draw(t, "which")]
			use := policy.Use{Client: rapid.SampledFrom(clientNames).Draw(t, "by")}
			if rules.Check(now, *s, use).Allow && rules.Slides(*s, use.Client, rapid.SampledFrom(classes).Draw(t, "class")) && now.After(s.LastActivity) {
				s.LastActivity = now
			}
		},
		"sign in again": func(t *rapid.T) {
			if len(held) == 0 {
				return
			}
			s := &held[rapid.IntRange(0, len(held)-1).Draw(t, "which")]
			if rules.Check(now, *s, policy.Use{}).Allow && now.After(s.Authenticated) {
				s.Authenticated = now
				ends[s.ID] = rules.Window(*s, policy.Use{}).End
			}
		},
		"end": func(t *rapid.T) {
			if len(held) > 0 {
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				held = slices.Delete(held, i, i+1)
			}
		},
		"sweep": func(t *rapid.T) {
			for _, e := range rules.Surplus(now, held) {
				require.NotEqual(t, policy.ReasonPolicyChange, e.Reason, "a surplus, though the cap never changed")
			}
			end(rules.Surplus(now, held))
		},
		"time goes on": func(t *rapid.T) {
			now = now.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "minutes")) * time.Minute)
		},
		"clock is stepped back": func(t *rapid.T) {
			now = now.Add(-time.Duration(rapid.IntRange(1, 600).Draw(t, "minutes")) * time.Minute)
		},
	})
}

// requireRefusal holds that a refusal was due, and that it changes nothing.
func requireRefusal(t *rapid.T, d policy.Decision, caps map[string]wantCap, held []policy.Session, next policy.Session, rules policy.Rules, now time.Time) {
	require.Empty(t, d.End)
	require.Equal(t, policy.ReasonConcurrency, d.Reason)
	require.GreaterOrEqual(t, d.Used, d.Max)
	refuses, asks := false, false
	for _, c := range caps {
		live := 0
		for _, s := range held {
			if c.counts(s) && rules.Check(now, s, policy.Use{}).Allow {
				live++
			}
		}
		if c.counts(next) && live >= c.max {
			refuses = refuses || c.action == policy.Refuse
			asks = asks || c.action == policy.Ask
		}
	}
	require.True(t, refuses || asks, "refused, though no cap that is reached says so")
	require.Equal(t, !refuses, d.Ask, "to refuse beats to ask")
}

// TestAdmitAfterAnyChange looks at sessions that were admitted under other
// settings.
func TestAdmitAfterAnyChange(t *testing.T) {
	rapid.Check(t, admitAfterAnyChange)
}

func FuzzAdmit(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("some sessions, some settings"))
	f.Fuzz(rapid.MakeFuzz(admitAfterAnyChange))
}

func admitAfterAnyChange(t *rapid.T) {
	settings, who := drawSettings(t, "settings"), drawWho(t)
	rules, caps := settings.Rules(who), wantCaps(settings, who)
	held, next := drawHeld(t, t0), drawNext(t, t0)
	before := slices.Clone(held)
	d := rules.Admit(t0, held, next)
	require.Equal(t, before, held, "Admit modified held")

	surplus := rules.Surplus(t0, held)
	require.Equal(t, before, held, "Surplus modified held")
	settled := without(held, surplus)
	require.Equal(t, d.Allow, rules.Admit(t0, settled, next).Allow, "a sweep before the login would change the answer")
	require.Empty(t, rules.Surplus(t0, settled), "the surplus of what is left after the surplus")
	for _, c := range caps {
		if c.action == policy.EndOldest || c.action == policy.EndIdlest {
			require.LessOrEqual(t, count(settled, c.counts), c.max, "a lowered cap that ends sessions leaves too many")
		}
	}
	reasons := map[string]policy.Reason{}
	for _, s := range held {
		reasons[s.ID] = rules.Check(t0, s, policy.Use{}).Reason
	}
	for _, e := range surplus {
		if reasons[e.ID] != "" {
			require.Equal(t, reasons[e.ID], e.Reason)
		} else {
			require.Equal(t, policy.ReasonPolicyChange, e.Reason)
		}
	}

	if !d.Allow {
		requireRefusal(t, d, caps, settled, next, rules, t0)
		return
	}
	require.Equal(t, policy.Decision{Allow: true, End: d.End}, d)
	require.GreaterOrEqual(t, len(d.End), len(surplus))
	require.True(t, slices.Equal(surplus, d.End[:len(surplus)]), "a login ends first what a sweep would end")
	seen := map[string]bool{}
	for i, e := range d.End {
		require.False(t, seen[e.ID], "ended twice")
		require.NotEqual(t, next.ID, e.ID)
		seen[e.ID] = true
		if i >= len(surplus) {
			require.Equal(t, policy.ReasonConcurrency, e.Reason)
		}
	}
	after := append(without(held, d.End), next)
	for _, c := range caps {
		if c.counts(next) {
			require.LessOrEqual(t, count(after, c.counts), c.max, c.scope)
		}
	}
	// No one ends for a cap that does not count both them and the newcomer.
	for _, e := range d.End[len(surplus):] {
		ended := held[slices.IndexFunc(held, func(s policy.Session) bool { return s.ID == e.ID })]
		shared := false
		for _, c := range caps {
			shared = shared || c.counts(ended) && c.counts(next)
		}
		require.True(t, shared, e.ID)
	}
	if !rules.Capped(next.Kind, next.Client) {
		require.Equal(t, surplus, d.End, "an uncapped login ends nobody")
		require.True(t, d.Allow)
	}
}

func without(held []policy.Session, end []policy.Ending) []policy.Session {
	rest := []policy.Session{}
	for _, s := range held {
		if !slices.ContainsFunc(end, func(e policy.Ending) bool { return e.ID == s.ID }) {
			rest = append(rest, s)
		}
	}
	return rest
}

func count(list []policy.Session, counts func(policy.Session) bool) (n int) {
	for _, s := range list {
		if counts(s) {
			n++
		}
	}
	return n
}

func TestTheAbsoluteEndNeverMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := drawSettings(t, "settings").Rules(drawWho(t))
		s := drawSession(t, "a", t0)
		use := policy.Use{Client: rapid.SampledFrom(append([]string{""}, clientNames...)).Draw(t, "by")}
		if rapid.Bool().Draw(t, "older grant") {
			use.Authenticated = s.Authenticated.Add(-time.Duration(rapid.IntRange(0, 600).Draw(t, "minutes")) * time.Minute)
		}
		w := rules.Window(s, use)
		own := rules.Window(s, policy.Use{})
		require.True(t, own.End.IsZero() || !w.End.IsZero() && !w.End.After(own.End), "a use outlasts the session")
		require.True(t, own.Idle.IsZero() || !w.Idle.IsZero() && !w.Idle.After(own.Idle), "a use outlasts the session")

		later := s
		later.LastActivity = s.LastActivity.Add(time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "activity")))
		require.Equal(t, w.End, rules.Window(later, use).End)

		now := t0.Add(time.Duration(rapid.Int64Range(-1e15, 1e15).Draw(t, "now")))
		token := rules.TokenEnd(now, s, use)
		for _, end := range []time.Time{w.End, w.Idle, w.Over()} {
			require.True(t, end.IsZero() || !token.IsZero() && !token.After(end), "a token outlives the session")
		}
		require.True(t, w.Idle.IsZero() || token.Before(now.Add(w.Inactivity)))

		d := rules.Check(now, s, use)
		alive := (w.End.IsZero() || now.Before(w.End)) && (w.Idle.IsZero() || now.Before(w.Idle)) && (s.ReservedUntil.IsZero() || now.Before(s.ReservedUntil))
		require.Equal(t, alive, d.Allow)
		at, reason := rules.Deadline(s)
		if own := rules.Check(now, s, policy.Use{}); own.Allow {
			require.True(t, at.IsZero() || now.Before(at))
		} else {
			require.Equal(t, policy.Decision{Reason: reason, At: at, Limit: own.Limit}, own)
			require.False(t, d.Allow, "a use of a session that is over")
		}
	})
}

func TestPreviewIsWhatThenEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		current, proposed := drawSettings(t, "current"), drawSettings(t, "proposed")
		var holders []policy.Holder
		want := []policy.Ending{}
		for range rapid.IntRange(0, 3).Draw(t, "holders") {
			h := policy.Holder{Who: drawWho(t), Sessions: drawHeld(t, t0)}
			holders = append(holders, h)

			// What is over is ended before the change comes into force; then
			// every session is asked for, and swept.
			before, after := current.Rules(h.Who), proposed.Rules(h.Who)
			live := slices.DeleteFunc(slices.Clone(h.Sessions), func(s policy.Session) bool { return !before.Check(t0, s, policy.Use{}).Allow })
			refused := map[string]policy.Reason{}
			for _, s := range live {
				if d := after.Check(t0, s, policy.Use{}); !d.Allow {
					refused[s.ID] = d.Reason
				}
			}
			swept := after.Surplus(t0, live)
			for _, e := range swept {
				if e.Reason == policy.ReasonPolicyChange {
					require.NotContains(t, refused, e.ID)
				} else {
					require.Equal(t, refused[e.ID], e.Reason)
					delete(refused, e.ID)
				}
			}
			require.Empty(t, refused, "refused, but not swept")
			want = append(want, swept...)
		}
		got := policy.Preview(t0, current, proposed, holders)
		require.ElementsMatch(t, want, got)

		// Nothing more ends once that has ended.
		for i := range holders {
			before := current.Rules(holders[i].Who)
			live := slices.DeleteFunc(slices.Clone(holders[i].Sessions), func(s policy.Session) bool { return !before.Check(t0, s, policy.Use{}).Allow })
			holders[i].Sessions = without(live, proposed.Rules(holders[i].Who).Surplus(t0, live))
		}
		require.Empty(t, policy.Preview(t0, current, proposed, holders))
	})
}

func TestExplainAgreesWithWhatBinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		settings, who := drawSettings(t, "settings"), drawWho(t)
		rules := settings.Rules(who)
		kind, client := rapid.SampledFrom(kindNames).Draw(t, "kind"), rapid.SampledFrom(clientNames).Draw(t, "client")
		e, l := rules.Explain(kind, client), rules.Limits(kind, client)
		requireExplained(t, e.Active, l.Active, func(l policy.Limits) policy.Bound[time.Duration] { return l.Active }, settings)
		requireExplained(t, e.Inactivity, l.Inactivity, func(l policy.Limits) policy.Bound[time.Duration] { return l.Inactivity }, settings)
		require.Equal(t, l.Activity, e.Activity.Value)

		s := policy.Session{Kind: kind, Client: client}
		var want []policy.Cap
		for _, c := range rules.Caps() {
			if c.Counts(s) {
				want = append(want, c)
			}
		}
		var got []policy.ExplainedCap
		for _, c := range e.Caps {
			require.NotContains(t, overrodeScopes(c.Overrode), c.From)
			if c.Counts() {
				got = append(got, c)
			}
		}
		require.Len(t, got, len(want))
		for i, c := range got {
			n, _ := c.Max.Value()
			require.Equal(t, want[i].Max, n)
			require.Equal(t, want[i].Scope, c.From)
			require.Equal(t, want[i].AtLimit, c.AtLimit.Value)
			if len(c.AtLimit.From) == 0 {
				require.Equal(t, policy.Refuse, c.AtLimit.Value, "the default")
				require.Empty(t, c.AtLimit.Overrode)
			}
			for _, from := range c.AtLimit.From {
				require.Equal(t, c.AtLimit.Value, limitsAt(settings, from).AtLimit)
			}
		}
		require.NotEmpty(t, e.String())
	})
}

// requireExplained holds that a value is explained by scopes that do set it,
// and that what it overrode is set where it says.
func requireExplained[T comparable](t *rapid.T, e policy.Explained[T], value T, get func(policy.Limits) T, s policy.Settings) {
	var unset T
	require.Equal(t, value, e.Value)
	require.Equal(t, value == unset, len(e.From) == 0)
	for _, from := range e.From {
		require.Equal(t, value, get(limitsAt(s, from)), from)
	}
	for _, o := range e.Overrode {
		require.Equal(t, o.Value, get(limitsAt(s, o.From)), o.From)
		require.NotContains(t, e.From, o.From)
	}
}

func overrodeScopes[T any](list []policy.Setting[T]) (scopes []policy.Scope) {
	for _, s := range list {
		scopes = append(scopes, s.From)
	}
	return scopes
}

// limitsAt returns the limits of one scope as they are written.
func limitsAt(s policy.Settings, scope policy.Scope) policy.Limits {
	a := s.Accounts[scope.Account]
	switch {
	case scope.User != "":
		return a.Users[scope.User]
	case scope.Group != "":
		return a.Groups[scope.Group]
	case scope.Client != "":
		return a.Clients[scope.Client]
	case scope.Kind != "":
		return a.Kinds[scope.Kind]
	default:
		return a.Limits
	}
}

func TestWhatIsWrittenReadsTheSame(t *testing.T) {
	name := rapid.OneOf(
		rapid.StringN(1, 8, -1), rapid.StringN(1, 300, -1), rapid.StringMatching(`[-?:,\[\]{}#&*!|>'"%@ \t\n\r\x00\x85\x{2028}\x{feff}a0~.+_=<]{1,6}`),
	).Filter(func(s string) bool { return !strings.ContainsRune(s, '\uFFFD') })
	rapid.Check(t, func(t *rapid.T) {
		s := drawSettings(t, "settings")
		a := s.Accounts["default"]
		a.Users = rapid.MapOfN(name, rapid.Custom(func(t *rapid.T) policy.Limits { return drawLimits(t, "user") }), 1, 4).Draw(t, "users")
		s.Accounts["default"] = a
		s.Accounts[name.Draw(t, "account")] = policy.Account{}

		data, err := json.Marshal(s)
		require.NoError(t, err)
		got, err := policy.ParseSettings(data)
		require.NoError(t, err)
		require.Equal(t, s, got)

		data, err = policyyaml.MarshalSettings(s)
		require.NoError(t, err)
		got, err = policyyaml.ParseSettings(data)
		require.NoError(t, err, string(data))
		require.Equal(t, s, got)

		data, err = policyyaml.MarshalAccount(a)
		require.NoError(t, err)
		account, err := policyyaml.ParseAccount(data)
		require.NoError(t, err)
		require.Equal(t, a, account)
	})
}
