package admin_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
)

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
		var s session
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

	var s session
	w.Send("GET", "/v1/accounts/acme/sessions/"+ann[0].ID, root, nil).Into(200, &s)
	require.Equal(t, ann[0].ID, s.ID)
	w.Send("GET", "/v1/accounts/acme/sessions/"+other[0].ID, root, nil).Problem(404, "not_found")
	w.Send("DELETE", "/v1/accounts/acme/sessions/"+other[0].ID, root, nil).Problem(404, "not_found")
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
