package policy_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

func TestExplainNothing(t *testing.T) {
	for _, rules := range []policy.Rules{{}, rulesOf(policy.Account{}), rulesOf(policy.Account{Limits: policy.Limits{AtLimit: policy.Ask}})} {
		e := rules.Explain(policy.Browser, "web")
		require.Equal(t, policy.DefaultClasses, e.Activity.Value)
		require.Empty(t, e.Caps)
		require.Equal(t, `active: inherit (no scope sets it)
inactivity: inherit (no scope sets it)
activity: [interactive, refresh, userinfo, introspection, heartbeat] (no scope sets it)
`, e.String())
	}
}

func TestExplainNamesWhatWasOverrodeEvenIfItAgrees(t *testing.T) {
	a := policy.Account{
		Limits: policy.Limits{Active: hours(8)},
		Kinds:  map[policy.Kind]policy.Limits{policy.Browser: {Active: hours(9)}},
		Users:  map[string]policy.Limits{"alice": {Active: hours(8)}},
	}
	user, kind, account := policy.Scope{Account: "default", User: "alice"}, policy.Scope{Account: "default", Kind: policy.Browser}, policy.Scope{Account: "default"}
	require.Equal(t, policy.Explained[policy.Bound[time.Duration]]{
		Value: hours(8), From: []policy.Scope{user},
		Overrode: []policy.Setting[policy.Bound[time.Duration]]{{Value: hours(9), From: kind}, {Value: hours(8), From: account}},
	}, rulesOf(a).Explain(policy.Browser, "web").Active)
}

func TestExplainCaps(t *testing.T) {
	rules := rulesOf(policy.Account{
		Limits:  policy.Limits{Concurrent: policy.LimitTo(5), AtLimit: policy.Ask},
		Kinds:   map[policy.Kind]policy.Limits{policy.Browser: {Concurrent: policy.LimitTo(3)}, policy.CLI: {Concurrent: policy.Unlimited[int]()}},
		Clients: map[string]policy.Limits{"web": {Concurrent: policy.LimitTo(2), AtLimit: policy.EndIdlest}, "monitor": {Concurrent: policy.Unlimited[int]()}},
		Users:   map[string]policy.Limits{"alice": {Concurrent: policy.Unlimited[int](), AtLimit: policy.EndOldest}, "bob": {Concurrent: policy.LimitTo(1)}},
	})
	require.Equal(t, `active: inherit (no scope sets it)
inactivity: inherit (no scope sets it)
activity: [interactive, refresh, userinfo, introspection, heartbeat] (no scope sets it)
concurrent: 2, from accounts.default.clients.web
  at_limit: end_idlest, from accounts.default.clients.web, over end_oldest (accounts.default.users.alice), ask (accounts.default)
concurrent: 3, from accounts.default.kinds.browser
  at_limit: end_oldest, from accounts.default.users.alice, over ask (accounts.default)
concurrent: unlimited, from accounts.default.users.alice, over 5 (accounts.default)
`, rules.Explain(policy.Browser, "web").String())

	exempt := rules.Explain(policy.Browser, "monitor").Caps
	require.Len(t, exempt, 2)
	require.Equal(t, []policy.Scope{{Account: "default", Client: "monitor"}}, exempt[0].Exempt)
	require.False(t, exempt[0].Counts())
	both := rules.Explain(policy.CLI, "monitor").Caps
	require.Len(t, both, 1)
	require.Equal(t, []policy.Scope{{Account: "default", Client: "monitor"}, {Account: "default", Kind: policy.CLI}}, both[0].Exempt)
	require.Nil(t, both[0].AtLimit, "unlimited")
	require.False(t, both[0].Counts())
}

// TestExplainInJSON holds the form, which consoles read.
func TestExplainInJSON(t *testing.T) {
	rules := rulesOf(policy.Account{
		Limits: policy.Limits{Active: hours(24), Concurrent: policy.LimitTo(3)},
		Users:  map[string]policy.Limits{"alice": {Concurrent: policy.LimitTo(2)}},
	})
	data, err := json.Marshal(rules.Explain(policy.Browser, "web"))
	require.NoError(t, err)
	require.JSONEq(t, `{
		"kind": "browser", "client": "web",
		"active": {"value": "24h", "from": [{"account": "default"}], "overrode": []},
		"inactivity": {"value": "inherit", "from": [], "overrode": []},
		"activity": {"value": ["interactive", "refresh", "userinfo", "introspection", "heartbeat"], "from": [], "overrode": []},
		"caps": [{
			"max": 2, "from": {"account": "default", "user": "alice"}, "exempt": [],
			"at_limit": {"value": "refuse", "from": [], "overrode": []},
			"overrode": [{"value": 3, "from": {"account": "default"}}]
		}]
	}`, string(data))
}

func TestScopesAreWrittenAsPaths(t *testing.T) {
	for want, s := range map[string]policy.Scope{
		`accounts.default`:                     {Account: "default"},
		`accounts.default.kinds.cli`:           {Account: "default", Kind: policy.CLI},
		`accounts.default.clients.web@x`:       {Account: "default", Client: "web@x"},
		`accounts."a.b".groups."the \"best\""`: {Account: "a.b", Group: `the "best"`},
		`accounts.default.users."\u00e9\n"`:    {Account: "default", User: "é\n"},
		`accounts."".users.https://idp/x`:      {User: "https://idp/x"},
	} {
		require.Equal(t, want, s.String())
	}
}
