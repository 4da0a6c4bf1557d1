package admin

import (
	"bytes"
	"cmp"
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
	"unicode"

	"github.com/curfew-oidc/curfew/internal/plain"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/internal/page"
	"github.com/curfew-oidc/curfew/store"
)

//go:embed templates/mine.html
var mineFiles embed.FS

//go:embed static/mine.css
var mineStyle []byte

var mineTemplate = template.Must(template.New("mine.html").Funcs(template.FuncMap{
	"list": func(v ...any) []any { return v },
}).ParseFS(mineFiles, "templates/mine.html"))

// mineStyleName is the file of the style; mineStyleLink has its content in it, so
// that browsers keep it for as long as it does not change.
const mineStyleName = "style.css"

var mineStyleLink = func() string {
	sum := sha256.Sum256(mineStyle)
	return mineStyleName + "?v=" + hex.EncodeToString(sum[:6])
}()

// MineSessions is the answer of [Mine] in JSON. Times are RFC 3339 in UTC.
type MineSessions struct {
	// Caps are the limits on how many sessions the user may hold at once: on all
	// of them, and those on some that they have.
	Caps []MineCap `json:"caps"`

	// Sessions are the live sessions of this page, the one that the request
	// comes from first, then the one that was used last. There are Total of them
	// on Pages pages.
	Sessions []MineSession `json:"sessions"`
	Total    int           `json:"total"`
	Page     int           `json:"page"`
	Pages    int           `json:"pages"`

	// Pending is how many logins that are not completed hold a place.
	Pending int `json:"pending"`

	// Ended are sessions that ended lately, the latest first. If
	// EndedIncomplete is true there are too many for all to be looked at.
	Ended           []MineEnded `json:"ended"`
	EndedIncomplete bool        `json:"ended_incomplete"`

	now    time.Time
	others int
}

// A MineCap is a limit on concurrent sessions: those of one kind or one client if
// Kind or Client is set, else all.
type MineCap struct {
	Used   int         `json:"used"`
	Max    int         `json:"max"`
	Kind   policy.Kind `json:"kind,omitempty"`
	Client string      `json:"client,omitempty"`
}

// A MineSession is one session. Device and Network are empty if they are not
// known: the device is what a client said of itself.
type MineSession struct {
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

// A MineEnded is a session that has ended.
type MineEnded struct {
	MineSession
	EndedAt     time.Time     `json:"ended_at"`
	Reason      policy.Reason `json:"reason"`
	Description string        `json:"description"` // the reason in a sentence
}

const minePageSize = 50

func newMineSessions(o provider.Overview, v visitor, page int, now time.Time) MineSessions {
	out := MineSessions{
		Caps: mineCaps(o.Caps), Sessions: []MineSession{}, Ended: []MineEnded{},
		Total: len(o.Live), Pending: o.Pending, EndedIncomplete: o.Incomplete, now: now,
	}
	live := make([]MineSession, 0, len(o.Live))
	for i := range o.Live {
		s := newMineSession(&o.Live[i].Session)
		s.EndsAt, s.EndsBecause = o.Live[i].Deadline, o.Live[i].Limit
		if s.EndsAt.IsZero() {
			s.EndsBecause = ""
		}
		if s.SID == v.sid {
			s.Current = true
			live = append([]MineSession{s}, live...)
			continue
		}
		live = append(live, s)
		out.others++
	}
	out.Pages = max(1, (len(live)+minePageSize-1)/minePageSize)
	out.Page = min(page, out.Pages)
	first := (out.Page - 1) * minePageSize
	out.Sessions = append(out.Sessions, live[first:min(len(live), first+minePageSize)]...)
	for i := range o.Ended {
		s := &o.Ended[i]
		out.Ended = append(out.Ended, MineEnded{newMineSession(s), s.End.At, s.End.Reason, provider.Describe(*s)})
	}
	return out
}

// mineCaps returns the caps that say something to the user: on all their sessions
// the strictest one, and those on some of which they have any.
func mineCaps(all []provider.CapUse) []MineCap {
	out := []MineCap{}
	overall := -1
	for _, c := range all {
		cap := MineCap{Used: c.Used, Max: c.Max, Kind: c.Scope.Kind, Client: clean(c.Scope.Client)}
		switch {
		case cap.Kind == "" && cap.Client == "":
			if overall < 0 {
				out = append([]MineCap{cap}, out...)
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

func newMineSession(s *store.Session) MineSession {
	out := MineSession{
		SID: s.ID, Kind: s.Kind, Device: plain.UserAgent(s.UserAgent), Network: plain.Network(s.Address),
		Applications: []string{}, Actor: clean(s.Actor), Started: s.Started, LastUsed: s.LastActivity,
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
		if name = clean(name); !seen[name] {
			seen[name] = true
			out.Applications = append(out.Applications, name)
		}
	}
	return out
}

// clean makes a name that an application chose fit for a line of text: without
// line breaks, invisible characters, those that change the direction of what
// follows and those that pile up, and not longer than a line.
func clean(name string) string {
	const most = 60
	n, marks := 0, 0
	name = strings.Map(func(r rune) rune {
		if n++; n > 4*most {
			return -1
		}
		if marks++; !unicode.IsMark(r) {
			marks = 0
		}
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r), marks > 2:
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, "\ufffd"))
	name = strings.Join(strings.Fields(name), " ")
	if runes := []rune(name); len(runes) > most {
		name = strings.TrimSpace(string(runes[:most-1])) + "\u2026"
	}
	return name
}

// A mineAnswer is an answer other than the sessions.
type mineAnswer struct {
	status      int
	code        string // for programs
	Title, Text string // for people
	SignIn      bool   // leads to the page to sign in at
}

const nothingEnded = "Nothing was ended. Please go back and try again."

var (
	notSignedIn = mineAnswer{http.StatusUnauthorized, "not_signed_in", "You are not signed in",
		"Sign in to see where else you are signed in.", true}
	noSuchSession = mineAnswer{http.StatusNotFound, "not_found", "This sign-in is not known",
		"It is none of yours, or it ended so long ago that nobody remembers it.", false}
	noSuchPage = mineAnswer{http.StatusNotFound, "not_found", "There is no such page",
		"The address is not complete, or it has changed.", false}
	foreignForm = mineAnswer{http.StatusForbidden, "cross_origin", "This form was sent by another website",
		"For your safety it was not accepted, and nothing was ended. If you did not expect this page, close it.", false}
	formTooLarge = mineAnswer{http.StatusRequestEntityTooLarge, "too_large", "This form is too large", nothingEnded, false}
	badForm      = mineAnswer{http.StatusBadRequest, "invalid_request", "This form could not be read", nothingEnded, false}
	wrongMethod  = mineAnswer{http.StatusMethodNotAllowed, "method_not_allowed", "This is not how this page is used", nothingEnded, false}
	tryAgain     = mineAnswer{http.StatusServiceUnavailable, "unavailable", "Please try again",
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

// mineHeaders sets what every answer has.
func mineHeaders(h http.Header) {
	page.Protect(h, "style-src 'self'; form-action 'self'")
	h.Set("Vary", "Accept, Cookie")
}

func serveMineStyle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	w.Header().Del("Vary")
	_, _ = w.Write(mineStyle) // a browser that went away is not an error here
}

// A minePage is what the template is executed with.
type minePage struct {
	Answer       *mineAnswer // if it is not nil, all that the page says
	Sessions     MineSessions
	Notice       string
	Home, SignIn string
	Style        string
}

func (m *mine) writeSessions(w http.ResponseWriter, r *http.Request, s MineSessions) {
	if wantsJSON(r) {
		writeMineJSON(w, http.StatusOK, s)
		return
	}
	m.writePage(w, http.StatusOK, minePage{Sessions: s, Notice: s.notice(r.URL.Query().Get("ended"))})
}

// refuse answers with something else than the sessions.
func (m *mine) refuse(w http.ResponseWriter, r *http.Request, a mineAnswer) {
	if wantsJSON(r) {
		writeMineJSON(w, a.status, struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}{a.code, a.Text})
		return
	}
	m.writePage(w, a.status, minePage{Answer: &a})
}

// done answers when something was ended: the page is shown anew, so that to load it
// again sends nothing again.
func (m *mine) done(w http.ResponseWriter, r *http.Request, n int, what string) {
	if wantsJSON(r) {
		writeMineJSON(w, http.StatusOK, struct {
			Ended int `json:"ended"`
		}{n})
		return
	}
	// Relative, to be right wherever it is installed; http.Redirect would make
	// it absolute.
	w.Header().Set("Location", "./?ended="+url.QueryEscape(what))
	w.WriteHeader(http.StatusSeeOther)
}

func (m *mine) writePage(w http.ResponseWriter, status int, p minePage) {
	p.Home, p.SignIn, p.Style = m.cfg.Home, m.cfg.SignIn, mineStyleLink
	var body bytes.Buffer
	if err := mineTemplate.Execute(&body, p); err != nil { // values that it does not expect: a defect
		http.Error(w, "The page could not be written.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // a browser that went away is not an error here
}

func writeMineJSON(w http.ResponseWriter, status int, v any) {
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
func (s *MineSessions) notice(ended string) string {
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
func (s MineSession) Title() string {
	if s.Device != "" {
		return s.Device
	}
	return kindInWords(s.Kind)
}

// KindName is the kind in words, if the title does not say it.
func (s MineSession) KindName() string {
	if s.Device == "" || s.Kind == policy.Browser {
		return ""
	}
	return kindInWords(s.Kind)
}

// Icon is the name of the picture for the session.
func (s MineSession) Icon() string {
	switch {
	case s.Kind == policy.CLI:
		return "terminal"
	case s.Kind == policy.Automation:
		return "gear"
	case strings.HasSuffix(s.Device, "iPhone"), strings.HasSuffix(s.Device, "Android"):
		return "phone"
	}
	return "screen"
}

func kindInWords(kind policy.Kind) string {
	return cmp.Or(clean(kind.Label()), "Another sign-in")
}

// Words says what the cap is on, after "sign-ins": "in browsers".
func (c MineCap) Words() string {
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
		return "of the kind " + kindInWords(c.Kind)
	}
	return ""
}

// Full reports whether there is no place left.
func (c MineCap) Full() bool { return c.Used >= c.Max }

// Slots are the places of a cap that is small enough to be drawn, each true if it
// is taken.
func (c MineCap) Slots() []bool {
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
func (c MineCap) Percent() int { return min(100, 100*c.Used/max(1, c.Max)) }

// Others is how many live sessions there are beside the one that the request
// comes from.
func (s MineSessions) Others() int { return s.others }

// Current reports whether the request is known to come from one of the sessions.
func (s MineSessions) Current() bool { return s.others < s.Total }

// Previous and Next are the numbers of the pages beside this one; 0: there is none.
func (s MineSessions) Previous() int { return s.Page - 1 }

func (s MineSessions) Next() int {
	if s.Page == s.Pages {
		return 0
	}
	return s.Page + 1
}

// A mineTime is a point in time with the words for it.
type mineTime struct{ At, Date, Words string }

func (s MineSessions) when(t time.Time, words string) mineTime {
	return mineTime{t.UTC().Format(time.RFC3339), plain.Date(t), words}
}

// Past and Future write a point in time as of when the page was made.
func (s MineSessions) Past(t time.Time) mineTime { return s.when(t, plain.Ago(s.now.Sub(t))) }

func (s MineSessions) Future(t time.Time) mineTime { return s.when(t, plain.In(t.Sub(s.now))) }
