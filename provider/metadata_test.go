package provider_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// metadata serves the documents of issuers with a path, as op.MetadataServer says.
type metadata struct {
	op.UnimplementedMetadataServer
	provider *op.Provider
}

func (m metadata) OpenIDConfiguration(ctx context.Context, r *op.Request[op.MetadataRequest]) (*op.Response, error) {
	if r.Data.IssuerPath == "/nobody" {
		return nil, op.NewStatusError(oidc.ErrInvalidRequest().WithDescription("no such issuer"), http.StatusNotFound)
	}
	return op.NewResponse(op.CreateDiscoveryConfig(ctx, m.provider, m.provider.Storage())), nil
}

func (m metadata) AuthorizationServerMetadata(ctx context.Context, r *op.Request[op.MetadataRequest]) (*op.Response, error) {
	return m.OpenIDConfiguration(ctx, r)
}

// withMetadata is op's metadata handler in front of a provider.
func withMetadata(t *testing.T, s op.Storage) (handler, meta http.Handler) {
	t.Helper()
	p, err := op.NewProvider(&op.Config{CodeMethodS256: true}, s, func(bool) (op.IssuerFromRequest, error) {
		return func(r *http.Request) string { return "https://op.example.org/" + op.TenantFromContext(r.Context()) }, nil
	})
	require.NoError(t, err)
	m := op.RegisterMetadataServer(metadata{provider: p}, op.WithTenantPrefix(""), op.WithHTTPMiddleware(op.NewIssuerInterceptor(p.IssuerFromRequest).Handler))
	return m.Intercept(p), m
}

// get asks for a document, and requires one.
func getDocument(t *testing.T, h http.Handler, path string) map[string]any {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "https://op.example.org"+path, nil))
	require.Equal(t, http.StatusOK, w.Code, "%s: %s", path, w.Body)
	document := map[string]any{}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &document))
	return document
}

// Every form of op's metadata has the additions, and nothing else changes.
func TestEveryMetadataDocumentAnnounces(t *testing.T) {
	quiet(t)
	uris := func(context.Context, string) (provider.LogoutURIs, error) { return provider.LogoutURIs{}, nil }
	additions := map[string]any{
		"refresh_token_expiration_types_supported":       []any{"authorization", "token_timeout"},
		"authorization_response_iss_parameter_supported": true,
		"backchannel_logout_supported":                   true, "backchannel_logout_session_supported": true,
		"frontchannel_logout_supported": true, "frontchannel_logout_session_supported": true,
	}
	for _, on := range []bool{false, true} {
		hook := strictHook(t, func(cfg *provider.Config) {
			cfg.NoExpirationMetadata, cfg.NoResponseIssuer = !on, !on
			if on {
				cfg.Logout = provider.Logout{URIs: uris, FrontChannel: true}
			}
		})
		bare, _ := withMetadata(t, optest.NewStorage())
		hooked, _ := withMetadata(t, hook.Storage(optest.NewStorage()))
		hooked = hook.Handler(hooked)
		for _, path := range []string{
			"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server",
			"/.well-known/openid-configuration/acme", "/.well-known/oauth-authorization-server/acme", "/acme/.well-known/openid-configuration",
		} {
			want := getDocument(t, bare, path)
			require.Equal(t, strings.Contains(path, "acme"), want["issuer"] == "https://op.example.org/acme", "%s: %v", path, want["issuer"])
			if on {
				for member, value := range additions {
					require.NotContains(t, want, member, path)
					want[member] = value
				}
			}
			require.Equal(t, want, getDocument(t, hooked, path), path)
		}
		w := httptest.NewRecorder()
		hooked.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "https://op.example.org/.well-known/openid-configuration/nobody", nil))
		require.Equal(t, http.StatusNotFound, w.Code)
		require.NotContains(t, w.Body.String(), "_supported")
	}
}

// A document at an address of the embedder's own has them too. What is no metadata
// has not.
func TestMetadataAtAnyAddress(t *testing.T) {
	t.Parallel()
	hook := strictHook(t, namingIssuer)
	p := newProvider(t, hook.Storage(optest.NewStorage()))
	mux := http.NewServeMux()
	mux.HandleFunc("/about", func(w http.ResponseWriter, r *http.Request) {
		op.Discover(w, op.CreateDiscoveryConfig(op.ContextWithIssuer(r.Context(), "https://op.example.org"), p, p.Storage()))
	})
	mux.HandleFunc("/.well-known/openid-configuration/other", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"something":"else"}`))
	})
	h := hook.Handler(mux)
	require.Equal(t, true, getDocument(t, h, "/about")["authorization_response_iss_parameter_supported"])
	require.Equal(t, map[string]any{"something": "else"}, getDocument(t, h, "/.well-known/openid-configuration/other"))
}

// A metadata handler outside of the hook announces nothing, which is told, once.
func TestMetadataOutsideOfTheHookIsNoticed(t *testing.T) {
	quiet(t)
	s := start(t, policy.Account{}, inMemory)
	hooked, meta := withMetadata(t, s.hook.Storage(optest.NewStorage()))
	inside := s.hook.Handler(hooked)
	getDocument(t, inside, "/.well-known/openid-configuration/acme")
	require.Empty(t, s.seen(provider.EventMisconfigured))
	for range 2 {
		require.NotContains(t, getDocument(t, meta, "/.well-known/openid-configuration/acme"), "authorization_response_iss_parameter_supported")
	}
	events := s.seen(provider.EventMisconfigured)
	require.Len(t, events, 1)
	require.ErrorContains(t, events[0].Err, "outside of hook.Handler")

	// Where nothing is added nothing is missing.
	off := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
		o.InMemory, p.NoResponseIssuer, p.NoExpirationMetadata = true, true, true
	})
	_, meta = withMetadata(t, off.hook.Storage(optest.NewStorage()))
	getDocument(t, meta, "/.well-known/openid-configuration/acme")
	require.Empty(t, off.seen(provider.EventMisconfigured))
}
