package resource_test

import (
	"maps"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware/resource"
)

func TestStepUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		api := w.introspecting(t)
		token := w.Login(optest.Web, "alice").AccessToken()
		call := func(rules ...resource.Rule) reply {
			t.Helper()
			return callAPI(t, api, bearer(token), rules...)
		}
		require.Equal(t, http.StatusOK, call(resource.MaxAge(0)).status, "this very second")
		time.Sleep(time.Second)
		r := call(resource.MaxAge(0))
		require.Equal(t, http.StatusUnauthorized, r.status, "0 is not ignored")
		require.Equal(t, `Bearer realm="api", error="insufficient_user_authentication", max_age="0"`, r.challenge)
		require.Equal(t, http.StatusUnauthorized, call(resource.MaxAge(-time.Hour)).status)
		require.Equal(t, http.StatusOK, call(resource.MaxAge(2*time.Minute)).status)

		time.Sleep(2*time.Minute - time.Millisecond)
		require.Equal(t, http.StatusOK, call(resource.MaxAge(2*time.Minute)).status)
		time.Sleep(time.Millisecond)
		r = call(resource.MaxAge(2 * time.Minute))
		require.Equal(t, http.StatusUnauthorized, r.status)
		require.Equal(t, `Bearer realm="api", error="insufficient_user_authentication", max_age="120"`, r.challenge)
		require.Equal(t, http.StatusOK, call().status, "other routes go on")
		require.Equal(t, `Bearer realm="api", error="insufficient_user_authentication", max_age="60"`,
			call(resource.MaxAge(time.Hour), resource.MaxAge(time.Minute), resource.MaxAge(2*time.Hour)).challenge)

		r = call(resource.ACR("urn:phr", "urn:mfa"), resource.MaxAge(time.Hour))
		require.Equal(t, `Bearer realm="api", error="insufficient_user_authentication", acr_values="urn:phr urn:mfa", max_age="3600"`, r.challenge)

		// A refresh is no new login; signing in is.
		tokens := w.Login(optest.Web, "alice")
		time.Sleep(10 * time.Minute)
		token = w.Refresh(optest.Web, tokens.RefreshToken()).AccessToken()
		require.Equal(t, http.StatusUnauthorized, call(resource.MaxAge(2*time.Minute)).status)
		token = w.Login(optest.Web, "alice").AccessToken()
		require.Equal(t, http.StatusOK, call(resource.MaxAge(2*time.Minute)).status)

		// In JWTs, with what RFC 9068 section 2.2.1 has for it.
		jwts := w.verifying(t)
		now := time.Now().Unix()
		for name, tt := range map[string]struct {
			claims map[string]any
			rule   resource.Rule
			status int
		}{
			"fresh":            {map[string]any{"auth_time": now}, resource.MaxAge(time.Minute), 200},
			"old":              {map[string]any{"auth_time": now - 61}, resource.MaxAge(time.Minute), 401},
			"no auth_time":     {map[string]any{}, resource.MaxAge(time.Hour), 401},
			"from the future":  {map[string]any{"auth_time": now + 31}, resource.MaxAge(time.Hour), 401},
			"acr":              {map[string]any{"acr": "urn:mfa"}, resource.ACR("urn:phr", "urn:mfa"), 200},
			"another acr":      {map[string]any{"acr": "urn:pwd"}, resource.ACR("urn:phr", "urn:mfa"), 401},
			"no acr":           {map[string]any{}, resource.ACR("urn:phr"), 401},
			"acr in a list":    {map[string]any{"acr": "urn:phr urn:mfa"}, resource.ACR("urn:phr"), 401},
			"scope":            {map[string]any{"scope": "x orders"}, resource.Scopes("orders"), 200},
			"scope's prefix":   {map[string]any{"scope": "x orders:read"}, resource.Scopes("orders"), 403},
			"one of two":       {map[string]any{"scope": "orders"}, resource.Scopes("orders", "refunds"), 403},
			"no scope at all ": {map[string]any{}, resource.Scopes("orders"), 403},
		} {
			claims := map[string]any{"iss": w.Issuer, "sub": "a", "aud": optest.JWT, "exp": now + 60, "iat": now, "jti": "1", "client_id": "c"}
			maps.Copy(claims, tt.claims)
			r := callAPI(t, jwts, bearer(w.sign(t, claims, map[jose.HeaderKey]any{"typ": "at+jwt"})), tt.rule)
			require.Equal(t, tt.status, r.status, name)
		}
	})
}

func TestScopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.introspecting(t)
	token := w.Login(optest.Web, "alice").AccessToken()
	require.Equal(t, http.StatusOK, callAPI(t, api, bearer(token), resource.Scopes("openid", "email")).status)
	r := callAPI(t, api, bearer(token), resource.Scopes("openid", "refunds"), resource.MaxAge(0))
	require.Equal(t, http.StatusForbidden, r.status)
	require.Equal(t, `Bearer realm="api", error="insufficient_scope", scope="openid refunds"`, r.challenge)
	require.Equal(t, "insufficient_scope", r.body["error"])
	require.Equal(t, `Bearer realm="api"`, callAPI(t, api, nil, resource.Scopes("refunds")).challenge)
}
