package console

import (
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/internal/page"
	"github.com/curfew-oidc/curfew/provider/internal/texts"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

//go:embed templates/*.html
var files embed.FS

//go:embed console.css
var ownStyle []byte

// styleName is the file of the style.
const styleName = "console.css"

// style is that of the page of one's own sessions with what the console has beside
// it: they look as of one hand.
var style = page.NewStylesheet(styleName, page.Style, ownStyle)

var templates = func() map[string]*template.Template {
	m := map[string]*template.Template{}
	for _, name := range []string{
		"accounts", "activity", "answer", "deliveries", "edit", "ending", "explain", "history", "overrides", "overview",
		"presets", "review", "session", "sessions", "stale",
	} {
		m[name] = template.Must(template.New("layout.html").Funcs(template.FuncMap{
			"lower":   lowerFirst,
			"list":    func(v ...any) []any { return v },
			"clean":   view.Clean,
			"grouped": grouped,
			"path":    url.PathEscape,
			"plural":  plural,
			"reason":  func(r policy.Reason) string { return r.Info().Label },
		}).ParseFS(files, "templates/layout.html", "templates/"+name+".html"))
	}
	return m
}()

// loads is what a page may load, and where its forms lead.
const loads = "style-src 'self'; img-src 'self'; form-action 'self'"

// setHeaders sets what every answer has.
func setHeaders(h http.Header) {
	page.Protect(h, loads)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Vary", "Cookie")
}

// A layout is what the layout is executed with.
type layout struct {
	Title                 string
	Root, Style           string
	Home, SignIn, SignOut string
	Account, Path         string // Path is the address of the account's pages
	Actor                 string
	Menu                  []menuItem
	ReadOnly              string
	Notice                string
	Body                  any
}

type menuItem struct {
	Title, Page string
	Current     bool
}

// The menu, with what one may need to do to see a page.
var menuPages = []struct {
	title, page string
	action      admin.Action
}{

	{"Login session", "", admin.ReadSettings},
	{"Overrides", "overrides", admin.ReadSettings},
	{"Explain", "explain", admin.ReadSettings},
	{"History", "history", admin.ReadSettings},
	{"Sessions", "sessions", admin.ReadSessions},
	{"Deliveries", "deliveries", admin.ReadSessions},
	{"Activity", "activity", admin.ReadSessions},
}

// render writes a page of the given template. menu is the page in the menu that
// it belongs to.
func (c *console) render(v *visit, status int, name, title, menu string, body any, notice ...string) {
	p := layout{
		Title: title, Root: v.root(), Style: style.Link,
		Home: c.cfg.Home, SignIn: c.cfg.SignIn, SignOut: c.cfg.SignOut,
		Account: view.Clean(v.account), Actor: view.Clean(v.actor.ID), Body: body,
	}
	if v.account != "" {
		p.Path, p.ReadOnly = p.Root+url.PathEscape(v.account)+"/", c.service.ReadOnly
		for _, item := range menuPages {
			if v.may(item.action) {
				p.Menu = append(p.Menu, menuItem{item.title, item.page, item.page == menu})
			}
		}
	}
	for _, text := range notice {
		p.Notice += text
	}
	if err := page.Execute(v.w, status, loads, templates[name], p); err != nil { // values that it does not expect: a defect
		c.service.Failed(v.r, err)
		http.Error(v.w, "The page could not be written.", http.StatusInternalServerError)
	}
}

// fromHere reports whether a request follows from one of the console's own pages,
// as browsers say (Fetch Metadata): what its address claims to have happened is
// only shown then.
func (v *visit) fromHere() bool { return v.r.Header.Get("Sec-Fetch-Site") == "same-origin" }

func (v *visit) past(t time.Time) view.Time { return view.Past(t, v.now, texts.English) }

// A pair is a name and what it says.
type pair struct{ Name, Value string }

// An option is one choice of a list.
type option struct {
	Value, Label string
	Chosen       bool
}

// options marks the chosen one of a list of pairs of value and label.
func options(chosen string, pairs ...string) []option {
	var list []option
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, option{pairs[i], pairs[i+1], pairs[i] == chosen})
	}
	return list
}

func kindOptions(chosen, all string) []option {
	var list []option
	for _, kind := range policy.Kinds() {
		list = append(list, option{string(kind), kindsInWords(kind), string(kind) == chosen})
	}
	if all != "" {
		list = append(options(chosen, "", all), list...)
	}
	return list
}

// A warningView is a warning for people.
type warningView struct{ Severity, Where, Text, Source, Rule string }

func warningViews(list []policy.Warning) []warningView {
	out := make([]warningView, len(list))
	for i, w := range list {
		severity := map[policy.Severity]string{policy.Info: "Note", policy.Warn: "Warning", policy.Wrong: "Problem"}[w.Severity]
		out[i] = warningView{severity, whereInWords(w.Path), upperFirst(durationsInWords(w.Text)) + ".", w.Source + ", " + w.Revision, w.Rule}
	}
	return out
}
