package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/clitoken"
)

// waitForOthers is how long an invocation waits for another one that refreshes, which
// takes 30 s at most.
const waitForOthers = time.Minute

// token returns the login with an access token that is good. refused is one that is
// not, though it looks good; empty if there is none.
func (c *cli) token(ctx context.Context, refused string) (clitoken.Login, error) {
	ctx, cancel := context.WithTimeout(ctx, waitForOthers)
	defer cancel()
	return c.file.Token(ctx, refused, func(ctx context.Context, l clitoken.Login) (clitoken.Login, error) {
		ctx, p, err := c.discover(ctx)
		if err != nil {
			return clitoken.Login{}, err
		}
		next, err := clitoken.Refresher(p.config, p.verifier)(ctx, l)
		if isUnavailable(err) {
			err = &unavailableError{c.issuer, err}
		}
		return next, err
	})
}

// call calls the API and prints its answer.
func (c *cli) call(ctx context.Context) error {
	l, err := c.token(ctx, "")
	if err != nil {
		return err
	}
	api := c.api
	if api == "" {
		_, p, err := c.discover(ctx)
		if err != nil {
			return err
		}
		api = p.userinfo
	}
	resp, err := c.get(ctx, api, l.AccessToken)
	if err != nil {
		return err
	}
	if resp.status == http.StatusUnauthorized && !resp.stepUp() {
		// The session may have ended though the access token is young: the
		// provider's answer to a refresh says so, and why.
		if l, err = c.token(ctx, l.AccessToken); err != nil {
			return err
		}
		if resp, err = c.get(ctx, api, l.AccessToken); err != nil {
			return err
		}
	}
	switch {
	case resp.status == http.StatusOK:
		body := strings.TrimSuffix(string(resp.body), "\n")
		if c.terminal { // anything else gets it as it is
			body = printable(body)
		}
		_, err := fmt.Fprintln(c.stdout, body)
		return err
	case resp.stepUp():
		return errStepUp // RFC 9470
	case temporary(resp.status):
		return &unavailableError{api, errors.New(http.StatusText(resp.status))}
	}
	return fmt.Errorf("%s refuses this call: %d %s", api, resp.status, http.StatusText(resp.status))
}

// An answer is what an API said.
type answer struct {
	status    int
	challenge string
	body      []byte
}

func (a answer) stepUp() bool {
	return a.status == http.StatusUnauthorized && strings.Contains(a.challenge, `error="insufficient_user_authentication"`)
}

// maxAnswer bounds what is read of an API.
const maxAnswer = 16 << 20

func (c *cli) get(ctx context.Context, api, token string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, &unavailableError{api, err}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer{}, &unavailableError{api, err}
	}
	return answer{resp.StatusCode, resp.Header.Get("WWW-Authenticate"), body}, nil
}

// isUnavailable reports whether a request to the provider got no answer, or one that
// says nothing about the request.
func isUnavailable(err error) bool {
	var answered *oauth2.RetrieveError
	if errors.As(err, &answered) {
		return answered.Response == nil || temporary(answered.Response.StatusCode)
	}
	var network interface{ Timeout() bool } // net.Error, which *url.Error is
	return errors.As(err, &network)
}

func temporary(status int) bool { return status >= 500 || status == http.StatusTooManyRequests }
