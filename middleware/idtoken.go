package middleware

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/internal/issuer"
)

// clockSkew is how far the provider's clock may be from ours.
const clockSkew = 2 * time.Minute

// An idToken is what we use of a verified ID token.
type idToken struct {
	*oidc.IDToken
	raw           string
	authTime      time.Time
	sessionExpiry time.Time
	sid, azp      string
}

// identify verifies the ID token of a token response (OpenID Connect Core 1.0
// section 3.1.3.7). nil if the response has no ID token.
func (e *endpoints) identify(ctx context.Context, token *oauth2.Token) (*idToken, error) {
	raw, ok := token.Extra("id_token").(string)
	if !ok || raw == "" {
		return nil, nil
	}
	verified, err := verify(ctx, raw, e.verifier.Verify)
	if err != nil {
		return nil, err
	}
	if typ, err := typeOf(raw); err != nil || strings.HasSuffix(typ, "+jwt") {
		return nil, fmt.Errorf("typ: %.50q is not the type of an ID token", typ) // RFC 8725 section 3.11
	}
	t := &idToken{IDToken: verified, raw: raw}
	var claims struct {
		AuthTime      float64 `json:"auth_time"`
		SessionExpiry float64 `json:"session_expiry"`
		SID           string  `json:"sid"`
		AZP           string  `json:"azp"`

		Events json.RawMessage `json:"events"`
	}
	if err := verified.Claims(&claims); err != nil {
		return nil, fmt.Errorf("the claims of the ID token: %w", err)
	}
	t.authTime, t.sessionExpiry = unix(claims.AuthTime), unix(claims.SessionExpiry)
	t.sid, t.azp = claims.SID, claims.AZP
	switch {
	case claims.Events != nil:
		return nil, errors.New("the ID token is a security event, such as a logout token (RFC 8417)")
	case t.Subject == "":
		return nil, errors.New("the ID token has no sub")
	case t.azp != "" && t.azp != e.oauth.ClientID, t.azp == "" && len(t.Audience) > 1:
		return nil, errors.New("the ID token is for another party: azp")
	case t.AccessTokenHash != "":
		if err := t.VerifyAccessToken(token.AccessToken); err != nil {
			return nil, fmt.Errorf("the access token does not match the ID token: %w", err)
		}
	}
	return t, nil
}

// verify runs one of the verifier's methods. An UnavailableError means that the
// keys could not be had.
func verify[T any](ctx context.Context, raw string, method func(context.Context, string) (T, error)) (T, error) {
	v, err := issuer.Verify(ctx, raw, method)
	if errors.Is(err, issuer.ErrUnavailable) {
		return v, unavailable(err)
	}
	return v, err
}

// unix returns the time of a NumericDate; the zero time for anything that is not one.
func unix(seconds float64) time.Time {
	if !(seconds > 0) || seconds > 1<<40 {
		return time.Time{}
	}
	return time.UnixMilli(int64(seconds * 1000)).UTC()
}

// sameLogin checks the ID token of a refresh (OpenID Connect Core 1.0 section
// 12.2) against the one that the session began with, whose iss and aud the
// verifier has compared already.
func (rec *record) sameLogin(t *idToken, asked time.Time) error {
	switch {
	case t.Subject != rec.Subject:
		return errors.New("sub is another one")
	case !t.authTime.IsZero() && !rec.AuthTime.IsZero() && !t.authTime.Equal(rec.AuthTime):
		return errors.New("auth_time is another one")
	case t.Nonce != "" && t.Nonce != rec.Nonce:
		return errors.New("nonce is another one")
	case t.IssuedAt.Before(asked.Add(-clockSkew)):
		return errors.New("iat is not the time of the refresh")
	}
	return nil
}

// checkAge compares auth_time with the max_age that was asked for (OpenID Connect
// Core 1.0 section 3.1.3.7), 0 included. Both the time of the authentication and
// iat are the provider's, so that its clock does not matter: between them there
// must be no more than max_age and what passed since the sign-in began.
func checkAge(t *idToken, s signIn, now time.Time) error {
	if s.MaxAge == nil {
		return nil
	}
	allowed := time.Duration(*s.MaxAge*float64(time.Second)) + now.Sub(s.Begun) + time.Second // both are whole seconds
	switch {
	case t.authTime.IsZero():
		return refuse("The provider did not say when you signed in there, which this application has to know.", "auth_time is missing")
	case t.IssuedAt.Sub(t.authTime) > allowed:
		return refuse(sentence(ReasonTooOld), "auth_time: %s is too long ago for max_age", t.authTime)
	}
	return nil
}
