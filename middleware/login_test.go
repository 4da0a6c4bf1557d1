package middleware_test

import (
	"crypto/sha256"
	"encoding/base64"
	"html"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/policy"
)

// The ways to keep sessions, all of which behave the same.
var modes = map[string]setting{
	"store":   func(*world, *policy.Account, *optest.Config, *middleware.Config) {},
	"cookies": inCookies,
}

// eachMode runs a test in a bubble of its own for each of the modes.
func eachMode(t *testing.T, test func(t *testing.T, mode setting)) {
	t.Helper()
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, mode) })
		})
	}
}

func TestSignInAndBack(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		p := b.login("/page?a=1&b=%2Fx")
		require.Contains(t, p.body, "page of "+optest.SubjectOf("alice")+", query a=1&b=%2Fx")
		require.NotContains(t, p.body, "notice")
		require.Equal(t, "private, no-cache", p.header.Get("Cache-Control"))
		p = b.visit("/page")
		require.Len(t, p.via, 1)
		require.EqualValues(t, 0, w.refreshes.Load())
		require.Contains(t, b.visit("/").body, "home of "+optest.SubjectOf("alice"))
		for n := range b.cookies() {
			require.NotContains(t, n, "-in-", "the sign-in is finished")
		}
	})
}

// The reason of the provider reaches the user, who is back where they were.
func TestInactivity(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		b.login("/page")
		time.Sleep(2*time.Hour + time.Minute)
		p := b.visit("/page?draft=7&x=%20")
		require.Equal(t, opHost, p.url.Host)
		p = b.signIn(p, "alice")
		require.Equal(t, "/page?draft=7&x=%20", p.url.RequestURI())
		require.Contains(t, p.body, "notice: You were signed out after 2 hours without activity.\n")
		require.NotContains(t, b.visit("/page").body, "notice", "once")
	})
}

// Who works is not signed out: not by the access token's life, and not by what lies
// between a click and the refresh before it.
func TestActivityKeepsTheSession(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, limited(24*time.Hour, 2*time.Hour))
		b := w.browser()
		b.login("/page")
		for range 11 {
			time.Sleep(109 * time.Minute) // less than 2 hours by more than a twelfth
			b.goesOn("/page")
		}
		require.EqualValues(t, 11, w.refreshes.Load())
		time.Sleep(3 * time.Minute) // not at each request
		b.goesOn("/page")
		require.EqualValues(t, 11, w.refreshes.Load())
		time.Sleep(2 * time.Minute) // before the access token of 5 minutes expires
		b.goesOn("/page")
		require.EqualValues(t, 12, w.refreshes.Load())
	})
}

// A user counts as active until a twelfth of the window before the last click at worst.
func TestRefreshFollowsTheWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limited(24*time.Hour, 15*time.Minute))
		b := w.browser()
		b.login("/page")
		time.Sleep(75*time.Second - time.Millisecond)
		b.goesOn("/page")
		require.EqualValues(t, 0, w.refreshes.Load())
		time.Sleep(time.Millisecond)
		b.goesOn("/page")
		require.EqualValues(t, 1, w.refreshes.Load())
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, with(func(c *middleware.Config) { c.RefreshAfter = 10 * time.Second }))
		b := w.browser()
		b.login("/page")
		time.Sleep(10 * time.Second)
		b.goesOn("/page")
		require.EqualValues(t, 1, w.refreshes.Load())
	})
}

func TestActiveLimit(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, limited(8*time.Hour, 2*time.Hour))
		b := w.browser()
		b.login("/page")
		begin := time.Now()
		for range 7 {
			time.Sleep(time.Hour)
			b.goesOn("/page")
		}
		time.Sleep(time.Until(begin.Add(8*time.Hour - time.Second))) // the provider tells whole seconds
		b.goesOn("/page")
		time.Sleep(2 * time.Second)
		p := b.visit("/page")
		require.Equal(t, opHost, p.url.Host)
		p = b.signIn(p, "alice")
		require.Contains(t, p.body, "notice: You were signed out because a sign-in lasts at most 8 hours.\n")
	})
}

// Two applications in one browser are one session at the provider: who is active in
// one is so in the other, though that one has not refreshed for longer than the
// window.
func TestActivityInAnotherApplication(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, func(_ *world, _ *policy.Account, o *optest.Config, _ *middleware.Config) {
			o.Storage = optest.NewStorage()
			for _, c := range optest.DefaultClients() {
				if c.ID == optest.Web2 {
					c.Redirects = []string{"http://127.0.0.1:9997/cb"}
					o.Storage.SetClient(c)
				}
			}
		})
		cfg := w.cfg
		cfg.ClientID, cfg.ClientSecret, cfg.RedirectURL = optest.Web2, optest.Web2+"-secret", "http://127.0.0.1:9997/cb"
		other, err := middleware.New(cfg)
		require.NoError(t, err)
		w.serve("127.0.0.1:9997", w.app(other))
		b := w.browser()
		b.login("/page")
		sid := w.lastSID()
		b.login("http://127.0.0.1:9997/page")
		require.Equal(t, sid, w.lastSID())
		for range 3 {
			time.Sleep(time.Hour)
			b.goesOn("http://127.0.0.1:9997/page")
		}
		b.goesOn("/page")
		time.Sleep(2*time.Hour + time.Second)
		require.Equal(t, opHost, b.visit("/page").url.Host)
		require.Equal(t, opHost, b.visit("http://127.0.0.1:9997/page").url.Host)
	})
}

// The middleware's pages have their style in themselves, and allow nothing else.
func TestStyleOfPages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newWorld(t).browser().visit("/auth/signout")
		_, style, _ := strings.Cut(p.body, "<style>")
		style, _, ok := strings.Cut(style, "</style>")
		require.True(t, ok)
		sum := sha256.Sum256([]byte(style))
		policy := p.header.Get("Content-Security-Policy")
		require.Contains(t, policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
		require.NotContains(t, policy, "unsafe")
		require.NotContains(t, p.body, "<script")
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

func TestPostedFormIsKept(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		b.login("/page")
		form := url.Values{"text": {"<b>long & dear", "second"}, "password": {"hunter2"}, "csrf_token": {"old"}, "amount": {"7"}}
		require.Contains(t, b.post("/form", form).body, "form of")
		time.Sleep(3 * time.Hour)
		p := b.post("/form?id=3", form)
		require.Equal(t, http.StatusUnauthorized, p.status)
		require.Contains(t, p.body, "You were signed out after 2 hours without activity.")
		require.Contains(t, p.body, "&lt;b&gt;long &amp; dear")
		require.NotContains(t, p.body, "hunter2")
		require.Contains(t, p.body, "csrf_token, password")
		p = b.signIn(b.submit(p, nil), "alice")
		require.Equal(t, "/auth/resume", p.url.Path)
		require.Contains(t, p.body, `action="`+appURL+`/form?id=3"`)
		p = b.submit(p, nil)
		require.Equal(t, http.StatusOK, p.status)
		require.Contains(t, p.body, "form of "+optest.SubjectOf("alice")+": "+url.Values{"text": form["text"], "amount": {"7"}}.Encode())
	})
}

// Of somebody else's form nothing is sent.
func TestPostedFormOfAnotherUser(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		b.login("/page")
		time.Sleep(3 * time.Hour)
		p := b.post("/form", url.Values{"text": {"of alice"}})
		p = b.signIn(b.submit(p, nil), "bob")
		require.NotContains(t, p.body, "of alice")
		require.Contains(t, p.body, "home of "+optest.SubjectOf("bob"))
		require.Contains(t, p.body, "somebody else had typed it")
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

// The code is spent when a sign-in cannot be completed: to load the page again does
// not help. The page leads to the next sign-in, with the form that waits for it, and
// the operator learns why nobody can sign in.
func TestSignInThatCannotBeCompleted(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		b.login("/page")
		time.Sleep(3 * time.Hour)
		p := b.submit(b.post("/form?id=3", url.Values{"text": {"long"}}), nil)
		w.answers(func(r *http.Request) *http.Response {
			if r.URL.Path != "/oauth/token" {
				return nil
			}
			return response(http.StatusUnauthorized, `{"error":"invalid_client"}`)
		})
		before := len(w.seen(middleware.EventUnavailable))
		p = b.signIn(p, "alice")
		require.Equal(t, http.StatusServiceUnavailable, p.status)
		require.NotEmpty(t, p.header.Get("Retry-After"))
		events := w.seen(middleware.EventUnavailable)
		require.Len(t, events, before+1)
		require.ErrorContains(t, events[before].Err, "invalid_client")

		w.answers(nil)
		time.Sleep(time.Minute)
		link := signInLink.FindStringSubmatch(p.body)
		require.NotNil(t, link, p.body)
		p = b.signIn(b.visit(html.UnescapeString(link[1])), "alice")
		require.Equal(t, "/auth/resume", p.url.Path)
		p = b.submit(p, nil)
		require.Contains(t, p.body, "form of "+optest.SubjectOf("alice")+": text=long")
	})
}

var signInLink = regexp.MustCompile(`<a id="signin" href="(/auth/signin[^"]*)"`)

// An application starts while its provider is down, and signs users in later.
func TestStartsWithoutProvider(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.answers(func(*http.Request) *http.Response { return response(0, "") })
		b := w.browser()
		p := b.visit("/page")
		require.Equal(t, http.StatusServiceUnavailable, p.status)
		require.NotEmpty(t, p.header.Get("Retry-After"))
		w.answers(nil)
		time.Sleep(2 * time.Second)
		b.login("/page")
	})
}

func TestSignOut(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, with(func(c *middleware.Config) { c.Store = middleware.NewMemoryStore() }))
		b := w.browser()
		b.login("/page")
		copied := b.cookies()
		require.Contains(t, b.visit("/auth/signout").body, "Sign out?")
		b.goesOn("/page")
		p := b.submit(b.visit("/auth/signout"), nil)
		contains(t, p.via, "id_token_hint=")
		contains(t, p.via, "client_id="+optest.Web)
		require.Equal(t, "/out", p.url.Path, "%v", p.via)
		require.NotEmpty(t, p.url.Query().Get("state"))
		require.Contains(t, p.body, "notice: You signed out.")
		require.Equal(t, opHost, b.visit("/page").url.Host)
		thief := w.browser()
		for n, v := range copied {
			thief.set(n, v)
		}
		require.Equal(t, opHost, thief.visit("/page").url.Host, "a copy of the cookie is over too")

		// At another process too, which shares the store.
		cfg := w.cfg
		other, err := middleware.New(cfg)
		require.NoError(t, err)
		w.serve(appHost, w.app(other))
		thief = w.browser()
		for n, v := range copied {
			thief.set(n, v)
		}
		require.Equal(t, opHost, thief.visit("/page").url.Host)
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

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
