package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/clitoken"
)

// login signs the user in by the device grant (RFC 8628).
func (c *cli) login(ctx context.Context) error {
	ctx, p, err := c.discover(ctx)
	if err != nil {
		return err
	}
	// A login that lives takes a slot: it is not left behind for another one.
	var over *clitoken.EndedError
	switch l, err := c.token(ctx, ""); {
	case err == nil:
		fmt.Fprintln(c.stdout, printable(describe(l, time.Now())))
		fmt.Fprintln(c.stdout, `To sign in again, or as somebody else, run "cli logout" first.`)
		return nil
	case !errors.As(err, &over) && !errors.Is(err, clitoken.ErrNoLogin):
		return err
	}
	if p.config.Endpoint.DeviceAuthURL == "" {
		return errors.New("the provider has no sign-in for command lines: its discovery document has no device_authorization_endpoint")
	}
	device, err := p.config.DeviceAuth(ctx)
	if err != nil {
		return c.signInError(err)
	}
	if device.VerificationURIComplete != "" {
		fmt.Fprintf(c.stdout, "To sign in, open this address in a browser, on any device:\n\n  %s\n\nIt shows the code %s. Go on only if it does.\n",
			printable(device.VerificationURIComplete), printable(device.UserCode))
	} else {
		fmt.Fprintf(c.stdout, "To sign in, open this address in a browser, on any device:\n\n  %s\n\nand enter the code %s\n",
			printable(device.VerificationURI), printable(device.UserCode))
	}
	token, err := poll(ctx, p.config, device)
	if err != nil {
		return c.signInError(err)
	}
	l, err := clitoken.FromToken(ctx, p.config, p.verifier, token)
	if err != nil {
		return err
	}
	// Also if the user gave up in this moment: the login is there.
	saving, cancel := context.WithTimeout(context.WithoutCancel(ctx), waitForOthers)
	defer cancel()
	if err := c.file.Save(saving, l); err != nil {
		return err
	}
	fmt.Fprintln(c.stdout, printable(describe(l, time.Now())))
	return nil
}

// poll waits for the user. It goes on while the provider does not answer, less often
// each time, until the code is too old (RFC 8628 section 3.5).
func poll(ctx context.Context, config *oauth2.Config, device *oauth2.DeviceAuthResponse) (*oauth2.Token, error) {
	for {
		token, err := config.DeviceAccessToken(ctx, device)
		switch {
		case err == nil:
			return token, nil
		case ctx.Err() != nil:
			return nil, errInterrupted
		case errors.Is(err, context.DeadlineExceeded) && !device.Expiry.IsZero() && !time.Now().Before(device.Expiry):
			return nil, errTooLate
		case !isUnavailable(err):
			return nil, err
		}
		device.Interval = min(60, 2*max(5, device.Interval))
	}
}

// signInError tells a provider that refuses from one that does not answer.
func (c *cli) signInError(err error) error {
	var refused *oauth2.RetrieveError
	switch {
	case isUnavailable(err):
		return &unavailableError{c.issuer, err}
	case errors.As(err, &refused) && refused.ErrorCode == "expired_token":
		return errTooLate
	case errors.As(err, &refused) && refused.ErrorCode == "access_denied":
		return &deniedError{refused.ErrorDescription, refused.ErrorURI}
	}
	return err
}

// logout tells the provider (RFC 7009), and forgets the login once it knows.
func (c *cli) logout(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, waitForOthers)
	defer cancel()
	err := c.file.Remove(ctx, func(ctx context.Context, l clitoken.Login) error {
		if l.Ended != nil || l.RefreshToken == "" {
			return nil
		}
		ctx, p, err := c.discover(ctx)
		if err != nil {
			return err
		}
		if p.revocation == "" {
			return nil // it cannot be told
		}
		return c.revoke(ctx, p.revocation, l.RefreshToken)
	})
	if err == nil {
		fmt.Fprintln(c.stdout, "You are signed out.")
	}
	return err
}

func (c *cli) revoke(ctx context.Context, endpoint, token string) error {
	form := url.Values{"token": {token}, "token_type_hint": {"refresh_token"}, "client_id": {c.clientID}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.http.Do(req)
	if err != nil {
		return &unavailableError{c.issuer, err}
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusOK:
		return nil
	case temporary(resp.StatusCode):
		return &unavailableError{c.issuer, errors.New(resp.Status)}
	}
	return fmt.Errorf("the provider did not sign you out: it answers %s", resp.Status)
}
