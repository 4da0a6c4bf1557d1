package provider

import (
	"context"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// An announcement is a member of the discovery document, as JSON.
type announcement struct{ member, value string }

// announcements are what the hook adds to discovery: what is on, and nothing else.
func announcements(cfg Config) []announcement {
	var list []announcement
	if !cfg.NoExpirationMetadata {
		// draft-ietf-oauth-refresh-token-expiration-03 section 8
		list = append(list, announcement{"refresh_token_expiration_types_supported", `["authorization","token_timeout"]`})
	}
	if !cfg.NoResponseIssuer { // RFC 9207 section 3
		list = append(list, announcement{"authorization_response_iss_parameter_supported", "true"})
	}
	if cfg.Logout.URIs != nil { // Back-Channel Logout 1.0 section 2.1
		list = append(list, announcement{"backchannel_logout_supported", "true"}, announcement{"backchannel_logout_session_supported", "true"})
	}
	if cfg.Logout.FrontChannel { // Front-Channel Logout 1.0 section 3
		list = append(list, announcement{"frontchannel_logout_supported", "true"}, announcement{"frontchannel_logout_session_supported", "true"})
	}
	return list
}

// isMetadata reports whether a path is one of metadata: that of OpenID Connect
// Discovery 1.0 section 4, or RFC 8414 section 3, with an issuer's path before or
// after it.
func isMetadata(path string) bool {
	for _, wellKnown := range []string{oidc.DiscoveryEndpoint, oidc.AuthorizationServerMetadataEndpoint} {
		if _, after, ok := strings.Cut(path, wellKnown); ok && (after == "" || after[0] == '/') {
			return true
		}
	}
	return false
}

// errMetadataOutside is told where a metadata document does not say what the hook
// adds.
var errMetadataOutside = setup("a metadata document is served outside of hook.Handler (op.RegisterMetadataServer, op.Discover): " +
	"it does not announce what the hook adds")

// SignatureAlgorithms is asked for each metadata document that op makes, whatever
// its address.
func (c *backing) SignatureAlgorithms(ctx context.Context) ([]jose.SignatureAlgorithm, error) {
	req, leave := c.h.enter(ctx)
	defer leave()
	switch {
	case req != nil:
		req.announces = c.h.announces
	case op.IssuerFromContext(ctx) != "" && len(c.h.announces) > 0:
		c.h.misconfigured(ctx, errMetadataOutside)
	}
	return c.Storage.SignatureAlgorithms(ctx)
}
