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

// logouts end sessions because the provider says so.
type logouts struct {
	issuer   string
	sessions *sessions
	upstream *upstream
	events   *teller
	now      func() time.Time

	allowsUntyped bool // Config.InsecureAllowUntypedLogoutTokens
	strangers     strangers
}

// backChannelPage takes logout tokens (OpenID Connect Back-Channel Logout 1.0).
func (l *logouts) backChannelPage(w http.ResponseWriter, r *http.Request) {
	err := l.backChannel(w, r)
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
		l.events.event(r.Context(), Event{Type: EventLogoutRefused, Err: err})
		writeJSON(w, http.StatusBadRequest, map[string]string{
			"error": "invalid_request", "error_description": "the logout token is not valid",
		})
	}
}

func (l *logouts) backChannel(w http.ResponseWriter, r *http.Request) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/x-www-form-urlencoded" {
		return errors.New("the request is not a form")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxLogoutRequest)
	if err := r.ParseForm(); err != nil {
		return fmt.Errorf("the form: %w", err)
	}
	if len(r.PostForm["logout_token"]) != 1 {
		return errors.New("the form must have one logout_token")
	}
	ctx, cancel := l.upstream.context(r.Context())
	defer cancel()
	t, why, err := l.verifyLogout(ctx, r.PostForm.Get("logout_token"))
	if err != nil {
		return err
	}
	// The jti counts as used when the logout is done. A token that comes twice at
	// the same time does the same twice.
	used := seal.Digest("jti", l.sessions.app, t.TokenID)
	at, err := l.sessions.shared.Marked(ctx, used)
	if err != nil {
		return l.events.storeFailed(ctx, err)
	}
	if !at.IsZero() {
		return errors.New("jti: this logout token was used before")
	}
	if err := l.logOut(ctx, t.Subject, t.SessionID, t.IssuedAt, why); err != nil {
		return err
	}
	now := l.now()
	if _, err := l.sessions.shared.Mark(ctx, used, now, t.Expiry.Add(time.Second), now); err != nil {
		return l.events.storeFailed(ctx, err)
	}
	l.events.event(ctx, Event{Type: EventLogoutReceived, Subject: t.Subject, SID: t.SessionID})
	return nil
}

// verifyLogout makes the checks of section 2.6. The signature, its algorithm, iss,
// aud, exp, jti, sub or sid and the absence of a nonce are the library's. It also
// returns why the login ended, which a provider with Curfew says.
func (l *logouts) verifyLogout(ctx context.Context, raw string) (_ *oidc.LogoutToken, why string, _ error) {
	e, err := l.upstream.discover(ctx)
	if err != nil {
		return nil, "", err
	}
	t, err := verify(ctx, raw, e.verifier.VerifyLogout)
	if errors.Is(err, ErrUnavailable) {
		return nil, "", l.events.unavailable(ctx, err)
	}
	if err != nil {
		return nil, "", err
	}
	if err := l.checkType(raw); err != nil {
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
	now := l.now()
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
func (l *logouts) checkType(raw string) error {
	typ, err := typeOf(raw)
	if err != nil {
		return fmt.Errorf("the header of the logout token: %w", err)
	}
	if typ == "logout+jwt" || l.allowsUntyped && (typ == "" || typ == "jwt") {
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
func (l *logouts) logOut(ctx context.Context, sub, sid string, at time.Time, why string) error {
	entry := l.sessions.subjectEntry(sub)
	if sid != "" {
		entry = l.sessions.sidEntry(sid)
	}
	reason, text := toldReason(why)
	now := l.now()
	until := now.Add(signInTime)
	if l.sessions.inCookies() {
		until = now.Add(longestLife) // a copy of such a cookie may be shown at any time
	}
	if _, err := l.sessions.shared.Mark(ctx, entry, at.UTC(), until, now); err != nil {
		return l.events.storeFailed(ctx, err)
	}
	ids, err := l.sessions.kept.Find(ctx, entry)
	if err != nil {
		return l.events.storeFailed(ctx, err)
	}
	for _, id := range ids {
		h, err := l.sessions.load(ctx, id)
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, seal.ErrNotOurs):
			continue
		case err != nil:
			return l.events.storeFailed(ctx, err)
		case sub != "" && h.rec.Subject != sub, sid == "" && h.rec.Issued.After(at):
			continue
		}
		if err := l.sessions.end(ctx, h, reason, text); err != nil {
			return err
		}
	}
	return nil
}
