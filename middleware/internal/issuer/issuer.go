// Package issuer asks an OpenID provider for what it publishes: its discovery document
// and the keys that it signs with. It remembers the answers, and does not ask more often
// than a provider can bear, whatever tokens somebody sends.
//
// It decides about no token and no session. That a provider could not be asked is
// [ErrUnavailable], which says nothing against a token.
package issuer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// ErrUnavailable is wrapped where the provider could not be asked.
var ErrUnavailable = errors.New("the provider could not be asked")

// A Config says who is asked, and how. All of it is needed.
type Config struct {
	Issuer  string // as the discovery document writes it
	Client  *http.Client
	Timeout time.Duration // of one request
	Now     func() time.Time
}

// Endpoints are what discovery says.
type Endpoints struct {
	Introspection string `json:"introspection_endpoint"`
	JWKS          string `json:"jwks_uri"`
}

// A Provider finds the endpoints of the provider: when they are needed
// first, and again until that works.
type Provider struct {
	cfg    Config
	flight Flight[*Endpoints]

	mu     sync.Mutex
	found  *Endpoints
	failed error // the last attempt
	retry  time.Time
}

// retryTime is how long a failed request for discovery or keys is the answer
// for all: calls must not add up to a flood while the provider is down.
const retryTime = time.Second

// New returns the provider, and asks it nothing yet.
func New(cfg Config) *Provider { return &Provider{cfg: cfg} }

// Endpoints returns what discovery says, if need be by asking.
func (p *Provider) Endpoints(ctx context.Context) (*Endpoints, error) {
	p.mu.Lock()
	found, failed, retry := p.found, p.failed, p.retry
	p.mu.Unlock()
	if found != nil {
		return found, nil
	}
	if failed != nil && p.cfg.Now().Before(retry) {
		return nil, failed
	}
	return p.flight.Do(ctx, "", p.cfg.Timeout, func(ctx context.Context) (*Endpoints, error) {
		found, err := p.discover(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.found, p.failed, p.retry = found, err, p.cfg.Now().Add(retryTime)
		return found, err
	})
}

func (p *Provider) discover(ctx context.Context) (*Endpoints, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, p.cfg.Client), p.cfg.Issuer)
	if err != nil {
		return nil, fmt.Errorf("%w: discovery: %w", ErrUnavailable, err)
	}
	var e Endpoints
	if err := provider.Claims(&e); err != nil {
		return nil, fmt.Errorf("%w: discovery: %w", ErrUnavailable, err)
	}
	for name, endpoint := range map[string]string{"introspection_endpoint": e.Introspection, "jwks_uri": e.JWKS} {
		if err := p.trusts(endpoint); endpoint != "" && err != nil {
			return nil, fmt.Errorf("%w: discovery: %s: %w", ErrUnavailable, name, err)
		}
	}
	return &e, nil
}

// trusts refuses an endpoint that is reached less safely than the issuer.
func (p *Provider) trusts(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	issuer, err := url.Parse(p.cfg.Issuer)
	if err != nil {
		return err
	}
	if u.Scheme != "https" && u.Scheme != issuer.Scheme || u.Hostname() == "" {
		return errors.New("it is not https")
	}
	return nil
}

// maxBody bounds an answer of the provider.
const maxBody = 1 << 20

// Do makes a request and returns the body of a 200. Everything else is a provider
// that could not be asked.
func (p *Provider) Do(req *http.Request) ([]byte, error) {
	resp, err := p.cfg.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrUnavailable, req.URL, err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: %s answers %s", ErrUnavailable, req.URL, resp.Status)
	case len(body) > maxBody:
		return nil, fmt.Errorf("%w: %s answers more than %d bytes", ErrUnavailable, req.URL, maxBody)
	}
	return body, nil
}

// A bounded transport reads no more of an answer than it may have. Libraries read
// discovery documents and keys to their end.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxBody+1), resp.Body}
	return resp, nil
}

// BoundedClient returns a client like c with bounded answers.
func BoundedClient(c http.Client) *http.Client {
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	c.Transport = bounded{c.Transport}
	return &c
}

// Algorithms are the signature algorithms that are ever taken. They are asymmetric: with a symmetric one, the public key that
// everybody can get would sign (RFC 8725 section 2.1).
var Algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}
