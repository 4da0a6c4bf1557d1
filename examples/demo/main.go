// Demo starts the example provider and the example application together, and ends
// both on Ctrl-C. Its flags are those of examples/op; the application takes its own
// from the environment, such as CURFEW_RP_LISTEN. make run starts it; elsewhere than in
// the module of the examples CURFEW_EXAMPLES says where that is.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	os.Exit(code)
}

// run builds both programs and runs them until the context ends, or one of them
// does.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int, err error) {
	dir, err := os.MkdirTemp("", "curfew-demo-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	const module = "github.com/curfew-oidc/curfew/examples/"
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+string(filepath.Separator), module+"op", module+"rp")
	build.Dir = os.Getenv("CURFEW_EXAMPLES") // where the module of the examples is; empty: this program runs in it
	build.Stdout, build.Stderr = stderr, stderr
	if err := build.Run(); err != nil {
		return 1, fmt.Errorf("go build: %w", err)
	}

	provider, said, err := start(filepath.Join(dir, "op"), args, stdout, stderr, "The OpenID provider ")
	if err != nil {
		return 1, err
	}
	defer provider.end()
	issuer := ""
	select {
	case issuer = <-said:
	case <-provider.done: // it was only asked something, or it cannot start: it has said why
		return provider.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, nil
	}
	application, _, err := start(filepath.Join(dir, "rp"), []string{"-issuer", issuer}, stdout, stderr, "")
	if err != nil {
		return 1, err
	}
	defer application.end()
	select {
	case <-ctx.Done():
		return 0, nil
	case <-provider.done:
	case <-application.done:
	}
	if ctx.Err() != nil { // Ctrl-C reaches everybody in the terminal
		return 0, nil
	}
	return 1, errors.New("one of the two has ended, so the other one ends too")
}

// A program is one that runs.
type program struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// start starts a program. said gets the word behind the given text, once the
// program prints it.
func start(path string, args []string, stdout, stderr io.Writer, text string) (*program, <-chan string, error) {
	p := &program{cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stderr = stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, nil, err
	}
	said := make(chan string, 1)
	go func() {
		defer close(p.done)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			_, _ = io.WriteString(stdout, line) // nobody may be there to read it
			if _, rest, ok := strings.Cut(line, text); ok && text != "" && len(said) == 0 {
				word, _, _ := strings.Cut(rest, " ")
				said <- word
			}
			if err != nil {
				break
			}
		}
		_ = p.cmd.Wait() // how it ended is in ProcessState
	}()
	return p, said, nil
}

// end ends a program, in order if it can.
func (p *program) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(20 * time.Second): // longer than both wait for their requests
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}
