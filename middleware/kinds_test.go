package middleware_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/middleware"
)

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
