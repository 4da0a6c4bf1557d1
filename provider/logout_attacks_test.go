package provider_test

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

func TestAddressesThatNotificationsMayGoTo(t *testing.T) {
	t.Parallel()
	own := []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	everything := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	for _, x := range []struct {
		address  string
		allow    []netip.Prefix
		loopback bool
		want     bool
	}{
		{address: "8.8.8.8", want: true},
		{address: "2606:4700::1111", want: true},
		{address: "::ffff:8.8.8.8", want: true},
		{address: "0.0.0.0"}, {address: "0.1.2.3"}, {address: "::"},
		{address: "127.0.0.1"}, {address: "127.8.9.10"}, {address: "::1"},
		{address: "10.0.0.1"}, {address: "172.16.0.1"}, {address: "172.31.255.255"}, {address: "192.168.1.1"},
		{address: "172.32.0.1", want: true}, {address: "11.0.0.1", want: true},
		{address: "100.64.0.1"}, {address: "100.127.255.255"}, {address: "100.128.0.1", want: true},
		{address: "169.254.1.1"}, {address: "169.254.169.254"}, {address: "fe80::1"}, {address: "fe80::1%eth0"},
		{address: "fd00:ec2::254"}, {address: "fd12::1"}, {address: "fc00::1"}, {address: "fec0::1"},
		{address: "168.63.129.16"}, {address: "100.100.100.200"},
		{address: "192.0.0.192"}, {address: "192.0.2.1"}, {address: "198.51.100.1"}, {address: "203.0.113.1"}, {address: "198.18.0.1"},
		{address: "224.0.0.1"}, {address: "239.1.1.1"}, {address: "240.0.0.1"}, {address: "255.255.255.255"}, {address: "ff02::1"},
		{address: "::ffff:127.0.0.1"}, {address: "::ffff:169.254.169.254"}, {address: "::ffff:10.0.0.1"},
		{address: "::127.0.0.1"}, {address: "::ffff:0:127.0.0.1"},
		{address: "64:ff9b::7f00:1"}, {address: "64:ff9b::808:808"}, {address: "64:ff9b:1::1"},
		{address: "2002:7f00:1::"}, {address: "2001:0:1::1"}, {address: "2001:db8::1"}, {address: "3fff::1"}, {address: "100::1"},

		{address: "10.20.1.2", allow: own, want: true}, {address: "::ffff:10.20.1.2", allow: own, want: true},
		{address: "10.21.1.2", allow: own}, {address: "fd12::1", allow: own, want: true},
		{address: "fd00:ec2::254", allow: own}, {address: "127.0.0.1", allow: own},
		{address: "192.168.0.1", allow: everything, want: true},
		{address: "169.254.169.254", allow: everything}, {address: "::ffff:169.254.169.254", allow: everything},
		{address: "169.254.169.254", allow: []netip.Prefix{netip.MustParsePrefix("169.254.169.254/32")}, want: true},
		{address: "127.0.0.1", loopback: true, want: true}, {address: "::1", loopback: true, want: true},
		{address: "::ffff:127.0.0.1", loopback: true, want: true}, {address: "10.0.0.1", loopback: true},
	} {
		require.Equal(t, x.want, provider.AllowedAddress(netip.MustParseAddr(x.address), x.allow, x.loopback), "%+v", x)
	}
}

func TestLogoutConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	uris := func(context.Context, string) (provider.LogoutURIs, error) { return provider.LogoutURIs{}, nil }
	for want, l := range map[string]provider.Logout{
		"Logout.Timeout is negative":             {Timeout: -1},
		"Logout.Timeout is 1m0s, at most 20s":    {Timeout: time.Minute},
		"Logout.Tries is negative":               {Tries: -1},
		"Logout.FrontChannel needs Logout.URIs":  {FrontChannel: true},
		"Logout.Template: template":              {Template: template.Must(template.New("").Parse("{{.NoSuchThing}}"))},
		"Logout.Allow: range 1 is not set":       {URIs: uris, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), {}}},
		"use 10.0.0.0/8, or":                     {URIs: uris, Allow: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")}},
		"::ffff:10.0.0.0/104 must be written as": {URIs: uris, Allow: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}},
	} {
		_, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, Logout: l})
		require.ErrorIs(t, err, provider.ErrConfig)
		require.ErrorContains(t, err, want)
	}
}

// A sender is a hook whose one application has a URI, over real sockets.
type sender struct {
	*setup
	mu  sync.Mutex
	uri string
}

func (x *sender) set(uri string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.uri = uri
}

func startSender(t *testing.T, l provider.Logout) *sender {
	t.Helper()
	x := &sender{}
	l.URIs = func(context.Context, string) (provider.LogoutURIs, error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		return provider.LogoutURIs{BackChannel: x.uri}, nil
	}
	x.setup = start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
		p.Logout, o.InMemory = l, true
	})
	return x
}

// redeliver ends a session of the user's and returns why its application was not
// told at the address.
func (x *sender) redeliver(t *testing.T, uri string) error {
	t.Helper()
	x.set("")
	sid, _ := x.login(t, optest.Web, "alice")
	require.NoError(t, x.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, ""))
	x.set(uri)
	return x.hook.Redeliver(t.Context(), sid, optest.Web)
}

func TestLogoutURIsAreChecked(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"http://app.example.org/out":          "the URI is not https",
		"http://127.0.0.1/out":                "the URI is not https",
		"https:///out":                        "the URI is not absolute",
		"/out":                                "the URI is not absolute",
		"https:app.example.org":               "the URI is not absolute",
		"https://user:secret@app.example.org": "the URI has a user name",
		"https://app.example.org/#x":          "the URI has a fragment",
		"https://app.example.org/#":           "the URI has a fragment",
		"file:///etc/passwd":                  "the URI is not absolute",
		"gopher://app.example.org/":           "the URI is not https",
		"https://app.example.org:x/secret":    "the URI is not one",
	} {
		err := startSender(t, provider.Logout{}).redeliver(t, uri)
		require.ErrorContains(t, err, want, uri)
		require.NotContains(t, err.Error(), "secret", uri)
	}
	for _, uri := range []string{"http://app.example.org/out", "http://10.0.0.1/", "http://127.0.0.1.example.org/"} {
		require.ErrorContains(t, startSender(t, provider.Logout{Loopback: true}).redeliver(t, uri), "http: that is allowed on loopback only", uri)
	}
}

// An app is a TLS server at loopback addresses, known as example.com, that counts
// who connects.
type app struct {
	port  string
	roots *x509.CertPool
	mu    sync.Mutex
	hits  map[string]int // connections, by the address that was dialled
}

func startApp(t *testing.T, handler http.HandlerFunc, addresses ...string) *app {
	t.Helper()
	a := &app{hits: map[string]int{}, roots: x509.NewCertPool(), port: "0"}
	for _, address := range addresses {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, a.port))
		require.NoError(t, err)
		_, a.port, err = net.SplitHostPort(listener.Addr().String())
		require.NoError(t, err)
		s := httptest.NewUnstartedServer(handler)
		require.NoError(t, s.Listener.Close())
		s.Listener = &countingListener{listener, func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.hits[address]++
		}}
		s.StartTLS()
		t.Cleanup(s.Close)
		a.roots.AddCert(s.Certificate())
	}
	return a
}

func (a *app) seen() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := map[string]int{}
	for k, v := range a.hits {
		seen[k] = v
	}
	return seen
}

type countingListener struct {
	net.Listener
	accepted func()
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted()
	}
	return c, err
}

// names is a DNS server: the n-th lookup of an IPv4 address gets the n-th list of
// addresses, and later ones the last.
func names(lists ...[]string) *net.Resolver {
	var mu sync.Mutex
	asked := 0
	answer := func(query []byte) []byte {
		end := 12
		for query[end] != 0 {
			end += 1 + int(query[end])
		}
		end += 5
		var list []string
		if binary.BigEndian.Uint16(query[end-4:]) == 1 { // A
			mu.Lock()
			list = lists[min(asked, len(lists)-1)]
			asked++
			mu.Unlock()
		}
		out := append([]byte(nil), query[:2]...)
		out = append(out, 0x81, 0x80, 0, 1, 0, byte(len(list)), 0, 0, 0, 0)
		out = append(out, query[12:end]...)
		for _, address := range list {
			out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
			out = append(out, netip.MustParseAddr(address).AsSlice()...)
		}
		return out
	}
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			for {
				var size [2]byte
				if _, err := io.ReadFull(server, size[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(server, query); err != nil {
					return
				}
				out := answer(query)
				if _, err := server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
					return
				}
			}
		}()
		return client, nil
	}}
}

func TestNoNotificationGoesToAnAddressThatIsNotAllowed(t *testing.T) {
	t.Parallel()
	accept := func(http.ResponseWriter, *http.Request) {}
	only2 := []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}

	t.Run("a name that is private", func(t *testing.T) {
		a := startApp(t, accept, "127.0.0.1")
		x := startSender(t, provider.Logout{RootCAs: a.roots})
		x.hook.ResolveLogout(names([]string{"127.0.0.1"}))
		require.ErrorContains(t, x.redeliver(t, "https://example.com:"+a.port+"/out"), "example.com:"+a.port+": the address is not allowed")
		require.Empty(t, a.seen())

		y := startSender(t, provider.Logout{RootCAs: a.roots, Loopback: true})
		y.hook.ResolveLogout(names([]string{"127.0.0.1"}))
		require.NoError(t, y.redeliver(t, "https://example.com:"+a.port+"/out"), "the test can fail")
		require.Equal(t, map[string]int{"127.0.0.1": 1}, a.seen())
	})
	t.Run("two addresses, one of them private", func(t *testing.T) {
		a := startApp(t, accept, "127.0.0.1", "127.0.0.2")
		for range 4 {
			x := startSender(t, provider.Logout{RootCAs: a.roots, Allow: only2})
			x.hook.ResolveLogout(names([]string{"127.0.0.1", "127.0.0.2"}))
			require.NoError(t, x.redeliver(t, "https://example.com:"+a.port+"/out"))
		}
		require.Equal(t, map[string]int{"127.0.0.2": 4}, a.seen())
	})
	t.Run("a name that changes its mind", func(t *testing.T) {
		a := startApp(t, accept, "127.0.0.1", "127.0.0.2")
		x := startSender(t, provider.Logout{RootCAs: a.roots, Allow: only2})
		x.hook.ResolveLogout(names([]string{"127.0.0.2"}, []string{"127.0.0.1"}))
		require.NoError(t, x.redeliver(t, "https://example.com:"+a.port+"/out"))
		require.ErrorContains(t, x.redeliver(t, "https://example.com:"+a.port+"/out"), "the address is not allowed")
		require.Equal(t, map[string]int{"127.0.0.2": 1}, a.seen())
	})
	t.Run("literal", func(t *testing.T) {
		a := startApp(t, accept, "127.0.0.1")
		x := startSender(t, provider.Logout{RootCAs: a.roots})
		for _, host := range []string{"127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "localhost"} {
			require.ErrorContains(t, x.redeliver(t, "https://"+host+":"+a.port+"/out"), "the address is not allowed", host)
		}
		require.Empty(t, a.seen())
	})
	t.Run("http on a name for loopback that leads elsewhere", func(t *testing.T) {
		x := startSender(t, provider.Logout{Loopback: true, Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}})
		x.hook.ResolveLogout(names([]string{"192.0.2.1"}))
		require.Error(t, x.redeliver(t, "http://localhost:9/out")) // /etc/hosts may know it
		require.ErrorContains(t, x.redeliver(t, "http://app.localhost:9/out"), "the address is not allowed")
	})
	t.Run("a certificate that nobody vouches for", func(t *testing.T) {
		a := startApp(t, accept, "127.0.0.1")
		x := startSender(t, provider.Logout{Loopback: true})
		require.ErrorContains(t, x.redeliver(t, "https://127.0.0.1:"+a.port+"/out"), "its certificate is not good")
	})
}

func TestNoRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		var elsewhere atomic.Int32
		a := startApp(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/out" {
				elsewhere.Add(1)
				return
			}
			http.Redirect(w, r, "/latest/meta-data/", status)
		}, "127.0.0.1")
		x := startSender(t, provider.Logout{RootCAs: a.roots, Loopback: true})
		require.ErrorContains(t, x.redeliver(t, "https://127.0.0.1:"+a.port+"/out"), fmt.Sprintf("answered %d", status))
		require.Zero(t, elsewhere.Load())
	}
}

// Nothing that an application does costs more than a little time and memory.
func TestReceiversThatMisbehave(t *testing.T) {
	forever := func(write func(net.Conn, []byte) error, head string) func(net.Conn) {
		return func(c net.Conn) {
			for text := []byte(head); ; text = []byte(strings.Repeat("x", 1<<10)) {
				if write(c, text) != nil {
					return
				}
			}
		}
	}
	quickly := func(c net.Conn, b []byte) error { _, err := c.Write(b); return err }
	slowly := func(c net.Conn, b []byte) error {
		for i := range b {
			time.Sleep(time.Second)
			if _, err := c.Write(b[i : i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"
	for name, x := range map[string]struct {
		serve func(net.Conn)
		want  string // of the error; empty: it counts as taken
	}{
		"answers slowly":       {forever(slowly, ok), "it did not answer in time"},
		"never answers":        {func(net.Conn) {}, "it did not answer in time"},
		"has endless headers":  {forever(quickly, "HTTP/1.1 200 OK\r\nX: "), "its answer is not HTTP"},
		"says a lot":           {forever(quickly, ok), ""},
		"says it slowly":       {func(c net.Conn) { _, _ = c.Write([]byte(ok)); forever(slowly, "x")(c) }, ""},
		"speaks something new": {forever(quickly, "SSH-2.0-OpenSSH\r\n"), "its answer is not HTTP"},
		"hangs up":             {func(c net.Conn) { _ = c.Close() }, webHost},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // until x.serve has noticed
				n := startNotified(t, policy.Account{}, nil)
				n.hook.DialLogout(func(context.Context, string, string) (net.Conn, error) {
					client, server := net.Pipe()
					go func() {
						// Who answers before it was asked has hung up, to a client.
						if _, err := server.Read(make([]byte, 1)); err == nil {
							go x.serve(server)
						}
						_, _ = io.Copy(io.Discard, server)
					}()
					return client, nil
				})
				sid, _ := n.login(t, optest.Web, "alice")
				began := time.Now()
				require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, ""))
				require.Zero(t, time.Since(began), "who ends a session does not wait")
				time.Sleep(5*time.Second + time.Millisecond)
				synctest.Wait()
				if x.want == "" {
					require.Len(t, n.seen(provider.EventDelivered), 1)
					return
				}
				failed := n.seen(provider.EventDeliveryFailed)
				require.Len(t, failed, 1)
				require.ErrorContains(t, failed[0].Err, x.want)
			})
		})
	}
}

// A server that connects and then says nothing keeps no connection.
func TestATLSServerThatNeverSpeaks(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	over := make(chan error, 1)
	go func() {
		c, err := listener.Accept()
		if err == nil {
			_, err = io.Copy(io.Discard, c) // until the other side hangs up
		}
		over <- err
	}()
	x := startSender(t, provider.Logout{Loopback: true, Timeout: 100 * time.Millisecond})
	require.ErrorContains(t, x.redeliver(t, "https://"+listener.Addr().String()+"/out"), "did not answer in time")
	require.NoError(t, <-over)
}

// proxyEnv makes TestNoProxyOfTheEnvironment run in a process of its own: Go reads
// the variables once.
const proxyEnv = "CURFEW_TEST_PROXY"

func TestNoProxyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	if os.Getenv(proxyEnv) == "" {
		var proxied atomic.Int32
		proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Add(1) }))
		defer proxy.Close()
		child := exec.Command(os.Args[0], "-test.run=^TestNoProxyOfTheEnvironment$", "-test.v")
		child.Env = append(os.Environ(), proxyEnv+"=1", "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "NO_PROXY=")
		out, err := child.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestNoProxyOfTheEnvironment")
		require.Zero(t, proxied.Load())
		return
	}
	req, err := http.NewRequest(http.MethodPost, "https://example.com/", nil)
	require.NoError(t, err)
	through, err := http.ProxyFromEnvironment(req)
	require.NoError(t, err)
	require.NotNil(t, through, "the environment names a proxy")
	a := startApp(t, func(http.ResponseWriter, *http.Request) {}, "127.0.0.1")
	x := startSender(t, provider.Logout{RootCAs: a.roots, Loopback: true})
	x.hook.ResolveLogout(names([]string{"127.0.0.1"}))
	require.NoError(t, x.redeliver(t, "https://example.com:"+a.port+"/out"))
}

// crowd gives a user n sessions with one application.
func (s *setup) crowd(t *testing.T, user string, n int) {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond)
	for i := range n {
		require.NoError(t, s.store.Create(t.Context(), store.Session{
			Format: store.Format, ID: fmt.Sprintf("%s.%s-%d", store.Bucket(s.subject(user)), user, i), Subject: s.subject(user),
			Accounts: []string{"default"}, Kind: policy.Browser, Client: optest.Web,
			Started: now, Authenticated: now, LastActivity: now,
			Grants: []store.Grant{{ID: "g", Client: optest.Web, Authenticated: now, Rotated: now}},
		}, 2000))
	}
}

// A thousand sessions that end at once are told a few at a time.
func TestAThousandEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNotified(t, policy.Account{}, nil)
		var atOnce, most, took atomic.Int32
		n.web.Before(func(*http.Request) {
			now := atOnce.Add(1)
			for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
			time.Sleep(20 * time.Millisecond)
			atOnce.Add(-1)
			took.Add(1)
		})
		n.crowd(t, "alice", 1000)
		before := runtime.NumGoroutine()
		ended, err := n.hook.EndAll(t.Context(), n.subject("alice"), policy.ReasonAccountDisabled, "root")
		require.NoError(t, err)
		require.Equal(t, 1000, ended)
		require.Less(t, runtime.NumGoroutine()-before, 100)
		n.sweepFor(t, time.Minute)
		require.Equal(t, int32(8), most.Load(), "as many at once as one host is sent")
		sids := map[string]bool{}
		for _, token := range n.web.Got() {
			sids[token.SessionID] = true
		}
		require.Len(t, sids, 1000)
		require.Len(t, n.web.Got(), 1000, "each once")
	})
}

// An application that hangs holds up neither the others nor the sweep, however
// many of its sessions end.
func TestAReceiverThatHangsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // until who hangs gives up
		n := startNotified(t, limits(0, time.Hour, 0, policy.Refuse), nil)
		var mended atomic.Bool
		n.hook.DialLogout(func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == webHost && !mended.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return n.dial(ctx, network, address)
		})
		n.crowd(t, "alice", 500)
		sid, _ := n.login(t, optest.Web2, "bob")
		time.Sleep(time.Hour)
		began := time.Now()
		require.NoError(t, n.hook.Sweep(t.Context()))
		require.Zero(t, time.Since(began))
		require.Empty(t, n.live(t, "alice"))
		synctest.Wait()
		n.web2.Once(sid)
		require.Len(t, n.seen(provider.EventDelivered), 1)
		n.sweepFor(t, 10*time.Minute)
		require.NotEmpty(t, n.seen(provider.EventDeliveryFailed))

		// Neither is anything lost.
		mended.Store(true)
		n.sweepFor(t, 2*time.Hour)
		require.Len(t, n.web.Got(), 500)
	})
}

// What one hook owes is not lost when its signing key or its store is away.
func TestNothingIsLostWhenPartsAreAway(t *testing.T) {
	t.Parallel()
	t.Run("signing key", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var away atomic.Bool
			n := startNotified(t, policy.Account{}, func(_ *provider.Config, o *optest.Config) {
				o.Wrap = func(s *optest.Storage) op.Storage { return keyless{s, &away} }
			})
			sid, _ := n.login(t, optest.Web, "alice")
			away.Store(true)
			require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, ""))
			synctest.Wait()
			require.Contains(t, n.kept(t, sid).Deliveries[0].Error, "signing key")
			require.Zero(t, n.web.Tries())
			away.Store(false)
			n.sweepFor(t, time.Minute)
			n.web.Once(sid)
		})
	})
	t.Run("URIs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var away atomic.Bool
			n := startNotified(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) {
				uris := p.Logout.URIs
				p.Logout.URIs = func(ctx context.Context, client string) (provider.LogoutURIs, error) {
					if away.Load() {
						return provider.LogoutURIs{}, errors.New("out of order")
					}
					return uris(ctx, client)
				}
			})
			sid, _ := n.login(t, optest.Web, "alice")
			away.Store(true)
			require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, ""))
			synctest.Wait()
			require.Contains(t, n.kept(t, sid).Deliveries[0].Error, "out of order")
			away.Store(false)
			n.sweepFor(t, time.Minute)
			n.web.Once(sid)
		})
	})
	t.Run("store, between sending and noting it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			faulty := faultstore.New(memstore.New())
			n := startNotified(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) { p.Store = faulty })
			sid, _ := n.login(t, optest.Web, "alice")
			n.web.Before(func(*http.Request) {
				faulty.Script(func(faultstore.Call) faultstore.Fault { return faultstore.Before })
			})
			require.NoError(t, n.hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, ""))
			synctest.Wait()
			n.web.Before(nil)
			faulty.Script(nil)
			require.Len(t, n.web.Got(), 1)
			require.Empty(t, n.seen(provider.EventDelivered))
			require.NotEmpty(t, n.seen(provider.EventUnavailable))
			n.sweepFor(t, time.Minute)
			got := n.web.Got()
			require.Len(t, got, 2, "at least once")
			require.NotEqual(t, got[0].TokenID, got[1].TokenID)
			require.Empty(t, n.kept(t, sid).Deliveries)
		})
	})
}

type keyless struct {
	*optest.Storage
	away *atomic.Bool
}

func (s keyless) SigningKey(ctx context.Context) (op.SigningKey, error) {
	if s.away.Load() {
		return nil, errors.New("the vault is sealed")
	}
	return s.Storage.SigningKey(ctx)
}

// A URI that is gone from the configuration is not used any more, and one that
// has changed is.
func TestURIsAreThoseOfTheMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var uri atomic.Value
		uri.Store("http://" + webHost + "/backchannel")
		n := startNotified(t, policy.Account{}, func(p *provider.Config, _ *optest.Config) {
			p.Logout.URIs = func(context.Context, string) (provider.LogoutURIs, error) {
				return provider.LogoutURIs{BackChannel: uri.Load().(string)}, nil
			}
		})
		n.web.Set(http.StatusOK, true)
		first, _ := n.login(t, optest.Web, "alice")
		second, _ := n.login(t, optest.Web2, "alice")
		require.NoError(t, n.hook.End(t.Context(), first, policy.ReasonEndedByAdmin, ""))
		require.NoError(t, n.hook.End(t.Context(), second, policy.ReasonEndedByAdmin, ""))
		synctest.Wait()
		require.Len(t, n.kept(t, first).Deliveries, 1)
		uri.Store("")
		n.sweepFor(t, time.Minute)
		require.Empty(t, n.kept(t, first).Deliveries)
		require.Equal(t, 2, n.web.Tries())
	})
}
