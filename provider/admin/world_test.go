package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A world is a provider with the hook and the API, for one test. In the account
// "acme" are root, who administers it, auditor, who may read, and everybody whose
// name does not start with "other-"; those are in "elsewhere", which other-root
// administers.
type world struct {
	*optest.Server
	t     testing.TB
	hook  *provider.Hook
	store store.Store
	api   *admin.Admin

	mu       sync.Mutex
	asked    []admin.Action
	failures []error
}

type option func(*world, *provider.Config, *admin.Config)

func newWorld(t testing.TB, options ...option) *world {
	w := &world{t: t, store: memstore.New()}
	hookConfig := provider.Config{Keys: provider.Keys{provider.NewKey(time.Now())}}
	adminConfig := admin.Config{}
	for _, o := range options {
		o(w, &hookConfig, &adminConfig)
	}
	hookConfig.Store = w.store
	if hookConfig.Membership == nil {
		hookConfig.Membership = func(_ context.Context, s store.Subject) ([]policy.Membership, error) { return memberships(s.ID), nil }
	}
	var err error
	w.hook, err = provider.New(hookConfig)
	require.NoError(t, err)

	var embedded *op.Provider
	var console http.Handler
	w.Server = optest.Start(t, optest.Config{
		Hook: w.hook, InMemory: true,
		Options: []op.Option{func(p *op.Provider) error { embedded = p; return nil }},
		Middleware: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/v1/") {
					w.api.ServeHTTP(rw, r)
					return
				}
				if strings.HasPrefix(r.URL.Path, "/console/") {
					optest.CORSForAll(http.StripPrefix("/console", console)).ServeHTTP(rw, r)
					return
				}
				next.ServeHTTP(rw, r)
			})
		},
	})
	adminConfig.Hook, adminConfig.Issuer = w.hook, w.Issuer
	if adminConfig.ReadOnly == "" && adminConfig.Store == nil {
		adminConfig.Store = w.store
	}
	adminConfig.Failed = func(_ *http.Request, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.failures = append(w.failures, err)
	}
	adminConfig.Authorize = func(ctx context.Context, r *http.Request, action admin.Action, account string) (admin.Actor, error) {
		w.mu.Lock()
		w.asked = append(w.asked, action)
		w.mu.Unlock()
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			return admin.Actor{}, admin.ErrUnauthenticated
		}
		at, err := w.hook.AccessToken(op.ContextWithIssuer(ctx, w.Issuer), embedded, token)
		if errors.Is(err, provider.ErrInvalidToken) {
			return admin.Actor{}, fmt.Errorf("%w: %w", admin.ErrUnauthenticated, err)
		}
		if err != nil {
			return admin.Actor{}, err
		}
		actor := admin.Actor{ID: at.Subject, User: at.Subject, SID: at.Session.ID, Client: at.Client}
		if action == admin.Beat || may(at.Subject, action, account) {
			return actor, nil
		}
		return admin.Actor{}, admin.ErrForbidden
	}
	w.api, err = admin.New(adminConfig)
	require.NoError(t, err)
	console, err = admin.Console(admin.ConsoleConfig{
		Admin: w.api, Authorize: adminConfig.Authorize, Home: "/",
		Accounts: func(context.Context, *http.Request) ([]string, error) { return []string{"acme", "elsewhere"}, nil },
	})
	require.NoError(t, err)
	return w
}

func memberships(sub string) []policy.Membership {
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

// login signs a user in, by the client web, and returns the access token.
func (w *world) login(user string) string {
	w.t.Helper()
	return w.Login(optest.Web, user).AccessToken()
}

// A response is an answer of the API.
type response struct {
	Status int
	Header http.Header
	Body   []byte
	t      testing.TB
}

// send makes a request, and holds the answer against the description of the API.
// body is JSON, or text as it is; headers come in pairs.
func (w *world) send(method, path, token string, body any, headers ...string) response {
	w.t.Helper()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	default:
		data, err := json.Marshal(body)
		require.NoError(w.t, err)
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, w.Issuer+path, reader)
	require.NoError(w.t, err)
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
	require.NoError(w.t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	got := response{resp.StatusCode, resp.Header, data, w.t}
	asDescribed(w.t, method, path, got)
	return got
}

// into checks the status and reads the body into v.
func (r response) into(status int, v any) response {
	r.t.Helper()
	require.Equal(r.t, status, r.Status, "%s", r.Body)
	require.NoError(r.t, json.Unmarshal(r.Body, v), "%s", r.Body)
	return r
}

// A problem is an answer about an error.
type problem struct {
	Title, Code, Detail string
	Status              int
	Errors              []struct {
		Field, Reason string
		Line          int
	}
}

func (r response) problem(status int, code string) problem {
	r.t.Helper()
	var p problem
	r.into(status, &p)
	require.Equal(r.t, "application/problem+json", r.Header.Get("Content-Type"))
	require.Equal(r.t, code, p.Code, "%s", r.Body)
	require.Equal(r.t, status, p.Status)
	return p
}

// save puts settings, of whatever version.
func (w *world) save(token string, settings policy.Account) admin.Settings {
	w.t.Helper()
	var s admin.Settings
	w.send("PUT", "/v1/accounts/acme/settings", token, map[string]any{"settings": settings}, "If-Match", "*").into(200, &s)
	return s
}

func bounds(active, inactivity time.Duration, concurrent int, at policy.AtLimit) policy.Account {
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
