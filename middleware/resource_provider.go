package middleware

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
)

// resourceEndpoints are what discovery says.
type resourceEndpoints struct {
	Introspection string `json:"introspection_endpoint"`
	JWKS          string `json:"jwks_uri"`
}

// A resourceProvider finds the endpoints of the provider: when they are needed
// first, and again until that works.
type resourceProvider struct {
	cfg    *ResourceConfig
	flight resourceFlight[*resourceEndpoints]

	mu     sync.Mutex
	found  *resourceEndpoints
	failed error // the last attempt
	retry  time.Time
}

// resourceRetry is how long a failed request for discovery or keys is the answer
// for all: calls must not add up to a flood while the provider is down.
const resourceRetry = time.Second

func newResourceProvider(cfg *ResourceConfig) *resourceProvider { return &resourceProvider{cfg: cfg} }

func (p *resourceProvider) endpoints(ctx context.Context) (*resourceEndpoints, error) {
	p.mu.Lock()
	found, failed, retry := p.found, p.failed, p.retry
	p.mu.Unlock()
	if found != nil {
		return found, nil
	}
	if failed != nil && p.cfg.Now().Before(retry) {
		return nil, failed
	}
	return p.flight.do(ctx, "", p.cfg.Timeout, func(ctx context.Context) (*resourceEndpoints, error) {
		found, err := p.discover(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.found, p.failed, p.retry = found, err, p.cfg.Now().Add(resourceRetry)
		return found, err
	})
}

func (p *resourceProvider) discover(ctx context.Context) (*resourceEndpoints, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, p.cfg.HTTPClient), p.cfg.Issuer)
	if err != nil {
		return nil, fmt.Errorf("%w: discovery: %w", errResourceUnavailable, err)
	}
	var e resourceEndpoints
	if err := provider.Claims(&e); err != nil {
		return nil, fmt.Errorf("%w: discovery: %w", errResourceUnavailable, err)
	}
	for name, endpoint := range map[string]string{"introspection_endpoint": e.Introspection, "jwks_uri": e.JWKS} {
		if err := p.trusts(endpoint); endpoint != "" && err != nil {
			return nil, fmt.Errorf("%w: discovery: %s: %w", errResourceUnavailable, name, err)
		}
	}
	return &e, nil
}

// trusts refuses an endpoint that is reached less safely than the issuer.
func (p *resourceProvider) trusts(endpoint string) error {
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

// resourceMaxBody bounds an answer of the provider.
const resourceMaxBody = 1 << 20

// do makes a request and returns the body of a 200. Everything else is a provider
// that could not be asked.
func (p *resourceProvider) do(req *http.Request) ([]byte, error) {
	resp, err := p.cfg.HTTPClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errResourceUnavailable, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, resourceMaxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", errResourceUnavailable, req.URL, err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: %s answers %s", errResourceUnavailable, req.URL, resp.Status)
	case len(body) > resourceMaxBody:
		return nil, fmt.Errorf("%w: %s answers more than %d bytes", errResourceUnavailable, req.URL, resourceMaxBody)
	}
	return body, nil
}

// A resourceFlight lets those who ask for the same at the same time share one
// answer. The work goes on when the one who began it goes away.
type resourceFlight[T any] struct {
	mu    sync.Mutex
	calls map[string]*resourceCall[T]
}

type resourceCall[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// begin starts work under a key, or finds it begun.
func (f *resourceFlight[T]) begin(ctx context.Context, key string, timeout time.Duration, work func(context.Context) (T, error)) *resourceCall[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.calls[key]; c != nil {
		return c
	}
	if f.calls == nil {
		f.calls = map[string]*resourceCall[T]{}
	}
	c := &resourceCall[T]{done: make(chan struct{})}
	f.calls[key] = c
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		c.value, c.err = work(ctx)
		f.mu.Lock()
		delete(f.calls, key)
		f.mu.Unlock()
		close(c.done)
	}()
	return c
}

func (f *resourceFlight[T]) do(ctx context.Context, key string, timeout time.Duration, work func(context.Context) (T, error)) (T, error) {
	c := f.begin(ctx, key, timeout, work)
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("%w: %w", errResourceUnavailable, context.Cause(ctx))
	}
}
