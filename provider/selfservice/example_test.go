package selfservice_test

import (
	"net/http"

	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/selfservice"
)

// TestGoCodeInDocs in internal/doctest finds the Go code of the documents here, word for word.

// The page on which users see and end their own sessions.
func ExampleNew() {
	mount := func(hook *provider.Hook, issuer string, mux *http.ServeMux) error {
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
	_ = mount
}
