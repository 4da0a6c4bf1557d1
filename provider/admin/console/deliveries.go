package console

import (
	"cmp"
	"html/template"
	"net/http"
	"net/url"
	"slices"

	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

func (c *console) showDeliveries(v *visit) error {
	state := cmp.Or(v.get("state"), "any")
	if !slices.Contains(service.DeliveryStates, state) {
		return noPage
	}
	list, next, err := c.service.Deliveries(v.ctx(), v.account, state, v.get("cursor"))
	if isCursor(err) {
		return noPage
	}
	if err != nil {
		return err
	}
	page := struct {
		States []option
		Rows   []service.OwedDelivery
		Next   template.URL
		CanEnd bool
	}{
		States: options(state, "any", "Owed and given up", "owed", "Owed", "given_up", "Given up"),
		Rows:   list, CanEnd: v.may(admin.EndSessions),
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
