package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// issuer is who all processes of a fleet say they are. Nothing listens there:
// the clients send each request to the process that they choose.
const issuer = "http://localhost:9998"

// build builds examples/op below a folder into dir. It has the race detector if
// this program has it.
func build(ctx context.Context, root, dir string) (string, error) {
	path := filepath.Join(dir, "op")
	args := []string{"build", "-o", path}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-race" && s.Value == "true" {
				// As in the Makefile: under the detector the check of a password
				// takes twenty times as long, and was most of what the processes
				// did. It has nothing to find where code only computes.
				args = append(args, "-race", "-gcflags=golang.org/x/crypto/blowfish=-race=false",
					"-gcflags=crypto/internal/fips140/bigmod=-race=false")
			}
		}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./op")...)
	cmd.Dir = filepath.Join(root, "examples")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build examples/op: %w\n%s", err, out)
	}
	return path, nil
}

// moduleRoot is the folder of the library, whose module this one replaces.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/curfew-oidc/curfew").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// A fleet is several processes of examples/op on one store.
type fleet struct {
	processes []*process
	dir       string
	requests  atomic.Int64 // that were answered
	outages   atomic.Int64 // answers 503, and connections that failed
}

// A process is one place in a fleet, where a process runs most of the time.
type process struct {
	program string
	args    []string

	mu      sync.Mutex
	address string // empty: it gets no new requests
	busy    sync.WaitGroup
	cmd     *exec.Cmd
	ended   chan struct{}
	err     error // of cmd, once ended is closed
	log     *logBuffer
}

// startFleet starts one process for each program. All have the flags args. The
// first one makes what is not there yet; then the others start at once.
func startFleet(dir string, programs []string, args ...string) (*fleet, error) {
	f := &fleet{dir: dir}
	for _, program := range programs {
		f.processes = append(f.processes, &process{program: program, args: args})
	}
	errs := make([]error, len(f.processes))
	errs[0] = f.processes[0].start()
	if errs[0] == nil {
		var wg sync.WaitGroup
		for i, p := range f.processes[1:] {
			wg.Go(func() { errs[1+i] = p.start() })
		}
		wg.Wait()
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// start starts the process and waits until it listens.
func (p *process) start() error {
	cmd := exec.Command(p.program, append([]string{"-listen", "127.0.0.1:0", "-issuer", issuer}, p.args...)...)
	log := &logBuffer{changed: make(chan struct{}, 1)}
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		// The signal comes when the thread that started the process ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	for {
		if address, ok := log.address(); ok {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.cmd, p.ended, p.log, p.address = cmd, ended, log, address
			return nil
		}
		select {
		case <-log.changed:
		case <-ended:
			return fmt.Errorf("a process ended at its start: %w\n%s", p.err, log)
		case <-limit.C:
			err := cmd.Process.Kill()
			<-ended
			return errors.Join(fmt.Errorf("a process did not start in %s\n%s", startLimit, log), err)
		}
	}
}

// The limits are generous: they are for what will never happen.
const (
	startLimit = 2 * time.Minute
	stopLimit  = time.Minute
	stepLimit  = 5 * time.Minute
)

// enter returns the address to send a request to. leave must be called when it
// was answered.
func (p *process) enter() (address string, leave func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.address == "" {
		return "", nil, false
	}
	p.busy.Add(1)
	return p.address, p.busy.Done, true
}

// kill ends it as a loss of power would, amid its requests.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	<-p.ended
	p.mu.Lock()
	defer p.mu.Unlock()
	p.address = ""
	return nil
}

// stop ends it as an operator does: first it gets no new requests, and when the
// last one was answered it gets SIGTERM.
func (p *process) stop() error {
	p.mu.Lock()
	p.address = ""
	p.mu.Unlock()
	p.busy.Wait()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
	case <-time.After(stopLimit):
		err := p.cmd.Process.Kill()
		<-p.ended
		return errors.Join(fmt.Errorf("a process did not end in %s", stopLimit), err)
	}
	if p.err != nil {
		return fmt.Errorf("a process ended with %w\n%s", p.err, p.log)
	}
	return p.log.races()
}

func (f *fleet) close() error {
	var errs []error
	for _, p := range f.processes {
		if p.cmd == nil {
			continue
		}
		select {
		case <-p.ended: // it was killed, or stopped
		default:
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(errs...)
}

// logs is what the processes said last, for an error.
func (f *fleet) logs() string {
	var b strings.Builder
	for i, p := range f.processes {
		if p.log != nil {
			fmt.Fprintf(&b, "process %d:\n%s\n", i, p.log)
		}
	}
	return b.String()
}

// A logBuffer keeps the end of what a process writes.
type logBuffer struct {
	changed chan struct{}

	mu    sync.Mutex
	b     []byte
	found string // the address that it listens on
	race  bool
}

const keptLog = 16 << 10

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	l.race = l.race || bytes.Contains(l.b, []byte("DATA RACE"))
	if l.found == "" {
		if _, rest, ok := bytes.Cut(l.b, []byte(" listen=")); ok {
			if address, _, ok := bytes.Cut(rest, []byte(" ")); ok {
				l.found = string(address)
			}
		}
	}
	if len(l.b) > 2*keptLog {
		l.b = append([]byte(nil), l.b[len(l.b)-keptLog:]...)
	}
	select {
	case l.changed <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (l *logBuffer) address() (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.found, l.found != ""
}

func (l *logBuffer) races() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.race {
		return fmt.Errorf("the race detector found something:\n%s", l.b)
	}
	return nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

// put writes a file that only this user can read.
func put(dir, name, content string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(content), 0o600)
}
