package provider_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
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
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// ownCodes is a provider that builds its authorization response itself, and saves its
// codes by itself too: the hook hears of a login when its code is redeemed.
func ownCodes(p *provider.Config, o *optest.Config) {
	ssoKnown(p, o)
	storage := o.Storage
	o.Inside = func(_ *op.Provider, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/authorize/callback" {
				next.ServeHTTP(w, r)
				return
			}
			ar, err := storage.AuthRequestByID(r.Context(), r.FormValue("id"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			if err := storage.Storage.SaveAuthCode(r.Context(), ar.GetID(), "code-"+ar.GetID()); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			http.Redirect(w, r, ar.GetRedirectURI()+"?"+url.Values{"code": {"code-" + ar.GetID()}, "state": {ar.GetState()}}.Encode(), http.StatusFound)
		})
	}
}

// A session lists the latest of its logins. More of them in one day are no reason to
// refuse the next one, wherever nobody can tell by a cookie that it is new.
func TestASessionTakesMoreLoginsThanItLists(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*provider.Config, *optest.Config){
		"cookies":                              ssoKnown,
		"a frame that shows the sign-on alone": ssoKnown,
		"no cookies of ours": func(p *provider.Config, o *optest.Config) {
			ssoKnown(p, o)
			p.NoBrowserSession = true
		},
		"codes of its own": ownCodes,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 2*time.Hour, 2, policy.Refuse), set)
				b := s.Browser()
				first := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
				frame := b
				if name == "a frame that shows the sign-on alone" {
					frame = s.Browser()
					frame.HTTP.Jar = keepsNothing{sso: []*http.Cookie{s.cookies(b)["optest_sso"]}}
				}
				for n := range 40 {
					time.Sleep(time.Minute)
					v := frame.Authorize(optest.Web2, nil)
					require.NotEmpty(t, v.Code(), "%d: %s %s", n, v.Error(), v.Description())
					ok(t, s.Code(optest.Web2, v))
				}
				native := b.Authorize(optest.Native, nil)
				require.NotEmpty(t, native.Code(), "%s %s", native.Error(), native.Description())
				ok(t, s.Code(optest.Native, native))
				ok(t, s.Refresh(optest.Web, first.RefreshToken()))
				require.Len(t, s.live(t, "alice"), 2)
			})
		})
	}
}

// formerSID is the ID that versions before the present one gave the first session by a
// name.
func formerSID(subject store.Subject, name ...string) string {
	sum := seal.Digest(append([]string{"sid", subject.Issuer, subject.ID, "0"}, name...)...)
	return store.Bucket(subject) + "." + base64.RawURLEncoding.EncodeToString(sum[:18])
}

// asFormerly makes of a session one that the version before this one made, under a name
// whose first session had ended.
func (s *setup) asFormerly(t *testing.T, session store.Session, name ...string) store.Session {
	t.Helper()
	require.NoError(t, s.store.Delete(t.Context(), session.ID, session.Revision))
	session.ID, session.Place, session.Codes = formerSID(session.Subject, append(name, "a later one")...), nil, nil
	require.NoError(t, s.store.Create(t.Context(), session, 100))
	first := session
	first.ID, first.Started = formerSID(session.Subject, name...), session.Started.Add(-time.Hour)
	first.Authenticated, first.LastActivity, first.Grants = first.Started, first.Started, nil
	require.NoError(t, s.store.Create(t.Context(), first, 100))
	first, err := s.store.Get(t.Context(), first.ID)
	require.NoError(t, err)
	first.End = &store.End{At: session.Started.Add(-time.Minute), Reason: policy.ReasonEndedByUser, Latest: session.ID, Renewals: 1}
	first.Due = time.Now().Add(24 * time.Hour)
	_, err = s.store.Update(t.Context(), first)
	require.NoError(t, err)
	return session
}

// A session that the version before made, by a name that had been used before, is that
// of its place still: its login takes no second one.
func TestASessionOfAFormerVersionIsFoundAgain(t *testing.T) {
	t.Parallel()
	assertion := &oidc.JWTTokenRequest{Issuer: optest.Service, Subject: optest.SubjectOf("alice"), Scopes: []string{"openid"}}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, s *setup) (login func(*direct), name func() []string)
	}{
		"assertion": {func(t *testing.T, s *setup) (func(*direct), func() []string) {
			return func(d *direct) {
				var err error
				d.call = func(ctx context.Context, storage op.Storage) { _, _, err = storage.CreateAccessToken(ctx, assertion) }
				s.do(t)
				require.NoError(t, err)
			}, func() []string { return []string{"jwt", optest.Service} }
		}},
		"exchange from a session": {func(t *testing.T, s *setup) (func(*direct), func() []string) {
			mine := s.Login(optest.Exchange, "admin")
			return func(*direct) { ok(t, s.as(mine.AccessToken(), "alice")) },
				func() []string { return []string{"exchange from", s.sid(t, optest.Exchange, mine), optest.Exchange} }
		}},
		"single sign-on": {func(t *testing.T, s *setup) (func(*direct), func() []string) {
			b := s.Browser()
			return func(*direct) { ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil))) },
				func() []string { return []string{"sso", s.cookies(b)["optest_sso"].Value} }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s, d := startDirect(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), ssoKnown)
			login, names := c.prepare(t, s)
			login(d)
			live := s.live(t, "alice")
			require.Len(t, live, 1)
			was := s.asFormerly(t, live[0], names()...)
			login(d)
			live = s.live(t, "alice")
			require.Len(t, live, 1)
			require.Equal(t, was.ID, live[0].ID)
		})
	}
}

// A device code whose login came to nothing is good for another one, once, also while no
// sweep has come by.
func TestADeviceCodeMakesOneSessionAfterOneThatCameToNothing(t *testing.T) {
	t.Parallel()
	for i := range 8 { // sessions are found in the order of their IDs
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var broken bool
				s := start(t, limits(24*time.Hour, 2*time.Hour, 3*(i%2), policy.Refuse), func(p *provider.Config, o *optest.Config) {
					inMemory(p, o)
					p.NoGrace = true
					o.Wrap = func(s *optest.Storage) op.Storage {
						return &optest.Intercepted{Storage: s, Before: func(_ context.Context, method string) error {
							if broken && method == "CreateAccessAndRefreshTokens" {
								return op.ErrInvalidRefreshToken
							}
							return nil
						}}
					}
				})
				d := s.DeviceStart(optest.Native)
				s.DeviceApprove(d, "alice")
				broken = true
				require.NotEmpty(t, s.DevicePoll(optest.Native, d).Error())
				broken = false
				time.Sleep(2 * time.Minute)
				ok(t, s.DevicePoll(optest.Native, d))
				time.Sleep(10 * time.Second)
				again := s.DevicePoll(optest.Native, d)
				require.Equal(t, "invalid_grant", again.Error(), "%s", again.Body)
				require.Len(t, s.live(t, "alice"), 1)
			})
		})
	}
}

// A session of the provider's sign-on that is over refuses an older authentication,
// whether or not a sweep has come by.
func TestAPlaceThatIsOverRefusesWithoutASweep(t *testing.T) {
	t.Parallel()
	for _, swept := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, 2*time.Hour, 3, policy.Refuse), ssoKnown)
			b := s.Browser()
			ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
			native := ok(t, s.Code(optest.Native, b.Authorize(optest.Native, nil)))
			for range 3 {
				time.Sleep(time.Hour)
				native = ok(t, s.Refresh(optest.Native, native.RefreshToken()))
			}
			if swept {
				require.NoError(t, s.hook.Sweep(t.Context()))
			}
			v := b.Authorize(optest.Web2, url.Values{"prompt": {"none"}})
			require.Equal(t, "login_required", v.Error(), "swept: %v: %s", swept, v.Description())
			require.Equal(t, policy.ReasonInactivity, policy.ReasonOf(v.Description()), v.Description())
		})
	}
}

// What a login costs does not grow with the sessions of its user that have ended, where
// one user may have very many: of a device, of a token of another provider, of a service.
func TestWhatAMachineLogsInCostsTheSameWithAnyPast(t *testing.T) {
	t.Parallel()
	assertion := &oidc.JWTTokenRequest{Issuer: optest.Service, Subject: optest.SubjectOf("admin"), Scopes: []string{"openid"}}
	counting := faultstore.New(memstore.New())
	s, d := startDirect(t, limits(24*time.Hour, 2*time.Hour, 1, policy.EndOldest), func(p *provider.Config, o *optest.Config) {
		p.Store, o.Wrap = counting, optest.Foreign
	})
	for name, login := range map[string]func(){
		"device": func() { ok(t, s.DeviceLogin(optest.Native, "admin")) },
		"token of another provider": func() {
			ok(t, s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}}))
		},
		"assertion": func() {
			var err error
			d.call = func(ctx context.Context, storage op.Storage) { _, _, err = storage.CreateAccessToken(ctx, assertion) }
			s.do(t)
			require.NoError(t, err)
		},
	} {
		before := counting.Counts()["List"]
		login()
		require.Equal(t, before, counting.Counts()["List"], name)
	}
}

// A token of another provider whose session was ended brings no other one, however often
// its exchange came to nothing before.
func TestATokenWhoseSessionWasEndedIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken bool
		s := start(t, limits(24*time.Hour, 2*time.Hour, 3, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			o.Wrap = func(s *optest.Storage) op.Storage {
				return foreignStorage{&optest.Intercepted{Storage: s, Before: func(_ context.Context, method string) error {
					if broken && method == "CreateAccessAndRefreshTokens" {
						return errors.New("out of order")
					}
					return nil
				}}}
			}
		})
		exchange := func() optest.Reply {
			return s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}})
		}
		for range 2 {
			broken = true
			require.NotEqual(t, http.StatusOK, exchange().Status)
			broken = false
			time.Sleep(2 * time.Minute)
			require.NoError(t, s.hook.Sweep(t.Context()))
		}
		ok(t, exchange())
		ok(t, exchange())
		live := s.live(t, "admin")
		require.Len(t, live, 1)
		require.NoError(t, s.hook.End(t.Context(), live[0].ID, policy.ReasonEndedByAdmin, "root"))
		notExchanged(t, exchange(), "ended_by_admin")
	})
}

// A command line signs in by the user's browser. Its session is its own: the browser's
// logins do not join it, and take no more places for it.
func TestACommandLineLeavesItsBrowserAlone(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]func(context.Context, provider.Login) policy.Kind{
		"kinds of their own": nil,
		"one kind":           func(context.Context, provider.Login) policy.Kind { return policy.Browser },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 0, 2, policy.Refuse), func(p *provider.Config, o *optest.Config) {
					silentInMemory(p, o)
					p.Kind = kind
				})
				b := s.Browser()
				native := s.sid(t, optest.Native, ok(t, s.Code(optest.Native, b.Login(optest.Native, "alice", nil))))
				web := ""
				for range 4 {
					time.Sleep(10 * time.Minute)
					v := b.Authorize(optest.Web, nil)
					require.NotEmpty(t, v.Code(), v.Description())
					sid := s.sid(t, optest.Web, ok(t, s.Code(optest.Web, v)))
					require.NotEqual(t, native, sid)
					if web != "" {
						require.Equal(t, web, sid)
					}
					web = sid
				}
				require.Len(t, s.live(t, "alice"), 2)
			})
		})
	}
}

// Where browsers keep no cookies of ours, and the provider names no session, a login is in
// no other session than its own: nothing is looked for.
func TestALoginWithoutOurCookiesListsNothing(t *testing.T) {
	t.Parallel()
	counting := faultstore.New(memstore.New())
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.EndOldest), func(p *provider.Config, _ *optest.Config) {
		p.Store, p.NoBrowserSession = counting, true
	})
	v := s.Browser().Login(optest.Web, "alice", nil)
	ok(t, s.Code(optest.Web, v))
	require.Zero(t, counting.Counts()["List"])
}

// A code that only its redemption told of is good again if that failed.
func TestACodeOfItsOwnIsGoodAgainAfterAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken bool
		s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			ownCodes(p, o)
			o.Wrap = func(s *optest.Storage) op.Storage {
				return &optest.Intercepted{Storage: s, Before: func(_ context.Context, method string) error {
					if broken && method == "DeleteAuthRequest" {
						return errors.New("out of order")
					}
					return nil
				}}
			}
		})
		v := s.Browser().Login(optest.Web, "alice", nil)
		broken = true
		require.NotEqual(t, http.StatusOK, s.Code(optest.Web, v).Status)
		broken = false
		time.Sleep(10 * time.Second)
		ok(t, s.Code(optest.Web, v))
		require.Len(t, s.live(t, "alice"), 1)
	})
}
