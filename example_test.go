package curfew_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/middleware/clitoken"
	"github.com/curfew-oidc/curfew/middleware/resource"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/console"
	"github.com/curfew-oidc/curfew/provider/providertest"
	"github.com/curfew-oidc/curfew/provider/selfservice"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// The Go code of README.md and docs stands here word for word, each piece in a
// function that gives it what it takes for granted. TestGoCodeInDocs compares.

func _(config *op.Config, storage op.Storage, issuer, addr string, keys provider.Keys) error {
	settings := map[string]policy.Account{"default": {Limits: policy.Limits{Active: policy.LimitTo(24 * time.Hour), Concurrent: policy.LimitTo(3)}}}
	hook, err := provider.New(provider.Config{Store: memstore.New(), Keys: keys, Settings: provider.StaticSettings{Accounts: settings}})
	if err != nil {
		return err
	}
	p, err := op.NewProvider(config, hook.Storage(storage), op.StaticIssuer(issuer))
	if err != nil {
		return err
	}
	return http.ListenAndServe(addr, hook.Handler(p))
}

func _(config *op.Config, storage op.Storage, issuer string, sessions store.Store, keys provider.Keys, loginPages http.Handler) (http.Handler, error) {
	hook, err := provider.New(provider.Config{Store: sessions, Keys: keys})
	if err != nil {
		return nil, err
	}
	p, err := op.NewProvider(config, hook.Storage(storage), op.StaticIssuer(issuer))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/login/", loginPages)
	mux.Handle("/", p)
	return hook.Handler(mux), nil
}

func _(cfg provider.Config, backChannelURIs map[string]string) {
	cfg.Logout = provider.Logout{
		URIs: func(ctx context.Context, clientID string) (provider.LogoutURIs, error) {
			return provider.LogoutURIs{BackChannel: backChannelURIs[clientID]}, nil
		},
		Allow: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")}, // where your own applications are
	}
	_ = cfg
}

func _(config *op.Config, storage op.Storage, issuer string, hook *provider.Hook) (http.Handler, error) {
	p, err := op.NewProvider(config, hook.Storage(storage), op.StaticIssuer(issuer))
	if err != nil {
		return nil, err
	}
	server := op.NewLegacyServer(p, p.Endpoints())
	return hook.Handler(op.RegisterLegacyServer(server, op.AuthorizeCallbackHandler(p))), nil
}

func _(hook *provider.Hook, sessions store.Store, issuer string, p http.Handler, authorize func(context.Context, *http.Request, admin.Action, string) (admin.Actor, error)) (http.Handler, error) {
	api, err := admin.New(admin.Config{Hook: hook, Store: sessions, Issuer: issuer, Authorize: authorize})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", api)
	mux.Handle("/", hook.Handler(p))
	return mux, nil
}

func _(ctx context.Context, hook *provider.Hook, p *op.Provider) (http.Handler, error) {
	if err := hook.Check(ctx, p); err != nil { // errors.Is(err, provider.ErrMisconfigured): a mistake in the set-up
		return nil, err
	}
	return hook.Handler(p), nil
}

func _(ctx context.Context, hook *provider.Hook, sid, issuer string) {
	ctx = provider.InSession(ctx, sid) // it lives no longer than the session, and ends with it
	ctx = provider.WithoutSession(ctx) // no limit holds for it: a service's, not a user's
	ctx = hook.JobContext(ctx, issuer) // outside of HTTP, in the place of hook.Handler; one for each token
	_ = ctx
}

func _(ctx context.Context, hook *provider.Hook) {
	go func() {
		if err := hook.Run(ctx); !errors.Is(err, context.Canceled) {
			slog.Error("the sweeper stopped", "error", err)
		}
	}()
}

// What an embedder has of their own.
type (
	groupDirectory interface {
		GroupsOf(ctx context.Context, user string) ([]string, error)
	}
	userTable interface {
		PasswordChangedAt(ctx context.Context, user string) (time.Time, error)
	}
	ownSessions interface {
		EndBySID(ctx context.Context, sid string, reason policy.Reason) error
	}
	AuthRequest struct {
		op.AuthRequest
		BrowserSessionID string
	}
	signOn interface {
		MayContinue(s store.Session) bool
		Finish(subject string, authTime time.Time, amr []string) error
	}
)

func _(cfg provider.Config, directory groupDirectory, users userTable, browserSessions ownSessions) (*provider.Hook, error) {
	cfg.Membership = func(ctx context.Context, subject store.Subject) ([]policy.Membership, error) {
		groups, err := directory.GroupsOf(ctx, subject.ID)
		if err != nil {
			return nil, err // logins are refused, refreshes are answered with 503
		}
		return []policy.Membership{{Account: "default", Groups: groups}}, nil
	}
	cfg.NotBefore = func(ctx context.Context, subject store.Subject) (time.Time, error) {
		return users.PasswordChangedAt(ctx, subject.ID)
	}
	cfg.Outlives = func(ctx context.Context, parent, child store.Session) bool {
		return parent.End.Reason == policy.ReasonLogout // a job that was started goes on
	}
	cfg.SSOSession = func(_ context.Context, login provider.Login) string {
		if request, ok := login.AuthRequest.(*AuthRequest); ok {
			return request.BrowserSessionID // from your cookie; empty: a session of its own
		}
		return ""
	}
	cfg.OnEnd = func(ctx context.Context, s store.Session) error {
		return browserSessions.EndBySID(ctx, s.ID, s.End.Reason)
	}
	return provider.New(cfg)
}

func _(hook *provider.Hook, r *http.Request, issuer, id string, request signOn, errStartAgain error, showForm func(why string) error) error {
	if !hook.StartedHere(r, issuer, id) {
		return errStartAgain
	}
	s, err := hook.BrowserSession(r, issuer)
	switch {
	case err == nil && request.MayContinue(s): // prompt, max_age, id_token_hint
		return request.Finish(s.Subject.ID, s.Authenticated, s.AMR)
	case err == nil, errors.Is(err, store.ErrNotFound):
		return showForm(provider.Describe(s)) // "You were signed out after 2 hours without activity."
	}
	return err
}

func _(w http.ResponseWriter, r *http.Request, hook *provider.Hook, subject store.Subject, client op.Client, userCode, formToken string, signedInAt time.Time, approve func(string) error, deny func(code, why string) error) error {
	d := hook.AskDevice(w, r, provider.DeviceLogin{
		Subject: subject, Client: client, UserCode: userCode, AuthTime: signedInAt,
		Form: url.Values{"token": {formToken}}, // what your page needs to see again
	})
	switch {
	case d.Approve:
		return approve(userCode)
	case d.Deny && d.Max == 0:
		return deny(userCode, "You cancelled.")
	case d.Deny:
		return deny(userCode, fmt.Sprintf("You have %d sign-ins, and may have %d.", d.Used, d.Max))
	}
	return nil // the hook has shown the page; its form comes back here
}

func _() ([]byte, error) {
	key := provider.NewKey(time.Now())
	text, err := key.MarshalText() // one line; keep it in a file of mode 0600
	return text, err
}

func _(ctx context.Context, hook *provider.Hook, subject store.Subject, currentSID string) (int, error) {
	// a password was reset: all sessions but the one that did it
	n, err := hook.EndAll(ctx, subject, policy.ReasonCredentialChange, "alice", currentSID)
	return n, err
}

func _(t *testing.T, startProvider func(*testing.T, provider.Config) *httptest.Server) {
	server := startProvider(t, provider.Config{
		Settings: provider.StaticSettings(providertest.Settings()), Grace: providertest.Grace,
	})
	providertest.Run(t, providertest.Target{
		Issuer: server.URL,
		Web:    providertest.Client{ID: "web", Secret: "web-secret", RedirectURI: "https://app.example.org/cb"},
		Web2:   providertest.Client{ID: "web2", Secret: "web2-secret", RedirectURI: "https://app2.example.org/cb"},
		Public: providertest.Client{ID: "spa", RedirectURI: "https://spa.example.org/cb"},
		Users:  []string{"u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"},
		SignIn: func(browser *http.Client, page *http.Response, user string) (*http.Response, error) {
			return browser.PostForm(server.URL+"/login", url.Values{
				"id": {page.Request.URL.Query().Get("authRequestID")}, "username": {user}, "password": {"wonderland-1"},
			})
		},
		Limits: providertest.Limits(),
		Grace:  providertest.Grace,
		Off: providertest.Off{
			SingleSignOn: true, DeviceGrant: true, EndSession: true, BackChannelLogout: true, FrontChannelLogout: true,
		},
	})
}

func _(settings policy.Settings, memberships []policy.Membership, now time.Time, held []policy.Session, next, session policy.Session, use policy.Use, kind policy.Kind, client string) {
	rules := settings.Rules(policy.Who{User: "alice", Memberships: memberships})
	rules.Admit(now, held, next)      // may this login begin, and what ends for it?
	rules.Check(now, session, use)    // may this session still be used?
	rules.Deadline(session)           // when is it over if nothing happens?
	rules.TokenEnd(now, session, use) // how long may a token live?
	rules.Surplus(now, held)          // what does a changed policy end?
	rules.Explain(kind, client)       // why?
}

func _(addr, secret string, key []byte, sessions middleware.SessionStore, shop http.Handler) error {
	rp, err := middleware.New(middleware.Config{
		Issuer: "https://login.example.com", ClientID: "shop", ClientSecret: secret,
		RedirectURL: "https://shop.example.com/auth/callback",
		Keys:        [][]byte{key},
		Store:       sessions,
	})
	if err != nil {
		return err
	}
	return http.ListenAndServe(addr, rp.Handler(shop))
}

func _(mux *http.ServeMux, secret string, list, refund http.Handler) error {
	api, err := resource.New(resource.Config{
		Issuer:        "https://login.example.com",
		Audience:      "orders",
		Introspection: &resource.Introspection{ClientID: "orders", ClientSecret: secret},
	})
	if err != nil {
		return err
	}
	mux.Handle("GET /orders", api.Handler(list, resource.Scopes("orders")))
	mux.Handle("POST /refunds", api.Handler(refund, resource.Scopes("refunds"), resource.MaxAge(5*time.Minute)))
	return nil
}

func _(ctx context.Context, dir, issuer string, config *oauth2.Config, verifier *oidc.IDTokenVerifier, signIn func(context.Context) error, call func(context.Context, string) error) error {
	file := clitoken.Open(dir, issuer, "cli")
	login, err := file.Token(ctx, "", clitoken.Refresher(config, verifier))
	var over *clitoken.EndedError
	switch {
	case errors.Is(err, clitoken.ErrNoLogin):
		return signIn(ctx)
	case errors.As(err, &over):
		return fmt.Errorf("%s; sign in again", over.Description)
	case err != nil:
		return fmt.Errorf("try again: %w", err) // nothing is lost
	}
	return call(ctx, login.AccessToken)
}

func _(hook *provider.Hook, issuer string, mux *http.ServeMux) error {
	mine, err := selfservice.New(selfservice.Config{
		Hook: hook, Home: "/",
		Subject: selfservice.BrowserSubject(hook, issuer), // who is asking, by the hook's cookie
	})
	if err != nil {
		return err
	}
	mux.Handle("/sessions/", http.StripPrefix("/sessions", mine))
	return nil
}

func _(api *admin.Admin, rp *middleware.RelyingParty, mux *http.ServeMux,
	byCookie func(context.Context, *http.Request, admin.Action, string) (admin.Actor, error),
	accounts func(context.Context, *http.Request) ([]string, error),
) error {
	pages, err := console.New(console.Config{
		Admin: api, Authorize: byCookie, Accounts: accounts,
		Home: "/", SignIn: "/console/auth/signin", SignOut: "/console/auth/signout",
	})
	if err != nil {
		return err
	}
	mux.Handle("/console/", rp.Handler(http.StripPrefix("/console", pages)))
	return nil
}
