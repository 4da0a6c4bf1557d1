package provider_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// keylessStorage is a storage whose keys cannot be had at the moment.
type keylessStorage struct {
	*optest.Storage
	gone *bool
}

func (s keylessStorage) KeySet(ctx context.Context) ([]op.Key, error) {
	if *s.gone {
		return nil, errors.New("the keys are away")
	}
	return s.Storage.KeySet(ctx)
}

// What a resource server in the same process asks: whose token it is, opaque or a
// JWT, and whether its session is live.
func TestAnAccessTokenIsOpened(t *testing.T) {
	t.Parallel()
	var p *op.Provider
	gone := false
	s := start(t, limits(24*time.Hour, time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Options = append(o.Options, func(embedded *op.Provider) error { p = embedded; return nil })
		o.Wrap = func(s *optest.Storage) op.Storage { return keylessStorage{s, &gone} }
	})
	ctx := op.ContextWithIssuer(t.Context(), s.Issuer)
	for _, client := range []string{optest.Web, optest.JWT} {
		tokens := s.Login(client, "alice")
		got, err := s.hook.AccessToken(ctx, p, tokens.AccessToken())
		require.NoError(t, err, client)
		require.Equal(t, optest.SubjectOf("alice"), got.Subject)
		require.Equal(t, client, got.Client)
		require.NotContains(t, tokens.AccessToken(), got.ID, "the storage's own ID")
		require.Equal(t, s.subject("alice"), got.Session.Subject)

		for name, token := range map[string]string{
			"nothing": "", "a guess": "x", "dots": "a.b.c", "the refresh token": tokens.RefreshToken(),
			"the ID token": tokens.IDToken(), "cut short": tokens.AccessToken()[:len(tokens.AccessToken())-2],
		} {
			_, err := s.hook.AccessToken(ctx, p, token)
			require.ErrorIs(t, err, provider.ErrInvalidToken, "%s of %s", name, client)
		}
		_, err = s.hook.AccessToken(op.ContextWithIssuer(t.Context(), "https://other.example"), p, tokens.AccessToken())
		require.ErrorIs(t, err, provider.ErrInvalidToken, "of another issuer")

		require.NoError(t, s.hook.End(ctx, got.Session.ID, policy.ReasonLogout, ""))
		_, err = s.hook.AccessToken(ctx, p, tokens.AccessToken())
		require.ErrorIs(t, err, provider.ErrInvalidToken, "its session has ended")
	}

	// Rule 8: that nobody can tell is no refusal.
	token := s.Login(optest.JWT, "alice").AccessToken()
	gone = true
	_, err := s.hook.AccessToken(ctx, p, token)
	require.Error(t, err)
	require.NotErrorIs(t, err, provider.ErrInvalidToken)
	gone = false
	_, err = s.hook.AccessToken(ctx, p, token)
	require.NoError(t, err)

	// A client that acts for itself has no session.
	machine, err := s.hook.AccessToken(ctx, p, s.Token(optest.ServiceUser, map[string][]string{"grant_type": {"client_credentials"}, "scope": {"openid"}}).AccessToken())
	require.NoError(t, err)
	require.Empty(t, machine.Session.ID)
	require.NotEmpty(t, machine.ID)
}
