package provider_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// fenced starts a provider whose store can fail, with SSO.
func fenced(t *testing.T, change func(*provider.Config, *optest.Config)) (*setup, *faultstore.Store) {
	faulty := faultstore.New(memstore.New())
	return start(t, limits(24*time.Hour, 2*time.Hour, 5, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		p.Store = faulty
		inMemory(p, o)
		o.Storage = optest.NewStorage()
		if change != nil {
			change(p, o)
		}
	}), faulty
}

// The promise of EndAll holds from its first write. That no document can be written
// after it, and that the process dies then, changes nothing for who uses a token; a
// sweep does the rest, and tells everybody.
func TestAnEndHoldsBeforeItsDocumentsAreWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []store.Session
		var mu sync.Mutex
		s, faulty := fenced(t, func(p *provider.Config, _ *optest.Config) {
			p.OnEnd = func(_ context.Context, s store.Session) error {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, s)
				return nil
			}
		})
		idle := s.Login(optest.Web, "alice")
		idleSID := s.sid(t, optest.Web, idle)
		time.Sleep(90 * time.Minute)
		b := s.Browser()
		spared := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		mine := s.sid(t, optest.Web, spared)
		gone := s.Browser()
		other := ok(t, s.Code(optest.Web, gone.Login(optest.Web, "alice", nil)))
		otherSID := s.sid(t, optest.Web, other)
		bobs := s.Login(optest.Web, "bob")
		time.Sleep(29*time.Minute + 50*time.Second)
		waiting := s.Browser().Login(optest.Web, "alice", nil)
		device := s.DeviceStart(optest.Native)
		s.DeviceApprove(device, "alice")
		time.Sleep(20 * time.Second) // the first one went unused for two hours
		spared = ok(t, s.Refresh(optest.Web, spared.RefreshToken()))
		require.Equal(t, http.StatusOK, s.Userinfo(spared.AccessToken()).Status)

		faulty.Script(func(c faultstore.Call) faultstore.Fault {
			if c.Method == "Update" || c.Method == "Admit" || c.Method == "MoveFence" {
				return faultstore.Before
			}
			return faultstore.None
		})
		at := time.Now()
		n, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonAccountDisabled, "root", mine)
		require.NoError(t, err)
		require.Zero(t, n)
		require.Len(t, s.seen(provider.EventUnavailable), 1)
		require.Empty(t, s.seen(provider.EventEnded))

		time.Sleep(10 * time.Second)
		refusedFor(t, s.Refresh(optest.Web, idle.RefreshToken()), policy.ReasonInactivity)
		refusedFor(t, s.Refresh(optest.Web, other.RefreshToken()), policy.ReasonAccountDisabled)
		require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, other.AccessToken()).JSON)
		require.Equal(t, http.StatusUnauthorized, s.Userinfo(other.AccessToken()).Status)
		require.Equal(t, "invalid_request", s.TokenExchange(optest.Exchange, other.AccessToken(), optest.AccessTokenType, nil).Error())
		_, err = s.of(t, gone)
		require.ErrorIs(t, err, store.ErrNotFound)
		ended, err := s.hook.Session(t.Context(), otherSID)
		require.NoError(t, err)
		require.Equal(t, store.End{At: at.UTC(), Reason: policy.ReasonAccountDisabled, By: "root", Owed: true}, *ended.End)
		live := s.live(t, "alice")
		require.Len(t, live, 1, "in the lists too")
		require.Equal(t, mine, live[0].ID)
		o, err := s.hook.Overview(t.Context(), s.subject("alice"))
		require.NoError(t, err)
		require.Len(t, o.Live, 1)
		require.Zero(t, o.Pending)
		require.Len(t, o.Ended, 2)
		require.Equal(t, "invalid_grant", s.Code(optest.Web, waiting).Error(), "a login that waited for its application")
		require.Equal(t, http.StatusOK, s.Userinfo(spared.AccessToken()).Status)

		// The store is well again. What began before begins nothing, and what begins
		// now is not in the way of those that ended.
		faulty.Script(nil)
		denied := s.DevicePoll(optest.Native, device)
		require.Equal(t, "access_denied", denied.Error())
		require.Contains(t, denied.Description(), "account_disabled")
		ok(t, s.Refresh(optest.Web, spared.RefreshToken()))
		again := s.Login(optest.Web, "alice")
		require.Len(t, s.live(t, "alice"), 2)

		time.Sleep(time.Minute)
		require.NoError(t, s.hook.Sweep(t.Context()))
		synctest.Wait()
		reasons := map[string]policy.Reason{}
		for _, e := range s.seen(provider.EventEnded) {
			require.NotContains(t, reasons, e.SID, "once")
			reasons[e.SID] = e.Reason
		}
		require.Equal(t, map[string]policy.Reason{
			idleSID: policy.ReasonInactivity, otherSID: policy.ReasonAccountDisabled,
		}, reasons)
		require.Len(t, told, 2)
		for _, one := range told {
			require.Equal(t, reasons[one.ID], one.End.Reason)
		}
		ok(t, s.Refresh(optest.Web, again.RefreshToken()))
		ok(t, s.Refresh(optest.Web, bobs.RefreshToken()))
		ended, err = s.hook.Session(t.Context(), otherSID)
		require.NoError(t, err)
		require.Equal(t, store.End{At: at.UTC(), Reason: policy.ReasonAccountDisabled, By: "root"}, *ended.End)
	})
}

// Whatever an end of all sessions finds on its way begins nothing after it: the
// sign-in at the provider was before.
func TestNothingFromBeforeAnEndBegins(t *testing.T) {
	t.Parallel()
	for name, flow := range map[string]func(t *testing.T, s *setup, storage *optest.Storage) (then func() string){
		"code": func(t *testing.T, s *setup, _ *optest.Storage) func() string {
			v := s.Browser().Login(optest.Web, "alice", nil)
			return func() string { return s.Code(optest.Web, v).Error() }
		},
		"callback": func(t *testing.T, s *setup, storage *optest.Storage) func() string {
			b := s.Browser()
			kept := s.finished(t, b, storage, optest.Web, "alice", nil)
			return func() string { return b.Get(kept).Error() }
		},
		"device": func(t *testing.T, s *setup, _ *optest.Storage) func() string {
			device := s.DeviceStart(optest.Native)
			s.DeviceApprove(device, "alice")
			return func() string { return s.DevicePoll(optest.Native, device).Error() }
		},
		"sign-on in another browser": func(t *testing.T, s *setup, _ *optest.Storage) func() string {
			b := s.Browser()
			require.NotEmpty(t, b.Login(optest.Web, "alice", nil).Code())
			other := s.Browser() // which has the provider's cookie, and none of the hook's
			s.plant(other, s.cookie(t, b, "optest"))
			return func() string { return other.Authorize(optest.Web2, nil).Error() }
		},
	} {
		for cap, concurrent := range map[string]int{"with a cap": 3, "without": 0} {
			t.Run(name+" "+cap, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					storage := optest.NewStorage()
					storage.SSO = name == "sign-on in another browser"
					s := start(t, limits(24*time.Hour, 0, concurrent, policy.EndOldest), func(p *provider.Config, o *optest.Config) {
						inMemory(p, o)
						o.Storage = storage
					})
					then := flow(t, s, storage)
					time.Sleep(10 * time.Second)
					_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonEndedByAdmin, "root")
					require.NoError(t, err)
					time.Sleep(10 * time.Second)
					mine := s.Login(optest.Web, "alice")
					require.NotEmpty(t, then())
					require.Len(t, s.live(t, "alice"), 1)
					ok(t, s.Refresh(optest.Web, mine.RefreshToken()))
				})
			})
		}
	}
}

// A login whose code no application redeems is no session yet. It ends like everything
// else.
func TestAHiddenLoginEndsToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 3, policy.Refuse), silentInMemory)
		b := s.Browser()
		v := b.Login(optest.Web, "alice", nil)
		for range 30 {
			time.Sleep(50 * time.Second)
			v = b.Authorize(optest.Web, nil)
			require.NotEmpty(t, v.Code())
		}
		require.Empty(t, s.live(t, "alice"))
		n, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonEndedByAdmin, "root")
		require.NoError(t, err)
		require.Zero(t, n, "it was no session yet")
		require.Equal(t, "invalid_grant", s.Code(optest.Web, v).Error())
		_, err = s.of(t, b)
		require.ErrorIs(t, err, store.ErrNotFound)
		require.True(t, b.Authorize(optest.Web, nil).AtForm(), "its user is asked to sign in")
		require.Empty(t, s.live(t, "alice"))
	})
}

// A fence is kept as long as what it ended is remembered, and no longer: it is one
// record of the subject, however often all ends.
func TestAFenceIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := fenced(t, nil)
		s.Login(optest.Web, "alice")
		fenceOf := func() (f store.Fence) {
			require.NoError(t, s.store.Admit(t.Context(), s.subject("alice"), func(_ []store.Session, is store.Fence) ([]store.Session, error) {
				f = is
				return nil, nil
			}))
			return f
		}
		for range 3 {
			time.Sleep(time.Hour)
			_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonEndedByUser, "alice", s.sid(t, optest.Web, s.Login(optest.Web, "alice")))
			require.NoError(t, err)
			require.Len(t, fenceOf().Spared, 1)
		}
		last := time.Now()
		require.Equal(t, last.UTC(), fenceOf().At)
		time.Sleep(31*24*time.Hour - time.Millisecond)
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Equal(t, last.UTC(), fenceOf().At)
		time.Sleep(time.Millisecond)
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.Zero(t, fenceOf())
	})
}

// An end spares what it is told to, and nothing that another end did not: not a
// session of somebody else, nor one that has ended.
func TestWhatAnEndSpares(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, faulty := fenced(t, nil)
		one, two := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
		bobs := s.Login(optest.Web, "bob")
		sids := []string{s.sid(t, optest.Web, one), s.sid(t, optest.Web, two), s.sid(t, optest.Web, bobs)}
		faulty.Script(faultstore.Always(faultstore.Before, "Update"))
		end := func(except ...string) {
			_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonEndedByUser, "alice", except...)
			require.NoError(t, err)
		}
		end(sids[0], "", "none", sids[2])
		time.Sleep(time.Second)
		end(sids[0], sids[1]) // the second one has ended, though nobody could write it
		faulty.Script(nil)
		ok(t, s.Refresh(optest.Web, one.RefreshToken()))
		refusedFor(t, s.Refresh(optest.Web, two.RefreshToken()), policy.ReasonEndedByUser)
		ok(t, s.Refresh(optest.Web, bobs.RefreshToken()))

		many := make([]string, store.MaxSpared+1)
		for i := range many {
			many[i] = s.sid(t, optest.Web, s.Login(optest.Web, "bob"))
			s.set(limits(24*time.Hour, 2*time.Hour, 0, 0))
		}
		_, err := s.hook.EndAll(t.Context(), s.subject("bob"), policy.ReasonEndedByUser, "bob", many...)
		require.ErrorContains(t, err, "17 sessions, at most 16")
		ok(t, s.Refresh(optest.Web, bobs.RefreshToken()))
	})
}

// A page that asks at the cap was open when all sessions but one ended: who stands there
// authenticated before, and may not end the one that goes on. At the page of an
// application, and at that of a device, the first time and with an answer.
func TestAPageOfTheCapIsOverWithAnEndOfAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(0, 0, 1, policy.Ask), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			o.Storage = optest.NewStorage()
		})
		mine := s.Login(optest.Web, "alice")
		sid := s.sid(t, optest.Web, mine)
		b := s.Browser()
		page := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
		d := s.desk(t, "alice", "ABCD-EFGH")
		desk, _ := d.do(nil)
		mustBeAsked(t, desk)
		late := s.desk(t, "alice", "IJKL-MNOP") // has signed in, and not confirmed yet
		time.Sleep(time.Second)
		_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonEndedByUser, "alice", sid)
		require.NoError(t, err)

		_, decision := late.do(nil)
		require.Equal(t, provider.DeviceDecision{Deny: true}, decision)
		_, decision = d.do(d.answers(desk, answer(sid)))
		require.Equal(t, provider.DeviceDecision{Deny: true}, decision)
		require.Equal(t, "login_required", b.Submit(page, answer(sid)).Error())
		require.Empty(t, s.seen(provider.EventEnded))
		for _, e := range s.seen(provider.EventRefused) {
			require.Equal(t, policy.ReasonEndedByUser, e.Reason)
		}
		require.Len(t, s.seen(provider.EventRefused), 3)
		ok(t, s.Refresh(optest.Web, mine.RefreshToken()))

		time.Sleep(time.Second) // who authenticates after it is asked, and may
		d = s.desk(t, "alice", "ABCD-EFGH")
		desk, _ = d.do(nil)
		_, decision = d.do(d.answers(mustBeAsked(t, desk), answer(sid)))
		require.Equal(t, provider.DeviceDecision{Approve: true}, decision)
	})
}

// A session that an end of all stopped keeps its place and its reason until its own
// document says so: no login takes its name meanwhile.
func TestNoLoginTakesThePlaceOfAStoppedSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := fenced(t, nil)
		b := s.Browser()
		page := b.Authorize(optest.Web, nil)
		v := b.SignIn(page, "alice")
		require.NotEmpty(t, v.Code(), v.Description())
		time.Sleep(time.Second)
		at := time.Now().UTC()
		_, err := s.store.PutFence(t.Context(), store.Fence{Subject: s.subject("alice"), At: at, Reason: policy.ReasonEndedByAdmin, Due: at.Add(time.Minute)})
		require.NoError(t, err)
		time.Sleep(time.Second)
		again := b.SignIn(page, "alice") // with new credentials, to the same authorization request
		require.Equal(t, "login_required", again.Error(), again.Description())
		unended, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject("alice"), State: store.Unended}, "", 10)
		require.NoError(t, err)
		require.Len(t, unended, 1)
		require.True(t, unended[0].Fenced())
		require.NotEmpty(t, s.Browser().Login(optest.Web, "alice", nil).Code())
	})
}
