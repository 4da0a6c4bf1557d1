package provider

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// An Overview describes a user's sessions to that user.
type Overview struct {
	// Live are the live sessions, the one used last first.
	Live []LiveSession

	// Pending is how many logins whose code was not redeemed yet hold a slot.
	Pending int

	// Ended are the sessions that have ended, or are over, the latest end first, and at most
	// [MaxOverviewEnded]. Incomplete says that there are too many ended sessions to read all of
	// them, and that a later end may be missing.
	Ended      []store.Session
	Incomplete bool

	// Caps are the caps that bind the user, as [policy.Rules.Caps] returns them.
	Caps []CapUse
}

// A LiveSession is a live session, with the time at which it ends if nothing more happens, and the
// reason: see [Hook.Deadline].
type LiveSession struct {
	store.Session
	Deadline time.Time
	Limit    policy.Reason
}

// A CapUse is a cap, with the live sessions and pending logins that it counts.
type CapUse struct {
	policy.Cap
	Used int
}

const (
	// MaxOverviewEnded is how many ended sessions an [Overview] has at most.
	MaxOverviewEnded = 50

	// maxOverviewLook bounds how many ended sessions are looked at for them.
	maxOverviewLook = 2000

	overviewPage = 500
)

// Overview returns the sessions of one user, as they are now. It does not check who is asking.
func (h *Hook) Overview(ctx context.Context, subject store.Subject) (Overview, error) {
	r, err := h.rules(ctx, subject, false)
	if err != nil {
		return Overview{}, fmt.Errorf("overview: %w", err)
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	var o Overview
	for _, c := range r.rules.Caps() {
		o.Caps = append(o.Caps, CapUse{Cap: c})
	}
	if err := h.overviewLive(ctx, subject, r, &o); err != nil {
		return Overview{}, fmt.Errorf("overview: %w", err)
	}
	if err := h.overviewEnded(ctx, subject, &o); err != nil {
		return Overview{}, fmt.Errorf("overview: %w", err)
	}
	// What ended between the two looks has ended.
	over := make(map[string]bool, len(o.Ended))
	for _, s := range o.Ended {
		over[s.ID] = true
	}
	o.Live = slices.DeleteFunc(o.Live, func(s LiveSession) bool { return over[s.ID] })
	slices.SortFunc(o.Live, func(a, b LiveSession) int {
		return cmp.Or(b.LastActivity.Compare(a.LastActivity), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(o.Ended, func(a, b store.Session) int { return cmp.Or(b.End.At.Compare(a.End.At), cmp.Compare(a.ID, b.ID)) })
	o.Ended = o.Ended[:min(len(o.Ended), MaxOverviewEnded)]
	return o, nil
}

// overviewLive looks at the sessions that have not ended. Those that are over go
// to the ended ones.
func (h *members) overviewLive(ctx context.Context, subject store.Subject, r ruling, o *Overview) error {
	for s, err := range h.stored(ctx, store.Filter{Subject: subject, State: store.Unended}, overviewPage) {
		if err != nil {
			return err
		}
		if s.Fenced() {
			if h.stop(&s, r, s.Fence); s.ReservedUntil.IsZero() {
				o.Ended = append(o.Ended, s)
			}
			continue
		}
		p := s.Policy()
		if d := r.rules.Check(h.now(), p, policy.Use{}); !d.Allow {
			if s.ReservedUntil.IsZero() {
				h.finish(&s, r, d.At, d.Reason, "")
				o.Ended = append(o.Ended, s)
			}
			continue
		}
		end, err := h.endOfParent(ctx, s)
		if err != nil {
			return err
		}
		if end != nil {
			if s.ReservedUntil.IsZero() {
				h.finishWith(&s, r, end)
				o.Ended = append(o.Ended, s)
			}
			continue
		}
		for i := range o.Caps {
			if o.Caps[i].Counts(p) {
				o.Caps[i].Used++
			}
		}
		if !s.ReservedUntil.IsZero() {
			o.Pending++
			continue
		}
		live := LiveSession{Session: s}
		live.Deadline, live.Limit = r.rules.Deadline(p)
		o.Live = append(o.Live, live)
	}
	return nil
}

// overviewEnded looks at the sessions that have ended.
func (h *documents) overviewEnded(ctx context.Context, subject store.Subject, o *Overview) error {
	looked := 0
	for s, err := range h.stored(ctx, store.Filter{Subject: subject, State: store.Ended}, overviewPage) {
		if err != nil {
			return err
		}
		if looked++; looked > maxOverviewLook {
			o.Incomplete = true
			return nil
		}
		if s.ReservedUntil.IsZero() { // or it never began
			o.Ended = append(o.Ended, s)
		}
	}
	return nil
}
