package provider

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"github.com/curfew-oidc/curfew/internal/loopback"
)

var (
	// errRefused is wrapped by the errors for an application that answered that
	// it will not (Back-Channel Logout 1.0 section 2.8): what is sent again is
	// likely to fare no better.
	errRefused = errors.New("the application refused it")

	// errAddress is wrapped by the errors for an address that notifications
	// may not be sent to.
	errAddress = errors.New("the address is not allowed")
)

// A logoutClient posts logout tokens. Whoever registers an application chooses
// where it connects to from inside of the provider's network, so it connects to
// nothing but the public internet, and what the embedder allows. It judges the
// address that it is about to connect to, not the name and not what the name
// meant a moment ago.
type logoutClient struct {
	https, loopback *http.Transport // loopback is for http, and nil unless that is allowed
	dialers         []*net.Dialer   // of both
}

func newLogoutClient(cfg Logout) *logoutClient {
	c := &logoutClient{}
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
	c.https = transport(func(a netip.Addr) bool { return allowedAddress(a, cfg.Allow, cfg.Loopback) })
	if cfg.Loopback {
		c.loopback = transport(netip.Addr.IsLoopback)
	}
	return c
}

// onlyTo refuses a connection to an address that is not allowed. It is asked for
// each address that is tried, after names were resolved.
func onlyTo(allowed func(netip.Addr) bool) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, _, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil || !allowed(to.Addr().Unmap()) {
			return errAddress
		}
		return nil
	}
}

// Ranges that are not the public internet (the IANA special-purpose address
// registries, RFC 6890), or lead elsewhere: addresses that stand for an IPv4
// address (NAT64, 6to4, Teredo, mapped and compatible ones) would let one through
// that is not allowed itself. Of IPv6 only 2000::/3 is handed out.
var (
	globalV6 = netip.MustParsePrefix("2000::/3")
	special  = prefixes(
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	)
	// metadata are where clouds tell a machine its secrets.
	metadata = prefixes(
		"169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32", "100.100.100.200/32", "192.0.0.192/32",
		"168.63.129.16/32", "fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128",
	)
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// allowedAddress reports whether a notification may be sent to an address.
func allowedAddress(a netip.Addr, allow []netip.Prefix, loopback bool) bool {
	a = a.Unmap()
	if a.Zone() != "" {
		return false // link-local
	}
	if within(metadata, a) {
		return slices.ContainsFunc(allow, func(p netip.Prefix) bool { return p.IsSingleIP() && p.Addr() == a })
	}
	switch {
	case within(allow, a), loopback && a.IsLoopback():
		return true
	case a.Is6() && !globalV6.Contains(a):
		return false
	}
	return !within(special, a)
}

// checkLogoutURI returns why notifications are not sent to a URI.
func checkLogoutURI(uri string, allowLoopback bool) (*url.URL, error) {
	u, err := url.Parse(uri)
	switch {
	case err != nil:
		return nil, errors.New("the URI is not one") // its text may be anybody's
	case u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("the URI is not absolute")
	case u.User != nil:
		return nil, errors.New("the URI has a user name")
	case u.Fragment != "" || strings.HasSuffix(uri, "#"):
		return nil, errors.New("the URI has a fragment")
	case u.Scheme == "https":
		return u, nil
	case u.Scheme != "http" || !allowLoopback:
		return nil, errors.New("the URI is not https")
	}
	// A better word than the dialer's, which judges the address that a name has.
	if !loopback.Host(u.Hostname()) {
		return nil, errors.New("the URI is http: that is allowed on loopback only")
	}
	return u, nil
}

// host is what a notification waits for others to.
func (n *notification) host() string {
	u, err := url.Parse(n.uri)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

// place is where a notification went, for people: what follows in a URI may be
// secret.
func (n *notification) place() string {
	u, err := url.Parse(n.uri)
	if err != nil {
		return ""
	}
	return short((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), 200)
}

// notify sends a logout token to an application: Back-Channel Logout 1.0 section
// 2.5. Its error names the host at most.
func (h *Hook) notify(ctx context.Context, n notification) error {
	u, err := checkLogoutURI(n.uri, h.cfg.Logout.Loopback)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Logout.Timeout)
	defer cancel()
	token, err := h.logoutToken(ctx, n)
	if err != nil {
		return err
	}
	body := url.Values{"logout_token": {token}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(body))
	if err != nil {
		return errors.New("the URI is not one")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("User-Agent", "curfew")
	transport := h.logoutClient.https
	if u.Scheme == "http" {
		transport = h.logoutClient.loopback
	}
	// The transport itself: no redirect is followed and no cookie kept.
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s: %w", u.Host, reasonOfFailure(ctx, err))
	}
	// What it says is of no interest, but it should not break on saying it.
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return nil
	case http.StatusBadRequest, http.StatusNotImplemented:
		return fmt.Errorf("%s answered %d: %w", u.Host, resp.StatusCode, errRefused)
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
