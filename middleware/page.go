package middleware

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html/template"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// A PageKind is what a page of the middleware is about.
type PageKind string

const (
	PageEnded       PageKind = "ended"         // signed out; with ExplainFirst
	PageForm        PageKind = "form"          // signed out, with the form that was posted
	PageSendAgain   PageKind = "send_again"    // the form after the sign-in
	PageFormLost    PageKind = "form_lost"     // it cannot be sent
	PageNotSignedIn PageKind = "not_signed_in" // a sign-in that did not succeed
	PageLoop        PageKind = "loop"          // a sign-in that was over at once
	PageSignOut     PageKind = "sign_out"      // asks
	PageSignedOut   PageKind = "signed_out"
	PageUnavailable PageKind = "unavailable"
	PageForbidden   PageKind = "forbidden" // a form of another website
)

// PageData is what the template of the middleware's own pages is executed with. An empty field is
// not on the page.
type PageData struct {
	Kind        PageKind
	Title, Text string
	Problem     string   // what was not kept of the form, and why
	SignIn      string   // address of a link to sign in
	NewTab      bool     // the link must open a new tab, or what is on the page is lost
	Action      string   // of a form, sent by POST
	Multipart   bool     // the form's encoding
	Hidden      []Field  // of the form
	Button      string   // of the form
	Shown       []Field  // what the user has typed, to be read and copied
	Dropped     []string // names of fields that were not kept: secrets and files
}

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

// defaultPage has its style in itself, as an application may serve none.
var defaultPage = template.Must(template.New("page").Funcs(template.FuncMap{
	"style": func() template.CSS { return template.CSS(pageCSS) },
}).Parse(pageHTML))

// pages answer where the application does not: with a page for a person, with JSON for a
// script.
type pages struct {
	template *template.Template
	policy   string // Content-Security-Policy
	site     *site
	events   *teller
}

// pagePolicy keeps everything out of our pages but their own style, and what an
// application's template brings from its own site. Their forms lead to the
// provider, and from there anywhere: browsers hold redirects against form-action too.
func pagePolicy(issuer string) string {
	sum := sha256.Sum256([]byte(pageCSS))
	forms := "'self' https:"
	if u, err := url.Parse(issuer); err == nil && u.Scheme == "http" {
		forms += " http://" + u.Host
	}
	return "default-src 'none'; style-src 'self' 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; img-src 'self'; font-src 'self'; " +
		"base-uri 'none'; frame-ancestors 'none'; form-action " + forms
}

// render writes a page: the one place of this package that does. The writer of the
// provider's pages is another one, as an application links nothing of a provider.
func (p *pages) render(w http.ResponseWriter, r *http.Request, status int, data PageData) {
	var page bytes.Buffer
	if err := p.template.Execute(&page, data); err != nil {
		p.events.event(r.Context(), Event{Type: EventFailed, Err: err})
		http.Error(w, data.Title+". "+data.Text, status)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	// Not "no-referrer", with which browsers send "Origin: null" along with our
	// own forms.
	h.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // a browser that went away is not an error here
}

// challenge answers a script (RFC 6750 section 3).
func (p *pages) challenge(w http.ResponseWriter, r *http.Request, out *SignedOutError) {
	// The page that the script runs in is what the user will want back.
	to := "/"
	if u, err := url.Parse(r.Referer()); err == nil && u.Scheme+"://"+u.Host == p.site.origin {
		to = u.RequestURI()
	}
	scheme := "Bearer" // section 3.1: no error where no credentials were sent
	if out.Reason != ReasonNone {
		scheme = `Bearer error="invalid_token"`
	}
	w.Header().Set("WWW-Authenticate", scheme)
	writeJSON(w, http.StatusUnauthorized, struct {
		Error   string `json:"error"`
		Text    string `json:"error_description,omitempty"`
		Reason  Reason `json:"reason"`
		SignIn  string `json:"sign_in"`
		Session bool   `json:"signed_in"`
	}{"invalid_token", out.Text, out.Reason, p.site.signInURL(to), false})
}

// unavailable answers while nobody can say whether the session goes on. It touches
// no cookie.
func (p *pages) unavailable(w http.ResponseWriter, r *http.Request, u *UnavailableError) {
	w.Header().Set("Retry-After", retryAfterHeader(u.RetryAfter))
	if isNavigation(r) {
		page := PageData{
			Kind: PageUnavailable, Title: "Please try again",
			Text: "Whether you are signed in cannot be checked at the moment. You are not signed out; try again in a few seconds.",
		}
		// A way out for users who would be sent here for ever: some providers
		// answer a refresh token that is over with a server error.
		if (r.Method == http.MethodGet || r.Method == http.MethodHead) && !p.site.ours(r.URL.Path) {
			page.SignIn = p.site.signInURL(here(r))
		}
		p.render(w, r, http.StatusServiceUnavailable, page)
		return
	}
	writeJSON(w, http.StatusServiceUnavailable, map[string]string{
		"error": "temporarily_unavailable", "error_description": "the login session cannot be checked at the moment; try again",
	})
}

// broken answers after a mistake of our own.
func (p *pages) broken(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, ErrUnavailable) {
		p.unavailable(w, r, unavailable(err))
		return
	}
	p.events.event(r.Context(), Event{Type: EventFailed, Err: err})
	p.render(w, r, http.StatusInternalServerError, PageData{
		Kind: PageNotSignedIn, Title: "Something went wrong", Text: "Please try again.", SignIn: p.site.signInURL("/"),
	})
}

func retryAfterHeader(d time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(d.Seconds()))))
}

func (p *pages) formLost(w http.ResponseWriter, r *http.Request) {
	p.render(w, r, http.StatusBadRequest, PageData{
		Kind: PageFormLost, Title: "What you typed cannot be sent any more",
		Text: "It belongs to another browser or another user, or it is too old. Your browser may still have it: go back to the page where you typed it.",
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	body, err := json.Marshal(v)
	if err != nil { // no value of our own does that
		status, body = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that went away is not an error here
}
