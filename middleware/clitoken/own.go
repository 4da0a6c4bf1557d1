package clitoken

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// openOwn opens or, with os.O_CREATE, makes a file that is this user's alone: a regular
// file with one name, owned by the user, that nobody else can read or write. No link is
// followed, and a pipe does not make it wait. What is wrong is in the error, which names
// the file.
//
// Windows has neither such modes nor such links for everybody: there only what is no
// regular file is refused.
func openOwn(path string, flag int) (*os.File, error) {
	for tries := 0; ; tries++ {
		// The look before is for a better word than the system has; what counts is below.
		if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
			return nil, notRegular(path, info)
		}
		file, err := os.OpenFile(path, flag|noFollow, 0o600)
		if err != nil {
			return nil, err
		}
		info, err := file.Stat()
		if err == nil && names(info) == 0 && tries < 100 {
			_ = file.Close()
			continue // another process has replaced it meanwhile
		}
		if err == nil {
			err = private(path, info)
		}
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		return file, nil
	}
}

func notRegular(path string, info fs.FileInfo) error {
	what := "no regular file"
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		what = "a symbolic link"
	case info.Mode()&fs.ModeNamedPipe != 0:
		what = "a pipe"
	}
	return fmt.Errorf("%s is %s, which somebody may have put there: remove it", path, what)
}

func private(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return notRegular(path, info)
	}
	if owner, ok := ownerOf(info); ok && owner != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user, who may have put it there: remove it", path)
	}
	if names(info) != 1 {
		return fmt.Errorf("%s has another name as well (a hard link), which somebody may have made: remove it", path)
	}
	if mode := info.Mode().Perm(); mode&others != 0 {
		return fmt.Errorf("%s has mode %04o: others can read or change it; chmod 600 it, or remove it", path, mode)
	}
	return nil
}

// checkFolder returns an error for a folder in which somebody else could put a file in the
// place of one of this user, or that could be put in its place itself: it must be the
// user's, and writable for nobody else. One like /tmp will do, in which all may make
// files, but not take those of others away (the sticky bit); so will such folders
// above it. Links on the way to it are followed.
func checkFolder(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if real, err = filepath.Abs(real); err != nil {
		return err
	}
	info, err := os.Stat(real)
	if err != nil {
		return err
	}
	sticky := info.Mode()&fs.ModeSticky != 0
	owner, known := ownerOf(info)
	switch mode := info.Mode().Perm(); {
	case !info.IsDir():
		return fmt.Errorf("%s is no folder", dir)
	case known && owner != os.Geteuid() && !(sticky && owner == 0):
		return fmt.Errorf("the folder %s belongs to another user", dir)
	case mode&othersWrite != 0 && !sticky:
		return fmt.Errorf("the folder %s has mode %04o: others can put files there; chmod go-w it", dir, mode)
	}
	for above := filepath.Dir(real); ; above = filepath.Dir(above) {
		info, err := os.Stat(above)
		if err != nil {
			return err
		}
		// Not the group: the home folders of some systems are their users' own groups'.
		if mode := info.Mode(); mode.Perm()&othersWrite&0o002 != 0 && mode&fs.ModeSticky == 0 {
			return fmt.Errorf("the folder %s, above %s, has mode %04o: anybody can put another folder there; chmod o-w it", above, dir, mode.Perm())
		}
		if above == filepath.Dir(above) {
			return nil
		}
	}
}
