package service

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/internal/paged"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

// End ends one session of the account. Ending one that has ended succeeds and
// changes nothing. If there is none the error wraps [store.ErrNotFound].
func (sv *Service) End(ctx context.Context, actor Actor, account, sid string) (view.Session, error) {
	s, err := sv.session(ctx, account, sid)
	if err != nil {
		return view.Session{}, err
	}
	if s.End == nil {
		if err := sv.Hook.End(ctx, sid, policy.ReasonEndedByAdmin, actor.ID); err != nil {
			return view.Session{}, err
		}
	}
	return sv.Session(ctx, actor, account, sid)
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
func (sv *Service) EndSelected(ctx context.Context, actor Actor, account string, sel Selection) (Result, error) {
	r := Result{NotFound: []string{}, Complete: true}
	if len(sel.Sessions) > 0 {
		for _, sid := range sel.Sessions {
			switch ended, err := sv.endOne(ctx, actor, account, sid, sel.ExceptMine); {
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
		r.Ended, err = sv.endUser(ctx, actor, account, sel)
		return r, err
	}
	until := time.Now().Add(sv.PreviewTime)
	f := sv.filter(account, Query{User: sel.User, Client: sel.Client, State: store.Unended})
	// First, or one becomes a session behind the back of the list.
	if err := sv.endPending(ctx, actor, f, sel.ExceptMine); err != nil {
		return r, err
	}
	over := false
	var unread error // these were not ended
	for s, err := range each(ctx, sv.Hook.List, f) {
		if unreadable(err) {
			unread = errors.Join(unread, err)
			continue
		}
		if err != nil {
			return r, err
		}
		if over {
			r.Complete = false
			return r, nil
		}
		switch ended, err := sv.endOne(ctx, actor, account, s.ID, sel.ExceptMine); {
		case errors.Is(err, store.ErrNotFound): // ended and forgotten meanwhile
		case err != nil:
			return r, err
		case ended:
			r.Ended++
		}
		over = time.Now().After(until)
	}
	return r, unread
}

// unreadable reports whether an error is only that some sessions cannot be read. An
// administrator goes on with the others: sweeps tell the operator, who can do something
// about it.
func unreadable(err error) bool { return errors.Is(err, store.ErrUnreadable) }

// each returns what a list of the hook has for a filter.
func each(
	ctx context.Context, list func(context.Context, store.Filter, string, int) ([]store.Session, string, error), f store.Filter,
) iter.Seq2[store.Session, error] {
	return paged.All(func(cursor string) ([]store.Session, string, error) { return list(ctx, f, cursor, 200) })
}

// endUser ends the sessions of one user and what they have under way, by
// [provider.Hook.EndAll], if they are of the account: a member now, or all that they
// have is listed in it. Of anybody else it ends the sessions that are listed.
func (sv *Service) endUser(ctx context.Context, actor Actor, account string, sel Selection) (int, error) {
	if sel.ExceptMine && actor.SID == "" && actor.User == sel.User {
		return 0, nil // all of them are the actor's own
	}
	subject := sv.subject(sel.User)
	memberships, err := sv.Hook.Memberships(ctx, subject)
	if err != nil {
		return 0, err
	}
	member := slices.ContainsFunc(memberships, func(m policy.Membership) bool { return m.Account == account })
	var except, listed []string
	elsewhere := false
	for s, err := range each(ctx, sv.Hook.List, store.Filter{Subject: subject, State: store.Unended}) {
		if unreadable(err) {
			elsewhere = true // it may be
			continue
		}
		if err != nil {
			return 0, err
		}
		in := slices.Contains(s.Accounts, account)
		elsewhere = elsewhere || !in
		switch mine := sel.ExceptMine && sv.mine(actor, s); {
		case mine:
			except = append(except, s.ID)
		case in:
			listed = append(listed, s.ID)
		}
	}
	if member || len(listed) > 0 && !elsewhere {
		return sv.Hook.EndAll(ctx, subject, policy.ReasonEndedByAdmin, actor.ID, except...)
	}
	n := 0
	for _, sid := range listed {
		ended, err := sv.endOne(ctx, actor, account, sid, sel.ExceptMine)
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
func (sv *Service) endOne(ctx context.Context, actor Actor, account, sid string, exceptMine bool) (bool, error) {
	s, err := sv.session(ctx, account, sid)
	if err != nil || s.End != nil || exceptMine && sv.mine(actor, s) {
		return false, err
	}
	if err := sv.Hook.End(ctx, sid, policy.ReasonEndedByAdmin, actor.ID); err != nil {
		return false, err
	}
	return true, nil
}

// endPending ends the logins that wait for their applications. They do not count.
func (sv *Service) endPending(ctx context.Context, actor Actor, f store.Filter, exceptMine bool) error {
	for s, err := range each(ctx, sv.Hook.Pending, f) {
		if unreadable(err) {
			continue
		}
		if err != nil {
			return err
		}
		if exceptMine && sv.mine(actor, s) {
			continue
		}
		if err := sv.Hook.End(ctx, s.ID, policy.ReasonEndedByAdmin, actor.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (sv *Service) mine(actor Actor, s store.Session) bool {
	if actor.SID != "" {
		return s.ID == actor.SID
	}
	return actor.User != "" && s.Subject == sv.subject(actor.User)
}
