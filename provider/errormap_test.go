package provider_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// The error for each situation, as the specifications have it: RFC 6749 section 5.2
// unless another one is named.
func TestErrorMap(t *testing.T) {
	t.Parallel()
	token := func(t *testing.T, r optest.Reply, status int, code string) {
		t.Helper()
		require.Equal(t, status, r.Status, "%s", r.Body)
		require.Equal(t, code, r.Error(), "%s", r.Body)
	}
	ended := func(reason policy.Reason) func(*testing.T, *setup) {
		return func(t *testing.T, s *setup) {
			r := s.Login(optest.Web, "alice")
			require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, r), reason, "root"))
			refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), reason)
		}
	}
	for situation, test := range map[string]func(t *testing.T, s *setup){
		"a refresh after the inactivity window": func(t *testing.T, s *setup) {
			r := s.Login(optest.Web, "alice")
			time.Sleep(2 * time.Hour)
			refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonInactivity)
		},
		"a refresh after the active limit": func(t *testing.T, s *setup) {
			r := s.Login(optest.Web, "alice")
			for range 23 {
				time.Sleep(time.Hour)
				r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
			}
			time.Sleep(time.Hour)
			refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonActiveLimit)
		},
		"a refresh of a session that the user ended":            ended(policy.ReasonEndedByUser),
		"a refresh of a session that an administrator ended":    ended(policy.ReasonEndedByAdmin),
		"a refresh of a session whose account was disabled":     ended(policy.ReasonAccountDisabled),
		"a refresh of a session whose credentials were changed": ended(policy.ReasonCredentialChange),
		"a spent refresh token, which ends its family for good": func(t *testing.T, s *setup) {
			spent := s.Login(optest.Web, "alice").RefreshToken()
			next := ok(t, s.Refresh(optest.Web, spent))
			next = ok(t, s.Refresh(optest.Web, next.RefreshToken()))
			time.Sleep(30 * time.Second)
			refusedFor(t, s.Refresh(optest.Web, spent), policy.ReasonReplay)
			refusedFor(t, s.Refresh(optest.Web, next.RefreshToken()), policy.ReasonReplay)
		},
		"a device code that has brought its tokens": func(t *testing.T, s *setup) {
			d := s.DeviceStart(optest.Native)
			s.DeviceApprove(d, "alice")
			r := ok(t, s.DevicePoll(optest.Native, d))
			time.Sleep(30 * time.Second)
			token(t, s.DevicePoll(optest.Native, d), http.StatusBadRequest, "invalid_grant")
			ok(t, s.Refresh(optest.Native, r.RefreshToken()))
		},
		"the refresh token of another client": func(t *testing.T, s *setup) {
			r := s.Login(optest.Web, "alice")
			token(t, s.Refresh(optest.Web2, r.RefreshToken()), http.StatusBadRequest, "invalid_grant")
			ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		},
		"a code whose session ended": func(t *testing.T, s *setup) {
			v := s.Browser().Login(optest.Web, "alice", nil)
			_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonAccountDisabled, "root")
			require.NoError(t, err)
			refusedFor(t, s.Code(optest.Web, v), policy.ReasonAccountDisabled)
		},
		"a refresh for more scopes than were granted": func(t *testing.T, s *setup) {
			r := s.Login(optest.Web, "alice")
			token(t, s.Refresh(optest.Web, r.RefreshToken(), url.Values{"scope": {optest.Scope + " phone"}}), http.StatusBadRequest, "invalid_scope")
			ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		},
		"a client that cannot authenticate": func(t *testing.T, s *setup) {
			live, over := s.Login(optest.Post, "alice"), s.Login(optest.Post, "bob")
			require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Post, over), policy.ReasonEndedByAdmin, "root"))
			for _, refresh := range []string{live.RefreshToken(), over.RefreshToken()} {
				r := s.Token("", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "client_id": {optest.Post}, "client_secret": {"wrong"}})
				token(t, r, http.StatusUnauthorized, "invalid_client")
				require.NotContains(t, r.Body, "ended_by_admin", "why it is over is for its client to know")
			}
			ok(t, s.Refresh(optest.Post, live.RefreshToken()))
		},
		"prompt=none without a session (OpenID Connect Core 1.0 section 3.1.2.6)": func(t *testing.T, s *setup) {
			v := s.Browser().Authorize(optest.Web, url.Values{"prompt": {"none"}})
			require.Equal(t, "login_required", v.Error(), "%+v", v)
			require.Equal(t, "state-1", v.Params.Get("state"))
		},
		"prompt=none with another value (the same, section 3.1.2.1)": func(t *testing.T, s *setup) {
			v := s.Browser().Authorize(optest.Web, url.Values{"prompt": {"none login"}})
			require.Equal(t, "invalid_request", v.Error(), "%+v", v)
		},
		"a browser at the cap": func(t *testing.T, s *setup) {
			s.Login(optest.Web, "alice")
			s.Login(optest.Web, "alice")
			v := s.Browser().Login(optest.Web, "alice", nil)
			require.Equal(t, "access_denied", v.Error(), "%+v", v)
			require.Contains(t, v.Description(), "used=2 max=2")
			require.Equal(t, "state-1", v.Params.Get("state"))
		},
		"a device at the cap (RFC 8628 section 3.5)": func(t *testing.T, s *setup) {
			s.Login(optest.Web, "alice")
			s.Login(optest.Web, "alice")
			d := s.DeviceStart(optest.Native)
			s.DeviceApprove(d, "alice")
			r := s.DevicePoll(optest.Native, d)
			token(t, r, http.StatusBadRequest, "access_denied")
			require.Contains(t, r.Description(), "used=2 max=2")
		},
		"an exchange at the cap (RFC 8693 section 2.2.2)": func(t *testing.T, s *setup) {
			s.Login(optest.Exchange, "admin")
			s.Login(optest.Exchange, "admin")
			r := s.TokenExchange(optest.Exchange, optest.ForeignToken("admin"), optest.JWTTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}})
			token(t, r, http.StatusBadRequest, "invalid_request")
			require.Contains(t, r.Description(), "used=2 max=2")
		},
		"an exchange of a token of a dead session (the same)": func(t *testing.T, s *setup) {
			r := s.Login(optest.Exchange, "admin")
			require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Exchange, r), policy.ReasonEndedByUser, "admin"))
			for kind, presented := range map[string]string{
				optest.AccessTokenType: r.AccessToken(), optest.RefreshTokenType: r.RefreshToken(), optest.IDTokenType: r.IDToken(),
			} {
				token(t, s.TokenExchange(optest.Exchange, presented, kind, url.Values{"requested_token_type": {optest.AccessTokenType}}), http.StatusBadRequest, "invalid_request")
			}
		},
		"the access token of a dead session": func(t *testing.T, s *setup) {
			r := s.Login(optest.Web, "alice")
			require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, r), policy.ReasonEndedByUser, "alice"))
			u := s.Userinfo(r.AccessToken()) // RFC 6750 section 3.1
			require.Equal(t, http.StatusUnauthorized, u.Status)
			require.Equal(t, `Bearer error="invalid_token"`, u.Header.Get("WWW-Authenticate"))
			in := s.Introspect(optest.Web, r.AccessToken()) // RFC 7662 section 2.2
			require.Equal(t, http.StatusOK, in.Status)
			require.Equal(t, map[string]any{"active": false}, in.JSON)
			require.Equal(t, http.StatusOK, s.Revoke(optest.Web, r.AccessToken(), "").Status) // RFC 7009 section 2.2
			require.Equal(t, http.StatusOK, s.Revoke(optest.Web, r.RefreshToken(), "").Status)
			require.Equal(t, http.StatusOK, s.Revoke(optest.Web, "nonsense", "").Status)
		},
		"the revocation of another client's token (RFC 7009 section 2.1)": func(t *testing.T, s *setup) {
			r := s.Login(optest.Web, "alice")
			token(t, s.Revoke(optest.Web2, r.RefreshToken(), ""), http.StatusUnauthorized, "invalid_client")
			token(t, s.Revoke(optest.Web2, r.AccessToken(), ""), http.StatusUnauthorized, "invalid_client")
			require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status)
			ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		},
	} {
		t.Run(situation, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test(t, start(t, limits(24*time.Hour, 2*time.Hour, 2, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
					o.InMemory, o.Wrap = true, optest.Foreign
				}))
			})
		})
	}
}

// An assertion about a user, at the cap: RFC 7523 section 3.1. op itself takes none.
func TestAnAssertionAtTheCapIsInvalidGrant(t *testing.T) {
	t.Parallel()
	s, d := startDirect(t, limits(0, 0, 1, policy.Refuse), nil)
	s.Login(optest.Web, "alice")
	for subject, want := range map[string]error{optest.SubjectOf("alice"): oidc.ErrInvalidGrant(), optest.Service: nil} {
		var err error
		d.call = func(ctx context.Context, storage op.Storage) {
			_, _, err = storage.CreateAccessToken(ctx, &oidc.JWTTokenRequest{Issuer: optest.Service, Subject: subject})
		}
		s.do(t)
		if want == nil {
			require.NoError(t, err, "it acts for itself")
			continue
		}
		var refused *oidc.Error
		require.True(t, errors.As(err, &refused), "%v", err)
		require.Equal(t, oidc.InvalidGrant, refused.ErrorType)
		require.Contains(t, refused.Description, "used=1 max=1")
	}
}
