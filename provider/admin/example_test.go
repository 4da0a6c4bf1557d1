package admin_test

import (
	"context"
	"net/http"

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
