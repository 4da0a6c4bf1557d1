package provider

import (
	"context"

	"github.com/zitadel/oidc/v3/pkg/op"
)

// JWTProfileTokenType stands in for op's default.
func (c *backing) JWTProfileTokenType(ctx context.Context, tr op.TokenRequest) (op.AccessTokenType, error) {
	if own, ok := c.Storage.(op.JWTProfileTokenStorage); ok {
		return own.JWTProfileTokenType(ctx, tr)
	}
	return op.AccessTokenTypeBearer, nil
}
