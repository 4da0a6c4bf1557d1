// Package invalid spells the errors about a configuration, the same way everywhere:
// "curfew: provider.Config.Keys is required".
package invalid

import "fmt"

// An invalidError is its cause, and of a kind beside.
type invalidError struct{ kind, cause error }

func (e *invalidError) Error() string   { return "curfew: " + e.cause.Error() }
func (e *invalidError) Unwrap() []error { return []error{e.kind, e.cause} }

// Errorf returns an error that begins with a field, in full, and says what is wrong
// with it. It wraps kind, which its text does not repeat, and what format wraps.
func Errorf(kind error, format string, args ...any) error {
	return &invalidError{kind, fmt.Errorf(format, args...)}
}
