package policy_test

import (
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/policy"
)

// An account allows two sessions, each for a day, and signs out after two hours
// without activity. The third login ends the session with the earliest one.
func Example() {
	settings := policy.Settings{Accounts: map[string]policy.Account{
		"default": {Limits: policy.Limits{
			Active:     policy.LimitTo(24 * time.Hour),
			Inactivity: policy.LimitTo(2 * time.Hour),
			Concurrent: policy.LimitTo(2),
			AtLimit:    policy.EndOldest,
		}},
	}}
	rules := settings.Rules(policy.Who{User: "alice", Memberships: []policy.Membership{{Account: "default"}}})

	login := func(id string, at time.Time) policy.Session {
		return policy.Session{ID: id, Kind: policy.Browser, Client: "web", Started: at, Authenticated: at, LastActivity: at}
	}
	morning := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	held := []policy.Session{login("desk", morning), login("laptop", morning.Add(time.Hour))}

	now := morning.Add(90 * time.Minute)
	d := rules.Admit(now, held, login("phone", now))
	fmt.Println(d.Allow, d.End)

	now = morning.Add(3 * time.Hour)
	d = rules.Check(now, held[1], policy.Use{})
	fmt.Println(d.Allow, d.Reason, "after", d.Limit)

	// Output:
	// true [{desk concurrency}]
	// false inactivity after 2h0m0s
}

func ExampleRules_Explain() {
	settings, err := policy.ParseSettings([]byte(`{"accounts": {"default": {
		"active": "24h", "inactivity": "2h", "concurrent": 3,
		"kinds": {"cli": {"inactivity": "12h", "concurrent": "unlimited"}},
		"clients": {"payroll": {"active": "8h"}},
		"groups": {"contractors": {"concurrent": 1, "at_limit": "end_oldest"}}
	}}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	rules := settings.Rules(policy.Who{User: "alice", Memberships: []policy.Membership{
		{Account: "default", Groups: []string{"contractors"}},
	}})
	fmt.Print(rules.Explain(policy.Browser, "payroll"))
	fmt.Println()
	fmt.Print(rules.Explain(policy.CLI, "tool"))
	// Output:
	// active: 8h, from accounts.default.clients.payroll, over 24h (accounts.default)
	// inactivity: 2h, from accounts.default
	// activity: [interactive, refresh, userinfo, introspection, heartbeat] (no scope sets it)
	// concurrent: 1, from accounts.default.groups.contractors, over 3 (accounts.default)
	//   at_limit: end_oldest, from accounts.default.groups.contractors
	//
	// active: 24h, from accounts.default
	// inactivity: 12h, from accounts.default.kinds.cli, over 2h (accounts.default)
	// activity: [interactive, refresh, userinfo, introspection, heartbeat] (no scope sets it)
	// concurrent (not counted here: accounts.default.kinds.cli is unlimited): 1, from accounts.default.groups.contractors, over 3 (accounts.default)
	//   at_limit: end_oldest, from accounts.default.groups.contractors
}

func ExamplePreview() {
	account := policy.Account{Limits: policy.Limits{Inactivity: policy.LimitTo(8 * time.Hour)}}
	current := policy.Settings{Accounts: map[string]policy.Account{"default": account}}
	account.Inactivity = policy.LimitTo(2 * time.Hour)
	proposed := policy.Settings{Accounts: map[string]policy.Account{"default": account}}

	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	used := func(id string, ago time.Duration) policy.Session {
		at := now.Add(-ago)
		return policy.Session{ID: id, Kind: policy.Browser, Started: at, Authenticated: at, LastActivity: at}
	}
	fmt.Println(policy.Preview(now, current, proposed, []policy.Holder{{
		Who:      policy.Who{User: "alice", Memberships: []policy.Membership{{Account: "default"}}},
		Sessions: []policy.Session{used("desk", 3*time.Hour), used("phone", time.Hour), used("gone", 9*time.Hour)},
	}}))
	// Output: [{desk inactivity}]
}

func ExampleSettings_Validate() {
	settings := policy.Settings{Accounts: map[string]policy.Account{"default": {
		Limits:  policy.Limits{Active: policy.LimitTo(1000 * time.Hour), Inactivity: policy.LimitTo(2 * time.Hour)},
		Clients: map[string]policy.Limits{"payroll": {Active: policy.LimitTo(time.Hour)}},
	}}}
	fmt.Println(settings.Validate(policy.DefaultRange))
	// Output:
	// accounts.default.active: 1000h is above the maximum of 720h
	// accounts.default.clients.payroll.active: 1h is below inactivity, which is the account's 2h
}
