package console

import (
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"

	"github.com/curfew-oidc/curfew/internal/paged"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

// An endingPage asks whether sessions are to end.
type endingPage struct {
	Title, Text, Matching string
	Rows                  []view.Session
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
			page.Rows = append(page.Rows, one)
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
func (c *console) selected(v *visit, s search, sel service.Selection) (found []view.Session, complete bool, err error) {
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
	for one, err := range paged.All(func(cursor string) ([]view.Session, string, error) {
		return c.service.Sessions(v.ctx(), v.actor, v.account, q, cursor, 500)
	}) {
		if err != nil {
			return nil, false, err
		}
		if len(found) == endingLook {
			return found, false, nil
		}
		found = append(found, one)
	}
	return found, true, nil
}
