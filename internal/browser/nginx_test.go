package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// nginx starts one that stands before each of the addresses, as it is when nothing is
// said of its limits, and returns the addresses that it listens on.
func nginx(t *testing.T, behind ...string) []string {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx" // which is not in everybody's path
	}
	dir := t.TempDir()
	conf := "daemon off; pid nginx.pid; error_log stderr notice; events {} http { access_log off;\n"
	for _, name := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		conf += name + "_temp_path " + name + ";\n"
	}
	at := make([]string, len(behind))
	for i, address := range behind {
		at[i] = freeAddress(t)
		conf += "server { listen " + at[i] + "; location / { proxy_pass http://" + address + "; proxy_set_header Host $http_host; } }\n"
	}
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(conf+"}\n"), 0o600))
	Run(t, "start worker process ", path, "-p", dir, "-c", file, "-e", "stderr")
	return at
}

// load opens an address in each of the tabs at once, so that none knows what the others
// get, and returns where each of them is then.
func load(t *testing.T, tabs []*Tab, addresses []string) []string {
	t.Helper()
	at, failed := make([]string, len(tabs)), make([]error, len(tabs))
	var wg sync.WaitGroup
	for i, tab := range tabs {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(tab.ctx, 8*patience) // they share one machine
			defer cancel()
			if failed[i] = chromedp.Do(ctx, chromedp.Navigate(addresses[i])); failed[i] == nil {
				at[i], failed[i] = chromedp.Run(ctx, chromedp.Location())
			}
		})
	}
	wg.Wait()
	for i, err := range failed {
		require.NoError(t, err, addresses[i])
	}
	return at
}

// Sixty tabs of an application, in the morning, when nobody is signed in any more: each
// begins a sign-in, and behind an nginx that has its defaults everything works. Each page
// to sign in at leads to the page of its tab: those that the browser knows no more begin
// again, and by then somebody is signed in.
func TestSixtyTabsBehindNginx(t *testing.T) {
	t.Parallel()
	behind := []string{freeAddress(t), freeAddress(t)}
	front := nginx(t, behind...)
	issuer, app := "http://"+front[0], "http://"+front[1]
	clients := filepath.Join(t.TempDir(), "clients.json")
	require.NoError(t, os.WriteFile(clients, []byte(fmt.Sprintf(`[{"client_id": "mail", "client_secret": "mail-secret", "type": "web",
		"grant_types": ["authorization_code", "refresh_token"], "redirect_uris": ["%s/cb"], "post_logout_redirect_uris": ["%[1]s/"]}]`, app)), 0o600))
	_, ready := provider(t, "-clients", clients, "-listen", behind[0], "-issuer", issuer)
	require.Equal(t, issuer, ready)
	Run(t, "is ready", Build(t, "examples/rp"), "-listen", behind[1], "-url", app, "-issuer", issuer, "-client-id", "mail", "-client-secret", "mail-secret")

	b := Start(t, false)
	yesterday := b.Tab(app + "/notes")
	signIn(yesterday)
	requireAt(yesterday, app+"/notes")
	yesterday.Click("#signout")
	yesterday.Wait("#signin")

	addresses := make([]string, 60)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("%s/notes?tab=%d&q=%s", app, i, strings.Repeat("x", 100))
	}
	tabs := make([]*Tab, len(addresses))
	for i := range tabs {
		ctx, cancel := chromedp.NewContext(b.ctx)
		t.Cleanup(cancel)
		tabs[i] = &Tab{t: t, ctx: ctx}
		require.NoError(t, chromedp.Do(ctx))
	}
	pages := load(t, tabs, addresses)
	for i, page := range pages {
		require.True(t, strings.HasPrefix(page, issuer+"/login?"), "%s: %s", page, tabs[i].seen())
	}
	yesterday.Go(app + "/")
	yesterday.Wait("#signin") // and not an error of nginx

	// One that the browser does not know any more asks again, and is known then.
	last := len(tabs) - 1
	signIn(tabs[last])
	if tabs[last].Has("#username") {
		require.False(t, tabs[last].Has("#error"))
		signIn(tabs[last])
	}
	requireAt(tabs[last], addresses[last])
	tabs[last].Screenshot("signed-in")
	signIn(tabs[0]) // by hand, too
	requireAt(tabs[0], addresses[0])
	load(t, tabs[1:last], pages[1:last])
	for i, tab := range tabs[1:last] {
		// In a few seconds, where they push each other out. One that asked for the
		// password when it was pushed out asks for it again, without an error.
		tab.Wait("#signout, #username")
		for range 3 {
			if !tab.Has("#username") {
				break
			}
			require.False(t, tab.Has("#error"))
			signIn(tab)
			tab.Wait("#signout, #username")
		}
		requireAt(tab, addresses[1+i])
	}
	tabs[0].Click("#signout")
	tabs[0].Wait("#signin")
}
