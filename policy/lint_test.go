package policy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

// said is a warning without its words.
func said(w policy.Warning) string { return fmt.Sprintf("%s %s %s", w.Severity, w.Rule, w.Path) }

// Each rule, with settings that it warns about, and settings next to them that it
// says nothing about.
var lintCases = map[string]struct {
	settings string
	d        policy.Deployment
	want     []string // of the rules that the name is about
}{
	"L01 nothing set":                {`{}`, policy.Deployment{}, []string{"error L01 active"}},
	"L01 unlimited":                  {`{"active":"unlimited"}`, policy.Deployment{}, []string{"error L01 active"}},
	"L01 lifted for one kind":        {`{"active":"8h","kinds":{"cli":{"active":"unlimited"}}}`, policy.Deployment{}, []string{"error L01 kinds.cli.active"}},
	"L01 set":                        {`{"active":"8h","users":{"a":{"concurrent":1}}}`, policy.Deployment{}, nil},
	"L08 no absolute end":            {`{}`, policy.Deployment{}, []string{"error L08 active"}},
	"L08 set":                        {`{"active":"8h"}`, policy.Deployment{}, nil},
	"L02 above":                      {`{"active":"1h","inactivity":"2h"}`, policy.Deployment{}, []string{"error L02 inactivity"}},
	"L02 two scopes meet":            {`{"active":"24h","kinds":{"cli":{"inactivity":"12h"}},"groups":{"staff":{"active":"8h"}}}`, policy.Deployment{}, []string{"info L02 kinds.cli.inactivity"}},
	"L02 equal":                      {`{"active":"2h","inactivity":"2h"}`, policy.Deployment{}, nil},
	"L02 scopes of one kind":         {`{"active":"24h","groups":{"a":{"inactivity":"12h"},"b":{"active":"8h"}}}`, policy.Deployment{}, nil},
	"L03 asked for":                  {`{"active":"8h"}`, policy.Deployment{Targets: []string{"hipaa"}}, []string{"error L03 inactivity"}},
	"L03 lifted":                     {`{"active":"8h","inactivity":"15m","kinds":{"cli":{"inactivity":"unlimited"}}}`, policy.Deployment{Targets: []string{"hipaa"}}, []string{"error L03 kinds.cli.inactivity"}},
	"L03 not asked for":              {`{"active":"8h"}`, policy.Deployment{Targets: []string{"nist-63b4-aal1"}}, nil},
	"L05 as long":                    {`{"inactivity":"1h"}`, policy.Deployment{AccessToken: time.Hour}, []string{"error L05 inactivity"}},
	"L05 more than half":             {`{"inactivity":"1h"}`, policy.Deployment{AccessToken: 31 * time.Minute}, []string{"warn L05 inactivity"}},
	"L05 half":                       {`{"inactivity":"1h","users":{"a":{"active":"1h"}}}`, policy.Deployment{AccessToken: 30 * time.Minute}, nil},
	"L05 for one kind":               {`{"inactivity":"4h","kinds":{"cli":{"inactivity":"30m"}}}`, policy.Deployment{AccessToken: time.Hour}, []string{"error L05 kinds.cli.inactivity"}},
	"L07 long":                       {`{}`, policy.Deployment{IDToken: 2 * time.Hour}, []string{"warn L07 "}},
	"L07 an hour":                    {`{}`, policy.Deployment{IDToken: time.Hour}, nil},
	"L12 shall":                      {`{"active":"13h","inactivity":"31m"}`, policy.Deployment{Targets: []string{"nist-63b3-aal2"}}, []string{"error L12 active", "error L12 inactivity"}},
	"L12 within":                     {`{"active":"12h","inactivity":"30m"}`, policy.Deployment{Targets: []string{"nist-63b3-aal2"}}, nil},
	"L12 should":                     {`{"active":"25h","inactivity":"61m"}`, policy.Deployment{Targets: []string{"nist-63b4-aal2"}}, []string{"warn L12 active", "warn L12 inactivity"}},
	"L12 shall and should":           {`{"active":"13h","inactivity":"16m"}`, policy.Deployment{Targets: []string{"nist-63b4-aal3"}}, []string{"error L12 active", "warn L12 inactivity"}},
	"L12 one kind looser":            {`{"inactivity":"15m","kinds":{"cli":{"inactivity":"12h"}}}`, policy.Deployment{Targets: []string{"pci-dss-4"}}, []string{"error L12 kinds.cli.inactivity"}},
	"L12 FedRAMP's caps":             {`{"active":"12h","inactivity":"10m","concurrent":3,"users":{"root":{"concurrent":4}}}`, policy.Deployment{Targets: []string{"fedramp-high"}, PrivilegedUsers: []string{"root"}}, []string{"error L12 concurrent", "error L12 users.root.concurrent"}},
	"L12 FedRAMP's privileged":       {`{"active":"12h","inactivity":"15m","concurrent":2,"groups":{"admins":{"concurrent":3}}}`, policy.Deployment{Targets: []string{"fedramp-high"}, PrivilegedGroups: []string{"admins"}}, []string{"error L12 groups.admins.inactivity"}},
	"L12 STIG without a cap":         {`{"active":"18h","inactivity":"15m"}`, policy.Deployment{Targets: []string{"stig-asd"}}, []string{"error L12 concurrent"}},
	"L12 no such target":             {`{}`, policy.Deployment{Targets: []string{"x"}}, []string{"warn L12 "}},
	"L13 not said":                   {`{"concurrent":3}`, policy.Deployment{}, []string{"warn L13 at_limit"}},
	"L13 said by everyone's":         {`{"at_limit":"refuse","kinds":{"cli":{"concurrent":3}}}`, policy.Deployment{}, nil},
	"L14 the last one in":            {`{"concurrent":1,"at_limit":"end_oldest"}`, policy.Deployment{}, []string{"warn L14 at_limit"}},
	"L14 in a group":                 {`{"at_limit":"end_idlest","concurrent":5,"groups":{"g":{"concurrent":1}}}`, policy.Deployment{}, []string{"warn L14 groups.g.at_limit"}},
	"L14 refuse":                     {`{"concurrent":1,"at_limit":"refuse"}`, policy.Deployment{}, nil},
	"L14 two":                        {`{"concurrent":2,"at_limit":"end_oldest"}`, policy.Deployment{}, nil},
	"L15 not counted":                {`{"concurrent":3,"kinds":{"cli":{"concurrent":"unlimited"}}}`, policy.Deployment{}, []string{"warn L15 kinds.cli.concurrent"}},
	"L15 nothing counts":             {`{"kinds":{"cli":{"concurrent":"unlimited"}}}`, policy.Deployment{}, nil},
	"L16 not told":                   {`{}`, policy.Deployment{WithoutLogoutURI: []string{"web"}}, []string{"warn L16 clients.web"}},
	"L18 looser":                     {`{"active":"8h","inactivity":"1h","concurrent":3,"users":{"root":{"active":"24h","inactivity":"unlimited","concurrent":5}}}`, policy.Deployment{PrivilegedUsers: []string{"root"}}, []string{"error L18 users.root.active", "error L18 users.root.inactivity", "error L18 users.root.concurrent"}},
	"L18 stricter":                   {`{"active":"8h","users":{"root":{"active":"4h"},"ann":{"active":"24h"}}}`, policy.Deployment{PrivilegedUsers: []string{"root"}}, nil},
	"L20 without a reason":           {`{"active":"24h"}`, policy.Deployment{Targets: []string{"pci-dss-4"}}, []string{"warn L20 "}},
	"L20 with a reason":              {`{"active":"24h"}`, policy.Deployment{Targets: []string{"pci-dss-4"}, Justification: "terminals are locked"}, nil},
	"L20 nothing deviates":           {`{"active":"12h","inactivity":"15m"}`, policy.Deployment{Targets: []string{"pci-dss-4"}}, nil},
	"L20 no target, nothing is said": {`{}`, policy.Deployment{}, nil},
}

func TestLint(t *testing.T) {
	tested := map[string][2]bool{}
	for name, c := range lintCases {
		rule, _, _ := strings.Cut(name, " ")
		settings, err := policy.ParseAccount([]byte(c.settings))
		require.NoError(t, err, name)
		var got []string
		list := policy.Lint(settings, c.d)
		for _, w := range list {
			require.NotEmpty(t, w.Text, name)
			require.NotEmpty(t, w.Source, name)
			require.NotEmpty(t, w.Revision, name)
			if w.Rule == rule {
				got = append(got, said(w))
			}
		}
		require.Equal(t, c.want, got, name)
		require.True(t, slices.IsSortedFunc(list, func(a, b policy.Warning) int { return int(b.Severity) - int(a.Severity) }), "the worst first")
		seen := tested[rule]
		seen[0] = seen[0] || len(c.want) > 0
		seen[1] = seen[1] || len(c.want) == 0
		tested[rule] = seen
	}

	// Every rule of the standard list is in the table of docs/policy.md, as one
	// that is tested here, or with the reason why it does not apply.
	text, err := os.ReadFile("../docs/policy.md")
	require.NoError(t, err)
	for n := 1; n <= 21; n++ {
		rule := fmt.Sprintf("L%02d", n)
		row := regexp.MustCompile(`(?m)^\| ` + rule + ` \| ([^|]*)\| ([^|]*)\|$`).FindSubmatch(text)
		require.NotNil(t, row, "%s is not in docs/policy.md", rule)
		if strings.HasPrefix(string(row[2]), "warns") {
			require.True(t, tested[rule][0], "%s: there is no case that warns", rule)
			require.True(t, tested[rule][1] || rule == "L16", "%s: there is no case that does not", rule)
		} else {
			require.Regexp(t, `^not (needed|checked): `, string(row[2]), rule)
			require.Empty(t, tested[rule], rule)
		}
	}
}

// A preset keeps what it stands for, and can be saved, but for those that say why
// not.
func TestPresets(t *testing.T) {
	ids := map[string]bool{}
	for _, p := range policy.Presets() {
		require.False(t, ids[p.ID], p.ID)
		ids[p.ID] = true
		require.NotEmpty(t, p.Title, p.ID)
		require.NotEmpty(t, p.Source, p.ID)
		require.NotEmpty(t, p.Revision, p.ID)
		same, ok := policy.PresetByID(p.ID)
		require.True(t, ok)
		require.Equal(t, p, same)

		a := policy.Account{Limits: p.Limits}
		a.AtLimit = policy.Refuse
		if _, caps := a.Concurrent.Value(); !caps {
			a.AtLimit = policy.InheritAtLimit
		}
		d := policy.Deployment{Targets: []string{p.ID}}
		if p.Privileged != (policy.Limits{}) {
			d.PrivilegedGroups = []string{"admins"}
			a.Groups = map[string]policy.Limits{"admins": p.Privileged}
		}
		for _, w := range policy.Lint(a, d) {
			require.NotContains(t, []string{"L03", "L12", "L20"}, w.Rule, "%s deviates from itself: %v", p.ID, w)
		}
		if err := a.Validate(policy.DefaultRange); err != nil {
			require.Contains(t, p.Note, "below the usual floor", "%s: %v", p.ID, err)
		}
	}
	for _, id := range []string{"ibm-default", "ibm-enterprise-tutorial", "nist-63b3-aal1", "nist-63b3-aal2", "nist-63b3-aal3", "nist-63b4-aal1", "nist-63b4-aal2", "nist-63b4-aal3",
		"asvs4-l2", "asvs4-l3", "owasp-high-value", "pci-dss-4", "hipaa", "fedramp-moderate", "fedramp-high", "stig-asd", "cis-m365-admin"} {
		require.True(t, ids[id], id)
	}
	_, ok := policy.PresetByID("")
	require.False(t, ok)

	data, err := json.Marshal(policy.Presets()[1])
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"ibm-enterprise-tutorial","title":"IBM Cloud IAM, secure enterprise","source":"IBM Cloud, tutorial on a secure enterprise account",
		"revision":"as of 2026-08","limits":{"active":"12h","inactivity":"30m"}}`, string(data))
}

func TestSeverity(t *testing.T) {
	for _, s := range []policy.Severity{policy.Info, policy.Warn, policy.Wrong} {
		text, err := s.MarshalText()
		require.NoError(t, err)
		var back policy.Severity
		require.NoError(t, back.UnmarshalText(text))
		require.Equal(t, s, back)
	}
	require.Error(t, new(policy.Severity).UnmarshalText([]byte("fatal")))
	require.Equal(t, "Severity(9)", policy.Severity(9).String())
}

// Thousands of users with settings of their own do not make it slow: nothing
// compares each with each, which would take minutes.
func TestLintOfManyUsers(t *testing.T) {
	a := policy.Account{Limits: policy.Limits{Active: policy.LimitTo(24 * time.Hour)}, Users: map[string]policy.Limits{}, Groups: map[string]policy.Limits{}}
	for i := range 20_000 {
		a.Users[fmt.Sprint(i)] = policy.Limits{Inactivity: policy.LimitTo(12 * time.Hour)}
		a.Groups[fmt.Sprint(i)] = policy.Limits{Active: policy.LimitTo(8 * time.Hour)}
	}
	require.Len(t, policy.Lint(a, policy.Deployment{}), 20_000)
}
