package middleware

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
	"github.com/curfew-oidc/curfew/policy"
)

// signOutPage ends the session here and at the provider (OpenID Connect
// RP-Initiated Logout 1.0). It takes a POST, so that no link signs anybody out; a
// GET asks.
func (rp *RelyingParty) signOutPage(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		rp.render(w, r, http.StatusOK, PageData{Kind: PageSignOut, Title: "Sign out?",
			Text: "You will be signed out here and at the provider.", Action: rp.base + "signout", Button: "Sign out"})
		return
	}
	h, err := rp.find(r)
	var out *SignedOutError
	switch {
	case errors.As(err, &out):
		h = &held{} // nothing is known; the provider may know more
	case err != nil:
		// Not "you are signed out": the session would go on.
		rp.unavailable(w, r, unavailable(err))
		return
	}
	hint, refresh := h.rec.IDToken, h.rec.Refresh
	if h.id != "" {
		if err := rp.end(r.Context(), h, policy.ReasonLogout, sentence(policy.ReasonLogout)); err != nil {
			rp.unavailable(w, r, unavailable(err))
			return
		}
		if !rp.cfg.InCookies { // the mark that it is over stays
			_ = rp.store.Delete(r.Context(), h.id) // it has ended; there is nothing to tell
		}
	}
	rp.dropCookie(w, rp.cookie)
	rp.dropParts(w, r, 1)
	rp.dropCookie(w, rp.cookie+"-tried")
	e, err := rp.discover(r.Context())
	if err == nil && e.endSession == "" {
		if err = rp.revoke(r.Context(), e, refresh); err != nil {
			rp.event(r.Context(), Event{Type: EventUnavailable, Subject: h.rec.Subject, SID: h.rec.SID, Err: err})
		}
	}
	if err != nil {
		rp.render(w, r, http.StatusOK, PageData{Kind: PageSignedOut, Title: "You are signed out here",
			Text: "The provider could not be told. You may be signed in there still.", SignIn: rp.signInURL("/")})
		return
	}
	if e.endSession == "" {
		if rp.cfg.PostLogoutURL != "" {
			_ = rp.setSealed(w, rp.cookie+"-notice", notice{Text: sentence(policy.ReasonLogout)}, noticeTime) // only a sentence
			redirect(w, rp.cfg.PostLogoutURL)
			return
		}
		rp.render(w, r, http.StatusOK, PageData{Kind: PageSignedOut, Title: sentence(policy.ReasonLogout), SignIn: rp.signInURL("/")})
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
		_ = rp.setSealed(w, rp.cookie+"-notice", notice{Text: sentence(policy.ReasonLogout), State: state}, noticeTime)
	}
	separator := "?"
	if strings.Contains(e.endSession, "?") {
		separator = "&"
	}
	redirect(w, e.endSession+separator+q.Encode())
}

// revoke gives the refresh token back (RFC 7009), where nothing else tells the
// provider that the user has signed out.
func (rp *RelyingParty) revoke(ctx context.Context, e *endpoints, token string) error {
	if token == "" || e.revocation == "" {
		return nil
	}
	ctx, cancel := rp.context(ctx)
	defer cancel()
	form := url.Values{"token": {token}, "token_type_hint": {"refresh_token"}}
	basic := e.oauth.Endpoint.AuthStyle == oauth2.AuthStyleInHeader
	if !basic {
		form.Set("client_id", rp.cfg.ClientID)
		if rp.cfg.ClientSecret != "" {
			form.Set("client_secret", rp.cfg.ClientSecret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.revocation, strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if basic {
		req.SetBasicAuth(url.QueryEscape(rp.cfg.ClientID), url.QueryEscape(rp.cfg.ClientSecret))
	}
	resp, err := rp.client.Do(req)
	if err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	defer resp.Body.Close()
	// Section 2.2: a token that is not known is a success too. Section 2.2.1:
	// after anything else the token is to be taken for good.
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the revocation endpoint answered %d", resp.StatusCode)
	}
	return nil
}
