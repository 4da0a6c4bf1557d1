package provider_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A setup is a provider with the hook, for one test.
type setup struct {
	*hooktest.Server
	hook     *provider.Hook
	store    store.Store
	counters store.Counts
}

func start(t testing.TB, a policy.Account, change func(*provider.Config, *optest.Config)) *setup {
	t.Helper()
	return asSetup(hooktest.Start(t, a, change))
}

func asSetup(s *hooktest.Server) *setup { return &setup{s, s.Hook, s.Store, s.Counters} }

// set changes the settings of the account "default".
func (s *setup) set(a policy.Account) {
	s.Set(policy.Settings{Accounts: map[string]policy.Account{"default": a}})
}

func (s *setup) seen(t provider.EventType) []provider.Event { return s.Seen(t) }

// live returns the live sessions of a user.
func (s *setup) live(t testing.TB, user string) []store.Session { return s.Live(t, user) }

func (s *setup) subject(user string) store.Subject { return s.Subject(user) }

var limits, ok, refusedFor = hooktest.Limits, hooktest.OK, hooktest.RefusedFor

func inMemory(_ *provider.Config, o *optest.Config) { o.InMemory = true }

func nonRotating(_ *provider.Config, o *optest.Config) { o.Wrap = optest.NonRotating }

func inMemoryNonRotating(p *provider.Config, o *optest.Config) {
	inMemory(p, o)
	nonRotating(p, o)
}

func (s *setup) sid(t testing.TB, client string, r optest.Reply) string { return s.SID(t, client, r) }

// parallel runs f n times at once.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-gate
			f(i)
		})
	}
	close(gate)
	wg.Wait()
}

// peers.md section 5, number 1.
func TestRacingLoginsNeverExceedTheCap(t *testing.T) {
	t.Parallel()
	for name, atLimit := range map[string]policy.AtLimit{"refuse": policy.Refuse, "end_oldest": policy.EndOldest, "end_idlest": policy.EndIdlest, "ask": policy.Ask} {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(0, 0, 3, atLimit), nil)
			const n = 64
			results := make([]string, n)
			parallel(n, func(i int) {
				if i%4 == 3 { // a quarter of them by the device grant
					start := s.DeviceStart(optest.Native)
					s.DeviceApprove(start, "alice")
					r := s.DevicePoll(optest.Native, start)
					if r.Status == http.StatusOK {
						results[i] = "in"
					} else {
						results[i] = fmt.Sprintf("%d %s", r.Status, r.Error())
					}
					return
				}
				b := s.Browser()
				v := b.Login(optest.Web, "alice", nil)
				if asked(v) {
					v = b.Submit(v, url.Values{"action": {"cancel"}})
				}
				if v.Error() != "" {
					results[i] = v.Error() + " " + v.Description()
					return
				}
				if r := s.Code(optest.Web, v); r.Status == http.StatusOK {
					results[i] = "in"
				} else {
					results[i] = fmt.Sprintf("code %d %s", r.Status, r.Error())
				}
			})
			require.Len(t, s.live(t, "alice"), 3)
			in := 0
			for _, r := range results {
				switch {
				case r == "in":
					in++
				case strings.HasPrefix(r, "access_denied concurrency: used=3 max=3"), r == "400 access_denied":
				case r == "code 400 invalid_grant" && atLimit != policy.Refuse && atLimit != policy.Ask:
					// evicted between its callback and its code
				default:
					t.Errorf("unexpected answer %q", r)
				}
			}
			ended := s.seen(provider.EventEnded)
			if atLimit == policy.Refuse || atLimit == policy.Ask {
				require.Equal(t, 3, in)
				require.Empty(t, ended)
				return
			}
			for _, e := range ended {
				require.Equal(t, policy.ReasonConcurrency, e.Reason)
			}
			all, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject("alice"), State: store.Any}, "", 1000)
			require.NoError(t, err)
			require.Len(t, all, n)
		})
	}
}

// peers.md section 5, number 2.
func TestLoweredCapConvergesInOneStep(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"login", "sweep"} {
		t.Run(how, func(t *testing.T) {
			s := start(t, limits(0, 0, 50, policy.EndOldest), nil)
			var tokens []optest.Reply
			for range 40 {
				tokens = append(tokens, s.Login(optest.Web, "alice"))
			}
			require.Len(t, s.live(t, "alice"), 40)
			s.set(limits(0, 0, 5, policy.EndOldest))
			if how == "login" {
				s.Login(optest.Web, "alice")
			} else {
				require.NoError(t, s.hook.Sweep(t.Context()))
			}
			require.Len(t, s.live(t, "alice"), 5)
			refusedFor(t, s.Refresh(optest.Web, tokens[0].RefreshToken()), policy.ReasonPolicyChange)
			ok(t, s.Refresh(optest.Web, tokens[39].RefreshToken()))
		})
	}
}

func TestLoweredCapThatRefusesEndsNobodyAndAdmitsNobody(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 5, policy.Refuse), nil)
	var tokens []optest.Reply
	for range 4 {
		tokens = append(tokens, s.Login(optest.Web, "alice"))
	}
	s.set(limits(0, 0, 2, policy.Refuse))
	require.NoError(t, s.hook.Sweep(t.Context()))
	require.Len(t, s.live(t, "alice"), 4)
	ok(t, s.Refresh(optest.Web, tokens[0].RefreshToken()))
	v := s.Browser().Login(optest.Web, "alice", nil)
	require.Equal(t, "access_denied", v.Error())
	require.Contains(t, v.Description(), "used=4 max=2")
	for i := range 3 {
		require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, tokens[i]), policy.ReasonEndedByAdmin, "root"))
	}
	s.Login(optest.Web, "alice")
}

// peers.md section 5, number 3.
func TestASlotIsPerSession(t *testing.T) {
	t.Parallel()
	storage := optest.NewStorage()
	storage.SSO = true
	s := start(t, limits(0, 0, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		o.Storage = storage
		p.SSOSession = func(_ context.Context, l provider.Login) string {
			if l.AuthRequest == nil {
				return ""
			}
			return "the browser of " + l.AuthRequest.GetSubject()
		}
	})
	b := s.Browser()
	v := b.Login(optest.Web, "alice", nil)
	require.NotEmpty(t, v.Code(), v.Description())

	again := b.Get(v.Callback) // a reloaded callback
	require.NotEmpty(t, again.Code(), again.Description())
	first := ok(t, s.Code(optest.Web, again))
	sid := s.sid(t, optest.Web, first)

	second := b.Login(optest.Web2, "alice", nil) // another application in the same browser
	require.NotEmpty(t, second.Code(), second.Description())
	other := ok(t, s.Code(optest.Web2, second))
	require.Equal(t, sid, s.sid(t, optest.Web2, other))

	forced := b.Login(optest.Web, "alice", url.Values{"prompt": {"login"}})
	require.NotEmpty(t, forced.Code(), forced.Description())
	require.Equal(t, sid, s.sid(t, optest.Web, ok(t, s.Code(optest.Web, forced))))

	first = ok(t, s.Refresh(optest.Web, first.RefreshToken()))
	require.Equal(t, sid, s.sid(t, optest.Web, first))
	require.Len(t, s.live(t, "alice"), 1)
	require.Empty(t, s.seen(provider.EventEnded))
	require.Len(t, s.seen(provider.EventStarted), 1)

	require.NotEmpty(t, s.Browser().Login(optest.Web, "bob", nil).Code(), "bob has slots of his own")
}

func TestAnAbandonedLoginFreesItsSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(0, 0, 1, policy.Refuse), inMemory)
		v := s.Browser().Login(optest.Web, "alice", nil)
		require.NotEmpty(t, v.Code())
		require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
		time.Sleep(60 * time.Second)
		late := s.Code(optest.Web, v)
		refusedFor(t, late, policy.ReasonAbandoned)
		s.Login(optest.Web, "alice")
		refusedFor(t, s.Code(optest.Web, v), policy.ReasonAbandoned)
		require.Len(t, s.live(t, "alice"), 1)
		require.Empty(t, s.seen(provider.EventEnded), "a reservation is no session")
	})
}

func TestAReservationLivesUntilItsLastMillisecond(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		after time.Duration
		ok    bool
	}{{60*time.Second - time.Millisecond, true}, {60 * time.Second, false}} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, limits(0, 0, 1, policy.Refuse), inMemory)
			v := s.Browser().Login(optest.Web, "alice", nil)
			time.Sleep(c.after)
			require.Equal(t, c.ok, s.Code(optest.Web, v).Status == http.StatusOK)
		})
	}
}

// peers.md section 5, number 4: every path to a first token is at the cap, with
// the right error.
func TestEveryPathToAFirstTokenPassesTheCap(t *testing.T) {
	t.Parallel()
	foreign := func(_ *provider.Config, o *optest.Config) {
		o.Wrap = optest.Foreign
	}
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(0, 0, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
				foreign(p, o)
				o.Embedding = embedding
			})
			first := s.Login(optest.Exchange, "admin")

			for _, form := range []url.Values{
				{"response_type": {"code"}},
				{"response_type": {"code"}, "response_mode": {"form_post"}},
				{"response_type": {"code"}, "response_mode": {"fragment"}},
				{"response_type": {"id_token token"}},
				{"response_type": {"id_token token"}, "response_mode": {"form_post"}},
				{"response_type": {"id_token"}},
			} {
				v := s.Browser().Login(optest.Implicit, "admin", form)
				require.Equal(t, "access_denied", v.Error(), "%v: %+v", form, v)
				require.Contains(t, v.Description(), "used=1 max=1")
				require.Empty(t, v.Code())
				require.Empty(t, v.Params.Get("id_token"))
				require.Empty(t, v.Params.Get("access_token"))
			}

			device := s.DeviceStart(optest.Native)
			s.DeviceApprove(device, "admin")
			r := s.DevicePoll(optest.Native, device)
			require.Equal(t, http.StatusBadRequest, r.Status)
			require.Equal(t, "access_denied", r.Error())
			require.Contains(t, r.Description(), "used=1 max=1")

			r = s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}})
			require.Equal(t, http.StatusBadRequest, r.Status, "%s", r.Body)
			require.Equal(t, "invalid_request", r.Error())
			require.Contains(t, r.Description(), "used=1 max=1")

			require.Len(t, s.live(t, "admin"), 1)
			ok(t, s.Refresh(optest.Exchange, first.RefreshToken()))

			ok(t, s.ClientCredentials())
			ok(t, s.JWTProfile(""))
		})
	}
}

func TestEveryPathToAFirstTokenMakesASession(t *testing.T) {
	t.Parallel()
	for name, login := range map[string]func(t *testing.T, s *setup){
		"code": func(t *testing.T, s *setup) { s.Login(optest.Web, "admin") },
		"id_token token": func(t *testing.T, s *setup) {
			v := s.Browser().Login(optest.Implicit, "admin", url.Values{"response_type": {"id_token token"}})
			require.NotEmpty(t, v.Params.Get("access_token"), v.Description())
			require.NotEmpty(t, s.ParseIDToken(optest.Implicit, v.Params.Get("id_token"))["sid"])
		},
		"id_token": func(t *testing.T, s *setup) {
			v := s.Browser().Login(optest.Implicit, "admin", url.Values{"response_type": {"id_token"}})
			require.NotEmpty(t, s.ParseIDToken(optest.Implicit, v.Params.Get("id_token"))["sid"])
		},
		"device": func(t *testing.T, s *setup) { ok(t, s.DeviceLogin(optest.Native, "admin")) },
		"exchange for an access token": func(t *testing.T, s *setup) {
			ok(t, s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}}))
		},
		"exchange for a refresh token": func(t *testing.T, s *setup) {
			r := ok(t, s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}}))
			ok(t, s.Refresh(optest.Exchange, r.RefreshToken()))
		},
		"exchange for an ID token": func(t *testing.T, s *setup) {
			r := ok(t, s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.IDTokenType}}))
			require.NotEmpty(t, s.ParseIDToken(optest.Exchange, r.AccessToken())["sid"])
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) { o.Wrap = optest.Foreign })
			login(t, s)
			require.Len(t, s.live(t, "admin"), 1)
			require.Len(t, s.seen(provider.EventStarted), 1)
			require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "admin", nil).Error())
			require.Len(t, s.seen(provider.EventRefused), 1)
		})
	}
}

// peers.md section 5, number 5; and on both kinds of storage.
func TestTenParallelRefreshesGetTheSameAnswer(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*provider.Config, *optest.Config){"rotating": nil, "not rotating": nonRotating} {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, 2*time.Hour, 3, policy.Refuse), change)
			for round := range 5 {
				first := s.Login(optest.Web, fmt.Sprintf("user%d", round))
				replies := make([]optest.Reply, 10)
				parallel(10, func(i int) { replies[i] = s.Refresh(optest.Web, first.RefreshToken()) })
				for _, r := range replies {
					ok(t, r)
					require.Equal(t, replies[0].RefreshToken(), r.RefreshToken())
					require.NotEqual(t, first.RefreshToken(), r.RefreshToken())
					require.Equal(t, true, s.Introspect(optest.Web, r.AccessToken()).JSON["active"])
				}
				for _, r := range replies {
					ok(t, s.Refresh(optest.Web, r.RefreshToken()))
				}
				require.Empty(t, s.seen(provider.EventReplay))
			}
		})
	}
}

// peers.md section 5, number 6.
func TestALostResponseIsMendedAndAReplayIsNot(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*provider.Config, *optest.Config){"rotating": inMemory, "not rotating": inMemoryNonRotating} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), change)
				other := s.Login(optest.Web, "alice")
				t0 := s.Login(optest.Web, "alice").RefreshToken()
				t1 := ok(t, s.Refresh(optest.Web, t0)).RefreshToken() // this answer is lost
				time.Sleep(40 * time.Minute)
				t2 := ok(t, s.Refresh(optest.Web, t0)).RefreshToken()
				require.NotEqual(t, t1, t2)
				time.Sleep(time.Minute)
				t3 := ok(t, s.Refresh(optest.Web, t2)).RefreshToken()
				time.Sleep(time.Minute)
				refusedFor(t, s.Refresh(optest.Web, t1), policy.ReasonReplay) // void
				refusedFor(t, s.Refresh(optest.Web, t3), policy.ReasonReplay) // the family ended
				require.Len(t, s.seen(provider.EventReplay), 1)
				ok(t, s.Refresh(optest.Web, other.RefreshToken()))
				require.Len(t, s.live(t, "alice"), 1)
			})
		})
	}
}

func TestAfterTheGraceAUsedSuccessorMakesAReplay(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(s *setup, r optest.Reply){
		"refreshed":    func(s *setup, r optest.Reply) { s.Refresh(optest.Web, r.RefreshToken()) },
		"userinfo":     func(s *setup, r optest.Reply) { s.Userinfo(r.AccessToken()) },
		"introspected": func(s *setup, r optest.Reply) { s.Introspect(optest.Web, r.AccessToken()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemoryNonRotating)
				t0 := s.Login(optest.Web, "alice").RefreshToken()
				use(s, ok(t, s.Refresh(optest.Web, t0)))
				time.Sleep(31 * time.Second)
				refusedFor(t, s.Refresh(optest.Web, t0), policy.ReasonReplay)
			})
		})
	}
}

func TestTheGraceEndsOnTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		after time.Duration
		same  bool
	}{{30*time.Second - time.Millisecond, true}, {30 * time.Second, false}} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemory)
			t0 := s.Login(optest.Web, "alice").RefreshToken()
			t1 := ok(t, s.Refresh(optest.Web, t0)).RefreshToken()
			time.Sleep(c.after)
			require.Equal(t, c.same, ok(t, s.Refresh(optest.Web, t0)).RefreshToken() == t1)
		})
	}
}

func TestStrictRotationEndsTheFamilyAtTheFirstRepeat(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
		p.NoGrace, p.NoLostResponse = true, true
	})
	t0 := s.Login(optest.Web, "alice").RefreshToken()
	t1 := ok(t, s.Refresh(optest.Web, t0)).RefreshToken()
	refusedFor(t, s.Refresh(optest.Web, t0), policy.ReasonReplay)
	refusedFor(t, s.Refresh(optest.Web, t1), policy.ReasonReplay)
}

func TestARepeatFromElsewhereIsAnEvent(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	t0 := s.Login(optest.Web, "alice").RefreshToken()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {t0}}
	first := ok(t, s.PostFrom(s.ClientFrom("127.0.0.5"), "/oauth/token", optest.Web, form))
	ok(t, s.PostFrom(s.ClientFrom("127.0.0.5"), "/oauth/token", optest.Web, form))
	require.Empty(t, s.seen(provider.EventRepeatMoved))
	again := ok(t, s.PostFrom(s.ClientFrom("127.0.0.6"), "/oauth/token", optest.Web, form))
	require.Equal(t, first.RefreshToken(), again.RefreshToken())
	require.Len(t, s.seen(provider.EventRepeatMoved), 1)
}

func TestARepeatIsForTheSameScopes(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	t0 := s.Login(optest.Web, "alice").RefreshToken()
	narrow := url.Values{"scope": {"openid offline_access"}}
	t1 := ok(t, s.Refresh(optest.Web, t0, narrow)).RefreshToken()
	r := s.Refresh(optest.Web, t0)
	require.Equal(t, http.StatusBadRequest, r.Status)
	require.Equal(t, "invalid_scope", r.Error())
	require.Equal(t, t1, ok(t, s.Refresh(optest.Web, t0, narrow)).RefreshToken())
	require.Equal(t, "invalid_scope", s.Refresh(optest.Web, t1, url.Values{"scope": {"openid phone"}}).Error())
	ok(t, s.Refresh(optest.Web, t1))
}

// peers.md section 5, number 7.
func TestInactivityToTheMillisecond(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		after time.Duration
		ok    bool
	}{
		{2*time.Hour - time.Millisecond, true},
		{2 * time.Hour, false},
		{2*time.Hour + time.Millisecond, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemoryNonRotating)
			token := s.Login(optest.Web, "alice").RefreshToken()
			time.Sleep(c.after)
			r := s.Refresh(optest.Web, token)
			if c.ok {
				ok(t, r)
				return
			}
			refusedFor(t, r, policy.ReasonInactivity)
			require.Contains(t, r.Description(), "2 hours")
		})
	}
}

// peers.md section 5, number 8.
func TestTheAbsoluteEndDoesNotMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemoryNonRotating)
		r := s.Login(optest.Web, "alice")
		began := time.Now()
		claims := s.ParseIDToken(optest.Web, r.IDToken())
		for {
			time.Sleep(4 * time.Minute)
			next := s.Refresh(optest.Web, r.RefreshToken())
			if age := time.Since(began); age >= 24*time.Hour {
				refusedFor(t, next, policy.ReasonActiveLimit)
				require.Contains(t, next.Description(), "1 day")
				return
			}
			r = ok(t, next)
			end := began.Add(24 * time.Hour)
			again := s.ParseIDToken(optest.Web, r.IDToken())
			for _, claim := range []string{"sid", "sub", "auth_time", "session_expiry"} {
				require.NotNil(t, again[claim], claim)
				require.Equal(t, claims[claim], again[claim], claim)
			}
			require.LessOrEqual(t, int64(again["exp"].(float64)), end.Unix())
			expiresIn, _ := r.Number("expires_in")
			require.LessOrEqual(t, time.Duration(expiresIn)*time.Second, time.Until(end))
		}
	})
}

// The worked example of draft-ietf-oauth-refresh-token-expiration-03 section
// 6.3.
func TestTheDraftsWorkedExample(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(10*day, 7*day, 0, 0), inMemoryNonRotating)
		clocks := func(r optest.Reply) [2]float64 {
			timeout, _ := ok(t, r).Number("refresh_token_timeout")
			authorization, _ := r.Number("authorization_expires_in")
			return [2]float64{timeout, authorization}
		}
		r := s.Login(optest.Web, "alice")
		other := s.Login(optest.Web, "alice")
		require.Equal(t, [2]float64{604800, 864000}, clocks(r))
		time.Sleep(2 * day)
		r = s.Refresh(optest.Web, r.RefreshToken())
		require.Equal(t, [2]float64{604800, 691200}, clocks(r))
		time.Sleep(5 * day)
		r = s.Refresh(optest.Web, r.RefreshToken())
		require.Equal(t, [2]float64{259200, 259200}, clocks(r))
		time.Sleep(day)
		refusedFor(t, s.Refresh(optest.Web, other.RefreshToken()), policy.ReasonInactivity) // held for 8 days
		require.Equal(t, []any{"authorization", "token_timeout"}, s.Discovery().JSON["refresh_token_expiration_types_supported"])
	})
}

func TestExpirationMembersAndMetadataAreSwitchable(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, _ *optest.Config) {
		p.NoExpirationMembers, p.NoExpirationMetadata = true, true
	})
	r := s.Login(optest.Web, "alice")
	require.NotContains(t, r.JSON, "refresh_token_timeout")
	require.NotContains(t, r.JSON, "authorization_expires_in")
	require.NotContains(t, s.Discovery().JSON, "refresh_token_expiration_types_supported")
}

// peers.md section 5, number 10.
func TestAnAccessTokenLivesHalfTheWindowAtMost(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 4*time.Minute, 0, 0), nil) // the storage's own: five minutes
	r := s.Login(optest.Web, "alice")
	expiresIn, _ := r.Number("expires_in")
	require.LessOrEqual(t, expiresIn, 120.0)
	require.Greater(t, expiresIn, 110.0)
	exp, _ := s.Introspect(optest.Web, r.AccessToken()).Number("exp")
	require.LessOrEqual(t, exp, float64(time.Now().Add(2*time.Minute).Unix()))
}

// An ID token too: many clients, kubelogin among them, refresh when it is over and not
// before. At work all day they stay signed in, by each way to an ID token.
func TestAnIDTokenLivesHalfTheWindowAtMost(t *testing.T) {
	t.Parallel()
	const window = 40 * time.Minute // the client's own: an hour
	for name, login := range map[string]func(t *testing.T, s *setup) (string, optest.Reply){
		"code": func(_ *testing.T, s *setup) (string, optest.Reply) { return optest.Web, s.Login(optest.Web, "admin") },
		"JWT":  func(_ *testing.T, s *setup) (string, optest.Reply) { return optest.JWT, s.Login(optest.JWT, "admin") },
		"device": func(_ *testing.T, s *setup) (string, optest.Reply) {
			return optest.Native, s.DeviceLogin(optest.Native, "admin")
		},
		"exchange": func(_ *testing.T, s *setup) (string, optest.Reply) {
			r := s.Login(optest.Exchange, "admin")
			return optest.Exchange, s.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType,
				url.Values{"requested_token_type": {optest.RefreshTokenType}, "scope": {optest.Scope}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, window, 0, 0), inMemory)
				client, r := login(t, s)
				for range 20 {
					ok(t, r)
					if r.IDToken() == "" { // of an exchange for a refresh token
						r = s.Refresh(client, r.RefreshToken())
						continue
					}
					exp := time.Unix(int64(s.ParseIDToken(client, r.IDToken())["exp"].(float64)), 0)
					require.Equal(t, window/2, time.Until(exp).Round(time.Second))
					time.Sleep(time.Until(exp))
					r = s.Refresh(client, r.RefreshToken())
				}
			})
		})
	}
	t.Run("implicit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, window, 0, 0), inMemory)
			v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token"}})
			exp := int64(s.ParseIDToken(optest.Implicit, v.Params.Get("id_token"))["exp"].(float64))
			require.Equal(t, window/2, time.Until(time.Unix(exp, 0)).Round(time.Second))
		})
	})
}

// The storage knows only its own end of an access token: the hook has to ask for the
// one that it shortened it to, and told the client.
func TestAnAccessTokenIsOverWhenTheClientWasTold(t *testing.T) {
	t.Parallel()
	for _, client := range []string{optest.Web, optest.JWT} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, 4*time.Minute, 0, 0), inMemory) // the storage's own: five minutes
			r := s.Login(client, "alice")
			expiresIn, _ := r.Number("expires_in")
			require.Equal(t, 120.0, expiresIn)
			time.Sleep(2*time.Minute - time.Millisecond)
			require.Equal(t, true, s.Introspect(client, r.AccessToken()).JSON["active"])
			require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
			time.Sleep(time.Millisecond)
			require.Equal(t, map[string]any{"active": false}, s.Introspect(client, r.AccessToken()).JSON)
			require.Equal(t, http.StatusUnauthorized, s.Userinfo(r.AccessToken()).Status)
			ok(t, s.Refresh(client, r.RefreshToken()))
		})
	}
}

// peers.md section 5, number 11; rule 4.
func TestEndingOneSessionTouchesNoOther(t *testing.T) {
	t.Parallel()
	for _, client := range []string{optest.Web, optest.JWT} {
		t.Run(client, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
			a, b := s.Login(client, "alice"), s.Login(client, "alice")
			bob := s.Login(client, "bob")
			sid := s.sid(t, client, a)
			a = ok(t, s.Refresh(client, a.RefreshToken()))
			require.Equal(t, sid, s.sid(t, client, a))
			require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))

			refusedFor(t, s.Refresh(client, a.RefreshToken()), policy.ReasonEndedByAdmin)
			require.Equal(t, map[string]any{"active": false}, s.Introspect(client, a.AccessToken()).JSON)
			r := s.Userinfo(a.AccessToken())
			require.Equal(t, http.StatusUnauthorized, r.Status)
			require.Equal(t, `Bearer error="invalid_token"`, r.Header.Get("WWW-Authenticate"))
			for _, alive := range []optest.Reply{b, bob} {
				require.Equal(t, true, s.Introspect(client, alive.AccessToken()).JSON["active"])
				require.Equal(t, http.StatusOK, s.Userinfo(alive.AccessToken()).Status)
				ok(t, s.Refresh(client, alive.RefreshToken()))
			}
		})
	}
}

// peers.md section 5, number 13, and rule 8: see faults_test.go.

// peers.md section 5, number 14.
func TestTheReasonIsStillThereNextMorning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemory)
		swept, unswept := s.Login(optest.Web, "alice"), s.Login(optest.Web, "bob")
		time.Sleep(11 * time.Hour)
		require.NoError(t, s.hook.Sweep(t.Context()))
		sid := s.sid(t, optest.Web, s.Login(optest.Web, "carol"))
		time.Sleep(3 * time.Hour)
		for _, r := range []optest.Reply{s.Refresh(optest.Web, swept.RefreshToken()), s.Refresh(optest.Web, unswept.RefreshToken())} {
			refusedFor(t, r, policy.ReasonInactivity)
			require.Contains(t, r.Description(), "2 hours")
		}
		session, err := s.hook.Session(t.Context(), sid) // nobody swept or asked since
		require.NoError(t, err)
		require.Equal(t, policy.ReasonInactivity, session.End.Reason)
		require.Equal(t, "You were signed out after 2 hours without activity.", provider.Describe(session))

		ended := s.seen(provider.EventEnded)
		require.NotEmpty(t, ended)
		for _, e := range ended {
			require.Equal(t, policy.ReasonInactivity, e.Reason)
		}
		time.Sleep(720 * time.Hour) // no token of a session lives longer
		require.NoError(t, s.hook.Sweep(t.Context()))
		refusedFor(t, s.Refresh(optest.Web, swept.RefreshToken()), policy.ReasonInactivity)
		time.Sleep(2 * 24 * time.Hour)
		require.NoError(t, s.hook.Sweep(t.Context()))
		refusedFor(t, s.Refresh(optest.Web, swept.RefreshToken()), policy.ReasonUnknownSession)
	})
}

// peers.md section 5, number 15.
func TestTheStrictestOfTwoAccountsHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
			inMemoryNonRotating(p, o)
			p.Membership = func(context.Context, store.Subject) ([]policy.Membership, error) {
				return []policy.Membership{{Account: "a"}, {Account: "b"}}, nil
			}
		})
		s.Set(policy.Settings{Accounts: map[string]policy.Account{
			"a": limits(24*time.Hour, time.Hour, 0, 0),
			"b": limits(10*time.Hour, 3*time.Hour, 1, policy.Refuse),
		}})
		r := s.Login(optest.Web, "alice")
		require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
		timeout, _ := r.Number("refresh_token_timeout")
		authorization, _ := r.Number("authorization_expires_in")
		require.Equal(t, []float64{3600, 36000}, []float64{timeout, authorization})
		session, err := s.hook.Session(t.Context(), s.sid(t, optest.Web, r))
		require.NoError(t, err)
		require.Equal(t, []string{"a", "b"}, session.Accounts)
		time.Sleep(time.Hour)
		refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonInactivity)
	})
}

// peers.md section 5, number 16.
func TestEndingTwiceAndWhileRefreshing(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	for range 20 {
		r := s.Login(optest.Web, "alice")
		sid := s.sid(t, optest.Web, r)
		replies := make([]optest.Reply, 4)
		errs := make([]error, 4)
		parallel(8, func(i int) {
			if i < 4 {
				replies[i] = s.Refresh(optest.Web, r.RefreshToken())
			} else {
				errs[i-4] = s.hook.End(context.Background(), sid, policy.ReasonEndedByAdmin, "root")
			}
		})
		for _, err := range errs {
			require.NoError(t, err)
		}
		for _, got := range replies {
			if got.Status != http.StatusOK {
				refusedFor(t, got, policy.ReasonEndedByAdmin)
				continue
			}
			refusedFor(t, s.Refresh(optest.Web, got.RefreshToken()), policy.ReasonEndedByAdmin)
			require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, got.AccessToken()).JSON)
		}
	}
	require.Empty(t, s.live(t, "alice"))
	require.Len(t, s.seen(provider.EventEnded), 20, "each ends once")
	require.ErrorIs(t, s.hook.End(t.Context(), "nobody", policy.ReasonEndedByAdmin, ""), store.ErrNotFound)
}

// Rule 6.
func TestTheWrongClientSlidesNothing(t *testing.T) {
	t.Parallel()
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
					inMemoryNonRotating(p, o)
					o.Embedding = embedding
				})
				t0 := s.Login(optest.Web, "alice").RefreshToken()
				t1 := ok(t, s.Refresh(optest.Web, t0)).RefreshToken()
				time.Sleep(119 * time.Minute)
				for _, token := range []string{t0, t1} { // nor does it end what it could not refresh
					r := s.Refresh(optest.Web2, token)
					require.Equal(t, http.StatusBadRequest, r.Status)
					require.Equal(t, "invalid_grant", r.Error())
					require.Empty(t, r.Description())
				}
				require.Len(t, s.live(t, "alice"), 1)
				time.Sleep(time.Minute)
				refusedFor(t, s.Refresh(optest.Web, t1), policy.ReasonInactivity)
			})
		})
	}
}

func TestActivityIsWhatThePolicySays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		classes policy.Classes
		use     func(s *setup, r optest.Reply)
		slides  bool
	}{
		{"userinfo", policy.DefaultClasses, func(s *setup, r optest.Reply) { s.Userinfo(r.AccessToken()) }, true},
		{"introspection", policy.DefaultClasses, func(s *setup, r optest.Reply) { s.Introspect(optest.Web, r.AccessToken()) }, true},
		{"introspection of a refresh token", policy.DefaultClasses, func(s *setup, r optest.Reply) { s.Introspect(optest.Web, r.RefreshToken()) }, false},
		{"introspection that does not count", policy.ClassesOf(policy.Refresh), func(s *setup, r optest.Reply) { s.Introspect(optest.Web, r.AccessToken()) }, false},
		{"userinfo that does not count", policy.ClassesOf(policy.Refresh), func(s *setup, r optest.Reply) { s.Userinfo(r.AccessToken()) }, false},
		{"introspection by a stranger", policy.DefaultClasses, func(s *setup, r optest.Reply) { s.Introspect(optest.Web2, r.AccessToken()) }, false},
		{"refresh that does not count", policy.ClassesOf(policy.Userinfo), func(s *setup, r optest.Reply) { s.Refresh(optest.Web, r.RefreshToken()) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := limits(24*time.Hour, 8*time.Minute, 0, 0)
				a.Activity = c.classes
				s := start(t, a, inMemoryNonRotating)
				r := s.Login(optest.Web, "alice")
				time.Sleep(3 * time.Minute)
				c.use(s, r)
				time.Sleep(5 * time.Minute)
				session, err := s.hook.Session(t.Context(), s.sid(t, optest.Web, r))
				require.NoError(t, err)
				require.Equal(t, c.slides, session.End == nil)
			})
		})
	}
}

// A high rate of userinfo calls costs few writes, and the session ends at most
// one interval early.
func TestFrequentActivityIsWrittenRarely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 10*time.Minute, 0, 0), inMemory)
		r := s.Login(optest.Web, "alice")
		s.Userinfo(r.AccessToken()) // marks the token as seen
		before := revision(t, s, r)
		for range 100 {
			time.Sleep(time.Second)
			require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
		}
		require.LessOrEqual(t, revision(t, s, r)-before, int64(10)) // every min(30 s, 10 min/60)
		session, err := s.hook.Session(t.Context(), s.sid(t, optest.Web, r))
		require.NoError(t, err)
		require.GreaterOrEqual(t, session.LastActivity, time.Now().Add(-10*time.Second))
	})
}

func revision(t *testing.T, s *setup, r optest.Reply) int64 {
	t.Helper()
	session, err := s.store.Get(t.Context(), s.sid(t, optest.Web, r))
	require.NoError(t, err)
	return session.Revision
}

// Rule 5: only entering credentials again starts new limits, and an older grant
// keeps the end of its own authentication.
func TestReauthenticationRenewsTheSessionButNotAnOlderGrant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		storage.SSO = true
		s := start(t, limits(10*time.Hour, 6*time.Hour, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			inMemoryNonRotating(p, o)
			o.Storage = storage
			p.SSOSession = func(_ context.Context, l provider.Login) string { return "browser" }
		})
		b := s.Browser()
		old := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		time.Sleep(5 * time.Hour)
		old = ok(t, s.Refresh(optest.Web, old.RefreshToken()))
		fresh := ok(t, s.Code(optest.Web2, b.Login(optest.Web2, "alice", url.Values{"prompt": {"login"}})))
		require.Equal(t, s.sid(t, optest.Web, old), s.sid(t, optest.Web2, fresh))
		time.Sleep(4*time.Hour + 59*time.Minute)
		old = ok(t, s.Refresh(optest.Web, old.RefreshToken()))
		fresh = ok(t, s.Refresh(optest.Web2, fresh.RefreshToken()))
		time.Sleep(time.Minute)
		refusedFor(t, s.Refresh(optest.Web, old.RefreshToken()), policy.ReasonActiveLimit)
		fresh = ok(t, s.Refresh(optest.Web2, fresh.RefreshToken()))
		require.Len(t, s.live(t, "alice"), 1)
		time.Sleep(4*time.Hour + 59*time.Minute)
		ok(t, s.Refresh(optest.Web2, fresh.RefreshToken()))
		time.Sleep(time.Minute)
		refusedFor(t, s.Refresh(optest.Web2, fresh.RefreshToken()), policy.ReasonActiveLimit)
	})
}

// A provider's own single sign-on cannot restart a login that is over.
func TestSingleSignOnCannotRestartALoginThatIsOver(t *testing.T) {
	t.Parallel()
	for name, sso := range map[string]func(context.Context, provider.Login) string{
		"known to the hook": func(_ context.Context, l provider.Login) string {
			if l.AuthRequest == nil {
				return ""
			}
			return optest.SSOSession(l.AuthRequest)
		},
		"unknown to the hook": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := optest.NewStorage()
				storage.SSO = true
				s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
					inMemory(p, o)
					o.Storage = storage
					p.SSOSession = sso
					p.NoBrowserSession = true // a browser that keeps no cookie of the hook
				})
				b := s.Browser()
				ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
				time.Sleep(2 * time.Hour)
				v := b.Login(optest.Web, "alice", nil)
				require.Equal(t, "login_required", v.Error(), v.Description())
				require.Equal(t, policy.ReasonInactivity, policy.ReasonOf(v.Description()))
				v = b.Login(optest.Web, "alice", url.Values{"prompt": {"login"}})
				ok(t, s.Code(optest.Web, v))
			})
		})
	}
}

// Rule 5 again: what a clock that is stepped back does.
func TestAClockSteppedBackMovesNoEnd(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var step time.Duration
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
		nonRotating(p, o)
		p.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(step)
		}
	})
	r := s.Login(optest.Web, "alice")
	claims := s.ParseIDToken(optest.Web, r.IDToken())
	before, err := s.hook.Session(t.Context(), s.sid(t, optest.Web, r))
	require.NoError(t, err)
	mu.Lock()
	step = -time.Hour
	mu.Unlock()
	r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	require.Equal(t, claims["session_expiry"], s.ParseIDToken(optest.Web, r.IDToken())["session_expiry"])
	after, err := s.hook.Session(t.Context(), s.sid(t, optest.Web, r))
	require.NoError(t, err)
	require.Equal(t, before.Authenticated, after.Authenticated)
	require.False(t, after.LastActivity.Before(before.LastActivity))
	mu.Lock()
	step = 24 * time.Hour
	mu.Unlock()
	refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonInactivity)
}

// Rule 5: no token outlives its session, ClockSkew included.
func TestNoTokenOutlivesItsSession(t *testing.T) {
	t.Parallel()
	const skew = 30 * time.Second
	for _, tokenType := range []op.AccessTokenType{op.AccessTokenTypeBearer, op.AccessTokenTypeJWT} {
		synctest.Test(t, func(t *testing.T) {
			client := slices.Collect(func(yield func(*optest.Client) bool) {
				for _, c := range optest.DefaultClients() {
					if c.ID == optest.Web && !yield(c) {
						return
					}
				}
			})[0]
			client.Skew, client.TokenType = skew, tokenType
			s := start(t, limits(10*time.Minute, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
				inMemoryNonRotating(p, o)
				o.Storage = optest.NewStorage(client)
			})
			r := s.Login(optest.Web, "alice")
			end := time.Now().Add(10 * time.Minute)
			for {
				claims := s.ParseIDToken(optest.Web, r.IDToken())
				require.LessOrEqual(t, int64(claims["exp"].(float64)), end.Unix())
				expiresIn, _ := r.Number("expires_in")
				require.LessOrEqual(t, expiresIn, time.Until(end).Seconds())
				exp, _ := s.Introspect(optest.Web, r.AccessToken()).Number("exp")
				require.LessOrEqual(t, int64(exp), end.Unix())
				time.Sleep(30 * time.Second)
				next := s.Refresh(optest.Web, r.RefreshToken())
				if next.Status != http.StatusOK {
					refusedFor(t, next, policy.ReasonActiveLimit)
					require.LessOrEqual(t, time.Until(end), skew, "refused rather than clamped into the past, and not before")
					return
				}
				r = next
			}
		})
	}
}

// Rule 10.
func TestAChangedPolicyAppliesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 12*time.Hour, 0, 0), inMemoryNonRotating)
		a, b := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
		time.Sleep(3 * time.Hour)
		ok(t, s.Refresh(optest.Web, b.RefreshToken()))
		s.set(limits(24*time.Hour, 2*time.Hour, 0, 0))
		require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, a.AccessToken()).JSON)
		refusedFor(t, s.Refresh(optest.Web, a.RefreshToken()), policy.ReasonInactivity)
		require.Len(t, s.live(t, "alice"), 1)
		s.set(limits(24*time.Hour, 12*time.Hour, 0, 0)) // it does not come back
		refusedFor(t, s.Refresh(optest.Web, a.RefreshToken()), policy.ReasonInactivity)
		ok(t, s.Refresh(optest.Web, b.RefreshToken()))
	})
}

// peers.md section 5, number 12, without the console: what Preview says is what
// then ends.
func TestPreviewIsWhatThenEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 12*time.Hour, 0, policy.EndOldest), inMemoryNonRotating)
		var tokens []optest.Reply
		var sids []string
		for i := range 12 {
			tokens = append(tokens, s.Login(optest.Web, []string{"alice", "bob", "carol"}[i%3]))
			sids = append(sids, s.sid(t, optest.Web, tokens[i]))
			time.Sleep(30 * time.Minute)
		}
		proposed := policy.Settings{Accounts: map[string]policy.Account{"default": limits(5*time.Hour, 3*time.Hour, 2, policy.EndOldest)}}
		var holders []policy.Holder
		for _, user := range []string{"alice", "bob", "carol"} {
			h := policy.Holder{Who: policy.Who{User: optest.SubjectOf(user), Memberships: []policy.Membership{{Account: "default"}}}}
			for _, session := range s.live(t, user) {
				h.Sessions = append(h.Sessions, session.Policy())
			}
			holders = append(holders, h)
		}
		preview := map[string]policy.Reason{}
		for _, e := range policy.Preview(time.Now(), s.Settings(), proposed, holders) {
			preview[e.ID] = e.Reason
		}
		require.NotEmpty(t, preview)
		require.Less(t, len(preview), 12)
		s.set(proposed.Accounts["default"])
		require.NoError(t, s.hook.Sweep(t.Context()))
		for i, r := range tokens {
			session, err := s.hook.Session(t.Context(), sids[i])
			require.NoError(t, err)
			reason, ends := preview[session.ID]
			require.Equal(t, ends, session.End != nil)
			if ends {
				require.Equal(t, reason, session.End.Reason)
				refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), reason)
			} else {
				ok(t, s.Refresh(optest.Web, r.RefreshToken()))
			}
		}
	})
}

func TestObserveReportsAndRefusesNothing(t *testing.T) {
	t.Parallel()
	a := limits(0, 0, 1, policy.Refuse)
	a.Observe = true
	s := start(t, a, nil)
	s.Login(optest.Web, "alice")
	s.Login(optest.Web, "alice")
	require.Len(t, s.live(t, "alice"), 2)
	would := s.seen(provider.EventWouldRefuse)
	require.Len(t, would, 1)
	require.Equal(t, 1, would[0].Max)
	require.Empty(t, s.seen(provider.EventRefused))

	a = limits(0, 0, 1, policy.EndOldest)
	a.Observe = true
	s.set(a)
	s.Login(optest.Web, "alice")
	require.Len(t, s.live(t, "alice"), 3)
	require.Len(t, s.seen(provider.EventWouldEnd), 2)
	require.Empty(t, s.seen(provider.EventEnded))
}

func TestEndAllEndsLoginsOnTheirWayToo(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 0, 0), nil)
	a, b := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
	bob := s.Login(optest.Web, "bob")
	onItsWay := s.Browser().Login(optest.Web, "alice", nil)
	n, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonCredentialChange, "alice", s.sid(t, optest.Web, b))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	refusedFor(t, s.Refresh(optest.Web, a.RefreshToken()), policy.ReasonCredentialChange)
	refusedFor(t, s.Code(optest.Web, onItsWay), policy.ReasonCredentialChange)
	ok(t, s.Refresh(optest.Web, b.RefreshToken()))
	ok(t, s.Refresh(optest.Web, bob.RefreshToken()))
}

func TestOnEndIsCalledForEveryEnd(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ended := map[string]policy.Reason{}
	s := start(t, limits(0, 0, 1, policy.EndOldest), func(p *provider.Config, _ *optest.Config) {
		p.OnEnd = func(_ context.Context, s store.Session) error {
			mu.Lock()
			defer mu.Unlock()
			ended[s.ID] = s.End.Reason
			return nil
		}
	})
	first := s.sid(t, optest.Web, s.Login(optest.Web, "alice"))
	second := s.Login(optest.Web, "alice")
	require.Equal(t, map[string]policy.Reason{first: policy.ReasonConcurrency}, ended)
	s.Browser().EndSession(url.Values{"id_token_hint": {second.IDToken()}})
	require.Equal(t, policy.ReasonLogout, ended[s.sid(t, optest.Web, second)])
}

func TestEndSessionEndsTheSessionOfTheHint(t *testing.T) {
	t.Parallel()
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(0, 0, 0, 0), func(_ *provider.Config, o *optest.Config) { o.Embedding = embedding })
			a, b := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
			v := s.Browser().EndSession(url.Values{"id_token_hint": {a.IDToken()}, "post_logout_redirect_uri": {optest.PostLogoutURI}, "state": {"x"}})
			require.Equal(t, "x", v.Params.Get("state"), "%+v", v)
			refusedFor(t, s.Refresh(optest.Web, a.RefreshToken()), policy.ReasonLogout)
			b = ok(t, s.Refresh(optest.Web, b.RefreshToken()))
			require.Equal(t, http.StatusOK, s.Userinfo(b.AccessToken()).Status)
			s.Browser().EndSession(url.Values{"id_token_hint": {b.IDToken()}}) // the last one: the storage ends its own
			refusedFor(t, s.Refresh(optest.Web, b.RefreshToken()), policy.ReasonLogout)
			s.Browser().EndSession(url.Values{"id_token_hint": {b.IDToken()}}) // once more is no error
		})
	}
}

func TestRevocationIsExact(t *testing.T) {
	t.Parallel()
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(0, 0, 0, 0), func(_ *provider.Config, o *optest.Config) { o.Embedding = embedding })
			for _, hint := range []string{"", "refresh_token", "access_token"} {
				a, b := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
				foreign := s.Revoke(optest.Web2, a.RefreshToken(), "")
				require.Equal(t, "invalid_client", foreign.Error(), foreign.Body)
				a = ok(t, s.Refresh(optest.Web, a.RefreshToken()))

				require.Equal(t, http.StatusOK, s.Revoke(optest.Web, a.AccessToken(), hint).Status)
				require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, a.AccessToken()).JSON)
				a = ok(t, s.Refresh(optest.Web, a.RefreshToken()))

				if hint == "access_token" {
					hint = "" // op looks for no refresh token then: RFC 7009 lets it
				}
				require.Equal(t, http.StatusOK, s.Revoke(optest.Web, a.RefreshToken(), hint).Status)
				refusedFor(t, s.Refresh(optest.Web, a.RefreshToken()), policy.ReasonRevoked)
				require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, a.AccessToken()).JSON)
				ok(t, s.Refresh(optest.Web, b.RefreshToken()))
				require.Equal(t, http.StatusOK, s.Revoke(optest.Web, "nonsense", hint).Status)
			}
		})
	}
}

func TestRevokingTheLastGrantOfACLIEndsItsSession(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Refuse), nil)
	r := ok(t, s.DeviceLogin(optest.Native, "alice"))
	require.Equal(t, http.StatusOK, s.Revoke(optest.Native, r.RefreshToken(), "").Status)
	require.Empty(t, s.live(t, "alice"))
	ended := s.seen(provider.EventEnded)
	require.Len(t, ended, 1)
	require.Equal(t, policy.ReasonRevoked, ended[0].Reason)
	ok(t, s.DeviceLogin(optest.Native, "alice"))
}

func TestADeviceCodeMakesOneSession(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Refuse), nil)
	started := s.DeviceStart(optest.Native)
	require.Equal(t, "authorization_pending", s.DevicePoll(optest.Native, started).Error())
	s.DeviceApprove(started, "alice")
	first := ok(t, s.DevicePoll(optest.Native, started))
	again := ok(t, s.DevicePoll(optest.Native, started)) // its answer was lost
	require.Equal(t, s.sid(t, optest.Native, first), s.sid(t, optest.Native, again))
	require.Len(t, s.live(t, "alice"), 1)
	session := s.live(t, "alice")[0]
	require.Equal(t, policy.CLI, session.Kind)
	require.NoError(t, s.hook.End(t.Context(), session.ID, policy.ReasonEndedByUser, "alice"))
	r := s.DevicePoll(optest.Native, started)
	require.Equal(t, "access_denied", r.Error(), "an ended login does not come back")
	require.Equal(t, policy.ReasonEndedByUser, policy.ReasonOf(r.Description()))
}

func TestTokenExchangeStaysInItsSession(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), nil)
	r := s.Login(optest.Exchange, "admin")
	sid := s.sid(t, optest.Exchange, r)
	for _, subject := range []struct{ token, tokenType string }{
		{r.AccessToken(), optest.AccessTokenType},
		{r.IDToken(), optest.IDTokenType},
		{r.RefreshToken(), optest.RefreshTokenType},
	} {
		x := ok(t, s.TokenExchange(optest.Exchange, subject.token, subject.tokenType, url.Values{"requested_token_type": {optest.AccessTokenType}}))
		in := s.Introspect(optest.Exchange, x.AccessToken())
		require.Equal(t, sid, in.JSON["sid"], "%s: %s", subject.tokenType, in.Body)
	}
	x := ok(t, s.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}}))
	x = ok(t, s.Refresh(optest.Exchange, x.RefreshToken()))
	require.Equal(t, sid, s.sid(t, optest.Exchange, x))
	id := ok(t, s.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType, url.Values{"requested_token_type": {optest.IDTokenType}}))
	require.Equal(t, sid, s.ParseIDToken(optest.Exchange, id.AccessToken())["sid"])
	require.Len(t, s.live(t, "admin"), 1)

	require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
	for _, subject := range []struct{ token, tokenType string }{
		{r.AccessToken(), optest.AccessTokenType},
		{r.IDToken(), optest.IDTokenType},
		{r.RefreshToken(), optest.RefreshTokenType},
		{x.RefreshToken(), optest.RefreshTokenType},
	} {
		d := s.TokenExchange(optest.Exchange, subject.token, subject.tokenType, url.Values{"requested_token_type": {optest.AccessTokenType}})
		require.Equal(t, http.StatusBadRequest, d.Status)
		require.Equal(t, "invalid_request", d.Error(), "%s", d.Body)
	}
	require.Empty(t, s.live(t, "admin"))
}

func TestKeysRotate(t *testing.T) {
	t.Parallel()
	old, young := provider.NewKey(time.Now().Add(-time.Minute)), provider.NewKey(time.Now())
	sessions := memstore.New()
	storage := optest.NewStorage()
	with := func(keys ...provider.Key) *setup {
		return start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			p.Store, p.Keys, o.Storage = sessions, keys, storage
			o.InMemory = true // the same issuer each time
		})
	}
	before := with(old)
	r := before.Login(optest.Web, "alice")
	both := with(old, young)
	r = ok(t, both.Refresh(optest.Web, r.RefreshToken()))
	turned := with(young, old)
	newer := ok(t, turned.Refresh(optest.Web, r.RefreshToken()))
	require.Contains(t, newer.RefreshToken(), young.ID())

	// A process that is behind answers 503, not invalid_grant.
	for _, late := range []optest.Reply{before.Refresh(optest.Web, newer.RefreshToken()), before.Introspect(optest.Web, newer.AccessToken()), before.Userinfo(newer.AccessToken()), before.Revoke(optest.Web, newer.RefreshToken(), "")} {
		require.Equal(t, http.StatusServiceUnavailable, late.Status, late.Body)
		require.Equal(t, "server_error", late.Error())
		require.NotEmpty(t, late.Header.Get("Retry-After"))
	}
	ok(t, with(young).Refresh(optest.Web, newer.RefreshToken()))

	// A key that is long gone is not worth waiting for.
	gone := provider.NewKey(time.Now().Add(-2 * time.Hour))
	r = with(gone).Login(optest.Web, "alice")
	late := with(young).Refresh(optest.Web, r.RefreshToken())
	require.Equal(t, http.StatusBadRequest, late.Status)
	require.Equal(t, "invalid_grant", late.Error())
}

func TestWithoutTheHandlerNoTokenIsIssued(t *testing.T) {
	t.Parallel()
	hook, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}})
	require.NoError(t, err)
	s := optest.Start(t, optest.Config{Hook: storageOnly{hook}})
	v := s.Browser().Login(optest.Web, "alice", nil)
	require.Equal(t, "server_error", v.Error())
	require.Contains(t, v.Description(), "not set up completely")
	require.Equal(t, "server_error", s.ClientCredentials().Error())
}

type storageOnly struct{ *provider.Hook }

func (storageOnly) Handler(next http.Handler) http.Handler { return next }

func TestNewNamesTheFieldThatIsWrong(t *testing.T) {
	t.Parallel()
	keys := provider.Keys{provider.NewKey(time.Now())}
	for field, cfg := range map[string]provider.Config{
		"Store":        {Keys: keys},
		"Keys":         {Store: memstore.New()},
		"Keys: key 0":  {Store: memstore.New(), Keys: provider.Keys{{}}},
		"Keys: key 1":  {Store: memstore.New(), Keys: provider.Keys{keys[0], keys[0]}},
		"Grace":        {Store: memstore.New(), Keys: keys, Grace: 61 * time.Second},
		"CodeLifetime": {Store: memstore.New(), Keys: keys, CodeLifetime: -1},
		"MaxGrants":    {Store: memstore.New(), Keys: keys, MaxGrants: -1},
	} {
		_, err := provider.New(cfg)
		require.ErrorIs(t, err, provider.ErrConfig)
		require.ErrorContains(t, err, "curfew: provider.Config."+field)
	}
}
