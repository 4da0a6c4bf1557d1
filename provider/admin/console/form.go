package console

import (
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

// A target is whose limits a form is about: everyone's if section is empty, else
// those of a name in one of the sections of the settings.
type target struct{ section, name string }

// scope is the target as the policy names it.
func (t target) scope(account string) policy.Scope {
	s := policy.Scope{Account: account}
	switch t.section {
	case "kinds":
		s.Kind = policy.Kind(t.name)
	case "clients":
		s.Client = t.name
	case "groups":
		s.Group = t.name
	case "users":
		s.User = t.name
	}
	return s
}

// path is how errors and warnings name a field of the target.
func (t target) path(field string) string {
	if t.section == "" {
		return field
	}
	return strings.TrimPrefix(t.scope("a").String(), "accounts.a.") + "." + field
}

func (t target) limits(a policy.Account) policy.Limits {
	switch t.section {
	case "kinds":
		return a.Kinds[policy.Kind(t.name)]
	case "clients":
		return a.Clients[t.name]
	case "groups":
		return a.Groups[t.name]
	case "users":
		return a.Users[t.name]
	}
	return a.Limits
}

// set returns settings with other limits for the target. Limits that set nothing
// take an override away. a stays as it is.
func (t target) set(a policy.Account, l policy.Limits) policy.Account {
	switch t.section {
	case "kinds":
		a.Kinds = with(a.Kinds, policy.Kind(t.name), l)
	case "clients":
		a.Clients = with(a.Clients, t.name, l)
	case "groups":
		a.Groups = with(a.Groups, t.name, l)
	case "users":
		a.Users = with(a.Users, t.name, l)
	default:
		a.Limits = l
	}
	return a
}

func with[K comparable](m map[K]policy.Limits, name K, l policy.Limits) map[K]policy.Limits {
	m = maps.Clone(m)
	if l == (policy.Limits{}) {
		delete(m, name)
		return m
	}
	if m == nil {
		m = map[K]policy.Limits{}
	}
	m[name] = l
	return m
}

var sections = []string{"kinds", "clients", "groups", "users"}

// targetOf reads the target of a form.
func targetOf(form url.Values) (target, string) {
	t := target{form.Get("scope"), form.Get("name")}
	switch {
	case t.section == "" && t.name == "":
		return t, ""
	case !slices.Contains(sections, t.section):
		return target{}, "is not one of those to choose from"
	case t.name == "":
		return t, "is missing"
	case t.section == "kinds" && !policy.Kind(t.name).Known():
		return t, "is not a kind of session"
	}
	if reason := service.TextProblem(t.name, service.MaxName); reason != "" {
		return t, reason
	}
	return t, ""
}

// The groups of fields that a form has: one tile's, or all of a scope.
var fieldGroups = map[string][]string{
	"active": {"active"}, "inactivity": {"inactivity", "activity"}, "concurrent": {"concurrent", "at_limit"},
	"observe": {"observe"}, "all": {"active", "inactivity", "activity", "concurrent", "at_limit"},
}

// The ways to set a limit in a form.
const (
	modeLimit     = "limit"
	modeUnlimited = "unlimited"
	modeInherit   = "inherit"
)

type timeUnit struct {
	name string
	unit time.Duration
}

// timeUnits are the units of durations in forms, the largest first.
var timeUnits = []timeUnit{{"days", 24 * time.Hour}, {"hours", time.Hour}, {"minutes", time.Minute}, {"seconds", time.Second}}

// timeValues writes a duration into a form, in the largest unit of which it is a
// whole number; days from two on.
func timeValues(form url.Values, field string, b policy.Bound[time.Duration]) {
	d, limits := b.Value()
	if form.Set(field, modeOf(limits, b.IsUnlimited())); !limits {
		form.Set(field+"_unit", "hours")
		return
	}
	for _, u := range timeUnits {
		if d%u.unit == 0 && (u.name != "days" || d >= 48*time.Hour) {
			form.Set(field+"_n", strconv.FormatInt(int64(d/u.unit), 10))
			form.Set(field+"_unit", u.name)
			return
		}
	}
	form.Set(field+"_n", strconv.FormatFloat(d.Seconds(), 'f', -1, 64))
	form.Set(field+"_unit", "seconds")
}

func modeOf(limits, unlimited bool) string {
	switch {
	case limits:
		return modeLimit
	case unlimited:
		return modeUnlimited
	}
	return modeInherit
}

// formOf is limits as a form that sets them.
func formOf(l policy.Limits) url.Values {
	form := url.Values{}
	timeValues(form, "active", l.Active)
	timeValues(form, "inactivity", l.Inactivity)
	n, limits := l.Concurrent.Value()
	if form.Set("concurrent", modeOf(limits, l.Concurrent.IsUnlimited())); limits {
		form.Set("concurrent_n", strconv.Itoa(n))
	}
	form.Set("at_limit", l.AtLimit.String())
	form.Set("activity", modeInherit)
	if !l.Activity.Inherits() {
		form.Set("activity", modeLimit)
		for _, c := range l.Activity.List() {
			form.Add("class", c.String())
		}
	}
	return form
}

// mistakes are what is wrong with the fields of a form, by their names.
type mistakes map[string]string

// report notes the first mistake of a field.
func (m mistakes) report(field, reason string) {
	if m[field] == "" && reason != "" {
		m[field] = reason
	}
}

// readLimits reads the fields of a form over the limits that are in force.
func readLimits(form url.Values, fields []string, l policy.Limits, wrong mistakes) policy.Limits {
	before := formOf(l)
	for _, field := range fields {
		switch field {
		case "active":
			l.Active = readTime(form, field, wrong)
			unchosen(form, before, field, wrong)
		case "inactivity":
			l.Inactivity = readTime(form, field, wrong)
			unchosen(form, before, field, wrong)
		case "concurrent":
			l.Concurrent = readCount(form, field, wrong)
			unchosen(form, before, field, wrong)
		case "at_limit":
			if err := l.AtLimit.UnmarshalText([]byte(form.Get(field))); err != nil {
				wrong.report(field, "Choose one of these.")
			}
		case "activity":
			l.Activity = readClasses(form, wrong)
		}
	}
	return l
}

// unchosen reports a number that was entered beside another choice. Without a
// script nothing chooses "At most" for somebody who enters one.
func unchosen(form, before url.Values, field string, wrong mistakes) {
	n := strings.TrimSpace(form.Get(field + "_n"))
	if form.Get(field) != modeLimit && n != "" && n != before.Get(field+"_n") {
		wrong.report(field, "You entered a number: choose \u201cAt most\u201d for it to count, or take it out.")
	}
}

func readTime(form url.Values, field string, wrong mistakes) (b policy.Bound[time.Duration]) {
	switch form.Get(field) {
	case modeInherit:
		return b
	case modeUnlimited:
		return policy.Unlimited[time.Duration]()
	case modeLimit:
		d, reason := parseTime(form.Get(field+"_n"), form.Get(field+"_unit"))
		if reason != "" {
			wrong.report(field, reason)
			return b
		}
		return policy.LimitTo(d)
	}
	wrong.report(field, "Choose one of these.")
	return b
}

// parseTime reads a number of a unit. Fractions are taken if they come to whole
// seconds: "1.5" hours. It returns what is wrong as a sentence.
func parseTime(number, unit string) (d time.Duration, wrong string) {
	i := slices.IndexFunc(timeUnits, func(u timeUnit) bool { return u.name == unit })
	if i < 0 {
		return 0, "Choose a unit."
	}
	number = strings.TrimSpace(number)
	n, ok := new(big.Rat), false
	if len(number) <= 12 && strings.Trim(number, "0123456789.") == "" {
		n, ok = n.SetString(number)
	}
	switch {
	case number == "":
		return 0, "Enter a number."
	case !ok:
		return 0, fmt.Sprintf("Enter a number of %s, such as 8 or 1.5.", unit)
	case n.Sign() == 0:
		return 0, "Enter a number above zero."
	}
	n.Mul(n, new(big.Rat).SetInt64(int64(timeUnits[i].unit/time.Second)))
	if !n.IsInt() {
		return 0, "Enter a number that comes to whole seconds."
	}
	seconds := n.Num()
	if most := int64(100 * 365 * 24 * time.Hour / time.Second); !seconds.IsInt64() || seconds.Int64() > most {
		return 0, "That is more than a hundred years."
	}
	return time.Duration(seconds.Int64()) * time.Second, ""
}

func readCount(form url.Values, field string, wrong mistakes) (b policy.Bound[int]) {
	switch form.Get(field) {
	case modeInherit:
		return b
	case modeUnlimited:
		return policy.Unlimited[int]()
	case modeLimit:
		n, err := strconv.ParseUint(strings.TrimSpace(form.Get(field+"_n")), 10, 31)
		if err != nil || n == 0 {
			wrong.report(field, "Enter a whole number from 1 on.")
			return b
		}
		return policy.LimitTo(int(n))
	}
	wrong.report(field, "Choose one of these.")
	return b
}

func readClasses(form url.Values, wrong mistakes) policy.Classes {
	switch form.Get("activity") {
	case modeInherit:
		return 0
	case modeLimit:
		var list []policy.Class
		for _, name := range form["class"] {
			c, err := policy.ParseClass(name)
			if err != nil {
				wrong.report("activity", "Choose from these.")
				return 0
			}
			list = append(list, c)
		}
		return policy.ClassesOf(list...)
	}
	wrong.report("activity", "Choose one of these.")
	return 0
}

// assign puts what is wrong with settings beside the fields of a form about the
// target. What has no field there is returned, each as a sentence.
func (m mistakes) assign(problems policy.FieldErrors, t target, fields []string) (rest []string) {
	for _, p := range problems {
		sentence := upperFirst(durationsInWords(p.Reason)) + "."
		i := slices.IndexFunc(fields, func(field string) bool { return p.Path == t.path(field) })
		switch {
		case i >= 0:
			m.report(fields[i], sentence)
		case p.Path == "message":
			m.report("message", "It "+p.Reason+".")
		default:
			if where := whereInWords(p.Path); where != "" {
				sentence = where + ": " + durationsInWords(p.Reason) + "."
			}
			rest = append(rest, sentence)
		}
	}
	return rest
}
