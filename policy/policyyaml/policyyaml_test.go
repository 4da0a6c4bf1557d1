package policyyaml_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/policy/policyyaml"
)

// everyScope is the example of the documentation.
const everyScope = `# settings.yaml: every scope shown once
accounts:
  default:
    active: 24h
    inactivity: 2h
    concurrent: 3              # or unlimited
    at_limit: refuse           # end_oldest, end_idlest, ask
    activity: [interactive, refresh, userinfo, introspection, heartbeat]
    kinds:
      cli: {inactivity: 12h, concurrent: unlimited}
    clients:
      payroll: {active: 8h}
    groups:
      contractors: {concurrent: 1}
    users:
      root: {inactivity: 15m}
`

func TestEveryScope(t *testing.T) {
	s, err := policyyaml.ParseSettings([]byte(everyScope))
	require.NoError(t, err)
	require.NoError(t, s.Validate(policy.DefaultRange))
	require.Equal(t, policy.Settings{Accounts: map[string]policy.Account{"default": {
		Limits: policy.Limits{
			Active: policy.LimitTo(24 * time.Hour), Inactivity: policy.LimitTo(2 * time.Hour),
			Concurrent: policy.LimitTo(3), AtLimit: policy.Refuse, Activity: policy.DefaultClasses,
		},
		Kinds:   map[policy.Kind]policy.Limits{policy.CLI: {Inactivity: policy.LimitTo(12 * time.Hour), Concurrent: policy.Unlimited[int]()}},
		Clients: map[string]policy.Limits{"payroll": {Active: policy.LimitTo(8 * time.Hour)}},
		Groups:  map[string]policy.Limits{"contractors": {Concurrent: policy.LimitTo(1)}},
		Users:   map[string]policy.Limits{"root": {Inactivity: policy.LimitTo(15 * time.Minute)}},
	}}}, s)

	data, err := policyyaml.MarshalSettings(s)
	require.NoError(t, err)
	again, err := policyyaml.ParseSettings(data)
	require.NoError(t, err)
	require.Equal(t, s, again)
}

// TestRefusesWhatOnlyYAMLHas is about what JSON has no way to say; the other
// mistakes are tested for both formats in package policy.
func TestRefusesWhatOnlyYAMLHas(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s*%c]\n", c, c, strings.Repeat(fmt.Sprintf("*%c, ", c-1), 8), c-1)
	}
	for name, c := range map[string]struct{ doc, want string }{
		"anchor bomb":        {bomb, "line 1: anchors and aliases are not accepted; write the value out"},
		"anchor alone":       {"accounts: &x {}", "line 1: anchors and aliases are not accepted; write the value out"},
		"anchored name":      {"&x accounts: {}", "line 1: the name of a field must be plain text"},
		"alias of itself":    {"accounts: &x\n  a: *x", "line 1: anchors and aliases are not accepted; write the value out"},
		"alias of nothing":   {"accounts: *x", "is not YAML: unknown anchor 'x' referenced"},
		"merge key":          {"accounts:\n  a:\n    <<: {active: 1h}", `line 3: the name "<<" must be quoted, or YAML takes it for something else`},
		"tag":                {"accounts: {a: {active: !!str 1h}}", `line 1: tags such as "!!str" are not accepted`},
		"unknown tag":        {"accounts: !settings {}", `line 1: tags such as "!settings" are not accepted`},
		"tagged name":        {"!!str accounts: {}", "line 1: the name of a field must be plain text"},
		"name that is true":  {"accounts:\n\n  true: {}", `line 3: the name "true" must be quoted, or YAML takes it for something else`},
		"name that is null":  {"accounts: {~: {}}", `line 1: the name "~" must be quoted, or YAML takes it for something else`},
		"name that is 1.5":   {"accounts: {1.5: {}}", `line 1: the name "1.5" must be quoted, or YAML takes it for something else`},
		"name that is a map": {"accounts: {{a: b}: {}}", "line 1: the name of a field must be plain text"},
		"two documents":      {"accounts: {}\n---\naccounts: {}\n", "line 2: has more than one YAML document"},
		"comments only":      {"# nothing\n", "is empty"},
		"empty document":     {"---\n", "line 2: is empty; it must be an object with named fields, or left out"},
		"tab":                {"accounts:\n\ta: {}", "is not YAML: line 2: found character that cannot start any token"},
		"sexagesimal":        {"accounts: {a: {active: 1:30}}", "line 1: accounts.a.active: 1:30 is not a duration such as 90m or 24h (units h, m, s), nor unlimited"},
		"hexadecimal":        {"accounts: {a: {concurrent: 0x10}}", "line 1: accounts.a.concurrent: must be a whole number of at least 1, or unlimited"},
		"duplicate":          {"accounts:\n  a:\n    active: 1h\n    inactivity: 1h\n    active: 2h", "line 5: accounts.a.active: appears twice"},
		"lines of errors":    {"accounts:\n  a:\n    active: 15\n\n    kinds:\n      cli:\n        # a comment\n        idle: 2h", "line 3: accounts.a.active: 15 has no unit; write a duration such as 90m or 24h, or unlimited\nline 8: accounts.a.kinds.cli.idle: is not a field; known here: active, inactivity, concurrent, at_limit, activity"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := policyyaml.ParseSettings([]byte(c.doc))
			require.EqualError(t, err, c.want)
			require.Zero(t, s)
			var problems policy.FieldErrors
			require.ErrorAs(t, err, &problems)
		})
	}
}

func TestNamesThatLookLikeSomethingElse(t *testing.T) {
	users := map[string]policy.Limits{}
	for i, name := range []string{
		"163840776835432705", "007", "0x10", "true", "no", "~", "null", "1.5", "2026-01-01", "<<", "*a", "&a", "!a", "- a", "a: b", "#a", " a ", "\t\n", "a\n", "\x00", "\u0085", "\ufeff", "\u2028",
		"'", `"`, "\\", "{}", "[]", "?", "|", ">", "%", "@", "`", "=", strings.Repeat("long ", 300),
	} {
		users[name] = policy.Limits{Concurrent: policy.LimitTo(i + 1)}
	}
	a := policy.Account{Users: users}
	data, err := policyyaml.MarshalAccount(a)
	require.NoError(t, err)
	got, err := policyyaml.ParseAccount(data)
	require.NoError(t, err, string(data))
	require.Equal(t, a, got)

	// IDs of digits need no quotes, as they are written.
	got, err = policyyaml.ParseAccount([]byte("users: {163840776835432705: {concurrent: 1}, 007: {concurrent: 2}}"))
	require.NoError(t, err)
	require.Equal(t, policy.LimitTo(1), got.Users["163840776835432705"].Concurrent)
	require.Equal(t, policy.LimitTo(2), got.Users["007"].Concurrent)
}

func FuzzParseSettings(f *testing.F) {
	for _, seed := range []string{
		everyScope, "", "accounts: {}", "accounts: &a {b: *a}", "accounts: {a: {concurrent: 010}}", "? accounts\n: {}", "accounts:\n\t- a",
		"accounts: {a: {users: {\"\\t\\n\": {activity: []}}}}", "%YAML 1.1\n---\naccounts: {}\n...\n", "\ufeffaccounts: {}", strings.Repeat("[", 100), "- - - - - - -",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := policyyaml.ParseSettings(data)
		if err != nil {
			var problems policy.FieldErrors
			require.ErrorAs(t, err, &problems)
			require.NotEmpty(t, problems)
			require.Zero(t, s, "settings beside an error")
			return
		}
		again, err := policyyaml.MarshalSettings(s)
		require.NoError(t, err, "what was read cannot be written")
		got, err := policyyaml.ParseSettings(again)
		require.NoError(t, err, "what was written cannot be read")
		require.Equal(t, s, got)
	})
}

func ExampleParseSettings() {
	_, err := policyyaml.ParseSettings([]byte(`
accounts:
  default:
    inactivity: 2h
    kinds:
      cli: {inactivity: 12}
`))
	fmt.Println(err)
	// Output: line 6: accounts.default.kinds.cli.inactivity: 12 has no unit; write a duration such as 90m or 24h, or unlimited
}
