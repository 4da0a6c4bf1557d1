package middleware

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
	"github.com/curfew-oidc/curfew/policy"
)

// signOutPage ends the session here and at the provider (OpenID Connect
// RP-Initiated Logout 1.0). It takes a POST, so that no link signs anybody out; a
// GET asks.
func (rp *RelyingParty) signOutPage(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		rp.pages.render(w, r, http.StatusOK, PageData{Kind: PageSignOut, Title: "Sign out?",
			Text: "You will be signed out here and at the provider.", Action: rp.site.base + "signout", Button: "Sign out"})
		return
	}
	h, err := rp.cookies.find(r)
	var out *SignedOutError
	switch {
	case errors.As(err, &out):
		h = &held{} // nothing is known; the provider may know more
	case err != nil:
		// Not "you are signed out": the session would go on.
		rp.pages.unavailable(w, r, unavailable(err))
		return
	}
	hint, refresh := h.rec.IDToken, h.rec.Refresh
	if h.id != "" {
		if err := rp.sessions.end(r.Context(), h, policy.ReasonLogout, sentence(policy.ReasonLogout)); err != nil {
			rp.pages.unavailable(w, r, unavailable(err))
			return
		}
		rp.sessions.forget(r.Context(), h)
	}
	rp.cookies.drop(w, r)
	rp.jar.drop(w, rp.jar.name+"-tried")
	e, err := rp.upstream.discover(r.Context())
	if err == nil && e.endSession == "" {
		if err = rp.upstream.revoke(r.Context(), e, refresh); err != nil {
			rp.events.event(r.Context(), Event{Type: EventUnavailable, Subject: h.rec.Subject, SID: h.rec.SID, Err: err})
		}
	}
	if err != nil {
		rp.pages.render(w, r, http.StatusOK, PageData{Kind: PageSignedOut, Title: "You are signed out here",
			Text: "The provider could not be told. You may be signed in there still.", SignIn: rp.site.signInURL("/")})
		return
	}
	if e.endSession == "" {
		if rp.cfg.PostLogoutURL != "" {
			_ = rp.jar.setSealed(w, rp.jar.name+"-notice", notice{Text: sentence(policy.ReasonLogout)}, noticeTime) // only a sentence
			redirect(w, rp.cfg.PostLogoutURL)
			return
		}
		rp.pages.render(w, r, http.StatusOK, PageData{Kind: PageSignedOut, Title: sentence(policy.ReasonLogout), SignIn: rp.site.signInURL("/")})
		return
	}
	q := url.Values{"client_id": {rp.cfg.ClientID}}
	if hint != "" {
		q.Set("id_token_hint", hint)
	}
	if rp.cfg.PostLogoutURL != "" {
		state := seal.NewSecret()
		q.Set("post_logout_redirect_uri", rp.cfg.PostLogoutURL)
		q.Set("state", state)
		_ = rp.jar.setSealed(w, rp.jar.name+"-notice", notice{Text: sentence(policy.ReasonLogout), State: state}, noticeTime)
	}
	separator := "?"
	if strings.Contains(e.endSession, "?") {
		separator = "&"
	}
	redirect(w, e.endSession+separator+q.Encode())
}
