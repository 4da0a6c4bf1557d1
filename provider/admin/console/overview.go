package console

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/internal/view"
)

// An overviewPage shows the three settings.
type overviewPage struct {
	Tiles    []tile
	Observe  bool
	CanEdit  bool
	Warnings []warningView
	Version  int64
	Changed  *changedView
	Presence *presence
}

// A tile is one of the three settings.
type tile struct {
	Field, Title, About string
	Value               string
	Set                 bool
	More                []pair
	From                string       // where the value comes from
	Changed             *changedView // who set it
	Others              []pair       // what binds others than everyone
	Overrides           int          // how many narrower scopes set it
}

// A changedView says who changed something.
type changedView struct {
	By, Message string
	At          view.Time
}

// historyLook is how many changes are looked at for the one that set a value.
const historyLook = 50

func (c *console) showOverview(v *visit) error {
	s, err := c.service.Settings(v.ctx(), v.account)
	if err != nil {
		return err
	}
	entries, _, err := c.service.History(v.ctx(), v.account, 0, historyLook)
	if err != nil {
		return err
	}
	page := overviewPage{
		Observe: s.Settings.Observe, CanEdit: s.ReadOnly == "" && v.may(admin.WriteSettings),
		Warnings: warningViews(s.Warnings), Version: s.Version,
	}
	if s.Version > 0 {
		page.Changed = &changedView{view.Clean(s.ChangedBy), s.Message, v.past(s.ChangedAt)}
	}
	for _, field := range []string{"active", "inactivity", "concurrent"} {
		t := newTile(field, v.account, s.Settings)
		if t.From == "" {
			t.From = "Nobody has set it: nothing is limited."
		} else if s.ReadOnly != "" {
			t.From = s.ReadOnly
		}
		for _, e := range entries {
			if slices.ContainsFunc(e.Changes, func(c policy.Change) bool { return c.Path == field }) {
				t.Changed = &changedView{view.Clean(e.By), e.Message, v.past(e.At)}
				break
			}
		}
		page.Tiles = append(page.Tiles, t)
	}
	if v.may(admin.ReadSessions) {
		if page.Presence, err = c.presence(v); err != nil {
			return err
		}
	}
	notice := ""
	if n, err := strconv.ParseInt(v.get("saved"), 10, 64); err == nil && n == s.Version && n > 0 && v.fromHere() {
		notice = fmt.Sprintf("Saved as version %d. It is in force now.", n)
	}
	c.render(v, http.StatusOK, "overview", "Login session", "", page, notice)
	return nil
}

// newTile is one setting with its provenance, as [policy.Rules.Explain] tells it
// for a member of the account for whom there is no override of their own.
func newTile(field, account string, a policy.Account) tile {
	rules := policy.Settings{Accounts: map[string]policy.Account{account: a}}.
		Rules(policy.Who{Memberships: []policy.Membership{{Account: account}}})
	t := tile{Field: field, Title: fieldWords[field]}
	everyone := rules.Explain("", "")
	value := func(e policy.Explanation) (text string, from []policy.Scope) {
		switch field {
		case "active":
			return timeBoundInWords(e.Active.Value), e.Active.From
		case "inactivity":
			return timeBoundInWords(e.Inactivity.Value), e.Inactivity.From
		}
		switch {
		case len(e.Caps) == 0:
			return "Not set", nil
		case len(e.Caps[0].Exempt) > 0:
			return "Not counted", e.Caps[0].Exempt
		}
		return capInWords(e.Caps[0].Max), []policy.Scope{e.Caps[0].From}
	}
	var from []policy.Scope
	t.Value, from = value(everyone)
	t.Set = t.Value != "Not set"
	if len(from) > 0 {
		t.From = "Set for everyone in this account."
	}
	for _, kind := range policy.Kinds() {
		text, from := value(rules.Explain(kind, ""))
		if len(from) > 0 && from[0].Kind != "" {
			t.Others = append(t.Others, pair{kindsInWords(kind), text})
		}
	}
	for _, l := range overridesOf(a) {
		set := map[string]bool{
			"active": !l.limits.Active.Inherits(), "inactivity": !l.limits.Inactivity.Inherits() || !l.limits.Activity.Inherits(),
			"concurrent": !l.limits.Concurrent.Inherits() || l.limits.AtLimit != policy.InheritAtLimit,
		}
		if set[field] {
			t.Overrides++
		}
	}
	switch field {
	case "active":
		t.About = "How long a sign-in lasts before the user has to enter their credentials again."
	case "inactivity":
		t.About = "How long a session may go unused before it ends."
		if len(everyone.Activity.From) > 0 && everyone.Activity.Value != policy.DefaultClasses {
			t.More = append(t.More, pair{"What counts as activity", classesInWords(everyone.Activity.Value)})
		}
	case "concurrent":
		t.About = "How many sessions one user may have at once, browsers and command lines together."
		for _, c := range everyone.Caps {
			if c.AtLimit != nil {
				t.More = append(t.More, pair{"At the limit", c.AtLimit.Value.Label()})
			}
		}
	}
	return t
}

// presence is the number of sessions now and over the last day.
type presence struct {
	Now, Refused, Ended string
	Line, Area          string
	Summary             string
}

// presence returns nil if nothing is counted.
func (c *console) presence(v *visit) (*presence, error) {
	periods, err := c.service.Hook.Counts(v.ctx(), v.account, v.now.Truncate(time.Hour).Add(-23*time.Hour), v.now.Add(time.Microsecond), time.Hour)
	if errors.Is(err, provider.ErrNoCounts) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	live := liveChart("", periods, time.Hour)
	p := &presence{Line: live.Line, Area: live.Area, Summary: live.Summary, Now: "–"}
	for _, period := range periods {
		if period.Samples > 0 {
			p.Now = "about " + grouped(int(math.Round(period.Live)))
		}
	}
	sum := func(of func(provider.Period) map[policy.Reason]int64) string {
		var n int64
		for _, period := range periods {
			for _, count := range of(period) {
				n += count
			}
		}
		return grouped(int(n))
	}
	p.Refused = sum(func(p provider.Period) map[policy.Reason]int64 { return p.Refused })
	p.Ended = sum(func(p provider.Period) map[policy.Reason]int64 { return p.Ended })
	return p, nil
}
