package provider

import (
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// RFC 6749 section 5.2: the characters that error_description may have.
var allowed = regexp.MustCompile(`^[\x20-\x21\x23-\x5B\x5D-\x7E]+$`)

func TestEveryReasonHasWords(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	generic := Describe(store.Session{End: &store.End{Reason: "something else"}})
	seen := map[string]bool{generic: true}
	for _, info := range policy.Reasons() {
		reason := info.Reason
		s := store.Session{Authenticated: at, LastActivity: at, End: &store.End{At: at.Add(2 * time.Hour), Reason: reason}}
		text := Describe(s)
		require.False(t, seen[text], "%s: %q", reason, text)
		seen[text] = true
		for _, forApplications := range []string{endedText(&s), reason.Info().Description(), refusalText(policy.Decision{Reason: reason, Limit: time.Hour, Used: 3, Max: 3})} {
			require.Regexp(t, allowed, forApplications)
			require.Equal(t, reason, policy.ReasonOf(forApplications))
		}
	}
	require.Empty(t, Describe(store.Session{}))
	require.Regexp(t, allowed, unavailableText)
	require.Equal(t, policy.Reason(""), policy.ReasonOf("invalid code"))
	require.Equal(t, policy.Reason(""), policy.ReasonOf(unavailableText))
}

// The sentence says the setting, whenever in its life the session ended.
func TestAnEndSaysTheSetting(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, s := range map[string]store.Session{
		"used last":               {Authenticated: at, LastActivity: at.Add(time.Hour), End: &store.End{At: at.Add(3 * time.Hour), Reason: policy.ReasonInactivity}},
		"signed in last":          {Authenticated: at.Add(time.Hour), LastActivity: at, End: &store.End{At: at.Add(3 * time.Hour), Reason: policy.ReasonInactivity}},
		"an end that was rounded": {Authenticated: at, LastActivity: at.Add(999 * time.Microsecond), End: &store.End{At: at.Add(2 * time.Hour), Reason: policy.ReasonInactivity}},
	} {
		require.Equal(t, "You were signed out after 2 hours without activity.", Describe(s), name)
		require.Equal(t, "inactivity: the login session ended after 2 hours without activity; sign in again", endedText(&s), name)
	}
}

func TestCoarseAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"": "", "nonsense": "", "192.0.2.77": "192.0.2.0/24", "::ffff:192.0.2.77": "192.0.2.0/24",
		"2001:db8:1:2::3": "2001:db8:1::/48", "fe80::1%eth0": "fe80::/48",
	} {
		require.Equal(t, want, coarse(address), "%q", address)
	}
}

func TestSessionIDs(t *testing.T) {
	t.Parallel()
	a, b := store.Subject{Issuer: "i", ID: "a"}, store.Subject{Issuer: "ia", ID: ""}
	require.NotEqual(t, derivedSID(a, "auth", "1"), derivedSID(b, "auth", "1"))
	require.NotEqual(t, derivedSID(a, "auth", "1"), derivedSID(a, "auth", "2"))
	require.NotEqual(t, derivedSID(a, "auth", "1"), derivedSID(a, "device", "1"))
	require.Equal(t, derivedSID(a, "auth", "1"), derivedSID(a, "auth", "1"))
	require.NotEqual(t, newSID(a), newSID(a))
	require.Regexp(t, `^[0-9a-f]{2}\.[A-Za-z0-9_-]{24}$`, newSID(a))
	require.Equal(t, store.Bucket(a), newSID(a)[:2])
	require.Equal(t, store.Bucket(a), derivedSID(a, "x")[:2])
}
