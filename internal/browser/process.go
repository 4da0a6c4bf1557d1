package browser

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// programs are built once for all tests of this process, by their package.
var programs struct {
	sync.Mutex
	dir   string
	built map[string]string
}

// Build builds a program of the project, such as "examples/op", and returns where it
// is.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if path, ok := programs.built[pkg]; ok {
		return path
	}
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "curfew-browser-")
		require.NoError(t, err)
		programs.dir, programs.built = dir, map[string]string{}
	}
	path := filepath.Join(programs.dir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", path)
	cmd.Dir = filepath.Join("..", "..", pkg) // whichever module it is in
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	programs.built[pkg] = path
	return path
}

// RemoveBuilt removes what Build built.
func RemoveBuilt() { _ = os.RemoveAll(programs.dir) }

// A Process is a program that runs until the test is over.
type Process struct {
	t   testing.TB
	cmd *exec.Cmd
	end func() error

	mu  sync.Mutex
	out bytes.Buffer
}

// Write implements io.Writer, for what the program says.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// Output is what it said so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Run starts a program and waits until it has said ready.
func Run(t testing.TB, ready, path string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, cmd: exec.Command(path, args...)}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	var failed error
	go func() {
		// The signal comes when the thread that started the process ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			failed = p.cmd.Wait()
			close(ended)
		}
	}()
	require.NoError(t, <-started)
	p.end = sync.OnceValue(func() error {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			<-ended
			return failed
		}
		select {
		case <-ended:
		case <-time.After(patience):
			_ = p.cmd.Process.Kill()
			<-ended
		}
		return failed
	})
	t.Cleanup(func() {
		if err := p.end(); err != nil {
			t.Errorf("%s ended with %v", filepath.Base(path), err)
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(path), p.Output())
		}
	})
	for deadline := time.Now().Add(patience); !strings.Contains(p.Output(), ready); time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			require.NoError(t, fmt.Errorf("%s ended at its start: %w\n%s", filepath.Base(path), failed, p.Output()))
		default:
		}
		require.True(t, time.Now().Before(deadline), "%s did not start:\n%s", filepath.Base(path), p.Output())
	}
	return p
}

// Stop ends the program as an operator does.
func (p *Process) Stop() {
	p.t.Helper()
	require.NoError(p.t, p.end())
}
