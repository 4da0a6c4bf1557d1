package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

const (
	issuer   = "https://op.example.org"
	verifier = "bench-bench-bench-bench-bench-bench-bench-verifier"
)

// A server is op on a light storage, with the hook or without.
type server struct {
	storage *storage
	handler http.Handler

	// serve answers a request; measure.go puts a stopwatch or a counter of
	// allocations around the handler here. Nothing else of the harness is
	// measured.
	serve func(http.ResponseWriter, *http.Request)

	sid string // of the last ID token
}

func newServer(key signingKey, hook *provider.Hook) (*server, error) {
	s := &server{storage: newStorage(key)}
	var storage op.Storage = s.storage
	if hook != nil {
		storage = hook.Storage(storage)
	}
	p, err := op.NewProvider(&op.Config{
		CryptoKey: sha256.Sum256([]byte("bench")), CryptoKeyId: "bench",
		CodeMethodS256: true, GrantTypeRefreshToken: true,
	}, storage, op.StaticIssuer(issuer))
	if err != nil {
		return nil, err
	}
	s.handler = p
	if hook != nil {
		s.handler = hook.Handler(p)
	}
	s.serve = s.handler.ServeHTTP
	return s, nil
}

// callback visits the callback of a user who has just signed in, and returns
// the code.
func (s *server) callback(subject string) (code string, err error) {
	id := s.storage.answered(subject, time.Now())
	r := httptest.NewRequest(http.MethodGet, issuer+"/authorize/callback?id="+id, nil)
	w := httptest.NewRecorder()
	s.serve(w, r)
	location, err := url.Parse(w.Header().Get("Location"))
	if err != nil {
		return "", err
	}
	if code = location.Query().Get("code"); code == "" {
		return "", fmt.Errorf("callback: no code: %d %s %s", w.Code, location, w.Body)
	}
	return code, nil
}

// redeem redeems a code and returns the refresh token.
func (s *server) redeem(code string) (refresh string, err error) {
	return s.token(url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"web"}, "code": {code},
		"redirect_uri": {redirectURI}, "code_verifier": {verifier},
	})
}

// login is callback and redeem.
func (s *server) login(subject string) (refresh string, err error) {
	code, err := s.callback(subject)
	if err != nil {
		return "", err
	}
	return s.redeem(code)
}

// refresh uses a refresh token and returns the next.
func (s *server) refresh(token string) (next string, err error) {
	return s.token(url.Values{"grant_type": {"refresh_token"}, "client_id": {"web"}, "refresh_token": {token}})
}

func (s *server) token(form url.Values) (refresh string, err error) {
	r := httptest.NewRequest(http.MethodPost, issuer+"/oauth/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	s.serve(w, r)
	var tokens struct {
		Access  string `json:"access_token"`
		ID      string `json:"id_token"`
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &tokens); err != nil {
		return "", fmt.Errorf("token: %d %s: %w", w.Code, w.Body, err)
	}
	if w.Code != http.StatusOK || tokens.Access == "" || tokens.ID == "" || tokens.Refresh == "" {
		return "", fmt.Errorf("token: %d %s", w.Code, w.Body)
	}
	s.sid, err = sidOf(tokens.ID)
	return tokens.Refresh, err
}

// sidOf returns the "sid" of an ID token, empty if it has none. Who verifies
// tokens is tested elsewhere.
func sidOf(idToken string) (string, error) {
	parts := strings.Split(idToken, ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("ID token of %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("ID token: %w", err)
	}
	var claims struct {
		SID string `json:"sid"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", fmt.Errorf("ID token: %w", err)
	}
	return claims.SID, nil
}

// A countingStore counts what a flow asks of the sessions in a store.
type countingStore struct {
	store.Store
	reads, writes, others atomic.Int64
}

func (c *countingStore) Get(ctx context.Context, id string) (store.Session, error) {
	c.reads.Add(1)
	return c.Store.Get(ctx, id)
}

func (c *countingStore) Update(ctx context.Context, s store.Session) (int64, error) {
	c.writes.Add(1)
	return c.Store.Update(ctx, s)
}

func (c *countingStore) Create(ctx context.Context, s store.Session, max int) error {
	c.writes.Add(1)
	return c.Store.Create(ctx, s, max)
}

func (c *countingStore) Delete(ctx context.Context, id string, revision int64) error {
	c.writes.Add(1)
	return c.Store.Delete(ctx, id, revision)
}

func (c *countingStore) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	c.others.Add(1)
	return c.Store.Admit(ctx, subject, decide)
}

func (c *countingStore) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	c.others.Add(1)
	return c.Store.List(ctx, f, cursor, limit)
}

func (c *countingStore) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	c.others.Add(1)
	return c.Store.Due(ctx, now, lease, limit)
}
