package provider

import (
	"context"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"
)

// op finds eight optional interfaces of a storage by type assertion. Four it
// advertises, or falls back from in a way that cannot be imitated: a decorated
// storage must have them if and only if the storage does. Those are the 2^4
// cases below. The other four are methods of core, which imitates op's
// behaviour without them. op may add a ninth in any release:
// TestAssertionsOfOp lists them.

type clientCredentials struct {
	*core
	storage op.ClientCredentialsStorage
}

func (c clientCredentials) ClientCredentials(ctx context.Context, clientID, secret string) (op.Client, error) {
	return c.storage.ClientCredentials(ctx, clientID, secret)
}

func (c clientCredentials) ClientCredentialsTokenRequest(ctx context.Context, clientID string, scopes []string) (op.TokenRequest, error) {
	c.noteClientCredentials(ctx)
	return c.storage.ClientCredentialsTokenRequest(ctx, clientID, scopes)
}

type device struct {
	*core
	storage op.DeviceAuthorizationStorage
}

func (d device) StoreDeviceAuthorization(ctx context.Context, clientID, deviceCode, userCode string, expires time.Time, scopes []string) error {
	return d.storage.StoreDeviceAuthorization(ctx, clientID, deviceCode, userCode, expires, scopes)
}

func (d device) GetDeviceAuthorizatonState(ctx context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	if !isCode(deviceCode) {
		return nil, errNoCode
	}
	d.noteDevice(ctx, deviceCode)
	return d.storage.GetDeviceAuthorizatonState(ctx, clientID, deviceCode)
}

type privateClaims struct {
	*core
	storage op.CanGetPrivateClaimsFromRequest
}

// The narrow views keep the embedded *core of the parts out of the method sets,
// where it would be ambiguous.
type (
	asClientCredentials interface{ op.ClientCredentialsStorage }
	asDevice            interface{ op.DeviceAuthorizationStorage }
	asExchange          interface{ op.TokenExchangeStorage }
	asPrivateClaims     interface {
		op.CanGetPrivateClaimsFromRequest
	}
)

// Everything that core must have, whatever the storage has.
var _ interface {
	op.Storage
	op.CanSetUserinfoFromRequest
	op.CanTerminateSessionFromRequest
	op.JWTProfileTokenStorage
	op.TokenExchangeTokensVerifierStorage
} = (*core)(nil)

// Storage decorates the storage of a provider. The result implements the
// optional interfaces that change what a provider advertises if and only if s
// does. [Unwrap] returns s again. Several providers may share a hook; decorate the storage of each.
// Decorate a storage only once: a second time is reported as an [EventMisconfigured], and has no
// effect.
func (h *Hook) Storage(s op.Storage) op.Storage {
	if _, twice := s.(decorated); twice {
		h.misconfigured(context.Background(), errDecoratedTwice)
		s = Unwrap(s)
	}
	h.decorates.Add(1)
	c := newCore(s, h)
	cc, hasCC := s.(op.ClientCredentialsStorage)
	dv, hasDV := s.(op.DeviceAuthorizationStorage)
	te, hasTE := s.(op.TokenExchangeStorage)
	pc, hasPC := s.(op.CanGetPrivateClaimsFromRequest)
	var (
		a asClientCredentials = clientCredentials{c, cc}
		b asDevice            = device{c, dv}
		d asExchange          = exchanger{c, te}
		e asPrivateClaims     = privateClaims{c, pc}
	)
	type (
		A = asClientCredentials
		B = asDevice
		D = asExchange
		E = asPrivateClaims
	)
	has := [4]bool{hasCC, hasDV, hasTE, hasPC}
	switch has {
	case [4]bool{true, false, false, false}:
		return struct {
			*core
			A
		}{c, a}
	case [4]bool{false, true, false, false}:
		return struct {
			*core
			B
		}{c, b}
	case [4]bool{true, true, false, false}:
		return struct {
			*core
			A
			B
		}{c, a, b}
	case [4]bool{false, false, true, false}:
		return struct {
			*core
			D
		}{c, d}
	case [4]bool{true, false, true, false}:
		return struct {
			*core
			A
			D
		}{c, a, d}
	case [4]bool{false, true, true, false}:
		return struct {
			*core
			B
			D
		}{c, b, d}
	case [4]bool{true, true, true, false}:
		return struct {
			*core
			A
			B
			D
		}{c, a, b, d}
	case [4]bool{false, false, false, true}:
		return struct {
			*core
			E
		}{c, e}
	case [4]bool{true, false, false, true}:
		return struct {
			*core
			A
			E
		}{c, a, e}
	case [4]bool{false, true, false, true}:
		return struct {
			*core
			B
			E
		}{c, b, e}
	case [4]bool{true, true, false, true}:
		return struct {
			*core
			A
			B
			E
		}{c, a, b, e}
	case [4]bool{false, false, true, true}:
		return struct {
			*core
			D
			E
		}{c, d, e}
	case [4]bool{true, false, true, true}:
		return struct {
			*core
			A
			D
			E
		}{c, a, d, e}
	case [4]bool{false, true, true, true}:
		return struct {
			*core
			B
			D
			E
		}{c, b, d, e}
	case [4]bool{true, true, true, true}:
		return struct {
			*core
			A
			B
			D
			E
		}{c, a, b, d, e}
	}
	return c
}
