package middleware_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/policy"
)

type status struct {
	SignedIn bool   `json:"signed_in"`
	Expires  *int64 `json:"expires_in"`
	Active   *int64 `json:"active_ends_in"`
	Idle     *int64 `json:"inactivity_ends_in"`
	Reason   string `json:"reason"`
	Message  string `json:"message"`
}

func (b *browser) status() (s status) {
	b.w.t.Helper()
	p := b.script(http.MethodGet, "/auth/session")
	require.Equal(b.w.t, http.StatusOK, p.status, p.body)
	require.Equal(b.w.t, "no-store", p.header.Get("Cache-Control"))
	require.NoError(b.w.t, json.Unmarshal([]byte(p.body), &s))
	return s
}

// The countdown slides nothing, however often it asks; the heartbeat does.
func TestCountdownAndHeartbeat(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, limited(8*time.Hour, 2*time.Hour))
		b := w.browser()
		require.False(t, b.status().SignedIn)
		b.login("/page")
		for range 119 {
			time.Sleep(time.Minute)
			require.True(t, b.status().SignedIn)
		}
		require.EqualValues(t, 0, w.refreshes.Load())
		s := b.status()
		require.EqualValues(t, 60, *s.Idle)
		require.EqualValues(t, 60, *s.Expires)
		require.EqualValues(t, 8*3600-119*60, *s.Active)

		p := b.script(http.MethodPost, "/auth/session")
		require.Equal(t, http.StatusOK, p.status)
		require.EqualValues(t, 1, w.refreshes.Load())
		require.EqualValues(t, 7200, *b.status().Idle)
		time.Sleep(119 * time.Minute)
		// Without script it is a form that comes back.
		p = b.post("/auth/session", url.Values{"return": {"/page?x=1"}})
		require.Equal(t, "/page?x=1", p.url.RequestURI())
		require.EqualValues(t, 2, w.refreshes.Load())
		p = b.post("/auth/session", url.Values{"return": {"//evil.example"}})
		require.Equal(t, appHost, p.url.Host)

		time.Sleep(2*time.Hour + time.Second)
		s = b.status()
		require.False(t, s.SignedIn)
		require.Equal(t, "inactivity", s.Reason)
		require.Equal(t, "You were signed out after 2 hours without activity.", s.Message)
		p = b.script(http.MethodPost, "/auth/session")
		require.Equal(t, http.StatusUnauthorized, p.status)
		require.Equal(t, `Bearer error="invalid_token"`, p.header.Get("WWW-Authenticate"))
	})
}

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

func TestLifetime(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, with(func(c *middleware.Config) { c.Lifetime = time.Hour }))
		b := w.browser()
		b.login("/page")
		time.Sleep(time.Hour - time.Millisecond)
		b.goesOn("/page")
		time.Sleep(time.Millisecond)
		p := b.signIn(b.visit("/page"), "alice")
		require.Contains(t, p.body, "notice: You were signed out because a sign-in lasts at most 1 hour.\n")
	})
}

// Without a refresh token and without a word about limits a session ends some day.
func TestNothingIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, bare, with(func(c *middleware.Config) { c.Scopes = []string{"profile"} }))
		b := w.browser()
		b.login("/page")
		time.Sleep(12*time.Hour - time.Second)
		b.goesOn("/page")
		require.Equal(t, http.StatusOK, b.script(http.MethodPost, "/auth/session").status, "nothing to extend is no error")
		time.Sleep(time.Second)
		require.Equal(t, opHost, b.visit("/page").url.Host)
		require.EqualValues(t, 0, w.refreshes.Load())
	})
}

// An event stream ends when the session does, or when the access token has ended and
// nobody was there to get a new one, with the reason as the cause; one whose session
// slides goes on.
func TestEventStream(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, limited(24*time.Hour, 2*time.Hour))
		var cause error
		w.serve(appHost, w.rp.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprint(rw, "data: hello\n\n")
			if f, ok := rw.(http.Flusher); ok {
				f.Flush()
			}
			if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
				return
			}
			<-r.Context().Done()
			cause = context.Cause(r.Context())
			fmt.Fprint(rw, "data: goodbye\n\n")
		})))
		b := w.browser()
		b.login("/page")
		began := time.Now()
		events := func() *http.Request {
			return request(t, http.MethodGet, "/events", nil, http.Header{"Accept": {"text/event-stream"}, "Sec-Fetch-Mode": {"cors"}})
		}
		open := func() *http.Response {
			resp, err := b.http.Do(events())
			require.NoError(t, err)
			return resp
		}
		end := func(resp *http.Response) {
			require.Equal(t, http.StatusOK, resp.StatusCode)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, "data: hello\n\ndata: goodbye\n\n", string(body))
		}
		resp := open()
		time.Sleep(4*time.Minute + 7*time.Second) // no multiple of how often it looks
		b.goesOn("/page")                         // slides
		require.EqualValues(t, 1, w.refreshes.Load(), "the stream itself refreshes nothing")
		end(resp)
		require.Equal(t, 9*time.Minute+7*time.Second, time.Since(began), "the second access token has ended")
		require.ErrorIs(t, cause, middleware.ErrUnavailable)
		require.NotErrorIs(t, cause, middleware.ErrSignedOut)
		require.Equal(t, http.StatusServiceUnavailable, b.once(events()).status)
		require.EqualValues(t, 1, w.refreshes.Load())

		b.goesOn("/page") // the user is back
		resp = open()
		time.Sleep(time.Minute)
		b.post("/auth/signout", nil)
		end(resp)
		var out *middleware.SignedOutError
		require.ErrorAs(t, cause, &out)
		require.Equal(t, policy.ReasonLogout, out.Reason)
		require.Equal(t, http.StatusUnauthorized, b.once(events()).status, "and it is not opened again")

		time.Sleep(2 * time.Second) // what was issued in the second of the sign-out is over too
		b.login("/page")
		time.Sleep(2 * time.Hour)
		require.Equal(t, http.StatusUnauthorized, b.once(events()).status, "nor after the inactivity")
	})
}

// A connection that was taken over is closed, also when its handler has returned
// and nobody looks at any context.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	for name, returns := range map[string]bool{"the handler stays": false, "the handler returns": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limited(24*time.Hour, 2*time.Hour+7*time.Second))
				s := newSigner(t, w)
				closed := make(chan time.Time, 1)
				w.serve(appHost, w.rp.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Upgrade") == "" {
						fmt.Fprint(rw, "page of somebody")
						return
					}
					conn, buffered, err := rw.(http.Hijacker).Hijack()
					require.NoError(t, err)
					_, err = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"))
					require.NoError(t, err)
					read := func() {
						_, _ = buffered.ReadByte() // until it is closed
						closed <- time.Now()
						_ = conn.Close()
					}
					if returns {
						go read()
						return
					}
					read()
				})))
				b := w.browser()
				b.login("/page")
				open := func() net.Conn {
					conn, err := w.hosts[appHost](t.Context())
					require.NoError(t, err)
					req := request(t, http.MethodGet, "/socket", nil, http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}})
					name, value := b.cookie("")
					req.AddCookie(&http.Cookie{Name: name, Value: value})
					require.NoError(t, req.Write(conn))
					resp, err := http.ReadResponse(bufio.NewReader(conn), req)
					require.NoError(t, err)
					require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
					return conn
				}
				began := time.Now()
				conn := open()
				require.Equal(t, 5*time.Minute+time.Second, (<-closed).Sub(began), "at the end of the access token, and a moment to say goodbye")
				require.NoError(t, conn.Close())

				// A logout through the back channel is noticed within half a minute.
				b.goesOn("/page")
				conn = open()
				time.Sleep(10 * time.Second)
				require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", s.claims(w.lastSID()))).status)
				told := time.Now()
				require.LessOrEqual(t, (<-closed).Sub(told), 31*time.Second)
				require.NoError(t, conn.Close())
			})
		})
	}
}

// Forms of all kinds, as far as they may be kept.
func TestFormsThatAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, with(func(c *middleware.Config) {
			c.RedactField = func(name string) bool { return name == "diagnosis" }
			c.FormToken = func(http.ResponseWriter, *http.Request) (string, string) { return "csrf", "fresh" }
		}))
		defer time.Sleep(time.Second) // the server lingers after a request that was too large
		b := w.browser()
		b.login("/page")
		time.Sleep(3 * time.Hour)
		multi := func(fields map[string]string, file string) (string, string) {
			var body bytes.Buffer
			m := multipart.NewWriter(&body)
			for name, value := range fields {
				require.NoError(t, m.WriteField(name, value))
			}
			if file != "" {
				part, err := m.CreateFormFile("upload", "passport.png")
				require.NoError(t, err)
				_, err = part.Write([]byte(file))
				require.NoError(t, err)
			}
			require.NoError(t, m.Close())
			return m.FormDataContentType(), body.String()
		}
		multipartType, multipartBody := multi(map[string]string{"text": "of several parts"}, "file-content")
		hugeType, hugeBody := multi(map[string]string{"text": strings.Repeat("y", 70<<10)}, "")
		const form = "application/x-www-form-urlencoded"
		for name, test := range map[string]struct {
			contentType, body string
			shows, hides      []string
			sends             string
		}{
			"secrets": {form, "text=kept&passwd=hunter-number-1&new_password=hunter-number-2&api_key=hunter-number-3&card_number=hunter-number-4&diagnosis=hunter-number-5&CSRF=hunter-number-6&otp=hunter-number-7",
				[]string{"kept", "diagnosis"}, []string{"hunter-number"}, "csrf=fresh&text=kept"},
			"injection":       {form, url.Values{`"><script>`: {`</dd><script>alert(1)</script>`}}.Encode(), []string{"&lt;script&gt;"}, []string{"<script>"}, ""},
			"several parts":   {multipartType, multipartBody, []string{"of several parts", "upload"}, []string{"file-content"}, "csrf=fresh&text=of+several+parts"},
			"too large":       {form, "text=" + strings.Repeat("x", 65<<10), []string{"too large"}, []string{"xxxx"}, ""},
			"too large parts": {hugeType, hugeBody, []string{"too large"}, []string{"yyyy"}, ""},
			"just fits":       {form, "text=" + strings.Repeat("z", 64<<10-5), []string{"zzzz"}, nil, ""},
			"many fields":     {form, strings.Repeat("a=1&", 1200), []string{"too large"}, nil, ""},
			"no form":         {"application/json", `{"a":1}`, []string{"is no form"}, nil, ""},
			"bad encoding":    {form, "a=%zz", []string{"could not be read"}, nil, ""},
			"no type":         {"", "a=1", []string{"is no form"}, nil, ""},
			"cut off":         {"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb", []string{"could not be read"}, nil, ""},
			"empty":           {form, "", []string{"Sign in and go on"}, nil, ""},
		} {
			req := request(t, http.MethodPost, "/form", strings.NewReader(test.body), navigate)
			req.Header.Set("Content-Type", test.contentType)
			req.Header.Set("Origin", appURL)
			p := b.once(req)
			require.Equal(t, http.StatusUnauthorized, p.status, name)
			for _, text := range test.shows {
				require.Contains(t, p.body, text, name)
			}
			for _, text := range test.hides {
				require.NotContains(t, p.body, text, name)
			}
			if test.sends == "" {
				continue
			}
			// Cancelled once: it is not lost by that.
			at := b.submit(p, nil)
			require.Equal(t, opHost, at.url.Host)
			state := ""
			for _, via := range at.via {
				if u, err := url.Parse(via); err == nil && u.Query().Has("state") {
					state = u.Query().Get("state")
				}
			}
			at = b.visit("/cb?error=access_denied&state=" + state)
			_, again, ok := strings.Cut(at.body, `id="signin" href="`)
			require.True(t, ok, at.body)
			again, _, _ = strings.Cut(again, `"`)
			p = b.signIn(b.visit(again), "alice")
			require.Equal(t, "/auth/resume", p.url.Path, p.body)
			require.Contains(t, p.body, `value="fresh"`, name)
			multipartForm := strings.HasPrefix(test.contentType, "multipart")
			require.Equal(t, multipartForm, strings.Contains(p.body, `enctype="multipart/form-data"`), name)
			require.Contains(t, b.submit(p, nil).body, ": "+test.sends)
			time.Sleep(3 * time.Hour)
		}
	})
}

// A kept form is worth nothing in another browser.
func TestKeptFormOfAnotherBrowser(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, c := w.browser(), w.browser()
		a.login("/page")
		time.Sleep(3 * time.Hour)
		kept := a.post("/form", url.Values{"text": {"of alice"}})
		p := c.submit(kept, nil)
		require.Equal(t, http.StatusBadRequest, p.status)
		require.NotContains(t, p.body, "of alice")
		c.signIn(c.visit("/page"), "bob")
		p = c.submit(kept, nil)
		require.Equal(t, http.StatusBadRequest, p.status)
		require.NotContains(t, p.body, "of alice")

		// Nor in one whose own login is over.
		d := w.browser()
		d.signIn(d.visit("/page"), "bob")
		a.login("/page")
		time.Sleep(3 * time.Hour)
		kept = a.post("/form", url.Values{"text": {"of alice"}})
		require.Equal(t, http.StatusUnauthorized, d.post("/form", url.Values{"text": {"of bob"}}).status)
		require.Equal(t, http.StatusBadRequest, d.submit(kept, nil).status)

		// Signed in again in another tab meanwhile: sent without another sign-in.
		a.login("/page")
		p = a.submit(kept, nil)
		require.Equal(t, "/auth/resume", p.url.Path)
		require.Contains(t, a.submit(p, nil).body, "form of "+optest.SubjectOf("alice")+": text=of+alice")
		p = a.post("/auth/resume", url.Values{"kept": {"x"}})
		require.Equal(t, http.StatusBadRequest, p.status)
	})
}

// No secret is printed, however hard one tries.
func TestNoSecretIsPrinted(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		var log strings.Builder
		var access string
		store := middleware.NewMemoryStore()
		w := newWorld(t, mode, with(func(c *middleware.Config) {
			c.Store = store
			c.Events = middleware.LogEvents(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		}))
		w.serve(appHost, w.rp.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			s := middleware.SessionFrom(r.Context())
			access = s.AccessToken()
			fmt.Fprintf(rw, "page of %v %+v %#v %s", s, s, s, s)
			slog.New(slog.NewTextHandler(rw, nil)).Info("x", "session", s)
		})))
		b := w.browser()
		p := b.login("/page")
		require.NotEmpty(t, access)
		require.NotContains(t, p.body, access)
		time.Sleep(15 * time.Minute)
		b.goesOn("/page")
		w.answers(func(*http.Request) *http.Response { return response(500, access) })
		time.Sleep(15 * time.Minute)
		b.visit("/page")
		w.answers(nil)
		time.Sleep(24 * time.Hour)
		b.visit("/page")
		b.visit("/cb?code=the-code&state=the-state")
		for _, event := range []string{"signed_in", "refreshed", "unavailable", "ended", "sign_in_failed"} {
			require.Contains(t, log.String(), "msg="+event)
		}
		_, cookie := b.cookie("-in-")
		for _, secret := range []string{access, cookie, "the-code", "the-state", optest.Web + "-secret"} {
			require.NotContains(t, log.String(), secret)
		}
	})
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	good := middleware.Config{
		Issuer: "https://login.example.com", ClientID: "c", RedirectURL: "https://shop.example.com/auth/callback", Keys: [][]byte{testKey},
	}
	_, err := middleware.New(good)
	require.NoError(t, err)
	negative := -time.Second
	for want, change := range map[string]func(*middleware.Config){
		"Issuer is required":       func(c *middleware.Config) { c.Issuer = "" },
		"Issuer: ":                 func(c *middleware.Config) { c.Issuer = "login.example.com" },
		"ClientID is required":     func(c *middleware.Config) { c.ClientID = "" },
		"RedirectURL is required":  func(c *middleware.Config) { c.RedirectURL = "" },
		"RedirectURL: ":            func(c *middleware.Config) { c.RedirectURL = "http://shop.example.com/cb" },
		"Keys is required":         func(c *middleware.Config) { c.Keys = nil },
		"Keys: key 1 has 3 bytes":  func(c *middleware.Config) { c.Keys = [][]byte{[]byte("key")} },
		"PostLogoutURL: ":          func(c *middleware.Config) { c.PostLogoutURL = "javascript:alert(1)" },
		"MaxAge is negative":       func(c *middleware.Config) { c.MaxAge = &negative },
		"Lifetime is negative":     func(c *middleware.Config) { c.Lifetime = -1 },
		"RefreshAfter is negative": func(c *middleware.Config) { c.RefreshAfter = -1 },
		"Base: ":                   func(c *middleware.Config) { c.Base = "auth" },
		"TrustedOrigins: ":         func(c *middleware.Config) { c.TrustedOrigins = []string{"shop.example.com/x"} },
		"Algorithms: ":             func(c *middleware.Config) { c.Algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.HS256} },
		"Algorithms is required with InsecureAllowUntypedLogoutTokens": func(c *middleware.Config) { c.InsecureAllowUntypedLogoutTokens = true },
	} {
		bad := good
		change(&bad)
		_, err := middleware.New(bad)
		require.ErrorIs(t, err, middleware.ErrConfig)
		require.ErrorContains(t, err, "curfew: middleware.Config."+want)
	}
	for _, issuer := range []string{"http://127.0.0.1:9998", "http://login.localhost:9998"} {
		also := good
		also.Issuer = issuer
		_, err := middleware.New(also)
		require.NoError(t, err, issuer)
	}
	for _, redirect := range []string{"https://a.example/", "https://a.example", "https://a.example/cb?x=1", "https://a.example/cb#x", "https://u@a.example/cb", "http://127.0.0.1.a.example/cb"} {
		bad := good
		bad.RedirectURL = redirect
		_, err := middleware.New(bad)
		require.ErrorContains(t, err, "RedirectURL", redirect)
	}
	for _, redirect := range []string{"http://127.0.0.1:9999/cb", "http://[::1]:1/cb", "http://localhost/cb"} {
		bad := good
		bad.RedirectURL = redirect
		_, err := middleware.New(bad)
		require.NoError(t, err, redirect)
	}
}
