// Cli is a command line that signs its user in at an OpenID provider and calls an
// API: an example of how an application without a browser honours the end of a login.
//
//	cli login    sign in: the code that it shows is entered in a browser, on any device
//	cli call     call the API
//	cli status   who is signed in, and until when
//	cli logout   sign out, at the provider too
//
// It keeps its tokens with package clitoken: any number of invocations at once share
// one refresh. Where its login is over it says why, and what to do. A provider that is
// down is no logout.
//
//	main.go    flags and commands
//	login.go   the device grant (RFC 8628), and signing out (RFC 7009)
//	call.go    calling an API
//	words.go   what the user is told
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/clitoken"
)

// Exit codes, for scripts.
const (
	exitOK          = 0
	exitFailed      = 1 // what was asked for went wrong
	exitUsage       = 2 // the flags or the command are wrong
	exitSignIn      = 3 // nobody is signed in, or the login is over: run cli login
	exitUnavailable = 4 // the provider or the API does not answer: nothing is lost, try again
	exitRefused     = 5 // the provider refused to sign the user in
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is the whole program.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	c, command, err := parse(args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintln(stderr, "cli:", printable(err.Error()))
		return exitUsage
	}
	c.stdout, c.terminal = stdout, isTerminal(stdout)
	err = command(c, ctx)
	text, code := explain(err, c.issuer)
	if err != nil {
		fmt.Fprintln(stderr, printable(text))
	}
	return code
}

// A cli is one invocation.
type cli struct {
	issuer   string
	clientID string
	api      string // empty: the provider's userinfo endpoint
	file     *clitoken.File
	stdout   io.Writer
	terminal bool // stdout is one
	http     *http.Client
}

var commands = map[string]func(*cli, context.Context) error{
	"login": (*cli).login, "logout": (*cli).logout, "status": (*cli).status, "call": (*cli).call,
}

const usage = `cli signs you in at an OpenID provider and calls an API.

  cli [flags] login    sign in: enter the code that is shown in a browser, on any device
  cli [flags] call     call the API, and print its answer
  cli [flags] status   say who is signed in, and until when
  cli [flags] logout   sign out, at the provider too

Each flag may be given as an environment variable too: -client-id as CURFEW_CLI_CLIENT_ID.
`

const exitCodes = `
Exit codes: 0 done; 1 failed; 2 wrong flags; 3 not signed in, or not any more: run cli login;
4 the provider or the API does not answer: nothing is lost, try again; 5 the sign-in was refused.
`

// parse reads the flags, each of which has an environment variable too; the flag wins.
func parse(args []string, getenv func(string) string, stderr io.Writer) (*cli, func(*cli, context.Context) error, error) {
	c := &cli{http: &http.Client{
		Timeout: 30 * time.Second,
		// Tokens go where the user or the provider said, and nowhere from there.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	var dir string
	f := flag.NewFlagSet("cli", flag.ContinueOnError)
	f.SetOutput(io.Discard) // errors are reported once, by the caller
	f.StringVar(&c.issuer, "issuer", "http://127.0.0.1:9998", "`URL` of the OpenID provider: https, or http on loopback")
	f.StringVar(&c.clientID, "client-id", "cli", "the client `ID` of this program at the provider")
	f.StringVar(&c.api, "api", "", "`URL` to call: https, or http on loopback (default: the provider's userinfo)")
	f.StringVar(&dir, "config", "", "`folder` for the tokens (default: curfew-cli in the user's folder for configuration:\n"+
		"$XDG_CONFIG_HOME or ~/.config, on macOS ~/Library/Application Support, on Windows %AppData%)")
	var err error
	f.VisitAll(func(fl *flag.Flag) {
		name := "CURFEW_CLI_" + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		if v := getenv(name); v != "" && err == nil {
			if setErr := f.Set(fl.Name, v); setErr != nil {
				err = fmt.Errorf("%s: %w", name, setErr)
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stderr, usage)
			f.SetOutput(stderr)
			f.PrintDefaults()
			fmt.Fprint(stderr, exitCodes)
		}
		return nil, nil, err
	}
	command := commands[f.Arg(0)]
	switch {
	case f.NArg() == 0:
		return nil, nil, errors.New("which command? login, call, status or logout; -help says more")
	case command == nil:
		return nil, nil, fmt.Errorf("%q is no command: login, call, status or logout", f.Arg(0))
	case f.NArg() > 1:
		return nil, nil, fmt.Errorf("unexpected argument %q: flags go before the command", f.Arg(1))
	case c.clientID == "":
		return nil, nil, errors.New("-client-id: it is empty")
	}
	if err := checkURL(c.issuer); err != nil {
		return nil, nil, fmt.Errorf("-issuer: %w", err)
	}
	if err := checkURL(c.api); c.api != "" && err != nil {
		return nil, nil, fmt.Errorf("-api: %w", err)
	}
	if dir == "" {
		base, err := os.UserConfigDir()
		if err != nil {
			return nil, nil, fmt.Errorf("-config: there is no default: %w", err)
		}
		dir = filepath.Join(base, "curfew-cli")
	}
	c.file = clitoken.Open(dir, c.issuer, c.clientID)
	return c, command, nil
}

// checkURL refuses what would carry a token in the clear.
func checkURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return fmt.Errorf("%q is not a URL such as https://login.example.com", address)
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return fmt.Errorf("%q is not https, nor http on loopback", address)
	}
	return nil
}

// A provider is what discovery says.
type provider struct {
	config     *oauth2.Config
	verifier   *oidc.IDTokenVerifier
	userinfo   string
	revocation string
}

// discover asks the provider for its endpoints. It returns a context for requests to it.
func (c *cli) discover(ctx context.Context) (context.Context, *provider, error) {
	ctx = oidc.ClientContext(ctx, c.http)
	p, err := oidc.NewProvider(ctx, c.issuer)
	var mismatch *oidc.IssuerMismatchError
	if errors.As(err, &mismatch) {
		return nil, nil, fmt.Errorf("-issuer: the provider there calls itself %q", mismatch.Discovered)
	}
	if err != nil {
		return nil, nil, &unavailableError{c.issuer, err}
	}
	var more struct {
		Revocation string `json:"revocation_endpoint"`
	}
	if err := p.Claims(&more); err != nil {
		return nil, nil, &unavailableError{c.issuer, err}
	}
	// They get tokens, like the issuer.
	endpoint := p.Endpoint()
	for name, address := range map[string]string{
		"token_endpoint": endpoint.TokenURL, "device_authorization_endpoint": endpoint.DeviceAuthURL,
		"userinfo_endpoint": p.UserInfoEndpoint(), "revocation_endpoint": more.Revocation,
	} {
		if err := checkURL(address); address != "" && err != nil {
			return nil, nil, fmt.Errorf("the provider's %s: %w", name, err)
		}
	}
	config := &oauth2.Config{
		ClientID: c.clientID, Endpoint: endpoint,
		Scopes: []string{oidc.ScopeOpenID, "profile", oidc.ScopeOfflineAccess},
	}
	config.Endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has no secret
	return ctx, &provider{config, p.VerifierContext(ctx, &oidc.Config{ClientID: c.clientID}), p.UserInfoEndpoint(), more.Revocation}, nil
}

// status says what the file says. It asks nobody, so it keeps no login alive.
func (c *cli) status(context.Context) error {
	l, err := c.file.Load()
	switch {
	case err != nil:
		return err
	case l.Ended != nil:
		return l.Ended
	}
	now := time.Now()
	fmt.Fprintln(c.stdout, printable(describe(l, now)))
	if reached(l.Ends, now) || reached(l.EndsUnused, now) {
		return errProbablyOver
	}
	return nil
}
