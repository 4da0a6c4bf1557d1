// Package admintest is a provider with the administration of its accounts, for the
// tests of the API and of the console.
package admintest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/internal/paged"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/console"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A World is a provider with the hook and the API, for one test. In the account
// "acme" are root, who administers it, auditor, an administrator that only reads, and everybody whose
// name does not start with "other-"; those are in "elsewhere", which other-root
// administers.
type World struct {
	*optest.Server
	T     testing.TB
	Hook  *provider.Hook
	Store store.Store
	API   *admin.Admin

	// Described, if it is set, holds each answer of the API against its description.
	Described func(t testing.TB, method, path string, got Response)

	mu       sync.Mutex
	failures []error
}

// An Option changes how a world is made, before it is.
type Option func(*World, *provider.Config, *admin.Config)

// New starts the provider, with the API at /v1/ and the console at /console/.
func New(t testing.TB, options ...Option) *World {
	w := &World{T: t, Store: memstore.New()}
	hookConfig := provider.Config{Keys: provider.Keys{provider.NewKey(time.Now())}}
	adminConfig := admin.Config{}
	for _, o := range options {
		o(w, &hookConfig, &adminConfig)
	}
	hookConfig.Store = w.Store
	hookConfig.Counts, _ = w.Store.(store.Counts)
	if hookConfig.Membership == nil {
		hookConfig.Membership = func(_ context.Context, s store.Subject) ([]policy.Membership, error) { return Memberships(s.ID), nil }
	}
	var err error
	w.Hook, err = provider.New(hookConfig)
	require.NoError(t, err)

	var embedded *op.Provider
	var pages http.Handler
	w.Server = optest.Start(t, optest.Config{
		Hook: w.Hook, InMemory: true,
		Options: []op.Option{func(p *op.Provider) error { embedded = p; return nil }},
		Middleware: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/v1/") {
					w.API.ServeHTTP(rw, r)
					return
				}
				if strings.HasPrefix(r.URL.Path, "/console/") {
					optest.CORSForAll(http.StripPrefix("/console", pages)).ServeHTTP(rw, r)
					return
				}
				next.ServeHTTP(rw, r)
			})
		},
	})
	adminConfig.Hook, adminConfig.Issuer = w.Hook, w.Issuer
	if adminConfig.ReadOnly == "" && adminConfig.Store == nil {
		adminConfig.Store = w.Store
	}
	adminConfig.Failed = func(_ *http.Request, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.failures = append(w.failures, err)
	}
	adminConfig.Authorize = func(ctx context.Context, r *http.Request, action admin.Action, account string) (admin.Actor, error) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			return admin.Actor{}, admin.ErrUnauthenticated
		}
		at, err := w.Hook.AccessToken(op.ContextWithIssuer(ctx, w.Issuer), embedded, token)
		if errors.Is(err, provider.ErrInvalidToken) {
			return admin.Actor{}, fmt.Errorf("%w: %w", admin.ErrUnauthenticated, err)
		}
		if err != nil {
			return admin.Actor{}, err
		}
		actor := admin.Actor{ID: at.Subject, User: at.Subject, SID: at.Session.ID, Client: at.Client}
		if action == admin.Heartbeat || may(at.Subject, action, account) {
			return actor, nil
		}
		return admin.Actor{}, admin.ErrForbidden
	}
	w.API, err = admin.New(adminConfig)
	require.NoError(t, err)
	pages, err = console.New(console.Config{
		Admin: w.API, Authorize: adminConfig.Authorize, Home: "/",
		Accounts: func(context.Context, *http.Request) ([]string, error) { return []string{"acme", "elsewhere"}, nil },
	})
	require.NoError(t, err)
	return w
}

// Memberships are the accounts that a user of the world is in.
func Memberships(sub string) []policy.Membership {
	switch {
	case strings.HasPrefix(sub, optest.SubjectOf("other-")):
		return []policy.Membership{{Account: "elsewhere"}}
	case sub == optest.SubjectOf("both"):
		return []policy.Membership{{Account: "acme", Groups: []string{"staff"}}, {Account: "elsewhere"}}
	}
	return []policy.Membership{{Account: "acme", Groups: []string{"staff"}}}
}

func may(sub string, action admin.Action, account string) bool {
	reads := action == admin.ReadSettings || action == admin.ReadSessions
	return sub == optest.SubjectOf("root") && account == "acme" ||
		sub == optest.SubjectOf("auditor") && account == "acme" && reads ||
		sub == optest.SubjectOf("other-root") && account == "elsewhere"
}

// SignIn signs a user in, by the client web, and returns the access token.
func (w *World) SignIn(user string) string {
	w.T.Helper()
	return w.Login(optest.Web, user).AccessToken()
}

// A Response is an answer of the API.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
	t      testing.TB
}

// Send makes a request, and holds the answer against the description of the API.
// body is JSON, or text as it is; headers come in pairs.
func (w *World) Send(method, path, token string, body any, headers ...string) Response {
	w.T.Helper()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	default:
		data, err := json.Marshal(body)
		require.NoError(w.T, err)
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, w.Issuer+path, reader)
	require.NoError(w.T, err)
	if reader != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Del(headers[i])
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	resp, err := w.HTTP.Do(req)
	require.NoError(w.T, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(w.T, err)
	got := Response{resp.StatusCode, resp.Header, data, w.T}
	if w.Described != nil {
		w.Described(w.T, method, path, got)
	}
	return got
}

// Into checks the status and reads the body into v.
func (r Response) Into(status int, v any) Response {
	r.t.Helper()
	require.Equal(r.t, status, r.Status, "%s", r.Body)
	require.NoError(r.t, json.Unmarshal(r.Body, v), "%s", r.Body)
	return r
}

// A Problem is an answer about an error.
type Problem struct {
	Title, Code, Detail string
	Status              int
	Errors              []struct {
		Field, Reason string
		Line          int
	}
}

// Problem reads an answer about an error, of the status and the code.
func (r Response) Problem(status int, code string) Problem {
	r.t.Helper()
	var p Problem
	r.Into(status, &p)
	require.Equal(r.t, "application/problem+json", r.Header.Get("Content-Type"))
	require.Equal(r.t, code, p.Code, "%s", r.Body)
	require.Equal(r.t, status, p.Status)
	return p
}

// Save puts settings, of whatever version.
func (w *World) Save(token string, settings policy.Account) service.Settings {
	w.T.Helper()
	var s service.Settings
	w.Send("PUT", "/v1/accounts/acme/settings", token, map[string]any{"settings": settings}, "If-Match", "*").Into(200, &s)
	return s
}

// Bounds are settings with the limits that are not zero.
func Bounds(active, inactivity time.Duration, concurrent int, at policy.AtLimit) policy.Account {
	var a policy.Account
	if active > 0 {
		a.Active = policy.LimitTo(active)
	}
	if inactivity > 0 {
		a.Inactivity = policy.LimitTo(inactivity)
	}
	if concurrent > 0 {
		a.Concurrent, a.AtLimit = policy.LimitTo(concurrent), at
	}
	return a
}

// Everything is what the store keeps of two accounts.
func (w *World) Everything() string {
	w.T.Helper()
	var all []any
	for _, account := range []string{"acme", "elsewhere"} {
		page, next, err := w.Store.List(w.T.Context(), store.Filter{Account: account}, "", 1000)
		require.NoError(w.T, err)
		require.Empty(w.T, next)
		for _, s := range page {
			// Using an access token is activity, and no change.
			s.LastActivity, s.ActivityClass, s.Due, s.Revision = time.Time{}, 0, time.Time{}, 0
			for i := range s.Grants {
				s.Grants[i].Used = true
			}
			all = append(all, s)
		}
		history, err := provider.AccountHistory(w.T.Context(), w.Store, account, 0, 100)
		require.NoError(w.T, err)
		all = append(all, history)
	}
	text, err := json.Marshal(all)
	require.NoError(w.T, err)
	return string(text)
}

// Sessions returns all sessions of the account that a query selects, in pages of
// two.
func Sessions[S any](w *World, token, query string) []S {
	w.T.Helper()
	var all []S
	for one, err := range paged.All(func(cursor string) ([]S, string, error) {
		var page struct {
			Sessions []S    `json:"sessions"`
			Next     string `json:"next_cursor"`
		}
		w.Send("GET", "/v1/accounts/acme/sessions?limit=2&"+query+"&cursor="+url.QueryEscape(cursor), token, nil).Into(200, &page)
		require.LessOrEqual(w.T, len(page.Sessions), 2)
		return page.Sessions, page.Next, nil
	}) {
		require.NoError(w.T, err)
		all = append(all, one)
	}
	return all
}

// Failures is what the API and the console told the operator.
func (w *World) Failures() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.failures)
}
