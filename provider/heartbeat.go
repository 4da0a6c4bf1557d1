package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// ErrEnded is wrapped by errors about a session that has ended, or is over.
var ErrEnded = errors.New("the session has ended")

// Heartbeat records the report of a client that the session's user is present: activity of the
// class [policy.Heartbeat]. It is written as rarely as other frequent activity. If the session has
// ended, or is over, the
// error wraps [ErrEnded] and nothing changes; if there is none it wraps
// [store.ErrNotFound].
func (h *Hook) Heartbeat(ctx context.Context, sid, client string) error {
	s, err := h.getWithParent(ctx, sid)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	s, r, err := h.inUse(ctx, s)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	now := h.now()
	wctx, cancel := h.detach(ctx)
	defer cancel()
	_, err = h.change(wctx, s, func(s *store.Session) error {
		p := s.Policy()
		if s.End != nil || !s.ReservedUntil.IsZero() || !r.rules.Check(now, p, policy.Use{Client: client}).Allow {
			return ErrEnded
		}
		if !r.rules.Slides(p, client, policy.Heartbeat) || now.Sub(s.LastActivity) < max(r.rules.TouchEvery(p, client), time.Microsecond) {
			return errNoChange
		}
		session.Slide(s, r.rules, client, now, policy.Heartbeat)
		h.schedule(s, r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	return nil
}
