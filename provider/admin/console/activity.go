package console

import (
	"errors"
	"net/http"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

func (c *console) showActivity(v *visit) error {
	type section struct {
		Title, ID string
		Charts    []chart
	}
	day := v.now.Truncate(time.Hour).Add(-23 * time.Hour)
	quarter := v.now.Truncate(24*time.Hour).AddDate(0, 0, -89)
	var page []section
	for _, s := range []struct {
		title, id string
		from      time.Time
		step      time.Duration
	}{{"The last day", "day", day, time.Hour}, {"The last 90 days", "quarter", quarter, 24 * time.Hour}} {
		periods, err := c.service.Hook.Counts(v.ctx(), v.account, s.from, v.now.Add(time.Microsecond), s.step)
		if errors.Is(err, provider.ErrNoCounts) {
			break // the page says so
		} else if err != nil {
			return err
		}
		page = append(page, section{s.title, s.id, charts(s.id, periods, s.step)})
	}
	c.render(v, http.StatusOK, "activity", "Activity", "activity", page)
	return nil
}

func charts(id string, periods []provider.Period, step time.Duration) []chart {
	refused := func(p provider.Period) map[policy.Reason]int64 { return p.Refused }
	ended := func(p provider.Period) map[policy.Reason]int64 { return p.Ended }
	return []chart{
		liveChart(id+"-live", periods, step),
		stackedChart(id+"-refused", "Refused sign-ins", periods, step, refused),
		stackedChart(id+"-ended", "Ended sessions", periods, step, ended),
	}
}
