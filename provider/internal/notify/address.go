package notify

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"github.com/curfew-oidc/curfew/internal/loopback"
)

// errAddress is wrapped by the errors for an address that notifications may not be
// sent to.
var errAddress = errors.New("the address is not allowed")

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

// Allowed reports whether a notification may be sent to an address: to the public
// internet, to the ranges in allow, and, if loopback says so, to loopback addresses.
func Allowed(a netip.Addr, allow []netip.Prefix, loopback bool) bool {
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

// CheckURI parses the URI of an application, or returns why nothing is sent to it.
// With allowLoopback http is allowed on loopback: that a name there leads to loopback is
// for the dialer to judge, when it has an address.
func CheckURI(uri string, allowLoopback bool) (*url.URL, error) {
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
	if !loopback.Host(u.Hostname()) {
		return nil, errors.New("the URI is http: that is allowed on loopback only")
	}
	return u, nil
}
