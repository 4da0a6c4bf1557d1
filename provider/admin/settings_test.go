package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
)

// peers.md section 5 number 12: what the preview says is exactly what then ends,
// for a change that ends sessions for all three reasons at once.
func TestAPreviewIsExactlyWhatThenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = w.Hook.Run(ctx) }()

		w.SignIn("ann") // too old for the new limit
		time.Sleep(7 * time.Hour)
		w.SignIn("bob") // unused for too long
		for range 3 {
			w.SignIn("cid") // three, of which one will be left
			time.Sleep(time.Second)
		}
		w.SignIn("other-dan")
		time.Sleep(3 * time.Hour)
		for range 3 {
			w.SignIn("cid")
			time.Sleep(time.Second)
		}
		w.SignIn("root")
		time.Sleep(time.Second)
		root := w.SignIn("root")

		proposed := admintest.Bounds(8*time.Hour, 2*time.Hour, 1, policy.EndOldest)
		var p service.Preview
		w.Send("POST", "/v1/accounts/acme/settings/preview", root, map[string]any{"settings": proposed}).Into(200, &p)
		require.True(t, p.Complete)
		require.Equal(t, 8, p.Ends, "ann 1, bob 1, cid 5, root 1")
		require.Equal(t, 4, p.Users)
		require.Equal(t, 1, p.Yours)
		require.True(t, p.Sessions[0].Yours, "the own first")
		foreseen := map[string]policy.Reason{}
		for _, s := range p.Sessions {
			foreseen[s.ID] = s.Reason
		}
		require.Len(t, foreseen, 8)

		// It changed nothing.
		require.Len(t, listSessions(w, root, "state=live"), 10)
		var s service.Settings
		w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &s)
		require.EqualValues(t, 0, s.Version)

		w.Save(root, proposed)
		synctest.Wait() // Run was woken: nobody waited for its tick
		ended := map[string]policy.Reason{}
		for _, s := range listSessions(w, root, "state=ended") {
			ended[s.ID] = s.Ended.Reason
		}
		require.Equal(t, foreseen, ended)
		require.Len(t, listSessions(w, root, "state=live"), 1+1, "cid and root")
		page, _, err := w.Hook.List(t.Context(), store.Filter{Account: "elsewhere"}, "", 10)
		require.NoError(t, err)
		require.Len(t, page, 1, "another account is not touched")

		// Loosened again, nothing comes back, and nothing is foreseen to end.
		w.Send("POST", "/v1/accounts/acme/settings/preview", root, map[string]any{"settings": policy.Account{}}).Into(200, &p)
		require.Zero(t, p.Ends)
		w.Save(root, policy.Account{})
		synctest.Wait()
		require.Len(t, listSessions(w, root, "state=ended"), 8)
	})
}

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

func TestHistoryAndRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root, auditor := w.SignIn("root"), w.SignIn("auditor")
	const path = "/v1/accounts/acme/settings"
	first := w.Save(root, admintest.Bounds(8*time.Hour, 0, 0, 0))
	second := admintest.Bounds(12*time.Hour, time.Hour, 0, 0)
	second.Kinds = map[policy.Kind]policy.Limits{policy.CLI: {Concurrent: policy.LimitTo(2)}}
	var s service.Settings
	w.Send("PUT", path, root, map[string]any{"settings": second, "message": "audit finding 12"}, "If-Match", "*").Into(200, &s)

	type history struct {
		History []service.Entry `json:"history"`
		Next    int64           `json:"next_before"`
	}
	var h history
	w.Send("GET", path+"/history?limit=1", auditor, nil).Into(200, &h)
	require.Len(t, h.History, 1)
	e := h.History[0]
	require.EqualValues(t, 2, e.Version)
	require.Equal(t, optest.SubjectOf("root"), e.By)
	require.Equal(t, "audit finding 12", e.Message)
	require.WithinDuration(t, time.Now(), e.At, time.Hour)
	require.Equal(t, []policy.Change{
		{Path: "active", Before: "8h", After: "12h"}, {Path: "inactivity", Before: "inherit", After: "1h"},
		{Path: "kinds.cli.concurrent", Before: "inherit", After: "2"},
	}, e.Changes)
	require.EqualValues(t, 2, h.Next)
	var last history
	w.Send("GET", fmt.Sprintf("%s/history?limit=1&before=%d", path, h.Next), auditor, nil).Into(200, &last)
	require.EqualValues(t, 1, last.History[0].Version)
	require.Zero(t, last.Next)

	var old service.Settings
	w.Send("GET", path+"/history/1", auditor, nil).Into(200, &old)
	require.Equal(t, first.Settings, old.Settings)
	w.Send("GET", path+"/history/9", auditor, nil).Problem(404, "not_found")
	w.Send("GET", path+"/history/x", auditor, nil).Problem(404, "not_found")
	w.Send("GET", path+"/history/-1", auditor, nil).Problem(404, "not_found")
	w.Send("GET", path+"/history/9223372036854775807", auditor, nil).Problem(404, "not_found")

	// Undo is a new change: the history keeps what was undone.
	undo := func(token string, body any, match string) admintest.Response {
		return w.Send("POST", path+"/restore", token, body, "If-Match", match)
	}
	undo(auditor, map[string]any{"version": 1}, "*").Problem(403, "forbidden")
	undo(root, map[string]any{"version": 1}, "").Problem(428, "if_match_required")
	undo(root, map[string]any{"version": 1}, first.EntityTag).Problem(412, "stale")
	undo(root, map[string]any{"version": 7}, "*").Problem(404, "not_found")
	require.Equal(t, "version", undo(root, map[string]any{}, "*").Problem(400, "invalid").Errors[0].Field)
	undo(root, map[string]any{"version": 1}, s.EntityTag).Into(200, &s)
	require.EqualValues(t, 3, s.Version)
	require.Equal(t, first.Settings, s.Settings)
	require.Equal(t, "Restored version 1.", s.Message)
	undo(root, map[string]any{"version": 0, "message": "as if nothing had been"}, "*").Into(200, &s)
	require.Equal(t, policy.Account{}, s.Settings)
	w.Send("GET", path+"/history", auditor, nil).Into(200, &h)
	require.Len(t, h.History, 4)
}

func TestExplainNamesWhereEachValueComesFrom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	a := admintest.Bounds(24*time.Hour, 2*time.Hour, 3, policy.Refuse)
	a.Groups = map[string]policy.Limits{"staff": {Active: policy.LimitTo(8 * time.Hour)}}
	a.Kinds = map[policy.Kind]policy.Limits{policy.CLI: {Inactivity: policy.LimitTo(12 * time.Hour)}}
	w.Save(root, a)
	var e struct {
		User, Kind, Client string
		Groups             []string
		Active, Inactivity struct {
			Value    string
			From     []policy.Scope
			Overrode []struct{ Value string }
		}
		Other bool `json:"other_accounts"`
	}
	explain := func(query string) admintest.Response {
		return w.Send("GET", "/v1/accounts/acme/explain?"+query, root, nil)
	}
	explain("user="+optest.SubjectOf("ann")+"&kind=cli&client=native").Into(200, &e)
	require.Equal(t, "8h", e.Active.Value)
	require.Equal(t, []policy.Scope{{Account: "acme", Group: "staff"}}, e.Active.From)
	require.Equal(t, "24h", e.Active.Overrode[0].Value)
	require.Equal(t, "12h", e.Inactivity.Value)
	require.Equal(t, []string{"staff"}, e.Groups)
	require.False(t, e.Other)

	// Of a user in two accounts, the other one's settings are not told.
	explain("user="+optest.SubjectOf("both")).Into(200, &e)
	require.True(t, e.Other)
	require.Equal(t, "8h", e.Active.Value)

	explain("user="+optest.SubjectOf("other-dan")).Problem(404, "not_found")
	require.Equal(t, "user", explain("kind=cli").Problem(400, "invalid").Errors[0].Field)
	require.Equal(t, "kind", explain("user=a&kind=fridge").Problem(400, "invalid").Errors[0].Field)
	require.Equal(t, "usr", explain("usr=a").Problem(400, "invalid").Errors[0].Field)
	require.Equal(t, "user", explain("user=a&user=b").Problem(400, "invalid").Errors[0].Field)
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

// Versions are read a few at a time, since each may be large. The pages are the
// same, wherever they end.
func TestPagesOfTheHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.SignIn("root")
	const versions = 11
	for i := range versions {
		w.Save(root, admintest.Bounds(time.Duration(i+1)*time.Hour, 0, 0, 0))
	}
	for limit := 1; limit <= versions+1; limit++ {
		var all []service.Entry
		for before := int64(0); ; {
			var h struct {
				History []service.Entry
				Next    int64 `json:"next_before"`
			}
			query := fmt.Sprintf("?limit=%d", limit)
			if before > 0 {
				query += fmt.Sprintf("&before=%d", before)
			}
			w.Send("GET", "/v1/accounts/acme/settings/history"+query, root, nil).Into(200, &h)
			require.LessOrEqual(t, len(h.History), limit)
			all = append(all, h.History...)
			if before = h.Next; before == 0 {
				break
			}
		}
		require.Len(t, all, versions, "limit %d", limit)
		for i, e := range all {
			require.EqualValues(t, versions-i, e.Version)
			require.Equal(t, fmt.Sprintf("%dh", versions-i), e.Changes[0].After)
		}
		require.Equal(t, "inherit", all[versions-1].Changes[0].Before)
		require.Equal(t, "1h", all[versions-2].Changes[0].Before)
	}
	// A change of very many fields.
	many := policy.Account{Users: map[string]policy.Limits{}}
	for i := range 1000 {
		many.Users[fmt.Sprint(i)] = policy.Limits{Concurrent: policy.LimitTo(1)}
	}
	w.Save(root, many)
	entries, _, err := w.API.Service().History(t.Context(), "acme", 0, 1)
	require.NoError(t, err)
	require.Len(t, entries[0].Changes, service.MaxChanges)
	require.Equal(t, 1001-service.MaxChanges, entries[0].More)
}

// A preview that runs out of time says so, and what it found.
func TestAPreviewThatIsNotComplete(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *admintest.World, _ *provider.Config, c *admin.Config) { c.PreviewTime = 1 })
	root := w.SignIn("root")
	var p service.Preview
	w.Send("POST", "/v1/accounts/acme/settings/preview", root, map[string]any{"settings": admintest.Bounds(time.Hour, 0, 0, 0)}).Into(200, &p)
	require.False(t, p.Complete)
	require.Len(t, p.Changes, 1)
}
