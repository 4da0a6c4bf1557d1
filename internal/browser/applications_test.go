package browser

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A world is the example provider with two of the example applications, as three
// processes. Nothing in it is for tests only.
type world struct {
	t      *testing.T
	issuer string
	mail   string // the address of an application
	files  string // and of another one
}

// freeAddress returns an address to listen on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// newWorld starts one. settings is the document of the account "default", on one
// line.
func newWorld(t *testing.T, settings string) *world {
	t.Helper()
	dir := t.TempDir()
	put := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	addresses := map[string]string{"mail": freeAddress(t), "files": freeAddress(t)}
	var clients []map[string]any
	for name, address := range addresses {
		clients = append(clients, map[string]any{
			"client_id": name, "client_secret": name + "-secret", "type": "web",
			"grant_types":   []string{"authorization_code", "refresh_token"},
			"redirect_uris": []string{"http://" + address + "/cb"}, "post_logout_redirect_uris": []string{"http://" + address + "/"},
			"backchannel_logout_uri": "http://" + address + "/auth/backchannel",
		})
	}
	text, err := json.Marshal(clients)
	require.NoError(t, err)
	w := &world{t: t, mail: "http://" + addresses["mail"], files: "http://" + addresses["files"]}
	_, w.issuer = provider(t, "-floor", "1s", "-clients", put("clients.json", string(text)),
		"-settings", put("settings.yaml", "accounts: {default: {"+settings+"}}\n"))
	for name, address := range addresses {
		Run(t, "is ready", Build(t, "examples/rp"), "-listen", address, "-issuer", w.issuer, "-client-id", name, "-client-secret", name+"-secret")
	}
	return w
}

// signIn enters the password on the provider's page.
func signIn(tab *Tab) {
	tab.t.Helper()
	tab.Type("#username", "alice")
	tab.Type("#password", "wonderland-1")
	tab.Click("button[type=submit]")
}

// requireAt waits until a tab is at an address of an application, signed in.
func requireAt(tab *Tab, address string) {
	tab.t.Helper()
	tab.Wait("#signout")
	require.Equal(tab.t, address, tab.Address())
}

// sessions looks at the page of one's own sessions in a tab.
func (w *world) sessions(b *Browser) *Tab {
	w.t.Helper()
	tab := b.Tab(w.issuer + "/sessions/")
	require.Equal(w.t, "Your sign-ins", tab.Text("h1"))
	return tab
}

func cards(tab *Tab) int {
	return Evaluate[int](tab, "document.querySelectorAll('.card').length")
}

// over waits until the session of a browser has ended by nothing but time. The
// provider's home page says so, and looking at it slides nothing.
func (w *world) over(b *Browser) {
	w.t.Helper()
	tab := b.Tab(w.issuer + "/")
	for deadline := time.Now().Add(patience); strings.HasPrefix(tab.Text("h1"), "You are signed in"); time.Sleep(100 * time.Millisecond) {
		require.True(w.t, time.Now().Before(deadline), "it does not end")
		tab.Go(w.issuer + "/")
	}
	require.Equal(w.t, "Nobody is signed in in this browser", tab.Text("h1"))
}

const day = "active: 24h, inactivity: 2h"

// Two applications in one browser are one session: at the second nobody is asked
// for a password. Signing out of one signs out the other, through the back
// channel. All without script.
func TestTwoApplicationsAreOneSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	b := Start(t, false)
	mail := b.Tab(w.mail + "/notes")
	signIn(mail)
	requireAt(mail, w.mail+"/notes")
	files := b.Tab(w.files + "/notes") // no password
	requireAt(files, w.files+"/notes")
	require.Equal(t, mail.Text("#user"), files.Text("#user"))
	files.Screenshot("second-application")
	page := w.sessions(b)
	require.Equal(t, 1, cards(page))
	require.Contains(t, page.Text(".card"), "mail")
	require.Contains(t, page.Text(".card"), "files")
	page.Screenshot("one-session")

	mail.Click("#signout")
	mail.Wait("#signin")
	require.True(t, strings.HasPrefix(mail.Address(), w.mail+"/?state="), mail.Address())
	mail.Screenshot("signed-out")
	// The other one was told before the browser was sent back.
	files.Go(w.files + "/notes")
	files.Wait("#username")
	require.True(t, strings.HasPrefix(files.Address(), w.issuer), files.Address())
	files.Screenshot("signed-out-too")
	signIn(files)
	requireAt(files, w.files+"/notes")
	require.Contains(t, files.Text("#notice"), "You were signed out, here or in another application.")
	files.Screenshot("back-with-reason")
}

// Two browsers are two sessions. A third one at a cap of two is asked, ends one and
// goes on. The browser that was ended lands on the sign-in page, with the reason,
// and after signing in on its page.
func TestAThirdBrowserIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day+", concurrent: 2, at_limit: ask")
	first, second, third := Start(t, false), Start(t, false), Start(t, false)
	page := w.mail + "/notes?from=first"
	one := first.Tab(page)
	signIn(one)
	requireAt(one, page)
	two := second.Tab(w.mail + "/notes")
	signIn(two)
	requireAt(two, w.mail+"/notes")
	two = w.sessions(second)
	require.Equal(t, 2, cards(two))
	two.Screenshot("two-browsers")

	three := third.Tab(w.mail + "/notes")
	signIn(three)
	require.Equal(t, "You have too many sign-ins", three.Text("h1"))
	three.Screenshot("asked")
	three.Touch("#s0") // the longest unused, which is the first browser's
	three.Screenshot("chosen")
	three.Click("button[value=end]")
	requireAt(three, w.mail+"/notes")
	require.Equal(t, 2, cards(w.sessions(third)))
	three.Screenshot("went-on")

	one.Go(page)
	one.Wait("#username")
	require.Contains(t, one.Text("main"), "You ended this sign-in from another one.")
	one.Screenshot("ended-with-reason")
	signIn(one)
	require.Equal(t, "You have too many sign-ins", one.Text("h1"))
	one.Touch("#s0")
	one.Click("button[value=end]")
	requireAt(one, page)
	one.Screenshot("on-its-page")
}

// Idle through the window, then a click: the reason, the sign-in page, and after it
// the same page.
func TestIdleThenClick(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "active: 24h, inactivity: 3s")
	b := Start(t, false)
	tab := b.Tab(w.mail + "/notes?page=2")
	signIn(tab)
	requireAt(tab, w.mail+"/notes?page=2")
	tab.Screenshot("before")
	w.over(b)
	tab.Go(w.mail + "/notes?page=3")
	tab.Wait("#username")
	require.Contains(t, tab.Text("main"), "You were signed out after 3 seconds without activity.")
	tab.Screenshot("reason")
	signIn(tab)
	requireAt(tab, w.mail+"/notes?page=3")
	tab.Screenshot("same-page")
}

// The absolute end comes while somebody types. What they typed is kept, and sent
// when they have signed in again and say so.
func TestTheEndWhileTyping(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "active: 4s")
	b := Start(t, false)
	tab := b.Tab(w.mail + "/notes")
	signIn(tab)
	requireAt(tab, w.mail+"/notes")
	const text = "A long note,\nwith “quotes” & <b>all</b>."
	tab.Type("#note", text)
	tab.Screenshot("typed")
	w.over(b)
	require.Equal(t, http.StatusUnauthorized, tab.Click("#add"))
	require.Contains(t, tab.Text("#text"), "a sign-in lasts at most 4 seconds")
	require.Contains(t, tab.Text("#kept"), "A long note")
	tab.Screenshot("kept")
	tab.Click("#submit")
	if tab.Has("#username") { // else the sign-in was newer than the application knew
		tab.Screenshot("sign-in")
		signIn(tab)
	}
	tab.Wait("#kept")
	require.Contains(t, tab.Text("#kept"), "A long note")
	tab.Screenshot("send-it")
	tab.Click("#submit")
	tab.Wait("#notes li")
	require.Contains(t, tab.Text("#notes li"), "with “quotes” & <b>all</b>.")
	tab.Screenshot("sent")
}

// A script's request is never redirected: it gets a 401 with a challenge, and the
// page says why and offers a way on. The countdown, which asks all the time, keeps
// nothing alive.
func TestAScriptIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "active: 24h, inactivity: 6s")
	b := Start(t, true)
	tab := b.Tab(w.mail + "/notes")
	signIn(tab)
	requireAt(tab, w.mail+"/notes")
	tab.Touch("#call")
	tab.WaitFor(`document.getElementById("result").textContent.includes("0 notes at")`)
	tab.WaitFor(`document.getElementById("countdown").textContent.includes("signed out in 00:0")`)
	tab.Screenshot("countdown")
	tab.WaitFor(`document.getElementById("countdown").textContent.includes("You were signed out")`)
	w.over(b) // the application counts whole seconds, and may be up to one early
	// Not by the mouse: the countdown has just moved what is below it.
	require.True(t, Evaluate[bool](tab, `(document.getElementById("call").click(), true)`))
	tab.WaitFor(`document.getElementById("result").textContent.includes("You were signed out")`)
	tab.Screenshot("told")
	answer := Evaluate[[]string](tab, `fetch("/api/count", {headers: {Accept: "application/json"}}).then(r => [String(r.status), String(r.redirected), r.headers.get("WWW-Authenticate")])`)
	require.Equal(t, []string{"401", "false"}, answer[:2])
	require.True(t, strings.HasPrefix(answer[2], `Bearer `), answer)
	require.Contains(t, answer[2], `error="invalid_token"`)
	tab.Click("#result a")
	require.Contains(t, tab.Text("main"), "You were signed out after 6 seconds without activity.", "the provider knows why, whoever told the application")
	signIn(tab)
	requireAt(tab, w.mail+"/notes")
	tab.Screenshot("back")
}

// Who is at work in one application stays signed in to the other.
func TestActivityInOneKeepsTheOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "active: 24h, inactivity: 4s")
	b := Start(t, false)
	mail := b.Tab(w.mail + "/notes")
	signIn(mail)
	requireAt(mail, w.mail+"/notes")
	files := b.Tab(w.files + "/notes")
	requireAt(files, w.files+"/notes")
	// Longer than the window, and never idle in one of them.
	for begin := time.Now(); time.Since(begin) < 9*time.Second; time.Sleep(200 * time.Millisecond) {
		mail.Click("#stay")
		requireAt(mail, w.mail+"/notes")
	}
	files.Go(w.files + "/notes?still")
	requireAt(files, w.files+"/notes?still")
	require.False(t, files.Has("#notice"))
	require.Equal(t, 1, cards(w.sessions(b)))
	files.Screenshot("still-signed-in")
}
