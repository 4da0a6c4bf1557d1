package console_test

import (
	"html"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
)

// listSessions returns the IDs of all sessions of the account that a query selects, as
// the API lists them.
func listSessions(w *admintest.World, token, query string) []struct{ ID string } {
	return admintest.Sessions[struct{ ID string }](w, token, query)
}

func TestConsoleSessions(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	for range 55 {
		w.SignIn("ann")
	}
	w.SignIn("bob")
	ann, bob := optest.SubjectOf("ann"), optest.SubjectOf("bob")

	first := w.Page("GET", "acme/sessions?user="+ann, root, nil)
	require.Equal(t, 50, strings.Count(first.Body, `name="sid"`))
	next := regexp.MustCompile(`href="(sessions\?[^"]*)" rel="next"`).FindStringSubmatch(first.Body)
	require.NotNil(t, next)
	second := w.Page("GET", "acme/"+html.UnescapeString(next[1]), root, nil)
	require.Equal(t, 5, strings.Count(second.Body, `name="sid"`))
	require.Contains(t, w.Page("GET", "acme/sessions?kind=cli", root, nil).Text(), "There are none.")

	// One, by its page.
	sid := listSessions(w, root, "user="+bob)[0].ID
	page := w.Page("GET", "acme/sessions/"+sid, root, nil)
	asked := page.Send("sessions/end", "which", "marked")
	require.Contains(t, asked.Text(), "Ends 1 session of 1 person now.")
	require.Len(t, listSessions(w, root, "user="+bob), 1, "it only asked")
	ended := asked.Send("sessions/end").Follow()
	require.Contains(t, ended.Text(), "The session was ended.")
	require.Contains(t, ended.Text(), "An administrator ended your sign-in.")
	require.Empty(t, listSessions(w, root, "user="+bob))
	require.Contains(t, w.Page("GET", "acme/sessions?state=ended", root, nil).Text(), "Ended by an administrator, by "+optest.SubjectOf("root"))

	// Those that are marked.
	form := url.Values{"which": {"marked"}, "sid": {listSessions(w, root, "user="+ann)[0].ID, listSessions(w, root, "user="+ann)[1].ID}}
	asked = w.Page("POST", "acme/sessions/end", root, form)
	require.Contains(t, asked.Text(), "Ends 2 sessions of 1 person now.")
	require.Equal(t, form["sid"], asked.Form("sessions/end")["sid"])
	require.Contains(t, asked.Send("sessions/end").Follow().Text(), "session")
	require.Equal(t, 400, w.Page("POST", "acme/sessions/end", root, url.Values{"which": {"marked"}}).Status)
	require.Equal(t, 400, w.Page("POST", "acme/sessions/end", root, url.Values{"which": {""}, "confirm": {"yes"}}).Status)
	require.Equal(t, 400, w.Page("POST", "acme/sessions/end", root, url.Values{"which": {"matching"}, "kind": {"cli"}, "confirm": {"yes"}}).Status)

	// All but the one that this is done in.
	asked = w.Page("POST", "acme/sessions/end", root, url.Values{"which": {"matching"}})
	require.Contains(t, asked.Text(), "yours among them")
	require.Equal(t, "on", asked.Form("sessions/end").Get("except_mine"))
	done := asked.Send("sessions/end").Follow()
	require.Regexp(t, `5[0-9] sessions ended\.`, done.Text())
	require.Len(t, listSessions(w, root, ""), 1)
	// What an address from elsewhere claims is not shown.
	require.NotContains(t, w.Page("GET", "acme/sessions?ended=99", root, nil, "Sec-Fetch-Site", "cross-site").Text(), "99")
}
