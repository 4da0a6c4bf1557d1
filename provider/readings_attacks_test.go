package provider_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// The hook decides about what op and the storage have read, not about what it would have
// read itself.

// parsing is a handler outside of the hook that has read the form already, as those that
// log requests or look for a token against forgery do.
func parsing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.FormValue("csrf")
		next.ServeHTTP(w, r)
	})
}

// unpacking is one inside of the hook that unpacks what was sent.
func unpacking(_ *op.Provider, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Encoding") == "gzip" {
			if body, err := gzip.NewReader(r.Body); err == nil {
				r.Body = body
			}
		}
		next.ServeHTTP(w, r)
	})
}

// replacing is one inside of the hook that takes parameters from somewhere else.
func replacing(_ *op.Provider, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") == "application/json" {
			form := url.Values{}
			if json.NewDecoder(r.Body).Decode(&form) == nil {
				r.Form, r.PostForm = form, form
			}
		}
		next.ServeHTTP(w, r)
	})
}

func zipped(t *testing.T, text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

// Rule 13: a token of an ended session is not exchanged beside one that op does not read,
// and one of a live session is.
func TestAFormThatSomebodyElseHasReadIsTheOneThatCounts(t *testing.T) {
	quiet(t)
	const urlencoded = "application/x-www-form-urlencoded"
	for name, way := range map[string]struct {
		change      func(*optest.Config)
		contentType string
		body        func(t *testing.T, form url.Values) []byte
		encoding    string
		taken       bool // that of a live session
	}{
		"parsed outside": {
			change: func(o *optest.Config) { o.Middleware = parsing }, contentType: urlencoded, taken: true,
			body: func(_ *testing.T, form url.Values) []byte { return []byte(form.Encode()) },
		},
		"unpacked inside": {
			change: func(o *optest.Config) { o.Inside = unpacking }, contentType: urlencoded, encoding: "gzip",
			body: func(t *testing.T, form url.Values) []byte { return zipped(t, form.Encode()) },
		},
		"from elsewhere": {
			change: func(o *optest.Config) { o.Inside = replacing }, contentType: "application/json",
			body: func(t *testing.T, form url.Values) []byte {
				text, err := json.Marshal(form)
				require.NoError(t, err)
				return text
			},
		},
	} {
		for wrapped, wrap := range map[string]func(*optest.Storage) op.Storage{
			"": func(s *optest.Storage) op.Storage { return profiled{s} }, ", vouched": func(s *optest.Storage) op.Storage { return vouching{profiled{s}} },
		} {
			t.Run(name+wrapped, func(t *testing.T) {
				s := start(t, limits(0, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
					way.change(o)
					o.Wrap = wrap
				})
				send := func(client, query string, form url.Values) optest.Reply {
					req, err := http.NewRequest(http.MethodPost, s.Issuer+"/oauth/token"+query, bytes.NewReader(way.body(t, form)))
					require.NoError(t, err)
					req.Header.Set("Content-Type", way.contentType)
					if way.encoding != "" {
						req.Header.Set("Content-Encoding", way.encoding)
					}
					req.SetBasicAuth(client, client+"-secret")
					return s.Do(s.HTTP, req)
				}
				exchange := func(name, token string, typ oidc.TokenType) url.Values {
					return url.Values{
						"grant_type": {string(oidc.GrantTypeTokenExchange)}, "scope": {"openid"}, "requested_token_type": {optest.AccessTokenType},
						name: {token}, "subject_token_type": {string(typ)},
					}
				}
				tokens := s.Login(optest.JWT, kindUser)
				opaque := s.Login(optest.Exchange, kindUser)
				if way.taken {
					ok(t, send(optest.Exchange, "", exchange("subject_token", opaque.AccessToken(), oidc.AccessTokenType)))
				}
				for client, r := range map[string]optest.Reply{optest.JWT: tokens, optest.Exchange: opaque} {
					require.NoError(t, s.hook.End(t.Context(), s.sid(t, client, r), policy.ReasonAccountDisabled, "root"))
				}
				before := len(s.live(t, kindUser))
				for _, text := range []string{decoy(), "nothing"} {
					for name, tried := range map[string]struct {
						token string
						typ   oidc.TokenType
					}{
						"ID token":            {tokens.IDToken(), oidc.IDTokenType},
						"access token":        {tokens.AccessToken(), oidc.AccessTokenType},
						"opaque access token": {opaque.AccessToken(), oidc.AccessTokenType},
					} {
						for range 6 { // op takes the one or the other, by chance
							r := send(optest.Exchange, "?subject_token="+text, exchange("Subject_Token", tried.token, tried.typ))
							require.NotEqual(t, http.StatusOK, r.Status, "%s beside %.10s: %s", name, text, r.Body)
							r = send(optest.Exchange, "", exchange("subject_token", tried.token, tried.typ))
							require.NotEqual(t, http.StatusOK, r.Status, "%s: %s", name, r.Body)
						}
					}
				}
				require.Len(t, s.live(t, kindUser), before)
			})
		}
	}
}

// A user can sign out where something outside of the hook reads forms.
func TestASignOutIsConfirmedThoughItsFormWasReadBefore(t *testing.T) {
	s := start(t, limits(0, 0, 0, 0), func(_ *provider.Config, o *optest.Config) { o.Middleware = parsing })
	b := s.signIn(t, optest.Web, "alice")
	form := confirmForm(t, b.send(t, http.MethodGet, url.Values{}), "yes")
	require.True(t, s.isLive(t, b.sid))
	r := b.send(t, http.MethodPost, form)
	require.Equal(t, http.StatusFound, r.Status, "%s", r.Body)
	require.False(t, s.isLive(t, b.sid))
}

// Rule 13: a hint that is there twice is none of another type.
func TestAHintThatIsThereTwiceIsRefused(t *testing.T) {
	quiet(t)
	w := newKindsWorld(t, optest.AsProvider, func(s *optest.Storage) op.Storage { return profiled{s} })
	b := w.signIn(t, optest.Web, kindUser)
	_, claims := readJWT(t, b.tokens.IDToken())
	other := w.sign("transfer+jwt", claims)
	r := w.Browser().EndSession(url.Values{"id_token_hint": {other}})
	require.Equal(t, http.StatusBadRequest, r.Status, "%s", r.Body)
	r = w.Browser().EndSession(url.Values{"id_token_hint": {other, other}})
	require.Equal(t, http.StatusBadRequest, r.Status, "%s", r.Body)
	require.True(t, w.isLive(t, b.sid))
}

// folding is a storage whose database compares without case, as MySQL and SQL Server do
// unless they are told otherwise. It knows clients and device codes by any spelling.
type folding struct{ *optest.Storage }

func (f folding) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	return f.Storage.GetClientByClientID(ctx, strings.ToLower(id))
}

func (f folding) AuthorizeClientIDSecret(ctx context.Context, id, secret string) error {
	return f.Storage.AuthorizeClientIDSecret(ctx, strings.ToLower(id), secret)
}

func (f folding) StoreDeviceAuthorization(ctx context.Context, clientID, deviceCode, userCode string, expires time.Time, scopes []string) error {
	return f.Storage.StoreDeviceAuthorization(ctx, strings.ToLower(clientID), strings.ToLower(deviceCode), userCode, expires, scopes)
}

func (f folding) GetDeviceAuthorizatonState(ctx context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	state, err := f.Storage.GetDeviceAuthorizatonState(ctx, strings.ToLower(clientID), strings.ToLower(strings.Trim(deviceCode, " \u200b")))
	if err == nil {
		state.ClientID = clientID // as it was stored
	}
	return state, err
}

// One approval is one session, by whatever spelling of its device code the storage knows it.
func TestADeviceCodeIsOneSessionInAnySpelling(t *testing.T) {
	s := start(t, limits(0, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(s *optest.Storage) op.Storage { return folding{s} }
	})
	started := s.DeviceStart(optest.Native)
	s.DeviceApprove(started, "alice")
	code := started.String("device_code")
	first := ok(t, s.DevicePoll(optest.Native, started))
	spellings := []string{strings.ToUpper(code), strings.ToLower(code), code + " ", " " + code, code[:3] + "\u200b" + code[3:]}
	for _, spelling := range spellings {
		r := s.DevicePoll(optest.Native, optest.Reply{JSON: map[string]any{"device_code": spelling}})
		require.NotEqual(t, http.StatusOK, r.Status, "%q", spelling)
	}
	require.Len(t, s.live(t, "alice"), 1)
	require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Native, first), policy.ReasonEndedByAdmin, "root"))
	for _, spelling := range append(spellings, code) {
		r := s.DevicePoll(optest.Native, optest.Reply{JSON: map[string]any{"device_code": spelling}})
		require.NotEqual(t, http.StatusOK, r.Status, "%q", spelling)
	}
	require.Empty(t, s.live(t, "alice"))
}

// The limits of a client are those of the client that the storage knows, however the
// request writes its ID.
func TestTheLimitsOfAClientHoldForAnySpellingOfItsID(t *testing.T) {
	quiet(t)
	synctest.Test(t, func(t *testing.T) {
		own := limits(8*time.Hour, 0, 0, 0)
		own.Clients = map[string]policy.Limits{
			optest.Implicit: {Active: policy.LimitTo(2 * time.Minute)}, optest.Native: {Active: policy.LimitTo(2 * time.Minute)},
		}
		s := start(t, own, func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			o.Wrap = func(s *optest.Storage) op.Storage { return folding{s} }
		})
		for _, client := range []string{optest.Implicit, strings.ToUpper(optest.Implicit)} {
			b := s.Browser()
			ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil))) // whose session it joins
			v := b.Login(client, "alice", url.Values{"response_type": {"id_token token"}})
			require.Empty(t, v.Error(), v.Description())
			require.NotEmpty(t, v.Params.Get("access_token"))
			require.Equal(t, http.StatusOK, s.Userinfo(v.Params.Get("access_token")).Status)
			time.Sleep(3 * time.Minute)
			require.NotEqual(t, http.StatusOK, s.Userinfo(v.Params.Get("access_token")).Status, client)
			_, claims := readJWT(t, v.Params.Get("id_token"))
			require.LessOrEqual(t, claims["exp"].(float64)-claims["iat"].(float64), 120.0, client)
		}
		for _, client := range []string{optest.Native, strings.ToUpper(optest.Native)} {
			started := s.Post("/device_authorization", "", url.Values{"scope": {"openid offline_access"}, "client_id": {client}})
			require.Equal(t, http.StatusOK, started.Status, started.Body)
			s.DeviceApprove(started, "alice")
			r := ok(t, s.Token("", url.Values{
				"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {started.String("device_code")}, "client_id": {client},
			}))
			time.Sleep(3 * time.Minute)
			require.NotEqual(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status, client)
		}
		require.Empty(t, slicesOfClients(s.sessions(t, "alice"), strings.ToUpper(optest.Native), strings.ToUpper(optest.Implicit)))
	})
}

// sessions returns all sessions of a user.
func (s *setup) sessions(t testing.TB, user string) []store.Session {
	t.Helper()
	page, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject(user), State: store.Any}, "", 100)
	require.NoError(t, err)
	return page
}

// slicesOfClients returns the grants of sessions that are of one of the clients.
func slicesOfClients(sessions []store.Session, clients ...string) (list []store.Grant) {
	for _, s := range sessions {
		for _, g := range s.Grants {
			for _, client := range clients {
				if g.Client == client {
					list = append(list, g)
				}
			}
		}
	}
	return list
}

// An answer to a page at a cap is the GET that it stands for, at every endpoint: nothing
// that it posts counts there.
func TestAnAnswerPostsNothingToOtherEndpoints(t *testing.T) {
	s := start(t, limits(0, 0, 0, 0), nil)
	b := s.signIn(t, optest.Web, "alice")
	form := confirmForm(t, b.send(t, http.MethodGet, url.Values{}), "yes")
	maps.Copy(form, url.Values{"id_token_hint": {b.tokens.IDToken()}})
	v := b.Post(s.Issuer+"/end_session?curfew_answer=1", "application/x-www-form-urlencoded", form.Encode())
	require.True(t, s.isLive(t, b.sid), "%d %s", v.Status, v.Body)
	before := b.tokens.RefreshToken()
	req, err := http.NewRequest(http.MethodPost, s.Issuer+"/oauth/token?curfew_answer=1", strings.NewReader(url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {before},
	}.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(optest.Web, optest.Web+"-secret")
	require.NotEqual(t, http.StatusOK, s.Do(s.HTTP, req).Status)
	ok(t, s.Refresh(optest.Web, before))
}

// The callback is that of one login, however many it names and in whatever place.
func TestACallbackThatNamesSeveralLoginsIsOfOne(t *testing.T) {
	s := start(t, limits(0, 0, 1, policy.Refuse), nil)
	alice, bob := s.Browser(), s.Browser()
	own := s.finished(t, alice, s.Storage, optest.Web, "alice", nil)
	other := s.finished(t, bob, s.Storage, optest.Web, "bob", nil)
	idOf := func(address string) string {
		u, err := url.Parse(address)
		require.NoError(t, err)
		return u.Query().Get("id")
	}
	v := alice.Post(own+"&id="+idOf(other), "application/x-www-form-urlencoded", url.Values{"id": {idOf(other)}}.Encode())
	if v.Code() != "" { // it is bob's: the first that is posted counts
		r := ok(t, s.Code(optest.Web, v))
		sub := s.Claim(optest.Web, r, "sub")
		require.Equal(t, optest.SubjectOf("bob"), sub)
	}
	session, err := s.of(t, alice)
	if err == nil {
		require.NotEqual(t, s.subject("bob"), session.Subject, "alice's browser has bob's session")
	}
	for _, user := range []string{"alice", "bob"} {
		require.LessOrEqual(t, len(s.live(t, user)), 1)
	}
}

// signedRequests is a storage that answers each request from the browser's sign-on, and has
// the key with which an application signs request objects.
type signedRequests struct {
	op.Storage
	key jose.JSONWebKey
}

func (s signedRequests) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	public := s.key.Public()
	return &public, nil
}

// What a request object says of the user's authentication counts, and not what is beside it.
func TestARequestObjectSaysWhatWasAsked(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	key := jose.JSONWebKey{Key: private, KeyID: "app", Algorithm: "ES256"}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	require.NoError(t, err)
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(0, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
				o.Embedding, o.Storage = embedding, optest.NewStorage()
				o.Storage.SSO = true
				o.Wrap = func(s *optest.Storage) op.Storage { return signedRequests{optest.Complaisant(s), key} }
			})
			b := s.Browser()
			own := s.loginIn(t, b, optest.Web, "alice", nil)
			other := s.loginIn(t, s.Browser(), optest.Web, "bob", nil)
			for _, test := range []struct {
				inside  map[string]any
				outside url.Values
				err     string
			}{
				{map[string]any{}, nil, ""},
				{map[string]any{"prompt": "login"}, url.Values{"prompt": {"consent"}}, "login_required"},
				{map[string]any{"prompt": "consent"}, url.Values{"prompt": {"login"}}, ""},
				{map[string]any{"max_age": 0}, url.Values{"max_age": {"86400"}}, "login_required"},
				{map[string]any{"max_age": 86400}, url.Values{"max_age": {"0"}}, ""},
				{map[string]any{"id_token_hint": other.IDToken()}, url.Values{"id_token_hint": {own.IDToken()}}, "login_required"},
			} {
				test.inside["iss"], test.inside["client_id"], test.inside["aud"] = optest.Web, optest.Web, s.Issuer
				payload, err := json.Marshal(test.inside)
				require.NoError(t, err)
				signed, err := signer.Sign(payload)
				require.NoError(t, err)
				object, err := signed.CompactSerialize()
				require.NoError(t, err)
				extra := url.Values{"request": {object}}
				maps.Copy(extra, test.outside)
				v := b.Authorize(optest.Web, extra)
				require.Equal(t, test.err, v.Error(), "%v beside %v: %d %s", test.inside, test.outside, v.Status, v.Description())
				require.Equal(t, test.err == "", v.Code() != "")
			}
		})
	}
}

// Nor is it at the doors of access tokens, with a storage that looks no IDs up.
func TestAnAccessTokenFromElsewhereIsTheOneThatCounts(t *testing.T) {
	quiet(t)
	s := start(t, limits(0, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Inside, o.Wrap = replacing, func(s *optest.Storage) op.Storage { return stateless{profiled{s}} }
	})
	w := &kindsWorld{notified: &notified{setup: s}, t: t}
	logout := w.sign("logout+jwt", map[string]any{
		"iss": s.Issuer, "sub": optest.SubjectOf(kindUser), "aud": optest.Web, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
		"jti": "1", "events": map[string]any{backchannelEvent: map[string]any{}},
	})
	for path, name := range map[string]string{"/oauth/introspect": "token", "/userinfo": "access_token"} {
		body, err := json.Marshal(url.Values{name: {logout}})
		require.NoError(t, err)
		req, err := http.NewRequest(http.MethodPost, s.Issuer+path+"?"+name+"=nothing", bytes.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.SetBasicAuth(optest.Exchange, optest.Exchange+"-secret")
		r := s.Do(s.HTTP, req)
		require.False(t, r.Status == http.StatusOK && r.JSON["active"] != false, "%s: %d %s", path, r.Status, r.Body)
	}
}

// The page at a cap is answered where something outside of the hook reads forms.
func TestAPageAtTheCapIsAnsweredThoughItsFormWasReadBefore(t *testing.T) {
	s := start(t, limits(0, 0, 1, policy.Ask), func(_ *provider.Config, o *optest.Config) { o.Middleware = parsing })
	s.Login(optest.Web, "alice")
	b := s.Browser()
	r := s.endFirst(t, b, mustBeAsked(t, b.Login(optest.Web, "alice", nil)))
	require.Equal(t, http.StatusOK, r.Status, "%s", r.Body)
	require.Contains(t, r.Header.Get("Refresh"), "code=")
}

// ownSID is a storage with a "sid" of its own in what it tells about tokens.
type ownSID struct{ profiled }

func (s ownSID) SetIntrospectionFromToken(ctx context.Context, resp *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	err := s.profiled.SetIntrospectionFromToken(ctx, resp, tokenID, subject, clientID)
	resp.Claims = map[string]any{"sid": "own", "zone": 1}
	return err
}

// Rule 4: a token has one sid, and a JSON object each member once (RFC 8259 section 4).
func TestAnIntrospectionNamesOneSession(t *testing.T) {
	s := start(t, limits(0, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(s *optest.Storage) op.Storage { return ownSID{profiled{s}} }
	})
	tokens := s.Login(optest.Exchange, "alice")
	r := s.Introspect(optest.Exchange, tokens.AccessToken())
	require.Equal(t, true, r.JSON["active"], r.Body)
	require.Equal(t, 1, strings.Count(r.Body, `"sid"`), r.Body)
	require.Equal(t, s.sid(t, optest.Exchange, tokens), r.String("sid"))
	require.EqualValues(t, 1, r.JSON["zone"])
}

// Rule 14: an end wins over any number of requests that race it, by every grant.
func TestEndAllWinsOverEveryGrant(t *testing.T) {
	quiet(t)
	s := start(t, limits(0, 0, 0, 0), nil)
	for range 8 {
		refreshed := s.Login(optest.Web, kindUser)
		exchanged := s.Login(optest.Exchange, kindUser)
		v := s.Browser().Login(optest.Web2, kindUser, nil)
		device := s.DeviceStart(optest.Native)
		s.DeviceApprove(device, kindUser)
		got := make([]string, 24)
		parallel(len(got)+1, func(i int) {
			var r optest.Reply
			switch i % 6 {
			case 0:
				r = s.Refresh(optest.Web, refreshed.RefreshToken())
			case 1:
				r = s.Code(optest.Web2, v)
			case 2:
				r = s.DevicePoll(optest.Native, device)
			case 3:
				r = s.TokenExchange(optest.Exchange, exchanged.AccessToken(), optest.AccessTokenType, nil)
			case 4:
				r = s.TokenExchange(optest.Exchange, exchanged.IDToken(), optest.IDTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}})
			default:
				r = s.TokenExchange(optest.Exchange, exchanged.RefreshToken(), optest.RefreshTokenType, nil)
			}
			if i == len(got) {
				_, err := s.hook.EndAll(t.Context(), s.subject(kindUser), policy.ReasonCredentialChange, "root")
				require.NoError(t, err)
				return
			}
			got[i] = r.AccessToken()
		})
		require.Empty(t, s.live(t, kindUser))
		for i, token := range got {
			if token != "" {
				require.NotEqual(t, http.StatusOK, s.Userinfo(token).Status, "grant %d", i%6)
			}
		}
		require.NotEqual(t, http.StatusOK, s.Refresh(optest.Web, refreshed.RefreshToken()).Status)
		require.NotEqual(t, http.StatusOK, s.Code(optest.Web2, v).Status)
		require.NotEqual(t, http.StatusOK, s.DevicePoll(optest.Native, device).Status)
	}
}

// Rule 7: a repeat in the grace that asks for other scopes, another audience or resource
// changes nothing of the newest token.
func TestARepeatThatAsksForSomethingElseChangesNothing(t *testing.T) {
	s := start(t, limits(0, 0, 0, 0), nil)
	first := s.Login(optest.Web, "alice")
	second := ok(t, s.Refresh(optest.Web, first.RefreshToken()))
	for _, more := range []url.Values{
		{"scope": {"openid"}}, {"scope": {"openid nothing"}}, {"audience": {"other"}}, {"resource": {"https://other.example"}},
	} {
		r := s.Refresh(optest.Web, first.RefreshToken(), more)
		if more.Has("scope") {
			require.Equal(t, "invalid_scope", r.Error(), "%v %s", more, r.Body)
			continue
		}
		require.Equal(t, second.RefreshToken(), ok(t, r).RefreshToken())
	}
	third := ok(t, s.Refresh(optest.Web, second.RefreshToken()))
	require.Equal(t, second.String("scope"), third.String("scope"))
	require.NotEqual(t, second.RefreshToken(), third.RefreshToken())
	require.Len(t, s.live(t, "alice"), 1)
}

// Hook.AccessToken takes what op takes, and no code: that is the ID of an auth request,
// encrypted in the same way.
func TestHookReadsAnOpaqueTokenAsOpDoes(t *testing.T) {
	s := start(t, limits(0, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(s *optest.Storage) op.Storage { return stateless{profiled{s}} }
	})
	for text, want := range map[string]bool{"id:" + optest.SubjectOf("alice"): true, "auth:request:1": false, "request": false, ":": false, "a::": false} {
		token, err := s.Provider.Crypto().Encrypt(text)
		require.NoError(t, err)
		require.Equal(t, want, s.Userinfo(token).Status == http.StatusOK, "op, %q", text)
		_, err = s.hook.AccessToken(op.ContextWithIssuer(t.Context(), s.Issuer), s.Provider, token)
		require.Equal(t, want, err == nil, "the hook, %q: %v", text, err)
		if !want {
			require.ErrorIs(t, err, provider.ErrInvalidToken)
		}
	}
}
