package browser

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// spread is an application whose callback leads to a page at another origin. It
// returns the callback.
func spread(t *testing.T) string {
	t.Helper()
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<p id="home">%s</p>`, map[bool]string{true: "signed in", false: "not signed in"}[r.URL.Query().Get("code") != ""])
	}))
	t.Cleanup(home.Close)
	at, err := url.Parse(home.URL)
	require.NoError(t, err)
	at.Host = "localhost:" + at.Port()
	callback := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, at.String()+"/home?"+r.URL.RawQuery, http.StatusFound)
	}))
	t.Cleanup(callback.Close)
	return callback.URL + "/cb"
}

// occupy signs alice in without a browser, and leaves the code.
func occupy(t *testing.T, issuer, address string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := &http.Client{Jar: jar}
	page, err := client.Get(address)
	require.NoError(t, err)
	require.NoError(t, page.Body.Close())
	done, err := client.PostForm(issuer+"/login", url.Values{
		"id": {page.Request.URL.Query().Get("id")}, "username": {"alice"}, "password": {"wonderland-1"},
	})
	require.NoError(t, err)
	require.NoError(t, done.Body.Close())
	require.NotEmpty(t, done.Request.URL.Query().Get("code"), done.Request.URL)
}

// At cap 1 the second browser is asked which session to end, and goes on to the
// application, whose callback leads on to another origin: browsers hold all of it
// against the form-action of the page. All without script.
func TestAskAtTheCap(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	redirect := spread(t)
	_, issuer := provider(t,
		"-settings", file("settings.yaml", "accounts: {default: {active: 24h, concurrent: 1, at_limit: ask}}\n"),
		"-clients", file("clients.json", `[{"client_id": "mail", "client_secret": "mail-secret", "type": "web", "redirect_uris": ["`+redirect+`"],
			"grant_types": ["authorization_code", "refresh_token"]}]`))
	address := issuer + "/authorize?" + url.Values{
		"client_id": {"mail"}, "redirect_uri": {redirect}, "response_type": {"code"}, "scope": {"openid"}, "state": {"1"},
	}.Encode()
	signIn := func() *Tab {
		tab := Start(t, false).Tab(address)
		tab.Type("#username", "alice")
		tab.Type("#password", "wonderland-1")
		tab.Click("button[type=submit]")
		return tab
	}
	occupy(t, issuer, address)

	tab := signIn()
	require.Equal(t, "You have too many sign-ins", tab.Text("h1"))
	require.Contains(t, tab.Text("label"), "Go-http-client")
	tab.Screenshot("asked")
	tab.Look(360, 740, "dark")
	tab.Screenshot("asked-small-dark")
	tab.Look(1280, 900, "light")

	// Nothing chosen.
	require.Equal(t, http.StatusForbidden, tab.Click("button[value=end]"))
	require.Contains(t, tab.Text("#error"), "choose at least one")
	tab.Screenshot("nothing-chosen")

	// By keyboard: to the check box, which is chosen, and its form sent.
	tab.Press("\t")
	tab.Press(" ")
	require.True(t, Evaluate[bool](tab, "document.activeElement.id === 's0' && document.activeElement.checked"))
	tab.Screenshot("chosen")
	tab.Click("button[value=end]")
	tab.Wait("#home")
	require.Equal(t, "signed in", tab.Text("#home"))

	other := signIn()
	require.Equal(t, "You have too many sign-ins", other.Text("h1"))
	other.Click("button[value=cancel]")
	other.Wait("#home")
	require.Equal(t, "not signed in", other.Text("#home"))
	require.Contains(t, other.Address(), "error=access_denied")
}
