package console_test

import (
	"context"
	"html"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
)

// Of two administrators who save at once the second one sees what the first one
// changed, keeps what they typed, and goes on from there.
func TestConsoleStale(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 0, 0))
	review := w.Page("GET", "acme/edit?field=inactivity", root, nil).Send("review", "inactivity_n", "30", "inactivity_unit", "minutes")
	undo := w.Page("GET", "acme/review?what=restore&restored=0", root, nil)
	w.Page("GET", "acme/edit?field=active", root, nil).Send("review", "active_n", "4").Send("save", "message", "came first").Follow()

	stale := review.Send("save", "message", "came second")
	require.Equal(t, 412, stale.Status)
	require.Contains(t, stale.Text(), "Somebody else saved meanwhile")
	require.Contains(t, stale.Text(), "came first")
	require.Contains(t, stale.Text(), "Active sessions 8 hours 4 hours")
	form := stale.Form("review")
	require.Equal(t, "30", form.Get("inactivity_n"))
	require.Equal(t, "came second", form.Get("message"))
	var s service.Settings
	w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &s)
	require.Equal(t, admintest.Bounds(4*time.Hour, time.Hour, 0, 0), s.Settings)

	saved := stale.Send("review").Send("save").Follow()
	require.Contains(t, saved.Text(), "came second")
	w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &s)
	require.Equal(t, admintest.Bounds(4*time.Hour, 30*time.Minute, 0, 0), s.Settings)

	stale = undo.Send("save")
	require.Equal(t, 412, stale.Status)
	require.Contains(t, stale.Text(), "came first")
	require.Contains(t, stale.Body, "review?message=&amp;restored=0&amp;what=restore")

	// A version that nobody knows, of a store that began anew.
	stale = review.Send("save", "tag", "7-unknown", "version", "7")
	require.Equal(t, 412, stale.Status)
	require.Contains(t, stale.Text(), "not known any more")
}

// A crowd is a store of settings at which writers meet: once it is armed for a number
// of them, none goes on before all have read the settings and are about to write.
type crowd struct {
	store.Documents
	mu      sync.Mutex
	missing int
	all     chan struct{}
}

func (c *crowd) arm(writers int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missing, c.all = writers, make(chan struct{})
}

func (c *crowd) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	c.mu.Lock()
	all := c.all
	if c.missing--; c.missing == 0 {
		close(all)
		c.all = nil
	}
	c.mu.Unlock()
	if all != nil {
		select {
		case <-all:
		case <-time.After(10 * time.Second): // the test has failed then
		}
	}
	return c.Documents.PutDocument(ctx, d)
}

// Administrators who all save in the same moment, each another change: one is first,
// each of the others is told, has what they typed, and saves it after all. Nothing is
// lost, and nothing is written twice.
func TestConsoleSavesInTheSameMoment(t *testing.T) {
	t.Parallel()
	meet := &crowd{}
	w := admintest.New(t, func(w *admintest.World, _ *provider.Config, c *admin.Config) {
		meet.Documents = w.Store
		c.Store = meet
	})
	root := w.SignIn("root")
	settings := admintest.Bounds(8*time.Hour, time.Hour, 0, 0)
	w.Save(root, settings)
	settings.Concurrent, settings.AtLimit = policy.LimitTo(9), policy.EndOldest
	w.Save(root, settings)

	typed := map[string]admintest.Page{
		"active":     w.Page("GET", "acme/edit?field=active", root, nil).Send("review", "active_n", "4"),
		"inactivity": w.Page("GET", "acme/edit?field=inactivity", root, nil).Send("review", "inactivity_n", "30", "inactivity_unit", "minutes"),
		"cap":        w.Page("GET", "acme/edit?field=concurrent", root, nil).Send("review", "concurrent_n", "7"),
		"undo":       w.Page("GET", "acme/review?what=restore&restored=1", root, nil),
	}
	var mu sync.Mutex
	answers := map[string]admintest.Page{}
	meet.arm(len(typed))
	var wg sync.WaitGroup
	for name, review := range typed {
		wg.Go(func() {
			p := review.Send("save", "message", "by "+name)
			mu.Lock()
			defer mu.Unlock()
			answers[name] = p
		})
	}
	wg.Wait()

	first := ""
	for name, p := range answers {
		if p.Status == 303 {
			require.Empty(t, first, "both %s and %s", name, first)
			first = name
		}
	}
	require.NotEmpty(t, first)
	require.Contains(t, answers[first].Follow().Text(), "Saved as version 3.")
	delete(answers, first)
	for name, stale := range answers {
		require.Equal(t, 412, stale.Status, name)
		require.Contains(t, stale.Text(), "Somebody else saved meanwhile", name)
		require.Contains(t, stale.Text(), "by "+first, name)
		if name == "undo" {
			require.Contains(t, html.UnescapeString(stale.Body), "review?message=by+undo&restored=1&what=restore")
			continue // it would undo the others
		}
		for stale.Status == 412 { // and once more, if others were done meanwhile
			stale = stale.Send("review")
		}
		require.Contains(t, stale.Send("save").Follow().Text(), "by "+name)
	}
	var s service.Settings
	w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &s)
	want := admintest.Bounds(4*time.Hour, 30*time.Minute, 7, policy.EndOldest)
	require.Equal(t, want, s.Settings)
	changes := int64(2 + 3)
	if first == "undo" {
		changes++
	}
	require.Equal(t, changes, s.Version)
}
