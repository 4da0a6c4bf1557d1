package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// own returns a user's own sessions as a program sees them.
func (b *browser) own(s *server) (sids []string, current string) {
	b.t.Helper()
	p := b.get(s.issuer + "/sessions/?format=json")
	require.Equal(b.t, http.StatusOK, p.status, p.body)
	var body struct {
		Sessions []struct {
			SID     string `json:"sid"`
			Current bool   `json:"current"`
		} `json:"sessions"`
	}
	require.NoError(b.t, json.Unmarshal([]byte(p.body), &body))
	for _, one := range body.Sessions {
		if sids = append(sids, one.SID); one.Current {
			current = one.SID
		}
	}
	return sids, current
}

// A user sees their own sessions in the browser that they are signed in in, ends
// another one there, and all others, and nobody else's.
func TestOwnSessions(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	a := s.app("web")
	here, mine := s.login(a)
	there, other := s.login(a)
	third, last := s.login(a)
	bob := newBrowser(t)
	p := bob.signIn(bob.get(a.url()), "bob", "builder-2")
	theirs, err := a.redeem(t, p.params.Get("code"))
	require.NoError(t, err)

	require.Contains(t, here.get(s.issuer+"/").body, `href="/sessions/"`)
	page := here.get(s.issuer + "/sessions/")
	require.Equal(t, http.StatusOK, page.status)
	require.Equal(t, 1, strings.Count(page.body, "This one"))
	require.Equal(t, 3, strings.Count(page.body, `action="end"`))
	sids, current := here.own(s)
	require.Len(t, sids, 3)
	require.Equal(t, a.claims(t, mine)["sid"], current)
	require.Equal(t, http.StatusOK, here.get(s.issuer+"/sessions").status, "it leads to the page")
	require.Equal(t, http.StatusOK, here.get(s.issuer+"/sessions/style.css").status)

	// Bob's is not to be had.
	require.Equal(t, http.StatusNotFound, here.post(s.issuer+"/sessions/end", url.Values{"sid": {a.claims(t, theirs)["sid"].(string)}}).status)
	_, err = a.refresh(t, theirs)
	require.NoError(t, err)

	// One is ended, and says so where it was used.
	page = here.post(s.issuer+"/sessions/end", url.Values{"sid": {a.claims(t, other)["sid"].(string)}})
	require.Equal(t, http.StatusOK, page.status)
	require.Contains(t, page.body, `role="status"`)
	require.Contains(t, page.body, "You ended this sign-in from another one.")
	_, err = a.refresh(t, other)
	require.ErrorContains(t, err, "ended_by_user: ")
	gone := there.get(s.issuer + "/sessions/")
	require.Equal(t, http.StatusUnauthorized, gone.status)
	require.Contains(t, gone.body, "You ended this sign-in from another one.")
	require.Equal(t, http.StatusUnauthorized, there.post(s.issuer+"/sessions/end-others", url.Values{}).status)

	// All others.
	require.Equal(t, http.StatusOK, third.get(s.issuer+"/sessions/").status)
	page = here.post(s.issuer+"/sessions/end-others", url.Values{})
	require.Contains(t, page.body, "other sign-ins were ended.")
	_, err = a.refresh(t, last)
	require.ErrorContains(t, err, "ended_by_user: ")
	_, err = a.refresh(t, mine)
	require.NoError(t, err)
	sids, _ = here.own(s)
	require.Equal(t, []string{current}, sids)

	// And this one.
	page = here.post(s.issuer+"/sessions/end", url.Values{"sid": {current}})
	require.Equal(t, http.StatusUnauthorized, page.status)
	require.Contains(t, page.body, "You signed out.")
	require.Equal(t, http.StatusUnauthorized, newBrowser(t).get(s.issuer+"/sessions/").status)
}

func TestOwnSessionsFromElsewhere(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	b, _ := s.login(s.app("web"))
	for _, header := range []http.Header{{"Sec-Fetch-Site": {"cross-site"}}, {"Origin": {"https://evil.example"}}} {
		b.header = header
		for _, path := range []string{"end", "end-others"} {
			require.Equal(t, http.StatusForbidden, b.post(s.issuer+"/sessions/"+path, url.Values{}).status)
		}
	}
	b.header = http.Header{"Origin": {s.issuer}}
	require.Equal(t, http.StatusOK, b.post(s.issuer+"/sessions/end-others", url.Values{}).status)
}
