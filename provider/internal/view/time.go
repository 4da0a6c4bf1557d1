package view

import (
	"html/template"
	"time"

	"github.com/curfew-oidc/curfew/provider/internal/texts"
)

// A Time is a point in time, in words beside it: "3 hours ago". In JSON it is the
// point alone.
type Time struct {
	At    time.Time
	Words string
	in    *texts.Catalogue
}

// Past is a point in time before now. The zero time stays the zero Time.
func Past(t, now time.Time, in *texts.Catalogue) Time { return timeOf(t, in.Ago(now.Sub(t)), in) }

// Future is a point in time after now. The zero time stays the zero Time.
func Future(t, now time.Time, in *texts.Catalogue) Time { return timeOf(t, in.In(t.Sub(now)), in) }

func timeOf(t time.Time, words string, in *texts.Catalogue) Time {
	if t.IsZero() {
		return Time{}
	}
	return Time{t, words, in}
}

// IsZero reports whether there is no such time.
func (t Time) IsZero() bool { return t.At.IsZero() }

// DateTime is the time for the datetime attribute of a time element.
func (t Time) DateTime() string { return DateTime(t.At) }

// Date is the time for people.
func (t Time) Date() string { return t.in.Date(t.At) }

// Element is the time element of a page.
func (t Time) Element() template.HTML { return Element(t.At, t.Words, t.Date()) }

// MarshalJSON implements [json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) { return t.At.MarshalJSON() }

// DateTime is a time for the datetime attribute of a time element.
func DateTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Element is a time element that shows words, and title beside them if that is not
// empty.
func Element(at time.Time, words, title string) template.HTML {
	if title != "" {
		title = ` title="` + template.HTMLEscapeString(title) + `"`
	}
	return template.HTML(`<time datetime="` + DateTime(at) + `"` + title + `>` + template.HTMLEscapeString(words) + `</time>`)
}
