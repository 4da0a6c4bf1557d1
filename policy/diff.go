package policy

import "strings"

// A Change is one field in which two versions of an account's settings differ.
type Change struct {
	Path   string `json:"field"`  // such as "kinds.cli.inactivity"
	Before string `json:"before"` // as it is written in settings: "24h", "3", "unlimited", "inherit"
	After  string `json:"after"`
}

// Diff returns the fields in which two versions of an account's settings differ: first those for
// everyone, then those of the narrower scopes. A scope that sets nothing counts as missing.
func Diff(before, after Account) []Change {
	changes := []Change{}
	note := func(path, before, after string) {
		if before != after {
			changes = append(changes, Change{path, before, after})
		}
	}
	compare := func(path string, before, after Limits) {
		note(field(path, "active"), before.Active.String(), after.Active.String())
		note(field(path, "inactivity"), before.Inactivity.String(), after.Inactivity.String())
		note(field(path, "concurrent"), before.Concurrent.String(), after.Concurrent.String())
		note(field(path, "at_limit"), before.AtLimit.String(), after.AtLimit.String())
		note(field(path, "activity"), before.Activity.String(), after.Activity.String())
	}
	old := map[scopeKey]Limits{}
	for scope, l := range before.scopes("") {
		old[scope.key()] = l
	}
	for scope, l := range after.scopes("") {
		compare(scope.path, old[scope.key()], l)
		delete(old, scope.key())
		if scope.path == "" {
			note("observe", truth(before.Observe), truth(after.Observe))
		}
	}
	for scope, l := range before.scopes("") {
		if _, gone := old[scope.key()]; gone {
			compare(scope.path, l, Limits{})
		}
	}
	return changes
}

// A scopeKey tells the scopes of one account apart. A path does not: it shortens
// long names.
type scopeKey struct{ section, name string }

func (s namedScope) key() scopeKey {
	section, _, _ := strings.Cut(s.path, ".")
	return scopeKey{section, s.name}
}

func truth(b bool) string {
	if b {
		return "true"
	}
	return "false"
}
