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
	w := newWorld(t, func(_ *world, c *provider.Config, _ *admin.Config) {
		c.Logout = provider.Logout{Loopback: true, URIs: func(_ context.Context, client string) (provider.LogoutURIs, error) {
			if client == optest.Web2 {
				return provider.LogoutURIs{BackChannel: application.URL + "/logout?key=secret"}, nil
			}
			return provider.LogoutURIs{}, nil
		}}
	})
	root := w.login("root")
	w.Login(optest.Web2, "ann")
	sid := w.sessions(root, "client="+optest.Web2)[0].ID
	path := "/v1/accounts/acme/sessions/" + sid
	redo := func(sid, client string) response {
		return w.send("POST", "/v1/accounts/acme/sessions/"+sid+"/deliveries", root, map[string]any{"client": client})
	}
	redo(sid, optest.Web2).problem(409, "live")
	require.Equal(t, 200, w.send("DELETE", path, root, nil).Status)

	list := func(state string) []admin.OwedDelivery {
		t.Helper()
		var page struct{ Deliveries []admin.OwedDelivery }
		w.send("GET", "/v1/accounts/acme/deliveries?state="+state, root, nil).into(200, &page)
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
	var s admin.Session
	w.send("GET", path, root, nil).into(200, &s)
	require.Len(t, s.Ended.Deliveries, 1)

	var r admin.Redelivery
	redo(sid, optest.Web2).into(200, &r)
	require.False(t, r.Delivered)
	require.NotEmpty(t, r.Error)
	up.Store(true)
	redo(sid, optest.Web2).into(200, &r)
	require.True(t, r.Delivered)
	require.Empty(t, r.Delivery)
	require.Empty(t, list("any"))

	redo(sid, optest.Web).problem(404, "not_found")
	redo("nonsense", optest.Web2).problem(404, "not_found")
	require.Equal(t, "state", w.send("GET", "/v1/accounts/acme/deliveries?state=lost", root, nil).problem(400, "invalid").Errors[0].Field)
}
