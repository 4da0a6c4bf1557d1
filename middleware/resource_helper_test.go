package middleware_test

import (
	"context"
	"crypto"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/faultstore"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A resourceWorld is a provider with the hook, and counts what an API asks it.
type resourceWorld struct {
	*optest.Server
	hook *provider.Hook
	keys *resourceKeyring

	sessions *faultstore.Store
	down     atomic.Bool // the provider answers nothing but 502

	mu     sync.Mutex
	counts map[string]int // requests by path
}

// newResourceWorld starts a provider on connections in memory, for synctest too.
func newResourceWorld(t *testing.T) *resourceWorld {
	t.Helper()
	w := &resourceWorld{counts: map[string]int{}, keys: &resourceKeyring{}, sessions: faultstore.New(memstore.New())}
	var err error
	w.hook, err = provider.New(provider.Config{
		Store: w.sessions, Keys: provider.Keys{provider.NewKey(time.Now())},
		Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": {Limits: policy.Limits{
			Active: policy.LimitTo(12 * time.Hour), Inactivity: policy.LimitTo(4 * time.Hour),
		}}}},
	})
	require.NoError(t, err)
	w.Server = optest.Start(t, optest.Config{
		InMemory: true, Hook: w.hook,
		Wrap: func(s *optest.Storage) op.Storage {
			w.keys.Storage = s
			return w.keys
		},
		Middleware: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				w.mu.Lock()
				w.counts[r.URL.Path]++
				w.mu.Unlock()
				if w.down.Load() {
					http.Error(rw, "down", http.StatusBadGateway)
					return
				}
				next.ServeHTTP(rw, r)
			})
		},
	})
	return w
}

// count returns how often a path was asked for.
func (w *resourceWorld) count(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[path]
}

// introspecting returns an API of the client web.
func (w *resourceWorld) introspecting(t *testing.T, change ...func(*middleware.ResourceConfig)) *middleware.Resource {
	t.Helper()
	return w.api(t, middleware.ResourceConfig{
		Introspection: &middleware.ResourceIntrospection{ClientID: optest.Web, ClientSecret: "web-secret"},
	}, change)
}

// verifying returns an API for the audience of the client jwt.
func (w *resourceWorld) verifying(t *testing.T, change ...func(*middleware.ResourceConfig)) *middleware.Resource {
	t.Helper()
	return w.api(t, middleware.ResourceConfig{Audience: optest.JWT}, change)
}

func (w *resourceWorld) api(t *testing.T, cfg middleware.ResourceConfig, change []func(*middleware.ResourceConfig)) *middleware.Resource {
	t.Helper()
	cfg.Issuer, cfg.HTTPClient = w.Issuer, w.HTTP
	for _, c := range change {
		c(&cfg)
	}
	api, err := middleware.NewResource(cfg)
	require.NoError(t, err)
	return api
}

func acceptPlainJWT(cfg *middleware.ResourceConfig) { cfg.AcceptPlainJWT = true }

// A resourceReply is what an API answered.
type resourceReply struct {
	status    int
	header    http.Header
	challenge string
	body      map[string]any
}

// who says who the token is of.
var who = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	t, ok := middleware.ResourceFrom(r.Context())
	_ = json.NewEncoder(w).Encode(map[string]any{
		"ok": ok, "sub": middleware.ResourceSubject(r.Context()), "sid": middleware.ResourceSID(r.Context()),
		"client": t.ClientID, "scopes": t.Scopes,
	})
})

// callResource calls an API with the given Authorization headers, and holds that
// nothing of them comes back, to the caller or to the log.
func callResource(t *testing.T, api *middleware.Resource, authorization []string, rules ...middleware.ResourceRule) resourceReply {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, "/who", nil)
	for _, a := range authorization {
		req.Header.Add("Authorization", a)
	}
	return callResourceWith(t, api, req, rules...)
}

func callResourceWith(t *testing.T, api *middleware.Resource, req *http.Request, rules ...middleware.ResourceRule) resourceReply {
	t.Helper()
	rec := httptest.NewRecorder()
	api.Handler(who, rules...).ServeHTTP(rec, req)
	r := resourceReply{status: rec.Code, header: rec.Header(), challenge: rec.Header().Get("WWW-Authenticate")}
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &r.body))
	if r.status == http.StatusOK {
		require.Equal(t, true, r.body["ok"])
		return r
	}
	require.Equal(t, "no-store", r.header.Get("Cache-Control"))
	_, err := api.Check(req, rules...)
	require.Error(t, err)
	said := rec.Body.String() + r.challenge + err.Error()
	for _, a := range req.Header.Values("Authorization") {
		if _, token, _ := strings.Cut(a, " "); len(token) > 8 {
			require.NotContains(t, said, token)
			require.NotContains(t, said, token[len(token)-8:])
		}
	}
	return r
}

func bearer(token string) []string { return []string{"Bearer " + token} }

// A resourceKeyring is a storage whose signing key can be replaced, and whose key
// set has the former ones or not.
type resourceKeyring struct {
	*optest.Storage

	mu      sync.Mutex
	signing *resourceSigningKey // nil: that of the storage
	former  []op.Key
}

type resourceSigningKey struct {
	id  string
	key crypto.Signer
}

func (k *resourceSigningKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k *resourceSigningKey) Key() any                                    { return k.key }
func (k *resourceSigningKey) ID() string                                  { return k.id }

type resourcePublicKey struct{ *resourceSigningKey }

func (k resourcePublicKey) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k resourcePublicKey) Use() string                        { return "sig" }
func (k resourcePublicKey) Key() any                           { return k.key.Public() }

func (s *resourceKeyring) SigningKey(ctx context.Context) (op.SigningKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signing == nil {
		return s.Storage.SigningKey(ctx)
	}
	return s.signing, nil
}

func (s *resourceKeyring) KeySet(ctx context.Context) ([]op.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signing == nil {
		return s.Storage.KeySet(ctx)
	}
	return append([]op.Key{resourcePublicKey{s.signing}}, s.former...), nil
}

// rotate signs with a new key from now on. keep: the old one stays published.
func (s *resourceKeyring) rotate(t *testing.T, id string, key crypto.Signer, keep bool) {
	t.Helper()
	former, err := s.KeySet(t.Context())
	require.NoError(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signing, s.former = &resourceSigningKey{id, key}, nil
	if keep {
		s.former = former
	}
}

// signResource signs claims as the provider would, with more in the header.
func (w *resourceWorld) signResource(t *testing.T, claims map[string]any, header map[jose.HeaderKey]any) string {
	t.Helper()
	k, err := w.keys.SigningKey(t.Context())
	require.NoError(t, err)
	return signResourceWith(t, jose.SigningKey{Algorithm: k.SignatureAlgorithm(), Key: jose.JSONWebKey{Key: k.Key(), KeyID: k.ID()}}, claims, header)
}

func signResourceWith(t *testing.T, key jose.SigningKey, claims map[string]any, header map[jose.HeaderKey]any) string {
	t.Helper()
	signer, err := jose.NewSigner(key, &jose.SignerOptions{ExtraHeaders: header})
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	require.NoError(t, err)
	return token
}
