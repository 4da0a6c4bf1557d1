package middleware

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// An upstream is the provider, as this application's registration there lets it be asked.
type upstream struct {
	cfg    *Config
	client *http.Client
	events *teller
	now    func() time.Time

	discovery struct {
		sync.Mutex
		found  *endpoints
		err    error
		failed time.Time
	}
}

// providerTimeout bounds one call to the provider.
const providerTimeout = 10 * time.Second

// context returns one for calls to the provider: it does not end when the browser
// goes away, since a token that was spent cannot be spent again.
func (u *upstream) context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx = oidc.ClientContext(context.WithoutCancel(ctx), u.client)
	return context.WithTimeout(ctx, providerTimeout)
}

// discover asks the provider once. If that fails, callers within the next second
// get the same error, and nobody is asked.
func (u *upstream) discover(ctx context.Context) (*endpoints, error) {
	d := &u.discovery
	d.Lock()
	defer d.Unlock()
	if d.found != nil {
		return d.found, nil
	}
	if now := u.now(); d.err != nil && now.Before(d.failed.Add(time.Second)) && !now.Before(d.failed) {
		return nil, d.err
	}
	found, err := u.ask(ctx)
	if err != nil {
		d.err, d.failed = unavailable(fmt.Errorf("discovery: %w", err)), u.now()
		u.events.event(ctx, Event{Type: EventUnavailable, Err: d.err})
		return nil, d.err
	}
	d.found, d.err = found, nil
	return found, nil
}

func (u *upstream) ask(ctx context.Context) (*endpoints, error) {
	ctx, cancel := u.context(ctx)
	defer cancel()
	p, err := oidc.NewProvider(ctx, u.cfg.Issuer)
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
		verifier: oidc.NewVerifier(u.cfg.Issuer, issuer.KeySetAt(meta.Keys, issuer.Config{Client: u.client, Timeout: providerTimeout, Now: u.now}),
			&oidc.Config{ClientID: u.cfg.ClientID, Now: u.now, SupportedSigningAlgs: u.algorithms(meta.Algorithms)}),
		endSession: meta.EndSession, revocation: meta.Revocation, sendsIss: meta.SendsIss,
	}
	e.oauth = oauth2.Config{
		ClientID: u.cfg.ClientID, ClientSecret: u.cfg.ClientSecret,
		RedirectURL: u.cfg.RedirectURL, Scopes: u.scopes(), Endpoint: p.Endpoint(),
	}
	// Said, not tried out: a try would spend the code or the refresh token.
	// Basic is what there is if the document does not say (Discovery section 3).
	e.oauth.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	if u.cfg.ClientSecret != "" && (len(meta.AuthMethods) == 0 || slices.Contains(meta.AuthMethods, "client_secret_basic")) {
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

func (u *upstream) scopes() []string {
	scopes := u.cfg.Scopes
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
// RS256, which all providers have, if that leaves nothing.
func (u *upstream) algorithms(announced []string) []string {
	var list []string
	for _, alg := range u.cfg.Algorithms {
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

// redeem exchanges the code and checks what comes for it.
func (u *upstream) redeem(ctx context.Context, e *endpoints, code string, s signIn) (record, error) {
	ctx, cancel := u.context(ctx)
	defer cancel()
	asked := u.now().UTC()
	token, err := e.oauth.Exchange(ctx, code, oauth2.VerifierOption(s.Verifier))
	if err != nil {
		err = tokenError(err)
		var out *SignedOutError
		if errors.As(err, &out) {
			no := refuse("The provider took its answer back, perhaps because it came too late. Please try again.", "the code: %w", err)
			no.over = errSpent
			return record{}, no
		}
		return record{}, u.events.unavailable(ctx, err)
	}
	t, err := e.identify(ctx, token)
	switch {
	case errors.Is(err, ErrUnavailable):
		return record{}, u.events.unavailable(ctx, err)
	case err != nil:
		return record{}, refuse(invalidText, "%w", err)
	case t == nil:
		return record{}, refuse(invalidText, "there is no ID token")
	case t.Nonce != s.Nonce:
		return record{}, refuse(invalidText, "nonce: the ID token is of another sign-in")
	case t.IssuedAt.After(asked.Add(clockSkew)), t.IssuedAt.Before(s.Begun.Add(-clockSkew)):
		return record{}, refuse(invalidText, "iat: the ID token is of %s", t.IssuedAt)
	}
	if err := checkAge(t, s, asked); err != nil {
		return record{}, err
	}
	rec := record{
		Format: recordFormat, Subject: t.Subject, SID: t.sid, IDToken: t.raw, Nonce: t.Nonce,
		AuthTime: t.authTime, Issued: t.IssuedAt.UTC(), SignedIn: asked, SessionExpiry: t.sessionExpiry,
	}
	rec.take(token, asked, u.cfg.RefreshAfter)
	switch {
	case u.cfg.Lifetime > 0:
		rec.LocalEnds = asked.Add(u.cfg.Lifetime)
	case rec.ends().IsZero() && rec.Refresh == "":
		rec.LocalEnds = asked.Add(unboundedLife)
	}
	if u.cfg.InCookies { // not longer than it would be remembered that it is over
		rec.LocalEnds = earliest(rec.LocalEnds, asked.Add(longestLife))
	}
	// RFC 9700 section 4.14: a session that is over before it began would only
	// lead to sign-in and back, for ever.
	if passed(rec.ends(), u.now()) {
		return record{}, refuse("The sign-in that the provider told of is over already. Sign out there, and then try again.", "the session ended at %s", rec.ends())
	}
	return rec, nil
}

// revoke gives the refresh token back (RFC 7009), where nothing else tells the
// provider that the user has signed out.
func (u *upstream) revoke(ctx context.Context, e *endpoints, token string) error {
	if token == "" || e.revocation == "" {
		return nil
	}
	ctx, cancel := u.context(ctx)
	defer cancel()
	form := url.Values{"token": {token}, "token_type_hint": {"refresh_token"}}
	basic := e.oauth.Endpoint.AuthStyle == oauth2.AuthStyleInHeader
	if !basic {
		form.Set("client_id", u.cfg.ClientID)
		if u.cfg.ClientSecret != "" {
			form.Set("client_secret", u.cfg.ClientSecret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.revocation, strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if basic {
		req.SetBasicAuth(url.QueryEscape(u.cfg.ClientID), url.QueryEscape(u.cfg.ClientSecret))
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	defer resp.Body.Close()
	// Section 2.2: a token that is not known is a success too. Section 2.2.1:
	// after anything else the token is to be taken for good.
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the revocation endpoint answered %d", resp.StatusCode)
	}
	return nil
}

// refresh returns the record with new tokens in it. A SignedOutError is the end
// of the login; any other error is not.
func (u *upstream) refresh(ctx context.Context, rec record) (record, error) {
	e, err := u.discover(ctx)
	if err != nil {
		return rec, err
	}
	asking, cancel := u.context(ctx)
	defer cancel()
	asked := u.now().UTC()
	token, err := e.oauth.TokenSource(asking, &oauth2.Token{RefreshToken: rec.Refresh}).Token()
	if err != nil {
		return rec, tokenError(err)
	}
	t, err := e.identify(asking, token)
	if err == nil && t != nil {
		err = rec.sameLogin(t, asked)
	}
	if errors.Is(err, ErrUnavailable) {
		return rec, err
	}
	if err != nil {
		u.events.event(ctx, Event{Type: EventSignInFailed, Subject: rec.Subject, SID: rec.SID, Reason: ReasonIdentity,
			Err: fmt.Errorf("the ID token of a refresh: %w", err)})
		return rec, &SignedOutError{Reason: ReasonIdentity, Text: sentence(ReasonIdentity)}
	}
	rec.take(token, asked, u.cfg.RefreshAfter)
	if t != nil {
		rec.IDToken, rec.SessionExpiry = t.raw, t.sessionExpiry
		if t.sid != "" {
			rec.SID = t.sid
		}
	}
	rec.LeaseBy, rec.LeaseUntil = "", time.Time{}
	return rec, nil
}
