package provider_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

func TestAnImplicitLoginStaysInItsAccount(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 5, policy.EndOldest), nil)
	for range 3 {
		v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token token"}})
		require.NotEmpty(t, v.Params.Get("access_token"), v.Description())
	}
	require.Len(t, s.live(t, "alice"), 3)
	for _, session := range s.live(t, "alice") {
		require.Equal(t, []string{"default"}, session.Accounts)
	}
}

func TestALoweredCapEndsImplicitLogins(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 5, policy.EndOldest), nil)
	for range 3 {
		v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token token"}})
		require.NotEmpty(t, v.Params.Get("access_token"), v.Description())
	}
	s.set(limits(0, 0, 1, policy.EndOldest))
	require.NoError(t, s.hook.Sweep(t.Context()))
	require.Len(t, s.live(t, "alice"), 1)
}

// Rule 6, by way of admission: prompt=none is not activity by default.
func TestASilentSignOnSlidesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 3, policy.Refuse), ssoKnown)
		b := s.Browser()
		r := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		before := s.live(t, "alice")[0].LastActivity
		for range 3 {
			time.Sleep(time.Hour)
			b.Authorize(optest.Web2, url.Values{"prompt": {"none"}}) // whose code nobody needs to redeem
		}
		require.Equal(t, before, func() time.Time {
			session, err := s.store.Get(t.Context(), s.rawSID(t, r))
			require.NoError(t, err)
			return session.LastActivity
		}())
		refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonInactivity)
	})
}

// Rule 5, by way of exchange: what rests on an older authentication keeps its
// end, however often it is exchanged.
func TestAnExchangeDoesNotRestOnANewerAuthentication(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]bool{"exchanged before the user signs in again": true, "exchanged after": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 0, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
					ssoKnown(p, o)
					nonRotating(p, o)
				})
				exchange := func(token, want string) optest.Reply {
					return s.TokenExchange(optest.Exchange, token, optest.AccessTokenType, url.Values{"requested_token_type": {want}})
				}
				b := s.Browser()
				old := ok(t, s.Code(optest.Exchange, b.Login(optest.Exchange, "admin", nil)))
				time.Sleep(23 * time.Hour)
				old = ok(t, s.Refresh(optest.Exchange, old.RefreshToken()))
				var step optest.Reply
				if first {
					step = ok(t, exchange(old.AccessToken(), optest.AccessTokenType))
				}
				// The user signs in again, for something that needs no refresh token.
				ok(t, s.Code(optest.Exchange, b.Login(optest.Exchange, "admin", url.Values{"prompt": {"login"}, "scope": {"openid"}})))
				if !first {
					step = ok(t, exchange(old.AccessToken(), optest.AccessTokenType))
				}
				washed := ok(t, exchange(step.AccessToken(), optest.RefreshTokenType))
				time.Sleep(2 * time.Hour)
				refusedFor(t, s.Refresh(optest.Exchange, old.RefreshToken()), policy.ReasonActiveLimit)
				refusedFor(t, s.Refresh(optest.Exchange, washed.RefreshToken()), policy.ReasonActiveLimit)
			})
		})
	}
}

// Signing in again must not cost the access tokens of a client without refresh
// tokens, nor may an exchange of an older token.
func TestAnOlderTokenDoesNotShortenANewerOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 0, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			ssoKnown(p, o)
			nonRotating(p, o)
		})
		b := s.Browser()
		old := ok(t, s.Code(optest.Exchange, b.Login(optest.Exchange, "admin", nil)))
		time.Sleep(24*time.Hour - 2*time.Minute)
		old = ok(t, s.Refresh(optest.Exchange, old.RefreshToken()))
		newer := ok(t, s.Code(optest.Exchange, b.Login(optest.Exchange, "admin", url.Values{"prompt": {"login"}, "scope": {"openid"}})))
		ok(t, s.TokenExchange(optest.Exchange, old.AccessToken(), optest.AccessTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}}))
		time.Sleep(3 * time.Minute) // the older authentication is over, the newer one's token is not
		require.Equal(t, http.StatusOK, s.Userinfo(newer.AccessToken()).Status)
	})
}

// direct calls the decorated storage as op would, inside one request.
type direct struct {
	*provider.Hook
	storage op.Storage
	call    func(ctx context.Context, s op.Storage)
}

func (d *direct) Storage(s op.Storage) op.Storage {
	d.storage = d.Hook.Storage(s)
	return d.storage
}

func (d *direct) Handler(next http.Handler) http.Handler {
	return d.Hook.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/direct" {
			d.call(op.ContextWithIssuer(r.Context(), "http://"+r.Host), d.storage)
			return
		}
		next.ServeHTTP(w, r)
	}))
}

func startDirect(t *testing.T, a policy.Account, change func(*provider.Config, *optest.Config)) (*setup, *direct) {
	d := &direct{}
	s := start(t, a, change)
	d.Hook = s.hook
	o := optest.Config{Hook: d}
	if change != nil {
		change(&provider.Config{}, &o)
	}
	o.Hook = d
	s.Server.Server = optest.Start(t, o)
	return s, d
}

func (s *setup) do(t *testing.T) {
	req, err := http.NewRequest(http.MethodGet, s.Issuer+"/direct", nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, s.Do(s.HTTP, req).Status)
}

// A JWT profile grant about a user: RFC 7523 with a SubjectCheck of the
// provider's own.
func TestAnAssertionAboutAUserLeavesNoSlotWithoutAToken(t *testing.T) {
	t.Parallel()
	assertion := &oidc.JWTTokenRequest{Issuer: optest.Service, Subject: optest.SubjectOf("alice"), Scopes: []string{"openid"}}
	for name, broken := range map[string]string{"the storage fails": "CreateAccessToken", "the store's answer is lost": ""} {
		t.Run(name, func(t *testing.T) {
			faulty := faultstore.New(memstore.New())
			failing := true
			s, d := startDirect(t, limits(0, 0, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
				p.Store = faulty
				o.Wrap = func(s *optest.Storage) op.Storage {
					return &optest.Intercepted{Storage: s, Before: func(_ context.Context, method string) error {
						if failing && method == broken {
							return errors.New("out of order")
						}
						return nil
					}}
				}
			})
			var err error
			d.call = func(ctx context.Context, storage op.Storage) { _, _, err = storage.CreateAccessToken(ctx, assertion) }
			if broken == "" {
				faulty.Script(faultstore.Once(faulty.Calls()+3, faultstore.After)) // after what came before it was looked at
			}
			s.do(t)
			require.Error(t, err)
			failing = false
			require.Empty(t, s.live(t, "alice"), "a slot without a token")
		})
	}
}

// Rule 3: a service that asks for a token about a user every hour is not a new
// login each time.
func TestAServiceThatAsksAgainTakesNoSecondSlot(t *testing.T) {
	t.Parallel()
	assertion := &oidc.JWTTokenRequest{Issuer: optest.Service, Subject: optest.SubjectOf("alice"), Scopes: []string{"openid"}}
	s, d := startDirect(t, limits(0, 0, 3, policy.EndOldest), nil)
	own := s.Login(optest.Web, "alice")
	var err error
	d.call = func(ctx context.Context, storage op.Storage) { _, _, err = storage.CreateAccessToken(ctx, assertion) }
	for range 5 {
		s.do(t)
		require.NoError(t, err)
	}
	ok(t, s.Refresh(optest.Web, own.RefreshToken()))
}

// sharedClaims is a storage that hands out one map of claims to everybody.
type sharedClaims struct {
	*optest.Storage
	claims map[string]any
}

func (s sharedClaims) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, _ op.IDTokenRequest, _ []string) error {
	info.Claims = s.claims
	return nil
}

func (s sharedClaims) SetIntrospectionFromToken(ctx context.Context, resp *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	if err := s.Storage.SetIntrospectionFromToken(ctx, resp, tokenID, subject, clientID); err != nil {
		return err
	}
	resp.Claims = s.claims
	return nil
}

// Rule 12: what the storage hands out stays its own.
func TestTheClaimsOfTheStorageAreNotWrittenTo(t *testing.T) {
	t.Parallel()
	claims := map[string]any{"tenant": "one"}
	s := start(t, limits(24*time.Hour, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(s *optest.Storage) op.Storage { return sharedClaims{s, claims} }
	})
	r := s.Login(optest.Web, "alice")
	require.Equal(t, map[string]any{"tenant": "one"}, claims, "ID token")
	require.Equal(t, true, s.Introspect(optest.Web, r.AccessToken()).JSON["active"])
	require.Equal(t, map[string]any{"tenant": "one"}, claims, "introspection")
}

// Rule 2: id_token alone, from a provider that answers itself, with a client of
// its own that puts no scope into ID tokens.
func TestAnIDTokenAloneIsAdmittedWhateverItsScopes(t *testing.T) {
	t.Parallel()
	none := &optest.Client{
		ID: optest.Implicit, Auth: oidc.AuthMethodBasic, Redirects: []string{optest.RedirectURI}, NoProd: true,
		Responses: []oidc.ResponseType{oidc.ResponseTypeIDTokenOnly}, Grants: []oidc.GrantType{oidc.GrantTypeImplicit},
		RestrictID: func([]string) []string { return nil },
	}
	for name, own := range map[string]bool{"op's callback": false, "its own": true} {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
				o.Storage, o.OwnResponse = optest.NewStorage(none), own
			})
			visit := func() optest.Visit {
				return s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token"}, "scope": {"openid"}})
			}
			require.NotEmpty(t, visit().Params.Get("id_token"))
			require.Len(t, s.live(t, "alice"), 1)
			v := visit()
			require.Empty(t, v.Params.Get("id_token"))
			require.Equal(t, "access_denied", v.Error(), v.Description())
		})
	}
}

// Rule 11: of too many grants those go first that are of no use.
func TestARevokedGrantMakesRoomBeforeALiveOne(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) { p.MaxGrants = 3 })
	first := s.Login(optest.Exchange, "admin")
	for range 3 {
		r := ok(t, s.TokenExchange(optest.Exchange, first.AccessToken(), optest.AccessTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}}))
		require.Equal(t, http.StatusOK, s.Revoke(optest.Exchange, r.RefreshToken(), "").Status)
	}
	ok(t, s.Refresh(optest.Exchange, first.RefreshToken()))
}

func TestAnEndedDeviceLoginStaysEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(0, 0, 1, policy.Refuse), inMemory)
		started := s.DeviceStart(optest.Native)
		s.DeviceApprove(started, "alice")
		ok(t, s.DevicePoll(optest.Native, started))
		_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonCredentialChange, "root")
		require.NoError(t, err)
		time.Sleep(32 * 24 * time.Hour)
		require.NoError(t, s.hook.Sweep(t.Context()))
		r := s.DevicePoll(optest.Native, started)
		require.Equal(t, http.StatusBadRequest, r.Status, "the device code expired a month ago: %s", r.Body)
	})
}

// Rule 11: document size is bounded, whatever a client asks for.
func TestScopesDoNotBlowUpASession(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, nil)
	huge := "openid offline_access " + strings.Repeat("x", 1<<20)
	d := s.Post("/device_authorization", optest.Native, url.Values{"scope": {huge}})
	require.Equal(t, http.StatusOK, d.Status)
	s.DeviceApprove(d, "alice")
	r := s.DevicePoll(optest.Native, d)
	if r.Status == http.StatusOK {
		s.Refresh(optest.Native, r.RefreshToken())
	}
	for _, session := range s.live(t, "alice") {
		doc, err := session.MarshalJSON()
		require.NoError(t, err)
		require.Less(t, len(doc), 64<<10)
	}
}

// Rule 4: signing out with an ID token from before the installation.
func TestSigningOutWithAnOldHintTouchesNoSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		hint := optest.Start(t, optest.Config{Storage: storage, InMemory: true}).Login(optest.Web, "alice").IDToken()
		s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			o.Storage = storage
		})
		r := s.Login(optest.Web, "alice")
		s.Browser().EndSession(url.Values{"id_token_hint": {hint}})
		require.Len(t, s.live(t, "alice"), 1)
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	})
}

// turning is a storage that makes up its mind late in an exchange.
type turning struct {
	*optest.Storage
	turn func(r op.TokenExchangeRequest)
}

func (s turning) ValidateTokenExchangeRequest(context.Context, op.TokenExchangeRequest) error {
	return nil
}

func (s turning) CreateTokenExchangeRequest(_ context.Context, r op.TokenExchangeRequest) error {
	s.turn(r)
	return nil
}

func TestAnExchangeThatChangesLateIsNotPastTheCap(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		turn func(r op.TokenExchangeRequest)
		form url.Values
	}{
		"subject, access token": {
			func(r op.TokenExchangeRequest) { r.SetSubject(optest.SubjectOf("bob")) },
			url.Values{"requested_token_type": {optest.AccessTokenType}},
		},
		"subject, ID token": {
			func(r op.TokenExchangeRequest) { r.SetSubject(optest.SubjectOf("bob")) },
			url.Values{"requested_token_type": {optest.IDTokenType}},
		},
		"type": {
			func(r op.TokenExchangeRequest) { r.SetRequestedTokenType(oidc.IDTokenType) },
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
				o.Wrap = func(s *optest.Storage) op.Storage { return turning{s, c.turn} }
			})
			s.Login(optest.Web, "bob") // bob is at his cap
			admin := s.Login(optest.Exchange, "admin")
			r := s.TokenExchange(optest.Exchange, admin.AccessToken(), optest.AccessTokenType, c.form)
			require.NotEqual(t, http.StatusOK, r.Status, "%s", r.Body)
		})
	}
}

// OnEnd may use the hook, and end everything else.
func TestOnEndMayCallTheHook(t *testing.T) {
	t.Parallel()
	var hook *provider.Hook
	var mu sync.Mutex
	calls := map[string]int{}
	s := start(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) {
		p.OnEnd = func(ctx context.Context, s store.Session) error {
			mu.Lock()
			calls[s.ID]++
			mu.Unlock()
			_, err := hook.EndAll(ctx, s.Subject, policy.ReasonEndedByAdmin, "root")
			return err
		}
	})
	hook = s.hook
	for range 5 {
		s.Login(optest.Web, "alice")
	}
	require.NoError(t, hook.End(t.Context(), s.live(t, "alice")[2].ID, policy.ReasonEndedByUser, "alice"))
	require.Empty(t, s.live(t, "alice"))
	require.Len(t, calls, 5)
	for sid, n := range calls {
		require.Equal(t, 1, n, sid)
	}
	require.Len(t, s.seen(provider.EventEnded), 5)
}

// Rules 1 and 4 under a race: logins that evict each other while their codes
// are redeemed, refreshed and ended.
func TestEvictionRacesRedemption(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 2, policy.EndOldest), nil)
	replies := make([]optest.Reply, 24)
	parallel(len(replies), func(i int) {
		v := s.Browser().Login(optest.Web, "alice", nil)
		if v.Code() == "" {
			return
		}
		if r := s.Code(optest.Web, v); r.Status == http.StatusOK {
			replies[i] = r
			if next := s.Refresh(optest.Web, r.RefreshToken()); next.Status == http.StatusOK {
				replies[i] = next
			}
		}
	})
	live := map[string]bool{}
	for _, session := range s.live(t, "alice") {
		live[session.ID] = true
	}
	require.LessOrEqual(t, len(live), 2)
	for _, r := range replies {
		if r.JSON == nil {
			continue
		}
		sid := s.rawSID(t, r)
		require.Equal(t, live[sid], s.Introspect(optest.Web, r.AccessToken()).JSON["active"])
		require.Equal(t, live[sid], s.Refresh(optest.Web, r.RefreshToken()).Status == http.StatusOK, sid)
	}
}

// The provider's own ID of a session names a session of one user only.
func TestTwoUsersInOneSSOSessionDoNotMeet(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Refuse), func(p *provider.Config, _ *optest.Config) {
		p.SSOSession = func(context.Context, provider.Login) string { return "the browser" }
	})
	alice, bob := s.Login(optest.Web, "alice"), s.Login(optest.Web, "bob")
	require.NotEqual(t, s.sid(t, optest.Web, alice), s.sid(t, optest.Web, bob))
	require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, alice), policy.ReasonEndedByAdmin, "root"))
	ok(t, s.Refresh(optest.Web, bob.RefreshToken()))
}

// Rule 4: an actor's token of a session that is over is as dead as a subject's.
func TestAnActorTokenOfADeadSessionIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, nil)
	subject, actor := s.Login(optest.Exchange, "admin"), s.Login(optest.Exchange, "admin2")
	form := func(token, tokenType string) url.Values {
		return url.Values{"requested_token_type": {optest.AccessTokenType}, "actor_token": {token}, "actor_token_type": {tokenType}}
	}
	tokens := map[string]string{
		optest.AccessTokenType: actor.AccessToken(), optest.RefreshTokenType: actor.RefreshToken(), optest.IDTokenType: actor.IDToken(),
	}
	for tokenType, token := range tokens {
		ok(t, s.TokenExchange(optest.Exchange, subject.AccessToken(), optest.AccessTokenType, form(token, tokenType)))
	}
	require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Exchange, actor), policy.ReasonEndedByAdmin, "root"))
	for tokenType, token := range tokens {
		r := s.TokenExchange(optest.Exchange, subject.AccessToken(), optest.AccessTokenType, form(token, tokenType))
		require.Equal(t, "invalid_request", r.Error(), "%s: %s", tokenType, r.Body)
	}
}

// A device code is no way back for a grant that was revoked.
func TestARevokedDeviceGrantDoesNotComeBack(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) {
		p.Kind = func(context.Context, provider.Login) policy.Kind { return policy.Browser } // whose last grant does not end it
	})
	started := s.DeviceStart(optest.Native)
	s.DeviceApprove(started, "alice")
	r := ok(t, s.DevicePoll(optest.Native, started))
	require.Equal(t, http.StatusOK, s.Revoke(optest.Native, r.RefreshToken(), "").Status)
	require.Len(t, s.live(t, "alice"), 1)
	again := s.DevicePoll(optest.Native, started)
	require.Equal(t, "access_denied", again.Error(), "%s", again.Body)
	require.Equal(t, policy.ReasonRevoked, policy.ReasonOf(again.Description()))
}

// Rule 5, where the provider answers with a client that the hook never wrapped.
func TestAnIDTokenOfAnUnwrappedClientDoesNotOutliveItsSession(t *testing.T) {
	t.Parallel()
	for _, responseType := range []string{"id_token", "id_token token"} {
		s := start(t, limits(20*time.Minute, 0, 0, 0), func(_ *provider.Config, o *optest.Config) { o.OwnResponse = true })
		v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {responseType}})
		token := v.Params.Get("id_token")
		if token == "" {
			continue // refused, which is safe
		}
		exp, _ := s.ParseIDToken(optest.Implicit, token)["exp"].(float64)
		require.LessOrEqual(t, int64(exp), time.Now().Add(20*time.Minute).Unix(), responseType)
	}
}

// A native client's login is a login of its own, and counts, also where the
// browser that it went through has a session already.
func TestANativeLoginThroughASignedInBrowserTakesASlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(0, 0, 2, policy.Refuse), ssoKnown)
		b := s.Browser()
		web := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		native := ok(t, s.Code(optest.Native, b.Login(optest.Native, "alice", nil)))
		require.NotEqual(t, s.sid(t, optest.Web, web), s.sid(t, optest.Native, native))
		require.Len(t, s.live(t, "alice"), 2)
	})
}

// A refresh token of one issuer at another one of the same provider.
func TestASessionIsOfOneIssuer(t *testing.T) {
	t.Parallel()
	s, d := startDirect(t, policy.Account{}, nil)
	r := s.Login(optest.Web, "alice")
	var err error
	d.call = func(ctx context.Context, storage op.Storage) {
		ctx = op.ContextWithIssuer(ctx, "https://other.example")
		var req op.RefreshTokenRequest
		if req, err = storage.TokenRequestByRefreshToken(ctx, r.RefreshToken()); err != nil {
			return
		}
		_, _, _, err = storage.CreateAccessAndRefreshTokens(ctx, req, r.RefreshToken())
	}
	s.do(t)
	require.Error(t, err, "a token of https://other.example for a session of %s", s.Issuer)
}

// Rules 1 and 3: logins that join one session of the provider's, at once, while
// it is ended under them.
func TestRacingJoinsShareOneSlot(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Refuse), func(p *provider.Config, _ *optest.Config) {
		p.SSOSession = func(_ context.Context, l provider.Login) string {
			if l.AuthRequest == nil {
				return ""
			}
			return "the browser"
		}
	})
	replies := make([]optest.Reply, 32)
	parallel(len(replies)+1, func(i int) {
		if i == len(replies) {
			_, _ = s.hook.EndAll(context.Background(), s.subject("alice"), policy.ReasonEndedByUser, "alice")
			return
		}
		v := s.Browser().Login([]string{optest.Web, optest.Web2}[i%2], "alice", nil)
		if v.Code() != "" {
			replies[i] = s.Code([]string{optest.Web, optest.Web2}[i%2], v)
		}
	})
	live := s.live(t, "alice")
	require.LessOrEqual(t, len(live), 1)
	for i, r := range replies {
		if r.Status == http.StatusOK {
			active := len(live) == 1 && live[0].ID == s.rawSID(t, r)
			require.Equal(t, active, s.Introspect([]string{optest.Web, optest.Web2}[i%2], r.AccessToken()).JSON["active"])
		}
	}
}

// Rule 4: what was on its way when EndAll was called is dead when it returns.
func TestEndAllLeavesNothingThatCameBeforeIt(t *testing.T) {
	t.Parallel()
	for name, concurrent := range map[string]int{"no cap": 0, "cap": 50} {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(0, 0, concurrent, policy.Refuse), nil)
			visits := make([]optest.Visit, 16)
			for i := range visits {
				visits[i] = s.Browser().Login(optest.Web, "alice", nil)
				require.NotEmpty(t, visits[i].Code())
			}
			replies := make([]optest.Reply, len(visits))
			parallel(len(visits)+1, func(i int) {
				if i == len(visits) {
					_, err := s.hook.EndAll(context.Background(), s.subject("alice"), policy.ReasonCredentialChange, "root")
					if err != nil {
						t.Error(err)
					}
					return
				}
				replies[i] = s.Code(optest.Web, visits[i])
			})
			require.Empty(t, s.live(t, "alice"))
			for _, r := range replies {
				if r.Status != http.StatusOK {
					require.Equal(t, policy.ReasonCredentialChange, policy.ReasonOf(r.Description()), "%s", r.Body)
					continue
				}
				refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonCredentialChange)
				require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, r.AccessToken()).JSON)
			}
		})
	}
}

// Rule 1 on the way without a callback: token creation is what nobody gets round.
func TestRacingFirstTokensKeepTheCap(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 3, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
		o.OwnResponse, o.Wrap = true, optest.Foreign
	})
	parallel(40, func(i int) {
		switch i % 4 {
		case 0:
			if v := s.Browser().Login(optest.Implicit, "admin", url.Values{"response_type": {"code"}}); v.Code() != "" {
				s.Code(optest.Implicit, v)
			}
		case 1:
			s.Browser().Login(optest.Implicit, "admin", url.Values{"response_type": {"id_token token"}})
		case 2:
			s.Browser().Login(optest.Implicit, "admin", url.Values{"response_type": {"id_token"}})
		case 3:
			s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.IDTokenType}})
		}
	})
	require.Len(t, s.live(t, "admin"), 3)
}

// The hook's own scope gets nowhere, whatever a client's restriction returns.
func TestTheHooksScopeStaysInside(t *testing.T) {
	t.Parallel()
	backing := make([]string, 0, 16)
	alias := &optest.Client{
		ID: optest.Web, Auth: oidc.AuthMethodBasic, Redirects: []string{optest.RedirectURI}, NoProd: true,
		Responses: []oidc.ResponseType{oidc.ResponseTypeCode}, Grants: []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken},
		IDClaims: true, ExtraScopes: []string{"curfew:session"},
		RestrictID: func(scopes []string) []string { return append(backing[:0], scopes...) },
	}
	s := start(t, policy.Account{}, func(_ *provider.Config, o *optest.Config) { o.Storage = optest.NewStorage(alias) })
	r := ok(t, s.Code(optest.Web, s.Browser().Login(optest.Web, "alice", nil)))
	require.NotContains(t, r.String("scope"), "curfew")
	require.NotContains(t, fmt.Sprint(backing[:cap(backing)]), "curfew")
	r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	require.NotContains(t, r.String("scope"), "curfew")
	require.NotContains(t, fmt.Sprint(s.Introspect(optest.Web, r.AccessToken()).JSON["scope"]), "curfew")
	require.NotContains(t, fmt.Sprint(s.ParseIDToken(optest.Web, r.IDToken())), "curfew:session")
}

// For an exchange of a subject without a session: the retry of
// a client whose first answer was lost is not one login too many.
func TestAnExchangeThatIsRetriedTakesOneSlot(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]string{"the storage fails": "CreateAccessToken", "the store's answer is lost": ""} {
		t.Run(name, func(t *testing.T) {
			faulty := faultstore.New(memstore.New())
			failing := true
			s := start(t, limits(0, 0, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
				p.Store = faulty
				o.Wrap = func(s *optest.Storage) op.Storage {
					return foreignStorage{&optest.Intercepted{Storage: s, Before: func(_ context.Context, method string) error {
						if failing && method == broken {
							return errors.New("out of order")
						}
						return nil
					}}}
				}
			})
			if broken == "" {
				faulty.Script(faultstore.Once(faulty.Calls()+3, faultstore.After)) // the first step, and what has ended, come before
			}
			exchange := func() optest.Reply {
				return s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}})
			}
			require.GreaterOrEqual(t, exchange().Status, 500)
			failing = false
			ok(t, exchange())
			require.Len(t, s.live(t, "admin"), 1)
		})
	}
}

type foreignStorage struct{ *optest.Intercepted }

func (s foreignStorage) VerifyExchangeSubjectToken(_ context.Context, token string, _ oidc.TokenType) (string, string, map[string]any, error) {
	name, _ := strings.CutPrefix(token, optest.ForeignToken(""))
	return token, optest.SubjectOf(name), nil, nil
}

func (s foreignStorage) VerifyExchangeActorToken(ctx context.Context, token string, t oidc.TokenType) (string, string, map[string]any, error) {
	return s.VerifyExchangeSubjectToken(ctx, token, t)
}

// Observing ends and refuses nothing, whatever the limit.
func TestObservingDurationsEndsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := limits(time.Hour, 30*time.Minute, 1, policy.EndOldest)
		a.Observe = true
		s := start(t, a, func(p *provider.Config, o *optest.Config) {
			ssoKnown(p, o)
			nonRotating(p, o)
		})
		b := s.Browser()
		r := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		time.Sleep(2 * time.Hour)
		require.NoError(t, s.hook.Sweep(t.Context()))
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
		require.NotContains(t, s.ParseIDToken(optest.Web, r.IDToken()), "session_expiry")
		require.NotEmpty(t, b.Authorize(optest.Web2, nil).Code())
		s.Login(optest.Web, "alice")
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Len(t, s.live(t, "alice"), 2)
		require.Empty(t, s.seen(provider.EventEnded))
		require.NotEmpty(t, s.seen(provider.EventWouldRefuse))
	})
}
