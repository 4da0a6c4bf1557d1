package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/curfew-oidc/curfew/internal/loopback"
	"github.com/curfew-oidc/curfew/policy"
)

// A config is the flags.
type config struct {
	listen        string
	issuer        string // empty: from the address that is listened on
	store         storeURL
	keys          string
	signingAlg    jose.SignatureAlgorithm // empty: not asked for
	users         string
	clients       string
	floor         time.Duration
	settings      string
	checkSettings bool
	importFrom    string   // settings file that is put into the store; empty: none
	baseline      []string // presets that settings are compared with
	metrics       string   // empty: none
	logoutAllow   []netip.Prefix

	// The default files are in the state folder, which is made for them. A
	// folder that was asked for is not: where it is missing is probably not
	// where the data is.
	state      string
	needsState bool

	acceptEmptyStore bool
}

// A usageError is a mistake in what the operator gave: exit code 2.
type usageError struct {
	flag string
	err  error
}

func (e *usageError) Error() string { return "-" + e.flag + ": " + e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// parseConfig reads the flags, each of which has an environment variable too;
// the flag wins. It checks what can be checked without opening anything.
func parseConfig(args []string, getenv func(string) string, stderr io.Writer) (config, error) {
	state, stateErr := stateFolder(getenv)
	var c config
	var alg, spec, baseline, allow string
	f := flag.NewFlagSet("op", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.listen, "listen", "127.0.0.1:9998", "`address` to listen on; port 0 takes a free one")
	f.StringVar(&c.issuer, "issuer", "", "`URL` of this provider: https, or http on loopback (default http:// and the address)")
	f.StringVar(&spec, "store", "sqlite:"+filepath.Join(state, "op.db"), "where sessions and tokens are, a `URL`: memory; sqlite:PATH;\n"+
		"postgres://[USER:PASSWORD@]HOST[:PORT]/DATABASE, as libpq takes it;\n"+
		"redis://[USER:PASSWORD@]HOST[:PORT][/NUMBER], or rediss:// with TLS;\n"+
		"redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/PRIMARY[/NUMBER];\n"+
		"redis+cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT.\n"+
		"Give one with a password as CURFEW_STORE: everybody on the machine sees flags")
	f.StringVar(&c.keys, "keys", filepath.Join(state, "keys.json"), "`file` with the keys, mode 0600; made at the first start")
	f.BoolVar(&c.acceptEmptyStore, "accept-empty-store", false, "accept a store that has lost its data as new, for this start: everybody is signed out,\n"+
		"and no settings are left")
	f.StringVar(&alg, "signing-alg", "", "what a new keys file is for: RS256 or ES256 (default RS256)")
	f.StringVar(&c.users, "users", "", "`file` with the users, in YAML (default: two demo users)")
	f.StringVar(&c.clients, "clients", "", "`file` with the clients, in JSON (default: four demo clients)")
	f.DurationVar(&c.floor, "floor", 15*time.Minute, "lowest duration that a setting may have")
	f.StringVar(&c.settings, "settings", "", "`file` with the settings, in YAML, read again on SIGHUP (default: they are in the store)")
	f.BoolVar(&c.checkSettings, "check-settings", false, "explain and check the settings file, and exit")
	f.StringVar(&c.importFrom, "settings-import", "", "`file` with settings, in YAML, to put into the store once for each content of it")
	f.StringVar(&baseline, "baseline", "", "`presets` whose limits settings are compared with, such as nist-63b4-aal2,pci-dss-4")
	f.StringVar(&allow, "logout-allow", "", "`ranges` of private addresses at which applications are told that a session ended,\n"+
		"such as 10.20.0.0/16, separated by commas (default: none; on a loopback issuer, loopback)")
	f.StringVar(&c.metrics, "metrics", "", "`address` to serve Prometheus metrics on, at /metrics, such as 127.0.0.1:9464 (default: none)")
	f.Usage = func() {
		fmt.Fprintln(stderr, "op is an OpenID provider whose logins end when the policy says so.\n"+
			"Each flag may be given as an environment variable too: -signing-alg as CURFEW_SIGNING_ALG.")
		f.PrintDefaults()
	}

	var bad error
	f.VisitAll(func(fl *flag.Flag) {
		name := "CURFEW_" + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		if v := getenv(name); v != "" && bad == nil {
			if err := f.Set(fl.Name, v); err != nil {
				bad = &usageError{fl.Name, fmt.Errorf("%s: %w", name, err)}
			}
		}
	})
	if bad != nil {
		return c, bad
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return c, err
		}
		return c, &quietError{err} // the flag package has said it already
	}
	if f.NArg() > 0 {
		if arg := f.Arg(0); !strings.Contains(arg, "//") { // a URL may have a password
			return c, fmt.Errorf("%w: %q", errArguments, arg)
		}
		return c, errArguments
	}

	switch c.signingAlg = jose.SignatureAlgorithm(alg); c.signingAlg {
	case "", jose.RS256, jose.ES256:
	default:
		return c, &usageError{"signing-alg", fmt.Errorf("%q is not RS256 or ES256", alg)}
	}
	if c.floor <= 0 || c.floor > 24*time.Hour {
		return c, &usageError{"floor", fmt.Errorf("%s is not above zero and at most 24h", c.floor)}
	}
	if c.importFrom != "" && c.settings != "" {
		return c, &usageError{"settings-import", errors.New("it puts settings into the store, and with -settings these are not used")}
	}
	for id := range strings.SplitSeq(baseline, ",") {
		if id = strings.TrimSpace(id); id == "" {
			continue
		}
		if _, known := policy.PresetByID(id); !known {
			return c, &usageError{"baseline", fmt.Errorf("there is no preset %q", id)}
		}
		c.baseline = append(c.baseline, id)
	}
	host, _, err := net.SplitHostPort(c.listen)
	if err != nil {
		return c, &usageError{"listen", err}
	}
	if c.logoutAllow, err = parseRanges(allow); err != nil {
		return c, &usageError{"logout-allow", err}
	}
	if c.metrics != "" {
		if _, _, err := net.SplitHostPort(c.metrics); err != nil {
			return c, &usageError{"metrics", err}
		}
	}
	if c.issuer == "" && !loopback.Host(host) {
		return c, &usageError{"issuer", fmt.Errorf("it is required if -listen (%s) is not a loopback address", c.listen)}
	}
	if c.issuer != "" {
		if err := checkIssuer(c.issuer); err != nil {
			return c, &usageError{"issuer", err}
		}
	}
	public := !loopback.Host(host) || strings.HasPrefix(c.issuer, "https://")
	for name, path := range map[string]string{"users": c.users, "clients": c.clients} {
		if path == "" && public {
			return c, &usageError{name, errors.New("it is required if others can reach the provider: everybody knows the demo passwords and secrets")}
		}
	}
	if c.store, err = parseStore(spec); err != nil {
		return c, &usageError{"store", err}
	}
	if c.checkSettings && c.settings == "" {
		return c, &usageError{"check-settings", errors.New("it checks the file of -settings")}
	}
	for _, name := range []string{"store", "keys"} {
		if fl := f.Lookup(name); fl.Value.String() == fl.DefValue {
			if c.state, c.needsState = state, true; stateErr != nil {
				return c, &usageError{name, stateErr}
			}
		}
	}
	return c, nil
}

var errArguments = errors.New("there is an unexpected argument; use flags only")

// A quietError has been shown to the operator already.
type quietError struct{ error }

func (e *quietError) Unwrap() error { return e.error }

// stateFolder is where the default files are: what must survive a restart and a
// reboot (XDG Base Directory Specification).
func stateFolder(getenv func(string) string) (string, error) {
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "curfew-op"), nil
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "curfew-op"), nil
	}
	return "", errors.New("there is no default: neither XDG_STATE_HOME nor HOME is set")
}

// checkIssuer allows what can be an issuer (OpenID Connect Discovery 1.0 section
// 3) and is not more than this example serves: it has no path.
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return fmt.Errorf("%q is not a URL such as https://login.example.com", issuer)
	case u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.User != nil || strings.Contains(issuer, "#"):
		return fmt.Errorf("%q has more than a scheme, a host and a port", issuer)
	case issuer != strings.ToLower(issuer):
		return fmt.Errorf("%q has capital letters: applications compare it letter by letter, and browsers do not", issuer)
	case u.Port() != "" && !isPort(u.Port()), strings.HasSuffix(u.Host, ":"):
		return fmt.Errorf("%q has an invalid port", issuer)
	case u.Scheme == "http" && !loopback.Host(u.Hostname()):
		return fmt.Errorf("%q is http: that is allowed on loopback only", issuer)
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%q is not https", issuer)
	}
	return nil
}
