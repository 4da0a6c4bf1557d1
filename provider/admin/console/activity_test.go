package console_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/console"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/store"
)

func serve(h http.Handler, method, path string) string {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Body.String()
}

// The pictures are drawn from the counters, by reason, and each has its numbers in
// a table.
func TestConsoleActivity(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	empty := w.Page("GET", "acme/activity", root, nil)
	require.Contains(t, empty.Text(), "Nobody has counted yet.")
	require.NotContains(t, empty.Body, "<desc")

	hour := time.Now().UTC().Truncate(time.Hour)
	var all []policy.Reason
	for _, info := range policy.Reasons() {
		all = append(all, info.Reason)
	}
	all = append(all, provider.OtherReason)
	counts := []store.Count{
		{Account: "acme", Hour: hour, Name: "live", N: 24690}, {Account: "acme", Hour: hour, Name: "samples", N: 2},
		{Account: "acme", Hour: hour.Add(-2 * time.Hour), Name: "samples", N: 6}, // nobody was there; in between nobody counted
		{Account: "acme", Hour: hour.Add(-48 * time.Hour), Name: "refused.concurrency", N: 77},
		{Account: "elsewhere", Hour: hour, Name: "refused.concurrency", N: 4242},
	}
	style := serve(consoleOf(t, w), "GET", "/console.css")
	class := func(reason policy.Reason) string {
		return fmt.Sprintf("reason-%d", 1+slices.IndexFunc(policy.Reasons(), func(info policy.ReasonInfo) bool { return info.Reason == reason }))
	}
	for i, reason := range all {
		counts = append(counts, store.Count{Account: "acme", Hour: hour, Name: "ended." + string(reason), N: int64(i + 1)})
		require.Contains(t, style, "."+class(reason)+" {", "each reason has a colour")
	}
	require.NoError(t, w.Store.(store.Counts).AddCounts(t.Context(), counts))

	page := w.Page("GET", "acme/activity", root, nil)
	require.Equal(t, 200, page.Status)
	require.NotContains(t, page.Body, "4242", "of another account")
	require.Contains(t, page.Text(), "Between 0 and 12,345 sessions were live")
	require.Contains(t, page.Text(), fmt.Sprintf("%d in all; the most frequent reason: another reason, %d.", len(all)*(len(all)+1)/2, len(all)))
	require.Contains(t, page.Text(), "77 in all; the most frequent reason: too many sessions, 77.", "of the 90 days, not of the day")
	require.Contains(t, page.Text(), hour.Format("2 January, 15:04")+" 12,345")
	require.Contains(t, page.Text(), hour.Add(-time.Hour).Format("2 January, 15:04")+" not counted")
	require.Contains(t, page.Text(), hour.Add(-2*time.Hour).Format("2 January, 15:04")+" 0")
	for _, reason := range all {
		require.Contains(t, page.Body, `<rect class="`+class(reason)+`" x="`)
	}
	// Every picture has a name, a description and a table; a bar does not leave
	// the plot.
	pictures := strings.Count(page.Body, `role="img"`)
	require.Equal(t, 5, pictures, "of six, one has nothing to show")
	for _, tag := range []string{"<desc ", "<table class=\"numbers\">", "The numbers are in the table"} {
		require.Equal(t, pictures, strings.Count(page.Body, tag), tag)
	}
	for _, m := range regexp.MustCompile(`<rect class="reason-\d+" x="([0-9.]+)" y="([0-9.]+)" width="([0-9.]+)" height="([0-9.]+)">`).FindAllStringSubmatch(page.Body, -1) {
		var v [4]float64
		for i := range v {
			_, err := fmt.Sscan(m[i+1], &v[i])
			require.NoError(t, err)
		}
		require.GreaterOrEqual(t, v[0], 40.0)
		require.LessOrEqual(t, v[0]+v[2], 342.01)
		require.GreaterOrEqual(t, v[1], 12.0)
		require.InDelta(t, 162, max(162, v[1]+v[3]), .02)
	}
	overview := w.Page("GET", "acme/", root, nil)
	require.Contains(t, overview.Text(), fmt.Sprintf("Live about 12,345 Ended %d Refused 0", len(all)*(len(all)+1)/2))
}

func consoleOf(t *testing.T, w *admintest.World) http.Handler {
	t.Helper()
	console, err := console.New(console.Config{Admin: w.API, Accounts: anyAccounts("acme"), Authorize: anybody})
	require.NoError(t, err)
	return console
}

// A provider that counts nothing says so, and does not draw empty pictures.
func TestConsoleWithoutCounts(t *testing.T) {
	t.Parallel()
	w := admintest.New(t, func(w *admintest.World, _ *provider.Config, _ *admin.Config) {
		w.Store = struct{ store.Store }{w.Store}
	})
	root := w.SignIn("root")
	page := w.Page("GET", "acme/activity", root, nil)
	require.Equal(t, 200, page.Status)
	require.Contains(t, page.Text(), "This provider counts nothing: provider.Config.Counts is not set.")
	require.NotContains(t, page.Text(), "Nobody has counted yet.")
	page = w.Page("GET", "acme/", root, nil)
	require.Equal(t, 200, page.Status)
	require.NotContains(t, page.Text(), "The last day")
}
