package policy

import (
	"fmt"
	"time"
)

// A Range bounds what administrators may set. A zero duration is no bound.
type Range struct {
	ActiveMin, ActiveMax         time.Duration
	InactivityMin, InactivityMax time.Duration
}

// DefaultRange is the documented range: at most 720 hours for a login and 24 hours without
// activity. Below 15 minutes people are signed out while they work, including the administrator who
// could correct it.
var DefaultRange = Range{
	ActiveMin: 15 * time.Minute, ActiveMax: 720 * time.Hour,
	InactivityMin: 15 * time.Minute, InactivityMax: 24 * time.Hour,
}

// Validate reports everything that is wrong with the settings, as
// [FieldErrors] in the order of their paths: durations out of range, an inactivity limit longer
// than the active limit in the same scope (also if one of the two is the account's), caps below 1,
// kinds that do not exist, and values that a document cannot hold. Unlimited is in every range.
func (s Settings) Validate(r Range) error {
	return s.problems(func(a Account, path string) FieldErrors { return a.validate(path, r) }).errOrNil()
}

// Validate reports everything that is wrong with the account; see
// [Settings.Validate].
func (a Account) Validate(r Range) error { return a.validate("", r).errOrNil() }

func (a Account) validate(path string, r Range) (problems FieldErrors) {
	for scope, l := range a.scopes(path) {
		problems = append(problems, scope.unwritable()...)
		problems = append(problems, l.unwritable(scope.path)...)
		report := func(name, format string, args ...any) {
			problems = append(problems, &FieldError{Path: field(scope.path, name), Reason: fmt.Sprintf(format, args...)})
		}
		if scope.kind && scope.name != "" && !Kind(scope.name).Known() {
			problems = append(problems, &FieldError{Path: scope.path, Reason: fmt.Sprintf("is not a kind of session; there are %s, %s and %s", Browser, CLI, Automation)})
		}
		checkRange("active", l.Active, r.ActiveMin, r.ActiveMax, report)
		checkRange("inactivity", l.Inactivity, r.InactivityMin, r.InactivityMax, report)
		checkOrder(l, a.Limits, report)
		if _, caps := l.Concurrent.Value(); scope.what && l.AtLimit != InheritAtLimit && !caps {
			report("at_limit", "has no effect without a number in concurrent beside it: what happens at the wider caps is for users, groups and the account to say")
		}
	}
	return problems
}

func checkRange(name string, b Bound[time.Duration], least, most time.Duration, report func(name, format string, args ...any)) {
	v, limits := b.Value()
	switch {
	case !limits || v <= 0: // not above zero is reported already
	case v < least:
		report(name, "%s is below the floor of %s", formatDuration(v), formatDuration(least))
	case most > 0 && v > most:
		report(name, "%s is above the maximum of %s", formatDuration(v), formatDuration(most))
	}
}

// checkOrder reports an inactivity limit above the active limit. A scope that
// sets one of them is compared with what it takes from the account. What two
// narrower scopes set only meets in some sessions, and does no harm there: the
// shorter one ends them.
func checkOrder(l, account Limits, report func(name, format string, args ...any)) {
	active, inactivity := l.Active, l.Inactivity
	name, from := "inactivity", ""
	switch {
	case active.Inherits() && inactivity.Inherits():
		return
	case active.Inherits():
		active, from = account.Active, ", which is the account's"
	case inactivity.Inherits():
		inactivity, name = account.Inactivity, "active"
	}
	a, activeLimits := active.Value()
	i, inactivityLimits := inactivity.Value()
	if !activeLimits || !inactivityLimits || i <= a {
		return
	}
	if name == "active" {
		report(name, "%s is below inactivity, which is the account's %s", formatDuration(a), formatDuration(i))
		return
	}
	report(name, "%s is above active%s %s", formatDuration(i), from, formatDuration(a))
}
