package console

import (
	"cmp"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strconv"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

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
	Rows          []view.Session
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
		page.Rows = list
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
