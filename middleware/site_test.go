package middleware_test

import (
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestReturnAddress(t *testing.T) {
	t.Parallel()
	addresses := map[string]string{
		"other host":     "//evil.example/",
		"three slashes":  "///evil.example/",
		"backslash":      `/\evil.example/`,
		"backslashes":    `\\evil.example/`,
		"scheme":         "https://evil.example/",
		"script":         "javascript:alert(1)",
		"data":           "data:text/html,x",
		"no slash":       "evil.example/",
		"tab":            "/\t/evil.example/",
		"newline":        "/page\r\nSet-Cookie: a=b",
		"encoded":        "/%2Fevil.example/..//evil.example",
		"encoded slash":  "%2F%2Fevil.example/",
		"user":           "//a@evil.example/",
		"empty":          "",
		"space":          " /page",
		"unicode":        "/\u2028/evil.example",
		"own page":       "/auth/signin?return=/page",
		"callback":       "/cb?code=1&state=2",
		"fragment":       "/page#x",
		"double-encoded": "/%5Cevil.example/",
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for name, address := range addresses {
			b := w.browser()
			p := b.signIn(b.visit("/auth/signin?return="+url.QueryEscape(address)), "alice")
			require.Equal(t, appHost, p.url.Host, name)
			require.NotContains(t, strings.Join(p.via, " "), "://evil", name)
			require.NotContains(t, strings.Join(p.header["Set-Cookie"], " "), "a=b", name)
		}
	})
	synctest.Test(t, func(t *testing.T) { // as long as an address may be
		w := newWorld(t)
		b := w.browser()
		long := "/page?q=" + strings.Repeat("x", 1400)
		require.Equal(t, long, b.login(long).url.RequestURI())
		require.Equal(t, "/page", w.browser().login("/page?q="+strings.Repeat("x", 4000)).url.RequestURI(), "the page at least")
	})
}
