package policy_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

const ms = time.Millisecond

var alice = policy.Who{User: "alice", Memberships: []policy.Membership{{Account: "default"}}}

// rulesOf returns the rules for alice, who is in one account.
func rulesOf(a policy.Account) policy.Rules { return settingsOf(a).Rules(alice) }

func settingsOf(a policy.Account) policy.Settings {
	return policy.Settings{Accounts: map[string]policy.Account{"default": a}}
}

func hours(n float64) policy.Bound[time.Duration] {
	return policy.LimitTo(time.Duration(n * float64(time.Hour)))
}

// browser returns a session that began and was last used at t0+started.
func browser(id string, started time.Duration) policy.Session {
	at := t0.Add(started)
	return policy.Session{ID: id, Kind: policy.Browser, Client: "web", Started: at, Authenticated: at, LastActivity: at}
}

func TestZeroValuesAreSafe(t *testing.T) {
	require.False(t, policy.Decision{}.Allow, "the zero Decision refuses")

	var rules policy.Rules // binds nothing
	s := browser("a", -1_000_000*time.Hour)
	require.Equal(t, policy.Decision{Allow: true}, rules.Check(t0, s, policy.Use{}))
	require.Equal(t, policy.Decision{Allow: true}, rules.Admit(t0, []policy.Session{s}, browser("b", 0)))
	at, reason := rules.Deadline(s)
	require.Zero(t, at)
	require.Empty(t, reason)
	require.Equal(t, policy.Window{}, rules.Window(s, policy.Use{}))
	require.Zero(t, rules.TokenEnd(t0, s, policy.Use{}))
	require.Zero(t, policy.Window{}.Over())
	require.False(t, rules.Capped(policy.Browser, "web"))
	require.Equal(t, policy.Limits{Activity: policy.DefaultClasses}, rules.Limits(policy.Browser, "web"))
	require.Equal(t, policy.Rules{}, policy.Settings{}.Rules(policy.Who{}))

	// A session that was never filled in is over under any limit, even one of
	// no length at all: it does not turn into one without end.
	for _, l := range []policy.Limits{
		{Active: hours(24)}, {Inactivity: hours(2)},
		{Active: policy.LimitTo(time.Duration(0))}, {Inactivity: policy.LimitTo(time.Duration(0))},
		{Active: policy.LimitTo(time.Duration(-1))}, {Inactivity: policy.LimitTo(time.Duration(math.MinInt64))},
	} {
		require.False(t, rulesOf(policy.Account{Limits: l}).Check(t0, policy.Session{}, policy.Use{}).Allow)
	}
}

func TestCheckAtTheDeadline(t *testing.T) {
	active, inactivity := hours(24), hours(2)
	reserved := browser("r", 0)
	reserved.ReservedUntil = t0.Add(time.Minute)
	used := browser("a", 0)
	used.LastActivity = t0.Add(23 * time.Hour)
	for name, c := range map[string]struct {
		limits   policy.Limits
		session  policy.Session
		deadline time.Time
		reason   policy.Reason
		limit    time.Duration
	}{
		"inactivity":   {policy.Limits{Active: active, Inactivity: inactivity}, browser("a", 0), t0.Add(2 * time.Hour), policy.ReasonInactivity, 2 * time.Hour},
		"active limit": {policy.Limits{Active: active, Inactivity: inactivity}, used, t0.Add(24 * time.Hour), policy.ReasonActiveLimit, 24 * time.Hour},
		"both at once": {policy.Limits{Active: inactivity, Inactivity: inactivity}, browser("a", 0), t0.Add(2 * time.Hour), policy.ReasonActiveLimit, 2 * time.Hour},
		"reservation":  {policy.Limits{Active: active}, reserved, t0.Add(time.Minute), policy.ReasonAbandoned, 0},
		"reservation of a login that is over sooner": {policy.Limits{Active: policy.LimitTo(time.Second)}, reserved, t0.Add(time.Second), policy.ReasonActiveLimit, time.Second},
		"reservation without limits":                 {policy.Limits{}, reserved, t0.Add(time.Minute), policy.ReasonAbandoned, 0},
	} {
		t.Run(name, func(t *testing.T) {
			rules := rulesOf(policy.Account{Limits: c.limits})
			at, reason := rules.Deadline(c.session)
			require.Equal(t, c.deadline, at)
			require.Equal(t, c.reason, reason)

			over := policy.Decision{Reason: c.reason, At: c.deadline, Limit: c.limit}
			require.Equal(t, policy.Decision{Allow: true}, rules.Check(c.deadline.Add(-ms), c.session, policy.Use{}))
			require.Equal(t, policy.Decision{Allow: true}, rules.Check(c.deadline.Add(-1), c.session, policy.Use{}))
			require.Equal(t, over, rules.Check(c.deadline, c.session, policy.Use{}))
			require.Equal(t, over, rules.Check(c.deadline.Add(ms), c.session, policy.Use{}))
			require.Equal(t, over, rules.Check(c.deadline.Add(1000*time.Hour), c.session, policy.Use{}))
		})
	}
}

func TestReauthenticationStartsNewLimitsForTheSessionNotForAnOlderGrant(t *testing.T) {
	rules := rulesOf(policy.Account{Limits: policy.Limits{Active: hours(24), Inactivity: hours(4), Activity: policy.ClassesOf()}})
	s := browser("a", 0)
	older := policy.Use{Authenticated: s.Authenticated}
	s.Authenticated = t0.Add(3 * time.Hour) // credentials again; nothing slides the clock here

	require.Equal(t, t0.Add(27*time.Hour), rules.Window(s, policy.Use{}).End)
	require.Equal(t, t0.Add(27*time.Hour), rules.Window(s, policy.Use{Authenticated: s.Authenticated}).End)
	require.Equal(t, t0.Add(24*time.Hour), rules.Window(s, older).End)
	require.Equal(t, t0.Add(7*time.Hour), rules.Window(s, older).Idle, "the inactivity clock is the session's")

	s.LastActivity = t0.Add(23 * time.Hour)
	require.True(t, rules.Check(t0.Add(24*time.Hour-ms), s, older).Allow)
	require.Equal(t, policy.ReasonActiveLimit, rules.Check(t0.Add(24*time.Hour), s, older).Reason)
	require.True(t, rules.Check(t0.Add(24*time.Hour), s, policy.Use{}).Allow)

	// A grant cannot be newer than what the session knows of.
	newer := policy.Use{Authenticated: t0.Add(9 * time.Hour)}
	require.Equal(t, t0.Add(27*time.Hour), rules.Window(s, newer).End)
}

func TestASecondClientAddsItsLimits(t *testing.T) {
	rules := rulesOf(policy.Account{
		Limits: policy.Limits{Active: hours(24), Inactivity: hours(2)},
		Clients: map[string]policy.Limits{
			"payroll": {Active: hours(8), Activity: policy.ClassesOf(policy.Interactive, policy.Refresh)},
			"monitor": {Active: policy.Unlimited[time.Duration](), Inactivity: hours(20), Activity: policy.ClassesOf(policy.Refresh, policy.Silent)},
		},
		Kinds: map[policy.Kind]policy.Limits{policy.CLI: {Inactivity: hours(12)}},
	})
	s := browser("a", 0) // began with "web"
	for _, c := range []struct {
		client             string
		active, inactivity time.Duration
	}{
		{"", 24 * time.Hour, 2 * time.Hour},
		{"web", 24 * time.Hour, 2 * time.Hour},
		{"payroll", 8 * time.Hour, 2 * time.Hour},
		{"monitor", 24 * time.Hour, 2 * time.Hour}, // looser for itself, but the session is the web's
		{"nobody knows it", 24 * time.Hour, 2 * time.Hour},
	} {
		w := rules.Window(s, policy.Use{Client: c.client})
		require.Equal(t, policy.Window{End: t0.Add(c.active), Idle: t0.Add(c.inactivity), Active: c.active, Inactivity: c.inactivity}, w, c.client)
	}

	d := rules.Check(t0.Add(2*time.Hour-ms), s, policy.Use{Client: "payroll"})
	require.True(t, d.Allow)
	s.LastActivity = t0.Add(7 * time.Hour)
	d = rules.Check(t0.Add(8*time.Hour), s, policy.Use{Client: "payroll"})
	require.Equal(t, policy.Decision{Reason: policy.ReasonActiveLimit, At: t0.Add(8 * time.Hour), Limit: 8 * time.Hour}, d)
	require.True(t, rules.Check(t0.Add(8*time.Hour), s, policy.Use{}).Allow, "the session itself goes on")

	// A session keeps the limits of the client that it began with.
	s.Client = "payroll"
	require.Equal(t, 8*time.Hour, rules.Window(s, policy.Use{Client: "web"}).Active)

	// Activity slides the clock if both clients' settings say so.
	require.True(t, rules.Slides(s, "payroll", policy.Refresh))
	require.True(t, rules.Slides(s, "monitor", policy.Refresh))
	require.False(t, rules.Slides(s, "monitor", policy.Silent))
	require.False(t, rules.Slides(s, "monitor", policy.Interactive))
	require.False(t, rules.Slides(s, "", policy.Userinfo))
	require.True(t, rules.Slides(s, "web", policy.Interactive))
	s.Client = "monitor"
	require.True(t, rules.Slides(s, "", policy.Silent))
	s.Kind = policy.CLI
	require.Equal(t, 20*time.Hour, rules.Window(s, policy.Use{}).Inactivity)
	require.Equal(t, 12*time.Hour, rules.Window(s, policy.Use{Client: "web"}).Inactivity)
}

func TestDefaultClassesAreAllButSilent(t *testing.T) {
	for _, rules := range []policy.Rules{{}, rulesOf(policy.Account{}), rulesOf(policy.Account{Limits: policy.Limits{Inactivity: hours(1)}})} {
		for _, c := range []policy.Class{policy.Interactive, policy.Refresh, policy.Userinfo, policy.Introspection, policy.Heartbeat} {
			require.True(t, rules.Slides(browser("a", 0), "web", c), c)
		}
		require.False(t, rules.Slides(browser("a", 0), "web", policy.Silent))
	}
	nothing := rulesOf(policy.Account{Limits: policy.Limits{Activity: policy.ClassesOf()}})
	require.False(t, nothing.Slides(browser("a", 0), "web", policy.Interactive), "an empty set is not the default")
}

func TestTouchEvery(t *testing.T) {
	for _, c := range []struct {
		inactivity policy.Bound[time.Duration]
		want       time.Duration
	}{
		{policy.LimitTo(time.Duration(-1)), 0},
		{policy.LimitTo(time.Duration(0)), 0},
		{policy.LimitTo(time.Second), time.Second / 60},
		{policy.LimitTo(15 * time.Minute), 15 * time.Second},
		{policy.LimitTo(30 * time.Minute), 30 * time.Second},
		{policy.LimitTo(30*time.Minute + time.Second), 30 * time.Second},
		{policy.LimitTo(24 * time.Hour), 30 * time.Second},
		{policy.Unlimited[time.Duration](), 30 * time.Second},
		{policy.Bound[time.Duration]{}, 30 * time.Second},
	} {
		rules := rulesOf(policy.Account{Limits: policy.Limits{Inactivity: c.inactivity}})
		require.Equal(t, c.want, rules.TouchEvery(browser("a", 0), "web"), c.inactivity)
	}
}

func TestTokenEnd(t *testing.T) {
	both := policy.Limits{Active: hours(24), Inactivity: hours(2)}
	used := browser("a", 0)
	used.LastActivity = t0.Add(23 * time.Hour)
	for name, c := range map[string]struct {
		limits      policy.Limits
		session     policy.Session
		use         policy.Use
		now         time.Duration
		token, over time.Duration
	}{
		"just used: half the window":           {both, browser("a", 0), policy.Use{}, 0, time.Hour, 2 * time.Hour},
		"not slid: never past the idle end":    {both, browser("a", 0), policy.Use{}, 90 * time.Minute, 2 * time.Hour, 2 * time.Hour},
		"near the absolute end":                {both, used, policy.Use{}, 23*time.Hour + 30*time.Minute, 24 * time.Hour, 24 * time.Hour},
		"an older grant near its absolute end": {both, used, policy.Use{Authenticated: t0.Add(-time.Hour)}, 22*time.Hour + 30*time.Minute, 23 * time.Hour, 23 * time.Hour},
		"no inactivity limit":                  {policy.Limits{Active: hours(24)}, browser("a", 0), policy.Use{}, 0, 24 * time.Hour, 24 * time.Hour},
		"no active limit":                      {policy.Limits{Inactivity: hours(2)}, browser("a", 0), policy.Use{}, 0, time.Hour, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			rules := rulesOf(policy.Account{Limits: c.limits})
			require.Equal(t, t0.Add(c.token), rules.TokenEnd(t0.Add(c.now), c.session, c.use))
			require.Equal(t, t0.Add(c.over), rules.Window(c.session, c.use).Over())
		})
	}
}

func TestAClockSteppedBackExtendsNothing(t *testing.T) {
	rules := rulesOf(policy.Account{Limits: policy.Limits{Active: hours(24), Inactivity: hours(2)}})
	s := browser("a", 0)
	at, _ := rules.Deadline(s)
	token := rules.TokenEnd(t0, s, policy.Use{})
	back := t0.Add(-10 * time.Hour)
	require.True(t, rules.Check(back, s, policy.Use{}).Allow)
	again, _ := rules.Deadline(s)
	require.Equal(t, at, again)
	require.False(t, rules.TokenEnd(back, s, policy.Use{}).After(token))
}

func TestObserve(t *testing.T) {
	settings := policy.Settings{Accounts: map[string]policy.Account{
		"trial": {Observe: true, Limits: policy.Limits{Active: hours(1), Concurrent: policy.LimitTo(1)}},
		"real":  {Limits: policy.Limits{Active: hours(24)}},
	}}
	for _, c := range []struct {
		accounts         []string
		binds, wouldBind time.Duration
		observes         bool
	}{
		{nil, 0, 0, false},
		{[]string{"unknown"}, 0, 0, false},
		{[]string{"real"}, 24 * time.Hour, 24 * time.Hour, false},
		{[]string{"trial"}, 0, time.Hour, true},
		{[]string{"real", "trial"}, 24 * time.Hour, time.Hour, true},
	} {
		who := policy.Who{User: "alice"}
		for _, a := range c.accounts {
			who.Memberships = append(who.Memberships, policy.Membership{Account: a})
		}
		require.Equal(t, c.binds, settings.Rules(who).Window(browser("a", 0), policy.Use{}).Active, c.accounts)
		observed, observes := settings.Observed(who)
		require.Equal(t, c.wouldBind, observed.Window(browser("a", 0), policy.Use{}).Active, c.accounts)
		require.Equal(t, c.observes, observes, c.accounts)
		require.Equal(t, c.observes, observed.Capped(policy.Browser, "web"))
		require.False(t, settings.Rules(who).Capped(policy.Browser, "web"))
	}
}

func TestMembershipsInAnyOrderAndRepeated(t *testing.T) {
	settings := policy.Settings{Accounts: map[string]policy.Account{
		"a": {Limits: policy.Limits{Active: hours(9)}, Groups: map[string]policy.Limits{"x": {Active: hours(3)}, "y": {Active: hours(2), Concurrent: policy.LimitTo(1)}}},
		"b": {Limits: policy.Limits{Active: hours(4), Concurrent: policy.LimitTo(2)}},
	}}
	want := settings.Rules(policy.Who{User: "u", Memberships: []policy.Membership{{Account: "a", Groups: []string{"x", "y"}}, {Account: "b"}}})
	got := settings.Rules(policy.Who{User: "u", Memberships: []policy.Membership{
		{Account: "b"}, {Account: "a", Groups: []string{"y"}}, {Account: "a", Groups: []string{"y", "x", "nobody"}}, {Account: "b"}, {Account: "c"},
	}})
	require.Equal(t, want, got)
	require.Len(t, got.Caps(), 2)
}

func TestAdmitOddInputs(t *testing.T) {
	capOf := func(n int, at policy.AtLimit) policy.Rules {
		return rulesOf(policy.Account{Limits: policy.Limits{Concurrent: policy.LimitTo(n), AtLimit: at}})
	}
	held := []policy.Session{browser("a", -2*time.Hour), browser("b", -time.Hour)}

	t.Run("a cap of none admits none, whatever it says", func(t *testing.T) {
		for _, at := range []policy.AtLimit{policy.InheritAtLimit, policy.Refuse, policy.EndOldest, policy.EndIdlest, policy.Ask, 99} {
			for _, n := range []int{0, -1, math.MinInt} {
				d := capOf(n, at).Admit(t0, nil, browser("next", 0))
				require.Equal(t, policy.Decision{Reason: policy.ReasonConcurrency, Max: n}, d, "%v at %d", at, n)
			}
		}
	})
	t.Run("an action that does not exist refuses", func(t *testing.T) {
		d := capOf(2, 99).Admit(t0, held, browser("next", 0))
		require.Equal(t, policy.Decision{Reason: policy.ReasonConcurrency, Used: 2, Max: 2}, d)
	})
	t.Run("the largest cap", func(t *testing.T) {
		require.True(t, capOf(math.MaxInt, policy.EndOldest).Admit(t0, held, browser("next", 0)).Allow)
	})
	t.Run("a login that continues a session takes no slot and ends nobody", func(t *testing.T) {
		for _, at := range []policy.AtLimit{policy.Refuse, policy.EndOldest, policy.EndIdlest, policy.Ask} {
			require.Equal(t, policy.Decision{Allow: true}, capOf(2, at).Admit(t0, held, browser("a", 0)), at)
		}
	})
	t.Run("a login that is over is refused, for that reason", func(t *testing.T) {
		rules := rulesOf(policy.Account{Limits: policy.Limits{Active: hours(24), Concurrent: policy.LimitTo(1), AtLimit: policy.EndOldest}})
		next := browser("next", 0)
		next.Authenticated = t0.Add(-24 * time.Hour) // the provider's own single sign-on
		require.Equal(t, policy.Decision{Reason: policy.ReasonActiveLimit, At: t0, Limit: 24 * time.Hour}, rules.Admit(t0, held, next))
		next.Authenticated = next.Authenticated.Add(ms)
		require.True(t, rules.Admit(t0, held, next).Allow)
	})
	t.Run("equal times are ended in the order of their IDs", func(t *testing.T) {
		same := []policy.Session{browser("c", 0), browser("a", 0), browser("b", 0)}
		for _, at := range []policy.AtLimit{policy.EndOldest, policy.EndIdlest} {
			d := capOf(3, at).Admit(t0, same, browser("next", 0))
			require.Equal(t, []policy.Ending{{ID: "a", Reason: policy.ReasonConcurrency}}, d.End)
		}
	})
	t.Run("a login that is reserved counts once it is admitted", func(t *testing.T) {
		next := browser("next", 0)
		next.ReservedUntil = t0.Add(time.Minute)
		require.True(t, capOf(1, policy.Refuse).Admit(t0, nil, next).Allow)
		require.False(t, capOf(1, policy.Refuse).Admit(t0.Add(time.Minute-ms), []policy.Session{next}, browser("b", 0)).Allow)
		d := capOf(1, policy.Refuse).Admit(t0.Add(time.Minute), []policy.Session{next}, browser("b", 0))
		require.Equal(t, policy.Decision{Allow: true, End: []policy.Ending{{ID: "next", Reason: policy.ReasonAbandoned}}}, d)
	})
	t.Run("re-entered credentials make a session neither younger nor idle", func(t *testing.T) {
		again := slices.Clone(held)
		again[0].Authenticated = t0 // "a", the oldest
		require.Equal(t, "a", capOf(2, policy.EndOldest).Admit(t0, again, browser("next", 0)).End[0].ID)
		require.Equal(t, "b", capOf(2, policy.EndIdlest).Admit(t0, again, browser("next", 0)).End[0].ID)
	})
}

func TestASlotFreesItselfAtTheDeadline(t *testing.T) {
	rules := rulesOf(policy.Account{Limits: policy.Limits{Active: hours(1), Concurrent: policy.LimitTo(1)}})
	held := []policy.Session{browser("a", 0)}
	deadline := t0.Add(time.Hour)
	require.False(t, rules.Admit(deadline.Add(-ms), held, browser("b", time.Hour)).Allow)
	require.Equal(t,
		policy.Decision{Allow: true, End: []policy.Ending{{ID: "a", Reason: policy.ReasonActiveLimit}}},
		rules.Admit(deadline, held, browser("b", time.Hour)))
}

func TestCapped(t *testing.T) {
	rules := rulesOf(policy.Account{
		Limits:  policy.Limits{Concurrent: policy.LimitTo(3)},
		Kinds:   map[policy.Kind]policy.Limits{policy.CLI: {Concurrent: policy.Unlimited[int]()}},
		Clients: map[string]policy.Limits{"payroll": {Concurrent: policy.LimitTo(1)}, "monitor": {Concurrent: policy.Unlimited[int]()}},
	})
	require.True(t, rules.Capped(policy.Browser, "web"))
	require.False(t, rules.Capped(policy.CLI, "web"))
	require.False(t, rules.Capped(policy.Browser, "monitor"))
	require.True(t, rules.Capped(policy.CLI, "payroll"), "its own cap")
	require.False(t, rulesOf(policy.Account{Limits: policy.Limits{Active: hours(1)}}).Capped(policy.Browser, "web"))
}

func TestSurplus(t *testing.T) {
	var held []policy.Session
	for i, id := range []string{"a", "b", "c", "d"} {
		held = append(held, browser(id, time.Duration(i-4)*time.Hour))
	}
	held[0].LastActivity = t0.Add(-time.Minute)
	limits := func(n int, at policy.AtLimit) policy.Account {
		return policy.Account{Limits: policy.Limits{Concurrent: policy.LimitTo(n), AtLimit: at}}
	}
	changed := func(ids ...string) (end []policy.Ending) {
		for _, id := range ids {
			end = append(end, policy.Ending{ID: id, Reason: policy.ReasonPolicyChange})
		}
		return end
	}
	require.Empty(t, rulesOf(limits(4, policy.EndOldest)).Surplus(t0, held))
	require.Equal(t, changed("a", "b"), rulesOf(limits(2, policy.EndOldest)).Surplus(t0, held))
	require.Equal(t, changed("b", "c", "d"), rulesOf(limits(1, policy.EndIdlest)).Surplus(t0, held))
	require.Empty(t, rulesOf(limits(1, policy.Refuse)).Surplus(t0, held))
	require.Empty(t, rulesOf(limits(1, policy.Ask)).Surplus(t0, held))

	a := limits(1, policy.EndOldest)
	a.Active, a.Inactivity = hours(4), hours(1)
	require.Equal(t, []policy.Ending{
		// b's window ended first, then c's; a reached both of its ends, and
		// activity could not have moved the first of them.
		{ID: "b", Reason: policy.ReasonInactivity}, {ID: "c", Reason: policy.ReasonInactivity},
		{ID: "a", Reason: policy.ReasonActiveLimit}, {ID: "d", Reason: policy.ReasonInactivity},
	}, rulesOf(a).Surplus(t0, held))
}

func TestPreview(t *testing.T) {
	current := settingsOf(policy.Account{Limits: policy.Limits{Active: hours(10), Concurrent: policy.LimitTo(5), AtLimit: policy.EndOldest}})
	holders := []policy.Holder{
		{Who: alice, Sessions: []policy.Session{browser("over", -11*time.Hour), browser("a1", -9*time.Hour), browser("a2", -2*time.Hour), browser("a3", -time.Hour)}},
		{Who: policy.Who{User: "bob", Memberships: alice.Memberships}, Sessions: []policy.Session{browser("b1", -8*time.Hour)}},
		{Who: policy.Who{User: "carol"}, Sessions: []policy.Session{browser("c1", -9*time.Hour)}},
	}
	shorter := settingsOf(policy.Account{Limits: policy.Limits{Active: hours(8), Concurrent: policy.LimitTo(1), AtLimit: policy.EndOldest}})
	require.Equal(t, []policy.Ending{
		{ID: "a1", Reason: policy.ReasonActiveLimit}, {ID: "a2", Reason: policy.ReasonPolicyChange}, {ID: "b1", Reason: policy.ReasonActiveLimit},
	}, policy.Preview(t0, current, shorter, holders))

	require.Empty(t, policy.Preview(t0, current, current, holders), "what is over already is not ended by the change")
	require.Empty(t, policy.Preview(t0, current, policy.Settings{}, holders))
	observed := shorter.Accounts["default"]
	observed.Observe = true
	require.Empty(t, policy.Preview(t0, current, settingsOf(observed), holders))

	// One that is over is not brought back to crowd out another.
	longer := settingsOf(policy.Account{Limits: policy.Limits{Concurrent: policy.LimitTo(3), AtLimit: policy.EndIdlest}})
	require.Empty(t, policy.Preview(t0, current, longer, holders))
}

// A session that no cap counts, or another one than the login's own, is joined by
// nobody who would be counted.
func TestMayJoin(t *testing.T) {
	capped := func(n int) policy.Limits { return policy.Limits{Concurrent: policy.LimitTo(n)} }
	free := policy.Limits{Concurrent: policy.Unlimited[int]()}
	for name, c := range map[string]struct {
		account policy.Account
		client  string // that the session began with
		joins   string
		want    bool
	}{
		"no cap":                            {policy.Account{}, "mail", "files", true},
		"one cap on all":                    {policy.Account{Limits: capped(1)}, "mail", "files", true},
		"the same client":                   {policy.Account{Clients: map[string]policy.Limits{"files": capped(1)}}, "files", "files", true},
		"a cap on the client":               {policy.Account{Clients: map[string]policy.Limits{"files": capped(1)}}, "mail", "files", false},
		"a cap on the other client":         {policy.Account{Clients: map[string]policy.Limits{"mail": capped(1)}}, "mail", "files", true},
		"begun with a client without cap":   {policy.Account{Limits: capped(1), Clients: map[string]policy.Limits{"mail": free}}, "mail", "files", false},
		"joined by a client without cap":    {policy.Account{Limits: capped(1), Clients: map[string]policy.Limits{"files": free}}, "mail", "files", true},
		"both without cap":                  {policy.Account{Limits: capped(1), Clients: map[string]policy.Limits{"files": free, "mail": free}}, "mail", "files", true},
		"a cap on the kind, which both are": {policy.Account{Kinds: map[policy.Kind]policy.Limits{policy.Browser: capped(1)}}, "mail", "files", true},
	} {
		require.Equal(t, c.want, rulesOf(c.account).MayJoin(policy.Session{Kind: policy.Browser, Client: c.client}, c.joins), name)
	}
}
