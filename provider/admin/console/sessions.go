package console

import (
	"cmp"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/curfew-oidc/curfew/internal/plain"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

// A sessionRow is a session for people.
type sessionRow struct {
	ID, User, Device, Kind, Network, Icon string
	Clients                               []string
	Started, Last, Authenticated          view.Time
	Ends                                  *view.Time
	EndsIdle                              bool
	Ended                                 *view.Time
	Reason, Text, By                      string
	Deliveries                            []deliveryRow
	Owed                                  int
	Yours, Current                        bool
	Activity                              string
	Actor, Parent                         string // who acts in it, and in which session
}

func (v *visit) row(s service.Session) sessionRow {
	row := sessionRow{
		ID: s.ID, User: view.Clean(s.User), Device: plain.UserAgent(s.UserAgent), Kind: view.KindName(s.Kind), Network: plain.Network(s.Address),
		Started: v.past(s.Started), Last: v.past(s.LastActivity), Authenticated: v.past(s.Authenticated),
		Yours: s.Yours, Current: s.Current, Icon: view.Icon(s.Kind, plain.UserAgent(s.UserAgent)),
		Actor: view.Clean(s.Actor), Parent: s.Parent,
	}
	if class, err := policy.ParseClass(s.Activity); err == nil {
		row.Activity = class.Label()
	}
	for _, client := range append([]string{s.Client}, s.Clients...) {
		if name := view.Clean(client); name != "" && !slices.Contains(row.Clients, name) {
			row.Clients = append(row.Clients, name)
		}
	}
	if s.Ended == nil {
		if !s.EndsAt.IsZero() {
			at := v.future(s.EndsAt)
			row.Ends, row.EndsIdle = &at, s.EndsBy == policy.ReasonInactivity
		}
		return row
	}
	at := v.past(s.Ended.At)
	row.Ended, row.Reason, row.Text, row.By = &at, s.Ended.Reason.Info().Label, s.Ended.Text, view.Clean(s.Ended.By)
	for _, d := range s.Ended.Deliveries {
		row.Deliveries = append(row.Deliveries, v.delivery(s.ID, d))
	}
	row.Owed = len(row.Deliveries)
	return row
}

// A deliveryRow is a logout notification that an application did not get.
type deliveryRow struct {
	SID, Client, Name, URI, Error string
	Attempts                      int
	Next, GivenUp                 *view.Time
	User, Reason                  string
	EndedAt                       view.Time
}

func (v *visit) delivery(sid string, d service.Delivery) deliveryRow {
	row := deliveryRow{SID: sid, Client: d.Client, Name: view.Clean(d.Client), URI: d.URI, Error: d.Error, Attempts: d.Attempts}
	switch {
	case !d.GivenUp.IsZero():
		at := v.past(d.GivenUp)
		row.GivenUp = &at
	case !d.Next.IsZero():
		at := v.future(d.Next)
		row.Next = &at
	}
	return row
}

// A search is what the list of sessions is narrowed to.
type search struct{ user, client, kind, state string }

func (v *visit) search(wrong mistakes) search {
	s := search{v.get("user"), v.get("client"), v.get("kind"), cmp.Or(v.get("state"), "live")}
	for field, value := range map[string]string{"user": s.user, "client": s.client} {
		if reason := service.TextProblem(value, service.MaxName); reason != "" {
			wrong.report(field, "It "+reason+".")
		}
	}
	if s.kind != "" && !policy.Kind(s.kind).Known() {
		wrong.report("kind", "Choose one of these.")
	}
	if _, known := service.States[s.state]; !known {
		wrong.report("state", "Choose one of these.")
	}
	return s
}

func (s search) query() service.Query {
	return service.Query{User: s.user, Kind: policy.Kind(s.kind), Client: s.client, State: service.States[s.state]}
}

// address is the search as the query of an address.
func (s search) address(more ...string) template.URL {
	q := url.Values{}
	for i, pairs := 0, append([]string{"user", s.user, "client", s.client, "kind", s.kind, "state", s.state}, more...); i < len(pairs); i += 2 {
		if pairs[i+1] != "" && (pairs[i] != "state" || pairs[i+1] != "live") {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return template.URL(q.Encode()) // encoded: the templates need not do it
}

// A sessionsPage is one page of a search.
type sessionsPage struct {
	User, Client  string
	Kinds, States []option
	Errors        mistakes
	Rows          []sessionRow
	Next          template.URL // query of the next page
	Later         bool         // it is not the first page
	First         template.URL // query of the first page
	CanEnd        bool
	Matching      string // what "End all" would end, in words; empty: there is no such button
	Live          bool
}

const sessionsPerPage = 50

func (c *console) showSessions(v *visit) error {
	page := sessionsPage{Errors: mistakes{}, Later: v.get("cursor") != ""}
	s := v.search(page.Errors)
	page.User, page.Client = s.user, s.client
	page.Kinds = kindOptions(s.kind, "All kinds")
	page.States = options(s.state, "live", "Live", "ended", "Ended", "any", "Live and ended")
	page.First, page.Live = s.address(), s.state == "live"
	status := http.StatusOK
	if len(page.Errors) > 0 {
		status = http.StatusBadRequest
	} else {
		list, next, err := c.service.Sessions(v.ctx(), v.actor, v.account, s.query(), v.get("cursor"), sessionsPerPage)
		if isCursor(err) {
			return noPage
		}
		if err != nil {
			return err
		}
		for _, one := range list {
			page.Rows = append(page.Rows, v.row(one))
		}
		if next != "" {
			page.Next = s.address("cursor", next)
		}
		page.CanEnd = s.state == "live" && v.may(admin.EndSessions)
		if s.kind == "" && len(list) > 0 {
			page.Matching = s.matching()
		}
	}
	notice := ""
	if n, err := strconv.Atoi(v.get("ended")); err == nil && n >= 0 && v.fromHere() {
		notice = upperFirst(plural(n, "session")) + " ended."
		if v.get("more") != "" {
			notice += " There was no time for all of them: do it again to go on."
		}
	}
	c.render(v, status, "sessions", "Sessions", "sessions", page, notice)
	return nil
}

// isCursor reports whether an error is about a cursor that was not made for what
// it is used for.
func isCursor(err error) bool {
	var fields policy.FieldErrors
	return errors.As(err, &fields)
}

// matching names what a search selects: "all sessions of ann".
func (s search) matching() string {
	text := "all sessions"
	if s.user != "" {
		text += " of " + view.Clean(s.user)
	}
	if s.client != "" {
		text += " in " + view.Clean(s.client)
	}
	return text
}

func (c *console) showSession(v *visit) error {
	s, err := c.service.Session(v.ctx(), v.actor, v.account, v.r.PathValue("sid"))
	if err != nil {
		return err
	}
	page := struct {
		sessionRow
		Subject string
		AMR     []string
		ACR     string
		CanEnd  bool
	}{sessionRow: v.row(s), Subject: s.User, ACR: view.Clean(s.ACR), CanEnd: v.may(admin.EndSessions)}
	for _, amr := range s.AMR {
		page.AMR = append(page.AMR, view.Clean(amr))
	}
	notice := ""
	if v.fromHere() {
		switch v.get("told") {
		case "yes":
			notice = "The application was told."
		case "no":
			notice = "The application could not be told. It is tried again."
		case "ended":
			notice = "The session was ended."
		}
	}
	c.render(v, http.StatusOK, "session", "Session", "sessions", page, notice)
	return nil
}

// An endingPage asks whether sessions are to end.
type endingPage struct {
	Title, Text, Matching string
	Rows                  []sessionRow
	Count, Button         string
	More                  int
	Yours                 int
	Except                bool // one's own session may be among them
	Hidden                []pair
	Back                  template.URL
}

// endingLook is how many sessions are counted before somebody ends them.
const endingLook = 1000

// endSessions ends the sessions that were marked, or all that a search matches:
// after it has shown them.
func (c *console) endSessions(v *visit) error {
	wrong := mistakes{}
	s := v.search(wrong)
	which := v.get("which")
	if len(wrong) > 0 || s.kind != "" && which == "matching" {
		return badForm
	}
	sel := service.Selection{ExceptMine: v.get("except_mine") == "on"}
	switch which {
	case "marked":
		for _, sid := range v.form["sid"] {
			if sid == "" || service.TextProblem(sid, service.MaxName) != "" || len(sel.Sessions) == service.MaxEnd {
				return badForm
			}
			sel.Sessions = append(sel.Sessions, sid)
		}
		if len(sel.Sessions) == 0 {
			return message{http.StatusBadRequest, "No session is marked", "Go back and mark those that are to end.", false}
		}
	case "matching":
		sel.User, sel.Client, sel.All = s.user, s.client, s.user == "" && s.client == ""
	default:
		return badForm
	}
	if v.get("confirm") != "yes" {
		return c.confirmEnd(v, s, sel)
	}
	result, err := c.service.EndSelected(v.ctx(), v.actor, v.account, sel)
	if err != nil {
		return err
	}
	if v.get("from") == "session" && len(sel.Sessions) == 1 && len(result.NotFound) == 0 {
		v.see(v.at("sessions/"+url.PathEscape(sel.Sessions[0])), url.Values{"told": {"ended"}})
		return nil
	}
	query, err := url.ParseQuery(string(s.address("ended", strconv.Itoa(result.Ended))))
	if err != nil {
		return err
	}
	if !result.Complete {
		query.Set("more", "yes")
	}
	v.see(v.at("sessions"), query)
	return nil
}

func (c *console) confirmEnd(v *visit, s search, sel service.Selection) error {
	page := endingPage{Hidden: []pair{{"which", v.get("which")}}, Back: s.address()}
	found, complete, err := c.selected(v, s, sel)
	if err != nil {
		return err
	}
	users := map[string]bool{}
	for _, one := range found {
		users[one.User] = true
		if one.Yours {
			page.Yours++
		}
		if len(page.Rows) < reviewSessions {
			page.Rows = append(page.Rows, v.row(one))
		}
	}
	page.More = len(found) - len(page.Rows)
	page.Count = fmt.Sprintf("%s of %s", plural(len(found), "session"), plural(len(users), "person"))
	page.Except = page.Yours > 0 || !complete
	page.Button = "End " + plural(len(found), "session")
	if !complete {
		page.Count, page.Button = "more than "+page.Count, "End all of them"
	}
	for _, sid := range sel.Sessions {
		page.Hidden = append(page.Hidden, pair{"sid", sid})
	}
	for _, p := range []pair{{"user", s.user}, {"client", s.client}, {"kind", s.kind}} {
		if p.Value != "" {
			page.Hidden = append(page.Hidden, p)
		}
	}
	if v.get("which") == "matching" {
		page.Matching = s.matching()
	}
	if from := v.get("from"); from != "" {
		page.Hidden = append(page.Hidden, pair{"from", from})
	}
	c.render(v, http.StatusOK, "ending", "End sessions", "sessions", page)
	return nil
}

// selected returns the live sessions that are to end, up to a number of them.
func (c *console) selected(v *visit, s search, sel service.Selection) (found []service.Session, complete bool, err error) {
	for _, sid := range sel.Sessions {
		one, err := c.service.Session(v.ctx(), v.actor, v.account, sid)
		if err != nil {
			return nil, false, err
		}
		if one.Ended == nil {
			found = append(found, one)
		}
	}
	if len(sel.Sessions) > 0 {
		return found, true, nil
	}
	q := s.query()
	q.State = service.States["live"]
	for cursor := ""; ; {
		list, next, err := c.service.Sessions(v.ctx(), v.actor, v.account, q, cursor, 500)
		if err != nil {
			return nil, false, err
		}
		found = append(found, list...)
		if next == "" || len(found) >= endingLook {
			return found, next == "", nil
		}
		cursor = next
	}
}

func (c *console) showDeliveries(v *visit) error {
	state := cmp.Or(v.get("state"), "any")
	if !slices.Contains([]string{"any", "owed", "given_up"}, state) {
		return noPage
	}
	list, next, err := c.service.Deliveries(v.ctx(), v.account, state != "given_up", state != "owed", v.get("cursor"))
	if isCursor(err) {
		return noPage
	}
	if err != nil {
		return err
	}
	page := struct {
		States []option
		Rows   []deliveryRow
		Next   template.URL
		CanEnd bool
	}{
		States: options(state, "any", "Owed and given up", "owed", "Owed", "given_up", "Given up"),
		CanEnd: v.may(admin.EndSessions),
	}
	for _, d := range list {
		row := v.delivery(d.Session, d.Delivery)
		row.User, row.Reason, row.EndedAt = view.Clean(d.User), d.Reason.Info().Label, v.past(d.EndedAt)
		page.Rows = append(page.Rows, row)
	}
	if next != "" {
		page.Next = template.URL(url.Values{"state": {state}, "cursor": {next}}.Encode())
	}
	c.render(v, http.StatusOK, "deliveries", "Deliveries", "deliveries", page)
	return nil
}

// redeliver tells an application once more that a session has ended.
func (c *console) redeliver(v *visit) error {
	client, sid := v.get("client"), v.r.PathValue("sid")
	if client == "" || service.TextProblem(client, service.MaxName) != "" {
		return badForm
	}
	result, err := c.service.Redeliver(v.ctx(), v.account, sid, client)
	if err != nil {
		return err
	}
	told := "no"
	if result.Delivered {
		told = "yes"
	}
	v.see(v.at("sessions/"+url.PathEscape(sid)), url.Values{"told": {told}})
	return nil
}
