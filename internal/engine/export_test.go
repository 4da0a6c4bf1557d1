package engine

// Gone reports whether a process does not run any more.
func Gone(pid int) bool { return gone(pid) }
