package middleware

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
)

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

	// maxStateReturn bounds the address that a sign-in comes back to in the state
	// parameter.
	maxStateReturn = 300

	// stateTime is for how long a sign-in whose cookie is gone begins again by
	// itself: a page to sign in at may stay open all day.
	stateTime = 24 * time.Hour
)

// signIns are those under way in a browser: at the provider's page, or about to come back
// from there.
type signIns struct {
	jar    *jar
	sealer *seal.Sealer
	now    func() time.Time
	beside bool // the session is in cookies too
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
	Subject  string    `json:"sub,omitempty"` // the user that the parcel is kept for
	MaxAge   *float64  `json:"max_age,omitempty"`
	Again    bool      `json:"again,omitempty"` // it was lost once, and began again by itself
}

// places are the names of the cookies of sign-ins.
func (p *signIns) places() []string {
	n := signInPlaces
	if p.beside {
		n = signInPlacesBeside
	}
	names := make([]string, n)
	for i := range names {
		names[i] = p.jar.name + "-in-" + strconv.Itoa(i)
	}
	return names
}

// formerCookie is the name that the cookie of a sign-in had in former versions, one for
// each. Those in use at an upgrade are read until they expire.
func (p *signIns) formerCookie(state string) string {
	return p.jar.name + "-in-" + seal.Digest("state", state)[:16]
}

// remember sets the cookie of a sign-in: in any place that is free, so that tabs which
// begin at once do not all take the same one, or in that of the oldest.
func (p *signIns) remember(w http.ResponseWriter, r *http.Request, state string, s signIn) error {
	p.forgetFormer(w, r)
	s.State = seal.Digest("state", state)
	places := p.places()
	if !s.fits(signInSize) && !p.beside && s.fits(wideSignInSize) {
		return p.jar.setSealed(w, places[0], s, signInTime)
	}
	s.shorten(signInSize)
	var free []string
	oldest, at := "", time.Time{}
	for _, name := range places {
		var old signIn
		if !p.jar.sealed(r, name, &old) {
			free = append(free, name)
		} else if oldest == "" || old.Begun.Before(at) {
			oldest, at = name, old.Begun
		}
	}
	if len(free) > 0 {
		oldest = free[rand.IntN(len(free))]
	}
	return p.jar.setSealed(w, oldest, s, signInTime)
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
func (p *signIns) recall(r *http.Request, state string) (s signIn, name string, ok bool) {
	if state == "" {
		return s, "", false
	}
	hash := seal.Digest("state", state)
	for _, name := range p.places() {
		var s signIn
		if p.jar.sealed(r, name, &s) && s.State == hash {
			return s, name, true
		}
	}
	name = p.formerCookie(state)
	return s, name, p.jar.sealed(r, name, &s)
}

// forgetFormer deletes the cookies of sign-ins of former versions, but for the newest.
func (p *signIns) forgetFormer(w http.ResponseWriter, r *http.Request) {
	type former struct {
		name  string
		begun time.Time
	}
	var all []former
	places := p.places()
	for _, c := range r.Cookies() {
		if strings.HasPrefix(c.Name, p.jar.name+"-in-") && !slices.Contains(places, c.Name) {
			var old signIn
			p.jar.sealed(r, c.Name, &old) // one that does not open is the oldest
			all = append(all, former{c.Name, old.Begun})
		}
	}
	slices.SortFunc(all, func(a, b former) int { return a.begun.Compare(b.begun) })
	for _, c := range all[:min(max(0, len(all)-signInPlaces), maxForgotten)] {
		p.jar.drop(w, c.name)
	}
}

// stateOf returns the state parameter of a sign-in. It says, sealed, where the sign-in
// leads, for a browser that has lost the cookie: nobody but us can have written it, and
// no two are the same.
func (p *signIns) stateOf(s signIn) (string, error) {
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
	return p.sealer.Seal("state", plain)
}

// fromState returns what a state parameter says; ok is false if we did not write it, or if it is
// too old.
func (p *signIns) fromState(state string) (s signIn, ok bool) {
	plain, err := p.sealer.Open("state", state)
	if err != nil || json.Unmarshal(plain, &s) != nil {
		return signIn{Return: "/"}, false
	}
	if age := p.now().Sub(s.Begun); age > stateTime || age < -clockSkew {
		return signIn{Return: "/"}, false
	}
	return s, true
}
