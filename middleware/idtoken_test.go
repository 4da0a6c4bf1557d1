package middleware_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/policy"
)

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

// RFC 8725 section 3.11: what a provider sends as the ID token of a sign-in or of a
// refresh is one, even if everything in another token of it fits. The other doors of
// this package are in the table of package provider, TestATokenOpensOnlyItsOwnDoor.
func TestOnlyAnIDTokenSignsIn(t *testing.T) {
	t.Parallel()
	event := map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}
	for name, kind := range map[string]struct {
		typ    string
		events any
	}{
		"an ID token":                       {typ: "JWT"},
		"an ID token of no type":            {},
		"an access token":                   {typ: "at+jwt"},
		"an access token, in full":          {typ: "application/at+jwt"},
		"a logout token":                    {typ: "logout+jwt", events: event},
		"a logout token of no type":         {events: event},
		"a security event":                  {typ: "secevent+jwt", events: event},
		"a security event that says little": {typ: "JWT", events: map[string]any{}},
	} {
		for _, at := range []string{"sign-in", "refresh"} {
			t.Run(name+" at a "+at, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					s := newSigner(t, w)
					keys := *w.answer.Load()
					b := w.browser()
					if at == "refresh" {
						b.login("/page")
					}
					w.answers(func(r *http.Request) *http.Response {
						if r.URL.Path != "/oauth/token" {
							return keys(r)
						}
						var mine map[string]any
						resp := s.changed(t, r, func(claims, tokens map[string]any) {
							if kind.events != nil {
								claims["events"] = kind.events
							}
							mine = maps.Clone(tokens)
							mine["id_token"] = s.sign(t, kind.typ, claims)
						})
						if mine == nil {
							return resp
						}
						body, err := json.Marshal(mine)
						require.NoError(t, err)
						return response(http.StatusOK, string(body))
					})
					var p page
					if at == "refresh" {
						time.Sleep(6 * time.Minute)
						p = b.visit("/page")
					} else {
						p = b.signIn(b.visit("/page"), "alice")
					}
					switch {
					case kind.typ == "" && kind.events == nil, kind.typ == "JWT" && kind.events == nil:
						require.Contains(t, p.body, "page of")
					case at == "refresh":
						require.Equal(t, opHost, p.url.Host)
						require.Equal(t, middleware.ReasonIdentity, w.seen(middleware.EventEnded)[0].Reason)
					default:
						refusedSignIn(t, w, p)
					}
				})
			})
		}
	}
}

// An ID token of a refresh that is not of this login ends the session, and is told
// of; keys that cannot be had do not.
func TestRefreshedIDToken(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(map[string]any){
		"fine":           func(map[string]any) {},
		"no ID token":    func(c map[string]any) { clear(c) },
		"sub":            func(c map[string]any) { c["sub"] = optest.SubjectOf("bob") },
		"iss":            func(c map[string]any) { c["iss"] = "https://evil.example" },
		"aud":            func(c map[string]any) { c["aud"] = "web2" },
		"azp":            func(c map[string]any) { c["azp"] = "web2" },
		"auth_time":      func(c map[string]any) { c["auth_time"] = time.Now().Unix() },
		"nonce":          func(c map[string]any) { c["nonce"] = "another" },
		"old":            func(c map[string]any) { c["iat"] = time.Now().Add(-time.Hour).Unix() },
		"expired":        func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() },
		"session_expiry": func(c map[string]any) { c["session_expiry"] = time.Now().Add(-time.Minute).Unix() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := newSigner(t, w)
				keys := *w.answer.Load()
				b := w.browser()
				b.login("/page")
				w.answers(func(r *http.Request) *http.Response {
					if r.URL.Path != "/oauth/token" {
						return keys(r)
					}
					return s.changed(t, r, func(claims, _ map[string]any) { change(claims) })
				})
				time.Sleep(6 * time.Minute)
				p := b.visit("/page")
				switch name {
				case "fine", "no ID token":
					require.Equal(t, http.StatusOK, p.status, p.body)
					require.Contains(t, p.body, "page of "+optest.SubjectOf("alice"))
					return
				}
				require.Equal(t, opHost, p.url.Host)
				ended := w.seen(middleware.EventEnded)
				require.Len(t, ended, 1)
				want := middleware.ReasonIdentity
				if name == "session_expiry" {
					want = policy.ReasonActiveLimit
				}
				require.Equal(t, want, ended[0].Reason)
			})
		})
	}
}

// An ID token at sign-in that is not the answer to this sign-in.
func TestIDTokenOfTheSignIn(t *testing.T) {
	t.Parallel()
	cases := map[string]func(claims, tokens map[string]any){
		"fine":             func(_, _ map[string]any) {},
		"no ID token":      func(claims, _ map[string]any) { clear(claims) },
		"no nonce":         func(claims, _ map[string]any) { delete(claims, "nonce") },
		"another nonce":    func(claims, _ map[string]any) { claims["nonce"] = "n" },
		"iss":              func(claims, _ map[string]any) { claims["iss"] = "https://evil.example" },
		"aud":              func(claims, _ map[string]any) { claims["aud"] = "web2" },
		"no aud":           func(claims, _ map[string]any) { delete(claims, "aud") },
		"azp":              func(claims, _ map[string]any) { claims["azp"] = "web2" },
		"two aud, no azp":  func(claims, _ map[string]any) { claims["aud"] = []string{"web", "web2"}; delete(claims, "azp") },
		"expired":          func(claims, _ map[string]any) { claims["exp"] = time.Now().Add(-time.Second).Unix() },
		"no exp":           func(claims, _ map[string]any) { delete(claims, "exp") },
		"old":              func(claims, _ map[string]any) { claims["iat"] = time.Now().Add(-time.Hour).Unix() },
		"of the future":    func(claims, _ map[string]any) { claims["iat"] = time.Now().Add(time.Hour).Unix() },
		"no sub":           func(claims, _ map[string]any) { delete(claims, "sub") },
		"at_hash":          func(claims, _ map[string]any) { claims["at_hash"] = "AAAAAAAAAAAAAAAAAAAAAA" },
		"over":             func(claims, _ map[string]any) { claims["session_expiry"] = time.Now().Unix() },
		"over by the body": func(_, tokens map[string]any) { tokens["authorization_expires_in"] = 0 },
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := newSigner(t, w)
		keys := *w.answer.Load()
		for name, change := range cases {
			w.answers(func(r *http.Request) *http.Response {
				if r.URL.Path != "/oauth/token" {
					return keys(r)
				}
				return s.changed(t, r, change)
			})
			b := w.browser()
			p := b.signIn(b.visit("/page"), "alice")
			if name == "fine" {
				require.Contains(t, p.body, "page of")
				continue
			}
			refusedSignIn(t, w, p)
			require.Equal(t, http.StatusUnauthorized, b.script(http.MethodGet, "/api").status, name)
		}
	})
}
