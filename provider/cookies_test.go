package provider_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// withCookies makes a request with a Cookie header as it is.
func (s *setup) withCookies(t testing.TB, method, address string, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	require.NoError(t, err)
	for _, line := range header {
		r.Header.Add("Cookie", line)
	}
	return r
}

// finished makes an auth request in a browser, signs the user in to it and
// returns the callback.
func (s *setup) finished(t testing.TB, b *optest.Browser, storage *optest.Storage, client, user string, extra url.Values) string {
	t.Helper()
	id := formID(t, b.Authorize(client, extra))
	require.NoError(t, storage.CheckUsernamePassword(user, optest.Password, id))
	return s.Issuer + "/authorize/callback?id=" + id
}

// Every bit of both cookies: what is not the cookie is none, and no failure.
func TestMangledCookies(t *testing.T) {
	quiet(t)
	storage := optest.NewStorage()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) { o.Storage = storage })
	b := s.Browser()
	sid := s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil))
	session := s.cookie(t, b, "curfew-session-")
	id := formID(t, b.Authorize(optest.Web, nil))
	var binding *http.Cookie
	for _, c := range s.cookies(b) {
		if s.hook.StartedHere(s.withCookies(t, http.MethodGet, s.Issuer, c.String()), s.Issuer, id) {
			binding = c
		}
	}
	require.NotNil(t, binding)
	_, err := s.hook.BrowserSession(s.withCookies(t, http.MethodGet, s.Issuer, session.String()), s.Issuer)
	require.NoError(t, err)

	flips := func(c *http.Cookie, check func(line string)) {
		for i := range len(c.Value) * 8 {
			value := []byte(c.Value)
			value[i/8] ^= 1 << (i % 8)
			check(c.Name + "=" + string(value))
		}
		for _, value := range []string{"", "1", "1..", "1." + session.Value, session.Value + "x", session.Value[:20], strings.Repeat("a", 5000),
			"1." + strings.Repeat("A", 43) + "." + sid, "2" + session.Value[1:], `"` + session.Value + `x"`, binding.Value + ".x", session.Value + "\x00"} {
			check(c.Name + "=" + value)
		}
	}
	n := 0
	flips(session, func(line string) {
		n++
		_, err := s.hook.BrowserSession(s.withCookies(t, http.MethodGet, s.Issuer, line), s.Issuer)
		require.ErrorIs(t, err, store.ErrNotFound, line)
	})
	flips(binding, func(line string) {
		n++
		require.False(t, s.hook.StartedHere(s.withCookies(t, http.MethodGet, s.Issuer, line), s.Issuer, id), line)
	})
	require.Greater(t, n, 1500)

	// And over HTTP, at each endpoint that looks at them.
	require.NoError(t, storage.CheckUsernamePassword("alice", optest.Password, id))
	i := 0
	for _, c := range []*http.Cookie{session, binding} {
		flips(c, func(line string) {
			if i++; i%23 != 0 && len(line) > 60 {
				return // a sample: each is a request or two
			}
			line = strings.Map(func(r rune) rune {
				if r < ' ' || r == 0x7f {
					return -1 // which Go's client does not send
				}
				return r
			}, line)
			r := s.Do(s.HTTP, s.withCookies(t, http.MethodGet, s.AuthorizeURL(optest.Web, nil), line))
			require.True(t, r.Status == http.StatusFound || r.Status == http.StatusBadRequest, "%d %s", r.Status, line)
			r = s.Do(s.HTTP, s.withCookies(t, http.MethodGet, s.Issuer+"/authorize/callback?id="+id, line))
			require.True(t, r.Status == http.StatusFound || r.Status == http.StatusBadRequest, "%d %s", r.Status, line)
			require.NotContains(t, r.Header.Get("Location"), "server_error", line)
			for _, set := range r.Header.Values("Set-Cookie") {
				require.NotContains(t, set, "curfew-session-", line)
			}
		})
	}
	got, err := s.store.Get(t.Context(), sid)
	require.NoError(t, err)
	require.Len(t, got.Codes, 1, "nothing joined")
}

// What one issuer gave a browser is nothing at another one, also where both share
// everything, and somebody gives it the other's name.
func TestACookieIsOfOneIssuer(t *testing.T) {
	t.Parallel()
	shared, keys := memstore.New(), provider.Keys{provider.NewKey(time.Now())}
	with := func(p *provider.Config, o *optest.Config) {
		silent(p, o)
		p.Store, p.Keys = shared, keys
	}
	a, b := start(t, limits(24*time.Hour, 0, 0, 0), with), start(t, limits(24*time.Hour, 0, 0, 0), with)
	there := a.Browser()
	a.loginIn(t, there, optest.Web, "alice", nil)
	here := b.Browser()
	b.loginIn(t, here, optest.Web, "alice", nil)
	own := b.cookie(t, here, "curfew-session-")
	foreign := a.cookie(t, there, "curfew-session-")
	require.NotEqual(t, own.Name, foreign.Name)
	renamed := own.Name + "=" + foreign.Value
	_, err := b.hook.BrowserSession(b.withCookies(t, http.MethodGet, b.Issuer, renamed), b.Issuer)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = b.hook.BrowserSession(b.withCookies(t, http.MethodGet, b.Issuer, renamed), a.Issuer)
	require.ErrorIs(t, err, store.ErrNotFound)
	begun := a.Browser()
	id := formID(t, begun.Authorize(optest.Web, nil))
	binding := a.cookie(t, begun, "curfew-login-")
	line := strings.Replace(binding.Name, strings.TrimPrefix(foreign.Name, "curfew-session-"), strings.TrimPrefix(own.Name, "curfew-session-"), 1) + "=" + binding.Value
	require.True(t, a.hook.StartedHere(a.withCookies(t, http.MethodGet, a.Issuer, binding.String()), a.Issuer, id))
	require.False(t, b.hook.StartedHere(b.withCookies(t, http.MethodGet, b.Issuer, line), b.Issuer, id))
	require.False(t, b.hook.StartedHere(b.withCookies(t, http.MethodGet, b.Issuer, binding.String()), b.Issuer, id))
}

// A cookie that was planted gives who planted it no part in what follows.
func TestPlantedCookies(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	mallory, victim := s.Browser(), s.Browser()
	begun := mallory.Authorize(optest.Web, nil)
	planted := s.cookie(t, mallory, "curfew-login-")
	evil := s.sid(t, optest.Web, s.loginIn(t, mallory, optest.Web, "mallory", nil))
	fixed := s.cookie(t, mallory, "curfew-session-")
	s.plant(victim, planted, fixed)

	sid := s.sid(t, optest.Web, s.loginIn(t, victim, optest.Web, "alice", nil))
	require.NotEqual(t, evil, sid)
	require.NotEqual(t, fixed.Value, s.cookie(t, victim, "curfew-session-").Value, "the planted secret is gone")
	got, err := s.of(t, mallory)
	require.NoError(t, err)
	require.Equal(t, evil, got.ID, "and is good for nothing else than before")

	// The victim's session has a name that Mallory's login could have had. It is
	// Alice's all the same.
	again := s.sid(t, optest.Web, ok(t, s.Code(optest.Web, mallory.SignIn(begun, "mallory"))))
	require.NotEqual(t, sid, again)
	require.Len(t, s.live(t, "alice"), 1)
	live, err := s.of(t, victim)
	require.NoError(t, err)
	require.Equal(t, sid, live.ID)
}

// The session of another user, by a cookie that names it with one's own secret.
func TestACookieWithTheIDOfAnotherSession(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	mallory := s.Browser()
	s.loginIn(t, mallory, optest.Web, "mallory", nil)
	alice := s.sid(t, optest.Web, s.loginIn(t, s.Browser(), optest.Web, "alice", nil)) // a sid is published
	own := s.cookie(t, mallory, "curfew-session-")
	secret := strings.Join(strings.Split(own.Value, ".")[:2], ".")
	_, err := s.hook.BrowserSession(s.withCookies(t, http.MethodGet, s.Issuer, own.Name+"="+secret+"."+alice), s.Issuer)
	require.ErrorIs(t, err, store.ErrNotFound)
}

// size is what the cookies of a browser come to.
func (s *setup) size(b *optest.Browser) (size int) {
	for name, c := range s.cookies(b) {
		size += len(name) + len(c.Value) + len("=; ")
	}
	return size
}

// atOnce begins logins of one browser that know nothing of each other, and returns
// their auth requests.
func (s *setup) atOnce(t testing.TB, b *optest.Browser, n int, extra url.Values) []string {
	t.Helper()
	address, err := url.Parse(s.Issuer)
	require.NoError(t, err)
	before := b.HTTP.Jar.Cookies(address)
	ids := make([]string, n)
	for i := range ids {
		r := s.withCookies(t, http.MethodGet, s.AuthorizeURL(optest.Web, extra))
		for _, c := range before {
			r.AddCookie(c)
		}
		reply := s.Do(s.HTTP, r)
		require.Equal(t, http.StatusFound, reply.Status, reply.Body)
		to, err := url.Parse(reply.Header.Get("Location"))
		require.NoError(t, err)
		ids[i] = to.Query().Get("authRequestID")
		require.NotEmpty(t, ids[i])
		b.HTTP.Jar.SetCookies(address, (&http.Response{Header: reply.Header}).Cookies())
	}
	return ids
}

// startedHere are those of some auth requests that a browser has the binding of.
func (s *setup) startedHere(t testing.TB, b *optest.Browser, ids []string) (here []string) {
	t.Helper()
	r := s.withCookies(t, http.MethodGet, s.Issuer+"/login")
	for _, c := range s.cookies(b) {
		r.AddCookie(c)
	}
	for _, id := range ids {
		if s.hook.StartedHere(r, s.Issuer, id) {
			here = append(here, id)
		}
	}
	return here
}

// Of many tabs that begin at once, none of which knows of the others, a few stay. What
// the browser sends is below what nginx takes by default, with IDs as long as may be.
func TestManyTabsAtOnce(t *testing.T) {
	t.Parallel()
	storage := optest.NewStorage()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) { o.Storage = storage })
	b := s.Browser()
	ids := s.atOnce(t, b, 60, nil)
	require.LessOrEqual(t, s.size(b), 4000)
	here := s.startedHere(t, b, ids)
	require.NotEmpty(t, here)
	require.LessOrEqual(t, len(here), 12)
	require.Contains(t, here, ids[59], "the last one is there")

	// With room for all, none is lost: each takes a place of its own.
	b = s.Browser()
	for range 12 {
		ids = append(ids, formID(t, b.Authorize(optest.Web, nil)))
	}
	require.Equal(t, ids[60:], s.startedHere(t, b, ids))

	// The longest pages wait the longest, but those that were answered go first.
	require.NoError(t, storage.CheckUsernamePassword("alice", optest.Password, ids[66]))
	require.NotEmpty(t, b.Get(s.Issuer+"/authorize/callback?id="+ids[66]).Code())
	ids = append(ids, formID(t, b.Authorize(optest.Web, nil)))
	require.Equal(t, append(ids[60:66:66], ids[67:]...), s.startedHere(t, b, ids))
	ids = append(ids, formID(t, b.Authorize(optest.Web, nil)))
	require.Equal(t, append(ids[61:66:66], ids[67:]...), s.startedHere(t, b, ids))
}

// The cookies of prompt=none, which frames of applications send while their users work,
// push no page to sign in at out, and are gone with the answer.
func TestSilentRequestsPushNobodyOut(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), silent)
	b := s.Browser()
	s.loginIn(t, b, optest.Web, "alice", nil)
	ids := make([]string, 12)
	for i := range ids {
		ids[i] = formID(t, b.Authorize(optest.Web, url.Values{"prompt": {"login"}}))
	}
	before := len(s.cookies(b))
	for range 30 {
		require.NotEmpty(t, b.Authorize(optest.Web2, url.Values{"prompt": {"none"}}).Code())
	}
	require.Len(t, s.cookies(b), before, "gone with their answers")
	require.Equal(t, ids, s.startedHere(t, b, ids))

	// Refused, or with no answer that the hook sees, they are few, and not for long.
	s.atOnce(t, b, 30, url.Values{"prompt": {"none"}})
	require.Equal(t, ids, s.startedHere(t, b, ids))
	require.LessOrEqual(t, len(s.cookies(b)), before+4)
	require.LessOrEqual(t, s.size(b), 4000)
	reply := s.Do(s.HTTP, s.withCookies(t, http.MethodGet, s.AuthorizeURL(optest.Web, url.Values{"prompt": {"none"}})))
	for _, line := range reply.Header.Values("Set-Cookie") {
		c, err := http.ParseSetCookie(line)
		require.NoError(t, err)
		require.LessOrEqual(t, c.MaxAge, 120)
	}
	_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonEndedByAdmin, "root")
	require.NoError(t, err)
	before = len(s.cookies(b))
	for range 10 {
		require.Equal(t, "login_required", b.Authorize(optest.Web2, url.Values{"prompt": {"none"}}).Error())
	}
	require.LessOrEqual(t, len(s.cookies(b)), before)
}

func TestManyTabsAndHugeCookieHeaders(t *testing.T) {
	quiet(t)
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	b := s.Browser()
	var last optest.Visit
	for range 40 {
		last = b.Authorize(optest.Web, nil)
	}
	require.LessOrEqual(t, s.size(b), 4000, "what a browser has to send stays small")
	require.NotEmpty(t, b.SignIn(last, "alice").Code())
	require.NotEmpty(t, s.cookie(t, b, "curfew-session-"), "the newest are kept")

	cookie := s.cookie(t, b, "curfew-session-")
	many := make([]string, 2000)
	for i := range many {
		many[i] = fmt.Sprintf("%s%012x=%s", strings.Replace(cookie.Name, "session", "login", 1)+"-", i, strings.Repeat("x", 200))
	}
	for name, header := range map[string][]string{
		"many of ours":     many,
		"more than go has": {strings.Repeat("a=b; ", 5000)},
		"one, long":        {cookie.Name + "=" + strings.Repeat("x", 500_000)},
		"the name alone":   {cookie.Name, cookie.Name + "=", "=" + cookie.Value, ";;;=;", "\xff=\xfe"},
		"ours at last":     {strings.Repeat("a=b; ", 500) + cookie.Name + "=" + cookie.Value},
	} {
		r := s.Do(s.HTTP, s.withCookies(t, http.MethodGet, s.AuthorizeURL(optest.Web, nil), header...))
		require.Equal(t, http.StatusFound, r.Status, "%s: %s", name, r.Body)
		require.Less(t, len(r.Header.Values("Set-Cookie")), 40, name)
		require.Equal(t, http.StatusBadRequest, s.Do(s.HTTP, s.withCookies(t, http.MethodGet, s.Issuer+"/authorize/callback?id=x", header...)).Status)
	}
}

func TestKeyRotationKeepsBrowsers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	older, newer := provider.NewKey(now.Add(-time.Minute)), provider.NewKey(now)
	shared, storage := memstore.New(), optest.NewStorage()
	at := func(keys ...provider.Key) *setup {
		return start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			o.InMemory, o.Storage = true, storage // all have one issuer
			p.Store, p.Keys = shared, keys
		})
	}
	before := at(older)
	b := before.Browser()
	sid := before.sid(t, optest.Web, before.loginIn(t, b, optest.Web, "alice", nil))
	begun := before.finished(t, b, storage, optest.Web2, "alice", nil)
	for name, keys := range map[string][]provider.Key{"added": {older, newer}, "moved": {newer, older}} {
		after := at(keys...)
		moved := after.Browser()
		moved.HTTP.Jar = b.HTTP.Jar
		got, err := after.of(t, moved)
		require.NoError(t, err, name)
		require.Equal(t, sid, got.ID)
		v := moved.Get(begun)
		require.Equal(t, sid, after.sid(t, optest.Web2, ok(t, after.Code(optest.Web2, v))), name)
		begun = after.finished(t, moved, storage, optest.Web2, "alice", nil)
	}
	// A key that is gone: the browser goes on in its session, whose secret no key
	// has to do with. Who asked for what is not known any more.
	last := at(provider.NewKey(now.Add(time.Second)))
	moved := last.Browser()
	moved.HTTP.Jar = b.HTTP.Jar
	got, err := last.of(t, moved)
	require.NoError(t, err)
	require.Equal(t, sid, got.ID)
	require.NotEqual(t, "server_error", moved.Get(begun).Error())
	require.Equal(t, sid, last.sid(t, optest.Web, last.loginIn(t, moved, optest.Web, "alice", nil)))
}

// A callback is the same by whatever method it comes.
func TestCallbacksByOtherMethods(t *testing.T) {
	t.Parallel()
	storage := optest.NewStorage()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) { o.Storage = storage })
	b := s.Browser()
	callback := s.finished(t, b, storage, optest.Web, "alice", nil)
	for _, method := range []string{http.MethodHead, http.MethodPost, http.MethodGet} {
		r, err := http.NewRequest(method, callback, nil)
		require.NoError(t, err)
		resp, err := b.HTTP.Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusFound, resp.StatusCode, method)
		require.Contains(t, resp.Header.Get("Location"), "code=", method)
	}
	session, err := s.of(t, b)
	require.NoError(t, err)
	require.Len(t, session.BrowserHash, 32, "one secret")
	// From another site's form no cookie comes along: no part in the session.
	callback = s.finished(t, b, storage, optest.Web, "alice", nil)
	r, err := http.NewRequest(http.MethodPost, callback, nil)
	require.NoError(t, err)
	reply := s.Do(s.HTTP, r)
	require.Contains(t, reply.Header.Get("Location"), "access_denied", "a session of its own, over the cap")
	require.Empty(t, reply.Header.Values("Set-Cookie"))
}

// Cookies are set however a handler writes.
func TestCookiesAreSetHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, nil)
	storage := s.hook.Storage(optest.NewStorage())
	for name, write := range map[string]func(http.ResponseWriter){
		"nothing":     func(http.ResponseWriter) {},
		"a body":      func(w http.ResponseWriter) { _, _ = w.Write([]byte("x")) },
		"an empty":    func(w http.ResponseWriter) { _, _ = w.Write(nil) },
		"a status":    func(w http.ResponseWriter) { w.WriteHeader(http.StatusFound) },
		"twice":       func(w http.ResponseWriter) { w.WriteHeader(http.StatusFound); w.WriteHeader(http.StatusOK) },
		"early hints": func(w http.ResponseWriter) { w.WriteHeader(http.StatusEarlyHints); w.WriteHeader(http.StatusFound) },
		"a flush":     func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"a redirect":  func(w http.ResponseWriter) { w.Header().Set("Location", "/"); w.WriteHeader(http.StatusSeeOther) },
	} {
		server := httptest.NewServer(s.hook.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx := op.ContextWithIssuer(r.Context(), s.Issuer)
			_, err := storage.CreateAuthRequest(ctx, &oidc.AuthRequest{ClientID: optest.Web, ResponseType: "code", RedirectURI: optest.RedirectURI}, "")
			if err != nil {
				panic(err)
			}
			http.SetCookie(w, &http.Cookie{Name: "own", Value: "kept"})
			write(w)
		})))
		resp, err := server.Client().Transport.RoundTrip(httptest.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		server.Close()
		var names []string
		for _, c := range resp.Cookies() {
			names = append(names, c.Name)
		}
		require.Len(t, names, 2, "%s: %v", name, names)
		require.Equal(t, "own", names[0], name)
		require.Contains(t, names[1], "curfew-login-", name)
	}
}

// Where the issuer is https, nobody but its host can set the cookies.
func TestTheCookiesOfHTTPS(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, nil)
	storage := s.hook.Storage(optest.NewStorage())
	for issuer, secure := range map[string]bool{
		"https://login.example": true, "https://127.0.0.1": true, "http://login.example": true, "http://127.0.0.1.example": true,
		"http://127.0.0.1:9998": false, "http://[::1]:9998": false, "http://localhost": false, "http://op.localhost:1": false,
	} {
		w := httptest.NewRecorder()
		s.hook.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx := op.ContextWithIssuer(r.Context(), issuer)
			_, err := storage.CreateAuthRequest(ctx, &oidc.AuthRequest{ClientID: optest.Web, ResponseType: "code", RedirectURI: optest.RedirectURI}, "")
			require.NoError(t, err)
		})).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		c := w.Result().Cookies()[0]
		require.Equal(t, secure, c.Secure, issuer)
		require.Equal(t, secure, strings.HasPrefix(c.Name, "__Host-curfew-login-"), issuer)
		require.True(t, c.HttpOnly)
		require.Equal(t, http.SameSiteLaxMode, c.SameSite)
		require.Equal(t, "/", c.Path)
		require.Equal(t, 86400, c.MaxAge)
		require.Empty(t, c.Domain)
	}
}
