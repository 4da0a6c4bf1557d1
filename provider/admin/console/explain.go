package console

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

// An explainPage says what binds one user.
type explainPage struct {
	User, Client  string
	Kinds         []option
	Errors        mistakes
	Asked         bool
	Rows          []explainRow
	Groups        []string
	OtherAccounts bool
}

type explainRow struct {
	Title, Value string
	From         []string
	Over         []string
	Note         string
}

func (c *console) showExplain(v *visit) error {
	page := explainPage{
		User: v.get("user"), Client: v.get("client"), Errors: mistakes{},
		Kinds: kindOptions(cmp.Or(v.get("kind"), string(policy.Browser)), ""), Asked: v.form.Has("user"),
	}
	for field, value := range map[string]string{"user": page.User, "client": page.Client} {
		if reason := service.TextProblem(value, service.MaxName); reason != "" {
			page.Errors.report(field, "It "+reason+".")
		}
	}
	if page.Asked && page.User == "" {
		page.Errors.report("user", "Enter the user.")
	}
	kind := policy.Kind(cmp.Or(v.get("kind"), string(policy.Browser)))
	if !kind.Known() {
		page.Errors.report("kind", "Choose one of these.")
	}
	if page.Asked && len(page.Errors) == 0 {
		e, err := c.service.Explain(v.ctx(), v.account, page.User, kind, page.Client)
		switch {
		case errors.Is(err, service.ErrNoUser):
			page.Errors.report("user", "There is no such user in this account. Enter the subject (sub), as it is in ID tokens.")
		case err != nil:
			return err
		default:
			page.Rows, page.OtherAccounts = explainRows(e.Explanation), e.OtherAccounts
			for _, g := range e.Groups {
				page.Groups = append(page.Groups, view.Clean(g))
			}
		}
	}
	status := http.StatusOK
	if len(page.Errors) > 0 {
		status = http.StatusBadRequest
	}
	c.render(v, status, "explain", "Explain", "explain", page)
	return nil
}

func explainRows(e policy.Explanation) []explainRow {
	rows := []explainRow{
		explainedRow("active", e.Active, timeBoundInWords),
		explainedRow("inactivity", e.Inactivity, timeBoundInWords),
	}
	if _, limits := e.Inactivity.Value.Value(); limits {
		rows = append(rows, explainedRow("activity", e.Activity, classesInWords))
	}
	if len(e.Caps) == 0 {
		rows = append(rows, explainRow{Title: fieldWords["concurrent"], Value: "Not set"})
	}
	for _, c := range e.Caps {
		row := explainRow{Title: fieldWords["concurrent"], Value: capInWords(c.Max), From: []string{scopeInWords(c.From)}}
		switch {
		case c.From.Client != "":
			row.Note = "Of this application only."
		case c.From.Kind != "":
			row.Note = "Of this kind only."
		default:
			row.Note = "Of all sessions of the user together."
		}
		if len(c.Exempt) > 0 {
			row.Note = "Not counted here: the " + scopeInWords(c.Exempt[0]) + " is unlimited."
		}
		for _, o := range c.Overrode {
			row.Over = append(row.Over, lowerFirst(capInWords(o.Value))+" of "+scopeInWords(o.From))
		}
		rows = append(rows, row)
		if c.AtLimit != nil {
			rows = append(rows, explainedRow("at_limit", *c.AtLimit, policy.AtLimit.Label))
		}
	}
	return rows
}

func explainedRow[T any](field string, e policy.Explained[T], words func(T) string) explainRow {
	row := explainRow{Title: fieldWords[field], Value: words(e.Value)}
	for _, s := range e.From {
		row.From = append(row.From, scopeInWords(s))
	}
	for _, o := range e.Overrode {
		row.Over = append(row.Over, lowerFirst(words(o.Value))+" of "+scopeInWords(o.From))
	}
	return row
}
