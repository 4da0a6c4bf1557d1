package resource_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware/resource"
)

// Only access tokens open an API, whatever else the provider hands out.
func TestOtherTokensOfTheProvider(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
