package optest

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
)

// A Receiver is the back-channel logout endpoint of an application, which
// verifies what it gets with the library that applications in Go use.
type Receiver struct {
	URI string

	t      testing.TB
	server *Server
	client string
	dial   func(ctx context.Context, from string) (net.Conn, error)

	mu     sync.Mutex
	down   bool
	status int
	before func(*http.Request)
	got    []*oidc.LogoutToken
	raw    []string
	tries  int
}

// Receive starts the endpoint of a client, in memory, until the test ends. Its URI
// has the given host, which resolves nowhere: see [Receiver.Dial].
func (s *Server) Receive(client, host string) *Receiver {
	pipes := newPipeListener()
	r := &Receiver{URI: "http://" + host + "/backchannel", t: s.t, server: s, client: client, dial: pipes.dial, status: http.StatusOK}
	server := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(pipes) // always http.ErrServerClosed
	}()
	s.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return r
}

// Dial connects to it. While it is down it refuses.
func (r *Receiver) Dial(ctx context.Context) (net.Conn, error) {
	r.mu.Lock()
	down := r.down
	if down {
		r.tries++
	}
	r.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: net.ErrClosed}
	}
	return r.dial(ctx, "127.0.0.1")
}

// ServeHTTP takes a logout token as Back-Channel Logout 1.0 section 2.8 says.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	status, before := r.status, r.before
	r.tries++
	r.mu.Unlock()
	if before != nil {
		before(req)
	}
	w.Header().Set("Cache-Control", "no-store")
	raw := req.PostFormValue("logout_token")
	if req.Method != http.MethodPost || raw == "" || len(req.URL.Query()) > 0 {
		http.Error(w, "not a logout request", http.StatusTeapot)
		return
	}
	ctx := oidc.ClientContext(context.Background(), r.server.HTTP)
	p, err := oidc.NewProvider(ctx, r.server.Issuer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	token, err := p.Verifier(&oidc.Config{ClientID: r.client, Now: time.Now}).VerifyLogout(ctx, raw)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raw = append(r.raw, raw)
	if status == http.StatusOK || status == http.StatusNoContent {
		r.got = append(r.got, token)
	}
	w.WriteHeader(status)
}

// Set says how it answers, and whether it can be reached at all.
func (r *Receiver) Set(status int, down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status, r.down = status, down
}

// Before is called with each request before it is answered.
func (r *Receiver) Before(f func(*http.Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = f
}

// Got are the tokens that it took, Raw all that it could verify, and Tries how
// often it was tried.
func (r *Receiver) Got() []*oidc.LogoutToken {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *Receiver) Raw() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.raw)
}

func (r *Receiver) Tries() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tries
}

// Once requires that it took one token, of a session, and returns it.
func (r *Receiver) Once(sid string) *oidc.LogoutToken {
	r.t.Helper()
	got := r.Got()
	require.Len(r.t, got, 1)
	require.Equal(r.t, sid, got[0].SessionID)
	return got[0]
}
