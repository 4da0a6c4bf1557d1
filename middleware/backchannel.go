package middleware

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/curfew-oidc/curfew/middleware/internal/seal"
)

const (
	// maxLogoutRequest bounds a back-channel request: more than any logout token.
	maxLogoutRequest = 64 << 10

	// maxLogoutLife is the longest life of a logout token that is accepted, as
	// its jti is remembered for so long. Two minutes are usual (OpenID Connect
	// Back-Channel Logout 1.0 section 4).
	maxLogoutLife = time.Hour

	logoutEvent = "http://schemas.openid.net/event/backchannel-logout"
)

// backChannelPage takes logout tokens (OpenID Connect Back-Channel Logout 1.0).
func (rp *RelyingParty) backChannelPage(w http.ResponseWriter, r *http.Request) {
	err := rp.backChannel(w, r)
	switch {
	case err == nil:
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusOK)
	case errors.Is(err, ErrUnavailable):
		// Section 2.8 has 400 for a logout that failed, but a provider that
		// sees it will hardly try again.
		w.Header().Set("Retry-After", retryAfterHeader(retryAfter))
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{
			"error": "temporarily_unavailable", "error_description": "the logout could not be done; try again",
		})
	default:
		rp.event(r.Context(), Event{Type: EventLogoutRefused, Err: err})
		writeJSON(w, http.StatusBadRequest, map[string]string{
			"error": "invalid_request", "error_description": "the logout token is not valid",
		})
	}
}

func (rp *RelyingParty) backChannel(w http.ResponseWriter, r *http.Request) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/x-www-form-urlencoded" {
		return errors.New("the request is not a form")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxLogoutRequest)
	if err := r.ParseForm(); err != nil {
		return fmt.Errorf("the form: %w", err)
	}
	if len(r.PostForm["logout_token"]) != 1 {
		return errors.New("there is not one logout_token")
	}
	ctx, cancel := rp.context(r.Context())
	defer cancel()
	t, why, err := rp.verifyLogout(ctx, r.PostForm.Get("logout_token"))
	if err != nil {
		return err
	}
	// The jti counts as used when the logout is done. A token that comes twice at
	// the same time does the same twice.
	used := seal.Digest("jti", rp.app, t.TokenID)
	at, err := rp.marked(ctx, used)
	if err != nil {
		return rp.storeFailed(ctx, err)
	}
	if !at.IsZero() {
		return errors.New("jti: this logout token was used before")
	}
	if err := rp.logOut(ctx, t.Subject, t.SessionID, t.IssuedAt, why); err != nil {
		return err
	}
	now := rp.now()
	if _, err := rp.store.Mark(ctx, used, now, t.Expiry.Add(time.Second), now); err != nil {
		return rp.storeFailed(ctx, err)
	}
	rp.event(ctx, Event{Type: EventLogoutReceived, Subject: t.Subject, SID: t.SessionID})
	return nil
}

// verifyLogout makes the checks of section 2.6. The signature, its algorithm, iss,
// aud, exp, jti, sub or sid and the absence of a nonce are the library's. It also
// returns why the login ended, which a provider with Curfew says.
func (rp *RelyingParty) verifyLogout(ctx context.Context, raw string) (_ *oidc.LogoutToken, why string, _ error) {
	e, err := rp.discover(ctx)
	if err != nil {
		return nil, "", err
	}
	t, err := verify(ctx, raw, e.verifier.VerifyLogout)
	if errors.Is(err, ErrUnavailable) {
		return nil, "", rp.noAnswer(ctx, err)
	}
	if err != nil {
		return nil, "", err
	}
	if err := rp.checkType(raw); err != nil {
		return nil, "", err
	}
	var claims struct {
		Events   map[string]json.RawMessage `json:"events"`
		IssuedAt *float64                   `json:"iat"`
		Why      json.RawMessage            `json:"session_end_reason"` // of others it may be anything
	}
	if err := t.Claims(&claims); err != nil {
		return nil, "", fmt.Errorf("the claims of the logout token: %w", err)
	}
	now := rp.now()
	switch {
	case !bytes.HasPrefix(bytes.TrimSpace(claims.Events[logoutEvent]), []byte("{")):
		return nil, "", errors.New("events: the event is not an object")
	case claims.IssuedAt == nil:
		return nil, "", errors.New("iat is missing")
	case t.IssuedAt.After(now.Add(clockSkew)):
		return nil, "", errors.New("iat is in the future")
	case !now.Before(t.Expiry):
		return nil, "", errors.New("exp: the logout token has expired")
	case t.Expiry.After(now.Add(maxLogoutLife)):
		return nil, "", fmt.Errorf("exp is more than %s ahead", maxLogoutLife)
	}
	if json.Unmarshal(claims.Why, &why) != nil {
		why = ""
	}
	return t, why, nil
}

// checkType keeps other tokens of the provider from being taken for a logout token.
func (rp *RelyingParty) checkType(raw string) error {
	typ, err := typeOf(raw)
	if err != nil {
		return fmt.Errorf("the header of the logout token: %w", err)
	}
	if typ == "logout+jwt" || rp.cfg.InsecureAllowUntypedLogoutTokens && (typ == "" || typ == "jwt") {
		return nil
	}
	return fmt.Errorf("typ: %.50q is not logout+jwt", typ)
}

// typeOf returns the typ in the header of a JWT, in lower case and without
// "application/", which may be left out (RFC 7515 section 4.1.9).
func typeOf(raw string) (string, error) {
	head, _, _ := strings.Cut(raw, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return "", err
	}
	var header struct {
		Type string `json:"typ"`
	}
	if err := json.Unmarshal(decoded, &header); err != nil {
		return "", err
	}
	return strings.TrimPrefix(strings.ToLower(header.Type), "application/"), nil
}

// logOut ends the sessions of a login, or all of a user's if sid is empty. A login
// that arrives later but was issued earlier is over too: see begin. why is what the
// provider says of the reason; empty: nothing.
func (rp *RelyingParty) logOut(ctx context.Context, sub, sid string, at time.Time, why string) error {
	entry := rp.subjectEntry(sub)
	if sid != "" {
		entry = rp.sidEntry(sid)
	}
	reason, text := toldReason(why)
	now := rp.now()
	until := now.Add(signInTime)
	if rp.cfg.InCookies {
		until = now.Add(longestLife) // who shows such a cookie may come at any time
	}
	if _, err := rp.store.Mark(ctx, entry, at.UTC(), until, now); err != nil {
		return rp.storeFailed(ctx, err)
	}
	ids, err := rp.sessions.Find(ctx, entry)
	if err != nil {
		return rp.storeFailed(ctx, err)
	}
	for _, id := range ids {
		h, err := rp.load(ctx, id)
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, seal.ErrNotOurs):
			continue
		case err != nil:
			return rp.storeFailed(ctx, err)
		case sub != "" && h.rec.Subject != sub, sid == "" && h.rec.Issued.After(at):
			continue
		}
		if err := rp.end(ctx, h, reason, text); err != nil {
			return err
		}
	}
	return nil
}
