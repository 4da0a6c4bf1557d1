package provider_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
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
	"github.com/curfew-oidc/curfew/store/memstore"
)

// failOnce makes one call of a storage method fail, before or after it.
func failOnce(method string, after bool) (*atomic.Bool, func(*optest.Storage) op.Storage) {
	armed := &atomic.Bool{}
	hit := func(_ context.Context, m string) error {
		if m == method && armed.CompareAndSwap(true, false) {
			return errors.New("the storage is out of order")
		}
		return nil
	}
	return armed, func(s *optest.Storage) op.Storage {
		if after {
			return &optest.Intercepted{Storage: s, After: hit}
		}
		return &optest.Intercepted{Storage: s, Before: hit}
	}
}

// Rule 3: a code whose exchange failed half-way is good for another try, in the
// same slot.
func TestARetriedCodeTakesNoNewSlot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method string
		after  bool
	}{
		{"CreateAccessAndRefreshTokens", false},
		{"CreateAccessAndRefreshTokens", true},
		{"SetUserinfoFromRequest", true},
		{"DeleteAuthRequest", false},
	} {
		armed, wrap := failOnce(c.method, c.after)
		s := start(t, limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) { o.Wrap = wrap })
		v := s.Browser().Login(optest.Web, "alice", nil)
		armed.Store(true)
		require.Equal(t, http.StatusInternalServerError, s.Code(optest.Web, v).Status)
		r := ok(t, s.Code(optest.Web, v))
		require.Len(t, s.live(t, "alice"), 1)
		require.Len(t, s.seen(provider.EventStarted), 1)
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
	}
}

// A refused exchange of a code leaves the code as it was: no second slot, no
// leak.
func TestARefusedCodeExchangeLeaksNothing(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Refuse), nil)
	v := s.Browser().Login(optest.Web, "alice", nil)
	wrong := v
	wrong.Params = url.Values{"code": {v.Code()}}
	require.Equal(t, http.StatusBadRequest, s.Code(optest.Web2, wrong).Status)
	ok(t, s.Code(optest.Web, v))
	require.Len(t, s.live(t, "alice"), 1)
}

// A provider that builds its authorization response itself passes no callback.
func TestAProviderWithoutTheCallbackIsAdmittedAllTheSame(t *testing.T) {
	t.Parallel()
	for _, responseType := range []string{"code", "id_token token", "id_token"} {
		s := start(t, limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
			o.OwnResponse = true
		})
		visit := func() optest.Visit {
			return s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {responseType}})
		}
		v := visit()
		require.Empty(t, v.Error(), v.Description())
		if responseType == "code" {
			ok(t, s.Code(optest.Implicit, v))
		}
		require.Len(t, s.live(t, "alice"), 1, responseType)
		v = visit()
		require.Equal(t, "access_denied", v.Error(), "%s: %s", responseType, v.Description())
	}
}

// A storage that was restored from an old backup, or whose store lost a write:
// a generation above the stored one is taken if the storage takes it.
func TestAGenerationAheadOfTheStoreIsTaken(t *testing.T) {
	t.Parallel()
	sessions := memstore.New()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, _ *optest.Config) { p.Store = sessions })
	r := s.Login(optest.Web, "alice")
	backup, err := sessions.Get(t.Context(), s.sid(t, optest.Web, r))
	require.NoError(t, err)
	r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))

	now, err := sessions.Get(t.Context(), backup.ID)
	require.NoError(t, err)
	backup.Revision = now.Revision
	_, err = sessions.Update(t.Context(), backup)
	require.NoError(t, err)

	r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	require.Len(t, s.seen(provider.EventRollback), 1)
	ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	require.Len(t, s.seen(provider.EventRollback), 1)
}

// Rule 9: a well-sealed token whose session the store does not know.
func TestAnUnknownSessionIsNotBroughtBack(t *testing.T) {
	t.Parallel()
	sessions := memstore.New()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, _ *optest.Config) { p.Store = sessions })
	r := s.Login(optest.Exchange, "admin")
	session, err := sessions.Get(t.Context(), s.sid(t, optest.Exchange, r))
	require.NoError(t, err)
	require.NoError(t, sessions.Delete(t.Context(), session.ID, session.Revision))
	refusedFor(t, s.Refresh(optest.Exchange, r.RefreshToken()), policy.ReasonUnknownSession)
	require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Exchange, r.AccessToken()).JSON)
	require.Equal(t, http.StatusUnauthorized, s.Userinfo(r.AccessToken()).Status)
	require.Equal(t, http.StatusOK, s.Revoke(optest.Exchange, r.RefreshToken(), "").Status)
	for tokenType, token := range map[string]string{
		optest.AccessTokenType: r.AccessToken(), optest.RefreshTokenType: r.RefreshToken(), optest.IDTokenType: r.IDToken(),
	} {
		require.Equal(t, "invalid_request", s.TokenExchange(optest.Exchange, token, tokenType, url.Values{"requested_token_type": {optest.AccessTokenType}}).Error())
	}
	require.Empty(t, s.live(t, "admin"))
}

// FAPI 2.0: refresh tokens of some clients do not rotate, and slide all the
// same.
func TestAClientThatMustNotRotateKeepsItsToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemoryNonRotating(p, o)
			p.KeepRefreshToken = func(_ context.Context, c op.Client) bool { return c.GetID() == optest.Web }
		})
		token := s.Login(optest.Web, "alice").RefreshToken()
		for range 5 {
			time.Sleep(time.Hour)
			r := ok(t, s.Refresh(optest.Web, token))
			require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
			ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		}
		require.Empty(t, s.seen(provider.EventReplay))
		parallel(10, func(int) { s.Refresh(optest.Web, token) })
		ok(t, s.Refresh(optest.Web, token))
		time.Sleep(2 * time.Hour)
		refusedFor(t, s.Refresh(optest.Web, token), policy.ReasonInactivity)
	})
}

// Adoption of tokens from before the installation.
func TestTokensFromBeforeTheInstallationAreAdoptedOnce(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(*optest.Storage) op.Storage{"rotating": nil, "not rotating": optest.NonRotating} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := optest.NewStorage()
				bare := optest.Start(t, optest.Config{Storage: storage, Wrap: wrap, InMemory: true})
				var old []string
				for range 3 {
					old = append(old, bare.Login(optest.Web, "alice").RefreshToken())
				}
				time.Sleep(time.Hour)
				sessions := memstore.New()
				s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
					o.Storage, o.Wrap, o.InMemory = storage, wrap, true
					p.Store, p.AdoptUntil = sessions, time.Now().Add(24*time.Hour)
				})
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				require.ErrorIs(t, s.hook.Run(ctx), context.Canceled)
				require.Equal(t, http.StatusBadRequest, s.Refresh(optest.Web2, old[0]).Status)
				require.Empty(t, s.live(t, "alice"))

				adopted := make([]optest.Reply, 0, 3)
				for _, token := range old { // they are not refused for the cap
					adopted = append(adopted, ok(t, s.Refresh(optest.Web, token)))
				}
				require.Len(t, s.live(t, "alice"), 3)
				require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error(), "they count")
				require.NotEqual(t, s.sid(t, optest.Web, adopted[0]), s.sid(t, optest.Web, adopted[1]))

				if wrap != nil { // presented again within the grace: the same answer
					require.Equal(t, adopted[0].RefreshToken(), ok(t, s.Refresh(optest.Web, old[0])).RefreshToken())
				} else { // the storage has forgotten it, as it would without the hook
					require.Equal(t, "invalid_grant", s.Refresh(optest.Web, old[0]).Error())
				}
				require.Len(t, s.live(t, "alice"), 3)
				ok(t, s.Refresh(optest.Web, adopted[0].RefreshToken()))
				authorization, _ := adopted[0].Number("authorization_expires_in")
				require.Equal(t, (23 * time.Hour).Seconds(), authorization, "counted from its own authentication")
				time.Sleep(2 * time.Hour)
				refusedFor(t, s.Refresh(optest.Web, adopted[1].RefreshToken()), policy.ReasonInactivity)
			})
		})
	}
}

func TestWhatIsNotAdopted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		bare := optest.Start(t, optest.Config{Storage: storage, Wrap: optest.NonRotating, InMemory: true})
		tooOld := bare.Login(optest.Web, "alice").RefreshToken()
		time.Sleep(12 * time.Hour)
		good := bare.Login(optest.Web, "alice").RefreshToken()
		time.Sleep(12 * time.Hour)
		sessions := memstore.New()
		until := time.Now().Add(2 * time.Hour)
		with := func(until time.Time) *setup {
			return start(t, limits(24*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
				o.Storage, o.Wrap, o.InMemory = storage, optest.NonRotating, true
				p.Store, p.AdoptUntil = sessions, until
			})
		}
		s := with(until)
		refusedFor(t, s.Refresh(optest.Web, tooOld), policy.ReasonActiveLimit)
		time.Sleep(time.Second)
		after := bare.Login(optest.Web, "alice").RefreshToken() // by a process without the hook
		require.Equal(t, "invalid_grant", s.Refresh(optest.Web, after).Error())
		require.Equal(t, "invalid_grant", with(time.Time{}).Refresh(optest.Web, good).Error())
		ok(t, s.Refresh(optest.Web, good))
		time.Sleep(2 * time.Hour)
		require.Equal(t, "invalid_grant", s.Refresh(optest.Web, good).Error())
	})
}

// Bad input: tokens mangled in every way, and every kind of token at every
// place where another is expected.
func TestMangledAndCrossedTokens(t *testing.T) {
	t.Parallel()
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) { o.Embedding = embedding })
			r, j := s.Login(optest.Web, "alice"), s.Login(optest.JWT, "alice")
			good := map[string]string{
				"refresh": r.RefreshToken(), "access": r.AccessToken(), "id": r.IDToken(), "jwt access": j.AccessToken(),
			}
			var bad []string
			for kind, token := range good {
				if kind == "refresh" { // others have op's own envelope, which forgives these
					bad = append(bad, " "+token, token+"\x00", token+"=", strings.Replace(token, "_rt_", "_at_", 1))
				}
				swapped := strings.Split(token, ".")
				swapped[0], swapped[len(swapped)-1] = swapped[len(swapped)-1], swapped[0]
				flipped := []byte(token)
				flipped[len(flipped)*2/3] ^= 1
				bad = append(bad,
					token[:len(token)-1], token[1:], token+"A", token+".", "."+token, strings.ToUpper(token), token+token,
					strings.Join(swapped, "."), string(flipped),
					strings.Replace(token, ".", "..", 1),
				)
			}
			bad = append(bad, "x", ".", "curfew_rt_", "curfew_rt_.", "curfew_rt_ffffffffffff.AAAA", "curfew_at_", "curfew_rp_000000000000.AA",
				strings.Repeat("A", 100_000), "\x00", "ä€𝄞", "\xff\xfe", "a:b", "a:b:c")
			for _, token := range bad {
				refresh := s.Refresh(optest.Web, token)
				require.Equal(t, http.StatusBadRequest, refresh.Status, "%q: %s", token, refresh.Body)
				require.Equal(t, "invalid_grant", refresh.Error(), "%q", token)
				in := s.Introspect(optest.Web, token)
				require.Equal(t, map[string]any{"active": false}, in.JSON, "%q", token)
				require.Contains(t, []int{401, 403}, s.Userinfo(strings.Map(printable, token)).Status, "%q", token)
				require.Equal(t, http.StatusOK, s.Revoke(optest.Web, token, "").Status, "%q", token)
			}
			for kind, token := range good {
				if kind != "refresh" {
					require.Equal(t, "invalid_grant", s.Refresh(optest.Web, token).Error(), kind)
				}
				if kind != "access" && kind != "jwt access" {
					require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, token).JSON, kind)
					require.Contains(t, []int{401, 403}, s.Userinfo(token).Status, kind) // 403 is op's own, for an ID token
				}
			}
			// Kind and hint crossed: RFC 7009 section 2.1 has the server look
			// further.
			require.Equal(t, http.StatusOK, s.Revoke(optest.Web, r.RefreshToken(), "access_token").Status)
			refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonRevoked)
			require.Equal(t, http.StatusOK, s.Revoke(optest.JWT, j.AccessToken(), "refresh_token").Status)
			require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.JWT, j.AccessToken()).JSON)
			ok(t, s.Refresh(optest.JWT, j.RefreshToken()))
		})
	}
}

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return '?'
	}
	return r
}

// Rule 11: what one user can make us keep is bounded.
func TestWhatOneUserCanMakeUsKeepIsBounded(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) {
		p.MaxSessions, p.MaxGrants = 5, 3
	})
	first := s.Login(optest.Exchange, "admin")
	newest := first
	for range 5 {
		newest = ok(t, s.TokenExchange(optest.Exchange, newest.AccessToken(), optest.AccessTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}}))
	}
	session, err := s.hook.Session(t.Context(), s.sid(t, optest.Exchange, first))
	require.NoError(t, err)
	require.Len(t, session.Grants, 3)
	refusedFor(t, s.Refresh(optest.Exchange, first.RefreshToken()), policy.ReasonRevoked)

	var last optest.Reply
	for range 7 {
		last = s.Login(optest.Web, "alice")
	}
	require.Len(t, s.live(t, "alice"), 5, "no cap is set, and nobody is locked out")
	ok(t, s.Refresh(optest.Web, last.RefreshToken()))

	b := s.Browser()
	b.UserAgent = strings.Repeat("x", 10_000) + "\xff"
	v := b.Login(optest.Web, "bob", nil)
	ok(t, s.Code(optest.Web, v))
	require.LessOrEqual(t, len(s.live(t, "bob")[0].UserAgent), 200)
	require.Equal(t, "127.0.0.0/24", s.live(t, "bob")[0].Address)
}

// Rule 11: nothing secret in logs, events and the store.
func TestNothingSecretIsLoggedOrStored(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var ahead atomic.Int64
	sessions := memstore.New()
	audit := provider.Audit(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	s := start(t, limits(24*time.Hour, 2*time.Hour, 2, policy.Refuse), func(p *provider.Config, _ *optest.Config) {
		p.Store, p.Events = sessions, audit
		p.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	browser := s.Browser()
	v := browser.Login(optest.Web, "alice", nil)
	cookie := strings.Split(s.cookie(t, browser, "curfew-session-").Value, ".")[1] // the rest is the sid
	r := ok(t, s.Code(optest.Web, v))
	next := ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	device := s.DeviceStart(optest.Native)
	s.DeviceApprove(device, "alice")
	d := ok(t, s.DevicePoll(optest.Native, device))
	s.Browser().Login(optest.Web, "alice", nil)
	require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Native, d), policy.ReasonEndedByAdmin, "root"))
	ok(t, s.Refresh(optest.Web, next.RefreshToken()))
	ahead.Store(int64(time.Minute))         // the grace is over
	s.Refresh(optest.Web, r.RefreshToken()) // a replay

	for _, event := range []string{"session_started", "login_refused", "session_ended", "refresh_replay"} {
		require.Contains(t, log.String(), `"msg":"`+event+`"`)
	}
	require.Contains(t, log.String(), `"used":2,"max":2`)
	var kept strings.Builder
	all, _, err := sessions.List(t.Context(), store.Filter{}, "", 100)
	require.NoError(t, err)
	for _, session := range all {
		b, err := session.MarshalJSON()
		require.NoError(t, err)
		kept.Write(b)
	}
	for _, secret := range []string{
		v.Code(), r.RefreshToken(), r.AccessToken(), next.RefreshToken(), next.AccessToken(), d.RefreshToken(),
		device.String("device_code"), device.String("user_code"), optest.Password,
		cookie, s.cookie(t, browser, "curfew-login-").Value,
	} {
		require.NotEmpty(t, secret)
		for _, part := range append(strings.Split(secret, "."), secret) {
			if len(part) > 8 && !strings.HasPrefix(part, "curfew_") {
				require.NotContains(t, log.String(), part)
				require.NotContains(t, kept.String(), part)
			}
		}
	}
}

// An access token from a session that has more than one client, and the wrong
// client's revocation of it.
func TestAnAccessTokenIsRevokedByItsClientOnly(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, nil)
	r := s.Login(optest.Web, "alice")
	require.Equal(t, "invalid_client", s.Revoke(optest.Web2, r.AccessToken(), "").Error())
	require.Equal(t, true, s.Introspect(optest.Web, r.AccessToken()).JSON["active"])
}

// acr is dropped by op on refresh; it belongs to the session.
func TestRefreshedIDTokensHaveNoNonceAndTheSameClaims(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	r := s.Login(optest.Web, "alice")
	first := s.ParseIDToken(optest.Web, r.IDToken())
	second := s.ParseIDToken(optest.Web, ok(t, s.Refresh(optest.Web, r.RefreshToken())).IDToken())
	require.NotContains(t, second, "nonce")
	for _, claim := range []string{"iss", "sub", "aud", "auth_time", "azp", "sid", "session_expiry", "amr"} {
		require.Equal(t, first[claim], second[claim], claim)
		require.NotNil(t, second[claim], claim)
	}
}

// Rule 6: a single sign-on that answers behind the user's back keeps nothing
// alive, and entering credentials slides only where the policy says so.
func TestJoiningWithoutCredentialsSlidesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		storage.SSO = true
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemoryNonRotating(p, o)
			o.Storage = storage
			p.SSOSession = func(_ context.Context, l provider.Login) string { return optest.SSOSession(l.AuthRequest) }
		})
		b := s.Browser()
		r := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		for range 7 { // an iframe, every quarter of an hour
			time.Sleep(15 * time.Minute)
			v := b.Authorize(optest.Web, url.Values{"prompt": {"none"}})
			require.NotEmpty(t, v.Code(), v.Description())
			ok(t, s.Code(optest.Web, v))
		}
		time.Sleep(15 * time.Minute)
		refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonInactivity)
	})
}
