package provider

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/plain"
	"github.com/curfew-oidc/curfew/provider/internal/session"
)

// ownScope keeps the scopes that op passes for an ID token from being empty: op
// would skip the call that adds "sid". No storage gets to see it.
const ownScope = "curfew:session"

func withoutOwnScope(scopes []string) []string {
	if len(scopes) > 0 && scopes[len(scopes)-1] == ownScope {
		return slices.Clip(scopes[:len(scopes)-1])
	}
	return scopes
}

// A sessionClient is a client for the time of one request. op asks
// IDTokenLifetime without a context, so the client must know the request.
type sessionClient struct {
	op.Client
	req *request
	h   *Hook
}

// wrapClient keeps op.HasRedirectGlobs, the one optional interface of clients.
func wrapClient(c op.Client, req *request, h *Hook) op.Client {
	w := &sessionClient{Client: c, req: req, h: h}
	if globs, ok := c.(op.HasRedirectGlobs); ok {
		return &globClient{sessionClient: w, globs: globs}
	}
	return w
}

// IDTokenLifetime is the client's own, shortened to what the session allows less the
// ClockSkew that op adds to it.
func (c *sessionClient) IDTokenLifetime() time.Duration {
	own := c.Client.IDTokenLifetime()
	c.req.boundIDToken = true
	if c.req.live == nil {
		return own
	}
	now := c.h.now()
	end := c.req.live.rules.TokenEnd(now, c.req.session.Policy(), c.req.live.use)
	if end.IsZero() {
		return own
	}
	return min(own, end.Sub(now)-c.Client.ClockSkew())
}

func (c *sessionClient) RestrictAdditionalIdTokenScopes() func([]string) []string {
	own := c.Client.RestrictAdditionalIdTokenScopes()
	return func(scopes []string) []string {
		return append(slices.Clip(own(scopes)), ownScope)
	}
}

type globClient struct {
	*sessionClient
	globs op.HasRedirectGlobs
}

func (c *globClient) RedirectURIGlobs() []string { return c.globs.RedirectURIGlobs() }
func (c *globClient) PostLogoutRedirectURIGlobs() []string {
	return c.globs.PostLogoutRedirectURIGlobs()
}

// clientName returns the name by which users know a client.
func (h *base) clientName(ctx context.Context, clientID string) string {
	name := ""
	if h.cfg.ClientName != nil && clientID != "" {
		name = h.cfg.ClientName(ctx, clientID)
	}
	if name == "" {
		name = clientID
	}
	return strings.ToValidUTF8(plain.Short(name, session.MaxClientName), "")
}
