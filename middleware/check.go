package middleware

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
)

// Check returns the session of the browser that sent the request. It writes no response, and
// refreshes the tokens if that is due. The error wraps
// [ErrSignedOut] or [ErrUnavailable].
func (rp *RelyingParty) Check(r *http.Request) (*Session, error) {
	h, err := rp.check(r)
	if err != nil {
		return nil, err
	}
	return rp.session(h), nil
}

func (rp *RelyingParty) check(r *http.Request) (*held, error) {
	h, err := rp.cookies.find(r)
	if err != nil {
		return nil, err
	}
	if rp.background(r) && !h.rec.IdleEnds.IsZero() {
		return h, h.rec.unasked(rp.now())
	}
	return h, rp.refresher.refresh(r.Context(), h, false)
}

// background reports whether a request is no sign of the user.
func (rp *RelyingParty) background(r *http.Request) bool {
	return isStream(r) || rp.cfg.IsBackground != nil && rp.cfg.IsBackground(r)
}

// session is what the application gets of a session.
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
