package console

import (
	"net/http"
	"slices"

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
