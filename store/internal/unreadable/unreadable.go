// Package unreadable says of many documents which of them cannot be read.
package unreadable

import (
	"errors"
	"fmt"
)

// named is how many are named: there may be very many, and for the same reason.
const named = 10

// A List is why some of the documents that a call came upon cannot be read.
type List struct {
	errs []error
	more int
}

// Add notes one, which wraps store.ErrUnreadable.
func (l *List) Add(err error) {
	if len(l.errs) < named {
		l.errs = append(l.errs, err)
	} else {
		l.more++
	}
}

// Len returns how many there are.
func (l *List) Len() int { return len(l.errs) + l.more }

// Err returns one error for them all; nil if there are none.
func (l *List) Err() error {
	err := errors.Join(l.errs...)
	if l.more > 0 {
		err = fmt.Errorf("%w\nand %d more", err, l.more)
	}
	return err
}
