package resource_test

import (
	"net/http"
	"time"

	"github.com/curfew-oidc/curfew/middleware/resource"
)

// TestGoCodeInDocs in internal/doctest finds the Go code of the documents here, word for word.

// An API that asks the provider about each access token.
func ExampleNew() {
	mount := func(mux *http.ServeMux, secret string, list, refund http.Handler) error {
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
	_ = mount
}
