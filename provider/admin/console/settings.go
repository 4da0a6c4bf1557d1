package console

import (
	"cmp"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

// An overviewPage shows the three settings.
type overviewPage struct {
	Tiles    []tile
	Observe  bool
	CanEdit  bool
	Warnings []warningView
	Version  int64
	Changed  *changedView
	Presence *presence
}

// A tile is one of the three settings.
type tile struct {
	Field, Title, About string
	Value               string
	Set                 bool
	More                []pair
	From                string       // where the value comes from
	Changed             *changedView // who set it
	Others              []pair       // what binds others than everyone
	Overrides           int          // how many narrower scopes set it
}

type pair struct{ Name, Value string }

// A changedView says who changed something.
type changedView struct {
	By, Message string
	At          view.Time
}

// historyLook is how many changes are looked at for the one that set a value.
const historyLook = 50

func (c *console) showOverview(v *visit) error {
	s, err := c.service.Settings(v.ctx(), v.account)
	if err != nil {
		return err
	}
	entries, _, err := c.service.History(v.ctx(), v.account, 0, historyLook)
	if err != nil {
		return err
	}
	page := overviewPage{
		Observe: s.Settings.Observe, CanEdit: s.ReadOnly == "" && v.may(admin.WriteSettings),
		Warnings: warningViews(s.Warnings), Version: s.Version,
	}
	if s.Version > 0 {
		page.Changed = &changedView{view.Clean(s.ChangedBy), s.Message, v.past(s.ChangedAt)}
	}
	for _, field := range []string{"active", "inactivity", "concurrent"} {
		t := newTile(field, v.account, s.Settings)
		if t.From == "" {
			t.From = "Nobody has set it: nothing is limited."
		} else if s.ReadOnly != "" {
			t.From = s.ReadOnly
		}
		for _, e := range entries {
			if slices.ContainsFunc(e.Changes, func(c policy.Change) bool { return c.Path == field }) {
				t.Changed = &changedView{view.Clean(e.By), e.Message, v.past(e.At)}
				break
			}
		}
		page.Tiles = append(page.Tiles, t)
	}
	if v.may(admin.ReadSessions) {
		if page.Presence, err = c.presence(v); err != nil {
			return err
		}
	}
	notice := ""
	if n, err := strconv.ParseInt(v.get("saved"), 10, 64); err == nil && n == s.Version && n > 0 && v.fromHere() {
		notice = fmt.Sprintf("Saved as version %d. It is in force now.", n)
	}
	c.render(v, http.StatusOK, "overview", "Login session", "", page, notice)
	return nil
}

// newTile is one setting with its provenance, as [policy.Rules.Explain] tells it
// for a member of the account for whom there is no override of their own.
func newTile(field, account string, a policy.Account) tile {
	rules := policy.Settings{Accounts: map[string]policy.Account{account: a}}.
		Rules(policy.Who{Memberships: []policy.Membership{{Account: account}}})
	t := tile{Field: field, Title: fieldWords[field]}
	everyone := rules.Explain("", "")
	value := func(e policy.Explanation) (text string, from []policy.Scope) {
		switch field {
		case "active":
			return timeBoundInWords(e.Active.Value), e.Active.From
		case "inactivity":
			return timeBoundInWords(e.Inactivity.Value), e.Inactivity.From
		}
		switch {
		case len(e.Caps) == 0:
			return "Not set", nil
		case len(e.Caps[0].Exempt) > 0:
			return "Not counted", e.Caps[0].Exempt
		}
		return capInWords(e.Caps[0].Max), []policy.Scope{e.Caps[0].From}
	}
	var from []policy.Scope
	t.Value, from = value(everyone)
	t.Set = t.Value != "Not set"
	if len(from) > 0 {
		t.From = "Set for everyone in this account."
	}
	for _, kind := range policy.Kinds() {
		text, from := value(rules.Explain(kind, ""))
		if len(from) > 0 && from[0].Kind != "" {
			t.Others = append(t.Others, pair{kindsInWords(kind), text})
		}
	}
	for _, l := range overridesOf(a) {
		set := map[string]bool{
			"active": !l.limits.Active.Inherits(), "inactivity": !l.limits.Inactivity.Inherits() || !l.limits.Activity.Inherits(),
			"concurrent": !l.limits.Concurrent.Inherits() || l.limits.AtLimit != policy.InheritAtLimit,
		}
		if set[field] {
			t.Overrides++
		}
	}
	switch field {
	case "active":
		t.About = "How long a sign-in lasts before the user has to enter their credentials again."
	case "inactivity":
		t.About = "How long a session may go unused before it ends."
		if len(everyone.Activity.From) > 0 && everyone.Activity.Value != policy.DefaultClasses {
			t.More = append(t.More, pair{"What counts as activity", classesInWords(everyone.Activity.Value)})
		}
	case "concurrent":
		t.About = "How many sessions one user may have at once, browsers and command lines together."
		for _, c := range everyone.Caps {
			if c.AtLimit != nil {
				t.More = append(t.More, pair{"At the limit", c.AtLimit.Value.Label()})
			}
		}
	}
	return t
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

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

// A staleView says what others changed while somebody edited.
type staleView struct {
	Entries []historyEntry
	Changes changesInWords // all of them together
	Known   bool           // what they were is still known
}

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
	Sessions     []sessionRow
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
	for _, end := range page.Preview.Sessions[:min(len(page.Preview.Sessions), reviewSessions)] {
		row := v.row(end.Session)
		row.Reason = end.Reason.Info().Label
		page.Sessions = append(page.Sessions, row)
		page.Yours = page.Yours || end.Current
	}
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

// stale answers somebody whose form was made from settings that are not the
// current ones: it shows who changed what meanwhile, and the form as it was typed,
// to go on with.
func (c *console) stale(v *visit, s service.Settings, ch change) error {
	view := &staleView{}
	since := v.version()
	if before, err := c.service.Version(v.ctx(), v.account, since); err == nil && before.EntityTag == v.get("tag") {
		view.Known, view.Changes = true, newChangesInWords(policy.Diff(before.Settings, s.Settings))
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	entries, _, err := c.service.History(v.ctx(), v.account, 0, 20)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if view.Known && e.Version > since {
			view.Entries = append(view.Entries, v.entry(e))
		}
	}
	const title = "Somebody else saved meanwhile"
	if ch.what == "limits" {
		page := c.editPage(v, ch.editing, s, ch.wrong, ch.rest)
		page.Stale, page.Message = view, v.get("message")
		c.render(v, http.StatusPreconditionFailed, "edit", title, menuOf(ch.editing.target), page)
		return nil
	}
	again := url.Values{"what": {ch.what}, "message": {v.get("message")}}
	for _, name := range []string{"restored", "scope", "name"} {
		if value := v.get(name); value != "" {
			again.Set(name, value)
		}
	}
	c.render(v, http.StatusPreconditionFailed, "stale", title, menuOf(ch.editing.target), struct {
		Stale *staleView
		Again template.URL
	}{view, template.URL(again.Encode())})
	return nil
}

func (c *console) save(v *visit) error {
	s, err := c.service.Settings(v.ctx(), v.account)
	if err != nil {
		return err
	}
	if s.ReadOnly != "" {
		return service.ErrReadOnly
	}
	ch, err := c.change(v, s)
	if err != nil {
		return err
	}
	if !ch.good() || v.get("tag") != s.EntityTag {
		return c.review(v, s)
	}
	match := service.Match{Tags: []string{v.get("tag")}}
	var saved service.Settings
	if ch.what == "restore" {
		saved, err = c.service.Restore(v.ctx(), v.actor, v.account, match, ch.restored, v.get("message"))
	} else {
		saved, err = c.service.Save(v.ctx(), v.actor, v.account, match, ch.settings, v.get("message"))
	}
	switch {
	case errors.Is(err, service.ErrStale):
		if s, err = c.service.Settings(v.ctx(), v.account); err != nil {
			return err
		}
		return c.stale(v, s, ch)
	case err != nil && ch.invalid(err):
		return c.review(v, s)
	case err != nil:
		return err
	}
	v.see(v.at(""), url.Values{"saved": {strconv.FormatInt(saved.Version, 10)}})
	return nil
}

// A presetView is a preset for people.
type presetView struct {
	policy.Preset
	Active, Inactivity, Concurrent string
	Privileged                     string
}

func (c *console) showPresets(v *visit) error {
	var list []presetView
	for _, p := range policy.Presets() {
		view := presetView{Preset: p, Active: timeBoundInWords(p.Limits.Active), Inactivity: timeBoundInWords(p.Limits.Inactivity), Concurrent: capInWords(p.Limits.Concurrent)}
		var parts []string
		if d, limits := p.Privileged.Inactivity.Value(); limits {
			parts = append(parts, durationInWords(d)+" without activity")
		}
		if n, limits := p.Privileged.Concurrent.Value(); limits {
			parts = append(parts, plural(n, "session")+" at once")
		}
		view.Privileged = strings.Join(parts, ", ")
		list = append(list, view)
	}
	c.render(v, http.StatusOK, "presets", "Presets", "", struct {
		Presets []presetView
		CanEdit bool
	}{list, c.service.ReadOnly == "" && v.may(admin.WriteSettings)})
	return nil
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

// A historyEntry is one change for people.
type historyEntry struct {
	Version int64
	By      string
	At      view.Time
	Message string
	Changes changesInWords
	Back    int64  // the version that its button puts in force again; -1: it has none
	Button  string // what that says
}

func (v *visit) entry(e service.Entry) historyEntry {
	return historyEntry{Version: e.Version, By: view.Clean(e.By), At: v.past(e.At), Message: e.Message, Changes: newChangesInWords(e.Changes), Back: -1}
}

func (c *console) showHistory(v *visit) error {
	before, err := strconv.ParseInt(cmp.Or(v.get("before"), "0"), 10, 64)
	if err != nil || before < 0 {
		return noPage
	}
	entries, next, err := c.service.History(v.ctx(), v.account, before, 20)
	if err != nil {
		return err
	}
	page := struct {
		Entries []historyEntry
		Next    int64
		First   bool
	}{Next: next, First: before == 0}
	undo := c.service.ReadOnly == "" && v.may(admin.WriteSettings)
	for i, e := range entries {
		entry := v.entry(e)
		switch {
		case !undo:
		case i == 0 && before == 0:
			entry.Back, entry.Button = e.Version-1, "Undo this change"
		default:
			entry.Back, entry.Button = e.Version, "Go back to this version"
		}
		page.Entries = append(page.Entries, entry)
	}
	c.render(v, http.StatusOK, "history", "History", "history", page)
	return nil
}
