package console

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

// A proposal is a change that somebody thinks of.
type change struct {
	what     string // limits, restore, remove
	editing  editing
	restored int64
	settings policy.Account
	wrong    mistakes
	rest     []string
}

// change reads the change of a form, on top of the current settings.
func (c *console) change(v *visit, s service.Settings) (ch change, err error) {
	ch = change{what: cmp.Or(v.get("what"), "limits"), wrong: mistakes{}, settings: s.Settings}
	switch ch.what {
	case "restore":
		if ch.restored, err = strconv.ParseInt(v.get("restored"), 10, 64); err != nil {
			return ch, noPage
		}
		old, err := c.service.Version(v.ctx(), v.account, ch.restored)
		if err != nil {
			return ch, err
		}
		ch.settings = old.Settings
	case "remove":
		if ch.editing, err = v.editing(); err != nil {
			return ch, err
		}
		if ch.editing.target.section == "" {
			return ch, noPage
		}
		ch.settings = ch.editing.target.set(s.Settings, policy.Limits{})
	case "limits":
		if v.r.Method != http.MethodPost {
			return ch, noPage
		}
		if ch.editing, err = v.editing(); err != nil {
			return ch, err
		}
		e := ch.editing
		if e.field == "observe" {
			ch.settings.Observe = v.get("observe") == "on"
		} else {
			ch.settings = e.target.set(s.Settings, readLimits(v.form, e.fields, e.target.limits(s.Settings), ch.wrong))
		}
	default:
		return ch, noPage
	}
	if reason := service.TextProblem(v.get("message"), service.MaxMessage); reason != "" {
		ch.wrong.report("message", "It "+reason+".")
	}
	if len(ch.wrong) == 0 {
		ch.invalid(c.service.Validate(ch.settings))
	}
	return ch, nil
}

// invalid notes what is wrong with the settings, if that is what err says.
func (ch *change) invalid(err error) bool {
	var problems policy.FieldErrors
	if !errors.As(err, &problems) {
		return false
	}
	ch.rest = append(ch.rest, ch.wrong.assign(problems, ch.editing.target, ch.editing.fields)...)
	return true
}

func (ch *change) good() bool { return len(ch.wrong) == 0 && len(ch.rest) == 0 }

// A reviewPage shows what a change would do.
type reviewPage struct {
	Changes      changesInWords
	Preview      service.Preview
	Consequence  string
	Sessions     []service.PreviewEnd
	More         int
	Yours        bool // the session that the console is used in ends
	Warnings     []warningView
	Hidden       []pair
	Message      string
	MessageError string
	Problems     []string
	CanSave      bool
	Edit         bool // there is a form to go back to
}

const reviewSessions = 20

func (c *console) showReview(v *visit) error {
	s, err := c.service.Settings(v.ctx(), v.account)
	if err != nil {
		return err
	}
	if v.get("tag") == "" {
		v.form.Set("tag", s.EntityTag)
		v.form.Set("version", strconv.FormatInt(s.Version, 10))
	}
	return c.review(v, s)
}

// review shows the consequences of a change, or what is wrong with it, or what
// others changed meanwhile.
func (c *console) review(v *visit, s service.Settings) error {
	ch, err := c.change(v, s)
	if err != nil {
		return err
	}
	if v.get("tag") != s.EntityTag {
		return c.stale(v, s, ch)
	}
	message := ch.wrong["message"]
	delete(ch.wrong, "message")
	if !ch.good() && ch.what == "limits" {
		page := c.editPage(v, ch.editing, s, ch.wrong, ch.rest)
		page.Message = v.get("message")
		c.render(v, http.StatusBadRequest, "edit", page.title(), menuOf(ch.editing.target), page)
		return nil
	}
	page := reviewPage{
		Hidden: v.hidden(), Message: v.get("message"), MessageError: message, Edit: ch.what == "limits",
		CanSave: c.service.ReadOnly == "" && v.may(admin.WriteSettings) && ch.good(), Problems: ch.rest,
		Changes: newChangesInWords(policy.Diff(s.Settings, ch.settings)),
	}
	status := http.StatusOK
	switch {
	case !ch.good():
		status = http.StatusBadRequest
	default:
		text := v.get("message")
		if message != "" {
			text, status = "", http.StatusBadRequest
		}
		if page.Preview, err = c.service.Preview(v.ctx(), v.actor, v.account, ch.settings, text); err != nil {
			return err
		}
	}
	page.Consequence = consequence(page.Preview)
	page.Sessions = page.Preview.Sessions[:min(len(page.Preview.Sessions), reviewSessions)]
	page.Yours = slices.ContainsFunc(page.Sessions, func(end service.PreviewEnd) bool { return end.Current })
	page.More = page.Preview.Ends - len(page.Sessions)
	page.Warnings = warningViews(page.Preview.Warnings)
	c.render(v, status, "review", "Review the change", menuOf(ch.editing.target), page)
	return nil
}

// consequence says what a change would do, in a sentence.
func consequence(p service.Preview) string {
	least := ""
	if !p.Complete {
		least = "at least "
	}
	if p.Ends == 0 {
		if !p.Complete {
			return "No session was found that it ends, but there was no time to look at all of them."
		}
		return "Ends no session now."
	}
	text := fmt.Sprintf("Ends %s%s of %s now", least, plural(p.Ends, "session"), plural(p.Users, "person"))
	switch {
	case p.Yours > 1:
		text += fmt.Sprintf(", %d of yours among them", p.Yours)
	case p.Yours == 1:
		text += ", yours among them"
	}
	return text + "."
}

// hidden are the values of a form that a later step needs again.
func (v *visit) hidden() (list []pair) {
	for _, name := range []string{
		"what", "tag", "version", "scope", "name", "field", "restored", "observe",
		"active", "active_n", "active_unit", "inactivity", "inactivity_n", "inactivity_unit",
		"concurrent", "concurrent_n", "at_limit", "activity", "class",
	} {
		for _, value := range v.form[name] {
			list = append(list, pair{name, value})
		}
	}
	return list
}
