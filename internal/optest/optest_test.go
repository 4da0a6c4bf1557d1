package optest_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
)

// each runs a test against bare op in every embedding.
func each(t *testing.T, cfg optest.Config, test func(t *testing.T, s *optest.Server)) {
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := cfg
			cfg.Embedding = embedding
			test(t, optest.Start(t, cfg))
		})
	}
}

func TestCodeFlow(t *testing.T) {
	each(t, optest.Config{}, func(t *testing.T, s *optest.Server) {
		for _, client := range []string{optest.Web, optest.Web2, optest.Post, optest.JWT, optest.SPA, optest.Native, optest.Implicit, optest.Exchange} {
			t.Run(client, func(t *testing.T) {
				b := s.Browser()
				v := b.Authorize(client, nil)
				require.True(t, v.AtForm(), v.Body)
				require.Equal(t, http.StatusForbidden, b.SignIn(v, "nobody").Status)
				v = b.SignIn(v, "alice")
				require.Equal(t, "state-1", v.Params.Get("state"), "%d %s %s", v.Status, v.URL, v.Body)
				require.NotEmpty(t, v.Callback)

				r := s.Code(client, v)
				require.Equal(t, 200, r.Status, r.Body)
				require.Equal(t, "id-alice", s.Claim(client, r, "sub"))
				info := s.Userinfo(r.AccessToken())
				require.Equal(t, "id-alice", info.String("sub"), info.Body)

				again := s.Refresh(client, r.RefreshToken())
				require.Equal(t, 200, again.Status, again.Body)
				require.NotEqual(t, r.RefreshToken(), again.RefreshToken(), "the example rotates")
				require.Equal(t, s.Claim(client, r, "auth_time"), s.Claim(client, again, "auth_time"))
				old := s.Refresh(client, r.RefreshToken())
				require.Equal(t, 400, old.Status)
				require.Equal(t, "invalid_grant", old.Error())

				if client == optest.SPA || client == optest.Native {
					return // op introspects for confidential clients only
				}
				require.Equal(t, true, s.Introspect(client, again.AccessToken()).JSON["active"])
				require.Equal(t, 200, s.Revoke(client, again.RefreshToken(), "refresh_token").Status)
				require.Equal(t, 400, s.Refresh(client, again.RefreshToken()).Status)
				require.Equal(t, false, s.Introspect(client, again.AccessToken()).JSON["active"])
			})
		}
	})
}

func TestRefreshScopeDoesNotStick(t *testing.T) {
	s := optest.Start(t, optest.Config{InMemory: true})
	r := s.Login(optest.Web, "alice")
	narrow := s.Refresh(optest.Web, r.RefreshToken(), url.Values{"scope": {"openid"}})
	require.Equal(t, 200, narrow.Status, narrow.Body)
	wide := s.Refresh(optest.Web, narrow.RefreshToken())
	require.Equal(t, "alice@example.org", s.Userinfo(wide.AccessToken()).String("email"))
}

func TestResponseTypesAndModes(t *testing.T) {
	each(t, optest.Config{InMemory: true}, func(t *testing.T, s *optest.Server) {
		for _, responseType := range []string{"id_token token", "id_token"} {
			for _, mode := range []string{"", "fragment", "form_post"} {
				v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {responseType}, "response_mode": {mode}})
				require.NotEmpty(t, v.Params.Get("id_token"), "%s %s: %d %s %s", responseType, mode, v.Status, v.URL, v.Body)
				require.Equal(t, "id-alice", s.ParseIDToken(optest.Implicit, v.Params.Get("id_token"))["sub"])
			}
		}
		v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_mode": {"form_post"}})
		require.NotEmpty(t, v.Code(), "%s", v.Body)
	})
}

func TestDeviceGrant(t *testing.T) {
	each(t, optest.Config{InMemory: true}, func(t *testing.T, s *optest.Server) {
		for _, client := range []string{optest.Device, optest.Native} {
			start := s.DeviceStart(client)
			require.Equal(t, 200, start.Status, start.Body)
			require.Equal(t, "authorization_pending", s.DevicePoll(client, start).Error())
			s.DeviceApprove(start, "alice")
			r := s.DevicePoll(client, start)
			require.Equal(t, 200, r.Status, r.Body)
			again := s.Refresh(client, r.RefreshToken())
			require.Equal(t, 200, again.Status, again.Body)
			require.Equal(t, s.Claim(client, r, "auth_time"), s.Claim(client, again, "auth_time"))

			start = s.DeviceStart(client)
			s.DeviceDeny(start, "alice")
			require.Equal(t, "access_denied", s.DevicePoll(client, start).Error())
		}
	})
}

func TestOtherGrants(t *testing.T) {
	each(t, optest.Config{InMemory: true, Wrap: optest.Foreign}, func(t *testing.T, s *optest.Server) {
		require.Equal(t, 200, s.ClientCredentials().Status)
		require.Equal(t, 200, s.JWTProfile("").Status, s.JWTProfile("").Body)
		require.Equal(t, 400, s.JWTProfile("id-alice").Status, "op takes an assertion about its signer only")

		r := s.Login(optest.Exchange, "admin")
		x := s.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType, nil)
		require.Equal(t, 200, x.Status, x.Body)
		require.NotEmpty(t, x.RefreshToken())
		require.Equal(t, 200, s.Refresh(optest.Exchange, x.RefreshToken()).Status)

		x = s.TokenExchange(optest.Exchange, optest.ForeignToken("admin2"), optest.JWTTokenType, nil)
		require.Equal(t, 200, x.Status, x.Body)
		x = s.TokenExchange(optest.Exchange, optest.ForeignToken("nobody"), optest.JWTTokenType, nil)
		require.Equal(t, 400, x.Status, x.Body)
		x = s.TokenExchange(optest.Exchange, s.Login(optest.Exchange, "alice").AccessToken(), optest.AccessTokenType, nil)
		require.Contains(t, x.Body, "user doesn't have impersonation permission")
	})
}

func TestEndSession(t *testing.T) {
	each(t, optest.Config{InMemory: true}, func(t *testing.T, s *optest.Server) {
		r := s.Login(optest.Web, "alice")
		v := s.Browser().EndSession(url.Values{
			"id_token_hint": {r.IDToken()}, "post_logout_redirect_uri": {optest.PostLogoutURI}, "state": {"bye"},
		})
		require.Equal(t, "bye", v.Params.Get("state"), "%d %s %s", v.Status, v.URL, v.Body)
		require.Equal(t, 400, s.Refresh(optest.Web, r.RefreshToken()).Status)
		require.Equal(t, "signed out", s.Browser().EndSession(nil).Body)
	})
}

func TestSingleSignOn(t *testing.T) {
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := optest.NewStorage()
				storage.SSO = true
				s := optest.Start(t, optest.Config{Storage: storage, InMemory: true, Embedding: embedding})
				b := s.Browser()
				none := url.Values{"prompt": {"none"}}
				require.Equal(t, "login_required", b.Authorize(optest.Web, none).Error())
				v := b.Login(optest.Web, "alice", nil)
				first := s.Claim(optest.Web, s.Code(optest.Web, v), "auth_time")

				time.Sleep(10 * time.Second)
				for _, extra := range []url.Values{nil, none, {"max_age": {"10"}}} {
					v = b.Authorize(optest.Web2, extra)
					require.NotEmpty(t, v.Code(), "%v: %d %s %s", extra, v.Status, v.URL, v.Body)
					r := s.Code(optest.Web2, v)
					require.Equal(t, first, s.Claim(optest.Web2, r, "auth_time"))
					require.Equal(t, first, s.Claim(optest.Web2, s.Refresh(optest.Web2, r.RefreshToken()), "auth_time"))
				}
				for _, extra := range []url.Values{{"prompt": {"login"}}, {"max_age": {"9"}}} {
					require.True(t, b.Authorize(optest.Web, extra).AtForm(), "%v", extra)
				}
				require.True(t, s.Browser().Authorize(optest.Web, nil).AtForm(), "another browser")
				b.EndSession(nil)
				require.Equal(t, "login_required", b.Authorize(optest.Web, none).Error())
			})
		})
	}
}

func TestClockMovesForEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := optest.Start(t, optest.Config{InMemory: true})
		r := s.Login(optest.Web, "alice")
		time.Sleep(6 * time.Minute)
		require.NotEqual(t, 200, s.Userinfo(r.AccessToken()).Status, "the example's access tokens live 5 minutes")
		time.Sleep(5 * time.Hour)
		require.NotEqual(t, 200, s.Refresh(optest.Web, r.RefreshToken()).Status, "and its refresh tokens 5 hours")
	})
}

func TestNonRotating(t *testing.T) {
	each(t, optest.Config{InMemory: true, Wrap: optest.NonRotating}, func(t *testing.T, s *optest.Server) {
		r := s.Login(optest.Web, "alice")
		for range 3 {
			again := s.Refresh(optest.Web, r.RefreshToken())
			require.Equal(t, 200, again.Status, again.Body)
			require.Equal(t, r.RefreshToken(), again.RefreshToken())
			require.NotEqual(t, r.AccessToken(), again.AccessToken())
			require.Equal(t, true, s.Introspect(optest.Web, again.AccessToken()).JSON["active"])
		}
		require.Equal(t, 400, s.Refresh(optest.Web, "no such token").Status)
	})
}

func TestBare(t *testing.T) {
	var _ op.ClientCredentialsStorage = optest.NewStorage()
	bare := optest.Bare(optest.NewStorage())
	_, credentials := bare.(op.ClientCredentialsStorage)
	_, exchange := bare.(op.TokenExchangeStorage)
	_, device := bare.(op.DeviceAuthorizationStorage)
	_, userinfo := bare.(op.CanSetUserinfoFromRequest)
	require.False(t, credentials || exchange || device || userinfo)
	each(t, optest.Config{InMemory: true, Wrap: optest.Bare}, func(t *testing.T, s *optest.Server) {
		r := s.Login(optest.Web, "alice")
		require.Equal(t, 200, s.Refresh(optest.Web, r.RefreshToken()).Status)
		require.Equal(t, "unsupported_grant_type", s.ClientCredentials().Error())
	})
}

func TestIntercepted(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]int{}
	var fail string
	s := optest.Start(t, optest.Config{InMemory: true, Wrap: func(s *optest.Storage) op.Storage {
		return &optest.Intercepted{Storage: s,
			Before: func(_ context.Context, method string) error {
				mu.Lock()
				defer mu.Unlock()
				calls[method]++
				if method == fail {
					return oidc.ErrServerError().WithDescription("injected before")
				}
				return nil
			},
			After: func(_ context.Context, method string) error {
				mu.Lock()
				defer mu.Unlock()
				if method+" after" == fail {
					return errors.New("injected after")
				}
				return nil
			},
		}
	}})
	set := func(method string) { mu.Lock(); defer mu.Unlock(); fail = method }

	r := s.Login(optest.Web, "alice")
	set("CreateAccessAndRefreshTokens")
	require.Contains(t, s.Refresh(optest.Web, r.RefreshToken()).Body, "injected before")
	set("")
	r = s.Refresh(optest.Web, r.RefreshToken())
	require.Equal(t, 200, r.Status, "before: nothing had happened")
	set("CreateAccessAndRefreshTokens after")
	require.Contains(t, s.Refresh(optest.Web, r.RefreshToken()).Body, "injected after")
	set("")
	require.Equal(t, 400, s.Refresh(optest.Web, r.RefreshToken()).Status, "after: it had been rotated")
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, 4, calls["CreateAccessAndRefreshTokens"])
}

func TestAddressesAreSeen(t *testing.T) {
	for _, inMemory := range []bool{true, false} {
		seen := make(chan string, 1)
		s := optest.Start(t, optest.Config{InMemory: inMemory, Middleware: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				seen <- r.RemoteAddr
				next.ServeHTTP(w, r)
			})
		}})
		s.PostFrom(s.ClientFrom("127.0.0.7"), "/oauth/token", optest.Web, url.Values{})
		require.Contains(t, <-seen, "127.0.0.7:")
	}
}

func TestParallelServersAndLogins(t *testing.T) {
	for range 3 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			s := optest.Start(t, optest.Config{InMemory: true})
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					v := s.Browser().Login(optest.Web, "alice", nil)
					r := s.Code(optest.Web, v)
					for range 3 {
						r = s.Refresh(optest.Web, r.RefreshToken())
					}
					if r.Status != 200 {
						t.Errorf("%d %s", r.Status, r.Body)
					}
					s.Revoke(optest.Web, r.RefreshToken(), "refresh_token")
				})
			}
			wg.Wait()
		})
	}
}
