package deptest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxMethods is how many methods a type may have: what one person can keep in mind.
const maxMethods = 40

// Nobody can hold a type of a hundred methods in their head, each of which may change all
// of its state.
func TestNoTypeIsTooLarge(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	methods := map[string]int{}
	for _, tree := range []string{"middleware", "policy", "provider", "store"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, tree), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			dir, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil {
					methods[filepath.ToSlash(dir)+"."+receiver(f.Recv.List[0].Type)]++
				}
			}
			return nil
		}))
	}
	require.Greater(t, methods["middleware.RelyingParty"], 10, "they are counted")
	for name, n := range methods {
		if n > maxMethods {
			t.Errorf("%s has %d methods, more than %d: split it by what it owns", name, n, maxMethods)
		}
	}
}

// receiver returns the name of the type of a receiver.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
