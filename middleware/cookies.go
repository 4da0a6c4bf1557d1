package middleware

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
)

// Cookies of the middleware, each with the application's name in front:
//
//	NAME             the session: a secret, or with Config.InCookies the first part of all of it
//	NAME-1, -2...    the other parts
//	NAME-in-0, -1... sign-ins that have begun in this browser, one for each tab
//	NAME-tried       a sign-in has just succeeded and nothing came of it yet
//	NAME-notice      what the next page should tell
//
// All are HttpOnly and Lax: no other site's form brings them along, but the
// provider's redirect does. On https no other host can set them (__Host-).
//
// Servers take so many bytes of cookies and no more: nginx, unless it is told
// otherwise, 8192 in a request, and 4096 of headers in our answer. Beyond that the
// user gets an error at every page until the cookies expire. So sign-ins have a fixed
// number of places, whose sizes add up to less than 6 kB: many tabs that begin at once
// know nothing of each other, and no rule that looks at what is there would hold.

// cookieName returns the name that the cookies of an application begin with.
func cookieName(app string, secure bool) string {
	sum := sha256.Sum256([]byte("cookie " + app))
	name := "curfew-rp-" + hex.EncodeToString(sum[:8]) // the provider may be on the same host
	if secure {
		return "__Host-" + name
	}
	return name
}

const (
	// signInTime is for how long a sign-in may stand at the provider's page.
	signInTime = 30 * time.Minute

	// signInPlaces is how many may stand there at once in one browser, and
	// signInPlacesBeside if the session is in cookies too. One that was pushed out
	// begins again by itself: see lostSignIn.
	signInPlaces, signInPlacesBeside = 4, 2

	// signInSize bounds the cookie of a sign-in, and wideSignInSize the one in the
	// first place, which may come back to a long address.
	signInSize, wideSignInSize = 900, 2500

	// maxForgotten bounds how many cookies one answer deletes.
	maxForgotten = 8

	// noticeTime and triedTime are for how long the next page is waited for.
	noticeTime, triedTime = 10 * time.Minute, time.Minute

	// cookiePart keeps a cookie below the 4096 bytes that browsers take, name
	// and attributes included; cookieParts keeps all of them below what servers
	// take as headers.
	cookiePart, cookieParts = 3600, 4
)

// setCookie sets a cookie for so long; zero: until the browser ends. A negative
// life removes it.
func (rp *RelyingParty) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: rp.secure, SameSite: http.SameSiteLaxMode,
	})
}

func (rp *RelyingParty) dropCookie(w http.ResponseWriter, name string) {
	rp.setCookie(w, name, "", -time.Second)
}

// setSealed sets a cookie that only this application reads, under this name.
func (rp *RelyingParty) setSealed(w http.ResponseWriter, name string, value any, life time.Duration) error {
	plain, err := plainJSON(value)
	if err != nil {
		return err
	}
	text, err := rp.sealer.Seal("cookie "+name, plain)
	if err != nil {
		return err
	}
	if len(text) > cookiePart {
		return fmt.Errorf("the cookie %s would have %d bytes", name, len(text))
	}
	rp.setCookie(w, name, text, life)
	return nil
}

// plainJSON writes JSON for ourselves: an ampersand, which addresses have many of, is
// one character.
func plainJSON(value any) ([]byte, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), err
}

// sealed reads a cookie of [RelyingParty.setSealed].
func (rp *RelyingParty) sealed(r *http.Request, name string, value any) bool {
	c, err := r.Cookie(name)
	if err != nil {
		return false
	}
	plain, err := rp.sealer.Open("cookie "+name, c.Value)
	return err == nil && json.Unmarshal(plain, value) == nil
}

// A signIn is what a browser remembers of a sign-in that it has begun. The state
// parameter has some of it too: see stateOf.
type signIn struct {
	State    string    `json:"state,omitempty"` // a hash of the parameter
	Nonce    string    `json:"nonce,omitempty"`
	Verifier string    `json:"verifier,omitempty"` // of PKCE
	Return   string    `json:"return"`
	Begun    time.Time `json:"begun"`
	Notice   string    `json:"notice,omitempty"`
	Parcel   string    `json:"parcel,omitempty"`
	Subject  string    `json:"sub,omitempty"` // who has to sign in to get the parcel
	MaxAge   *float64  `json:"max_age,omitempty"`
	Again    bool      `json:"again,omitempty"` // it was lost once, and began again by itself
}

// places are the names of the cookies of sign-ins.
func (rp *RelyingParty) places() []string {
	n := signInPlaces
	if rp.cfg.InCookies {
		n = signInPlacesBeside
	}
	names := make([]string, n)
	for i := range names {
		names[i] = rp.cookie + "-in-" + strconv.Itoa(i)
	}
	return names
}

// formerCookie is the name that the cookie of a sign-in had in former versions, one for
// each. Those in use at an upgrade are read until they expire.
func (rp *RelyingParty) formerCookie(state string) string {
	return rp.cookie + "-in-" + seal.Digest("state", state)[:16]
}

// remember sets the cookie of a sign-in: in any place that is free, so that tabs which
// begin at once do not all take the same one, or in that of the oldest.
func (rp *RelyingParty) remember(w http.ResponseWriter, r *http.Request, state string, s signIn) error {
	rp.forgetFormer(w, r)
	s.State = seal.Digest("state", state)
	places := rp.places()
	if !s.fits(signInSize) && !rp.cfg.InCookies && s.fits(wideSignInSize) {
		return rp.setSealed(w, places[0], s, signInTime)
	}
	s.shorten(signInSize)
	var free []string
	oldest, at := "", time.Time{}
	for _, name := range places {
		var old signIn
		if !rp.sealed(r, name, &old) {
			free = append(free, name)
		} else if oldest == "" || old.Begun.Before(at) {
			oldest, at = name, old.Begun
		}
	}
	if len(free) > 0 {
		oldest = free[rand.IntN(len(free))]
	}
	return rp.setSealed(w, oldest, s, signInTime)
}

// fits reports whether the cookie of a sign-in has at most so many bytes.
func (s signIn) fits(size int) bool {
	plain, err := plainJSON(s)
	return err == nil && seal.Size(len(plain)) <= size
}

// shorten makes a sign-in fit: it comes back to the page without its query, or to the
// start.
func (s *signIn) shorten(size int) {
	if !s.fits(size) {
		s.Return, _, _ = strings.Cut(s.Return, "?")
	}
	if !s.fits(size) {
		s.Return = "/"
	}
	if !s.fits(size) {
		s.Notice = ""
	}
}

// recall returns the sign-in of the browser that has the state, and the name of its
// cookie.
func (rp *RelyingParty) recall(r *http.Request, state string) (s signIn, name string, ok bool) {
	if state == "" {
		return s, "", false
	}
	hash := seal.Digest("state", state)
	for _, name := range rp.places() {
		var s signIn
		if rp.sealed(r, name, &s) && s.State == hash {
			return s, name, true
		}
	}
	name = rp.formerCookie(state)
	return s, name, rp.sealed(r, name, &s)
}

// forgetFormer deletes the cookies of sign-ins of former versions, but for the newest.
func (rp *RelyingParty) forgetFormer(w http.ResponseWriter, r *http.Request) {
	type former struct {
		name  string
		begun time.Time
	}
	var all []former
	places := rp.places()
	for _, c := range r.Cookies() {
		if strings.HasPrefix(c.Name, rp.cookie+"-in-") && !slices.Contains(places, c.Name) {
			var old signIn
			rp.sealed(r, c.Name, &old) // one that does not open is the oldest
			all = append(all, former{c.Name, old.Begun})
		}
	}
	slices.SortFunc(all, func(a, b former) int { return a.begun.Compare(b.begun) })
	for _, c := range all[:min(max(0, len(all)-signInPlaces), maxForgotten)] {
		rp.dropCookie(w, c.name)
	}
}

// A notice is shown once. If it has a State, only on the page that the provider
// returns to with it.
type notice struct {
	Text  string `json:"text"`
	State string `json:"state,omitempty"`
}

// A session in cookies is kept in memory too, where the requests of a page that
// come at once find each other. The cookie follows.
type cookieSession struct {
	ID      string `json:"id"`
	Version int64  `json:"version"`
	Record  record `json:"record"`
}

// cacheTime is for how long a session in cookies is kept in memory: longer than
// requests that belong together take, and than a lease.
const cacheTime = 2 * time.Minute

// hydrate brings the session in the cookies into memory, unless a newer version is
// there, and returns its ID; empty if there is none.
func (rp *RelyingParty) hydrate(r *http.Request) (string, error) {
	c, ok := rp.cookieSession(r)
	if !ok {
		return "", nil
	}
	s, err := rp.stored(&held{id: c.ID, version: c.Version, rec: c.Record})
	if err != nil {
		return "", err
	}
	rp.cache.adopt(rp.now(), s)
	return c.ID, nil
}

func (rp *RelyingParty) cookieSession(r *http.Request) (c cookieSession, ok bool) {
	first, err := r.Cookie(rp.cookie)
	if err != nil {
		return c, false
	}
	count, text, found := strings.Cut(first.Value, ".")
	n, err := strconv.Atoi(count)
	if !found || err != nil || n < 1 || n > cookieParts {
		return c, false
	}
	for i := 1; i < n; i++ {
		part, err := r.Cookie(rp.cookie + "-" + strconv.Itoa(i))
		if err != nil {
			return c, false
		}
		text += part.Value
	}
	plain, err := rp.sealer.Open("session cookie", text)
	return c, err == nil && json.Unmarshal(plain, &c) == nil && c.Record.Format == recordFormat && c.ID != ""
}

// errTooLarge is for tokens that do not fit into cookies.
var errTooLarge = errors.New("the session does not fit into cookies: ask for fewer scopes, or keep sessions in a store")

// setSession writes the session into cookies.
func (rp *RelyingParty) setSession(w http.ResponseWriter, r *http.Request, h *held) error {
	plain, err := json.Marshal(cookieSession{ID: h.id, Version: h.version, Record: h.rec})
	if err != nil {
		return err
	}
	text, err := rp.sealer.Seal("session cookie", plain)
	if err != nil {
		return err
	}
	n := (len(text) + cookiePart - 1) / cookiePart
	if n > cookieParts {
		return errTooLarge
	}
	for i := range n {
		part := text[i*cookiePart : min((i+1)*cookiePart, len(text))]
		if i == 0 {
			rp.setCookie(w, rp.cookie, strconv.Itoa(n)+"."+part, 0)
			continue
		}
		rp.setCookie(w, rp.cookie+"-"+strconv.Itoa(i), part, 0)
	}
	rp.dropParts(w, r, n)
	return nil
}

// dropParts removes the parts of a session in cookies from the given one on.
func (rp *RelyingParty) dropParts(w http.ResponseWriter, r *http.Request, from int) {
	for i := max(1, from); i < cookieParts; i++ {
		name := rp.cookie + "-" + strconv.Itoa(i)
		if _, err := r.Cookie(name); err == nil {
			rp.dropCookie(w, name)
		}
	}
}

// sync writes the session into the cookies if they have an older version of it.
func (rp *RelyingParty) sync(w http.ResponseWriter, r *http.Request) {
	if !rp.cfg.InCookies {
		return
	}
	c, ok := rp.cookieSession(r)
	if !ok {
		return
	}
	h, err := rp.load(r.Context(), c.ID)
	if err != nil || h.version <= c.Version {
		return
	}
	if err := rp.setSession(w, r, h); err != nil {
		rp.event(r.Context(), Event{Type: EventRefreshLost, Subject: h.rec.Subject, SID: h.rec.SID, Err: err})
	}
}

// Marks in the shared store about sessions that are in cookies.

func (rp *RelyingParty) overMark(id string) string { return seal.Digest("over", rp.app, id) }

// obeyMarks ends a session in cookies if it has been ended elsewhere.
func (rp *RelyingParty) obeyMarks(ctx context.Context, h *held) error {
	ended, err := rp.marked(ctx, rp.overMark(h.id))
	if err == nil && ended.IsZero() {
		var at time.Time
		if at, err = rp.loggedOut(ctx, h.rec.Subject, h.rec.SID); !at.Before(h.rec.Issued) && !at.IsZero() {
			ended = at
		}
	}
	if err != nil {
		return rp.storeFailed(ctx, err)
	}
	if ended.IsZero() {
		return nil
	}
	return rp.end(ctx, h, ReasonLoggedOutElsewhere, sentence(ReasonLoggedOutElsewhere))
}

func (rp *RelyingParty) marked(ctx context.Context, name string) (time.Time, error) {
	return rp.store.Marked(ctx, name)
}

// loggedOut returns when the provider last said that the login, or all of the
// user's, is over.
func (rp *RelyingParty) loggedOut(ctx context.Context, sub, sid string) (time.Time, error) {
	at, err := rp.marked(ctx, rp.subjectEntry(sub))
	if err != nil || sid == "" {
		return at, err
	}
	of, err := rp.marked(ctx, rp.sidEntry(sid))
	return later(at, of), err
}
