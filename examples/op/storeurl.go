package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// A storeURL is what -store says. Its password is in no part of it that is
// printed, and an error about it repeats nothing that may be a password put in
// the wrong place.
type storeURL struct {
	// where may be shown: the URL without user, password and query.
	where string

	// One of these is set, or it is memory.
	sqlite   string // a path
	postgres *pgxpool.Config
	redis    *redis.UniversalOptions
}

func (s storeURL) memory() bool { return s.sqlite == "" && !s.remote() }

// remote reports whether it is a server, which may be down.
// lasts reports whether what is in it is there at the next start.
func (s storeURL) lasts() bool { return s.sqlite != "" || s.remote() }

func (s storeURL) remote() bool { return s.postgres != nil || s.redis != nil }

const storeForms = "memory, sqlite:PATH, postgres://, redis://, rediss://, redis+sentinel:// and redis+cluster://"

// parseStore reads -store. It opens nothing.
func parseStore(spec string) (storeURL, error) {
	if spec == "memory" {
		return storeURL{where: spec}, nil
	}
	if path, ok := strings.CutPrefix(spec, "sqlite:"); ok {
		if path == "" {
			return storeURL{}, errors.New("sqlite: needs the path of a file")
		}
		return storeURL{where: spec, sqlite: path}, nil
	}
	scheme, _, ok := strings.Cut(spec, "://")
	var parse func(urlParts, string) (storeURL, error)
	switch scheme {
	case "postgres", "postgresql":
		parse = parsePostgres
	case "redis", "rediss", "redis+sentinel", "redis+cluster":
		parse = parseRedis
	}
	if !ok || parse == nil {
		return storeURL{}, errors.New("that is not a store; there are " + storeForms)
	}
	parts, err := splitURL(spec)
	if err == nil {
		var s storeURL
		if s, err = parse(parts, spec); err == nil {
			s.where = parts.where()
			return s, nil
		}
	}
	return storeURL{}, fmt.Errorf("bad %s URL: %w", scheme, err)
}

// urlParts are the parts of a URL that may have several hosts, which net/url
// does not take.
type urlParts struct {
	scheme         string
	user, password string
	hasUser        bool
	hasPassword    bool
	hosts          []string // host, or host and port; without port as they were written
	path           string   // without the leading slash
	query          string
}

func (p urlParts) where() string {
	where := p.scheme + "://" + strings.Join(p.hosts, ",")
	if p.path != "" {
		where += "/" + p.path
	}
	return where
}

var errEscape = errors.New("an @, /, ? or # stands where it ends something: in a username or a password they are written %40, %2F, %3F and %23, and a % is %25")

func splitURL(spec string) (p urlParts, err error) {
	if strings.ContainsFunc(spec, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return p, errors.New("there is a space or a control character in it")
	}
	var rest string
	p.scheme, rest, _ = strings.Cut(spec, "://")
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	if strings.ContainsAny(tail, "@#") || strings.Count(authority, "@") > 1 {
		return p, errEscape
	}
	if before, after, ok := strings.Cut(authority, "@"); ok {
		user, password, hasPassword := strings.Cut(before, ":")
		var errs [2]error
		p.user, errs[0] = url.PathUnescape(user)
		p.password, errs[1] = url.PathUnescape(password)
		if errors.Join(errs[:]...) != nil { // their text has a part of what was escaped
			return p, errEscape
		}
		p.hasUser, p.hasPassword, authority = true, hasPassword, after
	}
	if authority != "" {
		p.hosts = strings.Split(authority, ",")
	}
	for _, host := range p.hosts {
		name, port, found := host, "", false
		if i := strings.LastIndexAny(host, ":]"); i >= 0 && host[i] == ':' {
			name, port, found = host[:i], host[i+1:], true
		}
		switch {
		case found && !isPort(port):
			// Not what it is: it may be a password without a host.
			return p, errors.New("a port is not a number from 1 to 65535")
		case name == "", strings.Contains(name, ":") != strings.HasPrefix(name, "["), strings.HasPrefix(name, "[") != strings.HasSuffix(name, "]"):
			return p, errors.New("a host is not a name, an IPv4 address or an IPv6 address in brackets")
		}
	}
	var ok bool
	p.path, p.query, ok = strings.Cut(tail, "?")
	p.path = strings.TrimPrefix(p.path, "/")
	if ok {
		if _, err := url.ParseQuery(p.query); err != nil {
			return p, errors.New("what follows the ? is not NAME=VALUE&NAME=VALUE")
		}
	}
	return p, nil
}

// How long this process waits for the database. Each is less than the 3 s after
// which the hook answers 503, so that the answer says what was wrong; the
// client decides when to try again.
const (
	dialTimeout  = 2 * time.Second
	storeTimeout = 3 * time.Second // one step on the provider's own records
)

// parsePostgres leaves most to the driver, which takes what libpq takes, the
// environment (PGPASSWORD, PGPASSFILE, ...) included, and its own parameters.
func parsePostgres(parts urlParts, spec string) (storeURL, error) {
	c, err := pgxpool.ParseConfig(spec)
	var bad *pgconn.ParseConfigError
	if errors.As(err, &bad) {
		// It says what it could not parse.
		bad.ConnString = parts.where()
	}
	if err != nil {
		return storeURL{}, err
	}
	query, err := url.ParseQuery(parts.query)
	if err != nil {
		return storeURL{}, err
	}
	// PostgreSQL has 100 connections by default, each of them a process: five of
	// ours share them. A request holds one for a fraction of a millisecond at a
	// time, so 16 are busy only where the engine is, and more would not help it.
	if !query.Has("pool_max_conns") {
		c.MaxConns = 16
	}
	if c.ConnConfig.ConnectTimeout == 0 || c.ConnConfig.ConnectTimeout > dialTimeout && !query.Has("connect_timeout") {
		c.ConnConfig.ConnectTimeout = dialTimeout
	}
	// A process that stops in the middle of a transaction, or is cut off, holds
	// its locks for this long.
	if params := c.ConnConfig.RuntimeParams; params["idle_in_transaction_session_timeout"] == "" {
		params["idle_in_transaction_session_timeout"] = "10s"
	}
	if params := c.ConnConfig.RuntimeParams; params["application_name"] == "" {
		params["application_name"] = "curfew-op"
	}
	return storeURL{postgres: c}, nil
}

func parseRedis(parts urlParts, _ string) (storeURL, error) {
	if parts.query != "" {
		return storeURL{}, errors.New("it has a query, of which nothing is known here")
	}
	if len(parts.hosts) == 0 {
		return storeURL{}, errors.New("it has no host")
	}
	if parts.hasUser && !parts.hasPassword {
		return storeURL{}, errors.New("it has a username and no password: a password alone is written :PASSWORD@")
	}
	o := &redis.UniversalOptions{
		Username: parts.user, Password: parts.password, ClientName: "curfew-op",
		// A connection costs Redis little. A request holds one for a fraction of
		// a millisecond at a time, so that 32 (to each node of a cluster) are
		// busy only where something is slow.
		PoolSize: 32, PoolTimeout: dialTimeout,
		DialTimeout: dialTimeout, DialerRetries: 1, ReadTimeout: dialTimeout, WriteTimeout: dialTimeout,
		ContextTimeoutEnabled: true,
		// The name may lead to another server some day, and the one before may
		// not know that it is a replica, nor close its connections.
		ConnMaxLifetime: 5 * time.Minute,
		// A server that vanishes without a word leaves connections behind of which
		// each would cost a request its whole time.
		ConnMaxIdleTime: 10 * time.Second,
	}
	port := "6379"
	path := strings.Split(parts.path, "/")
	switch parts.scheme {
	case "redis+sentinel":
		port = "26379"
		if o.MasterName = path[0]; o.MasterName == "" {
			return storeURL{}, errors.New("the name of the primary is missing, as in redis+sentinel://HOST:26379,HOST:26379/mymaster")
		}
		path = path[1:]
	case "redis+cluster":
		o.IsClusterMode = true
		if parts.path != "" {
			return storeURL{}, errors.New("a cluster has no numbered databases")
		}
		path = nil
	case "rediss":
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		fallthrough
	case "redis":
		if len(parts.hosts) > 1 {
			return storeURL{}, errors.New("it has several hosts: that is redis+sentinel:// or redis+cluster://")
		}
	}
	for _, host := range parts.hosts {
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		o.Addrs = append(o.Addrs, host)
	}
	if len(path) > 0 && path[0] != "" {
		n, err := strconv.ParseUint(path[0], 10, 16)
		if err != nil || len(path) > 1 {
			return storeURL{}, errors.New("the database is not a number")
		}
		o.DB = int(n)
	}
	return storeURL{redis: o}, nil
}

// isPort reports whether a text is the number of a port.
func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}
