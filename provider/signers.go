package provider

import (
	"context"
	"fmt"
	"sync"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/provider/internal/notify"
)

// signers are the decorated storages of this process, by the issuer whose key they
// have. Several providers may share a hook, and several hooks a store: an
// application takes a logout token of its own provider only. A storage does not
// say whose key it has. The logins and refreshes that it serves do, and
// [Hook.Check] at start.
type signers struct {
	mu sync.RWMutex
	of map[string]*backing
}

// maxIssuers bounds the issuers of a process: one that is taken from the Host
// header is whatever a browser sends.
const maxIssuers = 10_000

// learn notes that c has the key of an issuer.
func (k *signers) learn(issuer string, c *backing) {
	k.mu.RLock()
	known := k.of[issuer] == c
	k.mu.RUnlock()
	if known || issuer == "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of == nil {
		k.of = map[string]*backing{}
	}
	for other := range k.of {
		if len(k.of) < maxIssuers {
			break
		}
		delete(k.of, other)
	}
	k.of[issuer] = c
}

// signs reports whether this process has the key of an issuer.
func (k *signers) signs(issuer string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.of[issuer] != nil
}

// key returns the signing key of an issuer.
func (k *signers) key(ctx context.Context, issuer string) (jose.SigningKey, error) {
	k.mu.RLock()
	c := k.of[issuer]
	k.mu.RUnlock()
	if c == nil {
		return jose.SigningKey{}, fmt.Errorf("%w: %s", notify.ErrNoKey, issuer)
	}
	key, err := c.Storage.SigningKey(op.ContextWithIssuer(ctx, issuer))
	if err != nil {
		return jose.SigningKey{}, fmt.Errorf("signing key: %w", err)
	}
	return jose.SigningKey{Algorithm: key.SignatureAlgorithm(), Key: &jose.JSONWebKey{Key: key.Key(), KeyID: key.ID()}}, nil
}
