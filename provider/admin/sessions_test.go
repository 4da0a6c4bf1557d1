package admin_test

import (
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
)

// listSessions returns all sessions of the account that a query selects.
func listSessions(w *admintest.World, token, query string) []admin.Session {
	return admintest.Sessions[admin.Session](w, token, query)
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

func TestAnAdministratorEndsSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	w.SignIn("root")
	tokens := map[string]optest.Reply{}
	login := func(name, client, user string) {
		tokens[name] = w.Login(client, user)
	}
	login("ann1", optest.Web, "ann")
	login("ann2", optest.Web, "ann")
	login("bob", optest.Web2, "bob")
	login("cid", optest.Web2, "cid")
	login("other", optest.Web2, "other-dan")
	works := func(name string, want bool) {
		t.Helper()
		client := map[string]string{"bob": optest.Web2, "cid": optest.Web2, "other": optest.Web2}[name]
		if client == "" {
			client = optest.Web
		}
		got := w.Refresh(client, tokens[name].RefreshToken())
		if want {
			require.Equal(t, 200, got.Status, name)
			tokens[name] = got
			return
		}
		require.Equal(t, "invalid_grant", got.Error(), name)
		require.Contains(t, got.Description(), "ended_by_admin", name)
	}
	end := func(body any) service.Result {
		t.Helper()
		var r service.Result
		w.Send("POST", "/v1/accounts/acme/sessions/end", root, body).Into(200, &r)
		require.True(t, r.Complete)
		return r
	}
	ann := listSessions(w, root, "user="+optest.SubjectOf("ann"))
	other, _, err := w.Hook.List(t.Context(), store.Filter{Account: "elsewhere"}, "", 10)
	require.NoError(t, err)

	// One. Again it succeeds and changes nothing.
	for range 2 {
		var s admin.Session
		w.Send("DELETE", "/v1/accounts/acme/sessions/"+ann[0].ID, root, nil).Into(200, &s)
		require.Equal(t, policy.ReasonEndedByAdmin, s.Ended.Reason)
		require.Equal(t, optest.SubjectOf("root"), s.Ended.By)
		require.Equal(t, "An administrator ended your sign-in.", s.Ended.Text)
	}
	// Many: what is not there, or not in the account, is named.
	r := end(map[string]any{"sessions": []string{ann[1].ID, ann[0].ID, "nonsense", other[0].ID}})
	require.Equal(t, 1, r.Ended)
	require.Equal(t, []string{"nonsense", other[0].ID}, r.NotFound)
	works("ann1", false)
	works("ann2", false)
	works("bob", true)
	works("other", true)

	// All of a user, of a client, all but mine.
	login("ann1", optest.Web, "ann")
	require.Equal(t, 1, end(map[string]any{"user": optest.SubjectOf("ann")}).Ended)
	works("ann1", false)
	require.Equal(t, 0, end(map[string]any{"user": optest.SubjectOf("other-dan")}).Ended)
	require.Equal(t, 2, end(map[string]any{"client": optest.Web2}).Ended)
	works("bob", false)
	works("other", true)
	login("ann1", optest.Web, "ann")
	require.Equal(t, 2, end(map[string]any{"all": true, "except_mine": true}).Ended)
	require.Len(t, listSessions(w, root, ""), 1)
	works("other", true)
	require.Equal(t, 0, end(map[string]any{"user": optest.SubjectOf("root"), "except_mine": true}).Ended)

	for name, body := range map[string]any{
		"nothing": map[string]any{}, "not all": map[string]any{"all": false}, "empty user": map[string]any{"user": ""},
		"two ways": map[string]any{"all": true, "user": "x"}, "none": map[string]any{"sessions": []string{}}, "mine alone": map[string]any{"except_mine": true},
	} {
		require.Equal(t, "sessions", w.Send("POST", "/v1/accounts/acme/sessions/end", root, body).Problem(400, "invalid").Errors[0].Field, name)
	}
	require.Len(t, listSessions(w, root, ""), 1)

	var s admin.Session
	w.Send("GET", "/v1/accounts/acme/sessions/"+ann[0].ID, root, nil).Into(200, &s)
	require.Equal(t, ann[0].ID, s.ID)
	w.Send("GET", "/v1/accounts/acme/sessions/"+other[0].ID, root, nil).Problem(404, "not_found")
	w.Send("DELETE", "/v1/accounts/acme/sessions/"+other[0].ID, root, nil).Problem(404, "not_found")
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
	var s admin.Session
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

// An administrator ends what a user has while a login of theirs waits for its
// application: that ends with the rest, whatever the selection, and does not count.
func TestEndingAUserEndsTheLoginUnderWay(t *testing.T) {
	t.Parallel()
	for name, sel := range map[string]func(user string) map[string]any{
		"user":            func(user string) map[string]any { return map[string]any{"user": user} },
		"user and client": func(user string) map[string]any { return map[string]any{"user": user, "client": optest.Web} },
		"client":          func(string) map[string]any { return map[string]any{"client": optest.Web} },
		"all":             func(string) map[string]any { return map[string]any{"all": true, "except_mine": true} },
	} {
		for also, sessions := range map[string]int{"": 0, " with a session": 1} {
			t.Run(name+also, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				root := w.Login(optest.Web2, "root").AccessToken()
				w.Save(root, admintest.Bounds(0, 0, 5, policy.Refuse))
				for range sessions {
					w.Login(optest.Web, "ann")
				}
				waiting := w.Browser().Login(optest.Web, "ann", nil)
				other := w.Browser().Login(optest.Web, "other-dan", nil) // of another account
				var r service.Result
				w.Send("POST", "/v1/accounts/acme/sessions/end", root, sel(optest.SubjectOf("ann"))).Into(200, &r)
				require.Equal(t, sessions, r.Ended)
				late := w.Code(optest.Web, waiting)
				require.Equal(t, "invalid_grant", late.Error())
				require.Contains(t, late.Description(), "ended_by_admin")
				require.Empty(t, listSessions(w, root, "user="+optest.SubjectOf("ann")))
				require.Equal(t, 200, w.Code(optest.Web, other).Status)
			})
		}
	}
}
