package resource

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	// Unlike encoding/json it takes no member twice, and none that is spelled
	// like another one but for its case.
	"github.com/curfew-oidc/curfew/middleware/internal/issuer"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/oauth2"
)

// A introspector asks the provider about tokens (RFC 7662).
type introspector struct {
	cfg      *Config
	provider *issuer.Provider
	flight   issuer.Flight[answer]
	slots    chan struct{} // one for each request under way

	// Apart, so that a flood of bad tokens pushes out no good one.
	active, inactive *cache
}

// A answer is what is known of a token.
type answer struct {
	token    Token
	inactive error // why it is not good; nil if it is
}

// inFlight is how many requests an API makes to the provider at once. What
// comes beyond waits, so that a flood of tokens does not reach the provider as one.
const inFlight = 64

func newIntrospector(cfg *Config, p *issuer.Provider) *introspector {
	return &introspector{
		cfg: cfg, provider: p, slots: make(chan struct{}, inFlight),
		active: newCache(cfg.CacheSize), inactive: newCache(cfg.CacheSize),
	}
}

// negative is the part of CacheFor for which a token stays refused: it
// guards against repetition, and a token that was refused by mistake is not
// refused for long.
const negative = 6

func (in *introspector) verify(ctx context.Context, token string) (Token, error) {
	key := sha256.Sum256([]byte(token))
	a, ok := in.known(key)
	if !ok {
		var err error
		a, err = in.flight.Do(ctx, string(key[:]), in.cfg.Timeout, func(ctx context.Context) (answer, error) {
			return in.ask(ctx, token, key)
		})
		if err != nil {
			return Token{}, err
		}
	}
	if a.inactive == nil && !a.token.Expires.IsZero() && !in.cfg.Now().Before(a.token.Expires) {
		a.inactive = fmt.Errorf("%w: it has expired", errInvalid)
	}
	if a.inactive != nil {
		return Token{}, a.inactive
	}
	return a.token.clone(), nil
}

// known returns the answer about a token, if it is remembered.
func (in *introspector) known(key [sha256.Size]byte) (answer, bool) {
	now := in.cfg.Now()
	if a, ok := in.active.get(key, now); ok {
		return a, true
	}
	return in.inactive.get(key, now)
}

// ask asks the provider, and remembers the answer.
func (in *introspector) ask(ctx context.Context, token string, key [sha256.Size]byte) (answer, error) {
	select {
	case in.slots <- struct{}{}:
		defer func() { <-in.slots }()
	case <-ctx.Done():
		return answer{}, fmt.Errorf("%w: too many requests to it are under way: %w", issuer.ErrUnavailable, ctx.Err())
	}
	if a, ok := in.known(key); ok { // the flight before ended between the caller's look and its own flight
		return a, nil
	}
	asked := in.cfg.Now() // what is told holds from here, not from when it arrives
	body, err := in.request(ctx, token)
	if err != nil {
		return answer{}, err
	}
	t, err := in.cfg.introspected(body, asked)
	switch {
	case errors.Is(err, errInvalid):
		a := answer{inactive: err}
		in.inactive.put(key, a, asked.Add(in.cfg.CacheFor/negative), asked)
		return a, nil
	case err != nil:
		return answer{}, err
	}
	until := asked.Add(in.cfg.CacheFor)
	if !t.Expires.IsZero() && t.Expires.Before(until) {
		until = t.Expires
	}
	a := answer{token: t}
	in.active.put(key, a, until, asked)
	return a, nil
}

func (in *introspector) request(ctx context.Context, token string) ([]byte, error) {
	endpoints, err := in.provider.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	if endpoints.Introspection == "" {
		return nil, fmt.Errorf("%w: its discovery document has no introspection_endpoint", issuer.ErrUnavailable)
	}
	client := in.cfg.Introspection
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	if client.AuthStyle == oauth2.AuthStyleInParams {
		form.Set("client_id", client.ClientID)
		form.Set("client_secret", client.ClientSecret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoints.Introspection, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", issuer.ErrUnavailable, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if client.AuthStyle != oauth2.AuthStyleInParams {
		// Encoded first: RFC 6749 section 2.3.1.
		req.SetBasicAuth(url.QueryEscape(client.ClientID), url.QueryEscape(client.ClientSecret))
	}
	return in.provider.Do(req)
}

// introspected reads an answer (RFC 7662 section 2.2).
func (cfg *Config) introspected(body []byte, now time.Time) (Token, error) {
	var a struct {
		Active *bool `json:"active"`
		claims
	}
	if err := json.Unmarshal(body, &a); err != nil || a.Active == nil {
		return Token{}, fmt.Errorf("%w: its introspection response does not follow RFC 7662", issuer.ErrUnavailable)
	}
	refuse := func(why string) (Token, error) {
		return Token{}, fmt.Errorf("%w: %s", errInvalid, why)
	}
	switch {
	case !*a.Active:
		return refuse("the provider says that it is not active")
	case a.TokenType != "" && !strings.EqualFold(a.TokenType, "Bearer"):
		return refuse("it is not a bearer token") // a refresh token, or one that is bound to a key
	case a.Issuer != "" && a.Issuer != cfg.Issuer:
		return refuse("it is of another issuer")
	case cfg.Audience != "" && !a.Audience.Contains(cfg.Audience):
		return refuse("it is not for this API")
	}
	if err := a.times(now, cfg.Leeway); err != nil {
		return Token{}, err
	}
	a.Issuer = cfg.Issuer
	return a.token(body), nil
}

// claims are of a JWT access token (RFC 9068 section 2.2) and of an answer
// to an introspection (RFC 7662 section 2.2, RFC 9470 section 6).
type claims struct {
	Issuer    string           `json:"iss"`
	Subject   string           `json:"sub"`
	Audience  jwt.Audience     `json:"aud"`
	Expires   *jwt.NumericDate `json:"exp"`
	NotBefore *jwt.NumericDate `json:"nbf"`
	IssuedAt  *jwt.NumericDate `json:"iat"`
	ID        string           `json:"jti"`
	ClientID  string           `json:"client_id"`
	Scope     string           `json:"scope"`
	SID       string           `json:"sid"`
	AuthTime  *jwt.NumericDate `json:"auth_time"`
	ACR       string           `json:"acr"`
	AMR       []string         `json:"amr"`
	TokenType string           `json:"token_type"`

	// Confirmation says that the caller must prove that it holds a key (RFC 7800),
	// which is not checked here.
	Confirmation json.RawMessage `json:"cnf"`
}

// times checks what is there of exp, nbf and iat, and refuses a token that is bound
// to a key: as a bearer token it would be good in a thief's hands too.
func (c *claims) times(now time.Time, leeway time.Duration) error {
	switch {
	case c.Expires != nil && !now.Before(c.Expires.Time()):
		return fmt.Errorf("%w: it has expired", errInvalid)
	case c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.Time()):
		return fmt.Errorf("%w: it is not valid yet", errInvalid)
	case c.IssuedAt != nil && now.Add(leeway).Before(c.IssuedAt.Time()):
		return fmt.Errorf("%w: it was issued in the future", errInvalid)
	case len(c.Confirmation) > 0 && string(c.Confirmation) != "null":
		return fmt.Errorf("%w: it is bound to a key, and presented as a bearer token", errInvalid)
	}
	return nil
}

func (c *claims) token(raw []byte) Token {
	t := Token{
		Issuer: c.Issuer, Subject: c.Subject, SID: c.SID, ClientID: c.ClientID,
		Audience: c.Audience, Scopes: strings.Fields(c.Scope), ACR: c.ACR, AMR: c.AMR, raw: raw,
	}
	if c.AuthTime != nil {
		t.AuthTime = c.AuthTime.Time()
	}
	if c.Expires != nil {
		t.Expires = c.Expires.Time()
	}
	return t
}

// A cache keeps answers under the hash of the token, at most size of them:
// the one that was used longest ago goes first.
type cache struct {
	size int

	mu      sync.Mutex
	entries map[[sha256.Size]byte]*list.Element
	order   *list.List // of *entry, last used first
}

type entry struct {
	key    [sha256.Size]byte
	answer answer
	until  time.Time
}

func newCache(size int) *cache {
	return &cache{size: size, entries: map[[sha256.Size]byte]*list.Element{}, order: list.New()}
}

func (c *cache) get(key [sha256.Size]byte, now time.Time) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil {
		return answer{}, false
	}
	entry := e.Value.(*entry)
	if !now.Before(entry.until) {
		c.remove(e)
		return answer{}, false
	}
	c.order.MoveToFront(e)
	return entry.answer, true
}

func (c *cache) put(key [sha256.Size]byte, a answer, until, now time.Time) {
	if !now.Before(until) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		c.remove(e)
	}
	c.entries[key] = c.order.PushFront(&entry{key, a, until})
	for len(c.entries) > c.size {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(e *list.Element) {
	delete(c.entries, e.Value.(*entry).key)
	c.order.Remove(e)
}
