package admin_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
)

// What an application did not get is listed with why, and sent again on demand.
func TestDeliveriesAreListedAndSentAgain(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	application := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !up.Load() || r.PostFormValue("logout_token") == "" {
			rw.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer application.Close()
	w := newWorld(t, func(_ *admintest.World, c *provider.Config, _ *admin.Config) {
		c.Logout = provider.Logout{Loopback: true, URIs: func(_ context.Context, client string) (provider.LogoutURIs, error) {
			if client == optest.Web2 {
				return provider.LogoutURIs{BackChannel: application.URL + "/logout?key=secret"}, nil
			}
			return provider.LogoutURIs{}, nil
		}}
	})
	root := w.SignIn("root")
	w.Login(optest.Web2, "ann")
	sid := listSessions(w, root, "client="+optest.Web2)[0].ID
	path := "/v1/accounts/acme/sessions/" + sid
	redo := func(sid, client string) admintest.Response {
		return w.Send("POST", "/v1/accounts/acme/sessions/"+sid+"/deliveries", root, map[string]any{"client": client})
	}
	redo(sid, optest.Web2).Problem(409, "live")
	require.Equal(t, 200, w.Send("DELETE", path, root, nil).Status)

	type owed struct {
		Session, User string
		Reason        policy.Reason
		delivery
	}
	list := func(state string) []owed {
		t.Helper()
		var page struct{ Deliveries []owed }
		w.Send("GET", "/v1/accounts/acme/deliveries?state="+state, root, nil).Into(200, &page)
		return page.Deliveries
	}
	require.Eventually(t, func() bool { d := list("owed"); return len(d) == 1 && d[0].Attempts > 0 }, 10*time.Second, 10*time.Millisecond)
	d := list("any")[0]
	require.Equal(t, sid, d.Session)
	require.Equal(t, optest.SubjectOf("ann"), d.User)
	require.Equal(t, optest.Web2, d.Client)
	require.Equal(t, policy.ReasonEndedByAdmin, d.Reason)
	require.Equal(t, application.URL+"/logout", d.URI)
	require.NotEmpty(t, d.Error)
	require.Empty(t, list("given_up"))
	var s session
	w.Send("GET", path, root, nil).Into(200, &s)
	require.Len(t, s.Ended.Deliveries, 1)

	var r struct {
		Delivered  bool
		Error      string
		Deliveries []delivery
	}
	redo(sid, optest.Web2).Into(200, &r)
	require.False(t, r.Delivered)
	require.NotEmpty(t, r.Error)
	up.Store(true)
	redo(sid, optest.Web2).Into(200, &r)
	require.True(t, r.Delivered)
	require.Empty(t, r.Deliveries)
	require.Empty(t, list("any"))

	redo(sid, optest.Web).Problem(404, "not_found")
	redo("nonsense", optest.Web2).Problem(404, "not_found")
	require.Equal(t, "state", w.Send("GET", "/v1/accounts/acme/deliveries?state=lost", root, nil).Problem(400, "invalid").Errors[0].Field)
}
