package doctest

import (
	"go/ast"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// bareWho finds a "who" that is its own subject: at the beginning of a sentence ("Who is
// signed in notices") or of a clause ("; who asks for more gets 429"), or after a
// word that wants a noun ("by who waits"). What says which person, after a noun or
// in a question, is another thing: "users who sign in", "says who ended it".
//
// isNone finds "that is none"; "there is none" is plain.
var (
	bareWho = regexp.MustCompile(`(?:^W|(?:[.;:!?)*] +|\b(?i:by|for|from|to|with|than|unless|if|while|since|because|but|that) |, (?:and|so|or) )[Ww])ho [a-z]+\b[^.;:!?]*.?`)
	isNone  = regexp.MustCompile(`[^.;:]*\b(?:is|are|was|were|be) none\b`)

	thereIsNone = regexp.MustCompile(`\b[Tt]here (?:is|are|was|were|must be|will be) none\b`)
)

// riddles returns what of a text has to be read twice.
func riddles(text string) []string {
	text = strings.Join(strings.Fields(text), " ")
	found := slices.DeleteFunc(bareWho.FindAllString(text, -1), func(s string) bool { return strings.HasSuffix(s, "?") })
	return append(found, isNone.FindAllString(thereIsNone.ReplaceAllString(text, ""), -1)...)
}

// paragraph is where one ends: at an empty line, an item of a list, a row, a heading.
var paragraph = regexp.MustCompile(`\n\s*\n|\n\s*(?:[-*#|]|\d+\.)+ |\|`)

func TestPlainEnglish(t *testing.T) {
	for _, bad := range []string{
		"Who is signed in notices none of it.", "few; who asks for more gets 429", "sent by who waits for it",
		"nobody signs in, and who is signed in gets 503", "a port that is none", "For all. Who saves it wins.",
		"For who runs a provider",
	} {
		require.NotEmpty(t, riddles(bad), bad)
	}
	for _, good := range []string{
		"users who sign in", "it says who ended it", "If there is none, the error is", "Who may do it?",
		"Alice, who is in the group", "for people who read", "nonetheless",
	} {
		require.Empty(t, riddles(good), good)
	}

	var found []string
	say := func(where, text string) {
		for _, riddle := range riddles(text) {
			found = append(found, where+": "+riddle)
		}
	}
	for file, text := range documents(t) {
		for _, p := range paragraph.Split(fenced.ReplaceAllString(text, ""), -1) {
			say(file, p)
		}
	}
	for file, f := range sources(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for where, comment := range exportedComments(f) {
			say(file+" "+where, comment)
		}
	}
	slices.Sort(found)
	require.Empty(t, found, "%d sentences to be said more plainly:\n%s", len(found), strings.Join(found, "\n"))
}

// exportedComments are what pkg.go.dev shows of a file, by name.
func exportedComments(f *ast.File) map[string]string {
	comments := map[string]string{"package": f.Doc.Text()}
	add := func(id *ast.Ident, groups ...*ast.CommentGroup) {
		for _, g := range groups {
			if id.IsExported() && id.Name != "Who" { // which begins with its name, as comments do
				comments[id.Name] += "\n" + g.Text()
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			add(n.Name, n.Doc)
			return false
		case *ast.GenDecl:
			if exported(n) {
				comments["package"] += "\n" + n.Doc.Text()
			}
		case *ast.TypeSpec:
			add(n.Name, n.Doc, n.Comment)
		case *ast.ValueSpec:
			add(n.Names[0], n.Doc, n.Comment)
		case *ast.Field:
			for _, id := range n.Names {
				add(id, n.Doc, n.Comment)
			}
		}
		return true
	})
	return comments
}

// exported reports whether a declaration declares anything that others see, other than
// policy.Who.
func exported(d *ast.GenDecl) bool {
	return slices.ContainsFunc(d.Specs, func(spec ast.Spec) bool {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			return spec.Name.IsExported() && spec.Name.Name != "Who"
		case *ast.ValueSpec:
			return spec.Names[0].IsExported()
		}
		return false
	})
}
