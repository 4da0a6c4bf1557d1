package provider_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
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
)

// expiry is the "exp" of a JWT, as who verifies it offline sees it.
func expiry(t testing.TB, jwt string) time.Time {
	t.Helper()
	parts := strings.Split(jwt, ".")
	require.Len(t, parts, 3)
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	var claims struct {
		Expires int64 `json:"exp"`
	}
	require.NoError(t, json.Unmarshal(payload, &claims))
	return time.Unix(claims.Expires, 0)
}

// Rules 5 and 10: an answer that is given again under a shorter limit is bound by
// that, whatever it was the first time.
func TestARepeatedAnswerKeepsToTheLimitsOfNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 0, 0, 0), inMemory)
		first := s.Login(optest.JWT, "alice")
		end := time.Now().Add(time.Hour)
		time.Sleep(time.Hour - time.Minute)
		r := ok(t, s.Refresh(optest.JWT, first.RefreshToken()))
		require.True(t, expiry(t, r.AccessToken()).After(end))
		s.set(limits(time.Hour, 0, 0, 0))
		again := ok(t, s.Refresh(optest.JWT, first.RefreshToken()))
		require.Equal(t, r.RefreshToken(), again.RefreshToken())
		require.False(t, expiry(t, again.AccessToken()).After(end), "it outlives its session")
		expiresIn, _ := again.Number("expires_in")
		require.LessOrEqual(t, expiresIn, time.Until(end).Seconds())
	})
}

// Rule 5: an ID token that is exchanged for is the client's that asks. Where its
// own limits are over it is refused, as an access token is.
func TestAnExchangeForAnIDTokenIsBoundByTheClientThatAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		account := limits(24*time.Hour, 0, 0, 0)
		account.Clients = map[string]policy.Limits{optest.Exchange: {Active: policy.LimitTo(time.Hour)}}
		s := start(t, account, inMemory)
		r := s.Login(optest.Web, "admin")
		time.Sleep(2 * time.Hour)
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		for _, want := range []string{optest.AccessTokenType, optest.IDTokenType} {
			x := s.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType, url.Values{"requested_token_type": {want}})
			require.Equal(t, "invalid_request", x.Error(), "%s: %s", want, x.Body)
			require.Equal(t, policy.ReasonActiveLimit, policy.ReasonOf(x.Description()), "%s: %s", want, x.Body)
		}
	})
}

// Rule 5: what rests on an older authentication keeps its end, an ID token that
// comes from the authorization endpoint too.
func TestAnIDTokenAloneRestsOnItsOwnAuthentication(t *testing.T) {
	t.Parallel()
	for name, asked := range map[string]time.Duration{"near the end": 3*time.Hour + 30*time.Minute, "after the end": 5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(4*time.Hour, 0, 0, 0), silentInMemory)
				b := s.Browser()
				began := time.Now()
				s.loginIn(t, b, optest.Web, "alice", nil)
				callback := s.atCallback(t, b, optest.Implicit, url.Values{"response_type": {"id_token"}})
				time.Sleep(3 * time.Hour)
				s.loginIn(t, b, optest.Web, "alice", url.Values{"prompt": {"login"}})
				time.Sleep(time.Until(began.Add(asked)))
				v := b.Get(callback)
				if asked > 4*time.Hour {
					require.Equal(t, "login_required", v.Error(), "%v", v.Params)
					require.Equal(t, policy.ReasonActiveLimit, policy.ReasonOf(v.Description()))
					return
				}
				require.NotEmpty(t, v.Params.Get("id_token"), v.Description())
				require.False(t, expiry(t, v.Params.Get("id_token")).After(began.Add(4*time.Hour)))
			})
		})
	}
}

// atCallback makes an authorization request that the provider's sign-on answers,
// and stops in front of the callback.
func (s *setup) atCallback(t testing.TB, b *optest.Browser, client string, extra url.Values) string {
	t.Helper()
	address := s.AuthorizeURL(client, extra)
	for !strings.Contains(address, "/callback?") {
		resp, err := b.HTTP.Get(address)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		next, err := resp.Location()
		require.NoError(t, err, "%d at %s", resp.StatusCode, address)
		address = next.String()
	}
	return address
}

// Rule 9: a session that is over ended of that, whoever comes to sign out of it
// next.
func TestRevokingATokenOfASessionThatIsOverDoesNotHideWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemory)
		r := ok(t, s.DeviceLogin(optest.Native, "alice"))
		end := time.Now().Add(2 * time.Hour).UTC()
		time.Sleep(3 * time.Hour)
		require.Equal(t, http.StatusOK, s.Revoke(optest.Native, r.RefreshToken(), "").Status)
		session, err := s.store.Get(t.Context(), s.sidOf(t, "alice"))
		require.NoError(t, err)
		require.NotNil(t, session.End)
		require.Equal(t, policy.ReasonInactivity, session.End.Reason)
		require.Equal(t, end, session.End.At)
	})
}

// sidOf is the ID of the one session that a user ever had.
func (s *setup) sidOf(t testing.TB, user string) string {
	t.Helper()
	page, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject(user)}, "", 10)
	require.NoError(t, err)
	require.Len(t, page, 1)
	return page[0].ID
}

// failingToCreate is a storage that cannot make tokens as long as failing is true.
func failingToCreate(failing *bool) func(*provider.Config, *optest.Config) {
	return func(_ *provider.Config, o *optest.Config) {
		o.InMemory = true
		o.Wrap = func(s *optest.Storage) op.Storage {
			return &optest.Intercepted{Storage: s, Before: func(_ context.Context, method string) error {
				if *failing && strings.HasPrefix(method, "CreateAccess") {
					return errors.New("out of order")
				}
				return nil
			}}
		}
	}
}

// A login that got no token because the storage failed is none: it keeps nobody
// out, once whoever asked has had time to ask again.
func TestALoginLeavesNoSlotWithoutAToken(t *testing.T) {
	t.Parallel()
	device := func(s *setup) (token string) { return s.DeviceLogin(optest.Native, "alice").AccessToken() }
	implicit := func(s *setup) (token string) {
		return s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token token"}}).Params.Get("access_token")
	}
	for name, c := range map[string]struct {
		login       func(s *setup) (token string)
		ownResponse bool
	}{
		"device":                                {device, false},
		"implicit":                              {implicit, false},
		"implicit, the provider answers itself": {implicit, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failing := true
				s := start(t, limits(0, 0, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
					failingToCreate(&failing)(p, o)
					o.OwnResponse = c.ownResponse
				})
				require.Empty(t, c.login(s))
				failing = false
				require.Empty(t, s.live(t, "alice"), "a slot without a token")
				require.Empty(t, s.seen(provider.EventStarted))
				time.Sleep(time.Minute)
				require.NotEmpty(t, c.login(s))
				require.Len(t, s.live(t, "alice"), 1)
				require.Len(t, s.seen(provider.EventStarted), 1)
			})
		})
	}
}

// op takes an approved device code for ever. One that got no token in its time is
// late, as one that was never polled.
func TestADeviceCodeThatGotNothingExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		failing := true
		s := start(t, limits(0, 0, 1, policy.Refuse), failingToCreate(&failing))
		started := s.DeviceStart(optest.Native)
		s.DeviceApprove(started, "alice")
		require.Equal(t, "server_error", s.DevicePoll(optest.Native, started).Error())
		failing = false
		time.Sleep(time.Hour)
		require.Equal(t, "expired_token", s.DevicePoll(optest.Native, started).Error())
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Equal(t, "expired_token", s.DevicePoll(optest.Native, started).Error())
		require.Empty(t, s.live(t, "alice"))
	})
}

// Rule 4: a token is of the subject of its session. What op hands on is its word
// alone: the AES-CFB that it still reads does not authenticate the subject in an
// opaque token.
func TestATokenIsOfTheSubjectOfItsSession(t *testing.T) {
	t.Parallel()
	s, d := startDirect(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	r := s.Login(optest.JWT, "alice")
	claims := map[string]any{}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(r.AccessToken(), ".")[1])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(payload, &claims))
	id := claims["jti"].(string)
	for who, want := range map[string]bool{"alice": true, "admin": false} {
		var introspection, userinfo error
		d.call = func(ctx context.Context, storage op.Storage) {
			introspection = storage.SetIntrospectionFromToken(ctx, &oidc.IntrospectionResponse{}, id, optest.SubjectOf(who), optest.JWT)
			userinfo = storage.SetUserinfoFromToken(ctx, &oidc.UserInfo{}, id, optest.SubjectOf(who), "")
		}
		s.do(t)
		require.Equal(t, want, introspection == nil, "%s: %v", who, introspection)
		require.Equal(t, want, userinfo == nil, "%s: %v", who, userinfo)
	}
}

// The same with the cipher itself: alice's token becomes another user's by
// flipping bits of its last block.
func TestASubjectThatWasFlippedIsNobody(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
		//lint:ignore SA1019 the cipher without authentication is what is attacked
		o.Options = append(o.Options, op.WithCrypto(op.NewAESCrypto([32]byte{1})))
	})
	r := s.Login(optest.Exchange, "alice")
	raw, err := base64.RawURLEncoding.DecodeString(r.AccessToken())
	require.NoError(t, err)
	is, want := optest.SubjectOf("alice"), optest.SubjectOf("admin")
	require.Equal(t, len(is), len(want))
	for i := range is {
		raw[len(raw)-len(is)+i] ^= is[i] ^ want[i]
	}
	flipped := base64.RawURLEncoding.EncodeToString(raw)
	ok(t, s.Userinfo(r.AccessToken()))
	require.Equal(t, http.StatusUnauthorized, s.Userinfo(flipped).Status)
	require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Exchange, flipped).JSON)
	x := s.TokenExchange(optest.Exchange, flipped, optest.AccessTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}})
	require.Equal(t, "invalid_request", x.Error(), "%s", x.Body)
	require.Empty(t, s.live(t, "admin"))
}

// Rule 1, and the limits of a kind: where Config.Kind tells applications of one
// browser apart, no login gets round the limits of its kind by joining a session of
// another one.
func TestALoginOfAnotherKindDoesNotJoin(t *testing.T) {
	t.Parallel()
	const kiosk = policy.CLI
	account := limits(24*time.Hour, 2*time.Hour, 0, 0)
	account.Kinds = map[policy.Kind]policy.Limits{kiosk: {Concurrent: policy.LimitTo(1), AtLimit: policy.Refuse, Inactivity: policy.LimitTo(15 * time.Minute)}}
	synctest.Test(t, func(t *testing.T) {
		s := start(t, account, func(p *provider.Config, o *optest.Config) {
			o.InMemory = true
			p.Kind = func(_ context.Context, l provider.Login) policy.Kind {
				if l.Client.GetID() == optest.Web2 {
					return kiosk
				}
				return policy.Browser
			}
		})
		first, second := s.Browser(), s.Browser()
		free := s.loginIn(t, first, optest.Web, "alice", nil)
		s.loginIn(t, second, optest.Web, "alice", nil)
		r := s.loginIn(t, first, optest.Web2, "alice", nil)
		require.NotEqual(t, s.sid(t, optest.Web, free), s.sid(t, optest.Web2, r))
		v := second.Login(optest.Web2, "alice", nil)
		require.Equal(t, "access_denied", v.Error(), "the cap of one is reached")
		require.Contains(t, v.Description(), "used=1 max=1")
		time.Sleep(time.Hour)
		refusedFor(t, s.Refresh(optest.Web2, r.RefreshToken()), policy.ReasonInactivity)
		ok(t, s.Refresh(optest.Web, free.RefreshToken()))

	})
}

// Two tabs of one browser that arrive at once meet under the name of the older one,
// whichever comes first and is redeemed first, unless the caps that count the one do
// not count the other. No reload and no lost cookie is a way round that.
func TestTabsDoNotMeetWhereACapTellsThemApart(t *testing.T) {
	t.Parallel()
	account := limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse)
	account.Clients = map[string]policy.Limits{optest.Web: {Concurrent: policy.Unlimited[int]()}}
	for name, c := range map[string]struct{ first, second string }{
		"the older is free, and first":      {optest.Web, optest.Web2},
		"the older is counted, and is last": {optest.Web2, optest.Web},
	} {
		for _, cookies := range []string{"of before", "all", "none"} {
			t.Run(name+", cookies "+cookies, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					storage := optest.NewStorage()
					s := start(t, account, func(_ *provider.Config, o *optest.Config) { o.InMemory, o.Storage = true, storage })
					b := s.Browser()
					callbacks := map[string]string{}
					for _, client := range []string{c.first, c.second} {
						callbacks[client] = s.finished(t, b, storage, client, "alice", nil)
						time.Sleep(time.Second)
					}
					before := slices.Collect(maps.Values(s.cookies(b)))
					web := b.Get(callbacks[optest.Web])
					if cookies != "all" {
						clearCookies(b)
					}
					if cookies == "of before" {
						s.plant(b, before...)
					}
					web2 := b.Get(callbacks[optest.Web2])
					web2 = b.Get(web2.Callback) // once more
					require.NotEqual(t, s.sid(t, optest.Web, ok(t, s.Code(optest.Web, web))), s.sid(t, optest.Web2, ok(t, s.Code(optest.Web2, web2))))
					require.Len(t, s.live(t, "alice"), 2)
					require.Equal(t, "access_denied", s.Browser().Login(optest.Web2, "alice", nil).Error(), "the cap of one is reached")
				})
			})
		}
	}
}

// The same of two logins of one client, whose kinds differ: what tells them apart may
// be in the request.
func TestTabsOfOneClientDoNotMeetWhereTheirKindsDiffer(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]bool{"the older first": false, "the older last": true} {
		for _, cookies := range []string{"of before", "all", "none"} {
			t.Run(name+", cookies "+cookies, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					storage := optest.NewStorage()
					s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
						o.InMemory, o.Storage = true, storage
						p.Kind = func(_ context.Context, l provider.Login) policy.Kind {
							if l.AuthRequest != nil && !slices.Contains(l.AuthRequest.GetScopes(), "email") {
								return policy.Automation
							}
							return policy.Browser
						}
					})
					b := s.Browser()
					first := s.finished(t, b, storage, optest.Web, "alice", nil)
					time.Sleep(time.Second)
					second := s.finished(t, b, storage, optest.Web, "alice", url.Values{"scope": {"openid offline_access"}})
					if last { // the other one takes its name
						first, second = second, first
					}
					before := slices.Collect(maps.Values(s.cookies(b)))
					v := b.Get(first)
					if cookies != "all" {
						clearCookies(b)
					}
					if cookies == "of before" {
						s.plant(b, before...)
					}
					w := b.Get(second)
					require.NotEqual(t, s.sid(t, optest.Web, ok(t, s.Code(optest.Web, v))), s.sid(t, optest.Web, ok(t, s.Code(optest.Web, w))))
					kinds := map[policy.Kind]int{}
					for _, live := range s.live(t, "alice") {
						kinds[live.Kind]++
					}
					require.Equal(t, map[policy.Kind]int{policy.Browser: 1, policy.Automation: 1}, kinds)
				})
			})
		}
	}
}

// withACR is a storage whose auth requests say how the user signed in: the first of
// the acr_values that were asked for (OpenID Connect Core 1.0 section 3.1.2.1).
type withACR struct {
	*optest.Storage
	asked *sync.Map // by auth request
}

type acrRequest struct {
	*optest.AuthRequest
	acr string
}

func (r acrRequest) GetACR() string { return r.acr }

func (s withACR) CreateAuthRequest(ctx context.Context, req *oidc.AuthRequest, userID string) (op.AuthRequest, error) {
	made, err := s.Storage.CreateAuthRequest(ctx, req, userID)
	if err == nil && len(req.ACRValues) > 0 {
		s.asked.Store(made.GetID(), req.ACRValues[0])
	}
	return made, err
}

func (s withACR) wrap(r op.AuthRequest, err error) (op.AuthRequest, error) {
	if own, is := r.(*optest.AuthRequest); is && err == nil {
		acr, _ := s.asked.Load(own.GetID())
		text, _ := acr.(string)
		return acrRequest{own, text}, nil
	}
	return r, err
}

func (s withACR) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	return s.wrap(s.Storage.AuthRequestByID(ctx, id))
}

func (s withACR) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	return s.wrap(s.Storage.AuthRequestByCode(ctx, code))
}

func (s withACR) CreateAccessToken(ctx context.Context, r op.TokenRequest) (string, time.Time, error) {
	if own, is := r.(acrRequest); is {
		r = own.AuthRequest
	}
	return s.Storage.CreateAccessToken(ctx, r)
}

func (s withACR) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, current string) (string, string, time.Time, error) {
	if own, is := r.(acrRequest); is {
		r = own.AuthRequest
	}
	return s.Storage.CreateAccessAndRefreshTokens(ctx, r, current)
}

// RFC 9470 section 6.2: how the user signed in is a property of a token, not of the
// session that it is in. Who steps up for one application has not for the tokens of
// the others, and who then signs in the weaker way has not lost it for the first.
func TestAStepUpIsOfTheTokensThatWereAskedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			silentInMemory(p, o)
			o.Wrap = func(s *optest.Storage) op.Storage { return withACR{s, &sync.Map{}} }
		})
		b := s.Browser()
		tokens := map[string]optest.Reply{}
		logins := []struct{ client, acr string }{{optest.Web, "pwd"}, {optest.Exchange, "mfa"}, {optest.Web2, "pwd"}}
		for _, l := range logins {
			tokens[l.client] = s.loginIn(t, b, l.client, "admin", url.Values{"prompt": {"login"}, "acr_values": {l.acr}})
			time.Sleep(time.Minute)
		}
		require.Len(t, s.live(t, "admin"), 1)
		for _, l := range logins {
			r := tokens[l.client]
			require.Equal(t, l.acr, s.Introspect(l.client, r.AccessToken()).JSON["acr"], l.client)
			r = ok(t, s.Refresh(l.client, r.RefreshToken()))
			require.Equal(t, l.acr, s.Introspect(l.client, r.AccessToken()).JSON["acr"], "%s, refreshed", l.client)
			require.Equal(t, l.acr, s.ParseIDToken(l.client, r.IDToken())["acr"], "%s, refreshed", l.client)
		}
		for _, subject := range []struct{ token, tokenType string }{
			{tokens[optest.Exchange].AccessToken(), optest.AccessTokenType},
			{tokens[optest.Exchange].IDToken(), optest.IDTokenType},
		} {
			x := ok(t, s.TokenExchange(optest.Exchange, subject.token, subject.tokenType, url.Values{"requested_token_type": {optest.AccessTokenType}}))
			require.Equal(t, "mfa", s.Introspect(optest.Exchange, x.AccessToken()).JSON["acr"], subject.tokenType)
			x = ok(t, s.TokenExchange(optest.Exchange, subject.token, subject.tokenType, url.Values{"requested_token_type": {optest.IDTokenType}}))
			require.Equal(t, "mfa", s.ParseIDToken(optest.Exchange, x.AccessToken())["acr"], subject.tokenType)
		}
	})
}

// A service that asks for tokens about a user is limited as the client that it is.
func TestAnAssertionIsOfTheClientThatMadeIt(t *testing.T) {
	t.Parallel()
	assertion := &oidc.JWTTokenRequest{Issuer: optest.Service, Subject: optest.SubjectOf("alice"), Scopes: []string{"openid"}}
	account := limits(24*time.Hour, 0, 1, policy.Refuse)
	account.Clients = map[string]policy.Limits{optest.Service: {Concurrent: policy.Unlimited[int]()}}
	s, d := startDirect(t, account, nil)
	s.Login(optest.Web, "alice")
	var err error
	d.call = func(ctx context.Context, storage op.Storage) { _, _, err = storage.CreateAccessToken(ctx, assertion) }
	s.do(t)
	require.NoError(t, err, "its sessions are not counted")
	for _, session := range s.live(t, "alice") {
		if session.Kind == policy.Automation {
			require.Equal(t, optest.Service, session.Client)
		}
	}
	require.Len(t, s.live(t, "alice"), 2)
}

// Two issuers of one provider may have clients by the same ID. What is revoked at
// one of them is not the other one's.
func TestARevocationIsOfOneIssuer(t *testing.T) {
	t.Parallel()
	s, d := startDirect(t, policy.Account{}, nil)
	r := s.Login(optest.JWT, "alice")
	claims := map[string]any{}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(r.AccessToken(), ".")[1])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(payload, &claims))
	for _, token := range []string{r.RefreshToken(), claims["jti"].(string)} {
		d.call = func(ctx context.Context, storage op.Storage) {
			_ = storage.RevokeToken(op.ContextWithIssuer(ctx, "https://other.example"), token, optest.SubjectOf("alice"), optest.JWT)
		}
		s.do(t)
	}
	ok(t, s.Userinfo(r.AccessToken()))
	ok(t, s.Refresh(optest.JWT, r.RefreshToken()))
}

// Rule 12: a "sid" that another provider has put into its tokens is none of ours.
func TestASIDOfAnotherProviderNamesNoSession(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 3, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(s *optest.Storage) op.Storage { return foreignSID{s} }
	})
	for _, tokenType := range []string{optest.IDTokenType, optest.AccessTokenType} {
		x := ok(t, s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), tokenType, url.Values{"requested_token_type": {optest.AccessTokenType}}))
		ok(t, s.Userinfo(x.AccessToken()))
	}
	require.Len(t, s.live(t, "admin"), 2)
}

// foreignSID is a storage that vouches for the tokens of another provider, which has
// sessions too.
type foreignSID struct{ *optest.Storage }

func (s foreignSID) VerifyExchangeSubjectToken(_ context.Context, token string, _ oidc.TokenType) (string, string, map[string]any, error) {
	if token != optest.ForeignToken("admin") {
		return "", "", nil, errors.New("not known")
	}
	return token, optest.SubjectOf("admin"), map[string]any{"iss": "https://other.example", "sid": "0815", "jti": "1"}, nil
}

func (s foreignSID) VerifyExchangeActorToken(ctx context.Context, token string, typ oidc.TokenType) (string, string, map[string]any, error) {
	return s.VerifyExchangeSubjectToken(ctx, token, typ)
}

// Rules 4 and 5: a storage that vouches for any JWT it can verify does not make a new
// login of one whose session is over, nor of one that is live.
func TestAVouchedTokenOfOursStaysInItsSession(t *testing.T) {
	t.Parallel()
	const jwtType = "urn:ietf:params:oauth:token-type:jwt"
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(s *optest.Storage) op.Storage { return anyJWT{s} }
	})
	r := s.Login(optest.JWT, "admin")
	sid := s.sid(t, optest.JWT, r)
	exchange := func(token string) optest.Reply {
		return s.TokenExchange(optest.Exchange, token, jwtType, url.Values{"requested_token_type": {optest.AccessTokenType}})
	}
	for _, token := range []string{r.AccessToken(), r.IDToken()} {
		x := ok(t, exchange(token))
		require.Equal(t, sid, s.Introspect(optest.Exchange, x.AccessToken()).JSON["sid"])
	}
	require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
	for _, token := range []string{r.AccessToken(), r.IDToken()} {
		require.Equal(t, "invalid_request", exchange(token).Error())
	}
	require.Empty(t, s.live(t, "admin"))
}

// anyJWT is a storage that vouches for JWTs. (A real one verifies them first.)
type anyJWT struct{ *optest.Storage }

func (s anyJWT) VerifyExchangeSubjectToken(_ context.Context, token string, _ oidc.TokenType) (string, string, map[string]any, error) {
	claims := map[string]any{}
	if _, err := oidc.ParseToken(token, &claims); err != nil {
		return "", "", nil, err
	}
	subject, _ := claims["sub"].(string)
	return token, subject, claims, nil
}

func (s anyJWT) VerifyExchangeActorToken(ctx context.Context, token string, typ oidc.TokenType) (string, string, map[string]any, error) {
	return s.VerifyExchangeSubjectToken(ctx, token, typ)
}

// Rule 5: op writes whole seconds. In the last fraction of one a token would be over
// when it is issued, and so it is refused.
func TestNoTokenIsOverWhenItIsIssued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond)
		s := start(t, limits(10*time.Minute, 0, 0, 0), inMemoryNonRotating)
		r := s.Login(optest.JWT, "alice")
		end := time.Now().Add(10 * time.Minute)
		for _, before := range []time.Duration{time.Minute, 1301 * time.Millisecond, 301 * time.Millisecond} {
			time.Sleep(time.Until(end.Add(-before)))
			r = ok(t, s.Refresh(optest.JWT, r.RefreshToken()))
			for _, jwt := range []string{r.AccessToken(), r.IDToken()} {
				require.True(t, expiry(t, jwt).After(time.Now()), "%s before the end", before)
				require.False(t, expiry(t, jwt).After(end), "%s before the end", before)
			}
		}
		time.Sleep(time.Until(end.Add(-200 * time.Millisecond)))
		refusedFor(t, s.Refresh(optest.JWT, r.RefreshToken()), policy.ReasonActiveLimit)
	})
}

// hangs is a Config.OnEnd that does not return before its time is up.
func hangs(ctx context.Context, _ store.Session) error {
	<-ctx.Done()
	return ctx.Err()
}

// Rule 8: a provider whose own clean-up hangs is told again later. Who signs out has
// signed out.
func TestAHangingOnEndDoesNotHoldASignOutUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			o.InMemory = true
			p.OnEnd = hangs
		})
		b := s.Browser()
		r := s.loginIn(t, b, optest.Web, "alice", nil)
		v := b.EndSession(url.Values{"id_token_hint": {r.IDToken()}, "post_logout_redirect_uri": {optest.PostLogoutURI}, "state": {"s"}})
		require.Equal(t, "s", v.Params.Get("state"), "%d %s", v.Status, v.Body)
		require.Empty(t, s.live(t, "alice"))
		require.Empty(t, s.seen(provider.EventUnavailable))
	})
}

// The same for who signs in again after a session of the provider's own is over.
func TestAHangingOnEndDoesNotKeepItsUserOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			ssoKnown(p, o)
			p.OnEnd = hangs
		})
		b := s.Browser()
		s.loginIn(t, b, optest.Web, "alice", nil)
		time.Sleep(3 * time.Hour)
		s.loginIn(t, b, optest.Web, "alice", url.Values{"prompt": {"login"}})
		require.Len(t, s.live(t, "alice"), 1)
	})
}

// Rule 11: document size is bounded, where a provider says that the user signed in as
// acr_values asked, too.
func TestAnACRDoesNotBlowUpASession(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		silentInMemory(p, o)
		o.Wrap = func(s *optest.Storage) op.Storage { return withACR{s, &sync.Map{}} }
	})
	b := s.Browser()
	for _, acr := range []string{strings.Repeat("x", 100_000), "\xff", strings.Repeat("y", 100_000), "\x00"} {
		s.loginIn(t, b, optest.Web, "alice", url.Values{"prompt": {"login"}, "acr_values": {acr}})
	}
	document, err := json.Marshal(s.live(t, "alice")[0])
	require.NoError(t, err)
	require.Less(t, len(document), 10_000)
}

// A login that joins the session of the browser's cookie leaves word of that for the
// oldest tab. That it was left does not say that the tab may join.
func TestATabDoesNotFollowWhereACapTellsThemApart(t *testing.T) {
	t.Parallel()
	account := limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse)
	account.Clients = map[string]policy.Limits{optest.Web: {Concurrent: policy.Unlimited[int]()}}
	for _, cookies := range []bool{true, false} {
		storage := optest.NewStorage()
		s := start(t, account, func(_ *provider.Config, o *optest.Config) { o.InMemory, o.Storage = true, storage })
		b := s.Browser()
		free := s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil))
		counted := s.finished(t, b, storage, optest.Web2, "alice", nil)
		require.Equal(t, free, s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil)))
		if !cookies {
			clearCookies(b)
		}
		v := b.Get(counted)
		v = b.Get(v.Callback)
		require.NotEqual(t, free, s.sid(t, optest.Web2, ok(t, s.Code(optest.Web2, v))))
		require.Equal(t, "access_denied", s.Browser().Login(optest.Web2, "alice", nil).Error(), "the cap of one is reached")
	}
}

// An end that comes while the storage makes the tokens is in time: nobody is given
// tokens of a session that is over, which those who check JWTs offline would take.
func TestAnEndWhileTokensAreMadeIsInTime(t *testing.T) {
	t.Parallel()
	var end func() // the session, in the middle of the next request
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(s *optest.Storage) op.Storage {
			return &optest.Intercepted{Storage: s, Before: func(_ context.Context, method string) error {
				if method == "CreateAccessAndRefreshTokens" && end != nil {
					end()
					end = nil
				}
				return nil
			}}
		}
	})
	endAll := func() {
		_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonAccountDisabled, "root")
		require.NoError(t, err)
	}
	r := s.Login(optest.JWT, "alice")
	end = endAll
	refusedFor(t, s.Refresh(optest.JWT, r.RefreshToken()), policy.ReasonAccountDisabled)
	require.Nil(t, end)

	v := s.Browser().Login(optest.JWT, "alice", nil)
	end = endAll
	refusedFor(t, s.Code(optest.JWT, v), policy.ReasonAccountDisabled)
	require.Nil(t, end)
	require.Empty(t, s.live(t, "alice"))
}

// A keeper is a storage that revokes nothing.
type keeper struct{ *optest.Storage }

func (keeper) RevokeToken(context.Context, string, string, string) *oidc.Error { return nil }

// RFC 7009 section 2.1: with a refresh token its access tokens are revoked. The hook
// sees to it, whatever the storage does.
func TestAccessTokensGoWithTheirGrant(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(s *optest.Storage) op.Storage { return keeper{s} }
	})
	b := s.Browser()
	r := s.loginIn(t, b, optest.Web, "alice", nil)
	other := s.loginIn(t, b, optest.Web2, "alice", nil)
	for _, token := range []string{r.AccessToken(), r.RefreshToken()} { // nor does it look whose it is
		require.Equal(t, "invalid_client", s.Revoke(optest.Web2, token, "").Error())
	}
	require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
	require.Equal(t, http.StatusOK, s.Revoke(optest.Web, r.RefreshToken(), "").Status)
	require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, r.AccessToken()).JSON)
	require.Equal(t, http.StatusUnauthorized, s.Userinfo(r.AccessToken()).Status)
	refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonRevoked)

	require.Len(t, s.live(t, "alice"), 1)
	require.Equal(t, http.StatusOK, s.Userinfo(other.AccessToken()).Status)
	ok(t, s.Refresh(optest.Web2, other.RefreshToken()))
}

// A storage that takes its time does not carry a session over its end: what is
// written after the end is no activity.
func TestASlowStorageDoesNotBringASessionBack(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(s *setup, token string) optest.Reply{
		"introspection": func(s *setup, token string) optest.Reply { return s.Introspect(optest.Web, token) },
		"userinfo":      func(s *setup, token string) optest.Reply { return s.Userinfo(token) },
	} {
		for takes, live := range map[time.Duration]bool{0: true, 2 * time.Second: false} {
			t.Run(fmt.Sprintf("%s %s", name, takes), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := start(t, limits(24*time.Hour, 4*time.Minute, 0, 0), func(_ *provider.Config, o *optest.Config) {
						o.InMemory, o.Wrap = true, func(s *optest.Storage) op.Storage {
							return &optest.Intercepted{Storage: s, Before: func(_ context.Context, method string) error {
								if strings.HasSuffix(method, "FromToken") {
									time.Sleep(takes)
								}
								return nil
							}}
						}
					})
					r := s.Login(optest.Web, "alice") // its access token is good for two minutes
					s.set(limits(24*time.Hour, 100*time.Second, 0, 0))
					time.Sleep(99 * time.Second)
					require.Equal(t, http.StatusOK, use(s, r.AccessToken()).Status)
					time.Sleep(10 * time.Second)
					next := s.Refresh(optest.Web, r.RefreshToken())
					if live {
						ok(t, next)
						return
					}
					refusedFor(t, next, policy.ReasonInactivity)
				})
			})
		}
	}
}

// Rule 5 where the clock that auth_time is from runs ahead of ours: no login lasts
// longer for it, neither one that begins nor one that is renewed.
func TestAnAuthTimeAheadMovesNoEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours := func() time.Time { return time.Now().Add(-time.Hour) }
		s := start(t, limits(24*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Now = ours
		})
		b := s.Browser()
		for _, extra := range []url.Values{nil, {"prompt": {"login"}}} {
			r := s.loginIn(t, b, optest.Web, "alice", extra)
			end := s.ParseIDToken(optest.Web, r.IDToken())["session_expiry"].(float64)
			require.LessOrEqual(t, int64(end), ours().Add(24*time.Hour).Unix(), "%v", extra)
			time.Sleep(time.Minute)
		}
		require.Len(t, s.live(t, "alice"), 1)
	})
}

// Rule 11: what is kept for a repeat goes with the session, for which nothing is
// repeated any more.
func TestNothingIsKeptForARepeatAfterTheEnd(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	r := ok(t, s.Refresh(optest.Web, s.Login(optest.Web, "alice").RefreshToken()))
	kept := func() []byte {
		session, err := s.store.Get(t.Context(), s.sid(t, optest.Web, r))
		require.NoError(t, err)
		require.Len(t, session.Grants, 1)
		return session.Grants[0].Repeat
	}
	require.NotEmpty(t, kept())
	require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, r), policy.ReasonEndedByUser, "alice"))
	require.Empty(t, kept())
}
