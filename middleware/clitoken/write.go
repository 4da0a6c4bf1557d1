package clitoken

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
)

// A writer is a new version of the file, not there yet.
type writer struct {
	file *File
	tmp  *os.File
}

// prepare opens the new version beside the file. Only the holder of the lock
// calls it, so one name is enough, and what a crash left there is overwritten.
func (f *File) prepare() (*writer, error) {
	name := f.path + ".new"
	// Not opened, since somebody may have made it with another mode.
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	tmp, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &writer{f, tmp}, nil
}

// commit writes the login and puts it in the place of the file, for good: it is on
// the disk before it is the file.
func (w *writer) commit(l Login) error {
	defer w.discard()
	body, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	if _, err := w.tmp.Write(append(body, '\n')); err != nil {
		return err
	}
	if err := w.tmp.Sync(); err != nil {
		return err
	}
	name := w.tmp.Name()
	if err := w.tmp.Close(); err != nil {
		return err
	}
	w.tmp = nil
	if err := os.Rename(name, w.file.path); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return syncFolder(filepath.Dir(w.file.path))
}

// discard removes a new version that was not committed.
func (w *writer) discard() {
	if w.tmp == nil {
		return
	}
	_ = w.tmp.Close() // it is removed anyway
	_ = os.Remove(w.tmp.Name())
	w.tmp = nil
}

// syncFolder makes a rename or a removal survive a loss of power. Windows has
// nothing of the kind.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
