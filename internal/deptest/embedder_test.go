package deptest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// raised are the modules of op that the library may raise, and add to what is built.
var raised = map[string]string{
	"golang.org/x/crypto": "seals tokens; op names a version with known vulnerabilities",
	"golang.org/x/sys":    "x/crypto needs it",
}

// named are modules that are in no program of an embedder, but in the list of their
// modules: what x/crypto, and packages and tests that they do not use, require.
var named = map[string]string{
	"golang.org/x/net":             "for a part of x/crypto",
	"golang.org/x/term":            "for a part of x/crypto",
	"github.com/coreos/go-oidc/v3": "for the middleware, which stands in applications",
	"pgregory.net/rapid":           "draws the cases of two tests; it has no requirements",
}

// stores are those that an embedder has the choice of, with a driver for each, and the
// modules of ours that come with it.
var stores = map[string]struct {
	driver, in string // the package, and its module
	with       []string
}{
	"store/memstore":    {},
	"store/sqlitestore": {"github.com/ncruces/go-sqlite3/driver", "github.com/ncruces/go-sqlite3", []string{"/store/sqlitestore"}},
	"store/pgstore":     {"github.com/jackc/pgx/v5/pgxpool", "github.com/jackc/pgx/v5", []string{"/store/pgstore", "/internal/pgprimary"}},
	"store/redisstore":  {"github.com/redis/go-redis/v9", "github.com/redis/go-redis/v9", []string{"/store/redisstore"}},
}

// An embedder of the library has nothing raised that is theirs, and builds nothing but what
// they use: a requirement of our tests is not one of theirs. One on a store has that
// store's driver before.
func TestEmbeddersKeepTheirModules(t *testing.T) {
	t.Parallel()
	for store, c := range stores {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			// Of op, and of the driver, the versions that we require.
			theirs := map[string]string{op: requiredVersion(t, ".", op)}
			imports := []string{op + "/pkg/op"}
			if c.driver != "" {
				theirs[c.in] = requiredVersion(t, store, c.in)
				imports = append(imports, c.driver)
				// What may be raised, and is built with a driver, at the version that is here.
				theirs["golang.org/x/sys"] = requiredVersion(t, ".", "golang.org/x/sys")
			}
			before := newEmbedder(t, theirs, imports...)
			require.Contains(t, before.built, op)
			require.Contains(t, before.listed, "golang.org/x/crypto")

			for _, path := range append([]string{""}, c.with...) {
				theirs[module+path] = release
			}
			after := newEmbedder(t, theirs, append(imports, module+"/policy", module+"/provider", module+"/store", module+"/"+store)...)
			require.Contains(t, after.built, module)
			for path := range after.built {
				if before.built[path] == "" && theirs[path] == "" && raised[path] == "" {
					t.Errorf("%s is built, which was not", path)
				}
			}
			for path, version := range after.listed {
				switch {
				case before.listed[path] == version || theirs[path] != "" || raised[path] != "":
				case named[path] != "":
					require.NotContains(t, after.built, path)
				case before.listed[path] != "":
					t.Errorf("%s is raised from %s to %s", path, before.listed[path], version)
				default:
					t.Errorf("%s %s is in the list of modules", path, version)
				}
			}
		})
	}
}

// requiredVersion is the version of a module that a module of ours requires.
func requiredVersion(t *testing.T, folder, path string) string {
	t.Helper()
	return strings.TrimSpace(string(goList(t, filepath.Join("..", "..", folder), "-m", "-f", "{{.Version}}", path)))
}

// An embedder is a module that uses op, and maybe the library.
type embedder struct {
	listed map[string]string // the versions of go list -m all
	built  map[string]string // of those of which a package is built
}

// newEmbedder makes a module that requires some, of which ours are those of this
// repository, and imports packages.
func newEmbedder(t *testing.T, requires map[string]string, imports ...string) embedder {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	mod := "module example.org/embedder\n\ngo 1.26.0\n"
	for path, version := range requires {
		mod += fmt.Sprintf("require %s %s\n", path, version)
		if below(path, module) {
			mod += fmt.Sprintf("replace %s => %s\n", path, filepath.Join(root, strings.TrimPrefix(path, module)))
		}
	}
	program := "package main\n\n"
	for _, path := range imports {
		program += fmt.Sprintf("import _ %q\n", path)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(program+"\nfunc main() {}\n"), 0o600))
	return embedder{
		// In this order: go list completes go.mod with the modules of what is imported.
		built: modules(t, dir, "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}", "."),
		// -e, as nothing is loaded here of modules that are only named.
		listed: modules(t, dir, "-m", "-e", "-f", "{{.Path}} {{.Version}}", "all"),
	}
}

// modules asks go list for paths and versions of modules. Nothing of them is run, so
// that no check sum is asked for: what make lint and our tests loaded is enough, without a
// network.
func modules(t *testing.T, dir string, args ...string) map[string]string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-mod=mod"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOSUMDB=off", "GOFLAGS=", "GOWORK=off")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	versions := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if path, version, _ := strings.Cut(strings.TrimSpace(line), " "); path != "" && path != "example.org/embedder" {
			versions[path] = version
		}
	}
	return versions
}
