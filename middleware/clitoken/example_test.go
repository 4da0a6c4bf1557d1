package clitoken_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/clitoken"
)

// TestGoCodeInDocs in internal/doctest finds the Go code of the documents here, word for word.

// Any number of processes share the login of one command line.
func ExampleFile_Token() {
	callAPI := func(ctx context.Context, dir, issuer string, config *oauth2.Config, verifier *oidc.IDTokenVerifier, signIn func(context.Context) error, call func(context.Context, string) error) error {
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
	_ = callAPI
}
