package provider_test

import (
	"context"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/faultstore"
	"github.com/curfew-oidc/curfew/store/memstore"
)

const formType = "application/x-www-form-urlencoded"

// asked reports whether a browser stands at the page that asks which session to
// end.
func asked(v optest.Visit) bool {
	return v.Params == nil && v.Status == http.StatusForbidden && strings.Contains(v.Body, `name="curfew_token"`)
}

func mustBeAsked(t testing.TB, v optest.Visit) optest.Visit {
	t.Helper()
	require.True(t, asked(v), "%d %s %s", v.Status, v.URL, v.Body)
	return v
}

var (
	tokenInput = regexp.MustCompile(`name="curfew_token" value="([^"]+)"`)
	endInput   = regexp.MustCompile(`name="end" value="([^"]+)"`)
)

func listed(v optest.Visit) (sids []string) {
	for _, m := range endInput.FindAllStringSubmatch(v.Body, -1) {
		sids = append(sids, m[1])
	}
	return sids
}

func askToken(v optest.Visit) string {
	if m := tokenInput.FindStringSubmatch(v.Body); m != nil {
		return m[1]
	}
	return ""
}

// answer is what the page sends if sids are chosen.
func answer(sids ...string) url.Values {
	return url.Values{"action": {"end"}, "end": sids}
}

// atCap returns a provider whose cap of two asks, and alice's two sessions.
func atCap(t testing.TB, change func(*provider.Config, *optest.Config)) (*setup, [2]optest.Reply) {
	t.Helper()
	s := start(t, limits(0, 0, 2, policy.Ask), change)
	return s, [2]optest.Reply{s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")}
}

// The third login at cap 2 is asked, ends one, and goes on; the ended one is told
// why. In every way to embed op, and for every response type and mode.
func TestAskAtTheCap(t *testing.T) {
	t.Parallel()
	for name, embedding := range optest.Embeddings {
		for _, response := range []url.Values{
			nil,
			{"response_type": {"id_token"}},
			{"response_type": {"id_token token"}},
			{"response_mode": {"form_post"}},
		} {
			t.Run(fmt.Sprintf("%s/%s%s", name, response.Get("response_type"), response.Get("response_mode")), func(t *testing.T) {
				s, held := atCap(t, func(_ *provider.Config, o *optest.Config) { o.Embedding = embedding })
				first, second := s.sid(t, optest.Web, held[0]), s.sid(t, optest.Web, held[1])
				b := s.Browser()
				client := optest.Web
				if response.Get("response_type") != "" {
					client = optest.Implicit
				}
				v := mustBeAsked(t, b.Login(client, "alice", response))
				require.ElementsMatch(t, []string{first, second}, listed(v))
				require.Empty(t, v.Params)

				v = b.Submit(v, answer(first))
				require.Empty(t, v.Error(), v.Description())
				require.Equal(t, "state-1", v.Params.Get("state"))
				if response.Get("response_type") == "" {
					ok(t, s.Code(optest.Web, v))
				} else {
					require.NotEmpty(t, v.Params.Get("id_token"))
				}
				require.Len(t, s.live(t, "alice"), 2)
				refusedFor(t, s.Refresh(optest.Web, held[0].RefreshToken()), policy.ReasonEndedByUser)
				ok(t, s.Refresh(optest.Web, held[1].RefreshToken()))

				ended, err := s.hook.Session(t.Context(), first)
				require.NoError(t, err)
				require.Equal(t, optest.SubjectOf("alice"), ended.End.By)
				require.Len(t, s.seen(provider.EventAsked), 1)
				require.Empty(t, s.seen(provider.EventRefused))
				require.Len(t, s.seen(provider.EventEnded), 1)
			})
		}
	}
}

// The page is for this browser and nobody else: no cache, no frame, no script, no
// form to elsewhere, no referrer.
func TestAskPageHeaders(t *testing.T) {
	t.Parallel()
	s, _ := atCap(t, nil)
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	check := func(v optest.Visit) {
		t.Helper()
		require.Equal(t, "no-store", v.Header.Get("Cache-Control"))
		require.Equal(t, "same-origin", v.Header.Get("Referrer-Policy"))
		require.Equal(t, "text/html; charset=utf-8", v.Header.Get("Content-Type"))
		require.Equal(t, "nosniff", v.Header.Get("X-Content-Type-Options"))
		require.Empty(t, v.Header.Get("Location"))
		csp := v.Header.Get("Content-Security-Policy")
		require.Regexp(t, `^default-src 'none'; style-src 'nonce-[\w-]{22}'; .*form-action 'self'; base-uri 'none'; frame-ancestors 'none'$`, csp)
		nonce := regexp.MustCompile(`nonce-([\w-]+)`).FindStringSubmatch(csp)[1]
		require.Contains(t, v.Body, `<style nonce="`+nonce+`">`)
		require.NotContains(t, v.Body, "<script")
		require.NotContains(t, v.Body, "style=")
	}
	check(v)
	again := mustBeAsked(t, b.Get(v.Callback))
	check(again)
	require.NotEqual(t, v.Header.Get("Content-Security-Policy"), again.Header.Get("Content-Security-Policy"))
	check(b.Post(v.Callback+"&curfew_answer=1", "text/plain", "x"))
}

// The user may give the login up: the application gets what it gets where a cap
// refuses, with its state. Nothing ends.
func TestAskCancelled(t *testing.T) {
	t.Parallel()
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			s, _ := atCap(t, func(_ *provider.Config, o *optest.Config) { o.Embedding = embedding })
			b := s.Browser()
			v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
			v = b.Submit(v, url.Values{"action": {"cancel"}, "end": listed(v)})
			require.Equal(t, "access_denied", v.Error())
			require.Equal(t, "state-1", v.Params.Get("state"))
			require.Equal(t, policy.ReasonConcurrency, policy.ReasonOf(v.Description()))
			require.Contains(t, v.Description(), "used=2 max=2;")
			require.Len(t, s.live(t, "alice"), 2)
			require.Len(t, s.seen(provider.EventRefused), 1)
		})
	}
}

// endFirst answers the page with its first session, and follows nothing.
func (s *setup) endFirst(t testing.TB, b *optest.Browser, v optest.Visit) optest.Reply {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, v.Callback+"&curfew_answer=1", strings.NewReader(url.Values{
		"curfew_token": {askToken(v)}, "end": listed(v)[:1],
	}.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", formType)
	return s.Do(b.HTTP, req)
}

// A browser takes the redirect that follows a form for a part of its submission,
// and holds it against form-action: a page in between leads on. An application
// with a scheme of its own gets the redirect.
func TestAskLeadsOn(t *testing.T) {
	t.Parallel()
	s, _ := atCap(t, nil)
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	r := s.endFirst(t, b, v)
	require.Equal(t, http.StatusOK, r.Status, r.Body)
	require.Empty(t, r.Header.Get("Location"))
	target, found := strings.CutPrefix(r.Header.Get("Refresh"), "0; url="+optest.RedirectURI+"?code=")
	require.True(t, found, r.Header.Get("Refresh"))
	require.Contains(t, r.Body, `<a href="`+optest.RedirectURI+"?code="+strings.ReplaceAll(target, "&", "&amp;"))
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
}

// However many browsers answer the page at once, the cap holds, and whoever found
// no room is asked again.
func TestRacingAnswersNeverExceedTheCap(t *testing.T) {
	t.Parallel()
	s, held := atCap(t, nil)
	const n = 16
	browsers, pages, after := make([]*optest.Browser, n), make([]optest.Visit, n), make([]optest.Visit, n)
	for i := range n {
		browsers[i] = s.Browser()
		pages[i] = mustBeAsked(t, browsers[i].Login(optest.Web, "alice", nil))
	}
	first := s.sid(t, optest.Web, held[0])
	parallel(n, func(i int) { after[i] = browsers[i].Submit(pages[i], answer(first)) })
	in := 0
	for _, v := range after {
		if v.Code() != "" {
			in++
			ok(t, s.Code(optest.Web, v))
			continue
		}
		mustBeAsked(t, v)
		require.Contains(t, v.Body, `role="alert"`)
	}
	require.Equal(t, 1, in)
	require.Len(t, s.live(t, "alice"), 2)

	// All at once once more, each with both: whoever came first may be ended
	// by a later one, and at no time are there more than two.
	parallel(n, func(i int) {
		if asked(after[i]) {
			after[i] = browsers[i].Submit(after[i], answer(listed(after[i])...))
		}
	})
	require.LessOrEqual(t, len(s.live(t, "alice")), 2)
	all, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject("alice"), State: store.Unended}, "", 100)
	require.NoError(t, err)
	require.LessOrEqual(t, len(all), 2, "reserved ones included")
}

// What does not come from the page, in the browser that it was shown to, ends
// nothing.
func TestAskRefusesWhatIsNotItsAnswer(t *testing.T) {
	t.Parallel()
	s, _ := atCap(t, nil)
	s.Login(optest.Web, "bob")
	bobs := s.live(t, "bob")[0].ID
	s.Login(optest.Web, "bob")
	b, other := s.Browser(), s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	theirs := mustBeAsked(t, other.Login(optest.Web, "alice", nil))
	ofBob := mustBeAsked(t, s.Browser().Login(optest.Web, "bob", nil))
	second := mustBeAsked(t, b.Login(optest.Web, "alice", nil)) // another login in the same browser
	sids := listed(v)

	at := func(v optest.Visit) string { return v.Callback + "&curfew_answer=1" }
	form := func(token string, sids ...string) string {
		f := answer(sids...)
		f.Set("curfew_token", token)
		return f.Encode()
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("%s.%d", sids[0][:4], i)
	}
	many = append(many, sids...)
	good := askToken(v)
	refreshToken := s.Login(optest.Web, "carol").RefreshToken()
	for name, post := range map[string]struct {
		by      *optest.Browser
		address string
		typ     string
		body    string
		status  int // of the page; 0: the refusal at the application
	}{
		"no token":               {b, at(v), formType, answer(sids...).Encode(), 403},
		"an empty token":         {b, at(v), formType, form("", sids...), 403},
		"a made-up token":        {b, at(v), formType, form("curfew_ask_0123.abc", sids...), 403},
		"a changed token":        {b, at(v), formType, form(good[:len(good)-4]+"AAAA", sids...), 403},
		"a refresh token":        {b, at(v), formType, form(refreshToken, sids...), 403},
		"bob's token":            {b, at(v), formType, form(askToken(ofBob), sids...), 403},
		"of another browser":     {b, at(v), formType, form(askToken(theirs), sids...), 403},
		"in another browser":     {other, at(v), formType, form(good, sids...), 0},
		"in a new browser":       {s.Browser(), at(v), formType, form(good, sids...), 0},
		"of another login":       {b, at(v), formType, form(askToken(second), sids...), 403},
		"at another login":       {b, at(second), formType, form(good, sids...), 403},
		"another's session":      {b, at(v), formType, form(good, bobs), 403},
		"no session":             {b, at(v), formType, form(good), 403},
		"unknown sessions":       {b, at(v), formType, form(good, "x", "", sids[0]+"x"), 403},
		"an unknown action":      {b, at(v), formType, strings.Replace(form(good, sids...), "action=end", "action=all", 1), 403},
		"a thousand check boxes": {b, at(v), formType, form(good, many...), 403},
		"10 MB":                  {b, at(v), formType, form(good, sids...) + "&x=" + strings.Repeat("x", 10<<20), 413},
		"JSON":                   {b, at(v), "application/json", form(good, sids...), 415},
		"no content type":        {b, at(v), "", form(good, sids...), 415},
		"a multipart form":       {b, at(v), "multipart/form-data; boundary=x", form(good, sids...), 415},
		"a broken form":          {b, at(v), formType, form(good, sids...) + "&%zz", 400},
		"without the mark":       {b, v.Callback, formType, form(good, sids...), 0},
		"at another path":        {b, s.Issuer + "/userinfo?curfew_answer=1", formType, form(good, sids...), 401},
	} {
		t.Run(name, func(t *testing.T) {
			after := post.by.Post(post.address, post.typ, post.body)
			if post.status == 0 {
				require.Equal(t, "access_denied", after.Error(), "%d %s", after.Status, after.Body)
				require.Contains(t, after.Description(), "used=2 max=2;")
			} else {
				require.Equal(t, post.status, after.Status, after.Body)
			}
			require.Len(t, s.live(t, "alice"), 2)
			require.Len(t, s.live(t, "bob"), 2)
		})
	}

	// By GET too.
	after := b.Get(at(v) + "&" + form(good, sids...))
	mustBeAsked(t, after)
	require.Len(t, s.live(t, "alice"), 2)

	// And the page still works.
	require.NotEmpty(t, b.Submit(v, answer(sids[0])).Code())
}

// An answer that was given already does nothing more.
func TestAskAnsweredTwice(t *testing.T) {
	t.Parallel()
	s, _ := atCap(t, nil)
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	sids := listed(v)
	first := b.Submit(v, answer(sids[0]))
	require.NotEmpty(t, first.Code())
	live := len(s.seen(provider.EventEnded))
	b.Submit(v, answer(sids[0])) // a double click
	require.Len(t, s.seen(provider.EventEnded), live)
	ok(t, s.Code(optest.Web, first))
	require.Len(t, s.live(t, "alice"), 2)
}

// Five minutes after the sign-in nobody is asked any more: whoever sits there
// need not be the user.
func TestAskIsOverAfterFiveMinutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := atCap(t, inMemory)
		b := s.Browser()
		v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
		sids := listed(v)
		time.Sleep(5*time.Minute - time.Millisecond)
		mustBeAsked(t, b.Get(v.Callback))
		time.Sleep(time.Millisecond)
		for _, after := range []optest.Visit{b.Submit(v, answer(sids[0])), b.Submit(v, url.Values{"action": {"cancel"}}), b.Get(v.Callback)} {
			require.Equal(t, "access_denied", after.Error(), "%d %s", after.Status, after.Body)
			require.Contains(t, after.Description(), "used=2 max=2;")
		}
		require.Len(t, s.live(t, "alice"), 2)
	})
}

// Whoever has the address of a callback and not the browser learns nothing about
// sessions.
func TestAStolenCallbackShowsNoSessions(t *testing.T) {
	t.Parallel()
	s, _ := atCap(t, nil)
	v := mustBeAsked(t, s.Browser().Login(optest.Web, "alice", nil))
	for name, thief := range map[string]*optest.Browser{"a new browser": s.Browser(), "one with a login of its own": func() *optest.Browser {
		b := s.Browser()
		b.Authorize(optest.Web, nil)
		return b
	}()} {
		t.Run(name, func(t *testing.T) {
			after := thief.Get(v.Callback)
			require.Equal(t, "access_denied", after.Error(), "%d %s", after.Status, after.Body)
			require.Contains(t, after.Description(), "used=2 max=2;")
			for _, sid := range listed(v) {
				require.NotContains(t, after.Body, sid)
			}
		})
	}
}

// A page and its answer may meet two processes, and keys may be rotated in
// between.
func TestAskAcrossProcessesAndKeys(t *testing.T) {
	t.Parallel()
	older, newer := provider.NewKey(time.Now().Add(-time.Hour)), provider.NewKey(time.Now())
	sessions := memstore.New()
	settings := provider.StaticSettings{Accounts: map[string]policy.Account{"default": limits(0, 0, 2, policy.Ask)}}
	process := func(keys ...provider.Key) *provider.Hook {
		hook, err := provider.New(provider.Config{Store: sessions, Keys: keys, Settings: settings})
		require.NoError(t, err)
		return hook
	}
	s, over := twoProcesses(t, process(older, newer), process(newer, older))
	for range 2 {
		s.Login(optest.Web, "alice")
	}
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	over.Store(true) // from here on the other process answers
	v = b.Submit(v, answer(listed(v)[0]))
	require.NotEmpty(t, v.Code(), "%d %s", v.Status, v.Body)
	ok(t, s.Code(optest.Web, v))
}

// A process that does not have the newest key yet does not refuse what it sealed.
func TestAskWithAKeyThatIsAhead(t *testing.T) {
	t.Parallel()
	older, newer := provider.NewKey(time.Now().Add(-time.Hour)), provider.NewKey(time.Now())
	sessions := memstore.New()
	settings := provider.StaticSettings{Accounts: map[string]policy.Account{"default": limits(0, 0, 1, policy.Ask)}}
	process := func(keys ...provider.Key) *provider.Hook {
		hook, err := provider.New(provider.Config{Store: sessions, Keys: keys, Settings: settings})
		require.NoError(t, err)
		return hook
	}
	s, over := twoProcesses(t, process(older), process(newer, older))
	b := s.Browser()
	first := b.Login(optest.Web, "alice", nil)
	require.NotEmpty(t, first.Code())
	b = s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	over.Store(true)
	v = mustBeAsked(t, b.Get(v.Callback)) // sealed with the newer key
	over.Store(false)
	after := b.Submit(v, answer(listed(v)...))
	require.Equal(t, http.StatusServiceUnavailable, after.Status, after.Body)
	require.NotEmpty(t, after.Header.Get("Retry-After"))
	over.Store(true)
	require.NotEmpty(t, b.Submit(v, answer(listed(v)...)).Code())
}

// A provider that builds its authorization response itself asks as well.
func TestAskWhereTheProviderAnswersItself(t *testing.T) {
	t.Parallel()
	s, _ := atCap(t, func(_ *provider.Config, o *optest.Config) { o.OwnResponse = true })
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	v = b.Submit(v, url.Values{"action": {"cancel"}})
	require.Equal(t, "access_denied", v.Error())
	v = mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	ok(t, s.Code(optest.Web, b.Submit(v, answer(listed(v)[0]))))
	require.Len(t, s.live(t, "alice"), 2)
}

// An application with a scheme of its own is started by the redirect: its scheme
// is named in form-action, and nothing else.
func TestAskForAnApplicationWithItsOwnScheme(t *testing.T) {
	t.Parallel()
	const redirect = "com.example.app:/cb"
	var client *optest.Client
	for _, c := range optest.DefaultClients() {
		if c.ID == optest.Native {
			client = c
		}
	}
	client.Redirects = append(client.Redirects, redirect)
	s, _ := atCap(t, func(_ *provider.Config, o *optest.Config) { o.Storage = optest.NewStorage(client) })
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Native, "alice", url.Values{"redirect_uri": {redirect}}))
	require.Contains(t, v.Header.Get("Content-Security-Policy"), "form-action 'self' com.example.app:")
	r := s.endFirst(t, b, v)
	require.Equal(t, http.StatusSeeOther, r.Status, r.Body)
	require.True(t, strings.HasPrefix(r.Header.Get("Location"), redirect+"?code="), r.Header.Get("Location"))
	require.Empty(t, r.Header.Get("Refresh"))
}

// twoProcesses starts a server of two processes, of which the second one answers
// while over is set.
func twoProcesses(t *testing.T, one, two *provider.Hook) (s *optest.Server, over *atomic.Bool) {
	over = new(atomic.Bool)
	var second atomic.Pointer[http.Handler]
	s = optest.Start(t, optest.Config{Hook: one, Middleware: func(first http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if over.Load() {
				(*second.Load()).ServeHTTP(w, r)
				return
			}
			first.ServeHTTP(w, r)
		})
	}})
	_, handler := s.Process(optest.Config{Hook: two})
	second.Store(&handler)
	return s, over
}

// What clients and browsers say about themselves is text, and as long as it may
// be.
func TestAskEscapes(t *testing.T) {
	t.Parallel()
	const evil = `<script>alert(1)</script>"'><img src=x onerror=alert(2)>`
	s := start(t, limits(0, 0, 2, policy.Ask), func(p *provider.Config, _ *optest.Config) {
		p.ClientName = func(context.Context, string) string { return evil + strings.Repeat("é", 1000) }
	})
	for range 2 {
		b := s.Browser()
		b.UserAgent = "Mozilla/5.0 (" + evil + ") Firefox/1 " + evil
		ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
	}
	v := mustBeAsked(t, s.Browser().Login(optest.Web, "alice", nil))
	require.NotContains(t, v.Body, "<script")
	require.NotContains(t, v.Body, "<img")
	require.Contains(t, v.Body, "&lt;script&gt;")
	require.Contains(t, v.Body, "Firefox")
	for _, session := range s.live(t, "alice") {
		require.Len(t, session.ClientNames, 1)
		require.LessOrEqual(t, len(session.ClientNames[0]), 64)
	}
}

// A store that does not answer is not a refusal, and loses nothing.
func TestAskOutage(t *testing.T) {
	t.Parallel()
	var broken atomic.Pointer[string] // the store call that fails
	s, held := atCap(t, func(p *provider.Config, _ *optest.Config) {
		faulty := faultstore.New(p.Store)
		faulty.Script(func(c faultstore.Call) faultstore.Fault {
			if name := broken.Load(); name != nil && c.Method == *name {
				return faultstore.Before
			}
			return faultstore.None
		})
		p.Store = faulty
	})
	b := s.Browser()
	fail := func(method string) { broken.Store(&method) }
	fail("List")
	v := b.Login(optest.Web, "alice", nil)
	unavailable := func(v optest.Visit) {
		t.Helper()
		require.Equal(t, http.StatusServiceUnavailable, v.Status, v.Body)
		require.NotEmpty(t, v.Header.Get("Retry-After"))
		require.Contains(t, v.Body, "Try again")
		require.Nil(t, v.Params, "the application is not told")
	}
	unavailable(v)
	broken.Store(nil)
	v = mustBeAsked(t, b.Get(v.Callback))
	fail("Admit")
	unavailable(b.Submit(v, answer(listed(v)[0])))
	broken.Store(nil)
	ok(t, s.Code(optest.Web, b.Submit(v, answer(s.sid(t, optest.Web, held[0])))))
	require.Len(t, s.live(t, "alice"), 2)
	require.NotEmpty(t, s.seen(provider.EventUnavailable))
}

// Not all that the user has makes room: the page says what does.
func TestAskNamesWhatMakesRoom(t *testing.T) {
	t.Parallel()
	a := policy.Account{Kinds: map[policy.Kind]policy.Limits{policy.CLI: {Concurrent: policy.LimitTo(1), AtLimit: policy.Ask}}}
	s := start(t, a, nil)
	s.Login(optest.Web, "alice")
	cli := s.sid(t, optest.Native, s.Login(optest.Native, "alice"))
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Native, "alice", nil))
	require.Len(t, listed(v), 2)
	require.Equal(t, cli, listed(v)[0], "what makes room comes first")
	require.Equal(t, 1, strings.Count(v.Body, "ending it makes no room"))
	v = mustBeAsked(t, b.Submit(v, answer(listed(v)[1]))) // the browser's
	require.Contains(t, v.Body, "There is still no room")
	require.NotEmpty(t, b.Submit(v, answer(cli)).Code())
}

// The session of the browser that is asked is marked, once. A native client's
// logins do not join it.
func TestAskMarksThisBrowser(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 2, policy.Ask), nil)
	b := s.Browser()
	ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
	own := s.live(t, "alice")[0].ID
	s.Login(optest.Web, "alice")
	v := mustBeAsked(t, b.Login(optest.Native, "alice", nil))
	require.Equal(t, 1, strings.Count(v.Body, "This browser"))
	item := v.Body[strings.Index(v.Body, `value="`+own):]
	item, _, _ = strings.Cut(item, "</li>")
	require.Contains(t, item, "This browser")
	d := s.desk(t, "alice", "ABCD-EFGH")
	d.jar = b.HTTP.Jar
	v, _ = d.do(nil)
	require.Equal(t, 1, strings.Count(mustBeAsked(t, v).Body, "This browser"))
}

// prompt=none shows nothing: OpenID Connect Core 1.0 section 3.1.2.1.
func TestAskIsNotSilent(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Ask), silent)
	b := s.Browser()
	s.loginIn(t, b, optest.Web, "alice", nil)
	v := b.Authorize(optest.Native, url.Values{"prompt": {"none"}}) // whose logins do not join
	require.Equal(t, "interaction_required", v.Error(), "%d %s", v.Status, v.Body)
	require.Contains(t, v.Description(), "used=1 max=1;")
	mustBeAsked(t, b.Authorize(optest.Native, nil))
}

// Without the hook's cookies nobody knows which browser it is.
func TestAskNeedsTheBinding(t *testing.T) {
	t.Parallel()
	s, _ := atCap(t, func(p *provider.Config, _ *optest.Config) { p.NoBrowserSession = true })
	v := s.Browser().Login(optest.Web, "alice", nil)
	require.Equal(t, "access_denied", v.Error())
	require.Contains(t, v.Description(), "used=2 max=2;")
}

// A login that nobody completed holds a place, and can be ended as well.
func TestAskListsLoginsUnderWay(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Ask), nil)
	pending := s.Browser().Login(optest.Web, "alice", nil)
	require.NotEmpty(t, pending.Code())
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	require.Contains(t, v.Body, "Not completed yet")
	ok(t, s.Code(optest.Web, b.Submit(v, answer(listed(v)...))))
	refusedFor(t, s.Code(optest.Web, pending), policy.ReasonEndedByUser)
}

// With a hundred sessions and one the page is bounded.
func TestAskIsBounded(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 101, policy.Ask), nil)
	for i := range 101 {
		now := time.Now().UTC().Truncate(time.Microsecond)
		require.NoError(t, s.store.Create(t.Context(), store.Session{
			Format: store.Format, ID: fmt.Sprintf("%s.%d", store.Bucket(s.subject("alice")), i), Subject: s.subject("alice"), Accounts: []string{"default"},
			Kind: policy.Browser, Started: now, Authenticated: now, LastActivity: now.Add(time.Duration(i-200) * time.Second),
		}, 1000))
	}
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	require.Len(t, listed(v), 100)
	require.True(t, strings.HasSuffix(listed(v)[0], ".0"), "the longest unused first")
	require.Contains(t, v.Body, "And 1 more")
	require.NotEmpty(t, b.Submit(v, answer(listed(v)...)).Code(), "all of them at once")
	require.Len(t, s.seen(provider.EventEnded), 100)
}

// A cap that refuses does so at once, as before.
func TestRefuseAsksNobody(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Refuse), nil)
	s.Login(optest.Web, "alice")
	v := s.Browser().Login(optest.Web, "alice", nil)
	require.Equal(t, "access_denied", v.Error())
	require.Contains(t, v.Description(), "used=1 max=1;")
	require.Empty(t, s.seen(provider.EventAsked))
}

var themed = template.Must(template.New("").Parse(`<!DOCTYPE html><title>Acme</title><style nonce="{{.Nonce}}"></style>
{{with .Notice}}<h1>{{.Title}}</h1>{{.Text}}<a href="{{.Link}}">{{.LinkText}}</a>{{else}}
<form method="post" action="{{.Action}}">{{.Error}}{{range .Hidden}}<input type="hidden" name="{{.Name}}" value="{{.Value}}">{{end}}
{{range .Sessions}}<input type="checkbox" name="end" value="{{.ID}}">{{.Title}}{{end}}<button name="action" value="end"></button></form>
{{if eq .Client "fails"}}{{template "missing"}}{{end}}{{end}}{{define "missing"}}{{index .Sessions 9999}}{{end}}`))

// An embedder may bring a template of their own. If it fails the user is not to
// suffer.
func TestAskTemplate(t *testing.T) {
	t.Parallel()
	name := "Acme"
	s, _ := atCap(t, func(p *provider.Config, _ *optest.Config) {
		p.AskTemplate = themed
		p.ClientName = func(context.Context, string) string { return name }
	})
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	require.Contains(t, v.Body, "<title>Acme</title>")
	name = "fails"
	v = mustBeAsked(t, b.Get(v.Callback))
	require.NotContains(t, v.Body, "<title>Acme</title>")
	require.Len(t, s.seen(provider.EventPageFailed), 1)
	require.NotEmpty(t, b.Submit(v, answer(listed(v)[0])).Code())
}

// A template in another language goes by codes, and shows the words for one that it does not know.
func TestAskTemplateInAnotherLanguage(t *testing.T) {
	t.Parallel()
	const text = `{{with .Notice}}{{if eq .Code "too_large"}}Zu gross{{else}}{{.Title}} {{.Text}}{{end}}<a href="{{.Link}}">Weiter</a>{{else}}
<form method="post" action="{{.Action}}">{{with .ErrorCode}}{{if eq . "none"}}Bitte etwas wählen{{else}}{{$.Error}}{{end}}{{end}}
{{range .Hidden}}<input type="hidden" name="{{.Name}}" value="{{.Value}}">{{end}}
{{range .Sessions}}<input type="checkbox" name="end" value="{{.ID}}">{{.Program}} unter {{.System}}, {{.LastUsed.At.Year}}{{end}}</form>{{end}}`
	s, _ := atCap(t, func(p *provider.Config, _ *optest.Config) {
		p.AskTemplate = template.Must(template.New("").Parse(text))
	})
	b := s.Browser()
	v := mustBeAsked(t, b.Login(optest.Web, "alice", nil))
	require.NotContains(t, v.Body, "wählen")
	v = mustBeAsked(t, b.Submit(v, answer()))
	require.Contains(t, v.Body, "Bitte etwas wählen")
	v = mustBeAsked(t, b.Submit(v, answer("unknown")))
	require.Contains(t, v.Body, "What you chose had ended already. Please choose again.")
	require.Contains(t, b.Post(v.Callback+"&curfew_answer=1", formType, strings.Repeat("x", 65<<10)).Body, "Zu gross")

	_, err := provider.New(provider.Config{
		Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())},
		AskTemplate: template.Must(template.New("").Parse(strings.Replace(text, "{{$.Error}}", "", 1))),
	})
	require.ErrorContains(t, err, "the page does not have Error", "codes may be added")
}

func TestAskTemplateIsChecked(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a member that does not exist": `{{.Nothing}}`,
		"no sessions":                  `{{with .Notice}}{{.Title}}{{.Text}}{{.Link}}{{else}}{{.Error}}{{.Action}}{{range .Hidden}}{{.Value}}{{end}}{{end}}`,
		"no token":                     `{{with .Notice}}{{.Title}}{{.Text}}{{.Link}}{{else}}{{.Error}}{{.Action}}{{range .Sessions}}{{.ID}}{{end}}{{end}}`,
		"no notice":                    `{{.Error}}{{.Action}}{{range .Hidden}}{{.Value}}{{end}}{{range .Sessions}}{{.ID}}{{end}}`,
		"no error":                     `{{with .Notice}}{{.Title}}{{.Text}}{{.Link}}{{else}}{{.Action}}{{range .Hidden}}{{.Value}}{{end}}{{range .Sessions}}{{.ID}}{{end}}{{end}}`,
		"HTML that does not end":       `<a href="{{.Error}}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := provider.New(provider.Config{
				Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())},
				AskTemplate: template.Must(template.New("").Parse(text)),
			})
			require.ErrorIs(t, err, provider.ErrConfig)
			require.ErrorContains(t, err, "AskTemplate: ")
		})
	}
	_, err := provider.New(provider.Config{
		Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, AskTemplate: themed,
	})
	require.NoError(t, err)
	_, err = themed.Clone()
	require.NoError(t, err, "the embedder's template was not executed and can still be changed")
}

func TestSessionsURLIsChecked(t *testing.T) {
	t.Parallel()
	for address, good := range map[string]bool{
		"":                                   true,
		"https://login.example.com/sessions": true,
		"http://127.0.0.1:9998/sessions/":    true,
		"http://localhost/":                  true,
		"http://[::1]/":                      true,
		"http://login.example.com/":          false,
		"/sessions/":                         false,
		"login.example.com":                  false,
		"ftp://localhost/":                   false,
		"https://a@login.example.com/":       false,
		"https://login.example.com/\"":       false,
		"https://login.example.com/\\":       false,
		"https://login.example.com/ä":        false,
		"https://login.example.com/a b":      false,
		"https://login.example.com/\n":       false,
	} {
		_, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, SessionsURL: address})
		if good {
			require.NoError(t, err, "%q", address)
			continue
		}
		require.ErrorIs(t, err, provider.ErrConfig, "%q", address)
		require.ErrorContains(t, err, "SessionsURL: ")
	}
}

// A device that is refused at the cap stops polling, and its user learns where to
// make room: RFC 8628 section 3.5.
func TestARefusedDeviceIsToldWhereToMakeRoom(t *testing.T) {
	t.Parallel()
	for name, atLimit := range map[string]policy.AtLimit{"refuse": policy.Refuse, "ask": policy.Ask} {
		t.Run(name, func(t *testing.T) {
			s := start(t, limits(0, 0, 1, atLimit), func(p *provider.Config, _ *optest.Config) {
				p.SessionsURL = "https://login.example.com/sessions/"
			})
			s.Login(optest.Web, "alice")
			start := s.DeviceStart(optest.Native)
			s.DeviceApprove(start, "alice") // by a page that asks nobody
			r := s.DevicePoll(optest.Native, start)
			require.Equal(t, http.StatusBadRequest, r.Status)
			require.Equal(t, "access_denied", r.Error())
			require.Equal(t, policy.ReasonConcurrency, policy.ReasonOf(r.Description()))
			require.Contains(t, r.Description(), "used=1 max=1;")
			require.Contains(t, r.Description(), "https://login.example.com/sessions/")
			require.Regexp(t, `^[\x20-\x21\x23-\x5B\x5D-\x7E]+$`, r.Description())
		})
	}
}

// What a session is called is what its user knows: the applications in it.
func TestClientNames(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
		ssoKnown(p, o)
		p.ClientName = func(_ context.Context, id string) string {
			if id == optest.Web {
				return "Mail"
			}
			return ""
		}
	})
	b := s.Browser()
	ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
	require.Equal(t, []string{"Mail"}, s.live(t, "alice")[0].ClientNames)
	ok(t, s.Code(optest.Web2, b.Authorize(optest.Web2, nil)))
	require.Equal(t, []string{"Mail", optest.Web2}, s.live(t, "alice")[0].ClientNames)
	ok(t, s.Code(optest.Web, b.Authorize(optest.Web, nil)))
	require.Equal(t, []string{"Mail", optest.Web2}, s.live(t, "alice")[0].ClientNames)
}
