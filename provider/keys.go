package provider

import "time"

// Keys are the sealing keys of the hook. The first seals; all unseal. To
// rotate, first add the new key behind the others everywhere, then move it to
// the front, then, once the longest Active has passed, remove the old one.
type Keys []Key

// A Key is one sealing key.
type Key struct {
	// Created is when it was made, to the second. It is part of the key's
	// ID, which tokens carry in the clear, so that a process that does not
	// have a new key yet knows it for new.
	Created time.Time

	// Secret is the key itself.
	Secret [32]byte
}

// NewKey makes a key from the system's randomness.
func NewKey(now time.Time) Key { panic("to be written") }

// MarshalText encodes the key, secret included, on one line of printable
// characters, to be kept in a file of mode 0600.
func (k Key) MarshalText() ([]byte, error) { panic("to be written") }

// UnmarshalText decodes what MarshalText made.
func (k *Key) UnmarshalText(text []byte) error { panic("to be written") }
