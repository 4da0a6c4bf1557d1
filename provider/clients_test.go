package provider_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/client/rp"
	zoidc "github.com/zitadel/oidc/v3/pkg/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
)

// The whole life of a login as applications see it that use coreos/go-oidc with
// x/oauth2.
func TestWithGoOIDCAndOAuth2(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), nil)
	ctx := oidc.ClientContext(t.Context(), s.HTTP)
	op, err := oidc.NewProvider(ctx, s.Issuer)
	require.NoError(t, err)
	config := &oauth2.Config{
		ClientID: optest.Web, ClientSecret: optest.Web + "-secret", RedirectURL: optest.RedirectURI, Endpoint: op.Endpoint(),
		Scopes: []string{oidc.ScopeOpenID, oidc.ScopeOfflineAccess},
	}
	signIn := func() (url.Values, string) {
		verifier := oauth2.GenerateVerifier()
		b := s.Browser()
		v := b.Get(config.AuthCodeURL("state", oauth2.S256ChallengeOption(verifier)))
		if v.AtForm() {
			v = b.SignIn(v, "alice")
		}
		return v.Params, verifier
	}
	params, verifier := signIn()
	token, err := config.Exchange(ctx, params.Get("code"), oauth2.VerifierOption(verifier))
	require.NoError(t, err)
	idToken, err := op.Verifier(&oidc.Config{ClientID: optest.Web}).Verify(ctx, token.Extra("id_token").(string))
	require.NoError(t, err)
	var claims struct {
		SID           string `json:"sid"`
		SessionExpiry int64  `json:"session_expiry"`
	}
	require.NoError(t, idToken.Claims(&claims))
	require.NotEmpty(t, claims.SID)
	require.InDelta(t, time.Now().Add(24*time.Hour).Unix(), claims.SessionExpiry, 60)
	require.InDelta(t, 86400, token.Extra("authorization_expires_in"), 60)

	params, _ = signIn() // the cap
	require.Equal(t, "access_denied", params.Get("error"))
	require.Equal(t, "state", params.Get("state"))

	stale := *token
	stale.Expiry = time.Now().Add(-time.Minute)
	fresh, err := config.TokenSource(ctx, &stale).Token()
	require.NoError(t, err)
	require.NotEqual(t, token.RefreshToken, fresh.RefreshToken)
	again, err := config.TokenSource(ctx, &stale).Token() // another process with the same token file
	require.NoError(t, err)
	require.Equal(t, fresh.RefreshToken, again.RefreshToken)
	_, err = op.UserInfo(ctx, oauth2.StaticTokenSource(again))
	require.NoError(t, err)

	require.NoError(t, s.hook.End(ctx, claims.SID, policy.ReasonEndedByAdmin, "root"))
	fresh.Expiry = time.Now().Add(-time.Minute)
	_, err = config.TokenSource(ctx, fresh).Token()
	var refused *oauth2.RetrieveError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "invalid_grant", refused.ErrorCode)
	require.Equal(t, policy.ReasonEndedByAdmin, policy.ReasonOf(refused.ErrorDescription))
	_, err = op.UserInfo(ctx, oauth2.StaticTokenSource(again))
	require.ErrorContains(t, err, "401")
	params, _ = signIn()
	require.NotEmpty(t, params.Get("code"))
}

// The same with zitadel's own relying party.
func TestWithZitadelsRelyingParty(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), nil)
	ctx := t.Context()
	party, err := rp.NewRelyingPartyOIDC(ctx, s.Issuer, optest.Web, optest.Web+"-secret", optest.RedirectURI,
		[]string{zoidc.ScopeOpenID, zoidc.ScopeOfflineAccess}, rp.WithHTTPClient(s.HTTP))
	require.NoError(t, err)
	signIn := func() url.Values {
		b := s.Browser()
		v := b.Get(rp.AuthURL("state", party))
		if v.AtForm() {
			v = b.SignIn(v, "alice")
		}
		return v.Params
	}
	tokens, err := rp.CodeExchange[*zoidc.IDTokenClaims](ctx, signIn().Get("code"), party)
	require.NoError(t, err)
	sid := tokens.IDTokenClaims.SessionID
	require.NotEmpty(t, sid)
	require.Equal(t, "access_denied", signIn().Get("error"))

	next, err := rp.RefreshTokens[*zoidc.IDTokenClaims](ctx, party, tokens.RefreshToken, "", "")
	require.NoError(t, err)
	require.Equal(t, sid, next.IDTokenClaims.SessionID)
	require.Equal(t, tokens.IDTokenClaims.AuthTime, next.IDTokenClaims.AuthTime)
	require.Equal(t, tokens.IDTokenClaims.Claims["session_expiry"], next.IDTokenClaims.Claims["session_expiry"])
	_, err = rp.Userinfo[*zoidc.UserInfo](ctx, next.AccessToken, "Bearer", next.IDTokenClaims.Subject, party)
	require.NoError(t, err)

	require.NoError(t, rp.RevokeToken(ctx, party, next.RefreshToken, "refresh_token"))
	_, err = rp.RefreshTokens[*zoidc.IDTokenClaims](ctx, party, next.RefreshToken, "", "")
	require.ErrorContains(t, err, "revoked")

	require.NoError(t, s.hook.End(ctx, sid, policy.ReasonLogout, "alice"))
	tokens, err = rp.CodeExchange[*zoidc.IDTokenClaims](ctx, signIn().Get("code"), party)
	require.NoError(t, err)
	_, err = rp.EndSession(ctx, party, tokens.IDToken, optest.PostLogoutURI, "s", "", nil)
	if err != nil && !errors.Is(err, http.ErrUseLastResponse) {
		require.NoError(t, err)
	}
	_, err = rp.RefreshTokens[*zoidc.IDTokenClaims](context.Background(), party, tokens.RefreshToken, "", "")
	require.Error(t, err)
	require.True(t, strings.Contains(err.Error(), "logout"), err.Error())
}
