package admin

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/page"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

// A route is one operation of the API. The table is the one place that says
// which there are: it is what the description, the tests and the handler go by.
type route struct {
	method, pattern string
	action          Action

	// body bounds the body of a request, in bytes. 0: it has none.
	body int64

	// query are the parameters that it takes.
	query []string

	// ibm: errors are in IBM's form, parameters that are not known are left
	// alone.
	ibm bool

	serve func(a *Admin, c *call) (answer, error)
}

const (
	smallBody    = 64 << 10
	settingsBody = policy.MaxDocument + smallBody
)

const accountPath = "/v1/accounts/{account}"

func routeTable() []route {
	return []route{
		{method: "GET", pattern: "/v1/openapi.json", action: ReadDescription, serve: (*Admin).serveDescription},

		{method: "GET", pattern: accountPath + "/settings", action: ReadSettings, serve: (*Admin).getSettings},
		{method: "PUT", pattern: accountPath + "/settings", action: WriteSettings, body: settingsBody, serve: (*Admin).putSettings},
		{method: "POST", pattern: accountPath + "/settings/preview", action: PreviewSettings, body: settingsBody, serve: (*Admin).postPreview},
		{method: "POST", pattern: accountPath + "/settings/restore", action: WriteSettings, body: smallBody, serve: (*Admin).postRestore},
		{method: "GET", pattern: accountPath + "/settings/history", action: ReadSettings, query: []string{"before", "limit"}, serve: (*Admin).getHistory},
		{method: "GET", pattern: accountPath + "/settings/history/{version}", action: ReadSettings, serve: (*Admin).getVersion},
		{method: "GET", pattern: accountPath + "/explain", action: ReadSettings, query: []string{"user", "kind", "client"}, serve: (*Admin).getExplain},
		{method: "GET", pattern: accountPath + "/presets", action: ReadSettings, serve: (*Admin).getPresets},

		{method: "GET", pattern: accountPath + "/sessions", action: ReadSessions, query: []string{"user", "kind", "client", "state", "cursor", "limit"}, serve: (*Admin).getSessions},
		{method: "GET", pattern: accountPath + "/sessions/{sid}", action: ReadSessions, serve: (*Admin).getSession},
		{method: "DELETE", pattern: accountPath + "/sessions/{sid}", action: EndSessions, serve: (*Admin).deleteSession},
		{method: "POST", pattern: accountPath + "/sessions/end", action: EndSessions, body: settingsBody, serve: (*Admin).postEnd},

		{method: "GET", pattern: accountPath + "/deliveries", action: ReadSessions, query: []string{"state", "cursor"}, serve: (*Admin).getDeliveries},
		{method: "POST", pattern: accountPath + "/sessions/{sid}/deliveries", action: EndSessions, body: smallBody, serve: (*Admin).postDelivery},

		{method: "PATCH", pattern: "/v1/sessions/{sid}/state", action: Heartbeat, body: smallBody, serve: (*Admin).patchState},

		{method: "GET", pattern: accountPath + "/settings/identity", action: ReadSettings, query: ibmQuery, ibm: true, serve: (*Admin).getIBM},
		{method: "PUT", pattern: accountPath + "/settings/identity", action: WriteSettings, body: ibmBody, query: ibmQuery, ibm: true, serve: (*Admin).putIBM},
		{method: "GET", pattern: accountPath + "/effective_settings/identity", action: ReadSettings, query: ibmQuery, ibm: true, serve: (*Admin).getIBMEffective},
	}
}

// A call is one request that was authorized.
type call struct {
	r       *http.Request
	actor   service.Actor
	account string
	query   map[string]string
	body    []byte
}

func (c *call) ctx() context.Context { return c.r.Context() }

// An answer is a response.
type answer struct {
	status int // 0: 200
	etag   string
	body   any // nil: none
}

// A problem is a response about an error (RFC 9457).
type problem struct {
	status int
	code   string
	detail string
	fields policy.FieldErrors
}

func (p *problem) Error() string { return p.code + ": " + p.detail }

// routes returns the handler of the API.
func (a *Admin) routes() http.Handler {
	mux := http.NewServeMux()
	for _, route := range routeTable() {
		mux.Handle(route.method+" "+route.pattern, a.handler(route))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if allowed := page.MethodsOf(mux, r); len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			writeProblem(w, &problem{status: http.StatusMethodNotAllowed, code: "method_not_allowed", detail: "this address accepts " + strings.Join(allowed, ", ")})
			return
		}
		writeProblem(w, &problem{status: http.StatusNotFound, code: "not_found", detail: "there is nothing at this address; see /v1/openapi.json"})
	})
	// A browser sends cookies and client certificates along with requests that
	// a page of somebody else makes it send.
	guarded := http.NewCrossOriginProtection()
	guarded.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, &problem{status: http.StatusForbidden, code: "cross_origin", detail: "the request was sent by another website"})
	}))
	handler := guarded.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header() // of JSON, so not those of package page
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		handler.ServeHTTP(w, r)
	})
}

func (a *Admin) handler(route route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := a.serve(w, r, route)
		if err != nil {
			a.fail(w, r, route, err)
			return
		}
		if answer.etag != "" {
			tag := `"` + answer.etag + `"`
			if route.ibm {
				tag = answer.etag // as that API sends it
			}
			w.Header().Set("ETag", tag)
		}
		writeJSON(w, "application/json", answer.status, answer.body)
	})
}

func (a *Admin) serve(w http.ResponseWriter, r *http.Request, route route) (answer, error) {
	c := &call{r: r, account: r.PathValue("account")}
	if route.action != ReadDescription {
		// Before anything else: somebody who may not know learns nothing.
		actor, err := a.cfg.Authorize(r.Context(), r, route.action, c.account)
		if err != nil {
			return answer{}, err
		}
		if actor.ID == "" {
			return answer{}, errors.New("Config.Authorize returned an actor without an ID")
		}
		c.actor = service.Actor(actor)
	}
	for _, name := range []string{"account", "sid"} {
		if service.TextProblem(r.PathValue(name), service.MaxName) != "" {
			return answer{}, store.ErrNotFound
		}
	}
	var err error
	if c.query, err = parameters(r, route); err != nil {
		return answer{}, err
	}
	if route.body > 0 {
		if c.body, err = readBody(w, r, route.body); err != nil {
			return answer{}, err
		}
	}
	return route.serve(a, c)
}

// parameters returns the query parameters of a request.
func parameters(r *http.Request, route route) (map[string]string, error) {
	query := map[string]string{}
	values, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	for name, list := range values {
		known := slices.Contains(route.query, name)
		reason := ""
		switch {
		case !known && route.ibm:
			continue
		case !known && len(route.query) == 0:
			reason = "is not a parameter; there are none here"
		case !known:
			reason = "is not a parameter; known here: " + strings.Join(route.query, ", ")
		case len(list) > 1:
			reason = "is there more than once"
		default:
			reason = service.TextProblem(list[0], 1024)
		}
		if reason != "" {
			return nil, policy.FieldErrors{{Path: printable(name), Reason: reason}}
		}
		query[name] = list[0]
	}
	return query, nil
}

// readBody reads a JSON body, compressed or not, up to a bound.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	body := io.Reader(http.MaxBytesReader(w, r.Body, most))
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			return nil, bodyProblem(err)
		}
		body = unzipped
	default:
		return nil, &problem{status: http.StatusUnsupportedMediaType, code: "unsupported_encoding", detail: "Content-Encoding: send gzip, or none"}
	}
	data, err := io.ReadAll(io.LimitReader(body, most+1))
	if err != nil {
		return nil, bodyProblem(err)
	}
	if int64(len(data)) > most {
		return nil, tooLarge(most)
	}
	if len(data) == 0 {
		return nil, nil
	}
	typ, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset := params["charset"]; err != nil || typ != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return nil, &problem{status: http.StatusUnsupportedMediaType, code: "unsupported_media_type", detail: "Content-Type: send application/json in UTF-8"}
	}
	return data, nil
}

func tooLarge(most int64) error {
	return &problem{status: http.StatusRequestEntityTooLarge, code: "too_large", detail: fmt.Sprintf("the body has more than %d bytes", most)}
}

func bodyProblem(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return tooLarge(large.Limit)
	}
	return &problem{status: http.StatusBadRequest, code: "invalid_body", detail: "the body could not be read to its end"}
}

// problemOf says which response an error calls for.
func (a *Admin) problemOf(r *http.Request, err error) *problem {
	var p *problem
	var fields policy.FieldErrors
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &fields):
		return &problem{status: http.StatusBadRequest, code: "invalid", detail: "nothing was changed: the request has invalid fields", fields: fields}
	case errors.Is(err, ErrUnauthenticated):
		return &problem{status: http.StatusUnauthorized, code: "unauthenticated", detail: "a valid access token is required"}
	case errors.Is(err, ErrForbidden):
		return &problem{status: http.StatusForbidden, code: "forbidden", detail: "this is not allowed"}
	case errors.Is(err, service.ErrReadOnly):
		return &problem{status: http.StatusConflict, code: "read_only", detail: "the settings cannot be changed here. " + a.cfg.ReadOnly}
	case errors.Is(err, service.ErrBusy):
		return &problem{status: http.StatusTooManyRequests, code: "busy", detail: "your earlier previews are still running; wait for them"}
	case errors.Is(err, service.ErrStale):
		return &problem{status: http.StatusPreconditionFailed, code: "stale", detail: "the settings were changed meanwhile; nothing was changed. Read them again."}
	case errors.Is(err, service.ErrNoUser):
		return &problem{status: http.StatusNotFound, code: "not_found", detail: "the user is not in this account"}
	case errors.Is(err, service.ErrLive):
		return &problem{status: http.StatusConflict, code: "live", detail: "the session has not ended"}
	case errors.Is(err, store.ErrNotFound):
		return &problem{status: http.StatusNotFound, code: "not_found", detail: "this account has no such session or version"}
	case errors.Is(err, provider.ErrEnded):
		return &problem{status: http.StatusGone, code: "ended", detail: "the session has ended"}
	}
	a.cfg.Failed(r, err)
	return &problem{status: http.StatusServiceUnavailable, code: "unavailable", detail: "the request cannot be answered at the moment; try again"}
}

func (a *Admin) fail(w http.ResponseWriter, r *http.Request, route route, err error) {
	p := a.problemOf(r, err)
	switch p.status {
	case http.StatusUnauthorized:
		challenge := "Bearer" // RFC 6750 section 3
		if r.Header.Get("Authorization") != "" {
			challenge = `Bearer error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(service.RetryAfter))
	}
	if route.ibm {
		writeIBMProblem(w, p)
		return
	}
	writeProblem(w, p)
}

// A problemBody is "application/problem+json" (RFC 9457).
type problemBody struct {
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Code   string         `json:"code"`
	Detail string         `json:"detail"`
	Errors []problemField `json:"errors,omitempty"`
}

type problemField struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
	Line   int    `json:"line,omitempty"` // of the settings
}

// maxProblems bounds how many errors one answer lists.
const maxProblems = 100

func writeProblem(w http.ResponseWriter, p *problem) {
	body := problemBody{Title: http.StatusText(p.status), Status: p.status, Code: p.code, Detail: p.detail}
	for _, f := range p.fields[:min(len(p.fields), maxProblems)] {
		body.Errors = append(body.Errors, problemField{f.Path, f.Reason, f.Line})
	}
	writeJSON(w, "application/problem+json", p.status, body)
}

func writeJSON(w http.ResponseWriter, contentType string, status int, body any) {
	if status == 0 {
		status = http.StatusOK
	}
	if body == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	data, err := json.Marshal(body) // escapes <, > and &
	if err != nil {
		// The types are ours and always encode, but for settings that a
		// document cannot hold.
		status, data = http.StatusInternalServerError, []byte(`{"title":"Internal Server Error","status":500,"code":"internal","detail":"the response could not be written"}`)
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // whoever asked may be gone
}

func (a *Admin) getSettings(c *call) (answer, error) {
	s, err := a.service.Settings(c.ctx(), c.account)
	return answer{etag: s.EntityTag, body: s}, err
}

// match returns the If-Match of a request that needs one.
func match(r *http.Request) (service.Match, error) {
	m, err := parseMatch(r.Header.Values("If-Match"))
	if err == nil && !m.Any && len(m.Tags) == 0 {
		// RFC 6585 section 3.
		err = &problem{status: http.StatusPreconditionRequired, code: "if_match_required", detail: "If-Match is missing: send the entity tag of the settings that the change is for, or *"}
	}
	return m, err
}

func (a *Admin) putSettings(c *call) (answer, error) {
	m, err := match(c.r)
	if err != nil {
		return answer{}, err
	}
	settings, message, err := proposal(c.body)
	if err != nil {
		return answer{}, err
	}
	s, err := a.service.Save(c.ctx(), c.actor, c.account, m, settings, message)
	return answer{etag: s.EntityTag, body: s}, underSettings(err)
}

func (a *Admin) postPreview(c *call) (answer, error) {
	settings, message, err := proposal(c.body)
	if err != nil {
		return answer{}, err
	}
	p, err := a.service.Preview(c.ctx(), c.actor, c.account, settings, message)
	return answer{body: p}, underSettings(err)
}

func (a *Admin) postRestore(c *call) (answer, error) {
	m, err := match(c.r)
	if err != nil {
		return answer{}, err
	}
	o, err := parseObject(c.body, "version", "message")
	if err != nil {
		return answer{}, err
	}
	version := o.integer("version", true)
	message := o.text("message", service.MaxMessage)
	if err := o.err(); err != nil {
		return answer{}, err
	}
	s, err := a.service.Restore(c.ctx(), c.actor, c.account, m, version, message)
	return answer{etag: s.EntityTag, body: s}, underSettings(err)
}

// proposal reads settings and a message.
func proposal(body []byte) (policy.Account, string, error) {
	o, err := parseObject(body, "settings", "message")
	if err != nil {
		return policy.Account{}, "", err
	}
	raw := o.raw("settings", true)
	message := o.text("message", service.MaxMessage)
	if err := o.err(); err != nil {
		return policy.Account{}, "", err
	}
	settings, err := policy.ParseAccount(raw)
	return settings, message, underSettings(err)
}

// underSettings puts the paths of errors in settings under the member that they
// came in.
func underSettings(err error) error {
	var fields policy.FieldErrors
	if !errors.As(err, &fields) {
		return err
	}
	out := make(policy.FieldErrors, len(fields))
	for i, f := range fields {
		moved := *f
		switch {
		case f.Path == "message":
		case f.Path == "":
			moved.Path = "settings"
		default:
			moved.Path = "settings." + f.Path
		}
		out[i] = &moved
	}
	return out
}

// A HistoryPage is one page of the history.
type historyPage struct {
	History []service.Entry `json:"history"`
	Next    int64           `json:"next_before,omitempty"`
}

func (a *Admin) getHistory(c *call) (answer, error) {
	limit, err := c.number("limit", 20, 1, 100)
	if err != nil {
		return answer{}, err
	}
	before, err := c.number("before", 0, 1, 1<<53)
	if err != nil {
		return answer{}, err
	}
	entries, next, err := a.service.History(c.ctx(), c.account, before, int(limit))
	return answer{body: historyPage{entries, next}}, err
}

// number reads a whole number in a range from the query.
func (c *call) number(name string, otherwise, least, most int64) (int64, error) {
	text, ok := c.query[name]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, policy.FieldErrors{{Path: name, Reason: fmt.Sprintf("is not a whole number from %d to %d", least, most)}}
	}
	return n, nil
}

func (a *Admin) getVersion(c *call) (answer, error) {
	n, err := strconv.ParseInt(c.r.PathValue("version"), 10, 64)
	if err != nil {
		return answer{}, store.ErrNotFound
	}
	s, err := a.service.Version(c.ctx(), c.account, n)
	return answer{body: s}, err
}

func (a *Admin) getExplain(c *call) (answer, error) {
	kind, err := c.kind(policy.Browser)
	if err != nil {
		return answer{}, err
	}
	if c.query["user"] == "" {
		return answer{}, policy.FieldErrors{{Path: "user", Reason: "is missing: the subject of a user"}}
	}
	e, err := a.service.Explain(c.ctx(), c.account, c.query["user"], kind, c.query["client"])
	return answer{body: e}, err
}

func (c *call) kind(otherwise policy.Kind) (policy.Kind, error) {
	text, ok := c.query["kind"]
	if !ok {
		return otherwise, nil
	}
	kind := policy.Kind(text)
	if !kind.Known() {
		return "", policy.FieldErrors{{Path: "kind", Reason: "is not browser, cli or automation"}}
	}
	return kind, nil
}

type presetList struct {
	Presets []policy.Preset `json:"presets"`
}

func (a *Admin) getPresets(*call) (answer, error) {
	return answer{body: presetList{policy.Presets()}}, nil
}

// A sessionPage is one page of sessions.
type sessionPage struct {
	Sessions []view.Session `json:"sessions"`
	Next     string         `json:"next_cursor,omitempty"`
}

func (a *Admin) getSessions(c *call) (answer, error) {
	limit, err := c.number("limit", 50, 1, 500)
	if err != nil {
		return answer{}, err
	}
	kind, err := c.kind("")
	if err != nil {
		return answer{}, err
	}
	state, ok := c.query["state"]
	if !ok {
		state = "live"
	}
	selected, ok := service.States[state]
	if !ok {
		return answer{}, policy.FieldErrors{{Path: "state", Reason: "is not live, ended or any"}}
	}
	q := service.Query{User: c.query["user"], Kind: kind, Client: c.query["client"], State: selected}
	page, next, err := a.service.Sessions(c.ctx(), c.actor, c.account, q, c.query["cursor"], int(limit))
	return answer{body: sessionPage{page, next}}, err
}

func (a *Admin) getSession(c *call) (answer, error) {
	s, err := a.service.Session(c.ctx(), c.actor, c.account, c.r.PathValue("sid"))
	return answer{body: s}, err
}

func (a *Admin) deleteSession(c *call) (answer, error) {
	s, err := a.service.End(c.ctx(), c.actor, c.account, c.r.PathValue("sid"))
	return answer{body: s}, err
}

func (a *Admin) postEnd(c *call) (answer, error) {
	o, err := parseObject(c.body, "sessions", "user", "client", "all", "except_mine")
	if err != nil {
		return answer{}, err
	}
	sel := service.Selection{
		Sessions: o.texts("sessions", service.MaxEnd, service.MaxName),
		User:     o.text("user", service.MaxName), Client: o.text("client", service.MaxName),
		All: o.truth("all"), ExceptMine: o.truth("except_mine"),
	}
	if err := o.err(); err != nil {
		return answer{}, err
	}
	ways := 0
	for _, chosen := range []bool{len(sel.Sessions) > 0, sel.User != "" || sel.Client != "", sel.All} {
		if chosen {
			ways++
		}
	}
	if ways != 1 {
		// "user": "" must not mean everybody.
		return answer{}, policy.FieldErrors{{Path: "sessions", Reason: "say which to end: sessions, or user and client (one or both), or all: true"}}
	}
	r, err := a.service.EndSelected(c.ctx(), c.actor, c.account, sel)
	return answer{body: r}, err
}

// A deliveryPage is one page of deliveries.
type deliveryPage struct {
	Deliveries []service.OwedDelivery `json:"deliveries"`
	Next       string                 `json:"next_cursor,omitempty"`
}

func (a *Admin) getDeliveries(c *call) (answer, error) {
	state, ok := c.query["state"]
	if !ok {
		state = "any"
	}
	if !slices.Contains(service.DeliveryStates, state) {
		return answer{}, policy.FieldErrors{{Path: "state", Reason: "is not owed, given_up or any"}}
	}
	list, next, err := a.service.Deliveries(c.ctx(), c.account, state, c.query["cursor"])
	return answer{body: deliveryPage{list, next}}, err
}

func (a *Admin) postDelivery(c *call) (answer, error) {
	o, err := parseObject(c.body, "client")
	if err != nil {
		return answer{}, err
	}
	o.raw("client", true)
	client := o.text("client", service.MaxName)
	if err := o.err(); err != nil {
		return answer{}, err
	}
	r, err := a.service.Redeliver(c.ctx(), c.account, c.r.PathValue("sid"), client)
	return answer{body: r}, err
}

func (a *Admin) patchState(c *call) (answer, error) {
	return answer{}, a.service.Heartbeat(c.ctx(), c.actor, c.r.PathValue("sid"))
}

// timestamp writes a time as the documents do.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
