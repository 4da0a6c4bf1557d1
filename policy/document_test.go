package policy_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/policy/policyyaml"
)

// TestParseRefuses gives the same mistakes in both formats. An empty document
// of a format has no such mistake in it.
func TestParseRefuses(t *testing.T) {
	const known = "known here: active, inactivity, concurrent, at_limit, activity"
	const cap1 = "must be at least 1; write unlimited for no cap"
	for name, c := range map[string]struct {
		json, yaml string
		want       []string // all errors, in order, without lines
	}{
		"nothing":            {"", "", []string{"*"}},
		"cut short":          {`{"accounts": {"default": {"acti`, "accounts: {default: {acti", []string{"*"}},
		"no accounts":        {`{}`, `{}`, []string{"accounts: is missing; write an empty object if no account has settings"}},
		"not an object":      {`[]`, `[]`, []string{"must be an object with named fields"}},
		"a string":           {`"accounts"`, `accounts`, []string{"must be an object with named fields"}},
		"null":               {`null`, `~`, []string{"is empty; it must be an object with named fields, or left out"}},
		"null accounts":      {`{"accounts": null}`, `accounts:`, []string{"accounts: is empty; it must be an object with named fields, or left out"}},
		"null account":       {`{"accounts": {"a": null}}`, "accounts:\n  a:", []string{"accounts.a: is empty; it must be an object with named fields, or left out"}},
		"trailing data":      {`{"accounts": {}} {}`, "accounts: {}\n---\naccounts: {}", []string{"*"}},
		"unknown at the top": {`{"accounts": {}, "version": 1}`, "accounts: {}\nversion: 1", []string{"version: is not a field; known here: accounts"}},
		"unknown in account": {`{"accounts": {"a": {"idle": "2h"}}}`, "accounts: {a: {idle: 2h}}", []string{"accounts.a.idle: is not a field; " + known + ", observe, kinds, clients, groups, users"}},
		"unknown in a kind":  {`{"accounts": {"a": {"kinds": {"cli": {"observe": true}}}}}`, "accounts: {a: {kinds: {cli: {observe: true}}}}", []string{"accounts.a.kinds.cli.observe: is not a field; " + known}},
		"another case":       {`{"accounts": {"a": {"Active": "2h"}}}`, "accounts: {a: {Active: 2h}}", []string{"accounts.a.Active: is not a field; " + known + ", observe, kinds, clients, groups, users"}},
		"twice at the top":   {`{"accounts": {}, "accounts": {}}`, "accounts: {}\naccounts: {}", []string{"accounts: appears twice"}},
		"account twice":      {`{"accounts": {"a": {}, "a": {}}}`, "accounts:\n  a: {}\n  a: {}", []string{"accounts.a: appears twice"}},
		"field twice":        {`{"accounts": {"a": {"active": "1h", "active": "2h"}}}`, "accounts: {a: {active: 1h, active: 2h}}", []string{"accounts.a.active: appears twice"}},
		"user twice":         {`{"accounts": {"a": {"users": {"1": {}, "\u0031": {}}}}}`, "accounts: {a: {users: {1: {}, \"\\x31\": {}}}}", []string{`accounts.a.users.1: appears twice`}},
		"no unit":            {`{"accounts": {"default": {"kinds": {"cli": {"inactivity": "15"}}}}}`, "accounts: {default: {kinds: {cli: {inactivity: \"15\"}}}}", []string{"accounts.default.kinds.cli.inactivity: 15 has no unit; write a duration such as 90m or 24h, or unlimited"}},
		"a number":           {`{"accounts": {"a": {"active": 24}}}`, "accounts: {a: {active: 24}}", []string{"accounts.a.active: 24 has no unit; write a duration such as 90m or 24h, or unlimited"}},
		"zero without unit":  {`{"accounts": {"a": {"active": "0"}}}`, "accounts: {a: {active: '0'}}", []string{"accounts.a.active: 0 has no unit; write a duration such as 90m or 24h, or unlimited"}},
		"zero":               {`{"accounts": {"a": {"active": "0h"}}}`, "accounts: {a: {active: 0h}}", []string{"accounts.a.active: 0h must be above zero"}},
		"negative":           {`{"accounts": {"a": {"active": "-1h"}}}`, "accounts: {a: {active: -1h}}", []string{"accounts.a.active: -1h must be above zero"}},
		"unknown unit":       {`{"accounts": {"a": {"active": "7d"}}}`, "accounts: {a: {active: 7d}}", []string{"accounts.a.active: 7d is not a duration such as 90m or 24h (units h, m, s), nor unlimited"}},
		"too long":           {`{"accounts": {"a": {"active": "9999999h"}}}`, "accounts: {a: {active: 9999999h}}", []string{"accounts.a.active: 9999999h is not a duration such as 90m or 24h (units h, m, s), nor unlimited"}},
		"a space":            {`{"accounts": {"a": {"active": "1h 30m"}}}`, "accounts: {a: {active: 1h 30m}}", []string{`accounts.a.active: "1h 30m" is not a duration such as 90m or 24h (units h, m, s), nor unlimited`}},
		"empty duration":     {`{"accounts": {"a": {"active": ""}}}`, "accounts: {a: {active: ''}}", []string{`accounts.a.active: "" has no unit; write a duration such as 90m or 24h, or unlimited`}},
		"null duration":      {`{"accounts": {"a": {"active": null}}}`, "accounts: {a: {active: }}", []string{"accounts.a.active: is empty; it must be a duration such as 90m or 24h, or unlimited, or left out"}},
		"bool duration":      {`{"accounts": {"a": {"active": true}}}`, "accounts: {a: {active: true}}", []string{"accounts.a.active: must be a duration such as 90m or 24h, or unlimited"}},
		"list for duration":  {`{"accounts": {"a": {"active": ["1h"]}}}`, "accounts: {a: {active: [1h]}}", []string{"accounts.a.active: must be a duration such as 90m or 24h, or unlimited"}},
		"cap of none":        {`{"accounts": {"a": {"concurrent": 0}}}`, "accounts: {a: {concurrent: 0}}", []string{"accounts.a.concurrent: " + cap1}},
		"negative cap":       {`{"accounts": {"a": {"concurrent": -1}}}`, "accounts: {a: {concurrent: -1}}", []string{"accounts.a.concurrent: " + cap1}},
		"broken cap":         {`{"accounts": {"a": {"concurrent": "1.5"}}}`, "accounts: {a: {concurrent: 1.5}}", []string{"accounts.a.concurrent: must be a whole number of at least 1, or unlimited"}},
		"cap as text":        {`{"accounts": {"a": {"concurrent": "3"}}}`, "accounts: {a: {concurrent: '3'}}", []string{"accounts.a.concurrent: must be a whole number of at least 1, or unlimited"}},
		"cap with unit":      {`{"accounts": {"a": {"concurrent": "3h"}}}`, "accounts: {a: {concurrent: 3h}}", []string{"accounts.a.concurrent: must be a whole number of at least 1, or unlimited"}},
		"huge cap":           {`{"accounts": {"a": {"concurrent": 99999999999999999999}}}`, "", []string{"accounts.a.concurrent: 99999999999999999999 is too large; write unlimited for no cap"}},
		"cap as exponent":    {`{"accounts": {"a": {"concurrent": 1e2}}}`, "", []string{"accounts.a.concurrent: 1e2 is not a whole number"}},
		"octal cap":          {"", "accounts: {a: {concurrent: 010}}", []string{"accounts.a.concurrent: must be a whole number of at least 1, or unlimited"}},
		"unknown action":     {`{"accounts": {"a": {"at_limit": "kick"}}}`, "accounts: {a: {at_limit: kick}}", []string{"accounts.a.at_limit: must be one of refuse, end_oldest, end_idlest, ask"}},
		"action as number":   {`{"accounts": {"a": {"at_limit": 1}}}`, "accounts: {a: {at_limit: 1}}", []string{"accounts.a.at_limit: must be one of refuse, end_oldest, end_idlest, ask"}},
		"unknown class":      {`{"accounts": {"a": {"activity": ["refresh", "mouse"]}}}`, "accounts: {a: {activity: [refresh, mouse]}}", []string{"accounts.a.activity[1]: must be one of interactive, refresh, silent, userinfo, introspection, heartbeat"}},
		"class twice":        {`{"accounts": {"a": {"activity": ["refresh", "refresh"]}}}`, "accounts: {a: {activity: [refresh, refresh]}}", []string{"accounts.a.activity[1]: appears twice"}},
		"class alone":        {`{"accounts": {"a": {"activity": "refresh"}}}`, "accounts: {a: {activity: refresh}}", []string{"accounts.a.activity: must be a list of interactive, refresh, silent, userinfo, introspection, heartbeat"}},
		"class as object":    {`{"accounts": {"a": {"activity": [{}]}}}`, "accounts: {a: {activity: [{}]}}", []string{"accounts.a.activity[0]: must be one of interactive, refresh, silent, userinfo, introspection, heartbeat"}},
		"observe as text":    {`{"accounts": {"a": {"observe": "yes"}}}`, "accounts: {a: {observe: yes}}", []string{"accounts.a.observe: must be true or false"}},
		"kinds as list":      {`{"accounts": {"a": {"kinds": []}}}`, "accounts: {a: {kinds: []}}", []string{"accounts.a.kinds: must be an object with named fields"}},
		"no name":            {`{"accounts": {"": {}}}`, "accounts: {'': {}}", []string{`accounts."": the name is empty`}},
		"replaced name":      {`{"accounts": {"a": {"users": {"\ud800": {}}}}}`, "accounts: {a: {users: {\"\\uFFFD\": {}}}}", []string{`accounts.a.users."\ufffd": the name is not valid UTF-8`}},
		"a name with a dot":  {`{"accounts": {"a.b": {"users": {"x\ny": {"active": 1}}}}}`, "accounts: {a.b: {users: {\"x\\ny\": {active: 1}}}}", []string{`accounts."a.b".users."x\ny".active: 1 has no unit; write a duration such as 90m or 24h, or unlimited`}},
		"not UTF-8":          {"{\"accounts\": {\"\xff\": {}}}", "accounts: {\"\xff\": {}}", []string{"*"}},
		"nested too deeply":  {`{"accounts": ` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, "accounts: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), []string{"is nested too deeply"}},
		"bottomless":         {strings.Repeat("[", 200_000), strings.Repeat("[", 200_000), []string{"*"}},
		"too large":          {`{"accounts": {}}` + strings.Repeat(" ", policy.MaxDocument), "accounts: {}" + strings.Repeat(" ", policy.MaxDocument), []string{"is larger than 4194304 bytes"}},
		"several at once": {
			`{"accounts": {"a": {"active": 1, "kinds": {"cli": {"concurrent": 0}}, "x": 1}, "b": {"observe": 1}}}`,
			"accounts:\n  a:\n    active: 1\n    kinds: {cli: {concurrent: 0}}\n    x: 1\n  b: {observe: 1}",
			[]string{
				"accounts.a.active: 1 has no unit; write a duration such as 90m or 24h, or unlimited",
				"accounts.a.kinds.cli.concurrent: " + cap1,
				"accounts.a.x: is not a field; " + known + ", observe, kinds, clients, groups, users",
				"accounts.b.observe: must be true or false",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(t *testing.T, s policy.Settings, err error) {
				var problems policy.FieldErrors
				require.ErrorAs(t, err, &problems)
				var one *policy.FieldError
				require.ErrorAs(t, err, &one)
				require.Zero(t, s)
				var got []string
				for _, p := range problems {
					require.NotEmpty(t, p.Reason)
					require.Less(t, len(p.Error()), 500)
					p.Line = 0
					got = append(got, p.Error())
				}
				if c.want[0] != "*" { // the words are those of the parser of the format
					require.Equal(t, c.want, got)
				}
			}
			if c.json != "" || c.yaml == "" {
				s, err := policy.ParseSettings([]byte(c.json))
				check(t, s, err)
			}
			if c.yaml != "" || c.json == "" {
				s, err := policyyaml.ParseSettings([]byte(c.yaml))
				check(t, s, err)
			}
		})
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	_, err := policy.ParseSettings([]byte("{\"accounts\": {\n  \"a\": {\n\n    \"active\":\n  7}}}"))
	require.EqualError(t, err, "line 5: accounts.a.active: 7 has no unit; write a duration such as 90m or 24h, or unlimited")
	_, err = policy.ParseSettings([]byte("{\"accounts\":\n{]}"))
	require.ErrorContains(t, err, "line 2: is not JSON: ")
}

const everyScope = `{"accounts": {"default": {
  "active": "24h", "inactivity": "2h", "concurrent": 3, "at_limit": "refuse",
  "activity": ["interactive", "refresh", "userinfo", "introspection", "heartbeat"],
  "kinds": {"cli": {"inactivity": "12h", "concurrent": "unlimited"}},
  "clients": {"payroll": {"active": "8h"}},
  "groups": {"contractors": {"concurrent": 1}},
  "users": {"root": {"inactivity": "15m"}}}}}`

func everyScopeSettings() policy.Settings {
	return settingsOf(policy.Account{
		Limits: policy.Limits{
			Active: hours(24), Inactivity: hours(2), Concurrent: policy.LimitTo(3), AtLimit: policy.Refuse, Activity: policy.DefaultClasses,
		},
		Kinds:   map[policy.Kind]policy.Limits{policy.CLI: {Inactivity: hours(12), Concurrent: policy.Unlimited[int]()}},
		Clients: map[string]policy.Limits{"payroll": {Active: hours(8)}},
		Groups:  map[string]policy.Limits{"contractors": {Concurrent: policy.LimitTo(1)}},
		Users:   map[string]policy.Limits{"root": {Inactivity: hours(0.25)}},
	})
}

func TestParseEveryScope(t *testing.T) {
	s, err := policy.ParseSettings([]byte(everyScope))
	require.NoError(t, err)
	require.Equal(t, everyScopeSettings(), s)
	require.NoError(t, s.Validate(policy.DefaultRange))

	data, err := json.Marshal(s)
	require.NoError(t, err)
	require.JSONEq(t, everyScope, string(data))

	a := s.Accounts["default"]
	data, err = a.MarshalJSON()
	require.NoError(t, err)
	again, err := policy.ParseAccount(data)
	require.NoError(t, err)
	require.Equal(t, a, again)
}

func TestParseAccountNamesPathsWithinTheAccount(t *testing.T) {
	_, err := policy.ParseAccount([]byte(`{"kinds": {"cli": {"inactivity": "15"}}}`))
	require.EqualError(t, err, "line 1: kinds.cli.inactivity: 15 has no unit; write a duration such as 90m or 24h, or unlimited")
	a, err := policy.ParseAccount([]byte(`{}`))
	require.NoError(t, err)
	require.Zero(t, a)
	_, err = policy.ParseAccount(nil)
	require.Error(t, err)
}

func TestInheritMayBeWritten(t *testing.T) {
	a, err := policy.ParseAccount([]byte(`{"active": "inherit", "inactivity": "inherit", "concurrent": "inherit", "at_limit": "inherit", "activity": "inherit"}`))
	require.NoError(t, err)
	require.Zero(t, a)
}

func TestAFailedParseLeavesTheOldSettings(t *testing.T) {
	s, want := everyScopeSettings(), everyScopeSettings()
	require.Error(t, s.UnmarshalJSON([]byte(`{"accounts": {"default": {"active": 1}}}`)))
	require.Equal(t, want, s)
	a := want.Accounts["default"]
	require.Error(t, a.UnmarshalJSON([]byte(`{"active": 1}`)))
	require.Equal(t, want.Accounts["default"], a)
}

func TestMarshalRefusesWhatWouldNotParse(t *testing.T) {
	for want, a := range map[string]policy.Account{
		"active: must be above zero":                                            {Limits: policy.Limits{Active: policy.LimitTo(time.Duration(0))}},
		"users.bob.inactivity: must be above zero":                              {Users: map[string]policy.Limits{"bob": {Inactivity: hours(-1)}}},
		"kinds.cli.concurrent: must be at least 1; write unlimited for no cap":  {Kinds: map[policy.Kind]policy.Limits{policy.CLI: {Concurrent: policy.LimitTo(0)}}},
		"groups.g.at_limit: must be one of refuse, end_oldest, end_idlest, ask": {Groups: map[string]policy.Limits{"g": {AtLimit: 9}}},
		"activity: contains a class that is not defined":                        {Limits: policy.Limits{Activity: policy.ClassesOf(6)}},
		`clients."\xff": the name is not valid UTF-8`:                           {Clients: map[string]policy.Limits{"\xff": {}}},
		`kinds."": the name is empty`:                                           {Kinds: map[policy.Kind]policy.Limits{"": {}}},
		"active: must be above zero\ninactivity: must be above zero":            {Limits: policy.Limits{Active: hours(-1), Inactivity: hours(-1)}},
	} {
		_, err := a.MarshalJSON()
		require.EqualError(t, err, want)
		_, err = settingsOf(a).MarshalJSON()
		var problems policy.FieldErrors
		require.ErrorAs(t, err, &problems)
		require.True(t, strings.HasPrefix(problems[0].Path, "accounts.default."))
		_, err = policyyaml.MarshalAccount(a)
		require.EqualError(t, err, want)
	}
	_, err := policy.Settings{Accounts: map[string]policy.Account{"": {}}}.MarshalJSON()
	require.EqualError(t, err, `accounts."": the name is empty`)
	users := map[string]policy.Limits{}
	for i := range 60_000 {
		users[strings.Repeat("x", 64)+string(rune('a'+i%26))+time.Duration(i).String()] = policy.Limits{}
	}
	_, err = policy.Account{Users: users}.MarshalJSON()
	require.EqualError(t, err, "is larger than 4194304 bytes")
}

func TestTexts(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"24h": 24 * time.Hour, "1h30m": 90 * time.Minute, "1m": time.Minute, "10m": 10 * time.Minute, "100h0m1s": 100*time.Hour + time.Second,
		"30s": 30 * time.Second, "0s": 0, "1.5s": 1500 * time.Millisecond, "20h10m": 20*time.Hour + 10*time.Minute, "1ns": 1,
	} {
		require.Equal(t, want, policy.LimitTo(d).String())
		back, err := time.ParseDuration(want)
		require.NoError(t, err)
		require.Equal(t, d, back)
	}
	require.Equal(t, "unlimited", policy.Unlimited[int]().String())
	require.Equal(t, "inherit", policy.Bound[int]{}.String())
	require.Equal(t, "3", policy.LimitTo(3).String())

	for _, name := range []string{"inherit", "refuse", "end_oldest", "end_idlest", "ask"} {
		var a policy.AtLimit
		require.NoError(t, a.UnmarshalText([]byte(name)))
		text, err := a.MarshalText()
		require.NoError(t, err)
		require.Equal(t, name, string(text))
	}
	_, err := policy.AtLimit(9).MarshalText()
	require.Error(t, err)
	require.Equal(t, "AtLimit(9)", policy.AtLimit(9).String())

	for _, name := range []string{"interactive", "refresh", "silent", "userinfo", "introspection", "heartbeat"} {
		c, err := policy.ParseClass(name)
		require.NoError(t, err)
		require.Equal(t, name, c.String())
	}
	_, err = policy.ParseClass("inherit")
	require.Error(t, err)
	require.Equal(t, "Class(9)", policy.Class(9).String())

	require.Nil(t, policy.Classes(0).List())
	require.Equal(t, []policy.Class{}, policy.ClassesOf().List())
	require.Equal(t, []policy.Class{policy.Refresh, policy.Heartbeat}, policy.ClassesOf(policy.Heartbeat, policy.Refresh).List())
	require.Equal(t, "[]", policy.ClassesOf().String())
}

func TestValidateReportsEverything(t *testing.T) {
	s := policy.Settings{Accounts: map[string]policy.Account{
		"a": {
			Limits: policy.Limits{Active: hours(721), Inactivity: hours(25), Concurrent: policy.LimitTo(0), AtLimit: 7, Activity: policy.ClassesOf(6)},
			Kinds: map[policy.Kind]policy.Limits{
				"desktop":  {},
				policy.CLI: {AtLimit: policy.EndOldest, Concurrent: policy.Unlimited[int]()},
			},
			Clients: map[string]policy.Limits{"payroll": {Active: hours(0.1), Inactivity: hours(0.1)}, "x": {AtLimit: policy.Ask}},
			Users:   map[string]policy.Limits{"": {Active: hours(0)}, "root": {AtLimit: policy.Ask}},
		},
		"b": {
			Limits:  policy.Limits{Active: hours(2), Inactivity: hours(1)},
			Clients: map[string]policy.Limits{"same scope": {Active: hours(1), Inactivity: hours(1.5)}, "short": {Active: hours(0.5)}},
			Groups:  map[string]policy.Limits{"long": {Inactivity: hours(3)}},
			Users:   map[string]policy.Limits{"fine": {Active: policy.Unlimited[time.Duration](), Inactivity: hours(24)}, "equal": {Active: hours(1)}},
		},
		"c": {Limits: policy.Limits{Active: hours(1), Inactivity: hours(2)}},
		"d": {Limits: policy.Limits{Active: hours(720), Inactivity: hours(24), Concurrent: policy.LimitTo(1)}, Users: map[string]policy.Limits{"least": {Active: hours(0.25), Inactivity: hours(0.25)}}},
	}}
	err := s.Validate(policy.DefaultRange)
	var problems policy.FieldErrors
	require.ErrorAs(t, err, &problems)
	const dead = "has no effect without a number in concurrent beside it: what happens at the wider caps is for users, groups and the account to say"
	require.Equal(t, []string{
		"accounts.a.concurrent: must be at least 1; write unlimited for no cap",
		"accounts.a.at_limit: must be one of refuse, end_oldest, end_idlest, ask",
		"accounts.a.activity: contains a class that is not defined",
		"accounts.a.active: 721h is above the maximum of 720h",
		"accounts.a.inactivity: 25h is above the maximum of 24h",
		"accounts.a.kinds.cli.at_limit: " + dead,
		"accounts.a.kinds.desktop: is not a kind of session; there are browser, cli and automation",
		"accounts.a.clients.payroll.active: 6m is below the floor of 15m",
		"accounts.a.clients.payroll.inactivity: 6m is below the floor of 15m",
		"accounts.a.clients.x.at_limit: " + dead,
		`accounts.a.users."": the name is empty`,
		`accounts.a.users."".active: must be above zero`,
		`accounts.a.users."".active: 0s is below inactivity, which is the account's 25h`,
		`accounts.b.clients."same scope".inactivity: 1h30m is above active 1h`,
		"accounts.b.clients.short.active: 30m is below inactivity, which is the account's 1h",
		"accounts.b.groups.long.inactivity: 3h is above active, which is the account's 2h",
		"accounts.c.inactivity: 2h is above active 1h",
	}, strings.Split(err.Error(), "\n"))
	require.Len(t, problems.Unwrap(), 17)

	require.NoError(t, policy.Settings{}.Validate(policy.DefaultRange))
	require.NoError(t, everyScopeSettings().Validate(policy.DefaultRange))
	require.NoError(t, policy.Account{Limits: policy.Limits{Active: hours(9000), Inactivity: policy.LimitTo(time.Second)}}.Validate(policy.Range{}))
	require.EqualError(t, policy.Account{Limits: policy.Limits{Active: hours(2)}}.Validate(policy.Range{ActiveMax: time.Hour}), "active: 2h is above the maximum of 1h")
}

func TestValidateAtTheEdges(t *testing.T) {
	r := policy.DefaultRange
	for _, c := range []struct {
		limits policy.Limits
		valid  bool
	}{
		{policy.Limits{Active: policy.LimitTo(r.ActiveMax)}, true},
		{policy.Limits{Active: policy.LimitTo(r.ActiveMax + ms)}, false},
		{policy.Limits{Active: policy.LimitTo(r.ActiveMin)}, true},
		{policy.Limits{Active: policy.LimitTo(r.ActiveMin - ms)}, false},
		{policy.Limits{Inactivity: policy.LimitTo(r.InactivityMax)}, true},
		{policy.Limits{Inactivity: policy.LimitTo(r.InactivityMax + ms)}, false},
		{policy.Limits{Inactivity: policy.LimitTo(r.InactivityMin)}, true},
		{policy.Limits{Inactivity: policy.LimitTo(r.InactivityMin - ms)}, false},
		{policy.Limits{Active: hours(1), Inactivity: hours(1)}, true},
		{policy.Limits{Active: hours(1), Inactivity: policy.LimitTo(time.Hour + ms)}, false},
		{policy.Limits{Active: hours(1), Inactivity: policy.Unlimited[time.Duration]()}, true},
	} {
		err := policy.Account{Limits: c.limits}.Validate(r)
		require.Equal(t, c.valid, err == nil, "%v %v: %v", c.limits.Active, c.limits.Inactivity, err)
	}
}
