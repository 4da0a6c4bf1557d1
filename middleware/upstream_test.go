package middleware_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"

	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/middleware/resource"
	"github.com/curfew-oidc/curfew/policy"
)

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

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// What a proxy answers for a provider that is down signs nobody out, whatever words
// are in it.
func TestOnlyTheProviderSignsOut(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		b.login("/page")
		answer := func(status int, mediaType string) {
			w.answers(func(*http.Request) *http.Response {
				r := response(status, `{"error":"invalid_grant","error_description":"inactivity: because"}`)
				r.Header.Set("Content-Type", mediaType)
				return r
			})
			time.Sleep(10 * time.Minute) // longer than the access token lives
		}
		for _, status := range []int{http.StatusOK, http.StatusNotFound, http.StatusTooManyRequests, http.StatusBadGateway} {
			answer(status, "application/json")
			require.Equal(t, http.StatusServiceUnavailable, b.visit("/page").status, status)
		}
		answer(http.StatusBadRequest, "text/html")
		require.Equal(t, http.StatusServiceUnavailable, b.visit("/page").status)
		w.answers(nil)
		time.Sleep(time.Minute)
		b.goesOn("/page")
		require.Empty(t, w.seen(middleware.EventEnded))

		answer(http.StatusBadRequest, "application/json;charset=UTF-8")
		require.Equal(t, http.StatusUnauthorized, b.script(http.MethodGet, "/api").status)
		require.Equal(t, policy.ReasonInactivity, w.seen(middleware.EventEnded)[0].Reason)
	})
}

// The example server of the library, which is not ours and knows nothing of
// sessions: sign-in, refresh, and its refusal at the end of the refresh token. It
// takes each refresh token once, so that two refreshes at once would end the login.
func TestStrangersProvider(t *testing.T) {
	t.Parallel()
	for name, mode := range modes {
		for _, wrapped := range []bool{false, true} {
			t.Run(fmt.Sprint(name, wrapped), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const issuer = "http://" + opHost + "/"
					w := newWorld(t, bare, mode, with(func(c *middleware.Config) {
						c.Issuer, c.ClientID, c.ClientSecret = issuer, "stranger", "stranger-secret"
					}))
					st := storage.NewStorage(storage.NewUserStore(issuer))
					w.serve(opHost, w.count(exampleop.SetupServer(issuer, st, nil, wrapped)))
					b := w.browser()
					signIn := func(p page) page {
						require.Equal(t, "/login/username", p.url.Path, p.body)
						return b.submit(p, url.Values{"username": {"test-user@127.0.0.1"}, "password": {"verysecure"}})
					}
					p := signIn(b.visit("/page?x=1"))
					require.Contains(t, p.body, "page of ")
					require.Contains(t, p.body, "query x=1")
					for range 4 {
						time.Sleep(6 * time.Minute)
						var wg sync.WaitGroup
						for range 20 {
							wg.Go(func() {
								p := b.once(request(t, http.MethodGet, "/page", nil, navigate))
								require.Equal(t, http.StatusOK, p.status, p.body)
							})
						}
						wg.Wait()
					}
					require.EqualValues(t, 4, w.refreshes.Load())
					status := b.script(http.MethodGet, "/auth/session")
					require.NotContains(t, status.body, "inactivity_ends_in", "nothing is made up")
					if name == "store" { // a cookie has a bound of its own
						require.JSONEq(t, `{"signed_in":true,"renewable":true}`, status.body)
					}
					time.Sleep(time.Second)
					require.Equal(t, http.StatusOK, b.script(http.MethodPost, "/auth/session").status)
					require.EqualValues(t, 5, w.refreshes.Load())

					// It answers a refresh token that is over, after 5 hours, with a
					// server error, which is no logout. The page has a way out.
					time.Sleep(6 * time.Hour)
					p = b.visit("/page?x=2")
					require.Equal(t, http.StatusServiceUnavailable, p.status)
					require.Contains(t, p.body, `id="signin" href="/auth/signin?return=%2Fpage%3Fx%3D2"`)
					p = signIn(b.visit("/auth/signin?return=%2Fpage%3Fx%3D2"))
					require.Equal(t, "/page?x=2", p.url.RequestURI())
					b.goesOn("/page")

					// A refresh token that it does not know is invalid_grant.
					require.NoError(t, st.TerminateSession(t.Context(), "id1", "stranger"))
					time.Sleep(6 * time.Minute)
					p = signIn(b.visit("/page?x=3"))
					require.Equal(t, "/page?x=3", p.url.RequestURI())
					require.Contains(t, p.body, "notice: You were signed out.\n")
					p = b.submit(b.visit("/auth/signout"), nil)
					contains(t, p.via, "/end_session?")
				})
			})
		}
	}
}
