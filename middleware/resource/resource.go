// Package resource protects APIs that are called with access tokens of an OpenID provider: the
// resource server's side of OAuth. A [Server] checks the token of each request, by introspection
// or, if it is a JWT, locally.
//
//	api, err := resource.New(resource.Config{
//		Issuer:        "https://login.example.com",
//		Introspection: &resource.Introspection{ClientID: "orders", ClientSecret: secret},
//	})
//	mux.Handle("GET /orders", api.Handler(list, resource.Scopes("orders")))
//	mux.Handle("POST /refunds", api.Handler(refund, resource.MaxAge(5*time.Minute)))
//
// It works with any standard provider. It keeps no session and signs nobody in: package middleware
// does that.
package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/internal/loopback"
	"github.com/curfew-oidc/curfew/middleware/internal/issuer"
)

// Config configures [New]. Issuer is required, and either
// Introspection or Audience.
type Config struct {
	// Issuer is the provider whose access tokens are accepted, exactly as in its discovery
	// document. It must be https, or http on loopback.
	Issuer string

	// Audience is the name of this API in the aud of access tokens. A token
	// that does not name it is refused, so that a token for one API opens no
	// other (RFC 9068 section 4). It may be empty only with Introspection: the provider then
	// decides which tokens this API may accept.
	Audience string

	// Introspection asks the provider about each token (RFC 7662). The end of a session then takes
	// effect within CacheFor. Nil: tokens are JWTs (RFC 9068), verified locally, and each is valid
	// until it expires, whatever happened to its session.
	Introspection *Introspection

	// CacheFor is how long the answer that a token is active is cached, and so how long a token may
	// outlive its session; never beyond the token's exp. The answer that a token is not active is
	// cached for a sixth of it. Zero: 30 seconds. Negative: the provider is asked each time.
	CacheFor time.Duration

	// CacheSize is how many answers are kept. Zero: 10000.
	CacheSize int

	// InsecureAcceptPlainJWT also accepts a JWT whose header has the type "JWT", or no type,
	// instead of "at+jwt". The access tokens of zitadel/oidc's op (v3.52.0) are such JWTs. Only
	// claims then distinguish them from ID tokens and logout tokens of the same provider: access
	// tokens have jti and client_id, and no claim of the other two kinds. Prefer Introspection
	// there.
	InsecureAcceptPlainJWT bool

	// Algorithms are the accepted signature algorithms of JWTs. Nil: all
	// asymmetric ones of RFC 7518, and EdDSA. Symmetric ones and "none" cannot
	// be allowed.
	Algorithms []jose.SignatureAlgorithm

	// Leeway is how far the clock of the provider may be ahead of ours, for
	// nbf, iat and auth_time. It never lengthens the life of a token: exp is exact. Zero: 30
	// seconds. Negative: none.
	Leeway time.Duration

	// Realm is the realm of each challenge (RFC 9110 section 11.5). Empty: "api".
	Realm string

	// Timeout bounds each request to the provider. Zero: 5 seconds.
	Timeout time.Duration

	// HTTPClient makes the requests to the provider. No redirect is followed.
	// Nil: one of its own with Go's default transport.
	HTTPClient *http.Client

	// Refused writes the response to a refused request; its header has the challenge already. Nil:
	// a small JSON object.
	Refused func(http.ResponseWriter, *http.Request, *Error)

	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Introspection is how an API authenticates at the introspection endpoint, whose address comes from
// discovery.
type Introspection struct {
	ClientID     string
	ClientSecret string

	// AuthStyle is oauth2.AuthStyleInHeader (client_secret_basic) or
	// oauth2.AuthStyleInParams (client_secret_post). Zero: in the header.
	AuthStyle oauth2.AuthStyle
}

// The defaults of [Config].
const (
	defaultCacheFor  = 30 * time.Second
	defaultCacheSize = 10_000
	defaultLeeway    = 30 * time.Second
	defaultTimeout   = 5 * time.Second
)

// maxToken bounds an access token. JWTs of directories with many groups
// come to some kilobytes; anything longer is not a token.
const maxToken = 16 << 10

// A Server is the resource server's side of OAuth: it checks the access tokens in calls to an API.
// It is safe for concurrent use.
//
// Answers are those of RFC 6750 section 3 and RFC 9470 section 3. While the provider does not
// answer, the answer is 503 with Retry-After: that is no verdict on the token, which works again
// afterwards.
type Server struct {
	cfg      Config
	provider *issuer.Provider
	verify   func(ctx context.Context, token string) (Token, error)
}

// ErrConfig is wrapped by the errors of [New], which also name the field.
var ErrConfig = errors.New("curfew: resource.Config")

// New checks the configuration. Its errors wrap [ErrConfig]. It does not contact the provider: the
// first request does, and later ones until it answers. Its discovery document is then kept; its
// keys are fetched anew when needed.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	r := &Server{cfg: cfg, provider: issuer.New(issuer.Config{Issuer: cfg.Issuer, Client: cfg.HTTPClient, Timeout: cfg.Timeout, Now: cfg.Now})}
	if cfg.Introspection != nil {
		r.verify = newIntrospector(&r.cfg, r.provider).verify
	} else {
		r.verify = newVerifier(&r.cfg, r.provider).verify
	}
	return r, nil
}

// complete checks the fields and sets their defaults.
func (cfg *Config) complete() error {
	if cfg.Issuer == "" {
		return fmt.Errorf("%w.Issuer is required", ErrConfig)
	}
	if err := checkIssuer(cfg.Issuer); err != nil {
		return fmt.Errorf("%w.Issuer: %w", ErrConfig, err)
	}
	if in := cfg.Introspection; in != nil {
		switch {
		case in.ClientID == "":
			return fmt.Errorf("%w.Introspection.ClientID is required", ErrConfig)
		case in.ClientSecret == "": // RFC 7662 section 2.1
			return fmt.Errorf("%w.Introspection.ClientSecret is required: the provider authenticates its callers", ErrConfig)
		case in.AuthStyle > oauth2.AuthStyleInHeader || in.AuthStyle < 0:
			return fmt.Errorf("%w.Introspection.AuthStyle: %d is unknown", ErrConfig, in.AuthStyle)
		}
		copied := *in
		cfg.Introspection = &copied
	} else if cfg.Audience == "" {
		return fmt.Errorf("%w.Audience is required without Introspection, or a token for any other API would be accepted", ErrConfig)
	}
	for _, alg := range cfg.Algorithms {
		if !slices.Contains(issuer.Algorithms, alg) {
			return fmt.Errorf("%w.Algorithms: %q is not an asymmetric signature algorithm", ErrConfig, alg)
		}
	}
	if cfg.Algorithms = slices.Clone(cfg.Algorithms); len(cfg.Algorithms) == 0 {
		cfg.Algorithms = issuer.Algorithms
	}
	for _, d := range []struct {
		field     *time.Duration
		byDefault time.Duration
	}{{&cfg.CacheFor, defaultCacheFor}, {&cfg.Leeway, defaultLeeway}} {
		if *d.field == 0 {
			*d.field = d.byDefault
		}
		*d.field = max(0, *d.field)
	}
	if cfg.CacheSize < 0 {
		return fmt.Errorf("%w.CacheSize is negative", ErrConfig)
	}
	if cfg.Timeout < 0 {
		return fmt.Errorf("%w.Timeout is negative", ErrConfig)
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = defaultCacheSize
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Realm == "" {
		cfg.Realm = "api"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Refused == nil {
		cfg.Refused = writeError
	}
	client := http.Client{}
	if cfg.HTTPClient != nil {
		client = *cfg.HTTPClient
	}
	// A redirect would carry tokens and our secret to wherever it points.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	cfg.HTTPClient = issuer.BoundedClient(client)
	return nil
}

// checkIssuer allows what can be an issuer (OpenID Connect Discovery 1.0
// section 3): without TLS whoever is on the way says which tokens are good.
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "" || u.User != nil || strings.ContainsAny(issuer, "?#"):
		return fmt.Errorf("%q is not a URL such as https://login.example.com", issuer)
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback.Host(u.Hostname())):
		return fmt.Errorf("%q is not https, nor http on loopback", issuer)
	}
	return nil
}

// A Token has the contents of an access token that has been checked.
type Token struct {
	Issuer  string
	Subject string // the user, at Issuer; for a client without a user often the client's ID. May be empty after introspection

	// SID is the login session that the token belongs to; empty if the provider
	// does not say.
	SID string

	ClientID string
	Audience []string
	Scopes   []string

	// AuthTime is when the user entered credentials; zero if the provider does not say. ACR and AMR
	// say how.
	AuthTime time.Time
	ACR      string
	AMR      []string

	Expires time.Time // zero if introspection did not say

	raw []byte // all claims, as JSON
}

// HasScope reports whether the token has a scope.
func (t Token) HasScope(scope string) bool { return slices.Contains(t.Scopes, scope) }

// Claims decodes all claims of the JWT, or all members of the introspection response, into v.
func (t Token) Claims(v any) error { return json.Unmarshal(t.raw, v) }

type tokenKey struct{}

// From returns the token that [Server.Handler] accepted, and false if it did not run.
func From(ctx context.Context) (Token, bool) {
	t, ok := ctx.Value(tokenKey{}).(Token)
	return t, ok
}

// Subject returns the subject of the token, empty if it has no subject.
func Subject(ctx context.Context) string {
	t, _ := From(ctx)
	return t.Subject
}

// SID returns the login session of the token; empty if unknown.
func SID(ctx context.Context) string {
	t, _ := From(ctx)
	return t.SID
}

// Handler passes a request with a valid access token that satisfies the rules to next, which gets
// the token from [From]. It answers all other requests itself.
func (s *Server) Handler(next http.Handler, rules ...Rule) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		t, err := s.Check(req, rules...)
		if err != nil {
			var refused *Error
			if !errors.As(err, &refused) {
				refused = &Error{Status: http.StatusServiceUnavailable, Err: err}
			}
			refused.header(w.Header())
			s.cfg.Refused(w, req, refused)
			return
		}
		next.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), tokenKey{}, t)))
	})
}

// Check decides about one request and writes nothing. An error is always a
// [*Error], and never contains the token.
func (s *Server) Check(req *http.Request, rules ...Rule) (Token, error) {
	var needs needs
	for _, rule := range rules {
		rule(&needs)
	}
	token, err := bearer(req)
	if err == nil {
		var t Token
		if t, err = s.verify(req.Context(), token); err == nil {
			if err = needs.check(t, s.cfg.Now(), s.cfg.Leeway); err == nil {
				return t, nil
			}
		}
	}
	return Token{}, s.refusal(err, needs)
}

// Why a request is refused, for the challenge.
var (
	errNone    = errors.New("there is no access token in the Authorization header")
	errRequest = errors.New("the Authorization header is malformed")
	errInvalid = errors.New("the access token is not good")
)

// bearer returns the access token of a request. The query and the body
// are not looked at: RFC 9700 section 4.3.2 forbids the first, and the second
// would be read under the handler's feet.
func bearer(req *http.Request) (string, error) {
	values := req.Header.Values("Authorization")
	switch len(values) {
	case 0:
		return "", errNone
	case 1:
	default:
		return "", fmt.Errorf("%w: it is there %d times", errRequest, len(values))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", fmt.Errorf("%w: it has another scheme", errNone)
	}
	token = strings.TrimLeft(token, " ")
	switch {
	case len(token) > maxToken:
		return "", fmt.Errorf("%w: it is longer than %d bytes", errInvalid, maxToken)
	case !isToken68(token):
		return "", fmt.Errorf("%w: no b64token follows", errRequest)
	}
	return token, nil
}

// isToken68 reports whether a text is a b64token of RFC 6750 section 2.1.
func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-._~+/", c)
	})
}
