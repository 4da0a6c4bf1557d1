package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
)

// A call is what the storage finds out in one HTTP request and cannot tell
// through op.
type call struct {
	// outage is why the store could not answer. op has no answer for that in
	// many places but invalid_grant, access_denied or active:false, which a
	// client takes for the end of its login.
	outage error

	// code is the key of the authorization code that the request redeems.
	code string

	// browser is a hash of the mark of the browser that sends an authorization
	// request, and again whether it is one that we have sent once more: see
	// pages.authorization.
	browser string
	again   bool
}

type callKey struct{}

// callFrom returns the call of an HTTP request, or one that nobody sees.
func callFrom(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// noteOutage records an error that is not an answer of the store, and returns it.
func noteOutage(ctx context.Context, err error) error {
	if err != nil && !errors.Is(err, kv.ErrNotFound) && !errors.Is(err, kv.ErrConflict) {
		callFrom(ctx).outage = err
	}
	return err
}

// Endpoints of op where a person sees the answer, unless it is a redirect.
var forPeople = map[string]bool{"/authorize": true, "/authorize/callback": true, "/end_session": true}

const introspectionPath = "/oauth/introspect"

// guard is around everything. It sets the headers that every response should
// have, answers 503 where the store could not be asked, and puts a page in the
// place of op's plain errors where people see them.
func (p *pages) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		// Not "no-referrer", with which browsers send "Origin: null" along
		// with our own forms.
		h.Set("Referrer-Policy", "same-origin")
		// Nothing of this provider belongs into a frame. Our own pages set
		// more; op's page for response_mode=form_post needs its script.
		h.Set("Content-Security-Policy", "frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		if p.secure {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		switch {
		case r.URL.Path == "/keys", strings.HasPrefix(r.URL.Path, "/.well-known/"), strings.HasPrefix(r.URL.Path, "/static/"):
		default:
			h.Set("Cache-Control", "no-store")
		}
		c := &call{}
		gw := &guardWriter{ResponseWriter: w, call: c, path: r.URL.Path}
		next.ServeHTTP(gw, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
		if c.outage != nil && r.Context().Err() == nil {
			slog.ErrorContext(r.Context(), "the store could not answer", "path", r.URL.Path, "error", c.outage)
		}
		if gw.held {
			p.replace(w, r, gw)
		}
	})
}

// A guardWriter holds back a response that is to be replaced.
type guardWriter struct {
	http.ResponseWriter
	call    *call
	path    string
	started bool
	held    bool
	outage  bool
	status  int
}

// Unwrap serves http.ResponseController.
func (w *guardWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *guardWriter) WriteHeader(status int) {
	if w.started || status < 200 {
		if !w.held {
			w.ResponseWriter.WriteHeader(status)
		}
		return
	}
	w.started, w.status = true, status
	// A success after all, because somebody tried again, stays one. At
	// introspection a success may be {"active":false}.
	w.outage = w.call.outage != nil && (status >= 400 || status == http.StatusOK && w.path == introspectionPath) ||
		status == http.StatusServiceUnavailable && forPeople[w.path] // the hook's answer, for applications
	page := strings.HasPrefix(w.Header().Get("Content-Type"), "text/html")
	w.held = w.outage || status >= 400 && forPeople[w.path] && !page
	if !w.held {
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *guardWriter) Write(b []byte) (int, error) {
	if !w.started {
		w.WriteHeader(http.StatusOK)
	}
	if w.held {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// retryAfter is when to come back after a 503, in seconds.
const retryAfter = 2

// replace answers instead of what was held back.
func (p *pages) replace(w http.ResponseWriter, r *http.Request, held *guardWriter) {
	h := w.Header()
	for _, name := range []string{"Content-Type", "Content-Length", "Set-Cookie", "WWW-Authenticate", "Location"} {
		h.Del(name)
	}
	people := p.own(r) || forPeople[r.URL.Path]
	switch {
	case held.outage:
		h.Set("Retry-After", strconv.Itoa(retryAfter))
		if people {
			p.fail(w, http.StatusServiceUnavailable, "Please try again",
				"The provider cannot reach its database at the moment. Nothing is lost; try again in a few seconds.")
			return
		}
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		// RFC 6749 section 5.2 knows no code for it; this is the hook's answer too.
		_, _ = w.Write([]byte(`{"error":"server_error","error_description":"the provider cannot answer at the moment; try again"}` + "\n"))
	case r.URL.Path == "/authorize":
		p.fail(w, held.status, "The application asked for something that is not possible",
			"The address that brought you here is not one that the application is registered with, or it is incomplete. "+
				"Go back to the application and try again. If it happens again, tell the people who run the application.")
	case r.URL.Path == "/end_session":
		p.fail(w, held.status, "The application could not sign you out",
			"Its request was not valid. You can sign out on the home page of this provider.")
	default:
		p.fail(w, held.status, "This sign-in is not known any more",
			"It took too long, or it was finished before. Go back to the application and sign in again.")
	}
}
