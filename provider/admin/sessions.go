package admin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
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

// A Delivery is a logout notification to an application that did not get it.
type Delivery struct {
	Client   string    `json:"client"`
	URI      string    `json:"uri,omitempty"`   // where it was tried last
	Error    string    `json:"error,omitempty"` // what came of it, for people
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next,omitzero"`     // when it is tried again
	GivenUp  time.Time `json:"given_up,omitzero"` // since when it is not
}

// view is s without its deadline.
func (a *Admin) view(actor Actor, s store.Session) Session {
	v := Session{
		ID: s.ID, User: s.Subject.ID, Kind: s.Kind, Client: s.Client, Clients: []string{},
		Actor: s.Actor, Parent: s.Parent, UserAgent: s.UserAgent, Address: s.Address,
		Started: s.Started, Authenticated: s.Authenticated, LastActivity: s.LastActivity, Activity: s.ActivityClass.String(),
		AMR: append([]string{}, s.AMR...), ACR: s.ACR,
		Yours: actor.User != "" && a.subject(actor.User) == s.Subject, Current: actor.SID != "" && actor.SID == s.ID,
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

func deliveries(s store.Session) []Delivery {
	list := []Delivery{}
	for _, d := range s.Deliveries {
		list = append(list, Delivery{Client: d.Client, URI: d.URI, Error: d.Error, Attempts: d.Attempts, Next: d.Next, GivenUp: d.GivenUp})
	}
	return list
}

// viewNow is view with the deadline.
func (a *Admin) viewNow(ctx context.Context, actor Actor, s store.Session) Session {
	v := a.view(actor, s)
	if s.End == nil {
		// A user whose rules cannot be had, because they were deleted, has
		// sessions all the same.
		v.EndsAt, v.EndsBy, _ = a.cfg.Hook.Deadline(ctx, s)
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

func (a *Admin) filter(account string, q Query) store.Filter {
	f := store.Filter{Account: account, Kind: q.Kind, Client: q.Client, State: q.State}
	if q.User != "" {
		f.Subject = a.subject(q.User)
	}
	return f
}

// errCursor is about a cursor that was not made for the query.
var errCursor = policy.FieldErrors{{Path: "cursor", Reason: "is not one that this list returned"}}

// sealCursor binds a cursor to the filter that it is good for.
func sealCursor(f store.Filter, cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	sum, err := filterSum(f)
	return base64.RawURLEncoding.EncodeToString(append(sum, cursor...)), err
}

func openCursor(f store.Filter, sealed string) (string, error) {
	if sealed == "" {
		return "", nil
	}
	sum, err := filterSum(f)
	if err != nil {
		return "", err
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil || len(data) <= len(sum) || string(data[:len(sum)]) != string(sum) {
		return "", errCursor
	}
	cursor := string(data[len(sum):])
	if textProblem(cursor, maxName) != "" {
		return "", errCursor
	}
	return cursor, nil
}

func filterSum(f store.Filter) ([]byte, error) {
	text, err := json.Marshal(f)
	sum := sha256.Sum256(text)
	return sum[:6], err
}

// Sessions returns one page of the sessions of an account, and the cursor of the
// next. A page may be short; only an empty cursor says that it is the last.
func (a *Admin) Sessions(ctx context.Context, actor Actor, account string, q Query, cursor string, limit int) ([]Session, string, error) {
	f := a.filter(account, q)
	page, next, err := a.page(ctx, f, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	list := make([]Session, len(page))
	for i, s := range page {
		list[i] = a.viewNow(ctx, actor, s)
	}
	return list, next, nil
}

func (a *Admin) page(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	cursor, err := openCursor(f, cursor)
	if err != nil {
		return nil, "", err
	}
	page, next, err := a.cfg.Hook.List(ctx, f, cursor, limit)
	if err != nil && !unreadable(err) {
		return nil, "", err
	}
	next, err = sealCursor(f, next)
	return page, next, err
}

// unreadable reports whether an error is only that some sessions cannot be read. An
// administrator goes on with the others: sweeps tell the operator, who can do something
// about it.
func unreadable(err error) bool { return errors.Is(err, store.ErrUnreadable) }

// session returns a session of the account. If there is none the error wraps
// [store.ErrNotFound]: one of another account is as good as none.
func (a *Admin) session(ctx context.Context, account, sid string) (store.Session, error) {
	s, err := a.cfg.Hook.Session(ctx, sid)
	if err != nil {
		return store.Session{}, err
	}
	if !slices.Contains(s.Accounts, account) || s.Subject.Issuer != a.cfg.Issuer || !s.ReservedUntil.IsZero() {
		return store.Session{}, fmt.Errorf("session %q: %w", sid, store.ErrNotFound)
	}
	return s, nil
}

// Session returns one session of the account. If there is none the error wraps
// [store.ErrNotFound].
func (a *Admin) Session(ctx context.Context, actor Actor, account, sid string) (Session, error) {
	s, err := a.session(ctx, account, sid)
	if err != nil {
		return Session{}, err
	}
	return a.viewNow(ctx, actor, s), nil
}

// End ends one session of the account. Ending one that has ended succeeds and
// changes nothing. If there is none the error wraps [store.ErrNotFound].
func (a *Admin) End(ctx context.Context, actor Actor, account, sid string) (Session, error) {
	s, err := a.session(ctx, account, sid)
	if err != nil {
		return Session{}, err
	}
	if s.End == nil {
		if err := a.cfg.Hook.End(ctx, sid, policy.ReasonEndedByAdmin, actor.ID); err != nil {
			return Session{}, err
		}
	}
	return a.Session(ctx, actor, account, sid)
}

// A Selection is which sessions of an account to end: those named, or all that
// match.
type Selection struct {
	Sessions []string // IDs; at most [MaxEnd]

	User   string
	Client string
	All    bool

	// ExceptMine leaves out the session that the request was made in, or
	// those of the actor if it was made in none.
	ExceptMine bool
}

// MaxEnd is how many sessions may be named at once.
const MaxEnd = 1000

// A Result says what became of a selection.
type Result struct {
	Ended    int      `json:"ended"`     // how many this ended
	NotFound []string `json:"not_found"` // of those named

	// Complete is false if there was no time for all: the same again goes
	// on.
	Complete bool `json:"complete"`
}

// EndSelected ends the sessions of an account that are selected, for the reason
// [policy.ReasonEndedByAdmin].
func (a *Admin) EndSelected(ctx context.Context, actor Actor, account string, sel Selection) (Result, error) {
	r := Result{NotFound: []string{}, Complete: true}
	if len(sel.Sessions) > 0 {
		for _, sid := range sel.Sessions {
			switch ended, err := a.endOne(ctx, actor, account, sid, sel.ExceptMine); {
			case errors.Is(err, store.ErrNotFound):
				r.NotFound = append(r.NotFound, sid)
			case err != nil:
				return r, err
			case ended:
				r.Ended++
			}
		}
		return r, nil
	}
	if sel.User != "" && sel.Client == "" {
		var err error
		r.Ended, err = a.endUser(ctx, actor, account, sel)
		return r, err
	}
	until := time.Now().Add(a.cfg.PreviewTime)
	f := a.filter(account, Query{User: sel.User, Client: sel.Client, State: store.Unended})
	// First, or one becomes a session behind the back of the list.
	if err := a.endPending(ctx, actor, f, sel.ExceptMine); err != nil {
		return r, err
	}
	var unread error // these were not ended
	for cursor := ""; ; {
		page, next, err := a.cfg.Hook.List(ctx, f, cursor, 200)
		if err != nil && !unreadable(err) {
			return r, err
		}
		unread = errors.Join(unread, err)
		for _, s := range page {
			switch ended, err := a.endOne(ctx, actor, account, s.ID, sel.ExceptMine); {
			case errors.Is(err, store.ErrNotFound): // ended and forgotten meanwhile
			case err != nil:
				return r, err
			case ended:
				r.Ended++
			}
		}
		if next == "" {
			return r, unread
		}
		if time.Now().After(until) {
			r.Complete = false
			return r, nil
		}
		cursor = next
	}
}

// endUser ends the sessions of one user and what they have under way, by
// [provider.Hook.EndAll], if they are of the account: a member now, or all that they
// have is listed in it. Of anybody else it ends the sessions that are listed.
func (a *Admin) endUser(ctx context.Context, actor Actor, account string, sel Selection) (int, error) {
	if sel.ExceptMine && actor.SID == "" && actor.User == sel.User {
		return 0, nil // all of them are the actor's own
	}
	subject := a.subject(sel.User)
	memberships, err := a.cfg.Hook.Memberships(ctx, subject)
	if err != nil {
		return 0, err
	}
	member := slices.ContainsFunc(memberships, func(m policy.Membership) bool { return m.Account == account })
	var except, listed []string
	elsewhere := false
	for cursor := ""; ; {
		page, next, err := a.cfg.Hook.List(ctx, store.Filter{Subject: subject, State: store.Unended}, cursor, 200)
		if err != nil && !unreadable(err) {
			return 0, err
		}
		elsewhere = elsewhere || err != nil // it may be
		for _, s := range page {
			in := slices.Contains(s.Accounts, account)
			elsewhere = elsewhere || !in
			switch mine := sel.ExceptMine && a.mine(actor, s); {
			case mine:
				except = append(except, s.ID)
			case in:
				listed = append(listed, s.ID)
			}
		}
		if next == "" {
			break
		}
		cursor = next
	}
	if member || len(listed) > 0 && !elsewhere {
		return a.cfg.Hook.EndAll(ctx, subject, policy.ReasonEndedByAdmin, actor.ID, except...)
	}
	n := 0
	for _, sid := range listed {
		ended, err := a.endOne(ctx, actor, account, sid, sel.ExceptMine)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return n, err
		}
		if ended {
			n++
		}
	}
	return n, nil
}

// endOne reports whether it was this call that ended the session.
func (a *Admin) endOne(ctx context.Context, actor Actor, account, sid string, exceptMine bool) (bool, error) {
	s, err := a.session(ctx, account, sid)
	if err != nil || s.End != nil || exceptMine && a.mine(actor, s) {
		return false, err
	}
	if err := a.cfg.Hook.End(ctx, sid, policy.ReasonEndedByAdmin, actor.ID); err != nil {
		return false, err
	}
	return true, nil
}

// endPending ends the logins that wait for their applications. They do not count.
func (a *Admin) endPending(ctx context.Context, actor Actor, f store.Filter, exceptMine bool) error {
	for cursor := ""; ; {
		page, next, err := a.cfg.Hook.Pending(ctx, f, cursor, 200)
		if err != nil && !unreadable(err) {
			return err
		}
		for _, s := range page {
			if exceptMine && a.mine(actor, s) {
				continue
			}
			if err := a.cfg.Hook.End(ctx, s.ID, policy.ReasonEndedByAdmin, actor.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		if next == "" {
			return nil
		}
		cursor = next
	}
}

func (a *Admin) mine(actor Actor, s store.Session) bool {
	if actor.SID != "" {
		return s.ID == actor.SID
	}
	return actor.User != "" && s.Subject == a.subject(actor.User)
}

// An OwedDelivery is a delivery with the session whose end it is about.
type OwedDelivery struct {
	Session string        `json:"session"`
	User    string        `json:"user"`
	EndedAt time.Time     `json:"ended_at"`
	Reason  policy.Reason `json:"reason"`
	Delivery
}

// deliveryScan is how many ended sessions one page of deliveries looks at. They
// are few that are owed any, and no index finds them.
const deliveryScan = 500

// Deliveries returns logout notifications of an account that are owed, or that
// were given up, or both, and the cursor to go on with. It looks at a number of
// ended sessions each time, so a page may be empty; only an empty cursor says that
// it is the last.
func (a *Admin) Deliveries(ctx context.Context, account string, owed, givenUp bool, cursor string) ([]OwedDelivery, string, error) {
	page, next, err := a.page(ctx, a.filter(account, Query{State: store.Ended}), cursor, deliveryScan)
	if err != nil {
		return nil, "", err
	}
	list := []OwedDelivery{}
	for _, s := range page {
		for _, d := range deliveries(s) {
			if d.GivenUp.IsZero() && owed || !d.GivenUp.IsZero() && givenUp {
				list = append(list, OwedDelivery{s.ID, s.Subject.ID, s.End.At, s.End.Reason, d})
			}
		}
	}
	return list, next, nil
}

// ErrLive is wrapped by the error about a logout notification for a session that
// has not ended.
var ErrLive = errors.New("the session has not ended")

// A Redelivery says what came of telling an application once more.
type Redelivery struct {
	Delivered bool       `json:"delivered"`
	Error     string     `json:"error,omitempty"` // why not, for people
	Delivery  []Delivery `json:"deliveries"`      // of the session, as they are now
}

// Redeliver tells an application at once that a session of the account has ended.
// If it does not take that, it is owed again. If the session is not there, or the
// client had no part in it, the error wraps [store.ErrNotFound].
func (a *Admin) Redeliver(ctx context.Context, account, sid, client string) (Redelivery, error) {
	s, err := a.session(ctx, account, sid)
	if err != nil {
		return Redelivery{}, err
	}
	if s.End == nil {
		return Redelivery{}, fmt.Errorf("session %q: %w", sid, ErrLive)
	}
	failure := a.cfg.Hook.Redeliver(ctx, sid, client)
	if errors.Is(failure, store.ErrNotFound) {
		return Redelivery{}, failure
	}
	if s, err = a.session(ctx, account, sid); err != nil {
		return Redelivery{}, err
	}
	r := Redelivery{Delivered: failure == nil, Delivery: deliveries(s)}
	if failure != nil {
		r.Error = "the application could not be told"
		for _, d := range r.Delivery {
			if d.Client == client && d.Error != "" {
				r.Error = d.Error
			}
		}
	}
	return r, nil
}

// Heartbeat says that the user of the actor's session is there. It is about that
// session only: about any other the error wraps [store.ErrNotFound].
func (a *Admin) Heartbeat(ctx context.Context, actor Actor, sid string) error {
	if actor.SID == "" || actor.SID != sid {
		return fmt.Errorf("session %q is not the one of the access token: %w", sid, store.ErrNotFound)
	}
	return a.cfg.Hook.Heartbeat(ctx, sid, actor.Client)
}
