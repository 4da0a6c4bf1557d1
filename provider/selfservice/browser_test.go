package selfservice_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/selfservice"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// The hook's cookie says whose page it is, in a browser that signed in at a real
// provider, and nothing else does.
func TestInABrowser(t *testing.T) {
	faulty := faultstore.New(memstore.New())
	hook, err := provider.New(provider.Config{
		Store: faulty, Keys: provider.Keys{provider.NewKey(time.Now())},
		Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": limits(24*time.Hour, 2*time.Hour, 3)}},
	})
	require.NoError(t, err)
	var mine atomic.Value // http.Handler: the issuer is known when the server has started
	s := optest.Start(t, optest.Config{Hook: hook, Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/sessions/") {
				http.StripPrefix("/sessions", mine.Load().(http.Handler)).ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	page, err := selfservice.New(selfservice.Config{Hook: hook, Subject: selfservice.BrowserSubject(hook, s.Issuer)})
	require.NoError(t, err)
	mine.Store(page)

	see := func(b *optest.Browser) (list selfservice.Sessions, status int) {
		t.Helper()
		v := b.Get(s.Issuer + "/sessions/?format=json")
		require.NoError(t, json.Unmarshal([]byte(v.Body), &list), v.Body)
		return list, v.Status
	}
	here, there, nobody := s.Browser(), s.Browser(), s.Browser()
	for _, b := range []*optest.Browser{here, there} {
		v := b.Login(optest.Web, "alice", nil)
		require.Equal(t, http.StatusOK, s.Code(optest.Web, v).Status)
	}
	require.Equal(t, http.StatusOK, s.Code(optest.Web2, here.Login(optest.Web2, "alice", nil)).Status) // one browser, one session

	list, status := see(here)
	require.Equal(t, http.StatusOK, status)
	require.Len(t, list.Sessions, 2)
	require.True(t, list.Sessions[0].Current)
	require.Len(t, list.Sessions[0].Applications, 2)
	require.Equal(t, []selfservice.Cap{{Used: 2, Max: 3}}, list.Caps)
	other, _ := see(there)
	require.Equal(t, list.Sessions[1].SID, other.Sessions[0].SID, "each is marked in its own browser")
	_, status = see(nobody)
	require.Equal(t, http.StatusUnauthorized, status)

	require.NoError(t, hook.End(t.Context(), list.Sessions[1].SID, policy.ReasonEndedByAdmin, "root"))
	gone := there.Get(s.Issuer + "/sessions/")
	require.Equal(t, http.StatusUnauthorized, gone.Status)
	require.Contains(t, gone.Body, "An administrator ended your sign-in.")
	faulty.Script(faultstore.Always(faultstore.Before))
	require.Equal(t, http.StatusServiceUnavailable, here.Get(s.Issuer+"/sessions/").Status)
	faulty.Script(nil)

	// The ID of a session proves nothing.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/sessions/?sid="+list.Sessions[0].SID, nil)
	require.NoError(t, err)
	for _, c := range here.HTTP.Jar.Cookies(r.URL) {
		if strings.Contains(c.Name, "session") {
			r.AddCookie(&http.Cookie{Name: c.Name, Value: "1." + strings.Repeat("A", 43) + "." + list.Sessions[0].SID})
		}
	}
	require.NotEmpty(t, r.Cookies())
	require.Equal(t, http.StatusUnauthorized, s.Do(s.HTTP, r).Status)
	subject, sid, err := selfservice.BrowserSubject(hook, "https://other.example.com")(r)
	require.NoError(t, err)
	require.Zero(t, subject)
	require.Empty(t, sid)
	require.Equal(t, store.Subject{}, subject)
}
