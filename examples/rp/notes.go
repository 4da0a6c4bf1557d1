package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/middleware"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed static
var staticFiles embed.FS

var (
	homePage  = template.Must(template.ParseFS(templateFiles, "templates/layout.html", "templates/home.html"))
	notesPage = template.Must(template.ParseFS(templateFiles, "templates/layout.html", "templates/notes.html"))
)

// What one user can make us keep.
const maxNotes, maxNote = 100, 4 << 10

// A notes is the application. It keeps the notes of each user in memory.
type notes struct {
	policy string // of content security

	mu   sync.Mutex
	byID map[string][]string // by subject
}

func newNotes(c config) *notes {
	// Signing out is a form that ends at the provider, and back.
	provider := ""
	if u, err := url.Parse(c.issuer); err == nil {
		provider = u.Scheme + "://" + u.Host
	}
	return &notes{
		byID: map[string][]string{},
		policy: "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; " +
			"frame-ancestors 'none'; form-action 'self' " + provider,
	}
}

// handler is all of the application: pages for everybody, and pages for users.
func (n *notes) handler(rp *middleware.RelyingParty) http.Handler {
	users := http.NewServeMux()
	users.HandleFunc("GET /notes", n.list)
	users.HandleFunc("POST /notes", n.add)
	users.HandleFunc("GET /api/count", n.count)

	static, err := fs.Sub(staticFiles, "static")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	all := http.NewServeMux()
	all.Handle("GET /{$}", rp.Optional(http.HandlerFunc(n.home)))
	all.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(static)))
	all.Handle("/", rp.Handler(users))
	return n.headers(all)
}

// headers sets what every response should have. The middleware's own pages set
// more.
func (n *notes) headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", n.policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// A view is what a page shows.
type view struct {
	Notice  string
	Session *middleware.Session // nil: nobody is signed in
	Name    string
	Ends    time.Time // zero: not known
	Here    string    // the page, to come back to
	Notes   []string
	Draft   string
	Error   string
}

func (n *notes) view(r *http.Request) view {
	v := view{Notice: middleware.Notice(r.Context()), Session: middleware.SessionFrom(r.Context()), Here: r.URL.RequestURI()}
	if v.Session == nil {
		return v
	}
	var claims struct {
		Name     string `json:"name"`
		Username string `json:"preferred_username"`
	}
	if err := v.Session.Claims(&claims); err == nil { // else the provider told no name
		v.Name = claims.Name
		if v.Name == "" {
			v.Name = claims.Username
		}
	}
	if v.Name == "" {
		v.Name = v.Session.Subject
	}
	if left, ok := v.Session.Remaining(); ok {
		v.Ends = time.Now().Add(left).UTC()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	v.Notes = append(v.Notes, n.byID[v.Session.Subject]...)
	return v
}

func render(w http.ResponseWriter, status int, page *template.Template, v view) {
	var body bytes.Buffer
	if err := page.Execute(&body, v); err != nil {
		slog.Error("a page could not be written", "error", err)
		http.Error(w, "The page could not be written.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // a browser that went away is not an error here
}

func (n *notes) home(w http.ResponseWriter, r *http.Request) {
	render(w, http.StatusOK, homePage, n.view(r))
}

func (n *notes) list(w http.ResponseWriter, r *http.Request) {
	render(w, http.StatusOK, notesPage, n.view(r))
}

// add takes the form. That it is from one of our own pages has the middleware seen
// to.
func (n *notes) add(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	text := strings.TrimSpace(r.PostFormValue("note"))
	problem := ""
	switch {
	case text == "":
		problem = "Please write something."
	case len(text) > maxNote:
		problem = "This note is too long."
	case !n.keep(middleware.SessionFrom(r.Context()).Subject, text):
		problem = "There are too many notes already."
	}
	if problem != "" {
		v := n.view(r)
		v.Draft, v.Error = text, problem
		render(w, http.StatusBadRequest, notesPage, v)
		return
	}
	http.Redirect(w, r, "/notes", http.StatusSeeOther)
}

func (n *notes) keep(subject, text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.byID[subject]) >= maxNotes {
		return false
	}
	n.byID[subject] = append(n.byID[subject], text)
	return true
}

// count is for the script.
func (n *notes) count(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	count := len(n.byID[middleware.SessionFrom(r.Context()).Subject])
	n.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"notes": count, "time": time.Now().UTC().Format(time.TimeOnly)}) // as above
}
