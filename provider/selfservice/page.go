package selfservice

import (
	"cmp"
	"embed"
	"encoding/json"
	"html/template"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/internal/page"
	"github.com/curfew-oidc/curfew/provider/internal/texts"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

//go:embed templates/sessions.html
var files embed.FS

var sessionsTemplate = template.Must(template.New("sessions.html").Funcs(template.FuncMap{
	"clean": view.Clean,
	"list":  func(v ...any) []any { return v },
}).ParseFS(files, "templates/sessions.html"))

// styleName is the file of the style.
const styleName = "style.css"

var style = page.NewStylesheet(styleName, page.Style)

// loads is what a page may load, and where its forms lead.
const loads = "style-src 'self'; form-action 'self'"

// A list is what there is to say of somebody's sessions: a page of the live ones,
// and those that ended lately.
type list struct {
	Caps []capView

	// Live are the live sessions of this page, the one that the request comes
	// from first, then the one that was used last. There are Total of them on
	// Pages pages.
	Live               []view.Session
	Total, Page, Pages int

	// Others is how many live sessions there are beside the one that the request
	// comes from.
	Others int

	// Pending is how many logins that are not completed hold a place.
	Pending int

	Ended           []view.Session
	EndedIncomplete bool

	now time.Time
	in  *texts.Catalogue
}

const pageSize = 50

func newList(o provider.Overview, v visitor, page int, now time.Time, in *texts.Catalogue) list {
	l := list{Caps: newCaps(o.Caps), Total: len(o.Live), Pending: o.Pending, EndedIncomplete: o.Incomplete, now: now, in: in}
	live := o.Live
	if own := slices.IndexFunc(live, func(s provider.LiveSession) bool { return s.ID == v.sid }); own >= 0 {
		live = slices.Concat(live[own:own+1], live[:own], live[own+1:])
		l.Others = l.Total - 1
	} else {
		l.Others = l.Total
	}
	l.Pages = max(1, (len(live)+pageSize-1)/pageSize)
	l.Page = min(page, l.Pages)
	first := (l.Page - 1) * pageSize
	for _, s := range live[first:min(len(live), first+pageSize)] {
		one := view.Of(s.Session, now, in)
		one.EndsAt(s.Deadline, s.Limit)
		one.Current = s.ID == v.sid
		l.Live = append(l.Live, one)
	}
	for _, s := range o.Ended {
		l.Ended = append(l.Ended, view.Of(s, now, in))
	}
	return l
}

// Current reports whether the request is known to come from one of the sessions.
func (l list) Current() bool { return l.Others < l.Total }

// Previous and Next are the numbers of the pages beside this one; 0: there is none.
func (l list) Previous() int { return l.Page - 1 }

func (l list) Next() int {
	if l.Page == l.Pages {
		return 0
	}
	return l.Page + 1
}

// A capView is a cap as the page draws it.
type capView struct{ Cap }

// newCaps returns the caps that say something to the user: on all their sessions
// the strictest one, and those on some of which they have any.
func newCaps(all []provider.CapUse) []capView {
	var out []capView
	overall := -1
	for _, c := range all {
		cap := capView{Cap{Used: c.Used, Max: c.Max, Kind: c.Scope.Kind, Client: view.Clean(c.Scope.Client)}}
		switch {
		case cap.Kind == "" && cap.Client == "":
			if overall < 0 {
				out = append([]capView{cap}, out...)
				overall = 0
			} else if cap.Max-cap.Used < out[overall].Max-out[overall].Used {
				out[overall] = cap
			}
		case c.Used > 0:
			out = append(out, cap)
		}
	}
	return out
}

// An answer is an answer other than the sessions.
type answer struct {
	status int
	code   string // for programs
	text   string // for people: the part of the code of its texts
	told   string // what is said instead of its text
	SignIn bool   // leads to the page to sign in at
}

var (
	notSignedIn   = answer{status: http.StatusUnauthorized, code: "not_signed_in", text: "not_signed_in", SignIn: true}
	noSuchSession = answer{status: http.StatusNotFound, code: "not_found", text: "no_session"}
	noSuchPage    = answer{status: http.StatusNotFound, code: "not_found", text: "no_page"}
	foreignForm   = answer{status: http.StatusForbidden, code: "cross_origin", text: "foreign"}
	formTooLarge  = answer{status: http.StatusRequestEntityTooLarge, code: "too_large", text: "too_large"}
	badForm       = answer{status: http.StatusBadRequest, code: "invalid_request", text: "unreadable"}
	wrongMethod   = answer{status: http.StatusMethodNotAllowed, code: "method_not_allowed", text: "wrong_method"}
	tryAgain      = answer{status: http.StatusServiceUnavailable, code: "unavailable", text: "unavailable"}
)

// title and words are what the answer says.
func (a answer) title(in *texts.Catalogue) string { return in.Text("answer." + a.text + ".title") }

func (a answer) words(in *texts.Catalogue) string {
	return cmp.Or(a.told, in.Text("answer."+a.text+".text"))
}

// wantsJSON reports whether a request asks for JSON, rather than for a page.
func wantsJSON(r *http.Request) bool {
	if format := r.URL.Query().Get("format"); format != "" {
		return format == "json"
	}
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			switch mediaType, params, err := mime.ParseMediaType(strings.TrimSpace(part)); {
			case err != nil || params["q"] == "0":
			case mediaType == "text/html":
				return false
			case mediaType == "application/json":
				return true
			}
		}
	}
	return false
}

// setHeaders sets what every answer has.
func setHeaders(h http.Header) {
	page.Protect(h, loads)
	h.Set("Vary", "Accept, Cookie")
}

// A pageData is what the template is executed with.
type pageData struct {
	*texts.Catalogue

	Answer       *answer // if it is not nil, all that the page says
	Title, Lead  string  // of the answer
	Sessions     list
	Notice       string
	Home, SignIn string
	Style        string
}

func (h *handler) writeSessions(w http.ResponseWriter, r *http.Request, l list) {
	if wantsJSON(r) {
		writeJSON(w, http.StatusOK, l.json())
		return
	}
	h.writePage(w, http.StatusOK, pageData{Catalogue: l.in, Sessions: l, Notice: l.notice(r.URL.Query().Get("ended"))})
}

// refuse answers with something else than the sessions.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, a answer) {
	in := texts.For(r)
	if wantsJSON(r) {
		writeJSON(w, a.status, struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}{a.code, a.words(in)})
		return
	}
	h.writePage(w, a.status, pageData{Catalogue: in, Answer: &a, Title: a.title(in), Lead: a.words(in)})
}

// done answers when something was ended: the page is shown anew, so that to load it
// again sends nothing again.
func (h *handler) done(w http.ResponseWriter, r *http.Request, n int, what string) {
	if wantsJSON(r) {
		writeJSON(w, http.StatusOK, struct {
			Ended int `json:"ended"`
		}{n})
		return
	}
	// Relative, to be right wherever it is installed; http.Redirect would make
	// it absolute.
	w.Header().Set("Location", "./?ended="+url.QueryEscape(what))
	w.WriteHeader(http.StatusSeeOther)
}

func (h *handler) writePage(w http.ResponseWriter, status int, p pageData) {
	p.Home, p.SignIn, p.Style = h.cfg.Home, h.cfg.SignIn, style.Link
	if err := page.Execute(w, status, loads, sessionsTemplate, p); err != nil { // values that it does not expect: a defect
		http.Error(w, "The page could not be written.", http.StatusInternalServerError)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // strings, numbers and times in the years that JSON knows
		http.Error(w, `{"error":"internal"}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// noticeFor is for how long after an end the page may say that it was just made.
const noticeFor = 5 * time.Minute

// notice says what was ended just now. Anybody can make an address with ended in
// it: what it says is what the sessions say.
func (l list) notice(ended string) string {
	n := 0
	for _, e := range l.Ended {
		lately := e.Ended.Reason == policy.ReasonEndedByUser && l.now.Sub(e.Ended.At.At) < noticeFor
		switch {
		case lately && e.ID == ended:
			return l.in.Text("mine.did.one", "title", e.Title())
		case lately:
			n++
		}
	}
	switch {
	case ended != othersEnded || n == 0:
		return ""
	case n == provider.MaxOverviewEnded:
		return l.in.Text("mine.did.all")
	}
	return l.in.Text("mine.did.others", "n", n)
}

// Uses says how many places of the cap are taken.
func (c capView) Uses(in *texts.Catalogue) template.HTML {
	on := map[policy.Kind]string{"": "mine.cap", policy.Browser: "mine.cap.browser", policy.CLI: "mine.cap.cli", policy.Automation: "mine.cap.automation"}
	name, code := view.KindName(c.Kind, in), cmp.Or(on[c.Kind], "mine.cap.kind")
	if c.Client != "" {
		name, code = c.Client, "mine.cap.client"
	}
	return in.Markup(code, "used", c.Used, "n", c.Max, "name", name)
}

// Full reports whether there is no place left.
func (c capView) Full() bool { return c.Used >= c.Max }

// Slots are the places of a cap that is small enough to be drawn, each true if it
// is taken.
func (c capView) Slots() []bool {
	if c.Max > 20 || c.Used > c.Max {
		return nil
	}
	slots := make([]bool, c.Max)
	for i := range c.Used {
		slots[i] = true
	}
	return slots
}

// Percent is how much of a cap is used, at most 100.
func (c capView) Percent() int { return min(100, 100*c.Used/max(1, c.Max)) }
