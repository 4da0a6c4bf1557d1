// Package view describes a login session in the words and values that three pages share: the users'
// page, the administrators' pages, and the page at the cap.
package view

import (
	"cmp"
	"slices"
	"strings"
	"unicode"

	"github.com/curfew-oidc/curfew/policy"
)

// Clean makes a name that an application chose fit for a line of text: without
// line breaks, invisible characters, those that change the direction of what
// follows and those that pile up, and not longer than a line.
func Clean(name string) string {
	const most = 60
	n, marks := 0, 0
	name = strings.Map(func(r rune) rune {
		if n++; n > 4*most {
			return -1
		}
		if marks++; !unicode.IsMark(r) {
			marks = 0
		}
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r), marks > 2:
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, "\ufffd"))
	name = strings.Join(strings.Fields(name), " ")
	if runes := []rune(name); len(runes) > most {
		name = strings.TrimSpace(string(runes[:most-1])) + "\u2026"
	}
	return name
}

// KindName is a kind in words.
func KindName(kind policy.Kind) string {
	return cmp.Or(Clean(kind.Label()), "Another sign-in")
}

// cleaned are the names that are left when they are clean, each once.
func cleaned(names []string) []string {
	out := []string{}
	for _, name := range names {
		if name = Clean(name); name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}
