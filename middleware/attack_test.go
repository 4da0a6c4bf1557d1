package middleware_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/policy"
)

// answerOf stands at the provider's answer: the address of the callback, which is
// not visited.
func (b *browser) answerOf(address, user string) string {
	b.w.t.Helper()
	p := b.visit(address)
	require.Equal(b.w.t, opHost, p.url.Host)
	stop := &browser{w: b.w, jar: b.jar, http: &http.Client{Jar: b.jar, CheckRedirect: b.http.CheckRedirect}}
	inner := b.w.transport()
	callback := ""
	stop.http.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/cb" {
			callback = r.URL.String()
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}
		return inner.RoundTrip(r)
	})
	stop.signIn(p, user)
	require.Contains(b.w.t, callback, "code=")
	return callback
}

// fromIssuer returns an answer as if another issuer had sent it; empty: as one that
// does not name any.
func fromIssuer(t *testing.T, callback, issuer string) string {
	t.Helper()
	u, err := url.Parse(callback)
	require.NoError(t, err)
	q := u.Query()
	q.Del("iss")
	if issuer != "" {
		q.Set("iss", issuer)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func refusedSignIn(t *testing.T, w *world, p page) {
	t.Helper()
	require.GreaterOrEqual(t, p.status, 400, p.body)
	require.Contains(t, p.body, `data-page="not_signed_in"`)
	require.NotEmpty(t, w.seen(middleware.EventSignInFailed))
}

// What the provider answered one browser is worth nothing in another, whoever
// stole it from whom.
func TestStolenCallback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		victim, thief := w.browser(), w.browser()
		callback := victim.answerOf("/page", "alice")
		thief.visit("/page") // has a sign-in of its own
		p := thief.visit(callback)
		require.Equal(t, opHost, p.url.Host, "the thief may sign in")
		require.EqualValues(t, 0, w.exchanges.Load(), "the code is not even looked at")
		p = thief.signIn(p, "bob")
		require.Contains(t, p.body, "page of "+optest.SubjectOf("bob"))
		thief = w.browser()

		// The state of the thief's own sign-in does not help: PKCE and nonce.
		own, err := url.Parse(thief.answerOf("/page", "bob"))
		require.NoError(t, err)
		stolen, err := url.Parse(callback)
		require.NoError(t, err)
		q := own.Query()
		q.Set("code", stolen.Query().Get("code"))
		own.RawQuery = q.Encode()
		refusedSignIn(t, w, thief.visit(own.String()))
		require.Equal(t, opHost, thief.visit("/page").url.Host)
	})
}

// A state is good once. Who loads the callback again is taken on, signed in as they are:
// where it led, or to the start if nobody knows.
func TestStateIsUsedOnce(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		callback := b.answerOf("/page?a=1", "alice")
		require.Contains(t, b.visit(callback).body, "page of")
		for range 2 {
			p := b.visit(callback)
			require.Equal(t, "/page?a=1", p.url.RequestURI())
			require.Contains(t, p.body, "page of "+optest.SubjectOf("alice"))
		}
		for _, address := range []string{"/cb?code=1&state=", "/cb?code=1&state=x", "/cb", "/cb?error=access_denied&state=x"} {
			require.Equal(t, "/", b.visit(address).url.RequestURI())
		}
		require.EqualValues(t, 1, w.exchanges.Load())
		require.Empty(t, w.seen(middleware.EventSignInFailed))
		b.goesOn("/page") // it does not sign anybody out either
		time.Sleep(time.Hour)
		require.Equal(t, "/page?a=1", b.visit(callback).url.RequestURI(), "nor later")

		// What cannot have been good is refused, and does not say that nobody is signed in.
		p := b.visit("/cb?code=1&state=state=&state=")
		refusedSignIn(t, w, p)
		require.NotContains(t, p.body, "You are not signed in")

		// Nobody is signed in: what is not of ours begins nothing.
		for _, address := range []string{"/cb?code=1&state=x", "/cb?code=1", strings.Replace(callback, "state=", "state=x", 1)} {
			refusedSignIn(t, w, w.browser().visit(address))
		}
		// Nor does what is, for ever. A browser without cookies is told so.
		time.Sleep(24 * time.Hour)
		refusedSignIn(t, w, w.browser().visit(callback))
		other := w.browser()
		callback = other.answerOf("/page", "alice")
		other.jar, _ = cookiejar.New(nil)
		other.http.Jar = nil
		p = other.visit(callback)
		require.Equal(t, opHost, p.url.Host, "it begins again")
		state := ""
		for _, via := range p.via {
			if u, err := url.Parse(via); err == nil && u.Query().Has("state") {
				state = u.Query().Get("state")
			}
		}
		refusedSignIn(t, w, other.visit("/cb?code=1&state="+state))

		// While nobody can say who is signed in, nobody is told otherwise.
		w.answers(func(*http.Request) *http.Response { return response(http.StatusServiceUnavailable, "") })
		require.Equal(t, http.StatusServiceUnavailable, b.visit(callback).status)
	})
}

// The answer was lost on its way: the code is spent, and the user signed in by another
// tab. They go on.
func TestSpentCodeOfSomebodySignedIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		callback := b.answerOf("/page?lost=1", "alice")
		lost := *b.http
		lost.Jar = nil
		req := request(t, http.MethodGet, callback, nil, navigate)
		for name, value := range b.cookies() {
			req.AddCookie(&http.Cookie{Name: name, Value: value})
		}
		resp, err := lost.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.NotEmpty(t, w.seen(middleware.EventSignedIn))
		b.login("/page?other=1")
		w.answers(func(r *http.Request) *http.Response {
			if r.URL.Path != "/oauth/token" {
				return nil
			}
			return response(http.StatusBadRequest, `{"error":"invalid_grant"}`)
		})
		require.Equal(t, "/page?lost=1", b.visit(callback).url.RequestURI())
	})
}

// However many sign-ins a browser begins at once, and however long the addresses they
// lead to, its cookies stay below what nginx takes by default: 8192 bytes in a request,
// and 4096 in an answer. Each still leads where it should, or begins again.
func TestManySignInsAtOnce(t *testing.T) {
	t.Parallel()
	for name, query := range map[string]string{
		"short": "q=1", "medium": strings.Repeat("a&", 90), "as long as a place": strings.Repeat("y", 300), "as long as may be": strings.Repeat("x", 1400), "too long": strings.Repeat("z", 5000),
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				w := newWorld(t, mode, singleSignOn)
				b := w.browser()
				b.login("/page") // what was there before
				time.Sleep(3 * time.Hour)
				// All of them before any answer: none knows of the others.
				began := make([]*http.Request, 45)
				for i := range began {
					began[i] = request(t, http.MethodGet, fmt.Sprintf("/page?tab=%d&%s", i, query), nil, navigate)
					for name, value := range b.cookies() {
						began[i].AddCookie(&http.Cookie{Name: name, Value: value})
					}
				}
				alone := *b.http
				alone.Jar = nil
				at := make([]string, len(began))
				u, err := url.Parse(appURL)
				require.NoError(t, err)
				for i, req := range began {
					resp, err := alone.Do(req)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
					at[i] = resp.Header.Get("Location")
					require.NotEmpty(t, at[i])
					require.Less(t, headerSize(resp.Header), 4096)
					b.jar.SetCookies(u, resp.Cookies())
				}
				bounded := func() {
					size := 0
					for name, value := range b.cookies() {
						size += len(name) + len(value) + len("=; ")
					}
					require.Less(t, size, 7500)
				}
				bounded()
				p := b.signIn(b.visit(at[44]), "alice")
				require.Equal(t, "/page", p.url.Path, p.body)
				bounded()
				for i := range at[:44] {
					p := b.visit(at[i]) // the provider knows the user by now
					require.Equal(t, http.StatusOK, p.status, p.body)
					require.Equal(t, appHost, p.url.Host)
					require.Equal(t, "/page", p.url.Path)
					require.Contains(t, p.body, "page of "+optest.SubjectOf("alice"))
					if name == "short" {
						require.Equal(t, began[i].URL.RequestURI(), p.url.RequestURI())
					}
				}
				bounded()
				require.Empty(t, w.seen(middleware.EventSignInFailed))
			})
		})
	}
}

// headerSize is what headers come to on the wire.
func headerSize(h http.Header) (size int) {
	for name, values := range h {
		for _, value := range values {
			size += len(name) + len(value) + len(": \r\n")
		}
	}
	return size
}

// Two tabs at once, finished in the other order; and many more than are kept.
func TestSeveralTabs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		first := b.answerOf("/page?tab=1", "alice")
		second := b.answerOf("/page?tab=2", "alice")
		require.Contains(t, b.visit(first).body, "tab=1")
		require.Contains(t, b.visit(second).body, "tab=2")

		other := w.browser()
		var last page
		for range 30 {
			last = other.visit("/page")
			time.Sleep(time.Second)
		}
		require.LessOrEqual(t, len(other.cookies()), 8, "a bound")
		require.Contains(t, other.signIn(last, "alice").body, "page of")
	})
}

func TestReturnAddress(t *testing.T) {
	t.Parallel()
	addresses := map[string]string{
		"other host":     "//evil.example/",
		"three slashes":  "///evil.example/",
		"backslash":      `/\evil.example/`,
		"backslashes":    `\\evil.example/`,
		"scheme":         "https://evil.example/",
		"script":         "javascript:alert(1)",
		"data":           "data:text/html,x",
		"no slash":       "evil.example/",
		"tab":            "/\t/evil.example/",
		"newline":        "/page\r\nSet-Cookie: a=b",
		"encoded":        "/%2Fevil.example/..//evil.example",
		"encoded slash":  "%2F%2Fevil.example/",
		"user":           "//a@evil.example/",
		"empty":          "",
		"space":          " /page",
		"unicode":        "/\u2028/evil.example",
		"own page":       "/auth/signin?return=/page",
		"callback":       "/cb?code=1&state=2",
		"fragment":       "/page#x",
		"double-encoded": "/%5Cevil.example/",
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for name, address := range addresses {
			b := w.browser()
			p := b.signIn(b.visit("/auth/signin?return="+url.QueryEscape(address)), "alice")
			require.Equal(t, appHost, p.url.Host, name)
			require.NotContains(t, strings.Join(p.via, " "), "://evil", name)
			require.NotContains(t, strings.Join(p.header["Set-Cookie"], " "), "a=b", name)
		}
	})
	synctest.Test(t, func(t *testing.T) { // as long as an address may be
		w := newWorld(t)
		b := w.browser()
		long := "/page?q=" + strings.Repeat("x", 1400)
		require.Equal(t, long, b.login(long).url.RequestURI())
		require.Equal(t, "/page", w.browser().login("/page?q="+strings.Repeat("x", 4000)).url.RequestURI(), "the page at least")
	})
}

// Each character of each cookie counts: of a long one some are tried here, and all of
// a seal in TestSeal.
func TestTamperedCookies(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		b.login("/page")
		cookie, value := b.cookie("")
		for i := 0; i < len(value); i += 1 + len(value)/100 {
			for _, c := range []byte{'A', 'B'} {
				if value[i] == c {
					continue
				}
				forger := w.browser()
				forger.set(cookie, value[:i]+string(c)+value[i+1:])
				p := forger.script(http.MethodGet, "/api")
				require.Equal(t, http.StatusUnauthorized, p.status, "byte %d", i)
				break
			}
		}
		for _, v := range []string{"", ".", "1.", "0." + value, "99." + value, value + "A", value[:len(value)-1], strings.Repeat("A", 8000)} {
			forger := w.browser()
			forger.set(cookie, v)
			require.Equal(t, http.StatusUnauthorized, forger.script(http.MethodGet, "/api").status, "%.40q", v)
		}
		b.goesOn("/page")
	})
}

// Nobody is signed in with a cookie that was there before the sign-in.
func TestSessionFixation(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		attacker, victim := w.browser(), w.browser()
		p := attacker.signIn(attacker.visit("/page"), "bob")
		require.Contains(t, p.body, "page of")
		cookie, planted := attacker.cookie("")
		victim.set(cookie, planted)
		victim.signIn(victim.visit("/auth/signin?return=/page"), "alice")
		_, mine := victim.cookie("")
		require.NotEqual(t, planted, mine)
		require.Equal(t, opHost, attacker.visit("/page").url.Host, "what was planted is over")
		require.Contains(t, victim.goesOn("/page").body, optest.SubjectOf("alice"))
	})
}

// Two applications on one host: their cookies have different names, and what one
// has sealed does not open at the other, though they have the same keys and store.
func TestCookiesOfAnotherApplication(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		store := middleware.NewMemoryStore()
		w := newWorld(t, mode, with(func(c *middleware.Config) { c.Store = store }))
		cfg := w.cfg
		cfg.ClientID, cfg.ClientSecret = optest.Web2, optest.Web2+"-secret"
		other, err := middleware.New(cfg)
		require.NoError(t, err)
		a := w.browser()
		a.login("/page")
		cookie, value := a.cookie("")
		w.serve(appHost, w.app(other))
		b := w.browser()
		b.login("/page")
		name2, value2 := b.cookie("")
		require.NotEqual(t, cookie, name2)
		require.Contains(t, b.script(http.MethodGet, "/api").body, "api of")
		for _, v := range []string{value, value2} {
			swapped := w.browser()
			swapped.set(cookie, v)
			swapped.set(name2, value)
			require.Equal(t, http.StatusUnauthorized, swapped.script(http.MethodGet, "/api").status)
		}
	})
}

// RFC 9207: an answer of another provider is not taken for one of ours.
func TestIssuerOfTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		callback := b.answerOf("/page", "alice")
		refusedSignIn(t, w, b.visit(fromIssuer(t, callback, "https://evil.example")))
		require.EqualValues(t, 0, w.exchanges.Load())
		callback = b.answerOf("/page", "alice")
		require.Contains(t, b.visit(fromIssuer(t, callback, "http://"+opHost)).body, "page of")
	})
}

// What somebody wrote into the address of the callback is not shown.
func TestErrorOfTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		p := b.visit("/page")
		state := ""
		for _, via := range p.via {
			if u, err := url.Parse(via); err == nil && u.Query().Get("state") != "" {
				state = u.Query().Get("state")
			}
		}
		require.NotEmpty(t, state)
		p = b.visit("/cb?state=" + state + "&iss=" + url.QueryEscape("http://"+opHost) + "&error=access_denied&error_description=" + url.QueryEscape("call +49 <script>alert(1)</script>"))
		require.Equal(t, http.StatusForbidden, p.status)
		require.Contains(t, p.body, "cancelled or refused")
		require.NotContains(t, p.body, "script>")
		require.NotContains(t, p.body, "+49")
		require.Contains(t, p.header.Get("Content-Security-Policy"), "default-src 'none'")
	})
}

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

// singleSignOn is a provider that knows its users again.
func singleSignOn(_ *world, _ *policy.Account, o *optest.Config, _ *middleware.Config) {
	o.Storage = optest.NewStorage()
	o.Storage.SSO = true
}

func TestMaxAge(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		age, wait time.Duration
		asks      bool
	}{
		"zero asks always":       {0, 2 * time.Second, true},
		"zero after a while":     {0, 10 * time.Minute, true},
		"an hour, well within":   {time.Hour, time.Minute, false},
		"an hour, just within":   {time.Hour, 59 * time.Minute, false},
		"an hour, just after it": {time.Hour, time.Hour + 2*time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, bare, singleSignOn, with(func(c *middleware.Config) { c.MaxAge = &test.age }))
				b := w.browser()
				b.login("/page")
				time.Sleep(test.wait)
				p := b.visit("/auth/signin?return=/page")
				require.Equal(t, test.asks, p.url.Host == opHost, "%v", p.via)
				contains(t, p.via, "max_age=")

				// Who takes max_age out of the address is signed in by the provider
				// without being asked: we find out.
				p = b.once(request(t, http.MethodGet, "/auth/signin?return=/page", nil, navigate))
				address, err := url.Parse(p.header.Get("Location"))
				require.NoError(t, err)
				q := address.Query()
				require.True(t, q.Has("max_age"))
				q.Del("max_age")
				address.RawQuery = q.Encode()
				p = b.visit(address.String())
				if !test.asks {
					require.Contains(t, p.body, "page of")
					return
				}
				refusedSignIn(t, w, p)
				require.Contains(t, p.body, "it was too long ago")
			})
		})
	}
}

// RFC 9207 section 2.4: a provider that says it sends iss must have sent it.
func TestMissingIssuerOfTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.answers(func(r *http.Request) *http.Response {
			var doc map[string]any
			if !strings.HasSuffix(r.URL.Path, "openid-configuration") || !fetch(t, w, r, &doc) {
				return nil
			}
			doc["authorization_response_iss_parameter_supported"] = true
			body, err := json.Marshal(doc)
			require.NoError(t, err)
			return response(http.StatusOK, string(body))
		})
		b := w.browser()
		callback := b.answerOf("/page", "alice")
		refusedSignIn(t, w, b.visit(fromIssuer(t, callback, "")))
		callback = b.answerOf("/page", "alice")
		require.Contains(t, b.visit(callback).body, "page of")
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
