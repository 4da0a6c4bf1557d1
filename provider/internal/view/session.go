package view

import (
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/internal/plain"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/texts"
	"github.com/curfew-oidc/curfew/store"
)

// A Session is a login session as it is shown to one reader: its members are what the
// administrators' API says of it, and its methods what pages say beside.
//
// Names are as clients sent them. [Session.Applications] and [Session.ClientIDs] are
// clean; templates clean the others.
type Session struct {
	ID     string      `json:"id"` // the "sid"
	User   string      `json:"user"`
	Kind   policy.Kind `json:"kind"`
	Client string      `json:"client"` // that it began with

	// Clients are all clients with a grant in the session.
	Clients []string `json:"clients"`

	// Names are what clients are called, if the provider knows it.
	Names []string `json:"-"`

	// Actor is who acts in it as its user, and Parent the session of the actor that
	// it was made from by token exchange. Empty: its user is who they are.
	Actor  string `json:"actor,omitempty"`
	Parent string `json:"parent,omitempty"`

	UserAgent string `json:"user_agent,omitempty"`
	Address   string `json:"address,omitempty"` // coarse

	Started       Time   `json:"started"`
	Authenticated Time   `json:"authenticated"`
	LastUsed      Time   `json:"last_activity"`
	Activity      string `json:"activity"` // the class of the last activity

	AMR []string `json:"amr"`
	ACR string   `json:"acr,omitempty"`

	// Ends is when it ends if nothing more happens, and EndsBy of what. Zero:
	// never, it has ended, or it could not be found out.
	Ends   Time          `json:"ends_at,omitzero"`
	EndsBy policy.Reason `json:"ends_by,omitempty"`

	Ended *Ended `json:"ended,omitempty"`

	// Yours is whether it is a session of the one who asks, and Current whether
	// it is the one that the request was made in.
	Yours   bool `json:"yours"`
	Current bool `json:"current"`

	// Pending says that the login is not completed.
	Pending bool `json:"-"`

	asOf time.Time
	in   *texts.Catalogue
}

// Ended is how a session ended.
type Ended struct {
	At     Time          `json:"at"`
	Reason policy.Reason `json:"reason"`
	Text   string        `json:"text"`         // what its user is told
	By     string        `json:"by,omitempty"` // who ended it; empty: the policy

	// Deliveries are the logout notifications that are owed to applications
	// or were given up.
	Deliveries []Delivery `json:"deliveries"`
}

// A Delivery is a logout notification to an application that did not get it.
type Delivery struct {
	Client   string `json:"client"`
	URI      string `json:"uri,omitempty"`   // where it was tried last
	Error    string `json:"error,omitempty"` // what came of it, for people
	Attempts int    `json:"attempts"`
	Next     Time   `json:"next,omitzero"`     // when it is tried again
	GivenUp  Time   `json:"given_up,omitzero"` // since when it is not
}

// Of is a session at the time now, in the words of a catalogue.
func Of(s store.Session, now time.Time, in *texts.Catalogue) Session {
	v := Session{
		ID: s.ID, User: s.Subject.ID, Kind: s.Kind, Client: s.Client, Clients: []string{}, Names: s.ClientNames,
		Actor: s.Actor, Parent: s.Parent, UserAgent: s.UserAgent, Address: s.Address,
		Started: Past(s.Started, now, in), Authenticated: Past(s.Authenticated, now, in), LastUsed: Past(s.LastActivity, now, in),
		Activity: s.ActivityClass.String(), AMR: append([]string{}, s.AMR...), ACR: s.ACR,
		Pending: !s.ReservedUntil.IsZero(), asOf: now, in: in,
	}
	for _, g := range s.Grants {
		if g.Revoked.IsZero() && !slices.Contains(v.Clients, g.Client) {
			v.Clients = append(v.Clients, g.Client)
		}
	}
	if s.End == nil {
		return v
	}
	v.Ended = &Ended{At: Past(s.End.At, now, in), Reason: s.End.Reason, Text: Told(s, in), By: s.End.By, Deliveries: []Delivery{}}
	for _, d := range s.Deliveries {
		v.Ended.Deliveries = append(v.Ended.Deliveries, Delivery{
			Client: d.Client, URI: d.URI, Error: d.Error, Attempts: d.Attempts,
			Next: Future(d.Next, now, in), GivenUp: Past(d.GivenUp, now, in),
		})
	}
	return v
}

// EndsAt says when the session ends if nothing more happens, and of what; the zero
// time: it does not end by itself.
func (s *Session) EndsAt(at time.Time, by policy.Reason) {
	if at.IsZero() {
		return
	}
	s.Ends, s.EndsBy = Future(at, s.asOf, s.in), by
}

// EndsIfUnused reports whether using it puts its end off.
func (s Session) EndsIfUnused() bool { return s.EndsBy == policy.ReasonInactivity }

// Device is the browser or program that it is held by: "Firefox on Linux". It is
// empty if it is not known, and a claim of the client if it is.
func (s Session) Device() string { return s.in.Device(s.Program()) }

// Program is the name of the browser or program, and of the system that a browser is
// on, as far as they are known.
func (s Session) Program() (name, system string) { return plain.UserAgent(s.UserAgent) }

// Network is where it was begun, roughly: "192.0.2.x". Empty: that is not known.
func (s Session) Network() string { return plain.Network(s.Address) }

// KindName is the kind in words.
func (s Session) KindName() string { return KindName(s.Kind, s.in) }

// Title names the session for people: by its device, else by its kind.
func (s Session) Title() string {
	if device := s.Device(); device != "" {
		return device
	}
	return s.KindName()
}

// TitleSaysKind reports whether nothing is to be said of the kind beside the title.
func (s Session) TitleSaysKind() bool { return s.Device() == "" || s.Kind == policy.Browser }

// Icon is the name of the picture for the session.
func (s Session) Icon() string {
	_, system := s.Program()
	switch {
	case s.Kind == policy.CLI:
		return "terminal"
	case s.Kind == policy.Automation:
		return "gear"
	case system == "iPhone", system == "Android":
		return "phone"
	}
	return "screen"
}

// Applications are the names of the applications in it, or their IDs where the
// provider knows no names.
func (s Session) Applications() []string {
	if len(s.Names) > 0 {
		return cleaned(s.Names)
	}
	return s.ClientIDs()
}

// ClientIDs are the client that it began with, and those with a grant in it.
func (s Session) ClientIDs() []string { return cleaned(append([]string{s.Client}, s.Clients...)) }

// ActivityLabel is the last activity in words.
func (s Session) ActivityLabel() string {
	if class, err := policy.ParseClass(s.Activity); err == nil {
		return class.Label()
	}
	return ""
}
