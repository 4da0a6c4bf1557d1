package store

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// Counts keeps hourly numbers of each account: for charts, not for decisions. The rules of Sessions
// hold here too.
type Counts interface {
	// AddCounts adds to counters, which begin at 0. No concurrent call is lost. Each element is
	// added as a whole or not at all; if a call fails
	// with an error that is not a refusal of its arguments, any of them may
	// have been added. Several elements may name the same counter. More than [MaxAddedCounts]
	// elements are an error, and so is an element that [Count.Validate] refuses; then nothing is
	// added.
	AddCounts(ctx context.Context, counts []Count) error

	// ReadCounts returns an account's counters of the hours h for which
	// from <= h < to, in ascending order of hour and then name. It omits counters to which nothing
	// was added. More than [MaxCountedHours] between from and to are an error.
	ReadCounts(ctx context.Context, account string, from, to time.Time) ([]Count, error)

	// DropCounts removes an account's counters of the hours before the given time.
	DropCounts(ctx context.Context, account string, before time.Time) error

	// CountUnended returns the number of sessions of an account that have not
	// ended. It loads no document, but it may take time in proportion to that
	// number: see [Sessions] Stats.
	CountUnended(ctx context.Context, account string) (int, error)
}

// A Count is a counter, or an addition to one.
type Count struct {
	Account string
	Hour    time.Time // a whole hour, in UTC
	Name    string    // what is counted
	N       int64
}

// A store must be able to keep this much, and need not keep more.
const (
	MaxAddedCounts  = 1000     // by one call
	MaxCountedHours = 100 * 24 // returned by one call
	MaxCountName    = 64       // bytes
	MaxCountAccount = 1024     // bytes
	MaxAddedCount   = 1 << 40  // by one element
)

// Validate returns why a store must refuse to add c, and nil if it need not.
func (c *Count) Validate() error {
	switch {
	case c.Account == "" || len(c.Account) > MaxCountAccount || !utf8.ValidString(c.Account):
		return fmt.Errorf("the count's account must be 1 to %d bytes of UTF-8", MaxCountAccount)
	case c.Name == "" || len(c.Name) > MaxCountName || !utf8.ValidString(c.Name):
		return fmt.Errorf("the count's name must be 1 to %d bytes of UTF-8", MaxCountName)
	case !c.Hour.Equal(c.Hour.Truncate(time.Hour)) || c.Hour.UTC().Year() < 1 || c.Hour.UTC().Year() > 9999:
		return errors.New("the count's hour must be a whole hour in the years 1 to 9999")
	case c.N < 1 || c.N > MaxAddedCount:
		return fmt.Errorf("the count is %d: at least 1 and at most %d can be added", c.N, int64(MaxAddedCount))
	}
	return nil
}
