package provider_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
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

// What EndAll left alone goes on in its browser: its user opens another application,
// and an application asks without the user, be the sign-on the hook's cookie or the
// provider's own. Nobody could sign in there otherwise: a sign-on that is still good
// answers again and again.
func TestASparedSessionTakesOtherApplicationsIn(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]func(*provider.Config, *optest.Config){"its cookie": silentInMemory, "SSOSession": ssoKnown} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startReset(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), nil, config)
				b := s.Browser()
				mine := s.loginIn(t, b, optest.Web, "alice", nil)
				sid := s.sid(t, optest.Web, mine)
				time.Sleep(time.Minute)
				kept := s.atCallback(t, b, optest.Web2, nil)
				time.Sleep(time.Minute)
				s.do(t, sid)
				time.Sleep(time.Minute)

				for range 2 {
					require.Empty(t, b.Get(kept).Error())
				}
				for _, extra := range []url.Values{nil, {"prompt": {"none"}}} {
					v := b.Authorize(optest.SPA, extra)
					require.NotEmpty(t, v.Code(), "%v: %d %s", extra, v.Status, v.Description())
					require.Equal(t, sid, s.sid(t, optest.SPA, ok(t, s.Code(optest.SPA, v))))
				}
				ok(t, s.Refresh(optest.Web, mine.RefreshToken()))
				require.Empty(t, s.seen(provider.EventRefused))

				require.True(t, s.kept(t, sid).Authenticated.Before(*s.at.Load()), "nobody entered anything")
				require.Len(t, s.live(t, "alice"), 1)
			})
		})
	}
}

// A login that would be a session of its own is none of that. Its user is asked for the
// new credentials, although the sign-on would do.
func TestASignOnOfASparedSessionBeginsNoOther(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]func(*provider.Config, *optest.Config){"its cookie": silentInMemory, "SSOSession": ssoKnown} {
		for client, cap := range map[string]string{
			optest.Native: "", optest.Web2: optest.Web2, strings.ToUpper(optest.Web2): optest.Web2, // as a storage may know it too
		} {
			if cap != "" && name == "SSOSession" {
				continue // it joins what the provider names
			}
			t.Run(name+"/"+client, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := limits(24*time.Hour, 2*time.Hour, 0, 0)
					if cap != "" {
						a.Clients = map[string]policy.Limits{cap: {Concurrent: policy.LimitTo(1)}}
					}
					s := startReset(t, a, nil, func(p *provider.Config, o *optest.Config) {
						config(p, o)
						o.Wrap = func(s *optest.Storage) op.Storage { return folding{s} }
					})
					b := s.Browser()
					sid := s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil))
					time.Sleep(time.Minute)
					s.do(t, sid)
					time.Sleep(time.Minute)
					v := b.Authorize(client, nil)
					require.True(t, v.AtForm(), "%d %s %s", v.Status, v.URL, v.Description())
					if cap != "" && client != cap {
						return // a code for a client that no other endpoint knows by this name
					}
					require.NotEqual(t, sid, s.sid(t, client, ok(t, s.Code(client, b.SignIn(v, "alice")))))
					require.Len(t, s.live(t, "alice"), 2)
				})
			})
		}
	}
}

// But a sign-in with the old credentials does not renew it: that moved its end.
func TestASparedSessionIsNotRenewedByAKeptLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startReset(t, limits(24*time.Hour, 2*time.Hour, 0, 0), optest.NewStorage(), nil)
		b := s.Browser()
		mine := s.loginIn(t, b, optest.Web, "alice", nil)
		sid := s.sid(t, optest.Web, mine)
		time.Sleep(time.Minute)
		kept := s.finished(t, b, s.storage, optest.Web2, "alice", nil)
		time.Sleep(time.Minute)
		s.do(t, sid)
		before := s.kept(t, sid)
		require.Equal(t, "login_required", b.Get(kept).Error())
		require.Equal(t, before, s.kept(t, sid))
		_, err := s.of(t, b)
		require.NoError(t, err, "the browser's cookie is good")
		time.Sleep(time.Second)
		require.Equal(t, sid, s.sid(t, optest.Web2, s.loginIn(t, b, optest.Web2, "alice", nil)), "it is with the new ones")
	})
}

// A device whose answer was lost comes again: its session was spared, or it was not.
func TestADeviceOfASparedSessionMayAskAgain(t *testing.T) {
	t.Parallel()
	for name, spared := range map[string]bool{"spared": true, "ended": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startReset(t, limits(24*time.Hour, 2*time.Hour, 0, 0), optest.NewStorage(), nil)
				device := s.DeviceStart(optest.Native)
				s.DeviceApprove(device, "alice")
				sid := s.sid(t, optest.Native, ok(t, s.DevicePoll(optest.Native, device)))
				time.Sleep(time.Second)
				if !spared {
					s.do(t)
					r := s.DevicePoll(optest.Native, device)
					require.Equal(t, "access_denied", r.Error(), "%s", r.Body)
					require.Equal(t, policy.ReasonCredentialChange, policy.ReasonOf(r.Description()))
					return
				}
				s.do(t, sid)
				require.Equal(t, sid, s.sid(t, optest.Native, ok(t, s.DevicePoll(optest.Native, device))))
			})
		})
	}
}

// Rule 8, with a token from before the installation: that nobody can be asked, before
// its session begins or after, ends nothing.
func TestNotBeforeFailsAtAnAdoption(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"before": 1, "after": 2} {
		for kind, wrap := range map[string]func(*provider.Config, *optest.Config){"rotating": inMemory, "not rotating": nonRotating} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					storage := optest.NewStorage()
					bare := optest.Start(t, optest.Config{Storage: storage, InMemory: true})
					token := bare.Login(optest.Exchange, "alice").RefreshToken()
					time.Sleep(time.Minute)
					var s *reset
					s = startReset(t, limits(0, 0, 0, 0), storage, func(p *provider.Config, o *optest.Config) {
						wrap(p, o)
						p.AdoptUntil = time.Now().Add(24 * time.Hour)
						s.asking(p, n, func(time.Time) (time.Time, error) { return time.Time{}, errors.New("down") })
					})
					time.Sleep(time.Minute)
					unavailable(t, s.Refresh(optest.Exchange, token))
					s.fails.Store(true)
					unavailable(t, s.Refresh(optest.Exchange, token))
					s.fails.Store(false)
					r := ok(t, s.Refresh(optest.Exchange, token))
					ok(t, s.Refresh(optest.Exchange, r.RefreshToken()))
					require.Empty(t, s.seen(provider.EventEnded))
					require.Len(t, s.live(t, "alice"), 1)
				})
			})
		}
	}
}

// The password is reset in the moment in which a token is adopted, and the store
// fails then. The token gets nobody in, now or later.
func TestTheResetWhileATokenIsAdopted(t *testing.T) {
	t.Parallel()
	for name, fault := range faults {
		for way, present := range oldTokens {
			t.Run(name+"/"+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					storage, faulty := optest.NewStorage(), faultstore.New(memstore.New())
					bare := optest.Start(t, optest.Config{Storage: storage, InMemory: true})
					token := bare.Login(optest.Exchange, "alice").RefreshToken()
					time.Sleep(time.Minute)
					var s *reset
					s = startReset(t, limits(0, 0, 0, 0), storage, func(p *provider.Config, _ *optest.Config) {
						p.Store = faulty
						p.AdoptUntil = time.Now().Add(24 * time.Hour)
						s.asking(p, 1, func(at time.Time) (time.Time, error) {
							s.do(t)
							return at, nil
						})
					})
					time.Sleep(time.Minute)
					faulty.Script(faultstore.Always(fault, "Update"))
					require.NotEqual(t, http.StatusOK, present(s, token).Status)
					faulty.Script(nil)
					for range 2 {
						r := present(s, token)
						require.Equal(t, http.StatusBadRequest, r.Status, "%s", r.Body)
						require.Equal(t, policy.ReasonCredentialChange, policy.ReasonOf(r.Description()))
					}
					require.Empty(t, s.live(t, "alice"))
				})
			})
		}
	}
}

// A login is admitted while the password is reset, nobody can be asked after it, and
// it comes again: what it left does not let it in.
func TestTheResetWhileALoginIsAdmittedAndNotBeforeFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, client := range map[string]string{"code": optest.Web, "id_token": optest.Implicit} {
			var s *reset
			asked := 0
			s = startReset(t, limits(24*time.Hour, 0, 1, policy.Refuse), optest.NewStorage(), func(p *provider.Config, _ *optest.Config) {
				notBefore := p.NotBefore
				p.NotBefore = func(ctx context.Context, subject store.Subject) (time.Time, error) {
					asked++
					at, err := notBefore(ctx, subject)
					switch asked {
					case 1:
						time.Sleep(time.Millisecond)
						now := time.Now() // EndAll, which would refuse it too, comes later
						s.at.Store(&now)
					case 2:
						err = errors.New("down")
					}
					return at, err
				}
			})
			b := s.Browser()
			callback := s.finished(t, b, s.storage, client, "alice", url.Values{"response_type": {name}})
			require.Equal(t, "server_error", b.Get(callback).Error(), name)
			for range 2 {
				require.Equal(t, "login_required", b.Get(callback).Error(), name)
			}
			require.Empty(t, s.live(t, "alice"), name)
			require.Empty(t, s.seen(provider.EventStarted), name)
		}
	})
}

// It leaves alone what is not its own: a session that goes on, and a reservation that
// somebody with the new credentials has come to since.
func TestALoginThatIsRefusedAfterItWasAdmittedEndsNothingElse(t *testing.T) {
	t.Parallel()
	t.Run("a session that goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var s *reset
			sid := ""
			s = startReset(t, limits(24*time.Hour, 0, 1, policy.Refuse), nil, func(p *provider.Config, o *optest.Config) {
				silentInMemory(p, o)
				s.asking(p, 4, func(at time.Time) (time.Time, error) {
					time.Sleep(time.Second)
					s.do(t, sid)
					return at, nil
				})
			})
			b := s.Browser()
			r := s.loginIn(t, b, optest.Web, "alice", nil)
			sid = s.sid(t, optest.Web, r)
			kept := s.atCallback(t, b, optest.Web2, nil)
			require.Equal(t, "login_required", b.Get(kept).Error())
			require.NotEmpty(t, b.Get(kept).Code(), "once more, and the session takes it in")
			ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		})
	})
	t.Run("newer credentials", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var s *reset
			s = startReset(t, limits(24*time.Hour, 0, 1, policy.Refuse), optest.NewStorage(), func(p *provider.Config, _ *optest.Config) {
				s.asking(p, 2, func(time.Time) (time.Time, error) {
					time.Sleep(time.Second)
					page, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject("alice"), State: store.Unended}, "", 10)
					require.NoError(t, err)
					require.Len(t, page, 1)
					page[0].Authenticated = time.Now()
					_, err = s.store.Update(t.Context(), page[0])
					require.NoError(t, err)
					return time.Now(), nil
				})
			})
			require.Equal(t, "login_required", s.Browser().Login(optest.Web, "alice", nil).Error())
			page, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject("alice"), State: store.Unended}, "", 10)
			require.NoError(t, err)
			require.Len(t, page, 1)
		})
	})
}

// Who is signed in by an ID token alone is, with a question after it as without.
func TestAnIDTokenAloneIsASession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startReset(t, limits(24*time.Hour, 2*time.Hour, 0, 0), optest.NewStorage(), nil)
		b := s.Browser()
		for range 2 {
			require.Empty(t, b.Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token"}}).Error())
			time.Sleep(time.Hour)
			require.Len(t, s.live(t, "alice"), 1)
			require.Len(t, s.seen(provider.EventStarted), 1)
		}
	})
	t.Run("and none that ended before it was one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var s *reset
			s = startReset(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), optest.NewStorage(), func(p *provider.Config, _ *optest.Config) {
				s.asking(p, 2, func(at time.Time) (time.Time, error) {
					_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonAccountDisabled, "root")
					return at, err
				})
			})
			v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token"}})
			require.Equal(t, "login_required", v.Error(), "%v", v.Params)
			require.Equal(t, policy.ReasonAccountDisabled, policy.ReasonOf(v.Description()))
			require.Empty(t, s.live(t, "alice"))
			require.Empty(t, s.seen(provider.EventStarted))
		})
	})
	t.Run("and none that the store did not take", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			faulty := faultstore.New(memstore.New())
			s := startReset(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), optest.NewStorage(), func(p *provider.Config, _ *optest.Config) {
				p.Store = faulty
			})
			b := s.Browser()
			callback := s.finished(t, b, s.storage, optest.Implicit, "alice", url.Values{"response_type": {"id_token"}})
			faulty.Script(faultstore.Always(faultstore.Before, "Update"))
			require.Equal(t, "server_error", b.Get(callback).Error())
			faulty.Script(nil)
			require.Empty(t, s.live(t, "alice"))
			require.Empty(t, b.Get(callback).Error())
			require.Len(t, s.live(t, "alice"), 1)
		})
	})
}

// The token from before the installation whose session goes on is good still, where the
// storage does not rotate: in the grace it gets the same answer.
func TestASparedSessionThatWasAdoptedGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		bare := optest.Start(t, optest.Config{Storage: storage, InMemory: true})
		token := bare.Login(optest.Exchange, "alice").RefreshToken()
		time.Sleep(time.Minute)
		s := startReset(t, limits(0, 0, 0, 0), storage, func(p *provider.Config, o *optest.Config) {
			nonRotating(p, o)
			p.AdoptUntil = time.Now().Add(24 * time.Hour)
		})
		r := ok(t, s.Refresh(optest.Exchange, token))
		s.do(t, s.sid(t, optest.Exchange, r))
		require.Equal(t, r.RefreshToken(), ok(t, s.Refresh(optest.Exchange, token)).RefreshToken())
		ok(t, s.Refresh(optest.Exchange, r.RefreshToken()))
	})
}

// Who signed in with the old password may stand at the page of the cap. It ends
// nobody's session, least of all the one that the new one was set in.
func TestTheResetAtThePageOfTheCap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startReset(t, limits(0, 0, 1, policy.Ask), optest.NewStorage(), nil)
		mine := ok(t, s.Login(optest.Web, "alice"))
		sid := s.sid(t, optest.Web, mine)
		b := s.Browser()
		v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
		d := s.desk(t, "alice", "ABCD-EFGH")
		page, _ := d.do(nil)
		mustBeAsked(t, page)
		time.Sleep(time.Second)
		s.do(t, sid)

		s.fails.Store(true)
		require.Equal(t, http.StatusServiceUnavailable, b.Submit(v, answer(sid)).Status)
		down, decision := d.do(d.answers(page, answer(sid)))
		require.Equal(t, http.StatusServiceUnavailable, down.Status)
		require.Zero(t, decision)
		s.fails.Store(false)

		require.Equal(t, "login_required", b.Submit(v, answer(sid)).Error())
		_, decision = d.do(d.answers(page, answer(sid)))
		require.Equal(t, provider.DeviceDecision{Deny: true}, decision)
		_, decision = d.do(nil)
		require.Equal(t, provider.DeviceDecision{Deny: true}, decision, "nor is it asked again")
		ok(t, s.Refresh(optest.Web, mine.RefreshToken()))
		for _, e := range s.seen(provider.EventRefused) {
			require.Equal(t, policy.ReasonCredentialChange, e.Reason)
		}
	})
}

// Who is signed in by the page that sets the new password authenticated at that very
// time, and each database rounds it in its own way.
func TestNotBeforeIsAsExactAsTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startReset(t, limits(0, 0, 1, policy.Ask), optest.NewStorage(), nil)
		time.Sleep(1500 * time.Nanosecond)
		at := time.Now().Add(400 * time.Nanosecond)
		s.at.Store(&at)
		ok(t, s.Login(optest.Web, "alice"))
		mustBeAsked(t, s.Browser().Login(optest.Web, "alice", nil))
		later := time.Now().Add(time.Microsecond)
		s.at.Store(&later)
		require.Equal(t, "login_required", s.Browser().Login(optest.Web, "alice", nil).Error())
	})
}
