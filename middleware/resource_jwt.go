package middleware

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
)

// clone returns a copy that is the caller's to keep.
func (t ResourceToken) clone() ResourceToken {
	t.Audience, t.Scopes, t.AMR, t.raw = slices.Clone(t.Audience), slices.Clone(t.Scopes), slices.Clone(t.AMR), slices.Clone(t.raw)
	return t
}

// A resourceVerifier verifies JWT access tokens (RFC 9068 section 4).
type resourceVerifier struct {
	cfg  *ResourceConfig
	keys *resourceKeys
}

func newResourceVerifier(cfg *ResourceConfig, p *resourceProvider) *resourceVerifier {
	return &resourceVerifier{cfg: cfg, keys: &resourceKeys{cfg: cfg, provider: p, spare: resourceKeyBurst}}
}

func (v *resourceVerifier) verify(ctx context.Context, token string) (ResourceToken, error) {
	refuse := func(why string) (ResourceToken, error) {
		return ResourceToken{}, fmt.Errorf("%w: %s", errResourceInvalid, why)
	}
	// The errors of the parser are not passed on: they quote the token.
	parsed, err := jwt.ParseSigned(token, v.cfg.Algorithms)
	if err != nil || len(parsed.Headers) != 1 {
		return refuse("it is no JWT, or not signed with an algorithm that is allowed")
	}
	header := parsed.Headers[0]
	if !v.isType(header) {
		return refuse("it is a JWT of another type than at+jwt")
	}
	var raw json.RawMessage
	if err := v.keys.open(ctx, header, func(key jose.JSONWebKey) error { return parsed.Claims(key, &raw) }); err != nil {
		return ResourceToken{}, err
	}
	var c resourceJWT
	if err := json.Unmarshal(raw, &c); err != nil {
		return refuse("its claims are not those of RFC 9068")
	}
	switch {
	case c.Issuer != v.cfg.Issuer:
		return refuse("it is of another issuer")
	case !c.Audience.Contains(v.cfg.Audience):
		return refuse("it is not for this API")
	case c.Expires == nil || c.IssuedAt == nil || c.Subject == "" || c.ClientID == "" || c.ID == "":
		return refuse("it lacks a claim that RFC 9068 section 2.2 requires")
	case c.isOther():
		return refuse("it is an ID token or a logout token")
	}
	if err := c.times(v.cfg.Now(), v.cfg.Leeway); err != nil {
		return ResourceToken{}, err
	}
	return c.token(raw), nil
}

// isType looks at the header's typ (RFC 9068 section 4, RFC 8725 section 3.11).
func (v *resourceVerifier) isType(h jose.Header) bool {
	given, has := h.ExtraHeaders[jose.HeaderType]
	typ, isText := given.(string)
	typ = strings.TrimPrefix(strings.ToLower(typ), "application/")
	return typ == "at+jwt" || v.cfg.AcceptPlainJWT && (!has || isText && typ == "jwt")
}

// resourceJWT are the claims of an access token, and those that it must not have.
type resourceJWT struct {
	resourceClaims
	Nonce      json.RawMessage `json:"nonce"`
	AccessHash json.RawMessage `json:"at_hash"`
	CodeHash   json.RawMessage `json:"c_hash"`
	StateHash  json.RawMessage `json:"s_hash"`
	Events     json.RawMessage `json:"events"`
}

// isOther reports whether the claims are those of an ID token (OpenID Connect Core
// 1.0 sections 2 and 3.3.2.11) or of a security event such as a logout token (RFC
// 8417), neither of which opens an API.
func (c *resourceJWT) isOther() bool {
	return slices.ContainsFunc([]json.RawMessage{c.Nonce, c.AccessHash, c.CodeHash, c.StateHash, c.Events},
		func(m json.RawMessage) bool { return m != nil })
}

// resourceKeys are the keys of the provider.
//
// A key that is not known is looked for at the provider, so that a rotation is
// noticed at once; but not for whoever makes names of keys up: resourceKeyBurst
// times, then once in resourceKeyEvery. A token whose key cannot be looked for is
// answered as an outage, since it may be good.
type resourceKeys struct {
	cfg      *ResourceConfig
	provider *resourceProvider
	flight   resourceFlight[[]jose.JSONWebKey]

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time // when keys were asked for; zero: never
	retry   time.Time // not before, after a failure
	failed  error
	spare   float64 // requests for unknown keys that may be made
	counted time.Time
}

const (
	resourceKeyBurst = 5
	resourceKeyEvery = 10 * time.Second

	// After the first a key that was withdrawn is noticed; an outage longer than
	// the second makes the keys useless, since one may have been withdrawn.
	resourceKeysFresh = 5 * time.Minute
	resourceKeysLast  = 24 * time.Hour

	// resourceMaxKeys bounds the work for a token that names no key.
	resourceMaxKeys = 32
)

// open tries the keys that a header can mean.
func (k *resourceKeys) open(ctx context.Context, h jose.Header, try func(jose.JSONWebKey) error) error {
	keys, at, err := k.current(ctx)
	if err != nil {
		return err
	}
	known, opened := k.tryAll(keys, h, try)
	if opened {
		return nil
	}
	if !known {
		if keys, err = k.newer(ctx, at); err != nil {
			return err
		}
		if _, opened = k.tryAll(keys, h, try); opened {
			return nil
		}
	}
	return fmt.Errorf("%w: no key of the provider has signed it", errResourceInvalid)
}

// tryAll reports whether the key that the header names is known, and whether it,
// or one of all if none is named, has signed.
func (k *resourceKeys) tryAll(keys []jose.JSONWebKey, h jose.Header, try func(jose.JSONWebKey) error) (known, opened bool) {
	for _, key := range keys {
		if h.KeyID != "" && key.KeyID != h.KeyID || key.Algorithm != "" && key.Algorithm != h.Algorithm {
			continue
		}
		known = h.KeyID != ""
		if try(key) == nil {
			return true, true
		}
	}
	return known, false
}

// current returns the keys, and when they were asked for. Keys that are old are
// used while newer ones are on their way.
func (k *resourceKeys) current(ctx context.Context) ([]jose.JSONWebKey, time.Time, error) {
	now := k.cfg.Now()
	k.mu.Lock()
	keys, at := k.keys, k.fetched
	failed, wait := k.failed, now.Before(k.retry)
	k.mu.Unlock()
	age := now.Sub(at)
	switch {
	case !at.IsZero() && age < resourceKeysFresh:
		return keys, at, nil
	case wait && failed != nil && (at.IsZero() || age >= resourceKeysLast):
		return nil, at, failed
	case !at.IsZero() && age < resourceKeysLast:
		if !wait {
			k.flight.begin(ctx, "", k.cfg.Timeout, k.fetch)
		}
		return keys, at, nil
	}
	keys, err := k.flight.do(ctx, "", k.cfg.Timeout, k.fetch)
	return keys, now, err
}

// newer returns keys that were asked for after the time of those that did not do.
func (k *resourceKeys) newer(ctx context.Context, than time.Time) ([]jose.JSONWebKey, error) {
	now := k.cfg.Now()
	k.mu.Lock()
	if k.fetched.After(than) {
		defer k.mu.Unlock()
		return k.keys, nil
	}
	k.spare = min(resourceKeyBurst, k.spare+now.Sub(k.counted).Seconds()/resourceKeyEvery.Seconds())
	k.counted = now
	if k.spare < 1 {
		k.mu.Unlock()
		return nil, fmt.Errorf("%w: its keys were asked for often already, and the token's is not among them", errResourceUnavailable)
	}
	k.spare--
	k.mu.Unlock()
	return k.flight.do(ctx, "", k.cfg.Timeout, k.fetch)
}

// fetch asks for the keys and keeps them.
func (k *resourceKeys) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	asked := k.cfg.Now()
	keys, err := k.request(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failed = err; err != nil {
		k.retry = k.cfg.Now().Add(resourceRetry)
		return nil, err
	}
	k.keys, k.fetched, k.retry = keys, asked, time.Time{}
	return keys, nil
}

func (k *resourceKeys) request(ctx context.Context) ([]jose.JSONWebKey, error) {
	endpoints, err := k.provider.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoints.JWKS, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: jwks_uri: %w", errResourceUnavailable, err)
	}
	body, err := k.provider.do(req)
	if err != nil {
		return nil, err
	}
	keys, err := resourceSignatureKeys(body)
	if err != nil {
		return nil, fmt.Errorf("%w: jwks_uri: %w", errResourceUnavailable, err)
	}
	return keys, nil
}

// resourceSignatureKeys returns the public signature keys of a set (RFC 7517). Keys
// that are not understood are left out, as section 5 says.
func resourceSignatureKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil || set.Keys == nil {
		return nil, errors.New("it is no key set")
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) != nil || !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
			continue
		}
		if keys = append(keys, key); len(keys) == resourceMaxKeys {
			break
		}
	}
	return keys, nil
}
