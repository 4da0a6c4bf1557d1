package browser

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sibling is another origin of the provider's site: for browsers a site has no port,
// so they send the provider's cookies along. Its page "/" is empty, and "/posts" posts
// the form in the address.
func sibling(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		q := r.URL.Query()
		fmt.Fprintf(w, `<title>sibling</title><form method="post" action="%s">`, html.EscapeString(q.Get("to")))
		for name, values := range q {
			if name == "to" {
				continue
			}
			for _, value := range values {
				fmt.Fprintf(w, `<input type="hidden" name="%s" value="%s">`, html.EscapeString(name), html.EscapeString(value))
			}
		}
		fmt.Fprint(w, `<button id="go">Win a prize</button></form>`)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// tries is what script of the page in a tab gets to read at an address.
func tries(tab *Tab, address string) string {
	return Evaluate[string](tab, fmt.Sprintf(`fetch(%q, {credentials: "include"}).then(r => r.text()).catch(e => "refused: " + e)`, address))
}

var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// formOf returns the hidden inputs of a page.
func formOf(body string) url.Values {
	form := url.Values{}
	for _, m := range hidden.FindAllStringSubmatch(body, -1) {
		form.Add(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	return form
}

// op answers every origin with credentials. A page of another origin on the same site
// reads neither the page that asks before a sign-out nor the list of sessions at the
// cap nor the user's own page, and cannot answer them.
func TestASiblingOriginReadsAndAnswersNoPage(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	var issuer string
	redirect := application(t, &issuer)
	_, issuer = provider(t,
		"-settings", file("settings.yaml", "accounts: {default: {active: 24h, concurrent: 1, at_limit: ask}}\n"),
		"-clients", file("clients.json", `[{"client_id": "mail", "client_secret": "mail-secret", "type": "web", "redirect_uris": ["`+redirect+`"],
			"grant_types": ["authorization_code", "refresh_token"]}]`))
	address := issuer + "/authorize?" + url.Values{
		"client_id": {"mail"}, "redirect_uri": {redirect}, "response_type": {"code"}, "scope": {"openid"}, "state": {"1"},
	}.Encode()
	evil := sibling(t)
	browser := Start(t, true)

	// Signed in, in the tab of the user; the attacker's page is in another one.
	user := browser.Tab(address)
	user.Type("#username", "alice")
	user.Type("#password", "wonderland-1")
	user.Click("button[type=submit]")
	user.Wait("#home")
	signedIn := func() bool {
		user.Go(issuer + "/")
		return strings.Contains(user.Text("main"), "You are signed in as alice")
	}
	require.True(t, signedIn())
	attacker := browser.Tab(evil)
	require.Contains(t, tries(attacker, issuer+"/.well-known/openid-configuration"), `"issuer"`, "op's CORS is on: else this proves nothing")
	for _, page := range []string{"/end_session", "/sessions/", "/sessions/?format=json", "/console/"} {
		require.Regexp(t, "^refused: ", tries(attacker, issuer+page), page)
	}

	// An attacker who got at the form all the same posts it, and the user clicks.
	user.Go(issuer + "/end_session")
	require.Equal(t, "Sign out?", user.Text("h1"))
	form := formOf(Evaluate[string](user, "document.body.innerHTML"))
	require.NotEmpty(t, form.Get("curfew_logout"))
	form.Set("curfew_answer", "yes")
	form.Set("to", issuer+"/end_session")
	attacker.Go(evil + "/posts?" + form.Encode())
	attacker.Click("#go")
	require.Equal(t, "Sign out?", attacker.Text("h1"), "it is asked, and not answered")
	require.True(t, signedIn())
	// So does another sibling's way to the user's own page.
	attacker.Go(evil + "/posts?" + url.Values{"to": {issuer + "/sessions/end-others"}}.Encode())
	require.Equal(t, http.StatusForbidden, attacker.Click("#go"))

	// At the cap, in a second browser.
	second := Start(t, true)
	asked := second.Tab(address)
	asked.Type("#username", "alice")
	asked.Type("#password", "wonderland-1")
	asked.Click("button[type=submit]")
	require.Equal(t, "You have too many sign-ins", asked.Text("h1"))
	callback := issuer + "/authorize/callback?" + mustParse(t, asked.Address()).Query().Encode()
	elsewhere := second.Tab(evil)
	require.Regexp(t, "^refused: ", tries(elsewhere, callback))

	choice := url.Values{
		"to": {callback + "&curfew_answer=1"}, "action": {"end"},
		"curfew_token": {Evaluate[string](asked, `document.querySelector("[name=curfew_token]").value`)},
		"end":          {Evaluate[string](asked, `document.querySelector("[name=end]").value`)},
	}
	elsewhere.Go(evil + "/posts?" + choice.Encode())
	require.Equal(t, http.StatusForbidden, elsewhere.Click("#go"))
	require.Contains(t, elsewhere.Text("h1"), "sent by another website")
	require.True(t, signedIn())

	// And the user's own click is taken.
	asked.Touch("[name=end]")
	asked.Click("button[value=end]")
	asked.Wait("#home")
	require.False(t, signedIn())
}

func mustParse(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u
}

// An error that an application wants posted arrives as a form, with script and
// without, through the page's own policy; its callback may lead on to elsewhere.
func TestAnErrorIsPosted(t *testing.T) {
	arrived := make(chan url.Values, 1)
	home := sibling(t)
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost {
			http.Error(w, "not posted", http.StatusBadRequest)
			return
		}
		form, _ := url.ParseQuery(string(body))
		form.Set("origin", r.Header.Get("Origin"))
		arrived <- form
		http.Redirect(w, r, strings.Replace(home, "127.0.0.1", "localhost", 1), http.StatusSeeOther)
	}))
	t.Cleanup(application.Close)
	redirect := application.URL + "/cb"
	clients := filepath.Join(t.TempDir(), "clients.json")
	require.NoError(t, os.WriteFile(clients, []byte(`[{"client_id": "mail", "client_secret": "mail-secret", "type": "web", "redirect_uris": ["`+redirect+`"],
		"grant_types": ["authorization_code"]}]`), 0o600))
	_, issuer := provider(t, "-clients", clients)
	for _, script := range []bool{true, false} {
		tab := Start(t, script).Tab(issuer + "/authorize?" + url.Values{
			"client_id": {"mail"}, "redirect_uri": {redirect}, "response_type": {"code"}, "scope": {"openid"}, "state": {"1"},
			"response_mode": {"form_post"}, "prompt": {"none"},
		}.Encode())
		if !script {
			tab.Click("button")
		}
		tab.Wait("#go")
		form := <-arrived
		require.Equal(t, url.Values{
			"error": {"login_required"}, "error_description": form["error_description"], "state": {"1"}, "iss": {issuer}, "origin": {issuer},
		}, form)
	}
}
