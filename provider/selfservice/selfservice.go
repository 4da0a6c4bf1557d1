// Package selfservice has the page where users manage their own sessions. It shows each session
// with its device and applications, how many sessions are allowed, and which ended recently and
// why. Users may end one session, or all others.
//
//	mine, err := selfservice.New(selfservice.Config{Hook: hook, Subject: selfservice.BrowserSubject(hook, issuer)})
//	...
//	mux.Handle("/sessions/", http.StripPrefix("/sessions", mine))
//
// It needs no script, and loads nothing from elsewhere. Every change is a POST, and is refused if a
// browser sends it from another origin ([http.CrossOriginProtection]). Another user's session is
// answered like one that does not exist.
package selfservice

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/internal/invalid"
	"github.com/curfew-oidc/curfew/provider/internal/page"
	"github.com/curfew-oidc/curfew/provider/internal/texts"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

// Config configures [New]. Hook and Subject are required.
type Config struct {
	// Hook is the policy in place.
	Hook *provider.Hook

	// Subject returns the user whose sessions the sender of a request may see and end, and the sid
	// of the session that the request comes from; an empty sid: none of them, or unknown. It must
	// authenticate both, by a session cookie, such as the hook's own: see [BrowserSubject]. A
	// parameter is not enough.
	//
	// A zero subject, without an error, says that nobody is signed in. If sid is then the sid of an
	// ended session, the page shows why it ended: so the sender must have proved that it was
	// theirs. An error means that the user cannot be determined at the moment.
	Subject func(r *http.Request) (subject store.Subject, sid string, err error)

	// TrustedOrigins are the origins, beside that of the request itself, from
	// which forms are accepted ("https://login.example.com"): the provider's own,
	// where a proxy changes the Host header.
	TrustedOrigins []string

	// Home and SignIn are the addresses of pages to go back to and to sign in. Empty: no link.
	Home, SignIn string

	// Failed receives the cause of an answer of 503, which the response does not contain. Nil: the
	// cause is dropped.
	Failed func(r *http.Request, err error)

	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// BrowserSubject returns a [Config.Subject] that uses the hook's session cookie: see
// [provider.Hook.BrowserSession]. It is no activity.
func BrowserSubject(hook *provider.Hook, issuer string) func(*http.Request) (store.Subject, string, error) {
	return func(r *http.Request) (store.Subject, string, error) {
		s, err := hook.BrowserSession(r, issuer)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return store.Subject{}, s.ID, nil // of one that has ended, so that the page says why
		case err != nil:
			return store.Subject{}, "", err
		}
		return s.Subject, s.ID, nil
	}
}

// New returns the page. Install it at any path that ends in a slash. An error in the configuration
// wraps [provider.ErrConfig].
//
//	GET  ./            the page, with ?page=2 the next 50 sessions
//	POST ./end         ends the session with the form value sid
//	POST ./end-others  ends all but the one that the request comes from
//
// With "Accept: application/json" or the parameter format=json the answers are
// JSON; see [Sessions].
func New(cfg Config) (http.Handler, error) {
	switch {
	case cfg.Hook == nil:
		return nil, invalid.Errorf(provider.ErrConfig, "selfservice.Config.Hook is required")
	case cfg.Subject == nil:
		return nil, invalid.Errorf(provider.ErrConfig, "selfservice.Config.Subject is required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	h := &handler{cfg: cfg}
	forms, err := page.Forms(cfg.TrustedOrigins...)
	if err != nil {
		return nil, invalid.Errorf(provider.ErrConfig, "selfservice.Config.TrustedOrigins: %w", err)
	}
	forms.SetDenyHandler(http.HandlerFunc(h.crossOrigin))

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.asked(h.show))
	mux.HandleFunc("POST /end", h.asked(h.endOne))
	mux.HandleFunc("POST /end-others", h.asked(h.endOthers))
	mux.Handle("GET /"+styleName, style)
	mux.HandleFunc("/{$}", h.only("GET, HEAD"))
	mux.HandleFunc("/end", h.only("POST"))
	mux.HandleFunc("/end-others", h.only("POST"))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { h.refuse(w, r, noSuchPage) })
	guarded := forms.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		guarded.ServeHTTP(w, r)
	}), nil
}

type handler struct{ cfg Config }

// A visitor is who sent a request.
type visitor struct {
	subject store.Subject
	sid     string // of the session that it comes from
}

// asked wraps a handler that needs to know who is asking.
func (h *handler) asked(serve func(w http.ResponseWriter, r *http.Request, v visitor)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		subject, sid, err := h.cfg.Subject(r)
		switch {
		case err != nil:
			h.unavailable(w, r, err)
		case subject == (store.Subject{}):
			h.signedOut(w, r, sid)
		default:
			serve(w, r, visitor{subject, sid})
		}
	}
}

func (h *handler) show(w http.ResponseWriter, r *http.Request, v visitor) {
	o, err := h.cfg.Hook.Overview(r.Context(), v.subject)
	if err != nil {
		h.unavailable(w, r, err)
		return
	}
	h.writeSessions(w, r, newList(o, v, pageNumber(r), h.cfg.Now(), texts.For(r)))
}

// pageNumber returns which page is asked for, from 1.
func pageNumber(r *http.Request) int {
	n, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil {
		return 1
	}
	return max(1, n)
}

// maxForm is how large a form may be: it holds the ID of a session.
const maxForm = 4 << 10

func (h *handler) endOne(w http.ResponseWriter, r *http.Request, v visitor) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			h.refuse(w, r, formTooLarge)
			return
		}
		h.refuse(w, r, badForm)
		return
	}
	sid := r.PostForm.Get("sid")
	s, err := h.ownSession(r.Context(), v, sid)
	switch {
	case errors.Is(err, store.ErrNotFound):
		h.refuse(w, r, noSuchSession)
		return
	case err != nil:
		h.unavailable(w, r, err)
		return
	}
	ended := 0
	if s.End == nil {
		reason := policy.ReasonEndedByUser
		if sid == v.sid {
			reason = policy.ReasonLogout
		}
		if err := h.cfg.Hook.End(r.Context(), sid, reason, v.subject.ID); err != nil {
			h.unavailable(w, r, err)
			return
		}
		ended = 1
	}
	h.done(w, r, ended, sid)
}

// ownSession returns a session of the one who asks. For one of somebody else it
// returns the error for one that does not exist.
func (h *handler) ownSession(ctx context.Context, v visitor, sid string) (store.Session, error) {
	s, err := h.cfg.Hook.Session(ctx, sid)
	if err == nil && (s.Subject != v.subject || !s.ReservedUntil.IsZero()) {
		return store.Session{}, fmt.Errorf("not a session of the one who asks: %w", store.ErrNotFound)
	}
	return s, err
}

func (h *handler) endOthers(w http.ResponseWriter, r *http.Request, v visitor) {
	n, err := h.cfg.Hook.EndAll(r.Context(), v.subject, policy.ReasonEndedByUser, v.subject.ID, v.sid)
	if err != nil {
		h.unavailable(w, r, err)
		return
	}
	h.done(w, r, n, othersEnded)
}

// othersEnded is what is remembered in the address of the page instead of the ID
// of a session, after all others were ended.
const othersEnded = "others"

// only answers a request by another method than those allowed.
func (h *handler) only(allowed string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allowed)
		h.refuse(w, r, wrongMethod)
	}
}

func (h *handler) crossOrigin(w http.ResponseWriter, r *http.Request) { h.refuse(w, r, foreignForm) }

// unavailable answers when nobody can tell at the moment. Nothing is lost by it.
func (h *handler) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	if h.cfg.Failed != nil && r.Context().Err() == nil {
		h.cfg.Failed(r, err)
	}
	w.Header().Set("Retry-After", "2")
	h.refuse(w, r, tryAgain)
}

// signedOut answers somebody who is not signed in, or not any more.
func (h *handler) signedOut(w http.ResponseWriter, r *http.Request, sid string) {
	answer := notSignedIn
	if sid != "" {
		if s, err := h.cfg.Hook.Session(r.Context(), sid); err == nil && s.End != nil {
			answer.told = view.Told(s, texts.For(r))
		}
	}
	// Chromium keeps a page for the back button in spite of no-store, until a cookie
	// changes: whoever sits down at this browser next shall not see who was there.
	http.SetCookie(w, &http.Cookie{
		Name: "curfew-signed-out", Value: strconv.FormatInt(h.cfg.Now().UnixNano(), 36), MaxAge: 10,
		HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	// RFC 9110 section 15.5.2: a 401 names a scheme.
	w.Header().Set("WWW-Authenticate", `Cookie realm="sessions"`)
	h.refuse(w, r, answer)
}
