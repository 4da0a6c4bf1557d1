package provider

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/browser"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// browserOf returns the state of a request; nil where there are no cookies:
// they are switched off, or the call did not come by HTTP.
func (h *cookies) browserOf(req *request) *browser.Cookies {
	if h.cfg.NoBrowserSession || req == nil || req.http == nil {
		return nil
	}
	if req.browser == nil {
		req.browser = &browser.Cookies{Held: req.http.Cookies()}
	}
	return req.browser
}

// setCookies adds the cookies to the headers of a response.
func (req *request) setCookies(h http.Header) {
	if req.browser == nil {
		return
	}
	for _, c := range req.browser.Sent {
		h.Add("Set-Cookie", c.String())
	}
}

// bind sets the binding of a new auth request. asked is what the application
// asked for, and hint the user whom its id_token_hint names; empty: none.
func (c *signingIn) bind(ctx context.Context, asked *oidc.AuthRequest, hint, id string) {
	h := c.h
	state := h.browserOf(h.requestFrom(ctx))
	if state == nil {
		return
	}
	issuer := op.IssuerFromContext(ctx)
	b := browser.Binding{Request: id, Made: h.now(), MaxAge: -1, Silent: slices.Contains(asked.Prompt, oidc.PromptNone)}
	if asked.MaxAge != nil {
		b.MaxAge = int64(min(uint64(*asked.MaxAge), math.MaxInt64))
	}
	if slices.Contains(asked.Prompt, oidc.PromptLogin) {
		b.MaxAge = 0
	}
	if hint != "" {
		b.Hint = browser.HintMark(store.Subject{Issuer: issuer, ID: hint})
	}
	h.browsers.Bind(state, issuer, b)
}

// boundBrowser reports whether a request comes from the browser that started the
// auth request, and returns what it keeps of it. What cannot be opened is no
// binding.
func (h *cookies) boundBrowser(ctx context.Context, req *request, authRequestID string) (browser.Binding, bool) {
	state := h.browserOf(req)
	if state == nil {
		return browser.Binding{}, false
	}
	return h.browsers.Binding(state.Held, op.IssuerFromContext(ctx), authRequestID)
}

// StartedHere reports whether r comes from the browser that started the auth
// request with the given ID. A page to sign in at should refuse other ones: the
// address of the page was sent to somebody, and whoever sent it waits for the
// answer. It is false where the browser keeps no cookies, after a day, and with
// [Config.NoBrowserSession].
func (h *Hook) StartedHere(r *http.Request, issuer, authRequestID string) bool {
	if h.cfg.NoBrowserSession {
		return false
	}
	_, ok := h.browsers.Binding(r.Cookies(), issuer, authRequestID)
	return ok
}

// cookieSession returns the session of the browser's session cookie, as it is
// now. If there is none the error wraps store.ErrNotFound.
func (h *cookies) cookieSession(ctx context.Context, cookies []*http.Cookie, issuer string) (store.Session, error) {
	s, _, err := h.shownSession(ctx, cookies, issuer)
	if err != nil {
		return store.Session{}, err
	}
	return h.asOfNow(ctx, s)
}

// shownSession returns the session of the browser's session cookie, as it is stored, and
// the hash of the secret. If there is none the error wraps store.ErrNotFound.
func (h *cookies) shownSession(ctx context.Context, cookies []*http.Cookie, issuer string) (store.Session, []byte, error) {
	name := browser.NamesOf(issuer).Session
	i := slices.IndexFunc(cookies, func(c *http.Cookie) bool { return c.Name == name })
	if i < 0 {
		return store.Session{}, nil, errNoBrowserSession
	}
	held, ok := browser.ParseSecret(cookies[i].Value)
	if !ok {
		return store.Session{}, nil, errNoBrowserSession
	}
	s, err := h.get(ctx, held.SID)
	if err != nil {
		return store.Session{}, nil, err
	}
	hash := held.Hash()
	if s.Subject.Issuer != issuer || !session.Holds(&s, hash) {
		return store.Session{}, nil, errNoBrowserSession
	}
	return s, hash, nil
}

var errNoBrowserSession = fmt.Errorf("no session of this browser: %w", store.ErrNotFound)

// browserSession returns the session of this browser's cookie, as it is now, and
// whether it is live. One that has ended is returned with its reason; the zero
// Session if there is none.
func (h *cookies) browserSession(ctx context.Context, req *request) (store.Session, bool, error) {
	state := h.browserOf(req)
	if state == nil {
		return store.Session{}, false, nil
	}
	s, err := h.cookieSession(ctx, state.Held, op.IssuerFromContext(ctx))
	if errors.Is(err, store.ErrNotFound) {
		return store.Session{}, false, nil
	}
	return s, err == nil && s.End == nil, err
}

// BrowserSession returns the live session of the browser that r comes from, for
// the provider's own pages: a sign-on may answer an auth request of the same
// browser (see [Hook.StartedHere]) with its Subject, Authenticated, AMR and ACR.
// It slides nothing.
//
// If there is none the error wraps [store.ErrNotFound]. If there was one and it
// is over, that one is returned with the error, so that the page can say why:
// see [Describe]. Any other error means that nobody can say whether there is
// one. With [Config.NoBrowserSession] there is none.
func (h *Hook) BrowserSession(r *http.Request, issuer string) (store.Session, error) {
	if h.cfg.NoBrowserSession {
		return store.Session{}, errNoBrowserSession
	}
	s, err := h.cookieSession(r.Context(), r.Cookies(), issuer)
	if err == nil && s.End != nil {
		err = fmt.Errorf("the session of this browser has ended (%s): %w", s.End.Reason, store.ErrNotFound)
	}
	return s, err
}

// keep sets the session cookie if the session took its secret, and lets the
// binding go once the code is late: until then the callback may be loaded again. That
// of prompt=none has gone with its answer.
func (h *cookies) keep(ctx context.Context, req *request, s *store.Session, b *returned) {
	if session.Holds(s, b.secret.Hash()) { // else another one has replaced it since
		req.browser.Set(b.secret.Cookie(s))
	}
	if !b.binding.Silent {
		h.browsers.Answered(req.browser, op.IssuerFromContext(ctx), b.binding, h.cfg.CodeLifetime)
	}
}

// A returned is a browser that comes back to the callback with a login that it began.
type returned struct {
	binding browser.Binding
	secret  *browser.Secret // for its session cookie
}

// fromBrowser enters in a login from which browser it comes, if that is the one that
// began it. It refuses a login that is not what the application asked for, and one that
// rests on credentials which were entered before the browser's session ended. What it
// returns is nil where no cookie is to be set.
func (c *signingIn) fromBrowser(ctx context.Context, req *request, l *session.Login, ar op.AuthRequest, native bool) (*returned, error) {
	h := c.h
	b, bound := h.boundBrowser(ctx, req, ar.GetID())
	if !bound {
		return nil, h.fromUnbound(ctx, req, l, native)
	}
	l.Silent, l.Prompted, l.First, l.Again = b.Silent, !b.Silent, !b.Done, b.Done
	if b.Silent { // whatever the answer is
		h.browsers.Forget(req.browser, l.Subject.Issuer, b)
	}
	if unmet := b.Unmet(l.Subject, l.Authenticated); unmet != "" {
		return nil, h.notAsAsked(ctx, l, &refusedError{text: unmet, over: true})
	}
	if native && !l.Silent {
		return nil, nil // each of its logins is its own
	}
	s, shown, err := h.shownSession(ctx, req.browser.Held, l.Subject.Issuer)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	own := err == nil && s.Subject == l.Subject // of another user's nothing need be known
	if own {
		if s, err = h.asOfNow(ctx, s); err != nil {
			return nil, err
		}
	}
	if l.Silent && l.Place == nil && (!own || s.End != nil) {
		if !own {
			return nil, notSignedIn()
		}
		return nil, hasEnded(&s)
	}
	if native {
		return nil, nil
	}
	if own && l.Place == nil && s.End != nil && s.End.Reason != policy.ReasonAbandoned &&
		!l.Authenticated.IsZero() && !l.Authenticated.After(s.End.At) {
		return nil, h.notAsAsked(ctx, l, hasEnded(&s))
	}
	secret := browser.NewSecret()
	l.Browser = &session.Browser{Shown: shown, Next: secret.Hash()}
	for _, b := range h.browsers.Bindings(req.browser, l.Subject.Issuer) {
		l.Browser.Logins = append(l.Browser.Logins, loginMark(b.Request))
	}
	return &returned{b, secret}, nil
}

// fromUnbound enters in a login that it does not come from the browser which began it, as
// far as is known: that keeps no cookies, or has too many logins under way. It may still
// show the cookie of a session that rests on the very same authentication.
func (h *cookies) fromUnbound(ctx context.Context, req *request, l *session.Login, native bool) error {
	state := h.browserOf(req)
	l.Unbound = state != nil
	if state == nil || native {
		return nil
	}
	_, shown, err := h.shownSession(ctx, state.Held, l.Subject.Issuer)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	l.Browser = &session.Browser{Shown: shown}
	return err
}

// notAsAsked tells of the refusal of a login that the user was there for: the
// provider's page took one that is remembered, or of somebody else. Without the user
// the refusal is the ordinary answer to an application that only asks.
func (h *cookies) notAsAsked(ctx context.Context, l *session.Login, refused *refusedError) error {
	if !l.Silent {
		h.event(ctx, Event{
			Type: EventNotAsAsked, Subject: l.Subject, Client: l.Client, Kind: l.Kind,
			Reason: refused.reason, Err: refused,
		})
	}
	return refused
}

// notSignedIn refuses an answer without the user where the browser has no live
// session to rest it on (OpenID Connect Core 1.0 section 3.1.2.1): a sign-on that
// the provider remembers for longer would begin a login that nobody asked for, or go
// on with one that was ended.
func notSignedIn() *refusedError {
	return &refusedError{text: "prompt=none, and this browser has no login session", over: true}
}
