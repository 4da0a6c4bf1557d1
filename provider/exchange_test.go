package provider_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// as exchanges an access token for tokens of another user.
func (s *setup) as(token, user string) optest.Reply { return s.As(token, user) }

// exchangeRefresh exchanges a refresh token for an access token.
func (s *setup) exchangeRefresh(token string) optest.Reply {
	return s.TokenExchange(optest.Exchange, token, optest.RefreshTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}})
}

// notExchanged requires a refused exchange.
func notExchanged(t testing.TB, r optest.Reply, why string) {
	t.Helper()
	require.Equal(t, http.StatusBadRequest, r.Status, "%s", r.Body)
	require.Equal(t, "invalid_request", r.Error())
	require.Contains(t, r.Description(), why)
}

// Rule 7: a presented token has one standing, at whichever door it is presented.
func TestAReplayedRefreshTokenEndsItsSessionAtEachDoor(t *testing.T) {
	t.Parallel()
	doors := map[string]func(t *testing.T, s *setup, token string){
		"refresh": func(t *testing.T, s *setup, token string) {
			refusedFor(t, s.Refresh(optest.Exchange, token), policy.ReasonReplay)
		},
		"exchange": func(t *testing.T, s *setup, token string) {
			notExchanged(t, s.exchangeRefresh(token), "replay: the login session is over")
		},
		"exchange, as actor": func(t *testing.T, s *setup, token string) {
			subject := s.Login(optest.Exchange, "admin2").AccessToken()
			notExchanged(t, s.TokenExchange(optest.Exchange, subject, optest.AccessTokenType, url.Values{
				"actor_token": {token}, "actor_token_type": {optest.RefreshTokenType}, "requested_token_type": {optest.AccessTokenType},
			}), "replay: the login session is over")
		},
		"revocation": func(t *testing.T, s *setup, token string) {
			require.Equal(t, http.StatusOK, s.Revoke(optest.Exchange, token, "").Status)
		},
	}
	for name, present := range doors {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 0, 0, 0), inMemory)
				first := s.Login(optest.Exchange, "admin")
				second := ok(t, s.Refresh(optest.Exchange, first.RefreshToken()))
				third := ok(t, s.Refresh(optest.Exchange, second.RefreshToken()))
				time.Sleep(time.Minute)
				present(t, s, first.RefreshToken())
				refusedFor(t, s.Refresh(optest.Exchange, third.RefreshToken()), policy.ReasonReplay)
				require.Empty(t, s.live(t, "admin"))
				require.Len(t, s.seen(provider.EventReplay), 1)
				require.Len(t, s.seen(provider.EventEnded), 1)
			})
		})
	}
}

// A spent token whose successor was never seen is mended by a refresh, which voids the
// successor. An exchange cannot void it, and makes nothing of the token.
func TestASpentRefreshTokenIsNotExchanged(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*provider.Config, *optest.Config){"rotating": inMemory, "not rotating": inMemoryNonRotating} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 0, 0, 0), change)
				first := s.Login(optest.Exchange, "admin")
				second := ok(t, s.Refresh(optest.Exchange, first.RefreshToken()))
				ok(t, s.exchangeRefresh(first.RefreshToken())) // within the grace it is as good as its successor
				require.Len(t, s.seen(provider.EventRepeat), 1)
				time.Sleep(time.Hour)
				for range 3 {
					notExchanged(t, s.exchangeRefresh(first.RefreshToken()), "was refreshed already")
				}
				require.Len(t, s.seen(provider.EventRefreshRefused), 3)
				require.Len(t, s.live(t, "admin"), 1)
				mended := ok(t, s.Refresh(optest.Exchange, first.RefreshToken()))
				ok(t, s.exchangeRefresh(mended.RefreshToken()))
				notExchanged(t, s.exchangeRefresh(second.RefreshToken()), "replay")
			})
		})
	}
}

// A repeat at an exchange that comes from elsewhere is an event, as at a refresh.
func TestARepeatedExchangeFromElsewhereIsAnEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 0, 0, 0), inMemory)
		first := s.Login(optest.Exchange, "admin")
		ok(t, s.Refresh(optest.Exchange, first.RefreshToken()))
		form := url.Values{
			"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"subject_token": {first.RefreshToken()}, "subject_token_type": {optest.RefreshTokenType},
			"requested_token_type": {optest.AccessTokenType}, "scope": {"openid"},
		}
		ok(t, s.PostFrom(s.ClientFrom("127.0.0.9"), "/oauth/token", optest.Exchange, form))
		require.Len(t, s.seen(provider.EventRepeatMoved), 1)
	})
}

// RFC 6749 section 10.4: a refresh token is its client's alone. What another client
// presents has no consequence, not even if it is spent.
func TestARefreshTokenIsExchangedByItsOwnClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var allowed atomic.Bool
		s := start(t, limits(24*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.ExchangeRefreshToken = func(_ context.Context, client op.Client, owner string) bool {
				require.Equal(t, optest.Exchange, client.GetID())
				return allowed.Load() && owner == optest.Web
			}
		})
		first := s.Login(optest.Web, "admin")
		before := s.kept(t, s.sid(t, optest.Web, first))
		notExchanged(t, s.exchangeRefresh(first.RefreshToken()), "subject_token is invalid")
		require.Equal(t, before, s.kept(t, before.ID), "nothing came of it")
		second := ok(t, s.Refresh(optest.Web, first.RefreshToken()))
		third := ok(t, s.Refresh(optest.Web, second.RefreshToken()))
		time.Sleep(time.Hour)
		notExchanged(t, s.exchangeRefresh(first.RefreshToken()), "subject_token is invalid")
		require.Empty(t, s.seen(provider.EventReplay))

		allowed.Store(true)
		ok(t, s.exchangeRefresh(third.RefreshToken()))
		notExchanged(t, s.exchangeRefresh(s.Login(optest.Web2, "admin").RefreshToken()), "subject_token is invalid")
	})
}

// Rule 5: two users who may act for each other do not renew an authentication.
func TestActingForEachOtherMovesNoEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(2*time.Hour, 0, 0, 0), inMemory)
		began := time.Now()
		r := s.Login(optest.Exchange, "admin1")
		for i := range 7 {
			time.Sleep(16 * time.Minute)
			r = ok(t, s.Refresh(optest.Exchange, r.RefreshToken()))
			require.EqualValues(t, began.Unix(), s.ParseIDToken(optest.Exchange, r.IDToken())["auth_time"])
			r = ok(t, s.as(r.AccessToken(), []string{"admin2", "admin1"}[i%2]))
		}
		require.Len(t, s.live(t, "admin1"), 4)
		time.Sleep(time.Until(began.Add(2 * time.Hour)))
		refusedFor(t, s.Refresh(optest.Exchange, r.RefreshToken()), policy.ReasonActiveLimit)
		require.Empty(t, s.live(t, "admin1"))
		require.Empty(t, s.live(t, "admin2"))
	})
}

// Nor does an ID token that was exchanged for, whose auth_time is the time of the
// exchange.
func TestAnExchangedIDTokenMovesNoEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 0, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			ssoKnown(p, o)
			o.Wrap = func(s *optest.Storage) op.Storage {
				fixed := optest.NonRotating(s)
				return permissive{fixed, fixed.(op.TokenExchangeStorage)}
			}
		})
		b := s.Browser()
		old := ok(t, s.Code(optest.Exchange, b.Login(optest.Exchange, "admin", nil)))
		time.Sleep(23 * time.Hour)
		// The user signs in again; the older grant keeps its own end.
		ok(t, s.Code(optest.Exchange, b.Login(optest.Exchange, "admin", url.Values{"prompt": {"login"}})))
		token := ok(t, s.Refresh(optest.Exchange, old.RefreshToken())).AccessToken()
		id := ok(t, s.TokenExchange(optest.Exchange, token, optest.AccessTokenType, url.Values{"requested_token_type": {optest.IDTokenType}})).AccessToken()
		washed := ok(t, s.TokenExchange(optest.Exchange, id, optest.IDTokenType, wantRefresh))
		time.Sleep(61 * time.Minute)
		refusedFor(t, s.Refresh(optest.Exchange, washed.RefreshToken()), policy.ReasonActiveLimit)
	})
}

// permissive lets every exchange through.
type permissive struct {
	op.Storage
	op.TokenExchangeStorage
}

func (permissive) ValidateTokenExchangeRequest(context.Context, op.TokenExchangeRequest) error {
	return nil
}

// The limits of who acts for another user do not begin anew, and the user's own hold too.
func TestWhoActsForAnotherKeepsTheirAuthentication(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(2*time.Hour, 0, 0, 0), inMemory)
		mine := s.Login(optest.Exchange, "admin")
		began := time.Now()
		time.Sleep(110 * time.Minute)
		mine = ok(t, s.Refresh(optest.Exchange, mine.RefreshToken()))
		r := ok(t, s.as(mine.AccessToken(), "alice"))
		child := s.live(t, "alice")[0]
		require.True(t, child.Authenticated.Equal(s.live(t, "admin")[0].Authenticated))
		require.Equal(t, []string{"pwd"}, s.live(t, "admin")[0].AMR)
		require.Equal(t, s.live(t, "admin")[0].AMR, child.AMR)
		expires, _ := r.Number("authorization_expires_in")
		require.InDelta(t, (10 * time.Minute).Seconds(), expires, 1)
		refreshed := ok(t, s.Refresh(optest.Exchange, r.RefreshToken()))
		claims := s.ParseIDToken(optest.Exchange, refreshed.IDToken())
		require.EqualValues(t, began.Unix(), claims["auth_time"])
		require.EqualValues(t, began.Add(2*time.Hour).Unix(), claims["session_expiry"])
	})
}

// parentAndChild signs an administrator in, who then acts for alice.
func parentAndChild(t *testing.T, s *setup) (parent string, mine, hers optest.Reply) {
	t.Helper()
	mine = s.Login(optest.Exchange, "admin")
	parent = s.sid(t, optest.Exchange, mine)
	return parent, mine, ok(t, s.as(mine.AccessToken(), "alice"))
}

// Lists, events and "act" show both sessions.
func TestWhoActsForAnotherIsSeen(t *testing.T) {
	t.Parallel()
	s := start(t, limits(8*time.Hour, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Storage = optest.NewStorage()
		o.Storage.Client(optest.Exchange).(*optest.Client).TokenType = op.AccessTokenTypeJWT
	})
	parent, _, hers := parentAndChild(t, s)
	child := s.live(t, "alice")[0]
	require.Equal(t, parent, child.Parent)
	require.Equal(t, optest.SubjectOf("admin"), child.Actor)
	require.Equal(t, []string{child.ID}, s.live(t, "admin")[0].Children)
	started := s.seen(provider.EventStarted)
	require.Equal(t, child.ID, started[1].SID)
	require.Equal(t, parent, started[1].Parent)
	require.Equal(t, optest.SubjectOf("admin"), started[1].Actor)

	act := map[string]any{"sub": optest.SubjectOf("admin"), "sid": parent}
	refreshed := ok(t, s.Refresh(optest.Exchange, hers.RefreshToken()))
	for name, jwt := range map[string]string{
		"exchanged": hers.AccessToken(), "refreshed": refreshed.AccessToken(), "ID token": refreshed.IDToken(),
		"exchanged ID token": ok(t, s.TokenExchange(optest.Exchange, s.Login(optest.Exchange, "admin").AccessToken(), optest.AccessTokenType, url.Values{
			"requested_token_type": {optest.IDTokenType}, "scope": {"openid custom_scope:impersonate:" + optest.SubjectOf("bob")}})).AccessToken(),
	} {
		_, claims := readJWT(t, jwt)
		if name == "exchanged ID token" {
			act = map[string]any{"sub": optest.SubjectOf("admin"), "sid": s.live(t, "bob")[0].Parent}
		}
		require.Equal(t, act, claims["act"], name)
		act = map[string]any{"sub": optest.SubjectOf("admin"), "sid": parent}
	}
	require.Equal(t, act, s.Introspect(optest.Exchange, refreshed.AccessToken()).JSON["act"])

	own := s.Login(optest.Exchange, "admin")
	_, claims := readJWT(t, own.IDToken())
	require.NotContains(t, claims, "act", "who acts for themselves")
	require.NotContains(t, s.Introspect(optest.Exchange, own.AccessToken()).JSON, "act")
}

// The same exchange again, and that of a newer token of the same session, go on in the
// session that is there: rule 3.
func TestActingForAnotherAgainTakesNoNewSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(8*time.Hour, 0, 1, policy.Refuse), inMemory)
		parent, mine, _ := parentAndChild(t, s)
		first := s.live(t, "alice")[0].ID
		for range 3 {
			time.Sleep(time.Minute)
			mine = ok(t, s.Refresh(optest.Exchange, mine.RefreshToken()))
			ok(t, s.as(mine.AccessToken(), "alice"))
			require.Len(t, s.live(t, "alice"), 1)
		}
		// One that has ended is followed by another, as long as its parent goes on.
		require.NoError(t, s.hook.End(t.Context(), first, policy.ReasonEndedByAdmin, "root"))
		ok(t, s.as(mine.AccessToken(), "alice"))
		require.NotEqual(t, first, s.live(t, "alice")[0].ID)
		require.NoError(t, s.hook.End(t.Context(), parent, policy.ReasonEndedByAdmin, "root"))
		notExchanged(t, s.as(mine.AccessToken(), "alice"), "subject_token is invalid")
		require.Empty(t, s.live(t, "alice"))
	})
}

// By every reason for which a session can end.
func TestWhatWasMadeFromASessionEndsByEveryReason(t *testing.T) {
	t.Parallel()
	type way func(t *testing.T, s *setup, sid string, mine optest.Reply)
	byHook := func(reason policy.Reason) way {
		return func(t *testing.T, s *setup, sid string, _ optest.Reply) {
			require.NoError(t, s.hook.End(t.Context(), sid, reason, "root"))
		}
	}
	ways := map[policy.Reason]way{
		policy.ReasonInactivity: func(t *testing.T, s *setup, _ string, _ optest.Reply) {
			time.Sleep(2 * time.Hour)
		},
		policy.ReasonActiveLimit: func(t *testing.T, s *setup, _ string, mine optest.Reply) {
			for range 8 {
				time.Sleep(time.Hour)
				mine = s.Refresh(optest.Exchange, mine.RefreshToken())
			}
		},
		policy.ReasonConcurrency: func(t *testing.T, s *setup, _ string, _ optest.Reply) {
			for range 3 {
				time.Sleep(time.Second)
				s.Login(optest.Web, "admin")
			}
		},
		policy.ReasonPolicyChange: func(t *testing.T, s *setup, _ string, _ optest.Reply) {
			time.Sleep(time.Second)
			s.Login(optest.Web, "admin")
			s.set(limits(8*time.Hour, 2*time.Hour, 1, policy.EndOldest))
			require.NoError(t, s.hook.Sweep(t.Context()))
		},
		policy.ReasonLogout: func(t *testing.T, s *setup, _ string, mine optest.Reply) {
			s.Browser().EndSession(url.Values{"id_token_hint": {mine.IDToken()}})
		},
		policy.ReasonReplay: func(t *testing.T, s *setup, _ string, mine optest.Reply) {
			next := ok(t, s.Refresh(optest.Exchange, mine.RefreshToken()))
			ok(t, s.Refresh(optest.Exchange, next.RefreshToken()))
			time.Sleep(time.Minute)
			refusedFor(t, s.Refresh(optest.Exchange, mine.RefreshToken()), policy.ReasonReplay)
		},
		policy.ReasonEndedByUser:      byHook(policy.ReasonEndedByUser),
		policy.ReasonEndedByAdmin:     byHook(policy.ReasonEndedByAdmin),
		policy.ReasonAccountDisabled:  byHook(policy.ReasonAccountDisabled),
		policy.ReasonCredentialChange: byHook(policy.ReasonCredentialChange),
		policy.ReasonRevoked: func(t *testing.T, s *setup, _ string, mine optest.Reply) {
			require.Equal(t, http.StatusOK, s.Revoke(optest.Native, mine.RefreshToken(), "").Status)
		},
	}
	for reason, end := range ways {
		t.Run(string(reason), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := limits(8*time.Hour, 2*time.Hour, 3, policy.EndOldest)
				// The child has no limit of its own that could be the reason.
				a.Users = map[string]policy.Limits{optest.SubjectOf("alice"): {Active: policy.Unlimited[time.Duration](), Inactivity: policy.Unlimited[time.Duration]()}}
				s := start(t, a, inMemory)
				client, mine := optest.Exchange, optest.Reply{}
				if reason == policy.ReasonRevoked {
					client = optest.Native // whose session ends with its last grant
				}
				mine = s.Login(client, "admin")
				parent := s.sid(t, client, mine)
				hers := ok(t, s.as(mine.AccessToken(), "alice"))
				require.Len(t, s.live(t, "alice"), 1)
				end(t, s, parent, mine)
				r := s.Refresh(optest.Exchange, hers.RefreshToken())
				refusedFor(t, r, reason)
				require.Contains(t, r.Description(), "that this one was made from is over")
				require.Empty(t, s.live(t, "alice"))
				ended := s.ended(t, "alice")
				require.Equal(t, reason, ended.Reason)
				require.True(t, ended.WithParent)
				require.NoError(t, s.hook.Sweep(t.Context())) // who notices the parent's, if nobody did
				require.Equal(t, s.kept(t, parent).End.At, ended.At)
				require.NotEmpty(t, provider.Describe(store.Session{End: ended}))
			})
		})
	}
}

// Its applications are told, though the session's own were all that the user signed
// out of.
func TestApplicationsOfWhatWasMadeFromASessionAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := startNotified(t, limits(8*time.Hour, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
			o.Storage = optest.NewStorage()
			web := o.Storage.Client(optest.Web).(*optest.Client)
			web.Grants = append(web.Grants, "urn:ietf:params:oauth:grant-type:token-exchange")
		})
		sid, mine := n.login(t, optest.Web2, "admin")
		ok(t, n.TokenExchange(optest.Web, mine.AccessToken(), optest.AccessTokenType, url.Values{
			"requested_token_type": {optest.RefreshTokenType}, "scope": {"openid offline_access custom_scope:impersonate:" + optest.SubjectOf("alice")}}))
		child := n.live(t, "alice")[0].ID
		require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
		synctest.Wait()
		n.web.Once(child)
		n.web2.Once(sid)
	})
}

// A process that dies after it has written the end leaves nothing that goes on: a use
// of what was made from the session ends it, and a sweep does if nobody uses it.
func TestAProcessThatDiesLeavesNoChild(t *testing.T) {
	t.Parallel()
	for name, notice := range map[string]func(t *testing.T, s *setup, hers optest.Reply){
		"a use": func(t *testing.T, s *setup, hers optest.Reply) {
			require.Equal(t, http.StatusUnauthorized, s.Userinfo(hers.AccessToken()).Status)
		},
		"a refresh": func(t *testing.T, s *setup, hers optest.Reply) {
			refusedFor(t, s.Refresh(optest.Exchange, hers.RefreshToken()), policy.ReasonAccountDisabled)
		},
		"an exchange": func(t *testing.T, s *setup, hers optest.Reply) {
			notExchanged(t, s.exchangeRefresh(hers.RefreshToken()), "account_disabled")
		},
		"a revocation": func(t *testing.T, s *setup, hers optest.Reply) {
			require.Equal(t, http.StatusOK, s.Revoke(optest.Exchange, hers.RefreshToken(), "").Status)
		},
		"a sweep": func(t *testing.T, s *setup, _ optest.Reply) {
			time.Sleep(2 * time.Minute)
			require.NoError(t, s.hook.Sweep(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(8*time.Hour, 0, 0, 0), inMemory)
				sid, _, hers := parentAndChild(t, s)
				// What a process writes first, and then dies.
				dead := s.kept(t, sid)
				dead.End = &store.End{At: time.Now().UTC(), Reason: policy.ReasonAccountDisabled, By: "root", Owed: true}
				dead.Due = time.Now().Add(time.Minute).UTC()
				_, err := s.store.Update(t.Context(), dead)
				require.NoError(t, err)

				child := s.kept(t, s.kept(t, sid).Children[0])
				require.Nil(t, child.End)
				require.Empty(t, s.live(t, "alice"), "lists know it already")
				o, err := s.hook.Overview(t.Context(), s.subject("alice"))
				require.NoError(t, err)
				require.Empty(t, o.Live)
				require.Len(t, o.Ended, 1)
				require.ErrorIs(t, s.hook.Heartbeat(t.Context(), child.ID, optest.Exchange), provider.ErrEnded)

				notice(t, s, hers)
				child = s.kept(t, child.ID)
				require.NotNil(t, child.End)
				require.Equal(t, policy.ReasonAccountDisabled, child.End.Reason)
				require.False(t, child.End.Owed)
			})
		})
	}
}

// If the store fails while the children end, the end stays owed, and a sweep goes on
// with it.
func TestAStoreThatFailsLeavesNoChild(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		s := start(t, limits(8*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Store = faulty
		})
		parent, _, _ := parentAndChild(t, s)
		child := s.kept(t, parent).Children[0]
		for n := 1; ; n++ {
			require.Less(t, n, 20, "there is no call that fails")
			faulty.Script(faultstore.Once(faulty.Calls()+n, faultstore.Before))
			_ = s.hook.End(t.Context(), parent, policy.ReasonAccountDisabled, "root") // or it failed, and is tried again
			faulty.Script(nil)
			if s.kept(t, parent).End != nil {
				break
			}
		}
		time.Sleep(2 * time.Minute)
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.NotNil(t, s.kept(t, child).End)
		require.False(t, s.kept(t, parent).End.Owed)
	})
}

// An end wins over exchanges that race it.
func TestAnExchangeThatRacesTheEndMakesNoSession(t *testing.T) {
	t.Parallel()
	for range 20 {
		s := start(t, limits(8*time.Hour, 0, 0, 0), inMemory)
		mine := s.Login(optest.Exchange, "admin")
		users := []string{"alice", "bob", "carol", "dave"}
		replies := make([]optest.Reply, len(users))
		parallel(len(users)+1, func(i int) {
			if i == len(users) {
				_, err := s.hook.EndAll(t.Context(), s.subject("admin"), policy.ReasonAccountDisabled, "root")
				require.NoError(t, err)
				return
			}
			replies[i] = s.as(mine.AccessToken(), users[i])
		})
		for i, user := range users {
			require.Empty(t, s.live(t, user), "%s", replies[i].Body)
			if replies[i].Status == http.StatusOK {
				refusedFor(t, s.Refresh(optest.Exchange, replies[i].RefreshToken()), policy.ReasonAccountDisabled)
			}
		}
	}
}

// Config.Outlives loosens it.
func TestASessionMayOutliveWhatItWasMadeFrom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(8*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Outlives = func(_ context.Context, parent, child store.Session) bool {
				require.Equal(t, parent.ID, child.Parent)
				return parent.End.Reason == policy.ReasonLogout
			}
		})
		parent, _, hers := parentAndChild(t, s)
		require.NoError(t, s.hook.End(t.Context(), parent, policy.ReasonLogout, ""))
		hers = ok(t, s.Refresh(optest.Exchange, hers.RefreshToken()))
		ok(t, s.Userinfo(hers.AccessToken()))
		require.Len(t, s.live(t, "alice"), 1)

		parent, _, hers = parentAndChild(t, s)
		require.NoError(t, s.hook.End(t.Context(), parent, policy.ReasonAccountDisabled, ""))
		refusedFor(t, s.Refresh(optest.Exchange, hers.RefreshToken()), policy.ReasonAccountDisabled)
		require.Len(t, s.live(t, "alice"), 1)
	})
}

// What is made from one session is bounded, and so is a row of sessions that are made
// from each other: rule 11.
func TestWhatIsMadeFromASessionIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(8*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.MaxGrants = 3
		})
		mine := s.Login(optest.Exchange, "admin")
		parent := s.sid(t, optest.Exchange, mine)
		for _, user := range []string{"u1", "u2", "u3", "u4"} {
			ok(t, s.as(mine.AccessToken(), user))
			time.Sleep(time.Second)
		}
		require.Len(t, s.kept(t, parent).Children, 3)
		require.Equal(t, policy.ReasonConcurrency, s.ended(t, "u1").Reason)
		require.Len(t, s.live(t, "u2"), 1)
		// One that has ended makes room.
		require.NoError(t, s.hook.End(t.Context(), s.live(t, "u3")[0].ID, policy.ReasonEndedByAdmin, ""))
		ok(t, s.as(mine.AccessToken(), "u5"))
		for _, user := range []string{"u2", "u4", "u5"} {
			require.Len(t, s.live(t, user), 1, user)
		}

		token, row := s.Login(optest.Exchange, "admin").AccessToken(), 0
		for row = range 20 {
			r := s.as(token, "admin"+strings.Repeat("i", row+1))
			if r.Status != http.StatusOK {
				notExchanged(t, r, "in a row")
				break
			}
			token = r.AccessToken()
		}
		require.Equal(t, 8, row)
	})
}

// NotBefore asks about who authenticated: the one who acts.
func TestWhoActsForAnotherNeedsTheirCredentials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var since atomic.Int64
		var asked atomic.Pointer[[]string]
		s := start(t, limits(8*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.NotBefore = func(_ context.Context, who store.Subject) (time.Time, error) {
				list := []string{who.ID}
				if was := asked.Load(); was != nil {
					list = append(slices.Clone(*was), who.ID)
				}
				asked.Store(&list)
				return time.Unix(since.Load(), 0), nil
			}
		})
		mine := s.Login(optest.Exchange, "admin")
		asked.Store(nil)
		ok(t, s.as(mine.AccessToken(), "alice"))
		require.NotContains(t, *asked.Load(), optest.SubjectOf("alice"))
		time.Sleep(time.Minute)
		since.Store(time.Now().Unix()) // and EndAll has not come yet
		notExchanged(t, s.as(mine.AccessToken(), "bob"), "credential_change")
		require.Empty(t, s.live(t, "bob"))
	})
}

// docs/policy.md, "Token exchange": a cap on the sessions of a client counts what
// begins with the client, and so the sessions that it makes for other users, but no
// exchange within a session.
func TestAClientsCapAndExchanges(t *testing.T) {
	t.Parallel()
	a := limits(24*time.Hour, 0, 0, policy.Refuse)
	a.Clients = map[string]policy.Limits{optest.Exchange: {Concurrent: policy.LimitTo(1), AtLimit: policy.Refuse}}
	s := start(t, a, nil)
	for range 3 { // within sessions that have a slot of their own
		ok(t, s.TokenExchange(optest.Exchange, s.Login(optest.Web, "admin").AccessToken(), optest.AccessTokenType, wantRefresh))
	}
	require.Len(t, s.live(t, "admin"), 3)
	ok(t, s.as(s.Login(optest.Web, "admin").AccessToken(), "alice"))
	notExchanged(t, s.as(s.Login(optest.Web, "admin2").AccessToken(), "alice"), "concurrency: used=1 max=1")
	require.Equal(t, "access_denied", s.Browser().Login(optest.Exchange, "alice", nil).Error())
}

// Where the storage vouches for a user, on the word of another one's token, that one's
// session is what the new one is made from.
func TestWhatIsMadeOnAnActorsWordEndsWithTheActor(t *testing.T) {
	t.Parallel()
	s := start(t, limits(8*time.Hour, 0, 0, 0), func(_ *provider.Config, o *optest.Config) { o.Wrap = optest.Foreign })
	actor := s.Login(optest.Exchange, "admin")
	r := ok(t, s.TokenExchange(optest.Exchange, optest.ForeignToken("alice"), optest.JWTTokenType, url.Values{
		"requested_token_type": {optest.RefreshTokenType}, "scope": {"openid offline_access"},
		"actor_token": {actor.AccessToken()}, "actor_token_type": {optest.AccessTokenType},
	}))
	sid := s.sid(t, optest.Exchange, actor)
	require.Equal(t, sid, s.live(t, "alice")[0].Parent)
	require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonAccountDisabled, "root"))
	refusedFor(t, s.Refresh(optest.Exchange, r.RefreshToken()), policy.ReasonAccountDisabled)
}
