package issuer

import (
	"context"
	"errors"

	"github.com/go-jose/go-jose/v4"
)

// A KeySet verifies signatures with the keys of the provider, for an
// [oidc.IDTokenVerifier]. It tells keys that cannot be had at the moment from a signature
// that is wrong, which the verifier does not: see [Verify].
type KeySet struct{ keys *Keys }

// KeySetAt returns the keys that are published at an address.
func KeySetAt(address string, cfg Config) KeySet {
	return KeySet{(&Provider{cfg: cfg, found: &Endpoints{JWKS: address}}).Keys()}
}

// VerifySignature asks for newer keys where no key at hand has signed, but not
// as often as somebody sends forged tokens: see Keys. It does so where the name
// of the key is known, too: some providers have a new key under the old name.
func (k KeySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	parsed, err := jose.ParseSignedCompact(token, Algorithms) // those that are allowed the verifier knows
	if err != nil || len(parsed.Signatures) != 1 {
		return nil, errors.New("it is not a JWT")
	}
	var payload []byte
	header := parsed.Signatures[0].Header
	try := func(key jose.JSONWebKey) (err error) {
		payload, err = parsed.Verify(key)
		return err
	}
	keys, at, err := k.keys.current(ctx)
	if err == nil {
		if _, ok := k.keys.tryAll(keys, header, try); ok {
			return payload, nil
		}
		keys, err = k.keys.newer(ctx, at)
	}
	if err != nil {
		if missing, ok := ctx.Value(keysMissing{}).(*error); ok {
			*missing = err
		}
		return nil, err
	}
	if _, ok := k.keys.tryAll(keys, header, try); ok {
		return payload, nil
	}
	return nil, ErrUnsigned
}

type keysMissing struct{}

// Verify runs one of the verifier's methods. The error wraps [ErrUnavailable] if the
// keys could not be had.
func Verify[T any](ctx context.Context, raw string, method func(context.Context, string) (T, error)) (T, error) {
	var missing error
	v, err := method(context.WithValue(ctx, keysMissing{}, &missing), raw)
	if err != nil && missing != nil {
		return v, missing
	}
	return v, err
}
