package provider_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// mistake requires one EventMisconfigured, and returns what it says.
func (s *setup) mistake(t testing.TB) string {
	t.Helper()
	events := s.seen(provider.EventMisconfigured)
	require.Len(t, events, 1)
	require.ErrorIs(t, events[0].Err, provider.ErrMisconfigured)
	return events[0].Err.Error()
}

// at mounts a handler at a path, inside of the hook.
func at(path string, f func(p *op.Provider) http.HandlerFunc) func(*op.Provider, http.Handler) http.Handler {
	return func(p *op.Provider, next http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.HandleFunc(path, f(p))
		mux.Handle("/", next)
		return mux
	}
}

// started returns the sessions of a user that are more than a reservation.
func (s *setup) started(t testing.TB, user string) []store.Session {
	t.Helper()
	var list []store.Session
	for _, one := range s.live(t, user) {
		if one.ReservedUntil.IsZero() {
			list = append(list, one)
		}
	}
	return list
}

// op.AuthorizeCallback that is mounted by itself has no issuer: the login would be
// another subject's than its tokens.
func TestACallbackWithoutTheIssuerIsToldOf(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
		o.Inside = at("/authorize/callback", func(p *op.Provider) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { op.AuthorizeCallback(w, r, p) }
		})
	})
	for range 2 {
		v := s.Browser().Login(optest.Web, "alice", nil)
		require.Equal(t, "server_error", v.Error(), v.URL)
	}
	require.Contains(t, s.mistake(t), "no issuer")
	page, _, err := s.hook.List(t.Context(), store.Filter{}, "", 10)
	require.NoError(t, err)
	require.Empty(t, page, "no slot is taken by a login that nobody can finish")
}

// Every door says that the issuer is missing, and none takes it for the client's or
// the user's fault.
func TestNoDoorTakesAMissingIssuerForARefusal(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 3, policy.Refuse), nil)
	tokens := s.Login(optest.Web, "alice")
	storage := s.Provider.Storage()
	ctx := s.hook.JobContext(t.Context(), "")
	request, err := storage.TokenRequestByRefreshToken(ctx, tokens.RefreshToken())
	require.NoError(t, err, "op would make invalid_grant of any error here")
	_, _, _, err = storage.CreateAccessAndRefreshTokens(ctx, request, tokens.RefreshToken())
	requireServerError(t, err)
	_, err = storage.CreateAuthRequest(ctx, &oidc.AuthRequest{ClientID: optest.Web, ResponseType: oidc.ResponseTypeCode}, "")
	requireServerError(t, err)
	requireServerError(t, storage.RevokeToken(ctx, tokens.RefreshToken(), optest.SubjectOf("alice"), optest.Web))
	_, err = storage.(op.CanTerminateSessionFromRequest).TerminateSessionFromRequest(ctx, &op.EndSessionRequest{UserID: optest.SubjectOf("alice")})
	requireServerError(t, err)
	_, _, err = storage.CreateAccessToken(ctx, &oidc.JWTTokenRequest{Issuer: "service", Subject: optest.SubjectOf("alice")})
	requireServerError(t, err)
	s.mistake(t)
	ok(t, s.Refresh(optest.Web, tokens.RefreshToken()))
}

func requireServerError(t testing.TB, err error) {
	t.Helper()
	var e *oidc.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, oidc.ServerError, e.ErrorType)
	require.ErrorIs(t, e, provider.ErrMisconfigured)
}

// A provider's own sign-in that answers with tokens at once. With a client from its
// own storage op answers 500, and nothing is left of the login.
func TestASignInOfTheProvidersOwn(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]bool{"client of the decorated storage": false, "client of its own": true} {
		t.Run(name, func(t *testing.T) {
			var s *setup
			s = start(t, limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
				o.Inside = at("POST /account/sign-in", func(p *op.Provider) http.HandlerFunc {
					return func(w http.ResponseWriter, r *http.Request) {
						ctx := op.ContextWithIssuer(r.Context(), s.Issuer)
						s.answerAtOnce(ctx, t, w, p, raw)
					}
				})
			})
			signIn := func() int {
				resp, err := s.HTTP.Post(s.Issuer+"/account/sign-in", "", nil)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				return resp.StatusCode
			}
			if !raw {
				require.Equal(t, http.StatusOK, signIn())
				require.Len(t, s.started(t, "alice"), 1)
				require.Len(t, s.seen(provider.EventStarted), 1)
				require.Empty(t, s.seen(provider.EventMisconfigured))
				return
			}
			require.Equal(t, http.StatusInternalServerError, signIn())
			require.Empty(t, s.started(t, "alice"))
			require.Empty(t, s.seen(provider.EventStarted))
			require.Contains(t, s.mistake(t), "must come from the decorated storage")
		})
	}
}

func (s *setup) answerAtOnce(ctx context.Context, t testing.TB, w http.ResponseWriter, p *op.Provider, raw bool) {
	storage := p.Storage()
	ar, err := storage.CreateAuthRequest(ctx, &oidc.AuthRequest{
		ClientID: optest.Web, RedirectURI: "http://127.0.0.1:9999/cb", ResponseType: oidc.ResponseTypeCode, Scopes: []string{"openid", "offline_access"},
	}, "")
	if err == nil {
		err = s.Storage.SignIn(ctx, ar.GetID(), "alice")
	}
	var client op.Client
	if err == nil && raw {
		client, err = s.Storage.GetClientByClientID(ctx, optest.Web)
	} else if err == nil {
		client, err = storage.GetClientByClientID(ctx, optest.Web)
	}
	if err == nil {
		ar, err = storage.AuthRequestByID(ctx, ar.GetID())
	}
	var tokens *oidc.AccessTokenResponse
	if err == nil {
		tokens, err = op.CreateTokenResponse(ctx, ar, client, p, true, "", "")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(tokens)
}

// What fails after the storage has made its tokens leaves no session, whatever the
// grant, and the client's next try finds what it had.
func TestWhatFailsLeavesNoSlot(t *testing.T) {
	t.Parallel()
	broken := map[string]func(s *setup) optest.Reply{
		"code": func(s *setup) optest.Reply {
			v := s.Browser().Login(optest.Web, "alice", nil)
			return s.Code(optest.Web, v)
		},
		"device": func(s *setup) optest.Reply {
			started := s.DeviceStart(optest.Native)
			s.DeviceApprove(started, "alice")
			return s.DevicePoll(optest.Native, started)
		},
		"assertion": func(s *setup) optest.Reply { return s.JWTProfile(optest.SubjectOf("alice")) },
		"id_token": func(s *setup) optest.Reply {
			v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token"}})
			return optest.Reply{Status: map[bool]int{true: 500, false: 200}[v.Error() != ""]}
		},
		"implicit": func(s *setup) optest.Reply {
			v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token token"}})
			return optest.Reply{Status: map[bool]int{true: 500, false: 200}[v.Error() != ""]}
		},
	}
	for name, login := range broken {
		t.Run(name, func(t *testing.T) {
			var keys *noKeys
			s := start(t, limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
				o.Wrap = func(st *optest.Storage) op.Storage {
					keys = &noKeys{Storage: st}
					return keys
				}
			})
			keys.set(true)
			r := login(s)
			if name == "assertion" { // its access token is opaque, and it has no ID token
				return
			}
			require.GreaterOrEqual(t, r.Status, 400, "%s", r.Body)
			require.Empty(t, s.started(t, "alice"))
			require.Empty(t, s.seen(provider.EventStarted))
		})
	}
}

// noKeys is a storage whose signing key cannot be had for a while.
type noKeys struct {
	*optest.Storage
	mu   sync.Mutex
	gone bool
}

func (s *noKeys) set(gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = gone
}

func (s *noKeys) SigningKey(ctx context.Context) (op.SigningKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, fmt.Errorf("the key store is down")
	}
	return s.Storage.SigningKey(ctx)
}

// A code whose tokens could not be made is good when it comes again.
func TestACodeIsGoodAfterAFailure(t *testing.T) {
	t.Parallel()
	var keys *noKeys
	s := start(t, limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(st *optest.Storage) op.Storage {
			keys = &noKeys{Storage: st}
			return keys
		}
	})
	v := s.Browser().Login(optest.Web, "alice", nil)
	keys.set(true)
	require.GreaterOrEqual(t, s.Code(optest.Web, v).Status, 400)
	require.Empty(t, s.started(t, "alice"))
	keys.set(false)
	r := ok(t, s.Code(optest.Web, v))
	require.Len(t, s.started(t, "alice"), 1)
	require.Len(t, s.seen(provider.EventStarted), 1)
	ok(t, s.Refresh(optest.Web, r.RefreshToken()))
}

// An own is a token request of a type of the provider's own.
type own struct{ subject, client string }

func (r own) GetSubject() string    { return r.subject }
func (r own) GetAudience() []string { return []string{r.client} }
func (r own) GetScopes() []string   { return []string{"openid"} }

// ownStorage makes tokens for requests of type own.
type ownStorage struct{ *optest.Storage }

func (s ownStorage) CreateAccessToken(ctx context.Context, r op.TokenRequest) (string, time.Time, error) {
	if _, is := r.(own); is {
		return "own-token", time.Now().Add(time.Hour), nil
	}
	return s.Storage.CreateAccessToken(ctx, r)
}

func (s ownStorage) SetIntrospectionFromToken(ctx context.Context, resp *oidc.IntrospectionResponse, id, subject, client string) error {
	if id != "own-token" {
		return s.Storage.SetIntrospectionFromToken(ctx, resp, id, subject, client)
	}
	resp.Active, resp.Subject = true, subject
	return nil
}

// Tokens that a provider makes by itself, in a request and in a job: it says whose
// session they are of.
func TestTokensOfTheProvidersOwn(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 2, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(st *optest.Storage) op.Storage { return ownStorage{st} }
	})
	sid := s.sid(t, optest.Web, s.Login(optest.Web, "alice"))
	storage := s.Provider.Storage()
	token := func(ctx context.Context, user string) (string, error) {
		client, err := storage.GetClientByClientID(ctx, optest.Web)
		require.NoError(t, err)
		token, _, _, err := op.CreateAccessToken(ctx, own{optest.SubjectOf(user), optest.Web}, op.AccessTokenTypeBearer, s.Provider, client, "")
		return token, err
	}
	job := func() context.Context { return s.hook.JobContext(t.Context(), s.Issuer) }

	_, err := token(job(), "alice")
	requireServerError(t, err)
	require.Contains(t, s.mistake(t), "provider_test.own")

	free, err := token(provider.WithoutSession(op.ContextWithIssuer(t.Context(), s.Issuer)), "alice")
	require.NoError(t, err)
	bound, err := token(provider.InSession(job(), sid), "alice")
	require.NoError(t, err)
	require.Equal(t, sid, s.Introspect(optest.Web, bound).String("sid"))
	require.Empty(t, s.Introspect(optest.Web, free).String("sid"))

	_, err = token(provider.InSession(job(), sid), "bob")
	require.Error(t, err, "of another user")
	_, err = token(provider.InSession(job(), "no-such-session"), "alice")
	require.Error(t, err)

	require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
	require.False(t, active(s.Introspect(optest.Web, bound)))
	require.True(t, active(s.Introspect(optest.Web, free)))
	_, err = token(provider.InSession(job(), sid), "alice")
	require.Error(t, err)
	require.Len(t, s.live(t, "alice"), 0)
}

// What is stated is for requests of the provider's own types. The tokens of op's own
// requests are of the sessions that these are about, whatever the context says.
func TestWhatIsStatedIsNotForRequestsOfOp(t *testing.T) {
	t.Parallel()
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			var stated atomic.Pointer[string]
			s := start(t, limits(8*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
				inMemory(p, o)
				o.Embedding = embedding
				o.Middleware = func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if sid := stated.Load(); sid != nil {
							r = r.WithContext(provider.InSession(r.Context(), *sid))
						}
						next.ServeHTTP(w, r)
					})
				}
			})
			alices := s.sid(t, optest.Web, s.Login(optest.Web, "alice"))
			before, err := s.hook.Session(t.Context(), alices)
			require.NoError(t, err)
			stated.Store(&alices)

			web := s.Login(optest.Web, "bob")
			bobs := s.sid(t, optest.Web, web)
			require.NotEqual(t, alices, bobs)
			require.Equal(t, bobs, s.sid(t, optest.Web, ok(t, s.Refresh(optest.Web, web.RefreshToken()))))
			exchanged := s.Login(optest.Exchange, "admin")
			own := s.sid(t, optest.Exchange, exchanged)
			exchanged = ok(t, s.TokenExchange(optest.Exchange, exchanged.AccessToken(), optest.AccessTokenType, nil))
			require.Equal(t, own, s.Introspect(optest.Exchange, exchanged.AccessToken()).String("sid"))
			require.NotEqual(t, alices, s.sid(t, optest.Native, s.DeviceLogin(optest.Native, "alice")))
			for _, sessionless := range []optest.Reply{s.ClientCredentials(), s.JWTProfile("")} {
				require.NotContains(t, s.Introspect(optest.Exchange, ok(t, sessionless).AccessToken()).JSON, "sid")
			}
			implicit := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token"}})
			_, claims := readJWT(t, implicit.Params.Get("id_token"))
			require.NotEqual(t, alices, claims["sid"])

			after, err := s.hook.Session(t.Context(), alices)
			require.NoError(t, err)
			require.Equal(t, before.Grants, after.Grants, "nobody came into it")
		})
	}
}

func active(r optest.Reply) bool {
	var body struct{ Active bool }
	_ = json.Unmarshal([]byte(r.Body), &body)
	return body.Active
}

// Outside of HTTP, without a context for it, the error says what to do.
func TestAJobWithoutItsContextIsToldOf(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 2, policy.Refuse), nil)
	_, _, err := s.Provider.Storage().CreateAccessToken(op.ContextWithIssuer(t.Context(), s.Issuer), own{"id-alice", optest.Web})
	requireServerError(t, err)
	require.Contains(t, s.mistake(t), "JobContext")
	_, _, _, err = s.Provider.Storage().CreateAccessAndRefreshTokens(provider.WithoutSession(t.Context()), own{"id-alice", optest.Web}, "")
	requireServerError(t, err)
}

// timed is a storage that says another auth_time.
type timed struct {
	*optest.Storage
	authTime func(op.AuthRequest) time.Time
	done     bool // a request is done when it is made: the provider remembers the user
}

type timedRequest struct {
	op.AuthRequest
	s timed
}

func (r timedRequest) GetAuthTime() time.Time { return r.s.authTime(r.AuthRequest) }

func (s timed) wrap(ar op.AuthRequest, err error) (op.AuthRequest, error) {
	if err != nil {
		return nil, err
	}
	return timedRequest{ar, s}, nil
}

func (s timed) CreateAuthRequest(ctx context.Context, r *oidc.AuthRequest, user string) (op.AuthRequest, error) {
	ar, err := s.Storage.CreateAuthRequest(ctx, r, user)
	if err == nil && s.done {
		err = s.SignIn(ctx, ar.GetID(), "alice")
	}
	return s.wrap(ar, err)
}

func (s timed) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	return s.wrap(s.Storage.AuthRequestByID(ctx, id))
}

func (s timed) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	return s.wrap(s.Storage.AuthRequestByCode(ctx, code))
}

func (s timed) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, current string) (string, string, time.Time, error) {
	if own, is := r.(timedRequest); is {
		r = own.AuthRequest
	}
	return s.Storage.CreateAccessAndRefreshTokens(ctx, r, current)
}

// What a storage says of the time of a login may be no such time.
func TestAnAuthTimeThatIsNoneIsToldOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		storage timed
		refused bool
		says    string
	}{
		"a sentinel":      {timed{authTime: func(op.AuthRequest) time.Time { return time.Unix(10, 0) }}, true, "1970-01-01T00:00:10Z"},
		"the epoch":       {timed{authTime: func(op.AuthRequest) time.Time { return time.Unix(0, 0) }}, true, "1970-01-01T00:00:00Z"},
		"now, each time":  {timed{authTime: func(op.AuthRequest) time.Time { return time.Now() }}, false, "differs from call to call"},
		"now, remembered": {timed{authTime: op.AuthRequest.GetAuthTime, done: true}, false, "remembered"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, 2*time.Hour, 2, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
				o.Wrap = func(st *optest.Storage) op.Storage {
					c.storage.Storage = st
					return c.storage
				}
			})
			v := s.Browser().Login(optest.Web, "alice", nil)
			require.Contains(t, s.mistake(t), c.says)
			if c.refused {
				require.Equal(t, "server_error", v.Error(), "a login of today is not one that went unused")
				require.Empty(t, s.live(t, "alice"))
				return
			}
			require.Empty(t, v.Error())
		})
	}
}

// A login that is answered within its authorization request joins the session of its
// browser, as any other.
func TestARequestThatIsAnsweredAtOnceIsOfItsBrowser(t *testing.T) {
	t.Parallel()
	var s *setup
	s = start(t, limits(0, 0, 3, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
		o.Inside = at("/authorize", func(p *op.Provider) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				ctx := op.ContextWithIssuer(r.Context(), s.Issuer)
				asked, err := op.ParseAuthorizeRequest(r, p.Decoder())
				require.NoError(t, err)
				ar, err := p.Storage().CreateAuthRequest(ctx, asked, "")
				require.NoError(t, err)
				require.NoError(t, s.Storage.SignIn(ctx, ar.GetID(), "alice"))
				again := r.Clone(ctx)
				again.Form.Set("id", ar.GetID())
				op.AuthorizeCallback(w, again, p)
			}
		})
	})
	b := s.Browser()
	for range 4 {
		v := b.Authorize(optest.Web, nil)
		require.Empty(t, v.Error(), v.Description())
		ok(t, s.Code(optest.Web, v))
	}
	require.Len(t, s.started(t, "alice"), 1)
}

// A refreshed ID token says when the user signed in, also where the storage keeps
// nothing of it (OpenID Connect Core 1.0 section 12.2).
func TestARefreshedIDTokenHasItsAuthTime(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 3, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(st *optest.Storage) op.Storage { return forgetful{st} }
	})
	first := s.Login(optest.Web, "alice")
	then := s.ParseIDToken(optest.Web, first.IDToken())["auth_time"]
	require.NotEmpty(t, then)
	refreshed := ok(t, s.Refresh(optest.Web, first.RefreshToken()))
	require.Equal(t, then, s.ParseIDToken(optest.Web, refreshed.IDToken())["auth_time"])
}

// forgetful is a storage whose refresh tokens know no auth_time.
type forgetful struct{ *optest.Storage }

type forgetfulRequest struct{ op.RefreshTokenRequest }

func (forgetfulRequest) GetAuthTime() time.Time { return time.Time{} }

func (s forgetful) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	r, err := s.Storage.TokenRequestByRefreshToken(ctx, token)
	if err != nil {
		return nil, err
	}
	return forgetfulRequest{r}, nil
}

func (s forgetful) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, current string) (string, string, time.Time, error) {
	if own, is := r.(forgetfulRequest); is {
		r = own.RefreshTokenRequest
	}
	return s.Storage.CreateAccessAndRefreshTokens(ctx, r, current)
}

// A storage is found again behind the decoration, and decorated once.
func TestUnwrap(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, nil)
	require.Same(t, s.Storage, provider.Unwrap(s.Provider.Storage()))
	require.Same(t, s.Storage, provider.Unwrap(s.Storage), "one that is not decorated is itself")
}

func TestAStorageIsDecoratedOnce(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 2, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		other, err := provider.New(provider.Config{Store: p.Store, Keys: p.Keys, Settings: p.Settings})
		require.NoError(t, err)
		o.Wrap = func(st *optest.Storage) op.Storage { return other.Storage(other.Storage(st)) }
	})
	require.Contains(t, s.mistake(t), "decorated once")
	require.Same(t, s.Storage, provider.Unwrap(s.Provider.Storage()))
	r := ok(t, s.Refresh(optest.Web, s.Login(optest.Web, "alice").RefreshToken()))
	ok(t, s.Refresh(optest.Web, r.RefreshToken()))
}

// A forgotten half limits nothing, and says so at the first request.
func TestAForgottenHalfIsToldOf(t *testing.T) {
	t.Parallel()
	bare := func(t *testing.T, decorate bool) (*setup, http.Handler) {
		s := start(t, limits(0, 0, 1, policy.Refuse), nil)
		s.Forget()
		hook, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, Settings: s, Events: s.Event})
		require.NoError(t, err)
		if decorate {
			hook.Storage(s.Storage) // and its result is not used
		}
		s.hook = hook
		_, handler := s.Process(optest.Config{})
		return s, hook.Handler(handler)
	}
	t.Run("hook.Storage", func(t *testing.T) {
		s, handler := bare(t, false)
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		require.Contains(t, s.mistake(t), "hook.Storage was not called")
		require.ErrorIs(t, s.hook.Check(t.Context(), s.Provider), provider.ErrMisconfigured)
	})
	t.Run("its result", func(t *testing.T) {
		s, handler := bare(t, true)
		requests := s.Browser()
		v := requests.Authorize(optest.Web, nil)
		id, err := url.Parse(v.URL)
		require.NoError(t, err)
		require.NoError(t, s.Storage.SignIn(t.Context(), id.Query().Get("authRequestID"), "alice"))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/authorize/callback?id="+id.Query().Get("authRequestID"), nil))
		require.Contains(t, w.Header().Get("Location"), "code=")
		require.Contains(t, s.mistake(t), "must be made with what hook.Storage returns")
	})
	t.Run("hook.Handler", func(t *testing.T) {
		s := start(t, limits(0, 0, 1, policy.Refuse), nil)
		_, err := s.Provider.Storage().AuthRequestByID(t.Context(), "x")
		require.Error(t, err)
		require.NoError(t, s.hook.Check(t.Context(), s.Provider))
		bare, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, Settings: s})
		require.NoError(t, err)
		p, err := op.NewProvider(&op.Config{}, bare.Storage(s.Storage), op.StaticIssuer(s.Issuer), op.WithAllowInsecure())
		require.NoError(t, err)
		require.ErrorContains(t, bare.Check(t.Context(), p), "hook.Handler does not wrap")
		require.ErrorContains(t, bare.Check(t.Context(), s.Provider), "another hook")
	})
	t.Run("settings", func(t *testing.T) {
		s := start(t, policy.Account{}, nil)
		for range 2 {
			s.Login(optest.Web, "alice")
		}
		require.Contains(t, s.mistake(t), `account "default" has no settings`)
	})
}

// The handler of one hook does nothing for the storage of another; that of both does
// for both.
func TestHandlersOfTwoHooks(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		other, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, Settings: p.Settings})
		require.NoError(t, err)
		other.Storage(optest.NewStorage())
		o.Inside = func(_ *op.Provider, next http.Handler) http.Handler { return other.Handler(next) }
	})
	ok(t, s.Refresh(optest.Web, s.Login(optest.Web, "alice").RefreshToken()))
	require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
	require.Empty(t, s.seen(provider.EventMisconfigured))

	stranger, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, Settings: s})
	require.NoError(t, err)
	stranger.Storage(optest.NewStorage())
	w := httptest.NewRecorder()
	stranger.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _, err := s.Provider.Storage().CreateAccessToken(r.Context(), own{"id-alice", optest.Web})
		requireServerError(t, err)
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Contains(t, s.mistake(t), "hook.Handler does not wrap")
}

// Settings in the code are validated where they are given.
func TestStaticSettingsAreValidated(t *testing.T) {
	t.Parallel()
	for name, a := range map[string]policy.Account{
		"concurrent": limitsOf(policy.Limits{Concurrent: policy.LimitTo(-3)}),
		"active":     limitsOf(policy.Limits{Active: policy.LimitTo(9999 * time.Hour)}),
		"inactivity": limitsOf(policy.Limits{Inactivity: policy.LimitTo(25 * time.Hour)}),
	} {
		_, err := provider.New(provider.Config{
			Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())},
			Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": a}},
		})
		require.ErrorIs(t, err, provider.ErrConfig)
		require.ErrorContains(t, err, name)
	}
	s := start(t, limitsOf(policy.Limits{Concurrent: policy.LimitTo(-3)}), nil) // of a source of one's own
	s.Browser().Login(optest.Web, "alice", nil)
	require.Contains(t, s.mistake(t), "concurrent")
}

func limitsOf(l policy.Limits) policy.Account { return policy.Account{Limits: l} }

// slow is a storage that takes its time to exchange a refresh token, and ends the
// family of one that it sees twice.
type slow struct {
	*optest.Storage
	takes time.Duration

	mu    sync.Mutex
	spent map[string]bool
	reuse bool
}

func (s *slow) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, current string) (string, string, time.Time, error) {
	if current != "" {
		s.mu.Lock()
		s.reuse = s.reuse || s.spent[current]
		s.spent[current] = true
		s.mu.Unlock()
		time.Sleep(s.takes)
	}
	return s.Storage.CreateAccessAndRefreshTokens(ctx, r, current)
}

// http.TimeoutHandler inside of the hook answers while the storage is at work. What
// the storage began is finished, and others wait for it.
func TestATimeOutInsideOfTheHook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var storage *slow
		s := start(t, limits(24*time.Hour, 2*time.Hour, 2, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
			o.InMemory = true
			o.Wrap = func(st *optest.Storage) op.Storage {
				storage = &slow{Storage: st, takes: 2 * time.Second, spent: map[string]bool{}}
				return storage
			}
			o.Inside = func(_ *op.Provider, next http.Handler) http.Handler {
				return http.TimeoutHandler(next, time.Second, "slow")
			}
		})
		token := s.Login(optest.Web, "alice").RefreshToken()
		require.Equal(t, http.StatusServiceUnavailable, s.Refresh(optest.Web, token).Status)
		var got optest.Reply
		for range 5 {
			if got = s.Refresh(optest.Web, token); got.Status == http.StatusOK {
				break
			}
			time.Sleep(time.Second)
		}
		ok(t, got)
		require.False(t, storage.reuse, "the storage sees a token once")
		require.Empty(t, s.seen(provider.EventReplay))
		time.Sleep(time.Minute)
		storage.takes = 0
		ok(t, s.Refresh(optest.Web, got.RefreshToken()))
		require.False(t, storage.reuse)
	})
}

// notingExchanges is a storage that notes the tokens of the exchanges that it is asked about.
type notingExchanges struct {
	*optest.Intercepted
	note func(subject, actor string)
}

func (s notingExchanges) ValidateTokenExchangeRequest(ctx context.Context, r op.TokenExchangeRequest) error {
	s.note(r.GetExchangeSubjectTokenIDOrToken(), r.GetExchangeActorTokenIDOrToken())
	return s.Intercepted.ValidateTokenExchangeRequest(ctx, r)
}

// The same while the tokens of an exchange are looked up: the look-ups that one under way
// still makes are of these tokens, though the response is over.
func TestATimeOutAmidAnExchange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls, slow atomic.Int64
		var noted atomic.Pointer[[2]string]
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
			o.InMemory = true
			o.Wrap = func(st *optest.Storage) op.Storage {
				return notingExchanges{
					Intercepted: &optest.Intercepted{Storage: st, Before: func(_ context.Context, method string) error {
						if method == "TokenRequestByRefreshToken" && calls.Add(1) == slow.Load() {
							time.Sleep(2 * time.Second)
						}
						return nil
					}},
					note: func(subject, actor string) { noted.Store(&[2]string{subject, actor}) },
				}
			}
			o.Inside = func(_ *op.Provider, next http.Handler) http.Handler {
				return http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					next.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context()))) // what was begun is finished
				}), time.Second, "slow")
			}
		})
		subject, actor := s.Login(optest.Exchange, "admin").RefreshToken(), s.Login(optest.Exchange, "admin").RefreshToken()
		exchange := func() optest.Reply {
			return s.TokenExchange(optest.Exchange, subject, string(oidc.RefreshTokenType), url.Values{
				"actor_token": {actor}, "actor_token_type": {string(oidc.RefreshTokenType)},
			})
		}
		calls.Store(0)
		ok(t, exchange())
		n, want := calls.Load(), *noted.Load()
		require.Equal(t, int64(4), n, "op looks at both, and the hook")
		require.NotEqual(t, want[0], want[1])
		for i := range n {
			calls.Store(0)
			slow.Store(i + 1)
			require.Equal(t, http.StatusServiceUnavailable, exchange().Status)
			time.Sleep(2 * time.Second)
			require.Equal(t, want, *noted.Load(), "look-up %d", i+1)
		}
		slow.Store(0)
		ok(t, exchange())
		ok(t, s.Refresh(optest.Exchange, subject))
		ok(t, s.Refresh(optest.Exchange, actor))
	})
}

// Of providers that share a hook, and of hooks that share a store, each signs its own
// logout tokens. What a process has no key for waits for one that has.
func TestLogoutTokensAreSignedByTheirIssuer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := startNotified(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
		other := &notified{setup: start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			o.InMemory = true
			p.Store, p.Keys = n.store, nil
			p.Keys = provider.Keys{provider.NewKey(time.Now())}
			p.Logout = provider.Logout{Loopback: true, URIs: func(context.Context, string) (provider.LogoutURIs, error) {
				t.Error("asked for the applications of another provider")
				return provider.LogoutURIs{}, nil
			}}
		})}
		r := n.Login(optest.Web, "alice")
		sid := n.sid(t, optest.Web, r)
		time.Sleep(3 * time.Hour)
		for range 20 { // notices the end, and has no key for it
			require.NoError(t, other.hook.Sweep(t.Context()))
			time.Sleep(time.Second)
		}
		require.Empty(t, n.web.Got())
		require.ErrorContains(t, other.hook.Redeliver(t.Context(), sid, optest.Web), "no key")
		n.sweepFor(t, time.Minute)
		n.web.Once(sid)
	})
}
