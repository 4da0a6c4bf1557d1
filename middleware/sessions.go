package middleware

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
	"github.com/curfew-oidc/curfew/policy"
)

// sessions are the sessions of the application, wherever they are kept: how
// they begin and end, and what was told of logins that have no session here yet.
type sessions struct {
	app    string // what tells this application from others
	sealer *seal.Sealer
	now    func() time.Time
	events *teller

	kept   SessionStore // where sessions are: shared, or cache
	shared SessionStore // where marks and forms are
	cache  *memoryStore // of sessions in cookies; nil if they are not

	knowsSIDs bool // the front channel asks for those of sessions in cookies
}

// inCookies reports whether the browsers have the sessions.
func (s *sessions) inCookies() bool { return s.cache != nil }

// A held is a session as this request found it.
type held struct {
	id      string
	version int64
	rec     record
}

// sessionID is what a session is kept under: its cookie is not kept anywhere.
func sessionID(cookie string) string {
	if cookie == "" {
		return ""
	}
	return seal.Digest("session", cookie)
}

// load reads a session.
func (s *sessions) load(ctx context.Context, id string) (*held, error) {
	stored, err := s.kept.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	h := &held{id: id, version: stored.Version}
	plain, err := s.sealer.Open("session "+id, stored.Data)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(plain, &h.rec); err != nil || h.rec.Format != recordFormat {
		return nil, fmt.Errorf("format %d: %w", h.rec.Format, seal.ErrNotOurs)
	}
	return h, nil
}

// stored returns what the store keeps of a session.
func (s *sessions) stored(h *held) (StoredSession, error) {
	plain, err := json.Marshal(&h.rec)
	if err != nil {
		return StoredSession{}, err
	}
	data, err := s.sealer.Seal("session "+h.id, plain)
	if err != nil {
		return StoredSession{}, err
	}
	stored := StoredSession{
		ID: h.id, Data: data, Version: h.version, Index: []string{s.subjectEntry(h.rec.Subject)},
		Expires: s.expires(&h.rec).UTC().Truncate(time.Microsecond),
	}
	if h.rec.SID != "" {
		stored.Index = append(stored.Index, s.sidEntry(h.rec.SID))
	}
	return stored, nil
}

// expires is from when on nobody needs to know the session.
func (s *sessions) expires(rec *record) time.Time {
	end := earliest(rec.EndedAt, rec.ends())
	switch {
	case s.inCookies():
		return s.now().Add(cacheTime) // the browser has it
	case end.IsZero():
		end = later(rec.Refreshed, rec.SignedIn).Add(longestLife)
	}
	return end.Add(keepEnded)
}

// subjectEntry and sidEntry are what a session is found by, and what marks that
// are about them are called.
func (s *sessions) subjectEntry(sub string) string { return seal.Digest("sub", s.app, sub) }

func (s *sessions) sidEntry(sid string) string { return seal.Digest("sid", s.app, sid) }

// begin keeps a new session, under a new secret.
func (s *sessions) begin(ctx context.Context, rec record) (h *held, secret string, err error) {
	secret = seal.NewSecret()
	h = &held{id: sessionID(secret), version: 1, rec: rec}
	stored, err := s.stored(h)
	if err != nil {
		return nil, "", err
	}
	if err := s.kept.Create(ctx, s.now(), stored); err != nil {
		return nil, "", s.events.storeFailed(ctx, err)
	}
	return h, secret, s.know(ctx, rec.SID)
}

// replace writes the session.
func (s *sessions) replace(ctx context.Context, h *held) error {
	stored, err := s.stored(h)
	if err != nil {
		return err
	}
	if err := s.kept.Replace(ctx, stored); err != nil {
		return err
	}
	h.version++
	return nil
}

// forget deletes a session that has ended. What is known of those in cookies stays, since
// a copy may be shown at any time.
func (s *sessions) forget(ctx context.Context, h *held) {
	if !s.inCookies() {
		_ = s.shared.Delete(ctx, h.id) // it has ended; there is nothing to tell
	}
}

// end ends a session, once. Without an error h is how it ended, be that now or before.
func (s *sessions) end(ctx context.Context, h *held, reason Reason, text string) error {
	ctx = context.WithoutCancel(ctx) // an end that was begun is finished
	if s.inCookies() {
		// Copies of the cookie are over too, wherever they are shown.
		now := s.now()
		if _, err := s.shared.Mark(ctx, s.overMark(h.id), now, now.Add(longestLife), now); err != nil {
			return s.events.storeFailed(ctx, err)
		}
	}
	for h.rec.EndedAt.IsZero() {
		h.rec.end(s.now().UTC(), reason, text)
		err := s.replace(ctx, h)
		if err == nil {
			s.events.event(ctx, Event{Type: EventEnded, Subject: h.rec.Subject, SID: h.rec.SID, Reason: reason})
			return nil
		}
		if !errors.Is(err, ErrConflict) {
			return s.events.storeFailed(ctx, err)
		}
		again, err := s.load(ctx, h.id)
		if errors.Is(err, ErrNotFound) {
			return nil // forgotten: nobody is signed in with it
		}
		if err != nil {
			return s.events.storeFailed(ctx, err)
		}
		*h = *again
	}
	return nil
}

// over returns why a session is over, and ends it where only the clock has.
func (s *sessions) over(ctx context.Context, h *held) error {
	if h.rec.EndedAt.IsZero() {
		reason, text := h.rec.lapsed(s.now())
		if err := s.end(ctx, h, reason, text); err != nil {
			return err
		}
	}
	return &SignedOutError{Reason: h.rec.Reason, Text: h.rec.Text}
}

// Marks in the shared store: about sessions that are in cookies, and about logins that
// were ended before their sessions were there.

func (s *sessions) overMark(id string) string { return seal.Digest("over", s.app, id) }

// obeyMarks ends a session in cookies if it has been ended elsewhere.
func (s *sessions) obeyMarks(ctx context.Context, h *held) error {
	ended, err := s.shared.Marked(ctx, s.overMark(h.id))
	if err != nil {
		return s.events.storeFailed(ctx, err)
	}
	over := !ended.IsZero()
	if !over {
		if over, err = s.loggedOut(ctx, &h.rec); err != nil {
			return err
		}
	}
	if !over {
		return nil
	}
	return s.end(ctx, h, ReasonLoggedOutElsewhere, sentence(ReasonLoggedOutElsewhere))
}

// loggedOut reports whether the provider has said since the login was issued that it, or
// all of the user's, is over.
func (s *sessions) loggedOut(ctx context.Context, rec *record) (bool, error) {
	entries := []string{s.subjectEntry(rec.Subject)}
	if rec.SID != "" {
		entries = append(entries, s.sidEntry(rec.SID))
	}
	for _, entry := range entries {
		at, err := s.shared.Marked(ctx, entry)
		if err != nil {
			return false, s.events.storeFailed(ctx, err)
		}
		if !at.IsZero() && !at.Before(rec.Issued) {
			return true, nil
		}
	}
	return false, nil
}

// know remembers that a session in cookies has a sid, where the front channel has to
// tell those from what anybody may send. Sessions in the store are found there.
func (s *sessions) know(ctx context.Context, sid string) error {
	if !s.knowsSIDs || sid == "" {
		return nil
	}
	now := s.now()
	if _, err := s.shared.Mark(ctx, s.knownMark(sid), now.UTC(), now.Add(longestLife), now); err != nil {
		return s.events.storeFailed(ctx, err)
	}
	return nil
}

// knows reports whether a session here has the sid.
func (s *sessions) knows(ctx context.Context, sid string) (bool, error) {
	if s.inCookies() {
		at, err := s.shared.Marked(ctx, s.knownMark(sid))
		if err != nil {
			return false, s.events.storeFailed(ctx, err)
		}
		return !at.IsZero(), nil
	}
	ids, err := s.shared.Find(ctx, s.sidEntry(sid))
	if err != nil {
		return false, s.events.storeFailed(ctx, err)
	}
	return len(ids) > 0, nil
}

func (s *sessions) knownMark(sid string) string { return seal.Digest("known", s.app, sid) }

// untilOver waits until a session is over, or its access token has ended and no other
// request has brought a new one, and returns why; nil if done ends first. A store that
// does not answer ends nothing before that.
func (s *sessions) untilOver(id string, done <-chan struct{}) error {
	ctx := context.Background() // not the request's: a hijacked connection outlives it
	var last *held
	for {
		h, err := s.load(ctx, id)
		switch {
		case err == nil:
			last = h
		case errors.Is(err, ErrNotFound) && s.inCookies() && last != nil: // out of the cache
		case errors.Is(err, ErrNotFound):
			return &SignedOutError{Reason: policy.ReasonLogout, Text: sentence(policy.ReasonLogout)}
		}
		wait := streamLook
		if last != nil {
			if s.inCookies() && last.rec.EndedAt.IsZero() {
				_ = s.obeyMarks(ctx, last) // a store that does not answer ends nothing
			}
			if over := last.rec.unasked(s.now()); over != nil {
				return over
			}
			if end := earliest(last.rec.ends(), last.rec.IdleEnds, last.rec.asksBy()); !end.IsZero() {
				wait = min(wait, end.Sub(s.now()))
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-done:
			t.Stop()
			return nil
		}
	}
}
