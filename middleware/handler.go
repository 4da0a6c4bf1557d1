package middleware

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// Handler protects an application all of whose pages need a user. It also serves the middleware's
// own pages, and refuses forms from other websites. Next gets the user from [SessionFrom], and a
// message for the page from [Notice].
func (rp *RelyingParty) Handler(next http.Handler) http.Handler { return rp.handler(next, true) }

// Optional is [RelyingParty.Handler] for pages that anybody may see: if nobody is signed in,
// [SessionFrom] returns nil, and [Notice] returns the reason.
func (rp *RelyingParty) Optional(next http.Handler) http.Handler { return rp.handler(next, false) }

func (rp *RelyingParty) handler(next http.Handler, required bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(checkedKey) == rp { // a Handler inside an Optional
			next.ServeHTTP(w, r)
			return
		}
		if rp.answerOwn(w, r) {
			return
		}
		if !rp.sameOrigin(w, r) {
			return
		}
		h, err := rp.check(r)
		rp.cookies.sync(w, r)
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
		case h != nil && (errors.Is(err, errUnasked) || h.rec.asItIs(rp.now()) != nil): // nobody can tell whether it goes on
			h = nil
		}
		ctx = context.WithValue(ctx, noticeKey, text)
		if h == nil {
			next.ServeHTTP(w, r.WithContext(ctx))
			return
		}
		if _, err := r.Cookie(rp.jar.name + "-tried"); err == nil {
			rp.jar.drop(w, rp.jar.name+"-tried") // it was not in vain
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

// A route is one of the middleware's own pages.
type route struct {
	methods string
	answer  http.HandlerFunc
}

// routes are the middleware's own pages, by path.
func (rp *RelyingParty) routes() map[string]route {
	const get, form = "GET, HEAD", "GET, HEAD, POST"
	base := rp.site.base
	routes := map[string]route{
		base + "signin": {get, rp.signInPage}, base + "signout": {form, rp.signOutPage}, base + "session": {form, rp.sessionPage},
		base + "resume": {form, rp.resumePage}, base + "backchannel": {"POST", rp.logouts.backChannelPage},
	}
	if rp.cfg.FrontChannel {
		routes[base+"frontchannel"] = route{get, rp.logouts.frontChannelPage}
	}
	routes[rp.site.callback] = route{get, rp.callbackPage}
	return routes
}

// answerOwn answers the middleware's own pages.
func (rp *RelyingParty) answerOwn(w http.ResponseWriter, r *http.Request) bool {
	page, ours := rp.own[r.URL.Path]
	if !ours {
		return false
	}
	w.Header().Set("Cache-Control", "no-store")
	if !strings.Contains(", "+page.methods+",", ", "+r.Method+",") {
		w.Header().Set("Allow", page.methods)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return true
	}
	if rp.sameOrigin(w, r) {
		page.answer(w, r)
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
	rp.events.event(r.Context(), Event{Type: EventCrossOrigin, Err: err})
	if isNavigation(r) {
		rp.pages.render(w, r, http.StatusForbidden, PageData{Kind: PageForbidden, Title: "This form was sent by another website",
			Text: "For your safety it was not accepted. If you did not expect this page, close it."})
		return false
	}
	writeJSON(w, http.StatusForbidden, map[string]string{"error": "cross_origin"})
	return false
}

// isNavigation reports whether a person will look at the answer. Browsers say so
// (Fetch Metadata); without that, a request that takes HTML counts as one.
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
		rp.pages.unavailable(w, r, unavailable(err))
		return
	}
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case !isNavigation(r):
		rp.pages.challenge(w, r, out)
	case !get:
		rp.keepForm(w, r, h, out)
	case rp.tried(r):
		rp.jar.drop(w, rp.jar.name+"-tried") // the next try is one again
		rp.pages.render(w, r, http.StatusUnauthorized, PageData{
			Kind: PageLoop, Title: "Signing in did not last",
			Text: strings.TrimSpace("You signed in, but the application sees nobody. " + out.Text +
				" Perhaps your browser does not keep cookies for this site. If it happens again, tell the people who run the application."),
			SignIn: rp.site.signInURL(here(r)),
		})
	case rp.cfg.ExplainFirst && out.Text != "":
		rp.pages.render(w, r, http.StatusUnauthorized, PageData{
			Kind: PageEnded, Title: "Please sign in again", Text: out.Text, SignIn: rp.site.signInURL(here(r)),
		})
	default:
		rp.start(w, r, signIn{Return: rp.site.safeReturn(here(r)), Notice: out.Text})
	}
}

// takeNotice returns what the page should tell, once.
func (rp *RelyingParty) takeNotice(w http.ResponseWriter, r *http.Request) string {
	name := rp.jar.name + "-notice"
	var n notice
	if !isNavigation(r) || !rp.jar.sealed(r, name, &n) {
		return ""
	}
	if n.State != "" && n.State != r.URL.Query().Get("state") {
		return ""
	}
	rp.jar.drop(w, name)
	return n.Text
}
