package provider_test

import (
	"errors"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// silent is a provider whose own sign-on the hook knows nothing of but what its
// own cookies say.
func silent(_ *provider.Config, o *optest.Config) {
	o.Storage = optest.NewStorage()
	o.Storage.SSO = true
}

func silentInMemory(p *provider.Config, o *optest.Config) {
	silent(p, o)
	inMemory(p, o)
}

// cookies are what a browser keeps for the provider, by name.
func (s *setup) cookies(b *optest.Browser) map[string]*http.Cookie { return s.Cookies(b) }

// cookie returns the one cookie of a browser whose name begins so.
func (s *setup) cookie(t testing.TB, b *optest.Browser, prefix string) *http.Cookie {
	t.Helper()
	var found *http.Cookie
	for name, c := range s.cookies(b) {
		if strings.HasPrefix(name, prefix) {
			require.Nil(t, found, "two cookies %s", prefix)
			found = c
		}
	}
	require.NotNil(t, found, "no cookie %s", prefix)
	return found
}

// plant puts cookies into a browser.
func (s *setup) plant(b *optest.Browser, cookies ...*http.Cookie) { s.Plant(b, cookies...) }

// clear empties a browser's cookies.
func clearCookies(b *optest.Browser) { b.HTTP.Jar, _ = cookiejar.New(nil) }

// of asks for the session of a browser as the provider's own page would.
func (s *setup) of(t testing.TB, b *optest.Browser) (store.Session, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/login", nil)
	require.NoError(t, err)
	for _, c := range s.cookies(b) {
		r.AddCookie(c)
	}
	return s.hook.BrowserSession(r, s.Issuer)
}

func (s *setup) loginIn(t testing.TB, b *optest.Browser, client, user string, extra url.Values) optest.Reply {
	t.Helper()
	v := b.Login(client, user, extra)
	require.NotEmpty(t, v.Code(), "%d %s %s", v.Status, v.URL, v.Description())
	return ok(t, s.Code(client, v))
}

// Rule 3: whatever else happens in a browser that is signed in, it is one
// session, and takes one slot.
func TestOneBrowserIsOneSession(t *testing.T) {
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) { o.Embedding = embedding })
			b := s.Browser()
			first := s.loginIn(t, b, optest.Web, "alice", nil)
			sid := s.sid(t, optest.Web, first)
			secret := s.cookie(t, b, "curfew-session-").Value

			second := s.loginIn(t, b, optest.Web2, "alice", nil)
			require.Equal(t, sid, s.sid(t, optest.Web2, second), "a second application joins")
			for _, extra := range []url.Values{{"prompt": {"login"}}, {"max_age": {"0"}}, {"max_age": {"1"}}, {"acr_values": {"2"}}} {
				again := s.loginIn(t, b, optest.Web, "alice", extra)
				require.Equal(t, sid, s.sid(t, optest.Web, again), "%v", extra)
			}
			v := b.Login(optest.SPA, "alice", nil)
			for range 3 { // a callback that is loaded again, and a code that is sent again
				require.NotEmpty(t, b.Get(v.Callback).Code())
				require.Equal(t, sid, s.sid(t, optest.SPA, ok(t, s.Code(optest.SPA, v))))
				v = b.Login(optest.SPA, "alice", nil)
			}
			live := s.live(t, "alice")
			require.Len(t, live, 1)
			require.Len(t, s.seen(provider.EventStarted), 1)
			require.Empty(t, s.seen(provider.EventEnded))
			require.NotEqual(t, secret, s.cookie(t, b, "curfew-session-").Value, "a new secret for each authentication")
			require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error(), "another browser is another session")
			ok(t, s.Refresh(optest.Web, first.RefreshToken()))
			ok(t, s.Refresh(optest.Web2, second.RefreshToken()))
			require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
			refusedFor(t, s.Refresh(optest.Web2, second.RefreshToken()), policy.ReasonEndedByAdmin)
		})
	}
}

// A cap on the sessions of a client counts those that begin in the browser of
// another one, too: no login gets round it by joining a session that the cap does
// not count. Two tabs that sign in at once are no way round it either.
func TestNoCapIsGotRoundByJoining(t *testing.T) {
	t.Parallel()
	account := limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse)
	account.Clients = map[string]policy.Limits{optest.Web: {Concurrent: policy.Unlimited[int]()}}
	storage := optest.NewStorage()
	s := start(t, account, func(_ *provider.Config, o *optest.Config) { o.Storage = storage })
	for i := range 3 {
		b := s.Browser()
		free := s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil))
		v := b.Login(optest.Web2, "alice", nil)
		if i > 0 {
			require.Equal(t, "access_denied", v.Error(), "the cap of one is reached")
			require.Contains(t, v.Description(), "used=1 max=1")
			continue
		}
		require.NotEqual(t, free, s.sid(t, optest.Web2, ok(t, s.Code(optest.Web2, v))))
		require.Equal(t, free, s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil)), "the cookie is that of the first")
	}
	_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonEndedByAdmin, "root")
	require.NoError(t, err)
	for range 2 {
		b := s.Browser()
		callbacks := []string{s.finished(t, b, storage, optest.Web, "alice", nil), s.finished(t, b, storage, optest.Web2, "alice", nil)}
		before := slices.Collect(maps.Values(s.cookies(b)))
		first := b.Get(callbacks[0])
		clearCookies(b)
		s.plant(b, before...) // the second was sent before the answer to the first came
		second := b.Get(callbacks[1])
		require.NotEqual(t, s.sid(t, optest.Web, ok(t, s.Code(optest.Web, first))), s.sid(t, optest.Web2, ok(t, s.Code(optest.Web2, second))))
		_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonEndedByAdmin, "root")
		require.NoError(t, err)
	}
}

func TestReauthenticationKeepsTheSessionOfTheBrowser(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(4*time.Hour, time.Hour, 1, policy.Refuse), inMemory)
		b := s.Browser()
		r := s.loginIn(t, b, optest.Web, "alice", nil)
		sid := s.sid(t, optest.Web, r)
		old := s.cookie(t, b, "curfew-session-")
		for range 3 {
			time.Sleep(59 * time.Minute)
			r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		}
		time.Sleep(59 * time.Minute)
		again := s.loginIn(t, b, optest.Web, "alice", url.Values{"prompt": {"login"}})
		require.Equal(t, sid, s.sid(t, optest.Web, again))
		live := s.live(t, "alice")
		require.Len(t, live, 1)
		require.Equal(t, time.Now().UTC(), live[0].Authenticated.UTC(), "new limits")
		require.Len(t, live[0].BrowserHash, 32)

		thief := s.Browser()
		s.plant(thief, old)
		_, err := s.of(t, thief)
		require.ErrorIs(t, err, store.ErrNotFound, "the old secret is void")
		require.Equal(t, "access_denied", thief.Login(optest.Web, "alice", nil).Error(), "and joins nothing")
		got, err := s.of(t, b)
		require.NoError(t, err)
		require.Equal(t, sid, got.ID)
	})
}

func TestAnotherUserInTheSameBrowserStartsTheirOwn(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), nil)
	b := s.Browser()
	alice := s.loginIn(t, b, optest.Web, "alice", nil)
	bob := s.loginIn(t, b, optest.Web, "bob", nil)
	require.NotEqual(t, s.sid(t, optest.Web, alice), s.sid(t, optest.Web, bob))
	require.Len(t, s.live(t, "alice"), 1, "nobody but Alice ends her session")
	require.Len(t, s.live(t, "bob"), 1)
	ok(t, s.Refresh(optest.Web, alice.RefreshToken()))
	got, err := s.of(t, b)
	require.NoError(t, err)
	require.Equal(t, s.subject("bob"), got.Subject, "the browser is the one's who signed in last")
	require.Equal(t, s.sid(t, optest.Web, bob), s.sid(t, optest.Web2, s.loginIn(t, b, optest.Web2, "bob", nil)))
}

func TestNativeClientsNeverJoin(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	b := s.Browser()
	web := s.loginIn(t, b, optest.Web, "alice", nil)
	before := s.cookie(t, b, "curfew-session-").Value
	seen := map[string]bool{s.sid(t, optest.Web, web): true}
	for range 2 {
		sid := s.sid(t, optest.Native, s.loginIn(t, b, optest.Native, "alice", nil))
		require.False(t, seen[sid])
		seen[sid] = true
	}
	require.Len(t, s.live(t, "alice"), 3)
	require.Equal(t, before, s.cookie(t, b, "curfew-session-").Value, "the browser's cookie stays")
	require.Equal(t, s.sid(t, optest.Web, web), s.sid(t, optest.Web2, s.loginIn(t, b, optest.Web2, "alice", nil)))
}

// op's callback is bound to nothing: whoever learns its address gets an answer,
// and nothing else.
func TestAStolenCallbackGivesNoCookieAndJoinsNothing(t *testing.T) {
	t.Parallel()
	storage := optest.NewStorage()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) { o.Storage = storage })
	victim, thief := s.Browser(), s.Browser()
	at := victim.Authorize(optest.Web, nil)
	id := formID(t, at)
	require.NoError(t, storage.CheckUsernamePassword("alice", optest.Password, id))
	callback := s.Issuer + "/authorize/callback?id=" + id
	stolen := thief.Get(callback)
	require.NotEmpty(t, stolen.Code(), "as op has it")
	require.Empty(t, s.cookies(thief))
	require.Empty(t, stolen.Header.Values("Set-Cookie"))
	_, err := s.of(t, thief)
	require.ErrorIs(t, err, store.ErrNotFound)

	// In the victim's browser it goes on, in the same slot.
	v := victim.Get(callback)
	ok(t, s.Code(optest.Web, v))
	require.Len(t, s.live(t, "alice"), 1)
	got, err := s.of(t, victim)
	require.NoError(t, err)
	require.Equal(t, s.live(t, "alice")[0].ID, got.ID)

	// The thief's own session is none that a stolen callback joins.
	mallory := s.loginIn(t, thief, optest.Web, "mallory", nil)
	id = formID(t, victim.Authorize(optest.Web, nil))
	require.NoError(t, storage.CheckUsernamePassword("mallory", optest.Password, id))
	before := s.cookie(t, thief, "curfew-session-").Value
	v = thief.Get(s.Issuer + "/authorize/callback?id=" + id)
	require.NotEqual(t, s.sid(t, optest.Web, mallory), s.sid(t, optest.Web, ok(t, s.Code(optest.Web, v))))
	require.Equal(t, before, s.cookie(t, thief, "curfew-session-").Value)
}

// formID returns the auth request at whose sign-in page a visit stands.
func formID(t testing.TB, v optest.Visit) string {
	t.Helper()
	require.True(t, v.AtForm(), "%d %s", v.Status, v.Body)
	u, err := url.Parse(v.URL)
	require.NoError(t, err)
	id := u.Query().Get("authRequestID")
	require.NotEmpty(t, id)
	return id
}

// The page to sign in at can know whether its address was sent to somebody.
func TestStartedHere(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, nil)
	b, other := s.Browser(), s.Browser()
	id := formID(t, b.Authorize(optest.Web, nil))
	other.Authorize(optest.Web, nil)
	// One's own binding under the name of another login's.
	renamed := s.cookie(t, b, "curfew-login-").Name + "=" + s.cookie(t, other, "curfew-login-").Value
	require.False(t, s.hook.StartedHere(s.withCookies(t, http.MethodGet, s.Issuer, renamed), s.Issuer, id))
	for browser, want := range map[*optest.Browser]bool{b: true, other: false} {
		r, err := http.NewRequest(http.MethodGet, s.Issuer+"/login", nil)
		require.NoError(t, err)
		for _, c := range s.cookies(browser) {
			r.AddCookie(c)
		}
		require.Equal(t, want, s.hook.StartedHere(r, s.Issuer, id))
		require.False(t, s.hook.StartedHere(r, "https://b.example", id))
		require.False(t, s.hook.StartedHere(r, s.Issuer, id+"x"))
	}
}

// Two tabs of a browser that has no session yet.
func TestTabsThatSignInAtOnceAreOneSession(t *testing.T) {
	for name, cap := range map[string]int{"no cap": 0, "cap of one": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storage := optest.NewStorage()
			s := start(t, limits(24*time.Hour, 2*time.Hour, cap, policy.Refuse), func(_ *provider.Config, o *optest.Config) { o.Storage = storage })
			for range 5 {
				b := s.Browser()
				callbacks := make([]string, 6)
				for i := range callbacks {
					id := formID(t, b.Authorize(optest.Web, nil))
					require.NoError(t, storage.CheckUsernamePassword("alice", optest.Password, id))
					callbacks[i] = s.Issuer + "/authorize/callback?id=" + id
				}
				visits := make([]optest.Visit, len(callbacks))
				parallel(len(callbacks), func(i int) { visits[i] = b.Get(callbacks[i]) })
				sids := map[string]bool{}
				for _, v := range visits {
					require.NotEmpty(t, v.Code(), v.Description())
					sids[s.sid(t, optest.Web, ok(t, s.Code(optest.Web, v)))] = true
				}
				require.Len(t, sids, 1)
				require.Len(t, s.live(t, "alice"), 1)
				// Whichever answer came last, the browser holds the session.
				got, err := s.of(t, b)
				require.NoError(t, err)
				require.True(t, sids[got.ID])
				require.True(t, sids[s.sid(t, optest.Web2, s.loginIn(t, b, optest.Web2, "alice", nil))])
				require.NoError(t, s.hook.End(t.Context(), got.ID, policy.ReasonLogout, ""))
			}
		})
	}
}

// Tabs of a browser that has a session, in each of which the user is asked again:
// each makes the secret of the others void while they are under way.
func TestTabsThatReauthenticateAtOnceAreOneSession(t *testing.T) {
	t.Parallel()
	storage := optest.NewStorage()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) { o.Storage = storage })
	b := s.Browser()
	sid := s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil))
	for range 10 {
		callbacks := make([]string, 5)
		for i := range callbacks {
			callbacks[i] = s.finished(t, b, storage, optest.Web, "alice", url.Values{"prompt": {"login"}})
		}
		visits := make([]optest.Visit, len(callbacks))
		parallel(len(callbacks), func(i int) { visits[i] = b.Get(callbacks[i]) })
		for _, v := range visits {
			require.Equal(t, sid, s.sid(t, optest.Web, ok(t, s.Code(optest.Web, v))), v.Description())
		}
		got, err := s.of(t, b)
		require.NoError(t, err)
		require.Equal(t, sid, got.ID)
		require.Equal(t, sid, s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil)))
		live := s.live(t, "alice")
		require.Len(t, live, 1)
		require.Len(t, live[0].BrowserHash, 32, "one secret again")
	}
}

// A tab that was open while another one joined and its session ended: who enters
// their password in it is signed in.
func TestATabFromBeforeTheEndSignsIn(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), nil)
	b := s.Browser()
	sid := s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil))
	tab := b.Authorize(optest.Web, nil)
	require.Equal(t, sid, s.sid(t, optest.Web2, s.loginIn(t, b, optest.Web2, "alice", nil)))
	require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByUser, "alice"))
	next := s.sid(t, optest.Web, ok(t, s.Code(optest.Web, b.SignIn(tab, "alice"))))
	require.NotEqual(t, sid, next)
	require.Equal(t, next, s.sid(t, optest.Web2, s.loginIn(t, b, optest.Web2, "alice", nil)))
	require.Len(t, s.live(t, "alice"), 1)
}

// Two tabs whose authorization requests crossed: neither saw the other's cookie.
func TestTabsThatBeginAtOnceAreOneSession(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), nil)
	b, tab := s.Browser(), s.Browser()
	first, second := b.Authorize(optest.Web, nil), tab.Authorize(optest.Web2, nil)
	for s.cookie(t, b, "curfew-login-").Name == s.cookie(t, tab, "curfew-login-").Name { // else one is lost
		clearCookies(tab)
		second = tab.Authorize(optest.Web2, nil)
	}
	s.plant(b, s.cookie(t, tab, "curfew-login-"))
	one, two := b.SignIn(first, "alice"), b.SignIn(second, "alice")
	require.Equal(t, s.sid(t, optest.Web, ok(t, s.Code(optest.Web, one))), s.sid(t, optest.Web2, ok(t, s.Code(optest.Web2, two))))
	require.Len(t, s.live(t, "alice"), 1)
}

// OpenID Connect Core 1.0 sections 3.1.2.1 and 3.1.2.2, against a provider that
// ignores what it is asked for: a storage that answers each request from the
// sign-on that it remembers.
func TestWhatTheApplicationAskedForIsEnforced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		storage.SSO = true
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
			inMemory(nil, o)
			o.Storage = storage
			o.Wrap = optest.Complaisant
		})
		b := s.Browser()
		alice := s.loginIn(t, b, optest.Web, "alice", nil)
		bob := s.loginIn(t, s.Browser(), optest.Web, "bob", nil)
		time.Sleep(10 * time.Minute)
		for name, test := range map[string]struct {
			extra url.Values
			err   string
		}{
			"nothing":                  {url.Values{}, ""},
			"prompt none":              {url.Values{"prompt": {"none"}}, ""},
			"prompt login":             {url.Values{"prompt": {"login"}}, "login_required"},
			"prompt login and consent": {url.Values{"prompt": {"login consent"}}, "login_required"},
			"max_age 0":                {url.Values{"max_age": {"0"}}, "login_required"},
			"max_age 0, prompt none":   {url.Values{"max_age": {"0"}, "prompt": {"none"}}, "login_required"},
			"max_age too low":          {url.Values{"max_age": {"599"}}, "login_required"},
			"max_age just enough":      {url.Values{"max_age": {"600"}}, ""},
			"max_age huge":             {url.Values{"max_age": {"18446744073709551615"}}, ""},
			"hint of the user":         {url.Values{"id_token_hint": {alice.IDToken()}}, ""},
			"hint, prompt none":        {url.Values{"id_token_hint": {alice.IDToken()}, "prompt": {"none"}}, ""},
			"hint of another user":     {url.Values{"id_token_hint": {bob.IDToken()}}, "login_required"},
			"hint of another, none":    {url.Values{"id_token_hint": {bob.IDToken()}, "prompt": {"none"}}, "login_required"},
		} {
			for _, client := range []string{optest.Web, optest.Native} {
				v := b.Authorize(client, test.extra)
				require.Equal(t, test.err, v.Error(), "%s, %s: %s", name, client, v.Description())
				require.Equal(t, test.err == "", v.Code() != "", name)
				require.Equal(t, "state-1", v.Params.Get("state"))
			}
		}
		require.Len(t, s.live(t, "bob"), 1)
	})
}

// After an end the provider's own sign-on, which remembers an authentication
// from before, cannot silently go on; entering credentials can.
func TestASignOnDoesNotOutliveTheSession(t *testing.T) {
	t.Parallel()
	ends := map[string]func(t *testing.T, s *setup, sid string){
		"by an administrator": func(t *testing.T, s *setup, sid string) {
			require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
		},
		"all of them": func(t *testing.T, s *setup, sid string) {
			_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonCredentialChange, "")
			require.NoError(t, err)
		},
		"idle": func(*testing.T, *setup, string) { time.Sleep(2 * time.Hour) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), silentInMemory)
				b := s.Browser()
				sid := s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil))
				time.Sleep(time.Minute)
				require.NotEmpty(t, b.Authorize(optest.Web2, url.Values{"prompt": {"none"}}).Code(), "signed on")
				end(t, s, sid)
				time.Sleep(time.Minute)
				v := b.Authorize(optest.Web, url.Values{"prompt": {"none"}})
				require.Equal(t, "login_required", v.Error())
				require.NotEmpty(t, policy.ReasonOf(v.Description()), v.Description())
				got, err := s.of(t, b)
				require.ErrorIs(t, err, store.ErrNotFound)
				require.Equal(t, sid, got.ID)
				require.NotEmpty(t, provider.Describe(got), "who was signed out is told why")

				at := b.Authorize(optest.Web, nil)
				require.True(t, at.AtForm(), "the page asks: %s", at.URL)
				again := ok(t, s.Code(optest.Web, b.SignIn(at, "alice")))
				require.NotEqual(t, sid, s.sid(t, optest.Web, again))
				require.Len(t, s.live(t, "alice"), 1)
				_, err = s.of(t, b)
				require.NoError(t, err)
				require.NotEmpty(t, b.Authorize(optest.Web2, url.Values{"prompt": {"none"}}).Code())
			})
		})
	}
}

// A code that was on its way when its session ended makes no other one.
func TestACodeOfAJoinedSessionEndsWithIt(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), silent)
	b := s.Browser()
	sid := s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil))
	v := b.Authorize(optest.Web2, nil)
	require.NotEmpty(t, v.Code())
	require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
	refusedFor(t, s.Code(optest.Web2, v), policy.ReasonEndedByAdmin)
	// Nor does the callback, wherever it is loaded again.
	require.Equal(t, "login_required", b.Get(v.Callback).Error())
	require.Equal(t, "login_required", s.Browser().Get(v.Callback).Error())
	clearCookies(b)
	require.Equal(t, "login_required", b.Get(v.Callback).Error())
	require.Empty(t, s.live(t, "alice"))
}

// A tab that was left at its callback, whose session ended since, keeps nobody
// from signing in.
func TestALostTabIsNoDeadEnd(t *testing.T) {
	t.Parallel()
	for name, swept := range map[string]bool{"at once": false, "after a sweep": true} {
		t.Run(name, func(t *testing.T) {
			storage := optest.NewStorage()
			s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) { o.Storage = storage })
			b := s.Browser()
			sid := s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil))
			id := formID(t, b.Authorize(optest.Web, nil))
			require.NoError(t, storage.CheckUsernamePassword("alice", optest.Password, id))
			lost, err := http.NewRequest(http.MethodGet, s.Issuer+"/authorize/callback?id="+id, nil)
			require.NoError(t, err)
			for _, c := range s.cookies(b) {
				lost.AddCookie(c)
			}
			require.Equal(t, http.StatusFound, s.Do(s.HTTP, lost).Status) // the browser did not get the answer
			if swept {
				require.NoError(t, s.hook.Sweep(t.Context()))
			}
			require.NoError(t, s.hook.End(t.Context(), sid, policy.ReasonLogout, ""))
			for range 2 {
				next := s.sid(t, optest.Web, s.loginIn(t, b, optest.Web, "alice", nil))
				require.NotEqual(t, sid, next)
				require.Len(t, s.live(t, "alice"), 1)
				require.NoError(t, s.hook.End(t.Context(), next, policy.ReasonLogout, ""))
			}
			require.Equal(t, "login_required", b.Get(lost.URL.String()).Error(), "that login is over")
			require.NoError(t, s.hook.Sweep(t.Context()))
			all, _, err := s.hook.List(t.Context(), store.Filter{Subject: s.subject("alice")}, "", 100)
			require.NoError(t, err)
			require.Len(t, all, 3, "what a login leaves to be found by is no session")
		})
	}
}

// The same where the clock that auth_time is from runs ahead: credentials that
// look newer than the end are not.
func TestAnEndHoldsWhereAuthTimeIsAhead(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
		silent(p, o)
		p.Now = func() time.Time { return time.Now().Add(-time.Minute) }
	})
	b := s.Browser()
	for _, joins := range []bool{false, true} {
		v := b.Login(optest.Web, "alice", url.Values{"prompt": {"login"}})
		if joins {
			ok(t, s.Code(optest.Web, v))
			v = b.Login(optest.Web2, "alice", url.Values{"prompt": {"login"}})
		}
		require.NotEmpty(t, v.Code(), v.Description())
		_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonCredentialChange, "")
		require.NoError(t, err)
		client := map[bool]string{false: optest.Web, true: optest.Web2}[joins]
		refusedFor(t, s.Code(client, v), policy.ReasonCredentialChange)
		require.Empty(t, s.live(t, "alice"))
		b = s.Browser()
	}
}

func TestASilentLoginOverTheCapNeedsTheUser(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), silent)
	b := s.Browser()
	s.loginIn(t, b, optest.Web, "alice", nil)
	v := b.Authorize(optest.Native, url.Values{"prompt": {"none"}}) // whose logins do not join
	require.Equal(t, "interaction_required", v.Error(), v.Description())
	require.Equal(t, policy.ReasonConcurrency, policy.ReasonOf(v.Description()))
	signOn := s.cookie(t, b, "optest_sso")
	clearCookies(b)
	s.plant(b, signOn) // the provider's own, and nothing of the hook's
	require.Equal(t, "login_required", b.Authorize(optest.Web, url.Values{"prompt": {"none"}}).Error())
	require.Equal(t, "access_denied", b.Authorize(optest.Web, nil).Error())
}

// Only prompt=none is silent, now that it is known.
func TestASignOnThatTheUserSeesIsActivity(t *testing.T) {
	t.Parallel()
	for prompt, want := range map[string]int{"": 1, "none": 0} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), silentInMemory)
			b := s.Browser()
			s.loginIn(t, b, optest.Web, "alice", nil)
			time.Sleep(119 * time.Minute)
			require.NotEmpty(t, b.Authorize(optest.Web, url.Values{"prompt": {prompt}}).Code())
			time.Sleep(2 * time.Minute)
			require.Len(t, s.live(t, "alice"), want, "prompt=%s", prompt)
		})
	}
}

func TestWithoutBrowserSessionsNothingIsSet(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, _ *optest.Config) { p.NoBrowserSession = true })
	b := s.Browser()
	s.loginIn(t, b, optest.Web, "alice", nil)
	s.loginIn(t, b, optest.Web, "alice", nil)
	require.Empty(t, s.cookies(b))
	require.Len(t, s.live(t, "alice"), 2)
	_, err := s.of(t, b)
	require.True(t, errors.Is(err, store.ErrNotFound))
	for _, session := range s.live(t, "alice") {
		require.Empty(t, session.BrowserHash)
	}
}

// The cookies are what they should be, on https as well.
func TestTheCookiesOfABrowser(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), nil)
	b := s.Browser()
	v := b.Authorize(optest.Web, nil)
	login := s.cookie(t, b, "curfew-login-")
	require.Less(t, len(login.Name)+len(login.Value), 300)
	v = b.SignIn(v, "alice")
	var set []string
	for _, line := range v.Header.Values("Set-Cookie") {
		c, err := http.ParseSetCookie(line)
		require.NoError(t, err)
		require.True(t, c.HttpOnly, line)
		require.Equal(t, http.SameSiteLaxMode, c.SameSite, line)
		require.Equal(t, "/", c.Path, line)
		require.Empty(t, c.Domain)
		kind, _, _ := strings.Cut(strings.TrimPrefix(c.Name, "curfew-"), "-")
		set = append(set, kind)
		if kind == "session" {
			require.Zero(t, c.MaxAge, "it goes with the browser")
			require.NotContains(t, v.Body+v.URL, c.Value)
		} else {
			require.Equal(t, 60, c.MaxAge, "as long as the code")
		}
	}
	slices.Sort(set)
	require.Equal(t, []string{"login", "session"}, set)
}
