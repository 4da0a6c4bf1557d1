package provider_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
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

// A keepsCodes is a storage that knows an authorization code for longer than it is good.
type keepsCodes struct{ *optest.Storage }

func (keepsCodes) DeleteAuthRequest(context.Context, string) error { return nil }

// A redemption is a way to tokens by a code: begin signs in, and returns how the code is
// presented.
type redemption struct {
	name, client string
	offline      bool
	begin        func(t *testing.T, s *setup) func() optest.Reply
}

func redemptions() []redemption {
	device := func(client, user string) func(t *testing.T, s *setup) func() optest.Reply {
		return func(_ *testing.T, s *setup) func() optest.Reply {
			d := s.DeviceStart(client)
			s.DeviceApprove(d, user)
			return func() optest.Reply { return s.DevicePoll(client, d) }
		}
	}
	code := func(extra url.Values) func(t *testing.T, s *setup) func() optest.Reply {
		return func(t *testing.T, s *setup) func() optest.Reply {
			v := s.Browser().Login(optest.Web, "alice", extra)
			require.NotEmpty(t, v.Code(), v.Description())
			return func() optest.Reply { return s.Code(optest.Web, v) }
		}
	}
	return []redemption{
		{"a device code", optest.Native, true, device(optest.Native, "alice")},
		{"a device code, access token alone", deviceOnly, false, device(deviceOnly, "alice")},
		{"a code", optest.Web, true, code(nil)},
		{"a code, access token alone", optest.Web, false, code(url.Values{"scope": {"openid"}})},
	}
}

// deviceOnly is a client of the device grant that gets no refresh token.
const deviceOnly = "device-only"

func redeems(t *testing.T, change func(*provider.Config, *optest.Config)) *setup {
	storage := optest.NewStorage()
	c := *storage.Client(optest.Native).(*optest.Client)
	c.ID = deviceOnly
	c.Grants = slices.DeleteFunc(slices.Clone(c.Grants), func(g oidc.GrantType) bool { return g == oidc.GrantTypeRefreshToken })
	storage.SetClient(&c)
	return start(t, limits(24*time.Hour, 2*time.Hour, 3, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		o.InMemory, o.Storage = true, storage
		o.Wrap = func(s *optest.Storage) op.Storage { return keepsCodes{s} }
		if change != nil {
			change(p, o)
		}
	})
}

// Rule 7: a code or device code that is sent again within the grace gets the same answer,
// and after it nothing. What it brought is good all the same: a client that asks
// twice is no thief, and a thief of the code ends nothing.
func TestACodeBringsItsTokensOnce(t *testing.T) {
	t.Parallel()
	for _, c := range redemptions() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := redeems(t, nil)
				redeem := c.begin(t, s)
				first := ok(t, redeem())
				require.Equal(t, c.offline, first.RefreshToken() != "")
				for range 3 {
					time.Sleep(9 * time.Second)
					again := ok(t, redeem())
					require.Equal(t, first.RefreshToken(), again.RefreshToken())
					require.Equal(t, http.StatusOK, s.Userinfo(again.AccessToken()).Status)
					require.Equal(t, s.sid(t, c.client, first), s.sid(t, c.client, again))
				}
				require.Len(t, s.seen(provider.EventRepeat), 3)
				require.Len(t, s.seen(provider.EventStarted), 1)
				time.Sleep(3*time.Second - time.Millisecond)
				ok(t, redeem())
				used := s.live(t, "alice")[0].LastActivity
				for _, later := range []time.Duration{time.Millisecond, 3 * time.Minute, 25 * time.Minute, time.Hour} {
					time.Sleep(later)
					spent := redeem()
					require.Equal(t, http.StatusBadRequest, spent.Status, "%s", spent.Body)
					require.Equal(t, "invalid_grant", spent.Error())
					require.Equal(t, policy.Reason(""), policy.ReasonOf(spent.Description()), "%s", spent.Body)
				}
				require.Len(t, s.live(t, "alice"), 1)
				require.Equal(t, used, s.live(t, "alice")[0].LastActivity, "what brings nothing slides nothing")
				if c.offline {
					next := ok(t, s.Refresh(c.client, first.RefreshToken()))
					ok(t, s.Refresh(c.client, next.RefreshToken()))
				}
				require.Empty(t, s.seen(provider.EventReplay))
			})
		})
	}
}

// A client that has refreshed already, and sends the code again, gets what is good now.
func TestACodeThatIsRepeatedAfterARefreshGetsTheNewestAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range redemptions() {
		if !c.offline {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := redeems(t, nil)
				redeem := c.begin(t, s)
				r := ok(t, redeem())
				for range 4 {
					time.Sleep(5 * time.Second)
					r = ok(t, s.Refresh(c.client, r.RefreshToken()))
					again := ok(t, redeem())
					require.Equal(t, r.RefreshToken(), again.RefreshToken())
				}
				time.Sleep(time.Hour)
				require.Equal(t, "invalid_grant", redeem().Error())
				ok(t, s.Refresh(c.client, r.RefreshToken()))
				require.Empty(t, s.seen(provider.EventReplay))
			})
		})
	}
}

// Two requests with one code at once, at two processes: op finds the code good for both.
func TestACodeThatIsRedeemedTwiceAtOnce(t *testing.T) {
	t.Parallel()
	for _, c := range redemptions() {
		t.Run(c.name, func(t *testing.T) {
			s := redeems(t, func(_ *provider.Config, o *optest.Config) { o.InMemory = false })
			redeem := c.begin(t, s)
			replies := make([]optest.Reply, 8)
			parallel(8, func(i int) { replies[i] = redeem() })
			for _, r := range replies {
				require.Equal(t, ok(t, replies[0]).RefreshToken(), ok(t, r).RefreshToken())
				require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
			}
			require.Len(t, s.live(t, "alice"), 1)
			if c.offline {
				ok(t, s.Refresh(c.client, replies[7].RefreshToken()))
			}
			require.Empty(t, s.seen(provider.EventReplay))
		})
	}
}

// With the strict settings a code works once.
func TestACodeWorksOnceStrictly(t *testing.T) {
	t.Parallel()
	for _, c := range redemptions() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := redeems(t, func(p *provider.Config, _ *optest.Config) { p.NoGrace, p.NoLostResponse = true, true })
				redeem := c.begin(t, s)
				first := ok(t, redeem())
				require.Equal(t, "invalid_grant", redeem().Error())
				require.Empty(t, s.live(t, "alice")[0].Codes[0].Repeat)
				if c.offline {
					ok(t, s.Refresh(c.client, first.RefreshToken()))
				}
				require.Len(t, s.live(t, "alice"), 1)
			})
		})
	}
}

// What a repeat of a code must not bring back: a grant that was revoked, a session that
// ended, and an access token that is over.
func TestARepeatedCodeBringsNothingBack(t *testing.T) {
	t.Parallel()
	for _, c := range redemptions() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := redeems(t, nil)
				redeem := c.begin(t, s)
				r := ok(t, redeem())
				sid := s.sid(t, c.client, r)
				if c.offline {
					require.Equal(t, http.StatusOK, s.Revoke(c.client, r.RefreshToken(), "").Status)
				} else {
					require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
				}
				again := redeem()
				require.Equal(t, http.StatusBadRequest, again.Status, "%s", again.Body)
				require.Empty(t, again.AccessToken())
				ended, err := s.store.Get(t.Context(), sid)
				require.NoError(t, err)
				if ended.End != nil {
					require.Empty(t, ended.Codes[0].Repeat)
					require.Empty(t, ended.Codes[0].Address)
				}
			})
		})
	}
}

// A repeat from another address is told of, for a code as for a refresh token.
func TestARepeatedCodeFromElsewhereIsAnEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := redeems(t, nil)
		d := s.DeviceStart(optest.Native)
		s.DeviceApprove(d, "alice")
		first := ok(t, s.DevicePoll(optest.Native, d))
		ok(t, s.DevicePoll(optest.Native, d))
		require.Empty(t, s.seen(provider.EventRepeatMoved))
		form := url.Values{"grant_type": {string(oidc.GrantTypeDeviceCode)}, "device_code": {d.String("device_code")}}
		again := ok(t, s.PostFrom(s.ClientFrom("127.0.0.9"), "/oauth/token", optest.Native, form))
		require.Equal(t, first.RefreshToken(), again.RefreshToken())
		require.Len(t, s.seen(provider.EventRepeatMoved), 1)
	})
}

// A repeat whose access token is over brings a good one.
func TestARepeatedCodeBringsAGoodAccessToken(t *testing.T) {
	t.Parallel()
	for _, c := range redemptions() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := redeems(t, func(_ *provider.Config, o *optest.Config) {
					o.Wrap = func(s *optest.Storage) op.Storage { return keepsCodesBriefly{briefly{s, 10 * time.Second}} }
				})
				redeem := c.begin(t, s)
				first := ok(t, redeem())
				time.Sleep(20 * time.Second)
				again := ok(t, redeem())
				require.EqualValues(t, 10, again.JSON["expires_in"])
				require.Equal(t, http.StatusOK, s.Userinfo(again.AccessToken()).Status)
				if c.offline {
					require.Equal(t, again.RefreshToken(), ok(t, s.Refresh(c.client, first.RefreshToken())).RefreshToken())
					ok(t, s.Refresh(c.client, again.RefreshToken()))
				}
				require.Empty(t, s.seen(provider.EventReplay))
			})
		})
	}
}

type keepsCodesBriefly struct{ briefly }

func (keepsCodesBriefly) DeleteAuthRequest(context.Context, string) error { return nil }

func (s keepsCodesBriefly) CreateAccessToken(ctx context.Context, r op.TokenRequest) (string, time.Time, error) {
	id, _, err := s.briefly.CreateAccessToken(ctx, r)
	return id, time.Now().Add(s.life), err
}

// The answer of a code is kept for a moment: it is gone with the next refresh after the
// grace. It is of no use to who reads the store, and of none to another code.
func TestTheAnswerOfACodeIsKeptForAMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := redeems(t, nil)
		redeem := redemptions()[0].begin(t, s)
		r := ok(t, redeem())
		kept := s.live(t, "alice")[0].Codes
		require.Len(t, kept, 1)
		require.NotEmpty(t, kept[0].Repeat)
		doc, err := s.live(t, "alice")[0].MarshalJSON()
		require.NoError(t, err)
		require.NotContains(t, string(doc), r.RefreshToken())
		time.Sleep(31 * time.Second)
		ok(t, s.Refresh(optest.Native, r.RefreshToken()))
		kept = s.live(t, "alice")[0].Codes
		require.Len(t, kept, 1)
		require.Empty(t, kept[0].Repeat)
		require.NotZero(t, kept[0].Used)
		require.Equal(t, "invalid_grant", redeem().Error())
	})
}

// Rule 8: the write that notes the code is lost, or took effect without an answer. The
// client asks again, and gets its tokens.
func TestACodeSurvivesAnOutage(t *testing.T) {
	t.Parallel()
	for how, fault := range faults {
		for _, c := range redemptions() {
			t.Run(how+"/"+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					faulty := faultstore.New(memstore.New())
					s := redeems(t, func(p *provider.Config, _ *optest.Config) { p.Store = faulty })
					redeem := c.begin(t, s)
					faulty.Script(func(call faultstore.Call) faultstore.Fault {
						if call.Method == "Update" {
							return fault
						}
						return faultstore.None
					})
					unavailable(t, redeem())
					faulty.Script(nil)
					time.Sleep(5 * time.Second)
					r := ok(t, redeem())
					require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
					if c.offline {
						ok(t, s.Refresh(c.client, r.RefreshToken()))
					}
					require.Len(t, s.live(t, "alice"), 1)
				})
			})
		}
	}
}

// A storage that fails when op makes the ID token: after the tokens were made.
func TestACodeWhoseAnswerFailsIsGoodAfterwards(t *testing.T) {
	t.Parallel()
	for _, strict := range []bool{false, true} {
		for _, c := range redemptions() {
			t.Run(fmt.Sprintf("%s, strict %t", c.name, strict), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var down atomic.Bool
					s := redeems(t, func(p *provider.Config, o *optest.Config) {
						p.NoGrace, p.NoLostResponse = strict, strict
						o.Wrap = func(s *optest.Storage) op.Storage { return keepsCodesWithoutUsers{keepsCodes{s}, &down} }
					})
					redeem := c.begin(t, s)
					down.Store(true)
					for range 3 {
						require.Equal(t, "server_error", redeem().Error())
						time.Sleep(16 * time.Second)
					}
					down.Store(false)
					r := ok(t, redeem())
					require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
					require.Len(t, s.live(t, "alice"), 1)
					if c.offline {
						ok(t, s.Refresh(c.client, r.RefreshToken()))
					}
					time.Sleep(30 * time.Second)
					require.Equal(t, "invalid_grant", redeem().Error())
				})
			})
		}
	}
}

type keepsCodesWithoutUsers struct {
	keepsCodes
	down *atomic.Bool
}

func (s keepsCodesWithoutUsers) SetUserinfoFromScopes(ctx context.Context, info *oidc.UserInfo, userID, clientID string, scopes []string) error {
	if s.down.Load() {
		return errors.New("the users are away")
	}
	return s.keepsCodes.SetUserinfoFromScopes(ctx, info, userID, clientID, scopes)
}

func (s keepsCodesWithoutUsers) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	if s.down.Load() {
		return errors.New("the users are away")
	}
	return s.keepsCodes.SetUserinfoFromRequest(ctx, info, r, scopes)
}

// A device code of a session that was made by the version before, which kept no note of
// codes, brings nothing more.
func TestADeviceCodeOfTheVersionBeforeIsSpent(t *testing.T) {
	t.Parallel()
	for _, c := range redemptions()[:2] {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := redeems(t, nil)
				redeem := c.begin(t, s)
				ok(t, redeem())
				held := s.live(t, "alice")[0]
				held.Codes = nil
				_, err := s.store.Update(t.Context(), held)
				require.NoError(t, err)
				require.Equal(t, "invalid_grant", redeem().Error())
				require.Len(t, s.live(t, "alice"), 1)
				require.Len(t, s.live(t, "alice")[0].Grants, 1)
			})
		})
	}
}

// Two of the same client are served by one session or two as before: what is spent is the
// code, not the login.
func TestTheNextCodeOfTheSameBrowserIsAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := redeems(t, nil)
		b := s.Browser()
		first := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		time.Sleep(5 * time.Second)
		second := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		require.NotEqual(t, first.RefreshToken(), second.RefreshToken())
		require.Equal(t, s.sid(t, optest.Web, first), s.sid(t, optest.Web, second))
		ok(t, s.Refresh(optest.Web, first.RefreshToken()))
		ok(t, s.Refresh(optest.Web, second.RefreshToken()))
		list, _, err := s.hook.List(t.Context(), store.Filter{Subject: s.subject("alice"), State: store.Unended}, "", 10)
		require.NoError(t, err)
		require.Len(t, list, 1)
	})
}
