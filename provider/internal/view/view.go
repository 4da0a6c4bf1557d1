// Package view describes a login session in the words and values that three pages share: the users'
// page, the administrators' pages, and the page at the cap.
package view

import (
	"cmp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/texts"
	"github.com/curfew-oidc/curfew/store"
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
func KindName(kind policy.Kind, in *texts.Catalogue) string {
	return cmp.Or(Clean(in.Kind(kind)), in.Text("kind.other"))
}

// Told is what the user is told of the end of a session; empty if it has not ended.
func Told(s store.Session, in *texts.Catalogue) string {
	switch {
	case s.End == nil:
		return ""
	case s.End.WithParent:
		return in.ParentEnded(s.End.Reason)
	}
	return in.Ended(s.End.Reason, Reached(&s))
}

// Reached returns the limit that the session reached, as far as its end says; it
// has no meaning for an end by anything else. Entering credentials is a use.
func Reached(s *store.Session) time.Duration {
	if s.End.Reason == policy.ReasonInactivity && s.LastActivity.After(s.Authenticated) {
		return s.End.At.Sub(s.LastActivity)
	}
	return s.End.At.Sub(s.Authenticated)
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
