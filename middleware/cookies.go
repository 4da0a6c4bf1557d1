package middleware

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
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

const (
	// cookiePart keeps a cookie below the 4096 bytes that browsers take, name
	// and attributes included; cookieParts keeps all of them below what servers
	// take as headers.
	cookiePart, cookieParts = 3600, 4

	// noticeTime and triedTime are for how long the next page is waited for.
	noticeTime, triedTime = 10 * time.Minute, time.Minute
)

// cookieName returns the name that the cookies of an application begin with.
func cookieName(app string, secure bool) string {
	sum := sha256.Sum256([]byte("cookie " + app))
	name := "curfew-rp-" + hex.EncodeToString(sum[:8]) // the provider may be on the same host
	if secure {
		return "__Host-" + name
	}
	return name
}

// A jar sets and reads the cookies of the application. All names begin with its own.
type jar struct {
	name   string
	secure bool // __Host- and Secure
	sealer *seal.Sealer
}

// set sets a cookie for so long; zero: until the browser ends. A negative
// life removes it.
func (j *jar) set(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: j.secure, SameSite: http.SameSiteLaxMode,
	})
}

func (j *jar) drop(w http.ResponseWriter, name string) {
	j.set(w, name, "", -time.Second)
}

// setSealed sets a cookie that only this application reads, under this name.
func (j *jar) setSealed(w http.ResponseWriter, name string, value any, life time.Duration) error {
	plain, err := plainJSON(value)
	if err != nil {
		return err
	}
	text, err := j.sealer.Seal("cookie "+name, plain)
	if err != nil {
		return err
	}
	if len(text) > cookiePart {
		return fmt.Errorf("the cookie %s would have %d bytes", name, len(text))
	}
	j.set(w, name, text, life)
	return nil
}

// sealed reads a cookie of jar.setSealed.
func (j *jar) sealed(r *http.Request, name string, value any) bool {
	c, err := r.Cookie(name)
	if err != nil {
		return false
	}
	plain, err := j.sealer.Open("cookie "+name, c.Value)
	return err == nil && json.Unmarshal(plain, value) == nil
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

// A notice is shown once. If it has a State, only on the page that the provider
// returns to with it.
type notice struct {
	Text  string `json:"text"`
	State string `json:"state,omitempty"`
}
