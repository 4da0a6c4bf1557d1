package middleware_test

import (
	"net/http"

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
