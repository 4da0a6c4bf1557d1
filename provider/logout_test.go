package provider_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

const webHost, web2Host = "127.0.0.1:7001", "127.0.0.1:7002"

// A notified is a provider whose two web applications want to hear of logouts.
type notified struct {
	*setup
	web, web2 *optest.Receiver
}

func startNotified(t testing.TB, a policy.Account, change func(*provider.Config, *optest.Config)) *notified {
	t.Helper()
	n := &notified{}
	n.setup = start(t, a, func(p *provider.Config, o *optest.Config) {
		o.InMemory = true
		p.Logout = provider.Logout{Loopback: true, URIs: func(_ context.Context, client string) (provider.LogoutURIs, error) {
			switch client {
			case optest.Web:
				return provider.LogoutURIs{BackChannel: "http://" + webHost + "/backchannel"}, nil
			case optest.Web2:
				return provider.LogoutURIs{BackChannel: "http://" + web2Host + "/backchannel"}, nil
			}
			return provider.LogoutURIs{}, nil
		}}
		if change != nil {
			change(p, o)
		}
	})
	n.web, n.web2 = n.Receive(optest.Web, webHost), n.Receive(optest.Web2, web2Host)
	n.hook.DialLogout(n.dial)
	require.NoError(t, n.hook.Check(t.Context(), n.Provider))
	return n
}

func (n *notified) dial(ctx context.Context, _, address string) (net.Conn, error) {
	switch address {
	case webHost:
		return n.web.Dial(ctx)
	case web2Host:
		return n.web2.Dial(ctx)
	}
	return nil, errors.New("nothing listens at " + address)
}

// sweepFor sweeps every ten seconds, as Run does.
func (s *setup) sweepFor(t testing.TB, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(10 * time.Second)
		require.NoError(t, s.hook.Sweep(t.Context()))
	}
	synctest.Wait()
}

// login signs a user in to a client and returns the sid and the tokens.
func (s *setup) login(t testing.TB, client, user string) (string, optest.Reply) {
	t.Helper()
	tokens := ok(t, s.Code(client, s.Browser().Login(client, user, nil)))
	sid := s.Claim(client, tokens, "sid")
	require.NotEmpty(t, sid)
	return sid, tokens
}

// kept returns the session as the store has it.
func (s *setup) kept(t testing.TB, sid string) store.Session {
	t.Helper()
	kept, err := s.store.Get(t.Context(), sid)
	require.NoError(t, err)
	return kept
}

// Each reason for which a session can end is told to its applications.
func TestEveryEndIsDelivered(t *testing.T) {
	t.Parallel()
	ends := map[policy.Reason]func(t *testing.T, n *notified, sid string, tokens optest.Reply){
		policy.ReasonInactivity: func(t *testing.T, n *notified, _ string, _ optest.Reply) {
			n.sweepFor(t, 2*time.Hour)
		},
		policy.ReasonActiveLimit: func(t *testing.T, n *notified, _ string, tokens optest.Reply) {
			for range 10 {
				n.sweepFor(t, 50*time.Minute)
				tokens = n.Refresh(optest.Web, tokens.RefreshToken())
			}
		},
		policy.ReasonConcurrency: func(t *testing.T, n *notified, _ string, _ optest.Reply) {
			time.Sleep(time.Second)
			n.login(t, optest.Web2, "alice")
			n.login(t, optest.Web2, "alice")
		},
		policy.ReasonLogout: func(t *testing.T, n *notified, _ string, tokens optest.Reply) {
			require.Equal(t, "signed out", n.Browser().Get(n.Issuer+"/end_session?id_token_hint="+tokens.IDToken()).Body)
		},
		policy.ReasonEndedByAdmin: func(t *testing.T, n *notified, sid string, _ optest.Reply) {
			require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
		},
		policy.ReasonCredentialChange: func(t *testing.T, n *notified, _ string, _ optest.Reply) {
			_, err := n.hook.EndAll(t.Context(), n.subject("alice"), policy.ReasonCredentialChange, "alice")
			require.NoError(t, err)
		},
		policy.ReasonPolicyChange: func(t *testing.T, n *notified, _ string, _ optest.Reply) {
			time.Sleep(time.Second)
			n.login(t, optest.Web2, "alice")
			n.set(limits(8*time.Hour, time.Hour, 1, policy.EndOldest))
			require.NoError(t, n.hook.Sweep(t.Context()))
		},
		policy.ReasonReplay: func(t *testing.T, n *notified, _ string, tokens optest.Reply) {
			next := ok(t, n.Refresh(optest.Web, tokens.RefreshToken()))
			ok(t, n.Refresh(optest.Web, next.RefreshToken()))
			time.Sleep(2 * time.Minute)
			refusedFor(t, n.Refresh(optest.Web, tokens.RefreshToken()), policy.ReasonReplay)
		},
	}
	for reason, end := range ends {
		t.Run(string(reason), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNotified(t, limits(8*time.Hour, time.Hour, 2, policy.EndOldest), nil)
				sid, tokens := n.login(t, optest.Web, "alice")
				end(t, n, sid, tokens)
				synctest.Wait()
				require.Equal(t, reason, n.kept(t, sid).End.Reason)
				n.web.Once(sid)
				_, claims := decoded(t, n.web.Raw()[0])
				refused := n.Refresh(optest.Web, tokens.RefreshToken())
				require.Equal(t, "invalid_grant", refused.String("error"))
				require.Equal(t, refused.String("error_description"), claims["session_end_reason"], "it hears the same either way")
				require.Empty(t, n.kept(t, sid).Deliveries)
				told := n.seen(provider.EventDelivered)
				require.Len(t, told, 1)
				require.Equal(t, provider.Event{
					Type: provider.EventDelivered, At: told[0].At, Subject: n.subject("alice"), SID: sid,
					Client: optest.Web, Kind: policy.Browser, Reason: reason, By: told[0].By,
				}, told[0])

				n.sweepFor(t, time.Hour)
				n.web.Once(sid) // not again
			})
		})
	}
}

// peers.md section 5, number 17.
func TestAReceiverThatIsDownForAnHourIsToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := startNotified(t, limits(8*time.Hour, time.Hour, 0, policy.Refuse), nil)
		n.web.Set(http.StatusOK, true)
		sid, _ := n.login(t, optest.Web, "alice")
		n.sweepFor(t, 2*time.Hour) // it expires after one of them
		require.Empty(t, n.web.Got())
		tries := n.web.Tries()
		require.Greater(t, tries, 4, "it is tried again")
		require.Less(t, tries, 12, "less and less often")
		kept := n.kept(t, sid)
		require.Equal(t, policy.ReasonInactivity, kept.End.Reason)
		require.Len(t, kept.Deliveries, 1)
		d := kept.Deliveries[0]
		require.Equal(t, tries, d.Attempts)
		require.Equal(t, "http://"+webHost+"/backchannel", d.URI)
		require.Contains(t, d.Error, "cannot be reached")
		require.Zero(t, d.GivenUp)
		require.Len(t, n.seen(provider.EventDeliveryFailed), tries)

		n.web.Set(http.StatusNoContent, false)
		n.sweepFor(t, 2*time.Hour)
		n.web.Once(sid)
		require.Empty(t, n.kept(t, sid).Deliveries)
		require.Empty(t, n.seen(provider.EventDeliveryGivenUp))
	})
}

// What was given up is on record, and can be done again.
func TestWhatWasGivenUpCanBeRedone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := startNotified(t, limits(8*time.Hour, time.Hour, 0, policy.Refuse), func(p *provider.Config, _ *optest.Config) {
			p.Remember = time.Hour // shorter than it is tried
		})
		n.web.Set(http.StatusServiceUnavailable, false)
		sid, _ := n.login(t, optest.Web, "alice")
		require.Error(t, n.hook.Redeliver(t.Context(), sid, optest.Web), "it has not ended")
		require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
		n.sweepFor(t, 20*time.Hour)
		require.Empty(t, n.seen(provider.EventDeliveryGivenUp))
		n.sweepFor(t, 10*time.Hour)
		up := n.seen(provider.EventDeliveryGivenUp)
		require.Len(t, up, 1)
		require.Equal(t, 30, n.web.Tries())

		// The record is there for as long as any, and then forgotten.
		_, err := n.store.Get(t.Context(), sid)
		require.ErrorIs(t, err, store.ErrNotFound, "it is 5 hours later")
	})
	synctest.Test(t, func(t *testing.T) {
		n := startNotified(t, limits(8*time.Hour, time.Hour, 0, policy.Refuse), nil)
		n.web.Set(http.StatusServiceUnavailable, false)
		sid, _ := n.login(t, optest.Web, "alice")
		require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
		n.sweepFor(t, 30*time.Hour)
		page, _, err := n.hook.List(t.Context(), store.Filter{Subject: n.subject("alice")}, "", 10)
		require.NoError(t, err)
		require.Len(t, page, 1)
		require.Len(t, page[0].Deliveries, 1)
		require.NotZero(t, page[0].Deliveries[0].GivenUp)
		require.Equal(t, webHost+" answered 503", page[0].Deliveries[0].Error)

		require.ErrorContains(t, n.hook.Redeliver(t.Context(), sid, optest.Web), "answered 503")
		require.Equal(t, 1, n.kept(t, sid).Deliveries[0].Attempts, "it has all its tries again")
		require.ErrorIs(t, n.hook.Redeliver(t.Context(), sid, optest.Web2), store.ErrNotFound)
		require.ErrorIs(t, n.hook.Redeliver(t.Context(), sid+"x", optest.Web), store.ErrNotFound)
		n.web.Set(http.StatusOK, false)
		require.NoError(t, n.hook.Redeliver(t.Context(), sid, optest.Web))
		n.web.Once(sid)
		require.Empty(t, n.kept(t, sid).Deliveries)
		require.NoError(t, n.hook.Redeliver(t.Context(), sid, optest.Web), "it says that it got none")
		require.Len(t, n.web.Got(), 2)
	})
}

// A refusal is final sooner than a failure: Back-Channel Logout 1.0 section 2.5.
func TestARefusalIsGivenUpSoon(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusBadRequest, http.StatusNotImplemented} {
		synctest.Test(t, func(t *testing.T) {
			n := startNotified(t, limits(8*time.Hour, time.Hour, 0, policy.Refuse), nil)
			n.web.Set(status, false)
			sid, _ := n.login(t, optest.Web, "alice")
			require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
			n.sweepFor(t, time.Hour)
			require.Len(t, n.web.Raw(), 3)
			require.Len(t, n.seen(provider.EventDeliveryGivenUp), 1)
		})
	}
}

// A try that fails after another one has told the application of the end says nothing:
// the application knows.
func TestATryThatFailsAfterTheApplicationWasToldIsNoDelivery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := startNotified(t, limits(8*time.Hour, time.Hour, 0, policy.Refuse), nil)
		sid, _ := n.login(t, optest.Web, "alice")
		var tries atomic.Int32
		n.hook.DialLogout(func(ctx context.Context, network, address string) (net.Conn, error) {
			if tries.Add(1) == 1 {
				<-ctx.Done() // the first one hangs
				return nil, ctx.Err()
			}
			return n.dial(ctx, network, address)
		})
		require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
		synctest.Wait()
		require.EqualValues(t, 1, tries.Load())
		require.NoError(t, n.hook.Redeliver(t.Context(), sid, optest.Web))
		time.Sleep(time.Minute)
		synctest.Wait()
		told := n.seen(provider.EventDelivered)
		require.Len(t, told, 1)
		require.NoError(t, told[0].Err)
		require.Empty(t, n.seen(provider.EventDeliveryFailed))
		require.Empty(t, n.kept(t, sid).Deliveries)
	})
}

// A logout token is what Back-Channel Logout 1.0 section 2.4 says, and each try has
// one of its own.
func TestLogoutTokens(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ named, omit bool }{
		"by default": {}, "for a client that wants the subject": {named: true}, "with nothing that need not be": {omit: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNotified(t, limits(8*time.Hour, time.Hour, 0, policy.Refuse), func(p *provider.Config, _ *optest.Config) {
					p.Logout.OmitReason = c.omit
					uris := p.Logout.URIs
					p.Logout.URIs = func(ctx context.Context, client string) (provider.LogoutURIs, error) {
						u, err := uris(ctx, client)
						u.WithSubject = c.named
						return u, err
					}
				})
				sid, tokens := n.login(t, optest.Web, "alice")
				n.web.Set(http.StatusServiceUnavailable, false)
				require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
				synctest.Wait()
				began := time.Now().Unix()
				n.sweepFor(t, 5*time.Minute)
				raw := n.web.Raw()
				require.Greater(t, len(raw), 2)

				header, claims := decoded(t, raw[0])
				idHeader, _ := decoded(t, tokens.IDToken())
				require.Equal(t, map[string]any{"alg": idHeader["alg"], "kid": idHeader["kid"], "typ": "logout+jwt"}, header)
				require.Len(t, claims["jti"], 22)
				want := map[string]any{
					"iss": n.Issuer, "aud": optest.Web, "sid": sid, "jti": claims["jti"],
					"iat": float64(began), "exp": float64(began + 120),
					"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
				}
				if !c.omit {
					want["session_end_reason"] = "ended_by_admin: the login session is over: an administrator ended it; sign in again"
				}
				if c.named {
					want["sub"] = optest.SubjectOf("alice")
				}
				require.Equal(t, want, claims)
				jtis := map[any]bool{}
				for _, token := range raw {
					_, claims := decoded(t, token)
					jtis[claims["jti"]] = true
				}
				require.Len(t, jtis, len(raw), "each has its own jti")
			})
		})
	}
}

func decoded(t testing.TB, token string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	require.Len(t, parts, 3)
	for i, v := range []*map[string]any{&header, &claims} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, v))
	}
	return header, claims
}

// An application that got nothing but an ID token is told as well, also where it
// joined the session of another one. One whose code was not redeemed is not.
func TestWhoIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const host = "127.0.0.1:7003"
		n := startNotified(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) {
			uris := p.Logout.URIs
			p.Logout.URIs = func(ctx context.Context, client string) (provider.LogoutURIs, error) {
				if client == optest.Implicit {
					return provider.LogoutURIs{BackChannel: "http://" + host + "/backchannel"}, nil
				}
				return uris(ctx, client)
			}
		})
		idTokens := n.Receive(optest.Implicit, host)
		n.hook.DialLogout(func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == host {
				return idTokens.Dial(ctx)
			}
			return n.dial(ctx, network, address)
		})
		end := func(sid string) {
			require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, ""))
			synctest.Wait()
		}
		idToken := url.Values{"response_type": {"id_token"}, "scope": {"openid"}}
		b := n.signIn(t, optest.Web, "alice")
		v := b.Login(optest.Implicit, "alice", idToken)
		require.Equal(t, b.sid, n.ParseIDToken(optest.Implicit, v.Params.Get("id_token"))["sid"])
		end(b.sid)
		n.web.Once(b.sid)
		idTokens.Once(b.sid)

		v = n.Browser().Login(optest.Implicit, "alice", idToken)
		alone, _ := n.ParseIDToken(optest.Implicit, v.Params.Get("id_token"))["sid"].(string)
		end(alone)
		require.Len(t, idTokens.Got(), 2)

		b = n.signIn(t, optest.Web, "alice")
		require.NotEmpty(t, b.Login(optest.Web2, "alice", nil).Code())
		end(b.sid)
		require.Len(t, n.web.Got(), 2)
		require.Empty(t, n.web2.Got())
	})
}

// Without Config.Logout nothing is owed, written or announced.
func TestNobodyIsToldByDefault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, policy.Account{}, inMemory)
		s.hook.DialLogout(func(context.Context, string, string) (net.Conn, error) {
			t.Error("somebody is told")
			return nil, errors.New("nobody is there")
		})
		sid, _ := s.login(t, optest.Web, "alice")
		require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, ""))
		s.sweepFor(t, time.Hour)
		require.Empty(t, s.kept(t, sid).Deliveries)
		require.Error(t, s.hook.Redeliver(t.Context(), sid, optest.Web))
	})
}

// What failed together is not tried again together.
func TestRetriesAreSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := startNotified(t, limits(0, 0, 0, 0), nil)
		n.web.Set(http.StatusServiceUnavailable, false)
		var sids []string
		for range 20 {
			sid, _ := n.login(t, optest.Web, "alice")
			sids = append(sids, sid)
		}
		_, err := n.hook.EndAll(t.Context(), n.subject("alice"), policy.ReasonCredentialChange, "")
		require.NoError(t, err)
		synctest.Wait()
		times := map[time.Time]bool{}
		for _, sid := range sids {
			d := n.kept(t, sid).Deliveries
			require.Len(t, d, 1)
			require.Equal(t, 1, d[0].Attempts)
			times[d[0].Next] = true
			require.LessOrEqual(t, time.Until(d[0].Next), 30*time.Second)
			require.GreaterOrEqual(t, time.Until(d[0].Next), 24*time.Second)
		}
		require.Greater(t, len(times), 15)
	})
}

// An application with two grants in a session, of two of its tabs, is told once.
func TestAnApplicationIsToldOncePerSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := startNotified(t, limits(0, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
			o.Storage = optest.NewStorage()
			o.Storage.SSO = true
		})
		b := n.Browser()
		sid := n.sid(t, optest.Web, ok(t, n.Code(optest.Web, b.Login(optest.Web, "alice", nil))))
		require.Equal(t, sid, n.sid(t, optest.Web, ok(t, n.Code(optest.Web, b.Authorize(optest.Web, nil)))))
		require.Len(t, n.kept(t, sid).Grants, 2)
		require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
		require.Len(t, n.kept(t, sid).Deliveries, 1)
		n.sweepFor(t, 10*time.Minute)
		n.web.Once(sid)
	})
}
