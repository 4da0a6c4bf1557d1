package optest

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"
)

// A Dial connects to an HTTP server.
type Dial func(ctx context.Context) (net.Conn, error)

// Serve serves a handler in memory, as [Config.InMemory] does, until the test
// ends: for the other side of a provider in a testing/synctest bubble.
func Serve(t testing.TB, handler http.Handler) Dial {
	t.Helper()
	pipes := newPipeListener()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(pipes) // always http.ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return func(ctx context.Context) (net.Conn, error) { return pipes.dial(ctx, "127.0.0.1") }
}

// Dial connects to the provider.
func (s *Server) Dial(ctx context.Context) (net.Conn, error) { return s.dial(ctx, "127.0.0.1") }
