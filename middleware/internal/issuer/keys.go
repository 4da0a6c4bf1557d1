package issuer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// ErrUnsigned is wrapped where no key of the provider has signed a token.
var ErrUnsigned = errors.New("no key of the provider has signed it")

// Keys are the keys of the provider.
//
// A key that is not known is looked for at the provider, so that a rotation is
// noticed at once; but not for whoever makes names of keys up: keyBurst
// times, then once in keyEvery. A token whose key cannot be looked for is
// answered as an outage, since it may be good.
type Keys struct {
	provider *Provider
	flight   Flight[[]jose.JSONWebKey]

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time // when keys were asked for; zero: never
	retry   time.Time // not before, after a failure
	failed  error
	spare   float64 // requests for unknown keys that may be made
	counted time.Time
}

const (
	keyBurst = 5
	keyEvery = 10 * time.Second

	// After the first a key that was withdrawn is noticed; an outage longer than
	// the second makes the keys useless, since one may have been withdrawn.
	keysFresh = 5 * time.Minute
	keysLast  = 24 * time.Hour

	// maxKeys bounds the work for a token that names no key.
	maxKeys = 32
)

// Keys returns the keys of the provider. They are asked for when they are needed.
func (p *Provider) Keys() *Keys { return &Keys{provider: p, spare: keyBurst} }

// Open tries the keys that a header can mean.
func (k *Keys) Open(ctx context.Context, h jose.Header, try func(jose.JSONWebKey) error) error {
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
	return ErrUnsigned
}

// tryAll reports whether the key that the header names is known, and whether it,
// or one of all if none is named, has signed.
func (k *Keys) tryAll(keys []jose.JSONWebKey, h jose.Header, try func(jose.JSONWebKey) error) (known, opened bool) {
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
func (k *Keys) current(ctx context.Context) ([]jose.JSONWebKey, time.Time, error) {
	now := k.provider.cfg.Now()
	k.mu.Lock()
	keys, at := k.keys, k.fetched
	failed, wait := k.failed, now.Before(k.retry)
	k.mu.Unlock()
	age := now.Sub(at)
	switch {
	case !at.IsZero() && age < keysFresh:
		return keys, at, nil
	case wait && failed != nil && (at.IsZero() || age >= keysLast):
		return nil, at, failed
	case !at.IsZero() && age < keysLast:
		if !wait {
			k.flight.Begin(ctx, "", k.provider.cfg.Timeout, k.fetch)
		}
		return keys, at, nil
	}
	keys, err := k.flight.Do(ctx, "", k.provider.cfg.Timeout, k.fetch)
	return keys, now, err
}

// newer returns keys that were asked for after the time of those that did not do.
func (k *Keys) newer(ctx context.Context, than time.Time) ([]jose.JSONWebKey, error) {
	now := k.provider.cfg.Now()
	k.mu.Lock()
	if k.fetched.After(than) {
		defer k.mu.Unlock()
		return k.keys, nil
	}
	k.spare = min(keyBurst, k.spare+now.Sub(k.counted).Seconds()/keyEvery.Seconds())
	k.counted = now
	if k.spare < 1 {
		k.mu.Unlock()
		return nil, fmt.Errorf("%w: its keys were asked for often already, and the token's is not among them", ErrUnavailable)
	}
	k.spare--
	k.mu.Unlock()
	return k.flight.Do(ctx, "", k.provider.cfg.Timeout, k.fetch)
}

// fetch asks for the keys and keeps them.
func (k *Keys) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	asked := k.provider.cfg.Now()
	keys, err := k.request(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failed = err; err != nil {
		k.retry = k.provider.cfg.Now().Add(retryTime)
		return nil, err
	}
	k.keys, k.fetched, k.retry = keys, asked, time.Time{}
	return keys, nil
}

func (k *Keys) request(ctx context.Context) ([]jose.JSONWebKey, error) {
	endpoints, err := k.provider.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoints.JWKS, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: jwks_uri: %w", ErrUnavailable, err)
	}
	body, err := k.provider.Do(req)
	if err != nil {
		return nil, err
	}
	keys, err := signatureKeys(body)
	if err != nil {
		return nil, fmt.Errorf("%w: jwks_uri: %w", ErrUnavailable, err)
	}
	return keys, nil
}

// signatureKeys returns the public signature keys of a set (RFC 7517). Keys
// that are not understood are left out, as section 5 says.
func signatureKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil || set.Keys == nil {
		return nil, errors.New("it is not a key set")
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) != nil || !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
			continue
		}
		if keys = append(keys, key); len(keys) == maxKeys {
			break
		}
	}
	return keys, nil
}
