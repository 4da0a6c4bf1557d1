package doctest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// repository is the repository. By its names go test knows which files its results
// depend on.
var repository = os.DirFS("../..")

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := fs.ReadFile(repository, file)
	require.NoError(t, err)
	return string(text)
}

// documents are the Markdown files of the repository.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		files, err := fs.Glob(repository, pattern)
		require.NoError(t, err)
		for _, file := range files {
			docs[file] = read(t, file)
		}
	}
	for _, file := range []string{
		"README.md", "CHANGELOG.md", "SECURITY.md",
		"docs/architecture.md", "docs/benchmarks.md", "docs/embedding.md", "docs/internals.md", "docs/policy.md", "docs/rules.md",
	} {
		require.NotEmpty(t, docs[file], file)
	}
	return docs
}

var goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

var (
	indent  = regexp.MustCompile(`(?m)^\t+`)
	comment = regexp.MustCompile(`[ \t]+//`)
)

// unindented takes the differences out that gofmt makes: indentation, and where
// comments begin.
func unindented(code string) string {
	return comment.ReplaceAllString(indent.ReplaceAllString(code, ""), " //")
}

// TestGoCodeInDocs looks for each Go block in the examples of the packages, which compile,
// and which pkg.go.dev shows too.
func TestGoCodeInDocs(t *testing.T) {
	var compiled strings.Builder
	for file := range sources(t) {
		if name := path.Base(file); strings.HasPrefix(name, "example") && strings.HasSuffix(name, "_test.go") {
			compiled.WriteString(unindented(read(t, file)))
		}
	}
	found := map[string]int{}
	for file, text := range documents(t) {
		for _, block := range goBlock.FindAllStringSubmatch(text, -1) {
			found[file]++
			require.True(t, strings.Contains(compiled.String(), unindented(block[1])), "%s: in no example_test.go:\n%s", file, block[1])
		}
	}
	require.Positive(t, found["README.md"])
	require.Positive(t, found["docs/embedding.md"])
}

// TestREADMEStartsWithCode holds the README to its promise: what it is in one
// sentence, and ten lines of code where they are seen without scrolling.
func TestREADMEStartsWithCode(t *testing.T) {
	readme := read(t, "README.md")
	block := goBlock.FindStringSubmatchIndex(readme)
	require.NotNil(t, block)
	require.LessOrEqual(t, strings.Count(readme[:block[1]], "\n")+1, 25, "the code ends below line 25")
	require.Equal(t, 10, strings.Count(readme[block[2]:block[3]], "\n"), "lines of code")
}

var (
	link    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	fenced  = regexp.MustCompile("(?ms)^```.*?^```$")
	unslug  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// slugs are the anchors of the headings of a document.
func slugs(text string) []string {
	var list []string
	for _, h := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		list = append(list, strings.ReplaceAll(unslug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
	}
	return list
}

func TestLinksResolve(t *testing.T) {
	links := 0
	for file, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			target, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			links++
			linked := file
			if target != "" {
				linked = path.Join(path.Dir(file), target)
				require.True(t, exists(linked), "%s: %s", file, m[1])
			}
			if fragment != "" {
				require.Contains(t, slugs(read(t, linked)), fragment, "%s: %s", file, m[1])
			}
		}
	}
	require.Greater(t, links, 5)
}

// exists reports whether a file is there, or a folder with code.
func exists(name string) bool {
	info, err := fs.Stat(repository, name)
	if err == nil && info.IsDir() {
		files, err := fs.Glob(repository, path.Join(name, "*.go"))
		return err == nil && len(files) > 0
	}
	return err == nil
}

// sources are the Go files of the module, parsed.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	files, err := parsed()
	require.NoError(t, err)
	return files
}

var parsed = sync.OnceValues(func() (map[string]*ast.File, error) {
	files := map[string]*ast.File{}
	err := fs.WalkDir(repository, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && name != "." {
			return skipHidden(err)
		}
		if d.IsDir() || path.Ext(name) != ".go" {
			return nil
		}
		source, err := fs.ReadFile(repository, name)
		if err != nil {
			return err
		}
		files[name], err = parser.ParseFile(token.NewFileSet(), name, source, parser.ParseComments|parser.SkipObjectResolution)
		return err
	})
	return files, err
})

// skipHidden skips a hidden folder, unless there was an error.
func skipHidden(err error) error {
	if err != nil {
		return err
	}
	return fs.SkipDir
}

// declared returns the names of what a file declares: functions, methods as
// Type.Method and Method, types, variables and constants.
func declared(f *ast.File) []string {
	var names []string
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names = append(names, d.Name.Name)
			if d.Recv != nil {
				typ := d.Recv.List[0].Type
				if star, ok := typ.(*ast.StarExpr); ok {
					typ = star.X
				}
				if generic, ok := typ.(*ast.IndexExpr); ok {
					typ = generic.X
				}
				if id, ok := typ.(*ast.Ident); ok {
					names = append(names, id.Name+"."+d.Name.Name)
				}
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					names = append(names, spec.Name.Name)
				case *ast.ValueSpec:
					for _, id := range spec.Names {
						names = append(names, id.Name)
					}
				}
			}
		}
	}
	return names
}

var (
	testName  = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+`)
	codeName  = regexp.MustCompile("`([A-Za-z][A-Za-z.]*)` in `([a-z_/]+\\.go)`")
	goFile    = regexp.MustCompile("`([a-z_/]+\\.go)`")
	eventName = regexp.MustCompile(`^Event[A-Z]\w+$`)
)

// TestDocsNameWhatExists finds in the code what the documents name: tests,
// files, and functions with the file that they are in.
func TestDocsNameWhatExists(t *testing.T) {
	code := sources(t)
	var tests []string
	for file, f := range code {
		if strings.HasSuffix(file, "_test.go") {
			tests = append(tests, declared(f)...)
		}
	}
	count := 0
	for file, text := range documents(t) {
		for _, name := range testName.FindAllString(fenced.ReplaceAllString(text, ""), -1) {
			require.True(t, slices.Contains(tests, name), "%s: there is no %s", file, name)
			count++
		}
		for _, m := range goFile.FindAllStringSubmatch(text, -1) {
			require.True(t, code[m[1]] != nil, "%s: there is no %s", file, m[1])
		}
		for _, m := range codeName.FindAllStringSubmatch(text, -1) {
			require.True(t, slices.Contains(declared(code[m[2]]), m[1]), "%s: there is no %s", file, m[0])
			count++
		}
	}
	require.Greater(t, count, 20)
}

// qualified finds the exported names of our packages, as documents write them:
// `policy.Reasons`, `provider.Config.Keys`.
var qualified = regexp.MustCompile("`([a-z]+)\\.([A-Z]\\w*)[^`]*`")

// TestDocsNameWhatIsExported holds what documents say of packages to what these have. The
// changelog and the list of old faults speak of what was.
func TestDocsNameWhatIsExported(t *testing.T) {
	exported := map[string]map[string]bool{} // by the name of the package
	for file, f := range sources(t) {
		if strings.HasSuffix(file, "_test.go") || strings.Contains(file, "internal/") || strings.HasPrefix(file, "examples/") {
			continue
		}
		if exported[f.Name.Name] == nil {
			exported[f.Name.Name] = map[string]bool{}
		}
		for _, name := range declared(f) {
			exported[f.Name.Name][name] = true
		}
	}
	count := 0
	for file, text := range documents(t) {
		if file == "CHANGELOG.md" || file == "SECURITY.md" {
			continue
		}
		for _, m := range qualified.FindAllStringSubmatch(text, -1) {
			if names := exported[m[1]]; names != nil {
				require.True(t, names[m[2]], "%s: %s: there is no %s.%s", file, m[0], m[1], m[2])
				count++
			}
		}
	}
	require.Greater(t, count, 20)
}

func TestEmbeddingNamesEverySettingAndEvent(t *testing.T) {
	text := documents(t)["docs/embedding.md"]
	config := reflect.TypeFor[provider.Config]()
	for i := range config.NumField() {
		name := config.Field(i).Name
		require.True(t, strings.Contains(text, "`"+name+"`"), "Config.%s is not in docs/embedding.md", name)
	}
	events := slices.DeleteFunc(declared(sources(t)["provider/events.go"]), func(name string) bool {
		return !eventName.MatchString(name) || name == "EventType"
	})
	require.NotEmpty(t, events)
	for _, name := range events {
		require.True(t, strings.Contains(text, "`"+name+"`"), "%s is not in docs/embedding.md", name)
	}
}

// TestOperationsNamesWhatThereIs holds what an operator is told to watch for to the
// metrics that there are, and to the names of events and reasons.
func TestOperationsNamesWhatThereIs(t *testing.T) {
	text := documents(t)["docs/operations.md"]
	known := map[string]bool{}
	for _, metric := range metricName.FindAllStringSubmatch(read(t, "provider/metrics/metrics.go"), -1) {
		known[metric[1]] = true
	}
	require.Greater(t, len(known), 20)
	for _, constant := range constants.FindAllStringSubmatch(read(t, "provider/events.go"), -1) {
		known[constant[1]] = true
	}
	for _, info := range policy.Reasons() {
		known[string(info.Reason)] = true
	}
	_, section, ok := strings.Cut(text, "\n## What to watch\n")
	require.True(t, ok)
	section, _, ok = strings.Cut(section, "\n## ")
	require.True(t, ok)
	names := quotedName.FindAllStringSubmatch(section, -1)
	require.Greater(t, len(names), 20)
	for _, name := range names {
		require.True(t, known[name[1]], "%s is no metric, event or reason", name[1])
	}
}

// TestOperationsListsTestedVersions holds the table to what must be in it: readers of
// "tested" have to learn of what is not.
func TestOperationsListsTestedVersions(t *testing.T) {
	_, section, ok := strings.Cut(documents(t)["docs/operations.md"], "\n## Tested versions\n")
	require.True(t, ok)
	section, _, ok = strings.Cut(section, "\n## ")
	require.True(t, ok)
	for _, want := range []string{"PostgreSQL", "15", "Redis", "7.0", "sentinel", "fail-over", "cluster of three", "SQLite", "Untested", "Valkey"} {
		require.Contains(t, section, want)
	}
}

var (
	metricName = regexp.MustCompile(`"(curfew_[a-z_]+)"`)
	constants  = regexp.MustCompile(`(?m)^\t\w+ +(?:EventType|Reason) += "(\w+)"`)
	quotedName = regexp.MustCompile("`([a-z_]{6,})`")
)

// TestNoTestSkips keeps tests from skipping silently: what a test needs is
// there, or it fails.
func TestNoTestSkips(t *testing.T) {
	for file, f := range sources(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if f, ok := call.Fun.(*ast.SelectorExpr); ok {
				require.NotContains(t, []string{"Skip", "Skipf", "SkipNow"}, f.Sel.Name, file)
			}
			return true
		})
	}
}

// TestEachRuleHasItsTests holds docs/rules.md: fifteen rules, each with a row of tests,
// and no comment about a rule that is not there.
func TestEachRuleHasItsTests(t *testing.T) {
	text, proof, ok := strings.Cut(documents(t)["docs/rules.md"], "\n## Where each rule is kept\n")
	require.True(t, ok)
	const rules = 15
	require.Len(t, rule.FindAllString(text, -1), rules)
	rows := ruleRow.FindAllStringSubmatch(proof, -1)
	require.Len(t, rows, rules)
	for i, row := range rows {
		require.Equal(t, strconv.Itoa(i+1), row[1])
		require.Regexp(t, testName, row[2], "rule %d", i+1)
	}
	cited := 0
	for file, f := range sources(t) {
		for _, group := range f.Comments {
			for _, number := range citedRule.FindAllStringSubmatch(group.Text(), -1) {
				n, err := strconv.Atoi(number[1])
				require.NoError(t, err)
				require.LessOrEqual(t, n, rules, "%s: %s", file, number[0])
				cited++
			}
		}
	}
	require.Positive(t, cited)
}

var (
	rule      = regexp.MustCompile(`(?m)^\d+\. \*\*`)
	ruleRow   = regexp.MustCompile(`(?m)^\| (\d+)\. [^|]*\|[^|]*\|([^|]*)\|$`)
	citedRule = regexp.MustCompile(`\b[Rr]ule (\d+)\b`)
)
