package view

import (
	"time"

	"github.com/curfew-oidc/curfew/internal/plain"
)

// A Time is a point in time, in words beside it: "3 hours ago". In JSON it is the
// point alone.
type Time struct {
	At    time.Time
	Words string
}

// Past is a point in time before now. The zero time stays the zero Time.
func Past(t, now time.Time) Time { return timeOf(t, plain.Ago(now.Sub(t))) }

// Future is a point in time after now. The zero time stays the zero Time.
func Future(t, now time.Time) Time { return timeOf(t, plain.In(t.Sub(now))) }

func timeOf(t time.Time, words string) Time {
	if t.IsZero() {
		return Time{}
	}
	return Time{t, words}
}

// IsZero reports whether there is no such time.
func (t Time) IsZero() bool { return t.At.IsZero() }

// DateTime is the time for the datetime attribute of a time element.
func (t Time) DateTime() string { return t.At.UTC().Format(time.RFC3339) }

// Date is the time for people.
func (t Time) Date() string { return plain.Date(t.At) }

// MarshalJSON implements [json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) { return t.At.MarshalJSON() }
