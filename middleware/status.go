package middleware

import (
	"errors"
	"net/http"
	"time"
)

// sessionPage answers a GET with the times that remain, and slides nothing by
// that. A POST is "stay signed in": it asks the provider for new tokens, which is
// activity to any provider.
func (rp *RelyingParty) sessionPage(w http.ResponseWriter, r *http.Request) {
	h, err := rp.cookies.find(r)
	if err == nil {
		err = h.rec.asItIs(rp.now())
	}
	if r.Method == http.MethodPost && h != nil {
		// Not more often than a person clicks: it costs the provider something. A
		// negative age is of a clock that was set back.
		age := rp.now().Sub(h.rec.Refreshed)
		if h.rec.EndedAt.IsZero() && (err != nil || age >= time.Second || age < 0) {
			err = rp.refresher.refresh(r.Context(), h, true)
		}
	}
	rp.cookies.sync(w, r)
	if r.Method == http.MethodPost && isNavigation(r) { // a page without script
		if err != nil {
			rp.deny(w, r, h, err)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		redirect(w, rp.site.safeReturn(r.PostFormValue("return")))
		return
	}
	var out *SignedOutError
	switch {
	case errors.As(err, &out) && r.Method == http.MethodPost:
		rp.pages.challenge(w, r, out)
	case errors.As(err, &out):
		writeJSON(w, http.StatusOK, sessionStatus{Reason: out.Reason, Text: out.Text, SignIn: rp.site.signInURL("/")})
	case err != nil:
		rp.pages.unavailable(w, r, unavailable(err))
	default:
		writeJSON(w, http.StatusOK, h.rec.status(rp.now()))
	}
}

// A sessionStatus is what a countdown needs, in whole seconds that have not begun
// to run out. Members that are missing are not known.
type sessionStatus struct {
	SignedIn  bool   `json:"signed_in"`
	ExpiresIn *int64 `json:"expires_in,omitempty"`         // what ends it first
	ActiveIn  *int64 `json:"active_ends_in,omitempty"`     // whatever the user does
	IdleIn    *int64 `json:"inactivity_ends_in,omitempty"` // if the user does nothing
	Renewable bool   `json:"renewable"`                    // a POST would ask for more
	Reason    Reason `json:"reason,omitempty"`
	Text      string `json:"message,omitempty"`
	SignIn    string `json:"sign_in,omitempty"`
}

func (rec *record) status(now time.Time) sessionStatus {
	in := func(end time.Time) *int64 {
		if end.IsZero() {
			return nil
		}
		n := int64(max(0, end.Sub(now)) / time.Second)
		return &n
	}
	return sessionStatus{
		SignedIn: true, Renewable: rec.Refresh != "",
		ExpiresIn: in(earliest(rec.ends(), rec.IdleEnds)), ActiveIn: in(rec.ends()), IdleIn: in(rec.IdleEnds),
	}
}
