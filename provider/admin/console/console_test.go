package console_test

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/console"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
)

// listSessions returns the IDs of all sessions of the account that a query selects, as
// the API lists them.
func listSessions(w *admintest.World, token, query string) []struct{ ID string } {
	return admintest.Sessions[struct{ ID string }](w, token, query)
}

// consoleAddress fills in the pattern of a route, so that who may gets an answer.
func consoleAddress(r console.Route, account, sid string) string {
	path := strings.NewReplacer("{account}", account, "{sid}", sid, "{$}", "").Replace(strings.TrimPrefix(r.Pattern, "/"))
	switch {
	case strings.HasSuffix(path, "/explain"):
		path += "?user=" + optest.SubjectOf("ann")
	case r.Method == "GET" && strings.HasSuffix(path, "/review"):
		path += "?what=restore&restored=0"
	}
	return path
}

func consoleForm(r console.Route, sid string) url.Values {
	if r.Method != "POST" {
		return nil
	}
	return url.Values{
		"what": {"remove"}, "scope": {"kinds"}, "name": {"cli"}, "which": {"marked"}, "sid": {sid}, "confirm": {"yes"},
		"client": {"web"}, "active": {"limit"}, "active_n": {"1"}, "active_unit": {"hours"},
	}
}

// Every address of the console, from the table: nobody who is not signed in, no
// member, no administrator of another account and nobody who may only read sees or
// changes anything, nor learns whether an account exists.
func TestConsoleIsForThoseWhoMay(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root, otherRoot, ann, auditor := w.SignIn("root"), w.SignIn("other-root"), w.SignIn("ann"), w.SignIn("auditor")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 0, 0))
	sid := listSessions(w, root, "user="+optest.SubjectOf("ann"))[0].ID
	before := w.Everything()

	for _, r := range console.Routes() {
		name := r.Method + " " + r.Pattern
		send := func(token, account string) admintest.Page {
			return w.Page(r.Method, consoleAddress(r, account, sid), token, consoleForm(r, sid))
		}
		for _, token := range []string{"", "nonsense", sid} {
			got := send(token, "acme")
			if r.Action == "" { // nothing to choose from
				require.Equal(t, 403, got.Status, name)
				continue
			}
			require.Equal(t, 401, got.Status, "%s: %s", name, got.Body)
			require.NotContains(t, got.Body, "acme", name)
		}
		strangers := []string{otherRoot, ann}
		if r.Action == admin.WriteSettings || r.Action == admin.EndSessions || r.Action == admin.PreviewSettings {
			strangers = append(strangers, auditor)
		}
		for _, token := range strangers {
			got, missing := send(token, "acme"), send(token, "no-such-account")
			if r.Action == "" {
				require.NotContains(t, got.Body+got.Location, "acme", name)
				continue
			}
			require.Equal(t, 403, got.Status, "%s: %s", name, got.Body)
			require.Equal(t, missing.Body, got.Body, name)
			require.NotContains(t, got.Body, "ann", name)
			require.NotContains(t, got.Body, "8 hours", name)
		}
		require.Equal(t, before, w.Everything(), name)
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "", "Origin", "https://evil.example"}} {
			if r.Method == "POST" {
				got := w.Page(r.Method, consoleAddress(r, "acme", sid), root, consoleForm(r, sid), header...)
				require.Equal(t, 403, got.Status, name)
				require.Contains(t, got.Body, "another website")
			}
		}
		require.Equal(t, before, w.Everything(), name)
	}
	// With the right token each of them does something.
	for _, r := range console.Routes() {
		got := w.Page(r.Method, consoleAddress(r, "acme", sid), root, consoleForm(r, sid))
		want := []int{200, 303}
		switch {
		case strings.HasSuffix(r.Pattern, "/save"):
			want = []int{412} // without the tag of what it is about
		}
		require.Contains(t, want, got.Status, "%s %s: %s", r.Method, r.Pattern, got.Text())
	}
	require.NotEqual(t, before, w.Everything())
	// An auditor sees all of it, and no button.
	for _, r := range console.Routes() {
		if r.Method == "GET" && (r.Action == admin.ReadSettings || r.Action == admin.ReadSessions) {
			got := w.Page("GET", consoleAddress(r, "acme", sid), auditor, nil)
			require.Equal(t, 200, got.Status, r.Pattern)
			require.NotContains(t, got.Body, `method="post"`, r.Pattern)
			require.NotContains(t, got.Body, `/edit`, r.Pattern)
		}
	}
}

// A limit is edited in units, reviewed, and saved; exactly the sessions that the
// review named have ended then.
func TestConsoleEdit(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 0, 0))
	for range 3 {
		w.SignIn("ann")
	}
	w.SignIn("bob")

	edit := w.Page("GET", "acme/edit?field=concurrent", root, nil)
	require.Equal(t, 200, edit.Status)
	review := edit.Send("review", "concurrent", "limit", "concurrent_n", "1", "at_limit", "end_oldest")
	require.Equal(t, 200, review.Status, review.Text())
	require.Contains(t, review.Text(), "Ends 2 sessions of 1 person now.")
	require.Contains(t, review.Text(), "lets whoever signs in last sign everybody else out", "a warning, before it is saved")
	require.Len(t, listSessions(w, root, ""), 5, "nothing was saved")

	saved := review.Send("save", "message", "audit finding 12").Follow()
	require.Equal(t, 200, saved.Status)
	require.Contains(t, saved.Text(), "Saved as version 2.")
	require.Contains(t, saved.Text(), "audit finding 12")
	require.NoError(t, w.Hook.Sweep(t.Context()))
	require.Len(t, listSessions(w, root, ""), 3)
	require.Len(t, listSessions(w, root, "user="+optest.SubjectOf("ann")), 1)

	// Undo is a new change.
	history := w.Page("GET", "acme/history", root, nil)
	require.Contains(t, history.Body, "review?what=restore&amp;restored=1")
	back := w.Page("GET", "acme/review?what=restore&restored=1", root, nil).Send("save").Follow()
	require.Contains(t, back.Text(), "Saved as version 3.")
	var s service.Settings
	w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &s)
	require.Equal(t, admintest.Bounds(8*time.Hour, time.Hour, 0, 0), s.Settings)
}

// What is wrong is said beside the field, and nothing that was typed is lost.
func TestConsoleMistakes(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 3, policy.Refuse))
	before := w.Everything()
	edit := w.Page("GET", "acme/edit", root, nil)
	for name, c := range map[string]struct {
		pairs       []string
		field, text string
	}{
		"nothing":          {[]string{"active_n", ""}, "active", "Enter a number."},
		"no number":        {[]string{"active_n", "eight"}, "active", "Enter a number of hours"},
		"a formula":        {[]string{"active_n", "=1+1"}, "active", "Enter a number of hours"},
		"an exponent":      {[]string{"active_n", "1e9"}, "active", "Enter a number of hours"},
		"zero":             {[]string{"active_n", "0"}, "active", "above zero"},
		"too many":         {[]string{"active_n", "721"}, "active", "721 hours is above the maximum of 30 days."},
		"a million years":  {[]string{"active_n", "999999999999", "active_unit", "days"}, "active", "more than a hundred years"},
		"half a second":    {[]string{"active_n", "0.0001"}, "active", "whole seconds"},
		"no unit":          {[]string{"active_unit", "fortnights"}, "active", "Choose a unit."},
		"no choice":        {[]string{"active", ""}, "active", "Choose one of these."},
		"below the floor":  {[]string{"inactivity_n", "14", "inactivity_unit", "minutes"}, "inactivity", "14 minutes is below the floor of 15 minutes."},
		"above active":     {[]string{"inactivity_n", "9", "inactivity_unit", "hours"}, "inactivity", "9 hours is above active 8 hours."},
		"part of one":      {[]string{"concurrent_n", "1.5"}, "concurrent", "whole number"},
		"less than one":    {[]string{"concurrent_n", "0"}, "concurrent", "whole number from 1"},
		"negative":         {[]string{"concurrent_n", "-1"}, "concurrent", "whole number from 1"},
		"not chosen":       {[]string{"concurrent", "unlimited", "concurrent_n", "5"}, "concurrent", "You entered a number"},
		"an unknown end":   {[]string{"at_limit", "explode"}, "at_limit", "Choose one of these."},
		"an unknown class": {[]string{"activity", "limit", "class", "breathing"}, "activity", "Choose from these."},
	} {
		got := edit.Send("review", c.pairs...)
		require.Equal(t, 400, got.Status, "%s: %s", name, got.Text())
		require.Regexp(t, `id="`+c.field+`-error">[^<]*`+regexp.QuoteMeta(c.text), got.Body, name)
		require.Regexp(t, `aria-describedby="[^"]*`+c.field+`-error`, got.Body, name)
		form := got.Form("review")
		for i := 0; i < len(c.pairs); i += 2 {
			if strings.HasSuffix(c.pairs[i], "_n") {
				require.Equal(t, c.pairs[i+1], form.Get(c.pairs[i]), name)
			}
		}
	}
	require.Equal(t, before, w.Everything())

	// A fraction of a unit is fine.
	review := edit.Send("review", "inactivity_n", "1.5")
	require.Contains(t, review.Text(), "1 hour 30 minutes")
	// So is going back to change it.
	form := review.Form("save")
	again := w.Page("POST", "acme/edit", root, form)
	require.Equal(t, "1.5", again.Form("review").Get("inactivity_n"))

	// A message that cannot be kept.
	got := review.Send("save", "message", "evil\u202etxt")
	require.Equal(t, 400, got.Status)
	require.Contains(t, got.Body, `id="message-error"`)
	require.Equal(t, before, w.Everything())
}

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

func TestConsoleOverrides(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 0, 0))
	name := `<b>"R&D" a.b/c</b>`
	for scope, name := range map[string]string{"kinds": "cli", "clients": "web", "groups": name, "users": optest.SubjectOf("ann")} {
		edit := w.Page("GET", "acme/edit?"+url.Values{"scope": {scope}, "name": {name}}.Encode(), root, nil)
		require.Equal(t, 200, edit.Status, edit.Text())
		edit.Send("review", "inactivity", "limit", "inactivity_n", "20", "inactivity_unit", "minutes").Send("save").Follow()
	}
	var s service.Settings
	w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &s)
	twenty := policy.Limits{Inactivity: policy.LimitTo(20 * time.Minute)}
	require.Equal(t, map[policy.Kind]policy.Limits{policy.CLI: twenty}, s.Settings.Kinds)
	require.Equal(t, map[string]policy.Limits{"web": twenty}, s.Settings.Clients)
	require.Equal(t, map[string]policy.Limits{name: twenty}, s.Settings.Groups)
	require.Equal(t, map[string]policy.Limits{optest.SubjectOf("ann"): twenty}, s.Settings.Users)

	list := w.Page("GET", "acme/overrides", root, nil)
	require.Contains(t, list.Text(), name)
	explained := w.Page("GET", "acme/explain?user="+optest.SubjectOf("ann"), root, nil)
	require.Contains(t, explained.Text(), "Sign out due to inactivity 20 minutes user "+optest.SubjectOf("ann"))
	require.Contains(t, explained.Text(), "1 hour of everyone")
	require.Contains(t, w.Page("GET", "acme/explain?user="+optest.SubjectOf("other-ann"), root, nil).Body, `id="user-error">There is no such user`)

	// A mistake is said beside the field of the override.
	edit := w.Page("GET", "acme/edit?scope=groups&name="+url.QueryEscape(name), root, nil)
	wrong := edit.Send("review", "inactivity_n", "1")
	require.Equal(t, 400, wrong.Status)
	require.Contains(t, wrong.Body, `id="inactivity-error">1 minute is below the floor`)

	remove := w.Page("GET", "acme/review?"+url.Values{"what": {"remove"}, "scope": {"groups"}, "name": {name}}.Encode(), root, nil)
	remove.Send("save").Follow()
	var after service.Settings
	w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &after)
	require.Empty(t, after.Settings.Groups)
	for _, query := range []string{"scope=groups", "scope=groups&name=", "scope=kinds&name=toaster", "scope=users&name=a%00b", "scope=users&name=" + strings.Repeat("x", 256)} {
		got := w.Page("GET", "acme/edit?"+query, root, nil)
		require.Equal(t, 400, got.Status, query)
		require.Contains(t, got.Body, `id="name-error"`, query)
	}
}

func TestConsoleSessions(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	for range 55 {
		w.SignIn("ann")
	}
	w.SignIn("bob")
	ann, bob := optest.SubjectOf("ann"), optest.SubjectOf("bob")

	first := w.Page("GET", "acme/sessions?user="+ann, root, nil)
	require.Equal(t, 50, strings.Count(first.Body, `name="sid"`))
	next := regexp.MustCompile(`href="(sessions\?[^"]*)" rel="next"`).FindStringSubmatch(first.Body)
	require.NotNil(t, next)
	second := w.Page("GET", "acme/"+html.UnescapeString(next[1]), root, nil)
	require.Equal(t, 5, strings.Count(second.Body, `name="sid"`))
	require.Contains(t, w.Page("GET", "acme/sessions?kind=cli", root, nil).Text(), "There are none.")

	// One, by its page.
	sid := listSessions(w, root, "user="+bob)[0].ID
	page := w.Page("GET", "acme/sessions/"+sid, root, nil)
	asked := page.Send("sessions/end", "which", "marked")
	require.Contains(t, asked.Text(), "Ends 1 session of 1 person now.")
	require.Len(t, listSessions(w, root, "user="+bob), 1, "it only asked")
	ended := asked.Send("sessions/end").Follow()
	require.Contains(t, ended.Text(), "The session was ended.")
	require.Contains(t, ended.Text(), "An administrator ended your sign-in.")
	require.Empty(t, listSessions(w, root, "user="+bob))
	require.Contains(t, w.Page("GET", "acme/sessions?state=ended", root, nil).Text(), "Ended by an administrator, by "+optest.SubjectOf("root"))

	// Those that are marked.
	form := url.Values{"which": {"marked"}, "sid": {listSessions(w, root, "user="+ann)[0].ID, listSessions(w, root, "user="+ann)[1].ID}}
	asked = w.Page("POST", "acme/sessions/end", root, form)
	require.Contains(t, asked.Text(), "Ends 2 sessions of 1 person now.")
	require.Equal(t, form["sid"], asked.Form("sessions/end")["sid"])
	require.Contains(t, asked.Send("sessions/end").Follow().Text(), "session")
	require.Equal(t, 400, w.Page("POST", "acme/sessions/end", root, url.Values{"which": {"marked"}}).Status)
	require.Equal(t, 400, w.Page("POST", "acme/sessions/end", root, url.Values{"which": {""}, "confirm": {"yes"}}).Status)
	require.Equal(t, 400, w.Page("POST", "acme/sessions/end", root, url.Values{"which": {"matching"}, "kind": {"cli"}, "confirm": {"yes"}}).Status)

	// All but the one that this is done in.
	asked = w.Page("POST", "acme/sessions/end", root, url.Values{"which": {"matching"}})
	require.Contains(t, asked.Text(), "yours among them")
	require.Equal(t, "on", asked.Form("sessions/end").Get("except_mine"))
	done := asked.Send("sessions/end").Follow()
	require.Regexp(t, `5[0-9] sessions ended\.`, done.Text())
	require.Len(t, listSessions(w, root, ""), 1)
	// What an address from elsewhere claims is not shown.
	require.NotContains(t, w.Page("GET", "acme/sessions?ended=99", root, nil, "Sec-Fetch-Site", "cross-site").Text(), "99")
}

func TestConsoleReadOnly(t *testing.T) {
	t.Parallel()
	w := admintest.New(t, func(_ *admintest.World, c *provider.Config, a *admin.Config) {
		c.Settings = provider.StaticSettings{Accounts: map[string]policy.Account{"acme": admintest.Bounds(8*time.Hour, time.Hour, 0, 0)}}
		a.ReadOnly = "They are in the file settings.yaml."
	})
	root := w.SignIn("root")
	for _, path := range []string{"", "overrides", "history", "presets", "explain", "sessions"} {
		got := w.Page("GET", "acme/"+path, root, nil)
		require.Equal(t, 200, got.Status, path)
		require.Contains(t, got.Text(), "They are in the file settings.yaml.", path)
		require.NotContains(t, got.Body, "/edit", path)
		require.NotContains(t, got.Body, "Undo", path)
	}
	require.Contains(t, w.Page("GET", "acme/", root, nil).Text(), "8 hours")
	require.Equal(t, 409, w.Page("GET", "acme/edit", root, nil).Status)
	got := w.Page("POST", "acme/save", root, url.Values{"active": {"unlimited"}, "field": {"active"}})
	require.Equal(t, 409, got.Status)
	require.Contains(t, got.Text(), "They are in the file settings.yaml.")
}

// Hostile values in every field: none is kept that would mislead, none breaks out
// of the page, and a form that is too large is refused.
func TestConsoleHostileValues(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(8*time.Hour, time.Hour, 0, 0))
	w.SignIn("ann")
	sid := listSessions(w, root, "user="+optest.SubjectOf("ann"))[0].ID
	before := w.Everything()
	byMethod := map[string][]string{
		"GET": {
			"what", "tag", "version", "scope", "name", "field", "restored", "preset", "message",
			"user", "client", "kind", "state", "cursor", "before", "find", "saved", "ended", "told",
		},
		"POST": {
			"what", "tag", "version", "scope", "name", "field", "restored", "observe", "message",
			"active", "active_n", "active_unit", "inactivity", "inactivity_n", "inactivity_unit",
			"concurrent", "concurrent_n", "at_limit", "activity", "class",
		},
	}
	hostile := map[string]string{
		"HTML": `"><script>alert(1)</script><img src=x onerror=alert(1)>`, "attribute": `' onfocus='alert(1)`,
		"formula": `=HYPERLINK("https://evil.example","x")`, "bidi": "a\u202eb\u2066c", "NUL": "a\x00b", "line": "a\r\nLocation: https://evil.example",
		"not UTF-8": "a\xffb", "template": "{{.}}${7*7}", "path": "../../../etc/passwd", "number": "99999999999999999999999", "minus": "-1",
	}
	for _, r := range console.Routes() {
		if r.Action == admin.EndSessions {
			continue // below: they end something
		}
		for name, value := range hostile {
			fields, all := byMethod[r.Method], url.Values{}
			for _, field := range fields {
				all.Set(field, value)
			}
			singles := []url.Values{all}
			if name == "HTML" && r.Method == "POST" || name == "NUL" {
				for _, field := range fields {
					one := url.Values{"what": {"limits"}, "field": {"all"}, "message": {""}}
					one.Set(field, value)
					singles = append(singles, one)
				}
			}
			for _, values := range singles {
				path := strings.SplitN(consoleAddress(r, "acme", sid), "?", 2)[0]
				var got admintest.Page
				if r.Method == "GET" {
					got = w.Page("GET", path+"?"+values.Encode(), root, nil)
				} else {
					got = w.Page("POST", path, root, values)
				}
				require.Less(t, got.Status, 500, "%s %s: %s", path, name, got.Body)
				require.NotContains(t, got.Body, "<script", path)
				require.NotContains(t, got.Body, "<img", path)
				require.NotContains(t, got.Body, "\x00", path)
				require.NotContains(t, got.Location, "evil", path)
			}
		}
		for _, account := range []string{"a%00b", "%3Cscript%3E", "%E2%80%AE", strings.Repeat("x", 300)} {
			got := w.Page(r.Method, strings.SplitN(consoleAddress(r, account, sid), "?", 2)[0], root, consoleForm(r, sid))
			require.Less(t, got.Status, 500, account)
		}
	}
	require.Equal(t, before, w.Everything())

	large := url.Values{"message": {strings.Repeat("x", 10<<20)}}
	for _, r := range console.Routes() {
		if r.Method == "POST" {
			require.Equal(t, 413, w.Page("POST", consoleAddress(r, "acme", sid), root, large).Status, r.Pattern)
			got := w.Page("POST", consoleAddress(r, "acme", sid), root, nil, "Content-Type", "application/x-www-form-urlencoded; %%%")
			require.Less(t, got.Status, 500)
		}
	}
	require.Equal(t, 413, w.Page("GET", "acme/sessions?user="+strings.Repeat("x", 9000), root, nil).Status)
	for name, value := range hostile {
		for _, form := range []url.Values{
			{"which": {"marked"}, "sid": {value}, "confirm": {"yes"}}, {"which": {value}, "confirm": {"yes"}},
			{"which": {"matching"}, "user": {value}, "confirm": {"yes"}}, {"which": {"matching"}, "client": {value}, "confirm": {"yes"}},
		} {
			require.Less(t, w.Page("POST", "acme/sessions/end", root, form).Status, 500, name)
		}
		got := w.Page("POST", "acme/sessions/"+sid+"/deliveries", root, url.Values{"client": {value}})
		require.Less(t, got.Status, 500, name)
	}
	require.Equal(t, before, w.Everything())
}

func TestConsoleAccounts(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	root := w.SignIn("root")
	// One is gone to; of several one chooses. See world: of the two root may one.
	require.Equal(t, "./acme/", w.Page("GET", "", root, nil).Location)
	several, err := console.New(console.Config{
		Admin:    w.API,
		Accounts: anyAccounts("acme", "<b>", "a/b", "elsewhere"), Authorize: anybody,
	})
	require.NoError(t, err)
	got := serve(several, "GET", "/")
	require.Contains(t, got, `href="./acme/"`)
	require.Contains(t, got, `href="./a%2Fb/"`)
	require.Contains(t, got, `<bdi>&lt;b&gt;</bdi>`)
	require.Contains(t, serve(several, "GET", "/a%2Fb/sessions"), `href="../a%2Fb/overrides"`)
	require.Contains(t, serve(several, "GET", "/console.css"), "--ground")

	for name, spoil := range map[string]func(*console.Config){
		"Admin":          func(c *console.Config) { c.Admin = nil },
		"Accounts":       func(c *console.Config) { c.Accounts = nil },
		"Authorize":      func(c *console.Config) { c.Authorize = nil },
		"TrustedOrigins": func(c *console.Config) { c.TrustedOrigins = []string{"nonsense"} },
	} {
		c := console.Config{Admin: w.API, Accounts: anyAccounts(), Authorize: anybody}
		spoil(&c)
		_, err := console.New(c)
		require.ErrorContains(t, err, "curfew: console.Config."+name)
		require.ErrorIs(t, err, provider.ErrConfig)
	}
	require.Equal(t, 405, w.Page("PUT", "acme/save", root, nil).Status)
	require.Equal(t, 404, w.Page("GET", "acme/nothing", root, nil).Status)
	require.Equal(t, 404, w.Page("GET", "acme/sessions/none", root, nil).Status)
	require.Equal(t, 404, w.Page("GET", "acme/review?what=restore&restored=77", root, nil).Status)
}

func anyAccounts(list ...string) func(context.Context, *http.Request) ([]string, error) {
	return func(context.Context, *http.Request) ([]string, error) { return list, nil }
}

func anybody(context.Context, *http.Request, admin.Action, string) (admin.Actor, error) {
	return admin.Actor{ID: "root"}, nil
}

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
	require.NoError(t, w.Store.AddCounts(t.Context(), counts))

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

// An outage is said to be one, and told to the operator.
func TestConsoleOutage(t *testing.T) {
	t.Parallel()
	w := admintest.New(t)
	away := errors.New("the store is away")
	console, err := console.New(console.Config{
		Admin: w.API, Accounts: anyAccounts("acme"),
		Authorize: func(context.Context, *http.Request, admin.Action, string) (admin.Actor, error) {
			return admin.Actor{}, away
		},
	})
	require.NoError(t, err)
	rec := httptest.NewRecorder()
	console.ServeHTTP(rec, httptest.NewRequest("GET", "/acme/", nil))
	require.Equal(t, 503, rec.Code)
	require.Equal(t, "2", rec.Header().Get("Retry-After"))
	require.NotContains(t, rec.Body.String(), "away")
	require.ErrorIs(t, w.Failures()[0], away)
}

// Warnings are there before a change is saved, each with its source and revision,
// and a preset fills the form in.
func TestConsolePresets(t *testing.T) {
	t.Parallel()
	w := admintest.New(t, func(_ *admintest.World, _ *provider.Config, a *admin.Config) {
		a.Deployment.Targets = []string{"pci-dss-4"}
	})
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(24*time.Hour, 2*time.Hour, 3, policy.Refuse))
	require.Contains(t, w.Page("GET", "acme/", root, nil).Text(), "2 hours is above the 15 minutes of PCI DSS 4.")
	presets := w.Page("GET", "acme/presets", root, nil)
	for _, p := range policy.Presets() {
		require.Contains(t, presets.Text(), p.Title)
		require.Contains(t, presets.Text(), p.Source+", "+p.Revision)
		require.Contains(t, presets.Body, "edit?preset="+p.ID)
	}
	review := w.Page("GET", "acme/edit?preset=pci-dss-4", root, nil).Send("review")
	require.Equal(t, 200, review.Status, review.Text())
	require.Contains(t, review.Text(), "24 hours 12 hours")
	require.Contains(t, review.Text(), "2 hours 15 minutes")
	require.NotContains(t, review.Text(), "PCI DSS")
	require.Contains(t, review.Send("save").Follow().Text(), "Saved as version 2.")

	looser := w.Page("GET", "acme/edit?field=inactivity", root, nil).Send("review", "inactivity", "unlimited", "inactivity_n", "")
	require.Contains(t, looser.Text(), "PCI DSS, requirement 8.2.8, 4.0.1 (2024)")
	require.Contains(t, looser.Text(), "their message does not say why")
	// Observing is a change like any other.
	observe := w.Page("GET", "acme/edit?field=observe", root, nil).Send("review", "observe", "on").Send("save").Follow()
	require.Contains(t, observe.Text(), "Only observed.")
}
