package session

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// RestsOn returns the authentication that the tokens of a login rest on: its own,
// if that is older than the session's.
func RestsOn(authTime time.Time, s *store.Session) time.Time {
	authTime = authTime.UTC().Truncate(time.Microsecond)
	if authTime.IsZero() || authTime.After(s.Authenticated) {
		return s.Authenticated
	}
	return authTime
}

// PutGrant enters a grant. With too many, one is dropped: a revoked one, or the
// longest unused of the same client, or else of all. A token of a dropped grant
// is refused as revoked.
func PutGrant(s *store.Session, g store.Grant, max int) {
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
		DropGrant(s, drop.ID)
	}
	s.Grants = append(s.Grants, g)
}

func DropGrant(s *store.Session, id string) {
	s.Grants = slices.DeleteFunc(s.Grants, func(g store.Grant) bool { return g.ID == id })
}

// CodeAt returns where a code is among those of a session; -1: it is not.
func CodeAt(codes []store.Code, hash []byte) int {
	return slices.IndexFunc(codes, func(c store.Code) bool { return bytes.Equal(c.Hash, hash) })
}

// WithCode returns the codes of a session with one more.
func WithCode(codes []store.Code, c store.Code, now time.Time) []store.Code {
	codes = slices.DeleteFunc(slices.Clone(codes), func(c store.Code) bool { return now.Sub(c.Until) >= codeRemembered })
	codes = append(codes, c)
	return codes[max(0, len(codes)-maxCodes):]
}

// WithoutAnswers returns the codes of a session without the answers of those that are
// chosen.
func WithoutAnswers(codes []store.Code, chosen func(store.Code) bool) []store.Code {
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

// WithName adds the name of a client to those of a session. The first one, which
// the session began with, and the latest stay.
func WithName(names []string, name string) []string {
	if name == "" || slices.Contains(names, name) {
		return names
	}
	names = slices.Clone(names)
	if len(names) >= maxClientNames {
		names = slices.Delete(names, 1, 2+len(names)-maxClientNames)
	}
	return append(names, name)
}

// maxCodes bounds how many logins a session lists, and codeRemembered how long it does
// after their codes are late: as long as an abandoned login is.
const (
	maxCodes       = 16
	codeRemembered = 24 * time.Hour
)

// The names of the clients that are kept with a session, and their length in
// bytes.
const (
	maxClientNames = 10
	MaxClientName  = 64
)

// AccessGrantID is the ID of the grant of a client that has no refresh token from
// an authentication.
func AccessGrantID(client string, authenticated time.Time, acr string) string {
	parts := []string{"client", client, strconv.FormatInt(authenticated.UnixMicro(), 10)}
	if acr != "" {
		parts = append(parts, acr)
	}
	return GrantID(parts...)
}

// GrantID makes the ID of a grant from what made it.
func GrantID(parts ...string) string {
	sum := seal.Digest(append([]string{"grant"}, parts...)...)
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// Slide records activity of a class that the policy counts for the client. A clock that
// was stepped back moves nothing.
func Slide(s *store.Session, r policy.Rules, client string, now time.Time, class policy.Class) {
	if now.After(s.LastActivity) && r.Slides(s.Policy(), client, class) {
		s.LastActivity, s.ActivityClass = now, class
	}
}
