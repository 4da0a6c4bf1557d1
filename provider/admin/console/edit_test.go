package console_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

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
	require.Contains(t, review.Text(), "ends the other session at each sign-in", "a warning, before it is saved")
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
