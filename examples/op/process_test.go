package main

import (
	"io"
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

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
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
	_, args := folder(t)
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

// Two processes share a file: each step of a login and of its life is made at
// the other one. They are one provider, so they have one issuer.
func TestTwoInstances(t *testing.T) {
	_, args := folder(t)
	args = append(args, "-issuer", "http://localhost:9998")
	one, two := start(t, args...), start(t, args...)
	at := func(s *server) string {
		_, rest, ok := strings.Cut(s.stderr.String(), " listen=")
		require.True(t, ok)
		address, _, _ := strings.Cut(rest, " ")
		return "http://" + address
	}
	addresses := []string{at(one), at(two)}
	one.issuer, two.issuer = addresses[0], addresses[1]

	// As behind a balancer that sends each request to the other one.
	var turn atomic.Int64
	b := newBrowser(t)
	b.client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == "localhost:9998" {
			r = r.Clone(r.Context())
			r.URL.Host = strings.TrimPrefix(addresses[turn.Add(1)%2], "http://")
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	verifier := oauth2.GenerateVerifier()
	config := oauth2.Config{ClientID: "web", RedirectURL: redirectURI, Scopes: scopes, Endpoint: oauth2.Endpoint{AuthURL: "http://localhost:9998/authorize"}}
	p := b.signIn(b.get(config.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier))), "alice", alicePassword)
	require.NotEmpty(t, p.params.Get("code"), "%d %s", p.status, p.body)
	require.GreaterOrEqual(t, turn.Load(), int64(4))
	r := two.api("/oauth/token", "web", webSecret, url.Values{
		"grant_type": {"authorization_code"}, "code": {p.params.Get("code")}, "redirect_uri": {redirectURI}, "code_verifier": {verifier},
	})
	require.Equal(t, http.StatusOK, r.status, r.body)
	for i := range 4 {
		s := []*server{one, two}[i%2]
		require.Equal(t, http.StatusOK, s.userinfo(r.json["access_token"].(string)).status)
		r = s.api("/oauth/token", "web", webSecret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {r.json["refresh_token"].(string)}})
		require.Equal(t, http.StatusOK, r.status, r.body)
	}

	// The cap of the demo settings is one cap, however many come at once.
	var wg sync.WaitGroup
	outcomes := make(chan string, 64)
	for range cap(outcomes) {
		wg.Go(func() {
			other := newBrowser(t)
			other.client.Transport = b.client.Transport
			page, err := other.tryLogin(config.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)))
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
	require.Equal(t, map[string]int{"code": 2, "access_denied concurrency: used=3 max=3": 62}, count)

	p = b.submit(b.get("http://localhost:9998/"), nil)
	require.Contains(t, p.body, "You signed out.")
	for _, s := range []*server{one, two} {
		require.Equal(t, http.StatusUnauthorized, s.userinfo(r.json["access_token"].(string)).status)
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
	p := &process{&server{t: t, stdout: &syncBuffer{}, stderr: &syncBuffer{}}, exec.Command(exe, args...)}
	p.cmd.Env = append(os.Environ(), "CURFEW_OP_TEST_RUN=1")
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	require.NoError(t, p.cmd.Start())
	p.end = sync.OnceValue(p.cmd.Wait)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.end()
	})
	eventually(t, func() bool {
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
		eventually(t, func() bool { return strings.Contains(p.stderr.String(), "no settings file to read again") })
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
		eventually(t, func() bool { return strings.Contains(p.stderr.String(), `msg="ending`) })
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
	for _, want := range []string{"alice (wonderland-1)", "root (owner-3), administrator", "web (secret web-secret)", "spa", "cli"} {
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
	require.Len(t, blocks, 4)
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
	out  *syncBuffer
	read int // of out
}

func startShell(t *testing.T) *shell {
	t.Helper()
	cmd := exec.Command("/bin/sh")
	out := &syncBuffer{}
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
	eventually(sh.t, func() bool {
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
