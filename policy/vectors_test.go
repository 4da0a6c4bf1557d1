package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/vectors"
	"github.com/curfew-oidc/curfew/policy"
)

// t0 is the present of tests about instants.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestVectors(t *testing.T) {
	for _, v := range vectors.Load(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Log(v.About)
			require.NoError(t, v.Settings.Validate(policy.DefaultRange))
			rules := v.Settings.Rules(v.Who)

			got := rules.Limits(v.Kind, v.Client)
			require.Equal(t, v.Limits.Active.String(), got.Active.String(), "active")
			require.Equal(t, v.Limits.Inactivity.String(), got.Inactivity.String(), "inactivity")
			require.Equal(t, v.Limits.Activity.String(), got.Activity.String(), "activity")

			e := rules.Explain(v.Kind, v.Client)
			require.ElementsMatch(t, v.Limits.ActiveFrom, paths(e.Active.From), "active from")
			require.ElementsMatch(t, v.Limits.InactivityFrom, paths(e.Inactivity.From), "inactivity from")
			require.ElementsMatch(t, v.Limits.ActivityFrom, paths(e.Activity.From), "activity from")

			var caps []vectors.Cap
			for _, c := range rules.Caps() {
				caps = append(caps, vectors.Cap{Max: c.Max, AtLimit: c.AtLimit, From: c.Scope.String(), Counts: c.Counts(v.Next(t0))})
			}
			require.Equal(t, v.Caps, caps)

			if v.Login == nil {
				return
			}
			var held []policy.Session
			for _, h := range v.Login.Held {
				held = append(held, h.Session(t0))
			}
			d := rules.Admit(t0, held, v.Next(t0))
			require.Equal(t, policy.Decision{
				Allow: v.Login.Allow, Reason: v.Login.Reason, Used: v.Login.Used, Max: v.Login.Max, Ask: v.Login.Ask, End: v.Login.End,
			}, d)
		})
	}
}

// TestVectorsMeetEveryPair holds that no pair of scopes is without a vector.
func TestVectorsMeetEveryPair(t *testing.T) {
	have := map[string]bool{}
	for _, v := range vectors.Load(t) {
		have[v.Name] = true
	}
	scopes := []string{"user", "group", "client", "kind", "account"} // the most specific first
	isWho := map[string]bool{"user": true, "group": true, "account": true}
	for i, a := range scopes {
		for _, b := range scopes[i+1:] {
			require.True(t, have["limits_"+a+"_wins_over_"+b], "%s and %s", a, b)
			require.True(t, have["limits_"+a+"_unlimited_lifts_"+b], "%s and %s", a, b)
			require.True(t, have["limits_"+a+"_limits_unlimited_"+b], "%s and %s", a, b)
			require.True(t, have["limits_"+a+"_inherits_from_"+b], "%s and %s", a, b)
			switch {
			case isWho[a] && isWho[b]:
				for _, how := range []string{"wins_over_" + b + "_looser", "wins_over_" + b + "_stricter", "unlimited_lifts_" + b, "limits_unlimited_" + b, "inherits_from_" + b} {
					require.True(t, have["cap_"+a+"_"+how], "%s and %s: %s", a, b, how)
				}
				for _, how := range []string{"wins_over_", "inherits_from_", "without_cap_wins_over_"} {
					require.True(t, have["at_limit_"+a+"_"+how+b], "%s and %s: %s", a, b, how)
				}
			case isWho[a] != isWho[b]:
				what, who := a, b
				if isWho[a] {
					what, who = b, a
				}
				for _, how := range []string{"and_" + who + "_both_hold_narrow_full", "and_" + who + "_both_hold_wide_full", "unlimited_takes_out_of_" + who, "limits_unlimited_" + who, "inherits_from_" + who} {
					require.True(t, have["cap_"+what+"_"+how], "%s and %s: %s", what, who, how)
				}
				for _, how := range []string{"wins_over_", "inherits_from_"} {
					require.True(t, have["at_limit_"+what+"_"+how+who], "%s and %s: %s", what, who, how)
				}
			}
		}
	}
}

func paths(scopes []policy.Scope) []string {
	list := []string{}
	for _, s := range scopes {
		list = append(list, s.String())
	}
	return list
}
