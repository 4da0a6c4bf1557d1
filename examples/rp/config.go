package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	_ "github.com/ncruces/go-sqlite3/driver" // for -store sqlite:PATH

	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/middleware/sqlsessions"
)

// A config is the flags.
type config struct {
	listen       string
	url          string // empty: from the address that is listened on
	issuer       string
	clientID     string
	clientSecret string
	store        string
	key          string
}

// A usageError is a mistake in what the operator gave: exit code 2.
type usageError struct {
	err  error
	said bool // the flag package has said it already
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// The demo client of examples/op, whose secret everybody knows.
const demoClient, demoSecret = "web", "web-secret"

// parseConfig reads the flags, each of which has an environment variable too; the
// flag wins.
func parseConfig(args []string, getenv func(string) string, stderr io.Writer) (config, error) {
	var c config
	f := flag.NewFlagSet("rp", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.listen, "listen", "127.0.0.1:9999", "`address` to listen on; port 0 takes a free one")
	f.StringVar(&c.url, "url", "", "`URL` of this application: https, or http on loopback (default http:// and the address)")
	f.StringVar(&c.issuer, "issuer", "http://127.0.0.1:9998", "`URL` of the provider")
	f.StringVar(&c.clientID, "client-id", demoClient, "`ID` that the provider knows this application by")
	f.StringVar(&c.clientSecret, "client-secret", "", "its `secret` (default: the demo client's).\n"+
		"Give it as CURFEW_RP_CLIENT_SECRET: everybody on the machine sees flags")
	f.StringVar(&c.store, "store", "memory", "where sessions are: memory, sqlite:`PATH`, or cookies")
	f.StringVar(&c.key, "key", "", "`file` with the key that seals cookies and tokens, 32 bytes or more; made at the first start\n"+
		"(default: a key that is gone when the program ends)")
	f.Usage = func() {
		fmt.Fprintln(stderr, "rp is a web application that signs its users in at an OpenID provider.\n"+
			"Each flag may be given as an environment variable too: -client-id as CURFEW_RP_CLIENT_ID.")
		f.PrintDefaults()
	}
	var bad error
	f.VisitAll(func(fl *flag.Flag) {
		name := "CURFEW_RP_" + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		if v := getenv(name); v != "" && bad == nil {
			if err := f.Set(fl.Name, v); err != nil {
				bad = fmt.Errorf("%s: %w", name, err)
			}
		}
	})
	if bad != nil {
		return c, &usageError{err: bad}
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return c, err
		}
		return c, &usageError{err: err, said: true}
	}
	if f.NArg() > 0 {
		return c, &usageError{err: errors.New("there is an unexpected argument; use flags only")}
	}
	host, _, err := net.SplitHostPort(c.listen)
	if err != nil {
		return c, &usageError{err: fmt.Errorf("-listen: %w", err)}
	}
	c.url = strings.TrimSuffix(c.url, "/")
	if ip := net.ParseIP(host); c.url == "" && (ip == nil || !ip.IsLoopback()) {
		return c, &usageError{err: fmt.Errorf("-url: it is required if -listen (%s) is not a loopback address", c.listen)}
	}
	if u, err := url.Parse(c.url); c.url != "" && (err != nil || u.Path != "") {
		return c, &usageError{err: fmt.Errorf("-url: %q has more than a scheme, a host and a port", c.url)}
	}
	if c.clientSecret == "" && c.clientID == demoClient && strings.HasPrefix(c.issuer, "http://") {
		c.clientSecret = demoSecret
	}
	if path, ok := strings.CutPrefix(c.store, "sqlite:"); c.store != "memory" && c.store != "cookies" && (!ok || path == "") {
		return c, &usageError{err: fmt.Errorf("-store: %q is not memory, sqlite:PATH or cookies", c.store)}
	}
	if c.key == "" && c.store != "memory" {
		return c, &usageError{err: errors.New("-key: it is needed where sessions survive a restart")}
	}
	return c, nil
}

// openKey reads the file with the key, or makes it.
func (c config) openKey() ([]byte, error) {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	if c.key == "" {
		return key, nil
	}
	f, err := os.OpenFile(c.key, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		info, err := os.Stat(c.key)
		if err != nil {
			return nil, err
		}
		if info.Mode().Perm()&0o077 != 0 {
			return nil, fmt.Errorf("%s: others may read it: chmod 600", c.key)
		}
		return os.ReadFile(c.key)
	}
	if err != nil {
		return nil, err
	}
	_, err = f.Write(key)
	return key, errors.Join(err, f.Sync(), f.Close())
}

func (c config) openStore(ctx context.Context) (middleware.SessionStore, func() error, error) {
	path, ok := strings.CutPrefix(c.store, "sqlite:")
	if !ok {
		return middleware.NewMemoryStore(), func() error { return nil }, nil
	}
	name := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: "_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)"}
	if !filepath.IsAbs(path) {
		name = url.URL{Scheme: "file", Opaque: url.PathEscape(filepath.ToSlash(path)), RawQuery: name.RawQuery}
	}
	db, err := sql.Open("sqlite3", name.String())
	if err != nil {
		return nil, nil, err
	}
	store, err := sqlsessions.New(ctx, db)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return store, db.Close, nil
}
