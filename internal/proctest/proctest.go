// Package proctest runs the programs of this project in tests, and reads what they
// say while they run.
package proctest

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An Output is written by a program and read by a test. The zero Output is ready.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements [io.Writer].
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is what was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Eventually polls until a condition holds, for two minutes: machines are busy.
func Eventually(t testing.TB, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "it did not happen in time")
	}
}

// A Program runs in the process of the test.
type Program struct {
	Stdout, Stderr *Output

	// End ends it, once, and returns what it returned.
	End func() error
}

// Start runs a program and waits until it is ready. It ends with the test, which
// fails if it returns an error, or before it was ready.
func Start(t testing.TB, run func(ctx context.Context, stdout, stderr io.Writer) error, ready func(p *Program) bool) *Program {
	t.Helper()
	p := &Program{Stdout: &Output{}, Stderr: &Output{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var result error
	go func() {
		defer close(done)
		result = run(ctx, p.Stdout, p.Stderr)
	}()
	p.End = func() error {
		cancel()
		<-done
		return result
	}
	t.Cleanup(func() { require.NoError(t, p.End(), p.Stderr) })
	Eventually(t, func() bool {
		select {
		case <-done:
			require.Fail(t, "it ended before it was ready", "%v\n%s%s", result, p.Stdout, p.Stderr)
		default:
		}
		return ready(p)
	})
	return p
}
