package provider

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// At a cap that asks (policy.Ask), a page stands between the sign-in and the
// callback. It takes the place of the refusal that op would send to the
// application:
//
//	GET  callback?id=..                the login finds no room: 403, the page
//	POST callback?id=..&curfew_answer  the chosen sessions end; then the request
//	                                   is served as the GET that it stands for
//
// The answer ends sessions and admits nobody: the login goes through the same
// admission as any other, and if somebody else took the place meanwhile the page
// comes again. No path needs to be configured, and the body of no other POST is
// read.

// askWithin is for how long after the sign-in the user can be asked: longer, and
// whoever sits there now need not be the user.
const askWithin = 5 * time.Minute

const (
	answerParam = "curfew_answer" // in the query: the request answers a page
	tokenField  = "curfew_token"
	actionField = "action"
	endField    = "end"
)

// maxAnswer bounds the body of an answer: maxListed session IDs and a token, with
// room to spare.
const maxAnswer = 64 << 10

// A question is what a page asks: which sessions of the subject shall end for one
// login. The page's token seals it.
type question struct {
	purpose string // askLogin or askDevice: one cannot stand in for the other
	subject store.Subject
	login   string    // the auth request's ID, or the user code
	place   string    // hash of the query of the callback, or of the browser's cookie
	until   time.Time // no answer is taken from then on
	kind    policy.Kind
	client  string
	used    int // of the cap that asks
	max     int
}

const (
	askLogin  = "login"
	askDevice = "device"
)

// decision is the one that the question stands for, if it is given up.
func (q *question) decision() policy.Decision {
	return policy.Decision{Reason: policy.ReasonConcurrency, Used: q.used, Max: q.max}
}

const askPrefix = "curfew_ask_"

func (h *pages) sealQuestion(q question) string {
	w := seal.NewRecord()
	w.Text(q.purpose, q.subject.Issuer, q.subject.ID, q.login, q.place, string(q.kind), q.client)
	w.Time(q.until)
	w.Number(uint64(q.used))
	w.Number(uint64(q.max))
	return h.ring.Seal(askPrefix, w.Bytes())
}

func (h *pages) openQuestion(text string, now time.Time) (question, error) {
	record, err := h.ring.Open(askPrefix, text, now)
	if err != nil {
		return question{}, err
	}
	d := seal.ReadRecord(record)
	q := question{
		purpose: d.Text(), subject: store.Subject{Issuer: d.Text(), ID: d.Text()}, login: d.Text(), place: d.Text(),
		kind: policy.Kind(d.Text()), client: d.Text(), until: d.Time(), used: int(d.Number()), max: int(d.Number()),
	}
	if !d.Done() {
		return question{}, seal.ErrBroken
	}
	return q, nil
}

// placeOf hashes what a question is bound to beside its login.
func placeOf(parts ...string) string {
	sum := seal.Digest(append([]string{"place"}, parts...)...)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// An asking is a page that is to be shown instead of what op answers.
type asking struct {
	question
	scheme string // of the application, if it is not of the web
}

// A choice is what came back from a page.
type choice struct {
	cancelled *question // the user gave the login up
	problem   string    // what was wrong with it, as in AskPage.ErrorCode; nothing was ended
}

// askUntil returns until when a user who signed in at authTime can be asked, and
// whether that is still to come. A provider that does not say when it was
// cannot ask.
func askUntil(authTime, now time.Time) (time.Time, bool) {
	if authTime.IsZero() {
		return time.Time{}, false
	}
	if authTime.After(now) { // another clock
		authTime = now
	}
	until := authTime.Add(askWithin)
	return until, now.Before(until)
}

// askInstead prepares the page for a login that was refused by a cap that asks. The
// caller knows that this is the browser which made the auth request, that the user has
// just signed in, and that the application wants no silent answer.
func (req *request) askInstead(ar op.AuthRequest, l *session.Login, d policy.Decision, until time.Time) {
	req.asking = &asking{
		question: question{
			purpose: askLogin, subject: l.Subject, login: ar.GetID(), place: placeOf("query", req.callbackQuery()), until: until,
			kind: l.Kind, client: l.Client, used: d.Used, max: d.Max,
		},
		scheme: foreignScheme(ar.GetRedirectURI()),
	}
}

// foreignScheme returns the scheme of an address if a browser hands it on to
// another program (RFC 8252 section 7.1), else nothing.
func foreignScheme(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" || u.Scheme == "http" || u.Scheme == "https" {
		return ""
	}
	return u.Scheme
}

// cancelledBy returns the refusal of a login that the user gave up on the page.
func (req *request) cancelledBy(ar op.AuthRequest) *refusedError {
	if req.choice == nil || req.choice.cancelled == nil || req.choice.cancelled.login != ar.GetID() {
		return nil
	}
	q := req.choice.cancelled
	return &refusedError{
		reason: policy.ReasonConcurrency,
		text:   fmt.Sprintf("%s: used=%d max=%d; the user did not end another login session", policy.ReasonConcurrency, q.used, q.max),
	}
}

// isAnswer reports whether a request answers a page.
func isAnswer(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.Contains(r.URL.RawQuery, answerParam) && r.URL.Query().Has(answerParam)
}

// callbackQuery returns the query of a callback in one form, without the mark of
// an answer.
func (req *request) callbackQuery() string {
	q, _ := url.ParseQuery(req.http.URL.RawQuery) // what cannot be parsed is left out, as op does
	q.Del(answerParam)
	return q.Encode()
}

// takeAnswer does what the answer to a page says, and returns the request that
// it stands for: the GET of the callback. If it returns nil it has answered
// itself.
func (h *pages) takeAnswer(w http.ResponseWriter, r *http.Request, req *request) *http.Request {
	get := asGet(r, req.callbackQuery())
	req.askable = true
	form, failed := readAnswer(w, r, "?"+req.callbackQuery())
	if failed != nil {
		h.notice(w, r, failed.status, failed.AskNotice)
		return nil
	}
	now := h.now()
	q, err := h.openQuestion(form.Get(tokenField), now)
	switch {
	case !fromOwnPage(r, q.subject.Issuer):
		h.notice(w, r, http.StatusForbidden, AskNotice{Code: noticeForeign})
		return nil
	case errors.Is(err, seal.ErrAhead):
		h.unavailable(w, r, req.callbackQuery(), err)
		return nil
	case err != nil, q.purpose != askLogin, q.place != placeOf("query", req.callbackQuery()), !now.Before(q.until),
		!h.fromSameBrowser(r.Context(), req, q):
		// Served as the GET all the same: that shows a new page to whom it may
		// be shown, and refuses the others.
		req.choice = &choice{problem: askStale}
		return get
	}
	req.choice, err = h.carryOut(r.Context(), q, form)
	if err != nil {
		h.unavailable(w, r, req.callbackQuery(), err)
		return nil
	}
	return get
}

// fromSameBrowser reports whether an answer comes from the browser that made the
// auth request. The issuer is not in the context yet.
func (h *pages) fromSameBrowser(ctx context.Context, req *request, q question) bool {
	_, bound := h.boundBrowser(op.ContextWithIssuer(ctx, q.subject.Issuer), req, q.login)
	return bound
}

// carryOut ends what the form of an answer says.
func (h *pages) carryOut(ctx context.Context, q question, form url.Values) (*choice, error) {
	chosen := form[endField]
	switch action := form.Get(actionField); {
	case action == "cancel":
		h.tellRefused(ctx, store.Session{
			Subject: q.subject, Client: q.client, Kind: q.kind, Accounts: h.rulesToEnd(ctx, &store.Session{Subject: q.subject}).accounts,
		}, q.decision())
		return &choice{cancelled: &q}, nil
	case action != "end" && action != "", len(chosen) > maxListed:
		return &choice{problem: askStale}, nil
	case len(chosen) == 0:
		return &choice{problem: askNone}, nil
	}
	// Who stands at the page may be who had the old password.
	switch outdated, err := h.outdated(ctx, q.subject, q.until.Add(-askWithin)); {
	case err != nil:
		return nil, err
	case outdated:
		return &choice{problem: askStale}, nil
	}
	ended, err := h.endThose(ctx, q.subject, policy.ReasonEndedByUser, q.subject.ID, func(s *store.Session) bool {
		return slices.Contains(chosen, s.ID) && !s.Fence.Past(q.until.Add(-askWithin))
	})
	switch {
	case err != nil:
		return nil, err
	case len(ended) == 0:
		return &choice{problem: askGone}, nil
	}
	return &choice{problem: askFull}, nil // it is shown only if the page comes again
}

// asGet returns the GET with the given query that a form stands for.
func asGet(r *http.Request, query string) *http.Request {
	get := r.Clone(r.Context())
	get.Method, get.Body, get.ContentLength, get.TransferEncoding = http.MethodGet, http.NoBody, 0, nil
	get.Form, get.PostForm, get.MultipartForm = nil, nil, nil
	get.Header.Del("Content-Type")
	get.Header.Del("Content-Length")
	get.URL.RawQuery = query
	get.RequestURI = get.URL.RequestURI()
	return get
}

// A failedAnswer is why an answer could not be read.
type failedAnswer struct {
	status int
	AskNotice
}

// readAnswer reads the form of an answer; back leads to the page.
func readAnswer(w http.ResponseWriter, r *http.Request, back string) (url.Values, *failedAnswer) {
	failed := func(status int, code string) *failedAnswer {
		return &failedAnswer{status, AskNotice{Code: code, Link: back}}
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/x-www-form-urlencoded" {
		return nil, failed(http.StatusUnsupportedMediaType, noticeUnreadable)
	}
	if r.ContentLength > maxAnswer {
		return nil, failed(http.StatusRequestEntityTooLarge, noticeTooLarge)
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxAnswer)
	err := r.ParseForm()
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, failed(http.StatusRequestEntityTooLarge, noticeTooLarge)
	case err != nil:
		return nil, failed(http.StatusBadRequest, noticeUnreadable)
	}
	return r.PostForm, nil
}

// finishAsking writes the response that was held back for a page, or after one,
// and reports whether it did.
func (h *pages) finishAsking(w *responseWriter, r *http.Request) bool {
	if !w.held {
		return false
	}
	return w.req.asking != nil && h.ask(w, r) || w.req.choice != nil && isRedirect(w.status) && h.goOn(w, r)
}

// ask shows the page instead of the refusal that op wrote.
func (h *pages) ask(w *responseWriter, r *http.Request) bool {
	a := w.req.asking
	rm, err := h.room(r.Context(), a.subject, a.kind, a.client)
	if err == nil && !rm.decision.Allow && !rm.decision.Ask {
		return false // the settings have changed: the refusal stands
	}
	w.dropHeld()
	switch {
	case err != nil:
		h.unavailable(w.ResponseWriter, r, w.req.callbackQuery(), err)
	case rm.decision.Allow:
		h.notice(w.ResponseWriter, r, http.StatusOK, AskNotice{Code: noticeRoom, Link: "?" + w.req.callbackQuery()})
	default:
		page := h.askPage(r, rm, a.question)
		page.Action = "?" + addParam(w.req.callbackQuery(), answerParam, "1")
		page.Hidden = []AskField{{Name: tokenField, Value: h.sealQuestion(a.question)}}
		if w.req.choice != nil {
			page.ErrorCode = w.req.choice.problem
		}
		h.writePage(w.ResponseWriter, r, http.StatusForbidden, page, a.scheme)
	}
	return true
}

func addParam(query, name, value string) string {
	if query != "" {
		query += "&"
	}
	return query + name + "=" + value
}

// goOn takes the browser on after an answer. A redirect would still be part of
// the submission of the form: browsers hold each address on the way, those of the
// application and behind it too, against the form-action of the page. So a page
// in between leads on, and form-action allows nothing but this server. A private
// scheme is handed to another program: it is named in form-action, since that
// program may not be started without the user's click.
func (h *pages) goOn(w *responseWriter, r *http.Request) bool {
	if w.req.unavailable {
		w.dropHeld()
		h.unavailable(w.ResponseWriter, r, w.req.callbackQuery(), nil)
		return true
	}
	if w.post != nil {
		return false
	}
	location := w.Header().Get("Location")
	if foreignScheme(location) != "" {
		w.status = http.StatusSeeOther // the browser is to send no form there
		return false
	}
	w.dropHeld()
	w.Header().Set("Refresh", "0; url="+location)
	h.notice(w.ResponseWriter, r, http.StatusOK, AskNotice{Code: noticeGoingOn, Link: location})
	return true
}

// dropHeld forgets the response that op wrote, but for the cookies.
func (w *responseWriter) dropHeld() {
	h := w.Header()
	for _, name := range []string{"Location", "Content-Type", "Content-Length", "Content-Encoding", "ETag"} {
		h.Del(name)
	}
	w.body = nil
}

func isRedirect(status int) bool { return status >= 300 && status < 400 }
