package policy_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

// descriptionChars are what error_description may have: RFC 6749 section 5.2.
var descriptionChars = regexp.MustCompile(`^[\x20-\x21\x23-\x5B\x5D-\x7E]+$`)

// TestReasonsHaveNoHole holds that everything is said of every reason, and the
// same of no two.
func TestReasonsHaveNoHole(t *testing.T) {
	declared := constantsOf(t, "Reason")
	seen := map[string]policy.Reason{}
	unique := func(r policy.Reason, text string) {
		require.NotEmpty(t, text, r)
		require.Empty(t, seen[text], "%s has the words of another: %s", r, text)
		seen[text] = r
	}
	var listed []string
	for _, info := range policy.Reasons() {
		r := info.Reason
		listed = append(listed, string(r))
		require.Regexp(t, `^[a-z_]+$`, string(r))
		require.True(t, r.Known())
		require.Equal(t, info, r.Info())
		unique(r, info.Label)
		unique(r, info.Cause)
		unique(r, info.Sentence)
		require.Regexp(t, `^[A-Z].*\.$`, info.Sentence)
		require.NotContains(t, info.Sentence, "%")

		measured := r == policy.ReasonInactivity || r == policy.ReasonActiveLimit
		require.Equal(t, measured, info.Limited != "", "only these two are the ends by a duration")
		require.Equal(t, measured || r == policy.ReasonAbandoned, info.Class == policy.ByTime)
		require.Equal(t, measured, strings.Contains(info.SentenceOf(2*time.Hour), "2 hours"))
		require.Equal(t, measured, strings.Contains(info.DescriptionOf(2*time.Hour), "2 hours"))

		for _, told := range []string{info.Description(), info.DescriptionOf(2 * time.Hour)} {
			require.Regexp(t, descriptionChars, told)
			require.True(t, strings.HasSuffix(told, "; sign in again"), told)
			require.Equal(t, r, policy.ReasonOf(told))
		}
		require.Equal(t, info.Sentence, policy.SentenceFrom(info.Description()))
		require.Equal(t, info.SentenceOf(2*time.Hour), policy.SentenceFrom(info.DescriptionOf(2*time.Hour)))
	}
	require.ElementsMatch(t, declared, listed, "a reason without a row")

	other := policy.Reason("something_else")
	require.False(t, other.Known())
	require.Equal(t, policy.ReasonInfo{
		Reason: other, Class: policy.ByAct, Label: "Another reason", Sentence: "You were signed out.", Cause: "it ended",
	}, other.Info())
	require.Empty(t, seen[other.Info().Label]+seen[other.Info().Sentence]+seen[other.Info().Cause])
}

func TestReasonOf(t *testing.T) {
	for _, text := range []string{"", "invalid code", "something_else: it ended", "inactivity", " inactivity: x", "Inactivity: x", ": x"} {
		require.Empty(t, policy.ReasonOf(text), text)
		require.Empty(t, policy.SentenceFrom(text), text)
	}
	require.Equal(t, policy.ReasonInactivity, policy.ReasonOf("inactivity: whatever follows"))
}

// TestSentenceFromTakesNothingElse holds that what somebody writes into a
// description does not reach a user.
func TestSentenceFromTakesNothingElse(t *testing.T) {
	inactivity, active := policy.ReasonInactivity.Info(), policy.ReasonActiveLimit.Info()
	for text, want := range map[string]string{
		"inactivity: the login session ended after <b>2</b> hours without activity; sign in again": inactivity.Sentence,
		"inactivity: the login session ended after 2 hours of work; sign in again":                 inactivity.Sentence,
		"inactivity: after 2 hours, call 555-1234; sign in again":                                  inactivity.Sentence,
		"inactivity: after 1234567890123 hours without activity;":                                  inactivity.Sentence,
		"active_limit: the login session is about to reach its limit of 1 day 12 hours; call me":   "You were signed out because a sign-in lasts at most 1 day 12 hours.",
		"active_limit: limit of your patience; sign in again":                                      active.Sentence,
		"logout: the login session ended after 2 hours without activity; sign in again":            policy.ReasonLogout.Info().Sentence,
	} {
		require.Equal(t, want, policy.SentenceFrom(text), text)
	}
}

func TestLimitsInWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                 "a moment",
		0:                            "a moment",
		time.Millisecond:             "a moment",
		time.Second:                  "1 second",
		15 * time.Minute:             "15 minutes",
		90 * time.Minute:             "1 hour 30 minutes",
		2 * time.Hour:                "2 hours",
		2*time.Hour - time.Second:    "2 hours", // told in whole seconds, rounded down
		2*time.Hour - 40*time.Second: "2 hours", // told some time after it began
		2*time.Hour + time.Second:    "2 hours", // a time was rounded
		119 * time.Minute:            "1 hour 59 minutes",
		5*time.Minute - time.Second:  "5 minutes",
		90 * time.Second:             "1 minute 30 seconds",
		45 * time.Second:             "45 seconds",
		24 * time.Hour:               "1 day",
		720 * time.Hour:              "30 days",
		25*time.Hour + 3*time.Second: "1 day 1 hour",
	} {
		require.Equal(t, want, policy.LimitInWords(d), "%s", d)
	}
}
