package service

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// A Session is a login session as administrators see it.
type Session struct {
	ID     string      `json:"id"` // the "sid"
	User   string      `json:"user"`
	Kind   policy.Kind `json:"kind"`
	Client string      `json:"client"` // that it began with

	// Clients are all clients with a grant in the session.
	Clients []string `json:"clients"`

	// Actor is who acts in it as its user, and Parent the session of the actor that
	// it was made from by token exchange. Empty: its user is who they are.
	Actor  string `json:"actor,omitempty"`
	Parent string `json:"parent,omitempty"`

	UserAgent string `json:"user_agent,omitempty"`
	Address   string `json:"address,omitempty"` // coarse

	Started       time.Time `json:"started"`
	Authenticated time.Time `json:"authenticated"`
	LastActivity  time.Time `json:"last_activity"`
	Activity      string    `json:"activity"` // the class of the last activity

	AMR []string `json:"amr"`
	ACR string   `json:"acr,omitempty"`

	// EndsAt is when it ends if nothing more happens, and EndsBy of what.
	// Zero: never, it has ended, or it could not be found out.
	EndsAt time.Time     `json:"ends_at,omitzero"`
	EndsBy policy.Reason `json:"ends_by,omitempty"`

	Ended *Ended `json:"ended,omitempty"`

	// Yours is whether it is a session of the actor, and Current whether it
	// is the one that the request was made in.
	Yours   bool `json:"yours"`
	Current bool `json:"current"`
}

// Ended is how a session ended.
type Ended struct {
	At     time.Time     `json:"at"`
	Reason policy.Reason `json:"reason"`
	Text   string        `json:"text"`         // what its user is told
	By     string        `json:"by,omitempty"` // who ended it; empty: the policy

	// Deliveries are the logout notifications that are owed to applications
	// or were given up.
	Deliveries []Delivery `json:"deliveries"`
}

// view is s without its deadline.
func (sv *Service) view(actor Actor, s store.Session) Session {
	v := Session{
		ID: s.ID, User: s.Subject.ID, Kind: s.Kind, Client: s.Client, Clients: []string{},
		Actor: s.Actor, Parent: s.Parent, UserAgent: s.UserAgent, Address: s.Address,
		Started: s.Started, Authenticated: s.Authenticated, LastActivity: s.LastActivity, Activity: s.ActivityClass.String(),
		AMR: append([]string{}, s.AMR...), ACR: s.ACR,
		Yours: actor.User != "" && sv.subject(actor.User) == s.Subject, Current: actor.SID != "" && actor.SID == s.ID,
	}
	for _, g := range s.Grants {
		if g.Revoked.IsZero() && !slices.Contains(v.Clients, g.Client) {
			v.Clients = append(v.Clients, g.Client)
		}
	}
	if s.End != nil {
		v.Ended = &Ended{At: s.End.At, Reason: s.End.Reason, Text: provider.Describe(s), By: s.End.By, Deliveries: deliveries(s)}
	}
	return v
}

// viewNow is view with the deadline.
func (sv *Service) viewNow(ctx context.Context, actor Actor, s store.Session) Session {
	v := sv.view(actor, s)
	if s.End == nil {
		// A user whose rules cannot be had, because they were deleted, has
		// sessions all the same.
		v.EndsAt, v.EndsBy, _ = sv.Hook.Deadline(ctx, s)
	}
	return v
}

// A Query selects sessions of an account. A zero field selects all.
type Query struct {
	User   string
	Kind   policy.Kind
	Client string
	State  store.State
}

func (sv *Service) filter(account string, q Query) store.Filter {
	f := store.Filter{Account: account, Kind: q.Kind, Client: q.Client, State: q.State}
	if q.User != "" {
		f.Subject = sv.subject(q.User)
	}
	return f
}

// Sessions returns one page of the sessions of an account, and the cursor of the
// next. A page may be short; only an empty cursor says that it is the last.
func (sv *Service) Sessions(ctx context.Context, actor Actor, account string, q Query, cursor string, limit int) ([]Session, string, error) {
	f := sv.filter(account, q)
	page, next, err := sv.page(ctx, f, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	list := make([]Session, len(page))
	for i, s := range page {
		list[i] = sv.viewNow(ctx, actor, s)
	}
	return list, next, nil
}

func (sv *Service) page(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	cursor, err := openCursor(f, cursor)
	if err != nil {
		return nil, "", err
	}
	page, next, err := sv.Hook.List(ctx, f, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	next, err = sealCursor(f, next)
	return page, next, err
}

// session returns a session of the account. If there is none the error wraps
// [store.ErrNotFound]: one of another account is as good as none.
func (sv *Service) session(ctx context.Context, account, sid string) (store.Session, error) {
	s, err := sv.Hook.Session(ctx, sid)
	if err != nil {
		return store.Session{}, err
	}
	if !slices.Contains(s.Accounts, account) || s.Subject.Issuer != sv.Issuer || !s.ReservedUntil.IsZero() {
		return store.Session{}, fmt.Errorf("session %q: %w", sid, store.ErrNotFound)
	}
	return s, nil
}

// Session returns one session of the account. If there is none the error wraps
// [store.ErrNotFound].
func (sv *Service) Session(ctx context.Context, actor Actor, account, sid string) (Session, error) {
	s, err := sv.session(ctx, account, sid)
	if err != nil {
		return Session{}, err
	}
	return sv.viewNow(ctx, actor, s), nil
}

// Heartbeat says that the user of the actor's session is there. It is about that
// session only: about any other the error wraps [store.ErrNotFound].
func (sv *Service) Heartbeat(ctx context.Context, actor Actor, sid string) error {
	if actor.SID == "" || actor.SID != sid {
		return fmt.Errorf("session %q is not the one of the access token: %w", sid, store.ErrNotFound)
	}
	return sv.Hook.Heartbeat(ctx, sid, actor.Client)
}

func (sv *Service) subject(user string) store.Subject {
	return store.Subject{Issuer: sv.Issuer, ID: user}
}
