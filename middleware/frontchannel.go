package middleware

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
)

// frontChannelPage is loaded by the provider's page in a frame (OpenID Connect
// Front-Channel Logout 1.0). The browser hardly ever sends our cookie there, so
// that only iss and sid say which session is meant.
func (rp *RelyingParty) frontChannelPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	q := r.URL.Query()
	if q.Get("iss") != rp.cfg.Issuer || q.Get("sid") == "" {
		http.Error(w, "iss and sid of a login are needed", http.StatusBadRequest)
		return
	}
	if err := rp.frontChannel(r.Context(), q.Get("sid")); err != nil {
		w.Header().Set("Retry-After", retryAfterHeader(retryAfter))
		http.Error(w, "the logout could not be done", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// frontChannel ends the sessions of a login. No token says that the provider sent
// it: so only a sid that a session here has is remembered like one of a logout
// token. Any other can only be that of a sign-in under way. It is remembered for as
// long as that may take, and not too many are.
func (rp *RelyingParty) frontChannel(ctx context.Context, sid string) error {
	known, err := rp.knows(ctx, sid)
	if err != nil {
		return err
	}
	if !known {
		now := rp.now()
		if !rp.strangers.allow(now) {
			err := errors.New("front channel: too many logins that are not known here are to be ended")
			rp.event(ctx, Event{Type: EventLogoutRefused, Err: err})
			return err
		}
		if _, err := rp.store.Mark(ctx, rp.sidEntry(sid), now.UTC(), now.Add(signInTime), now); err != nil {
			return rp.storeFailed(ctx, err)
		}
		// The sign-in finds the mark, or is found here: see begin.
		if known, err = rp.knows(ctx, sid); err != nil || !known {
			return err
		}
	}
	return rp.logOut(ctx, "", sid, rp.now(), "")
}

// know remembers that a session in cookies has a sid, where the front channel has to
// tell those from what anybody may send. Sessions in the store are found there.
func (rp *RelyingParty) know(ctx context.Context, sid string) error {
	if !rp.cfg.InCookies || !rp.cfg.FrontChannel || sid == "" {
		return nil
	}
	now := rp.now()
	if _, err := rp.store.Mark(ctx, rp.knownMark(sid), now.UTC(), now.Add(longestLife), now); err != nil {
		return rp.storeFailed(ctx, err)
	}
	return nil
}

// knows reports whether a session here has the sid.
func (rp *RelyingParty) knows(ctx context.Context, sid string) (bool, error) {
	if rp.cfg.InCookies {
		at, err := rp.marked(ctx, rp.knownMark(sid))
		if err != nil {
			return false, rp.storeFailed(ctx, err)
		}
		return !at.IsZero(), nil
	}
	ids, err := rp.store.Find(ctx, rp.sidEntry(sid))
	if err != nil {
		return false, rp.storeFailed(ctx, err)
	}
	return len(ids) > 0, nil
}

func (rp *RelyingParty) knownMark(sid string) string { return seal.Digest("known", rp.app, sid) }

// maxStrangers is how many sids that are not known are remembered in signInTime.
const maxStrangers = 1000

// strangers counts them.
type strangers struct {
	mu    sync.Mutex
	since time.Time
	count int
}

func (s *strangers) allow(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.since) >= signInTime || now.Before(s.since) {
		s.since, s.count = now, 0
	}
	s.count++
	return s.count <= maxStrangers
}
