package resource_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware/resource"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store/faultstore"
)

const (
	introspectionPath = "/oauth/introspect"
	keysPath          = "/keys"
	discoveryPath     = "/.well-known/openid-configuration"

	badToken  = `Bearer realm="api", error="invalid_token"`
	badHeader = `Bearer realm="api", error="invalid_request"`
)

// An ended session's token is dead at once where nothing is cached, and else when
// the answer is older than CacheFor: to the second.
func TestIntrospection(t *testing.T) {
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

func TestAuthorizationHeader(t *testing.T) {
	w := newWorld(t)
	good := w.Login(optest.Web, "alice").AccessToken()
	jwt := w.Login(optest.JWT, "alice").AccessToken()
	for name, tt := range map[string]struct {
		headers   []string
		status    int
		challenge string
	}{
		"none":            {nil, 401, `Bearer realm="api"`},
		"empty":           {[]string{""}, 401, `Bearer realm="api"`},
		"basic":           {[]string{"Basic d2ViOndlYi1zZWNyZXQ="}, 401, `Bearer realm="api"`},
		"dpop":            {[]string{"DPoP " + good}, 401, `Bearer realm="api"`},
		"no scheme":       {[]string{good}, 401, `Bearer realm="api"`},
		"tab":             {[]string{"Bearer\t" + good}, 401, `Bearer realm="api"`},
		"no token":        {[]string{"Bearer"}, 400, badHeader},
		"blank token":     {[]string{"Bearer  "}, 400, badHeader},
		"padding alone":   {[]string{"Bearer ="}, 400, badHeader},
		"two words":       {[]string{"Bearer " + good + " " + good}, 400, badHeader},
		"a list":          {[]string{"Bearer " + good + ", Bearer " + good}, 400, badHeader},
		"a space behind":  {[]string{"Bearer " + good + " "}, 400, badHeader},
		"quoted":          {[]string{`Bearer "` + good + `"`}, 400, badHeader},
		"not ASCII":       {[]string{"Bearer " + good + "é"}, 400, badHeader},
		"a zero byte":     {[]string{"Bearer " + good + "\x00"}, 400, badHeader},
		"twice":           {[]string{"Bearer " + good, "Bearer " + good}, 400, badHeader},
		"twice, two ways": {[]string{"Basic x", "Bearer " + good}, 400, badHeader},
		"too long":        {[]string{"Bearer " + strings.Repeat("a", 16<<10+1)}, 401, badToken},
	} {
		t.Run(name, func(t *testing.T) {
			for _, api := range []*resource.Server{w.introspecting(t), w.verifying(t, acceptPlainJWT)} {
				before := w.count(introspectionPath) + w.count(keysPath)
				r := callAPI(t, api, tt.headers)
				require.Equal(t, tt.status, r.status)
				require.Equal(t, tt.challenge, r.challenge)
				require.Equal(t, before, w.count(introspectionPath)+w.count(keysPath), "nobody was asked")
			}
		})
	}
	for _, scheme := range []string{"bearer ", "BEARER ", "Bearer   "} {
		require.Equal(t, http.StatusOK, callAPI(t, w.introspecting(t), []string{scheme + good}).status)
		require.Equal(t, http.StatusOK, callAPI(t, w.verifying(t, acceptPlainJWT), []string{scheme + jwt}).status)
	}

	// Nowhere else is a token looked for.
	form := url.Values{"access_token": {good}}
	req := httptest.NewRequest(http.MethodPost, "/?"+form.Encode(), strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.AddCookie(&http.Cookie{Name: "access_token", Value: good})
	require.Equal(t, `Bearer realm="api"`, callAPIWith(t, w.introspecting(t), req).challenge)

	realm := w.introspecting(t, func(cfg *resource.Config) { cfg.Realm = "a \"b\" \\ c\r\nX: y" })
	require.Equal(t, `Bearer realm="a \"b\" \\ cX: y"`, callAPI(t, realm, nil).challenge)
}

// Only access tokens open an API, whatever else the provider hands out.
func TestOtherTokensOfTheProvider(t *testing.T) {
	w := newWorld(t)
	web, jwt := w.Login(optest.Web, "alice"), w.Login(optest.JWT, "alice")
	webAgain, jwtAgain := w.Refresh(optest.Web, web.RefreshToken()), w.Refresh(optest.JWT, jwt.RefreshToken())
	introspecting, plain := w.introspecting(t), w.verifying(t, acceptPlainJWT)
	ofWeb := w.introspecting(t, func(cfg *resource.Config) {
		cfg.Introspection, cfg.Audience, cfg.InsecureAcceptPlainJWT = nil, optest.Web, true
	})
	for name, tt := range map[string]struct {
		api    *resource.Server
		token  string
		status int
	}{
		"opaque":                     {introspecting, webAgain.AccessToken(), 200},
		"JWT":                        {plain, jwtAgain.AccessToken(), 200},
		"refresh":                    {introspecting, webAgain.RefreshToken(), 401},
		"refresh at a JWT API":       {plain, jwtAgain.RefreshToken(), 401},
		"ID":                         {introspecting, web.IDToken(), 401},
		"ID, refreshed":              {introspecting, webAgain.IDToken(), 401},
		"ID at a JWT API":            {plain, jwt.IDToken(), 401},
		"refreshed ID at a JWT API":  {plain, jwtAgain.IDToken(), 401},
		"web's ID at web's JWT API":  {ofWeb, web.IDToken(), 401},
		"web's ID, refreshed":        {ofWeb, webAgain.IDToken(), 401},
		"opaque at a JWT API":        {plain, webAgain.AccessToken(), 401},
		"another audience":           {introspecting, jwtAgain.AccessToken(), 401},
		"another audience, verified": {ofWeb, jwtAgain.AccessToken(), 401},
		"plain, not accepted":        {w.verifying(t), jwtAgain.AccessToken(), 401},
	} {
		r := callAPI(t, tt.api, bearer(tt.token))
		require.Equal(t, tt.status, r.status, name)
		if tt.status == 401 {
			require.Equal(t, badToken, r.challenge, name)
		}
	}
}

func TestJWT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		api, plain := w.verifying(t), w.verifying(t, acceptPlainJWT)
		now := time.Now().Unix()
		typed := func(typ any) map[jose.HeaderKey]any { return map[jose.HeaderKey]any{"typ": typ} }
		claims := func(change map[string]any) map[string]any {
			c := map[string]any{
				"iss": w.Issuer, "sub": "id-alice", "aud": []string{"x", optest.JWT}, "exp": now + 60, "iat": now,
				"jti": "1", "client_id": "c", "scope": "a b", "sid": "s1",
			}
			maps.Copy(c, change)
			for name, v := range c {
				if v == "-" {
					delete(c, name)
				}
			}
			return c
		}
		sign := func(change map[string]any) string { return w.sign(t, claims(change), typed("at+jwt")) }
		k, err := w.keys.SigningKey(t.Context())
		require.NoError(t, err)
		rsaKey := k.Key().(*rsa.PrivateKey)
		der, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
		require.NoError(t, err)
		public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		own, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		with := func(alg jose.SignatureAlgorithm, key any, id string, header map[jose.HeaderKey]any) string {
			return signWith(t, jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: id}}, claims(nil), header)
		}
		good := sign(nil)
		parts := strings.Split(good, ".")
		b64 := base64.RawURLEncoding.EncodeToString
		cases := map[string]struct {
			token string
			ok    bool
		}{
			"good":                    {good, true},
			"application/at+jwt":      {w.sign(t, claims(nil), typed("application/AT+JWT")), true},
			"aud as a text":           {sign(map[string]any{"aud": optest.JWT}), true},
			"a second before its end": {sign(map[string]any{"exp": now + 1}), true},
			"a clock ahead":           {sign(map[string]any{"iat": now + 30, "nbf": now + 30}), true},
			"PS256":                   {with(jose.PS256, rsaKey, "", typed("at+jwt")), false}, // the key says RS256
			"no kid":                  {with(jose.RS256, rsaKey, "", typed("at+jwt")), true},

			"at its end":                {sign(map[string]any{"exp": now}), false},
			"over":                      {sign(map[string]any{"exp": now - 1}), false},
			"not yet":                   {sign(map[string]any{"nbf": now + 31}), false},
			"from the future":           {sign(map[string]any{"iat": now + 31}), false},
			"exp as a text":             {sign(map[string]any{"exp": fmt.Sprint(now + 60)}), false},
			"another API":               {sign(map[string]any{"aud": "x"}), false},
			"an API named alike":        {sign(map[string]any{"aud": strings.ToUpper(optest.JWT)}), false},
			"another issuer":            {sign(map[string]any{"iss": w.Issuer + "/"}), false},
			"bound to a key":            {sign(map[string]any{"cnf": map[string]any{"jkt": "x"}}), false},
			"nonce":                     {sign(map[string]any{"nonce": "n"}), false},
			"at_hash":                   {sign(map[string]any{"at_hash": "h"}), false},
			"events":                    {sign(map[string]any{"events": map[string]any{}}), false},
			"no type":                   {w.sign(t, claims(nil), nil), false},
			"type JWT":                  {w.sign(t, claims(nil), typed("JWT")), false},
			"type logout+jwt":           {w.sign(t, claims(nil), typed("logout+jwt")), false},
			"type a number":             {w.sign(t, claims(nil), typed(1)), false},
			"somebody's key":            {with(jose.RS256, own, k.ID(), typed("at+jwt")), false},
			"somebody's key, no kid":    {with(jose.RS256, own, "", typed("at+jwt")), false},
			"brings its key along":      {with(jose.RS256, own, k.ID(), map[jose.HeaderKey]any{"typ": "at+jwt", "jwk": jose.JSONWebKey{Key: own.Public()}}), false},
			"HS256 with the public key": {with(jose.HS256, public, k.ID(), typed("at+jwt")), false},
			"HS256 with its DER":        {with(jose.HS256, der, k.ID(), typed("at+jwt")), false},
			"none":                      {b64([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + parts[1] + ".", false},
			"alg rewritten":             {b64([]byte(`{"alg":"none","typ":"at+jwt","kid":"`+k.ID()+`"}`)) + "." + parts[1] + "." + parts[2], false},
			"unknown crit":              {with(jose.RS256, rsaKey, k.ID(), map[jose.HeaderKey]any{"typ": "at+jwt", "crit": []string{"x"}, "x": 1}), false},
			"claims changed":            {parts[0] + "." + b64([]byte(`{"sub":"root"}`)) + "." + parts[2], false},
			"cut off":                   {parts[0] + "." + parts[1], false},
			"no JWT":                    {"abc", false},
		}
		for _, name := range []string{"iss", "aud", "exp", "iat", "jti", "client_id", "sub"} {
			cases["no "+name] = struct {
				token string
				ok    bool
			}{sign(map[string]any{name: "-"}), false}
		}
		for name, tt := range cases {
			r := callAPI(t, api, bearer(tt.token))
			if tt.ok {
				require.Equal(t, http.StatusOK, r.status, name)
				require.Equal(t, "id-alice", r.body["sub"])
				require.Equal(t, "s1", r.body["sid"])
				require.Equal(t, []any{"a", "b"}, r.body["scopes"])
				continue
			}
			require.Equal(t, badToken, r.challenge, name)
			if name != "no type" && name != "type JWT" {
				require.Equal(t, badToken, callAPI(t, plain, bearer(tt.token)).challenge, "%s, with plain JWTs accepted", name)
			}
		}
		// Signed twice the same claim is ambiguous, and go-jose's encoder cannot
		// write it: so by hand.
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: rsaKey, KeyID: k.ID()}},
			&jose.SignerOptions{ExtraHeaders: typed("at+jwt")})
		require.NoError(t, err)
		body := fmt.Sprintf(`{"iss":%q,"sub":"a","aud":"x","aud":%q,"exp":%d,"iat":%d,"jti":"1","client_id":"c"}`, w.Issuer, optest.JWT, now+60, now)
		jws, err := signer.Sign([]byte(body))
		require.NoError(t, err)
		twice, err := jws.CompactSerialize()
		require.NoError(t, err)
		require.Equal(t, badToken, callAPI(t, api, bearer(twice)).challenge)
		only := w.verifying(t, func(cfg *resource.Config) { cfg.Algorithms = []jose.SignatureAlgorithm{jose.ES256} })
		require.Equal(t, badToken, callAPI(t, only, bearer(good)).challenge, "an algorithm that was not allowed")

		// Time moves on: no leeway makes it live longer.
		time.Sleep(59 * time.Second)
		require.Equal(t, http.StatusOK, callAPI(t, api, bearer(good)).status)
		time.Sleep(time.Second)
		require.Equal(t, badToken, callAPI(t, api, bearer(good)).challenge)
	})
}

// A new key is noticed at the first token that it signed, and a withdrawn one
// within five minutes.
func TestKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		api := w.verifying(t, acceptPlainJWT)
		first := w.Login(optest.JWT, "alice").AccessToken()
		require.Equal(t, http.StatusOK, callAPI(t, api, bearer(first)).status)
		for i := range 3 {
			w.keys.rotate(t, fmt.Sprint("key-", i), newECDSA(t), true)
			next := w.Login(optest.JWT, "alice").AccessToken()
			require.Equal(t, http.StatusOK, callAPI(t, api, bearer(next)).status)
			require.Equal(t, http.StatusOK, callAPI(t, api, bearer(first)).status, "the old key is published still")
		}
		w.keys.rotate(t, "key-last", newECDSA(t), false)
		time.Sleep(5 * time.Minute)
		callAPI(t, api, bearer(first)) // old keys serve while new ones are fetched
		synctest.Wait()
		require.Equal(t, badToken, callAPI(t, api, bearer(first)).challenge, "the old key was withdrawn")
	})
}

// Keys that somebody made up are looked for a bounded number of times. What cannot
// be looked for is an outage, as it may be good; and it is, when it is looked for.
func TestUnknownKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		api := w.verifying(t, acceptPlainJWT)
		require.Equal(t, http.StatusOK, callAPI(t, api, bearer(w.Login(optest.JWT, "alice").AccessToken())).status)
		before := w.count(keysPath)
		mallory := newECDSA(t)
		flood := func(n int) {
			for i := range n {
				token := signWith(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: mallory, KeyID: fmt.Sprint("made-up-", i)}},
					map[string]any{"iss": w.Issuer}, nil)
				req := httptest.NewRequest(http.MethodGet, "/", nil)
				req.Header.Set("Authorization", "Bearer "+token)
				_, err := api.Check(req)
				require.Error(t, err)
			}
		}
		flood(100)
		require.Equal(t, 5, w.count(keysPath)-before)
		w.keys.rotate(t, "new", newECDSA(t), true)
		honest := w.Login(optest.JWT, "alice").AccessToken()
		r := callAPI(t, api, bearer(honest))
		require.Equal(t, http.StatusServiceUnavailable, r.status, "not 401: it is good")
		require.NotEmpty(t, r.header.Get("Retry-After"))
		require.Empty(t, r.challenge)
		time.Sleep(10 * time.Second)
		require.Equal(t, http.StatusOK, callAPI(t, api, bearer(honest)).status)
		flood(100)
		require.Equal(t, 6, w.count(keysPath)-before)
	})
}

func newECDSA(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

// A provider that is down is neither asked in a flood nor a verdict on a token.
func TestProviderDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		web, now := w.Login(optest.Web, "alice"), time.Now().Unix()
		long := w.sign(t, map[string]any{
			"iss": w.Issuer, "sub": "a", "aud": optest.JWT, "exp": now + 7200, "iat": now, "jti": "1", "client_id": "c",
		}, map[jose.HeaderKey]any{"typ": "at+jwt"})
		for _, tt := range []struct {
			name  string
			api   *resource.Server
			token string
		}{
			{"introspection", w.introspecting(t), web.AccessToken()},
			{"JWT", w.verifying(t), long},
		} {
			name := tt.name
			unavailable := func() {
				t.Helper()
				r := callAPI(t, tt.api, bearer(tt.token))
				require.Equal(t, http.StatusServiceUnavailable, r.status, name)
				require.Equal(t, "2", r.header.Get("Retry-After"))
				require.Empty(t, r.challenge)
				require.Equal(t, "server_error", r.body["error"])
			}
			w.down.Store(true)
			before := w.count(discoveryPath)
			for range 20 {
				unavailable()
			}
			require.Equal(t, before+1, w.count(discoveryPath))
			w.down.Store(false)
			time.Sleep(time.Second)
			require.Equal(t, http.StatusOK, callAPI(t, tt.api, bearer(tt.token)).status, "discovery is tried again")

			w.down.Store(true)
			require.Equal(t, http.StatusOK, callAPI(t, tt.api, bearer(tt.token)).status, "known, and fresh enough")
			if name == "introspection" {
				time.Sleep(30 * time.Second)
				unavailable()
			} else {
				time.Sleep(30 * time.Minute) // keys outlast an outage
				require.Equal(t, http.StatusOK, callAPI(t, tt.api, bearer(tt.token)).status)
				synctest.Wait()
				require.Equal(t, http.StatusOK, callAPI(t, tt.api, bearer(tt.token)).status)
			}
			w.down.Store(false)
			time.Sleep(time.Second)
			require.Equal(t, http.StatusOK, callAPI(t, tt.api, bearer(tt.token)).status)
		}

		// The provider is up and its store is down: 503 there, so 503 here.
		api := w.introspecting(t)
		web = w.Login(optest.Web, "alice")
		w.sessions.Script(faultstore.Always(faultstore.Before))
		require.Equal(t, http.StatusServiceUnavailable, callAPI(t, api, bearer(web.AccessToken())).status)
		w.sessions.Script(nil)
		require.Equal(t, http.StatusOK, callAPI(t, api, bearer(web.AccessToken())).status)

		// So is a provider that does not know this API: the operator's mistake, not the caller's.
		api = w.introspecting(t, func(cfg *resource.Config) { cfg.Introspection.ClientSecret = "wrong" })
		require.Equal(t, http.StatusServiceUnavailable, callAPI(t, api, bearer(web.AccessToken())).status)
	})
}

// Answers of a provider that cannot be relied on are an outage, and what they say
// against a token counts.
func TestIntrospectionAnswers(t *testing.T) {
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

func TestStepUp(t *testing.T) {
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

// What the handler got is its own to change.
func TestTokenIsTheCallersToKeep(t *testing.T) {
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

func TestConfig(t *testing.T) {
	good := func() resource.Config {
		return resource.Config{
			Issuer: "https://login.example.com", Introspection: &resource.Introspection{ClientID: "a", ClientSecret: "hunter2"},
		}
	}
	for _, issuer := range []string{"https://login.example.com", "http://login.localhost:9998", "http://[::1]:9998"} {
		cfg := good()
		cfg.Issuer = issuer
		_, err := resource.New(cfg)
		require.NoError(t, err, "nobody is asked yet")
	}
	for want, change := range map[string]func(*resource.Config){
		"Issuer is required": func(c *resource.Config) { c.Issuer = "" },
		"Issuer: \"http://login.example.com\" is not https": func(c *resource.Config) { c.Issuer = "http://login.example.com" },
		"Issuer: \"https://x/?y\" is not a URL":             func(c *resource.Config) { c.Issuer = "https://x/?y" },
		"Issuer: \"//x\" is not https":                      func(c *resource.Config) { c.Issuer = "//x" },
		"Audience is required":                              func(c *resource.Config) { c.Introspection = nil },
		"Introspection.ClientID is required":                func(c *resource.Config) { c.Introspection.ClientID = "" },
		"Introspection.ClientSecret is required":            func(c *resource.Config) { c.Introspection.ClientSecret = "" },
		"Introspection.AuthStyle: 7 is not":                 func(c *resource.Config) { c.Introspection.AuthStyle = 7 },
		"Algorithms: \"HS256\" is not":                      func(c *resource.Config) { c.Algorithms = []jose.SignatureAlgorithm{"RS256", "HS256"} },
		"Algorithms: \"none\" is not":                       func(c *resource.Config) { c.Algorithms = []jose.SignatureAlgorithm{"none"} },
		"CacheSize is negative":                             func(c *resource.Config) { c.CacheSize = -1 },
		"Timeout is negative":                               func(c *resource.Config) { c.Timeout = -1 },
	} {
		cfg := good()
		change(&cfg)
		_, err := resource.New(cfg)
		require.ErrorIs(t, err, resource.ErrConfig)
		require.ErrorContains(t, err, "curfew: resource.Config."+want)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// An endpoint that is reached less safely than the issuer is not used.
func TestEndpointsAreSafe(t *testing.T) {
	var discovery string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, discovery) }))
	t.Cleanup(server.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	for _, endpoint := range []string{"http://" + listener.Addr().String() + "/x", "ftp://x/", "/x"} {
		discovery = fmt.Sprintf(`{"issuer":%q,"jwks_uri":"https://x/keys","introspection_endpoint":%q}`, server.URL, endpoint)
		api, err := resource.New(resource.Config{
			Issuer: server.URL, HTTPClient: server.Client(),
			Introspection: &resource.Introspection{ClientID: "a", ClientSecret: "b"},
		})
		require.NoError(t, err)
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.Header.Set("Authorization", "Bearer token")
		_, err = api.Check(req)
		require.ErrorContains(t, err, "introspection_endpoint: it is not https")
	}
}

// The provider need not be ours: the example server of zitadel/oidc, without the
// hook, knows no sid and ends tokens by revocation.
func TestWithABareProvider(t *testing.T) {
	const redirect = "http://127.0.0.1:9999/cb"
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	issuer := server.URL + "/"
	clients := map[string]*storage.Client{"web": storage.WebClient("web", "secret", redirect)}
	handler = exampleop.SetupServer(issuer, storage.NewStorageWithClients(storage.NewUserStore(issuer), clients), nil, false)

	config := oauth2.Config{ClientID: "web", ClientSecret: "secret", RedirectURL: redirect, Scopes: []string{"openid", "profile"},
		Endpoint: oauth2.Endpoint{AuthURL: issuer + "auth", TokenURL: issuer + "oauth/token", AuthStyle: oauth2.AuthStyleInHeader}}
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	location := func(resp *http.Response, err error) *url.URL {
		t.Helper()
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		u, err := resp.Location()
		require.NoError(t, err)
		return u
	}
	login := location(browser.Get(config.AuthCodeURL("s")))
	callback := location(browser.PostForm(server.URL+"/login/username", url.Values{
		"id": {login.Query().Get("authRequestID")}, "username": {"test-user2"}, "password": {"verysecure"},
	}))
	code := location(browser.Get(callback.String())).Query().Get("code")
	token, err := config.Exchange(t.Context(), code)
	require.NoError(t, err)

	api, err := resource.New(resource.Config{
		Issuer: issuer, CacheFor: -1, Introspection: &resource.Introspection{ClientID: "web", ClientSecret: "secret"},
	})
	require.NoError(t, err)
	r := callAPI(t, api, bearer(token.AccessToken), resource.Scopes("profile"))
	require.Equal(t, http.StatusOK, r.status)
	require.Equal(t, "id2", r.body["sub"])
	require.Empty(t, r.body["sid"])
	require.Equal(t, badToken, callAPI(t, api, bearer(token.Extra("id_token").(string))).challenge)

	req, err := http.NewRequest(http.MethodPost, issuer+"revoke", strings.NewReader(url.Values{"token": {token.AccessToken}}.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("web", "secret")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, badToken, callAPI(t, api, bearer(token.AccessToken)).challenge)
}
