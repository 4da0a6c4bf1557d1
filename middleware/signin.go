package middleware

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
	"github.com/curfew-oidc/curfew/policy"
)

const (
	// maxReturn bounds the address that a sign-in comes back to: it has to fit into
	// a cookie. Of a longer one only the path is kept.
	maxReturn = 1500

	// maxStateReturn bounds it in the state parameter.
	maxStateReturn = 300

	// stateTime is for how long a sign-in whose cookie is gone begins again by
	// itself: a page to sign in at may stay open all day.
	stateTime = 24 * time.Hour
)

// safeReturn returns where on this site to go after a sign-in; the root for
// anything that a browser could take for another site, or that would lead to a
// page of ours and from there in circles.
func (rp *RelyingParty) safeReturn(address string) string {
	if len(address) > maxReturn {
		address, _, _ = strings.Cut(address, "?")
	}
	u, err := url.Parse(address)
	switch {
	case err != nil, u.Scheme != "", u.Host != "", u.User != nil, u.Opaque != "", u.Fragment != "":
	case len(address) > maxReturn, !strings.HasPrefix(address, "/"), strings.HasPrefix(address, "//"):
	case strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }):
	case strings.HasPrefix(u.Path, "//"), strings.HasPrefix(u.Path, "/\\"), rp.ours(u.Path):
	default:
		return address
	}
	return "/"
}

// here is the address of a request, to come back to.
func here(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") { // as it was sent, whatever was stripped since
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

// redirect sends a browser somewhere. Not [http.Redirect], which tidies paths up.
func redirect(w http.ResponseWriter, address string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Location", address)
	w.WriteHeader(http.StatusSeeOther)
}

// start sends the browser to the provider.
func (rp *RelyingParty) start(w http.ResponseWriter, r *http.Request, s signIn) {
	e, err := rp.discover(r.Context())
	if err != nil {
		rp.unavailable(w, r, unavailable(err))
		return
	}
	s.Nonce, s.Verifier, s.Begun = seal.NewSecret(), oauth2.GenerateVerifier(), rp.now().UTC()
	state, err := rp.stateOf(s)
	if err != nil {
		rp.broken(w, r, err)
		return
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(s.Nonce), oauth2.S256ChallengeOption(s.Verifier)}
	for name, values := range rp.cfg.AuthParams {
		for _, value := range values {
			options = append(options, oauth2.SetAuthURLParam(name, value))
		}
	}
	if rp.cfg.MaxAge != nil && s.MaxAge == nil {
		age := rp.cfg.MaxAge.Seconds()
		s.MaxAge = &age
	}
	if s.MaxAge != nil {
		options = append(options, oauth2.SetAuthURLParam("max_age", strconv.Itoa(int(*s.MaxAge))))
	}
	if err := rp.remember(w, r, state, s); err != nil {
		rp.broken(w, r, err)
		return
	}
	redirect(w, e.oauth.AuthCodeURL(state, options...))
}

// stateOf returns the state parameter of a sign-in. It says, sealed, where the sign-in
// leads, for a browser that has lost the cookie: nobody but us can have written it, and
// no two are the same.
func (rp *RelyingParty) stateOf(s signIn) (string, error) {
	s = signIn{Return: s.Return, Begun: s.Begun, Parcel: s.Parcel, Subject: s.Subject, Again: s.Again}
	if len(s.Return) > maxStateReturn {
		s.Return, _, _ = strings.Cut(s.Return, "?")
	}
	if len(s.Return) > maxStateReturn {
		s.Return = "/"
	}
	plain, err := plainJSON(s)
	if err != nil {
		return "", err
	}
	return rp.sealer.Seal("state", plain)
}

// fromState returns what a state parameter says; ok is false if it is none of ours, or
// too old.
func (rp *RelyingParty) fromState(state string) (s signIn, ok bool) {
	plain, err := rp.sealer.Open("state", state)
	if err != nil || json.Unmarshal(plain, &s) != nil {
		return signIn{Return: "/"}, false
	}
	if age := rp.now().Sub(s.Begun); age > stateTime || age < -clockSkew {
		return signIn{Return: "/"}, false
	}
	return s, true
}

// signInPage begins a sign-in because somebody asked for it.
func (rp *RelyingParty) signInPage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Has("again") {
		var s signIn
		if plain, err := rp.sealer.Open("again", q.Get("again")); err != nil || json.Unmarshal(plain, &s) != nil {
			rp.formLost(w, r)
			return
		}
		rp.start(w, r, s)
		return
	}
	rp.start(w, r, signIn{Return: rp.safeReturn(q.Get("return"))})
}

// againURL is the address that begins a sign-in again that did not succeed. A form
// that waits for it goes on waiting.
func (rp *RelyingParty) againURL(s signIn) string {
	if s.Parcel == "" {
		return rp.signInURL(s.Return)
	}
	plain, err := json.Marshal(signIn{Return: s.Return, Parcel: s.Parcel, Subject: s.Subject})
	if err != nil {
		return rp.signInURL("/")
	}
	text, err := rp.sealer.Seal("again", plain)
	if err != nil {
		return rp.signInURL("/")
	}
	return rp.base + "signin?again=" + text
}

// A refusal is why a sign-in did not succeed: a title and a text for the user, and
// a cause for the log.
type refusal struct {
	status      int
	title, text string
	cause       error
	over        error // errLost or errSpent, if it may have succeeded before; or nil
}

var (
	errLost  = errors.New("the browser does not remember the sign-in")
	errSpent = errors.New("the code was refused")
)

func (e *refusal) Error() string { return e.cause.Error() }
func (e *refusal) Unwrap() error { return e.cause }

const notSignedIn = "You are not signed in"

func refuse(text, format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, title: notSignedIn, text: text, cause: fmt.Errorf(format, args...)}
}

func refuseLost(format string, args ...any) *refusal {
	no := refuse(lostText, format, args...)
	no.over = errLost
	return no
}

const (
	lostText    = "This sign-in is not known in this browser: it took too long, it was finished before, or it was begun elsewhere. Please begin again."
	invalidText = "The provider's answer was not valid, so it was not accepted. Please try again."
)

// callbackPage is where the provider sends the browser back to.
func (rp *RelyingParty) callbackPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Referrer-Policy", "no-referrer") // the code is in the address
	s, err := rp.finish(w, r)
	var no *refusal
	switch {
	case err == nil:
		redirect(w, s.Return)
	case errors.Is(err, ErrUnavailable):
		// The code is spent: to load the page again would not help.
		w.Header().Set("Retry-After", retryAfterHeader(unavailable(err).RetryAfter))
		rp.render(w, r, http.StatusServiceUnavailable, PageData{
			Kind: PageUnavailable, Title: "Please try again",
			Text: "Your sign-in could not be completed at the moment. Sign in again in a few seconds.", SignIn: rp.againURL(s),
		})
	case errors.As(err, &no) && no.over == errLost:
		rp.lostSignIn(w, r, no)
	case errors.As(err, &no):
		rp.refused(w, r, s, no)
	default:
		rp.broken(w, r, err)
	}
}

// refused tells why a sign-in did not succeed. Somebody may be signed in all the same:
// then the page does not say otherwise, and one whose code was taken before is taken
// where it led.
func (rp *RelyingParty) refused(w http.ResponseWriter, r *http.Request, s signIn, no *refusal) {
	rp.event(r.Context(), Event{Type: EventSignInFailed, Err: no})
	_, err := rp.check(r)
	rp.sync(w, r)
	if err == nil && no.over == errSpent {
		redirect(w, s.Return)
		return
	}
	if err == nil && no.title == notSignedIn {
		no.title = "That sign-in did not succeed"
	}
	rp.render(w, r, no.status, PageData{Kind: PageNotSignedIn, Title: no.title, Text: no.text, SignIn: rp.againURL(s)})
}

// lostSignIn answers an answer of the provider for a sign-in that this browser does not
// remember: it was finished before, others pushed it out, it took too long, or it was
// begun elsewhere. Its code is not looked at. Somebody who is signed in is taken where
// it led, as far as the state says, and to the start otherwise. For others a sign-in of
// ours begins again, once, which is no more than any link to a page of ours does.
func (rp *RelyingParty) lostSignIn(w http.ResponseWriter, r *http.Request, no *refusal) {
	q := r.URL.Query()
	s, ours := rp.fromState(q.Get("state"))
	h, err := rp.check(r)
	rp.sync(w, r)
	var out *SignedOutError
	switch {
	case err != nil && !errors.As(err, &out):
		rp.unavailable(w, r, unavailable(err))
	case err == nil && (s.Parcel == "" || s.Parcel == h.rec.Parcel || s.Again):
		redirect(w, s.Return)
	case ours && !s.Again && !q.Has("error"):
		s.Again = true
		rp.start(w, r, s)
	default:
		rp.refused(w, r, s, no)
	}
}

// finish makes a session of the provider's answer.
func (rp *RelyingParty) finish(w http.ResponseWriter, r *http.Request) (s signIn, err error) {
	s.Return = "/"
	q := r.URL.Query()
	for _, name := range []string{"state", "code", "iss", "error", "error_description"} {
		if len(q[name]) > 1 {
			return s, refuse(invalidText, "the parameter %s is there twice", name)
		}
	}
	known, name, ok := rp.recall(r, q.Get("state"))
	if !ok {
		return s, refuseLost("state: no sign-in of this browser has it")
	}
	s = known
	rp.dropCookie(w, name) // once
	now := rp.now()
	if now.Sub(s.Begun) > signInTime || now.Before(s.Begun.Add(-clockSkew)) {
		return s, refuseLost("the sign-in began at %s", s.Begun)
	}
	e, err := rp.discover(r.Context())
	if err != nil {
		return s, err
	}
	// RFC 9207: the answer is of the provider that was asked.
	if iss := q.Get("iss"); iss != "" && iss != rp.cfg.Issuer || iss == "" && e.sendsIss {
		return s, refuse(invalidText, "iss: %.200q is not the provider", iss)
	}
	if code := q.Get("error"); code != "" {
		return s, providerRefusal(code, q.Get("error_description"))
	}
	if q.Get("code") == "" {
		return s, refuse(invalidText, "the answer has neither code nor error")
	}
	rec, err := rp.redeem(r.Context(), e, q.Get("code"), s)
	if err != nil {
		return s, err
	}
	return s, rp.begin(w, r, rec, s)
}

// providerRefusal explains an error of the provider. Its text is not shown: who
// knows who wrote this address.
func providerRefusal(code, description string) *refusal {
	text := "The provider did not sign you in. Please try again."
	switch {
	case code == "access_denied" && strings.HasPrefix(description, string(policy.ReasonConcurrency)+":"):
		text = "You are signed in as often as your organization allows. Sign out somewhere else, and then try again."
	case code == "access_denied":
		text = "The sign-in was cancelled or refused."
	case code == "temporarily_unavailable" || code == "server_error":
		text = "The provider cannot sign anybody in at the moment. Please try again in a little while."
	}
	no := refuse(text, "the provider answered %.100q %.200q", code, description)
	no.status = http.StatusForbidden
	return no
}

// redeem exchanges the code and checks what comes for it.
func (rp *RelyingParty) redeem(ctx context.Context, e *endpoints, code string, s signIn) (record, error) {
	ctx, cancel := rp.context(ctx)
	defer cancel()
	asked := rp.now().UTC()
	token, err := e.oauth.Exchange(ctx, code, oauth2.VerifierOption(s.Verifier))
	if err != nil {
		err = tokenError(err)
		var out *SignedOutError
		if errors.As(err, &out) {
			no := refuse("The provider took its answer back, perhaps because it came too late. Please try again.", "the code: %w", err)
			no.over = errSpent
			return record{}, no
		}
		return record{}, rp.noAnswer(ctx, err)
	}
	t, err := e.identify(ctx, token)
	switch {
	case errors.Is(err, ErrUnavailable):
		return record{}, rp.noAnswer(ctx, err)
	case err != nil:
		return record{}, refuse(invalidText, "%w", err)
	case t == nil:
		return record{}, refuse(invalidText, "there is no ID token")
	case t.Nonce != s.Nonce:
		return record{}, refuse(invalidText, "nonce: the ID token is of another sign-in")
	case t.IssuedAt.After(asked.Add(clockSkew)), t.IssuedAt.Before(s.Begun.Add(-clockSkew)):
		return record{}, refuse(invalidText, "iat: the ID token is of %s", t.IssuedAt)
	}
	if err := checkAge(t, s, asked); err != nil {
		return record{}, err
	}
	rec := record{
		Format: recordFormat, Subject: t.Subject, SID: t.sid, IDToken: t.raw, Nonce: t.Nonce,
		AuthTime: t.authTime, Issued: t.IssuedAt.UTC(), SignedIn: asked, SessionExpiry: t.sessionExpiry,
	}
	rec.take(token, asked, rp.cfg.RefreshAfter)
	switch {
	case rp.cfg.Lifetime > 0:
		rec.LocalEnds = asked.Add(rp.cfg.Lifetime)
	case rec.ends().IsZero() && rec.Refresh == "":
		rec.LocalEnds = asked.Add(unboundedLife)
	}
	if rp.cfg.InCookies { // not longer than it would be remembered that it is over
		rec.LocalEnds = earliest(rec.LocalEnds, asked.Add(longestLife))
	}
	// RFC 9700 section 4.14: a session that is over before it began would only
	// lead to sign-in and back, for ever.
	if passed(rec.ends(), rp.now()) {
		return record{}, refuse("The sign-in that the provider told of is over already. Sign out there, and then try again.", "the session ended at %s", rec.ends())
	}
	return rec, nil
}

// checkAge compares auth_time with the max_age that was asked for (OpenID Connect
// Core 1.0 section 3.1.3.7), 0 included. Both the time of the authentication and
// iat are the provider's, so that its clock does not matter: between them there
// must be no more than max_age and what passed since the sign-in began.
func checkAge(t *idToken, s signIn, now time.Time) error {
	if s.MaxAge == nil {
		return nil
	}
	allowed := time.Duration(*s.MaxAge*float64(time.Second)) + now.Sub(s.Begun) + time.Second // both are whole seconds
	switch {
	case t.authTime.IsZero():
		return refuse("The provider did not say when you signed in there, which this application has to know.", "auth_time is missing")
	case t.IssuedAt.Sub(t.authTime) > allowed:
		return refuse(sentence(ReasonTooOld), "auth_time: %s is too long ago for max_age", t.authTime)
	}
	return nil
}

// begin keeps the new session, under a new secret, and takes the one before away.
func (rp *RelyingParty) begin(w http.ResponseWriter, r *http.Request, rec record, s signIn) error {
	ctx := context.WithoutCancel(r.Context()) // the code is spent
	if s.Parcel != "" && s.Subject == rec.Subject {
		rec.Parcel = s.Parcel
	} else if s.Parcel != "" {
		_ = rp.store.Delete(ctx, s.Parcel) // it expires anyway
		s.Notice = "What was typed before was not sent: somebody else had typed it."
	}
	if old, err := rp.find(r); err == nil {
		_ = rp.end(ctx, old, policy.ReasonLogout, "") // it is replaced; nothing leads to it any more
		if !rp.cfg.InCookies {
			_ = rp.store.Delete(ctx, old.id)
		}
	}
	secret := seal.NewSecret()
	h := &held{id: sessionID(secret), version: 1, rec: rec}
	stored, err := rp.stored(h)
	if err != nil {
		return err
	}
	if err := rp.sessions.Create(ctx, rp.now(), stored); err != nil {
		return rp.storeFailed(ctx, err)
	}
	if err := rp.know(ctx, rec.SID); err != nil {
		return err
	}
	// A logout that arrived while the code was exchanged has not found the
	// session yet, but left its mark.
	at, err := rp.loggedOut(ctx, rec.Subject, rec.SID)
	if err != nil {
		return rp.storeFailed(ctx, err)
	}
	if !at.IsZero() && !at.Before(rec.Issued) {
		if err := rp.end(ctx, h, ReasonLoggedOutElsewhere, sentence(ReasonLoggedOutElsewhere)); err != nil {
			return err
		}
		return refuse(sentence(ReasonLoggedOutElsewhere), "the provider has ended the login meanwhile")
	}
	if rp.cfg.InCookies {
		if err := rp.setSession(w, r, h); err != nil {
			return err
		}
	} else {
		rp.setCookie(w, rp.cookie, secret, 0)
	}
	if s.Notice != "" {
		if err := rp.setSealed(w, rp.cookie+"-notice", notice{Text: s.Notice}, noticeTime); err != nil {
			return err
		}
	}
	if err := rp.setSealed(w, rp.cookie+"-tried", rp.now().UTC(), triedTime); err != nil {
		return err
	}
	rp.event(ctx, Event{Type: EventSignedIn, Subject: rec.Subject, SID: rec.SID})
	return nil
}

// signInURL is the address that begins a sign-in.
func (rp *RelyingParty) signInURL(to string) string {
	return rp.base + "signin?return=" + url.QueryEscape(rp.safeReturn(to))
}

// tried reports whether a sign-in has just succeeded in this browser without
// anything coming of it.
func (rp *RelyingParty) tried(r *http.Request) bool {
	var at time.Time
	return rp.sealed(r, rp.cookie+"-tried", &at) && rp.now().Sub(at) < triedTime
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	body, err := json.Marshal(v)
	if err != nil { // none of our own values does that
		status, body = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that went away is not an error here
}
