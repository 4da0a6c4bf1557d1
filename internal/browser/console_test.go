package browser

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// enter signs an administrator in to the console.
func enter(t *testing.T, b *Browser, issuer string) *Tab {
	t.Helper()
	tab := b.Tab(issuer + "/console/")
	tab.Type("#username", "root")
	tab.Type("#password", "owner-3")
	tab.Click("button[type=submit]")
	tab.Wait("main.wide h1")
	return tab
}

// An administrator edits a limit, sees what that does, and saves it.
func TestConsoleEdit(t *testing.T) {
	_, issuer := provider(t)
	tab := enter(t, Start(t, false), issuer)
	require.Equal(t, "Login session", tab.Text("h1"))
	tab.Screenshot("overview")
	tab.Click("#tile-active .act a")
	tab.Screenshot("edit")
	tab.Type("#active", "13")
	tab.Click("button[type=submit]")
	tab.Screenshot("review")
	tab.Type("#message", "audit finding 12")
	tab.Click("form[action=save] button")
	require.Equal(t, "13 hours", tab.Text("#tile-active .value"))
	tab.Screenshot("saved")
	for _, page := range []string{"overrides", "explain?user=root", "history", "sessions", "deliveries", "activity", "presets", "edit"} {
		tab.Go(issuer + "/console/default/" + page)
		tab.Screenshot(page[:4])
	}
}
