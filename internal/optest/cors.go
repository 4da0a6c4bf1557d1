package optest

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// CORSForAll is a CORS middleware as people write it: every origin, with credentials.
func CORSForAll(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		next.ServeHTTP(w, r)
	})
}

// NobodyElseReads requires an answer that no page of another origin may read.
func NobodyElseReads(t testing.TB, h http.Header) {
	t.Helper()
	for name := range h {
		require.False(t, strings.HasPrefix(name, "Access-Control-"), name)
	}
}
