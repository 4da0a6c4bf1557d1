package console

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// A chart is a picture with the numbers that it shows. It is drawn here, so that no
// browser needs a script for it.
type chart struct {
	ID, Title string
	Summary   string // in a sentence, for people who do not see it
	Unit      string // of the periods: "Hour", "Day"
	Grid      []gridLine
	Ticks     []tick
	Bars      []bar
	Line      string // path; of several pieces where nobody counted
	Area      string
	Series    []series
	Table     []tableRow
	Empty     string // what to say instead
}

type gridLine struct {
	Y     float64
	Label string
}

type tick struct {
	X     float64
	Label string
}

type bar struct {
	X, Y, Width, Height float64
	Class, Title        string
}

// A series is one reason, with its total.
type series struct {
	Class, Name, Total string
	total              int64
}

type tableRow struct {
	When   string
	Values []string
}

// The size of the plot, in units of the picture, which are about a CSS pixel.
const (
	chartWidth, chartHeight = 360.0, 190.0
	plotLeft, plotRight     = 40.0, 342.0
	plotTop, plotBottom     = 12.0, 162.0
)

func periodName(t time.Time, step time.Duration) string {
	if step >= 24*time.Hour {
		return t.UTC().Format("2 January")
	}
	return t.UTC().Format("2 January, 15:04")
}

// newChart is a chart without what it shows: the grid up to a most.
func newChart(id, title string, periods []provider.Period, step time.Duration, most float64) (c chart, top float64) {
	c = chart{ID: id, Title: title, Unit: "Hour (UTC)"}
	every, format := 6, "15:04"
	if step >= 24*time.Hour {
		c.Unit, every, format = "Day", 30, "2 Jan"
	}
	var lines int
	top, lines = niceTop(most)
	for i := range lines + 1 {
		value := top * float64(i) / float64(lines)
		c.Grid = append(c.Grid, gridLine{height(value, top), shortNumber(value)})
	}
	for i, p := range periods {
		// From the end, so that now is always marked.
		if (len(periods)-1-i)%every == 0 {
			c.Ticks = append(c.Ticks, tick{round(middle(i, len(periods))), p.Start.UTC().Format(format)})
		}
	}
	return c, top
}

// niceTop returns where an axis ends that has to reach a value, and into how many
// equal steps of whole numbers it is divided.
func niceTop(most float64) (top float64, lines int) {
	if most <= 4 {
		return max(1, math.Ceil(most)), max(1, int(math.Ceil(most)))
	}
	magnitude := math.Pow(10, math.Floor(math.Log10(most)))
	for _, n := range []struct {
		factor float64
		lines  int
	}{{1, 2}, {1.5, 3}, {2, 4}, {3, 3}, {4, 4}, {5, 5}, {6, 3}, {8, 4}, {10, 5}} {
		step := n.factor * magnitude / float64(n.lines)
		if n.factor*magnitude >= most && step == math.Trunc(step) {
			return n.factor * magnitude, n.lines
		}
	}
	return 10 * magnitude, 5
}

// shortNumber writes a number of an axis.
func shortNumber(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'f', -1, 64) + "M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'f', -1, 64) + "k"
	}
	return grouped(int(v))
}

func height(value, top float64) float64 {
	return round(plotBottom - (plotBottom-plotTop)*value/top)
}

func middle(i, n int) float64 { return plotLeft + (plotRight-plotLeft)*(float64(i)+0.5)/float64(n) }

func round(v float64) float64 { return math.Round(v*100) / 100 }

// liveChart is the number of live sessions as a line, with gaps where nobody
// counted.
func liveChart(id string, periods []provider.Period, step time.Duration) chart {
	most, low, peak := 0.0, math.Inf(1), time.Time{}
	last := -1
	for i, p := range periods {
		if p.Samples == 0 {
			continue
		}
		if last = i; p.Live > most || peak.IsZero() {
			most, peak = p.Live, p.Start
		}
		low = min(low, p.Live)
	}
	c, top := newChart(id, "Live sessions", periods, step, most)
	for _, p := range slices.Backward(periods) {
		text := "not counted"
		if p.Samples > 0 {
			text = grouped(int(math.Round(p.Live)))
		}
		c.Table = append(c.Table, tableRow{periodName(p.Start, step), []string{text}})
	}
	c.Series = []series{{Class: "live", Name: "Live sessions, on average"}}
	if last < 0 {
		c.Empty = "Nobody has counted yet."
		return c
	}
	c.Summary = fmt.Sprintf("Between %s and %s sessions were live; most of them around %s. At last there were about %s.",
		grouped(int(math.Round(low))), grouped(int(math.Round(most))), periodName(peak, step), grouped(int(math.Round(periods[last].Live))))
	var line, area strings.Builder
	open := -1
	closeArea := func() {
		if open >= 0 {
			fmt.Fprintf(&area, "V%g H%g Z ", plotBottom, round(middle(open, len(periods))))
		}
		open = -1
	}
	for i, p := range periods {
		if p.Samples == 0 {
			closeArea()
			continue
		}
		x, y := round(middle(i, len(periods))), height(p.Live, top)
		if open < 0 {
			open = i
			fmt.Fprintf(&line, "M%g %g h0 ", x, y) // a point, if it stays alone
			fmt.Fprintf(&area, "M%g %g V%g ", x, plotBottom, y)
			continue
		}
		fmt.Fprintf(&line, "L%g %g ", x, y)
		fmt.Fprintf(&area, "L%g %g ", x, y)
	}
	closeArea()
	c.Line, c.Area = strings.TrimSpace(line.String()), strings.TrimSpace(area.String())
	return c
}

// reasonStyle returns the class of a reason in console.css.
func reasonStyle(reason policy.Reason) string {
	place := 1 + slices.IndexFunc(policy.Reasons(), func(info policy.ReasonInfo) bool { return info.Reason == reason })
	return fmt.Sprintf("reason-%d", place)
}

// stackedChart is how often something happened, by reason, as bars.
func stackedChart(id, title string, periods []provider.Period, step time.Duration, of func(provider.Period) map[policy.Reason]int64) chart {
	totals, most, sum := map[policy.Reason]int64{}, int64(0), int64(0)
	for _, p := range periods {
		var n int64
		for reason, count := range of(p) {
			totals[reason] += count
			n += count
		}
		most, sum = max(most, n), sum+n
	}
	c, top := newChart(id, title, periods, step, float64(most))
	var order []policy.Reason
	for _, info := range policy.Reasons() {
		order = append(order, info.Reason)
	}
	order = append(order, provider.OtherReason)
	order = slices.DeleteFunc(order, func(r policy.Reason) bool { return totals[r] == 0 })
	for _, reason := range order {
		c.Series = append(c.Series, series{reasonStyle(reason), reason.Info().Label, grouped(int(totals[reason])), totals[reason]})
	}
	if sum == 0 {
		c.Empty = "None."
		return c
	}
	width := (plotRight - plotLeft) / float64(len(periods))
	gap := min(2, width/4)
	for i, p := range periods {
		var below int64
		row := tableRow{When: periodName(p.Start, step)}
		for _, reason := range order {
			n := of(p)[reason]
			if row.Values = append(row.Values, grouped(int(n))); n == 0 {
				continue
			}
			y := height(float64(below+n), top)
			c.Bars = append(c.Bars, bar{
				X: round(plotLeft + width*float64(i) + gap/2), Y: y, Width: round(width - gap),
				Height: round(height(float64(below), top) - y), Class: reasonStyle(reason),
				Title: fmt.Sprintf("%s: %s, %s", periodName(p.Start, step), reason.Info().Label, grouped(int(n))),
			})
			below += n
		}
		c.Table = append(c.Table, row)
	}
	slices.Reverse(c.Table)
	largest := slices.MaxFunc(c.Series, func(a, b series) int { return cmp.Compare(a.total, b.total) })
	c.Summary = fmt.Sprintf("%s in all; the most frequent reason: %s, %s.", grouped(int(sum)), lowerFirst(largest.Name), largest.Total)
	return c
}
