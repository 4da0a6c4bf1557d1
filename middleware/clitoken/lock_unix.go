//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package clitoken

import (
	"errors"
	"os"
	"syscall"
)

// tryLock uses flock, which is on the open file and not on the process, so that it
// excludes goroutines too.
func tryLock(file *os.File) error {
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		case !errors.Is(err, syscall.EINTR):
			return err
		}
	}
}
