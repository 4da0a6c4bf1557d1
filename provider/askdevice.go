package provider

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/browser"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// A DeviceLogin is the login of a device or command line (RFC 8628) that a user is
// about to approve on the provider's verification page.
type DeviceLogin struct {
	Subject  store.Subject
	Client   op.Client // required
	UserCode string

	// AuthTime is when the user signed in at the verification page.
	AuthTime time.Time

	// Form has fields that the page sends back beside the hook's own, such as the provider's own
	// anti-forgery token.
	Form url.Values
}

// A DeviceDecision says how to go on with a device login. The zero value says that the response has
// been written: there is nothing more to do.
type DeviceDecision struct {
	// Approve says that there is room: approve the device code. It reserves no slot; the login is
	// admitted when the device requests its tokens.
	Approve bool

	// Deny says to deny the device code, and to tell the user: the user cancelled the login, or
	// signed in before [Config.NotBefore], or there is no room and the user is not asked. Then Max
	// is the cap, and Used how many
	// sessions count towards it.
	Deny      bool
	Used, Max int
}

// AskDevice decides about a device login before its code is approved. Call it on the verification
// page, for a user who has signed in there and has agreed to connect the device. If a cap asks, it
// shows the page of [AskPage]. The page's form is posted to the same address: call AskDevice again
// then, with the same login.
//
//	switch d := hook.AskDevice(w, r, login); {
//	case d.Approve:
//		approve(userCode)
//	case d.Deny:
//		deny(userCode)
//	}
//
// The page is bound to this browser and this user code. AskDevice parses the request's form, unless
// it is already parsed.
func (h *Hook) AskDevice(w http.ResponseWriter, r *http.Request, login DeviceLogin) DeviceDecision {
	ctx := op.ContextWithIssuer(r.Context(), login.Subject.Issuer)
	as := Login{Subject: login.Subject, Client: login.Client, Device: true, AuthTime: login.AuthTime}
	kind := h.cfg.Kind(ctx, as)
	client := login.Client.GetID()
	asked := store.Session{Subject: login.Subject, Client: client, Kind: kind}
	query := r.URL.RawQuery

	secret := h.deviceSecret(r, login.Subject.Issuer)
	problem, cancelled, failed, err := h.deviceAnswer(w, r, login, secret)
	switch {
	case err != nil:
		h.unavailable(w, r, query, err)
		return DeviceDecision{}
	case failed != nil:
		h.notice(w, r, failed.status, failed.AskNotice)
		return DeviceDecision{}
	case cancelled:
		return DeviceDecision{Deny: true}
	}
	switch outdated, err := h.outdated(ctx, login.Subject, login.AuthTime); {
	case err != nil:
		h.unavailable(w, r, query, err)
		return DeviceDecision{}
	case outdated:
		asked.Accounts = h.rulesToEnd(ctx, &asked).accounts
		h.tellRefused(ctx, asked, policy.Decision{Reason: policy.ReasonCredentialChange})
		return DeviceDecision{Deny: true}
	}
	rm, err := h.room(ctx, login.Subject, kind, client)
	if err != nil {
		h.unavailable(w, r, query, err)
		return DeviceDecision{}
	}
	asked.Accounts = rm.ruling.accounts
	if at := login.AuthTime.Truncate(time.Microsecond); !at.IsZero() && rm.fence.Past(at) {
		h.tellRefused(ctx, asked, policy.Decision{Reason: rm.fence.Reason})
		return DeviceDecision{Deny: true}
	}
	d := rm.decision
	if d.Allow {
		return DeviceDecision{Approve: true}
	}
	until, inTime := askUntil(login.AuthTime, h.now())
	if !d.Ask || !inTime {
		h.tellRefused(ctx, asked, d)
		return DeviceDecision{Deny: true, Used: d.Used, Max: d.Max}
	}
	h.tellAsked(ctx, asked, d)
	if secret == "" {
		secret = rand.Text()
		http.SetCookie(w, h.deviceCookie(login.Subject.Issuer, secret))
	}
	q := question{
		purpose: askDevice, subject: login.Subject, login: login.UserCode, place: placeOf("browser", secret), until: until,
		kind: kind, client: client, used: d.Used, max: d.Max,
	}
	page := h.askPage(r, rm, q)
	page.UserCode, page.ErrorCode, page.Action = login.UserCode, problem, "?"+query
	page.Hidden = []AskField{{tokenField, h.sealQuestion(q)}}
	for name, values := range login.Form {
		for _, v := range values {
			page.Hidden = append(page.Hidden, AskField{name, v})
		}
	}
	h.writePage(w, r, http.StatusForbidden, page, "")
	return DeviceDecision{}
}

// deviceAnswer does what the answer to a page says, if the request is one.
func (h *pages) deviceAnswer(w http.ResponseWriter, r *http.Request, login DeviceLogin, secret string) (problem string, cancelled bool, failed *failedAnswer, err error) {
	if r.Method != http.MethodPost {
		return "", false, nil, nil
	}
	if r.PostForm == nil {
		if _, failed := readAnswer(w, r, "?"+r.URL.RawQuery); failed != nil {
			return "", false, failed, nil
		}
	}
	cancelled = r.PostForm.Get(actionField) == "cancel" // needs no proof
	if !cancelled && !r.PostForm.Has(tokenField) {
		return "", false, nil, nil
	}
	if !fromOwnPage(r, login.Subject.Issuer) {
		return "", false, &failedAnswer{http.StatusForbidden, AskNotice{Code: noticeForeign}}, nil
	}
	if !r.PostForm.Has(tokenField) {
		return "", true, nil, nil
	}
	now := h.now()
	q, err := h.openQuestion(r.PostForm.Get(tokenField), now)
	switch {
	case errors.Is(err, seal.ErrAhead):
		return "", false, nil, err
	case err != nil, secret == "", q.purpose != askDevice, q.subject != login.Subject, q.login != login.UserCode,
		q.place != placeOf("browser", secret), !now.Before(q.until):
		return askStale, cancelled, nil, nil
	}
	a, err := h.carryOut(r.Context(), q, r.PostForm)
	if err != nil {
		return "", false, nil, err
	}
	return a.problem, a.cancelled != nil, nil, nil
}

// deviceCookieFor is how long the browser keeps the cookie to which the page for
// a device is bound.
const deviceCookieFor = askWithin

func (h *pages) deviceCookie(issuer, secret string) *http.Cookie {
	secure := !browser.IsLoopbackHTTP(issuer)
	return &http.Cookie{
		Name: deviceCookieName(issuer, secure), Value: secret, Path: "/", MaxAge: int(deviceCookieFor / time.Second),
		HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode,
	}
}

func deviceCookieName(issuer string, secure bool) string {
	sum := seal.Digest("device cookie", issuer)
	name := "curfew-device-" + base64.RawURLEncoding.EncodeToString(sum[:6])
	if secure {
		name = "__Host-" + name // nothing but this host can have set it
	}
	return name
}

// deviceSecret returns the value of the cookie, empty if there is none.
func (h *pages) deviceSecret(r *http.Request, issuer string) string {
	c, err := r.Cookie(deviceCookieName(issuer, !browser.IsLoopbackHTTP(issuer)))
	if err != nil || len(c.Value) != len(rand.Text()) {
		return ""
	}
	return c.Value
}

// withSessionsURL adds to the refusal of a device at the cap where its user can
// make room.
func (h *pages) withSessionsURL(err error) error {
	var refused *refusedError
	if h.cfg.SessionsURL == "" || !errors.As(err, &refused) || refused.over || refused.reason != policy.ReasonConcurrency {
		return err
	}
	told := *refused
	told.text += "; your login sessions: " + h.cfg.SessionsURL
	return &told
}

// checkSessionsURL checks what is put into error_description, in which RFC 6749
// section 5.2 allows %x20-21 / %x23-5B / %x5D-7E.
func checkSessionsURL(address string) error {
	if address == "" {
		return nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return errors.New("not a URL")
	}
	if strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		return errors.New("it has characters that an error_description cannot have")
	}
	switch {
	case u.Host == "" || u.User != nil:
		return fmt.Errorf("%q is not absolute, as https://login.example.com/sessions/ is", address)
	case u.Scheme == "https":
	case !browser.IsLoopbackHTTP(address):
		return fmt.Errorf("%q is not https", address)
	}
	return nil
}
