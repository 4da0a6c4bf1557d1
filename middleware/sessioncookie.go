package middleware

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
)

// sessionCookies are what tells the session of one browser from others: a secret, or with
// Config.InCookies all of the session.
type sessionCookies struct {
	jar      *jar
	sealer   *seal.Sealer
	sessions *sessions
	now      func() time.Time
	events   *teller
}

// find returns the session of the browser. One that is over is returned too, as
// long as something is known of it.
func (b *sessionCookies) find(r *http.Request) (*held, error) {
	none := &SignedOutError{Reason: ReasonNone}
	ctx := r.Context()
	id := ""
	if b.sessions.inCookies() {
		var err error
		if id, err = b.hydrate(r); err != nil {
			return nil, err
		}
	} else if c, err := r.Cookie(b.jar.name); err == nil {
		id = sessionID(c.Value)
	}
	if id == "" {
		return nil, none
	}
	h, err := b.sessions.load(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, seal.ErrNotOurs):
		return nil, none
	case err != nil:
		return nil, b.events.storeFailed(ctx, err)
	}
	if b.sessions.inCookies() && h.rec.EndedAt.IsZero() {
		return h, b.sessions.obeyMarks(ctx, h)
	}
	return h, nil
}

// set gives the browser a session, which has the secret.
func (b *sessionCookies) set(w http.ResponseWriter, r *http.Request, h *held, secret string) error {
	if b.sessions.inCookies() {
		return b.write(w, r, h)
	}
	b.jar.set(w, b.jar.name, secret, 0)
	return nil
}

// drop takes the session from the browser.
func (b *sessionCookies) drop(w http.ResponseWriter, r *http.Request) {
	b.jar.drop(w, b.jar.name)
	b.dropParts(w, r, 1)
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
// there, and returns its ID; empty if the browser has no session.
func (b *sessionCookies) hydrate(r *http.Request) (string, error) {
	c, ok := b.read(r)
	if !ok {
		return "", nil
	}
	s, err := b.sessions.stored(&held{id: c.ID, version: c.Version, rec: c.Record})
	if err != nil {
		return "", err
	}
	b.sessions.cache.adopt(b.now(), s)
	return c.ID, nil
}

func (b *sessionCookies) read(r *http.Request) (c cookieSession, ok bool) {
	first, err := r.Cookie(b.jar.name)
	if err != nil {
		return c, false
	}
	count, text, found := strings.Cut(first.Value, ".")
	n, err := strconv.Atoi(count)
	if !found || err != nil || n < 1 || n > cookieParts {
		return c, false
	}
	for i := 1; i < n; i++ {
		part, err := r.Cookie(b.jar.name + "-" + strconv.Itoa(i))
		if err != nil {
			return c, false
		}
		text += part.Value
	}
	plain, err := b.sealer.Open("session cookie", text)
	return c, err == nil && json.Unmarshal(plain, &c) == nil && c.Record.Format == recordFormat && c.ID != ""
}

// errTooLarge is for tokens that do not fit into cookies.
var errTooLarge = errors.New("the session does not fit into cookies: ask for fewer scopes, or keep sessions in a store")

// write writes the session into cookies.
func (b *sessionCookies) write(w http.ResponseWriter, r *http.Request, h *held) error {
	plain, err := json.Marshal(cookieSession{ID: h.id, Version: h.version, Record: h.rec})
	if err != nil {
		return err
	}
	text, err := b.sealer.Seal("session cookie", plain)
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
			b.jar.set(w, b.jar.name, strconv.Itoa(n)+"."+part, 0)
			continue
		}
		b.jar.set(w, b.jar.name+"-"+strconv.Itoa(i), part, 0)
	}
	b.dropParts(w, r, n)
	return nil
}

// dropParts removes the parts of a session in cookies from the given one on.
func (b *sessionCookies) dropParts(w http.ResponseWriter, r *http.Request, from int) {
	for i := max(1, from); i < cookieParts; i++ {
		name := b.jar.name + "-" + strconv.Itoa(i)
		if _, err := r.Cookie(name); err == nil {
			b.jar.drop(w, name)
		}
	}
}

// sync writes the session into the cookies if they have an older version of it.
func (b *sessionCookies) sync(w http.ResponseWriter, r *http.Request) {
	if !b.sessions.inCookies() {
		return
	}
	c, ok := b.read(r)
	if !ok {
		return
	}
	h, err := b.sessions.load(r.Context(), c.ID)
	if err != nil || h.version <= c.Version {
		return
	}
	if err := b.write(w, r, h); err != nil {
		b.events.event(r.Context(), Event{Type: EventRefreshLost, Subject: h.rec.Subject, SID: h.rec.SID, Err: err})
	}
}
