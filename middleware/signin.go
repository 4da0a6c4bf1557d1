package middleware

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
	"github.com/curfew-oidc/curfew/policy"
)

// start sends the browser to the provider.
func (rp *RelyingParty) start(w http.ResponseWriter, r *http.Request, s signIn) {
	e, err := rp.upstream.discover(r.Context())
	if err != nil {
		rp.pages.unavailable(w, r, unavailable(err))
		return
	}
	s.Nonce, s.Verifier, s.Begun = seal.NewSecret(), oauth2.GenerateVerifier(), rp.now().UTC()
	state, err := rp.signIns.stateOf(s)
	if err != nil {
		rp.pages.broken(w, r, err)
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
	if err := rp.signIns.remember(w, r, state, s); err != nil {
		rp.pages.broken(w, r, err)
		return
	}
	redirect(w, e.oauth.AuthCodeURL(state, options...))
}

// signInPage begins a sign-in because somebody asked for it.
func (rp *RelyingParty) signInPage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Has("again") {
		var s signIn
		if plain, err := rp.signIns.sealer.Open("again", q.Get("again")); err != nil || json.Unmarshal(plain, &s) != nil {
			rp.pages.formLost(w, r)
			return
		}
		rp.start(w, r, s)
		return
	}
	rp.start(w, r, signIn{Return: rp.site.safeReturn(q.Get("return"))})
}

// againURL is the address that begins a sign-in again that did not succeed. A form
// that waits for it goes on waiting.
func (rp *RelyingParty) againURL(s signIn) string {
	if s.Parcel == "" {
		return rp.site.signInURL(s.Return)
	}
	plain, err := json.Marshal(signIn{Return: s.Return, Parcel: s.Parcel, Subject: s.Subject})
	if err != nil {
		return rp.site.signInURL("/")
	}
	text, err := rp.signIns.sealer.Seal("again", plain)
	if err != nil {
		return rp.site.signInURL("/")
	}
	return rp.site.base + "signin?again=" + text
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
		rp.pages.render(w, r, http.StatusServiceUnavailable, PageData{
			Kind: PageUnavailable, Title: "Please try again",
			Text: "Your sign-in could not be completed at the moment. Sign in again in a few seconds.", SignIn: rp.againURL(s),
		})
	case errors.As(err, &no) && no.over == errLost:
		rp.lostSignIn(w, r, no)
	case errors.As(err, &no):
		rp.refused(w, r, s, no)
	default:
		rp.pages.broken(w, r, err)
	}
}

// refused tells why a sign-in did not succeed. Somebody may be signed in all the same:
// then the page does not say otherwise, and one whose code was taken before is taken
// where it led.
func (rp *RelyingParty) refused(w http.ResponseWriter, r *http.Request, s signIn, no *refusal) {
	rp.events.event(r.Context(), Event{Type: EventSignInFailed, Err: no})
	_, err := rp.check(r)
	rp.cookies.sync(w, r)
	if err == nil && no.over == errSpent {
		redirect(w, s.Return)
		return
	}
	if err == nil && no.title == notSignedIn {
		no.title = "That sign-in did not succeed"
	}
	rp.pages.render(w, r, no.status, PageData{Kind: PageNotSignedIn, Title: no.title, Text: no.text, SignIn: rp.againURL(s)})
}

// lostSignIn answers an answer of the provider for a sign-in that this browser does not
// remember: it was finished before, others pushed it out, it took too long, or it was
// begun elsewhere. Its code is not looked at. Somebody who is signed in is taken where
// it led, as far as the state says, and to the start otherwise. For others a sign-in of
// ours begins again, once, which is no more than any link to a page of ours does.
func (rp *RelyingParty) lostSignIn(w http.ResponseWriter, r *http.Request, no *refusal) {
	q := r.URL.Query()
	s, ours := rp.signIns.fromState(q.Get("state"))
	h, err := rp.check(r)
	rp.cookies.sync(w, r)
	var out *SignedOutError
	switch {
	case err != nil && !errors.As(err, &out):
		rp.pages.unavailable(w, r, unavailable(err))
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
			return s, refuse(invalidText, "the parameter %s appears twice", name)
		}
	}
	known, name, ok := rp.signIns.recall(r, q.Get("state"))
	if !ok {
		return s, refuseLost("state: no sign-in of this browser has it")
	}
	s = known
	rp.jar.drop(w, name) // once
	now := rp.now()
	if now.Sub(s.Begun) > signInTime || now.Before(s.Begun.Add(-clockSkew)) {
		return s, refuseLost("the sign-in began at %s", s.Begun)
	}
	e, err := rp.upstream.discover(r.Context())
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
	rec, err := rp.upstream.redeem(r.Context(), e, q.Get("code"), s)
	if err != nil {
		return s, err
	}
	return s, rp.begin(w, r, rec, s)
}

// providerRefusal explains an error of the provider. Its text is not shown:
// anybody may have written this address.
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

// begin keeps the new session, under a new secret, and takes the one before away.
func (rp *RelyingParty) begin(w http.ResponseWriter, r *http.Request, rec record, s signIn) error {
	ctx := context.WithoutCancel(r.Context()) // the code is spent
	if s.Parcel != "" && s.Subject == rec.Subject {
		rec.Parcel = s.Parcel
	} else if s.Parcel != "" {
		_ = rp.sessions.shared.Delete(ctx, s.Parcel) // it expires anyway
		s.Notice = "What was typed before was not sent: somebody else had typed it."
	}
	if old, err := rp.cookies.find(r); err == nil {
		_ = rp.sessions.end(ctx, old, policy.ReasonLogout, "") // it is replaced; nothing leads to it any more
		rp.sessions.forget(ctx, old)
	}
	h, secret, err := rp.sessions.begin(ctx, rec)
	if err != nil {
		return err
	}
	// A logout that arrived while the code was exchanged has not found the
	// session yet, but left its mark.
	over, err := rp.sessions.loggedOut(ctx, &rec)
	if err != nil {
		return err
	}
	if over {
		if err := rp.sessions.end(ctx, h, ReasonLoggedOutElsewhere, sentence(ReasonLoggedOutElsewhere)); err != nil {
			return err
		}
		return refuse(sentence(ReasonLoggedOutElsewhere), "the provider has ended the login meanwhile")
	}
	if err := rp.cookies.set(w, r, h, secret); err != nil {
		return err
	}
	if s.Notice != "" {
		if err := rp.jar.setSealed(w, rp.jar.name+"-notice", notice{Text: s.Notice}, noticeTime); err != nil {
			return err
		}
	}
	if err := rp.jar.setSealed(w, rp.jar.name+"-tried", rp.now().UTC(), triedTime); err != nil {
		return err
	}
	rp.events.event(ctx, Event{Type: EventSignedIn, Subject: rec.Subject, SID: rec.SID})
	return nil
}

// tried reports whether a sign-in has just succeeded in this browser without
// anything coming of it.
func (rp *RelyingParty) tried(r *http.Request) bool {
	var at time.Time
	return rp.jar.sealed(r, rp.jar.name+"-tried", &at) && rp.now().Sub(at) < triedTime
}
