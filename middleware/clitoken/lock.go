package clitoken

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// lockPoll is how often a lock that is taken is tried. The system could wait for
// it, but not end the wait with a context.
const lockPoll = 10 * time.Millisecond

// errLocked is returned by tryLock where somebody else has the lock.
var errLocked = errors.New("locked")

// lock takes the lock of the file, among goroutines and processes.
//
// The system keeps the lock on an open file, and takes it back when the process ends: a
// crash leaves no lock behind, and no lock has to be broken for its age. The file stays,
// since a lock on a file that was removed excludes nobody.
func (f *File) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return nil, err
	}
	if err := checkFolder(filepath.Dir(f.path)); err != nil {
		return nil, err
	}
	file, err := openOwn(f.path+".lock", os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	for {
		err := tryLock(file)
		if err == nil {
			return func() { _ = file.Close() }, nil // which unlocks it
		}
		if !errors.Is(err, errLocked) {
			return nil, errors.Join(fmt.Errorf("%s: %w", file.Name(), err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrBusy, file.Name(), context.Cause(ctx)), file.Close())
		case <-time.After(lockPoll):
		}
	}
}
