package middleware

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/internal/issuer"
	"github.com/curfew-oidc/curfew/middleware/internal/tokenanswer"
)

// endpoints are what the provider's discovery document says.
type endpoints struct {
	oauth      oauth2.Config
	verifier   *oidc.IDTokenVerifier
	endSession string // empty: no RP-initiated logout
	revocation string
	sendsIss   bool // RFC 9207
}

// providerTimeout bounds one call to the provider.
const providerTimeout = 10 * time.Second

// context returns one for calls to the provider: it does not end when the browser
// goes away, since a token that was spent cannot be spent again.
func (rp *RelyingParty) context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx = oidc.ClientContext(context.WithoutCancel(ctx), rp.client)
	return context.WithTimeout(ctx, providerTimeout)
}

// discover asks the provider once. If that fails, those who come within the next
// second get the same error without asking.
func (rp *RelyingParty) discover(ctx context.Context) (*endpoints, error) {
	d := &rp.discovery
	d.Lock()
	defer d.Unlock()
	if d.found != nil {
		return d.found, nil
	}
	if now := rp.now(); d.err != nil && now.Before(d.failed.Add(time.Second)) && !now.Before(d.failed) {
		return nil, d.err
	}
	found, err := rp.ask(ctx)
	if err != nil {
		d.err, d.failed = unavailable(fmt.Errorf("discovery: %w", err)), rp.now()
		rp.event(ctx, Event{Type: EventUnavailable, Err: d.err})
		return nil, d.err
	}
	d.found, d.err = found, nil
	return found, nil
}

func (rp *RelyingParty) ask(ctx context.Context) (*endpoints, error) {
	ctx, cancel := rp.context(ctx)
	defer cancel()
	p, err := oidc.NewProvider(ctx, rp.cfg.Issuer)
	if err != nil {
		return nil, err
	}
	var meta struct {
		AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
		EndSession  string   `json:"end_session_endpoint"`
		Revocation  string   `json:"revocation_endpoint"`
		SendsIss    bool     `json:"authorization_response_iss_parameter_supported"`
		Keys        string   `json:"jwks_uri"`
		Algorithms  []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := p.Claims(&meta); err != nil {
		return nil, err
	}
	e := &endpoints{
		verifier: oidc.NewVerifier(rp.cfg.Issuer, issuer.KeySetAt(meta.Keys, issuer.Config{Client: rp.client, Timeout: providerTimeout, Now: rp.now}),
			&oidc.Config{ClientID: rp.cfg.ClientID, Now: rp.now, SupportedSigningAlgs: rp.algorithms(meta.Algorithms)}),
		endSession: meta.EndSession, revocation: meta.Revocation, sendsIss: meta.SendsIss,
	}
	e.oauth = oauth2.Config{
		ClientID: rp.cfg.ClientID, ClientSecret: rp.cfg.ClientSecret,
		RedirectURL: rp.cfg.RedirectURL, Scopes: rp.scopes(), Endpoint: p.Endpoint(),
	}
	// Said, not tried out: a try would spend the code or the refresh token.
	// Basic is what there is if the document does not say (Discovery section 3).
	e.oauth.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	if rp.cfg.ClientSecret != "" && (len(meta.AuthMethods) == 0 || slices.Contains(meta.AuthMethods, "client_secret_basic")) {
		e.oauth.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	}
	// Each gets a secret or a token, or says whom to believe.
	used := []string{e.oauth.Endpoint.AuthURL, e.oauth.Endpoint.TokenURL, meta.Keys}
	for _, optional := range []string{meta.EndSession, meta.Revocation} {
		if optional != "" {
			used = append(used, optional)
		}
	}
	for _, u := range used {
		if err := checkWebURL(u); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (rp *RelyingParty) scopes() []string {
	scopes := rp.cfg.Scopes
	if scopes == nil {
		scopes = []string{"profile", oidc.ScopeOfflineAccess}
	}
	if !slices.Contains(scopes, oidc.ScopeOpenID) {
		scopes = append([]string{oidc.ScopeOpenID}, scopes...)
	}
	return scopes
}

// algorithms returns what tokens may be signed with: what is configured, or what the
// provider announces, as far as it is a signature by a key that only the provider has;
// RS256, which all providers have, if there is none.
func (rp *RelyingParty) algorithms(announced []string) []string {
	var list []string
	for _, alg := range rp.cfg.Algorithms {
		list = append(list, string(alg))
	}
	if len(list) > 0 {
		return list
	}
	for _, alg := range announced {
		if slices.Contains(issuer.Algorithms, jose.SignatureAlgorithm(alg)) {
			list = append(list, alg)
		}
	}
	if len(list) == 0 {
		return []string{oidc.RS256}
	}
	return list
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

// tokenError tells the end of a login from a provider that does not answer. Only
// invalid_grant is an end: anything else, a mistake in our own configuration too,
// will be over one day, and the refresh token be good.
func tokenError(err error) error {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		return unavailable(err)
	}
	status := 0
	wait := retryAfter
	if refused.Response != nil {
		status = refused.Response.StatusCode
		wait = retryAfterOf(refused.Response.Header, wait)
	}
	if tokenanswer.EndsLogin(refused) {
		reason, text := reasonOf(refused.ErrorDescription)
		return &SignedOutError{Reason: reason, Text: text}
	}
	// Not the body: it may be anything.
	return &UnavailableError{RetryAfter: wait, Err: fmt.Errorf("the token endpoint answered %d %q", status, refused.ErrorCode)}
}

// retryAfterOf reads a Retry-After in seconds; a provider that asks for a long
// break is asked a little earlier.
func retryAfterOf(h http.Header, otherwise time.Duration) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 1 {
		return otherwise
	}
	return min(time.Duration(n)*time.Second, 30*time.Second)
}

// An idToken is what we use of a verified ID token.
type idToken struct {
	*oidc.IDToken
	raw           string
	authTime      time.Time
	sessionExpiry time.Time
	sid, azp      string
}

// identify verifies the ID token of a token response (OpenID Connect Core 1.0
// section 3.1.3.7). nil if there is none.
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
		return nil, errors.New("what is called an ID token is a security event, such as a logout token (RFC 8417)")
	case t.Subject == "":
		return nil, errors.New("the ID token has no sub")
	case t.azp != "" && t.azp != e.oauth.ClientID, t.azp == "" && len(t.Audience) > 1:
		return nil, errors.New("the ID token is for another party: azp")
	case t.AccessTokenHash != "":
		if err := t.VerifyAccessToken(token.AccessToken); err != nil {
			return nil, fmt.Errorf("the access token is not the one of the ID token: %w", err)
		}
	}
	return t, nil
}

// unix returns the time of a NumericDate; none if there is none.
func unix(seconds float64) time.Time {
	if !(seconds > 0) || seconds > 1<<40 {
		return time.Time{}
	}
	return time.UnixMilli(int64(seconds * 1000)).UTC()
}

// clockSkew is how far the provider's clock may be from ours.
const clockSkew = 2 * time.Minute

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
