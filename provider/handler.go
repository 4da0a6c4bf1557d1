package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/browser"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// A request is what the hook knows of one HTTP request. op hands neither the
// request to the storage nor the storage's findings to the client and the
// response: the request in the context is the only link.
//
// Its storage calls and its response use it in turns.
type request struct {
	hook      *Hook
	outer     *request // of another hook, whose handler is outside of this one's
	turns     turns
	http      *http.Request
	address   string // without port
	userAgent string

	client op.Client // the last one that op asked for

	// For the page at a cap that asks: see ask.go.
	askable bool // a page can be answered here
	asking  *asking
	choice  *choice

	// finished is the auth request that the callback found to be done, and
	// admitted whether GetClientByClientID has decided about it.
	finished op.AuthRequest
	admitted bool

	// issuer is that of the provider that serves the request, and target where
	// the authorization request wants its answer that this request answers.
	issuer string
	target *target

	deviceCode        string     // hashed
	repeatKey         seal.Nonce // made from the code or device code that is redeemed
	redeemsCode       bool       // at the token endpoint, not at the authorization endpoint
	clientCredentials bool
	boundIDToken      bool // an ID token's life was asked of a wrapped client

	refresh  *refreshState // of the last refresh token that was looked up
	refused  *refusedRequest
	exchange *exchangeState
	vouched  struct{ subject, actor string } // the tokens of an exchange that the storage was asked to vouch for
	unlock   func()                          // of the grant whose refresh token was looked up
	begun    *begun
	touched  bool // by a storage call

	// session is the session that the request turned out to belong to, and
	// live its limits as this request's client uses it.
	session *store.Session
	ruling  ruling
	live    *usage
	acr     string   // of what its tokens rest on
	own     struct { // what they point to
		session store.Session
		usage   usage
	}

	browser *browser.Cookies // its cookies, where they were asked for
	posted  *bytes.Buffer    // the form that was posted, where a page may have to ask for it again

	// What the response needs.
	unavailable  bool           // 503 instead of what op answers
	unauthorized bool           // 401 instead of op's 403 (RFC 6750 section 3.1)
	extra        []byte         // members to add to the JSON object of a success
	announces    []announcement // what to add to discovery
	extraAfter   string         // the member of the object to add them after; empty: the last
	private      bool           // no-store (RFC 6749 section 5.1)
	page         *LogoutPage    // instead of op's redirect
}

// A usage is a session as one client uses it, under the current rules.
type usage struct {
	rules  policy.Rules
	use    policy.Use
	window policy.Window
}

type requestKey struct{}

// requestFrom returns the request of this hook in the context, or nil where its
// [Hook.Handler] is missing.
func (h *Hook) requestFrom(ctx context.Context) *request {
	r, _ := ctx.Value(requestKey{}).(*request)
	for r != nil && r.hook != h {
		r = r.outer
	}
	return r
}

// Handler wraps the outermost HTTP handler of the provider. It needs no issuer
// in the context. Without it no token is issued.
func (h *Hook) Handler(next http.Handler) http.Handler {
	h.handles.Store(true)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.requestFrom(r.Context()) != nil { // twice around: once is enough
			next.ServeHTTP(w, r)
			return
		}
		if h.decorates.Load() == 0 {
			h.misconfigured(r.Context(), errNeverDecorated)
		}
		both := &struct {
			req request
			rw  responseWriter
		}{req: request{hook: h, http: r, address: h.address(r), userAgent: r.UserAgent(), askable: r.Method == http.MethodGet}}
		req, rw := &both.req, &both.rw
		req.outer, _ = r.Context().Value(requestKey{}).(*request)
		rw.ResponseWriter, rw.req, rw.hook = w, req, h
		if isMetadata(r.URL.Path) {
			req.announces = h.announces
		}
		if isAnswer(r) {
			if r = h.takeAnswer(w, r, req); r == nil {
				return
			}
			req.http = r // which is what op reads
		}
		h.keepForm(req, r)
		done := false
		defer func() {
			if !done { // a panic, which net/http answers
				h.close(r.Context(), req)
			}
		}()
		next.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), requestKey{}, req)))
		done = true
		if !rw.decided && req.turns.pause() { // nobody wrote anything: net/http answers 200
			rw.settle(http.StatusOK)
			req.turns.resume()
		}
		if h.close(r.Context(), req) && !h.finishAsking(rw, r) {
			rw.finish()
		}
	})
}

// close ends a request. It reports whether its storage calls have all returned. If
// not, the last one cleans up.
func (h *Hook) close(ctx context.Context, req *request) bool {
	ctx = context.WithoutCancel(ctx)
	cleanUp := func() {
		h.takeBack(ctx, req)
		req.release()
	}
	if !req.turns.close(cleanUp) {
		return false
	}
	cleanUp()
	return true
}

// release lets the next refresh of the grant go on.
func (req *request) release() {
	if req.unlock != nil {
		req.unlock()
		req.unlock = nil
	}
}

func (h *Hook) address(r *http.Request) string {
	if h.cfg.RemoteAddress != nil {
		return h.cfg.RemoteAddress(r)
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// retryAfter is when a client is asked to try again after a 503: long enough
// not to hammer a store that comes back, short enough for a person who waits.
const retryAfter = "2"

// A responseWriter holds a response back if the hook has something to change
// in it. Storage calls come before op writes, so that is known at the first
// write; every other response passes through.
type responseWriter struct {
	http.ResponseWriter
	req     *request
	hook    *Hook
	decided bool
	held    bool
	status  int
	body    []byte // what was written of a response that is held back

	// Of an authorization response: see authresponse.go.
	location string    // that op wrote, where it is another one now; its body repeats it
	post     *formPost // instead of op's redirect
}

// Unwrap serves http.ResponseController.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush does nothing on a response that is held back.
func (w *responseWriter) Flush() {
	if !w.decided {
		w.WriteHeader(http.StatusOK)
	}
	if w.held {
		return
	}
	// An underlying writer that cannot flush is none of the caller's
	// business: http.Flusher has no error.
	http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *responseWriter) WriteHeader(status int) {
	if status < 200 || w.decided { // 1xx, or a superfluous call: not ours to judge
		if !w.held {
			w.ResponseWriter.WriteHeader(status)
		}
		return
	}
	w.decided = true
	if !w.req.turns.pause() {
		// Something inside of the handler answers for the provider, which is still
		// at work: a time-out. Nothing of the request belongs into its answer.
		w.ResponseWriter.WriteHeader(status)
		return
	}
	defer w.req.turns.resume()
	if !w.req.touched && isRedirect(status) && bringsCode(w.Header().Get("Location")) {
		w.hook.misconfigured(w.req.http.Context(), errNotDecorated)
	}
	w.settle(status)
	w.req.setCookies(w.Header())
	redirect := isRedirect(status)
	if redirect {
		w.completeRedirect()
	}
	switch {
	case w.req.asking != nil, w.req.choice != nil && redirect, w.location != "", w.post != nil, w.req.mayPost(status):
		w.held, w.status = true, status
		return
	case w.req.page != nil,
		w.req.unavailable && !redirect,
		w.req.unauthorized && status >= 400,
		(w.req.extra != nil || len(w.req.announces) > 0) && status == http.StatusOK && isPlainJSON(w.Header()):
		w.held, w.status = true, status
		return
	}
	if w.req.private {
		noStore(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *responseWriter) Write(b []byte) (int, error) {
	if !w.decided {
		w.WriteHeader(http.StatusOK)
	}
	if w.held {
		w.body = append(w.body, b...)
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// isPlainJSON reports whether a member can be added to a body: not to a page, nor
// to what something inside of the handler has compressed.
func isPlainJSON(h http.Header) bool {
	contentType := h.Get("Content-Type")
	if contentType != "application/json" {
		mediaType, _, err := mime.ParseMediaType(contentType)
		if err != nil || mediaType != "application/json" {
			return false
		}
	}
	return h.Get("Content-Encoding") == ""
}

// Shared, and never changed: their capacity is their length.
var cacheControl, pragma = []string{"no-store"}, []string{"no-cache"}

func noStore(h http.Header) {
	h["Cache-Control"], h["Pragma"] = cacheControl, pragma
}

// endOfMember returns where the value of a member of a JSON object ends, and 0 if
// there is no such member.
func endOfMember(object []byte, name string) int {
	if name == "" {
		return 0
	}
	d := json.NewDecoder(bytes.NewReader(object))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return 0
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return 0
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return 0
		}
		if key == name {
			return int(d.InputOffset())
		}
	}
	return 0
}

// finish writes a response that was held back.
func (w *responseWriter) finish() {
	if !w.decided { // nobody wrote anything: net/http answers 200
		w.req.setCookies(w.Header())
	}
	if !w.held {
		return
	}
	if w.req.page != nil && !w.req.unavailable {
		w.hook.writeLogoutPage(w.ResponseWriter, w.req.http, w.req.page)
		return
	}
	if w.post != nil && writeFormPost(w.ResponseWriter, w.req.http, w.post) == nil {
		return
	}
	h := w.Header()
	body := w.body
	h.Del("ETag") // of what op wrote
	if w.req.unavailable && !isRedirect(w.status) || w.req.unauthorized {
		h.Del("Content-Encoding")
	}
	switch {
	case w.req.unavailable && !isRedirect(w.status):
		noStore(h)
		h.Set("Content-Type", "application/json")
		h.Set("Retry-After", retryAfter)
		w.status = http.StatusServiceUnavailable
		body = []byte(`{"error":"server_error","error_description":"` + unavailableText + `"}` + "\n")
	case w.req.unauthorized:
		noStore(h)
		h.Set("Content-Type", "application/json")
		h.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.status = http.StatusUnauthorized
		body = []byte(`{"error":"invalid_token"}` + "\n")
	default:
		if w.req.private {
			noStore(h)
		}
		body = w.completeBody(body)
		if len(w.req.announces) > 0 && endOfMember(body, "issuer") > 0 { // else it is none
			for _, a := range w.req.announces {
				if endOfMember(body, a.member) == 0 { // op announces some of it too, if it is told to
					w.req.extra = appendRaw(w.req.extra, a.member, a.value)
				}
			}
		}
		if w.req.extra == nil {
			break
		}
		// Spliced, not decoded and encoded: nothing that op wrote changes.
		if at := endOfMember(body, w.req.extraAfter); at > 0 {
			body = splice(body, at, true, w.req.extra)
		} else if end := bytes.LastIndexByte(body, '}'); end > 0 {
			body = splice(body, end, !bytes.HasSuffix(bytes.TrimSpace(body[:end]), []byte("{")), w.req.extra)
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.ResponseWriter.WriteHeader(w.status)
	w.ResponseWriter.Write(body) // a client that went away is not an error here
}

// splice puts members into the object that body is, in its place if there is room.
func splice(body []byte, at int, comma bool, members []byte) []byte {
	body = slices.Insert(body, at, members...)
	if comma {
		body = slices.Insert(body, at, ',')
	}
	return body
}

// SessionID returns the "sid" of the login session that the HTTP request in the context belongs to;
// empty if it belongs to no session, or if the session is not known yet. It is known when the
// storage's SaveAuthCode, CreateAccessToken,
// CreateAccessAndRefreshTokens and DeleteAuthRequest are called: a storage that stores the sid with
// its tokens can remove them in [Config.OnEnd].
func SessionID(ctx context.Context) string {
	req, _ := ctx.Value(requestKey{}).(*request)
	for ; req != nil; req = req.outer { // of each hook
		if req.session != nil {
			return req.session.ID
		}
	}
	return ""
}
