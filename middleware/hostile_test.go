package middleware_test

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/middleware/resource"
)

// A path that begins with two slashes reads as another host where it stands alone: a
// form that was posted there is sent again to this site, with its new token, and to
// no other.
func TestKeptFormIsSentToThisSite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, with(func(c *middleware.Config) {
			c.FormToken = func(http.ResponseWriter, *http.Request) (string, string) { return "csrf", "fresh" }
		}))
		w.serve(appHost, w.rp.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, "%s %s %s", r.Method, r.RequestURI, r.FormValue("text"))
		})))
		b := w.browser()
		b.login("/page")
		for _, path := range []string{"//evil.example/x?y=1", "/%2Fevil.example/x", "/x?next=//evil.example"} {
			time.Sleep(3 * time.Hour)
			p := b.signIn(b.submit(b.post(appURL+path, url.Values{"text": {"typed"}}), nil), "alice")
			require.Equal(t, "/auth/resume", p.url.Path, p.body)
			action := formTag.FindStringSubmatch(p.body)
			require.NotNil(t, action, p.body)
			to, err := p.url.Parse(html.UnescapeString(action[1]))
			require.NoError(t, err)
			require.Equal(t, appHost, to.Host, path)
			require.Equal(t, "POST "+path+" typed", b.submit(p, nil).body)
		}
	})
}

// Somebody signed out; a copy of the cookie is good never again, however long it
// would have lasted.
func TestOldCookieAfterSignOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := middleware.NewMemoryStore()
		w := newWorld(t, bare, inCookies, with(func(c *middleware.Config) {
			c.Store, c.Scopes, c.Lifetime = store, []string{"openid"}, 90*24*time.Hour
		}))
		b := w.browser()
		b.login("/page")
		copied := b.cookies()
		b.goesOn("/page")
		b.post("/auth/signout", nil)
		for _, days := range []int{0, 29, 2, 30} {
			time.Sleep(time.Duration(days) * 24 * time.Hour)
			for i := range 100 { // other people's, so that what is over is swept
				_, err := store.Mark(t.Context(), fmt.Sprint(days, i), time.Now(), time.Now().Add(time.Hour), time.Now())
				require.NoError(t, err)
			}
			rp, err := middleware.New(w.cfg) // a process that has not seen the sign-out
			require.NoError(t, err)
			w.serve(appHost, w.app(rp))
			thief := w.browser()
			for name, value := range copied {
				thief.set(name, value)
			}
			require.Equal(t, opHost, thief.visit("/page").url.Host, "%d days later", days)
		}
	})
}

// A clock that is set back makes a lease of a process that died no longer, and the
// heartbeat not deaf.
func TestClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Int64
		w := newWorld(t, bare, with(func(c *middleware.Config) {
			c.Store = middleware.NewMemoryStore()
			c.Now = func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
		}))
		b := w.browser()
		b.login("/page")
		time.Sleep(time.Hour)
		defer w.hang(b)()

		back.Store(int64(30 * time.Minute))
		began := time.Now()
		b.goesOn("/page")
		require.Less(t, time.Since(began), 3*time.Minute)
		require.EqualValues(t, 1, w.refreshes.Load())

		back.Store(int64(40 * time.Minute))
		require.Equal(t, http.StatusOK, b.script(http.MethodPost, "/auth/session").status)
		require.EqualValues(t, 2, w.refreshes.Load())
	})
}

// An endless is a body that never ends. It counts what is read of it.
type endless struct {
	begin io.Reader
	read  atomic.Int64
}

func (e *endless) Read(p []byte) (int, error) {
	n, err := 0, io.EOF
	if e.begin != nil {
		n, err = e.begin.Read(p)
	}
	if err != nil {
		for n = range p {
			p[n] = ' '
		}
		n = len(p)
	}
	if e.read.Add(int64(n)) > 100<<20 {
		return 0, io.ErrUnexpectedEOF // the test has failed already
	}
	return n, nil
}

// The form of the heartbeat holds an address, whatever is sent.
func TestHeartbeatFormIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		b.login("/page")
		body := &endless{begin: strings.NewReader("--x\r\nContent-Disposition: form-data; name=\"a\"; filename=\"a\"\r\n\r\n")}
		req := request(t, http.MethodPost, "/auth/session", body, navigate)
		req.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		req.Header.Set("Origin", appURL)
		name, value := b.cookie("")
		req.AddCookie(&http.Cookie{Name: name, Value: value})
		w.app(w.rp).ServeHTTP(newRecorder(), req)
		require.Less(t, body.read.Load(), int64(1<<20))
	})
}

// What the provider answers is read up to a bound, and is an outage beyond it.
func TestAnswersWithoutEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := newSigner(t, w)
		token := s.sign(t, "at+jwt", map[string]any{})
		known := *w.answer.Load()
		var body *endless
		flood := func(suffix string) {
			body = &endless{}
			w.answers(func(r *http.Request) *http.Response {
				if !strings.HasSuffix(r.URL.Path, suffix) {
					return known(r)
				}
				resp := response(http.StatusOK, "")
				resp.Body = io.NopCloser(body)
				return resp
			})
		}
		flood("/openid-configuration")
		require.Equal(t, http.StatusServiceUnavailable, w.browser().visit("/page").status)
		require.Less(t, body.read.Load(), int64(4<<20))

		api, err := resource.New(resource.Config{Issuer: w.cfg.Issuer, Audience: "api", HTTPClient: w.client})
		require.NoError(t, err)
		body.read.Store(0)
		req := request(t, http.MethodGet, "/", nil, http.Header{"Authorization": {"Bearer " + token}})
		_, err = api.Check(req)
		require.Error(t, err)
		require.Positive(t, body.read.Load())
		require.Less(t, body.read.Load(), int64(4<<20))

		time.Sleep(2 * time.Second)
		b := w.browser()
		flood("/keys")
		told := len(w.seen(middleware.EventUnavailable))
		p := b.signIn(b.visit("/page"), "alice")
		require.Equal(t, http.StatusServiceUnavailable, p.status, p.body)
		require.Positive(t, body.read.Load())
		require.Less(t, body.read.Load(), int64(4<<20))
		require.Len(t, w.seen(middleware.EventUnavailable), told+1)
		require.Equal(t, http.StatusServiceUnavailable, w.tell(s.sign(t, "logout+jwt", s.claims("sid"))).status)
		require.Len(t, w.seen(middleware.EventUnavailable), told+2)
		for _, e := range w.seen(middleware.EventUnavailable) {
			require.Less(t, len(e.Err.Error()), 1000, "it repeats the answer")
		}
	})
}

// No endpoint of the discovery document gets a secret or a token in the clear.
func TestEndpointsAreSafe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, name := range []string{"authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint", "revocation_endpoint"} {
			for _, endpoint := range []string{"http://login.example.com/x", "javascript:alert(1)", "//evil.example/x"} {
				document := map[string]string{
					"issuer": w.cfg.Issuer, "authorization_endpoint": w.cfg.Issuer + "/a", "token_endpoint": w.cfg.Issuer + "/t", "jwks_uri": w.cfg.Issuer + "/k",
				}
				document[name] = endpoint
				text, err := json.Marshal(document)
				require.NoError(t, err)
				w.answers(func(*http.Request) *http.Response { return response(http.StatusOK, string(text)) })
				rp, err := middleware.New(w.cfg)
				require.NoError(t, err)
				rec := newRecorder()
				w.app(rp).ServeHTTP(rec, request(t, http.MethodGet, "/page", nil, navigate))
				require.Equal(t, http.StatusServiceUnavailable, rec.Code, "%s %s", name, endpoint)
			}
		}
	})
}
