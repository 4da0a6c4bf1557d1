package selfservice

import (
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

// Sessions is the answer in JSON. Times are RFC 3339 in UTC.
type Sessions struct {
	// Caps are the limits on concurrent sessions: on all sessions of the user, and on the kinds and
	// clients of which the user has sessions.
	Caps []Cap `json:"caps"`

	// Sessions are the live sessions on this page: first the one that the request comes from, then
	// by last use. There are Total sessions on Pages pages.
	Sessions []Session `json:"sessions"`
	Total    int       `json:"total"`
	Page     int       `json:"page"`
	Pages    int       `json:"pages"`

	// Pending is how many logins that are not completed hold a place.
	Pending int `json:"pending"`

	// Ended are sessions that ended recently, the latest first. If EndedIncomplete is true there
	// were too many to check all of them.
	Ended           []Ended `json:"ended"`
	EndedIncomplete bool    `json:"ended_incomplete"`
}

// A Cap is a limit on concurrent sessions: on those of one kind or one client if Kind or Client is
// set, otherwise on all.
type Cap struct {
	Used   int         `json:"used"`
	Max    int         `json:"max"`
	Kind   policy.Kind `json:"kind,omitempty"`
	Client string      `json:"client,omitempty"`
}

// A Session is one session. Device and Network are empty if unknown. The device is the client's own
// claim.
type Session struct {
	SID          string        `json:"sid"`
	Current      bool          `json:"current"` // the request comes from it
	Kind         policy.Kind   `json:"kind"`
	Device       string        `json:"device"`          // "Firefox on Linux"
	Network      string        `json:"network"`         // "192.0.2.x"
	Applications []string      `json:"applications"`    // names of the clients, or their IDs
	Actor        string        `json:"actor,omitempty"` // the sub of the person who acts in it for the user
	Started      time.Time     `json:"started"`
	LastUsed     time.Time     `json:"last_used"`
	EndsAt       time.Time     `json:"ends_at,omitzero"`      // if it is not used again; absent: never
	EndsBecause  policy.Reason `json:"ends_because,omitzero"` // "inactivity" or "active_limit"
}

// An Ended is a session that has ended.
type Ended struct {
	Session
	EndedAt     time.Time     `json:"ended_at"`
	Reason      policy.Reason `json:"reason"`
	Description string        `json:"description"` // the reason in a sentence
}

// json is the list for programs.
func (l list) json() Sessions {
	out := Sessions{
		Caps: []Cap{}, Sessions: []Session{}, Total: l.Total, Page: l.Page, Pages: l.Pages,
		Pending: l.Pending, Ended: []Ended{}, EndedIncomplete: l.EndedIncomplete,
	}
	for _, c := range l.Caps {
		out.Caps = append(out.Caps, c.Cap)
	}
	for _, s := range l.Live {
		out.Sessions = append(out.Sessions, newSession(s))
	}
	for _, s := range l.Ended {
		out.Ended = append(out.Ended, Ended{newSession(s), s.Ended.At.At, s.Ended.Reason, s.Ended.Text})
	}
	return out
}

func newSession(s view.Session) Session {
	return Session{
		SID: s.ID, Current: s.Current, Kind: s.Kind, Device: s.Device(), Network: s.Network(), Applications: s.Applications(),
		Actor: view.Clean(s.Actor), Started: s.Started.At, LastUsed: s.LastUsed.At, EndsAt: s.Ends.At, EndsBecause: s.EndsBy,
	}
}
