package provider_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const opModule = "github.com/zitadel/oidc/v3"

// Tests of op that are expected to pass on op as it is and to fail on a
// decorated storage, each with its reason.
var failsDecorated = map[string]string{
	"pkg/op TestRoutes":                                                 "see its parts",
	"pkg/op TestRoutes/refresh_token":                                   manyTokensOfOneCode,
	"pkg/op TestServerRoutes":                                           "see its parts",
	"pkg/op TestServerRoutes/refresh_token":                             manyTokensOfOneCode,
	"pkg/op TestCreateDeviceTokenResponse":                              "see its parts",
	"pkg/op TestCreateDeviceTokenResponse/access_token":                 noDeviceCode,
	"pkg/op TestCreateDeviceTokenResponse/access_and_refresh_tokens":    noDeviceCode,
	"pkg/op TestCreateDeviceTokenResponse/access_and_id_token":          noDeviceCode,
	"pkg/op TestCreateDeviceTokenResponse/access,_refresh_and_id_token": noDeviceCode,
}

const (
	manyTokensOfOneCode = "it calls op.CreateAccessToken three times for one authorization request, which no client can do: " +
		"a code that is redeemed again voids the refresh token that came of it before"
	noDeviceCode = "it calls op.CreateDeviceTokenResponse outside of any request, so that there is no device code"
)

// TestOwnTestsOfOp runs op's own tests, once on op as it is and once on op
// with the hook, and compares them by name.
//
// They are the tests of pkg/op, and of pkg/client, which drives the example
// server over HTTP through op's own clients, in both ways of embedding. Both
// make their providers themselves, so op has to be changed to decorate what it
// is given: its module is copied to a temporary folder, op.NewProvider passes
// the storage, and op.NewProvider and op.RegisterServer their handler, to a
// variable, and testdata/parity/decorate_test.go, which sets the variables, is
// put next to the tests. The first run leaves the variables alone.
//
// Tests of functions that take a mock storage or none run too, but prove
// nothing about the hook; they are not told apart. Tests that call op's
// functions outside of any HTTP request are helped by decorate_test.go: each
// call to the storage then becomes a request of its own. The packages
// pkg/client/rp, pkg/oidc and the like make no provider and are left out, and so
// is one test that asks a server on the internet.
func TestOwnTestsOfOp(t *testing.T) {
	t.Parallel()
	modfile := copyOfOp(t)
	plain := runOwnTests(t, modfile)
	decorated := runOwnTests(t, modfile, "CURFEW_DECORATE=1")

	for _, must := range []string{
		"pkg/op TestRoutes/Token_exchange", "pkg/op TestServerRoutes/Token_exchange", "pkg/op TestDeviceAccessToken",
		"pkg/client TestRelyingPartySession", "pkg/client TestResourceServerTokenExchange",
	} {
		require.Equal(t, "pass", plain[must], "op has no test %q any more, or it fails without the hook", must)
	}
	for name, was := range plain {
		is := decorated[name]
		if reason, ok := failsDecorated[name]; ok {
			require.Equal(t, "pass", was, "%s fails without the hook: not listed rightly", name)
			require.Equal(t, "fail", is, "%s does not fail any more, though it was expected to: %s", name, reason)
			continue
		}
		if was != is {
			t.Errorf("%s: %s on op as it is, %s on op with the hook", name, was, is)
		}
	}
	for name := range decorated {
		require.Contains(t, plain, name)
	}
	for name := range failsDecorated {
		require.Contains(t, plain, name, "op has no such test")
	}
}

// copyOfOp makes the changed copy and returns a go.mod that replaces op by it.
func copyOfOp(t *testing.T) (modfile string) {
	t.Helper()
	own := sourceOfOp(t)
	dir := t.TempDir()
	copied := filepath.Join(dir, "op")
	require.NoError(t, filepath.WalkDir(own, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(own, path)
		if err != nil {
			return err
		}
		to := filepath.Join(copied, rel)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, data, 0o644)
	}))

	edit := func(file, old, instead string) {
		t.Helper()
		path := filepath.Join(copied, filepath.FromSlash(file))
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Contains(t, string(data), old, "op has changed: %s must be decorated in another way", file)
		require.NoError(t, os.WriteFile(path, bytes.ReplaceAll(data, []byte(old), []byte(instead)), 0o644))
	}
	edit("pkg/op/op.go",
		"\tkeySet := &OpenIDKeySet{storage}\n\teasgcmCrypto",
		"\tstorage = DecorateStorage(storage)\n\tkeySet := &OpenIDKeySet{storage}\n\teasgcmCrypto")
	edit("pkg/op/op.go",
		"o.Handler = CreateRouter(o, o.interceptors...)",
		"o.Handler = DecorateHandler(CreateRouter(o, o.interceptors...))")
	edit("pkg/op/server_http.go", "\treturn ws\n}\n", "\tws.handler = DecorateHandler(ws.handler)\n\treturn ws\n}\n")
	edit("pkg/op/device_test.go",
		"testProvider.Storage().(*storage.Storage)", "undecorated(testProvider.Storage()).(*storage.Storage)")
	require.NoError(t, os.WriteFile(filepath.Join(copied, "pkg", "op", "decorate.go"), []byte(`package op

import "net/http"

var (
	DecorateStorage = func(s Storage) Storage { return s }
	DecorateHandler = func(h http.Handler) http.Handler { return h }
)
`), 0o644))
	decorate, err := os.ReadFile(filepath.Join("..", "testdata", "parity", "decorate_test.go"))
	require.NoError(t, err)
	for folder, name := range map[string]string{"op": "op_test", "client": "client_test"} {
		require.NoError(t, os.WriteFile(filepath.Join(copied, "pkg", folder, "decorate_test.go"),
			bytes.Replace(decorate, []byte("\npackage op_test\n"), []byte("\npackage "+name+"\n"), 1), 0o644))
	}

	mod, err := os.ReadFile(filepath.Join("..", "go.mod"))
	require.NoError(t, err)
	sum, err := os.ReadFile(filepath.Join("..", "go.sum"))
	require.NoError(t, err)
	modfile = filepath.Join(dir, "parity.mod")
	require.NoError(t, os.WriteFile(modfile, append(mod, "\nreplace "+opModule+" => "+copied+"\n"...), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "parity.sum"), sum, 0o644))
	return modfile
}

// runOwnTests returns the outcome of each test by "package name".
func runOwnTests(t *testing.T, modfile string, env ...string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "-count=1", "-timeout=5m", "-vet=off",
		"-trimpath",            // or what was built for the last temporary folder would be of no use for this one
		"-skip=^TestDiscover$", // asks a server on the internet
		"-mod=mod", "-modfile="+modfile,
		opModule+"/pkg/op", opModule+"/pkg/client")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), append([]string{"GOFLAGS=", "GOWORK=off"}, env...)...)
	cmd.WaitDelay = time.Second
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil {
		require.ErrorAs(t, err, &exit) // that tests fail is for the comparison
	}
	outcomes := map[string]string{}
	log := map[string]*strings.Builder{}
	scanner := bufio.NewScanner(bytes.NewReader(out))
	scanner.Buffer(nil, 1<<24)
	for scanner.Scan() {
		var e struct{ Action, Package, Test, Output string }
		require.NoError(t, json.Unmarshal(scanner.Bytes(), &e), "%s", scanner.Text())
		name := strings.TrimPrefix(e.Package, opModule+"/") + " " + e.Test
		switch e.Action {
		case "output":
			if log[name] == nil {
				log[name] = &strings.Builder{}
			}
			log[name].WriteString(e.Output)
		case "pass", "fail", "skip":
			if e.Test != "" {
				outcomes[name] = e.Action
			}
			if e.Action == "fail" {
				t.Logf("%v %s fails:\n%s", env, name, log[name])
			}
		}
	}
	require.NoError(t, scanner.Err())
	// A run that stopped half-way has fewer outcomes than were started.
	require.Greater(t, len(outcomes), 500, "%s", problems.String())
	return outcomes
}

// sourceOfOp returns the folder of op's module, as built.
func sourceOfOp(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", opModule)
	out, err := cmd.Output()
	require.NoError(t, err)
	dir := strings.TrimSpace(string(out))
	require.NotEmpty(t, dir, "op's module is not in the module cache")
	return dir
}
