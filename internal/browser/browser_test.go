package browser

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	code := m.Run()
	RemoveBuilt()
	os.Exit(code)
}

// provider starts examples/op with its demo users and clients, and returns its
// issuer.
func provider(t *testing.T, args ...string) (*Process, string) {
	t.Helper()
	dir := t.TempDir()
	p := Run(t, " is ready.", Build(t, "examples/op"), append([]string{
		"-listen", "127.0.0.1:0", "-store", "sqlite:" + filepath.Join(dir, "op.db"), "-keys", filepath.Join(dir, "keys.json"), "-signing-alg", "ES256",
	}, args...)...)
	_, rest, _ := strings.Cut(p.Output(), "The OpenID provider ")
	issuer, _, ok := strings.Cut(rest, " is ready.")
	require.True(t, ok)
	return p, issuer
}

// authorize is where an application sends a browser.
func authorize(issuer string) string {
	return issuer + "/authorize?client_id=web&redirect_uri=http%3A%2F%2F127.0.0.1%3A9999%2Fcb&response_type=code&scope=openid+profile+offline_access&state=1"
}

func TestSignInPage(t *testing.T) {
	_, issuer := provider(t)
	tab := Start(t, false).Tab(authorize(issuer))
	tab.Type("#username", "alice")
	tab.Type("#password", "wrong")
	tab.Click("button[type=submit]")
	require.NotEmpty(t, tab.Text("#error"))
	tab.Screenshot("wrong-password")
}
