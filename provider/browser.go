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
	"github.com/curfew-oidc/curfew/store"
)

// browserOf returns the state of a request; nil where there are no cookies:
// they are switched off, or the call did not come by HTTP.
func (h *Hook) browserOf(req *request) *browser.Cookies {
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
func (c *core) bind(ctx context.Context, asked *oidc.AuthRequest, hint, id string) {
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
func (h *Hook) boundBrowser(ctx context.Context, req *request, authRequestID string) (browser.Binding, bool) {
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
// now, and the hash of the secret. If there is none the error wraps
// store.ErrNotFound.
func (h *Hook) cookieSession(ctx context.Context, cookies []*http.Cookie, issuer string) (store.Session, []byte, error) {
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
	if s.Subject.Issuer != issuer || !browser.Holds(&s, hash) {
		return store.Session{}, nil, errNoBrowserSession
	}
	s, err = h.asOfNow(ctx, s)
	return s, hash, err
}

var errNoBrowserSession = fmt.Errorf("no session of this browser: %w", store.ErrNotFound)

// browserSession returns the session of this browser's cookie, as it is now, and
// whether it is live. One that has ended is returned with its reason; the zero
// Session if there is none.
func (h *Hook) browserSession(ctx context.Context, req *request) (store.Session, bool, error) {
	state := h.browserOf(req)
	if state == nil {
		return store.Session{}, false, nil
	}
	s, _, err := h.cookieSession(ctx, state.Held, op.IssuerFromContext(ctx))
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
	s, _, err := h.cookieSession(r.Context(), r.Cookies(), issuer)
	if err == nil && s.End != nil {
		err = fmt.Errorf("the session of this browser has ended (%s): %w", s.End.Reason, store.ErrNotFound)
	}
	return s, err
}

// keep sets the session cookie if the session took its secret, and lets the
// binding go once the code is late: until then the callback may be loaded again. That
// of prompt=none has gone with its answer.
func (h *Hook) keep(ctx context.Context, req *request, s *store.Session, j *browser.Join) {
	issuer := op.IssuerFromContext(ctx)
	if cookie := j.Cookie(s); cookie != nil {
		req.browser.Set(cookie)
	}
	if !j.Binding.Silent {
		h.browsers.Answered(req.browser, issuer, j.Binding, h.cfg.CodeLifetime)
	}
}

// fromBrowser says where a login belongs that arrived at the callback in the
// browser that began it: in the session of the browser's cookie, or in the one
// that another tab makes of the same browser. It refuses a login that is not what
// the application asked for, and one that rests on credentials which were
// entered before the browser's session ended.
func (c *core) fromBrowser(ctx context.Context, req *request, a *admission, ar op.AuthRequest, native bool) error {
	h := c.h
	b, bound := h.boundBrowser(ctx, req, ar.GetID())
	if !bound {
		return nil
	}
	a.silent, a.prompted = b.Silent, !b.Silent
	if b.Silent { // whatever the answer is
		h.browsers.Forget(req.browser, a.subject.Issuer, b)
	}
	if unmet := b.Unmet(a.subject, a.authTime); unmet != "" {
		return h.notAsAsked(ctx, a, &refusedError{text: unmet, over: true})
	}
	if native && !a.silent {
		return nil // each of its logins is its own
	}
	issuer := a.subject.Issuer
	s, shown, err := h.cookieSession(ctx, req.browser.Held, issuer)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	own := err == nil && s.Subject == a.subject
	if a.silent && !a.named && (!own || s.End != nil) {
		return notSignedIn(&s, own)
	}
	if native {
		return nil
	}
	a.browser = browser.NewJoin(b, shown)
	if a.named {
		return nil // by the provider's own session
	}
	if own {
		switch {
		case s.End == nil:
			r, err := h.rules(ctx, s.Subject, true)
			if err != nil {
				return fmt.Errorf("settings: %w", err)
			}
			if !h.mayJoin(a, r, &s) {
				a.browser = nil
				return nil // a session of its own, which the caps count; the cookie stays the other one's
			}
			a.joins = s.ID
		case s.End.Reason != policy.ReasonAbandoned && !a.authTime.IsZero() && !a.authTime.After(s.End.At):
			return h.notAsAsked(ctx, a, &refusedError{reason: s.End.Reason, text: endedText(&s), over: true})
		}
	}
	// The name of the session is that of the oldest login that this browser has
	// under way: tabs that arrive at once meet.
	root := ar.GetID()
	tabs := h.browsers.Bindings(req.browser, issuer)
	if i := slices.IndexFunc(tabs, func(b browser.Binding) bool { return !b.Done || b.Request == root }); i >= 0 {
		root = tabs[i].Request
	}
	a.renews = true
	if a.joins != a.own && (a.joins != "" || root != ar.GetID()) {
		switch _, err := h.get(ctx, a.own); {
		case err == nil: // it was decided before
			a.joins = a.own
			return nil
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		a.sid = func(n int) string { return derivedSID(a.subject, n, "auth", root) }
		if a.joins == "" {
			a.alias = a.own // of what admission makes or finds
			return nil
		}
		// Before the session changes its secret: a tab that shows the old one a
		// moment later finds the session by these names.
		if err := h.alias(ctx, a, &s, a.own); err != nil {
			return err
		}
		return h.alias(ctx, a, &s, a.sid(0))
	}
	return nil
}

// notAsAsked tells of the refusal of a login that the user was there for: the
// provider's page took one that is remembered, or of somebody else. Without the user
// the refusal is the ordinary answer to an application that only asks.
func (h *Hook) notAsAsked(ctx context.Context, a *admission, refused *refusedError) error {
	if !a.silent {
		h.event(ctx, Event{
			Type: EventNotAsAsked, Subject: a.subject, Client: a.client, Kind: a.kind,
			Reason: refused.reason, Err: refused,
		})
	}
	return refused
}

// mayJoin reports whether a login may become part of a session: not if it would make
// one of another kind, nor if a cap that counts it does not count the session. The
// limits of a kind or client could else be got round by beginning with another one.
func (h *Hook) mayJoin(a *admission, r ruling, s *store.Session) bool {
	return a.kind == s.Kind && r.rules.MayJoin(s.Policy(), a.client)
}

// notSignedIn refuses an answer without the user where the browser has no live
// session to rest it on (OpenID Connect Core 1.0 section 3.1.2.1): a sign-on that
// the provider remembers for longer would begin a login that nobody asked for, or go
// on with one that was ended. s is the session that it had; known is false if none.
func notSignedIn(s *store.Session, known bool) *refusedError {
	if known {
		return &refusedError{reason: s.End.Reason, text: endedText(s), over: true}
	}
	return &refusedError{text: "prompt=none, and this browser has no login session", over: true}
}

// alias records that a login joined the session of another one, under the name
// by which its code will be looked up: as a login that was over when it began. It
// holds no slot and has no tokens, and is forgotten when no code for it can turn
// up any more.
func (h *Hook) alias(ctx context.Context, a *admission, s *store.Session, name string) error {
	if name == "" || name == s.ID || a.code == nil {
		return nil
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	now := h.now()
	err := h.cfg.Store.Create(ctx, store.Session{
		Format: store.Format, ID: name, Subject: s.Subject, Accounts: s.Accounts, Kind: s.Kind, Client: a.client,
		Started: now, Authenticated: now, LastActivity: now, ActivityClass: policy.Interactive,
		ReservedUntil: now, Due: now, Joined: s.ID,
	}, math.MaxInt)
	switch {
	case errors.Is(err, store.ErrExists):
		return nil // there is a session by the name already
	case errors.Is(err, store.ErrFenced): // by a clock that is ahead of ours
		return &refusedError{reason: s.Fence.Reason, text: s.Fence.Reason.Info().Description(), over: true}
	}
	return err
}
