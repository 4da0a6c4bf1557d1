package browser

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// application is one that redeems its codes. It returns its callback.
func application(t *testing.T, issuer *string) string {
	t.Helper()
	var callback string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, *issuer+"/oauth/token", nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		request.URL.RawQuery = url.Values{"grant_type": {"authorization_code"}, "code": {r.URL.Query().Get("code")}, "redirect_uri": {callback}}.Encode()
		request.SetBasicAuth("mail", "mail-secret")
		reply, err := http.DefaultClient.Do(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer reply.Body.Close()
		var tokens struct {
			AccessToken string `json:"access_token"`
		}
		_ = json.NewDecoder(reply.Body).Decode(&tokens) // empty: not signed in
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<p id="home">signed in: %t</p>`, tokens.AccessToken != "")
	}))
	t.Cleanup(server.Close)
	callback = server.URL + "/cb"
	return callback
}

// A user signs in in three browsers, looks at all three from one of them, and ends
// one and then the other, by keyboard and without script. The ended browser says
// why.
func TestOwnSessionsPage(t *testing.T) {
	var issuer string
	callback := application(t, &issuer)
	clients := filepath.Join(t.TempDir(), "clients.json")
	require.NoError(t, os.WriteFile(clients, []byte(`[{"client_id": "mail", "client_secret": "mail-secret", "type": "web", "redirect_uris": ["`+callback+`"],
		"grant_types": ["authorization_code", "refresh_token"]}]`), 0o600))
	_, issuer = provider(t, "-clients", clients)
	address := issuer + "/authorize?" + url.Values{
		"client_id": {"mail"}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"openid"}, "state": {"1"},
	}.Encode()
	signIn := func() *Tab {
		tab := Start(t, false).Tab(address)
		tab.Type("#username", "alice")
		tab.Type("#password", "wonderland-1")
		tab.Click("button[type=submit]")
		tab.Wait("#home")
		require.Equal(t, "signed in: true", tab.Text("#home"))
		tab.Go(issuer + "/")
		require.Equal(t, http.StatusOK, tab.Click(`a[href="/sessions/"]`))
		return tab
	}
	first, second, here := signIn(), signIn(), signIn()

	require.Equal(t, "Your sign-ins", here.Text("h1"))
	require.Equal(t, 3, Evaluate[int](here, "document.querySelectorAll('.card').length"))
	require.Equal(t, 1, Evaluate[int](here, "document.querySelectorAll('.card.current').length"))
	require.True(t, Evaluate[bool](here, "document.querySelector('.card').classList.contains('current')"))
	require.Contains(t, here.Text(".card.current"), "Chrome on Linux")
	require.Contains(t, here.Text(".card.current"), "mail")
	here.Screenshot("three")
	for _, width := range []int64{1280, 768, 390, 320} {
		for _, scheme := range []string{"light", "dark"} {
			here.Look(width, 800, scheme)
			require.LessOrEqual(t, Evaluate[int](here, "document.documentElement.scrollWidth"), int(width), "nothing sticks out")
			require.Equal(t, scheme == "dark", Evaluate[bool](here, "getComputedStyle(document.body).backgroundColor === 'rgb(22, 22, 20)'"), scheme)
			here.Screenshot(fmt.Sprintf("%d-%s", width, scheme))
		}
	}
	here.Look(1280, 900, "light")

	// What a screen reader is told: each thing has a name of its own.
	require.Empty(t, Evaluate[[]string](here, `(() => {
		const wrong = [], ids = new Set();
		for (const e of document.querySelectorAll("[id]")) { if (ids.has(e.id)) wrong.push("twice: " + e.id); ids.add(e.id); }
		for (const e of document.querySelectorAll("[aria-describedby], [aria-labelledby]"))
			for (const id of (e.getAttribute("aria-describedby") || e.getAttribute("aria-labelledby")).split(" ")) if (!ids.has(id)) wrong.push("no " + id);
		for (const e of document.querySelectorAll("button, a")) if (!e.textContent.trim()) wrong.push("no name: " + e.outerHTML);
		for (const e of document.querySelectorAll("ul")) for (const c of e.children) if (c.tagName !== "LI") wrong.push("in a list: " + c.tagName);
		let level = 0;
		for (const e of document.querySelectorAll("h1, h2, h3")) { const l = +e.tagName[1]; if (l > level + 1) wrong.push("skips to " + e.tagName); level = l; }
		return wrong;
	})()`))

	// By keyboard to the button of the second card, which is not this one.
	focused := "document.activeElement.closest('.card') === document.querySelectorAll('.card')[1] && document.activeElement.tagName === 'BUTTON'"
	for i := 0; !Evaluate[bool](here, focused); i++ {
		require.Less(t, i, 10, "the keyboard does not come to it")
		here.Press("\t")
	}
	here.Screenshot("focus")
	require.Equal(t, http.StatusOK, here.Click(".card:nth-child(2) button:focus"))
	require.Contains(t, here.Text("[role=status]"), "Ended: Chrome on Linux")
	require.Equal(t, 2, Evaluate[int](here, "document.querySelectorAll('.card').length"))
	require.Contains(t, here.Text(".ended"), "You ended this sign-in from another one.")
	here.Screenshot("ended")

	require.Equal(t, http.StatusOK, here.Click(`form[action="end-others"] button`))
	require.Contains(t, here.Text("[role=status]"), "other sign-ins were ended")
	require.Equal(t, 1, Evaluate[int](here, "document.querySelectorAll('.card').length"))
	require.False(t, here.Has(`form[action="end-others"]`))
	for _, gone := range []*Tab{first, second} {
		gone.Go(issuer + "/sessions/")
		require.Equal(t, "You are not signed in", gone.Text("h1"))
		require.Contains(t, gone.Text("main"), "You ended this sign-in from another one.")
	}
	second.Screenshot("ended-there")

	// To sign out here, and to go back to the page: it is not kept anywhere.
	require.Equal(t, http.StatusUnauthorized, here.Click(".card.current button"))
	require.Contains(t, here.Text("main"), "You signed out.")
	here.Back()
	require.Equal(t, "You are not signed in", here.Text("h1"))
}
