package provider_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
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

// A reset is a provider whose users' passwords are reset.
type reset struct {
	*setup
	storage *optest.Storage
	at      atomic.Pointer[time.Time]
	fails   atomic.Bool
}

func startReset(t *testing.T, a policy.Account, storage *optest.Storage, change func(*provider.Config, *optest.Config)) *reset {
	t.Helper()
	r := &reset{storage: storage}
	r.setup = start(t, a, func(p *provider.Config, o *optest.Config) {
		o.Storage, o.InMemory = storage, true
		p.NotBefore = func(_ context.Context, subject store.Subject) (time.Time, error) {
			switch at := r.at.Load(); {
			case r.fails.Load():
				return time.Time{}, errors.New("the users' database is down")
			case at != nil && subject == r.subject("alice"):
				return *at, nil
			}
			return time.Time{}, nil
		}
		if change != nil {
			change(p, o)
		}
	})
	return r
}

// asking has NotBefore answer the question number n, from 1, as answer does.
func (r *reset) asking(p *provider.Config, n int, answer func(at time.Time) (time.Time, error)) {
	notBefore, asked := p.NotBefore, 0
	p.NotBefore = func(ctx context.Context, subject store.Subject) (time.Time, error) {
		at, err := notBefore(ctx, subject)
		if asked++; asked == n && err == nil {
			return answer(at)
		}
		return at, err
	}
}

// do resets alice's password, as docs/embedding.md says.
func (r *reset) do(t *testing.T, except ...string) {
	t.Helper()
	now := time.Now()
	r.at.Store(&now)
	_, err := r.hook.EndAll(t.Context(), r.subject("alice"), policy.ReasonCredentialChange, "alice", except...)
	require.NoError(t, err)
}

// What somebody signed in to with the old password, and kept, is nothing after the
// reset. Who signs in with the new one comes in.
func TestAKeptLoginDoesNotOutliveTheReset(t *testing.T) {
	t.Parallel()
	responses := map[string]url.Values{
		"code": nil, "id_token": {"response_type": {"id_token"}}, "id_token token": {"response_type": {"id_token token"}},
	}
	for name, extra := range responses {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startReset(t, limits(24*time.Hour, 2*time.Hour, 0, 0), optest.NewStorage(), nil)
				client := optest.Web
				if extra != nil {
					client = optest.Implicit
				}
				b := s.Browser()
				kept := s.finished(t, b, s.storage, client, "alice", extra)
				bobs := s.finished(t, s.Browser(), s.storage, client, "bob", extra)
				time.Sleep(time.Minute)
				s.do(t)
				time.Sleep(time.Minute)
				for range 2 { // once more is no better
					v := b.Get(kept)
					require.Equal(t, "login_required", v.Error(), "%+v", v)
					require.Equal(t, policy.ReasonCredentialChange, policy.ReasonOf(v.Description()))
				}
				require.Empty(t, s.live(t, "alice"))
				require.Empty(t, b.Get(bobs).Error())
				require.Len(t, s.seen(provider.EventRefused), 2)
				require.Equal(t, policy.ReasonCredentialChange, s.seen(provider.EventRefused)[0].Reason)
				require.Empty(t, s.Browser().Login(client, "alice", extra).Error())
			})
		})
	}
}

func TestAnApprovedDeviceDoesNotOutliveTheReset(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startReset(t, limits(24*time.Hour, 2*time.Hour, 0, 0), optest.NewStorage(), nil)
		device := s.DeviceStart(optest.Native)
		s.DeviceApprove(device, "alice")
		time.Sleep(time.Second)
		s.do(t)
		r := s.DevicePoll(optest.Native, device)
		require.Equal(t, http.StatusBadRequest, r.Status, "%s", r.Body)
		require.Equal(t, "access_denied", r.Error(), "RFC 8628 section 3.5")
		require.Equal(t, policy.ReasonCredentialChange, policy.ReasonOf(r.Description()))
		require.Empty(t, s.live(t, "alice"))
		time.Sleep(time.Second)
		ok(t, s.DeviceLogin(optest.Native, "alice"))
	})
}

// oldTokens are the ways to present a token from before the installation.
var oldTokens = map[string]func(s *reset, token string) optest.Reply{
	"refresh": func(s *reset, token string) optest.Reply { return s.Refresh(optest.Exchange, token) },
	"exchange": func(s *reset, token string) optest.Reply {
		return s.TokenExchange(optest.Exchange, token, optest.RefreshTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}})
	},
}

// Neither is a token from before the installation adopted, be it refreshed or
// exchanged.
func TestAnOldTokenIsNotAdoptedAfterTheReset(t *testing.T) {
	t.Parallel()
	for name, present := range oldTokens {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := optest.NewStorage()
				bare := optest.Start(t, optest.Config{Storage: storage, InMemory: true})
				token := bare.Login(optest.Exchange, "alice").RefreshToken()
				time.Sleep(time.Minute)
				s := startReset(t, limits(0, 0, 0, 0), storage, func(p *provider.Config, _ *optest.Config) {
					p.AdoptUntil = time.Now().Add(24 * time.Hour)
				})
				time.Sleep(time.Minute)
				s.do(t)
				for range 2 {
					r := present(s, token)
					require.Equal(t, http.StatusBadRequest, r.Status, "%s", r.Body)
					if name == "refresh" {
						refusedFor(t, r, policy.ReasonCredentialChange)
					}
				}
				require.Empty(t, s.live(t, "alice"))
			})
		})
	}
}

// A login that is refused for it takes nobody's place.
func TestAKeptLoginEvictsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startReset(t, limits(24*time.Hour, 0, 1, policy.EndOldest), optest.NewStorage(), nil)
		b := s.Browser()
		kept := s.finished(t, b, s.storage, optest.Web, "alice", nil)
		time.Sleep(time.Minute)
		mine := ok(t, s.Login(optest.Web, "alice"))
		s.do(t, s.sid(t, optest.Web, mine))
		require.Equal(t, "login_required", b.Get(kept).Error())
		ok(t, s.Refresh(optest.Web, mine.RefreshToken()))
	})
}

// resetLogins are logins with the old password, and whether they are refused as they
// should be.
var resetLogins = map[string]func(t *testing.T, s *reset) bool{
	"code": func(t *testing.T, s *reset) bool {
		v := s.Browser().Get(s.finished(t, s.Browser(), s.storage, optest.Web, "alice", nil))
		return v.Error() == "login_required"
	},
	"implicit": func(t *testing.T, s *reset) bool {
		v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token token"}})
		return v.Error() == "login_required"
	},
	"id_token": func(t *testing.T, s *reset) bool {
		v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {"id_token"}})
		return v.Error() == "login_required"
	},
	"device": func(_ *testing.T, s *reset) bool {
		return s.DeviceLogin(optest.Native, "alice").Error() == "access_denied"
	},
}

// The password is reset in the moment in which a login is admitted: after it was
// found good, and before its session is in the store, where EndAll would find it.
func TestTheResetWhileALoginIsAdmitted(t *testing.T) {
	t.Parallel()
	for name, login := range resetLogins {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s *reset
				s = startReset(t, limits(24*time.Hour, 0, 1, policy.Refuse), optest.NewStorage(), func(p *provider.Config, _ *optest.Config) {
					s.asking(p, 1, func(at time.Time) (time.Time, error) {
						time.Sleep(time.Millisecond) // it is later than the sign-in
						s.do(t)
						return at, nil
					})
				})
				require.True(t, login(t, s))
				require.Empty(t, s.live(t, "alice"))
				require.Empty(t, s.seen(provider.EventStarted))
				time.Sleep(time.Microsecond)        // whose sign-in is later than the reset
				ok(t, s.Login(optest.Web, "alice")) // it has no slot
			})
		})
	}
}

// Rule 8: who cannot be asked has refused nobody, and let nobody in.
func TestNotBeforeFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startReset(t, limits(24*time.Hour, 0, 1, policy.Refuse), optest.NewStorage(), nil)
		b := s.Browser()
		callback := s.finished(t, b, s.storage, optest.Web, "alice", nil)
		device := s.DeviceStart(optest.Native)
		s.DeviceApprove(device, "bob")
		s.fails.Store(true)
		require.Equal(t, "server_error", b.Get(callback).Error())
		r := s.DevicePoll(optest.Native, device)
		require.Equal(t, http.StatusServiceUnavailable, r.Status, "%s", r.Body)
		require.NotEmpty(t, r.Header.Get("Retry-After"))
		require.NotEmpty(t, s.seen(provider.EventUnavailable))
		require.Empty(t, s.live(t, "alice"))
		s.fails.Store(false)
		mine := ok(t, s.Code(optest.Web, b.Get(callback)))
		ok(t, s.DevicePoll(optest.Native, device))
		s.fails.Store(true)
		ok(t, s.Refresh(optest.Web, mine.RefreshToken()))

		s.set(limits(24*time.Hour, 0, 1, policy.EndOldest))
		require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
		require.Empty(t, s.seen(provider.EventEnded), "nobody's place is taken")
	})
}
