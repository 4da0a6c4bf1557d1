package selfservice_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/selfservice"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

var noon = time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)

var (
	alice = store.Subject{Issuer: "https://login.example.com", ID: "alice"}
	bob   = store.Subject{Issuer: "https://login.example.com", ID: "bob175"} // in the same bucket
)

const (
	firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
	iphone  = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)

// A world is the page of one's own sessions, installed on a server.
type world struct {
	*testing.T
	hook   *provider.Hook
	store  *faultstore.Store
	url    string
	cfg    *selfservice.Config
	failed []error

	// Who asks.
	subject store.Subject
	sid     string
	err     error
}

func newWorld(t *testing.T, a policy.Account) *world {
	t.Helper()
	w := &world{T: t, store: faultstore.New(memstore.New()), subject: alice, sid: idOf("0")}
	var err error
	w.hook, err = provider.New(provider.Config{
		Store: w.store, Keys: provider.Keys{provider.NewKey(noon)}, Now: func() time.Time { return noon },
		Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": a}},
	})
	require.NoError(t, err)
	w.cfg = &selfservice.Config{
		Hook: w.hook, Home: "/home", SignIn: "/signin", Now: func() time.Time { return noon }, TrustedOrigins: []string{"https://login.example.com"},
		Subject: func(*http.Request) (store.Subject, string, error) { return w.subject, w.sid, w.err },
		Failed:  func(_ *http.Request, err error) { w.failed = append(w.failed, err) },
	}
	mine, err := selfservice.New(*w.cfg)
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("/at/sessions/", http.StripPrefix("/at/sessions", mine))
	server := httptest.NewServer(optest.CORSForAll(mux))
	t.Cleanup(server.Close)
	w.url = server.URL + "/at/sessions/"
	return w
}

func limits(active, inactivity time.Duration, concurrent int) policy.Account {
	a := policy.Account{Limits: policy.Limits{Active: policy.LimitTo(active), Inactivity: policy.LimitTo(inactivity)}}
	if concurrent > 0 {
		a.Concurrent = policy.LimitTo(concurrent)
	}
	return a
}

func idOf(name string) string { return store.Bucket(alice) + "." + name }

// add adds a session, which change changes.
func (w *world) add(name string, subject store.Subject, change func(*store.Session)) store.Session {
	w.Helper()
	s := store.Session{
		ID: idOf(name), Subject: subject, Accounts: []string{"default"}, Kind: policy.Browser, Client: "web", UserAgent: firefox, Address: "192.0.2.0/24",
		Started: noon.Add(-time.Hour), Authenticated: noon.Add(-time.Hour), LastActivity: noon.Add(-time.Minute),
	}
	if change != nil {
		change(&s)
	}
	require.NoError(w, w.store.Create(w.Context(), s, 10_000))
	return s
}

// ended returns why a session ended; "": it did not.
func (w *world) ended(name string) policy.Reason {
	w.Helper()
	s, err := w.store.Get(w.Context(), idOf(name))
	require.NoError(w, err)
	if s.End == nil {
		return ""
	}
	return s.End.Reason
}

// A reply is an answer that was checked for what every answer must have.
type reply struct {
	status int
	header http.Header
	body   string
}

func (w *world) send(method, path string, form url.Values, header ...string) reply {
	w.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(w.Context(), method, w.url+path, body)
	require.NoError(w, err)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	require.NoError(w, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(w, err)
	h := resp.Header
	optest.NobodyElseReads(w, h)
	require.Equal(w, "nosniff", h.Get("X-Content-Type-Options"))
	require.Equal(w, "DENY", h.Get("X-Frame-Options"))
	require.Equal(w, "same-origin", h.Get("Referrer-Policy"))
	for _, directive := range []string{"default-src 'none'", "style-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"} {
		require.Contains(w, h.Get("Content-Security-Policy"), directive)
	}
	require.NotContains(w, h.Get("Content-Security-Policy"), "script")
	if !strings.HasPrefix(path, "style.css") {
		require.Equal(w, "no-store", h.Get("Cache-Control"))
	}
	if strings.HasPrefix(h.Get("Content-Type"), "text/html") {
		page := strings.ToLower(string(b))
		for _, bad := range []string{"<script", "style=", "=\"javascript:", "<img", "=\"//", "://", "http:"} {
			require.NotContains(w, strings.ReplaceAll(page, "<!doctype", ""), bad, "no script, no style in the page, nothing from elsewhere")
		}
		require.NotContains(w, page, "zgotmplz")
	}
	return reply{resp.StatusCode, h, string(b)}
}

func (w *world) post(path string, form url.Values, header ...string) reply {
	w.Helper()
	return w.send("POST", path, form, append([]string{"Sec-Fetch-Site", "same-origin"}, header...)...)
}

// json returns the sessions of a page; it knows every member.
func (w *world) json(path string) selfservice.Sessions {
	w.Helper()
	r := w.send("GET", path, nil, "Accept", "application/json")
	require.Equal(w, http.StatusOK, r.status, r.body)
	require.Equal(w, "application/json", r.header.Get("Content-Type"))
	var s selfservice.Sessions
	d := json.NewDecoder(strings.NewReader(r.body))
	d.DisallowUnknownFields()
	require.NoError(w, d.Decode(&s))
	return s
}

func TestShowsOnesOwnSessions(t *testing.T) {
	a := limits(24*time.Hour, 2*time.Hour, 3)
	a.Kinds = map[policy.Kind]policy.Limits{policy.CLI: {Concurrent: policy.LimitTo(5)}, policy.Automation: {Concurrent: policy.LimitTo(9)}}
	w := newWorld(t, a)
	w.add("0", alice, func(s *store.Session) { s.ClientNames = []string{"Payroll", "Wiki"} })
	w.add("1", alice, func(s *store.Session) {
		s.Kind, s.Client, s.UserAgent, s.Address = policy.CLI, "deploy", "deploy-cli/1.0", "2001:db8:1::/48"
		s.Authenticated, s.Started, s.LastActivity = noon.Add(-23*time.Hour), noon.Add(-23*time.Hour), noon
		s.Grants = []store.Grant{{ID: "g", Client: "deploy"}, {ID: "h", Client: "mail"}, {ID: "i", Client: "gone", Revoked: noon}}
	})
	w.add("pending", alice, func(s *store.Session) { s.ReservedUntil = noon.Add(time.Minute) })
	w.add("idle", alice, func(s *store.Session) { s.LastActivity = noon.Add(-3 * time.Hour); s.Authenticated = s.LastActivity }) // no sweep came by
	w.add("bob", bob, nil)

	got := w.json("")
	require.Equal(t, []selfservice.Cap{{Used: 3, Max: 3}, {Used: 1, Max: 5, Kind: policy.CLI}}, got.Caps)
	require.Equal(t, []selfservice.Session{
		{
			SID: idOf("0"), Current: true, Kind: policy.Browser, Device: "Firefox on Linux", Network: "192.0.2.x", Applications: []string{"Payroll", "Wiki"},
			Started: noon.Add(-time.Hour), LastUsed: noon.Add(-time.Minute), EndsAt: noon.Add(119 * time.Minute), EndsBecause: policy.ReasonInactivity,
		},
		{
			SID: idOf("1"), Kind: policy.CLI, Device: "deploy-cli", Network: "2001:db8:1::/48", Applications: []string{"deploy", "mail"},
			Started: noon.Add(-23 * time.Hour), LastUsed: noon, EndsAt: noon.Add(time.Hour), EndsBecause: policy.ReasonActiveLimit,
		},
	}, got.Sessions)
	require.Equal(t, []int{2, 1, 1, 1}, []int{got.Total, got.Page, got.Pages, got.Pending})
	require.Len(t, got.Ended, 1)
	require.Equal(t, idOf("idle"), got.Ended[0].SID)
	require.Equal(t, policy.ReasonInactivity, got.Ended[0].Reason)
	require.Equal(t, noon.Add(-time.Hour), got.Ended[0].EndedAt)
	require.Equal(t, "You were signed out after 2 hours without activity.", got.Ended[0].Description)
	require.False(t, got.EndedIncomplete)

	page := w.send("GET", "", nil, "Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
	require.Equal(t, http.StatusOK, page.status)
	require.Equal(t, "text/html; charset=utf-8", page.header.Get("Content-Type"))
	for _, want := range []string{
		"<strong>3 of 3</strong> sign-ins used", "<strong>1 of 5</strong> sign-ins <bdi>on command lines and devices</bdi> used",
		"One of them is a sign-in that is not completed yet.",
		"Firefox on Linux", "This one", "<bdi>Payroll</bdi>, <bdi>Wiki</bdi>", "192.0.2.x", "Sign out",
		`<time datetime="2024-05-06T11:59:00Z" title="6 May 2024, 11:59 UTC">1 minute ago</time>`,
		`<time datetime="2024-05-06T13:59:00Z" title="6 May 2024, 13:59 UTC">in 1 hour</time> if unused`,
		"deploy-cli", "Command line or device", "in 1 hour</time></dd>",
		"Ended lately", "You were signed out after 2 hours without activity.",
		`<a href="/home">`, `href="style.css?v=`, `action="end"`, `action="end-others"`, `value="` + idOf("1") + `"`,
	} {
		require.Contains(t, page.body, want)
	}
	require.NotContains(t, page.body, idOf("bob"))
	require.NotContains(t, page.body, idOf("pending"))

	// Nobody knows which one it is.
	w.sid = ""
	require.False(t, w.json("").Sessions[0].Current)
	page = w.send("GET", "", nil)
	require.NotContains(t, page.body, "This one")
	require.NotContains(t, page.body, "All others")
	w.subject = store.Subject{Issuer: alice.Issuer, ID: "nobody"}
	require.Equal(t, []selfservice.Cap{{Used: 0, Max: 3}}, w.json("").Caps)
	require.Contains(t, w.send("GET", "", nil).body, "You are not signed in anywhere.")
}

func TestEndsSessions(t *testing.T) {
	w := newWorld(t, limits(24*time.Hour, 2*time.Hour, 0))
	for _, name := range []string{"0", "1", "2", "3"} {
		w.add(name, alice, nil)
	}
	w.add("pending", alice, func(s *store.Session) { s.ReservedUntil = noon.Add(time.Minute) })
	w.add("bob", bob, nil)

	r := w.post("end", url.Values{"sid": {idOf("1")}})
	require.Equal(t, http.StatusSeeOther, r.status)
	require.Equal(t, "./?ended="+url.QueryEscape(idOf("1")), r.header.Get("Location"))
	require.Equal(t, policy.ReasonEndedByUser, w.ended("1"))
	s, err := w.store.Get(t.Context(), idOf("1"))
	require.NoError(t, err)
	require.Equal(t, "alice", s.End.By)
	require.Contains(t, w.send("GET", "?ended="+idOf("1"), nil).body, "Ended: Firefox on Linux.")
	for _, other := range []string{idOf("0"), idOf("2"), "none", "others<b>"} { // what did not happen is not said
		require.NotContains(t, w.send("GET", "?ended="+url.QueryEscape(other), nil).body, `role="status"`)
	}
	require.Equal(t, []policy.Reason{"", "", "", "", ""}, []policy.Reason{w.ended("0"), w.ended("2"), w.ended("3"), w.ended("pending"), w.ended("bob")})

	// Again, which changes nothing; and as a program.
	require.Equal(t, http.StatusSeeOther, w.post("end", url.Values{"sid": {idOf("1")}}).status)
	r = w.post("end", url.Values{"sid": {idOf("1")}}, "Accept", "application/json")
	require.Equal(t, http.StatusOK, r.status)
	require.JSONEq(t, `{"ended":0}`, r.body)
	r = w.post("end?format=json", url.Values{"sid": {idOf("2")}})
	require.JSONEq(t, `{"ended":1}`, r.body)

	r = w.post("end-others", url.Values{})
	require.Equal(t, "./?ended=others", r.header.Get("Location"))
	require.Contains(t, w.send("GET", "?ended=others", nil).body, "other sign-ins were ended.")
	require.Equal(t, []policy.Reason{"", policy.ReasonEndedByUser, policy.ReasonEndedByUser, ""}, []policy.Reason{w.ended("0"), w.ended("3"), w.ended("pending"), w.ended("bob")})
	require.NotContains(t, w.send("GET", "", nil).body, "end-others", "there is none left")
	require.JSONEq(t, `{"ended":0}`, w.post("end-others?format=json", url.Values{}).body)

	// This one: that is to sign out.
	require.Equal(t, http.StatusSeeOther, w.post("end", url.Values{"sid": {idOf("0")}}).status)
	require.Equal(t, policy.ReasonLogout, w.ended("0"))
	require.Empty(t, w.ended("bob"))
}

// A session of somebody else is as one that does not exist, whatever is asked.
func TestOnlyOnesOwn(t *testing.T) {
	w := newWorld(t, limits(24*time.Hour, 2*time.Hour, 0))
	w.add("0", alice, nil)
	w.add("bob", bob, nil)
	w.add("pending", alice, func(s *store.Session) { s.ReservedUntil = noon.Add(time.Minute) })
	w.add("over", bob, func(s *store.Session) { s.LastActivity = noon.Add(-24 * time.Hour); s.Authenticated = s.LastActivity })
	for _, format := range []string{"", "?format=json"} {
		none := w.post("end"+format, url.Values{"sid": {idOf("none")}})
		require.Equal(t, http.StatusNotFound, none.status)
		for _, sid := range []string{idOf("bob"), idOf("over"), idOf("pending"), "", "\x00", "\xff", strings.Repeat("a", 3000), "../../end-others", idOf("0") + " ", strings.ToUpper(idOf("bob"))} {
			r := w.post("end"+format, url.Values{"sid": {sid}})
			require.Equal(t, none.status, r.status, "%q", sid)
			require.Equal(t, none.body, r.body, "%q", sid)
		}
		require.Equal(t, none.body, w.post("end"+format+strings.Repeat("&sid="+idOf("0"), min(1, len(format))), url.Values{}).body, "not from the address")
	}
	w.post("end", url.Values{"sid": {idOf("bob"), idOf("0")}}) // the first counts
	w.post("end-others", url.Values{"sub": {"bob175"}, "subject": {"bob175"}, "sid": {idOf("bob")}})
	require.Equal(t, []policy.Reason{"", "", ""}, []policy.Reason{w.ended("0"), w.ended("bob"), w.ended("over")})

	// The same name at another issuer is somebody else.
	w.subject = store.Subject{Issuer: "https://other.example.com", ID: "alice"}
	require.Empty(t, w.json("").Sessions)
	require.Equal(t, http.StatusNotFound, w.post("end", url.Values{"sid": {idOf("0")}}).status)
	w.post("end-others", url.Values{})
	require.Empty(t, w.ended("0"))
}

func TestThoseWhoAreNotSignedIn(t *testing.T) {
	w := newWorld(t, limits(24*time.Hour, 2*time.Hour, 0))
	w.add("0", alice, nil)
	w.add("1", alice, func(s *store.Session) { s.LastActivity = noon.Add(-3 * time.Hour); s.Authenticated = s.LastActivity })
	w.subject = store.Subject{}
	for sid, text := range map[string]string{
		idOf("1"): "You were signed out after 2 hours without activity.",
		idOf("0"): "Sign in to see", "": "Sign in to see", idOf("none"): "Sign in to see",
	} {
		w.sid = sid
		r := w.send("GET", "", nil)
		require.Equal(t, http.StatusUnauthorized, r.status)
		require.NotEmpty(t, r.header.Get("WWW-Authenticate"))
		require.Contains(t, r.header.Get("Set-Cookie"), "curfew-signed-out=", "or the back button shows who was there: TestOwnSessionsPage")
		require.Contains(t, r.body, text)
		require.Contains(t, r.body, `href="/signin"`)
		require.NotContains(t, r.body, "Firefox")
		for _, path := range []string{"end", "end-others"} {
			r := w.post(path+"?format=json", url.Values{"sid": {idOf("0")}})
			require.Equal(t, http.StatusUnauthorized, r.status)
			require.Contains(t, r.body, `"error":"not_signed_in"`)
		}
	}
	require.Empty(t, w.ended("0"))
}

// What an application or a browser says of itself is text, of one line.
func TestHostileValues(t *testing.T) {
	w := newWorld(t, limits(24*time.Hour, 2*time.Hour, 0))
	hostile := []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, "javascript:alert(1)", "{{.}}", "\u202egnp.exe\u202c",
		"a\u2066b\u2069", "\u200b\u200d\ufeff", "line\nbreak\r\n\tand more", "\x00NUL", "&lt;b&gt;", "]]>", "<!--", strings.Repeat("long ", 4000), strings.Repeat("\u0301", 500),
		"=HYPERLINK(\"x\")", "\U000e0041\U000e0042",
	}
	for i, bad := range hostile {
		w.add(fmt.Sprint(i), alice, func(s *store.Session) {
			s.ClientNames, s.UserAgent, s.Kind, s.Client, s.Address = []string{bad, "Good"}, bad[:min(len(bad), 200)], policy.Kind(bad), bad, bad
			if !strings.HasPrefix(bad, "<") {
				s.ClientNames = nil
			}
			if i%2 == 1 {
				s.UserAgent = "Mozilla/5.0 (" + bad[:min(len(bad), 100)] + ") Firefox/1 " + bad[:min(len(bad), 100)]
			}
			s.UserAgent = strings.ToValidUTF8(s.UserAgent, "")
		})
	}
	w.add("ended", alice, func(s *store.Session) { s.ClientNames = hostile[:5] })
	require.NoError(t, w.hook.End(t.Context(), idOf("ended"), policy.Reason(hostile[0]), hostile[1]))
	r := w.send("GET", "?page="+url.QueryEscape(hostile[0])+"&ended="+url.QueryEscape(hostile[1]), nil)
	require.Equal(t, http.StatusOK, r.status)
	visible := strings.ReplaceAll(r.body, "\n", " ")
	for _, c := range []string{"\x00", "\u202e", "\u2066", "\u200b", "\ufeff", "\r", "\U000e0041"} {
		require.NotContains(t, visible, c)
	}
	require.NotContains(t, r.body, "onerror=alert(1)>")
	require.NotContains(t, r.body, " onmouseover='")
	require.Less(t, len(r.body), 100_000, "what is long is cut")
	got := w.json("")
	require.Len(t, got.Sessions, len(hostile))
	for _, s := range got.Sessions {
		for _, name := range append(s.Applications, s.Device, s.Network) {
			require.LessOrEqual(t, len([]rune(name)), 60)
			require.NotContains(t, name, "\n")
		}
	}
	require.NotContains(t, r.body, strings.Repeat("\u0301", 3), "letters do not climb over the lines above")
	require.NotContains(t, r.body, "<bdi></bdi>", "each has a name")
	// As parameters and as anything else, too.
	for _, bad := range hostile {
		if len(bad) > 1000 {
			continue
		}
		w.send("GET", "?format="+url.QueryEscape(bad), nil, "Accept", strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return -1
			}
			return r
		}, bad))
		w.post("end", url.Values{"sid": {bad}, bad: {bad}})
		w.send("GET", url.PathEscape(bad), nil)
	}
}

// A thousand sessions are pages of fifty, and each is on one of them.
func TestAThousandSessions(t *testing.T) {
	w := newWorld(t, limits(24*time.Hour, 2*time.Hour, 2000))
	for i := range 1000 {
		w.add(fmt.Sprint(i), alice, func(s *store.Session) { s.LastActivity = noon.Add(-time.Duration(i) * time.Second) })
	}
	w.sid = idOf("777")
	w.store.Reset()
	seen := map[string]bool{}
	for page := 1; page <= 20; page++ {
		got := w.json(fmt.Sprintf("?page=%d", page))
		require.Equal(t, []int{page, 20, 1000}, []int{got.Page, got.Pages, got.Total})
		require.Len(t, got.Sessions, 50)
		require.Equal(t, page == 1, got.Sessions[0].Current)
		for i, s := range got.Sessions {
			require.False(t, seen[s.SID])
			seen[s.SID] = true
			require.True(t, i < 2 || !s.LastUsed.After(got.Sessions[i-1].LastUsed), "the last used first")
		}
	}
	require.Len(t, seen, 1000)
	require.LessOrEqual(t, w.store.Calls(), 20*3, "reads for each page, however many sessions are on it")
	for query, page := range map[string]int{"": 1, "?page=0": 1, "?page=-3": 1, "?page=x": 1, "?page=21": 20, "?page=99999999999999999999": 1, "?page=2147483648": 20} {
		require.Equal(t, page, w.json(query).Page, query)
	}
	body := w.send("GET", "?page=2", nil).body
	for _, want := range []string{"Page 2 of 20", `href="?page=1"`, `href="?page=3"`, "page 2 of 20</title>"} {
		require.Contains(t, body, want)
	}
	require.JSONEq(t, `{"ended":999}`, w.post("end-others?format=json", url.Values{}).body)
	got := w.json("")
	require.Equal(t, 1, got.Total)
	require.Len(t, got.Ended, provider.MaxOverviewEnded)
	require.Contains(t, w.send("GET", "?ended=others", nil).body, "All other sign-ins were ended.")
}

// Forms come from the provider's own pages only, and nothing else ends anything.
func TestForeignFormsAreRefused(t *testing.T) {
	w := newWorld(t, limits(24*time.Hour, 2*time.Hour, 0))
	w.add("0", alice, nil)
	w.add("1", alice, nil)
	form := url.Values{"sid": {idOf("1")}}
	for name, header := range map[string][]string{
		"cross-site": {"Sec-Fetch-Site", "cross-site"}, "same-site": {"Sec-Fetch-Site", "same-site"},
		"origin": {"Origin", "https://evil.example.com"}, "null": {"Origin", "null"},
		"lookalike": {"Origin", "https://login.example.com.evil.example"}, "scheme": {"Origin", "http://login.example.com"},
	} {
		for _, path := range []string{"end", "end-others"} {
			r := w.send("POST", path, form, header...)
			require.Equal(t, http.StatusForbidden, r.status, "%s %s", name, path)
			require.Contains(t, r.body, "another website")
		}
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		for _, path := range []string{"end", "end-others"} {
			r := w.send(method, path+"?sid="+idOf("1"), nil, "Sec-Fetch-Site", "same-origin")
			require.Equal(t, http.StatusMethodNotAllowed, r.status, "%s %s", method, path)
			require.Equal(t, "POST", r.header.Get("Allow"))
		}
	}
	require.Equal(t, http.StatusMethodNotAllowed, w.post("", form).status)
	require.Equal(t, http.StatusNotFound, w.post("other", form).status)
	r := w.post("end", url.Values{"sid": {idOf("1")}, "more": {strings.Repeat("a", 10<<20)}})
	require.Equal(t, http.StatusRequestEntityTooLarge, r.status)
	require.Equal(t, http.StatusBadRequest, w.send("POST", "end?sid=%zz", url.Values{}).status)
	require.Empty(t, w.ended("1"))

	require.Equal(t, http.StatusSeeOther, w.send("POST", "end", form, "Origin", "https://login.example.com").status, "a trusted one")
	require.Equal(t, policy.ReasonEndedByUser, w.ended("1"))
}

// An outage is a page that says so, or JSON: the cause is for the log.
func TestOutage(t *testing.T) {
	requests := map[string]func(w *world, format string) reply{
		"page": func(w *world, format string) reply { return w.send("GET", format, nil) },
		"end": func(w *world, format string) reply {
			return w.post("end"+format, url.Values{"sid": {idOf("1")}})
		},
		"others": func(w *world, format string) reply { return w.post("end-others"+format, url.Values{}) },
	}
	for name, send := range requests {
		for _, format := range []string{"", "?format=json"} {
			w := newWorld(t, limits(24*time.Hour, 2*time.Hour, 0))
			w.add("0", alice, nil)
			w.add("1", alice, nil)
			unavailable := func(r reply, cause error) {
				t.Helper()
				require.Equal(t, http.StatusServiceUnavailable, r.status, name)
				require.NotEmpty(t, r.header.Get("Retry-After"))
				require.NotContains(t, r.body, "fault")
				require.NotContains(t, r.body, "secret")
				require.NotContains(t, r.body, "Firefox")
				require.ErrorIs(t, w.failed[len(w.failed)-1], cause)
			}
			w.store.Script(faultstore.Always(faultstore.Before))
			unavailable(send(w, format), faultstore.ErrFault)
			w.store.Script(nil)
			w.err = errors.New("secret")
			unavailable(send(w, format), w.err)
			w.err = nil
			require.Empty(t, w.ended("1"))
			require.Less(t, send(w, format).status, 400, "and all works again")
		}
	}
}

func TestStyle(t *testing.T) {
	w := newWorld(t, policy.Account{})
	page := w.send("GET", "", nil).body
	_, rest, ok := strings.Cut(page, `<link rel="stylesheet" href="`)
	require.True(t, ok)
	link, _, _ := strings.Cut(rest, `"`)
	w.subject = store.Subject{} // those who are not signed in see a page as well
	r := w.send("GET", link, nil)
	require.Equal(t, http.StatusOK, r.status)
	require.Equal(t, "text/css; charset=utf-8", r.header.Get("Content-Type"))
	require.Contains(t, r.header.Get("Cache-Control"), "max-age")
	require.NotContains(t, r.body, "url(")
	require.NotContains(t, r.body, "@import")
	require.Contains(t, r.body, "prefers-color-scheme: dark")
}

func TestAccept(t *testing.T) {
	w := newWorld(t, policy.Account{})
	for accept, want := range map[string]string{
		"": "text/html", "*/*": "text/html", "text/html": "text/html", "application/json": "application/json", "application/json;q=0": "text/html",
		"text/html, application/json": "text/html", "application/json, text/html": "application/json", "APPLICATION/JSON; charset=utf-8": "application/json", "image/png": "text/html",
	} {
		require.True(t, strings.HasPrefix(w.send("GET", "", nil, "Accept", accept).header.Get("Content-Type"), want), accept)
	}
	require.True(t, strings.HasPrefix(w.send("GET", "?format=html", nil, "Accept", "application/json").header.Get("Content-Type"), "text/html"))
	head := w.send("HEAD", "", nil)
	require.Equal(t, http.StatusOK, head.status)
	require.Empty(t, head.body)
}

func TestConfig(t *testing.T) {
	hook, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}})
	require.NoError(t, err)
	subject := func(*http.Request) (store.Subject, string, error) { return alice, "", nil }
	for field, cfg := range map[string]selfservice.Config{
		"Hook": {Subject: subject}, "Subject": {Hook: hook}, "TrustedOrigins": {Hook: hook, Subject: subject, TrustedOrigins: []string{"login.example.com"}},
	} {
		_, err := selfservice.New(cfg)
		require.ErrorContains(t, err, "curfew: selfservice.Config."+field)
		require.ErrorIs(t, err, provider.ErrConfig)
	}
	mine, err := selfservice.New(selfservice.Config{Hook: hook, Subject: subject})
	require.NoError(t, err)
	rec := httptest.NewRecorder()
	mine.ServeHTTP(rec, httptest.NewRequestWithContext(context.Background(), "GET", "/", nil))
	require.Equal(t, http.StatusOK, rec.Code)
	require.NotContains(t, rec.Body.String(), "Back")
	require.False(t, bytes.Contains(rec.Body.Bytes(), []byte("sign-ins used")), "without a cap nothing is said of one")
	require.True(t, slices.Contains(rec.Header()["Cache-Control"], "no-store"))
}

// Who acts for a user is seen by the user.
func TestShowsWhoActsForTheUser(t *testing.T) {
	w := newWorld(t, limits(24*time.Hour, 2*time.Hour, 0))
	w.add("0", alice, nil)
	w.add("1", alice, func(s *store.Session) { s.Actor = "help-desk\u202e7" })
	require.Contains(t, w.send("GET", "", nil).body, "Not you: <bdi>help-desk7</bdi> acts for you in it")
	for _, s := range w.json("").Sessions {
		require.Equal(t, s.SID == idOf("1"), s.Actor == "help-desk7", s.SID)
	}
}
