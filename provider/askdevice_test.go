package provider_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// A deskPage is a verification page: who signs in there, and what it decided.
type deskPage struct {
	mu       sync.Mutex
	hook     *provider.Hook
	login    provider.DeviceLogin
	decision provider.DeviceDecision
}

func (d *deskPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.decision = d.hook.AskDevice(w, r, d.login)
	if d.decision != (provider.DeviceDecision{}) {
		w.WriteHeader(http.StatusNoContent)
	}
}

// A desk is a browser at a verification page.
type desk struct {
	t      testing.TB
	page   *deskPage
	jar    http.CookieJar
	header http.Header // that its requests have
}

func (s *setup) desk(t testing.TB, user, userCode string) *desk {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &desk{t: t, jar: jar, page: &deskPage{hook: s.hook, login: provider.DeviceLogin{
		Subject: s.subject(user), Client: s.Storage.Client(optest.Native), UserCode: userCode, AuthTime: time.Now(),
		Form: url.Values{"secret": {"its own"}},
	}}}
}

// do posts a form to the page, and returns what is there then and what was
// decided.
func (d *desk) do(form url.Values) (optest.Visit, provider.DeviceDecision) {
	d.t.Helper()
	const address = "http://127.0.0.1/device/confirm?x=1"
	r := httptest.NewRequest(http.MethodPost, address, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", formType)
	for name, values := range d.header {
		r.Header.Set(name, values[0])
	}
	for _, c := range d.jar.Cookies(r.URL) {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	d.page.ServeHTTP(w, r)
	resp := w.Result()
	d.jar.SetCookies(r.URL, resp.Cookies())
	body, err := io.ReadAll(resp.Body)
	require.NoError(d.t, err)
	return optest.Visit{Status: resp.StatusCode, Header: resp.Header, Body: string(body), URL: address}, d.page.decision
}

// answers returns what the page at v sends.
func (d *desk) answers(v optest.Visit, form url.Values) url.Values {
	f := url.Values{"curfew_token": {askToken(v)}}
	for name, values := range form {
		f[name] = values
	}
	return f
}

func TestAskDevice(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Ask), nil)
	d := s.desk(t, "alice", "ABCD-EFGH")
	_, decision := d.do(nil)
	require.Equal(t, provider.DeviceDecision{Approve: true}, decision, "there is room")

	held := s.Login(optest.Web, "alice")
	v, decision := d.do(nil)
	require.Zero(t, decision)
	mustBeAsked(t, v)
	require.Contains(t, v.Body, "ABCD-EFGH")
	require.Contains(t, v.Body, `name="secret" value="its own"`)
	require.Contains(t, v.Body, `action="?x=1"`)
	require.Contains(t, v.Header.Get("Content-Security-Policy"), "form-action 'self'")
	require.Regexp(t, `^curfew-device-[\w-]+=[A-Z2-7]{26}; Path=/; Max-Age=300; HttpOnly; SameSite=Strict$`, v.Header.Get("Set-Cookie"))

	v, decision = d.do(d.answers(v, nil))
	require.Zero(t, decision)
	mustBeAsked(t, v)
	require.Contains(t, v.Body, "choose at least one")
	require.Empty(t, v.Header.Values("Set-Cookie"), "the browser keeps the one it has")

	v, decision = d.do(d.answers(v, answer(listed(v)...)))
	require.Equal(t, provider.DeviceDecision{Approve: true}, decision, v.Body)
	refusedFor(t, s.Refresh(optest.Web, held.RefreshToken()), policy.ReasonEndedByUser)
}

func TestAskDeviceCancelled(t *testing.T) {
	t.Parallel()
	s, _ := atCap(t, nil)
	d := s.desk(t, "alice", "ABCD-EFGH")
	v, _ := d.do(nil)
	_, decision := d.do(d.answers(v, url.Values{"action": {"cancel"}, "end": listed(v)}))
	require.Equal(t, provider.DeviceDecision{Deny: true}, decision)
	_, decision = d.do(url.Values{"action": {"cancel"}, "curfew_token": {"too old"}})
	require.Equal(t, provider.DeviceDecision{Deny: true}, decision, "to give up needs no proof")
	require.Len(t, s.live(t, "alice"), 2)
}

func TestAskDeviceWhereTheCapRefuses(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 1, policy.Refuse), nil)
	s.Login(optest.Web, "alice")
	_, decision := s.desk(t, "alice", "ABCD-EFGH").do(nil)
	require.Equal(t, provider.DeviceDecision{Deny: true, Used: 1, Max: 1}, decision)
	require.Len(t, s.seen(provider.EventRefused), 1)
}

// The page is for this browser, user and user code, soon after the sign-in.
func TestAskDeviceRefusesWhatIsNotItsAnswer(t *testing.T) {
	t.Parallel()
	s, _ := atCap(t, nil)
	for range 2 {
		s.Login(optest.Web, "bob")
	}
	bobs := s.live(t, "bob")[0].ID
	d := s.desk(t, "alice", "ABCD-EFGH")
	v, _ := d.do(nil)
	sids := listed(v)
	page := func(user, code string) string {
		v, _ := s.desk(t, user, code).do(nil)
		return askToken(mustBeAsked(t, v))
	}
	b := s.Browser()
	login := askToken(mustBeAsked(t, b.Login(optest.Web, "alice", nil)))
	fresh := s.desk(t, "alice", "ABCD-EFGH")
	for name, c := range map[string]struct {
		d    *desk
		form url.Values
	}{
		"no token":               {d, answer(sids...)},
		"a made-up token":        {d, url.Values{"curfew_token": {"curfew_ask_1.2"}, "end": sids}},
		"of another browser":     {d, url.Values{"curfew_token": {page("alice", "ABCD-EFGH")}, "end": sids}},
		"in a new browser":       {fresh, url.Values{"curfew_token": {askToken(v)}, "end": sids}},
		"of another user":        {d, url.Values{"curfew_token": {page("bob", "ABCD-EFGH")}, "end": sids}},
		"of another code":        {d, url.Values{"curfew_token": {page("alice", "IJKL-MNOP")}, "end": sids}},
		"of a browser's login":   {d, url.Values{"curfew_token": {login}, "end": sids}},
		"another user's session": {d, d.answers(v, answer(bobs))},
	} {
		t.Run(name, func(t *testing.T) {
			after, decision := c.d.do(c.form)
			require.Zero(t, decision)
			mustBeAsked(t, after)
			require.Len(t, s.live(t, "alice"), 2)
			require.Len(t, s.live(t, "bob"), 2)
		})
	}
	// Nor does it do for a browser's login.
	after := b.Post(s.Issuer+"/authorize/callback?curfew_answer=1", formType, d.answers(v, answer(sids...)).Encode())
	require.Equal(t, http.StatusBadRequest, after.Status)
	require.Len(t, s.live(t, "alice"), 2)
}

func TestAskDeviceIsOverAfterFiveMinutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := atCap(t, inMemory)
		d := s.desk(t, "alice", "ABCD-EFGH")
		v, _ := d.do(nil)
		time.Sleep(5 * time.Minute)
		_, decision := d.do(d.answers(v, answer(listed(v)...)))
		require.Equal(t, provider.DeviceDecision{Deny: true, Used: 2, Max: 2}, decision)
		require.Len(t, s.live(t, "alice"), 2)
	})
}

// Sixteen devices get their page answered at once: the cap holds when they come
// for their tokens.
func TestRacingDevicesNeverExceedTheCap(t *testing.T) {
	t.Parallel()
	s, held := atCap(t, nil)
	first := s.sid(t, optest.Web, held[0])
	const n = 16
	replies := make([]optest.Reply, n)
	parallel(n, func(i int) {
		grant := s.DeviceStart(optest.Native)
		d := s.desk(t, "alice", grant.String("user_code"))
		v, decision := d.do(nil)
		if asked(v) {
			_, decision = d.do(d.answers(v, answer(first)))
		}
		if decision.Approve {
			s.DeviceApprove(grant, "alice")
			replies[i] = s.DevicePoll(optest.Native, grant)
		}
	})
	in := 0
	for _, r := range replies {
		switch r.Status {
		case 0:
		case http.StatusOK:
			in++
		default:
			require.Equal(t, "access_denied", r.Error(), fmt.Sprint(r.Body))
		}
	}
	require.Equal(t, 1, in)
	require.Len(t, s.live(t, "alice"), 2)
}
