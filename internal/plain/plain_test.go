package plain

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUserAgent(t *testing.T) {
	for ua, want := range map[string]string{
		"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0":                                                                     "Firefox on Linux",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36":                            "Chrome on Windows",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0":              "Edge on Windows",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.4 Safari/605.1.15":                      "Safari on Mac",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 OPR/125.0.0.0":        "Opera on Mac",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.4 Mobile/15E148 Safari/604.1":    "Safari on iPhone",
		"Mozilla/5.0 (iPad; CPU OS 18_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0.0.0 Mobile/15E148 Safari/604.1":          "Chrome on iPad",
		"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36":                            "Chrome on Android",
		"Mozilla/5.0 (Linux; Android 14; SM-S911B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/27.0 Chrome/125.0.0.0 Mobile Safari/537.36": "Samsung Internet on Android",
		"Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0":                                                                       "Firefox on Android",
		"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36":                             "Chrome on ChromeOS",
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36":                              "Chrome on Linux",
		"Mozilla/5.0 (Haiku) Gecko/1 Firefox/140.0": "Firefox",
		"curl/8.5.0":         "curl",
		"Go-http-client/1.1": "Go-http-client",
		"gh version 2.1":     "gh",
		"":                   "",
		"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)": "",
		"Mozilla/5.0":                     "",
		"Mozilla/5.0 (Firefox/1; Windows": "", // inside the comment is no product
		"<script>alert(1)</script>/1":     "",
		"Your bank: call 0123":            "Your", // one word at most
		"7":                               "",
		"-/1":                             "",
		"\xff\xfe/1":                      "",
		strings.Repeat("a", 33) + "/1":    "",
		"Mozilla/5.0 (" + strings.Repeat("(", 1_000_00): "",
	} {
		program, system := UserAgent(ua)
		if system != "" {
			program += " on " + system
		}
		require.Equal(t, want, program, "%.80s", ua)
	}
}

func TestNetwork(t *testing.T) {
	for prefix, want := range map[string]string{
		"192.0.2.0/24":    "192.0.2.x",
		"10.0.0.0/24":     "10.0.0.x",
		"2001:db8:1::/48": "2001:db8:1::/48",
		"192.0.2.7":       "",
		"":                "",
		"<b>":             "",
	} {
		require.Equal(t, want, Network(prefix), prefix)
	}
}

func TestShortCutsNoRune(t *testing.T) {
	t.Parallel()
	require.Equal(t, "", Short("ä", 1))
	require.Equal(t, "aä", Short("aäb", 3))
	require.Equal(t, "ab", Short("ab", 2))
}
