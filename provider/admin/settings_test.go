package admin_test

import (
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

// number 18.
func TestAStaleTagChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	const path = "/v1/accounts/acme/settings"
	put := func(hours int, match, message string) admintest.Response {
		return w.Send("PUT", path, root, map[string]any{"settings": admintest.Bounds(time.Duration(hours)*time.Hour, 0, 0, 0), "message": message}, "If-Match", match)
	}
	var zero, first, second, now service.Settings
	got := w.Send("GET", path, root, nil).Into(200, &zero)
	require.Equal(t, `"`+zero.EntityTag+`"`, got.Header.Get("ETag"))

	put(1, "", "").Problem(428, "if_match_required")
	got = put(8, `"`+zero.EntityTag+`"`, "a working day").Into(200, &first)
	require.Equal(t, `"`+first.EntityTag+`"`, got.Header.Get("ETag"))
	require.EqualValues(t, 1, first.Version)

	for name, match := range map[string]string{
		"old": `"` + zero.EntityTag + `"`, "weak": `W/"` + first.EntityTag + `"`, "another": `"1-0000000000000000"`, "number alone": `"1"`,
	} {
		put(2, match, "").Problem(412, "stale")
		w.Send("GET", path, root, nil).Into(200, &now)
		require.Equal(t, first, now, name)
	}
	for name, match := range map[string]string{"not a tag": `"a`, "star and tag": `*, "a"`, "space": `a b`} {
		require.Equal(t, "If-Match", put(2, match, "").Problem(400, "invalid").Errors[0].Field, name)
	}
	// Among several, raw, and any.
	put(9, `"x", "`+first.EntityTag+`"`, "").Into(200, &second)
	put(10, second.EntityTag, "raw").Into(200, &now)
	put(11, "*", "any").Into(200, &now)
	require.EqualValues(t, 4, now.Version)

	// The same again is no change.
	put(11, "*", "again").Into(200, &now)
	require.EqualValues(t, 4, now.Version)
	require.Equal(t, "any", now.Message)
}

func TestOfTwoWhoSaveAtOnceOneIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	tag := w.Save(root, admintest.Bounds(time.Hour, 0, 0, 0)).EntityTag
	const savers = 8
	statuses := make([]int, savers)
	var wg sync.WaitGroup
	for i := range savers {
		wg.Go(func() {
			statuses[i] = w.Send("PUT", "/v1/accounts/acme/settings", root, map[string]any{"settings": admintest.Bounds(time.Duration(i+2)*time.Hour, 0, 0, 0)}, "If-Match", `"`+tag+`"`).Status
		})
	}
	wg.Wait()
	slices.Sort(statuses)
	require.Equal(t, []int{200, 412, 412, 412, 412, 412, 412, 412}, statuses)
	// Any version: all of them, one after the other.
	for i := range savers {
		wg.Go(func() {
			statuses[i] = w.Send("PUT", "/v1/accounts/acme/settings", root, map[string]any{"settings": admintest.Bounds(time.Duration(i+20)*time.Hour, 0, 0, 0)}, "If-Match", "*").Status
		})
	}
	wg.Wait()
	require.Equal(t, slices.Repeat([]int{200}, savers), statuses)
	var h struct{ History []service.Entry }
	w.Send("GET", "/v1/accounts/acme/settings/history", root, nil).Into(200, &h)
	require.Len(t, h.History, 2+savers)
}

func TestWarningsComeBeforeTheSave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *admintest.World, _ *provider.Config, c *admin.Config) {
		c.Deployment = policy.Deployment{Targets: []string{"nist-63b4-aal3"}}
	})
	root := w.SignIn("root")
	var p struct {
		Warnings []map[string]string
		Changes  []policy.Change
	}
	w.Send("POST", "/v1/accounts/acme/settings/preview", root, map[string]any{"settings": admintest.Bounds(24*time.Hour, time.Hour, 1, policy.EndOldest)}).Into(200, &p)
	rules := map[string]map[string]string{}
	for _, warning := range p.Warnings {
		rules[warning["rule"]] = warning
	}
	require.Contains(t, rules, "L12")
	require.Contains(t, rules, "L14")
	require.Contains(t, rules, "L20")
	require.Equal(t, "error", p.Warnings[0]["severity"])
	require.NotEmpty(t, rules["L12"]["source"])
	require.NotEmpty(t, rules["L12"]["revision"])
	require.NotEmpty(t, p.Changes)

	var presets struct{ Presets []policy.Preset }
	got := w.Send("GET", "/v1/accounts/acme/presets", root, nil)
	require.Equal(t, 200, got.Status)
	require.NoError(t, json.Unmarshal(got.Body, &presets))
	require.Len(t, presets.Presets, len(policy.Presets()))
	// Their limits can be saved as they are.
	w.Save(root, policy.Account{Limits: presets.Presets[0].Limits})
}
