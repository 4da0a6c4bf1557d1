package console

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

// A control is one field of a form.
type control struct {
	Name, Type string // Type: time, count, choice, classes
	Label      string
	Help       string
	Mode       string
	N          string
	Options    []option // units, or the choices
	Inherit    string   // what it means to leave it open
	Error      string
	Focus      bool
	Hints      []pair // what presets say
}

// An editPage is the form for one setting, or all of a scope.
type editPage struct {
	Scope, Name, Field, Tag, Message string
	Version                          int64
	Who                              string // whose limits, if not everyone's
	Controls                         []control
	Problems                         []problemLink
	Stale                            *staleView
	Preset                           *policy.Preset
	Observe                          bool
	Existing                         bool // there is an override
}

// A problemLink is one line of what is wrong, leading to the field.
type problemLink struct{ Field, Label, Text string }

// editing is the form of a visit, with what it is about.
type editing struct {
	form   url.Values
	target target
	field  string
	fields []string
}

func (v *visit) editing() (editing, error) {
	e := editing{form: v.form, field: cmp.Or(v.get("field"), "all")}
	var reason string
	if e.target, reason = targetOf(v.form); reason != "" {
		return e, policy.FieldErrors{{Path: "Whom it is for", Reason: reason}}
	}
	if e.fields = fieldGroups[e.field]; e.fields == nil || e.field == "observe" && e.target != (target{}) {
		return e, noPage
	}
	return e, nil
}

func (c *console) showEdit(v *visit) error {
	if c.service.ReadOnly != "" {
		return service.ErrReadOnly
	}
	s, err := c.service.Settings(v.ctx(), v.account)
	if err != nil {
		return err
	}
	if v.r.Method == http.MethodGet && v.get("scope") != "" && v.get("name") == "" {
		return c.overrides(v, s, "Enter a name.")
	}
	if v.r.Method == http.MethodGet && v.get("scope") != "" {
		if _, reason := targetOf(v.form); reason != "" {
			return c.overrides(v, s, "It "+reason+".")
		}
	}
	e, err := v.editing()
	if err != nil {
		return err
	}
	var preset *policy.Preset
	if v.r.Method != http.MethodPost {
		l := e.target.limits(s.Settings)
		if p, ok := policy.PresetByID(v.get("preset")); ok && e.target == (target{}) {
			preset, l = &p, overlay(l, p.Limits)
		}
		e.form = formOf(l)
		if s.Settings.Observe {
			e.form.Set("observe", "on")
		}
	}
	page := c.editPage(v, e, s, mistakes{}, nil)
	page.Preset = preset
	if v.r.Method == http.MethodPost {
		page.Tag, page.Version, page.Message = v.get("tag"), v.version(), v.get("message")
	}
	c.render(v, http.StatusOK, "edit", page.title(), menuOf(e.target), page)
	return nil
}

func menuOf(t target) string {
	if t.section != "" {
		return "overrides"
	}
	return ""
}

// version is the version of the settings that a form was made from.
func (v *visit) version() int64 {
	n, err := strconv.ParseInt(v.get("version"), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// overlay returns l with what more sets.
func overlay(l, more policy.Limits) policy.Limits {
	if !more.Active.Inherits() {
		l.Active = more.Active
	}
	if !more.Inactivity.Inherits() {
		l.Inactivity = more.Inactivity
	}
	if !more.Concurrent.Inherits() {
		l.Concurrent = more.Concurrent
	}
	return l
}

func (p editPage) title() string {
	switch {
	case p.Who != "":
		return "Override for the " + p.Who
	case p.Field == "all":
		return "All limits"
	}
	return fieldWords[p.Field]
}

// editPage makes the form of what was typed, on top of the current settings.
func (c *console) editPage(v *visit, e editing, s service.Settings, wrong mistakes, rest []string) editPage {
	p := editPage{
		Scope: e.target.section, Name: e.target.name, Field: e.field, Tag: s.EntityTag, Version: s.Version,
		Observe: e.form.Get("observe") == "on", Existing: e.target.limits(s.Settings) != policy.Limits{} && e.target.section != "",
	}
	if e.target.section != "" {
		p.Who = scopeInWords(e.target.scope(v.account))
	}
	focused := false
	for _, field := range e.fields {
		if field == "observe" {
			continue
		}
		control := c.control(v, e, field, s.Settings)
		if control.Error = wrong[field]; control.Error != "" {
			control.Focus, focused = !focused, true
			p.Problems = append(p.Problems, problemLink{field, control.Label, control.Error})
		}
		p.Controls = append(p.Controls, control)
	}
	for _, text := range rest {
		p.Problems = append(p.Problems, problemLink{Text: text})
	}
	return p
}

func (c *console) control(v *visit, e editing, field string, a policy.Account) control {
	f := control{
		Name: field, Label: fieldWords[field], Mode: e.form.Get(field),
		N: e.form.Get(field + "_n"), Inherit: "Not set: no limit",
	}
	wide := e.target.section == ""
	everyone := formWords(field, a.Limits)
	if !wide {
		f.Inherit = "Leave it to the wider scopes (everyone: " + lowerFirst(everyone) + ")"
	}
	allowed := c.service.Range
	switch field {
	case "active":
		f.Type, f.Help = "time", "How long a sign-in lasts before the user has to enter their credentials again."
		f.Help += between(allowed.ActiveMin, allowed.ActiveMax)
	case "inactivity":
		f.Type, f.Help = "time", "How long a session may go unused before it ends."
		f.Help += between(allowed.InactivityMin, allowed.InactivityMax)
	case "concurrent":
		f.Type, f.Help = "count", "How many sessions one user may have at once."
		switch e.target.section {
		case "kinds", "clients":
			f.Help = "How many sessions of this one a user may have at once, beside the limit on all. Unlimited takes them out of that one, too."
		}
	case "at_limit":
		f.Type, f.Help = "choice", "What happens to a sign-in that would be one too many."
		unset := f.Inherit
		if wide {
			unset = "Not set: refuse the new sign-in"
		}
		f.Options = options(f.Mode, policy.InheritAtLimit.String(), unset)
		for _, action := range policy.AtLimits() {
			f.Options = append(f.Options, option{action.String(), action.Label(), action.String() == f.Mode})
		}
	case "activity":
		f.Type, f.Help = "classes", "What makes a session count as used."
		if wide {
			f.Inherit = "The usual: everything but silent sign-in"
		}
		for _, class := range policy.AllClasses() {
			chosen := policy.DefaultClasses.Has(class)
			if f.Mode == modeLimit {
				chosen = slices.Contains(e.form["class"], class.String())
			}
			f.Options = append(f.Options, option{class.String(), class.Label(), chosen})
		}
	}
	if f.Type == "time" {
		f.Options = c.unitOptions(e.form.Get(field + "_unit"))
	}
	if wide {
		f.Hints = presetHints(field)
	}
	return f
}

func formWords(field string, l policy.Limits) string {
	switch field {
	case "active":
		return timeBoundInWords(l.Active)
	case "inactivity":
		return timeBoundInWords(l.Inactivity)
	case "concurrent":
		return capInWords(l.Concurrent)
	case "at_limit":
		return l.AtLimit.Label()
	}
	return classesInWords(l.Activity)
}

// unitOptions are the units of durations; seconds only where they make sense.
func (c *console) unitOptions(chosen string) []option {
	list := options(chosen, "minutes", "minutes", "hours", "hours", "days", "days")
	if chosen == "seconds" || c.service.Range.InactivityMin%time.Minute != 0 {
		list = append(options(chosen, "seconds", "seconds"), list...)
	}
	return list
}

func between(least, most time.Duration) string {
	switch {
	case least > 0 && most > 0:
		return fmt.Sprintf(" From %s to %s.", durationInWords(least), durationInWords(most))
	case least > 0:
		return fmt.Sprintf(" At least %s.", durationInWords(least))
	case most > 0:
		return fmt.Sprintf(" At most %s.", durationInWords(most))
	}
	return ""
}

// presetHints says what standards and other providers ask for.
func presetHints(field string) (hints []pair) {
	for _, p := range policy.Presets() {
		text := "Not set"
		switch field {
		case "active":
			text = timeBoundInWords(p.Limits.Active)
		case "inactivity":
			text = timeBoundInWords(p.Limits.Inactivity)
		case "concurrent":
			text = capInWords(p.Limits.Concurrent)
		}
		if text != "Not set" {
			hints = append(hints, pair{p.Title, text})
		}
	}
	return hints
}
