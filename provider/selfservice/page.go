package selfservice

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"html/template"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/internal/plain"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/internal/page"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

//go:embed templates/sessions.html
var files embed.FS

var sessionsTemplate = template.Must(template.New("sessions.html").Funcs(template.FuncMap{
	"list": func(v ...any) []any { return v },
}).ParseFS(files, "templates/sessions.html"))

// styleName is the file of the style; styleLink has its content in it, so
// that browsers keep it for as long as it does not change.
const styleName = "style.css"

var styleLink = func() string {
	sum := sha256.Sum256(page.Style)
	return styleName + "?v=" + hex.EncodeToString(sum[:6])
}()

// Sessions is the answer in JSON. Times are RFC 3339 in UTC.
type Sessions struct {
	// Caps are the limits on how many sessions the user may hold at once: on all
	// of them, and those on some that they have.
	Caps []Cap `json:"caps"`

	// Sessions are the live sessions of this page, the one that the request
	// comes from first, then the one that was used last. There are Total of them
	// on Pages pages.
	Sessions []Session `json:"sessions"`
	Total    int       `json:"total"`
	Page     int       `json:"page"`
	Pages    int       `json:"pages"`

	// Pending is how many logins that are not completed hold a place.
	Pending int `json:"pending"`

	// Ended are sessions that ended lately, the latest first. If
	// EndedIncomplete is true there are too many for all to be looked at.
	Ended           []Ended `json:"ended"`
	EndedIncomplete bool    `json:"ended_incomplete"`

	now    time.Time
	others int
}

// A Cap is a limit on concurrent sessions: those of one kind or one client if
// Kind or Client is set, else all.
type Cap struct {
	Used   int         `json:"used"`
	Max    int         `json:"max"`
	Kind   policy.Kind `json:"kind,omitempty"`
	Client string      `json:"client,omitempty"`
}

// A Session is one session. Device and Network are empty if they are not
// known: the device is what a client said of itself.
type Session struct {
	SID          string        `json:"sid"`
	Current      bool          `json:"current"` // the request comes from it
	Kind         policy.Kind   `json:"kind"`
	Device       string        `json:"device"`          // "Firefox on Linux"
	Network      string        `json:"network"`         // "192.0.2.x"
	Applications []string      `json:"applications"`    // names of the clients, or their IDs
	Actor        string        `json:"actor,omitempty"` // the sub of somebody else who acts in it as the user
	Started      time.Time     `json:"started"`
	LastUsed     time.Time     `json:"last_used"`
	EndsAt       time.Time     `json:"ends_at,omitzero"`      // if it is not used again; absent: never
	EndsBecause  policy.Reason `json:"ends_because,omitzero"` // "inactivity" or "active_limit"
}

// A Ended is a session that has ended.
type Ended struct {
	Session
	EndedAt     time.Time     `json:"ended_at"`
	Reason      policy.Reason `json:"reason"`
	Description string        `json:"description"` // the reason in a sentence
}

const pageSize = 50

func newSessions(o provider.Overview, v visitor, page int, now time.Time) Sessions {
	out := Sessions{
		Caps: newCaps(o.Caps), Sessions: []Session{}, Ended: []Ended{},
		Total: len(o.Live), Pending: o.Pending, EndedIncomplete: o.Incomplete, now: now,
	}
	live := make([]Session, 0, len(o.Live))
	for i := range o.Live {
		s := newSession(&o.Live[i].Session)
		s.EndsAt, s.EndsBecause = o.Live[i].Deadline, o.Live[i].Limit
		if s.EndsAt.IsZero() {
			s.EndsBecause = ""
		}
		if s.SID == v.sid {
			s.Current = true
			live = append([]Session{s}, live...)
			continue
		}
		live = append(live, s)
		out.others++
	}
	out.Pages = max(1, (len(live)+pageSize-1)/pageSize)
	out.Page = min(page, out.Pages)
	first := (out.Page - 1) * pageSize
	out.Sessions = append(out.Sessions, live[first:min(len(live), first+pageSize)]...)
	for i := range o.Ended {
		s := &o.Ended[i]
		out.Ended = append(out.Ended, Ended{newSession(s), s.End.At, s.End.Reason, provider.Describe(*s)})
	}
	return out
}

// newCaps returns the caps that say something to the user: on all their sessions
// the strictest one, and those on some of which they have any.
func newCaps(all []provider.CapUse) []Cap {
	out := []Cap{}
	overall := -1
	for _, c := range all {
		cap := Cap{Used: c.Used, Max: c.Max, Kind: c.Scope.Kind, Client: view.Clean(c.Scope.Client)}
		switch {
		case cap.Kind == "" && cap.Client == "":
			if overall < 0 {
				out = append([]Cap{cap}, out...)
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

func newSession(s *store.Session) Session {
	out := Session{
		SID: s.ID, Kind: s.Kind, Device: plain.UserAgent(s.UserAgent), Network: plain.Network(s.Address),
		Applications: []string{}, Actor: view.Clean(s.Actor), Started: s.Started, LastUsed: s.LastActivity,
	}
	names := s.ClientNames
	if len(names) == 0 {
		names = []string{s.Client}
		for _, g := range s.Grants {
			if g.Revoked.IsZero() {
				names = append(names, g.Client)
			}
		}
	}
	seen := map[string]bool{"": true}
	for _, name := range names {
		if name = view.Clean(name); !seen[name] {
			seen[name] = true
			out.Applications = append(out.Applications, name)
		}
	}
	return out
}

// An answer is an answer other than the sessions.
type answer struct {
	status      int
	code        string // for programs
	Title, Text string // for people
	SignIn      bool   // leads to the page to sign in at
}

const nothingEnded = "Nothing was ended. Please go back and try again."

var (
	notSignedIn = answer{http.StatusUnauthorized, "not_signed_in", "You are not signed in",
		"Sign in to see where else you are signed in.", true}
	noSuchSession = answer{http.StatusNotFound, "not_found", "This sign-in is not known",
		"It is none of yours, or it ended so long ago that nobody remembers it.", false}
	noSuchPage = answer{http.StatusNotFound, "not_found", "There is no such page",
		"The address is not complete, or it has changed.", false}
	foreignForm = answer{http.StatusForbidden, "cross_origin", "This form was sent by another website",
		"For your safety it was not accepted, and nothing was ended. If you did not expect this page, close it.", false}
	formTooLarge = answer{http.StatusRequestEntityTooLarge, "too_large", "This form is too large", nothingEnded, false}
	badForm      = answer{http.StatusBadRequest, "invalid_request", "This form could not be read", nothingEnded, false}
	wrongMethod  = answer{http.StatusMethodNotAllowed, "method_not_allowed", "This is not how this page is used", nothingEnded, false}
	tryAgain     = answer{http.StatusServiceUnavailable, "unavailable", "Please try again",
		"Your sign-ins cannot be looked up at the moment. Nothing is lost by it: try again in a few seconds.", false}
)

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
	page.Protect(h, "style-src 'self'; form-action 'self'")
	h.Set("Vary", "Accept, Cookie")
}

func serveStyle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	w.Header().Del("Vary")
	_, _ = w.Write(page.Style) // a browser that went away is not an error here
}

// A pageData is what the template is executed with.
type pageData struct {
	Answer       *answer // if it is not nil, all that the page says
	Sessions     Sessions
	Notice       string
	Home, SignIn string
	Style        string
}

func (h *handler) writeSessions(w http.ResponseWriter, r *http.Request, s Sessions) {
	if wantsJSON(r) {
		writeJSON(w, http.StatusOK, s)
		return
	}
	h.writePage(w, http.StatusOK, pageData{Sessions: s, Notice: s.notice(r.URL.Query().Get("ended"))})
}

// refuse answers with something else than the sessions.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, a answer) {
	if wantsJSON(r) {
		writeJSON(w, a.status, struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}{a.code, a.Text})
		return
	}
	h.writePage(w, a.status, pageData{Answer: &a})
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
	p.Home, p.SignIn, p.Style = h.cfg.Home, h.cfg.SignIn, styleLink
	var body bytes.Buffer
	if err := sessionsTemplate.Execute(&body, p); err != nil { // values that it does not expect: a defect
		http.Error(w, "The page could not be written.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // a browser that went away is not an error here
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
func (s *Sessions) notice(ended string) string {
	n := 0
	for _, e := range s.Ended {
		lately := e.Reason == policy.ReasonEndedByUser && s.now.Sub(e.EndedAt) < noticeFor
		switch {
		case lately && e.SID == ended:
			return "Ended: " + e.Title() + ". Whoever uses it has to sign in again there."
		case lately:
			n++
		}
	}
	switch {
	case ended != othersEnded || n == 0:
		return ""
	case n == 1:
		return "The other sign-in was ended."
	case n == provider.MaxOverviewEnded:
		return "All other sign-ins were ended."
	}
	return strconv.Itoa(n) + " other sign-ins were ended."
}

// Title names a session for people: by its device, else by its kind.
func (s Session) Title() string {
	if s.Device != "" {
		return s.Device
	}
	return view.KindName(s.Kind)
}

// KindName is the kind in words, if the title does not say it.
func (s Session) KindName() string {
	if s.Device == "" || s.Kind == policy.Browser {
		return ""
	}
	return view.KindName(s.Kind)
}

// Icon is the name of the picture for the session.
func (s Session) Icon() string { return view.Icon(s.Kind, s.Device) }

// Words says what the cap is on, after "sign-ins": "in browsers".
func (c Cap) Words() string {
	switch {
	case c.Client != "":
		return "in " + c.Client
	case c.Kind == policy.Browser:
		return "in browsers"
	case c.Kind == policy.CLI:
		return "on command lines and devices"
	case c.Kind == policy.Automation:
		return "of automation"
	case c.Kind != "":
		return "of the kind " + view.KindName(c.Kind)
	}
	return ""
}

// Full reports whether there is no place left.
func (c Cap) Full() bool { return c.Used >= c.Max }

// Slots are the places of a cap that is small enough to be drawn, each true if it
// is taken.
func (c Cap) Slots() []bool {
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
func (c Cap) Percent() int { return min(100, 100*c.Used/max(1, c.Max)) }

// Others is how many live sessions there are beside the one that the request
// comes from.
func (s Sessions) Others() int { return s.others }

// Current reports whether the request is known to come from one of the sessions.
func (s Sessions) Current() bool { return s.others < s.Total }

// Previous and Next are the numbers of the pages beside this one; 0: there is none.
func (s Sessions) Previous() int { return s.Page - 1 }

func (s Sessions) Next() int {
	if s.Page == s.Pages {
		return 0
	}
	return s.Page + 1
}

func (s Sessions) when(t time.Time, words string) view.Time {
	return view.Time{At: t.UTC().Format(time.RFC3339), Date: plain.Date(t), Words: words}
}

// Past and Future write a point in time as of when the page was made.
func (s Sessions) Past(t time.Time) view.Time { return s.when(t, plain.Ago(s.now.Sub(t))) }

func (s Sessions) Future(t time.Time) view.Time { return s.when(t, plain.In(t.Sub(s.now))) }
