package provider

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"html"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/provider/internal/page"
)

// op writes the authorization response, and the hook completes it: with "iss" (RFC
// 9207), and an error that the application wants posted is posted (OAuth 2.0 Form
// Post Response Mode), which op does for successes only.

//go:embed templates/formpost.html
var formPostFiles embed.FS

var formPostTemplate = template.Must(template.ParseFS(formPostFiles, "templates/formpost.html"))

// formPostScript is the script of the page, by its hash.
const formPostScript = "script-src 'sha256-ePniVEkSivX/c7XWBGafqh8tSpiRrKiqYeqbG7N1TOE='"

// A target is where an authorization request wants its answer.
type target struct {
	redirectURI string
	mode        oidc.ResponseMode
}

// A targeted is an authorization request, op's or the storage's own.
type targeted interface {
	GetRedirectURI() string
	GetResponseMode() oidc.ResponseMode
}

// answers notes that the response to this request may be the answer to an
// authorization request. The request's address has been judged: by op, before it
// redirects to it.
func (req *request) answers(ctx context.Context, ar targeted) {
	req.issuer = cmp.Or(op.IssuerFromContext(ctx), req.issuer)
	req.target = &target{ar.GetRedirectURI(), ar.GetResponseMode()}
}

// asked returns where the authorization request that this HTTP request makes wants
// its answer, which may be the given redirect, if it makes one: op refuses some of
// them before any storage sees them.
func (req *request) asked(location string) *target {
	if req.client == nil {
		return nil // nobody has judged the address
	}
	form := req.form()
	t := target{form.Get("redirect_uri"), oidc.ResponseMode(form.Get("response_mode"))}
	if a, ok := t.read(location); ok && a.params.Get("error") == "request_not_supported" {
		return &t // op has not looked into the object
	}
	var object oidc.RequestObject
	if _, err := oidc.ParseToken(form.Get("request"), &object); err == nil { // as op.CopyRequestObjectToAuthRequest
		if object.RedirectURI != "" {
			t.redirectURI = object.RedirectURI
		}
		if object.ResponseMode != "" {
			t.mode = object.ResponseMode
		}
	}
	if t.redirectURI == "" {
		return nil
	}
	return &t
}

// form returns the parameters of a request as op reads them: the last value of
// each, those of the address after those that were posted, and by names in any case.
func (req *request) form() url.Values {
	_, posted := req.logoutForm()
	form := url.Values{}
	for _, part := range []url.Values{posted, req.http.URL.Query()} {
		for name, values := range part {
			form.Set(strings.ToLower(name), values[len(values)-1])
		}
	}
	return form
}

// A redirectAnswer is an authorization response that op sends by a redirect.
type redirectAnswer struct {
	location string
	fragment bool // its parameters are there, and not in the query
	params   url.Values
}

// read reads a redirect as the answer to an authorization request. It is one
// if it leads where the request wants it, with what answers have.
func (t *target) read(location string) (redirectAnswer, bool) {
	want, err := url.Parse(t.redirectURI)
	if err != nil || withoutParams(location) != withoutParams(want.String()) {
		return redirectAnswer{}, false
	}
	a, ok := readParams(location)
	return a, ok && (a.params.Has("error") || a.params.Has("code") || a.params.Has("id_token") || a.params.Has("access_token"))
}

func readParams(location string) (redirectAnswer, bool) {
	rest, fragment, _ := strings.Cut(location, "#")
	_, query, _ := strings.Cut(rest, "?")
	a := redirectAnswer{location: location, fragment: strings.Contains(fragment, "=")}
	if a.fragment {
		query = fragment
	}
	var err error
	a.params, err = url.ParseQuery(query)
	return a, err == nil
}

func withoutParams(address string) string {
	address, _, _ = strings.Cut(address, "#")
	address, _, _ = strings.Cut(address, "?")
	return address
}

// with returns the address with one parameter more. Nothing that op wrote changes.
func (a redirectAnswer) with(name, value string) string {
	param := "&" + name + "=" + url.QueryEscape(value)
	if a.fragment {
		return a.location + param
	}
	rest, fragment, has := strings.Cut(a.location, "#")
	if has {
		fragment = "#" + fragment
	}
	return rest + param + fragment
}

// completeRedirect completes an authorization response that is a redirect.
func (w *responseWriter) completeRedirect() {
	h, req := w.Header(), w.req
	location := h.Get("Location")
	t := req.target
	if t == nil {
		t = req.asked(location)
	}
	if t == nil {
		w.hook.noticeUnknownAnswer(req, location)
		return
	}
	a, ok := t.read(location)
	if !ok {
		return
	}
	iss := w.hook.issuerParam(req)
	if iss != "" && !a.params.Has("iss") {
		a.params.Set("iss", iss)
		w.location = location
		h.Set("Location", a.with("iss", iss))
	}
	if t.mode != oidc.ResponseModeFormPost || !a.params.Has("error") || foreignScheme(t.redirectURI) != "" {
		return
	}
	w.post = &formPost{Action: t.redirectURI}
	for _, name := range []string{"state", "error", "error_description", "error_uri", "session_state", "iss"} {
		if values := a.params[name]; len(values) > 0 { // those of the address itself come first
			w.post.Fields = append(w.post.Fields, LogoutField{name, values[len(values)-1]})
		}
	}
}

// issuerParam is the value of "iss", empty if there is none.
func (h *Hook) issuerParam(req *request) string {
	if h.cfg.NoResponseIssuer {
		return ""
	}
	return req.issuer
}

// errUnknownAnswer is told where an error goes to an application without "iss",
// which discovery says that it has.
var errUnknownAnswer = setup("an authorization response has no iss: its auth request was not read from the decorated storage " +
	"(op.Authorizer.Storage, with the issuer in the context); set Config.NoResponseIssuer if that cannot be")

// noticeUnknownAnswer tells of a redirect to elsewhere that looks like an error for an
// application, of whose request nothing is known here.
func (h *Hook) noticeUnknownAnswer(req *request, location string) {
	if h.cfg.NoResponseIssuer || !strings.Contains(location, "error=") || !strings.Contains(location, "state=") {
		return
	}
	if u, err := url.Parse(location); err != nil || u.Scheme == "" || u.Host == req.http.Host {
		return
	}
	if a, ok := readParams(location); ok && a.params.Has("error") && a.params.Has("state") && !a.params.Has("iss") {
		h.misconfigured(req.http.Context(), errUnknownAnswer)
	}
}

// A formPost is a page whose form brings an error to the application.
type formPost struct {
	PageTexts
	Action string
	Fields []LogoutField
}

// writeFormPost writes the page. There is no form-action in its policy: browsers
// hold the redirects that follow against it, behind the application's callback too.
func writeFormPost(w http.ResponseWriter, r *http.Request, p *formPost) error {
	p.PageTexts = textsFor(r)
	return page.ExecutePassing(w, formPostScript, formPostTemplate, p)
}

// mayPost reports whether a response may be the form with which op posts a success.
func (req *request) mayPost(status int) bool {
	return status == http.StatusOK && req.admitted && req.target != nil && req.target.mode == oidc.ResponseModeFormPost
}

// completeBody completes the body of an authorization response.
func (w *responseWriter) completeBody(body []byte) []byte {
	switch {
	case w.location != "": // http.Redirect links to it
		return bytes.ReplaceAll(body, []byte(html.EscapeString(w.location)), []byte(html.EscapeString(w.Header().Get("Location"))))
	case w.req.mayPost(w.status):
		completed, ok := w.req.target.completeForm(body, w.hook.issuerParam(w.req))
		if ok { // it holds a code, or tokens
			page.ForNobodyElse(w.Header())
		}
		return completed
	}
	return body
}

var formTag = regexp.MustCompile(`<form method="post" action="([^"]*)">`)

// completeForm adds "iss" to the form with which op posts a success. A page that is
// not that form stays as it is.
func (t *target) completeForm(body []byte, iss string) ([]byte, bool) {
	m := formTag.FindSubmatch(body)
	end := bytes.LastIndex(body, []byte("</form>"))
	if m == nil || end < 0 {
		return body, false
	}
	action, err := url.Parse(html.UnescapeString(string(m[1])))
	want, errWant := url.Parse(t.redirectURI)
	if err != nil || errWant != nil || withoutParams(action.String()) != withoutParams(want.String()) {
		return body, false
	}
	if iss == "" || bytes.Contains(body, []byte(`name="iss"`)) {
		return body, true
	}
	input := `<input type="hidden" name="iss" value="` + html.EscapeString(iss) + `"/>` + "\n"
	return slices.Insert(body, end, []byte(input)...), true
}
