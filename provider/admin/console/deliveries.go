package console

import (
	"cmp"
	"html/template"
	"net/http"
	"net/url"
	"slices"

	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

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
