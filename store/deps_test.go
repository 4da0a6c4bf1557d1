package store_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The stores depend on the contract, on the policy and on nothing else: a test
// helper would end up in every server, and the driver is the caller's choice.
func TestDependencies(t *testing.T) {
	const module = "github.com/curfew-oidc/curfew/"
	for _, pkg := range []string{"store", "store/memstore"} {
		out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", module+pkg).CombinedOutput()
		require.NoError(t, err, "%s", out)
		want := []string{module + "policy", module + "store"}
		if pkg == "store/memstore" {
			want = append(want, module+"store/internal/hourly")
		}
		if pkg != "store" {
			want = append(want, module+pkg)
		}
		require.ElementsMatch(t, want, strings.Fields(string(out)))
	}
	// The test would notice.
	out, err := exec.Command("go", "list", "-deps", module+"store/storetest").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, strings.Fields(string(out)), "testing")
}
