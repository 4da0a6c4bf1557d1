// Package loopback is the one answer to the question which hosts are this machine, where
// http is as good as https.
package loopback

import (
	"net/netip"
	"slices"
	"strings"
)

// Host reports whether a host of a URL, without port and brackets, is this machine by its
// name: an address of the loopback network (RFC 8252 section 7.3), "localhost", or a name
// below it (RFC 6761 section 6.3), in any case of letters.
//
// It resolves nothing. A system that does not heed RFC 6761 may ask others what a name
// below localhost means: code that must not connect to anything else judges the address
// that it connects to.
func Host(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Zone() == "" && a.Unmap().IsLoopback()
	}
	labels := strings.Split(host, ".")
	return strings.EqualFold(labels[len(labels)-1], "localhost") && !slices.Contains(labels, "")
}
