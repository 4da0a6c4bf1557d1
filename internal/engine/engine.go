// Package engine runs private database servers, for tests and benchmarks.
//
// A server is started from the binaries that are installed, on a free port of the
// loopback interface, with its data in a directory of its own. When this process
// is root's the server runs as the user "nobody". It ends when it is closed, and
// at the latest with this process, however that ends; its directory is then left
// behind, and removed by the next process that starts a server here.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long a server may take to start or to stop. It is generous:
// machines that run tests are busy.
const patience = 2 * time.Minute

// find returns the path of a program, looked for in PATH and in further
// directories, which may be patterns of which the last match counts. The
// package is Debian's name of what to install.
func find(program, debianPackage string, dirs ...string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		// A link may lead to a directory with its companions.
		return filepath.EvalSymlinks(path)
	}
	for _, dir := range dirs {
		matches, err := filepath.Glob(filepath.Join(dir, program))
		if err != nil {
			return "", err
		}
		if len(matches) > 0 {
			return matches[len(matches)-1], nil
		}
	}
	return "", fmt.Errorf("the program %s is missing: as root, run apt-get install %s", program, debianPackage)
}

// unprivileged returns who the servers run as: nil if this process need not
// become somebody else.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

const dirPrefix = "curfew-engine-"

// newDir returns a new directory that belongs to who the servers run as.
func newDir(as *syscall.Credential) (string, error) {
	removeLeftBehind()
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err == nil && as != nil {
		err = os.Chown(dir, int(as.Uid), int(as.Gid))
	}
	return dir, err
}

// removeLeftBehind removes the directories of processes that are no more. What
// cannot be removed, such as another user's, stays.
func removeLeftBehind() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		n, err := strconv.Atoi(pid)
		if err == nil && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir)
		}
	}
}

// freePort returns a port of the loopback interface that nobody listens on. It is
// not one of those that the system gives to outgoing connections, so that it is
// still free when the server starts again. Its number plus 10,000 is a port, too.
func freePort() (int, error) {
	var last error
	for range 100 {
		port := 12000 + mathrand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, l.Close()
		}
		last = err
	}
	return 0, last
}

// newPassword returns a password.
func newPassword() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// starter runs functions on one thread that lives as long as the process: a
// parent-death signal is sent when the thread that started the child is no more.
var starter = sync.OnceValue(func() chan<- func() {
	calls := make(chan func())
	go func() {
		runtime.LockOSThread()
		for call := range calls {
			call()
		}
	}()
	return calls
})

// A server is one process that can be stopped and started again.
type server struct {
	args   []string // the program first
	env    []string // added to this process's
	dir    string   // its working directory; "log" in it is what it prints
	as     *syscall.Credential
	onExit syscall.Signal // sent to it when this process ends
	// ready returns nil when the server answers.
	ready func(ctx context.Context) error

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd is no more
}

// run runs a program to its end, as the server's user.
func run(as *syscall.Credential, dir string, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(args[0]), err, out)
	}
	return nil
}

// start starts the server and waits until it is ready. A server that runs is
// left as it is.
func (s *server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		return nil
	}
	// What outlived the one before would not let it start.
	if err := s.killAll(); err != nil {
		return err
	}
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.Env = append(os.Environ(), s.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Pdeathsig: s.onExit, Setpgid: true}
	started := make(chan error)
	starter() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	if err := s.await(); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w; it says:\n%s", filepath.Base(s.args[0]), err, s.lastWords()), s.killAll())
	}
	return nil
}

// await waits until the server answers.
func (s *server) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := s.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("it has exited: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *server) log() string { return filepath.Join(s.dir, "log") }

// lastWords returns the end of what the server printed.
func (s *server) lastWords() string {
	b, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

func (s *server) running() bool {
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// stop sends the server a signal and waits until it is gone. One that does not
// run is stopped already.
func (s *server) stop(signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return s.killAll()
	}
	if err := s.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
		return s.killAll()
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("%s did not stop and was killed; it says:\n%s", filepath.Base(s.args[0]), s.lastWords()), s.killAll())
	}
}

// kill kills the server and its children (SIGKILL) and waits until they are
// gone: none of them does anything more.
func (s *server) kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.killAll()
}

// killAll kills the server, if it runs, and then what it has left behind: with it
// dead there is nobody who could start more. Children that outlive their parent
// would keep the server from starting again, and write into what is removed.
func (s *server) killAll() error {
	if s.running() {
		_ = syscall.Kill(s.cmd.Process.Pid, syscall.SIGKILL)
		<-s.exited
	}
	deadline := time.Now().Add(patience)
	for {
		left := processesIn(s.dir)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: the processes %v do not die", filepath.Base(s.args[0]), left)
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
}

// processesIn returns the IDs of the processes that work in a directory or below:
// a server does, with its children. Whose parent died is another's child by now.
func processesIn(dir string) (pids []int) {
	if !strings.HasPrefix(filepath.Base(dir), dirPrefix) { // none of ours: all processes work below "/"
		return nil
	}
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		at, err := os.Readlink(link)
		if err != nil { // it is no more, or another user's
			continue
		}
		at = strings.TrimSuffix(at, " (deleted)")
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err == nil && (at == dir || strings.HasPrefix(at, dir+"/")) && !gone(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// gone reports whether a process does not run any more; one that nobody has
// waited for does not.
func gone(pid int) bool {
	fields := stat(pid)
	return len(fields) == 0 || fields[0] == "Z"
}

// stat returns what /proc says of a process from its state on, the parent being
// next; nothing if there is no such process.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	// The name, in brackets, may hold anything.
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
}
