package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// demodata runs internal/browser/demodata.
func demodata(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(Build(t, "internal/browser/demodata"), args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// consoleSettings is the settings file of the organization.
var consoleSettings = filepath.Join("testdata", "console.yaml")

// organization starts examples/op with the people, sessions and counters of
// internal/browser/demodata, and returns its issuer. logout is where the client web is told
// of the end of a session.
func organization(t *testing.T, logout string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	users, clients := filepath.Join(dir, "users.yaml"), filepath.Join(dir, "clients.json")
	demodata(t, "-users", users)
	require.NoError(t, os.WriteFile(clients, fmt.Appendf(nil, `[{"client_id": "web", "client_secret": "web-secret", "type": "web",
		"redirect_uris": ["http://127.0.0.1:9999/cb"], "grant_types": ["authorization_code", "refresh_token"], "backchannel_logout_uri": %q}]`, logout), 0o600))
	if len(args) == 0 {
		args = []string{"-settings-import", consoleSettings}
	}
	_, issuer := provider(t, append([]string{"-users", users, "-clients", clients, "-store", "sqlite:" + filepath.Join(dir, "demo.db")}, args...)...)
	demodata(t, "-store", filepath.Join(dir, "demo.db"), "-issuer", issuer)
	return issuer
}

// enter signs somebody in to the console.
func enter(b *Browser, issuer, user string) *Tab {
	b.t.Helper()
	tab := b.Tab(issuer + "/console/")
	tab.Type("#username", user)
	tab.Type("#password", "demo-"+user)
	tab.Click("button[type=submit]")
	tab.Wait("main.wide h1")
	return tab
}

// looks keeps what a page looks like: light and wide, dark and small.
func (t *Tab) looks(name string) {
	t.t.Helper()
	for _, look := range []struct {
		width  int64
		scheme string
	}{{390, "dark"}, {1280, "light"}} {
		t.Look(look.width, 900, look.scheme)
		require.True(t.t, Evaluate[bool](t, "document.documentElement.scrollWidth <= window.innerWidth"), "%s is wider than the window at %d", name, look.width)
		t.Screenshot(name + "-" + look.scheme)
	}
}

// What administrators do, in a browser that runs no script.
func TestConsole(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			http.Error(w, "not now", http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(app.Close)
	issuer := organization(t, app.URL+"/logout")
	console := issuer + "/console/default/"
	tab := enter(Start(t, false), issuer, "root")
	require.Equal(t, "Login session", tab.Text("h1"))
	require.Equal(t, "24 hours", tab.Text("#tile-active .value"))
	require.Contains(t, tab.Text("#tile-active"), "Set for everyone in this account.")
	tab.looks("overview")
	for _, page := range []string{"activity", "sessions", "overrides", "history", "presets", "deliveries", "explain?user=root"} {
		tab.Go(console + page)
		tab.looks(strings.Split(page, "?")[0])
	}

	// A limit is edited in units, reviewed and saved. Errors are beside the field.
	tab.Go(console)
	tab.Click("#tile-active .act a")
	tab.Screenshot("edit")
	tab.Type("#active", "800")
	require.Equal(t, http.StatusBadRequest, tab.Click("button[type=submit]"))
	require.Equal(t, "800 hours is above the maximum of 30 days.", tab.Text("#active-error"))
	require.Equal(t, "800", tab.Value("#active"))
	require.True(t, Evaluate[bool](tab, "document.activeElement.id === 'active'"))
	tab.looks("mistake")

	// By keyboard: past the menu, to the number, and on.
	tab.Go(console + "edit?field=active")
	tab.Press("\t")
	require.True(t, Evaluate[bool](tab, "document.activeElement.className === 'skip'"))
	tab.Press("\r\t\t")
	require.True(t, Evaluate[bool](tab, "document.activeElement.id === 'active'"))
	tab.Screenshot("focus")
	tab.Press("5\r") // over what is there: it is selected
	tab.Wait("#consequence")
	require.Contains(t, tab.Text("main table"), "24 hours")
	tab.looks("review")
	var ends, people int
	_, err := fmt.Sscanf(tab.Text("#consequence"), "Ends %d sessions of %d people now.", &ends, &people)
	require.NoError(t, err)
	before := liveSessions(tab.beside(console), console)

	// Meanwhile another administrator saves something else.
	second := enter(Start(t, false), issuer, "olga")
	second.Go(console + "edit?field=concurrent")
	second.Type("#concurrent", "6")
	second.Click("button[type=submit]")
	require.Equal(t, "Ends no session now.", second.Text("#consequence"))
	second.Type("#message", "we hire")
	second.Click("form[action=save] button")
	require.Equal(t, "6", second.Text("#tile-concurrent .value"))

	tab.Type("#message", "audit finding 12")
	require.Equal(t, http.StatusPreconditionFailed, tab.Click("form[action=save] button"))
	require.Contains(t, tab.Text(".callout.bad"), "olga")
	require.Contains(t, tab.Text(".callout.bad"), "we hire")
	require.Equal(t, "5", tab.Value("#active"), "nothing that was typed is lost")
	tab.looks("stale")
	tab.Click("form[action=review] button[type=submit]")
	require.Equal(t, "audit finding 12", tab.Value("#message"))
	require.Contains(t, tab.Text("#consequence"), fmt.Sprintf("Ends %d sessions", ends))
	tab.Click("form[action=save] button")
	require.Equal(t, "5 hours", tab.Text("#tile-active .value"))
	require.Contains(t, tab.Text(".notice"), "Saved as version 3.")
	require.Contains(t, tab.Text("#tile-active"), "audit finding 12")
	tab.Screenshot("saved")
	eventually(t, func() bool { return liveSessions(tab, console) == before+1-ends }) // and the second administrator's

	// Undo is a new change.
	tab.Go(console + "history")
	tab.Click("#version-3 .act a")
	tab.Click("form[action=save] button")
	require.Contains(t, tab.Text(".notice"), "Saved as version 4.")
	require.Equal(t, "24 hours", tab.Text("#tile-active .value"))
	require.Equal(t, "6", tab.Text("#tile-concurrent .value"), "only that change was undone")

	// An override, and why it binds.
	tab.Go(console + "overrides")
	tab.Type("#name", "finance")
	tab.Click("form[action=edit] button")
	require.Equal(t, "Override for the group finance", tab.Text("h1"))
	tab.Touch("#inactivity-limit")
	tab.Type("#inactivity", "20")
	require.Equal(t, http.StatusOK, tab.Click("form[action=review] button[type=submit]"))
	require.Contains(t, tab.Text("main table"), "20 hours")
	tab.Click("form[action=save] button[formaction]")
	require.Equal(t, "20", tab.Value("#inactivity"))
	tab.Click("form[action=review] button[type=submit]")
	tab.Click("form[action=save] button")
	tab.Go(console + "explain")
	tab.Type("#user", "carla")
	tab.Click("form[action=explain] button")
	require.Contains(t, tab.Text("table.explain"), "group finance")
	require.Contains(t, tab.Text("table.explain"), "2 hours of everyone")
	tab.looks("explained")

	// Sessions: one ends, whose application does not take it yet.
	tab.Go(console + "sessions?user=carla")
	tab.Click(".rows .who a")
	tab.looks("session")
	tab.Click("form[action$='sessions/end'] button")
	tab.looks("ending")
	tab.Click("form[action$='sessions/end'] button")
	require.Contains(t, tab.Text(".callout.bad"), "An administrator ended your sign-in.")
	here := tab.Address()
	eventually(t, func() bool { tab.Go(here); return tab.Has(".deliveries") })
	require.Contains(t, tab.Text(".deliveries"), "web")
	tab.Screenshot("session-ended")
	up.Store(true)
	tab.Click(".deliveries form button")
	require.Equal(t, "The application was told.", tab.Text(".notice"))
	require.False(t, tab.Has(".deliveries"))

	// Many end, but not this one.
	tab.Go(console + "sessions?user=elif")
	tab.Click("button[value=matching]")
	require.Contains(t, tab.Text("h1"), "all sessions of elif")
	tab.Click("form[action$='sessions/end'] button")
	require.Contains(t, tab.Text(".notice"), "ended.")
	require.Equal(t, "There are none.", tab.Text(".none"))
	tab.Go(console + "sessions")
	tab.Click("button[value=matching]")
	require.Contains(t, tab.Text(".callout h2"), "yours among them")
	tab.Click("form[action$='sessions/end'] button")
	require.True(t, tab.Has(".rows li.current"))
	require.Equal(t, 1, liveSessions(tab, console))

	// The other administrator is out, at once.
	second.Go(console)
	require.False(t, second.Has(".tiles"))
}

// liveSessions counts the live sessions of the account.
func liveSessions(t *Tab, console string) (n int) {
	t.t.Helper()
	t.Go(console + "sessions")
	t.Click("button[value=matching]")
	_, err := fmt.Sscanf(t.Text(".callout h2"), "Ends %d session", &n)
	require.NoError(t.t, err)
	return n
}

// eventually polls until something that others do has happened.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "it did not happen in time")
	}
}

// beside opens another tab of the same browser.
func (t *Tab) beside(address string) *Tab {
	t.t.Helper()
	return (&Browser{t: t.t, ctx: t.ctx}).Tab(address)
}

// With settings that are in a file everything is seen, and nothing changed. Who
// administers nothing sees nothing.
func TestConsoleReadOnly(t *testing.T) {
	t.Parallel()
	issuer := organization(t, "http://127.0.0.1:9999/logout", "-settings", consoleSettings)
	console := issuer + "/console/default/"
	tab := enter(Start(t, false), issuer, "root")
	require.Contains(t, tab.Text(".read-only"), "They are in the settings file of the server")
	require.Equal(t, "24 hours", tab.Text("#tile-active .value"))
	require.False(t, tab.Has("a[href*=edit]"))
	tab.looks("overview")
	tab.Go(console + "edit?field=active")
	require.Equal(t, "The settings cannot be changed here", tab.Text("h1"))

	nobody := enter(Start(t, false), issuer, "alice")
	require.Equal(t, "This is not for you to see", nobody.Text("h1"))
	nobody.Screenshot("nobody")
	for _, page := range []string{"", "sessions", "history", "explain?user=root"} {
		nobody.Go(console + page)
		require.Equal(t, "This is not for you to see", nobody.Text("h1"))
		require.False(t, nobody.Has("nav"))
	}
}

// A finding is something that axe-core found on a page.
type finding struct {
	ID     string   `json:"id"`
	Impact string   `json:"impact"`
	Help   string   `json:"help"`
	Nodes  []string `json:"nodes"`
}

// accessible holds that axe-core finds nothing serious on the page.
func (t *Tab) accessible(axe, name string) {
	t.t.Helper()
	Evaluate[bool](t, axe+"; true")
	for _, scheme := range []string{"light", "dark"} {
		t.Look(1280, 900, scheme)
		findings := Evaluate[[]finding](t, `axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v => ({
				id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map(n => n.html + ' ' + n.failureSummary)})))`)
		for _, f := range findings {
			require.NotContains(t.t, []string{"serious", "critical"}, f.Impact, "%s, %s: %s: %s\n%s", name, scheme, f.ID, f.Help, strings.Join(f.Nodes, "\n"))
			t.t.Logf("%s, %s: %s %s: %s", name, scheme, f.Impact, f.ID, f.Help)
		}
	}
}

// axe-core finds nothing serious on any page, light or dark.
func TestConsoleIsAccessible(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile(filepath.Join("testdata", "axe", "axe.min.js"))
	require.NoError(t, err)
	axe := string(source)
	issuer := organization(t, "http://127.0.0.1:9999/logout")
	console := issuer + "/console/default/"
	tab := enter(Start(t, true), issuer, "root")
	for _, page := range []string{
		"", "edit", "edit?field=observe", "edit?scope=groups&name=admins", "edit?scope=groups", "edit?preset=pci-dss-4", "presets", "overrides",
		"explain?user=root", "explain?user=stranger", "history", "review?what=restore&restored=0", "sessions", "sessions?state=ended", "sessions?user=%00",
		"deliveries", "activity", "nothing",
	} {
		tab.Go(console + page)
		tab.accessible(axe, page)
	}
	tab.Go(console + "sessions?state=ended")
	tab.Click(".owed a")
	tab.accessible(axe, "session")
	tab.Go(console + "sessions?user=ben")
	tab.Click("button[value=matching]")
	tab.accessible(axe, "ending")
	tab.Go(console + "edit?field=active")
	tab.Type("#active", "1")
	second := tab.beside(console + "edit?field=inactivity")
	tab.Click("form[action=review] button[type=submit]")
	tab.accessible(axe, "a mistake") // the inactivity of an override is longer
	tab.Type("#active", "13")
	tab.Click("form[action=review] button[type=submit]")
	tab.accessible(axe, "review")
	second.Type("#inactivity", "1")
	second.Click("form[action=review] button[type=submit]")
	tab.Click("form[action=save] button")
	second.Click("form[action=save] button")
	second.accessible(axe, "stale")
	tab.Go(issuer + "/sessions/")
	tab.accessible(axe, "/sessions/")
}
