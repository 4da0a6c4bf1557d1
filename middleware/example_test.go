package middleware_test

import (
	"net/http"
	"time"

	"github.com/curfew-oidc/curfew/middleware"
)

// TestGoCodeInDocs in internal/doctest finds the Go code of the documents here, word for word.

// Everything behind the handler is for signed-in users.
func ExampleNew() {
	serve := func(addr, secret string, key []byte, sessions middleware.SessionStore, shop http.Handler) error {
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
	_ = serve
}

// An API takes access tokens.
func ExampleNewResource() {
	routes := func(mux *http.ServeMux, secret string, list, refund http.Handler) error {
		api, err := middleware.NewResource(middleware.ResourceConfig{
			Issuer:        "https://login.example.com",
			Audience:      "orders",
			Introspection: &middleware.ResourceIntrospection{ClientID: "orders", ClientSecret: secret},
		})
		if err != nil {
			return err
		}
		mux.Handle("GET /orders", api.Handler(list, middleware.ResourceScopes("orders")))
		mux.Handle("POST /refunds", api.Handler(refund, middleware.ResourceScopes("refunds"), middleware.ResourceMaxAge(5*time.Minute)))
		return nil
	}
	_ = routes
}
