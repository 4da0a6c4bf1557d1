package provider

import (
	"cmp"
	"crypto/rand"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/page"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

//go:embed templates/ask.html
var askFiles embed.FS

var defaultAskTemplate = template.Must(template.ParseFS(askFiles, "templates/ask.html"))

// AskPage is what [Config.AskTemplate] is executed with: the page on which a user
// at the cap picks which sessions to end, and what else is said on the way.
//
// The page is a form: method "post", action Action, with a hidden input for each
// of Hidden, a checkbox named "end" with the ID as its value for each of Sessions,
// and two buttons named "action" with the values "end" and "cancel". Its
// Content-Security-Policy allows no script, images and fonts from the same server,
// and the styles that have Nonce in their nonce attribute (<style nonce>, <link
// nonce>).
type AskPage struct {
	// Notice, if it is not nil, is all that the page says: the other members
	// but Nonce are not set.
	Notice *AskNotice

	// Client is the name of the application that the user is signing in to,
	// and UserCode the code that the device shows; empty where the login is
	// not that of a device (RFC 8628).
	Client, UserCode string

	// Max is how many sessions are allowed, Used how many there are, and Need
	// how many have to end.
	Used, Max, Need int

	// Sessions are the user's live sessions, the longest unused first, and
	// More is how many there are beyond them.
	Sessions []AskSession
	More     int

	// Error says what was wrong with the last answer; empty at first.
	Error string

	Action string
	Hidden []AskField
	Nonce  string
}

// AskNotice is a page without a choice.
type AskNotice struct {
	Title, Text    string
	Link, LinkText string // Link may be empty
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
	Network   string   // such as "192.0.2.x"; empty: not known

	// This says that it is the session of the browser that shows the page.
	This bool

	// Pending says that the login is not completed: it holds a place until
	// its code is redeemed, or is too old.
	Pending bool

	// Counts says that ending it makes room.
	Counts bool

	Since, LastUsed AskTime
	Ends            AskTime // if nothing more happens; zero: never
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
	return s.Kind.Label()
}

// AskTime is a point in time, in words beside it: "3 hours ago".
type AskTime struct {
	At    time.Time
	Words string
}

// IsZero reports whether there is no such time.
func (t AskTime) IsZero() bool { return t.At.IsZero() }

// DateTime is the time for the datetime attribute of a time element.
func (t AskTime) DateTime() string { return view.Time(t).DateTime() }

// Date is the time for people.
func (t AskTime) Date() string { return view.Time(t).Date() }

// askPage fills the page in but for its form.
func (h *Hook) askPage(r *http.Request, rm room, q question) AskPage {
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
		s := view.Of(live[i], "", now)
		s.EndsAt(rm.ruling.rules.Deadline(live[i].Policy()))
		clients := s.Names
		if len(clients) == 0 && s.Client != "" {
			clients = []string{s.Client}
		}
		page.Sessions = append(page.Sessions, AskSession{
			ID: s.ID, Kind: s.Kind, Clients: clients, UserAgent: s.Device(), Network: s.Network(),
			This: s.ID == own.ID, Pending: s.Pending, Counts: rm.counts[s.ID],
			Since: AskTime(s.Started), LastUsed: AskTime(s.LastUsed), Ends: AskTime(s.Ends),
		})
	}
	return page
}

// writePage writes a page. scheme, if not empty, is a private one that a form on
// it may lead to.
func (h *Hook) writePage(w http.ResponseWriter, r *http.Request, status int, p AskPage, scheme string) {
	p.Nonce = newStyleNonce()
	form := "'self'"
	if scheme != "" {
		form += " " + scheme + ":"
	}
	loads := ownPolicy(p.Nonce) + "; form-action " + form
	err := page.Execute(w, status, loads, h.cfg.AskTemplate, p)
	if err != nil {
		// The user is not to be stopped by it.
		h.event(r.Context(), Event{Type: EventPageFailed, Err: fmt.Errorf("AskTemplate: %w", err)})
		err = page.Execute(w, status, loads, defaultAskTemplate, p)
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

// foreignForm is what a form of another website is answered with.
var foreignForm = AskNotice{
	Title: "This form was sent by another website",
	Text:  "For your safety it was not accepted, and nothing was ended. If you did not expect this page, close it.",
}

// newStyleNonce returns the nonce of a page's styles.
func newStyleNonce() string {
	var b [16]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (h *Hook) notice(w http.ResponseWriter, r *http.Request, status int, n AskNotice) {
	h.writePage(w, r, status, AskPage{Notice: &n}, "")
}

// unavailable says that it cannot go on at the moment, and where to try again.
// Nothing is lost by it.
func (h *Hook) unavailable(w http.ResponseWriter, r *http.Request, query string, err error) {
	if err != nil {
		h.unavailableEvent(r.Context(), err)
	}
	w.Header().Set("Retry-After", retryAfter)
	h.notice(w, r, http.StatusServiceUnavailable, AskNotice{
		Title: "Please try again", Text: "Your sign-ins cannot be checked at the moment. Nothing was lost: try again in a little while.",
		Link: "?" + query, LinkText: "Try again",
	})
}

// sampleAskPages are what a template is tried with.
func sampleAskPages(now time.Time) []AskPage {
	page := AskPage{
		Client: "Sample", UserCode: "ABCD-EFGH", Used: 2, Max: 2, Need: 1, More: 1, Error: "Sample error.", Action: "?id=sample&" + answerParam + "=1",
		Hidden: []AskField{{tokenField, "sample-token"}}, Nonce: "c2FtcGxl",
	}
	for i, kind := range append(policy.Kinds(), "other") {
		s := AskSession{ID: fmt.Sprintf("sample-session-%d", i), Kind: kind, Counts: i != 2, Since: AskTime{now, "just now"}, LastUsed: AskTime{now, "just now"}}
		if i == 0 {
			s.Clients, s.UserAgent, s.Network, s.This = []string{"Sample", "Other"}, "Firefox on Linux", "192.0.2.x", true
			s.Ends = AskTime{now.Add(time.Hour), "in 1 hour"}
		}
		s.Pending = i == 1
		page.Sessions = append(page.Sessions, s)
	}
	return []AskPage{page, {Notice: &AskNotice{Title: "Sample title", Text: "Sample text.", Link: "?id=sample", LinkText: "Sample link"}, Nonce: "c2FtcGxl"}}
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
	return nil
}
