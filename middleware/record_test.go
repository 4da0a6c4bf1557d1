package middleware

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/policy"
)

func TestSeconds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		in   any
		want time.Duration
		ok   bool
	}{
		{nil, 0, false}, {true, 0, false}, {"", 0, false}, {"x", 0, false}, {"12x", 0, false}, {-1.0, 0, false}, {"-1", 0, false},
		{math.NaN(), 0, false}, {"NaN", 0, false}, {map[string]any{}, 0, false},
		{0.0, 0, true}, {0.5, time.Second / 2, true}, {7200.0, 2 * time.Hour, true}, {"7200", 2 * time.Hour, true},
		{1e300, 100 * 365 * 24 * time.Hour, true}, {math.Inf(1), 100 * 365 * 24 * time.Hour, true},
	} {
		d, ok := seconds(test.in)
		require.Equal(t, test.want, d, "%v", test.in)
		require.Equal(t, test.ok, ok, "%v", test.in)
	}
}

// The example of draft-ietf-oauth-refresh-token-expiration-03 section 6.3: 7 days to
// a refresh, 10 days of authorization.
func TestTakeTheDraftsExample(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	begin := time.Date(2026, 7, 6, 0, 0, 0, 0, time.UTC)
	rec := record{Format: recordFormat, SignedIn: begin}
	take := func(at time.Time, timeout, authorization float64) {
		token := &oauth2.Token{AccessToken: "a", RefreshToken: "r", ExpiresIn: 3600}
		rec.take(token.WithExtra(map[string]any{"refresh_token_timeout": timeout, "authorization_expires_in": authorization}), at, 0)
	}
	take(begin, 604800, 864000)
	require.Equal(t, begin.Add(7*day), rec.IdleEnds)
	require.Equal(t, begin.Add(10*day), rec.ends())
	take(begin.Add(2*day), 604800, 691200)
	require.Equal(t, begin.Add(9*day), rec.IdleEnds)
	require.Equal(t, begin.Add(10*day), rec.ends())
	take(begin.Add(7*day), 259200, 259200)
	require.Equal(t, begin.Add(10*day), rec.IdleEnds)
	require.Equal(t, must, rec.stands(begin.Add(10*day)), "the provider has the last word")

	// What a response leaves out is not known any more.
	rec.take(&oauth2.Token{AccessToken: "b"}, begin.Add(8*day), 0)
	require.True(t, rec.ends().IsZero())
	require.True(t, rec.IdleEnds.IsZero())
	require.Equal(t, "r", rec.Refresh, "the refresh token stays, where no other comes")
}

// Each limit is over at its instant, and not a millisecond before.
func TestStands(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		rec           record
		before, after standing
	}{
		"local end":                     {record{Refresh: "r", LocalEnds: now}, fresh, over},
		"session_expiry, refresh token": {record{Refresh: "r", SessionExpiry: now}, fresh, must},
		"session_expiry alone":          {record{SessionExpiry: now}, fresh, over},
		"authorization":                 {record{Refresh: "r", AuthorizationEnds: now}, fresh, must},
		"authorization alone":           {record{AuthorizationEnds: now}, fresh, over},
		"idle":                          {record{Refresh: "r", IdleEnds: now}, fresh, must},
		"access token":                  {record{Refresh: "r", AccessEnds: now}, fresh, must},
		"access token alone":            {record{AccessEnds: now}, fresh, fresh},
		"refresh at":                    {record{Refresh: "r", RefreshAt: now}, fresh, due},
		"ended":                         {record{Refresh: "r", EndedAt: now.Add(-time.Hour)}, over, over},
		"nothing":                       {record{}, fresh, fresh},
	} {
		require.Equal(t, test.before, test.rec.stands(now.Add(-time.Millisecond)), name)
		require.Equal(t, test.after, test.rec.stands(now), name)
	}
}

// What a user reads comes from words that we know, whatever the provider wrote.
func TestReasonOf(t *testing.T) {
	t.Parallel()
	for description, want := range map[string]struct {
		reason Reason
		text   string
	}{
		"": {ReasonEnded, "You were signed out."},
		"inactivity: the login session ended after 2 hours without activity; sign in again": {policy.ReasonInactivity, "You were signed out after 2 hours without activity."},
		"inactivity: the login session ended after 1 day 3 hours without activity; x":       {policy.ReasonInactivity, "You were signed out after 1 day 3 hours without activity."},
		"inactivity: call +49 after <b> without activity":                                   {policy.ReasonInactivity, "You were signed out because of inactivity."},
		"active_limit: the login session reached its limit of 24 hours; sign in again":      {policy.ReasonActiveLimit, "You were signed out because a sign-in lasts at most 24 hours."},
		"active_limit: x": {policy.ReasonActiveLimit, "You were signed out because a sign-in lasts only so long."},
		"ended_by_admin: the login session is over: an administrator ended it; sign in again": {policy.ReasonEndedByAdmin, "An administrator ended your sign-in."},
		"not_signed_in: x": {ReasonEnded, "You were signed out."},
		"please: call me":  {ReasonEnded, "You were signed out."},
		"expired token":    {ReasonEnded, "You were signed out."},
	} {
		reason, text := reasonOf(description)
		require.Equal(t, want.reason, reason, description)
		require.Equal(t, want.text, text, description)
	}
	const elsewhere = "You were signed out, here or in another application."
	for description, want := range map[string]string{
		"": elsewhere, "logout: the login session is over: the user signed out; sign in again": elsewhere, "call me": elsewhere,
		"replay: x": sentence(policy.ReasonReplay),
	} {
		_, text := toldReason(description)
		require.Equal(t, want, text, description)
	}
}

// Where the provider does not say why, the user reads how long a sign-in lasts, and not
// how long they were here.
func TestLapsed(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	joined, end := begin.Add(6*time.Hour), begin.Add(8*time.Hour)
	for _, test := range []struct {
		rec  record
		want string
	}{
		{record{AuthTime: begin, SignedIn: joined, SessionExpiry: end}, "at most 8 hours."},
		{record{AuthTime: begin, SignedIn: joined, AuthorizationEnds: end}, "at most 8 hours."},
		{record{AuthTime: begin, SignedIn: joined, SessionExpiry: end.Add(time.Hour), LocalEnds: end}, "at most 2 hours."},
		{record{SignedIn: joined, SessionExpiry: end}, "at most 2 hours."},
		// In whole seconds, rounded down by the provider, or by the claim.
		{record{AuthTime: begin, SignedIn: joined, AuthorizationEnds: end.Add(-900 * time.Millisecond)}, "at most 8 hours."},
		{record{AuthTime: begin, SignedIn: joined, AuthorizationEnds: end.Add(900 * time.Millisecond)}, "at most 8 hours."},
	} {
		reason, text := test.rec.lapsed(end.Add(time.Second))
		require.Equal(t, policy.ReasonActiveLimit, reason)
		require.Contains(t, text, test.want)
	}
	// A provider that has set 2 hours says 7199 seconds, or fewer where the code was on
	// its way for a while.
	for window, want := range map[time.Duration]string{
		2 * time.Hour: "2 hours", 7199 * time.Second: "2 hours", 7150 * time.Second: "2 hours",
		899 * time.Second: "15 minutes", 119 * time.Minute: "1 hour 59 minutes", 3 * time.Second: "3 seconds",
	} {
		reason, text := (&record{IdleEnds: end, IdleWindow: window}).lapsed(end)
		require.Equal(t, policy.ReasonInactivity, reason)
		require.Equal(t, "You were signed out after "+want+" without activity.", text)
	}
}
