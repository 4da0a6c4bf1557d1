//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !openbsd && !windows

package clitoken

import (
	"errors"
	"os"
)

// tryLock refuses: without a lock that a crash gives back two processes could spend
// one refresh token, which looks like a theft.
func tryLock(*os.File) error { return errors.ErrUnsupported }
