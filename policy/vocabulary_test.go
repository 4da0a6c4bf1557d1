package policy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

// constantsOf returns the values, or the names where the value is a number, of
// the package's constants of a type.
func constantsOf(t *testing.T, typ string) (values []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range f.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.CONST {
				continue
			}
			counting := false // a block that counts with iota names its type once
			for _, spec := range gen.Specs {
				spec := spec.(*ast.ValueSpec)
				id, ok := spec.Type.(*ast.Ident)
				if counting = spec.Type == nil && counting || ok && id.Name == typ; !counting {
					continue
				}
				value := spec.Names[0].Name
				if len(spec.Values) > 0 {
					if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
						value, err = strconv.Unquote(lit.Value)
						require.NoError(t, err)
					}
				}
				values = append(values, value)
			}
		}
	}
	require.NotEmpty(t, values)
	return values
}

func TestKindsHaveNoHole(t *testing.T) {
	var listed []string
	for _, k := range policy.Kinds() {
		listed = append(listed, string(k))
		require.True(t, k.Known())
		require.NotEqual(t, string(k), k.Label())
		require.NotEqual(t, string(k), k.Plural())
	}
	require.ElementsMatch(t, constantsOf(t, "Kind"), listed, "a kind without a row")
	require.False(t, policy.Kind("phone").Known())
	require.False(t, policy.Kind("").Known())
	require.Equal(t, "phone", policy.Kind("phone").Label())
	require.Equal(t, "Browser", policy.Kind("").Label())
}

func TestClassesHaveNoHole(t *testing.T) {
	require.Len(t, policy.AllClasses(), len(constantsOf(t, "Class")), "a class without a row")
	seen := map[string]bool{}
	for _, c := range policy.AllClasses() {
		parsed, err := policy.ParseClass(c.String())
		require.NoError(t, err)
		require.Equal(t, c, parsed)
		require.NotEmpty(t, c.Label())
		require.False(t, seen[c.Label()] || seen[c.String()])
		seen[c.Label()], seen[c.String()] = true, true
	}
	require.Equal(t, "Class(99)", policy.Class(99).Label())
}

func TestAtLimitsHaveNoHole(t *testing.T) {
	require.Len(t, policy.AtLimits(), len(constantsOf(t, "AtLimit"))-1, "an action without a row")
	require.NotContains(t, policy.AtLimits(), policy.InheritAtLimit)
	seen := map[string]bool{}
	for _, a := range policy.AtLimits() {
		var parsed policy.AtLimit
		require.NoError(t, parsed.UnmarshalText([]byte(a.String())))
		require.Equal(t, a, parsed)
		require.NotEmpty(t, a.Label())
		require.False(t, seen[a.Label()] || seen[a.String()])
		seen[a.Label()], seen[a.String()] = true, true
	}
	require.Equal(t, "AtLimit(99)", policy.AtLimit(99).Label())
}
