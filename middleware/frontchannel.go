package middleware

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

// frontChannelPage is loaded by the provider's page in a frame (OpenID Connect
// Front-Channel Logout 1.0). The browser hardly ever sends our cookie there, so
// that only iss and sid say which session is meant.
func (l *logouts) frontChannelPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	q := r.URL.Query()
	if q.Get("iss") != l.issuer || q.Get("sid") == "" {
		http.Error(w, "iss and sid of a login are needed", http.StatusBadRequest)
		return
	}
	if err := l.frontChannel(r.Context(), q.Get("sid")); err != nil {
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
func (l *logouts) frontChannel(ctx context.Context, sid string) error {
	known, err := l.sessions.knows(ctx, sid)
	if err != nil {
		return err
	}
	if !known {
		now := l.now()
		if !l.strangers.allow(now) {
			err := errors.New("front channel: too many logins that are not known here are to be ended")
			l.events.event(ctx, Event{Type: EventLogoutRefused, Err: err})
			return err
		}
		if _, err := l.sessions.shared.Mark(ctx, l.sessions.sidEntry(sid), now.UTC(), now.Add(signInTime), now); err != nil {
			return l.events.storeFailed(ctx, err)
		}
		// The sign-in finds the mark, or is found here: see begin.
		if known, err = l.sessions.knows(ctx, sid); err != nil || !known {
			return err
		}
	}
	return l.logOut(ctx, "", sid, l.now(), "")
}

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
