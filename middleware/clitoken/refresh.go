package clitoken

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/internal/tokenanswer"
)

// FromToken makes a login from the first token response. The response must have an ID token, which
// FromToken verifies.
func FromToken(ctx context.Context, config *oauth2.Config, verifier *oidc.IDTokenVerifier, token *oauth2.Token) (Login, error) {
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return Login{}, errors.New("the provider sent no ID token: is the scope openid missing?")
	}
	idToken, err := verifier.Verify(ctx, raw)
	if err != nil {
		return Login{}, fmt.Errorf("the ID token is not good: %w", err)
	}
	l := Login{Issuer: idToken.Issuer, ClientID: config.ClientID, Subject: idToken.Subject}
	return l.with(token, idToken)
}

// Refresher returns the function for [File.Token] that refreshes at the provider. The
// login is over when the provider itself says so: invalid_grant in JSON with the
// status 400 (RFC 6749 section 5.2), 401 or 403. Any other answer loses nothing.
func Refresher(config *oauth2.Config, verifier *oidc.IDTokenVerifier) func(context.Context, Login) (Login, error) {
	return func(ctx context.Context, l Login) (Login, error) {
		token, err := config.TokenSource(ctx, &oauth2.Token{RefreshToken: l.RefreshToken}).Token()
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) && tokenanswer.EndsLogin(refused) {
			return Login{}, &EndedError{Description: refused.ErrorDescription, At: time.Now().UTC()}
		}
		if err != nil {
			return Login{}, err
		}
		raw, _ := token.Extra("id_token").(string)
		if raw == "" { // allowed: OpenID Connect Core 1.0 section 12.2
			return l.with(token, nil)
		}
		idToken, err := verifier.Verify(ctx, raw)
		if err != nil {
			return Login{}, fmt.Errorf("the ID token is not good: %w", err)
		}
		// The same section: a refresh does not change who it is.
		if idToken.Issuer != l.Issuer || idToken.Subject != l.Subject {
			return Login{}, errors.New("the provider refreshed the login of somebody else")
		}
		return l.with(token, idToken)
	}
}

// with returns the login after a token response. What the response says of the end
// replaces what was said before.
func (l Login) with(token *oauth2.Token, idToken *oidc.IDToken) (Login, error) {
	now := time.Now().UTC()
	l.AccessToken, l.Expiry = token.AccessToken, token.Expiry.UTC()
	if token.RefreshToken != "" {
		l.RefreshToken = token.RefreshToken
	}
	l.Ends, l.EndsUnused = time.Time{}, time.Time{}
	if idToken != nil {
		var claims struct {
			PreferredUsername string `json:"preferred_username"`
			Email             string `json:"email"`
			Name              string `json:"name"`
			AuthTime          int64  `json:"auth_time"`
			SessionExpiry     int64  `json:"session_expiry"` // OpenID Connect Enterprise Extensions 1.0
		}
		if err := idToken.Claims(&claims); err != nil {
			return Login{}, fmt.Errorf("the ID token is not good: %w", err)
		}
		// An ID token of a refresh may lack them: the name stays then.
		l.Name = cmp.Or(claims.PreferredUsername, claims.Email, claims.Name, l.Name, l.Subject)
		if claims.AuthTime > 0 {
			l.SignedIn = time.Unix(claims.AuthTime, 0).UTC()
		}
		if claims.SessionExpiry > 0 {
			l.Ends = time.Unix(claims.SessionExpiry, 0).UTC()
		}
	}
	// draft-ietf-oauth-refresh-token-expiration-03
	if s, ok := seconds(token.Extra("authorization_expires_in")); ok {
		l.Ends = now.Add(s)
	}
	if s, ok := seconds(token.Extra("refresh_token_timeout")); ok {
		l.EndsUnused = now.Add(s)
	}
	return l, nil
}

// seconds reads a number of seconds from a response, where x/oauth2 leaves it as
// what JSON has.
func seconds(v any) (time.Duration, bool) {
	n, err := strconv.ParseFloat(fmt.Sprint(v), 64)
	const most = 100 * 365 * 24 * 60 * 60 // beyond that it limits nobody, and a Duration cannot hold it
	if err != nil || n < 0 || n > most {
		return 0, false
	}
	return time.Duration(n) * time.Second, true
}
