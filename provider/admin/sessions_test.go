package admin_test

import (
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
)

// A session is what the tests read of a session, as the API writes it.
type session struct {
	ID, User, Client, Actor, Parent string
	Kind                            policy.Kind
	Clients                         []string
	UserAgent                       string `json:"user_agent"`
	Address                         string
	Started, Authenticated          time.Time
	LastActivity                    time.Time `json:"last_activity"`
	Activity, ACR                   string
	AMR                             []string
	EndsAt                          time.Time     `json:"ends_at"`
	EndsBy                          policy.Reason `json:"ends_by"`
	Ended                           *struct {
		At         time.Time
		Reason     policy.Reason
		Text, By   string
		Deliveries []delivery
	}
	Yours, Current bool
}

// A delivery is what they read of a logout notification.
type delivery struct {
	Client, URI, Error string
	Attempts           int
	Next               time.Time
	GivenUp            time.Time `json:"given_up"`
}

// listSessions returns all sessions of the account that a query selects.
func listSessions(w *admintest.World, token, query string) []session {
	return admintest.Sessions[session](w, token, query)
}

func TestSessionsAreListedByWhatOneLooksFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	for range 3 {
		w.SignIn("ann")
	}
	w.Login(optest.Native, "ann")
	w.SignIn("bob")
	w.SignIn("other-dan")
	w.SignIn("both")
	ann := "user=" + optest.SubjectOf("ann")
	for query, want := range map[string]int{
		"": 7, "state=live": 7, "state=any": 7, "state=ended": 0, ann: 4, ann + "&kind=cli": 1, "kind=cli": 1,
		"client=web": 6, "client=native": 1, "user=" + optest.SubjectOf("other-dan"): 0, "user=" + optest.SubjectOf("both"): 1,
	} {
		require.Len(t, listSessions(w, root, query), want, query)
	}
	one := listSessions(w, root, ann+"&kind=cli")[0]
	require.Equal(t, optest.SubjectOf("ann"), one.User)
	require.Equal(t, []string{"native"}, one.Clients)
	require.Equal(t, policy.CLI, one.Kind)
	require.False(t, one.Yours || one.Current)
	mine := listSessions(w, root, "user="+optest.SubjectOf("root"))[0]
	require.True(t, mine.Yours && mine.Current)

	var page struct {
		Next string `json:"next_cursor"`
	}
	w.Send("GET", "/v1/accounts/acme/sessions?limit=1", root, nil).Into(200, &page)
	for name, query := range map[string]string{
		"cursor of another list": "kind=cli&cursor=" + page.Next, "no cursor": "cursor=x", "cursor that was changed": "cursor=" + page.Next[1:],
	} {
		require.Equal(t, "cursor", w.Send("GET", "/v1/accounts/acme/sessions?"+query, root, nil).Problem(400, "invalid").Errors[0].Field, name)
	}
	for field, query := range map[string]string{
		"limit": "limit=0", "state": "state=dead", "kind": "kind=x", "user": "user=%00", "client": "client=%E2%80%AEx",
	} {
		require.Equal(t, field, w.Send("GET", "/v1/accounts/acme/sessions?"+query, root, nil).Problem(400, "invalid").Errors[0].Field, query)
	}
}

// A login whose code was not redeemed yet holds a place, and is no session that
// anybody could see, end by its ID or be told of. It goes on, unless all that its user
// has ends: see TestEndingAUserEndsTheLoginUnderWay.
func TestALoginThatIsNotCompletedIsNoSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(0, 0, 5, policy.Refuse))
	visit := w.Browser().Login(optest.Web, "ann", nil)
	held, _, err := w.Store.List(t.Context(), store.Filter{Subject: store.Subject{Issuer: w.Issuer, ID: optest.SubjectOf("ann")}}, "", 10)
	require.NoError(t, err)
	require.Len(t, held, 1)
	require.NotZero(t, held[0].ReservedUntil)
	sid := held[0].ID

	const all = "/v1/accounts/acme/sessions"
	require.Empty(t, listSessions(w, root, "user="+optest.SubjectOf("ann")))
	w.Send("GET", all+"/"+sid, root, nil).Problem(404, "not_found")
	w.Send("DELETE", all+"/"+sid, root, nil).Problem(404, "not_found")
	w.Send("POST", all+"/"+sid+"/deliveries", root, map[string]any{"client": optest.Web}).Problem(404, "not_found")
	for name, body := range map[string]any{
		"named": map[string]any{"sessions": []string{sid}}, "of a client": map[string]any{"client": optest.Web2},
	} {
		var r service.Result
		w.Send("POST", all+"/end", root, body).Into(200, &r)
		require.Zero(t, r.Ended, name)
		require.Equal(t, name == "named", len(r.NotFound) == 1, name)
	}
	require.Equal(t, 404, w.Page("GET", "acme/sessions/"+sid, root, nil).Status)

	require.Equal(t, 200, w.Code(optest.Web, visit).Status, "nothing of it was touched")
	var s session
	w.Send("GET", all+"/"+sid, root, nil).Into(200, &s)
	w.Send("DELETE", all+"/"+sid, root, nil).Into(200, &s)
	require.NotNil(t, s.Ended)
}

func TestAHeartbeatCountsForItsOwnSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := admintest.Bounds(24*time.Hour, time.Hour, 0, 0)
		a.Activity = policy.ClassesOf(policy.Interactive, policy.Heartbeat)
		w.Save(w.SignIn("root"), a)

		tokens := w.Login(optest.Web, "ann")
		ann, bob := tokens.AccessToken(), w.SignIn("bob")
		root := w.SignIn("root")
		sid := func(user string) string { return listSessions(w, root, "user="+optest.SubjectOf(user))[0].ID }
		annSID, bobSID := sid("ann"), sid("bob")
		beat := func(token, sid string) admintest.Response {
			return w.Send("PATCH", "/v1/sessions/"+sid+"/state", token, nil)
		}

		// Its own only, and nobody's without a token.
		beat("", annSID).Problem(401, "unauthenticated")
		beat(bob, annSID).Problem(404, "not_found")
		beat(bob, "nonsense").Problem(404, "not_found")

		for range 5 {
			time.Sleep(20 * time.Minute)
			tokens = w.Refresh(optest.Web, tokens.RefreshToken()) // which is no activity here
			got := beat(tokens.AccessToken(), annSID)
			require.Equal(t, 204, got.Status, "%s", got.Body)
			require.Empty(t, got.Body)
		}
		require.Equal(t, 401, beat(ann, annSID).Status, "that token is over")
		s, err := w.Hook.Session(t.Context(), annSID)
		require.NoError(t, err)
		require.Nil(t, s.End, "it was used an hour ago at most")
		require.Equal(t, policy.Heartbeat, s.ActivityClass)
		s, err = w.Hook.Session(t.Context(), bobSID)
		require.NoError(t, err)
		require.Equal(t, policy.ReasonInactivity, s.End.Reason, "somebody else's heartbeat is none")
		beat(bob, bobSID).Problem(401, "unauthenticated")
	})
}

// A session that an administrator opened for a user says so, in the API, in the console
// and on the user's own page, and so does its end.
func TestWhoActsForAUserIsShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	mine := w.Login(optest.Exchange, "admin")
	exchanged := w.TokenExchange(optest.Exchange, mine.AccessToken(), optest.AccessTokenType, url.Values{
		"requested_token_type": {optest.RefreshTokenType}, "scope": {"openid offline_access custom_scope:impersonate:" + optest.SubjectOf("ann")}})
	require.Equal(t, 200, exchanged.Status, exchanged.Body)
	parent := listSessions(w, root, "user="+optest.SubjectOf("admin"))[0]
	require.Empty(t, parent.Actor+parent.Parent)
	child := listSessions(w, root, "user="+optest.SubjectOf("ann"))[0]
	require.Equal(t, parent.ID, child.Parent)
	require.Equal(t, optest.SubjectOf("admin"), child.Actor)

	require.Contains(t, w.Page("GET", "acme/sessions", root, nil).Body, "acted in by <bdi>"+child.Actor)
	page := w.Page("GET", "acme/sessions/"+child.ID, root, nil).Body
	require.Contains(t, page, "<bdi>"+child.Actor+"</bdi>, in the session <code>"+parent.ID)
	require.NotContains(t, w.Page("GET", "acme/sessions/"+parent.ID, root, nil).Body, "Who acts as this user")

	require.NoError(t, w.Hook.End(t.Context(), parent.ID, policy.ReasonAccountDisabled, "root"))
	ended := listSessions(w, root, "state=ended&user="+optest.SubjectOf("ann"))[0]
	require.Equal(t, policy.ReasonAccountDisabled, ended.Ended.Reason)
	require.Equal(t, "The sign-in that this one was made from is over: the account was disabled.", ended.Ended.Text)
}
