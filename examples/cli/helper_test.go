package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/proctest"
	"github.com/curfew-oidc/curfew/middleware/clitoken"
)

// binaries are the programs as they are built for their users.
var binaries = struct{ op, cli string }{}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "curfew-cli")
		if err == nil {
			defer os.RemoveAll(dir)
			binaries.op, binaries.cli = filepath.Join(dir, "op"), filepath.Join(dir, "cli")
			for path, pkg := range map[string]string{binaries.op: "../op", binaries.cli: "."} {
				var out []byte
				if out, err = exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
					err = fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
					break
				}
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// A world is examples/op in a process of its own, behind a proxy that counts.
type world struct {
	t      *testing.T
	issuer string
	dir    string
	flags  []string
	op     *exec.Cmd
	log    *proctest.Output

	backend atomic.Pointer[url.URL]

	// intercept, if there is one, sees each request for a token first, with its
	// form, and returns true if it has answered.
	intercept atomic.Pointer[func(w http.ResponseWriter, r *http.Request, form url.Values, pass http.Handler) bool]

	mu     sync.Mutex
	grants map[string]int // requests for tokens by grant type
}

// newWorld starts a provider with settings, one account's in YAML.
func newWorld(t *testing.T, settings string, flags ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), grants: map[string]int{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(w.backend.Load())
			r.Out.Host = r.In.Host
		},
		ModifyResponse: everySecond,
		ErrorHandler:   func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client went away
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		form, _ := url.ParseQuery(string(body))
		if r.URL.Path == "/oauth/token" {
			w.mu.Lock()
			w.grants[form.Get("grant_type")]++
			w.mu.Unlock()
			if f := w.intercept.Load(); f != nil && (*f)(rw, r, form, proxy) {
				return
			}
		}
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	w.issuer = server.URL
	w.configure(settings)
	w.flags = append([]string{
		"-listen", "127.0.0.1:0", "-issuer", w.issuer, "-floor", "1s", "-settings", filepath.Join(w.dir, "settings.yaml"),
		"-store", "sqlite:" + filepath.Join(w.dir, "op.db"), "-keys", filepath.Join(w.dir, "keys.json"), "-signing-alg", "ES256",
	}, flags...)
	w.start()
	t.Cleanup(func() { w.kill() })
	return w
}

// everySecond lets devices poll each second: five, as the provider says, would make
// the tests slow.
func everySecond(resp *http.Response) error {
	if resp.Request.URL.Path != "/device_authorization" || resp.StatusCode != http.StatusOK {
		return nil
	}
	var body map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return err
	}
	body["interval"] = 1
	changed, err := json.Marshal(body)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(changed)), int64(len(changed))
	resp.Header.Del("Content-Length")
	return err
}

func (w *world) configure(settings string) {
	w.t.Helper()
	text := "accounts:\n  default: {" + settings + "}\n"
	require.NoError(w.t, os.WriteFile(filepath.Join(w.dir, "settings.yaml"), []byte(text), 0o600))
}

var listening = regexp.MustCompile(`msg=started .*\blisten=(\S+)`)

func (w *world) start() {
	w.t.Helper()
	w.log = &proctest.Output{}
	w.op = exec.Command(binaries.op, w.flags...)
	w.op.Stderr = w.log
	require.NoError(w.t, w.op.Start())
	proctest.Eventually(w.t, func() bool {
		m := listening.FindStringSubmatch(w.log.String())
		if m != nil {
			w.backend.Store(&url.URL{Scheme: "http", Host: m[1]})
		}
		return m != nil
	})
}

// kill is the end of the provider without notice.
func (w *world) kill() {
	_ = w.op.Process.Kill() // it may have ended
	_ = w.op.Wait()
}

func (w *world) refreshes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.grants["refresh_token"]
}

// A process is one invocation of the program.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr *proctest.Output
}

// begin starts the program. Its environment is what the test says.
func (w *world) begin(dir string, args ...string) *process {
	w.t.Helper()
	return begin(w.t, nil, append([]string{"-issuer", w.issuer, "-config", dir}, args...)...)
}

func begin(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{t, exec.Command(binaries.cli, args...), &proctest.Output{}, &proctest.Output{}}
	p.cmd.Env = append([]string{"HOME=" + t.TempDir()}, env...)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // it may have ended
	return p
}

// end waits for the process, and returns its exit code and what it said.
func (p *process) end() (code int, said string) {
	p.t.Helper()
	err := p.cmd.Wait()
	if err != nil {
		var exit *exec.ExitError
		require.ErrorAs(p.t, err, &exit)
	}
	said = p.stdout.String() + p.stderr.String()
	for _, secret := range []string{"access_token", "refresh_token"} {
		require.NotContains(p.t, said, secret)
	}
	return p.cmd.ProcessState.ExitCode(), said
}

func (w *world) run(dir string, args ...string) (code int, said string) {
	w.t.Helper()
	return w.begin(dir, args...).end()
}

var shownAddress = regexp.MustCompile(`(?m)^  (http\S+)$`)

// login signs alice in, and returns how that ended.
func (w *world) login(dir string) (code int, said string) {
	w.t.Helper()
	return w.decide(w.begin(dir, "login"), true)
}

// decide opens the address that a login shows, and connects it or not.
func (w *world) decide(p *process, connect bool) (code int, said string) {
	w.t.Helper()
	proctest.Eventually(w.t, func() bool {
		return shownAddress.MatchString(p.stdout.String()) || strings.Contains(p.stdout.String(), "You are") || p.stderr.String() != ""
	})
	if m := shownAddress.FindStringSubmatch(p.stdout.String()); m != nil {
		approve(w.t, m[1], connect)
	}
	return p.end()
}

// signedIn signs alice in, in a new folder.
func (w *world) signedIn() (dir string) {
	w.t.Helper()
	dir = filepath.Join(w.t.TempDir(), "config")
	code, said := w.login(dir)
	require.Equal(w.t, exitOK, code, said)
	require.Contains(w.t, said, "You are signed in as alice at "+w.issuer)
	return dir
}

// file returns what is kept for a folder.
func (w *world) file(dir string) *clitoken.File { return clitoken.Open(dir, w.issuer, "cli") }

// age makes the access token in a folder as old as time would.
func (w *world) age(dir string) {
	w.t.Helper()
	l, err := w.file(dir).Load()
	require.NoError(w.t, err)
	l.Expiry = time.Now().Add(-time.Second)
	require.NoError(w.t, w.file(dir).Save(w.t.Context(), l))
}

var (
	formTag   = regexp.MustCompile(`(?s)<form([^>]*)>(.*?)</form>`)
	inputTag  = regexp.MustCompile(`<(?:input|button)([^>]*)>`)
	attribute = regexp.MustCompile(`([a-z]+)(?:="([^"]*)")?`)
)

func attributes(tag string) map[string]string {
	m := map[string]string{}
	for _, a := range attribute.FindAllStringSubmatch(tag, -1) {
		m[a[1]] = html.UnescapeString(a[2])
	}
	return m
}

// approve does what alice does in a browser: on each page she fills in what is asked
// for and presses the first button, until a page asks nothing. Whether she has to sign
// in is up to the provider. If she does not connect, she presses "deny" where there is
// one.
func approve(t *testing.T, address string, connect bool) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar, Timeout: time.Minute}
	resp, err := browser.Get(address)
	for range 8 {
		require.NoError(t, err)
		body, readErr := io.ReadAll(resp.Body)
		require.NoError(t, readErr)
		require.NoError(t, resp.Body.Close())
		m := formTag.FindSubmatch(body)
		if m == nil || strings.Contains(string(body), "Your device is ") {
			return
		}
		form := url.Values{}
		pressed := false
		denies := !connect && bytes.Contains(m[2], []byte(`value="deny"`))
		for _, tag := range inputTag.FindAllSubmatch(m[2], -1) {
			a := attributes(string(tag[1]))
			switch {
			case a["name"] == "username":
				form.Set("username", "alice")
			case a["name"] == "password":
				form.Set("password", "wonderland-1")
			case a["type"] == "submit":
				if !pressed && (!denies || a["value"] == "deny") {
					pressed = true
					if a["name"] != "" {
						form.Set(a["name"], a["value"])
					}
				}
			case a["name"] != "":
				form.Set(a["name"], a["value"])
			}
		}
		require.True(t, pressed, "no button: %s", body)
		target, parseErr := resp.Request.URL.Parse(attributes(string(m[1]))["action"])
		require.NoError(t, parseErr)
		resp, err = browser.PostForm(target.String(), form)
	}
	require.Fail(t, "the device page goes on and on")
}

// reload lets the provider read its settings again.
func (w *world) reload(settings string) {
	w.t.Helper()
	w.configure(settings)
	require.NoError(w.t, w.op.Process.Signal(syscall.SIGHUP))
	proctest.Eventually(w.t, func() bool { return strings.Contains(w.log.String(), "settings read again") })
}

// freeAddress is one where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}
