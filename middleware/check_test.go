package middleware_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/policy"
)

// Polling keeps nobody signed in, where the application says what is polling. It is
// answered while the access token is good; from then on only the provider could say
// whether the login goes on, and to ask it would keep the user signed in.
func TestBackground(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, with(func(c *middleware.Config) {
			c.IsBackground = func(r *http.Request) bool { return r.Header.Get("X-Poll") != "" }
		}))
		b := w.browser()
		b.login("/page")
		poll := func() page {
			return b.once(request(t, http.MethodGet, "/api", nil, http.Header{"Sec-Fetch-Mode": {"cors"}, "X-Poll": {"1"}}))
		}
		for range 4 {
			time.Sleep(time.Minute)
			require.Equal(t, http.StatusOK, poll().status)
		}
		for range 115 {
			time.Sleep(time.Minute)
			p := poll()
			require.Equal(t, http.StatusServiceUnavailable, p.status)
			require.NotEmpty(t, p.header.Get("Retry-After"))
		}
		require.EqualValues(t, 0, w.refreshes.Load())
		b.goesOn("/page") // the user is back
		require.Equal(t, http.StatusOK, poll().status)
		time.Sleep(2 * time.Hour)
		require.Equal(t, http.StatusUnauthorized, poll().status)
		require.Empty(t, w.seen(middleware.EventUnavailable), "it is no outage")
	})
}

// What a request says of itself keeps no session that has ended at the provider: not
// beyond the access token, which no header makes longer, and at no page.
func TestNoHeaderKeepsAnEndedSession(t *testing.T) {
	t.Parallel()
	stream := http.Header{"Accept": {"text/event-stream"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Site": {"same-origin"}}
	for name, test := range map[string]struct {
		method, address string
		header          http.Header
		within          int // while the access token is good
		after           int
	}{
		"an event stream":          {http.MethodGet, "/page", stream, http.StatusOK, http.StatusServiceUnavailable},
		"an event stream, of many": {http.MethodGet, "/page", http.Header{"Accept": {"application/json, text/event-stream"}}, http.StatusOK, http.StatusServiceUnavailable},
		"a WebSocket":              {http.MethodGet, "/page", http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}}, http.StatusOK, http.StatusServiceUnavailable},
		"a form":                   {http.MethodPost, "/form", stream, http.StatusUnauthorized, http.StatusUnauthorized},
		"a form of a WebSocket":    {http.MethodPost, "/form", http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}}, http.StatusUnauthorized, http.StatusUnauthorized},
		"a HEAD":                   {http.MethodHead, "/page", stream, http.StatusUnauthorized, http.StatusUnauthorized},
		"polling":                  {http.MethodGet, "/api", http.Header{"X-Poll": {"1"}}, http.StatusOK, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				w := newWorld(t, mode, with(func(c *middleware.Config) {
					c.RefreshAfter = time.Minute
					c.IsBackground = func(r *http.Request) bool { return r.Header.Get("X-Poll") != "" }
				}))
				b := w.browser()
				b.login("/page")
				require.NoError(t, w.hook.End(t.Context(), w.lastSID(), policy.ReasonEndedByAdmin, "root"))
				send := func() int {
					req := request(t, test.method, test.address, nil, test.header)
					req.Header.Set("Origin", appURL)
					return b.once(req).status
				}
				time.Sleep(time.Minute)
				require.Equal(t, test.within, send())
				for range 5 {
					time.Sleep(4 * time.Minute)
					require.Equal(t, test.after, send())
				}
				require.Equal(t, opHost, b.visit("/page").url.Host)
				require.Equal(t, http.StatusUnauthorized, send())
			})
		})
	}
}

// The same at a page that anybody may see: it sees nobody.
func TestNoHeaderKeepsAnEndedSessionAtAnOptionalPage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		b.login("/page")
		look := func() string {
			return b.once(request(t, http.MethodGet, "/", nil, http.Header{"Accept": {"text/event-stream"}})).body
		}
		require.Contains(t, look(), "home of "+optest.SubjectOf("alice"))
		require.NoError(t, w.hook.End(t.Context(), w.lastSID(), policy.ReasonEndedByAdmin, "root"))
		time.Sleep(5 * time.Minute)
		require.Contains(t, look(), "home of nobody")
	})
}
