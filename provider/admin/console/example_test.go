package console_test

import (
	"context"
	"net/http"

	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/console"
)

// TestGoCodeInDocs in internal/doctest finds the Go code of the documents here, word for word.

// The console signs its administrators in at the provider itself.
func ExampleNew() {
	mount := func(api *admin.Admin, rp *middleware.RelyingParty, mux *http.ServeMux,
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
	_ = mount
}
