package console

import (
	"net/http"

	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

func (c *console) showSession(v *visit) error {
	s, err := c.service.Session(v.ctx(), v.actor, v.account, v.r.PathValue("sid"))
	if err != nil {
		return err
	}
	page := struct {
		view.Session
		CanEnd bool
	}{s, v.may(admin.EndSessions)}
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
