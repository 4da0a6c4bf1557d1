package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// A Delivery is a logout notification to an application that did not get it.
type Delivery struct {
	Client   string    `json:"client"`
	URI      string    `json:"uri,omitempty"`   // where it was tried last
	Error    string    `json:"error,omitempty"` // what came of it, for people
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next,omitzero"`     // when it is tried again
	GivenUp  time.Time `json:"given_up,omitzero"` // since when it is not
}

func deliveries(s store.Session) []Delivery {
	list := []Delivery{}
	for _, d := range s.Deliveries {
		list = append(list, Delivery{Client: d.Client, URI: d.URI, Error: d.Error, Attempts: d.Attempts, Next: d.Next, GivenUp: d.GivenUp})
	}
	return list
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
func (sv *Service) Deliveries(ctx context.Context, account string, owed, givenUp bool, cursor string) ([]OwedDelivery, string, error) {
	page, next, err := sv.page(ctx, sv.filter(account, Query{State: store.Ended}), cursor, deliveryScan)
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

// A Redelivery says what came of telling an application once more.
type Redelivery struct {
	Delivered bool       `json:"delivered"`
	Error     string     `json:"error,omitempty"` // why not, for people
	Delivery  []Delivery `json:"deliveries"`      // of the session, as they are now
}

// Redeliver tells an application at once that a session of the account has ended.
// If it does not take that, it is owed again. If the session is not there, or the
// client had no part in it, the error wraps [store.ErrNotFound].
func (sv *Service) Redeliver(ctx context.Context, account, sid, client string) (Redelivery, error) {
	s, err := sv.session(ctx, account, sid)
	if err != nil {
		return Redelivery{}, err
	}
	if s.End == nil {
		return Redelivery{}, fmt.Errorf("session %q: %w", sid, ErrLive)
	}
	failure := sv.Hook.Redeliver(ctx, sid, client)
	if errors.Is(failure, store.ErrNotFound) {
		return Redelivery{}, failure
	}
	if s, err = sv.session(ctx, account, sid); err != nil {
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
