// Package enginetest gives tests private database servers: one of each kind for
// a test binary, started when the first test asks for it.
//
// A package that uses it closes them in its TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(enginetest.Main(m)) }
package enginetest

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

var closers struct {
	sync.Mutex
	list []func() error
}

// atExit has Main call a function after the tests.
func atExit(f func() error) {
	closers.Lock()
	defer closers.Unlock()
	closers.list = append(closers.list, f)
}

// Main runs the tests, closes the servers and returns the exit code.
func Main(m *testing.M) int {
	code := m.Run()
	closers.Lock()
	defer closers.Unlock()
	for _, f := range closers.list {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, "close a server:", err)
			code = max(code, 1)
		}
	}
	return code
}
