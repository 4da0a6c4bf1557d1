package view_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/texts"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

var noon = time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)

func live() store.Session {
	return store.Session{
		ID: "7.a", Subject: store.Subject{Issuer: "https://login.example.com", ID: "ann"}, Kind: policy.Browser, Client: "web",
		UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", Address: "192.0.2.0/24",
		Started: noon.Add(-3 * time.Hour), Authenticated: noon.Add(-3 * time.Hour), LastActivity: noon,
		Grants: []store.Grant{{ID: "g", Client: "web"}, {ID: "h", Client: "mail"}, {ID: "i", Client: "gone", Revoked: noon}},
	}
}

func TestASessionInWords(t *testing.T) {
	for name, c := range map[string]struct {
		change                               func(*store.Session)
		title, kind, icon, network, lastUsed string
		applications                         []string
		titleSaysKind                        bool
	}{
		"a browser": {nil, "Firefox on Linux", "Browser", "screen", "192.0.2.x", "just now", []string{"web", "mail"}, true},
		"a phone": {func(s *store.Session) {
			s.UserAgent = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
		}, "Safari on iPhone", "Browser", "phone", "192.0.2.x", "just now", []string{"web", "mail"}, true},
		"a command line": {func(s *store.Session) { s.Kind, s.UserAgent = policy.CLI, "deploy/1.0" },
			"deploy", "Command line or device", "terminal", "192.0.2.x", "just now", []string{"web", "mail"}, false},
		"of nothing known": {func(s *store.Session) { s.Kind, s.UserAgent, s.Address = policy.Automation, "", "" },
			"Automation", "Automation", "gear", "", "just now", []string{"web", "mail"}, true},
		"of another kind": {func(s *store.Session) { s.Kind, s.UserAgent = "\u202e", "" },
			"Another sign-in", "Another sign-in", "screen", "192.0.2.x", "just now", []string{"web", "mail"}, true},
		"with names": {func(s *store.Session) {
			s.ClientNames, s.LastActivity = []string{"Pay\u202eroll", "Payroll", " ", "Wiki\n2"}, noon.Add(-2*time.Hour)
		}, "Firefox on Linux", "Browser", "screen", "192.0.2.x", "2 hours ago", []string{"Payroll", "Wiki 2"}, true},
	} {
		s := live()
		if c.change != nil {
			c.change(&s)
		}
		v := view.Of(s, noon, texts.English)
		require.Equal(t, []string{c.title, c.kind, c.icon, c.network, c.lastUsed}, []string{v.Title(), v.KindName(), v.Icon(), v.Network(), v.LastUsed.Words}, name)
		require.Equal(t, c.applications, v.Applications(), name)
		require.Equal(t, []string{"web", "mail"}, v.ClientIDs(), name)
		require.Equal(t, c.titleSaysKind, v.TitleSaysKind(), name)
	}
}

// What there is not is not in the JSON either, and times are written as points.
func TestASessionInJSON(t *testing.T) {
	s := live()
	v := view.Of(s, noon, texts.English)
	v.EndsAt(time.Time{}, policy.ReasonInactivity)
	text, err := json.Marshal(v)
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"7.a","user":"ann","kind":"browser","client":"web","clients":["web","mail"],
		"user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0","address":"192.0.2.0/24",
		"started":"2024-05-06T09:00:00Z","authenticated":"2024-05-06T09:00:00Z","last_activity":"2024-05-06T12:00:00Z",
		"activity":"interactive","amr":[],"yours":false,"current":false}`, string(text))

	v.EndsAt(noon.Add(90*time.Minute), policy.ReasonInactivity)
	require.Equal(t, "in 1 hour", v.Ends.Words)
	require.True(t, v.EndsIfUnused())
	s.End = &store.End{At: noon.Add(-time.Minute), Reason: policy.ReasonEndedByAdmin, By: "root"}
	s.Deliveries = []store.Delivery{{Client: "web", Attempts: 2, Next: noon.Add(time.Minute)}, {Client: "mail", GivenUp: noon}}
	text, err = json.Marshal(view.Of(s, noon, texts.English).Ended)
	require.NoError(t, err)
	require.JSONEq(t, `{"at":"2024-05-06T11:59:00Z","reason":"ended_by_admin","text":"An administrator ended your sign-in.","by":"root",
		"deliveries":[{"client":"web","attempts":2,"next":"2024-05-06T12:01:00Z"},{"client":"mail","attempts":0,"given_up":"2024-05-06T12:00:00Z"}]}`, string(text))
}
