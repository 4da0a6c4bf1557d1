package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

func TestDiff(t *testing.T) {
	before := policy.Account{
		Limits: policy.Limits{Active: policy.LimitTo(24 * time.Hour), AtLimit: policy.Refuse},
		Kinds:  map[policy.Kind]policy.Limits{policy.CLI: {Inactivity: policy.LimitTo(time.Hour)}},
		Users:  map[string]policy.Limits{"gone": {Concurrent: policy.LimitTo(1)}, "same": {Active: policy.LimitTo(time.Hour)}},
	}
	after := policy.Account{
		Limits:  policy.Limits{Active: policy.LimitTo(8 * time.Hour), Activity: policy.ClassesOf(policy.Interactive)},
		Observe: true,
		Kinds:   map[policy.Kind]policy.Limits{policy.CLI: {Inactivity: policy.Unlimited[time.Duration]()}},
		Clients: map[string]policy.Limits{"a.b": {Concurrent: policy.LimitTo(2)}, "empty": {}},
		Users:   map[string]policy.Limits{"same": {Active: policy.LimitTo(time.Hour)}},
	}
	require.Equal(t, []policy.Change{
		{Path: "active", Before: "24h", After: "8h"},
		{Path: "at_limit", Before: "refuse", After: "inherit"},
		{Path: "activity", Before: "inherit", After: "[interactive]"},
		{Path: "observe", Before: "false", After: "true"},
		{Path: "kinds.cli.inactivity", Before: "1h", After: "unlimited"},
		{Path: `clients."a.b".concurrent`, Before: "inherit", After: "2"},
		{Path: "users.gone.concurrent", Before: "1", After: "inherit"},
	}, policy.Diff(before, after))
	require.Empty(t, policy.Diff(after, after))
}
