package middleware_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// The middleware's pages have their style in themselves, and allow nothing else.
func TestStyleOfPages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newWorld(t).browser().visit("/auth/signout")
		_, style, _ := strings.Cut(p.body, "<style>")
		style, _, ok := strings.Cut(style, "</style>")
		require.True(t, ok)
		sum := sha256.Sum256([]byte(style))
		policy := p.header.Get("Content-Security-Policy")
		require.Contains(t, policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
		require.NotContains(t, policy, "unsafe")
		require.NotContains(t, p.body, "<script")
	})
}
