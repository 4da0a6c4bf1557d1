package texts

import (
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
)

// Ago says how long ago something was: "3 hours ago".
func (c *Catalogue) Ago(d time.Duration) string {
	n, unit := largest(d)
	return c.Text("ago."+unit, "n", n)
}

// In says how long it is until something happens: "in 3 hours".
func (c *Catalogue) In(d time.Duration) string {
	n, unit := largest(d)
	return c.Text("in."+unit, "n", n)
}

// largest is a duration in its largest unit, rounded down.
func largest(d time.Duration) (n int, unit string) {
	switch {
	case d >= 48*time.Hour:
		return int(d / (24 * time.Hour)), "day"
	case d >= time.Hour:
		return int(d / time.Hour), "hour"
	case d >= time.Minute:
		return int(d / time.Minute), "minute"
	}
	return 0, "now"
}

// Date writes a point in time, to the minute, in UTC.
func (c *Catalogue) Date(t time.Time) string {
	t = t.UTC()
	return c.Text("date", "day", t.Day(), "month", c.Text("month."+strings.ToLower(t.Month().String())), "year", t.Year(), "time", t.Format("15:04"))
}

// Device names a program, and the system that it is on if that is known: "Firefox on
// Linux".
func (c *Catalogue) Device(program, system string) string {
	if program == "" || system == "" {
		return program
	}
	return c.Text("device.on", "program", program, "system", system)
}

// Kind names a kind of session. Of one that settings do not know it returns the
// kind itself.
func (c *Catalogue) Kind(kind policy.Kind) string {
	if kind == "" {
		kind = policy.Browser
	}
	if !kind.Known() {
		return string(kind)
	}
	return c.Text("kind." + string(kind))
}

// Ended says why a session ended; limit is the one that was reached, if it ended by
// one.
func (c *Catalogue) Ended(r policy.Reason, limit time.Duration) string {
	info := r.Info()
	if info.Limited == "" {
		return c.Text("reason." + codeOf(info))
	}
	return c.Text("reached."+codeOf(info), "limit", c.limit(limit))
}

// ParentEnded says why a session ended that did so with the one it was made from.
func (c *Catalogue) ParentEnded(r policy.Reason) string {
	return c.Text("parent.over", "cause", c.Text("cause."+codeOf(r.Info())))
}

func (c *Catalogue) limit(d time.Duration) string {
	var words []string
	for _, part := range policy.LimitParts(d) {
		words = append(words, c.Text("limit."+part.Unit, "n", part.N))
	}
	switch len(words) {
	case 0:
		return c.Text("limit.none")
	case 1:
		return words[0]
	}
	return c.Text("limit.both", "first", words[0], "second", words[1])
}
