//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package clitoken

import (
	"io/fs"
	"syscall"
)

const (
	// noFollow refuses a link, and opens a pipe without waiting for its other end.
	noFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

	others, othersWrite = 0o077, 0o022
)

func ownerOf(info fs.FileInfo) (uid int, ok bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}

func names(info fs.FileInfo) uint64 {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 1
	}
	return uint64(stat.Nlink)
}
