package console

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

// An override is the limits of one scope that is narrower than everyone.
type override struct {
	target
	limits policy.Limits
}

// overridesOf are the overrides in the settings: kinds, clients, groups and users,
// each by name.
func overridesOf(a policy.Account) (list []override) {
	for _, kind := range slices.Sorted(maps.Keys(a.Kinds)) {
		list = append(list, override{target{"kinds", string(kind)}, a.Kinds[kind]})
	}
	for _, s := range []struct {
		section string
		limits  map[string]policy.Limits
	}{{"clients", a.Clients}, {"groups", a.Groups}, {"users", a.Users}} {
		for _, name := range slices.Sorted(maps.Keys(s.limits)) {
			list = append(list, override{target{s.section, name}, s.limits[name]})
		}
	}
	return list
}

// An overridesPage lists the overrides.
type overridesPage struct {
	Sections   []overrideSection
	CanEdit    bool
	Scope      []option
	Name       string
	Error      string
	Find       string
	Incomplete bool
}

type overrideSection struct {
	Title, About string
	Rows         []overrideRow
}

type overrideRow struct {
	Section, Name, Title string
	Values               []pair
	Set                  bool
}

// maxOverrides is how many overrides of a section a page shows.
const maxOverrides = 200

func (c *console) showOverrides(v *visit) error {
	s, err := c.service.Settings(v.ctx(), v.account)
	if err != nil {
		return err
	}
	return c.overrides(v, s, "")
}

func (c *console) overrides(v *visit, s service.Settings, wrong string) error {
	page := overridesPage{
		CanEdit: s.ReadOnly == "" && v.may(admin.WriteSettings), Error: wrong, Name: v.get("name"),
		Scope: options(v.get("scope"), "groups", "Group", "users", "User", "clients", "Application"),
		Find:  v.get("find"),
	}
	sections := []overrideSection{
		{Title: "Kinds of session", About: "What a session is held by."},
		{Title: "Applications", About: "By client ID."},
		{Title: "Groups", About: "Of several groups of a user the strictest counts."},
		{Title: "Users", About: "By subject (sub). They win over everything else."},
	}
	at := map[string]int{"kinds": 0, "clients": 1, "groups": 2, "users": 3}
	for _, kind := range policy.Kinds() {
		sections[0].Rows = append(sections[0].Rows, newOverrideRow(target{"kinds", string(kind)}, s.Settings.Kinds[kind], kindsInWords(kind)))
	}
	for _, o := range overridesOf(s.Settings) {
		if o.section == "kinds" || !strings.Contains(strings.ToLower(o.name), strings.ToLower(page.Find)) {
			continue
		}
		section := &sections[at[o.section]]
		if len(section.Rows) == maxOverrides {
			page.Incomplete = true
			continue
		}
		section.Rows = append(section.Rows, newOverrideRow(o.target, o.limits, view.Clean(o.name)))
	}
	page.Sections = sections
	status := http.StatusOK
	if wrong != "" {
		status = http.StatusBadRequest
	}
	c.render(v, status, "overrides", "Overrides", "overrides", page)
	return nil
}

func newOverrideRow(t target, l policy.Limits, title string) overrideRow {
	row := overrideRow{Section: t.section, Name: t.name, Title: title, Set: l != policy.Limits{}}
	for _, field := range fieldGroups["all"] {
		if text := formWords(field, l); text != "Not set" {
			row.Values = append(row.Values, pair{fieldWords[field], text})
		}
	}
	return row
}
