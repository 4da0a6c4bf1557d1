package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/proctest"
	"github.com/curfew-oidc/curfew/middleware/clitoken"
	"github.com/curfew-oidc/curfew/middleware/resource"
)

const day = "active: 24h, inactivity: 2h, concurrent: unlimited"

func TestLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	dir := filepath.Join(t.TempDir(), "config", "deep")
	for _, command := range []string{"status", "call", "logout"} {
		code, said := w.run(dir, command)
		require.Equal(t, exitSignIn, code)
		require.Contains(t, said, `You are not signed in. To sign in, run "cli login".`, command)
	}

	code, said := w.login(dir)
	require.Equal(t, exitOK, code, said)
	require.Contains(t, said, "You are signed in as alice at "+w.issuer)
	require.Contains(t, said, "The sign-in ends ")
	require.Contains(t, said, "Unless it is used before, it ends ")
	for path, mode := range map[string]os.FileMode{dir: 0o700, w.file(dir).Path(): 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}

	before := w.refreshes()
	code, said = w.run(dir, "status")
	require.Equal(t, exitOK, code, said)
	require.Regexp(t, `ends \w+ \d+ \w+ [\d:]+, (24h0m0s|23h59m\d+s) from now`, said)
	require.Regexp(t, `used before, it ends \w+ \d+ \w+ [\d:]+, (2h0m0s|1h59m\d+s) from now`, said)
	p := w.begin(dir, "call")
	code, said = p.end()
	require.Equal(t, exitOK, code, said)
	var info map[string]any
	require.NoError(t, json.Unmarshal([]byte(p.stdout.String()), &info), "the answer, and nothing else")
	require.Equal(t, "alice", info["preferred_username"])
	require.Equal(t, before, w.refreshes())

	// Who is signed in takes no second slot.
	p = w.begin(dir, "login")
	code, said = p.end()
	require.Equal(t, exitOK, code)
	require.Contains(t, said, "You are signed in as alice")
	require.Contains(t, said, `run "cli logout" first`)
	require.NotContains(t, said, "open this address")

	l, err := w.file(dir).Load()
	require.NoError(t, err)
	code, said = w.run(dir, "logout")
	require.Equal(t, exitOK, code, said)
	require.Contains(t, said, "You are signed out.")
	require.NoFileExists(t, w.file(dir).Path())
	resp, err := http.PostForm(w.issuer+"/oauth/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {"cli"}, "refresh_token": {l.RefreshToken}})
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusBadRequest, resp.StatusCode, "the provider was told")
	code, _ = w.run(dir, "status")
	require.Equal(t, exitSignIn, code)
}

// Without flags, as people have it: the environment, and the user's own folder.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	config := t.TempDir()
	env := []string{"XDG_CONFIG_HOME=" + config, "CURFEW_CLI_ISSUER=" + w.issuer, "CURFEW_CLI_CLIENT_ID=cli"}
	code, said := w.decide(begin(t, env, "login"), true)
	require.Equal(t, exitOK, code, said)
	require.FileExists(t, w.file(filepath.Join(config, "curfew-cli")).Path())
	code, said = begin(t, env, "call").end()
	require.Equal(t, exitOK, code, said)
	code, _ = begin(t, append(env, "CURFEW_CLI_CONFIG="+t.TempDir()), "call").end()
	require.Equal(t, exitSignIn, code)
	code, _ = begin(t, env, "-client-id", "other", "call").end()
	require.Equal(t, exitSignIn, code, "the flag wins, and another client has another file")
}

// Ten invocations that find the access token too old share one refresh.
func TestTenInvocationsShareOneRefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	dir := w.signedIn()
	for round := 1; round <= 3; round++ {
		w.age(dir)
		var wg sync.WaitGroup
		// A slow provider: had the others no reason to wait, they would come too.
		begun := make(chan struct{})
		slow := func(http.ResponseWriter, *http.Request, url.Values, http.Handler) bool {
			<-begun
			time.Sleep(300 * time.Millisecond)
			return false
		}
		w.intercept.Store(&slow)
		for range 10 {
			p := w.begin(dir, "call")
			wg.Go(func() {
				code, said := p.end()
				if code != exitOK {
					t.Errorf("exit code %d: %s", code, said)
				}
			})
		}
		close(begun)
		wg.Wait()
		require.Equal(t, round, w.refreshes())
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.new"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestRefusedAtTheCap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "active: 24h, inactivity: 2h, concurrent: 2, at_limit: refuse")
	first, _ := w.signedIn(), w.signedIn()
	third := t.TempDir()
	code, said := w.login(third)
	require.Equal(t, exitRefused, code, said)
	require.Contains(t, said, "too many sign-ins at once: 2 in use, 2 allowed.")
	require.Contains(t, said, "End one of them at "+w.issuer)
	require.NoFileExists(t, w.file(third).Path())

	code, said = w.run(first, "logout")
	require.Equal(t, exitOK, code, said)
	code, said = w.login(third)
	require.Equal(t, exitOK, code, said)
}

func TestDeniedInTheBrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	code, said := w.decide(w.begin(t.TempDir(), "login"), false)
	require.Equal(t, exitRefused, code, said)
	require.Contains(t, said, "You were not signed in: it was refused in the browser")
}

// A provider may ask to be polled less often.
func TestSlowDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	var asked int
	slow := func(rw http.ResponseWriter, _ *http.Request, _ url.Values, _ http.Handler) bool {
		if asked++; asked > 1 {
			return false
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(rw, `{"error":"slow_down"}`)
		return true
	}
	w.intercept.Store(&slow)
	code, said := w.login(t.TempDir())
	require.Equal(t, exitOK, code, said)
	require.Equal(t, 2, asked)
}

func TestEndByInactivity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "active: 24h, inactivity: 3s")
	dir := w.signedIn()
	proctest.Eventually(t, func() bool { // which asks nobody, so is no activity
		code, _ := w.run(dir, "status")
		return code == exitSignIn
	})
	_, said := w.run(dir, "status")
	require.Contains(t, said, "which has passed")
	require.Contains(t, said, "the sign-in is probably over")
	// What the provider said is in whole seconds: it ends a little later.
	l, err := w.file(dir).Load()
	require.NoError(t, err)
	proctest.Eventually(t, func() bool { return time.Now().After(l.EndsUnused.Add(time.Second)) })
	over(t, w, dir, "You were signed out after 3 seconds without activity.")
}

func TestEndByTheActiveLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "active: 5s, inactivity: 3s")
	dir := w.signedIn()
	proctest.Eventually(t, func() bool { // busy all the time
		code, _ := w.run(dir, "call")
		return code == exitSignIn
	})
	over(t, w, dir, "You were signed out because a sign-in lasts at most 5 seconds.")
}

func TestEndedByALoginElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "active: 24h, inactivity: 2h, concurrent: 1, at_limit: end_oldest")
	first := w.signedIn()
	second := w.signedIn()
	before := w.refreshes()
	over(t, w, first, "because you signed in elsewhere", "another login took its place")
	require.Equal(t, before+1, w.refreshes(), "asked once, though the access token looked good; then it is known")
	code, said := w.run(second, "call")
	require.Equal(t, exitOK, code, said)
}

func TestEndedByAChangedPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "active: 24h, inactivity: 2h, concurrent: 2, at_limit: end_oldest")
	first, second := w.signedIn(), w.signedIn()
	w.reload("active: 24h, inactivity: 2h, concurrent: 1, at_limit: end_oldest")
	proctest.Eventually(t, func() bool {
		code, _ := w.run(first, "call")
		return code == exitSignIn
	})
	over(t, w, first, "because your organization now allows fewer sign-ins", "fewer login sessions are allowed now")
	code, said := w.run(second, "call")
	require.Equal(t, exitOK, code, said)
}

// over holds that a login is over, for a reason in words, and stays so until the next.
func over(t *testing.T, w *world, dir string, words ...string) {
	t.Helper()
	for _, command := range []string{"call", "call", "status"} {
		code, said := w.run(dir, command)
		require.Equal(t, exitSignIn, code, said)
		for _, text := range append(words, "You were signed out", `To sign in again, run "cli login".`) {
			require.Contains(t, said, text, command)
		}
	}
	body, err := os.ReadFile(w.file(dir).Path())
	require.NoError(t, err)
	require.NotContains(t, string(body), `_token"`, "the tokens are gone")
	code, said := w.run(dir, "logout")
	require.Equal(t, exitOK, code, said)
}

// A provider that is down is not a logout: nothing is lost, whatever was asked for.
func TestProviderDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	dir := w.signedIn()
	w.kill()
	for _, old := range []bool{false, true} {
		if old {
			w.age(dir)
		}
		before, err := os.ReadFile(w.file(dir).Path())
		require.NoError(t, err)
		for _, command := range []string{"call", "logout"} {
			code, said := w.run(dir, command)
			require.Equal(t, exitUnavailable, code, said)
			require.Contains(t, said, "does not answer")
			require.Contains(t, said, "Nothing is lost, and nobody is signed out for it. Try again in a moment.")
		}
		code, _ := w.run(dir, "status")
		require.Equal(t, exitOK, code)
		after, err := os.ReadFile(w.file(dir).Path())
		require.NoError(t, err)
		require.Equal(t, string(before), string(after))
	}
	code, said := w.run(t.TempDir(), "login")
	require.Equal(t, exitUnavailable, code, said)

	w.start()
	// The answer to the refresh gets lost on the way.
	lose := func(_ http.ResponseWriter, r *http.Request, _ url.Values, pass http.Handler) bool {
		pass.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	w.intercept.Store(&lose)
	code, said = w.run(dir, "call")
	require.Equal(t, exitUnavailable, code, said)
	w.intercept.Store(nil)
	code, said = w.run(dir, "call")
	require.Equal(t, exitOK, code, said)
	code, said = w.run(dir, "logout")
	require.Equal(t, exitOK, code, said)

	code, said = begin(t, nil, "-issuer", "http://"+freeAddress(t), "-config", t.TempDir(), "login").end()
	require.Equal(t, exitUnavailable, code, said)
}

// A process that is killed while it has the lock blocks nobody, and what the provider
// answered it is answered again.
func TestKilledWithTheLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, day)
	dir := w.signedIn()
	w.age(dir)
	held, once := make(chan struct{}), sync.Once{}
	hold := func(_ http.ResponseWriter, r *http.Request, _ url.Values, pass http.Handler) (answered bool) {
		once.Do(func() {
			pass.ServeHTTP(httptest.NewRecorder(), r) // the provider has rotated
			close(held)
			<-r.Context().Done() // until the process is dead
			answered = true
		})
		return answered
	}
	w.intercept.Store(&hold)
	victim := w.begin(dir, "call")
	<-held
	waiting := []*process{w.begin(dir, "call"), w.begin(dir, "call")}
	ctx, cancel := timeout(t, 50*time.Millisecond)
	defer cancel()
	_, err := w.file(dir).Token(ctx, "", nil)
	require.ErrorIs(t, err, clitoken.ErrBusy, "the victim has the lock")
	require.Equal(t, 1, w.refreshes())
	require.NoError(t, victim.cmd.Process.Kill())
	for _, p := range waiting {
		code, said := p.end()
		require.Equal(t, exitOK, code, said)
	}
	require.Equal(t, 2, w.refreshes())
	code, said := w.run(dir, "call")
	require.Equal(t, exitOK, code, said)
	require.NotContains(t, w.log.String(), "replay")
}

// An API that checks the token with package middleware.
func TestAPI(t *testing.T) {
	t.Parallel()
	clients := filepath.Join(t.TempDir(), "clients.json")
	require.NoError(t, os.WriteFile(clients, []byte(`[{"client_id": "cli", "type": "native", "access_token_type": "jwt",
		"redirect_uris": ["http://127.0.0.1/cb"],
		"grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]}]`), 0o600))
	w := newWorld(t, day, "-clients", clients)
	api, err := resource.New(resource.Config{Issuer: w.issuer, Audience: "cli", InsecureAcceptPlainJWT: true})
	require.NoError(t, err)
	who := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, "hello %s", resource.Subject(r.Context()))
	})
	mux := http.NewServeMux()
	mux.Handle("/who", api.Handler(who))
	mux.Handle("/refund", api.Handler(who, resource.MaxAge(0)))
	mux.Handle("/admin", api.Handler(who, resource.Scopes("admin")))
	mux.Handle("/down", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusServiceUnavailable) }))
	mux.Handle("/never", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusUnauthorized) }))
	mux.Handle("/away", http.RedirectHandler("/who", http.StatusFound))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	dir := w.signedIn()
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/who":    {exitOK, "hello alice"},
		"/refund": {exitSignIn, "needs a more recent or a stronger sign-in"},
		"/admin":  {exitFailed, "refuses this call: 403 Forbidden"},
		"/down":   {exitUnavailable, "Try again in a moment"},
		"/never":  {exitFailed, "refuses this call: 401 Unauthorized"},
		"/away":   {exitFailed, "refuses this call: 302 Found"},
	} {
		code, said := w.run(dir, "-api", server.URL+path, "call")
		require.Equal(t, want.code, code, "%s: %s", path, said)
		require.Contains(t, said, want.text, path)
	}
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"":                                      "which command? login, call, status or logout",
		"dance":                                 `"dance" is no command`,
		"call now":                              `unexpected argument "now"`,
		"-x call":                               "flag provided but not defined: -x",
		"-issuer http://login.example.com call": "-issuer: \"http://login.example.com\" is not https",
		"-issuer login.example.com call":        "-issuer: ",
		"-api http://api.example.com call":      "-api: \"http://api.example.com\" is not https",
		"-api https://user:pw@api.example.com call": "-api: ",
		"-client-id= call":                          "-client-id: it is empty",
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(args), func(string) string { return "" }, &stdout, &stderr)
		require.Equal(t, exitUsage, code, args)
		require.Contains(t, stderr.String(), "cli: ")
		require.Contains(t, stderr.String(), want, args)
		require.Empty(t, stdout.String())
	}
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitOK, run(t.Context(), []string{"-help"}, os.Getenv, &stdout, &stderr))
	for _, text := range []string{"cli [flags] login", "-issuer URL", "-config folder", "CURFEW_CLI_CLIENT_ID", "Exit codes: 0 done"} {
		require.Contains(t, stderr.String(), text)
	}
}
