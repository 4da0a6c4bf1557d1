package provider_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// TestGoCodeInDocs in internal/doctest finds the Go code of the documents here, word for word.

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

// Two lines install the hook: Storage decorates the storage that the provider has,
// Handler wraps its HTTP handler.
func ExampleNew() {
	serve := func(config *op.Config, storage op.Storage, issuer, addr string, keys provider.Keys) error {
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
	_ = serve
}

// The provider has login pages of its own, beside the handler of op.
func ExampleHook_Storage() {
	newProvider := func(config *op.Config, storage op.Storage, issuer string, sessions store.Store, keys provider.Keys, loginPages http.Handler) (http.Handler, error) {
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
	_ = newProvider
}

// Applications are told of ends by back-channel logout.
func ExampleLogout() {
	tellApplications := func(cfg provider.Config, backChannelURIs map[string]string) {
		cfg.Logout = provider.Logout{
			URIs: func(ctx context.Context, clientID string) (provider.LogoutURIs, error) {
				return provider.LogoutURIs{BackChannel: backChannelURIs[clientID]}, nil
			},
			Allow: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")}, // where your own applications are
		}
		_ = cfg
	}
	_ = tellApplications
}

// The hook goes around the handler of op.Server in the same way.
func ExampleHook_Handler() {
	newServer := func(config *op.Config, storage op.Storage, issuer string, hook *provider.Hook) (http.Handler, error) {
		p, err := op.NewProvider(config, hook.Storage(storage), op.StaticIssuer(issuer))
		if err != nil {
			return nil, err
		}
		server := op.NewLegacyServer(p, p.Endpoints())
		return hook.Handler(op.RegisterLegacyServer(server, op.AuthorizeCallbackHandler(p))), nil
	}
	_ = newServer
}

// Check finds mistakes in the set-up before the first login does.
func ExampleHook_Check() {
	newHandler := func(ctx context.Context, hook *provider.Hook, p *op.Provider) (http.Handler, error) {
		if err := hook.Check(ctx, p); err != nil { // errors.Is(err, provider.ErrMisconfigured): a mistake in the set-up
			return nil, err
		}
		return hook.Handler(p), nil
	}
	_ = newHandler
}

// A provider that creates tokens outside of a request says what they belong to.
func ExampleHook_JobContext() {
	tokenContext := func(ctx context.Context, hook *provider.Hook, sid, issuer string) {
		ctx = provider.InSession(ctx, sid) // it lives no longer than the session, and ends with it
		ctx = provider.WithoutSession(ctx) // no limit holds for it: a service's, not a user's
		ctx = hook.JobContext(ctx, issuer) // outside of HTTP, in the place of hook.Handler; one for each token
		_ = ctx
	}
	_ = tokenContext
}

// The sweeper runs for as long as the provider does.
func ExampleHook_Run() {
	sweep := func(ctx context.Context, hook *provider.Hook) {
		go func() {
			if err := hook.Run(ctx); !errors.Is(err, context.Canceled) {
				slog.Error("the sweeper stopped", "error", err)
			}
		}()
	}
	_ = sweep
}

// The hook asks the embedder's own directory, user table and browser sessions.
func ExampleConfig() {
	newHook := func(cfg provider.Config, directory groupDirectory, users userTable, browserSessions ownSessions) (*provider.Hook, error) {
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
	_ = newHook
}

// A sign-in page of the provider's own signs on whoever is signed in already.
func ExampleHook_BrowserSession() {
	signOn := func(hook *provider.Hook, r *http.Request, issuer, id string, request signOn, errStartAgain error, showForm func(why string) error) error {
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
	_ = signOn
}

// A page that approves a device asks first which login has to go.
func ExampleHook_AskDevice() {
	decide := func(w http.ResponseWriter, r *http.Request, hook *provider.Hook, subject store.Subject, client op.Client, userCode, formToken string, signedInAt time.Time, approve func(string) error, deny func(code, why string) error) error {
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
	_ = decide
}

func ExampleNewKey() {
	keyFile := func() ([]byte, error) {
		key := provider.NewKey(time.Now())
		text, err := key.MarshalText() // one line; keep it in a file of mode 0600
		return text, err
	}
	_ = keyFile
}

func ExampleHook_EndAll() {
	passwordReset := func(ctx context.Context, hook *provider.Hook, subject store.Subject, currentSID string) (int, error) {
		// a password was reset: all sessions but the one that did it
		n, err := hook.EndAll(ctx, subject, policy.ReasonCredentialChange, "alice", currentSID)
		return n, err
	}
	_ = passwordReset
}
