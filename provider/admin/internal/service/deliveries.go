package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/texts"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

// An OwedDelivery is a delivery with the session whose end it is about.
type OwedDelivery struct {
	Session string        `json:"session"`
	User    string        `json:"user"`
	EndedAt view.Time     `json:"ended_at"`
	Reason  policy.Reason `json:"reason"`
	view.Delivery
}

// deliveryScan is how many ended sessions one page of deliveries looks at. They
// are few that are owed any, and no index finds them.
const deliveryScan = 500

// DeliveryStates are what deliveries to choose from: those that are owed, those that
// were given up, or both.
var DeliveryStates = []string{"any", "owed", "given_up"}

// Deliveries returns logout notifications of an account in one of [DeliveryStates],
// and the cursor to go on with. It looks at a number of
// ended sessions each time, so a page may be empty; only an empty cursor says that
// it is the last.
func (sv *Service) Deliveries(ctx context.Context, account, state, cursor string) ([]OwedDelivery, string, error) {
	page, next, err := sv.page(ctx, sv.filter(account, Query{State: store.Ended}), cursor, deliveryScan)
	if err != nil {
		return nil, "", err
	}
	list := []OwedDelivery{}
	for _, s := range page {
		v := view.Of(s, sv.Time(), texts.English)
		for _, d := range v.Ended.Deliveries {
			if state == "any" || (state == "owed") == d.GivenUp.IsZero() {
				list = append(list, OwedDelivery{v.ID, v.User, v.Ended.At, v.Ended.Reason, d})
			}
		}
	}
	return list, next, nil
}

// A Redelivery says what came of telling an application once more.
type Redelivery struct {
	Delivered bool            `json:"delivered"`
	Error     string          `json:"error,omitempty"` // why not, for people
	Delivery  []view.Delivery `json:"deliveries"`      // of the session, as they are now
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
	r := Redelivery{Delivered: failure == nil, Delivery: view.Of(s, sv.Time(), texts.English).Ended.Deliveries}
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
