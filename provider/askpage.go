package provider

import (
	"cmp"
	"crypto/rand"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/page"
	"github.com/curfew-oidc/curfew/provider/internal/texts"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

//go:embed templates/ask.html
var askFiles embed.FS

var defaultAskTemplate = template.Must(template.ParseFS(askFiles, "templates/ask.html"))

// AskPage is what [Config.AskTemplate] is executed with: the page on which a user at the cap picks
// the sessions to end, and the notices before and after it.
//
// The page is a form: method "post", action Action, with a hidden input for each
// of Hidden, a checkbox named "end" with the ID as its value for each of Sessions,
// and two buttons named "action" with the values "end" and "cancel". Its
// Content-Security-Policy allows no script, images and fonts from the same server,
// and the styles that have Nonce in their nonce attribute (<style nonce>, <link
// nonce>).
type AskPage struct {
	PageTexts

	// Notice, if it is not nil, is the whole content of the page: of the other members only Nonce
	// is set.
	Notice *AskNotice

	// Client is the name of the application that the user is signing in to,
	// and UserCode the code that the device shows; empty unless a device signs in (RFC 8628).
	Client, UserCode string

	// Max is how many sessions are allowed, Used how many there are, and Need
	// how many have to end.
	Used, Max, Need int

	// Sessions are the user's live sessions, the longest unused first, and
	// More is how many there are beyond them.
	Sessions []AskSession
	More     int

	// ErrorCode is what was wrong with the last answer, and Error says it. Empty
	// at first. The codes are "stale", "none", "gone" and "full"; a template that
	// has words of its own for them shows Error for any other.
	ErrorCode, Error string

	Action string
	Hidden []AskField
	Nonce  string
}

// What was wrong with an answer.
const (
	askStale = "stale" // the page was too old, or not this browser's
	askNone  = "none"  // nothing was chosen
	askGone  = "gone"  // what was chosen had ended already
	askFull  = "full"  // there is still no room
)

var askErrors = []string{askStale, askNone, askGone, askFull}

// AskNotice is a page without a choice. Its codes are "room", "going_on",
// "unavailable", "unreadable", "too_large" and "foreign"; a template that has words
// of its own for them shows Title, Text and LinkText for any other.
type AskNotice struct {
	Code           string
	Title, Text    string
	Link, LinkText string // both may be empty
}

// What a notice says.
const (
	noticeRoom        = "room"        // there is room now
	noticeGoingOn     = "going_on"    // back to the application
	noticeUnavailable = "unavailable" // nobody can say at the moment
	noticeUnreadable  = "unreadable"  // a form that could not be read
	noticeTooLarge    = "too_large"   // a form
	noticeForeign     = "foreign"     // a form of another website
)

var askNotices = []string{noticeRoom, noticeGoingOn, noticeUnavailable, noticeUnreadable, noticeTooLarge, noticeForeign}

// PageTexts are the texts of the hook's own pages, in the language of the one who
// reads them. A template that began as a copy of the hook's own goes on to have
// them; the codes may change with a version.
type PageTexts struct{ in *texts.Catalogue }

func textsFor(r *http.Request) PageTexts { return PageTexts{texts.For(r)} }

func (t PageTexts) catalogue() *texts.Catalogue { return cmp.Or(t.in, texts.English) }

// Lang is the language, for the attribute lang of HTML.
func (t PageTexts) Lang() string { return t.catalogue().Lang() }

// Text returns the text of a code. values are names and values in turn.
func (t PageTexts) Text(code string, values ...any) string {
	return t.catalogue().Text(code, values...)
}

// Markup returns the text of a code with the elements that are in it. Values are
// escaped, but for those that are [template.HTML].
func (t PageTexts) Markup(code string, values ...any) template.HTML {
	return t.catalogue().Markup(code, values...)
}

// AskField is a hidden input.
type AskField struct{ Name, Value string }

// AskSession is one session on an [AskPage]. The texts come from clients and
// browsers: they are bounded, and must be escaped, which package html/template
// does.
type AskSession struct {
	ID string

	Kind      policy.Kind
	Clients   []string // names of the applications in it
	UserAgent string   // such as "Firefox on Linux"; empty: not known
	Program   string   // such as "Firefox"; empty: not known
	System    string   // such as "Linux"; empty: not known
	Network   string   // such as "192.0.2.x"; empty: not known

	// This says that it is the session of the browser that shows the page.
	This bool

	// Pending says that the login is not completed: it holds a slot until its code is redeemed or
	// expires.
	Pending bool

	// Counts says that ending it makes room.
	Counts bool

	Since, LastUsed AskTime
	Ends            AskTime // if nothing more happens; zero: never

	kindName string
}

// Title names the session: by its browser or program, else by its kind.
func (s AskSession) Title() string {
	if s.UserAgent != "" {
		return s.UserAgent
	}
	return s.KindName()
}

// KindName is the kind in words.
func (s AskSession) KindName() string {
	return cmp.Or(s.kindName, s.Kind.Label())
}

// AskTime is a point in time, in words beside it: "3 hours ago".
type AskTime struct {
	At    time.Time
	Words string

	date string
}

func newAskTime(t view.Time) AskTime {
	if t.IsZero() {
		return AskTime{}
	}
	return AskTime{t.At, t.Words, t.Date()}
}

// IsZero reports whether there is no such time.
func (t AskTime) IsZero() bool { return t.At.IsZero() }

// DateTime is the time for the datetime attribute of a time element.
func (t AskTime) DateTime() string { return view.DateTime(t.At) }

// Date is the time for people.
func (t AskTime) Date() string { return cmp.Or(t.date, texts.English.Date(t.At)) }

// Element is the time element of a page that shows words.
func (t AskTime) Element(words string) template.HTML { return view.Element(t.At, words, "") }

// askPage fills the page in but for its form.
func (h *pages) askPage(r *http.Request, rm room, q question) AskPage {
	// Without it the page only does not say which session is this browser's.
	own, _ := h.cookieSession(r.Context(), r.Cookies(), q.subject.Issuer)
	page := AskPage{Client: h.clientName(r.Context(), q.client), Used: rm.decision.Used, Max: rm.decision.Max, Need: rm.need}
	live := slices.Clone(rm.live)
	slices.SortFunc(live, func(a, b store.Session) int {
		ca, cb := rm.counts[a.ID], rm.counts[b.ID]
		if ca != cb {
			if ca {
				return -1
			}
			return 1
		}
		return cmp.Or(a.LastActivity.Compare(b.LastActivity), cmp.Compare(a.ID, b.ID))
	})
	now := h.now()
	for i := range live {
		if i == maxListed {
			page.More = len(live) - i
			break
		}
		s := view.Of(live[i], now, texts.For(r))
		s.EndsAt(rm.ruling.rules.Deadline(live[i].Policy()))
		clients := s.Names
		if len(clients) == 0 && s.Client != "" {
			clients = []string{s.Client}
		}
		program, system := s.Program()
		page.Sessions = append(page.Sessions, AskSession{
			ID: s.ID, Kind: s.Kind, kindName: s.KindName(), Clients: clients, UserAgent: s.Device(), Program: program, System: system,
			Network: s.Network(), This: s.ID == own.ID, Pending: s.Pending, Counts: rm.counts[s.ID],
			Since: newAskTime(s.Started), LastUsed: newAskTime(s.LastUsed), Ends: newAskTime(s.Ends),
		})
	}
	return page
}

// writePage writes a page. scheme, if not empty, is a private one that a form on
// it may lead to.
func (h *pages) writePage(w http.ResponseWriter, r *http.Request, status int, p AskPage, scheme string) {
	p.PageTexts, p.Nonce = textsFor(r), newStyleNonce()
	if p.ErrorCode != "" {
		p.Error = p.Text("ask.error." + p.ErrorCode)
	}
	if n := p.Notice; n != nil {
		n.Title, n.Text = p.Text("notice."+n.Code+".title"), p.Text("notice."+n.Code+".text")
		if n.Link != "" {
			n.LinkText = p.Text("notice." + n.Code + ".link")
		}
	}
	form := "'self'"
	if scheme != "" {
		form += " " + scheme + ":"
	}
	h.execute(w, r, status, ownPolicy(p.Nonce)+"; form-action "+form, p, ownTemplate{"AskTemplate", h.cfg.AskTemplate, defaultAskTemplate})
}

// An ownTemplate is a template that an embedder may have replaced.
type ownTemplate struct {
	name           string // in Config
	used, standard *template.Template
}

// execute writes a page of the hook. If an embedder's template fails the user is not
// to be stopped by it.
func (h *pages) execute(w http.ResponseWriter, r *http.Request, status int, loads string, p any, t ownTemplate) {
	err := page.Execute(w, status, loads, t.used, p)
	if err != nil {
		h.event(r.Context(), Event{Type: EventPageFailed, Err: fmt.Errorf("%s: %w", t.name, err)})
		err = page.Execute(w, status, loads, t.standard, p)
	}
	if err != nil {
		http.Error(w, "The page could not be written.", http.StatusInternalServerError)
	}
}

// ownPolicy is what the hook's own pages may load: the styles that have the nonce,
// and images and fonts of this server.
func ownPolicy(nonce string) string {
	return "style-src 'nonce-" + nonce + "'; img-src 'self'; font-src 'self'"
}

// fromOwnPage reports whether a page of this provider sent a form, as
// [http.CrossOriginProtection] judges it. A proxy may have changed Host, so the
// issuer's origin counts as the provider's own.
func fromOwnPage(r *http.Request, issuer string) bool {
	var trusted []string
	if u, err := url.Parse(issuer); err == nil && origin(u) != "" && u.Host != "" {
		trusted = append(trusted, origin(u))
	}
	forms, err := page.Forms(trusted...)
	return err == nil && forms.Check(r) == nil
}

// newStyleNonce returns the nonce of a page's styles.
func newStyleNonce() string {
	var b [16]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (h *pages) notice(w http.ResponseWriter, r *http.Request, status int, n AskNotice) {
	h.writePage(w, r, status, AskPage{Notice: &n}, "")
}

// unavailable says that it cannot go on at the moment, and where to try again.
// Nothing is lost by it.
func (h *pages) unavailable(w http.ResponseWriter, r *http.Request, query string, err error) {
	if err != nil {
		h.unavailableEvent(r.Context(), err)
	}
	w.Header().Set("Retry-After", retryAfter)
	h.notice(w, r, http.StatusServiceUnavailable, AskNotice{Code: noticeUnavailable, Link: "?" + query})
}

// sampleAskPages are what a template is tried with.
func sampleAskPages(now time.Time) []AskPage {
	page := AskPage{
		Client: "Sample", UserCode: "ABCD-EFGH", Used: 2, Max: 2, Need: 1, More: 1, ErrorCode: "sample", Error: "Sample error.", Action: "?id=sample&" + answerParam + "=1",
		Hidden: []AskField{{tokenField, "sample-token"}}, Nonce: "c2FtcGxl",
	}
	for i, kind := range append(policy.Kinds(), "other") {
		s := AskSession{ID: fmt.Sprintf("sample-session-%d", i), Kind: kind, Counts: i != 2, Since: AskTime{At: now, Words: "just now"}, LastUsed: AskTime{At: now, Words: "just now"}}
		if i == 0 {
			s.Clients, s.UserAgent, s.Network, s.This = []string{"Sample", "Other"}, "Firefox on Linux", "192.0.2.x", true
			s.Ends = AskTime{At: now.Add(time.Hour), Words: "in 1 hour"}
		}
		s.Pending = i == 1
		page.Sessions = append(page.Sessions, s)
	}
	return []AskPage{page, {
		Notice: &AskNotice{Code: "sample", Title: "Sample title", Text: "Sample text.", Link: "?id=sample", LinkText: "Sample link"}, Nonce: "c2FtcGxl",
	}}
}

// checkAskTemplate executes a template with samples, and looks for what the page
// does not work without.
func checkAskTemplate(t *template.Template, now time.Time) error {
	for _, page := range sampleAskPages(now) {
		var body strings.Builder
		if err := t.Execute(&body, page); err != nil {
			return err
		}
		var must []string // what has to be there, and its name
		if n := page.Notice; n != nil {
			must = []string{"Notice.Title", n.Title, "Notice.Text", n.Text, "Notice.Link", n.Link}
		} else {
			must = []string{"Error", page.Error, "Action", answerParam, "Hidden", page.Hidden[0].Value}
			for _, s := range page.Sessions {
				must = append(must, "the ID of each of Sessions", s.ID)
			}
		}
		for i := 0; i < len(must); i += 2 {
			if !strings.Contains(body.String(), must[i+1]) {
				return fmt.Errorf("the page does not have %s", must[i])
			}
		}
	}
	for _, code := range askErrors {
		page := sampleAskPages(now)[0]
		page.ErrorCode = code
		if err := t.Execute(io.Discard, page); err != nil {
			return err
		}
	}
	for _, code := range askNotices {
		if err := t.Execute(io.Discard, AskPage{Notice: &AskNotice{Code: code}}); err != nil {
			return err
		}
	}
	return nil
}
