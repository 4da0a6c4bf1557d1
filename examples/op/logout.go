package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/curfew-oidc/curfew/provider"
)

// logoutOf is how applications are told of ends: as the clients file says.
func logoutOf(issuer string, clients map[string]*client, allow []netip.Prefix) provider.Logout {
	l := provider.Logout{
		URIs: func(_ context.Context, clientID string) (provider.LogoutURIs, error) {
			c := clients[clientID]
			if c == nil {
				return provider.LogoutURIs{}, nil // it is not registered any more
			}
			return provider.LogoutURIs{
				BackChannel: c.entry.BackChannelLogoutURI, WithSubject: c.entry.BackChannelSubject, FrontChannel: c.entry.FrontChannelLogoutURI,
			}, nil
		},
		Allow:    allow,
		Loopback: strings.HasPrefix(issuer, "http:"), // which is on loopback: see checkIssuer
	}
	for _, c := range clients {
		l.FrontChannel = l.FrontChannel || c.entry.FrontChannelLogoutURI != ""
	}
	return l
}

// parseRanges reads ranges of addresses, separated by commas.
func parseRanges(text string) ([]netip.Prefix, error) {
	var ranges []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("%q is not a range such as 10.20.0.0/16", part)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("%q: write it as %s", part, p.Masked())
		}
		if p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q: write it as IPv4", part)
		}
		ranges = append(ranges, p)
	}
	return ranges, nil
}
