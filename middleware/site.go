package middleware

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// maxReturn bounds the address that a sign-in comes back to: it has to fit into
// a cookie. Of a longer one only the path is kept.
const maxReturn = 1500

// A site is where the application and the middleware's own pages are.
type site struct {
	origin   string
	callback string          // path
	base     string          // of the other pages of the middleware
	pages    map[string]bool // paths
}

// newSite returns the addresses of a configuration. The pages are for the caller to add.
func newSite(cfg *Config) (*site, error) {
	redirect, err := url.Parse(cfg.RedirectURL)
	if err != nil {
		return nil, fmt.Errorf("%w.RedirectURL: %w", ErrConfig, err)
	}
	s := &site{origin: redirect.Scheme + "://" + redirect.Host, callback: redirect.Path, base: cfg.Base, pages: map[string]bool{}}
	if s.base == "" {
		if s.base = path.Dir(redirect.Path) + "/"; s.base == "//" {
			s.base = "/auth/"
		}
	}
	if !strings.HasPrefix(s.base, "/") || !strings.HasSuffix(s.base, "/") || path.Clean(s.base)+"/" != s.base && s.base != "/" {
		return nil, fmt.Errorf("%w.Base: %q does not begin and end with a slash", ErrConfig, s.base)
	}
	return s, nil
}

// ours reports whether the middleware answers a path.
func (s *site) ours(path string) bool { return s.pages[path] }

// safeReturn returns where on this site to go after a sign-in; the root for
// anything that a browser could take for another site, or that would lead to a
// page of ours and from there in circles.
func (s *site) safeReturn(address string) string {
	if len(address) > maxReturn {
		address, _, _ = strings.Cut(address, "?")
	}
	u, err := url.Parse(address)
	switch {
	case err != nil, u.Scheme != "", u.Host != "", u.User != nil, u.Opaque != "", u.Fragment != "":
	case len(address) > maxReturn, !strings.HasPrefix(address, "/"), strings.HasPrefix(address, "//"):
	case strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }):
	case strings.HasPrefix(u.Path, "//"), strings.HasPrefix(u.Path, "/\\"), s.ours(u.Path):
	default:
		return address
	}
	return "/"
}

// signInURL is the address that begins a sign-in.
func (s *site) signInURL(to string) string {
	return s.base + "signin?return=" + url.QueryEscape(s.safeReturn(to))
}

// here is the address of a request, to come back to.
func here(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") { // as it was sent, whatever was stripped since
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

// redirect sends a browser somewhere. Not [http.Redirect], which tidies paths up.
func redirect(w http.ResponseWriter, address string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Location", address)
	w.WriteHeader(http.StatusSeeOther)
}
