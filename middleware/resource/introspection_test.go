package resource_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware/resource"
	"github.com/curfew-oidc/curfew/policy"
)

// An ended session's token is dead at once where nothing is cached, and else when
// the answer is older than CacheFor: to the second.
func TestIntrospection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for name, change := range map[string]func(*resource.Config){
			"default":       func(*resource.Config) {},
			"ten seconds":   func(cfg *resource.Config) { cfg.CacheFor = 10 * time.Second },
			"without cache": func(cfg *resource.Config) { cfg.CacheFor = -1 },
		} {
			outlives := map[string]time.Duration{"default": 30 * time.Second, "ten seconds": 10 * time.Second}[name]
			api := w.introspecting(t, change)
			tokens := w.Login(optest.Web, "alice")
			sid := w.Claim(optest.Web, tokens, "sid")
			r := callAPI(t, api, bearer(tokens.AccessToken()))
			require.Equal(t, http.StatusOK, r.status)
			require.Equal(t, optest.SubjectOf("alice"), r.body["sub"])
			require.Equal(t, sid, r.body["sid"])
			require.Equal(t, optest.Web, r.body["client"])

			other := w.Login(optest.Web, "alice")
			require.NoError(t, w.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "test"))
			if outlives > 0 {
				time.Sleep(outlives - time.Nanosecond)
				require.Equal(t, http.StatusOK, callAPI(t, api, bearer(tokens.AccessToken())).status, name)
				time.Sleep(time.Nanosecond)
			}
			r = callAPI(t, api, bearer(tokens.AccessToken()))
			require.Equal(t, http.StatusUnauthorized, r.status, name)
			require.Equal(t, badToken, r.challenge)
			require.Equal(t, "invalid_token", r.body["error"])
			require.Equal(t, http.StatusOK, callAPI(t, api, bearer(other.AccessToken())).status, "the other session lives")
		}
	})
}

// The cache never lets a token outlive its exp.
func TestCacheEndsWithTheToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		api := w.introspecting(t, func(cfg *resource.Config) { cfg.CacheFor = 100 * time.Hour })
		tokens := w.Login(optest.Web, "alice")
		lives, ok := tokens.Number("expires_in")
		require.True(t, ok)
		time.Sleep(time.Duration(lives-2) * time.Second)
		require.Equal(t, http.StatusOK, callAPI(t, api, bearer(tokens.AccessToken())).status)
		w.down.Store(true) // so that nothing but the cache can answer
		require.Equal(t, http.StatusOK, callAPI(t, api, bearer(tokens.AccessToken())).status)
		time.Sleep(2 * time.Second)
		require.NotEqual(t, http.StatusOK, callAPI(t, api, bearer(tokens.AccessToken())).status)
	})
}

func TestAsksOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		api := w.introspecting(t, func(cfg *resource.Config) { cfg.CacheSize = 3 })
		good := w.Login(optest.Web, "alice").AccessToken()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				req := httptest.NewRequest(http.MethodGet, "/", nil)
				req.Header.Set("Authorization", "Bearer "+good)
				_, err := api.Check(req)
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, w.count(introspectionPath), "one request for fifty callers")
		require.Equal(t, 1, w.count(discoveryPath))

		// A token that is not good is remembered too, for a shorter time.
		require.Equal(t, http.StatusUnauthorized, callAPI(t, api, bearer("nonsense-0")).status)
		require.Equal(t, http.StatusUnauthorized, callAPI(t, api, bearer("nonsense-0")).status)
		require.Equal(t, 2, w.count(introspectionPath))
		time.Sleep(5 * time.Second)
		require.Equal(t, http.StatusUnauthorized, callAPI(t, api, bearer("nonsense-0")).status)
		require.Equal(t, 3, w.count(introspectionPath))

		// A flood of them pushes out no good one, and not more are kept than CacheSize.
		for i := range 20 {
			callAPI(t, api, bearer(fmt.Sprint("nonsense-", i)))
		}
		before := w.count(introspectionPath)
		require.Equal(t, http.StatusOK, callAPI(t, api, bearer(good)).status)
		require.Equal(t, before, w.count(introspectionPath))
		callAPI(t, api, bearer("nonsense-19"))
		require.Equal(t, before, w.count(introspectionPath), "kept")
		callAPI(t, api, bearer("nonsense-10"))
		require.Equal(t, before+1, w.count(introspectionPath), "pushed out")

		// The one that was used longest ago goes first.
		for range 3 {
			callAPI(t, api, bearer(good))
			require.Equal(t, http.StatusOK, callAPI(t, api, bearer(w.Login(optest.Web, "alice").AccessToken())).status)
		}
		before = w.count(introspectionPath)
		callAPI(t, api, bearer(good))
		require.Equal(t, before, w.count(introspectionPath))
	})
}

// Whoever goes away while the provider is asked does not spoil it for others.
func TestCallerGoesAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		api := w.introspecting(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		req := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
		token := w.Login(optest.Web, "alice").AccessToken()
		req.Header.Set("Authorization", "Bearer "+token)
		w.slow.Store(true)
		_, err := api.Check(req)
		var refused *resource.Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, http.StatusServiceUnavailable, refused.Status, "nothing is known against the token")
		require.Equal(t, http.StatusOK, callAPI(t, api, bearer(token)).status)
		require.Equal(t, 1, w.count(introspectionPath))
	})
}

// Answers of a provider that cannot be relied on are an outage, and what they say
// against a token counts.
func TestIntrospectionAnswers(t *testing.T) {
	t.Parallel()
	var answer, contentType string
	status, secret := 200, "s+c r%t/é"
	now := time.Now().Unix()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc(discoveryPath, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"introspection_endpoint":%q}`, server.URL, server.URL+"/keys", server.URL+"/introspect")
	})
	mux.HandleFunc("/introspect", func(w http.ResponseWriter, r *http.Request) {
		id, given, ok := r.BasicAuth()
		if ok {
			id, _ = url.QueryUnescape(id)
			given, _ = url.QueryUnescape(given)
		} else {
			id, given = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
		}
		if id != "a:b" || given != secret || r.PostFormValue("token") != "tok" || r.PostFormValue("token_type_hint") != "access_token" {
			http.Error(w, "who?", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Location", server.URL+"/elsewhere")
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	})
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"active":true}`) })
	call := func(style oauth2.AuthStyle) reply {
		api, err := resource.New(resource.Config{
			Issuer: server.URL, Audience: "orders",
			Introspection: &resource.Introspection{ClientID: "a:b", ClientSecret: secret, AuthStyle: style},
		})
		require.NoError(t, err)
		return callAPI(t, api, bearer("tok"))
	}
	for name, tt := range map[string]struct {
		status int
		answer string
		want   int
	}{
		"active":             {200, `{"active":true,"aud":"orders"}`, 200},
		"all there is":       {200, fmt.Sprintf(`{"active":true,"aud":["orders","x"],"iss":%q,"token_type":"bearer","exp":%d,"iat":%d,"nbf":%d,"cnf":null,"other":1}`, server.URL, now+60, now, now), 200},
		"not active":         {200, `{"active":false}`, 401},
		"no audience":        {200, `{"active":true}`, 401},
		"another API":        {200, `{"active":true,"aud":"x"}`, 401},
		"a refresh token":    {200, `{"active":true,"aud":"orders","token_type":"refresh_token"}`, 401},
		"bound to a key":     {200, `{"active":true,"aud":"orders","token_type":"DPoP"}`, 401},
		"bound to a key too": {200, `{"active":true,"aud":"orders","cnf":{"x5t#S256":"x"}}`, 401},
		"another issuer":     {200, `{"active":true,"aud":"orders","iss":"https://x"}`, 401},
		"over":               {200, fmt.Sprintf(`{"active":true,"aud":"orders","exp":%d}`, now-1), 401},
		"not yet":            {200, fmt.Sprintf(`{"active":true,"aud":"orders","nbf":%d}`, now+600), 401},
		"no JSON":            {200, `active`, 503},
		"empty":              {200, ``, 503},
		"no verdict":         {200, `{"aud":"orders"}`, 503},
		"a verdict in words": {200, `{"active":"true","aud":"orders"}`, 503},
		"two verdicts":       {200, `{"active":false,"active":true,"aud":"orders"}`, 503},
		"another spelling":   {200, `{"Active":true,"aud":"orders"}`, 503},
		"too much":           {200, `{"active":true,"aud":"orders","x":"` + strings.Repeat("x", 1<<20) + `"}`, 503},
		"an error":           {500, `{"active":true,"aud":"orders"}`, 503},
		"too many requests":  {429, `{"active":false}`, 503},
		"a redirect":         {307, `{"active":true,"aud":"orders"}`, 503},
	} {
		status, answer, contentType = tt.status, tt.answer, "application/json"
		require.Equal(t, tt.want, call(oauth2.AuthStyleAutoDetect).status, name)
		require.Equal(t, tt.want, call(oauth2.AuthStyleInParams).status, name)
	}
}

// What the handler got is its own to change.
func TestTokenIsTheCallersToKeep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.introspecting(t)
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.Header.Set("Authorization", "Bearer "+w.Login(optest.Web, "alice").AccessToken())
	first, err := api.Check(req)
	require.NoError(t, err)
	var claims struct {
		Username string `json:"username"`
		Active   bool   `json:"active"`
	}
	require.NoError(t, first.Claims(&claims))
	require.True(t, claims.Active)
	require.True(t, first.HasScope("openid"))
	first.Scopes[0] = "admin"
	second, err := api.Check(req)
	require.NoError(t, err)
	require.False(t, second.HasScope("admin"))

	// Outside of Handler there is nothing.
	_, ok := resource.From(t.Context())
	require.False(t, ok)
	require.Empty(t, resource.Subject(t.Context()))
	require.Empty(t, resource.SID(t.Context()))
}
