package provider_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/client/rp"
	"github.com/zitadel/oidc/v3/pkg/client/tokenexchange"
	zoidc "github.com/zitadel/oidc/v3/pkg/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// An application signs its users in with a library that others wrote, which checks
// every ID token.
type application interface {
	authURL(params url.Values) string
	redeem(code string) (tokens, error)
	refresh(token string) (tokens, error)
	userinfo(t tokens) error
	// device signs in by the device grant, and calls approve with the address at
	// which the user is to do that.
	device(approve func(address string)) error
}

// tokens are what an application got.
type tokens struct {
	access, refresh, subject string
	expires                  time.Time
	claims                   map[string]any // of the ID token
}

var scopes = []string{oidc.ScopeOpenID, oidc.ScopeOfflineAccess}

// libraries make an application for a client.
var libraries = map[string]func(t *testing.T, s *setup, client, secret string) application{
	"go-oidc and oauth2": func(t *testing.T, s *setup, client, secret string) application {
		ctx := oidc.ClientContext(context.Background(), s.HTTP)
		op, err := oidc.NewProvider(ctx, s.Issuer)
		require.NoError(t, err)
		return &goOIDC{ctx, op, &oauth2.Config{
			ClientID: client, ClientSecret: secret, RedirectURL: optest.RedirectURI, Endpoint: op.Endpoint(), Scopes: scopes,
		}}
	},
	"zitadel's rp": func(t *testing.T, s *setup, client, secret string) application {
		party, err := rp.NewRelyingPartyOIDC(context.Background(), s.Issuer, client, secret, optest.RedirectURI, scopes, rp.WithHTTPClient(s.HTTP))
		require.NoError(t, err)
		return zitadels{party}
	},
}

// verifier is the same for all: each application here is one test's own.
var verifier = oauth2.GenerateVerifier()

type goOIDC struct {
	ctx    context.Context
	op     *oidc.Provider
	config *oauth2.Config
}

func (a *goOIDC) authURL(params url.Values) string {
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	for name := range params {
		options = append(options, oauth2.SetAuthURLParam(name, params.Get(name)))
	}
	return a.config.AuthCodeURL("state", options...)
}

func (a *goOIDC) checked(t *oauth2.Token, err error) (tokens, error) {
	if err != nil {
		return tokens{}, err
	}
	raw, _ := t.Extra("id_token").(string)
	id, err := a.op.Verifier(&oidc.Config{ClientID: a.config.ClientID}).Verify(a.ctx, raw)
	if err != nil {
		return tokens{}, err
	}
	got := tokens{access: t.AccessToken, refresh: t.RefreshToken, subject: id.Subject, expires: t.Expiry}
	return got, id.Claims(&got.claims)
}

func (a *goOIDC) redeem(code string) (tokens, error) {
	return a.checked(a.config.Exchange(a.ctx, code, oauth2.VerifierOption(verifier)))
}

func (a *goOIDC) refresh(token string) (tokens, error) {
	return a.checked(a.config.TokenSource(a.ctx, &oauth2.Token{RefreshToken: token}).Token())
}

func (a *goOIDC) userinfo(t tokens) error {
	_, err := a.op.UserInfo(a.ctx, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: t.access}))
	return err
}

func (a *goOIDC) device(approve func(string)) error {
	d, err := a.config.DeviceAuth(a.ctx)
	if err != nil {
		return err
	}
	approve(d.VerificationURIComplete)
	_, err = a.config.DeviceAccessToken(a.ctx, d)
	return err
}

type zitadels struct{ rp.RelyingParty }

func (a zitadels) authURL(params url.Values) string {
	options := []rp.AuthURLOpt{rp.WithCodeChallenge(oauth2.S256ChallengeFromVerifier(verifier))}
	for name := range params {
		options = append(options, rp.AuthURLOpt(rp.WithURLParam(name, params.Get(name))))
	}
	return rp.AuthURL("state", a, options...)
}

func (a zitadels) checked(t *zoidc.Tokens[*zoidc.IDTokenClaims], err error) (tokens, error) {
	if err != nil {
		return tokens{}, err
	}
	claims := map[string]any{
		"sid": t.IDTokenClaims.SessionID, "sub": t.IDTokenClaims.Subject,
		"auth_time": float64(t.IDTokenClaims.AuthTime), "session_expiry": t.IDTokenClaims.Claims["session_expiry"],
	}
	return tokens{t.AccessToken, t.RefreshToken, t.IDTokenClaims.Subject, t.Expiry, claims}, nil
}

func (a zitadels) redeem(code string) (tokens, error) {
	return a.checked(rp.CodeExchange[*zoidc.IDTokenClaims](context.Background(), code, a, rp.WithCodeVerifier(verifier)))
}

func (a zitadels) refresh(token string) (tokens, error) {
	return a.checked(rp.RefreshTokens[*zoidc.IDTokenClaims](context.Background(), a, token, "", ""))
}

func (a zitadels) userinfo(t tokens) error {
	_, err := rp.Userinfo[*zoidc.UserInfo](context.Background(), t.access, "Bearer", t.subject, a)
	return err
}

func (a zitadels) device(approve func(string)) error {
	d, err := rp.DeviceAuthorization(context.Background(), scopes, a, nil)
	if err != nil {
		return err
	}
	approve(d.VerificationURIComplete)
	_, err = rp.DeviceAccessToken(context.Background(), d.DeviceCode, time.Duration(d.Interval)*time.Second, a)
	return err
}

// A refusedLogin is an answer to an authorization request without a code.
type refusedLogin struct{ code, description string }

func (e *refusedLogin) Error() string { return e.code + ": " + e.description }

// errorOf returns the OAuth error in an error of a library.
func errorOf(t *testing.T, err error) (code, description string) {
	t.Helper()
	var login *refusedLogin
	var retrieve *oauth2.RetrieveError
	var own *zoidc.Error
	switch {
	case errors.As(err, &login):
		return login.code, login.description
	case errors.As(err, &retrieve):
		return retrieve.ErrorCode, retrieve.ErrorDescription
	case errors.As(err, &own):
		return string(own.ErrorType), own.Description
	}
	require.Fail(t, "no OAuth error", "%v", err)
	return "", ""
}

func refusedWith(t *testing.T, err error, code string, reason policy.Reason) string {
	t.Helper()
	is, description := errorOf(t, err)
	require.Equal(t, code, is, description)
	require.Equal(t, reason, policy.ReasonOf(description), description)
	return description
}

// signIn signs a user in at an application, up to its tokens.
func signIn(b *optest.Browser, a application, user string, params url.Values) (tokens, error) {
	v := b.Get(a.authURL(params))
	if v.AtForm() {
		v = b.SignIn(v, user)
	}
	if v.Code() == "" {
		return tokens{}, &refusedLogin{v.Error(), v.Description()}
	}
	return a.redeem(v.Code())
}

// The acceptance tests of the issue, as applications with other people's libraries
// see them: peers.md section 5, by number.
func TestPeersBugsWithRealClients(t *testing.T) {
	day := limits(24*time.Hour, 2*time.Hour, 0, 0)
	type world struct {
		*setup
		app application
		new func(client, secret string) application
		// login signs alice in, in a browser of her own.
		login func(t *testing.T) tokens
	}
	in := func(t *testing.T, w world, got tokens) {
		t.Helper()
		require.NoError(t, w.app.userinfo(got))
	}
	for name, test := range map[string]struct {
		limits policy.Account
		change func(*provider.Config, *optest.Config)
		run    func(t *testing.T, w world)
	}{
		"1 parallel logins, refused": {limits(0, 0, 3, policy.Refuse), nil, func(t *testing.T, w world) {
			errs := make([]error, 64)
			parallel(64, func(i int) { _, errs[i] = signIn(w.Browser(), w.app, "alice", nil) })
			admitted := 0
			for _, err := range errs {
				if err == nil {
					admitted++
					continue
				}
				require.Contains(t, refusedWith(t, err, "access_denied", policy.ReasonConcurrency), "used=3 max=3")
			}
			require.Equal(t, 3, admitted)
			require.Len(t, w.live(t, "alice"), 3)
		}},
		"1 parallel logins, evicted": {limits(0, 0, 3, policy.EndOldest), nil, func(t *testing.T, w world) {
			got, errs := make([]tokens, 64), make([]error, 64)
			parallel(64, func(i int) { got[i], errs[i] = signIn(w.Browser(), w.app, "alice", nil) })
			live := 0
			for i, err := range errs {
				if err == nil {
					if _, err = w.app.refresh(got[i].refresh); err == nil {
						live++
						continue
					}
				}
				refusedWith(t, err, "invalid_grant", policy.ReasonConcurrency)
			}
			require.Equal(t, 3, live)
			require.Len(t, w.live(t, "alice"), 3)
		}},
		"2 a lowered cap": {limits(0, 0, 50, policy.EndOldest), nil, func(t *testing.T, w world) {
			var all []tokens
			for range 40 {
				all = append(all, w.login(t))
				time.Sleep(time.Second) // which one is the oldest
			}
			w.set(limits(0, 0, 5, policy.EndOldest))
			all = append(all, w.login(t))
			for i, one := range all {
				_, err := w.app.refresh(one.refresh)
				switch {
				case i < 35:
					refusedWith(t, err, "invalid_grant", policy.ReasonPolicyChange)
				case i == 35:
					refusedWith(t, err, "invalid_grant", policy.ReasonConcurrency)
				default:
					require.NoError(t, err, i)
				}
			}
		}},
		"3 no second slot": {limits(24*time.Hour, 0, 1, policy.EndOldest), nil, func(t *testing.T, w world) {
			b := w.Browser()
			first, err := signIn(b, w.app, "alice", nil)
			require.NoError(t, err)
			second := w.new(optest.Web2, optest.Web2+"-secret")
			for _, params := range []url.Values{{"prompt": {"login"}}, {"max_age": {"0"}}, {"acr_values": {"2"}}, nil} {
				for _, app := range []application{w.app, second} {
					again, err := signIn(b, app, "alice", params)
					require.NoError(t, err)
					require.Equal(t, first.claims["sid"], again.claims["sid"])
				}
			}
			first, err = w.app.refresh(first.refresh)
			require.NoError(t, err)
			in(t, w, first)
			require.Len(t, w.live(t, "alice"), 1)
			require.Empty(t, w.seen(provider.EventEnded))
		}},
		"4 device and exchange at the cap": {limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) { o.Wrap = optest.Foreign }, func(t *testing.T, w world) {
			_, err := signIn(w.Browser(), w.app, "admin", nil)
			require.NoError(t, err)
			err = w.new(optest.Native, "").device(func(address string) {
				w.DeviceApprove(optest.Reply{JSON: map[string]any{"verification_uri_complete": address}}, "admin")
			})
			require.Contains(t, refusedWith(t, err, "access_denied", policy.ReasonConcurrency), "used=1 max=1")
			te, err := tokenexchange.NewTokenExchangerClientCredentials(context.Background(), w.Issuer, optest.Exchange, optest.Exchange+"-secret", tokenexchange.WithHTTPClient(w.HTTP))
			require.NoError(t, err)
			_, err = tokenexchange.ExchangeToken(context.Background(), te, optest.ForeignToken("admin"), zoidc.JWTTokenType, "", "", nil, nil, scopes, zoidc.AccessTokenType)
			require.Contains(t, refusedWith(t, err, "invalid_request", policy.ReasonConcurrency), "used=1 max=1")
		}},
		"5 parallel refreshes": {day, nil, func(t *testing.T, w world) {
			first := w.login(t)
			got, errs := make([]tokens, 10), make([]error, 10)
			parallel(10, func(i int) { got[i], errs[i] = w.app.refresh(first.refresh) })
			for i := range got {
				require.NoError(t, errs[i])
				require.Equal(t, got[0].refresh, got[i].refresh)
				in(t, w, got[i])
			}
			for i := range got { // every one of them still works
				_, err := w.app.refresh(got[i].refresh)
				require.NoError(t, err)
			}
			require.Len(t, w.live(t, "alice"), 1)
		}},
		"6 a lost response, and a replay": {day, nil, func(t *testing.T, w world) {
			old, other := w.login(t), w.login(t)
			_, err := w.app.refresh(old.refresh) // whose response is lost
			require.NoError(t, err)
			time.Sleep(40 * time.Minute)
			next, err := w.app.refresh(old.refresh)
			require.NoError(t, err)
			next, err = w.app.refresh(next.refresh)
			require.NoError(t, err)
			_, err = w.app.refresh(old.refresh)
			refusedWith(t, err, "invalid_grant", policy.ReasonReplay)
			_, err = w.app.refresh(next.refresh)
			refusedWith(t, err, "invalid_grant", policy.ReasonReplay)
			require.Error(t, w.app.userinfo(next))
			_, err = w.app.refresh(other.refresh)
			require.NoError(t, err)
		}},
		"7 the inactivity limit to the millisecond": {day, nil, func(t *testing.T, w world) {
			early, late := w.login(t), w.login(t)
			late, err := w.app.refresh(late.refresh)
			require.NoError(t, err)
			time.Sleep(2*time.Hour - time.Millisecond)
			_, err = w.app.refresh(early.refresh)
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
			_, err = w.app.refresh(late.refresh)
			require.Contains(t, refusedWith(t, err, "invalid_grant", policy.ReasonInactivity), "2 hours")
		}},
		"8 the absolute end": {day, nil, func(t *testing.T, w world) {
			began := time.Now()
			got := w.login(t)
			was := got.claims
			for {
				time.Sleep(4 * time.Minute)
				next, err := w.app.refresh(got.refresh)
				if time.Since(began) >= 24*time.Hour {
					refusedWith(t, err, "invalid_grant", policy.ReasonActiveLimit)
					return
				}
				require.NoError(t, err)
				got = next
				for _, claim := range []string{"sid", "sub", "auth_time", "session_expiry"} {
					require.NotEmpty(t, got.claims[claim], claim)
					require.Equal(t, was[claim], got.claims[claim], claim)
				}
				require.False(t, got.expires.After(began.Add(24*time.Hour)))
			}
		}},
		"10 an access token within the window": {limits(24*time.Hour, 4*time.Minute, 0, 0), nil, func(t *testing.T, w world) {
			require.False(t, w.login(t).expires.After(time.Now().Add(2*time.Minute)))
		}},
		"11 one of two sessions is ended": {day, nil, func(t *testing.T, w world) {
			one, other := w.login(t), w.login(t)
			sid := one.claims["sid"]
			one, err := w.app.refresh(one.refresh)
			require.NoError(t, err)
			require.Equal(t, sid, one.claims["sid"])
			require.NoError(t, w.hook.End(context.Background(), sid.(string), policy.ReasonEndedByAdmin, "root"))
			_, err = w.app.refresh(one.refresh)
			refusedWith(t, err, "invalid_grant", policy.ReasonEndedByAdmin)
			require.Error(t, w.app.userinfo(one))
			in(t, w, other)
			_, err = w.app.refresh(other.refresh)
			require.NoError(t, err)
		}},
		"13 the store fails": {day, func(p *provider.Config, _ *optest.Config) { p.Store = faultstore.New(memstore.New()) }, func(t *testing.T, w world) {
			got := w.login(t)
			faulty := w.store.(*faultstore.Store)
			faulty.Script(faultstore.Always(faultstore.Before))
			_, err := w.app.refresh(got.refresh)
			code, _ := errorOf(t, err)
			require.Equal(t, "server_error", code)
			require.Error(t, w.app.userinfo(got))
			faulty.Script(nil)
			in(t, w, got)
			_, err = w.app.refresh(got.refresh)
			require.NoError(t, err)
		}},
		"14 the reason next morning": {day, nil, func(t *testing.T, w world) {
			got := w.login(t)
			time.Sleep(3 * time.Hour)
			require.NoError(t, w.hook.Sweep(context.Background()))
			time.Sleep(9 * time.Hour)
			_, err := w.app.refresh(got.refresh)
			require.Contains(t, refusedWith(t, err, "invalid_grant", policy.ReasonInactivity), "2 hours without activity")
		}},
		"15 two accounts": {policy.Account{}, func(p *provider.Config, _ *optest.Config) {
			p.Membership = func(context.Context, store.Subject) ([]policy.Membership, error) {
				return []policy.Membership{{Account: "a"}, {Account: "b"}}, nil
			}
			p.Settings = provider.StaticSettings{Accounts: map[string]policy.Account{
				"a": limits(24*time.Hour, time.Hour, 0, 0), "b": limits(10*time.Hour, 3*time.Hour, 1, policy.Refuse),
			}}
		}, func(t *testing.T, w world) {
			got := w.login(t)
			require.EqualValues(t, time.Now().Add(10*time.Hour).Unix(), got.claims["session_expiry"])
			_, err := signIn(w.Browser(), w.app, "alice", nil)
			refusedWith(t, err, "access_denied", policy.ReasonConcurrency)
			time.Sleep(time.Hour)
			_, err = w.app.refresh(got.refresh)
			refusedWith(t, err, "invalid_grant", policy.ReasonInactivity)
		}},
		"16 an end twice, and amid refreshes": {day, nil, func(t *testing.T, w world) {
			first := w.login(t)
			sid := first.claims["sid"].(string)
			got, errs := make([]tokens, 8), make([]error, 8)
			parallel(8, func(i int) {
				if i%2 == 0 {
					errs[i] = w.hook.End(context.Background(), sid, policy.ReasonEndedByAdmin, "root")
					return
				}
				got[i], errs[i] = w.app.refresh(first.refresh)
			})
			for i, err := range errs {
				switch {
				case i%2 == 0:
					require.NoError(t, err)
				case err == nil:
					require.Error(t, w.app.userinfo(got[i]))
					_, err = w.app.refresh(got[i].refresh)
					fallthrough
				default:
					refusedWith(t, err, "invalid_grant", policy.ReasonEndedByAdmin)
				}
			}
			require.Empty(t, w.live(t, "alice"))
			require.Len(t, w.seen(provider.EventEnded), 1)
		}},
	} {
		for library, newApplication := range libraries {
			t.Run(fmt.Sprintf("%s/%s", name, library), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := world{setup: start(t, test.limits, func(p *provider.Config, o *optest.Config) {
						inMemoryNonRotating(p, o)
						if test.change != nil {
							test.change(p, o)
						}
					})}
					w.new = func(client, secret string) application { return newApplication(t, w.setup, client, secret) }
					w.app = w.new(optest.Web, optest.Web+"-secret")
					w.login = func(t *testing.T) tokens {
						t.Helper()
						got, err := signIn(w.Browser(), w.app, "alice", nil)
						require.NoError(t, err)
						return got
					}
					test.run(t, w)
				})
			})
		}
	}
}
