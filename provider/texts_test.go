package provider_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"html/template"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/internal/texts/textstest"
)

// familiesOfTexts are the codes that are put together from parts: a beginning, what can follow, and
// how it ends.
func familiesOfTexts(t *testing.T, answers []string) map[string][]string {
	family := func(parts []string, ends ...string) (all []string) {
		for _, part := range parts {
			for _, end := range ends {
				all = append(all, part+end)
			}
		}
		return all
	}
	units := []string{"minute", "hour", "day"}
	linked := slices.DeleteFunc(slices.Clone(provider.AskNotices), func(code string) bool { return code == "foreign" })
	require.Len(t, linked, len(provider.AskNotices)-1)
	return map[string][]string{
		"ago.":       append(units, "now"),
		"in.":        append(units, "now"),
		"limit.":     append(units, "second"),
		"month.":     strings.Fields("january february march april may june july august september october november december"),
		"ask.error.": provider.AskErrors,
		"notice.":    append(family(provider.AskNotices, ".title", ".text"), family(linked, ".link")...),
		"answer.":    family(answers, ".title", ".text"),
		"kind.":      nil, "reason.": nil, "reached.": nil, "cause.": nil, // all that policy has
	}
}

var (
	codeShape  = regexp.MustCompile(`^[a-z_]+(\.[a-z_]+)+$`)
	askedOf    = regexp.MustCompile(`\.(?:Text|Markup) "([^"]+)"([^{}|]*)`) // in a template
	quoted     = regexp.MustCompile(`"([^"]+)"`)
	inMessages = regexp.MustCompile(`\{([a-z]+)\}`)
)

// A use of a text: its code, and the names of the values that it gets.
type textUse struct {
	where, code string
	values      []string
}

// usesOfTexts finds all uses of texts in templates and code, and beginnings of codes that are put together.
func usesOfTexts(t *testing.T) (uses []textUse, literals map[string]string, beginnings map[string]bool, answers []string) {
	literals, beginnings = map[string]string{}, map[string]bool{}
	text := func(e ast.Expr) string {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			s, err := strconv.Unquote(lit.Value)
			require.NoError(t, err)
			return s
		}
		return ""
	}
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{"admin", "metrics", "providertest", "testdata", "textstest"}, d.Name()):
			return fs.SkipDir
		case strings.HasSuffix(path, ".html"):
			page, err := os.ReadFile(path)
			require.NoError(t, err)
			for _, m := range askedOf.FindAllStringSubmatch(string(page), -1) {
				use := textUse{where: path, code: m[1]}
				for _, name := range quoted.FindAllStringSubmatch(m[2], -1) {
					use.values = append(use.values, name[1])
				}
				uses = append(uses, use)
			}
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BasicLit:
					if s := text(n); codeShape.MatchString(s) {
						literals[s] = path
					}
				case *ast.BinaryExpr:
					if s := text(n.X); strings.HasSuffix(s, ".") {
						beginnings[s] = true
					}
				case *ast.ValueSpec:
					if len(n.Values) == 1 && text(n.Values[0]) != "" && strings.HasPrefix(n.Names[0].Name, "notice") {
						require.Contains(t, provider.AskNotices, text(n.Values[0]), "%s: %s", path, n.Names[0].Name)
					}
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "Code" || key.Name == "ErrorCode") {
						require.Contains(t, []string{"", "sample"}, text(n.Value), "%s: a code that is no constant", path)
					}
					if key, ok := n.Key.(*ast.Ident); ok && key.Name == "text" && strings.HasPrefix(path, "selfservice") {
						if s := text(n.Value); s != "" {
							answers = append(answers, s)
						}
					}
				case *ast.CallExpr:
					f, ok := n.Fun.(*ast.SelectorExpr)
					if !ok || f.Sel.Name != "Text" && f.Sel.Name != "Markup" || len(n.Args) == 0 || text(n.Args[0]) == "" {
						return true
					}
					use := textUse{where: path, code: text(n.Args[0])}
					for i := 1; i < len(n.Args); i += 2 {
						use.values = append(use.values, text(n.Args[i]))
					}
					uses = append(uses, use)
				}
				return true
			})
		}
		return nil
	}))
	return uses, literals, beginnings, answers
}

// A code that is used is in the catalogue, with the values that it is given; and one that is in
// the catalogue is used.
func TestEachTextIsUsed(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("internal/texts/en.json")
	require.NoError(t, err)
	var catalogue map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(file, &catalogue))
	groups := map[string]bool{}
	for code := range catalogue {
		group, _, _ := strings.Cut(code, ".")
		groups[group] = true
	}

	uses, literals, beginnings, answers := usesOfTexts(t)
	require.Greater(t, len(uses), 50)
	require.Len(t, answers, 8)
	used := map[string]bool{}
	for _, use := range uses {
		if !assertKnown(t, catalogue, use.code, use.where) {
			continue
		}
		used[use.code] = true
		needed := map[string]bool{}
		for _, m := range inMessages.FindAllStringSubmatch(string(catalogue[use.code]), -1) {
			needed[m[1]] = true
		}
		if strings.HasPrefix(string(catalogue[use.code]), "{") { // with plural forms
			needed["n"] = true
		}
		slices.Sort(use.values)
		require.Equal(t, slices.Sorted(maps.Keys(needed)), append([]string(nil), use.values...), "%s: %s", use.where, use.code)
	}
	for code, where := range literals {
		if group, _, _ := strings.Cut(code, "."); groups[group] && assertKnown(t, catalogue, code, where) {
			used[code] = true
		}
	}
	families := familiesOfTexts(t, answers)
	for begins := range beginnings {
		if group, _, _ := strings.Cut(begins, "."); groups[group] {
			require.Contains(t, families, begins, "its codes are not known")
		}
	}
	for begins, codes := range families {
		require.True(t, beginnings[begins], begins)
		for _, code := range codes {
			if assertKnown(t, catalogue, begins+code, "put together") {
				used[begins+code] = true
			}
		}
	}
	for code := range catalogue {
		if !used[code] {
			t.Errorf("%s is in the catalogue, and nothing uses it", code)
		}
	}
}

func assertKnown(t *testing.T, catalogue map[string]json.RawMessage, code, where string) bool {
	t.Helper()
	if catalogue[code] == nil {
		t.Errorf("%s: %s is not in the catalogue", where, code)
	}
	return catalogue[code] != nil
}

// What a page says is in its language: all of it comes from the catalogue.
func TestTemplatesHaveNoWords(t *testing.T) {
	t.Parallel()
	in := provider.PageTextsIn(textstest.Pseudo(t))
	session := provider.AskSession{ID: "1", Kind: policy.Kind("2"), Clients: []string{"3", "4"}, Network: "5", This: true}
	pending := provider.AskSession{ID: "6", Kind: policy.Kind("2"), Pending: true, Counts: true}
	for name, c := range map[string]struct {
		template *template.Template
		page     any
	}{
		"at the cap":   {provider.AskTemplate, provider.AskPage{PageTexts: in, Client: "7", Used: 2, Max: 2, Need: 1, Error: "8", More: 2, Sessions: []provider.AskSession{session, pending}}},
		"for a device": {provider.AskTemplate, provider.AskPage{PageTexts: in, Client: "7", UserCode: "9", Used: 5, Max: 5, Need: 2}},
		"a notice":     {provider.AskTemplate, provider.AskPage{PageTexts: in, Notice: &provider.AskNotice{Title: "1", Text: "2", Link: "3", LinkText: "4"}}},
		"sign out?":    {provider.LogoutTemplate, provider.LogoutPage{PageTexts: in, Confirm: &provider.LogoutConfirm{}}},
		"sign out to":  {provider.LogoutTemplate, provider.LogoutPage{PageTexts: in, Confirm: &provider.LogoutConfirm{To: "1"}}},
		"stayed":       {provider.LogoutTemplate, provider.LogoutPage{PageTexts: in, Stayed: true}},
		"frames":       {provider.LogoutTemplate, provider.LogoutPage{PageTexts: in, Frames: []string{"/1"}, Continue: "/2"}},
		"an error posted": {provider.FormPostTemplate, struct {
			provider.PageTexts
			Action string
			Fields []provider.LogoutField
		}{PageTexts: in}},
	} {
		var page strings.Builder
		require.NoError(t, c.template.Execute(&page, c.page), name)
		textstest.NoOtherWords(t, page.String(), name)
	}
}
