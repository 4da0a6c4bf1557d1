package middleware_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/middleware"
)

// Forms of other websites are refused, before anything is looked at.
func TestFormOfAnotherWebsite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		b.login("/page")
		for _, target := range []string{"/form", "/auth/signout", "/auth/session", "/auth/resume"} {
			req := request(t, http.MethodPost, target, strings.NewReader("text=x"), http.Header{
				"Content-Type": {"application/x-www-form-urlencoded"}, "Origin": {"https://evil.example"},
				"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}, "Accept": {"text/html"},
			})
			require.Equal(t, http.StatusForbidden, b.once(req).status, target)
		}
		b.goesOn("/page")
		require.Len(t, w.seen(middleware.EventCrossOrigin), 4)
	})
}

// What a browser loads in advance begins no sign-in, and takes no notice away.
func TestPrefetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		req := request(t, http.MethodGet, "/page", nil, navigate)
		req.Header.Set("Sec-Purpose", "prefetch;prerender")
		require.Equal(t, http.StatusUnauthorized, b.once(req).status)
		require.Empty(t, b.cookies())
	})
}

func TestScriptIsNotRedirected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		p := b.script(http.MethodGet, "/api")
		require.Equal(t, http.StatusUnauthorized, p.status)
		require.Equal(t, "Bearer", p.header.Get("WWW-Authenticate"), "nothing was presented")
		b.login("/page")
		require.Contains(t, b.script(http.MethodGet, "/api").body, "api of")
		time.Sleep(3 * time.Hour)
		p = b.script(http.MethodGet, "/api")
		require.Equal(t, http.StatusUnauthorized, p.status)
		require.Equal(t, `Bearer error="invalid_token"`, p.header.Get("WWW-Authenticate"))
		require.Equal(t, "application/json", p.header.Get("Content-Type"))
		require.JSONEq(t, `{"error":"invalid_token","error_description":"You were signed out after 2 hours without activity.",
			"reason":"inactivity","sign_in":"/auth/signin?return=%2Fpage%3Fof%3Dscript","signed_in":false}`, p.body)
		require.Empty(t, p.header.Get("Location"))
	})
}

func TestProviderDownIsNoLogout(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		b.login("/page")
		before := slices.Sorted(maps.Keys(b.cookies()))
		time.Sleep(4*time.Minute + 5*time.Second) // of the 5 that the access token lives
		for _, status := range []int{http.StatusServiceUnavailable, http.StatusInternalServerError, http.StatusBadGateway, http.StatusTooManyRequests, 0} {
			w.answers(func(*http.Request) *http.Response {
				r := response(status, `{"error":"server_error"}`)
				r.Header.Set("Retry-After", "7")
				return r
			})
			time.Sleep(9 * time.Second)
			b.goesOn("/page") // the tokens at hand are good
		}
		w.answers(func(*http.Request) *http.Response {
			r := response(http.StatusServiceUnavailable, `<h1>maintenance</h1>`)
			r.Header.Set("Retry-After", "7")
			return r
		})
		time.Sleep(10 * time.Minute)
		p := b.visit("/page")
		require.Equal(t, http.StatusServiceUnavailable, p.status)
		require.Equal(t, "7", p.header.Get("Retry-After"))
		require.Contains(t, p.body, "You are not signed out")
		require.Equal(t, http.StatusServiceUnavailable, b.script(http.MethodGet, "/api").status)
		require.Equal(t, before, slices.Sorted(maps.Keys(b.cookies())), "nothing is taken away")
		w.answers(nil)
		time.Sleep(time.Minute)
		b.goesOn("/page")
		require.Empty(t, w.seen(middleware.EventEnded))
	})
}

func TestLoopGuard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		p := b.visit("/page")
		// The browser loses the session cookie, and only that.
		name := ""
		b.http.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := w.transport().RoundTrip(r)
			if err == nil && r.URL.Path == "/cb" {
				kept := resp.Header["Set-Cookie"][:0:0]
				for _, c := range resp.Header["Set-Cookie"] {
					n, _, _ := strings.Cut(c, "=")
					if !strings.HasPrefix(n, "curfew-rp-") || strings.Count(n, "-") != 2 {
						kept = append(kept, c)
					} else {
						name = n
					}
				}
				resp.Header["Set-Cookie"] = kept
			}
			return resp, err
		})
		p = b.signIn(p, "alice")
		require.NotEmpty(t, name)
		require.Equal(t, http.StatusUnauthorized, p.status)
		require.Contains(t, p.body, "Signing in did not last")
		require.Contains(t, p.body, `href="/auth/signin?return=%2Fpage"`)
		require.Equal(t, opHost, b.visit("/page").url.Host, "the next try is one again")
	})
}

// With ExplainFirst the reason comes before the provider's page, and a click leads
// through it back to where the user was. Who was never signed in is told nothing.
func TestExplainFirst(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, with(func(c *middleware.Config) { c.ExplainFirst = true }))
		b := w.browser()
		b.login("/page") // at the provider at once
		time.Sleep(2*time.Hour + time.Minute)
		require.Equal(t, http.StatusUnauthorized, b.script(http.MethodGet, "/api").status)
		p := b.visit("/page?draft=7&x=%20")
		require.Len(t, p.via, 1, "not to the provider yet")
		require.Equal(t, http.StatusUnauthorized, p.status)
		require.Contains(t, p.body, "You were signed out after 2 hours without activity.")
		link := attr.FindStringSubmatch(p.body[strings.Index(p.body, `href="/auth/signin`):])
		require.Equal(t, "/auth/signin?return=%2Fpage%3Fdraft%3D7%26x%3D%2520", link[2])
		p = b.signIn(b.visit(link[2]), "alice")
		require.Equal(t, "/page?draft=7&x=%20", p.url.RequestURI())
		require.NotContains(t, p.body, "notice", "it was told before")
	})
}
