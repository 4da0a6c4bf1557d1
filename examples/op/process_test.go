package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/internal/proctest"
)

// restart ends a server and starts it again where it was, as the address is part
// of the issuer.
func restart(s *server, args []string) *server {
	s.t.Helper()
	require.NoError(s.t, s.end())
	return start(s.t, append(args, "-listen", strings.TrimPrefix(s.issuer, "http://"))...)
}

// Whatever the moment, a restart loses nothing: before the password, before the
// callback, before the code is redeemed, between refreshes, in a device grant.
func TestRestart(t *testing.T) {
	for name, newStore := range sharedStores {
		t.Run(name, func(t *testing.T) {
			_, args := folder(t)
			testRestart(t, append(args, "-store", newStore(t)))
		})
	}
}

func testRestart(t *testing.T, args []string) {
	s := start(t, args...)
	for _, client := range []string{"web", "spa"} {
		a := s.app(client)
		b := newBrowser(t)
		p := b.get(a.url())
		s = restart(s, args)
		p = b.signIn(p, "alice", alicePassword)
		code := p.params.Get("code")
		require.NotEmpty(t, code, p.body)
		s = restart(s, args)
		token, err := a.redeem(t, code)
		require.NoError(t, err)
		sid := a.claims(t, token)["sid"]
		for range 3 {
			s = restart(s, args)
			require.Equal(t, http.StatusOK, s.userinfo(token.AccessToken).status)
			require.Contains(t, b.get(s.issuer+"/").body, "You are signed in as alice")
			before := token
			token, err = a.refresh(t, token)
			require.NoError(t, err)
			require.Equal(t, sid, a.claims(t, token)["sid"])
			s = restart(s, args)
			again, err := a.refresh(t, before)
			require.NoError(t, err)
			require.Equal(t, token.RefreshToken, again.RefreshToken, "the same answer, in the grace")
		}
	}

	// Between the password and the callback.
	a := s.app("web")
	b := newBrowser(t)
	p := b.get(a.url())
	req, err := http.NewRequest(http.MethodPost, s.issuer+"/login", strings.NewReader(url.Values{
		"id": {p.url.Query().Get("id")}, "username": {"bob"}, "password": {"builder-2"},
	}.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	p = b.once(req)
	require.Equal(t, http.StatusSeeOther, p.status)
	s = restart(s, args)
	require.NotEmpty(t, b.get(p.header.Get("Location")).params.Get("code"))

	device := s.api("/device_authorization", "cli", "", url.Values{"scope": {"openid profile offline_access"}})
	code := device.json["device_code"].(string)
	s = restart(s, args)
	p = b.submit(b.get(device.json["verification_uri_complete"].(string)), nil)
	s = restart(s, args)
	p = b.signIn(p, "alice", alicePassword)
	s = restart(s, args)
	p = b.submit(p, nil)
	require.Contains(t, p.body, "Your device is connected")
	s = restart(s, args)
	require.Equal(t, http.StatusOK, s.poll(code).status)
}

// sharedStores are the stores that several processes can share: for each, what
// -store says for a new one.
var sharedStores = map[string]func(t *testing.T) string{
	"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "op.db") },
	"postgres": func(t *testing.T) string { return enginetest.PostgresURL(t) },
	"redis":    func(t *testing.T) string { return enginetest.Redis(t).URL() },
	"sentinel": func(t *testing.T) string { return enginetest.RedisSentinel(t).URL() },
	"cluster":  func(t *testing.T) string { return enginetest.RedisCluster(t).URL() },
}

// passwordOf returns the password in a store's URL; empty if it has none.
func passwordOf(t *testing.T, spec string) string {
	t.Helper()
	if strings.HasPrefix(spec, "sqlite:") {
		return ""
	}
	parts, err := splitURL(spec)
	require.NoError(t, err)
	require.NotEmpty(t, parts.password)
	return parts.password
}

const balancer = "http://localhost:9998"

// startFleet starts processes that are one provider, with one issuer: the
// address of a balancer that there is not. Each of them is asked at its own.
func startFleet(t *testing.T, n int, args ...string) (fleet []*process) {
	t.Helper()
	for range n {
		p := startProcess(t, append(args, "-issuer", balancer)...)
		proctest.Eventually(t, func() bool {
			_, rest, _ := strings.Cut(p.stderr.String(), " listen=")
			address, _, ok := strings.Cut(rest, " ")
			p.issuer = "http://" + address
			return ok
		})
		fleet = append(fleet, p)
	}
	return fleet
}

// balanced returns a browser each of whose requests goes to the next process.
func balanced(t *testing.T, fleet []*process, turn *atomic.Int64) *browser {
	b := newBrowser(t)
	b.client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if "http://"+r.URL.Host == balancer {
			r = r.Clone(r.Context())
			r.URL.Host = strings.TrimPrefix(fleet[turn.Add(1)%int64(len(fleet))].issuer, "http://")
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	return b
}

// Processes share a store: each step of a login and of its life is made at
// another one.
func TestSeveralInstances(t *testing.T) {
	for name, newStore := range sharedStores {
		t.Run(name, func(t *testing.T) {
			_, args := folder(t)
			spec := newStore(t)
			fleet := startFleet(t, 3, append(args, "-store", spec)...)
			var turn atomic.Int64
			b := balanced(t, fleet, &turn)
			verifier := oauth2.GenerateVerifier()
			config := oauth2.Config{ClientID: "web", RedirectURL: redirectURI, Scopes: scopes, Endpoint: oauth2.Endpoint{AuthURL: balancer + "/authorize"}}
			address := config.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier))
			p := b.signIn(b.get(address), "alice", alicePassword)
			require.NotEmpty(t, p.params.Get("code"), "%d %s", p.status, p.body)
			require.GreaterOrEqual(t, turn.Load(), int64(4))
			r := fleet[turn.Add(1)%3].api("/oauth/token", "web", webSecret, url.Values{
				"grant_type": {"authorization_code"}, "code": {p.params.Get("code")}, "redirect_uri": {redirectURI}, "code_verifier": {verifier},
			})
			require.Equal(t, http.StatusOK, r.status, r.body)
			for range 6 {
				s := fleet[turn.Add(1)%3]
				require.Equal(t, http.StatusOK, s.userinfo(r.json["access_token"].(string)).status)
				s = fleet[turn.Add(1)%3]
				r = s.api("/oauth/token", "web", webSecret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {r.json["refresh_token"].(string)}})
				require.Equal(t, http.StatusOK, r.status, r.body)
			}

			// A device shows a code of one process, and asks another one.
			device := fleet[0].api("/device_authorization", "cli", "", url.Values{"scope": {"openid profile offline_access"}})
			require.Equal(t, http.StatusOK, device.status, device.body)
			code := device.json["device_code"].(string)
			require.Equal(t, "authorization_pending", fleet[1].poll(code).json["error"])
			p = b.submit(b.signIn(b.submit(b.get(device.json["verification_uri_complete"].(string)), nil), "alice", alicePassword), nil)
			require.Contains(t, p.body, "Your device is connected")
			d := fleet[2].poll(code)
			require.Equal(t, http.StatusOK, d.status, d.body)
			require.Equal(t, http.StatusOK, fleet[0].introspect(d.json["access_token"].(string)).status)

			// The cap of the demo settings is one cap, however many come at once.
			var wg sync.WaitGroup
			outcomes := make(chan string, 64)
			for range cap(outcomes) {
				wg.Go(func() {
					page, err := balanced(t, fleet, &turn).tryLogin(address)
					switch {
					case err != nil:
						outcomes <- err.Error()
					case page.params.Has("code"):
						outcomes <- "code"
					default:
						outcomes <- page.params.Get("error") + " " + page.params.Get("error_description")
					}
				})
			}
			wg.Wait()
			close(outcomes)
			count := map[string]int{}
			for o := range outcomes {
				o, _, _ = strings.Cut(o, ";")
				count[o]++
			}
			require.Equal(t, map[string]int{"code": 1, "access_denied concurrency: used=3 max=3": 63}, count)

			p = b.submit(b.get(balancer+"/"), nil)
			require.Contains(t, p.body, "You signed out.")
			for _, s := range fleet {
				require.Equal(t, http.StatusUnauthorized, s.userinfo(r.json["access_token"].(string)).status)
				require.Equal(t, http.StatusOK, s.userinfo(d.json["access_token"].(string)).status)
				if password := passwordOf(t, spec); password != "" {
					require.NotContains(t, s.stdout.String()+s.stderr.String(), password)
				}
			}
		})
	}
}

// The engine stops and comes back, while the provider runs: nobody is signed out,
// and it goes on by itself.
func TestEngineOutage(t *testing.T) {
	for name, start := range map[string]func() (stoppable, error){
		"postgres": func() (stoppable, error) { return engine.NewPostgres() },
		"redis":    func() (stoppable, error) { return engine.NewRedis() },
		"cluster":  func() (stoppable, error) { return engine.NewRedisCluster() },
	} {
		t.Run(name, func(t *testing.T) {
			server, err := start()
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, server.Close()) })
			testEngineOutage(t, server)
		})
	}
}

type stoppable interface {
	URL() string
	Stop() error
	Start() error
	Close() error
}

func testEngineOutage(t *testing.T, engine stoppable) {
	_, args := folder(t)
	s := startProcess(t, append(args, "-store", engine.URL())...)
	a := s.app("web")
	b, token := s.login(a)
	waiting := newBrowser(t)
	login := waiting.get(a.url())
	code := newBrowser(t)
	redeemable := code.signIn(code.get(a.url()), "alice", alicePassword).params.Get("code")
	device := s.api("/device_authorization", "cli", "", url.Values{"scope": {"openid profile offline_access"}}).json["device_code"].(string)
	refresh := func() reply {
		return s.api("/oauth/token", "web", webSecret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken}})
	}
	redeem := func() reply {
		return s.api("/oauth/token", "web", webSecret, url.Values{
			"grant_type": {"authorization_code"}, "code": {redeemable}, "redirect_uri": {redirectURI}, "code_verifier": {a.verifier},
		})
	}
	health := func(path string) page { return newBrowser(t).get(s.issuer + path) }
	require.Equal(t, http.StatusOK, health("/readyz").status)

	require.NoError(t, engine.Stop())
	for name, r := range map[string]reply{
		"refresh": refresh(), "code": redeem(), "device": s.poll(device),
		"userinfo": s.userinfo(token.AccessToken), "introspection": s.introspect(token.AccessToken),
	} {
		require.Equal(t, http.StatusServiceUnavailable, r.status, "%s: %s", name, r.body)
		require.Equal(t, "server_error", r.json["error"], name)
		require.NotEmpty(t, r.header.Get("Retry-After"), name)
	}
	for name, p := range map[string]page{
		"home": b.get(s.issuer + "/"), "login": waiting.get(login.url.String()), "sign in": waiting.signIn(login, "alice", alicePassword),
		"sign out": b.post(s.issuer+"/signout", nil), "device": waiting.post(s.issuer+"/device", url.Values{"user_code": {"BBBB-BBBB"}}),
		"callback": waiting.get(s.issuer + "/authorize/callback?id=x"),
	} {
		require.Equal(t, http.StatusServiceUnavailable, p.status, name)
		require.Contains(t, p.body, "Nothing is lost", name)
		require.NotEmpty(t, p.header.Get("Retry-After"), name)
	}
	proctest.Eventually(t, func() bool { return health("/readyz").status == http.StatusServiceUnavailable })
	require.NotEmpty(t, health("/readyz").header.Get("Retry-After"))
	require.Equal(t, http.StatusOK, health("/healthz").status)

	require.NoError(t, engine.Start())
	proctest.Eventually(t, func() bool { return health("/readyz").status == http.StatusOK })
	// A connection that broke may be noticed by the next one who uses it.
	ok := func(call func() reply) reply {
		t.Helper()
		var r reply
		proctest.Eventually(t, func() bool {
			r = call()
			return r.status != http.StatusServiceUnavailable
		})
		return r
	}
	r := ok(refresh)
	require.Equal(t, http.StatusOK, r.status, "with the token of before: %s", r.body)
	require.Equal(t, http.StatusOK, ok(func() reply { return s.userinfo(r.json["access_token"].(string)) }).status)
	require.Equal(t, http.StatusOK, ok(redeem).status)
	require.Equal(t, "authorization_pending", ok(func() reply { return s.poll(device) }).json["error"])
	require.NotEmpty(t, waiting.signIn(waiting.get(login.url.String()), "alice", alicePassword).params.Get("code"))
	require.Contains(t, b.get(s.issuer+"/").body, "You are signed in as alice")

	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, s.end())
	said := s.stdout.String() + s.stderr.String()
	require.Contains(t, said, "the store could not answer")
	require.Contains(t, said, "ready again")
	require.NotContains(t, said, passwordOf(t, engine.URL()))
}

// The primary of a Redis behind sentinels dies. Until its replica has taken over an
// outage is told, and no logout; then the provider goes on by itself, with the
// tokens that clients have and the cap that counts what they stand for.
func TestFailover(t *testing.T) {
	t.Parallel()
	sentinel, err := engine.NewRedisSentinel()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sentinel.Close()) })
	_, args := folder(t)
	s := startProcess(t, append(args, "-store", sentinel.URL())...)
	a := s.app("web")
	var tokens []string
	for range 3 { // the cap of the demo settings
		_, token := s.login(a)
		tokens = append(tokens, token.RefreshToken)
	}
	primary, err := sentinel.Primary(t.Context())
	require.NoError(t, err)
	// What the replica has not received would be lost.
	client := redis.NewClient(&redis.Options{Addr: primary.Addr(), Password: primary.Password()})
	conn := client.Conn()
	require.NoError(t, conn.Set(t.Context(), "last", "", 0).Err())
	require.EqualValues(t, 1, conn.Wait(t.Context(), 1, time.Minute).Val())
	require.NoError(t, conn.Close())
	require.NoError(t, client.Close())

	require.NoError(t, primary.Kill())
	outages := 0
	for i := range tokens {
		proctest.Eventually(t, func() bool {
			r := s.api("/oauth/token", "web", webSecret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens[i]}})
			if r.status == http.StatusServiceUnavailable {
				outages++
				require.NotEmpty(t, r.header.Get("Retry-After"))
				return false
			}
			require.Equal(t, http.StatusOK, r.status, r.body)
			tokens[i] = r.json["refresh_token"].(string)
			return true
		})
	}
	require.Positive(t, outages)
	b := newBrowser(t)
	p := b.signIn(b.get(a.url()), "alice", alicePassword)
	require.Equal(t, "access_denied", p.params.Get("error"), "%d %s", p.status, p.body)
	require.Contains(t, p.params.Get("error_description"), "used=3 max=3")
}

// A server that does not answer, or does not let us in, ends the start: with a
// message that names the flag and the server, and not the password.
func TestStoreDoesNotAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, silent.Close()) })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	specs := map[string]string{
		strings.Replace(enginetest.PostgresURL(t), passwordOf(t, enginetest.PostgresURL(t)), "hunter2", 1): "password authentication failed",
		strings.Replace(enginetest.Redis(t).URL(), enginetest.Redis(t).Password(), "hunter2", 1):           "WRONGPASS",
	}
	for _, listener := range []net.Listener{silent, closed} {
		for _, form := range []string{
			"postgres://u:hunter2@%s/op?sslmode=disable", "redis://:hunter2@%s", "redis+sentinel://:hunter2@%s/mymaster", "redis+cluster://:hunter2@%s",
		} {
			specs[fmt.Sprintf(form, listener.Addr())] = listener.Addr().String()
		}
	}
	_, args := folder(t)
	type result struct {
		spec, want, said string
		code             int
	}
	results := make(chan result)
	for spec, want := range specs {
		go func() {
			stdout, stderr := &proctest.Output{}, &proctest.Output{}
			code := exitCode(run(context.Background(), append(args, "-store", spec), noEnv, stdout, stderr), stderr)
			results <- result{spec, want, stdout.String() + stderr.String(), code}
		}()
	}
	for range specs {
		r := <-results
		scheme, _, _ := strings.Cut(r.spec, "://")
		require.Equal(t, 1, r.code, "the operator's flags are right: %s", r.said)
		require.Contains(t, r.said, "op: -store: "+scheme+"://127.0.0.1:", r.spec)
		require.Contains(t, r.said, r.want)
		require.NotContains(t, r.said, "hunter2")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A process is the program in a process of its own.
type process struct {
	*server
	cmd *exec.Cmd
}

func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	p := &process{&server{t: t, stdout: &proctest.Output{}, stderr: &proctest.Output{}}, exec.Command(exe, args...)}
	p.cmd.Env = append(os.Environ(), "CURFEW_OP_TEST_RUN=1")
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	require.NoError(t, p.cmd.Start())
	p.end = sync.OnceValue(p.cmd.Wait)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.end()
	})
	proctest.Eventually(t, func() bool {
		_, rest, _ := strings.Cut(p.stdout.String(), "The OpenID provider ")
		issuer, _, ok := strings.Cut(rest, " is ready.\n")
		p.issuer = issuer
		return ok || p.cmd.ProcessState != nil
	})
	require.NotEmpty(t, p.issuer, p.stderr.String())
	return p
}

func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		dir, args := folder(t)
		p := startProcess(t, args...)
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
		proctest.Eventually(t, func() bool { return strings.Contains(p.stderr.String(), "no settings file to read again") })
		a := p.app("web")
		_, token := p.login(a)

		// A request that has begun is answered.
		in, out := io.Pipe()
		req, err := http.NewRequest(http.MethodPost, p.issuer+"/oauth/token", in)
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.SetBasicAuth("web", webSecret)
		// The body is sent when the provider asks for it: it has begun then.
		req.Header.Set("Expect", "100-continue")
		transport := &http.Transport{ExpectContinueTimeout: time.Minute}
		answered := make(chan int, 1)
		go func() {
			resp, err := transport.RoundTrip(req)
			if err != nil {
				answered <- 0
				return
			}
			_ = resp.Body.Close()
			answered <- resp.StatusCode
		}()
		_, err = io.WriteString(out, "grant_type=refresh_token&")
		require.NoError(t, err)
		require.NoError(t, p.cmd.Process.Signal(sig))
		proctest.Eventually(t, func() bool { return strings.Contains(p.stderr.String(), `msg="ending`) })
		_, err = io.WriteString(out, "refresh_token="+url.QueryEscape(token.RefreshToken))
		require.NoError(t, err)
		require.NoError(t, out.Close())
		require.Equal(t, http.StatusOK, <-answered, sig)
		require.NoError(t, p.end(), "%s: %s", sig, p.stderr)
		left, err := filepath.Glob(filepath.Join(dir, "op.db-*"))
		require.NoError(t, err)
		require.Empty(t, left, "the database was closed")
	}
}

// What was answered survives the death of the process.
func TestKill(t *testing.T) {
	_, args := folder(t)
	p := startProcess(t, args...)
	a := p.app("web")
	b := newBrowser(t)
	_, token := p.login(a)
	code := b.signIn(b.get(a.url()), "alice", alicePassword).params.Get("code")
	require.NoError(t, p.cmd.Process.Kill())
	require.Error(t, p.end())

	startProcess(t, append(args, "-listen", strings.TrimPrefix(p.issuer, "http://"))...)
	_, err := a.redeem(t, code)
	require.NoError(t, err)
	_, err = a.refresh(t, token)
	require.NoError(t, err)
}

// The commands of the start message work when they are pasted.
func TestDemoCommands(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	s := &server{t: t}
	p := startProcessWith(t, []string{"XDG_STATE_HOME=" + state}, "-listen", "127.0.0.1:0")
	s.issuer = p.issuer
	for _, name := range []string{"op.db", "keys.json"} {
		info, err := os.Stat(filepath.Join(state, "curfew-op", name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
	}
	message := p.stdout.String()
	for _, want := range []string{"alice (wonderland-1)", "root (owner-3), administrator", "web (secret web-secret)", "spa", "cli", "admin-api (secret admin-api-secret)"} {
		require.Contains(t, message, want)
	}

	// Everything indented below a title is to be pasted into a shell, but for
	// addresses, which are to be opened.
	var blocks []string
	for _, paragraph := range strings.Split(message[strings.Index(message, "Clients:"):], "\n\n") {
		if strings.HasPrefix(paragraph, "  ") {
			blocks = append(blocks, strings.TrimSuffix(paragraph, "\n")+"\n")
		}
	}
	require.Len(t, blocks, 5)
	sh := startShell(t)
	b := newBrowser(t)

	said := sh.run(blocks[0])
	address := strings.TrimSpace(said)
	require.True(t, strings.HasPrefix(address, p.issuer+"/device?user_code="), said)
	page := b.submit(b.signIn(b.submit(b.get(address), nil), "alice", alicePassword), nil)
	require.Contains(t, page.body, "Your device is connected")
	lines := strings.Split(strings.TrimSpace(sh.run(blocks[1])), "\n")
	require.Len(t, lines, 3)
	require.Contains(t, lines[0], `"id_token":`)
	require.Contains(t, lines[1], `"preferred_username":"alice"`)
	require.Contains(t, lines[2], `"refresh_token":`)
	require.Contains(t, lines[2], `"authorization_expires_in":`)

	page = b.signIn(b.get(strings.TrimSpace(blocks[2])), "root", rootPassword)
	require.Equal(t, "http://127.0.0.1:9999/cb", page.url.Scheme+"://"+page.url.Host+page.url.Path)
	sh.paste(blocks[3])
	sh.until("code: ")
	said = sh.run(page.params.Get("code"))
	require.Contains(t, said, `"refresh_token":`)
	said = sh.run(blocks[4])
	require.Contains(t, said, `"settings":{"active":"24h","inactivity":"2h","concurrent":3`)
	require.Contains(t, message, p.issuer+"/ shows who is signed in")
	require.Contains(t, b.get(p.issuer+"/").body, "You are signed in as root")
}

func startProcessWith(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	return startProcess(t, args...)
}

// A shell is where somebody pastes.
type shell struct {
	t    *testing.T
	in   io.Writer
	out  *proctest.Output
	read int // of out
}

func startShell(t *testing.T) *shell {
	t.Helper()
	cmd := exec.Command("/bin/sh")
	out := &proctest.Output{}
	cmd.Stdout, cmd.Stderr = out, out
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	})
	return &shell{t: t, in: in, out: out}
}

func (sh *shell) paste(lines string) {
	sh.t.Helper()
	_, err := io.WriteString(sh.in, lines)
	require.NoError(sh.t, err)
}

// until waits for a text, and returns what was printed before it since the last
// one.
func (sh *shell) until(text string) (said string) {
	sh.t.Helper()
	proctest.Eventually(sh.t, func() bool {
		var ok bool
		said, _, ok = strings.Cut(sh.out.String()[sh.read:], text)
		return ok
	})
	sh.read += len(said) + len(text)
	return said
}

// run pastes lines and returns what they print.
func (sh *shell) run(lines string) string {
	sh.t.Helper()
	sh.paste(lines + "\n")
	sh.paste("echo; echo --pasted--\n")
	return sh.until("--pasted--\n")
}
