// Package optest starts a real OpenID Provider for tests, over HTTP, with the
// library's own example storage.
//
//	s := optest.Start(t, optest.Config{Hook: hook})
//	b := s.Browser()
//	visit := b.Login(optest.Web, "alice", nil)
//	tokens := s.Code(optest.Web, visit)
//
// With Config.InMemory there is no socket, so that it works inside a
// testing/synctest bubble, where everyone's clock moves.
package optest

import (
	"context"
	"crypto/sha256"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// A Hook is what *provider.Hook does to a provider.
type Hook interface {
	Storage(op.Storage) op.Storage
	Handler(http.Handler) http.Handler
}

// An Embedding is a way to embed op.
type Embedding int

const (
	AsProvider     Embedding = iota // op.NewProvider
	AsLegacyServer                  // op.RegisterLegacyServer(op.NewLegacyServer)
	AsServer                        // op.RegisterServer
)

// Embeddings are all of them, by name.
var Embeddings = map[string]Embedding{
	"Provider":     AsProvider,
	"LegacyServer": AsLegacyServer,
	"Server":       AsServer,
}

// Config configures [Start]. The zero Config is bare op on a loopback port.
type Config struct {
	// Storage is the provider's storage. Nil: a new one.
	Storage *Storage

	// Wrap changes the storage before the hook sees it: see [NonRotating],
	// [Bare], [Intercepted]. Nil: it is taken as it is.
	Wrap func(*Storage) op.Storage

	// Hook decorates the storage and the handler. Nil: bare op.
	Hook Hook

	Embedding Embedding

	// InMemory connects by net.Pipe instead of a loopback socket.
	InMemory bool

	// OwnResponse replaces op's callback by one that builds the authorization
	// response itself.
	OwnResponse bool

	// AnnounceLogout makes op itself announce back-channel logout.
	AnnounceLogout bool

	// NoRequestObjects makes op refuse request objects.
	NoRequestObjects bool

	// Options are more options for op.NewProvider.
	Options []op.Option

	// Inside wraps the provider's handler inside of the hook: what an embedder
	// mounts beside it. Nil: none.
	Inside func(p *op.Provider, next http.Handler) http.Handler

	// Middleware wraps the handler outside of the hook. Nil: none.
	Middleware func(http.Handler) http.Handler
}

// A Server is a running provider.
type Server struct {
	Issuer  string
	Storage *Storage
	HTTP    *http.Client // follows no redirect and keeps no cookie

	Provider *op.Provider

	t    testing.TB
	dial func(ctx context.Context, from string) (net.Conn, error)
}

// Start starts a provider that stops with the test.
func Start(t testing.TB, cfg Config) *Server {
	t.Helper()
	s := &Server{t: t, Storage: cfg.Storage}
	if s.Storage == nil {
		s.Storage = NewStorage()
	}
	var listener net.Listener
	if cfg.InMemory {
		pipes := newPipeListener()
		listener, s.dial = pipes, pipes.dial
		s.Issuer = "http://127.0.0.1:9998"
	} else {
		var err error
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addr := listener.Addr().String()
		s.Issuer = "http://" + addr
		s.dial = func(ctx context.Context, from string) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	s.HTTP = s.ClientFrom("127.0.0.1")

	var handler http.Handler
	s.Provider, handler = s.Process(cfg)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // always http.ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return s
}

// ClientFrom returns a client whose requests come from the given IP address:
// of 127.0.0.0/8, or any if the server is in memory. It follows no redirect
// and keeps no cookie.
func (s *Server) ClientFrom(address string) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return s.dial(ctx, address)
		},
		MaxIdleConnsPerHost: 64,
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Process puts the provider together as an embedder would. Called by a test it is
// another process of the same issuer, with the same storage.
func (s *Server) Process(cfg Config) (*op.Provider, http.Handler) {
	t := s.t
	var storage op.Storage = s.Storage
	if cfg.Wrap != nil {
		storage = cfg.Wrap(s.Storage)
	}
	if cfg.Hook != nil {
		storage = cfg.Hook.Storage(storage)
	}
	provider, err := op.NewProvider(&op.Config{
		CryptoKey:                  sha256.Sum256([]byte("optest")),
		CryptoKeyId:                "optest",
		DefaultLogoutRedirectURI:   "/signed-out",
		CodeMethodS256:             true,
		AuthMethodPost:             true,
		AuthMethodPrivateKeyJWT:    true,
		GrantTypeRefreshToken:      true,
		RequestObjectSupported:     !cfg.NoRequestObjects,
		BackChannelLogoutSupported: cfg.AnnounceLogout, BackChannelLogoutSessionSupported: cfg.AnnounceLogout,
		DeviceAuthorization: op.DeviceAuthorizationConfig{
			Lifetime:     5 * time.Minute,
			PollInterval: time.Second,
			UserFormPath: "/device",
			UserCode:     op.UserCodeBase20,
		},
	}, storage, op.StaticIssuer(s.Issuer), append([]op.Option{op.WithAllowInsecure()}, cfg.Options...)...)
	require.NoError(t, err)

	var handler http.Handler = provider
	switch cfg.Embedding {
	case AsLegacyServer:
		handler = op.RegisterLegacyServer(op.NewLegacyServer(provider, provider.Endpoints()), op.AuthorizeCallbackHandler(provider))
	case AsServer:
		handler = registerServer(provider)
	}

	mux := http.NewServeMux()
	pages := &pages{storage: s.Storage, provider: provider, issuer: s.Issuer}
	pages.register(mux)
	mux.Handle("/", pages.endSSO(handler))
	if cfg.OwnResponse {
		mux.Handle(provider.Endpoints().Authorization.Relative()+"/callback", ownResponse(provider, s.Storage))
	}
	handler = mux
	if cfg.Inside != nil {
		handler = cfg.Inside(provider, handler)
	}
	if cfg.Hook != nil {
		handler = cfg.Hook.Handler(handler)
	}
	if cfg.Middleware != nil {
		handler = cfg.Middleware(handler)
	}
	return provider, handler
}

// registerServer embeds op as op.RegisterServer alone does it: its caller
// provides for the issuer and the callback.
func registerServer(provider *op.Provider) http.Handler {
	endpoints := provider.Endpoints()
	interceptor := op.NewIssuerInterceptor(provider.IssuerFromRequest)
	mux := http.NewServeMux()
	mux.Handle("/", op.RegisterServer(op.NewLegacyServer(provider, endpoints), endpoints,
		op.WithHTTPMiddleware(interceptor.Handler)))
	mux.Handle(endpoints.Authorization.Relative()+"/callback",
		interceptor.HandlerFunc(op.AuthorizeCallbackHandler(provider)))
	return mux
}

// A pipeListener listens on connections in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9998} }

func (l *pipeListener) dial(ctx context.Context, from string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- pipeConn{Conn: server, from: from}:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A pipeConn is a pipe whose other end has an address.
type pipeConn struct {
	net.Conn
	from string
}

func (c pipeConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(c.from), Port: 50000} }
