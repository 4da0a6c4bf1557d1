package middleware_test

import (
	"encoding/json"
	"html"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
)

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
