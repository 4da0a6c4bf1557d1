package middleware_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
)

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

// given notes the refresh token that the provider gives.
func (w *world) given(token *string) func(*http.Request) *http.Response {
	return func(r *http.Request) *http.Response {
		if r.URL.Path != "/oauth/token" {
			return nil
		}
		var tokens map[string]any
		if !fetch(w.t, w, r, &tokens) {
			return response(http.StatusBadGateway, "")
		}
		*token, _ = tokens["refresh_token"].(string)
		body, err := json.Marshal(tokens)
		require.NoError(w.t, err)
		return response(http.StatusOK, string(body))
	}
}

// Signing out of the application ends the login at the provider: nobody can use what
// the application had.
func TestSignOutEndsTheLoginAtTheProvider(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		var token string
		w.answers(w.given(&token))
		b := w.browser()
		b.login("/page")
		w.answers(nil)
		b.submit(b.visit("/auth/signout"), nil)
		r := w.op.Refresh(optest.Web, token)
		require.Equal(t, "invalid_grant", r.Error())
		require.Contains(t, r.Description(), "logout: ")
	})
}

// A provider that has no end_session endpoint is told by revocation (RFC 7009).
func TestSignOutRevokes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		client, method string
	}{
		"client_secret_basic": {optest.Web, "client_secret_basic"},
		"client_secret_post":  {optest.Post, "client_secret_post"},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				w := newWorld(t, mode, with(func(c *middleware.Config) {
					c.ClientID, c.ClientSecret = tt.client, tt.client+"-secret"
				}))
				p := newPlain(w, tt.method)
				b := w.browser()
				b.login("/page")
				out := b.submit(b.visit("/auth/signout"), nil)
				require.Contains(t, out.body, "notice: You signed out.")
				require.Equal(t, "/out", out.url.Path)
				require.Len(t, p.revoked, 1)
				require.Equal(t, []string{p.token}, p.revoked[0]["token"])
				require.Equal(t, []string{"refresh_token"}, p.revoked[0]["token_type_hint"])
				r := w.op.Refresh(tt.client, p.token)
				require.Equal(t, "invalid_grant", r.Error())
				require.Contains(t, r.Description(), "revoked: ")
				require.Empty(t, w.seen(middleware.EventUnavailable))
			})
		})
	}
}

// Whatever the provider answers, the user is signed out here. If it was not told they
// learn it, and so does the operator.
func TestSignOutWhileTheProviderIsDown(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() *http.Response{
		"no answer":   func() *http.Response { return response(0, "") },
		"unavailable": func() *http.Response { return response(http.StatusServiceUnavailable, `{"error":"server_error"}`) },
		"refused":     func() *http.Response { return response(http.StatusBadRequest, `{"error":"unsupported_token_type"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				w := newWorld(t, mode)
				p := newPlain(w, "client_secret_basic")
				p.answer = answer
				b := w.browser()
				b.login("/page")
				copied := b.cookies()
				out := b.submit(b.visit("/auth/signout"), nil)
				require.Equal(t, http.StatusOK, out.status)
				require.Contains(t, out.body, "You are signed out here")
				require.Contains(t, out.body, "The provider could not be told.")
				events := w.seen(middleware.EventUnavailable)
				require.Len(t, events, 1)
				require.ErrorContains(t, events[0].Err, "revocation")
				require.NotContains(t, events[0].Err.Error(), p.token)
				thief := w.browser()
				for name, value := range copied {
					thief.set(name, value)
				}
				for _, who := range []*browser{b, thief} {
					require.Equal(t, http.StatusUnauthorized, who.script(http.MethodGet, "/api").status)
				}
			})
		})
	}

	// A process that was started while it is down does not know how to tell it.
	t.Run("unknown", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, with(func(c *middleware.Config) { c.Store = middleware.NewMemoryStore() }))
			b := w.browser()
			b.login("/page")
			rp, err := middleware.New(w.cfg)
			require.NoError(t, err)
			w.serve(appHost, w.app(rp))
			b.http.CloseIdleConnections() // those to the process before
			w.answers(func(*http.Request) *http.Response { return response(0, "") })
			out := b.submit(b.visit("/auth/signout"), nil)
			require.Equal(t, http.StatusOK, out.status)
			require.Contains(t, out.body, "The provider could not be told.")
			require.Equal(t, http.StatusUnauthorized, b.script(http.MethodGet, "/api").status)
			require.NotEmpty(t, w.seen(middleware.EventUnavailable))
		})
	})
}

// A plain provider has no end_session endpoint.
type plain struct {
	token   string // the last refresh token that it gave
	revoked []url.Values
	answer  func() *http.Response // of its revocation endpoint; nil: its own
}

func newPlain(w *world, authMethod string) *plain {
	p := &plain{}
	given := w.given(&p.token)
	w.answers(func(r *http.Request) *http.Response {
		switch {
		case strings.HasSuffix(r.URL.Path, "openid-configuration"):
			var doc map[string]any
			if !fetch(w.t, w, r, &doc) {
				return response(http.StatusBadGateway, "")
			}
			require.NotEmpty(w.t, doc["end_session_endpoint"])
			delete(doc, "end_session_endpoint")
			doc["token_endpoint_auth_methods_supported"] = []string{authMethod}
			body, err := json.Marshal(doc)
			require.NoError(w.t, err)
			return response(http.StatusOK, string(body))
		case r.URL.Path == "/revoke":
			body, err := io.ReadAll(r.Body)
			require.NoError(w.t, err)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			form, err := url.ParseQuery(string(body))
			require.NoError(w.t, err)
			p.revoked = append(p.revoked, form)
			if p.answer != nil {
				return p.answer()
			}
			return nil
		}
		return given(r)
	})
	return p
}
