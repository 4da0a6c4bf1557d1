package admin_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

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
