package middleware_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
)

// A signer stands in for the provider's key: the application gets its public half
// from the provider's key set, beside the provider's own.
type signer struct {
	w   *world
	key *ecdsa.PrivateKey
	kid string
	n   int
}

func newSigner(t *testing.T, w *world) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	s := &signer{w: w, key: key, kid: "mine"}
	w.answers(func(r *http.Request) *http.Response {
		var own struct {
			Keys []json.RawMessage `json:"keys"`
		}
		switch {
		case r.URL.Path == "/keys":
			if !fetch(t, w, r, &own) {
				return response(http.StatusBadGateway, "")
			}
			mine, err := jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid, Use: "sig", Algorithm: "ES256"}.MarshalJSON()
			if err != nil {
				return response(http.StatusInternalServerError, "")
			}
			own.Keys = append(own.Keys, mine)
			body, _ := json.Marshal(own) // it was JSON before
			return response(http.StatusOK, string(body))
		case strings.HasSuffix(r.URL.Path, "openid-configuration"):
			var doc map[string]any
			if !fetch(t, w, r, &doc) {
				return response(http.StatusBadGateway, "")
			}
			doc["id_token_signing_alg_values_supported"] = []string{"RS256", "ES256", "HS256", "none"}
			body, _ := json.Marshal(doc)
			return response(http.StatusOK, string(body))
		}
		return nil
	})
	return s
}

func fetch(t *testing.T, w *world, r *http.Request, v any) bool {
	t.Helper()
	resp, err := w.transport().RoundTrip(r.Clone(r.Context()))
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v) == nil
}

// claims are those of a good logout token.
func (s *signer) claims(sid string) map[string]any {
	s.n++
	return map[string]any{
		"iss": s.w.cfg.Issuer, "aud": s.w.cfg.ClientID, "iat": time.Now().Unix(), "exp": time.Now().Add(2 * time.Minute).Unix(),
		"jti": fmt.Sprint("jti-", s.n), "sub": optest.SubjectOf("alice"), "sid": sid,
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
}

func (s *signer) sign(t *testing.T, typ string, claims map[string]any) string {
	t.Helper()
	options := &jose.SignerOptions{}
	if s.kid != "" {
		options = options.WithHeader("kid", s.kid)
	}
	if typ != "" {
		options = options.WithType(jose.ContentType(typ))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, options)
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	require.NoError(t, err)
	return token
}

// changed answers a token request as the provider does, with another ID token: with
// changed claims, and none if none is left.
func (s *signer) changed(t *testing.T, r *http.Request, change func(claims, tokens map[string]any)) *http.Response {
	t.Helper()
	var tokens map[string]any
	if !fetch(t, s.w, r, &tokens) {
		return response(http.StatusBadGateway, "")
	}
	token, err := jwt.ParseSigned(tokens["id_token"].(string), []jose.SignatureAlgorithm{jose.RS256})
	require.NoError(t, err)
	claims := map[string]any{}
	require.NoError(t, token.UnsafeClaimsWithoutVerification(&claims))
	delete(claims, "at_hash")
	change(claims, tokens)
	if delete(tokens, "id_token"); len(claims) > 0 {
		tokens["id_token"] = s.sign(t, "JWT", claims)
	}
	body, err := json.Marshal(tokens)
	require.NoError(t, err)
	return response(http.StatusOK, string(body))
}

// tell posts a logout token as a provider does.
func (w *world) tell(token string) page {
	w.t.Helper()
	req := request(w.t, http.MethodPost, "/auth/backchannel", strings.NewReader(url.Values{"logout_token": {token}}.Encode()), nil)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return w.browser().once(req)
}

// sid returns the sid of the browser's session.
func (w *world) lastSID() string {
	events := w.seen(middleware.EventSignedIn)
	require.NotEmpty(w.t, events)
	return events[len(events)-1].SID
}

func TestBackChannelLogout(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		s := newSigner(t, w)
		a, b, c := w.browser(), w.browser(), w.browser()
		a.login("/page")
		first := w.lastSID()
		b.login("/page")
		c.signIn(c.visit("/page"), "bob")
		require.NotEqual(t, first, w.lastSID())

		time.Sleep(time.Second)
		token := s.sign(t, "logout+jwt", s.claims(first))
		p := w.tell(token)
		require.Equal(t, http.StatusOK, p.status, p.body)
		require.Equal(t, "no-store", p.header.Get("Cache-Control"))
		p = a.visit("/page?draft=1")
		require.Equal(t, opHost, p.url.Host, "signed out")
		b.goesOn("/page")
		c.goesOn("/page")
		time.Sleep(time.Second) // what was issued in the second of the logout is over too
		require.Contains(t, a.signIn(p, "alice").body, "notice: You were signed out, here or in another application.\n")

		// The same token again does nothing.
		require.Equal(t, http.StatusBadRequest, w.tell(token).status)
		a.goesOn("/page")

		// For whom there is no session it is a success (section 2.7).
		require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", s.claims("unknown"))).status)

		// Without sid: all sessions of the user, and of nobody else.
		time.Sleep(time.Second)
		all := s.claims("")
		delete(all, "sid")
		require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", all)).status)
		require.Equal(t, opHost, a.visit("/page").url.Host)
		require.Equal(t, opHost, b.visit("/page").url.Host)
		c.goesOn("/page")

		// Who signs in afterwards stays.
		time.Sleep(2 * time.Second)
		a.login("/page")
		a.goesOn("/page")
	})
}

// The user is told why, whoever tells the application first: here the logout token
// comes while a refresh is on its way, whose answer says it too.
func TestBackChannelSaysWhy(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		claim any
		want  string
	}{
		"a limit": {"inactivity: the login session ended after 2 hours without activity; sign in again",
			"You were signed out after 2 hours without activity."},
		"a person":                  {"ended_by_admin: the login session is over: an administrator ended it; sign in again", "An administrator ended your sign-in."},
		"words of another provider": {"<b>call us</b>", "You were signed out, here or in another application."},
		"something else":            {map[string]any{"code": 7}, "You were signed out, here or in another application."},
		"a number that is none":     {json.RawMessage("1e999"), "You were signed out, here or in another application."},
		"nothing":                   {nil, "You were signed out, here or in another application."},
		"a reason that is not told": {"not_signed_in: x", "You were signed out, here or in another application."},
		"no duration": {"inactivity: the login session ended after 1 " + strings.Repeat("x", 40000) + " without activity; sign in again",
			"You were signed out because of inactivity."},
		"an advertisement": {"active_limit: the login session reached its limit of 1 call 555 dollars; sign in again",
			"You were signed out because a sign-in lasts only so long."},
		"two units": {"active_limit: the login session reached its limit of 1 day 2 hours; sign in again",
			"You were signed out because a sign-in lasts at most 1 day 2 hours."},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := newSigner(t, w)
				b := w.browser()
				b.login("/page")
				sid := w.lastSID()
				keys := *w.answer.Load()
				w.answers(func(r *http.Request) *http.Response {
					if r.URL.Path != "/oauth/token" {
						return keys(r)
					}
					claims := s.claims(sid)
					claims["session_end_reason"] = test.claim
					require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", claims)).status)
					return response(http.StatusBadRequest, `{"error": "invalid_grant"}`)
				})
				time.Sleep(time.Hour)
				p := b.visit("/page")
				require.Equal(t, opHost, p.url.Host)
				w.answers(nil)
				time.Sleep(2 * time.Second) // what was issued in the second of the logout is over too
				require.Contains(t, b.signIn(p, "alice").body, "notice: "+test.want+"\n")
			})
		})
	}
}

// With sid alone, of another subject, of another process, during the sign-in.
func TestBackChannelWithOneClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := newSigner(t, w)
		b := w.browser()
		b.login("/page")
		time.Sleep(time.Second)
		other := s.claims(w.lastSID())
		other["sub"] = optest.SubjectOf("bob")
		require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", other)).status)
		b.goesOn("/page") // sid and sub must both be those of the session
		only := s.claims(w.lastSID())
		delete(only, "sub")
		require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", only)).status)
		require.Equal(t, opHost, b.visit("/page").url.Host)
	})
}

func TestBackChannelDuringSignIn(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		s := newSigner(t, w)
		keys := *w.answer.Load()
		b := w.browser()
		callback := b.answerOf("/page", "alice")
		network := w.client.Transport.(*faulty)
		inner := network.next
		network.next = roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := inner.RoundTrip(r)
			if r.URL.Path == "/oauth/token" && err == nil {
				all := s.claims("")
				delete(all, "sid")
				require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", all)).status)
			}
			return resp, err
		})
		w.answers(keys)
		refusedSignIn(t, w, b.visit(callback))
		network.next = inner
		require.Equal(t, http.StatusUnauthorized, b.script(http.MethodGet, "/api").status)
	})
}

func TestBadLogoutTokens(t *testing.T) {
	t.Parallel()
	const event = "http://schemas.openid.net/event/backchannel-logout"
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := newSigner(t, w)
		b := w.browser()
		b.login("/page")
		good := func() map[string]any { return s.claims(w.lastSID()) }
		changed := func(name string, value any) map[string]any {
			c := good()
			if c[name] = value; value == nil {
				delete(c, name)
			}
			return c
		}
		for name, claims := range map[string]map[string]any{
			"iss of another": changed("iss", "https://evil.example"), "no iss": changed("iss", nil),
			"aud of another": changed("aud", "web2"), "no aud": changed("aud", nil), "aud without us": changed("aud", []string{"a", "b"}),
			"expired": changed("exp", time.Now().Add(-time.Second).Unix()), "expires now": changed("exp", time.Now().Unix()),
			"no exp": changed("exp", nil), "far exp": changed("exp", time.Now().Add(2*time.Hour).Unix()),
			"no iat": changed("iat", nil), "iat ahead": changed("iat", time.Now().Add(5*time.Minute).Unix()), "iat text": changed("iat", "now"),
			"no jti": changed("jti", nil), "empty jti": changed("jti", ""),
			"nonce": changed("nonce", "n"), "nonce null": changed("nonce", json.RawMessage("null")), "empty nonce": changed("nonce", ""),
			"no events": changed("events", nil), "other event": changed("events", map[string]any{"https://evil.example": map[string]any{}}),
			"event is null": changed("events", map[string]any{event: nil}), "event is text": changed("events", map[string]any{event: "x"}),
			"event is list": changed("events", map[string]any{event: []string{}}), "events are text": changed("events", event),
			"neither sub nor sid": func() map[string]any { c := good(); delete(c, "sub"); delete(c, "sid"); return c }(),
			"sub is a number":     changed("sub", 7),
		} {
			p := w.tell(s.sign(t, "logout+jwt", claims))
			if name == "nonce null" { // present, though nothing
				require.Contains(t, []int{http.StatusBadRequest}, p.status, name)
			}
			require.Equal(t, http.StatusBadRequest, p.status, name)
			require.Equal(t, "application/json", p.header.Get("Content-Type"), name)
			require.Equal(t, "no-store", p.header.Get("Cache-Control"), name)
			require.Contains(t, p.body, `"error":"invalid_request"`, name)
		}
		for _, typ := range []string{"", "JWT", "at+jwt", "logout", "secevent+jwt"} {
			require.Equal(t, http.StatusBadRequest, w.tell(s.sign(t, typ, good())).status, "typ %q", typ)
		}
		token := s.sign(t, "logout+jwt", good())
		parts := strings.Split(token, ".")
		none := "eyJhbGciOiJub25lIiwidHlwIjoibG9nb3V0K2p3dCJ9" // {"alg":"none","typ":"logout+jwt"}
		for name, bad := range map[string]string{
			"empty": "", "text": "x", "alg none": none + "." + parts[1] + ".", "no signature": parts[0] + "." + parts[1] + ".",
			"signature of another": parts[0] + "." + parts[1] + "." + strings.Split(s.sign(t, "logout+jwt", good()), ".")[2],
			"payload of another":   parts[0] + "." + strings.Split(s.sign(t, "logout+jwt", good()), ".")[1] + "." + parts[2],
			"HS256 with the key": func() string {
				public, err := jose.JSONWebKey{Key: s.key.Public()}.MarshalJSON()
				require.NoError(t, err)
				signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: public}, (&jose.SignerOptions{}).WithType("logout+jwt").WithHeader("kid", "mine"))
				require.NoError(t, err)
				token, err := jwt.Signed(signer).Claims(good()).Serialize()
				require.NoError(t, err)
				return token
			}(),
			"another key": (&signer{w: w, kid: "mine", key: func() *ecdsa.PrivateKey {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				require.NoError(t, err)
				return key
			}(), n: 1000}).sign(t, "logout+jwt", good()),
			"huge": strings.Repeat("a", 100<<10),
		} {
			require.Equal(t, http.StatusBadRequest, w.tell(bad).status, name)
		}
		// Not as a GET, not as JSON, not twice.
		require.Equal(t, http.StatusMethodNotAllowed, b.visit("/auth/backchannel?logout_token="+token).status)
		for contentType, body := range map[string]string{
			"application/json":                  `{"logout_token":"` + token + `"}`,
			"application/x-www-form-urlencoded": "logout_token=" + token + "&logout_token=" + token,
			"text/plain":                        "logout_token=" + token,
		} {
			req := request(t, http.MethodPost, "/auth/backchannel?logout_token="+token, strings.NewReader(body), http.Header{"Content-Type": {contentType}})
			require.Equal(t, http.StatusBadRequest, w.browser().once(req).status, contentType)
		}
		b.goesOn("/page")
		require.Equal(t, http.StatusOK, w.tell(token).status, "the good one is good")
		time.Sleep(time.Second) // the server lingers after a request that was too large
	})
}

func TestUntypedLogoutTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, with(func(c *middleware.Config) {
			c.InsecureAllowUntypedLogoutTokens, c.Algorithms = true, []jose.SignatureAlgorithm{jose.ES256}
		}))
		s := newSigner(t, w)
		for typ, want := range map[string]int{"": 200, "JWT": 200, "logout+jwt": 200, "application/logout+jwt": 200, "at+jwt": 400} {
			require.Equal(t, want, w.tell(s.sign(t, typ, s.claims("x"))).status, typ)
		}
	})
}

// The Foundation's test of relying parties: a token by a key of the provider, with an
// algorithm that it announces, but not the one that the client is registered for.
func TestPinnedAlgorithms(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pinned []jose.SignatureAlgorithm
		signIn bool // the provider's own ID tokens are RS256
		logout int  // the signer's logout tokens are ES256
	}{
		"what is announced":  {nil, true, http.StatusOK},
		"both":               {[]jose.SignatureAlgorithm{jose.RS256, jose.ES256}, true, http.StatusOK},
		"that of ID tokens":  {[]jose.SignatureAlgorithm{jose.RS256}, true, http.StatusBadRequest},
		"that of the logout": {[]jose.SignatureAlgorithm{jose.ES256}, false, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, with(func(c *middleware.Config) { c.Algorithms = test.pinned }))
				s := newSigner(t, w)
				b := w.browser()
				p := b.signIn(b.visit("/page"), "alice")
				if test.signIn {
					require.Contains(t, p.body, "page of")
				} else {
					refusedSignIn(t, w, p)
				}
				require.Equal(t, test.logout, w.tell(s.sign(t, "logout+jwt", s.claims("x"))).status)
			})
		})
	}
}

// However many tokens somebody forges, the provider is asked for its keys a few times:
// also at once, and where only the signature is wrong. Good ones are taken meanwhile, and
// a key that is new is found soon.
func TestForgedTokensMakeFewKeyRequests(t *testing.T) {
	t.Parallel()
	for name, kid := range map[string]string{"an unknown key": "unknown", "a signature that is wrong": "mine", "no name of a key": ""} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := newSigner(t, w)
				published := *w.answer.Load()
				var asked atomic.Int64
				w.answers(func(r *http.Request) *http.Response {
					if r.URL.Path == "/keys" {
						asked.Add(1)
					}
					return published(r)
				})
				require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", s.claims("x"))).status)
				require.EqualValues(t, 1, asked.Load())
				forger := &signer{w: w, n: 1000}
				forge := func() string {
					key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
					require.NoError(t, err)
					forger.key, forger.kid = key, kid
					return forger.sign(t, "logout+jwt", forger.claims("x"))
				}
				for range 20 {
					var wg sync.WaitGroup
					for range 10 {
						token := forge()
						wg.Go(func() {
							if status := w.tell(token).status; status != http.StatusBadRequest && status != http.StatusServiceUnavailable {
								t.Errorf("a forged token gets %d", status)
							}
						})
					}
					wg.Wait()
					require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", s.claims("x"))).status, "a good one is taken meanwhile")
				}
				require.LessOrEqual(t, asked.Load(), int64(7), "of 200")
				require.Equal(t, http.StatusServiceUnavailable, w.tell(forge()).status, "it may be good, for all that is known")

				// The provider has a new key: it is found, flood or no flood.
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				require.NoError(t, err)
				s.key, s.kid = key, "newer"
				time.Sleep(10 * time.Second)
				require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", s.claims("x"))).status)
			})
		})
	}
}

// What cannot be done is not forgotten: the provider is asked to come again.
func TestBackChannelWhileKeysAreMissing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := newSigner(t, w)
		good := *w.answer.Load()
		w.answers(func(*http.Request) *http.Response { return response(0, "") })
		token := s.sign(t, "logout+jwt", s.claims("x"))
		p := w.tell(token)
		require.Equal(t, http.StatusServiceUnavailable, p.status)
		require.NotEmpty(t, p.header.Get("Retry-After"))
		w.answers(good)
		time.Sleep(2 * time.Second)
		require.Equal(t, http.StatusOK, w.tell(token).status)
	})
}

// A logout that could not be done is one that the provider must send again.
func TestBackChannelWhileTheStoreIsDown(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"Marked", "Mark", "Get", "Replace"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &brokenStore{}
				w := newWorld(t, breakable(store))
				s := newSigner(t, w)
				b := w.browser()
				b.login("/page")
				token := s.sign(t, "logout+jwt", s.claims(w.lastSID()))
				store.failing(func(m string) bool { return m == method })
				require.Equal(t, http.StatusServiceUnavailable, w.tell(token).status)
				store.failing(func(string) bool { return false })
				require.Equal(t, http.StatusOK, w.tell(token).status, "the same token: it has done nothing yet")
				require.Equal(t, opHost, b.visit("/page").url.Host)
			})
		})
	}
}
