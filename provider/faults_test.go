package provider_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

var faults = map[string]faultstore.Fault{
	"before": faultstore.Before, "after its commit": faultstore.After,
	"times out": faultstore.Timeout, "times out after its commit": faultstore.TimeoutAfter,
}

// A flow is something that an application or a user does, and does again if it
// fails for want of the store.
type flow struct {
	// prepare makes what the flow needs, and returns one attempt of it.
	prepare func(t *testing.T, s *setup) (attempt func() bool)
	// sessions is how many live sessions of admin there are after it.
	sessions int

	refreshes, logsIn bool

	config  func(*provider.Config, *optest.Config) // nil: nothing special
	replays bool                                   // the token is one that is spent
}

// unavailable requires the answer of rule 8.
func unavailable(t *testing.T, r optest.Reply) { hooktest.Unavailable(t, r) }

// answered reports success, and requires rule 8 of a failure.
func answered(t *testing.T, r optest.Reply) bool {
	t.Helper()
	if r.Status == http.StatusOK {
		return true
	}
	unavailable(t, r)
	return false
}

// refreshed presents a refresh token, and replaces it if it gets an answer.
func refreshed(t *testing.T, s *setup, token *string) bool {
	t.Helper()
	r := s.Refresh(optest.Exchange, *token)
	if !answered(t, r) {
		return false
	}
	*token = r.RefreshToken()
	return true
}

// implicitly is a login that is answered at the callback, with the member want among
// others.
func implicitly(responseType, want string) func(t *testing.T, s *setup) func() bool {
	return func(t *testing.T, s *setup) func() bool {
		b := s.Browser()
		var v optest.Visit
		return func() bool {
			if v.Callback == "" {
				v = b.Login(optest.Implicit, "admin", url.Values{"response_type": {responseType}})
			} else {
				v = b.Get(v.Callback)
			}
			if v.Params.Get(want) == "" {
				require.Equal(t, "server_error", v.Error(), v.Description())
				return false
			}
			return true
		}
	}
}

// refused reports whether a refresh was refused for a reason, and requires rule 8 of
// any other answer.
func refused(t *testing.T, r optest.Reply, reason policy.Reason) bool {
	t.Helper()
	if r.Status == http.StatusBadRequest {
		refusedFor(t, r, reason)
		return true
	}
	unavailable(t, r)
	return false
}

// The kinds of storage make a difference to a refresh, the cap to a login.
func (f flow) rotates() []bool {
	if f.refreshes {
		return []bool{true, false}
	}
	return []bool{true}
}

func (f flow) caps() []int {
	if f.logsIn {
		return []int{0, 1}
	}
	return []int{1}
}

var flows = map[string]flow{
	"login and code": {
		prepare: func(t *testing.T, s *setup) func() bool {
			b := s.Browser()
			var v optest.Visit
			return func() bool {
				if v.Callback == "" {
					v = b.Login(optest.Exchange, "admin", nil)
				} else if v.Code() == "" {
					v = b.Get(v.Callback) // reloads the page
				}
				if v.Code() == "" {
					require.Equal(t, "server_error", v.Error(), v.Description())
					return false
				}
				return answered(t, s.Code(optest.Exchange, v))
			}
		}, sessions: 1, logsIn: true,
	},
	"a second application joins": {
		prepare: func(t *testing.T, s *setup) func() bool {
			b := s.Browser()
			sid := s.sid(t, optest.Exchange, s.loginIn(t, b, optest.Exchange, "admin", nil))
			v := b.Authorize(optest.Web2, nil)
			return func() bool {
				switch {
				case v.AtForm():
					v = b.SignIn(v, "admin")
				case v.Code() == "" && v.Callback != "":
					v = b.Get(v.Callback)
				case v.Code() == "":
					v = b.Login(optest.Web2, "admin", nil)
				}
				if v.Code() == "" {
					require.Equal(t, "server_error", v.Error(), v.Description())
					return false
				}
				r := s.Code(optest.Web2, v)
				if !answered(t, r) {
					return false
				}
				require.Equal(t, sid, s.sid(t, optest.Web2, r))
				return true
			}
		}, sessions: 1, logsIn: true,
	},
	"sign-out that is confirmed": {
		prepare: func(t *testing.T, s *setup) func() bool {
			b := s.signIn(t, optest.Exchange, "admin")
			var form url.Values
			return func() bool {
				if form == nil {
					r := b.send(t, http.MethodGet, url.Values{})
					if r.Status == http.StatusServiceUnavailable {
						return false
					}
					form = confirmForm(t, r, "yes")
				}
				r := b.send(t, http.MethodPost, form)
				if r.Status == http.StatusServiceUnavailable {
					return false
				}
				require.Equal(t, http.StatusFound, r.Status, "%s", r.Body)
				return true
			}
		},
	},
	"implicit": {
		prepare: implicitly("id_token token", "access_token"), sessions: 1, logsIn: true,
	},
	"device": {
		prepare: func(t *testing.T, s *setup) func() bool {
			d := s.DeviceStart(optest.Native)
			s.DeviceApprove(d, "admin")
			return func() bool { return answered(t, s.DevicePoll(optest.Native, d)) }
		}, sessions: 1, logsIn: true,
	},
	"exchange": {
		prepare: func(t *testing.T, s *setup) func() bool {
			r := s.Login(optest.Exchange, "admin")
			return func() bool {
				return answered(t, s.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}}))
			}
		}, sessions: 1,
	},
	"id_token alone": {
		prepare: implicitly("id_token", "id_token"), sessions: 1,
	},
	"exchange of another subject": {
		prepare: func(t *testing.T, s *setup) func() bool {
			return func() bool {
				return answered(t, s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}}))
			}
		}, sessions: 1, logsIn: true, config: func(_ *provider.Config, o *optest.Config) { o.Wrap = optest.Foreign },
	},
	"exchange of another subject for an ID token": {
		prepare: func(t *testing.T, s *setup) func() bool {
			return func() bool {
				return answered(t, s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.IDTokenType}}))
			}
		}, sessions: 1, config: func(_ *provider.Config, o *optest.Config) { o.Wrap = optest.Foreign },
	},
	"exchange of a refresh token": {
		prepare: func(t *testing.T, s *setup) func() bool {
			r := s.Login(optest.Exchange, "admin")
			return func() bool {
				return answered(t, s.TokenExchange(optest.Exchange, r.RefreshToken(), optest.RefreshTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}}))
			}
		}, sessions: 1,
	},
	"adoption": {
		prepare: func(t *testing.T, s *setup) func() bool {
			bare := optest.Start(t, optest.Config{Storage: s.Storage, InMemory: true})
			token := bare.Login(optest.Exchange, "admin").RefreshToken()
			time.Sleep(time.Minute)
			return func() bool { return refreshed(t, s, &token) }
		}, sessions: 1, refreshes: true, config: func(p *provider.Config, _ *optest.Config) { p.AdoptUntil = time.Now().Add(24 * time.Hour) },
	},
	"lost response": {
		prepare: func(t *testing.T, s *setup) func() bool {
			token := s.Login(optest.Exchange, "admin").RefreshToken()
			ok(t, s.Refresh(optest.Exchange, token))
			time.Sleep(40 * time.Minute)
			return func() bool { return refreshed(t, s, &token) }
		}, sessions: 1, refreshes: true,
	},
	"replay": {
		prepare: func(t *testing.T, s *setup) func() bool {
			token := s.Login(optest.Exchange, "admin").RefreshToken()
			next := ok(t, s.Refresh(optest.Exchange, token))
			ok(t, s.Refresh(optest.Exchange, next.RefreshToken()))
			time.Sleep(30 * time.Second)
			return func() bool { return refused(t, s.Refresh(optest.Exchange, token), policy.ReasonReplay) }
		}, replays: true,
	},
	"refresh of a session that is over": {
		prepare: func(t *testing.T, s *setup) func() bool {
			token := s.Login(optest.Exchange, "admin").RefreshToken()
			time.Sleep(3 * time.Hour)
			return func() bool { return refused(t, s.Refresh(optest.Exchange, token), policy.ReasonInactivity) }
		},
	},
	"refresh": {
		prepare: func(t *testing.T, s *setup) func() bool {
			token := s.Login(optest.Exchange, "admin").RefreshToken()
			return func() bool { return refreshed(t, s, &token) }
		}, sessions: 1, refreshes: true,
	},
	"repeated refresh": {
		prepare: func(t *testing.T, s *setup) func() bool {
			token := s.Login(optest.Exchange, "admin").RefreshToken()
			next := ok(t, s.Refresh(optest.Exchange, token)).RefreshToken()
			return func() bool {
				r := s.Refresh(optest.Exchange, token)
				if !answered(t, r) {
					return false
				}
				require.Equal(t, next, r.RefreshToken())
				return true
			}
		}, sessions: 1, refreshes: true,
	},
	"introspection": {
		prepare: func(t *testing.T, s *setup) func() bool {
			r := s.Login(optest.Exchange, "admin")
			time.Sleep(time.Minute)
			return func() bool {
				in := s.Introspect(optest.Exchange, r.AccessToken())
				if !answered(t, in) {
					return false
				}
				require.Equal(t, true, in.JSON["active"])
				return true
			}
		}, sessions: 1,
	},
	"userinfo": {
		prepare: func(t *testing.T, s *setup) func() bool {
			r := s.Login(optest.Exchange, "admin")
			time.Sleep(time.Minute)
			return func() bool { return answered(t, s.Userinfo(r.AccessToken())) }
		}, sessions: 1,
	},
	"revocation": {
		prepare: func(t *testing.T, s *setup) func() bool {
			r := ok(t, s.DeviceLogin(optest.Native, "admin"))
			return func() bool {
				reply := s.Revoke(optest.Native, r.RefreshToken(), "")
				if reply.Status != http.StatusOK {
					unavailable(t, reply)
					return false
				}
				return true
			}
		},
	},
	"logout": {
		prepare: func(t *testing.T, s *setup) func() bool {
			r := s.Login(optest.Exchange, "admin")
			return func() bool {
				v := s.Browser().EndSession(url.Values{"id_token_hint": {r.IDToken()}, "post_logout_redirect_uri": {optest.PostLogoutURI}})
				if v.Params == nil {
					require.Equal(t, http.StatusServiceUnavailable, v.Status)
					return false
				}
				return true
			}
		},
	},
	"end": {
		prepare: func(t *testing.T, s *setup) func() bool {
			sid := s.sid(t, optest.Exchange, s.Login(optest.Exchange, "admin"))
			return func() bool { return s.hook.End(context.Background(), sid, policy.ReasonEndedByAdmin, "root") == nil }
		},
	},
	"end all": {
		prepare: func(t *testing.T, s *setup) func() bool {
			s.Login(optest.Exchange, "admin")
			return func() bool {
				_, err := s.hook.EndAll(context.Background(), s.subject("admin"), policy.ReasonAccountDisabled, "root")
				return err == nil
			}
		},
	},
	"sweep": {
		prepare: func(t *testing.T, s *setup) func() bool {
			s.Login(optest.Exchange, "admin")
			time.Sleep(3 * time.Hour)
			return func() bool {
				err := s.hook.Sweep(context.Background())
				time.Sleep(2 * time.Minute) // the lease of what it had taken
				return err == nil
			}
		},
	},
}

// Rule 8: each store call of each flow fails before, fails after its
// commit, and times out; then the client's retry succeeds and the live sessions
// are recounted. On storages that rotate and that do not, with and without a
// cap.
func TestEachStoreCallOfEachFlowFails(t *testing.T) {
	t.Parallel()
	for name, f := range flows {
		for how, fault := range faults {
			for _, rotates := range f.rotates() {
				for _, concurrent := range f.caps() {
					t.Run(fmt.Sprintf("%s/%s/rotating %t/cap %d", name, how, rotates, concurrent), func(t *testing.T) {
						storage := optest.NewStorage() // for all: making its RSA key takes longer than the rest
						for n := 1; ; n++ {
							var more bool
							synctest.Test(t, func(t *testing.T) { more = failNth(t, f, n, fault, rotates, concurrent, storage) })
							if !more {
								require.Greater(t, n, 1, "the flow made no store call")
								return
							}
						}
					})
				}
			}
		}
	}
}

// failNth runs a flow whose n-th store call fails, and reports whether there was
// one.
func failNth(t *testing.T, f flow, n int, fault faultstore.Fault, rotates bool, concurrent int, storage *optest.Storage) bool {
	faulty := faultstore.New(memstore.New())
	s := start(t, limits(24*time.Hour, 2*time.Hour, concurrent, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		inMemory(p, o)
		o.Storage = storage
		if !rotates {
			nonRotating(p, o)
		}
		p.Store = faulty
		p.Settings = nil // these come from the store as well
		if f.config != nil {
			f.config(p, o)
		}
	})
	_, err := provider.SaveAccount(t.Context(), faulty, "default", limits(24*time.Hour, 2*time.Hour, concurrent, policy.Refuse), 0, "root", "", time.Now())
	require.NoError(t, err)
	attempt := f.prepare(t, s)
	first := faulty.Calls()
	hit := false
	faulty.Script(func(c faultstore.Call) faultstore.Fault {
		if c.N == first+n {
			hit = true
			return fault
		}
		return faultstore.None
	})
	done := attempt()
	if !hit {
		require.True(t, done)
		return false
	}
	faulty.Script(nil)
	for range 2 {
		if !done {
			done = attempt()
		}
	}
	require.True(t, done, "the retry must succeed")
	require.Len(t, s.live(t, "admin"), f.sessions)
	require.Equal(t, f.replays, len(s.seen(provider.EventReplay)) > 0)
	if f.sessions == 0 {
		time.Sleep(2 * time.Minute) // whose end nobody announced, a sweep announces
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.NoError(t, s.hook.Sweep(t.Context()))
		require.NotEmpty(t, s.seen(provider.EventEnded))
		require.LessOrEqual(t, len(s.seen(provider.EventEnded)), 2, "at least once, and not again and again")
		ok(t, s.Login(optest.Exchange, "admin")) // its slot is free
	}
	return true
}

// The store is away for a while: nothing is admitted unchecked, nobody is logged
// out, and service resumes by itself.
func TestAnOutageIsNotALogout(t *testing.T) {
	t.Parallel()
	for how, fault := range faults {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				faulty := faultstore.New(memstore.New())
				s := start(t, limits(24*time.Hour, 2*time.Hour, 4, policy.Refuse), func(p *provider.Config, o *optest.Config) {
					inMemory(p, o)
					p.Store = faulty
				})
				r := s.Login(optest.Exchange, "admin")
				faulty.Script(faultstore.Always(fault))
				unavailable(t, s.Refresh(optest.Exchange, r.RefreshToken()))
				unavailable(t, s.Introspect(optest.Exchange, r.AccessToken()))
				unavailable(t, s.Userinfo(r.AccessToken()))
				unavailable(t, s.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}}))
				unavailable(t, s.Revoke(optest.Exchange, r.RefreshToken(), ""))
				v := s.Browser().Login(optest.Web, "admin", nil)
				require.Equal(t, "server_error", v.Error())
				d := s.DeviceStart(optest.Native)
				s.DeviceApprove(d, "admin")
				unavailable(t, s.DevicePoll(optest.Native, d))

				faulty.Script(nil)
				r = ok(t, s.Refresh(optest.Exchange, r.RefreshToken()))
				require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
				ok(t, s.DevicePoll(optest.Native, d))
				require.Len(t, s.live(t, "admin"), 2, "what was answered, whatever was committed on the way")
			})
		})
	}
}

// Settings or memberships that cannot be read: sessions go on with the last
// known ones, logins wait.
func TestSettingsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken error
		s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Settings = settingsFunc(func() (policy.Account, error) { return limits(24*time.Hour, 2*time.Hour, 2, policy.Refuse), broken })
		})
		r := s.Login(optest.Web, "alice")
		broken = errors.New("settings: out of order")
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		require.Len(t, s.seen(provider.EventSettingsStale), 1)
		require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
		time.Sleep(6 * time.Minute) // too old to go on with
		unavailable(t, s.Refresh(optest.Web, r.RefreshToken()))
		broken = nil
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	})
	synctest.Test(t, func(t *testing.T) {
		var broken error
		s := start(t, limits(24*time.Hour, 2*time.Hour, 2, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Membership = func(context.Context, store.Subject) ([]policy.Membership, error) {
				return []policy.Membership{{Account: "default"}}, broken
			}
		})
		r := s.Login(optest.Web, "alice")
		broken = errors.New("directory: out of order")
		unavailable(t, s.Refresh(optest.Web, r.RefreshToken()))
		unavailable(t, s.Introspect(optest.Web, r.AccessToken()))
		require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
		broken = nil
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	})
}

type settingsFunc func() (policy.Account, error)

func (f settingsFunc) Account(context.Context, string) (policy.Account, error) { return f() }

// One session read and one session write per refresh, whatever else there is.
func TestARefreshIsOneReadAndOneWrite(t *testing.T) {
	t.Parallel()
	for name, concurrent := range map[string]int{"no cap": 0, "cap": 50} {
		t.Run(name, func(t *testing.T) {
			counting := faultstore.New(memstore.New())
			s := start(t, limits(24*time.Hour, 2*time.Hour, concurrent, policy.Refuse), func(p *provider.Config, _ *optest.Config) { p.Store = counting })
			for range 5 {
				s.Login(optest.Web, "alice")
			}
			counting.Reset()
			r := s.Login(optest.Web, "alice")
			login := counting.Counts()
			require.Equal(t, map[string]int{"Admit": 1, "Get": 1, "Update": 1}, login, "admission, and the redemption of the code")
			counting.Reset()
			r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
			require.Equal(t, map[string]int{"Get": 1, "Update": 1}, counting.Counts())
			counting.Reset()
			s.Introspect(optest.Web, r.AccessToken())
			require.Equal(t, map[string]int{"Get": 1, "Update": 1}, counting.Counts(), "the token was seen for the first time")
			counting.Reset()
			s.Introspect(optest.Web, r.AccessToken())
			s.Userinfo(r.AccessToken())
			require.Equal(t, map[string]int{"Get": 2}, counting.Counts())
		})
	}
}

// A rotation that the storage made and the store did not take is answered all
// the same, and taken at its next use.
func TestALostWriteDoesNotLoseTheLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Store = faulty
		})
		r := s.Login(optest.Web, "alice")
		faulty.Script(faultstore.Always(faultstore.Before, "Update"))
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		require.Len(t, s.seen(provider.EventWriteLost), 1)
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken())) // still away
		faulty.Script(nil)
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		require.NotEmpty(t, s.seen(provider.EventRollback))
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		require.Len(t, s.live(t, "alice"), 1)
		require.Empty(t, s.seen(provider.EventReplay))
	})
}
