package main

import (
	"context"
	"net/http"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// metadata is what applications find out about the provider, at each address where
// they look for it: OpenID Connect Discovery 1.0 section 4, RFC 8414 section 3. The
// handler is inside of the hook's, which adds what it announces.
type metadata struct {
	op.UnimplementedMetadataServer
	provider *op.Provider
}

// OpenIDConfiguration implements op.MetadataServer. The issuer has no path; see
// checkIssuer.
func (m metadata) OpenIDConfiguration(ctx context.Context, r *op.Request[op.MetadataRequest]) (*op.Response, error) {
	if r.Data.IssuerPath != "" {
		return nil, op.NewStatusError(oidc.ErrInvalidRequest().WithDescription("there is no such issuer"), http.StatusNotFound)
	}
	document := op.CreateDiscoveryConfig(ctx, m.provider, m.provider.Storage())
	document.ACRValuesSupported = []string{acr}
	return op.NewResponse(document), nil
}

// AuthorizationServerMetadata implements op.MetadataServer.
func (m metadata) AuthorizationServerMetadata(ctx context.Context, r *op.Request[op.MetadataRequest]) (*op.Response, error) {
	return m.OpenIDConfiguration(ctx, r)
}
