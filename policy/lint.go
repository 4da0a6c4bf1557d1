package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Severity says how bad it is. The zero Severity is Info.
type Severity uint8

const (
	Info  Severity = iota // "info": worth knowing
	Warn                  // "warn": probably not intended, or against a recommendation
	Wrong                 // "error": against a requirement of a target, or it will not work
)

var severityNames = []string{Info: "info", Warn: "warn", Wrong: "error"}

// String returns the name of the severity.
func (s Severity) String() string {
	if int(s) < len(severityNames) {
		return severityNames[s]
	}
	return fmt.Sprintf("Severity(%d)", uint8(s))
}

// MarshalText encodes s by name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText decodes a name.
func (s *Severity) UnmarshalText(text []byte) error {
	i := slices.Index(severityNames, string(text))
	if i < 0 {
		return fmt.Errorf("must be one of %s", strings.Join(severityNames, ", "))
	}
	*s = Severity(i)
	return nil
}

// A Warning tells an administrator about a doubtful setting before they save it. It refuses
// nothing: see [Account.Validate].
type Warning struct {
	Rule     string   `json:"rule"` // "L01", ...; see docs/policy.md
	Severity Severity `json:"severity"`
	Path     string   `json:"field"` // such as "kinds.cli.inactivity"
	Text     string   `json:"text"`
	Source   string   `json:"source"`
	Revision string   `json:"revision"` // of the source
}

// String returns the warning in one line.
func (w Warning) String() string {
	where := ""
	if w.Path != "" {
		where = w.Path + ": "
	}
	return fmt.Sprintf("%s %s: %s%s (%s, %s)", w.Severity, w.Rule, where, w.Text, w.Source, w.Revision)
}

// A Deployment is what [Lint] needs to know beside the settings. A zero field is unknown, and
// causes no warning.
type Deployment struct {
	// Targets are the IDs of the presets whose maxima should hold. An ID that does not exist is a
	// warning.
	Targets []string

	// AccessToken and IDToken are the lifetimes of tokens as the provider
	// sets them.
	AccessToken, IDToken time.Duration

	// PrivilegedGroups and PrivilegedUsers are those that can do most harm.
	PrivilegedGroups, PrivilegedUsers []string

	// WithoutLogoutURI are clients that are not told when a session ends.
	WithoutLogoutURI []string

	// Justification is the reason for the settings: the message of the change.
	Justification string
}

// The sources of rules that no target brings.
const (
	nist4     = "NIST SP 800-63B-4, section 5.2"
	nist4Rev  = "4 (2025)"
	asvs5Rev  = "5.0.0 (2025)"
	curfewDoc = "Curfew, docs/policy.md"
	curfewRev = "this version"
)

// Lint returns warnings about the settings of an account, the worst first, then in the order of the
// rules.
func Lint(a Account, d Deployment) []Warning {
	l := &linter{account: a, deployment: d, warnings: []Warning{}}
	for _, rule := range []func(){
		l.activeIsSet, l.order, l.inactivityForTargets, l.tokens, l.targets, l.atLimit,
		l.capOfOne, l.uncounted, l.untold, l.privileged,
	} {
		rule()
	}
	l.justified()
	slices.SortStableFunc(l.warnings, func(a, b Warning) int { return cmp.Compare(b.Severity, a.Severity) })
	return l.warnings
}

type linter struct {
	account    Account
	deployment Deployment
	warnings   []Warning
}

func (l *linter) warn(rule string, s Severity, path, source, revision, format string, args ...any) {
	l.warnings = append(l.warnings, Warning{rule, s, path, fmt.Sprintf(format, args...), source, revision})
}

// each visits the scopes with what is in force there, as far as the account
// alone says: the scope's own limits, else everyone's.
func (l *linter) each(visit func(scope namedScope, own, effective Limits)) {
	for scope, own := range l.account.scopes("") {
		effective := own.or(l.account.Limits)
		if effective.Concurrent = own.Concurrent; own.Concurrent.Inherits() {
			effective.Concurrent = l.account.Concurrent
		}
		visit(scope, own, effective)
	}
}

// L01, L08: without an absolute end a login lasts as long as it is used, and so
// does what is granted with it.
func (l *linter) activeIsSet() {
	l.each(func(scope namedScope, own, effective Limits) {
		if _, limits := effective.Active.Value(); limits || scope.named && own.Active.Inherits() {
			return
		}
		path := field(scope.path, "active")
		l.warn("L01", Wrong, path, nist4, nist4Rev, "no limit is set: a login that is used never ends")
		l.warn("L08", Wrong, path, "OWASP ASVS, requirement 10.4.8", asvs5Rev, "refresh tokens have no absolute end")
	})
}

// L02: what Validate cannot see, since it compares each scope with everyone's.
func (l *linter) order() {
	l.each(func(scope namedScope, _, effective Limits) {
		active, a := effective.Active.Value()
		inactivity, i := effective.Inactivity.Value()
		if a && i && inactivity > active {
			l.warn("L02", Wrong, field(scope.path, "inactivity"), curfewDoc, curfewRev, "%s is above active, %s: it has no effect", formatDuration(inactivity), formatDuration(active))
		}
	})
	// Two narrower scopes meet in one session. Of each section the shortest
	// active is enough to compare with.
	type shortest struct {
		path   string
		active time.Duration
	}
	bySection := map[string]shortest{}
	for scope, own := range l.account.scopes("") {
		section := scope.key().section
		active, limits := own.Active.Value()
		if least, known := bySection[section]; scope.named && limits && (!known || active < least.active) {
			bySection[section] = shortest{scope.path, active}
		}
	}
	for scope, own := range l.account.scopes("") {
		inactivity, limits := own.Inactivity.Value()
		if !scope.named || !limits || !own.Active.Inherits() {
			continue
		}
		for _, section := range slices.Sorted(maps.Keys(bySection)) {
			if other := bySection[section]; section != scope.key().section && inactivity > other.active {
				l.warn("L02", Info, field(scope.path, "inactivity"), curfewDoc, curfewRev, "%s is above the active of %s, %s: for sessions in both scopes it has no effect", formatDuration(inactivity), other.path, formatDuration(other.active))
				break
			}
		}
	}
}

// needsInactivity are the targets that ask for a limit of inactivity, whatever
// it is.
var needsInactivity = []string{
	"nist-63b3-aal2", "nist-63b3-aal3", "nist-63b4-aal2", "nist-63b4-aal3", "pci-dss-4", "hipaa", "stig-asd",
}

// L03.
func (l *linter) inactivityForTargets() {
	for _, id := range l.deployment.Targets {
		p, known := PresetByID(id)
		if !known || !slices.Contains(needsInactivity, id) {
			continue
		}
		l.each(func(scope namedScope, own, effective Limits) {
			if _, limits := effective.Inactivity.Value(); !limits && (!scope.named || own.Inactivity.IsUnlimited()) {
				l.warn("L03", Wrong, field(scope.path, "inactivity"), p.Source, p.Revision, "no limit is set, but %s requires one", p.Title)
			}
		})
	}
}

// L05, L07: the hook shortens tokens so that they fit. Who is surprised by that
// should set their lifetimes.
func (l *linter) tokens() {
	d := l.deployment
	if d.IDToken > time.Hour {
		l.warn("L07", Warn, "", "OpenID Connect Core 1.0, section 2", "errata set 2", "ID tokens live for %s, more than an hour", formatDuration(d.IDToken))
	}
	if d.AccessToken <= 0 {
		return
	}
	const source = "NIST SP 800-63B-4, section 5.2, and Curfew, docs/policy.md"
	l.each(func(scope namedScope, own, effective Limits) {
		inactivity, limits := effective.Inactivity.Value()
		if !limits || scope.named && own.Inactivity.Inherits() {
			return
		}
		path := field(scope.path, "inactivity")
		switch {
		case d.AccessToken >= inactivity:
			l.warn("L05", Wrong, path, source, nist4Rev, "access tokens are set to live for %s, which is not less than the inactivity limit of %s; they are shortened to half of it, %s", formatDuration(d.AccessToken), formatDuration(inactivity), formatDuration(inactivity/2))
		case d.AccessToken > inactivity/2:
			l.warn("L05", Warn, path, source, nist4Rev, "access tokens are set to live for %s, more than half of the inactivity limit of %s; they are shortened to %s", formatDuration(d.AccessToken), formatDuration(inactivity), formatDuration(inactivity/2))
		}
	})
}

// L12: the maxima of the targets.
func (l *linter) targets() {
	for _, id := range l.deployment.Targets {
		p, known := PresetByID(id)
		if !known {
			l.warn("L12", Warn, "", curfewDoc, curfewRev, "there is no preset %s to compare with", printable(id))
			continue
		}
		for _, b := range p.most {
			l.each(func(scope namedScope, own, effective Limits) { l.target(p, b, scope, own, effective) })
		}
		if _, limits := l.account.Concurrent.Value(); id == "stig-asd" && !limits {
			l.warn("L12", Wrong, "concurrent", "DISA ASD STIG V-222387", p.Revision, "no limit is set, but %s requires one", p.Title)
		}
	}
}

// target compares one scope with one bound of a target. What a scope does not
// set itself is said of everyone's once.
func (l *linter) target(p Preset, b bounds, scope namedScope, own, effective Limits) {
	if b.privileged && !l.isPrivileged(scope) {
		return
	}
	source := p.Source
	if b.section != "" {
		source = p.Title + ", " + b.section
	}
	above := func(name string, set bool, most string, value string) {
		if set || !scope.named || b.privileged {
			l.warn("L12", b.severity, field(scope.path, name), source, p.Revision, "%s is above the %s of %s", value, most, p.Title)
		}
	}
	if v, limits := effective.Active.Value(); b.active > 0 && (!limits || v > b.active) {
		above("active", !own.Active.Inherits(), formatDuration(b.active), unlimitedOr(effective.Active))
	}
	if v, limits := effective.Inactivity.Value(); b.inactivity > 0 && (!limits || v > b.inactivity) {
		above("inactivity", !own.Inactivity.Inherits(), formatDuration(b.inactivity), unlimitedOr(effective.Inactivity))
	}
	if b.concurrent == 0 || scope.what || !b.privileged && l.isPrivileged(scope) {
		return
	}
	if v, limits := effective.Concurrent.Value(); !limits || v > b.concurrent {
		above("concurrent", !own.Concurrent.Inherits(), fmt.Sprint(b.concurrent), unlimitedOr(effective.Concurrent))
	}
}

// unlimitedOr is what a bound comes to that no scope narrows further.
func unlimitedOr[T time.Duration | int](b Bound[T]) string {
	if _, limits := b.Value(); !limits {
		return unlimitedText
	}
	return b.String()
}

func (l *linter) isPrivileged(s namedScope) bool {
	switch section, _, _ := strings.Cut(s.path, "."); section {
	case "groups":
		return slices.Contains(l.deployment.PrivilegedGroups, s.name)
	case "users":
		return slices.Contains(l.deployment.PrivilegedUsers, s.name)
	}
	return false
}

// L13.
func (l *linter) atLimit() {
	l.each(func(scope namedScope, own, _ Limits) {
		_, limits := own.Concurrent.Value()
		if limits && own.AtLimit == InheritAtLimit && l.account.AtLimit == InheritAtLimit {
			l.warn("L13", Warn, field(scope.path, "at_limit"), "OWASP ASVS, requirement 7.1.2", asvs5Rev, "the setting is missing: a login at the cap is refused")
		}
	})
}

// L14.
func (l *linter) capOfOne() {
	l.each(func(scope namedScope, own, effective Limits) {
		at := own.AtLimit
		if at == InheritAtLimit {
			at = l.account.AtLimit
		}
		n, limits := effective.Concurrent.Value()
		ownCap := !own.Concurrent.Inherits() || own.AtLimit != InheritAtLimit || !scope.named
		if limits && n == 1 && ownCap && (at == EndOldest || at == EndIdlest) {
			l.warn("L14", Warn, field(scope.path, "at_limit"), "OWASP ASVS, chapter V3.7", "4.0.3 (2021)", "with one session, %s ends the other session at each sign-in: an attacker can sign the user out", at)
		}
	})
}

// L15: an unlimited kind or client is not counted at all.
func (l *linter) uncounted() {
	capped := false
	l.each(func(scope namedScope, own, _ Limits) {
		_, limits := own.Concurrent.Value()
		capped = capped || limits && !scope.what
	})
	if !capped {
		return
	}
	l.each(func(scope namedScope, own, _ Limits) {
		if scope.what && own.Concurrent.IsUnlimited() {
			l.warn("L15", Warn, field(scope.path, "concurrent"), "OWASP ASVS, requirement 7.1.2", asvs5Rev, "the users' cap does not count these sessions")
		}
	})
}

// L16.
func (l *linter) untold() {
	for _, client := range l.deployment.WithoutLogoutURI {
		l.warn("L16", Warn, field("clients", client), "OpenID Connect Back-Channel Logout 1.0, section 2.2", "errata set 1", "has no backchannel_logout_uri: it notices the end of a session only at its next refresh")
	}
}

// L18: who can do most harm should not be bound less than everyone.
func (l *linter) privileged() {
	l.each(func(scope namedScope, own, _ Limits) {
		if !scope.named || !l.isPrivileged(scope) {
			return
		}
		looser := func(name string, is bool, own, everyone string) {
			if is {
				l.warn("L18", Wrong, field(scope.path, name), "NIST SP 800-53, AC-2(5) and AC-12", "5 (2020)", "%s for privileged users is looser than %s for everyone", own, everyone)
			}
		}
		all := l.account.Limits
		looser("active", isLooser(own.Active, all.Active), own.Active.String(), all.Active.String())
		looser("inactivity", isLooser(own.Inactivity, all.Inactivity), own.Inactivity.String(), all.Inactivity.String())
		looser("concurrent", isLooser(own.Concurrent, all.Concurrent), own.Concurrent.String(), all.Concurrent.String())
	})
}

func isLooser[T time.Duration | int](own, everyone Bound[T]) bool {
	most, limits := everyone.Value()
	v, ownLimits := own.Value()
	return limits && !own.Inherits() && (!ownLimits || v > most)
}

// L20 looks at what the others found.
func (l *linter) justified() {
	deviates := slices.ContainsFunc(l.warnings, func(w Warning) bool { return w.Rule == "L12" || w.Rule == "L03" })
	if deviates && strings.TrimSpace(l.deployment.Justification) == "" {
		l.warn("L20", Warn, "", "OWASP ASVS, requirement 7.1.1", asvs5Rev, "the settings deviate from a target, and the message of the change is empty")
	}
}
