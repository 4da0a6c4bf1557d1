package console

import (
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strconv"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
)

// A staleView says what others changed while somebody edited.
type staleView struct {
	Entries []historyEntry
	Changes changesInWords // all of them together
	Known   bool           // what they were is still known
}

// stale answers somebody whose form was made from settings that are not the
// current ones: it shows who changed what meanwhile, and the form as it was typed,
// to go on with.
func (c *console) stale(v *visit, s service.Settings, ch change) error {
	view := &staleView{}
	since := v.version()
	if before, err := c.service.Version(v.ctx(), v.account, since); err == nil && before.EntityTag == v.get("tag") {
		view.Known, view.Changes = true, newChangesInWords(policy.Diff(before.Settings, s.Settings))
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	entries, _, err := c.service.History(v.ctx(), v.account, 0, 20)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if view.Known && e.Version > since {
			view.Entries = append(view.Entries, v.entry(e))
		}
	}
	const title = "Somebody else saved meanwhile"
	if ch.what == "limits" {
		page := c.editPage(v, ch.editing, s, ch.wrong, ch.rest)
		page.Stale, page.Message = view, v.get("message")
		c.render(v, http.StatusPreconditionFailed, "edit", title, menuOf(ch.editing.target), page)
		return nil
	}
	again := url.Values{"what": {ch.what}, "message": {v.get("message")}}
	for _, name := range []string{"restored", "scope", "name"} {
		if value := v.get(name); value != "" {
			again.Set(name, value)
		}
	}
	c.render(v, http.StatusPreconditionFailed, "stale", title, menuOf(ch.editing.target), struct {
		Stale *staleView
		Again template.URL
	}{view, template.URL(again.Encode())})
	return nil
}

func (c *console) save(v *visit) error {
	s, err := c.service.Settings(v.ctx(), v.account)
	if err != nil {
		return err
	}
	if s.ReadOnly != "" {
		return service.ErrReadOnly
	}
	ch, err := c.change(v, s)
	if err != nil {
		return err
	}
	if !ch.good() || v.get("tag") != s.EntityTag {
		return c.review(v, s)
	}
	match := service.Match{Tags: []string{v.get("tag")}}
	var saved service.Settings
	if ch.what == "restore" {
		saved, err = c.service.Restore(v.ctx(), v.actor, v.account, match, ch.restored, v.get("message"))
	} else {
		saved, err = c.service.Save(v.ctx(), v.actor, v.account, match, ch.settings, v.get("message"))
	}
	switch {
	case errors.Is(err, service.ErrStale):
		if s, err = c.service.Settings(v.ctx(), v.account); err != nil {
			return err
		}
		return c.stale(v, s, ch)
	case err != nil && ch.invalid(err):
		return c.review(v, s)
	case err != nil:
		return err
	}
	v.see(v.at(""), url.Values{"saved": {strconv.FormatInt(saved.Version, 10)}})
	return nil
}
