package middleware

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
)

// A held is a session as this request found it.
type held struct {
	id      string
	version int64
	rec     record
}

// Check returns who is signed in with the browser that sent the request. It
// answers nothing, and refreshes the tokens if that is due. The error wraps
// [ErrSignedOut] or [ErrUnavailable].
func (rp *RelyingParty) Check(r *http.Request) (*Session, error) {
	h, err := rp.check(r)
	if err != nil {
		return nil, err
	}
	return rp.session(h), nil
}

func (rp *RelyingParty) check(r *http.Request) (*held, error) {
	h, err := rp.find(r)
	if err != nil {
		return nil, err
	}
	if rp.background(r) && !h.rec.IdleEnds.IsZero() {
		return h, rp.unasked(h)
	}
	return h, rp.refresh(r.Context(), h, false)
}

// background reports whether a request is no sign of the user.
func (rp *RelyingParty) background(r *http.Request) bool {
	return isStream(r) || rp.cfg.IsBackground != nil && rp.cfg.IsBackground(r)
}

// errUnasked is why a background request is not answered once the access token has
// ended: whether the login goes on only the provider can say, and to ask it would be
// activity.
var errUnasked = errors.New("the access token has expired, and a request in the background asks for no other")

// unasked judges a session for a request that does not ask the provider: only for as
// long as the access token is good, since a login may have ended at the provider
// without a word to us.
func (rp *RelyingParty) unasked(h *held) error {
	if err := rp.asItIs(h); err != nil {
		return err
	}
	if passed(h.rec.asksBy(), rp.now()) {
		return unavailable(errUnasked)
	}
	return nil
}

// asItIs judges a session by what is known of it, and changes nothing.
func (rp *RelyingParty) asItIs(h *held) error {
	now := rp.now()
	if !h.rec.EndedAt.IsZero() {
		return &SignedOutError{Reason: h.rec.Reason, Text: h.rec.Text}
	}
	if passed(earliest(h.rec.ends(), h.rec.IdleEnds), now) {
		reason, text := h.rec.lapsed(now)
		return &SignedOutError{Reason: reason, Text: text}
	}
	return nil
}

func (rp *RelyingParty) session(h *held) *Session {
	rec := &h.rec
	claims, _ := payload(rec.IDToken) // verified when it came
	return &Session{
		Issuer: rp.cfg.Issuer, Subject: rec.Subject, SID: rec.SID,
		AuthTime: rec.AuthTime, SignedIn: rec.SignedIn, Refreshed: rec.Refreshed,
		Ends: rec.ends(), Idle: rec.IdleEnds,
		claims: claims, access: rec.Access, now: rp.now(),
	}
}

// payload returns the claims of a JWT that was verified before.
func payload(jwt string) ([]byte, error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return nil, errors.New("not a JWT")
	}
	return base64.RawURLEncoding.DecodeString(parts[1])
}

// find returns the session of the browser. One that is over is returned too, as
// long as something is known of it.
func (rp *RelyingParty) find(r *http.Request) (*held, error) {
	none := &SignedOutError{Reason: ReasonNone}
	ctx := r.Context()
	id := ""
	if rp.cfg.InCookies {
		var err error
		if id, err = rp.hydrate(r); err != nil {
			return nil, err
		}
	} else if c, err := r.Cookie(rp.cookie); err == nil {
		id = sessionID(c.Value)
	}
	if id == "" {
		return nil, none
	}
	h, err := rp.load(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, seal.ErrNotOurs):
		return nil, none
	case err != nil:
		return nil, rp.storeFailed(ctx, err)
	}
	if rp.cfg.InCookies && h.rec.EndedAt.IsZero() {
		return h, rp.obeyMarks(ctx, h)
	}
	return h, nil
}

// sessionID is what a session is kept under: its cookie is not kept anywhere.
func sessionID(cookie string) string {
	if cookie == "" {
		return ""
	}
	return seal.Digest("session", cookie)
}

func (rp *RelyingParty) load(ctx context.Context, id string) (*held, error) {
	s, err := rp.sessions.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	h := &held{id: id, version: s.Version}
	plain, err := rp.sealer.Open("session "+id, s.Data)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(plain, &h.rec); err != nil || h.rec.Format != recordFormat {
		return nil, fmt.Errorf("format %d: %w", h.rec.Format, seal.ErrNotOurs)
	}
	return h, nil
}

// stored returns what the store keeps of a session.
func (rp *RelyingParty) stored(h *held) (StoredSession, error) {
	plain, err := json.Marshal(&h.rec)
	if err != nil {
		return StoredSession{}, err
	}
	data, err := rp.sealer.Seal("session "+h.id, plain)
	if err != nil {
		return StoredSession{}, err
	}
	s := StoredSession{ID: h.id, Data: data, Version: h.version, Index: []string{rp.subjectEntry(h.rec.Subject)}}
	if h.rec.SID != "" {
		s.Index = append(s.Index, rp.sidEntry(h.rec.SID))
	}
	s.Expires = rp.expires(&h.rec).UTC().Truncate(time.Microsecond)
	return s, nil
}

// expires is from when on nobody needs to know the session.
func (rp *RelyingParty) expires(rec *record) time.Time {
	end := earliest(rec.EndedAt, rec.ends())
	switch {
	case rp.cfg.InCookies:
		return rp.now().Add(cacheTime) // the browser has it
	case end.IsZero():
		end = later(rec.Refreshed, rec.SignedIn).Add(longestLife)
	}
	return end.Add(keepEnded)
}

// subjectEntry and sidEntry are what a session is found by, and what marks that
// are about them are called.
func (rp *RelyingParty) subjectEntry(sub string) string { return seal.Digest("sub", rp.app, sub) }
func (rp *RelyingParty) sidEntry(sid string) string     { return seal.Digest("sid", rp.app, sid) }

// replace writes the session.
func (rp *RelyingParty) replace(ctx context.Context, h *held) error {
	s, err := rp.stored(h)
	if err != nil {
		return err
	}
	if err := rp.sessions.Replace(ctx, s); err != nil {
		return err
	}
	h.version++
	return nil
}

// end ends a session, once. It returns how it ended, be that now or before.
func (rp *RelyingParty) end(ctx context.Context, h *held, reason Reason, text string) error {
	ctx = context.WithoutCancel(ctx) // an end that was begun is finished
	if rp.cfg.InCookies {
		// Copies of the cookie are over too, wherever they are shown.
		now := rp.now()
		if _, err := rp.store.Mark(ctx, rp.overMark(h.id), now, now.Add(longestLife), now); err != nil {
			return rp.storeFailed(ctx, err)
		}
	}
	for {
		if h.rec.EndedAt.IsZero() {
			h.rec.end(rp.now().UTC(), reason, text)
			err := rp.replace(ctx, h)
			if err == nil {
				rp.event(ctx, Event{Type: EventEnded, Subject: h.rec.Subject, SID: h.rec.SID, Reason: reason})
				return nil
			}
			if !errors.Is(err, ErrConflict) {
				return rp.storeFailed(ctx, err)
			}
			again, err := rp.load(ctx, h.id)
			if errors.Is(err, ErrNotFound) {
				return nil // forgotten: nobody is signed in with it
			}
			if err != nil {
				return rp.storeFailed(ctx, err)
			}
			*h = *again
			continue
		}
		return nil
	}
}

func (rp *RelyingParty) storeFailed(ctx context.Context, err error) error {
	return rp.noAnswer(ctx, fmt.Errorf("the session store: %w", err))
}

// noAnswer tells the operator that something did not answer.
func (rp *RelyingParty) noAnswer(ctx context.Context, err error) error {
	u := unavailable(err)
	if !errors.Is(ctx.Err(), context.Canceled) { // else the browser went away, which is nobody's fault
		rp.event(ctx, Event{Type: EventUnavailable, Err: u})
	}
	return u
}
