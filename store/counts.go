package store

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// Counts keeps what happened in each account, hour by hour, as numbers: for
// charts, not for decisions. The same rules as for [Sessions] hold. It is no part
// of a [Store], which can be one without it; the stores of this module keep counts too.
type Counts interface {
	// AddCounts adds to counters, which begin at 0. Of concurrent calls none
	// is lost. Each element is added as a whole or not at all; if a call fails
	// with an error that is not a refusal of its arguments, any of them may
	// have been added. One counter may be named by several elements. More than
	// [MaxAddedCounts] elements are an error, and so is one that
	// [Count.Validate] refuses; then nothing is added.
	AddCounts(ctx context.Context, counts []Count) error

	// ReadCounts returns an account's counters of the hours h for which
	// from <= h < to, in ascending order of hour and then name. A counter that
	// nothing was added to is not among them. More than [MaxCountedHours]
	// between from and to are an error.
	ReadCounts(ctx context.Context, account string, from, to time.Time) ([]Count, error)

	// DropCounts removes an account's counters of the hours before a time.
	DropCounts(ctx context.Context, account string, before time.Time) error

	// CountUnended returns the number of sessions of an account that have not
	// ended. It loads no document, but it may take time in proportion to that
	// number: see [Sessions] Stats.
	CountUnended(ctx context.Context, account string) (int, error)
}

// A Count is a counter, or what is added to one.
type Count struct {
	Account string
	Hour    time.Time // a whole hour, in UTC
	Name    string    // what is counted
	N       int64
}

// What a store must be able to keep, and need not exceed.
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
