package console

import (
	"cmp"
	"net/http"
	"strconv"

	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

// A historyEntry is one change for people.
type historyEntry struct {
	Version int64
	By      string
	At      view.Time
	Message string
	Changes changesInWords
	Back    int64  // the version that its button puts in force again; -1: it has none
	Button  string // what that says
}

func (v *visit) entry(e service.Entry) historyEntry {
	return historyEntry{Version: e.Version, By: view.Clean(e.By), At: v.past(e.At), Message: e.Message, Changes: newChangesInWords(e.Changes), Back: -1}
}

func (c *console) showHistory(v *visit) error {
	before, err := strconv.ParseInt(cmp.Or(v.get("before"), "0"), 10, 64)
	if err != nil || before < 0 {
		return noPage
	}
	entries, next, err := c.service.History(v.ctx(), v.account, before, 20)
	if err != nil {
		return err
	}
	page := struct {
		Entries []historyEntry
		Next    int64
		First   bool
	}{Next: next, First: before == 0}
	undo := c.service.ReadOnly == "" && v.may(admin.WriteSettings)
	for i, e := range entries {
		entry := v.entry(e)
		switch {
		case !undo:
		case i == 0 && before == 0:
			entry.Back, entry.Button = e.Version-1, "Undo this change"
		default:
			entry.Back, entry.Button = e.Version, "Go back to this version"
		}
		page.Entries = append(page.Entries, entry)
	}
	c.render(v, http.StatusOK, "history", "History", "history", page)
	return nil
}
