package provider

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// One browser is one session. Two kinds of cookies make it so:
//
//   - A binding is set at the authorization request, one for each. It says that
//     this browser began it, and what the application asked for. op's callback is
//     bound to nothing: without the binding, whoever learns its address gets an
//     answer, but no part in a session of the browser that signed in. Bindings have
//     a fixed number of names: of many tabs that begin at once none sees the
//     bindings of the others, and what is beyond 8 kB nginx answers with an error,
//     at every page, unless it is told otherwise.
//   - The session cookie is set at the callback. It holds the session's ID and a
//     secret, of which the session keeps the hash.
//
// Both are of the browser's own session (no Max-Age for the session cookie):
// the limits are kept by the session, not by a cookie's age.

const (
	bindingPrefix = "curfew_lb_" // of the seal

	// bindingLife is how long a login may take from the authorization request
	// to the callback to be bound: a page to sign in at may stay open all day.
	bindingLife = 24 * time.Hour

	// silentLife is how long the provider may take to answer prompt=none.
	silentLife = 2 * time.Minute

	// openPlaces is how many logins one browser may have under way, in as many
	// tabs. With one more the oldest is forgotten. Those with prompt=none, which no
	// user waits for, have silentPlaces of their own and push none of these out. With
	// IDs of auth requests that are longer than longBoundID there are half as many, or
	// all of them would not fit into 8 kB.
	openPlaces, silentPlaces, longBoundID = 12, 4, 100

	// maxForgotten bounds how many cookies one response deletes. All headers of a
	// response have to fit into 4 kB for nginx.
	maxForgotten = 12

	// maxBindings bounds how many are looked at: those of former versions too, each
	// of which has a name of its own.
	maxBindings = openPlaces + silentPlaces + 32

	// maxBoundID bounds the ID of an auth request that is bound: it is in a
	// cookie.
	maxBoundID = 256

	// maxSecrets bounds how many secrets a session cookie can have at once, one
	// for each login under way; see store.Session.BrowserHash.
	maxSecrets = openPlaces
)

// cookieNames are the names of an issuer's cookies. Several issuers may live on
// one host. With https nothing but this host can set them (RFC 6265bis section
// 4.1.3.2); http on loopback has no such names.
type cookieNames struct {
	session string
	binding string // the beginning of it
	secure  bool
}

func cookieNamesOf(issuer string) cookieNames {
	sum := digest("issuer", issuer)
	of := hex.EncodeToString(sum[:4])
	n := cookieNames{session: sessionCookie + of, binding: "curfew-login-" + of + "-", secure: !isLoopbackHTTP(issuer)}
	if n.secure {
		n.session, n.binding = "__Host-"+n.session, "__Host-"+n.binding
	}
	return n
}

// places are the names that a binding may have.
func (n cookieNames) places(b *binding) []string {
	kind, count := "", openPlaces
	if b.Silent {
		kind, count = "s", silentPlaces
	}
	if len(b.Request) > longBoundID {
		count /= 2
	}
	names := make([]string, count)
	for i := range names {
		names[i] = n.binding + kind + strconv.Itoa(i)
	}
	return names
}

// formerName is the name of the binding of one auth request in former versions. Those
// in use at an upgrade are read until they expire.
func (n cookieNames) formerName(id string) string {
	sum := digest("auth request", id)
	return n.binding + hex.EncodeToString(sum[:6])
}

// mayBe reports whether a binding may have this name.
func (n cookieNames) mayBe(name string, b *binding) bool {
	return slices.Contains(n.places(b), name) || name == n.formerName(b.Request)
}

func isLoopbackHTTP(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "http" {
		return false
	}
	host := u.Hostname()
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && ip.IsLoopback()
}

func (n cookieNames) cookie(name, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: maxAge,
		Secure: n.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}

// browserState is what a request and its response have to do with cookies. Only
// requests that need it have one.
type browserState struct {
	cookies []*http.Cookie // of the request
	set     []*http.Cookie // for the response
}

// browserOf returns the state of a request; nil where there are no cookies:
// they are switched off, or the call did not come by HTTP.
func (h *Hook) browserOf(req *request) *browserState {
	if h.cfg.NoBrowserSession || req == nil || req.http == nil {
		return nil
	}
	if req.browser == nil {
		req.browser = &browserState{cookies: req.http.Cookies()}
	}
	return req.browser
}

// setCookie sets a cookie in the response: the last one of a name counts.
func (b *browserState) setCookie(c *http.Cookie) {
	b.set = slices.DeleteFunc(b.set, func(old *http.Cookie) bool { return old.Name == c.Name })
	b.set = append(b.set, c)
}

// setCookies adds the cookies to the headers of a response.
func (req *request) setCookies(h http.Header) {
	if req.browser == nil {
		return
	}
	for _, c := range req.browser.set {
		h.Add("Set-Cookie", c.String())
	}
}

// A binding is what the browser keeps of an authorization request: sealed, so
// that nobody can make or change one.
type binding struct {
	Request string    // the ID of the auth request
	Made    time.Time // when the application asked
	Silent  bool      // prompt=none
	MaxAge  int64     // seconds; negative: not asked for. prompt=login is 0 (OpenID Connect Core 1.0 section 3.1.2.1)
	Hint    []byte    // hash of the id_token_hint's subject; nil: there was none
	Done    bool      // the callback has answered

	name string // of the cookie that it was found in; not sealed
}

const (
	bindingSilent = 1 << iota
	bindingMaxAge
	bindingHint
	bindingDone
)

func issuerMark(issuer string) string {
	sum := digest("binding", issuer)
	return string(sum[:8])
}

func hintMark(subject store.Subject) []byte {
	sum := digest("hint", subject.Issuer, subject.ID)
	return sum[:16]
}

func (h *Hook) sealBinding(issuer string, b binding) string {
	var flags uint64
	if b.Silent {
		flags |= bindingSilent
	}
	if b.MaxAge >= 0 {
		flags |= bindingMaxAge
	}
	if b.Hint != nil {
		flags |= bindingHint
	}
	if b.Done {
		flags |= bindingDone
	}
	w := seal.NewRecord()
	w.Raw([]byte(issuerMark(issuer)))
	w.Text(b.Request)
	w.Time(b.Made)
	w.Number(flags)
	if b.MaxAge >= 0 {
		w.Number(uint64(b.MaxAge))
	}
	w.Raw(b.Hint)
	return h.ring.Seal(bindingPrefix, w.Bytes())
}

func (h *Hook) openBinding(issuer, text string, now time.Time) (binding, error) {
	record, err := h.ring.Open(bindingPrefix, text, now)
	if err != nil {
		return binding{}, err
	}
	d := seal.ReadRecord(record)
	mark := d.Raw(8)
	b := binding{Request: d.Text(), Made: d.Time(), MaxAge: -1}
	flags := d.Number()
	b.Silent, b.Done = flags&bindingSilent != 0, flags&bindingDone != 0
	if flags&bindingMaxAge != 0 {
		b.MaxAge = int64(min(d.Number(), math.MaxInt64))
	}
	if flags&bindingHint != 0 {
		b.Hint = []byte(d.Raw(16))
	}
	if !d.Done() || mark != issuerMark(issuer) {
		return binding{}, seal.ErrBroken
	}
	if age := now.Sub(b.Made); age >= bindingLife || age < -bindingLife {
		return binding{}, seal.ErrBroken
	}
	return b, nil
}

// bind sets the binding of a new auth request. asked is what the application
// asked for, and hint the user whom its id_token_hint names; empty: none.
func (c *core) bind(ctx context.Context, asked *oidc.AuthRequest, hint, id string) {
	h := c.h
	state := h.browserOf(h.requestFrom(ctx))
	if state == nil || len(id) > maxBoundID {
		return
	}
	issuer := op.IssuerFromContext(ctx)
	names := cookieNamesOf(issuer)
	b := binding{Request: id, Made: h.now(), MaxAge: -1, Silent: slices.Contains(asked.Prompt, oidc.PromptNone)}
	if asked.MaxAge != nil {
		b.MaxAge = int64(min(uint64(*asked.MaxAge), math.MaxInt64))
	}
	if slices.Contains(asked.Prompt, oidc.PromptLogin) {
		b.MaxAge = 0
	}
	if hint != "" {
		b.Hint = hintMark(store.Subject{Issuer: issuer, ID: hint})
	}
	life := bindingLife
	if b.Silent {
		life = silentLife
	}
	cookie := names.cookie(h.placeFor(state, issuer, names, &b), h.sealBinding(issuer, b), int(life/time.Second))
	state.setCookie(cookie)
	state.cookies = append(state.cookies, cookie) // the answer may come in this very response
}

// bindings returns the good ones among the browser's bindings, the oldest first,
// and the names of the others.
func (h *Hook) bindings(state *browserState, issuer string, names cookieNames) (good []binding, bad []string) {
	now := h.now()
	// Browsers send the oldest cookies first: those of former versions.
	cookies := slices.SortedStableFunc(slices.Values(state.cookies), func(a, b *http.Cookie) int { return cmp.Compare(len(a.Name), len(b.Name)) })
	for _, cookie := range cookies {
		if !strings.HasPrefix(cookie.Name, names.binding) {
			continue
		}
		if len(good)+len(bad) >= maxBindings {
			break // a browser of ours does not have so many
		}
		b, err := h.openBinding(issuer, cookie.Value, now)
		if err != nil || !names.mayBe(cookie.Name, &b) {
			bad = append(bad, cookie.Name)
			continue
		}
		b.name = cookie.Name
		good = append(good, b)
	}
	slices.SortFunc(good, func(a, b binding) int {
		if n := a.Made.Compare(b.Made); n != 0 {
			return n
		}
		return strings.Compare(a.Request, b.Request)
	})
	return good, bad
}

// placeFor returns the name for a new binding: any that is free, so that tabs which
// begin at once do not all take the same one. If none is, the binding that is least
// needed makes place: one that the callback has answered, or the oldest. What is
// neither good nor in a place is deleted.
func (h *Hook) placeFor(state *browserState, issuer string, names cookieNames, b *binding) string {
	good, gone := h.bindings(state, issuer, names)
	places := names.places(b)
	gone = slices.DeleteFunc(gone, func(name string) bool { return slices.Contains(places, name) })
	good = slices.DeleteFunc(good, func(other binding) bool { return other.Silent != b.Silent })
	slices.SortStableFunc(good, func(a, b binding) int { return cmp.Compare(doneFirst(a), doneFirst(b)) })
	free := slices.DeleteFunc(places, func(name string) bool {
		return slices.ContainsFunc(good, func(b binding) bool { return b.name == name })
	})
	for ; len(good) >= len(names.places(b)); good = good[1:] {
		if least := good[0].name; slices.Contains(names.places(b), least) {
			free = append(free, least)
		} else {
			gone = append(gone, least) // of a former version
		}
	}
	for _, name := range gone[:min(len(gone), maxForgotten)] {
		state.setCookie(names.cookie(name, "", -1))
	}
	return free[mathrand.IntN(len(free))]
}

func doneFirst(b binding) int {
	if b.Done {
		return 0
	}
	return 1
}

// boundBrowser reports whether a request comes from the browser that started the
// auth request, and returns what it keeps of it. What cannot be opened is no
// binding.
func (h *Hook) boundBrowser(ctx context.Context, req *request, authRequestID string) (binding, bool) {
	state := h.browserOf(req)
	if state == nil {
		return binding{}, false
	}
	return h.bindingIn(state.cookies, op.IssuerFromContext(ctx), authRequestID)
}

func (h *Hook) bindingIn(cookies []*http.Cookie, issuer, authRequestID string) (binding, bool) {
	good, _ := h.bindings(&browserState{cookies: cookies}, issuer, cookieNamesOf(issuer))
	for _, b := range good {
		if b.Request == authRequestID {
			return b, true
		}
	}
	return binding{}, false
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
	_, ok := h.bindingIn(r.Cookies(), issuer, authRequestID)
	return ok
}

// refuses returns why a login is not what the application asked for; nil if it
// is. An authentication must be as new as max_age says, counted from the request:
// who is asked for a consent may take their time. A provider that gives no
// auth_time is believed.
func (b *binding) refuses(subject store.Subject, authTime time.Time) *refusedError {
	if b.Hint != nil && subtle.ConstantTimeCompare(b.Hint, hintMark(subject)) == 0 {
		return &refusedError{text: "another user is signed in than id_token_hint names", over: true}
	}
	const ages = int64(100 * 365 * 24 * time.Hour / time.Second) // no authentication is older
	if b.MaxAge < 0 || b.MaxAge >= ages || authTime.IsZero() {
		return nil
	}
	at := authTime.UTC().Truncate(time.Microsecond)
	since := b.Made.Add(-time.Duration(b.MaxAge) * time.Second)
	if at.Nanosecond() == 0 { // a provider that keeps whole seconds, as the claim auth_time does
		since = since.Truncate(time.Second)
	}
	if at.Before(since) {
		return &refusedError{text: "the user did not sign in again as prompt or max_age demands", over: true}
	}
	return nil
}

// A browserSecret is what a session cookie holds.
type browserSecret struct {
	sid    string
	secret [32]byte
}

// maxSIDLen bounds what is looked up: an ID of a session is shorter.
const maxSIDLen = 64

func (b *browserSecret) text() string {
	return "1." + base64.RawURLEncoding.EncodeToString(b.secret[:]) + "." + b.sid
}

func parseBrowserSecret(text string) (b browserSecret, ok bool) {
	version, rest, ok := strings.Cut(text, ".")
	secret, sid, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || version != "1" || len(secret) > 64 || sid == "" || len(sid) > maxSIDLen {
		return b, false
	}
	raw, err := seal.Decode(secret)
	if err != nil || len(raw) != len(b.secret) {
		return b, false
	}
	b.sid = sid
	copy(b.secret[:], raw)
	return b, true
}

// hash is how the secret appears in a store.
func (b *browserSecret) hash() []byte {
	sum := sha256.Sum256(b.secret[:])
	return sum[:]
}

// holdsSecret reports whether a hash is one of those of a session's cookie.
func holdsSecret(s *store.Session, hash []byte) bool {
	found := 0
	for have := s.BrowserHash; len(have) >= sha256.Size; have = have[sha256.Size:] {
		found |= subtle.ConstantTimeCompare(have[:sha256.Size], hash)
	}
	return found == 1
}

// cookieSession returns the session of the browser's session cookie, as it is
// now, and the hash of the secret. If there is none the error wraps
// store.ErrNotFound.
func (h *Hook) cookieSession(ctx context.Context, cookies []*http.Cookie, issuer string) (store.Session, []byte, error) {
	name := cookieNamesOf(issuer).session
	i := slices.IndexFunc(cookies, func(c *http.Cookie) bool { return c.Name == name })
	if i < 0 {
		return store.Session{}, nil, errNoBrowserSession
	}
	held, ok := parseBrowserSecret(cookies[i].Value)
	if !ok {
		return store.Session{}, nil, errNoBrowserSession
	}
	s, err := h.get(ctx, held.sid)
	if err != nil {
		return store.Session{}, nil, err
	}
	hash := held.hash()
	if s.Subject.Issuer != issuer || !holdsSecret(&s, hash) {
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
	s, _, err := h.cookieSession(ctx, state.cookies, op.IssuerFromContext(ctx))
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

// A browserJoin gives a session the cookie of the browser that signs in to it.
type browserJoin struct {
	binding binding
	shown   []byte // hash of the secret that the browser showed; nil: none
	next    browserSecret
}

func newBrowserJoin(b binding, shown []byte) *browserJoin {
	j := &browserJoin{binding: b, shown: shown}
	rand.Read(j.next.secret[:])
	return j
}

// enter notes in a session which secret its browser holds from now on. A new
// authentication makes a new secret, and the old one is void. A browser that
// cannot show one was given it by a callback that ran at the same time, or whose
// answer was lost: both secrets are good then, or the cookie that arrives last
// might be the one that is void.
func (j *browserJoin) enter(s *store.Session, renewed bool) {
	shown := j.shown != nil && holdsSecret(s, j.shown)
	switch {
	case shown && !renewed:
	case shown:
		s.BrowserHash = j.next.hash()
	default:
		hashes := slices.Concat(s.BrowserHash, j.next.hash())
		s.BrowserHash = hashes[max(0, len(hashes)-maxSecrets*sha256.Size):]
	}
}

// keep sets the session cookie if the session took its secret, and lets the
// binding go once the code is late: until then the callback may be loaded again. That
// of prompt=none has gone with its answer.
func (h *Hook) keep(ctx context.Context, req *request, s *store.Session, j *browserJoin) {
	issuer := op.IssuerFromContext(ctx)
	names := cookieNamesOf(issuer)
	if j.next.sid = s.ID; holdsSecret(s, j.next.hash()) {
		req.browser.setCookie(names.cookie(names.session, j.next.text(), 0))
	}
	done := j.binding
	if done.Silent {
		return
	}
	done.Done = true
	life := max(1, int(h.cfg.CodeLifetime/time.Second))
	req.browser.setCookie(names.cookie(done.name, h.sealBinding(issuer, done), life))
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
		req.browser.setCookie(cookieNamesOf(a.subject.Issuer).cookie(b.name, "", -1))
	}
	if refused := b.refuses(a.subject, a.authTime); refused != nil {
		return h.notAsAsked(ctx, a, refused)
	}
	if native && !a.silent {
		return nil // each of its logins is its own
	}
	issuer := a.subject.Issuer
	s, shown, err := h.cookieSession(ctx, req.browser.cookies, issuer)
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
	a.browser = newBrowserJoin(b, shown)
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
	tabs, _ := h.bindings(req.browser, issuer, cookieNamesOf(issuer))
	if i := slices.IndexFunc(tabs, func(b binding) bool { return !b.Done || b.Request == root }); i >= 0 {
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
