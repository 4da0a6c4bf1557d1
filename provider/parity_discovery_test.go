package provider_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// The four optional interfaces that change what op advertises, or how it falls
// back.
type (
	hasCC  struct{ op.ClientCredentialsStorage }
	hasDev struct{ op.DeviceAuthorizationStorage }
	hasX   struct{ op.TokenExchangeStorage }
	hasPC  struct {
		op.CanGetPrivateClaimsFromRequest
	}
)

// sixteen returns s with every choice of the four interfaces, and none else.
func sixteen(s interface {
	op.Storage
	op.ClientCredentialsStorage
	op.DeviceAuthorizationStorage
	op.TokenExchangeStorage
	op.CanGetPrivateClaimsFromRequest
}) [16]op.Storage {
	type base struct{ op.Storage }
	b, cc, dev, x, pc := base{s}, hasCC{s}, hasDev{s}, hasX{s}, hasPC{s}
	return [16]op.Storage{
		0b0000: b,
		0b0001: struct {
			base
			hasCC
		}{b, cc},
		0b0010: struct {
			base
			hasDev
		}{b, dev},
		0b0011: struct {
			base
			hasCC
			hasDev
		}{b, cc, dev},
		0b0100: struct {
			base
			hasX
		}{b, x},
		0b0101: struct {
			base
			hasCC
			hasX
		}{b, cc, x},
		0b0110: struct {
			base
			hasDev
			hasX
		}{b, dev, x},
		0b0111: struct {
			base
			hasCC
			hasDev
			hasX
		}{b, cc, dev, x},
		0b1000: struct {
			base
			hasPC
		}{b, pc},
		0b1001: struct {
			base
			hasCC
			hasPC
		}{b, cc, pc},
		0b1010: struct {
			base
			hasDev
			hasPC
		}{b, dev, pc},
		0b1011: struct {
			base
			hasCC
			hasDev
			hasPC
		}{b, cc, dev, pc},
		0b1100: struct {
			base
			hasX
			hasPC
		}{b, x, pc},
		0b1101: struct {
			base
			hasCC
			hasX
			hasPC
		}{b, cc, x, pc},
		0b1110: struct {
			base
			hasDev
			hasX
			hasPC
		}{b, dev, x, pc},
		0b1111: struct {
			base
			hasCC
			hasDev
			hasX
			hasPC
		}{b, cc, dev, x, pc},
	}
}

// has tells which of the four interfaces a storage has.
func has(s op.Storage) (bits int) {
	for i, ok := range []bool{
		is[op.ClientCredentialsStorage](s), is[op.DeviceAuthorizationStorage](s),
		is[op.TokenExchangeStorage](s), is[op.CanGetPrivateClaimsFromRequest](s),
	} {
		if ok {
			bits |= 1 << i
		}
	}
	return bits
}

func is[T any](v any) bool {
	_, ok := v.(T)
	return ok
}

// TestSixteenStorages decorates a storage with each choice of the interfaces.
// What it has must stay what it has, be reached through the decoration, and be
// advertised as before.
func TestSixteenStorages(t *testing.T) {
	quiet(t)
	s := full{keyed{optest.NewStorage()}}
	for bits, bare := range sixteen(s) {
		t.Run(fmt.Sprintf("%04b", bits), func(t *testing.T) {
			require.Equal(t, bits, has(bare), "the test's own storage")
			decorated := strictHook(t).Storage(bare)
			require.Equal(t, bits, has(decorated))
			for name, embed := range embeddings {
				require.Equal(t, discovery(t, embed(t, bare)), discovery(t, embed(t, decorated)), name)
			}
			if cc, ok := decorated.(op.ClientCredentialsStorage); ok {
				client, err := cc.ClientCredentials(t.Context(), optest.ServiceUser, optest.ServiceSecret)
				require.NoError(t, err)
				require.Equal(t, optest.ServiceUser, client.GetID())
				request, err := cc.ClientCredentialsTokenRequest(t.Context(), optest.ServiceUser, []string{"openid"})
				require.NoError(t, err)
				require.Equal(t, optest.SubjectOf("user"), request.GetSubject()) // see full
			}
			if dev, ok := decorated.(op.DeviceAuthorizationStorage); ok {
				device, user := fmt.Sprint("device", bits), fmt.Sprint("user", bits)
				require.NoError(t, dev.StoreDeviceAuthorization(t.Context(), optest.Device, device, user, time.Now(), nil))
				require.ErrorIs(t, dev.StoreDeviceAuthorization(t.Context(), optest.Device, device, user, time.Now(), nil), op.ErrDuplicateUserCode)
				state, err := dev.GetDeviceAuthorizatonState(t.Context(), optest.Device, device)
				require.NoError(t, err)
				require.Equal(t, optest.Device, state.ClientID)
			}
			if pc, ok := decorated.(op.CanGetPrivateClaimsFromRequest); ok {
				claims, err := pc.GetPrivateClaimsFromRequest(t.Context(), &op.DeviceAuthorizationState{}, []string{"a"})
				require.NoError(t, err)
				require.Equal(t, map[string]any{"private": `other ["a"]`}, claims)
			}
		})
	}
}

// TestAbsentInterfaces calls the four interfaces that a decorated storage always
// has, over a storage that has none of them: it must do what op does without.
func TestAbsentInterfaces(t *testing.T) {
	t.Parallel()
	bare := &counted{Storage: optest.NewStorage()}
	hook := strictHook(t)
	decorated := hook.Storage(struct{ op.Storage }{bare}).(interface {
		op.CanSetUserinfoFromRequest
		op.CanTerminateSessionFromRequest
		op.JWTProfileTokenStorage
		op.TokenExchangeTokensVerifierStorage
	})
	ctx := hook.JobContext(t.Context(), "https://op.example.org")

	info := &oidc.UserInfo{Subject: "id-alice"}
	require.NoError(t, decorated.SetUserinfoFromRequest(ctx, info, &op.DeviceAuthorizationState{Subject: "id-alice"}, []string{"openid"}))
	require.Equal(t, &oidc.UserInfo{Subject: "id-alice"}, info)

	redirect, err := decorated.TerminateSessionFromRequest(ctx, &op.EndSessionRequest{UserID: "id-alice", ClientID: "web", RedirectURI: "/there"})
	require.NoError(t, err)
	require.Equal(t, "/there", redirect)
	require.Equal(t, []string{"id-alice web"}, bare.terminated)
	bare.fail = fmt.Errorf("the storage's own error")
	_, err = decorated.TerminateSessionFromRequest(ctx, &op.EndSessionRequest{UserID: "id-alice", ClientID: "web"})
	require.Same(t, bare.fail, err)

	tokenType, err := decorated.JWTProfileTokenType(ctx, &oidc.JWTTokenRequest{})
	require.NoError(t, err)
	require.Equal(t, op.AccessTokenTypeBearer, tokenType)

	_, _, _, err = decorated.VerifyExchangeSubjectToken(ctx, "token", oidc.JWTTokenType)
	require.Error(t, err)
	_, _, _, err = decorated.VerifyExchangeActorToken(ctx, "token", oidc.JWTTokenType)
	require.Error(t, err)
}

// counted notes what is terminated.
type counted struct {
	*optest.Storage
	terminated []string
	fail       error
}

func (c *counted) TerminateSession(_ context.Context, userID, clientID string) error {
	c.terminated = append(c.terminated, userID+" "+clientID)
	return c.fail
}

// TestDiscovery compares the metadata of full and bare storages, with each
// addition switched on and off.
func TestDiscovery(t *testing.T) {
	quiet(t)
	additions := map[string]struct {
		value any
		off   func(*provider.Config)
	}{
		"refresh_token_expiration_types_supported":       {[]any{"authorization", "token_timeout"}, func(cfg *provider.Config) { cfg.NoExpirationMetadata = true }},
		"authorization_response_iss_parameter_supported": {true, func(cfg *provider.Config) { cfg.NoResponseIssuer = true }},
	}
	s := full{keyed{optest.NewStorage()}}
	for name, bare := range map[string]op.Storage{
		"full": s, "bare": struct{ op.Storage }{s}, "example": optest.NewStorage().Storage,
	} {
		for mode, embed := range embeddings {
			for off := range additions {
				t.Run(fmt.Sprintf("%s, %s, without %s", name, mode, off), func(t *testing.T) {
					want := discovery(t, embed(t, bare))
					require.NotEmpty(t, want["grant_types_supported"])
					for member, addition := range additions {
						require.NotContains(t, want, member)
						if member != off {
							want[member] = addition.value
						}
					}
					hook := strictHook(t, func(cfg *provider.Config) {
						cfg.NoExpirationMetadata, cfg.NoResponseIssuer = false, false
						additions[off].off(cfg)
					})
					require.Equal(t, want, discovery(t, hook.Handler(embed(t, hook.Storage(bare)))))
				})
			}
		}
	}
}

// TestExampleHasWhatWeThink keeps the tests above from comparing nothing with
// nothing.
func TestExampleHasWhatWeThink(t *testing.T) {
	quiet(t)
	s := &storage.Storage{}
	require.Equal(t, 0b0111, has(s))
	require.Equal(t, 0b0111, has(strictHook(t).Storage(s)))
	document := discovery(t, embeddings["Provider"](t, optest.NewStorage()))
	require.Len(t, document["grant_types_supported"], 7)
	document = discovery(t, embeddings["Provider"](t, struct{ op.Storage }{optest.NewStorage()}))
	require.Len(t, document["grant_types_supported"], 4)
}

// TestClientsStayWhatTheyAre checks that op gets clients with the one optional
// interface of clients if and only if the storage's has it, and that all else
// of them is as it was.
func TestClientsStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	plain := optest.DefaultClients()[0]
	globbed := globClient{plain}
	for name, own := range map[string]op.Client{"plain": plain, "with globs": globbed} {
		t.Run(name, func(t *testing.T) {
			s := optest.NewStorage(own)
			hook, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}})
			require.NoError(t, err)
			var got op.Client
			decorated := hook.Storage(s)
			hook.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got, err = decorated.GetClientByClientID(r.Context(), own.GetID())
			})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			require.NoError(t, err)

			require.Equal(t, is[op.HasRedirectGlobs](own), is[op.HasRedirectGlobs](got))
			if globs, ok := got.(op.HasRedirectGlobs); ok {
				require.Equal(t, globbed.RedirectURIGlobs(), globs.RedirectURIGlobs())
				require.Equal(t, globbed.PostLogoutRedirectURIGlobs(), globs.PostLogoutRedirectURIGlobs())
			}
			require.Equal(t, own.GetID(), got.GetID())
			require.Equal(t, own.RedirectURIs(), got.RedirectURIs())
			require.Equal(t, own.PostLogoutRedirectURIs(), got.PostLogoutRedirectURIs())
			require.Equal(t, own.ApplicationType(), got.ApplicationType())
			require.Equal(t, own.AuthMethod(), got.AuthMethod())
			require.Equal(t, own.ResponseTypes(), got.ResponseTypes())
			require.Equal(t, own.GrantTypes(), got.GrantTypes())
			require.Equal(t, own.LoginURL("id"), got.LoginURL("id"))
			require.Equal(t, own.AccessTokenType(), got.AccessTokenType())
			require.Equal(t, own.IDTokenLifetime(), got.IDTokenLifetime())
			require.Equal(t, own.DevMode(), got.DevMode())
			require.Equal(t, own.ClockSkew(), got.ClockSkew())
			require.Equal(t, own.IDTokenUserinfoClaimsAssertion(), got.IDTokenUserinfoClaimsAssertion())
			require.Equal(t, own.IsScopeAllowed("custom_scope"), got.IsScopeAllowed("custom_scope"))
			require.Equal(t, own.RestrictAdditionalAccessTokenScopes()([]string{"a"}), got.RestrictAdditionalAccessTokenScopes()([]string{"a"}))
		})
	}
}

// globClient is a client with redirect globs.
type globClient struct{ op.Client }

func (globClient) RedirectURIGlobs() []string           { return []string{"http://127.0.0.1:9999/**"} }
func (globClient) PostLogoutRedirectURIGlobs() []string { return []string{"http://127.0.0.1:9999/*"} }

// embeddings make op's handler over a storage.
var embeddings = map[string]func(*testing.T, op.Storage) http.Handler{
	"Provider": func(t *testing.T, s op.Storage) http.Handler { return newProvider(t, s) },
	"LegacyServer": func(t *testing.T, s op.Storage) http.Handler {
		p := newProvider(t, s)
		return op.RegisterLegacyServer(op.NewLegacyServer(p, p.Endpoints()), op.AuthorizeCallbackHandler(p))
	},
}

func newProvider(t *testing.T, s op.Storage) *op.Provider {
	t.Helper()
	p, err := op.NewProvider(&op.Config{
		GrantTypeRefreshToken: true, RequestObjectSupported: true, AuthMethodPost: true, AuthMethodPrivateKeyJWT: true,
		CodeMethodS256: true, BackChannelLogoutSupported: true,
	}, s, op.StaticIssuer("https://op.example.org"))
	require.NoError(t, err)
	return p
}

func discovery(t *testing.T, h http.Handler) map[string]any {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "https://op.example.org/.well-known/openid-configuration", nil))
	require.Equal(t, http.StatusOK, rec.Code, rec.Body)
	document := map[string]any{}
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &document))
	return document
}
