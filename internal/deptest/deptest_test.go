package deptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/curfew-oidc/curfew"

// What the rules below are about.
const (
	op    = "github.com/zitadel/oidc/v3"
	yaml3 = "go.yaml.in/yaml/v3"

	prometheus = "github.com/prometheus"
	otel       = "go.opentelemetry.io/otel"

	singleflight = "golang.org/x/sync/singleflight" // of the Go project, 200 lines, imports the standard library alone
)

// drivers are modules that talk to a database.
var drivers = []string{
	"github.com/ncruces/go-sqlite3", "modernc.org/sqlite", "github.com/mattn/go-sqlite3",
	"github.com/jackc/pgx", "github.com/lib/pq",
	"github.com/redis/go-redis", "github.com/gomodule/redigo",
}

// testOnly are packages that belong in tests.
var testOnly = []string{"testing", "github.com/stretchr/testify", "pgregory.net/rapid"}

// rules are about packages of the module, those below them included unless only
// is set. What a rule says of imports it says of indirect ones too.
var rules = []struct {
	pkg  string
	only bool
	not  []string // must not be imported, nor anything below
	std  bool     // nothing but the standard library and just
	just []string
	why  string
}{
	{
		pkg: "policy", only: true, std: true,
		why: "the rule has to be read and believed on its own: no clock, no I/O, nobody else's code",
	},
	{
		pkg: "policy/policyyaml", std: true, just: []string{module + "/policy", yaml3},
		why: "who reads settings as YAML gets a YAML parser, and nothing that belongs to a provider or a store",
	},
	{
		pkg: "store", not: []string{module + "/provider", module + "/middleware", op},
		why: "policy <- store <- provider goes one way: a store keeps documents, whoever they are of",
	},
	{
		pkg: "store", only: true, not: drivers,
		why: "the contract must not link one of its implementations",
	},
	{
		pkg: "provider", only: true, not: drivers,
		why: "the embedder picks the store, and links no other database",
	},
	{
		pkg: "provider", only: true, not: []string{prometheus},
		why: "who does not switch metrics on links no client of Prometheus",
	},
	{
		pkg: "provider/admin", not: slices.Concat(drivers, []string{prometheus}),
		why: "it looks after whatever store the hook has",
	},
	{
		pkg: "provider/selfservice", not: slices.Concat(drivers, testOnly, []string{prometheus, module + "/provider/admin"}),
		why: "a user's own page is served where no administrator's page may be, and links none of what one can do",
	},
	{
		pkg: "provider/admin", not: []string{module + "/provider/selfservice"},
		why: "administration does not depend on what users are shown: what both have is below them, in provider/internal",
	},
	{
		pkg: "provider/metrics", not: slices.Concat(drivers, testOnly),
		why: "it measures whatever store it is given, in production",
	},
	{pkg: "store", not: []string{prometheus}, why: "metrics are of the provider: provider/metrics measures any store"},
	{
		pkg: "store/tracestore", not: slices.Concat(drivers, testOnly, []string{otel + "/sdk"}),
		why: "which spans are kept, and where they go, is the embedder's choice: the API alone makes them",
	},
	{
		pkg: "store/sqlitestore", std: true, just: []string{module + "/store", module + "/policy", module + "/internal/sqlitefile"},
		why: "the driver is the caller's choice",
	},
	{
		pkg: "store", only: true, not: []string{otel},
		why: "who does not trace links no OpenTelemetry",
	},
	{
		pkg: "provider", not: []string{module + "/middleware"},
		why: "the provider's side and the application's share the wire, not code",
	},
	{
		pkg: "provider/internal/seal", std: true,
		just: []string{module + "/provider/internal/seal", module + "/store", module + "/policy", "golang.org/x/crypto", "golang.org/x/sys"},
		why:  "what is sealed is opened by whatever stands before the engine: no op, no HTTP",
	},
	{
		pkg: "provider/internal/session", std: true,
		just: []string{module + "/provider/internal/session", module + "/provider/internal/seal", module + "/store", module + "/policy", "golang.org/x/crypto", "golang.org/x/sys"},
		why:  "the engine takes logins as plain values, whatever stands before it",
	},
	{pkg: "provider/internal/session", not: []string{op, "net/http"}, why: "the engine knows neither op nor HTTP"},
	{
		pkg: "provider/internal/browser", not: []string{op},
		why: "which browser this is does not depend on who asks",
	},
	{
		pkg: "provider/internal/notify", not: []string{op, module + "/provider/internal/seal"},
		why: "what is owed is owed whoever signed the user in, and whatever the sender is",
	},
	{
		pkg: "middleware", not: append([]string{op + "/pkg/op", module + "/provider"}, drivers...),
		why: "an application is no provider and has no database of ours",
	},
	{
		pkg: "examples/cli", not: append([]string{op, module + "/provider", module + "/store", module + "/internal"}, drivers...),
		why: "an example uses what everybody can use, and a command line has no provider in it; the words for an end are in policy",
	},
	{
		pkg: "middleware", only: true, std: true,
		just: []string{module + "/middleware", module + "/policy", module + "/internal/keylock", module + "/internal/loopback", "github.com/coreos/go-oidc/v3", "github.com/go-jose/go-jose/v4", "golang.org/x/oauth2", singleflight},
		why:  "it goes into every application: two libraries for the protocol and what they need, the words for an end, and one package for questions that are asked once",
	},
	{
		pkg: "middleware/resource", std: true,
		just: []string{
			module + "/middleware/resource", module + "/middleware/internal/issuer", module + "/internal/loopback", "github.com/coreos/go-oidc/v3", "github.com/go-jose/go-jose/v4",
			"golang.org/x/oauth2", singleflight,
		},
		why: "it goes into every API, which has no session and no end to tell of",
	},
	{
		pkg: "policy", not: testOnly,
		why: "a test helper in a production binary is somebody else's incident",
	},
	{pkg: "store", only: true, not: testOnly, why: "the same; storetest is a package of its own"},
	{pkg: "store/memstore", not: testOnly, why: "the same"},
	{pkg: "store/sqlitestore", not: testOnly, why: "the same"},
	{pkg: "provider/admin", only: true, not: testOnly, why: "the same; admintest is a package of its own"},
	{pkg: "provider/admin/console", not: testOnly, why: "the same"},
	{pkg: "provider", only: true, not: testOnly, why: "the same; providertest is a package of its own"},
	{pkg: "middleware", only: true, not: testOnly, why: "the same"},
	{pkg: "middleware/clitoken", not: testOnly, why: "the same"},
	{pkg: "middleware/resource", not: testOnly, why: "the same"},
}

// A pkg is what go list says of a package of the module.
type pkg struct {
	ImportPath string
	Deps       []string
}

func TestImports(t *testing.T) {
	packages, standard := list(t)
	for _, r := range rules {
		for _, p := range packages {
			path := module + "/" + r.pkg
			if p.ImportPath != path && (r.only || !below(p.ImportPath, path)) {
				continue
			}
			for _, dep := range p.Deps {
				for _, banned := range r.not {
					if below(dep, banned) {
						t.Errorf("%s imports %s: %s", p.ImportPath, dep, r.why)
					}
				}
				if r.std && !standard[dep] && !slices.ContainsFunc(r.just, func(ok string) bool { return below(dep, ok) }) {
					t.Errorf("%s imports %s, which is not in the standard library: %s", p.ImportPath, dep, r.why)
				}
			}
		}
	}
}

// TestRulesFindSomething holds that the packages that exist by now are found
// under the names that the rules use, and that a ban would be noticed.
func TestRulesFindSomething(t *testing.T) {
	packages, standard := list(t)
	deps := map[string][]string{}
	for _, p := range packages {
		deps[p.ImportPath] = p.Deps
	}
	for _, name := range []string{"policy", "policy/policyyaml", "store", "provider", "middleware", "examples/cli"} {
		require.Contains(t, deps, module+"/"+name)
	}
	require.True(t, standard["time"])
	require.False(t, standard[yaml3])
	require.Contains(t, deps[module+"/policy/policyyaml"], yaml3)
	require.Contains(t, deps[module+"/store"], module+"/policy")
	require.True(t, slices.ContainsFunc(deps[module+"/provider"], func(dep string) bool { return below(dep, op) }))
	require.True(t, slices.ContainsFunc(deps[module+"/provider/metrics"], func(dep string) bool { return below(dep, prometheus) }))
	require.Contains(t, deps[module+"/store/tracestore"], otel+"/trace")
	require.False(t, below("github.com/lib/pqx", "github.com/lib/pq"))
}

// below reports whether path is root or below it.
func below(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

// list asks go list for the packages of all modules of the repository, and which of
// all packages they import are the standard library's.
func list(t *testing.T) (packages []pkg, standard map[string]bool) {
	t.Helper()
	standard = map[string]bool{}
	for _, folder := range folders(t) {
		// -e, because a package elsewhere that does not compile is not our matter.
		out := goList(t, folder, "-e", "-deps", "-json=ImportPath,Standard,Deps", "./...")
		for dec := json.NewDecoder(bytes.NewReader(out)); ; {
			var p struct {
				pkg
				Standard bool
			}
			err := dec.Decode(&p)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			if _, known := standard[p.ImportPath]; known {
				continue
			}
			standard[p.ImportPath] = p.Standard
			if below(p.ImportPath, module) {
				packages = append(packages, p.pkg)
			}
		}
	}
	require.NotEmpty(t, packages)
	return packages, standard
}

// folders are those of the modules of the repository, but of the tools'.
func folders(t *testing.T) (list []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "tools"):
			return fs.SkipDir
		case d.Name() == "go.mod":
			list = append(list, filepath.Dir(path))
		}
		return nil
	}))
	require.Contains(t, list, filepath.Join("..", ".."))
	require.Contains(t, list, filepath.Join("..", "..", "internal", "bench"))
	return list
}

func goList(t *testing.T, folder string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = folder
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return out
}
