package middleware

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Handler stands in front of an application all of whose pages need a user. It
// answers the middleware's own pages too, and refuses forms of other websites.
// [SessionFrom] and [Notice] tell next who it is and what to say.
func (rp *RelyingParty) Handler(next http.Handler) http.Handler { return rp.handler(next, true) }

// Optional is [RelyingParty.Handler] for pages that anybody may see: if nobody is
// signed in, [SessionFrom] returns nil, and [Notice] why that is.
func (rp *RelyingParty) Optional(next http.Handler) http.Handler { return rp.handler(next, false) }

func (rp *RelyingParty) handler(next http.Handler, required bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(checkedKey) == rp { // a Handler inside an Optional
			next.ServeHTTP(w, r)
			return
		}
		if rp.own(w, r) {
			return
		}
		if !rp.sameOrigin(w, r) {
			return
		}
		h, err := rp.check(r)
		rp.sync(w, r)
		text := rp.takeNotice(w, r)
		var out *SignedOutError
		ctx := r.Context()
		switch {
		case err == nil:
			ctx = context.WithValue(ctx, checkedKey, rp)
		case required:
			rp.deny(w, r, h, err)
			return
		case errors.As(err, &out):
			if text == "" {
				text = out.Text
			}
			h = nil
		case h != nil && (errors.Is(err, errUnasked) || rp.asItIs(h) != nil): // nobody can tell whether it goes on
			h = nil
		}
		ctx = context.WithValue(ctx, noticeKey, text)
		if h == nil {
			next.ServeHTTP(w, r.WithContext(ctx))
			return
		}
		if _, err := r.Cookie(rp.cookie + "-tried"); err == nil {
			rp.dropCookie(w, rp.cookie+"-tried") // it was not in vain
		}
		// What somebody signed in sees is not for shared caches. The
		// application may say otherwise.
		w.Header().Set("Cache-Control", "private, no-cache")
		r = r.WithContext(context.WithValue(ctx, sessionKey, rp.session(h)))
		if isStream(r) {
			rp.watch(w, r, h, next)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// pages are the middleware's own, below Base.
func (rp *RelyingParty) pages() map[string]http.HandlerFunc {
	pages := map[string]http.HandlerFunc{
		"signin": rp.signInPage, "signout": rp.signOutPage, "session": rp.sessionPage,
		"resume": rp.resumePage, "backchannel": rp.backChannelPage,
	}
	if rp.cfg.FrontChannel {
		pages["frontchannel"] = rp.frontChannelPage
	}
	return pages
}

// methods are what the pages take: all but these, GET.
var methods = map[string]string{
	"signout": "GET, HEAD, POST", "session": "GET, HEAD, POST", "resume": "GET, HEAD, POST", "backchannel": "POST",
}

// page returns which of the middleware's own pages a path is; nil if it is none.
func (rp *RelyingParty) ownPage(path string) (page http.HandlerFunc, allowed string) {
	const get = "GET, HEAD"
	if path == rp.callback {
		return rp.callbackPage, get
	}
	name, ok := strings.CutPrefix(path, rp.base)
	if !ok {
		return nil, ""
	}
	if page = rp.pages()[name]; page == nil {
		return nil, ""
	}
	if allowed = methods[name]; allowed == "" {
		allowed = get
	}
	return page, allowed
}

func (rp *RelyingParty) ours(path string) bool {
	page, _ := rp.ownPage(path)
	return page != nil
}

// own answers the middleware's own pages.
func (rp *RelyingParty) own(w http.ResponseWriter, r *http.Request) bool {
	page, allowed := rp.ownPage(r.URL.Path)
	if page == nil {
		return false
	}
	w.Header().Set("Cache-Control", "no-store")
	if !strings.Contains(", "+allowed+",", ", "+r.Method+",") {
		w.Header().Set("Allow", allowed)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return true
	}
	if rp.sameOrigin(w, r) {
		page(w, r)
	}
	return true
}

// sameOrigin refuses what a page of another website sends. A request that says
// nothing about where it comes from is no browser's.
func (rp *RelyingParty) sameOrigin(w http.ResponseWriter, r *http.Request) bool {
	err := rp.origins.Check(r)
	if err == nil {
		return true
	}
	rp.event(r.Context(), Event{Type: EventCrossOrigin, Err: err})
	if isNavigation(r) {
		rp.render(w, r, http.StatusForbidden, PageData{Kind: PageForbidden, Title: "This form was sent by another website",
			Text: "For your safety it was not accepted. If you did not expect this page, close it."})
		return false
	}
	writeJSON(w, http.StatusForbidden, map[string]string{"error": "cross_origin"})
	return false
}

// isNavigation reports whether a person will look at the answer. Browsers say so
// (Fetch Metadata); of those that do not, it is who takes HTML.
func isNavigation(r *http.Request) bool {
	if strings.Contains(r.Header.Get("Sec-Purpose"), "prefetch") || r.Header.Get("Upgrade") != "" {
		return false
	}
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return r.Header.Get("X-Requested-With") != "XMLHttpRequest" && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// isStream reports whether the answer goes on for as long as the session does. Both
// kinds begin with a GET (HTML section 9.2, RFC 6455 section 4.1): nothing else gets
// what streams get by a header.
func isStream(r *http.Request) bool {
	return r.Method == http.MethodGet && (strings.EqualFold(r.Header.Get("Upgrade"), "websocket") ||
		strings.Contains(r.Header.Get("Accept"), "text/event-stream"))
}

// deny answers a request that needs a user. h is what is known of the session, if
// anything is.
func (rp *RelyingParty) deny(w http.ResponseWriter, r *http.Request, h *held, err error) {
	var out *SignedOutError
	if !errors.As(err, &out) {
		rp.unavailable(w, r, unavailable(err))
		return
	}
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case !isNavigation(r):
		rp.challenge(w, r, out)
	case !get:
		rp.keepForm(w, r, h, out)
	case rp.tried(r):
		rp.dropCookie(w, rp.cookie+"-tried") // the next try is one again
		rp.render(w, r, http.StatusUnauthorized, PageData{
			Kind: PageLoop, Title: "Signing in did not last",
			Text: strings.TrimSpace("You signed in, but the application sees nobody. " + out.Text +
				" Perhaps your browser does not keep cookies for this site. If it happens again, tell the people who run the application."),
			SignIn: rp.signInURL(here(r)),
		})
	case rp.cfg.ExplainFirst && out.Text != "":
		rp.render(w, r, http.StatusUnauthorized, PageData{
			Kind: PageEnded, Title: "Please sign in again", Text: out.Text, SignIn: rp.signInURL(here(r)),
		})
	default:
		rp.start(w, r, signIn{Return: rp.safeReturn(here(r)), Notice: out.Text})
	}
}

// challenge answers a script (RFC 6750 section 3).
func (rp *RelyingParty) challenge(w http.ResponseWriter, r *http.Request, out *SignedOutError) {
	// The page that the script runs in is what the user will want back.
	to := "/"
	if u, err := url.Parse(r.Referer()); err == nil && u.Scheme+"://"+u.Host == rp.origin {
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
	}{"invalid_token", out.Text, out.Reason, rp.signInURL(to), false})
}

// unavailable answers while nobody can say whether the session goes on. It touches
// no cookie.
func (rp *RelyingParty) unavailable(w http.ResponseWriter, r *http.Request, u *UnavailableError) {
	w.Header().Set("Retry-After", retryAfterHeader(u.RetryAfter))
	if isNavigation(r) {
		page := PageData{
			Kind: PageUnavailable, Title: "Please try again",
			Text: "Whether you are signed in cannot be checked at the moment. You are not signed out; try again in a few seconds.",
		}
		// A way out for who is sent here for ever: some providers answer a
		// refresh token that is over with a server error.
		if (r.Method == http.MethodGet || r.Method == http.MethodHead) && !rp.ours(r.URL.Path) {
			page.SignIn = rp.signInURL(here(r))
		}
		rp.render(w, r, http.StatusServiceUnavailable, page)
		return
	}
	writeJSON(w, http.StatusServiceUnavailable, map[string]string{
		"error": "temporarily_unavailable", "error_description": "the login session cannot be checked at the moment; try again",
	})
}

func retryAfterHeader(d time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(d.Seconds()))))
}

// broken answers after a mistake of our own.
func (rp *RelyingParty) broken(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, ErrUnavailable) {
		rp.unavailable(w, r, unavailable(err))
		return
	}
	rp.event(r.Context(), Event{Type: EventFailed, Err: err})
	rp.render(w, r, http.StatusInternalServerError, PageData{
		Kind: PageNotSignedIn, Title: "Something went wrong", Text: "Please try again.", SignIn: rp.signInURL("/"),
	})
}

// takeNotice returns what the page should tell, once.
func (rp *RelyingParty) takeNotice(w http.ResponseWriter, r *http.Request) string {
	name := rp.cookie + "-notice"
	var n notice
	if !isNavigation(r) || !rp.sealed(r, name, &n) {
		return ""
	}
	if n.State != "" && n.State != r.URL.Query().Get("state") {
		return ""
	}
	rp.dropCookie(w, name)
	return n.Text
}
