// Package page writes the pages of a provider: what headers each has, and from
// whom a form on one is taken, is said here and nowhere else.
package page

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"strings"
)

// ForNobodyElse takes back what a CORS middleware has set: the answer is for pages
// of this origin.
func ForNobodyElse(h http.Header) {
	for name := range h {
		if strings.HasPrefix(http.CanonicalHeaderKey(name), "Access-Control-") {
			delete(h, name)
		}
	}
}

// Protect sets the headers of a page. It belongs to this provider alone: no cache
// keeps it, no frame shows it, and no script of another origin reads it, whatever a
// CORS middleware has allowed. policy are the directives of its
// Content-Security-Policy beyond those that every page has.
func Protect(h http.Header, policy string) {
	ForNobodyElse(h)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; "+policy+"; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
	// Addresses hold IDs. Not "no-referrer": with it browsers send "Origin: null"
	// along with our own forms.
	h.Set("Referrer-Policy", "same-origin")
}

// Execute writes a page that a template makes, with the headers of [Protect],
// instead of anything that was about to be written. If the template fails nothing is
// written.
func Execute(w http.ResponseWriter, status int, policy string, t *template.Template, data any) error {
	var body bytes.Buffer
	if err := t.Execute(&body, data); err != nil {
		return err
	}
	Protect(w.Header(), policy)
	write(w, status, body.Bytes())
	return nil
}

// ExecutePassing writes a page that nobody stops at: its script sends its form on, to
// another server. It may be in a frame, where what it answers may be (prompt=none),
// and that server learns where the form comes from. If the template fails nothing is
// written.
func ExecutePassing(w http.ResponseWriter, policy string, t *template.Template, data any) error {
	var body bytes.Buffer
	if err := t.Execute(&body, data); err != nil {
		return err
	}
	h := w.Header()
	ForNobodyElse(h)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; "+policy+"; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "strict-origin") // the address holds an ID
	write(w, http.StatusOK, body.Bytes())
	return nil
}

func write(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	for _, name := range []string{"Location", "ETag", "Content-Encoding", "Content-Length"} {
		h.Del(name)
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a browser that went away is not an error here
}

// Forms takes forms from pages of the same origin only, and from those of trusted
// origins. A request that says nothing of where it comes from is no browser's.
func Forms(trusted ...string) (*http.CrossOriginProtection, error) {
	forms := http.NewCrossOriginProtection()
	for _, origin := range trusted {
		if err := forms.AddTrustedOrigin(origin); err != nil {
			return nil, err
		}
	}
	return forms, nil
}

// MethodsOf returns the methods that the address of a request takes.
func MethodsOf(mux *http.ServeMux, r *http.Request) (allowed []string) {
	for _, method := range []string{"DELETE", "GET", "PATCH", "POST", "PUT"} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := mux.Handler(probe); pattern != "/" && pattern != "" {
			allowed = append(allowed, method)
		}
	}
	return allowed
}
