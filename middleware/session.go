package middleware

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/policy"
)

// A Session is one user who is signed in here.
type Session struct {
	Issuer  string
	Subject string // the user's sub
	SID     string // the provider's ID of the login; empty if it gives none

	AuthTime  time.Time // when the user entered credentials; zero: the provider does not say
	SignedIn  time.Time // here
	Refreshed time.Time // when the provider was last asked

	// Ends is when the session ends whatever the user does, Idle when it ends if
	// the user does nothing. Zero: the provider does not say.
	Ends, Idle time.Time

	claims []byte
	access string
	now    time.Time
}

// AccessToken returns the access token, for calls to APIs in the name of the
// user. A resource server may still refuse it; that does not mean that the session is over.
func (s *Session) AccessToken() string { return s.access }

// Claims decodes the claims of the latest ID token into v.
func (s *Session) Claims(v any) error { return json.Unmarshal(s.claims, v) }

// Remaining returns how long the session lasts if the user does nothing. ok is
// false if the provider does not say.
func (s *Session) Remaining() (d time.Duration, ok bool) {
	end := earliest(s.Ends, s.Idle)
	return max(0, end.Sub(s.now)), !end.IsZero()
}

// LogValue keeps tokens and claims out of logs.
func (s *Session) LogValue() slog.Value {
	return slog.GroupValue(slog.String("sub", s.Subject), slog.String("sid", s.SID))
}

// Format keeps tokens and claims out of texts, whatever the verb.
func (s *Session) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "session{sub: %q, sid: %q}", s.Subject, s.SID)
}

type contextKey int

const (
	sessionKey contextKey = iota
	noticeKey
	checkedKey // that the session was good, rather than could not be checked
)

// SessionFrom returns the session of a request that came through
// [RelyingParty.Handler], or nil if nobody is signed in.
func SessionFrom(ctx context.Context) *Session {
	s, _ := ctx.Value(sessionKey).(*Session)
	return s
}

// Notice returns a sentence that the page should show the user once, such as "You
// were signed out after 2 hours without activity." Empty: there is no message.
func Notice(ctx context.Context) string {
	n, _ := ctx.Value(noticeKey).(string)
	return n
}

// [RelyingParty.Check] returns one of these errors, wrapped.
var (
	// ErrSignedOut: nobody is signed in. A [SignedOutError] says why.
	ErrSignedOut = errors.New("nobody is signed in")

	// ErrUnavailable: the provider or the store did not answer. This signs nobody out; the same
	// request may succeed a little later.
	ErrUnavailable = errors.New("the login session cannot be checked at the moment")
)

// A SignedOutError says why nobody is signed in.
type SignedOutError struct {
	Reason Reason
	Text   string // for the user; empty if the user has not signed in before
}

func (e *SignedOutError) Error() string { return ErrSignedOut.Error() + ": " + string(e.Reason) }
func (e *SignedOutError) Unwrap() error { return ErrSignedOut }

// An UnavailableError says what did not answer.
type UnavailableError struct {
	RetryAfter time.Duration // when to try again
	Err        error         // for the log, not for users
}

func (e *UnavailableError) Error() string   { return ErrUnavailable.Error() + ": " + e.Err.Error() }
func (e *UnavailableError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }

// retryAfter is when to come back after a 503, if nobody says when: long enough
// not to hammer a provider that comes back, short enough for a person who waits.
const retryAfter = 2 * time.Second

func unavailable(err error) *UnavailableError {
	var u *UnavailableError
	if errors.As(err, &u) {
		return u
	}
	return &UnavailableError{RetryAfter: retryAfter, Err: briefError{err}}
}

// A briefError says the beginning of what another one does: some libraries repeat all
// that a provider answered.
type briefError struct{ err error }

func (e briefError) Error() string { return fmt.Sprintf("%.300s", e.err.Error()) }
func (e briefError) Unwrap() error { return e.err }

// A record is a session as it is kept, sealed.
type record struct {
	Format  int    `json:"v"`
	Subject string `json:"sub"`
	SID     string `json:"sid,omitempty"`

	IDToken string `json:"id_token,omitempty"` // the latest; also for id_token_hint
	Access  string `json:"access,omitempty"`
	Refresh string `json:"refresh,omitempty"`

	Nonce    string    `json:"nonce,omitempty"`
	AuthTime time.Time `json:"auth_time,omitzero"`
	Issued   time.Time `json:"issued"` // iat of the first ID token: the provider's clock
	SignedIn time.Time `json:"signed_in"`

	Refreshed         time.Time     `json:"refreshed"`
	RefreshAt         time.Time     `json:"refresh_at,omitzero"`
	AccessEnds        time.Time     `json:"access_ends,omitzero"`
	IdleEnds          time.Time     `json:"idle_ends,omitzero"` // refresh_token_timeout
	IdleWindow        time.Duration `json:"idle_window,omitzero"`
	AuthorizationEnds time.Time     `json:"authorization_ends,omitzero"` // authorization_expires_in
	SessionExpiry     time.Time     `json:"session_expiry,omitzero"`
	LocalEnds         time.Time     `json:"local_ends,omitzero"` // Config.Lifetime

	// The process that refreshes it, and until when no other does.
	LeaseBy    string    `json:"lease_by,omitempty"`
	LeaseUntil time.Time `json:"lease_until,omitzero"`

	Parcel string `json:"parcel,omitempty"` // the form to send again

	// The end, if it has ended. Then it has no tokens.
	Reason  Reason    `json:"reason,omitempty"`
	Text    string    `json:"text,omitempty"`
	EndedAt time.Time `json:"ended_at,omitzero"`
}

const recordFormat = 1

// A standing is how a session stands at some time.
type standing int

const (
	over  standing = iota // nobody is signed in
	must                  // only the provider can say whether it goes on
	due                   // good, and to be refreshed on the occasion
	fresh                 // good
)

func passed(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// stands judges without asking anybody. With a refresh token the provider has the
// last word: another application may have kept the login alive, and if it has
// ended the provider says why.
func (rec *record) stands(now time.Time) standing {
	limits := passed(rec.SessionExpiry, now) || passed(rec.AuthorizationEnds, now)
	switch {
	case !rec.EndedAt.IsZero(), passed(rec.LocalEnds, now):
		return over
	case rec.Refresh == "" && limits:
		return over
	case rec.Refresh == "":
		return fresh
	case limits, passed(rec.IdleEnds, now), passed(rec.AccessEnds, now):
		return must
	case passed(rec.RefreshAt, now):
		return due
	}
	return fresh
}

// asksBy is from when on only the provider can say whether the login goes on; zero:
// it cannot be asked.
func (rec *record) asksBy() time.Time {
	switch {
	case rec.Refresh == "":
		return time.Time{}
	case rec.AccessEnds.IsZero():
		return rec.Refreshed.Add(unknownLife)
	}
	return rec.AccessEnds
}

// ends is when the session ends whatever the user does; zero: not known.
func (rec *record) ends() time.Time {
	return earliest(rec.LocalEnds, rec.SessionExpiry, rec.AuthorizationEnds)
}

// earliest returns the first of the times that are known.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// lapsed returns why a session that nobody ended is over.
func (rec *record) lapsed(now time.Time) (Reason, string) {
	if end := rec.ends(); passed(end, now) {
		// The provider counts from when the user authenticated, which may be long
		// before they came here.
		begin := rec.SignedIn
		if !rec.AuthTime.IsZero() && !end.Equal(rec.LocalEnds) {
			begin = rec.AuthTime
		}
		return policy.ReasonActiveLimit, policy.ReasonActiveLimit.Info().SentenceOf(end.Sub(begin))
	}
	if passed(rec.IdleEnds, now) {
		return policy.ReasonInactivity, policy.ReasonInactivity.Info().SentenceOf(rec.IdleWindow)
	}
	return ReasonEnded, sentence(ReasonEnded)
}

// end makes the record one of a session that is over.
func (rec *record) end(now time.Time, reason Reason, text string) {
	*rec = record{
		Format: recordFormat, Subject: rec.Subject, SID: rec.SID, Issued: rec.Issued, SignedIn: rec.SignedIn,
		Parcel: rec.Parcel, Reason: reason, Text: text, EndedAt: now,
	}
}

// take puts the tokens of a token response into the record. asked is when it was
// asked for: what the response says about times counts from then at the earliest.
func (rec *record) take(token *oauth2.Token, asked time.Time, refreshAfter time.Duration) {
	rec.Access, rec.Refreshed = token.AccessToken, asked
	if token.RefreshToken != "" {
		rec.Refresh = token.RefreshToken
	}
	life := time.Duration(max(0, token.ExpiresIn)) * time.Second // 0: it does not say
	rec.AccessEnds = time.Time{}
	if life > 0 {
		rec.AccessEnds = asked.Add(life)
	}
	// draft-ietf-oauth-refresh-token-expiration-03 section 6.1.2: what this
	// response does not say is not known.
	rec.IdleEnds, rec.AuthorizationEnds, rec.IdleWindow = time.Time{}, time.Time{}, 0
	if window, ok := seconds(token.Extra("refresh_token_timeout")); ok {
		rec.IdleEnds, rec.IdleWindow = asked.Add(window), window
	}
	if left, ok := seconds(token.Extra("authorization_expires_in")); ok {
		rec.AuthorizationEnds = asked.Add(left)
	}

	wait := refreshAfter
	switch {
	case wait > 0:
	case rec.IdleWindow > 0:
		wait = rec.IdleWindow / 12
	case life == 0:
		wait = unknownLife
	}
	if life > 0 {
		if nearEnd := life - min(life/5, time.Minute); wait == 0 || nearEnd < wait {
			wait = nearEnd
		}
	}
	rec.RefreshAt = asked.Add(wait)
}

// unknownLife is how long an access token is taken to live if the provider does
// not say.
const unknownLife = 5 * time.Minute

// seconds reads a number of a token response; ok is false if it is not a number.
func seconds(v any) (d time.Duration, ok bool) {
	var f float64
	switch v := v.(type) {
	case float64:
		f = v
	case string: // some providers quote it
		var err error
		if f, err = strconv.ParseFloat(v, 64); err != nil {
			return 0, false
		}
	default:
		return 0, false
	}
	const farAway = 100 * 365 * 24 * time.Hour // what a Duration holds, and a limit to nobody
	switch {
	case !(f >= 0): // NaN too
		return 0, false
	case f >= farAway.Seconds():
		return farAway, true
	}
	return time.Duration(f * float64(time.Second)), true
}

// errUnasked is why a background request is not answered once the access token has
// ended: whether the login goes on only the provider can say, and to ask it would be
// activity.
var errUnasked = errors.New("the access token has expired, and a request in the background asks for no other")

// unasked judges a session for a request that does not ask the provider: only for as
// long as the access token is good, since a login may have ended at the provider
// without a word to us.
func (rec *record) unasked(now time.Time) error {
	if err := rec.asItIs(now); err != nil {
		return err
	}
	if passed(rec.asksBy(), now) {
		return unavailable(errUnasked)
	}
	return nil
}

// asItIs judges a session by what is known of it.
func (rec *record) asItIs(now time.Time) error {
	if !rec.EndedAt.IsZero() {
		return &SignedOutError{Reason: rec.Reason, Text: rec.Text}
	}
	if passed(earliest(rec.ends(), rec.IdleEnds), now) {
		reason, text := rec.lapsed(now)
		return &SignedOutError{Reason: reason, Text: text}
	}
	return nil
}
