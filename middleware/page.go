package middleware

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
)

// A PageKind is what a page of the middleware is about.
type PageKind string

const (
	PageEnded       PageKind = "ended"         // signed out; with ExplainFirst
	PageForm        PageKind = "form"          // signed out, with the form that was posted
	PageSendAgain   PageKind = "send_again"    // the form after the sign-in
	PageFormLost    PageKind = "form_lost"     // it cannot be sent
	PageNotSignedIn PageKind = "not_signed_in" // a sign-in that did not succeed
	PageLoop        PageKind = "loop"          // a sign-in that did not last
	PageSignOut     PageKind = "sign_out"      // asks
	PageSignedOut   PageKind = "signed_out"
	PageUnavailable PageKind = "unavailable"
	PageForbidden   PageKind = "forbidden" // a form of another website
)

// PageData is what the template of the middleware's own pages gets. All that is
// empty is not on the page.
type PageData struct {
	Kind        PageKind
	Title, Text string
	Problem     string   // what could not be kept, and why
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

// pagePolicy keeps everything out of our pages but their own style, and what an
// application's template brings from its own site. Their forms lead to the
// provider, and from there who knows where: browsers hold redirects against
// form-action too.
func (rp *RelyingParty) pagePolicy() string {
	sum := sha256.Sum256([]byte(pageCSS))
	forms := "'self' https:"
	if u, err := url.Parse(rp.cfg.Issuer); err == nil && u.Scheme == "http" {
		forms += " http://" + u.Host
	}
	return "default-src 'none'; style-src 'self' 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; img-src 'self'; font-src 'self'; " +
		"base-uri 'none'; frame-ancestors 'none'; form-action " + forms
}

// render writes a page.
func (rp *RelyingParty) render(w http.ResponseWriter, r *http.Request, status int, data PageData) {
	var page bytes.Buffer
	if err := rp.page.Execute(&page, data); err != nil {
		rp.event(r.Context(), Event{Type: EventFailed, Err: err})
		http.Error(w, data.Title+". "+data.Text, status)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", rp.pagePolicy())
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	// Not "no-referrer", with which browsers send "Origin: null" along with our
	// own forms.
	h.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // a browser that went away is not an error here
}
