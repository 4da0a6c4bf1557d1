package provider_test

import (
	"bytes"
	"context"
	"log/slog"
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

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/faultstore"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A timeless storage does not say when users signed in.
type timeless struct{ *optest.Storage }

type timelessRequest struct{ op.AuthRequest }

func (timelessRequest) GetAuthTime() time.Time { return time.Time{} }

func (s timeless) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	return hideAuthTime(s.Storage.AuthRequestByID(ctx, id))
}

func (s timeless) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	return hideAuthTime(s.Storage.AuthRequestByCode(ctx, code))
}

func (s timeless) CreateAccessToken(ctx context.Context, r op.TokenRequest) (string, time.Time, error) {
	if t, ok := r.(timelessRequest); ok {
		r = t.AuthRequest
	}
	return s.Storage.CreateAccessToken(ctx, r)
}

func (s timeless) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, current string) (string, string, time.Time, error) {
	if t, ok := r.(timelessRequest); ok {
		r = t.AuthRequest
	}
	return s.Storage.CreateAccessAndRefreshTokens(ctx, r, current)
}

func hideAuthTime(r op.AuthRequest, err error) (op.AuthRequest, error) {
	if err != nil {
		return nil, err
	}
	return timelessRequest{r}, nil
}

// A tab that was left at the sign-in page names the sessions of the browser after
// it. Where the provider gives no auth_time, too, that keeps nobody out.
func TestALostTabIsNoDeadEndWithoutAuthTime(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(s *optest.Storage) op.Storage { return timeless{s} }
	})
	b := s.Browser()
	formID(t, b.Authorize(optest.Web, nil)) // and left there
	seen := map[string]bool{}
	for range 3 {
		v := b.Login(optest.Web, "alice", nil)
		require.NotEmpty(t, v.Code(), v.Description())
		sid := s.sid(t, optest.Web, ok(t, s.Code(optest.Web, v)))
		require.False(t, seen[sid])
		seen[sid] = true
		require.Len(t, s.live(t, "alice"), 1)
		require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonLogout, ""))
	}
}

// A login that joins a session leaves nothing behind that takes a place, also while
// nobody sweeps.
func TestAJoinedLoginTakesNoPlace(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 2, policy.Refuse), func(p *provider.Config, _ *optest.Config) { p.MaxSessions = 2 })
	b := s.Browser()
	first := s.loginIn(t, b, optest.Web, "alice", nil)
	sid := s.sid(t, optest.Web, first)
	join := func() {
		for range 5 {
			require.Equal(t, sid, s.sid(t, optest.Web2, s.loginIn(t, b, optest.Web2, "alice", nil)))
		}
	}
	join()
	unended, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject("alice"), State: store.Unended}, "", 100)
	require.NoError(t, err)
	require.Len(t, unended, 1, "a login that joins leaves nothing behind")
	second := s.Login(optest.Web, "alice")
	require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
	require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, second), policy.ReasonLogout, ""))
	// Nor where no cap is set.
	s.set(limits(24*time.Hour, 2*time.Hour, 0, 0))
	join()
	s.Login(optest.Web, "alice")
	require.Len(t, s.live(t, "alice"), 2)
	ok(t, s.Refresh(optest.Web, first.RefreshToken()))
}

// prompt=none with no live session in the browser is login_required, whatever
// sign-on the provider remembers: one that outlives a sign-out, too.
func TestASilentLoginBeginsNoSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), silentInMemory)
		b := s.Browser()
		r := s.loginIn(t, b, optest.Web, "alice", nil)
		signOn := s.cookie(t, b, "optest_sso")
		require.NotEmpty(t, b.Authorize(optest.Web2, url.Values{"prompt": {"none"}}).Code())
		time.Sleep(time.Minute)
		require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, r), policy.ReasonLogout, ""))
		clearCookies(b)
		s.plant(b, signOn)
		for _, client := range []string{optest.Web, optest.Native} {
			v := b.Authorize(client, url.Values{"prompt": {"none"}})
			require.Equal(t, "login_required", v.Error(), "%s: %s", client, v.Description())
			require.Empty(t, v.Code())
		}
		require.Empty(t, s.live(t, "alice"))
	})
}

// A signing key that cannot be had for long holds up neither the outbox nor the end
// of Run.
func TestASigningKeyThatHangsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var hangs atomic.Bool
		n := startNotified(t, policy.Account{}, func(_ *provider.Config, o *optest.Config) {
			o.Wrap = func(s *optest.Storage) op.Storage { return hangingKey{s, &hangs} }
		})
		sid, _ := n.login(t, optest.Web, "alice")
		hangs.Store(true)
		require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, ""))
		time.Sleep(time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = n.hook.Run(ctx)
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Error("Run does not return")
		}
		hangs.Store(false)
		n.sweepFor(t, time.Minute)
		n.web.Once(sid)
	})
}

type hangingKey struct {
	*optest.Storage
	hangs *atomic.Bool
}

func (s hangingKey) SigningKey(ctx context.Context) (op.SigningKey, error) {
	if s.hangs.Load() {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Hour):
		}
	}
	return s.Storage.SigningKey(ctx)
}

// A native application signs out in a browser that has a session of its own: what
// the user confirms is that they sign out, of both.
func TestSigningOutOfANativeApplicationEndsItsSession(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, func(_ *provider.Config, o *optest.Config) { o.InMemory = true })
	b := s.signIn(t, optest.Web, "alice")
	native := s.loginIn(t, b.Browser, optest.Native, "alice", nil)
	nativeSID := s.sid(t, optest.Native, native)
	require.NotEqual(t, b.sid, nativeSID)
	form := confirmForm(t, b.send(t, "GET", url.Values{"id_token_hint": {native.IDToken()}}), "yes")
	require.True(t, s.isLive(t, nativeSID))
	b.send(t, "POST", form)
	require.False(t, s.isLive(t, b.sid))
	require.False(t, s.isLive(t, nativeSID), "the application that asked is signed out as well")
}

// Rule 8 at the page: each store call of an answer fails in each way. Nobody is
// let in past the cap, nobody but the chosen session ends, and the user, who sends
// the answer again or loads the page, gets in.
func TestEachStoreCallOfAnAnswerFails(t *testing.T) {
	t.Parallel()
	for how, fault := range faults {
		t.Run(how, func(t *testing.T) {
			for n, more := 1, true; more; n++ {
				synctest.Test(t, func(t *testing.T) {
					faulty := faultstore.New(memstore.New())
					s, held := atCap(t, func(p *provider.Config, o *optest.Config) {
						inMemory(p, o)
						p.Store = faulty
					})
					chosen, other := s.sid(t, optest.Web, held[0]), s.sid(t, optest.Web, held[1])
					b := s.Browser()
					page := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
					first, hit := faulty.Calls(), false
					faulty.Script(func(c faultstore.Call) faultstore.Fault {
						if c.N == first+n {
							hit = true
							return fault
						}
						return faultstore.None
					})
					v := b.Submit(page, answer(chosen))
					faulty.Script(nil)
					require.LessOrEqual(t, len(s.live(t, "alice")), 2)
					require.True(t, s.isLive(t, other))
					if v.Code() == "" {
						require.True(t, hit)
						v = b.Submit(page, answer(chosen))
						if v.Code() == "" { // it was ended by the first one already
							v = b.Get(page.Callback)
						}
					}
					require.NotEmpty(t, v.Code(), "call %d: %d %s", n, v.Status, v.Body)
					ok(t, s.Code(optest.Web, v))
					require.Len(t, s.live(t, "alice"), 2)
					require.True(t, s.isLive(t, other))
					refusedFor(t, s.Refresh(optest.Web, held[0].RefreshToken()), policy.ReasonEndedByUser)
					more = hit
					require.True(t, hit || n > 1)
				})
			}
		})
	}
}

// Rule 11 for the cookies, the page at the cap and the sign-out.
func TestNothingSecretOfABrowserIsLoggedOrStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		sessions := memstore.New()
		audit := provider.Audit(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		n := startNotified(t, limits(24*time.Hour, 2*time.Hour, 2, policy.Ask), func(p *provider.Config, _ *optest.Config) {
			p.Store, p.Events = sessions, audit
		})
		var secrets []string
		note := func(b *optest.Browser) {
			for name, c := range n.cookies(b) {
				if strings.HasPrefix(name, "curfew-") {
					secrets = append(secrets, c.Value)
				}
			}
		}
		b := n.signIn(t, optest.Web, "alice")
		note(b.Browser)
		joined := n.loginIn(t, b.Browser, optest.Web2, "alice", nil)
		note(b.Browser)
		n.Login(optest.Web, "alice")
		third := n.Browser()
		page := mustBeAsked(t, third.Login(optest.Web, "alice", nil))
		note(third)
		v := third.Submit(page, answer(n.live(t, "alice")[0].ID))
		require.NotEmpty(t, v.Code())
		note(third)
		last := n.signIn(t, optest.Web, "bob")
		note(last.Browser)
		form := confirmForm(t, last.send(t, http.MethodGet, url.Values{"state": {"a-typed-value"}}), "yes")
		require.Equal(t, http.StatusFound, last.send(t, http.MethodPost, form).Status)
		synctest.Wait()
		require.NotEmpty(t, n.web.Raw())

		secrets = append(secrets, askToken(page), v.Code(), joined.RefreshToken(), form.Get("curfew_logout"), "a-typed-value")
		secrets = append(secrets, n.web.Raw()...)
		kept := log.String()
		all, _, err := sessions.List(t.Context(), store.Filter{}, "", 100)
		require.NoError(t, err)
		for _, session := range all {
			body, err := session.MarshalJSON()
			require.NoError(t, err)
			kept += string(body)
		}
		require.Contains(t, kept, `"msg":"session_ended"`)
		for _, secret := range secrets {
			require.NotEmpty(t, secret)
			for _, part := range strings.Split(secret, ".") {
				if len(part) > 8 && !strings.HasPrefix(part, "curfew_") && !slices.ContainsFunc(all, func(s store.Session) bool { return strings.HasSuffix(s.ID, part) }) {
					require.NotContains(t, kept, part)
				}
			}
		}
	})
}
