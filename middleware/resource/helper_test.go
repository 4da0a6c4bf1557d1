package resource_test

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

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware/resource"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A world is a provider with the hook, and counts what an API asks it.
type world struct {
	*optest.Server
	hook *provider.Hook
	keys *keyring

	sessions *faultstore.Store
	down     atomic.Bool // the provider answers nothing but 502
	slow     atomic.Bool // it takes a second

	mu     sync.Mutex
	counts map[string]int // requests by path
}

// newWorld starts a provider on connections in memory, for synctest too.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{counts: map[string]int{}, keys: &keyring{}, sessions: faultstore.New(memstore.New())}
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
				if w.slow.Load() {
					time.Sleep(time.Second)
				}
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
func (w *world) count(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[path]
}

// introspecting returns an API of the client web.
func (w *world) introspecting(t *testing.T, change ...func(*resource.Config)) *resource.Server {
	t.Helper()
	return w.api(t, resource.Config{
		Introspection: &resource.Introspection{ClientID: optest.Web, ClientSecret: "web-secret"},
	}, change)
}

// verifying returns an API for the audience of the client jwt.
func (w *world) verifying(t *testing.T, change ...func(*resource.Config)) *resource.Server {
	t.Helper()
	return w.api(t, resource.Config{Audience: optest.JWT}, change)
}

func (w *world) api(t *testing.T, cfg resource.Config, change []func(*resource.Config)) *resource.Server {
	t.Helper()
	cfg.Issuer, cfg.HTTPClient = w.Issuer, w.HTTP
	for _, c := range change {
		c(&cfg)
	}
	api, err := resource.New(cfg)
	require.NoError(t, err)
	return api
}

func acceptPlainJWT(cfg *resource.Config) { cfg.InsecureAcceptPlainJWT = true }

// A reply is what an API answered.
type reply struct {
	status    int
	header    http.Header
	challenge string
	body      map[string]any
}

// who says who the token is of.
var who = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	t, ok := resource.From(r.Context())
	_ = json.NewEncoder(w).Encode(map[string]any{
		"ok": ok, "sub": resource.Subject(r.Context()), "sid": resource.SID(r.Context()),
		"client": t.ClientID, "scopes": t.Scopes,
	})
})

// callAPI calls an API with the given Authorization headers, and holds that
// nothing of them comes back, to the caller or to the log.
func callAPI(t *testing.T, api *resource.Server, authorization []string, rules ...resource.Rule) reply {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, "/who", nil)
	for _, a := range authorization {
		req.Header.Add("Authorization", a)
	}
	return callAPIWith(t, api, req, rules...)
}

func callAPIWith(t *testing.T, api *resource.Server, req *http.Request, rules ...resource.Rule) reply {
	t.Helper()
	rec := httptest.NewRecorder()
	api.Handler(who, rules...).ServeHTTP(rec, req)
	r := reply{status: rec.Code, header: rec.Header(), challenge: rec.Header().Get("WWW-Authenticate")}
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

// A keyring is a storage whose signing key can be replaced, and whose key
// set has the former ones or not.
type keyring struct {
	*optest.Storage

	mu      sync.Mutex
	signing *signingKey // nil: that of the storage
	former  []op.Key
}

type signingKey struct {
	id  string
	key crypto.Signer
}

func (k *signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }

func (k *signingKey) Key() any { return k.key }

func (k *signingKey) ID() string { return k.id }

type publicKey struct{ *signingKey }

func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }

func (k publicKey) Use() string { return "sig" }

func (k publicKey) Key() any { return k.key.Public() }

func (s *keyring) SigningKey(ctx context.Context) (op.SigningKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signing == nil {
		return s.Storage.SigningKey(ctx)
	}
	return s.signing, nil
}

func (s *keyring) KeySet(ctx context.Context) ([]op.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signing == nil {
		return s.Storage.KeySet(ctx)
	}
	return append([]op.Key{publicKey{s.signing}}, s.former...), nil
}

// rotate signs with a new key from now on. keep: the old one stays published.
func (s *keyring) rotate(t *testing.T, id string, key crypto.Signer, keep bool) {
	t.Helper()
	former, err := s.KeySet(t.Context())
	require.NoError(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signing, s.former = &signingKey{id, key}, nil
	if keep {
		s.former = former
	}
}

// sign signs claims as the provider would, with more in the header.
func (w *world) sign(t *testing.T, claims map[string]any, header map[jose.HeaderKey]any) string {
	t.Helper()
	k, err := w.keys.SigningKey(t.Context())
	require.NoError(t, err)
	return signWith(t, jose.SigningKey{Algorithm: k.SignatureAlgorithm(), Key: jose.JSONWebKey{Key: k.Key(), KeyID: k.ID()}}, claims, header)
}

func signWith(t *testing.T, key jose.SigningKey, claims map[string]any, header map[jose.HeaderKey]any) string {
	t.Helper()
	signer, err := jose.NewSigner(key, &jose.SignerOptions{ExtraHeaders: header})
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	require.NoError(t, err)
	return token
}
