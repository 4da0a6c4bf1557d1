// Package plain describes a login session in names that its user recognises: the browser, the
// system, roughly where from. The pages of package provider and of the packages built on it share it.
//
// Anybody may have sent its input. The output is bounded, and is empty rather than a guess if the
// input is not recognised; but a user agent is a claim, and pages must escape the output.
package plain

import (
	"net/netip"
	"strings"
	"unicode/utf8"
)

// maxUserAgent is how much of a User-Agent is looked at, in bytes.
const maxUserAgent = 512

// browsers are looked for in this order: each later one also appears in the
// User-Agent of an earlier one.
var browsers = []struct{ product, name string }{
	{"Edg/", "Edge"}, {"EdgA/", "Edge"}, {"EdgiOS/", "Edge"},
	{"OPR/", "Opera"}, {"OPiOS/", "Opera"}, {"OPT/", "Opera"},
	{"SamsungBrowser/", "Samsung Internet"}, {"Vivaldi/", "Vivaldi"}, {"YaBrowser/", "Yandex Browser"},
	{"FxiOS/", "Firefox"}, {"Firefox/", "Firefox"},
	{"CriOS/", "Chrome"}, {"HeadlessChrome/", "Chrome"}, {"Chrome/", "Chrome"}, {"Chromium/", "Chromium"},
	{"Safari/", "Safari"},
}

// systems are looked for in this order, in the comment in parentheses.
var systems = []struct{ token, name string }{
	{"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Android", "Android"}, {"CrOS", "ChromeOS"},
	{"Windows", "Windows"}, {"Macintosh", "Mac"}, {"Linux", "Linux"}, {"FreeBSD", "FreeBSD"}, {"OpenBSD", "OpenBSD"},
}

// UserAgent names the program of an HTTP User-Agent (RFC 9110 section 10.1.5), such
// as "Firefox", or the first product of one that is no browser, such as "curl"; and
// the system that a browser is on, such as "Linux". Both are empty for what it does
// not know.
func UserAgent(ua string) (program, system string) {
	ua = ua[:min(len(ua), maxUserAgent)]
	if !strings.HasPrefix(ua, "Mozilla/") {
		return product(ua), ""
	}
	_, comment, _ := strings.Cut(ua, "(")
	comment, products, _ := strings.Cut(comment, ")")
	for _, b := range browsers {
		if strings.Contains(products, " "+b.product) {
			program = b.name
			break
		}
	}
	if program == "" {
		return "", "" // what calls itself Mozilla and is none of these says nothing
	}
	for _, s := range systems {
		if strings.Contains(comment, s.token) {
			return program, s.name
		}
	}
	return program, ""
}

// product returns the name of the first product, if it looks like one.
func product(ua string) string {
	name, _, _ := strings.Cut(ua, " ")
	name, _, _ = strings.Cut(name, "/")
	if len(name) > 32 {
		return ""
	}
	letters := 0
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			letters++
		case r >= '0' && r <= '9', r == '-', r == '_', r == '.':
		default:
			return ""
		}
	}
	if letters < 2 {
		return ""
	}
	return name
}

// Network says roughly where an address is, of which only the network is known:
// "192.0.2.x" for 192.0.2.0/24. It is empty for what is no network.
func Network(prefix string) string {
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return ""
	}
	if p.Addr().Is4() && p.Bits() == 24 {
		return strings.TrimSuffix(p.Addr().String(), ".0") + ".x"
	}
	return p.String()
}

// Short cuts a text to so many bytes, without a part of a character at the end.
func Short(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}
