package loopback

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHost(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"127.0.0.1":        true,
		"127.0.0.2":        true,
		"127.255.255.254":  true,
		"::1":              true,
		"::ffff:127.0.0.1": true,
		"localhost":        true,
		"LocalHost":        true,
		"login.localhost":  true,
		"a.b.LOCALHOST":    true,

		"":                             false,
		".":                            false,
		".localhost":                   false,
		"a..localhost":                 false,
		"localhost.":                   false, // as browsers tell its origin from the other
		"localhost.example.com":        false,
		"notlocalhost":                 false,
		"localhost.localdomain":        false,
		"127.0.0.1.example.com":        false,
		"127.0.0.1.":                   false,
		"127.1":                        false, // some systems read these as addresses
		"2130706433":                   false,
		"0x7f000001":                   false,
		"0177.0.0.1":                   false,
		"127.0.0.01":                   false,
		"0.0.0.0":                      false,
		"::":                           false,
		"::1%lo":                       false,
		"fe80::1":                      false,
		"::127.0.0.1":                  false,
		"64:ff9b::127.0.0.1":           false,
		"128.0.0.1":                    false,
		"10.0.0.1":                     false,
		"192.168.0.1":                  false,
		"169.254.169.254":              false,
		"login.example.com":            false,
		"localhost:80":                 false,
		"[::1]":                        false,
		"login.example\u3002localhost": false, // another kind of dot
	} {
		require.Equal(t, want, Host(host), "%q", host)
	}
}
