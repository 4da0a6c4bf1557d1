package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// ErrRefused is wrapped by the errors for an application that answered that it
// will not (Back-Channel Logout 1.0 section 2.8): what is sent again is likely to
// fare no better.
var ErrRefused = errors.New("the application refused it")

// A Client posts to applications. Whoever registers an application chooses where
// it connects to from inside of the provider's network, so it connects to nothing
// but the public internet, and what the embedder allows. It judges the address that
// it is about to connect to, not the name and not what the name meant a moment ago.
type Client struct {
	cfg             ClientConfig
	https, loopback *http.Transport // loopback is for http, and nil unless that is allowed
	dialers         []*net.Dialer   // of both
}

// A ClientConfig says where a [Client] connects to.
type ClientConfig struct {
	Timeout  time.Duration  // of a connection; the longest that a [Sender] takes
	Loopback bool           // loopback addresses, with http too
	Allow    []netip.Prefix // ranges beside the public internet
	RootCAs  *x509.CertPool // who vouches for certificates; nil: the system's
}

// NewClient returns the client.
func NewClient(cfg ClientConfig) *Client {
	c := &Client{cfg: cfg}
	transport := func(allowed func(netip.Addr) bool) *http.Transport {
		dialer := &net.Dialer{Timeout: cfg.Timeout, ControlContext: onlyTo(allowed)}
		c.dialers = append(c.dialers, dialer)
		return &http.Transport{
			Proxy:                  nil, // whatever the environment says
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    cfg.Timeout, // a transport goes on with it when the request is over
			TLSClientConfig:        &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
			DisableKeepAlives:      true, // a name may mean another host the next time
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		}
	}
	c.https = transport(func(a netip.Addr) bool { return Allowed(a, cfg.Allow, cfg.Loopback) })
	if cfg.Loopback {
		c.loopback = transport(netip.Addr.IsLoopback)
	}
	return c
}

// Dial replaces how the client connects, the check of addresses too. It is for
// tests without sockets.
func (c *Client) Dial(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	timely := func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout) // as a net.Dialer does
		defer cancel()
		return dial(ctx, network, address)
	}
	c.https.DialContext = timely
	if c.loopback != nil {
		c.loopback.DialContext = timely
	}
}

// Resolve replaces what knows the addresses of names, for tests. The check stays.
func (c *Client) Resolve(r *net.Resolver) {
	for _, d := range c.dialers {
		d.Resolver = r
	}
}

// Check parses the URI of an application, or returns why nothing is sent to it.
func (c *Client) Check(uri string) (*url.URL, error) { return CheckURI(uri, c.cfg.Loopback) }

// Post sends a body to a URI that was checked, until the context ends. An answer of
// 200 or 204 is success. Its error names the host at most; it wraps [ErrRefused] after
// an answer of 400 or 501.
func (c *Client) Post(ctx context.Context, u *url.URL, contentType, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(body))
	if err != nil {
		return errors.New("the URI is not one")
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "curfew")
	transport := c.https
	if u.Scheme == "http" {
		transport = c.loopback
	}
	// The transport itself: no redirect is followed and no cookie kept.
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s: %w", u.Host, reasonOfFailure(ctx, err))
	}
	// Drain the body, so that the application is not cut off while it writes.
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return nil
	case http.StatusBadRequest, http.StatusNotImplemented:
		return fmt.Errorf("%s answered %d: %w", u.Host, resp.StatusCode, ErrRefused)
	}
	return fmt.Errorf("%s answered %d", u.Host, resp.StatusCode)
}

// reasonOfFailure says why there was no answer, without the URI, which Go's own
// error would have in it.
func reasonOfFailure(ctx context.Context, err error) error {
	var op *net.OpError
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var network net.Error
	switch {
	case errors.Is(err, errAddress):
		return errAddress
	case errors.As(err, &dns):
		return errors.New("its name cannot be resolved")
	case ctx.Err() != nil, errors.As(err, &network) && network.Timeout():
		return errors.New("it did not answer in time")
	case errors.As(err, &cert):
		return fmt.Errorf("its certificate is not good: %w", cert.Err)
	case errors.As(err, &op):
		return fmt.Errorf("it cannot be reached: %w", op.Err)
	}
	return errors.New("its answer is not HTTP")
}
