package admin_test

import (
	"context"
	"net/http"

	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/store"
)

// TestGoCodeInDocs in internal/doctest finds the Go code of the documents here, word for word.

// The API is mounted beside the provider.
func ExampleNew() {
	newHandler := func(hook *provider.Hook, sessions store.Store, issuer string, p http.Handler, authorize func(context.Context, *http.Request, admin.Action, string) (admin.Actor, error)) (http.Handler, error) {
		api, err := admin.New(admin.Config{Hook: hook, Store: sessions, Issuer: issuer, Authorize: authorize})
		if err != nil {
			return nil, err
		}
		mux := http.NewServeMux()
		mux.Handle("/v1/", api)
		mux.Handle("/", hook.Handler(p))
		return mux, nil
	}
	_ = newHandler
}

// The page on which users see and end their own sessions.
func ExampleMine() {
	mount := func(hook *provider.Hook, issuer string, mux *http.ServeMux) error {
		mine, err := admin.Mine(admin.MineConfig{
			Hook: hook, Home: "/",
			Subject: admin.BrowserSubject(hook, issuer), // who is asking, by the hook's cookie
		})
		if err != nil {
			return err
		}
		mux.Handle("/sessions/", http.StripPrefix("/sessions", mine))
		return nil
	}
	_ = mount
}

// The console signs its administrators in at the provider itself.
func ExampleConsole() {
	mount := func(api *admin.Admin, rp *middleware.RelyingParty, mux *http.ServeMux,
		byCookie func(context.Context, *http.Request, admin.Action, string) (admin.Actor, error),
		accounts func(context.Context, *http.Request) ([]string, error),
	) error {
		console, err := admin.Console(admin.ConsoleConfig{
			Admin: api, Authorize: byCookie, Accounts: accounts,
			Home: "/", SignIn: "/console/auth/signin", SignOut: "/console/auth/signout",
		})
		if err != nil {
			return err
		}
		mux.Handle("/console/", rp.Handler(http.StripPrefix("/console", console)))
		return nil
	}
	_ = mount
}
