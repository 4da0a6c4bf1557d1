// Package texts holds what people read on the pages of a provider: a text for each
// code, with the values in it by name. English is en.json, and what package policy
// says of reasons and kinds. Another language is one more such file.
//
// The console of administrators is in English, in its templates.
package texts

import (
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"golang.org/x/text/feature/plural"
	"golang.org/x/text/language"

	"github.com/curfew-oidc/curfew/policy"
)

//go:embed en.json
var englishFile []byte

// English is the catalogue that every other one is held against.
var English = mustEnglish()

// For returns the catalogue of the language for the reader of a page.
func For(*http.Request) *Catalogue { return English }

// A Catalogue is all texts in one language.
type Catalogue struct {
	language language.Tag
	messages map[string]message // by code
}

// A message is a text in each plural form that its language has (Unicode CLDR:
// "one", "few", "other"). The number that decides is the value "n".
type message map[string]string

// other is the form that each message has.
const other = "other"

// Lang is the language, for the attribute lang of HTML.
func (c *Catalogue) Lang() string { return c.language.String() }

// Text returns the text of a code. values are names and values in turn: "n", 3.
func (c *Catalogue) Text(code string, values ...any) string {
	return c.fill(code, values, func(v any) string { return fmt.Sprint(v) })
}

// Markup returns the text of a code for a page, with the elements that are in it.
// Values are escaped, but for those that are [template.HTML].
func (c *Catalogue) Markup(code string, values ...any) template.HTML {
	return template.HTML(c.fill(code, values, func(v any) string {
		if markup, ok := v.(template.HTML); ok {
			return string(markup)
		}
		return template.HTMLEscapeString(fmt.Sprint(v))
	}))
}

func (c *Catalogue) fill(code string, values []any, write func(any) string) string {
	m, known := c.messages[code]
	if !known {
		return code // a test finds it first
	}
	text := m[other]
	var replaced []string
	for i := 0; i+1 < len(values); i += 2 {
		n, isInt := values[i+1].(int)
		if form, ok := m[c.form(n)]; ok && isInt && values[i] == "n" {
			text = form
		}
		replaced = append(replaced, fmt.Sprintf("{%s}", values[i]), write(values[i+1]))
	}
	return strings.NewReplacer(replaced...).Replace(text) // what is in a value stays as it is
}

// form is the plural form of a number.
func (c *Catalogue) form(n int) string {
	switch plural.Cardinal.MatchPlural(c.language, n, 0, 0, 0, 0) {
	case plural.Zero:
		return "zero"
	case plural.One:
		return "one"
	case plural.Two:
		return "two"
	case plural.Few:
		return "few"
	case plural.Many:
		return "many"
	}
	return other
}

// ofPolicy are the texts that package policy has.
func ofPolicy() map[string]message {
	messages := map[string]message{}
	put := func(code, text string) { messages[code] = message{other: text} }
	for _, kind := range policy.Kinds() {
		put("kind."+string(kind), kind.Label())
	}
	for _, info := range append(policy.Reasons(), policy.Reason("").Info()) {
		code := codeOf(info)
		put("reason."+code, info.Sentence)
		put("cause."+code, info.Cause)
		if info.Limited != "" {
			put("reached."+code, strings.Replace(info.Limited, "%s", "{limit}", 1))
		}
	}
	return messages
}

// codeOf is the part of a code that stands for a reason; all that policy does not
// know have one in common.
func codeOf(info policy.ReasonInfo) string {
	if !info.Reason.Known() {
		return "unknown"
	}
	return string(info.Reason)
}
