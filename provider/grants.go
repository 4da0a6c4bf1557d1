package provider

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// usable refuses a session that has ended or is over.
func usable(s *store.Session, r ruling, now time.Time, use policy.Use) error {
	if s.End != nil {
		return &refusedError{reason: s.End.Reason, text: endedText(s), over: true}
	}
	if d := r.rules.Check(now, s.Policy(), use); !d.Allow {
		return &refusedError{reason: d.Reason, text: refusalText(d), over: true}
	}
	return nil
}

// restsOn returns the authentication that the tokens of a login rest on: its own,
// if that is older than the session's.
func restsOn(authTime time.Time, s *store.Session) time.Time {
	authTime = authTime.UTC().Truncate(time.Microsecond)
	if authTime.IsZero() || authTime.After(s.Authenticated) {
		return s.Authenticated
	}
	return authTime
}

// putGrant enters a grant. With too many, one is dropped: a revoked one, or the
// longest unused of the same client, or else of all. A token of a dropped grant
// is refused as revoked.
func putGrant(s *store.Session, g store.Grant, max int) {
	if old := s.Grant(g.ID); old != nil {
		g.Unknown = old.Unknown
		*old = g
		return
	}
	rank := func(g2 store.Grant) int {
		switch {
		case !g2.Revoked.IsZero():
			return 0
		case g2.Client == g.Client:
			return 1
		}
		return 2
	}
	for len(s.Grants) >= max {
		drop := slices.MinFunc(s.Grants, func(a, b store.Grant) int {
			return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Rotated.Compare(b.Rotated))
		})
		dropGrant(s, drop.ID)
	}
	s.Grants = append(s.Grants, g)
}

func dropGrant(s *store.Session, id string) {
	s.Grants = slices.DeleteFunc(s.Grants, func(g store.Grant) bool { return g.ID == id })
}

// codeAt returns where a code is among those of a session; -1: it is not.
func codeAt(codes []store.Code, hash []byte) int {
	return slices.IndexFunc(codes, func(c store.Code) bool { return bytes.Equal(c.Hash, hash) })
}

// withCode returns the codes of a session with one more.
func withCode(codes []store.Code, c store.Code, now time.Time) []store.Code {
	codes = slices.DeleteFunc(slices.Clone(codes), func(c store.Code) bool { return now.Sub(c.Until) >= codeRemembered })
	codes = append(codes, c)
	return codes[max(0, len(codes)-maxCodes):]
}

// withoutAnswers returns the codes of a session without the answers of those that are
// chosen.
func withoutAnswers(codes []store.Code, chosen func(store.Code) bool) []store.Code {
	old := func(x store.Code) bool { return x.Repeat != nil && chosen(x) }
	if !slices.ContainsFunc(codes, old) {
		return codes
	}
	codes = slices.Clone(codes)
	for i := range codes {
		if old(codes[i]) {
			codes[i].Repeat, codes[i].Address = nil, nil
		}
	}
	return codes
}

// withName adds the name of a client to those of a session. The first one, which
// the session began with, and the latest stay.
func withName(names []string, name string) []string {
	if name == "" || slices.Contains(names, name) {
		return names
	}
	names = slices.Clone(names)
	if len(names) >= maxClientNames {
		names = slices.Delete(names, 1, 2+len(names)-maxClientNames)
	}
	return append(names, name)
}

// The names of the clients that are kept with a session, and their length in
// bytes.
const (
	maxClientNames = 10
	maxClientName  = 64
)
