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

	// translated finds a decision that is "for the policy to say", instead of a policy
	// that decides, and a subject without a noun ("what is known of it",
	// "what it had"). An English writer names the noun.
	translated = regexp.MustCompile(`\b(?:is|are) for [a-z' ]{1,40} to (?:say|decide|tell|know)\b` +
		`|\b(?:[Ww]hat is (?:known|there to|meant|asked for)|what it had|of whom)\b`)
)

// longest is the number of words that a sentence may have: beyond it a reader has
// forgotten the subject. A clause after a colon or a semicolon is a sentence here.
const longest = 40

// records are the documents to which neither applies: the index of how things work,
// for those who read the code beside it, and the record of changes.
var records = []string{"CHANGELOG.md", "SECURITY.md"}

var (
	code   = regexp.MustCompile("`[^`]*`|\\]\\([^)]*\\)")
	pauses = regexp.MustCompile(`[.!?:;]["”)*]* `)
)

// tooLong returns the sentences of a text that have more than longest words.
func tooLong(text string) []string {
	text = code.ReplaceAllString(strings.Join(strings.Fields(text), " "), "code")
	return slices.DeleteFunc(pauses.Split(text, -1), func(s string) bool { return len(strings.Fields(s)) <= longest })
}

// heavy returns what of a text is longer, or less direct, than a sentence needs to be.
func heavy(text string) []string {
	return append(tooLong(text), translated.FindAllString(strings.Join(strings.Fields(text), " "), -1)...)
}

// riddles returns what of a text has to be read twice.
func riddles(text string) []string {
	text = strings.Join(strings.Fields(text), " ")
	found := slices.DeleteFunc(bareWho.FindAllString(text, -1), func(s string) bool { return strings.HasSuffix(s, "?") })
	return append(found, isNone.FindAllString(thereIsNone.ReplaceAllString(text, ""), -1)...)
}

// paragraph is where one ends: at an empty line, an item of a list, a row, a heading.
var paragraph = regexp.MustCompile(`\n\s*\n|\n\s*(?:[-*#|]|\d+\.)+ |\|`)

// preformatted is a line of code or of a table in a comment.
var preformatted = regexp.MustCompile(`(?m)^\t.*$`)

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
	for _, bad := range []string{
		"Whether it is over is for the policy to say.", "It returns what is known of it.", "A store that lost what it had",
		strings.Repeat("word ", longest+1), "Short. " + strings.Repeat("word ", longest) + "`code that counts once` word.",
	} {
		require.NotEmpty(t, heavy(bad), bad)
	}
	for _, good := range []string{
		"The policy decides. It is for tests, and to say more is easy.", "It is unknown.", strings.Repeat("word ", longest) + ". " + strings.Repeat("word ", longest),
		"[" + strings.Repeat("word ", longest-1) + "](#an-address)",
	} {
		require.Empty(t, heavy(good), good)
	}

	var found []string
	say := func(where, text string, faults func(string) []string) {
		for _, fault := range faults(text) {
			found = append(found, where+": "+fault)
		}
	}
	for file, text := range documents(t) {
		for _, p := range paragraph.Split(fenced.ReplaceAllString(text, ""), -1) {
			say(file, p, riddles)
			if !slices.Contains(records, file) {
				say(file, p, heavy)
			}
		}
	}
	for file, f := range sources(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for where, comment := range exportedComments(f) {
			say(file+" "+where, comment, riddles)
			for _, p := range paragraph.Split(preformatted.ReplaceAllString(comment, ""), -1) {
				say(file+" "+where, p, heavy)
			}
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
