package provider

import (
	"context"
	"fmt"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// A room is whether there is a place for one more session of a subject, and the
// sessions that are there.
type room struct {
	decision policy.Decision
	need     int // how many must end
	live     []store.Session
	counts   map[string]bool // the IDs of those that make room
	ruling   ruling
	fence    store.Fence // of the subject, if it has sessions
}

// room looks whether there is a place for a session of the given kind and
// client. It reserves none: only the admission decides.
func (h *admissions) room(ctx context.Context, subject store.Subject, kind policy.Kind, client string) (room, error) {
	r, err := h.rules(ctx, subject, true)
	if err != nil {
		return room{}, fmt.Errorf("settings: %w", err)
	}
	rm := room{ruling: r, decision: policy.Decision{Allow: true}, counts: map[string]bool{}}
	if !r.rules.Capped(kind, client) {
		return rm, nil
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	now := h.now()
	var held []policy.Session
	for s, err := range h.stored(ctx, store.Filter{Subject: subject, State: store.Unended}, maxListed) {
		if err != nil {
			return room{}, fmt.Errorf("list sessions: %w", err)
		}
		if rm.fence = s.Fence; s.Fenced() {
			continue
		}
		held = append(held, s.Policy())
		if r.rules.Check(now, s.Policy(), policy.Use{}).Allow {
			rm.live = append(rm.live, s)
		}
	}
	begins := policy.Session{Kind: kind, Client: client, Started: now, Authenticated: now, LastActivity: now}
	if rm.decision = r.rules.Admit(now, held, begins); rm.decision.Allow {
		return rm, nil
	}
	for _, c := range r.rules.Caps() {
		var counted []string
		for _, s := range rm.live {
			if c.Counts(s.Policy()) {
				counted = append(counted, s.ID)
			}
		}
		if !c.Counts(begins) || c.AtLimit != policy.Ask || len(counted) < c.Max {
			continue
		}
		rm.need = max(rm.need, len(counted)-c.Max+1)
		for _, id := range counted {
			rm.counts[id] = true
		}
	}
	return rm, nil
}

// maxListed bounds the sessions on a page.
const maxListed = 100
