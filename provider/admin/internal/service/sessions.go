package service

import (
	"context"
	"fmt"
	"slices"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/texts"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

// view is s as the actor sees it, without its deadline.
func (sv *Service) view(actor Actor, s store.Session) view.Session {
	v := view.Of(s, sv.Time(), texts.English)
	v.Yours = actor.User != "" && sv.subject(actor.User) == s.Subject
	v.Current = actor.SID != "" && actor.SID == s.ID
	return v
}

// viewNow is view with the deadline.
func (sv *Service) viewNow(ctx context.Context, actor Actor, s store.Session) view.Session {
	v := sv.view(actor, s)
	if s.End == nil {
		// A user whose rules cannot be had, because they were deleted, has
		// sessions all the same.
		if at, by, err := sv.Hook.Deadline(ctx, s); err == nil {
			v.EndsAt(at, by)
		}
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
func (sv *Service) Sessions(ctx context.Context, actor Actor, account string, q Query, cursor string, limit int) ([]view.Session, string, error) {
	f := sv.filter(account, q)
	page, next, err := sv.page(ctx, f, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	list := make([]view.Session, len(page))
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
	if err != nil && !unreadable(err) {
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
func (sv *Service) Session(ctx context.Context, actor Actor, account, sid string) (view.Session, error) {
	s, err := sv.session(ctx, account, sid)
	if err != nil {
		return view.Session{}, err
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
